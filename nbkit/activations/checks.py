"""Checks."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from nbkit.activations.forward import identity_of, inputs_of, longest_first, run_batch, work_of
from nbkit.activations.plan import Plan
from nbkit.models import Subject
from nbkit.texts import Texts

VERIFIED_TEXTS = 8  # texts checked before a store is filled


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
    work = work_of(
        subject, texts, identity_of(subject, texts, sites, "text", "max", "float32", "truncate", "local")
    )
    order = [t for t in longest_first(work.plan, (0, len(texts))) if len(work.plan.members(t).lengths)]
    together = run_batch(subject, work, order).float().cpu()
    alone = torch.cat([run_batch(subject, work, [t]).float().cpu() for t in order])
    back = run_batch(subject, work, order[::-1]).float().cpu().flip(0)
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
        exact = run_batch(exact, work, order).cpu()
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
    inputs = inputs_of(subject, plan, order)
    own = inputs["attention_mask"].bool()
    seen = subject.run(inputs, sites)
    states = subject.model(**inputs, output_hidden_states=True).hidden_states
    found = torch.cat([seen[site][own] for site in sites], dim=1)
    return found.float().cpu(), torch.cat([h[own] for h in states[: len(sites)]], dim=1).float().cpu()
