"""Forward passes: a block of texts becomes values [row, unit] on the subject's device.

Within a block texts are sorted by length and packed into batches under a budget of tokens; what a site gives
is pooled into rows as soon as it is there, so that only the pooled values are kept. The numbers depend on the
packing only through float rounding (of the order of 1e-6 in float32).

    block_values(subject, work, block, bar)   [row, unit] of a block of texts
    values_of(subject, works, block, bar)     the same for several works on the same tokens, in one pass
    run_batch(subject, work, texts)           [row, unit] of a few texts, in halves where memory is short
    batches(subject, plan)                    all texts as inputs, for forward passes of your own
    pool_tokens(values, members, pool)        [piece, token, unit] -> [row, unit]
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from nbkit.activations.plan import Members, Plan, Work
from nbkit.models import Subject
from nbkit.texts import Texts

log = logging.getLogger(__name__)

BATCH_TOKENS = 1024  # tokens in one forward pass, padding included; measured best on two cores
GPU_BATCH_TOKENS = 2**15  # the same on a GPU; not measured. Halved where the memory does not suffice


def block_values(subject: Subject, work: Work, block: tuple[int, int], bar: tqdm | None) -> torch.Tensor:
    """Values ``[row, unit]`` of one block of texts, on the subject's device."""
    (values,) = values_of(subject, [work], block, bar)
    return values


def values_of(
    subject: Subject, works: Sequence[Work], block: tuple[int, int], bar: tqdm | None
) -> list[torch.Tensor]:
    """``block_values`` of each work, in one pass: their plans differ in rows, and have the same tokens."""
    found, bases = [], [work.plan.first_row[block[0]] for work in works]
    for work, base in zip(works, bases, strict=True):
        shape = int(work.plan.first_row[block[1]] - base), len(work.units)
        dtype = getattr(torch, work.identity["dtype"])
        found.append(torch.empty(shape, dtype=dtype, device=subject.device))
    for batch in batches_of(works[0].plan, block, token_budget(subject)):
        rows = [rows_of(work.plan, batch) - base for work, base in zip(works, bases, strict=True)]
        asked = [i for i, some in enumerate(rows) if len(some)]  # a text need not have a word
        pooled = _run_batch(subject, [works[i] for i in asked], batch) if asked else []
        for i, part in zip(asked, pooled, strict=True):
            found[i][_on(rows[i], found[i])] = part.to(found[i].dtype)
        if bar is not None:
            bar.update(len(batch))
    for work, values, base in zip(works, found, bases, strict=True):
        _check_finite(values, work, base)
    return found


def progress_bar(subject: Subject, texts: Texts, progress: bool) -> tqdm:
    """A bar that counts texts and goes away when it is done."""
    name = f"{subject.name} on {texts.name}"
    return tqdm(total=len(texts), desc=name, unit=" texts", disable=not progress, leave=False)


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


# ---------------------------------------------------------------------------------- batches


class Batch(NamedTuple):
    """Some texts of a plan as the model takes them."""

    inputs: dict[str, torch.Tensor]  # [piece, token], on the subject's device
    rows: np.ndarray  # [row] positions in ``plan.rows``, text after text
    tokens: np.ndarray  # positions of their tokens in the flattened [piece * token]
    lengths: np.ndarray  # [row] how many of ``tokens`` each row has


def batches(subject: Subject, plan: Plan) -> Iterator[Batch]:
    """All texts of a plan in batches of like length, for forward passes of your own."""
    for texts in batches_of(plan, (0, len(plan.n_pieces)), token_budget(subject)):
        inputs, members = inputs_of(subject, plan, texts), [plan.members(t) for t in texts]
        tokens = _places(members, plan.n_pieces[texts], inputs["input_ids"].shape[1])
        yield Batch(inputs, rows_of(plan, texts), tokens, np.concatenate([m.lengths for m in members]))


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
    if batch:
        yield batch


def longest_first(plan: Plan, block: tuple[int, int]) -> list[int]:
    """The texts of a block that have tokens, by the length of their longest piece: memory peaks at once."""
    longest = plan.longest[slice(*block)]
    order = np.argsort(-longest, kind="stable")
    return (block[0] + order[longest[order] > 0]).tolist()


def token_budget(subject: Subject) -> int:
    """Tokens of one forward pass on the subject's device."""
    return BATCH_TOKENS if subject.device.type == "cpu" else GPU_BATCH_TOKENS


def padded_tokens(plan: Plan, batch: list[int]) -> int:
    """Tokens in the forward pass of a batch that has its longest text first."""
    return int(plan.n_pieces[batch].sum() * plan.longest[batch[0]])


def rows_of(plan: Plan, batch: list[int]) -> np.ndarray:
    """Positions in ``plan.rows`` of the rows of some texts, text after text."""
    return np.concatenate([np.arange(plan.first_row[t], plan.first_row[t + 1]) for t in batch])


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


def _padded(rows: list[np.ndarray], fill: Any) -> torch.Tensor:
    """[text, token] with ``fill`` behind the shorter rows."""
    table = np.full((len(rows), max(map(len, rows))), fill, dtype=np.int64)
    for i, row in enumerate(rows):
        table[i, : len(row)] = row
    return torch.from_numpy(table)


# ---------------------------------------------------------------------------------- passes


def run_batch(subject: Subject, work: Work, batch: list[int]) -> torch.Tensor:
    """Pooled activations ``[row, unit]`` of a few texts, in their order; in halves where memory is short."""
    (values,) = _run_batch(subject, [work], batch)
    return values


def _run_batch(subject: Subject, works: Sequence[Work], batch: list[int]) -> list[torch.Tensor]:
    try:
        return _forward(subject, works, batch)
    except torch.OutOfMemoryError as error:
        tokens = padded_tokens(works[0].plan, batch)
        if len(batch) == 1:
            raise RuntimeError(
                f"a single text of {tokens} tokens does not fit in the memory of {subject.device}: capture"
                " fewer sites, load the subject in half precision, or use the CPU"
            ) from error
    if subject.device.type == "cuda":
        torch.cuda.empty_cache()
    log.warning("%s: out of memory with %s tokens in a batch, going on in halves", subject.device, tokens)
    half = len(batch) // 2
    parts = [_run_batch(subject, works, part) for part in (batch[:half], batch[half:])]
    return [torch.cat(both) for both in zip(*parts, strict=True)]


@torch.inference_mode()
def _forward(subject: Subject, works: Sequence[Work], batch: list[int]) -> list[torch.Tensor]:
    plan = works[0].plan
    members = [[work.plan.members(t) for t in batch] for work in works]
    pools, pieces = [work.identity["pool"] for work in works], plan.n_pieces[batch]

    def pooled(values: torch.Tensor) -> list[torch.Tensor]:
        return [pool_tokens(values, own, how, pieces) for own, how in zip(members, pools, strict=True)]

    sites = list(dict.fromkeys(site for work in works for site in work.identity["sites"]))
    found = subject.run(inputs_of(subject, plan, batch), sites, keep=pooled)
    # of a model on several devices each block pools where it is: only rows move
    return [
        torch.cat([found[site][i].to(subject.device) for site in work.identity["sites"]], dim=1)
        for i, work in enumerate(works)
    ]


# ---------------------------------------------------------------------------------- pooling


def pool_tokens(
    values: torch.Tensor, members: Sequence[Members], pool: str, pieces: np.ndarray | None = None
) -> torch.Tensor:
    """Pool ``[piece, token, unit]`` into ``[row, unit]``, rows in the order of ``members``.

    ``members`` are those of the texts that ``values`` hold one after another, ``pieces`` how many pieces
    each has (None: one). ``pool`` is "max", "mean", "first", "last", "cls" or "token".
    Means of half precision are taken and given in float32.
    """
    longest, flat = values.shape[1], values.reshape(-1, values.shape[-1])
    pieces = np.ones(len(members), dtype=int) if pieces is None else np.asarray(pieces)
    if pool in ("max", "mean") and len(values) == len(members):
        spans = _plain_spans(members)
        if spans is not None:
            return _pool_spans(values, spans, pool)
    index, lengths = _places(members, pieces, longest), np.concatenate([m.lengths for m in members])
    ends = np.cumsum(lengths)
    if pool in ("first", "cls", "token"):
        return flat[_on(index[ends - lengths], flat)]
    if pool == "last":
        return flat[_on(index[ends - 1], flat)]
    gathered = flat[_on(index, flat)]
    gathered = gathered.float() if pool == "mean" else gathered
    return torch.segment_reduce(gathered, pool, lengths=_on(lengths, flat), axis=0)


def _places(members: Sequence[Members], pieces: np.ndarray, width: int) -> np.ndarray:
    """Positions of all their tokens in the flattened [piece * token] of a batch ``width`` tokens wide."""
    starts = np.cumsum(pieces) - pieces
    places = [(s + m.where[:, 0]) * width + m.where[:, 1] for s, m in zip(starts, members, strict=True)]
    return np.concatenate(places).astype(np.int64)


def _plain_spans(members: Sequence[Members]) -> list[tuple[int, int]] | None:
    """Half-open spans where every text is one row of neighbouring tokens; else None."""
    spans = []
    for where, lengths in members:
        if len(lengths) != 1 or where[-1, 1] - where[0, 1] + 1 != len(where):
            return None
        spans.append((int(where[0, 1]), int(where[-1, 1]) + 1))
    return spans


def _pool_spans(values: torch.Tensor, spans: list[tuple[int, int]], pool: str) -> torch.Tensor:
    """Text rows: runs of texts of one length need no gather, which would copy every token."""
    single = torch.promote_types(values.dtype, torch.float32) if pool == "mean" else values.dtype
    pooled = values.new_empty(len(spans), values.shape[2], dtype=single)
    for first, last in _runs(spans):
        a, b = spans[first]
        span = values[first:last, a:b]
        pooled[first:last] = span.amax(1) if pool == "max" else span.mean(1, dtype=single)
    return pooled


def _runs(spans: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Stretches of equal neighbours, as half-open ranges."""
    start = 0
    for i in range(1, len(spans) + 1):
        if i == len(spans) or spans[i] != spans[start]:
            yield start, i
            start = i


def _on(numbers: np.ndarray, values: torch.Tensor) -> torch.Tensor:
    """Whole numbers on the device of ``values``; to a GPU without waiting for what it is doing."""
    found = torch.from_numpy(np.ascontiguousarray(numbers, dtype=np.int64))
    if values.is_cuda:
        return found.pin_memory().to(values.device, non_blocking=True)
    return found.to(values.device)
