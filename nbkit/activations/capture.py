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

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from nbkit import provenance
from nbkit.activations import dask
from nbkit.activations.dask import deal
from nbkit.activations.forward import (
    DTYPES,
    Work,
    batches_of,
    block_values,
    identity_of,
    padded_tokens,
    run_batch,
    token_budget,
    work_of,
)
from nbkit.activations.store import Activations, as_numpy, fill_store, key_of, load, locked, progress_bar
from nbkit.models import Subject
from nbkit.texts import Texts


def capture(
    subject: Subject,
    texts: Texts,
    *,
    sites: str | Sequence[str] = "ffn",
    rows: str = "text",
    pool: str = "max",
    dtype: str = "float16",
    long: str = "truncate",
    cache: str | Path | bool | None = None,
    engine: Any = "local",
    progress: bool = True,
) -> Activations:
    """Activations of ``subject`` on ``texts`` at ``sites``, from the store or in one forward pass.

    sites     a site ("layer.3.ffn"), a group ("hidden", "ffn", "all") or a list of these
    rows      "text", "word" (the corpus needs ``.words``) or "token"
    pool      "max", "mean", "first", "last", "cls"; ignored for token rows
    dtype     of the stored values: "float16", "float32" or "bfloat16" (coarser, but never overflows)
    long      texts longer than the model: "truncate" (counted) or "windows"
    cache     the cache folder; None is ``provenance.cache_root()``, False keeps all in memory
    engine    "local", "dask" (workers on this machine) or a ``distributed.Client`` whose workers see the
              cache folder
    progress  a bar with an estimate of the time left

    Raises ``ValueError`` for an unknown site, row kind, pool, dtype or engine, for a store that does
    not match its manifest, and for activations that are not finite or overflow ``dtype``; ``OSError`` for a
    cache folder that cannot be written, is too small, or is deleted meanwhile (``FileNotFoundError``).
    """
    identity = identity_of(subject, texts, sites, rows, pool, dtype, long, engine)
    if cache is False:
        return _in_memory(subject, texts, identity, progress)
    root = provenance.cache_root() if cache is None or cache is True else Path(cache)
    folder = root / "activations" / key_of(identity)
    with locked(folder):
        if not (folder / "manifest.json").exists():
            fill_store(folder, subject, texts, identity, engine, progress)
    return load(folder, expect=identity)


def reduce(
    subject: Subject,
    texts: Texts,
    reducers: Mapping[str, Any],
    *,
    sites: str | Sequence[str] = "ffn",
    rows: str = "text",
    pool: str = "max",
    long: str = "truncate",
    engine: Any = "local",
    progress: bool = True,
) -> dict[str, Any]:
    """Feed ``reducers`` (see the module ``reducers``) in one forward pass, without a store.

    Arguments as in ``capture``. The values are float32. Returns each reducer's result by its name.
    Memory does not grow with the corpus beyond its tokens and the list of rows.
    """
    identity = identity_of(subject, texts, sites, rows, pool, "float32", long, engine)
    work = work_of(subject, texts, identity, progress)
    for reducer in reducers.values():
        reducer.begin(work.units, work.plan.rows, subject.device)
    with progress_bar(subject, texts, progress) as bar:
        if engine == "local":
            _feed(subject, work, work.blocks, reducers, bar)
        else:
            jobs = _runs_of(work.blocks, dask.workers(engine))
            for part, found in deal(_fed, jobs, engine, subject, work, reducers):
                for name, reducer in reducers.items():
                    reducer.merge(found[name])
                bar.update(part[-1][1] - part[0][0])
    return {name: reducer.result() for name, reducer in reducers.items()}


def _feed(subject: Subject, work: Work, blocks: list, reducers: Mapping[str, Any], bar: tqdm | None) -> None:
    for block in blocks:
        values = block_values(subject, work, block, bar)
        first, last = work.plan.first_row[block[0]], work.plan.first_row[block[1]]
        numbers = torch.arange(first, last, device=subject.device)
        for reducer in reducers.values():
            reducer.update(values, numbers)
        del values  # before the next block is made: else two would be in memory


def _fed(blocks: list, subject: Subject, work: Work, reducers: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a worker sends back: reducers that saw ``blocks``."""
    reducers = copy.deepcopy(dict(reducers))
    _feed(subject, work, blocks, reducers, None)
    for reducer in reducers.values():
        reducer.shed()
    return reducers


def _runs_of(blocks: list, workers: int) -> list[list]:
    """Consecutive blocks for each job: a few jobs a worker, so that a lost one costs little."""
    n = max(1, min(len(blocks), 4 * workers))
    return [part.tolist() for part in np.array_split(np.array(blocks), n)]


class Cost(NamedTuple):
    """What a capture would take; see ``estimate``."""

    rows: int
    units: int
    disk_bytes: int  # of the store's values
    memory_bytes: int  # of one block and one batch, beyond the model itself
    seconds: float  # of forward passes, from a short calibration

    def __str__(self) -> str:
        return (
            f"{self.rows:,} rows x {self.units:,} units: {self.disk_bytes / 1e9:.2f} GB on disk,"
            f" {self.memory_bytes / 1e9:.2f} GB of memory, about {self.seconds:.0f} s"
        )


def estimate(
    subject: Subject,
    texts: Texts,
    *,
    sites: str | Sequence[str] = "ffn",
    rows: str = "text",
    pool: str = "max",
    dtype: str = "float16",
    long: str = "truncate",
    batches: int = 4,
) -> Cost:
    """What ``capture`` with these arguments would take, before it is run.

    Disk and memory are counted, the time is measured on ``batches`` batches from the longest texts to
    the shortest and extrapolated by tokens. Nothing is written.
    """
    identity = identity_of(subject, texts, sites, rows, pool, dtype, long, "local")
    work = work_of(subject, texts, identity)
    item, first_row = DTYPES[dtype].itemsize, work.plan.first_row
    every = [batch for block in work.blocks for batch in batches_of(work.plan, block, token_budget(subject))]
    tokens = np.array([padded_tokens(work.plan, batch) for batch in every])
    tried = np.unique(np.linspace(0, len(every) - 1, min(batches, len(every))).round().astype(int))
    run_batch(subject, work, every[tried[-1]])  # the first pass of a process is slow
    with provenance.stopwatch() as clock:
        for i in tried:
            run_batch(subject, work, every[i])
    largest = max(first_row[z] - first_row[a] for a, z in work.blocks)
    n_units, width = len(work.units), subject.sites["width"].max()
    return Cost(
        rows=len(work.plan.rows),
        units=n_units,
        disk_bytes=len(work.plan.rows) * n_units * item,
        memory_bytes=int(largest * n_units * item * 3 + tokens.max() * (n_units + width) * 4),
        seconds=float(clock.seconds * tokens.sum() / tokens[tried].sum()),
    )


# ---------------------------------------------------------------------------------- the store


def _in_memory(subject: Subject, texts: Texts, identity: dict, progress: bool) -> Activations:
    work = work_of(subject, texts, identity, progress)
    with progress_bar(subject, texts, progress) as bar:
        parts = [as_numpy(block_values(subject, work, block, bar)) for block in work.blocks]
    manifest = {**identity, "corpus": texts.name, "model": subject.name, "dropped": work.plan.dropped}
    return Activations(np.concatenate(parts), work.plan.rows, work.units, manifest)
