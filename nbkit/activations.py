"""Activations: one forward pass over a corpus, and a store that is never wrong.

    capture(subject, texts, sites="ffn", rows="text", pool="max") -> Activations
    Activations.values    [row, unit], memory-mapped; float16 unless asked otherwise
    Activations.rows      one line a row: text_id (and word_id, form, or position, token; start, end)
    Activations.units     one line a column: unit ("layer.3.ffn.512"), site, layer, index
    Activations.select(sites=..., units=..., text_ids=...)
    reduce(subject, texts, {"top": TopK(10), ...}) -> dict      the same pass without a store
    estimate(subject, texts, sites=...) -> Cost                 disk, memory and time, before a long run
    verify(subject, texts) -> table                             are the numbers right for this subject?

Rows are texts, words or tokens. A text or word row pools the tokens that belong to it:

    max, mean     over its tokens; special tokens and padding are never among them
    first, last   its first or last token
    cls           the classification token (text rows only)

A word's tokens are those whose character span overlaps the word's span, so that words and wordpieces
are aligned exactly whatever the tokenizer did in between. What gets lost is counted in
``manifest["losses"]``: texts cut to the model's length, words beyond the cut, words without a token.

The store
---------
``<cache>/activations/<key>/`` holds ``manifest.json``, ``rows.parquet``, ``units.parquet`` and
``values.bin``. The key is a hash of everything that changes the numbers (``IDENTITY``). The same key
loads without a forward pass; any other argument, text or weight makes another key. The values lie unit
after unit (``values`` is the transposed view), because a browser reads one unit over all rows and a
scorer is as happy with blocks of units. The work is cut into blocks of texts; a block counts when its
bytes are on disk and its line is in the journal, so a killed run resumes where it stopped. A second
process that asks for the same key waits for the first one and loads its store.

Within a block texts are sorted by length and packed under a token budget. The numbers depend on the
packing only through float rounding (of the order of 1e-6 in float32).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import filelock
import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from nbkit import provenance

if TYPE_CHECKING:
    from nbkit.models import Subject
    from nbkit.texts import Texts

log = logging.getLogger(__name__)

SCHEMA = 1
ROWS = ("text", "word", "token")
POOLS = ("max", "mean", "cls", "first", "last")
DTYPES = {"float16": np.float16, "float32": np.float32}

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
)

BLOCK_BYTES = 128 * 2**20  # values of one block: what is recomputed at most after a kill
BATCH_TOKENS = 1024  # tokens in one forward pass, padding included; measured best on two cores


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
    cache: str | Path | bool | None = None,
    engine: str = "local",
    progress: bool = True,
) -> Activations:
    """Activations of ``subject`` on ``texts`` at ``sites``, from the store or in one forward pass.

    sites     a site ("layer.3.ffn"), a group ("hidden", "ffn", "all") or a list of these
    rows      "text", "word" (the corpus needs ``.words``) or "token"
    pool      "max", "mean", "first", "last", "cls"; ignored for token rows
    dtype     of the stored values: "float16" or "float32"
    cache     the cache folder; None is ``provenance.cache_root()``, False keeps all in memory
    progress  a bar with an estimate of the time left

    Raises ``ValueError`` for an unknown site, row kind, pool, dtype or engine, for a store that does
    not match its manifest, and for activations that are not finite or overflow ``dtype``.
    """
    identity = _identity(subject, texts, sites, rows, pool, dtype, engine)
    if cache is False:
        return _in_memory(subject, texts, identity, progress)
    root = provenance.cache_root() if cache is None or cache is True else Path(cache)
    folder = root / "activations" / key_of(identity)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{folder}.lock"):
        if not folder.exists():
            _fill(folder, subject, texts, identity, progress)
    return load(folder, expect=identity)


def reduce(
    subject: Subject,
    texts: Texts,
    reducers: Mapping[str, Any],
    *,
    sites: str | Sequence[str] = "ffn",
    rows: str = "text",
    pool: str = "max",
    engine: str = "local",
    progress: bool = True,
) -> dict[str, Any]:
    """Feed ``reducers`` (see the module ``reducers``) in one forward pass, without a store.

    Arguments as in ``capture``. The values are float32. Returns each reducer's result by its name.
    Memory does not grow with the corpus beyond its tokens and the list of rows.
    """
    identity = _identity(subject, texts, sites, rows, pool, "float32", engine)
    plan = _plan(subject, texts, identity)
    for reducer in reducers.values():
        reducer.begin(plan.units, plan.rows, subject.device)
    with _bar(subject, texts, progress) as bar:
        for block in plan.blocks:
            values = torch.from_numpy(_block_values(subject, plan, block, identity, bar))
            first, last = plan.first_row[block[0]], plan.first_row[block[1]]
            numbers = torch.arange(first, last, device=subject.device)
            for reducer in reducers.values():
                reducer.update(values.to(subject.device), numbers)
    return {name: reducer.result() for name, reducer in reducers.items()}


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
    batches: int = 4,
) -> Cost:
    """What ``capture`` with these arguments would take, before it is run.

    Disk and memory are counted, the time is measured on ``batches`` batches from the longest texts to
    the shortest and extrapolated by tokens. Nothing is written.
    """
    identity = _identity(subject, texts, sites, rows, pool, dtype, "local")
    plan = _plan(subject, texts, identity)
    item = np.dtype(dtype).itemsize
    every = [b for a, z in plan.blocks for b in _batches([len(plan.ids[t]) for t in range(a, z)], a)]
    tokens = np.array([len(batch) * len(plan.ids[batch[0]]) for batch in every])
    tried = np.unique(np.linspace(0, len(every) - 1, min(batches, len(every))).round().astype(int))
    _run_batch(subject, plan, every[tried[-1]], identity)  # the first pass of a process is slow
    with provenance.stopwatch() as clock:
        for i in tried:
            _run_batch(subject, plan, every[i], identity)
    largest = max(plan.first_row[z] - plan.first_row[a] for a, z in plan.blocks)
    n_units, width = len(plan.units), subject.sites["width"].max()
    return Cost(
        rows=len(plan.rows),
        units=n_units,
        disk_bytes=len(plan.rows) * n_units * item,
        memory_bytes=int(largest * n_units * item * 2 + tokens.max() * (n_units + width) * 4),
        seconds=float(clock.seconds * tokens.sum() / tokens[tried].sum()),
    )


def verify(
    subject: Subject, texts: Texts, *, sites: str | Sequence[str] = "all", n: int = 32
) -> pd.DataFrame:
    """Are the numbers right for this subject? A table of checks on ``n`` texts.

    hooks      hidden states seen by the hooks against transformers' own ``output_hidden_states``
               (GPT-2's last layer is left out: transformers gives it after the final layer norm)
    padding    a text alone against the same text padded in a batch
    order      a batch against the same batch reversed
    float16    values rounded for the store against float32

    Columns: check, error (largest difference, in standard deviations of the unit, or of a unit with a
    hundredth of the median spread if it hardly varies), median and q99 of the same, tolerance, ok. The
    tolerances are ours, for float32: 1e-3 on the largest error, and 1e-2 on q99 for the rounding.
    """
    texts = texts.sample(min(n, len(texts)), seed=0)
    identity = _identity(subject, texts, sites, "text", "max", "float32", "local")
    plan = _plan(subject, texts, identity)
    order = list(np.argsort([-len(ids) for ids in plan.ids]))
    together = _run_batch(subject, plan, order, identity).float().cpu()
    alone = torch.cat([_run_batch(subject, plan, [t], identity).float().cpu() for t in order])
    back = _run_batch(subject, plan, order[::-1], identity).float().cpu().flip(0)
    seen, expected = _hidden_both_ways(subject, plan, order)
    lines = [
        _check("hooks", seen, expected, 1e-3),
        _check("padding", together, alone, 1e-3),
        _check("order", together, back, 1e-3),
        _check("float16", together.half().float(), together, 1e-2, by="q99"),
    ]
    return pd.DataFrame(lines)


def _check(
    name: str, found: torch.Tensor, expected: torch.Tensor, tolerance: float, by: str = "error"
) -> dict[str, Any]:
    """One line of ``verify`` on [row, unit]; ``by`` says which number the tolerance is for."""
    spread = expected.std(0)
    error = ((found - expected).abs() / spread.clamp(min=1e-2 * float(spread.median()))).flatten().numpy()
    line = {"error": error.max(), "median": np.median(error), "q99": np.quantile(error, 0.99)}
    line = {key: float(value) for key, value in line.items()}
    return {"check": name, **line, "tolerance": tolerance, "ok": line[by] <= tolerance}


@torch.inference_mode()
def _hidden_both_ways(subject: Subject, plan: _Plan, order: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
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
    values = np.memmap(folder / "values.bin", dtype=manifest["dtype"], mode="r", shape=shape).T
    frames = [pd.read_parquet(folder / f"{name}.parquet") for name in ("rows", "units")]
    for name, frame, n in zip(("rows", "units"), frames, reversed(shape), strict=True):
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
    engine: str,
) -> dict[str, Any]:
    """The arguments, checked, as the fields that make the key."""
    for name, value, allowed in (
        ("rows", rows, ROWS),
        ("pool", pool, POOLS),
        ("dtype", dtype, tuple(DTYPES)),
        ("engine", engine, ("local",)),
    ):
        if value not in allowed:
            raise ValueError(f"{name}={value!r} is not one of {', '.join(allowed)}")
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
    }


# ---------------------------------------------------------------------------------- tokens and rows


@dataclass(frozen=True)
class _Plan:
    """What to run and where its rows go, known before the first forward pass."""

    ids: list[np.ndarray]  # token ids of every text, special tokens included
    types: list[np.ndarray] | None  # token type ids where the tokenizer makes them (XLNet's matter)
    members: list[tuple[np.ndarray, np.ndarray]]  # per text: token positions, tokens in each row
    first_row: np.ndarray  # [text + 1] row at which each text begins
    rows: pd.DataFrame
    units: pd.DataFrame
    losses: dict[str, int]
    blocks: list[tuple[int, int]]  # consecutive texts


def _plan(subject: Subject, texts: Texts, identity: dict[str, Any]) -> _Plan:
    ids, types, offsets, special, truncated = _tokenize(subject, texts.frame["text"].tolist())
    text_ids = texts.frame["text_id"].to_numpy()
    if identity["rows"] == "word":
        members, rows, losses = _word_rows(texts, text_ids, offsets, special)
    elif identity["rows"] == "token":
        members, rows, losses = _token_rows(subject, ids, text_ids, offsets, special)
    else:
        members, rows, losses = _text_rows(subject, ids, text_ids, special, identity["pool"])
    units = _units(subject, identity["sites"])
    first_row = np.concatenate([[0], np.cumsum([len(lengths) for _, lengths in members])])
    width = len(units) * np.dtype(identity["dtype"]).itemsize
    blocks = _blocks(np.diff(first_row), max(1, BLOCK_BYTES // width))
    losses = {"truncated_texts": truncated, **losses}
    if any(losses.values()):
        log.warning("%s: %s", texts.name, ", ".join(f"{n} {k}" for k, n in losses.items() if n))
    return _Plan(ids, types, members, first_row, rows, units, losses, blocks)


def _tokenize(subject: Subject, texts: list[str]) -> tuple[list, list | None, list, list, int]:
    """Ids, type ids, character offsets and special-token masks of every text; how many were cut."""
    encoded = subject.tokenizer(
        texts,
        truncation=subject.max_length is not None,
        max_length=subject.max_length,
        return_overflowing_tokens=subject.max_length is not None,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        return_attention_mask=False,
    )
    sample = encoded.get("overflow_to_sample_mapping", range(len(texts)))
    _, first = np.unique(np.asarray(sample), return_index=True)  # the first piece of every text
    pieces = np.bincount(np.asarray(sample), minlength=len(texts))
    ids = [np.asarray(encoded["input_ids"][i], dtype=np.int64) for i in first]
    types = None
    if "token_type_ids" in encoded:
        types = [np.asarray(encoded["token_type_ids"][i], dtype=np.int64) for i in first]
    offsets = [np.asarray(encoded["offset_mapping"][i], dtype=np.int64) for i in first]
    special = [np.asarray(encoded["special_tokens_mask"][i], dtype=bool) for i in first]
    return ids, types, offsets, special, int((pieces > 1).sum())


def _text_rows(
    subject: Subject, ids: list, text_ids: np.ndarray, special: list, pool: str
) -> tuple[list, pd.DataFrame, dict[str, int]]:
    members = []
    for tokens, is_special in zip(ids, special, strict=True):
        own = np.flatnonzero(~is_special)
        if pool == "cls":
            own = np.flatnonzero(tokens == subject.tokenizer.cls_token_id)[:1]
        members.append((own, np.array([len(own)]) if len(own) else np.array([], dtype=int)))
    kept = np.array([len(lengths) > 0 for _, lengths in members])
    rows = pd.DataFrame({"text_id": text_ids[kept]})
    return members, rows, {"texts_without_token": int((~kept).sum())}


def _token_rows(
    subject: Subject, ids: list, text_ids: np.ndarray, offsets: list, special: list
) -> tuple[list, pd.DataFrame, dict[str, int]]:
    own = [np.flatnonzero(~is_special) for is_special in special]
    members = [(positions, np.ones(len(positions), dtype=int)) for positions in own]
    spans = np.concatenate([o[p] for o, p in zip(offsets, own, strict=True)])
    flat = np.concatenate([i[p] for i, p in zip(ids, own, strict=True)])
    rows = pd.DataFrame(
        {
            "text_id": np.repeat(text_ids, [len(p) for p in own]),
            "position": np.concatenate(own),
            "token": subject.tokenizer.convert_ids_to_tokens(flat.tolist()),
            "start": spans[:, 0],
            "end": spans[:, 1],
        }
    )
    return members, rows, {"texts_without_token": sum(len(p) == 0 for p in own)}


def _word_rows(
    texts: Texts, text_ids: np.ndarray, offsets: list, special: list
) -> tuple[list, pd.DataFrame, dict[str, int]]:
    """A word's tokens overlap its span; words beyond the cut or without a token are counted."""
    words = texts.words.sort_values(["text_id", "word_id"], kind="stable")
    starts, ends = words["start"].to_numpy(), words["end"].to_numpy()
    low = np.searchsorted(words["text_id"].to_numpy(), text_ids, side="left")
    high = np.searchsorted(words["text_id"].to_numpy(), text_ids, side="right")
    members, kept, beyond, without = [], [], 0, 0
    for i, (spans, is_special) in enumerate(zip(offsets, special, strict=True)):
        begin, end = starts[low[i] : high[i], None], ends[low[i] : high[i], None]
        own = (spans[:, 0] < end) & (spans[:, 1] > begin) & ~is_special  # [word, token]
        lengths = own.sum(1)
        covered = spans[~is_special, 1].max(initial=0)
        lost = lengths == 0
        beyond += int((lost & (begin[:, 0] >= covered)).sum())
        without += int((lost & (begin[:, 0] < covered)).sum())
        members.append((np.nonzero(own)[1], lengths[~lost]))
        kept.append(low[i] + np.flatnonzero(~lost))
    columns = ["text_id", "word_id", "form", "start", "end"]
    rows = words[columns].iloc[np.concatenate(kept)].reset_index(drop=True)
    return members, rows, {"words_beyond_cut": beyond, "words_without_token": without}


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


def _block_values(
    subject: Subject, plan: _Plan, block: tuple[int, int], identity: dict, bar: tqdm
) -> np.ndarray:
    """Values ``[row, unit]`` of one block of texts."""
    start, stop = block
    base = plan.first_row[start]
    n_rows = plan.first_row[stop] - base
    values = torch.empty(n_rows, len(plan.units), dtype=getattr(torch, identity["dtype"]))
    for batch in _batches([len(plan.ids[t]) for t in range(start, stop)], start):
        rows = [np.arange(plan.first_row[t], plan.first_row[t + 1]) - base for t in batch]
        pooled = _run_batch(subject, plan, batch, identity)
        values[torch.from_numpy(np.concatenate(rows))] = pooled.to(values.dtype).cpu()
        bar.update(len(batch))
    values = values.numpy()
    _check_finite(values, plan, base, identity)
    return values


def _batches(lengths: list[int], start: int) -> Iterator[list[int]]:
    """Texts of a block in batches of like length, at most ``BATCH_TOKENS`` with padding."""
    batch: list[int] = []
    for i in np.argsort(-np.asarray(lengths), kind="stable"):  # longest first: memory peaks at once
        if batch and (len(batch) + 1) * lengths[batch[0] - start] > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(start + int(i))
    yield batch


@torch.inference_mode()
def _run_batch(subject: Subject, plan: _Plan, batch: list[int], identity: dict) -> torch.Tensor:
    """Pooled activations ``[row, unit]`` of a few texts, rows in the order of ``batch``."""
    inputs = _inputs(subject, plan, batch)
    found = subject.run(inputs, identity["sites"])
    members = [plan.members[t] for t in batch]
    pooled = [pool_tokens(found[site], members, identity["pool"]) for site in identity["sites"]]
    return torch.cat(pooled, dim=1)


def _inputs(subject: Subject, plan: _Plan, batch: list[int]) -> dict[str, torch.Tensor]:
    """What the model takes, for a few texts, on its device."""
    pad = subject.tokenizer.pad_token_id or 0  # masked: which id it is does not matter
    inputs = {
        "input_ids": _padded([plan.ids[t] for t in batch], pad),
        "attention_mask": _padded([np.ones_like(plan.ids[t]) for t in batch], 0),
    }
    if plan.types is not None:
        inputs["token_type_ids"] = _padded([plan.types[t] for t in batch], 0)
    return {name: tensor.to(subject.device) for name, tensor in inputs.items()}


def _padded(rows: list[np.ndarray], fill: int) -> torch.Tensor:
    """[text, token] with ``fill`` behind the shorter rows."""
    table = np.full((len(rows), max(map(len, rows))), fill, dtype=np.int64)
    for i, row in enumerate(rows):
        table[i, : len(row)] = row
    return torch.from_numpy(table)


def pool_tokens(
    values: torch.Tensor, members: list[tuple[np.ndarray, np.ndarray]], pool: str
) -> torch.Tensor:
    """Pool ``[text, token, unit]`` into ``[row, unit]``.

    ``members`` holds, for each text, the positions of its rows' tokens (row after row) and how many
    tokens each row has. ``pool`` is "max", "mean", "first", "last", "cls" or "token".
    """
    longest = values.shape[1]
    flat = values.reshape(-1, values.shape[-1])
    index = np.concatenate([i * longest + positions for i, (positions, _) in enumerate(members)])
    lengths = np.concatenate([lengths for _, lengths in members])
    ends = np.cumsum(lengths)
    if pool in ("first", "cls", "token"):
        return flat[torch.from_numpy(index[ends - lengths])]
    if pool == "last":
        return flat[torch.from_numpy(index[ends - 1])]
    pooled = flat.new_empty(len(lengths), flat.shape[1])
    one = len(lengths) == len(members)  # text rows: runs of texts of one length need no gather
    if one and all(len(p) == p[-1] - p[0] + 1 for p, _ in members if len(p)):
        for first, last in _runs([(p[0], p[-1] + 1) for p, _ in members]):
            a, b = members[first][0][0], members[first][0][-1] + 1
            span = values[first:last, a:b]
            pooled[first:last] = span.amax(1) if pool == "max" else span.mean(1)
        return pooled
    gathered = flat[torch.from_numpy(index).to(flat.device)]
    return torch.segment_reduce(gathered, pool, lengths=torch.from_numpy(lengths).to(flat.device), axis=0)


def _runs(spans: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Stretches of equal neighbours, as half-open ranges."""
    start = 0
    for i in range(1, len(spans) + 1):
        if i == len(spans) or spans[i] != spans[start]:
            yield start, i
            start = i


def _check_finite(values: np.ndarray, plan: _Plan, base: int, identity: dict) -> None:
    bad = ~np.isfinite(values)
    if not bad.any():
        return
    row, column = (int(x[0]) for x in np.nonzero(bad))
    unit, text_id = plan.units["unit"].iloc[column], plan.rows["text_id"].iloc[base + row]
    raise ValueError(
        f"the activation of {unit} on text {text_id} is {values[row, column]} in {identity['dtype']}"
        " (and maybe others): if the model itself computes finite numbers, store dtype='float32'"
    )


# ---------------------------------------------------------------------------------- the store


def _in_memory(subject: Subject, texts: Texts, identity: dict, progress: bool) -> Activations:
    plan = _plan(subject, texts, identity)
    with _bar(subject, texts, progress) as bar:
        parts = [_block_values(subject, plan, block, identity, bar) for block in plan.blocks]
    manifest = {**identity, "corpus": texts.name, "model": subject.name, "losses": plan.losses}
    return Activations(np.concatenate(parts), plan.rows, plan.units, manifest)


def _bar(subject: Subject, texts: Texts, progress: bool) -> tqdm:
    name = f"{subject.name} on {texts.name}"
    return tqdm(total=len(texts), desc=name, unit=" texts", disable=not progress, leave=False)


def _fill(folder: Path, subject: Subject, texts: Texts, identity: dict, progress: bool) -> None:
    """Compute what is missing of a store beside ``folder``, then give it its name."""
    part = folder.with_name(folder.name + ".part")
    part.mkdir(exist_ok=True)
    plan = _plan(subject, texts, identity)
    dtype = np.dtype(identity["dtype"])
    n_rows, n_units = len(plan.rows), len(plan.units)
    size = n_rows * n_units * dtype.itemsize
    done = _done_blocks(part, plan, size)
    with (
        provenance.stopwatch() as clock,
        open(part / "values.bin", "r+b" if done else "w+b") as out,
        open(part / "journal", "a") as journal,
        _bar(subject, texts, progress) as bar,
    ):
        _reserve(out, size, folder)
        for block in plan.blocks:
            if block in done:
                bar.update(block[1] - block[0])
                continue
            values = _block_values(subject, plan, block, identity, bar)
            done[block] = _write_block(out, values, plan.first_row[block[0]], n_rows)
            journal.write(f"{block[0]} {block[1]} {done[block]}\n")
            journal.flush()
            os.fsync(journal.fileno())
    plan.rows.to_parquet(part / "rows.parquet")
    plan.units.to_parquet(part / "units.parquet")
    manifest = provenance.manifest(
        **identity,
        corpus=texts.name,
        model=subject.name,
        device=str(subject.device),
        n_rows=n_rows,
        n_units=n_units,
        losses=plan.losses,
        checksums=[[*block, crc] for block, crc in done.items()],
        seconds=round(clock.seconds, 3),
    )
    manifest["seals"] = {field: _seal(value) for field, value in manifest.items()}
    (part / "manifest.json").write_text(json.dumps(manifest, indent=1))
    (part / "journal").unlink()
    os.rename(part, folder)


def _done_blocks(part: Path, plan: _Plan, size: int) -> dict[tuple[int, int], int]:
    """The blocks that a killed run had finished, with their checksums. A torn line does not count."""
    journal, values = part / "journal", part / "values.bin"
    if not journal.exists() or not values.exists() or values.stat().st_size != size:
        journal.unlink(missing_ok=True)
        return {}
    lines = journal.read_text().split("\n")
    journal.write_text("\n".join([*lines[:-1], ""]))
    found = [tuple(map(int, line.split())) for line in lines[:-1]]
    planned = set(plan.blocks)
    return {(a, b): crc for a, b, crc in found if (a, b) in planned}


def _reserve(out: Any, size: int, folder: Path) -> None:
    """Take the whole space now, so that a full disk is known before hours of work."""
    free = shutil.disk_usage(folder.parent).free + os.fstat(out.fileno()).st_blocks * 512
    if size > free:
        raise OSError(
            f"the store {folder} needs {size / 1e9:.2f} GB and the disk has {free / 1e9:.2f} GB:"
            " capture fewer sites or texts, or give another cache folder"
        )
    out.truncate(size)


def _write_block(out: Any, values: np.ndarray, first_row: int, n_rows: int) -> int:
    """Write ``[row, unit]`` into the unit-major file; on disk when this returns. The CRC-32."""
    columns = np.ascontiguousarray(values.T)
    item = columns.itemsize
    for unit, column in enumerate(columns):
        os.pwrite(out.fileno(), column.data, (unit * n_rows + int(first_row)) * item)
    os.fsync(out.fileno())
    return zlib.crc32(columns.data)


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
    size = manifest["n_rows"] * manifest["n_units"] * np.dtype(manifest["dtype"]).itemsize
    path = folder / "values.bin"
    found = path.stat().st_size if path.exists() else 0
    if found != size:
        _refuse(folder, "n_rows", f"asks for {size} bytes of values.bin, which has {found}")
