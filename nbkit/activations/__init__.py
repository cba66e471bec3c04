"""Activations: one forward pass over a corpus, and a store that is never wrong.

    capture(subject, texts, sites="ffn", rows="text", pool="max") -> Activations
    Activations.values    [row, unit], memory-mapped; float16 unless asked otherwise
    Activations.rows      one line a row: text_id (and word_id, form, or position, token; start, end)
    Activations.units     one line a column: unit ("layer.3.ffn.512"), site, layer, index
    Activations.select(sites=..., units=..., text_ids=...)
    reduce(subject, texts, {"top": TopK(10), ...}) -> dict      the same pass without a store
    estimate(subject, texts, sites=...) -> Cost                 disk, memory and time, before a long run
    verify(subject, texts) -> table                             are the numbers right for this subject?

Rows are texts, words or tokens (``nbkit.activations.plan`` says which tokens are whose). A text or word row pools the
tokens that belong to it:

    max, mean     over its tokens; special tokens and padding are never among them
    first, last   its first or last token
    cls           the classification token (text rows only)

What gets lost is counted in ``manifest["dropped"]``: texts cut to the model's length, words beyond the cut,
words without a token. ``long="windows"`` reads long texts in overlapping windows instead of cutting them.

The store
---------
``<cache>/activations/<key>/`` holds ``manifest.json``, ``rows.parquet``, ``units.parquet`` and
``values.bin``. The key is a hash of everything that changes the numbers (``IDENTITY``). The same key
loads without a forward pass; any other argument, text or weight makes another key. The values lie unit
after unit (``values`` is the transposed view), because a browser reads one unit over all rows and a
scorer is as happy with blocks of units. The work is cut into blocks of texts; a block counts when its
bytes are on disk and its line is in the journal, so a killed run resumes where it stopped. A second
process that asks for the same key waits for the first one and loads its store. A cache may be deleted at any
time: what was half done then is given up with a message, what a deletion left of a store is made again or
refused. Before the first block a few texts are checked (``verify``), and the table goes into
``manifest["verified"]``.

Within a block texts are sorted by length and packed under a token budget. The numbers depend on the
packing only through float rounding (of the order of 1e-6 in float32). One block is written while the next
one is computed; on a GPU a block stays on the device until it is whole, then leaves through pinned memory.
``engine="dask"`` deals the same blocks out to workers (``nbkit.activations.dask``).
"""

from nbkit.activations import exemplars, neurox
from nbkit.activations.capture import capture, reduce
from nbkit.activations.checks import verify
from nbkit.activations.forward import batches
from nbkit.activations.plan import plan_of
from nbkit.activations.reducers import LabelSums, Moments, TopK
from nbkit.activations.store import Activations

__all__ = [
    "Activations",
    "LabelSums",
    "Moments",
    "TopK",
    "batches",
    "capture",
    "exemplars",
    "neurox",
    "plan_of",
    "reduce",
    "verify",
]
