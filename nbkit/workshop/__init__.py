"""What serves the notebooks and is no part of the method: presets, exercises, and checks of saved figures.

In a notebook:

    presets.load("sample")               subject and corpora of a notebook: ``.subject()``, ``.corpora()``
    own.make("films.csv wiki.txt", ...)  a preset for one's own texts
    exercises.check(answer, ...)         is an answer right? "Right." or what is wrong with it
    drawings.block()                     one drawing for a notebook: what is compared with what
    figures.check(path)                  how was a saved figure made, and can it be made here?
"""

from nbkit.workshop import drawings, exercises, figures, own, presets

__all__ = ["drawings", "exercises", "figures", "own", "presets"]
