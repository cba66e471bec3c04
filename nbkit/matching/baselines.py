"""What tags are worth: the same procedure on things that mean nothing, and counts over a set of tags."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from nbkit.activations import Activations
from nbkit.matching.scorers import align
from nbkit.matching.tags import UNITS_AT_ONCE, tag
from nbkit.stats import direction_units, unit_vectors


def baselines(
    activations: Activations,
    labels: pd.DataFrame,
    *,
    directions: int = 1000,
    random_weights: Activations | None = None,
    seed: int = 0,
    **options: Any,
) -> pd.DataFrame:
    """Tags of the units beside tags of things that mean nothing, or less.

    directions      how many random unit vectors in the space of the units
    random_weights  the same units of ``subject.randomized(seed)``: a baseline and not a null, since untrained
                    units still encode which tokens are present
    options         more arguments of ``tag``

    One line for each kind: units, random directions, permuted rows (labels shuffled over texts), and random
    weights if given. Columns: kind, n, tags (units with a tagged first rank), share, score and
    validation_score (medians over those, NaN without any), top_score (95th percentile of all first scores),
    jaccard (of the first tags on calibration and validation texts, mean over the tagged units).
    """
    generator = np.random.default_rng(seed)
    labels = align(activations, labels)
    shuffled = labels.iloc[generator.permutation(len(labels))].set_axis(labels.index)
    kinds = {
        "units": (activations, labels),
        "random directions": (_projected(activations, directions, generator), labels),
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
    """Shares with a tagged line: of the units of ``tags``, and of the columns of ``labels``."""
    tagged = tags[tags["tagged"]]
    return {
        "units": tagged["unit"].nunique() / max(1, tags["unit"].nunique()),
        "descriptors": tagged["descriptor"].nunique() / max(1, labels.shape[1]),
    }


def jaccard(tags: pd.DataFrame) -> pd.Series:
    """Overlap of each tagged unit's first k tags on calibration and validation texts: |both| / |either|.

    k is the number of ranks in ``tags``. Mondal et al. 2024 report about .95.
    """
    k = tags["rank"].max()
    judged = tags[tags.groupby("unit")["tagged"].transform("any")]
    both = (judged["validation_rank"] <= k).groupby(judged["unit"]).sum()
    return (both / (2 * k - both)).rename("jaccard")


def _projected(activations: Activations, n: int, generator: np.random.Generator) -> Activations:
    """Projections on ``n`` random unit vectors, as if they were units."""
    vectors = unit_vectors(activations.values.shape[1], n, generator)
    total = np.zeros((len(activations), n), np.float32)
    for start in range(0, len(vectors), UNITS_AT_ONCE):
        some = slice(start, start + UNITS_AT_ONCE)
        total += np.asarray(activations.values[:, some], np.float32) @ vectors[some]
    return replace(activations, values=total, units=direction_units(n))


def _strength(tags: pd.DataFrame) -> dict[str, float]:
    """A line of ``baselines``, without its kind."""
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
