"""Forward."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from nbkit.activations.dask import is_engine
from nbkit.activations.plan import Plan, plan_of, pool_tokens
from nbkit.models import Subject
from nbkit.texts import Texts

log = logging.getLogger(__name__)

SCHEMA = 3
DTYPES = {
    "float16": np.dtype(np.float16),
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}

ROWS = ("text", "word", "token")
POOLS = ("max", "mean", "cls", "first", "last")
LONG = ("truncate", "windows")

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


def identity_of(
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
    if engine != "local" and not is_engine(engine):
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
class Work:
    """A plan, the columns, and the blocks of consecutive texts that the work is cut into."""

    plan: Plan
    units: pd.DataFrame
    blocks: list[tuple[int, int]]
    identity: dict[str, Any]


def work_of(subject: Subject, texts: Texts, identity: dict[str, Any], progress: bool = False) -> Work:
    arguments = {name: identity[name] for name in ("rows", "pool", "long")}
    plan = plan_of(subject, texts, **arguments, progress=progress)
    units = _units(subject, identity["sites"])
    width = len(units) * DTYPES[identity["dtype"]].itemsize
    return Work(plan, units, _blocks(np.diff(plan.first_row), max(1, BLOCK_BYTES // width)), identity)


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
    for texts in batches_of(plan, (0, len(plan.n_pieces)), token_budget(subject)):
        inputs, members = inputs_of(subject, plan, texts), [plan.members(t) for t in texts]
        starts = np.cumsum(plan.n_pieces[texts]) - plan.n_pieces[texts]
        width = inputs["input_ids"].shape[1]
        tokens = [(s + m.where[:, 0]) * width + m.where[:, 1] for s, m in zip(starts, members, strict=True)]
        yield Batch(
            inputs,
            np.concatenate([np.arange(plan.first_row[t], plan.first_row[t + 1]) for t in texts]),
            np.concatenate(tokens).astype(np.int64),
            np.concatenate([m.lengths for m in members]).astype(np.int64),
        )


def block_values(subject: Subject, work: Work, block: tuple[int, int], bar: tqdm | None) -> torch.Tensor:
    """Values ``[row, unit]`` of one block of texts, on the subject's device."""
    plan, dtype = work.plan, getattr(torch, work.identity["dtype"])
    base = plan.first_row[block[0]]
    n_rows = int(plan.first_row[block[1]] - base)
    values = torch.empty(n_rows, len(work.units), dtype=dtype, device=subject.device)
    for batch in batches_of(plan, block, token_budget(subject)):
        rows = np.concatenate([np.arange(plan.first_row[t], plan.first_row[t + 1]) for t in batch]) - base
        if len(rows):
            place = torch.from_numpy(rows)
            if values.is_cuda:
                place = place.pin_memory().to(values.device, non_blocking=True)
            values[place] = run_batch(subject, work, batch).to(dtype)
        if bar is not None:
            bar.update(len(batch))
    _check_finite(values, work, base)
    return values


def token_budget(subject: Subject) -> int:
    return BATCH_TOKENS if subject.device.type == "cpu" else GPU_BATCH_TOKENS


def longest_first(plan: Plan, block: tuple[int, int]) -> list[int]:
    """The texts of a block by the length of their longest piece: memory peaks at once."""
    return (block[0] + np.argsort(-plan.longest[slice(*block)], kind="stable")).tolist()


def batches_of(plan: Plan, block: tuple[int, int], budget: int) -> Iterator[list[int]]:
    """Texts of a block in batches of like length, at most ``budget`` tokens with padding (or one text)."""
    batch: list[int] = []
    pieces = 0
    for t in longest_first(plan, block):
        if batch and (pieces + plan.n_pieces[t]) * plan.longest[batch[0]] > budget:
            yield batch
            batch, pieces = [], 0
        batch.append(t)
        pieces += plan.n_pieces[t]
    yield batch


def padded_tokens(plan: Plan, batch: list[int]) -> int:
    """Tokens in the forward pass of a batch that has its longest text first."""
    return int(plan.n_pieces[batch].sum() * plan.longest[batch[0]])


def run_batch(subject: Subject, work: Work, batch: list[int]) -> torch.Tensor:
    """Pooled activations ``[row, unit]`` of a few texts, in their order; in halves where memory is short."""
    try:
        return _forward(subject, work, batch)
    except torch.OutOfMemoryError as error:
        tokens = padded_tokens(work.plan, batch)
        if len(batch) == 1:
            raise RuntimeError(
                f"a single text of {tokens} tokens does not fit in the memory of {subject.device}: capture"
                " fewer sites, load the subject in half precision, or use the CPU"
            ) from error
    if subject.device.type == "cuda":
        torch.cuda.empty_cache()
    log.warning("%s: out of memory with %s tokens in a batch, going on in halves", subject.device, tokens)
    half = len(batch) // 2
    return torch.cat([run_batch(subject, work, part) for part in (batch[:half], batch[half:])])


@torch.inference_mode()
def _forward(subject: Subject, work: Work, batch: list[int]) -> torch.Tensor:
    plan, identity = work.plan, work.identity
    members, pieces = [plan.members(t) for t in batch], plan.n_pieces[batch]
    pool = functools.partial(pool_tokens, members=members, pool=identity["pool"], pieces=pieces)
    found = subject.run(inputs_of(subject, plan, batch), identity["sites"], keep=pool)
    return torch.cat([found[site] for site in identity["sites"]], dim=1)


def inputs_of(subject: Subject, plan: Plan, batch: list[int]) -> dict[str, torch.Tensor]:
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


def _check_finite(values: torch.Tensor, work: Work, base: int) -> None:
    # one sum instead of a table of flags: a NaN or an infinity survives in it (two cancel into a NaN)
    if bool(torch.isfinite(values.sum(dtype=torch.float64))):
        return
    row, column = (int(x) for x in (~torch.isfinite(values)).nonzero()[0])
    unit, text_id = work.units["unit"].iloc[column], work.plan.rows["text_id"].iloc[base + row]
    raise ValueError(
        f"the activation of {unit} on text {text_id} is {values[row, column]:g} in {work.identity['dtype']}"
        " (and maybe others): if the model itself computes finite numbers, store dtype='float32'"
    )
