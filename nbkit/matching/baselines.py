"""Baselines."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from nbkit.activations import Activations
from nbkit.matching.scorers import align
from nbkit.matching.tags import UNITS_AT_ONCE, tag


def baselines(
    activations: Activations,
    labels: pd.DataFrame,
    *,
    directions: int = 1000,
    random_weights: Activations | None = None,
    seed: int = 0,
    **options,
) -> pd.DataFrame:
    """What tags are worth: units beside things that mean nothing, or less.

    ``options`` go to ``tag``. One line for each of: units; random directions (unit vectors in the space
    of the units); permuted rows (labels shuffled over texts: only luck is left); and, if given, the same
    units of ``subject.randomized(seed)``, a floor and not a null since words still show. Columns: kind, n,
    tags (units with a tagged first rank), share, score and validation_score (medians over those, NaN
    without any), top_score (95th percentile of all first scores), jaccard.
    """
    generator = np.random.default_rng(seed)
    labels = align(activations, labels)
    shuffled = labels.iloc[generator.permutation(len(labels))].set_axis(labels.index)
    kinds = {
        "units": (activations, labels),
        "random directions": (_directions(activations, directions, generator), labels),
        "permuted rows": (activations, shuffled),
    }
    if random_weights is not None:
        kinds["random weights"] = (random_weights, labels)
    lines = [
        {"kind": kind, **_strength(tag(stored, matrix, seed=seed, **options))}
        for kind, (stored, matrix) in kinds.items()
    ]
    return pd.DataFrame(lines)


def collisions(tags: pd.DataFrame) -> pd.Series:
    """Units that share a descriptor, among the tagged lines: descriptor -> number of units."""
    return tags[tags["tagged"]].groupby("descriptor")["unit"].nunique().sort_values(ascending=False)


def coverage(tags: pd.DataFrame, labels: pd.DataFrame) -> dict[str, float]:
    """Share of units with a tagged line, and of the columns of ``labels`` that tag some unit."""
    tagged = tags[tags["tagged"]]
    return {
        "units": tagged["unit"].nunique() / max(1, tags["unit"].nunique()),
        "descriptors": tagged["descriptor"].nunique() / max(1, labels.shape[1]),
    }


def jaccard(tags: pd.DataFrame) -> pd.Series:
    """Overlap of a unit's first k tags on calibration and validation texts, over its tagged units.

    As Mondal et al. 2024 report it (about .95, read second hand): |both| / |either|, k the ranks given.
    """
    k = tags["rank"].max()
    judged = tags[tags.groupby("unit")["tagged"].transform("any")]
    both = (judged["validation_rank"] <= k).groupby(judged["unit"]).sum()
    return (both / (2 * k - both)).rename("jaccard")


def _directions(activations: Activations, n: int, generator: np.random.Generator) -> Activations:
    """Projections on random unit vectors, as if they were units."""
    drawn = generator.standard_normal((activations.values.shape[1], n)).astype(np.float32)
    drawn /= np.linalg.norm(drawn, axis=0)
    names = pd.DataFrame({"unit": [f"direction.{i}" for i in range(n)]})
    total = np.zeros((len(activations), n), np.float32)
    for start in range(0, len(drawn), UNITS_AT_ONCE):
        some = slice(start, start + UNITS_AT_ONCE)
        total += np.asarray(activations.values[:, some], np.float32) @ drawn[some]
    return replace(activations, values=total, units=names)


def _strength(tags: pd.DataFrame) -> dict[str, float]:
    """A line of ``floors``."""
    first = tags[tags["rank"] == 1]
    tagged = first[first["tagged"]]
    return {
        "n": len(first),
        "tags": len(tagged),
        "share": len(tagged) / max(1, len(first)),
        "score": tagged["score"].median(),
        "validation_score": tagged["validation_score"].median(),
        "top_score": first["score"].quantile(0.95),
        "jaccard": jaccard(tags).mean(),
    }
