"""``python -m nbkit.workshop figures/NAME.svg``: how was a figure made, and can it be made again here?"""

import sys

from nbkit.workshop.figures import main

sys.exit(main())
