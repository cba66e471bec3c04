"""Before a long run: are its numbers right (``verify``), what does it take (``estimate``)?"""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from nbkit import provenance
from nbkit.activations.forward import (
    batches_of,
    inputs_of,
    longest_first,
    padded_tokens,
    run_batch,
    token_budget,
)
from nbkit.activations.plan import DTYPES, Work, identity_of, work_of
from nbkit.models import Subject
from nbkit.texts import Texts

VERIFIED_TEXTS = 8  # texts checked before a store is filled
TRIED = 4  # batches that ``estimate`` measures
MANY_BATCHES = 50 * TRIED  # work of so many is measured before it starts: that costs little of it
LONG_SECONDS = 30  # work of so many is announced

#: Norm of a pooled token in multiples of its layer's median. SmolLM2's first tokens reach 190, others 11.
LARGEST_NORM = 20.0

#: What an error may be, and which of the columns is held against it, by the subject's own precision.
TOLERANCES = {"float32": (1e-3, "error"), "float16": (0.05, "q99"), "bfloat16": (0.1, "q99")}


# ---------------------------------------------------------------------------------- verify


def verify(
    subject: Subject,
    texts: Texts,
    *,
    sites: str | Sequence[str] = "all",
    dtype: str = "float16",
    n: int = 32,
) -> pd.DataFrame:
    """Are the numbers right for this subject? A table of checks on ``n`` texts.

    hooks      hidden states seen by the hooks against transformers' own ``output_hidden_states``; the last
               one goes through the final norm where a model has one
    padding    a text alone against the same text padded in a batch
    order      a batch against the same batch reversed
    storage    values rounded to ``dtype`` for the store against those computed
    arithmetic a subject in half precision against the same weights computed in float32; no line for one that
               is spread over devices, of which no copy is made
    sinks      of a causal model with hidden sites, both lines: the norm of each token that is pooled, as a
               multiple of its layer's median, of which over 20 is a sink that pooling should not see; and
               what leaving the first token out changes in the pooled values (no tolerance: it is meant to)

    Columns: check, error (largest difference), median and q99 of the same, tolerance, ok. Differences are in
    standard deviations of the unit over the texts' tokens, so that texts that differ in one word are judged
    like any others; a unit that hardly varies counts as one with a tenth of the median deviation.
    Tolerances: in float32 1e-3 on the largest error; in half precision, where every sum rounds differently
    in another batch, .1 on q99 (bfloat16: 8 bits) or .05 (float16); 1e-2 (bfloat16 2e-2) on q99 for the
    rounding.
    """
    texts = texts.sample(min(n, len(texts)), seed=0)
    work = work_of(subject, texts, identity_of(subject, texts, sites=sites))
    order = [t for t in longest_first(work.plan, (0, len(texts))) if len(work.plan.members(t).lengths)]
    scale = _deviations(subject, work, order)
    together = run_batch(subject, work, order).float().cpu()
    alone = torch.cat([run_batch(subject, work, [t]).float().cpu() for t in order])
    back = run_batch(subject, work, order[::-1]).float().cpu().flip(0)
    stored = together.to(getattr(torch, dtype)).float()
    tolerance, column = TOLERANCES[subject.dtype]
    lines = [
        _hooks(subject, work, order),
        _check("padding", together, alone, scale, tolerance, column),
        _check("order", together, back, scale, tolerance, column),
        _check(f"storage {dtype}", stored, together, scale, 2e-2 if dtype == "bfloat16" else 1e-2, "q99"),
    ]
    if subject.dtype != "float32" and not subject.dispatched:
        exact = replace(subject, model=copy.deepcopy(subject.model).float())
        exact = run_batch(exact, work, order).cpu()
        lines.append(_check(f"arithmetic {subject.dtype}", together, exact, scale, tolerance, column))
    if work.identity["sinks"] == "leave out":
        lines.append(_norms(subject, work, order))
        kept = run_batch(subject, _with_sinks(subject, texts, work), order).float().cpu()
        lines.append(_check("sinks: their effect", kept, together, scale, float("inf")))
    return pd.DataFrame(lines)


def _check(
    name: str,
    found: torch.Tensor,
    expected: torch.Tensor,
    scale: torch.Tensor,
    tolerance: float,
    column: str = "error",
) -> dict[str, Any]:
    """One line of ``verify`` on [row, unit], divided by ``scale`` [unit]; the tolerance is for ``column``."""
    error = ((found - expected).abs() / scale).flatten().numpy()
    line = {"error": error.max(), "median": np.median(error), "q99": np.quantile(error, 0.99)}
    line = {key: float(value) for key, value in line.items()}
    return {"check": name, **line, "tolerance": tolerance, "ok": bool(line[column] <= tolerance)}


def _scale(values: torch.Tensor) -> torch.Tensor:
    """Standard deviation [unit] of values [token, unit], no unit far below the median one.

    Where nothing varies (texts of one token, again and again) the size of the values stands for it.
    """
    values = values.float().cpu()
    deviation = values.std(0) if len(values) > 1 else torch.zeros(values.shape[1])
    if deviation.median() == 0:
        deviation = values.abs().mean(0)
    # Of dictionary latents most are 0 on a few texts: there the mean stands for the median.
    typical = float(deviation.median()) or float(deviation.mean())
    return deviation.clamp(min=max(0.1 * typical, 1e-12))


@torch.inference_mode()
def _deviations(subject: Subject, work: Work, order: list[int]) -> torch.Tensor:
    """``_scale`` of every unit over the tokens of some texts, padding left out."""
    inputs, sites = inputs_of(subject, work.plan, order), work.identity["sites"]
    own = inputs["attention_mask"].bool()
    found = subject.run(inputs, sites, keep=lambda tensor: _scale(tensor[own.to(tensor.device)]))
    return torch.cat([found[site] for site in sites])


@torch.inference_mode()
def _hooks(subject: Subject, work: Work, order: list[int]) -> dict[str, Any]:
    """The check of hidden states of all layers [token, unit], by the hooks and by transformers."""
    sites = ["embeddings", *subject.select("hidden")]
    inputs = inputs_of(subject, work.plan, order)
    own = inputs["attention_mask"].bool()
    seen = subject.run(inputs, sites)
    states = subject.model(**inputs, output_hidden_states=True).hidden_states
    for name in subject.final_norm:
        seen[sites[-1]] = subject.model.base_model.get_submodule(name)(seen[sites[-1]])
    found, expected = (
        torch.cat([x[own.to(x.device)].float().cpu() for x in every], dim=1)
        for every in ([seen[site] for site in sites], states)
    )
    return _check("hooks", found, expected, _scale(expected), 1e-3)


def _with_sinks(subject: Subject, texts: Texts, work: Work) -> Work:
    """The same work with the first tokens in pooling again."""
    return work_of(subject, texts, {**work.identity, "sinks": "keep"})


@torch.inference_mode()
def _norms(subject: Subject, work: Work, order: list[int]) -> dict[str, Any]:
    """The line of the norms of pooled tokens, as multiples of the median of their layer."""
    inputs, hidden = inputs_of(subject, work.plan, order), subject.select("hidden")
    pooled = torch.zeros_like(inputs["attention_mask"], dtype=torch.bool)
    firsts = np.cumsum(work.plan.n_pieces[order]) - work.plan.n_pieces[order]
    for text, first in zip(order, firsts, strict=True):
        where, lengths = work.plan.members(text)
        where = where[np.repeat(lengths, lengths) > 1]  # a row of one token keeps it, whatever it is
        pooled[first + where[:, 0], where[:, 1]] = True
    if not pooled.any():
        pooled = inputs["attention_mask"].bool()
    norms = subject.run(
        inputs, hidden, keep=lambda tensor: tensor[pooled.to(tensor.device)].float().norm(dim=-1).cpu()
    )
    ratios = torch.cat([norm / norm.median() for norm in norms.values()]).numpy()
    line = {"error": ratios.max(), "median": np.median(ratios), "q99": np.quantile(ratios, 0.99)}
    line = {key: float(value) for key, value in line.items()}
    return {"check": "sinks: norms", **line, "tolerance": LARGEST_NORM, "ok": line["error"] <= LARGEST_NORM}


# ---------------------------------------------------------------------------------- estimate


class Cost(NamedTuple):
    """What a capture takes; see ``estimate``."""

    rows: int
    units: int
    disk_bytes: int  # of the store's values
    memory_bytes: int  # of one block and one batch, beyond the model itself
    seconds: float  # of forward passes in one process, from a short measurement

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
    sinks: str = "auto",
) -> Cost:
    """What ``capture`` with these arguments takes, before it is run. Nothing is written.

    Returns a ``Cost``: rows, units, disk_bytes, memory_bytes, seconds.

    Disk and memory are counted; the time is measured on four batches, from the longest texts to the
    shortest, and extrapolated by tokens.
    """
    options = {"sites": sites, "rows": rows, "pool": pool, "dtype": dtype, "long": long, "sinks": sinks}
    work = work_of(subject, texts, identity_of(subject, texts, **options))
    return _cost(subject, work, _all_batches(subject, work, work.blocks))


def announce(subject: Subject, work: Work, blocks: list[tuple[int, int]]) -> None:
    """Print what computing ``blocks`` takes, if that is long; short work is not even measured."""
    every = _all_batches(subject, work, blocks)
    if len(every) >= MANY_BATCHES:
        cost = _cost(subject, work, every)
        if cost.seconds >= LONG_SECONDS:
            tqdm.write(f"{subject.name}: {cost}", file=sys.stderr)


def _all_batches(subject: Subject, work: Work, blocks: list[tuple[int, int]]) -> list[list[int]]:
    return [batch for block in blocks for batch in batches_of(work.plan, block, token_budget(subject))]


def _cost(subject: Subject, work: Work, batches: list[list[int]]) -> Cost:
    tokens = np.array([padded_tokens(work.plan, batch) for batch in batches])
    tried = np.unique(np.linspace(0, len(batches) - 1, min(TRIED, len(batches))).round().astype(int))
    run_batch(subject, work, batches[tried[-1]])  # the first pass of a process is slow
    with provenance.stopwatch() as clock:
        for i in tried:
            run_batch(subject, work, batches[i])
    item, first_row = DTYPES[work.identity["dtype"]].itemsize, work.plan.first_row
    largest = max(first_row[z] - first_row[a] for a, z in work.blocks)
    n_units, width = len(work.units), subject.sites["width"].max()
    return Cost(
        rows=len(work.plan.rows),
        units=n_units,
        disk_bytes=len(work.plan.rows) * n_units * item,
        memory_bytes=int(largest * n_units * item * 3 + tokens.max() * (n_units + width) * 4),
        seconds=float(clock.seconds * tokens.sum() / tokens[tried].sum()),
    )
