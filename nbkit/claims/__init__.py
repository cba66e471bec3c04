"""Claims: explanations of units made elsewhere, and whether they hold on your texts.

    found = claims.read("explanations/", subject)   from the files of other tools, as one table
    found.attrs["dropped"]                             what was left out, and why

Sources
-------
The files are those of Neuronpedia (exports of explanations), delphi (Paulo et al. 2024), neuron-explainer
(Bills et al. 2023) and Transluce. The table of names that maps their units to sites is new here.
"""

from nbkit.claims.reading import read

__all__ = ["read"]
