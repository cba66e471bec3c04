"""nbkit: what does this unit of this language model respond to, and does the answer survive another corpus?

One flow, in the order of the modules::

    texts -> models -> activations -> exemplars
      |                     |
      +-> generators -> descriptors -> matching -> illusions -> evaluation

and at the end of every path ``figures``, ``widgets`` and ``provenance``. Everything reduces to two
matrices with aligned rows, *activations* ``[row, unit]`` and *labels* ``[row, descriptor]``; each
method is a function of the two. Modules are imported by name (``from nbkit import texts``); nothing
happens at import.

>>> from nbkit import activations, matching, models, texts
>>> reviews = texts.load("sample:reviews")                                       # doctest: +SKIP
>>> acts = activations.capture(models.load("minilm"), reviews, sites="ffn")      # doctest: +SKIP
>>> tags = matching.tag(acts, reviews.descriptors())                             # doctest: +SKIP
"""

__version__ = "0.1.0"
