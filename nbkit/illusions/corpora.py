"""What the corpora of a comparison must have in common: units, rows with labels, descriptors, covariates."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from nbkit import matching
from nbkit.activations import Activations


def aligned(
    activations_by_corpus: Mapping[str, Activations], labels_by_corpus: Mapping[str, pd.DataFrame]
) -> dict[str, pd.DataFrame]:
    """Labels of each corpus in the order of the activations' rows.

    Raises ``ValueError`` for fewer than two corpora, a corpus without labels, different units, or rows
    without labels.
    """
    if len(activations_by_corpus) < 2:
        raise ValueError(f"{len(activations_by_corpus)} corpus: a comparison needs two or more")
    missing = set(activations_by_corpus) - set(labels_by_corpus)
    if missing:
        raise ValueError(f"no labels for the corpus {sorted(missing)[0]!r}")
    first_name, first = next(iter(activations_by_corpus.items()))
    for name, stored in activations_by_corpus.items():
        if stored.units["unit"].tolist() != first.units["unit"].tolist():
            raise ValueError(f"{name!r} and {first_name!r} hold different units: capture the same sites")
    return {
        name: matching.align(stored, labels_by_corpus[name]) for name, stored in activations_by_corpus.items()
    }


def shared_descriptors(labels: Mapping[str, pd.DataFrame], min_positives: float) -> list[str]:
    """Descriptors whose labels sum to ``min_positives`` or more in every corpus, and so do their complements.

    Nothing can be said of a descriptor on a corpus that lacks it. None in common: ``ValueError``.
    """
    enough = []
    for frame in labels.values():
        total = frame.sum()
        enough.append(set(total.index[(total >= min_positives) & (total <= len(frame) - min_positives)]))
    shared = set.intersection(*enough)
    if not shared:
        raise ValueError(
            f"the corpora {', '.join(labels)} share no descriptor with {min_positives:g} positive and"
            " negative texts in each: label them with one vocabulary, or lower min_positives"
        )
    first = next(iter(labels.values()))
    return [name for name in first.columns if name in shared]


def covariates_of(
    stored: Mapping[str, Activations], covariates: Mapping[str, pd.DataFrame] | None
) -> dict[str, pd.DataFrame] | None:
    """Covariates of each corpus in the order of its rows; a text without any is a ``ValueError``."""
    if covariates is None:
        return None
    found = {}
    for name, a in stored.items():
        known = covariates[name].index if name in covariates else []
        missing = ~a.rows["text_id"].isin(known)
        if missing.any():
            first = a.rows["text_id"][missing].iloc[0]
            raise ValueError(f"covariates lack {missing.sum()} texts of {name!r}, the first is text {first}")
        found[name] = covariates[name].loc[a.rows["text_id"]]
    return found


def residuals_of(
    stored: Mapping[str, Activations], covariates: Mapping[str, pd.DataFrame] | None
) -> dict[str, np.ndarray]:
    """Activations [text, unit] of each corpus, without what the covariates explain."""
    if covariates is None:
        return {name: a.values for name, a in stored.items()}
    return {name: matching.residuals(a.values, covariates[name]) for name, a in stored.items()}
