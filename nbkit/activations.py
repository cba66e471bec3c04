"""Activations: one forward pass over a corpus, and a store that is never wrong.

    capture(subject, texts, sites="ffn", rows="text", pool="max") -> Activations
    Activations.values    [row, unit], memory-mapped; float16 unless asked otherwise
    Activations.rows      one line a row: text_id (and word_id, form, or position, token; start, end)
    Activations.units     one line a column: unit ("layer.3.ffn.512"), site, layer, index
    Activations.select(sites=..., units=..., text_ids=...)
    reduce(subject, texts, {"top": TopK(10), ...}) -> dict      the same pass without a store
    estimate(subject, texts, sites=...) -> Cost                 disk, memory and time, before a long run
    verify(subject, texts) -> table                             are the numbers right for this subject?

Rows are texts, words or tokens (``nbkit.rows`` says which tokens are whose). A text or word row pools the
tokens that belong to it:

    max, mean     over its tokens; special tokens and padding are never among them
    first, last   its first or last token
    cls           the classification token (text rows only)

What gets lost is counted in ``manifest["losses"]``: texts cut to the model's length, words beyond the cut,
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
``engine="dask"`` deals the same blocks out to workers (``nbkit.cluster``).
"""

from __future__ import annotations

import contextlib
import copy
import errno
import functools
import hashlib
import json
import logging
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

import filelock
import ml_dtypes
import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from nbkit import cluster, provenance
from nbkit.rows import Plan, plan_of, pool_tokens

if TYPE_CHECKING:
    from nbkit.models import Subject
    from nbkit.texts import Texts

log = logging.getLogger(__name__)

SCHEMA = 2
ROWS = ("text", "word", "token")
POOLS = ("max", "mean", "cls", "first", "last")
LONG = ("truncate", "windows")
FRAMES = ("rows", "units")
DTYPES = {
    "float16": np.dtype(np.float16),
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}

#: What the key is made of: the manifest's fields that change the numbers.
IDENTITY = (
    "schema",
    "subject",
    "texts",
    "sites",
    "rows",
    "pool",
    "dtype",
    "compute_dtype",
    "max_length",
    "long",
)

BLOCK_BYTES = 128 * 2**20  # values of one block: what is recomputed at most after a kill
BATCH_TOKENS = 1024  # tokens in one forward pass, padding included; measured best on two cores
GPU_BATCH_TOKENS = 2**15  # the same on a GPU; not measured. Halved where the memory does not suffice
VERIFIED_TEXTS = 8  # texts checked before a store is filled


@dataclass(frozen=True)
class Activations:
    """Activations of one subject on one corpus, rows and columns described.

    ``values`` is ``[row, unit]``; ``rows`` and ``units`` are frames of that length. ``unit`` names a
    column wherever it is used ("layer.3.ffn.512"), so that stores of several corpora can be joined.
    """

    values: np.ndarray
    rows: pd.DataFrame
    units: pd.DataFrame
    manifest: dict[str, Any]

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        what = f"{len(self.rows):,} {self.manifest['rows']}s x {len(self.units):,} units"
        return f"Activations({self.manifest['corpus']}: {what}, {self.manifest['pool']})"

    def column(self, unit: str | int) -> int:
        """The column of ``unit``, given by name or by position. Unknown: ``ValueError``."""
        if isinstance(unit, (int, np.integer)):
            if not 0 <= unit < len(self.units):
                raise ValueError(f"unit {unit} is not among the {len(self.units)} units of {self!r}")
            return int(unit)
        found = np.flatnonzero((self.units["unit"] == unit).to_numpy())
        if not len(found):
            some = ", ".join(self.units["unit"].iloc[:3])
            raise ValueError(f"unknown unit {unit!r}; this store has names such as {some}")
        return int(found[0])

    def select(
        self,
        *,
        sites: str | Sequence[str] | None = None,
        units: Sequence[str | int] | None = None,
        text_ids: Sequence[int] | None = None,
    ) -> Activations:
        """The columns of some sites or units, or the rows of some texts.

        ``sites`` are site names ("layer.5.hidden"); neighbouring columns stay a view, anything else is
        copied. Nothing left is a ``ValueError``.
        """
        columns = np.arange(len(self.units))
        if sites is not None:
            wanted = [sites] if isinstance(sites, str) else list(sites)
            unknown = set(wanted) - set(self.units["site"])
            if unknown:
                here = ", ".join(self.units["site"].unique())
                raise ValueError(f"no site {sorted(unknown)[0]!r} in this store; it holds {here}")
            columns = np.flatnonzero(self.units["site"].isin(wanted))
        if units is not None:
            columns = np.array([self.column(unit) for unit in units], dtype=int)
        values = self.values
        contiguous = len(columns) and np.array_equal(columns, np.arange(columns[0], columns[-1] + 1))
        values = values[:, columns[0] : columns[-1] + 1] if contiguous else values[:, columns]
        rows = self.rows
        if text_ids is not None:
            keep = np.flatnonzero(rows["text_id"].isin(np.asarray(text_ids)))
            values, rows = values[keep], rows.iloc[keep].reset_index(drop=True)
        if not values.size:
            raise ValueError(f"nothing is left of {self!r} for units={units!r}, text_ids={text_ids!r}")
        return Activations(values, rows, self.units.iloc[columns].reset_index(drop=True), self.manifest)


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
    identity = _identity(subject, texts, sites, rows, pool, dtype, long, engine)
    if cache is False:
        return _in_memory(subject, texts, identity, progress)
    root = provenance.cache_root() if cache is None or cache is True else Path(cache)
    folder = root / "activations" / key_of(identity)
    with _locked(folder):
        if not (folder / "manifest.json").exists():
            _fill(folder, subject, texts, identity, engine, progress)
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
    identity = _identity(subject, texts, sites, rows, pool, "float32", long, engine)
    work = _work(subject, texts, identity, progress)
    for reducer in reducers.values():
        reducer.begin(work.units, work.plan.rows, subject.device)
    with _bar(subject, texts, progress) as bar:
        if engine == "local":
            _feed(subject, work, work.blocks, reducers, bar)
        else:
            jobs = _runs_of(work.blocks, cluster.workers(engine))
            for part, found in cluster.deal(_fed, jobs, engine, subject, work, reducers):
                for name, reducer in reducers.items():
                    reducer.merge(found[name])
                bar.update(part[-1][1] - part[0][0])
    return {name: reducer.result() for name, reducer in reducers.items()}


def _feed(subject: Subject, work: _Work, blocks: list, reducers: Mapping[str, Any], bar: tqdm | None) -> None:
    for block in blocks:
        values = _block_values(subject, work, block, bar)
        first, last = work.plan.first_row[block[0]], work.plan.first_row[block[1]]
        numbers = torch.arange(first, last, device=subject.device)
        for reducer in reducers.values():
            reducer.update(values, numbers)
        del values  # before the next block is made: else two would be in memory


def _fed(blocks: list, subject: Subject, work: _Work, reducers: Mapping[str, Any]) -> Mapping[str, Any]:
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
    identity = _identity(subject, texts, sites, rows, pool, dtype, long, "local")
    work = _work(subject, texts, identity)
    item, first_row = DTYPES[dtype].itemsize, work.plan.first_row
    every = [batch for block in work.blocks for batch in _batches(work.plan, block, _budget(subject))]
    tokens = np.array([_padded_tokens(work.plan, batch) for batch in every])
    tried = np.unique(np.linspace(0, len(every) - 1, min(batches, len(every))).round().astype(int))
    _run_batch(subject, work, every[tried[-1]])  # the first pass of a process is slow
    with provenance.stopwatch() as clock:
        for i in tried:
            _run_batch(subject, work, every[i])
    largest = max(first_row[z] - first_row[a] for a, z in work.blocks)
    n_units, width = len(work.units), subject.sites["width"].max()
    return Cost(
        rows=len(work.plan.rows),
        units=n_units,
        disk_bytes=len(work.plan.rows) * n_units * item,
        memory_bytes=int(largest * n_units * item * 3 + tokens.max() * (n_units + width) * 4),
        seconds=float(clock.seconds * tokens.sum() / tokens[tried].sum()),
    )


def verify(
    subject: Subject,
    texts: Texts,
    *,
    sites: str | Sequence[str] = "all",
    dtype: str = "float16",
    n: int = 32,
) -> pd.DataFrame:
    """Are the numbers right for this subject? A table of checks on ``n`` texts.

    hooks      hidden states seen by the hooks against transformers' own ``output_hidden_states``
               (GPT-2's last layer is left out: transformers gives it after the final layer norm)
    padding    a text alone against the same text padded in a batch
    order      a batch against the same batch reversed
    storage    values rounded to ``dtype`` for the store against those computed
    arithmetic a subject in half precision against the same weights computed in float32

    Columns: check, error (largest difference, in standard deviations of the unit, or of a unit with a
    hundredth of the median spread if it hardly varies), median and q99 of the same, tolerance, ok. The
    tolerances are ours: in float32 1e-3 on the largest error; in half precision, where every sum rounds
    differently in another batch, .1 on q99 (bfloat16: 8 bits) or .05 (float16); 1e-2 (bfloat16 2e-2) on
    q99 for the rounding.
    """
    texts = texts.sample(min(n, len(texts)), seed=0)
    work = _work(
        subject, texts, _identity(subject, texts, sites, "text", "max", "float32", "truncate", "local")
    )
    order = [t for t in _longest_first(work.plan, (0, len(texts))) if len(work.plan.members(t).lengths)]
    together = _run_batch(subject, work, order).float().cpu()
    alone = torch.cat([_run_batch(subject, work, [t]).float().cpu() for t in order])
    back = _run_batch(subject, work, order[::-1]).float().cpu().flip(0)
    seen, expected = _hidden_both_ways(subject, work.plan, order)
    tolerance, by = {"float32": (1e-3, "error"), "float16": (0.05, "q99"), "bfloat16": (0.1, "q99")}[
        subject.dtype
    ]
    stored = together.to(getattr(torch, dtype)).float()
    lines = [
        _check("hooks", seen, expected, 1e-3),
        _check("padding", together, alone, tolerance, by),
        _check("order", together, back, tolerance, by),
        _check(f"storage {dtype}", stored, together, 2e-2 if dtype == "bfloat16" else 1e-2, "q99"),
    ]
    if subject.dtype != "float32":
        exact = replace(subject, model=copy.deepcopy(subject.model).float())
        exact = _run_batch(exact, work, order).cpu()
        lines.append(_check(f"arithmetic {subject.dtype}", together, exact, tolerance, by))
    return pd.DataFrame(lines)


def _check(
    name: str, found: torch.Tensor, expected: torch.Tensor, tolerance: float, by: str = "error"
) -> dict[str, Any]:
    """One line of ``verify`` on [row, unit]; ``by`` says which number the tolerance is for."""
    spread = expected.std(0) if len(expected) > 1 else expected.abs()[0]
    scale = spread.clamp(min=max(1e-2 * float(spread.median()), 1e-12))
    error = ((found - expected).abs() / scale).flatten().numpy()
    line = {"error": error.max(), "median": np.median(error), "q99": np.quantile(error, 0.99)}
    line = {key: float(value) for key, value in line.items()}
    return {"check": name, **line, "tolerance": tolerance, "ok": bool(line[by] <= tolerance)}


@torch.inference_mode()
def _hidden_both_ways(subject: Subject, plan: Plan, order: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states [token, unit] of all layers, by the hooks and by transformers, padding left out."""
    sites = ["embeddings", *subject.select("hidden")]
    if subject.model.config.model_type == "gpt2":
        sites = sites[:-1]
    inputs = _inputs(subject, plan, order)
    own = inputs["attention_mask"].bool()
    seen = subject.run(inputs, sites)
    states = subject.model(**inputs, output_hidden_states=True).hidden_states
    found = torch.cat([seen[site][own] for site in sites], dim=1)
    return found.float().cpu(), torch.cat([h[own] for h in states[: len(sites)]], dim=1).float().cpu()


def load(folder: str | Path, *, expect: dict[str, Any] | None = None) -> Activations:
    """The store in ``folder``, without a forward pass.

    A manifest that was changed, or that does not match the files or ``expect``, is a ``ValueError``
    that names the field; a missing store is a ``FileNotFoundError``.
    """
    folder = Path(folder)
    if not (folder / "manifest.json").exists():
        raise FileNotFoundError(f"no activation store in {folder}: capture() makes one")
    manifest = json.loads((folder / "manifest.json").read_text())
    _check_manifest(folder, manifest, expect or {})
    shape = (manifest["n_units"], manifest["n_rows"])
    values = np.memmap(folder / "values.bin", dtype=DTYPES[manifest["dtype"]], mode="r", shape=shape).T
    frames = [pd.read_parquet(folder / f"{name}.parquet") for name in FRAMES]
    for name, frame, n in zip(FRAMES, frames, reversed(shape), strict=True):
        if len(frame) != n:
            _refuse(folder, f"n_{name}", f"says {n}, {name}.parquet has {len(frame)}")
    return Activations(values, *frames, manifest)


def key_of(identity: dict[str, Any]) -> str:
    """The store's name: a hash of the identity fields."""
    return provenance.fingerprint([identity[field] for field in IDENTITY])[:24]


# ---------------------------------------------------------------------------------- arguments


def _identity(
    subject: Subject,
    texts: Texts,
    sites: str | Sequence[str],
    rows: str,
    pool: str,
    dtype: str,
    long: str,
    engine: Any,
) -> dict[str, Any]:
    """The arguments, checked, as the fields that make the key."""
    for name, value, allowed in (
        ("rows", rows, ROWS),
        ("pool", pool, POOLS),
        ("dtype", dtype, tuple(DTYPES)),
        ("long", long, LONG),
    ):
        if value not in allowed:
            raise ValueError(f"{name}={value!r} is not one of {', '.join(allowed)}")
    if engine != "local" and not cluster.is_engine(engine):
        raise ValueError(f"engine={engine!r} is neither 'local' nor 'dask' nor a distributed.Client")
    if rows == "word" and texts.words is None:
        raise ValueError(f"{texts.name} has no words: load a CoNLL-U file or use texts.tokenize()")
    if pool == "cls" and rows != "text":
        raise ValueError(f"pool='cls' is for text rows, not for {rows} rows: use 'max' or 'mean'")
    if pool == "cls" and subject.tokenizer.cls_token_id is None:
        raise ValueError(f"{subject.name} has no classification token: use pool='last' or 'mean'")
    return {
        "schema": SCHEMA,
        "subject": subject.fingerprint,
        "texts": texts.fingerprint,
        "sites": subject.select(sites),
        "rows": rows,
        "pool": "token" if rows == "token" else pool,
        "dtype": dtype,
        "compute_dtype": subject.dtype,
        "max_length": subject.max_length,
        "long": long,
    }


# ---------------------------------------------------------------------------------- what to run


@dataclass(frozen=True)
class _Work:
    """A plan, the columns, and the blocks of consecutive texts that the work is cut into."""

    plan: Plan
    units: pd.DataFrame
    blocks: list[tuple[int, int]]
    identity: dict[str, Any]


def _work(subject: Subject, texts: Texts, identity: dict[str, Any], progress: bool = False) -> _Work:
    arguments = {name: identity[name] for name in ("rows", "pool", "long")}
    plan = plan_of(subject, texts, **arguments, progress=progress)
    units = _units(subject, identity["sites"])
    width = len(units) * DTYPES[identity["dtype"]].itemsize
    return _Work(plan, units, _blocks(np.diff(plan.first_row), max(1, BLOCK_BYTES // width)), identity)


def _units(subject: Subject, sites: list[str]) -> pd.DataFrame:
    """One line a column, in the order of the store."""
    parts = []
    for line in subject.sites.set_index("site").loc[sites].reset_index().itertuples():
        index = np.arange(line.width)
        names = [f"{line.site}.{i}" for i in index]
        parts.append(pd.DataFrame({"unit": names, "site": line.site, "layer": line.layer, "index": index}))
    return pd.concat(parts, ignore_index=True)


def _blocks(rows_of_text: np.ndarray, capacity: int) -> list[tuple[int, int]]:
    """Runs of consecutive texts with at most ``capacity`` rows each (one text at least)."""
    blocks, start, held = [], 0, 0
    for i, n in enumerate(rows_of_text):
        if i > start and held + n > capacity:
            blocks.append((start, i))
            start, held = i, 0
        held += n
    return [*blocks, (start, len(rows_of_text))]


# ---------------------------------------------------------------------------------- forward passes


class Batch(NamedTuple):
    """Some texts of a plan as the model takes them."""

    inputs: dict[str, torch.Tensor]  # [piece, token], on the subject's device
    rows: np.ndarray  # [row] positions in ``plan.rows``, text after text
    tokens: np.ndarray  # positions of their tokens in the flattened [piece * token]
    lengths: np.ndarray  # [row] how many of ``tokens`` each row has


def batches(subject: Subject, plan: Plan) -> Iterator[Batch]:
    """All texts of a plan in batches of like length, for forward passes of one's own."""
    for texts in _batches(plan, (0, len(plan.n_pieces)), _budget(subject)):
        inputs, members = _inputs(subject, plan, texts), [plan.members(t) for t in texts]
        starts = np.cumsum(plan.n_pieces[texts]) - plan.n_pieces[texts]
        width = inputs["input_ids"].shape[1]
        tokens = [(s + m.where[:, 0]) * width + m.where[:, 1] for s, m in zip(starts, members, strict=True)]
        yield Batch(
            inputs,
            np.concatenate([np.arange(plan.first_row[t], plan.first_row[t + 1]) for t in texts]),
            np.concatenate(tokens).astype(np.int64),
            np.concatenate([m.lengths for m in members]).astype(np.int64),
        )


def _block_values(subject: Subject, work: _Work, block: tuple[int, int], bar: tqdm | None) -> torch.Tensor:
    """Values ``[row, unit]`` of one block of texts, on the subject's device."""
    plan, dtype = work.plan, getattr(torch, work.identity["dtype"])
    base = plan.first_row[block[0]]
    n_rows = int(plan.first_row[block[1]] - base)
    values = torch.empty(n_rows, len(work.units), dtype=dtype, device=subject.device)
    for batch in _batches(plan, block, _budget(subject)):
        rows = np.concatenate([np.arange(plan.first_row[t], plan.first_row[t + 1]) for t in batch]) - base
        if len(rows):
            place = torch.from_numpy(rows)
            if values.is_cuda:
                place = place.pin_memory().to(values.device, non_blocking=True)
            values[place] = _run_batch(subject, work, batch).to(dtype)
        if bar is not None:
            bar.update(len(batch))
    _check_finite(values, work, base)
    return values


def _budget(subject: Subject) -> int:
    return BATCH_TOKENS if subject.device.type == "cpu" else GPU_BATCH_TOKENS


def _longest_first(plan: Plan, block: tuple[int, int]) -> list[int]:
    """The texts of a block by the length of their longest piece: memory peaks at once."""
    return (block[0] + np.argsort(-plan.longest[slice(*block)], kind="stable")).tolist()


def _batches(plan: Plan, block: tuple[int, int], budget: int) -> Iterator[list[int]]:
    """Texts of a block in batches of like length, at most ``budget`` tokens with padding (or one text)."""
    batch: list[int] = []
    pieces = 0
    for t in _longest_first(plan, block):
        if batch and (pieces + plan.n_pieces[t]) * plan.longest[batch[0]] > budget:
            yield batch
            batch, pieces = [], 0
        batch.append(t)
        pieces += plan.n_pieces[t]
    yield batch


def _padded_tokens(plan: Plan, batch: list[int]) -> int:
    """Tokens in the forward pass of a batch that has its longest text first."""
    return int(plan.n_pieces[batch].sum() * plan.longest[batch[0]])


def _run_batch(subject: Subject, work: _Work, batch: list[int]) -> torch.Tensor:
    """Pooled activations ``[row, unit]`` of a few texts, in their order; in halves where memory is short."""
    try:
        return _forward(subject, work, batch)
    except torch.OutOfMemoryError as error:
        tokens = _padded_tokens(work.plan, batch)
        if len(batch) == 1:
            raise RuntimeError(
                f"a single text of {tokens} tokens does not fit in the memory of {subject.device}: capture"
                " fewer sites, load the subject in half precision, or use the CPU"
            ) from error
    if subject.device.type == "cuda":
        torch.cuda.empty_cache()
    log.warning("%s: out of memory with %s tokens in a batch, going on in halves", subject.device, tokens)
    half = len(batch) // 2
    return torch.cat([_run_batch(subject, work, part) for part in (batch[:half], batch[half:])])


@torch.inference_mode()
def _forward(subject: Subject, work: _Work, batch: list[int]) -> torch.Tensor:
    plan, identity = work.plan, work.identity
    members, pieces = [plan.members(t) for t in batch], plan.n_pieces[batch]
    pool = functools.partial(pool_tokens, members=members, pool=identity["pool"], pieces=pieces)
    found = subject.run(_inputs(subject, plan, batch), identity["sites"], keep=pool)
    return torch.cat([found[site] for site in identity["sites"]], dim=1)


def _inputs(subject: Subject, plan: Plan, batch: list[int]) -> dict[str, torch.Tensor]:
    """What the model takes, for a few texts, on its device."""
    pad = subject.tokenizer.pad_token_id or 0  # masked: which id it is does not matter
    pieces = [piece for t in batch for piece in plan.pieces(t)]
    ids = [plan.ids[piece] for piece in pieces]
    inputs = {
        "input_ids": _padded(ids, pad),
        "attention_mask": _padded([np.ones_like(piece) for piece in ids], 0),
    }
    if plan.types is not None:
        inputs["token_type_ids"] = _padded([plan.types[piece] for piece in pieces], 0)
    return {name: tensor.to(subject.device) for name, tensor in inputs.items()}


def _padded(rows: list[np.ndarray], fill: int) -> torch.Tensor:
    """[text, token] with ``fill`` behind the shorter rows."""
    table = np.full((len(rows), max(map(len, rows))), fill, dtype=np.int64)
    for i, row in enumerate(rows):
        table[i, : len(row)] = row
    return torch.from_numpy(table)


def _check_finite(values: torch.Tensor, work: _Work, base: int) -> None:
    # one sum instead of a table of flags: a NaN or an infinity survives in it (two cancel into a NaN)
    if bool(torch.isfinite(values.sum(dtype=torch.float64))):
        return
    row, column = (int(x) for x in (~torch.isfinite(values)).nonzero()[0])
    unit, text_id = work.units["unit"].iloc[column], work.plan.rows["text_id"].iloc[base + row]
    raise ValueError(
        f"the activation of {unit} on text {text_id} is {values[row, column]:g} in {work.identity['dtype']}"
        " (and maybe others): if the model itself computes finite numbers, store dtype='float32'"
    )


# ---------------------------------------------------------------------------------- the store


def _in_memory(subject: Subject, texts: Texts, identity: dict, progress: bool) -> Activations:
    work = _work(subject, texts, identity, progress)
    with _bar(subject, texts, progress) as bar:
        parts = [_numpy(_block_values(subject, work, block, bar)) for block in work.blocks]
    manifest = {**identity, "corpus": texts.name, "model": subject.name, "losses": work.plan.losses}
    return Activations(np.concatenate(parts), work.plan.rows, work.units, manifest)


def _numpy(values: torch.Tensor) -> np.ndarray:
    """The same numbers; numpy knows bfloat16 only through ml_dtypes."""
    values = values.cpu()
    if values.dtype == torch.bfloat16:
        return values.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return values.numpy()


def _bar(subject: Subject, texts: Texts, progress: bool) -> tqdm:
    name = f"{subject.name} on {texts.name}"
    return tqdm(total=len(texts), desc=name, unit=" texts", disable=not progress, leave=False)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time for a store; a cache that cannot be written is said so."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(f"{folder}.lock")
        lock.acquire()
    except OSError as error:
        raise OSError(
            f"the cache folder {folder.parent} cannot be written ({error.strerror or error}): give another"
            " one as cache=..., or set NBKIT_CACHE"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _fill(folder: Path, subject: Subject, texts: Texts, identity: dict, engine: Any, progress: bool) -> None:
    """Compute what is missing of a store beside ``folder``, then give it its name."""
    shutil.rmtree(folder, ignore_errors=True)  # without a manifest: what a deletion left
    part = folder.with_name(folder.name + ".part")
    part.mkdir(exist_ok=True)
    work = _work(subject, texts, identity, progress)
    size = len(work.plan.rows) * len(work.units) * DTYPES[identity["dtype"]].itemsize
    done = _done_blocks(part, work, size)
    _reserve(part / "values.bin", size, folder)
    checks = verify(subject, texts, sites=identity["sites"], dtype=identity["dtype"], n=VERIFIED_TEXTS)
    for line in checks[~checks["ok"]].itertuples():
        log.warning("%s: check %r failed, %s %.2g", subject.name, line.check, line.tolerance, line.error)
    with open(part / "journal", "a") as journal, _bar(subject, texts, progress) as bar:
        bar.update(sum(b - a for a, b in done))
        with _or_say_deleted(journal, part), provenance.stopwatch() as clock:
            _fill_blocks(subject, work, done, part, engine, journal, bar)
        facts = {"corpus": texts.name, "model": subject.name, "device": str(subject.device)}
        facts |= {"verified": checks.round(6).to_dict("records"), "seconds": round(clock.seconds, 3)}
        with _or_say_deleted(journal, part):
            _describe(part, work, {**identity, **facts}, done)
        (part / "journal").unlink()
        os.rename(part, folder)


def _fill_blocks(
    subject: Subject, work: _Work, done: dict, part: Path, engine: Any, journal: TextIO, bar: tqdm
) -> None:
    """Compute the blocks that are not in ``done``; each goes there, and into the journal, once on disk."""
    todo = [block for block in work.blocks if block not in done]
    fill = _fill_here if engine == "local" else _fill_by_workers
    for block, crc in fill(subject, work, todo, part / "values.bin", engine, bar):
        if not _is_there(journal, part):
            raise FileNotFoundError(part)
        done[block] = crc
        journal.write(f"{block[0]} {block[1]} {crc}\n")
        journal.flush()
        os.fsync(journal.fileno())


def _describe(part: Path, work: _Work, facts: dict[str, Any], done: dict) -> None:
    """Rows, units and the manifest beside the values."""
    work.plan.rows.to_parquet(part / "rows.parquet")
    work.units.to_parquet(part / "units.parquet")
    manifest = provenance.manifest(
        **facts,
        n_rows=len(work.plan.rows),
        n_units=len(work.units),
        losses=work.plan.losses,
        checksums=[[*block, done[block]] for block in work.blocks],
    )
    manifest["seals"] = {field: _seal(value) for field, value in manifest.items()}
    (part / "manifest.json").write_text(json.dumps(manifest, indent=1))


def _is_there(journal: TextIO, part: Path) -> bool:
    """Whether the open journal is the one in ``part``: a deleted folder may be there again, another's."""
    try:
        return os.path.samestat(os.fstat(journal.fileno()), os.stat(part / "journal"))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _or_say_deleted(journal: TextIO, part: Path) -> Iterator[None]:
    """What is done inside counts only if the folder is still ours afterwards."""
    try:
        yield
        gone = None
    except FileNotFoundError as error:
        gone = error
    if not _is_there(journal, part):
        raise FileNotFoundError(
            f"the store {part.stem} was deleted from {part.parent} while it was being filled: nothing of it"
            " is used. Run the same line again, it starts anew"
        ) from gone
    if gone is not None:
        raise gone


def _fill_here(subject: Subject, work: _Work, blocks: list, path: Path, engine: str, bar: tqdm) -> Iterator:
    """Blocks with their checksums once on disk; one is written while the next one is computed."""
    with ThreadPoolExecutor(1) as writer:
        pending = None
        for block in blocks:
            values = _leaving(_block_values(subject, work, block, bar))
            if pending is not None:
                yield pending[0], pending[1].result()
            pending = block, writer.submit(_write_block, path, values, work, block)
        if pending is not None:
            yield pending[0], pending[1].result()


def _leaving(values: torch.Tensor) -> tuple[torch.Tensor, Any]:
    """The block unit after unit, on its way to the CPU, and the event of its arrival there."""
    columns = values.T.contiguous()
    if not columns.is_cuda:
        return columns, None
    pinned = torch.empty(columns.shape, dtype=columns.dtype, pin_memory=True)
    pinned.copy_(columns, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return pinned, arrived


def _fill_by_workers(subject, work: _Work, blocks: list, path: Path, engine: Any, bar: tqdm) -> Iterator:
    for block, crc in cluster.deal(_filled, blocks, engine, subject, work, path):
        bar.update(block[1] - block[0])
        yield block, crc


def _filled(block: tuple[int, int], subject: Subject, work: _Work, path: Path) -> int:
    """On a worker: one block, on disk; its checksum."""
    return _write_block(path, _leaving(_block_values(subject, work, block, None)), work, block)


def _done_blocks(part: Path, work: _Work, size: int) -> dict[tuple[int, int], int]:
    """The blocks that a killed run had finished, with their checksums. A torn line does not count."""
    journal, values = part / "journal", part / "values.bin"
    if not journal.exists() or not values.exists() or values.stat().st_size != size:
        journal.unlink(missing_ok=True)
        return {}
    lines = journal.read_text().split("\n")
    journal.write_text("\n".join([*lines[:-1], ""]))
    found = [tuple(map(int, line.split())) for line in lines[:-1]]
    planned = set(work.blocks)
    return {(a, b): crc for a, b, crc in found if (a, b) in planned}


def _reserve(path: Path, size: int, folder: Path) -> None:
    """Take the whole space now, so that a full disk is known before hours of work."""
    held = path.stat().st_blocks * 512 if path.exists() else 0
    free = shutil.disk_usage(folder.parent).free + held
    if size > free:
        raise OSError(
            f"the store {folder} needs {size / 1e9:.2f} GB and the disk has {free / 1e9:.2f} GB:"
            " capture fewer sites or texts, or give another cache folder"
        )
    with open(path, "r+b" if path.exists() else "w+b") as out:
        out.truncate(size)


def _write_block(path: Path, leaving: tuple[torch.Tensor, Any], work: _Work, block: tuple[int, int]) -> int:
    """Write ``[unit, row]`` into the unit-major file; on disk when this returns. The CRC-32."""
    columns, arrived = leaving
    if arrived is not None:
        arrived.synchronize()
    numbers = _numpy(columns)
    n_rows, first, item = len(work.plan.rows), int(work.plan.first_row[block[0]]), numbers.itemsize
    try:
        with open(path, "r+b") as out:
            for unit, column in enumerate(numbers.view(np.uint8).reshape(len(numbers), -1)):
                os.pwrite(out.fileno(), column.data, (unit * n_rows + first) * item)
            os.fsync(out.fileno())
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(
            f"the disk of {path.parent} is full; the blocks before are kept: free some space and run the"
            " same line again, it goes on from there"
        ) from error
    return zlib.crc32(numbers.view(np.uint8).data)


def _seal(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def _refuse(folder: Path, field: str, reason: str) -> None:
    raise ValueError(
        f"the activation store {folder} is not what its manifest says: field {field!r} {reason}."
        " Delete that folder and capture again"
    )


def _check_manifest(folder: Path, manifest: dict[str, Any], expect: dict[str, Any]) -> None:
    seals = manifest.get("seals", {})
    for field in (*IDENTITY, "n_rows", "n_units", "checksums"):
        if field not in manifest:
            _refuse(folder, field, "is missing")
    for field, value in manifest.items():
        if field != "seals" and seals.get(field) != _seal(value):
            _refuse(folder, field, "was changed after the store was made")
    for field, value in expect.items():
        if manifest[field] != value:
            _refuse(folder, field, f"is {manifest[field]!r} and should be {value!r}")
    if folder.name != key_of(manifest):
        _refuse(folder, "schema", f"and the others hash to {key_of(manifest)}, not to the folder")
    size = manifest["n_rows"] * manifest["n_units"] * DTYPES[manifest["dtype"]].itemsize
    path = folder / "values.bin"
    found = path.stat().st_size if path.exists() else 0
    if found != size:
        _refuse(folder, "n_rows", f"asks for {size} bytes of values.bin, which has {found}")
    for name in FRAMES:
        if not (folder / f"{name}.parquet").exists():
            _refuse(folder, f"n_{name}", f"says {manifest[f'n_{name}']}, and {name}.parquet is not there")
