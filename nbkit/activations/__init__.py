"""Activations: one forward pass over a corpus, kept in a checksummed store.

    stored = capture(subject, texts, sites="ffn", rows="text", pool="max")
    stored.values      [row, unit], memory-mapped; float16 unless asked otherwise
    stored.rows        [row] text_id (and word_id, form, or position, token; start, end in characters)
    stored.units       [unit] unit ("layer.3.ffn.512"), site, layer, index
    stored.manifest    what made it: subject, texts, arguments, versions, and what was dropped
    stored.select(sites=..., units=..., text_ids=...)

    capture_each(subject, texts, {"mean": {"pool": "mean"}, ...})   several stores, one forward pass
    estimate(subject, texts, sites=...)                      disk, memory and seconds, before a long run
    verify(subject, texts)                                   are the numbers right for this subject?
    reduce(subject, texts, {"top": TopK(10), ...})           the same pass without a store
    exemplars.top(stored, texts, "layer.3.ffn.512", k=10)    the texts that drive a unit
    neurox.read("ewt.hdf5")                                  files of NeuroX, read and written

The usual loop: ``capture``, then hand ``stored`` to ``matching.score`` or ``salience.rank``. Called again
with the same arguments it loads the store without a forward pass; if an argument, a text or a weight differs,
a new store is made. A run that was killed goes on where it stopped, a second process that asks for the same
store waits for the first, and a cache folder may be deleted at any time.

Rows are texts, words or tokens. A word's tokens are those whose characters overlap the word's, so that words
and wordpieces are aligned exactly. A text or word row pools its tokens:

    max, mean     over its tokens; special tokens and padding are never among them
    first, last   its first or last token
    cls           the classification token (text rows only)

In a causal model the first token of a text is an attention sink: where ``hidden`` is asked for it is left out
of text and word rows that have another token (``sinks="auto"``; see the page "Encoders and decoders").

A text longer than the model is cut (``long="truncate"``) or read in windows that overlap by a quarter
(``long="windows"``): a token that is in two windows is taken from the one in which it is further from a cut,
and rows are pooled over the tokens of the whole text. What is dropped is counted in ``manifest["dropped"]``:
texts cut, words beyond the cut, words and texts without a token.

A text goes through three files, once each: ``plan`` (tokens and rows), ``forward`` (passes and pooling),
``store`` (several stores: ``together``). With ``engine="dask"`` Dask workers compute the same blocks of texts
(``nbkit.activations.dask``).
"""

from nbkit.activations import exemplars, neurox
from nbkit.activations.checks import estimate, verify
from nbkit.activations.forward import batches
from nbkit.activations.plan import plan_of
from nbkit.activations.reducers import LabelSums, Moments, Quantiles, TopK, reduce
from nbkit.activations.store import Activations, capture
from nbkit.activations.together import capture_each

__all__ = [
    "Activations",
    "LabelSums",
    "Moments",
    "Quantiles",
    "TopK",
    "batches",
    "capture",
    "capture_each",
    "estimate",
    "exemplars",
    "neurox",
    "plan_of",
    "reduce",
    "verify",
]
