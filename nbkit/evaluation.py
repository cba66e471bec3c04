"""Evaluation: how good are the tags, and how sure are we?

    precision_at_k(tags, gold, k)     share of the first k tags that are right
    recall_at_k(tags, gold, k)        share of the right descriptors among the first k tags
    validated(scores, minimum)        a gold standard from held-out texts
    bootstrap(values)                 the mean with its interval

``tags`` is a frame with unit, rank, descriptor (``matching.tag``); ``gold`` a frame with unit and
descriptor, one line for every descriptor that is right for a unit. Both measures are averages over the
units that have gold, as in Mondal et al. 2024, who report precision@2 of 75 % and recall@2 of 50 %
judged by people. *Validated gold* is ours and is not human judgement: a descriptor is right for a unit
when its score reaches a minimum on texts that played no part in choosing the tags.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd


class Estimate(NamedTuple):
    """A mean with its bootstrap interval."""

    value: float
    low: float
    high: float
    n: int  # how many things were averaged

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def precision_at_k(tags: pd.DataFrame, gold: pd.DataFrame, k: int, *, seed: int = 0) -> Estimate:
    """Mean over units of (right tags among the first k) / (tags among the first k).

    Units without gold are left out; a unit with gold but no tag counts 0.
    """
    hits = _hits(tags, gold, k)
    given = hits["given"].to_numpy()
    return bootstrap(np.divide(hits["right"], given, out=np.zeros(len(hits)), where=given > 0), seed=seed)


def recall_at_k(tags: pd.DataFrame, gold: pd.DataFrame, k: int, *, seed: int = 0) -> Estimate:
    """Mean over units of (right tags among the first k) / (right descriptors)."""
    hits = _hits(tags, gold, k)
    return bootstrap((hits["right"] / hits["gold"]).to_numpy(), seed=seed)


def validated(scores: pd.DataFrame, minimum: float = 0.3) -> pd.DataFrame:
    """Gold from held-out ``scores`` [descriptor, unit]: pairs whose score reaches ``minimum``."""
    descriptor, unit = np.nonzero(scores.to_numpy() >= minimum)
    gold = pd.DataFrame({"unit": scores.columns[unit], "descriptor": scores.index[descriptor]})
    return gold.sort_values("unit", kind="stable", ignore_index=True)


def bootstrap(values: np.ndarray, *, n: int = 1000, level: float = 0.95, seed: int = 0) -> Estimate:
    """Mean of ``values`` with the percentile interval over ``n`` resamples.

    The values are resampled one by one: give one value for each independent thing (unit, text). No
    values give NaN.
    """
    values = np.asarray(values, dtype=float)
    if not len(values):
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    generator = np.random.default_rng(seed)
    means = [values[generator.integers(0, len(values), len(values))].mean() for _ in range(n)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(values.mean()), float(low), float(high), len(values))


def _hits(tags: pd.DataFrame, gold: pd.DataFrame, k: int) -> pd.DataFrame:
    """For each unit with gold: right and given tags among the first k, and right descriptors."""
    if k < 1:
        raise ValueError(f"k={k}: at least one tag is needed")
    first = tags.loc[tags["rank"] <= k, ["unit", "descriptor"]]
    right = first.merge(gold[["unit", "descriptor"]], on=["unit", "descriptor"])
    counts = pd.DataFrame({"gold": gold.groupby("unit").size()})
    counts["right"] = right.groupby("unit").size()
    counts["given"] = first.groupby("unit").size()
    return counts.fillna(0)
