"""Probabilities of descriptors from closeness, and how far probabilities can be trusted."""

from __future__ import annotations

import logging
import warnings
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

log = logging.getLogger(__name__)

FOLDS = 5  # of cross-fitting; a descriptor needs positives, and negatives, in as many documents


def calibrated(
    closeness: pd.DataFrame, known: pd.DataFrame, groups: pd.Series | None = None, *, seed: int = 0
) -> pd.DataFrame:
    """P(descriptor | text) for every text, by a logistic regression for each descriptor.

    closeness   [text, descriptor], any real numbers, larger where text and descriptor are closer
    known       [text, descriptor] of 0 and 1 for a part of the texts
    groups      the document of each text, by text_id; None: each text is its own

    For each descriptor d, P = 1 / (1 + exp(-(a_d + b_d z))) with z its standardised closeness, b_d with a
    ridge penalty (b_d²/2) and a_d without one, so that the probabilities of each descriptor have its
    prevalence as their mean. The known texts are cross-fitted: their probability is from the texts of other
    documents (five folds). The others get that of all known texts.

    A descriptor with positives (or negatives) in fewer than five documents is refused: it has no column, and
    ``.attrs["refused"]`` is {name: number of documents with a positive}. ``ValueError``: all are refused.
    """
    rows = closeness.index.get_indexer(known.index)
    documents = np.arange(len(rows)) if groups is None else pd.factorize(groups.loc[known.index])[0]
    documents = np.where(documents < 0, documents.max(initial=0) + 1 + np.arange(len(documents)), documents)
    found, refused = {}, {}
    for name in known:
        y = known[name].to_numpy() >= 0.5
        positive, negative = (len(np.unique(documents[y == side])) for side in (True, False))
        if min(positive, negative) < FOLDS:
            refused[name] = positive
            continue
        x = closeness[name].to_numpy(float)
        x = (x - x[rows].mean()) / (x[rows].std() or 1.0)
        found[name] = _cross_fitted(x, rows, y, documents, seed)
    if not found:
        raise ValueError(
            f"no descriptor can be calibrated: none has positives and negatives in {FOLDS} documents among"
            f" the {len(rows)} texts that were read; read more texts, or label by proposals"
        )
    if refused:
        few = ", ".join(f"{name} ({n})" for name, n in list(refused.items())[:5])
        log.warning("%d descriptors with too few known texts are left out: %s", len(refused), few)
    labels = pd.DataFrame(found, index=closeness.index)
    labels.attrs["refused"] = refused
    return labels


def _cross_fitted(
    x: np.ndarray, rows: np.ndarray, y: np.ndarray, documents: np.ndarray, seed: int
) -> np.ndarray:
    """Probability for each of ``x``; of the ``rows`` with known ``y`` from folds without their document."""
    probability = _fitted(x[rows], y)(x)
    # whole documents, stratified by whether any of their texts is positive: StratifiedGroupKFold of texts
    # balances documents of unequal size, too, and took nineteen twentieths of the time of ``discover``
    positive = np.bincount(documents, y) > 0
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")  # few documents without a positive
        folds = list(StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(positive, positive))
    for _, left_out in folds:
        test = np.isin(documents, left_out)
        # a fold may hold all that is negative, and then the others teach nothing
        ready = 0 < y[~test].sum() < (~test).sum()
        probability[rows[test]] = _fitted(x[rows[~test]], y[~test])(x[rows[test]]) if ready else y.mean()
    return probability


def _fitted(x: np.ndarray, y: np.ndarray):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(max_iter=200).fit(x[:, None], y)
    return lambda new: model.predict_proba(new[:, None])[:, 1]


class Reliability(NamedTuple):
    """How far predicted probabilities are what is observed."""

    bins: pd.DataFrame  # descriptor ("all": all together), bin, n (texts), predicted, observed
    errors: pd.DataFrame  # descriptor, error, shift


def reliability(labels: pd.DataFrame, y_true: pd.DataFrame, *, bins: int = 5) -> Reliability:
    """What a reliability plot shows: predicted probabilities beside observed shares.

    labels   [text, descriptor], probabilities
    y_true   [text, descriptor], 0 or 1; the texts and descriptors that both have are compared
    bins     parts of each descriptor's texts, from the lowest probabilities to the highest, of equal size

    Of each bin: its mean probability (predicted) and its share of positives (observed). Of each descriptor:
    error, the mean over texts of |predicted - observed| of their bin, and shift, the mean probability less
    the prevalence. A small error of "all" can hide large ones of opposite sign in its descriptors.
    ``ValueError``: nothing to compare.
    """
    rows, columns = labels.index.intersection(y_true.index), labels.columns.intersection(y_true.columns)
    if rows.empty or columns.empty:
        raise ValueError("labels and y_true share no text or no descriptor: are they of one corpus?")
    p, y = labels.loc[rows, columns].to_numpy(float), y_true.loc[rows, columns].to_numpy(float)
    parts = [("all", p.ravel(), y.ravel()), *zip(columns, p.T, y.T, strict=True)]
    found = pd.concat([_binned(name, a, b, bins) for name, a, b in parts], ignore_index=True)
    shift = (found["predicted"] - found["observed"]) * found["n"]
    sums = found.assign(error=shift.abs(), shift=shift).groupby("descriptor", sort=False)
    sums = sums[["error", "shift", "n"]].sum()
    return Reliability(found, sums[["error", "shift"]].div(sums["n"], axis=0).reset_index())


def _binned(name: str, p: np.ndarray, y: np.ndarray, bins: int) -> pd.DataFrame:
    order = np.argsort(p, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    lines = [(name, i, len(part), p[part].mean(), y[part].mean()) for i, part in enumerate(parts)]
    return pd.DataFrame(lines, columns=["descriptor", "bin", "n", "predicted", "observed"])
