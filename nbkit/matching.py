"""Matching: which descriptors does a unit respond to, and could chance have done it?

    SCORERS                       name -> scorer; all share one signature
    score(values, labels)         frame [descriptor, unit]
    tag(activations, labels)      the best descriptors of every unit, with a p-value and a held-out score

A scorer takes activations ``[row, unit]`` and labels ``[row, descriptor]`` (P(descriptor | text), in
[0, 1]) with the same rows, and returns ``[descriptor, unit]``; higher is more alike. Rivals:

    pearson     mean of z(a) z(c). The default: it passes both of NeuronEval's sanity tests
                (Oikarinen, Yan, Weng, ICML 2025)
    auroc       how well the activation tells texts with the descriptor from texts without
    frequency   the rule of Mondal et al. 2024 as far as it is known: a unit gets what its exemplars
                have in common, P(descriptor | exemplar). It rewards frequent descriptors

A tag is a claim, so ``tag`` chooses it on one part of the texts (calibration) and looks it up on the
other (validation), and compares its score with what permuted rows reach at best.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control, rankdata
from tqdm.auto import tqdm

if TYPE_CHECKING:
    from nbkit.activations import Activations

UNITS_AT_ONCE = 2048  # columns turned into float32 at a time


def pearson(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Pearson correlation ``[descriptor, unit]``; 0 where a side is constant."""
    return _z(labels).T @ _z(values) / len(values)


def frequency(values: np.ndarray, labels: np.ndarray, *, exemplars: int = 20) -> np.ndarray:
    """P(descriptor | exemplar): the mean label over the ``exemplars`` highest activations.

    Mondal et al. 2024, read second hand; their number of exemplars is not known, 20 is ours. With
    fewer rows than that, all of them. Ties are broken by row order.
    """
    k = min(exemplars, len(values))
    best = np.argsort(-values, axis=0, kind="stable")[:k]  # [exemplar, unit]
    return labels[best].mean(0).T


def auroc(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """P(a text with the descriptor is above one without), ties half: Mann-Whitney U / (n+ n-).

    Labels are cut at .5. Does not depend on how frequent a descriptor is, which makes it fit to
    compare corpora. A descriptor that every row has, or none, gets .5.
    """
    ranks = rankdata(values, axis=0)  # [row, unit], average ranks
    positive = (labels > 0.5).astype(ranks.dtype)
    n = positive.sum(0)[:, None]
    u = positive.T @ ranks - n * (n + 1) / 2
    pairs = n * (len(values) - n)
    return np.divide(u, pairs, out=np.full(u.shape, 0.5), where=pairs > 0)


SCORERS: dict[str, Callable[..., np.ndarray]] = {
    "pearson": pearson,
    "auroc": auroc,
    "frequency": frequency,
}


def score(values: Activations | np.ndarray, labels: pd.DataFrame, method: str = "pearson") -> pd.DataFrame:
    """Scores ``[descriptor, unit]`` of every descriptor for every unit.

    ``values`` is a store of text rows or an array ``[row, unit]``; ``labels`` has one row for each of
    its rows (for a store: indexed by ``text_id``). Rows that do not match, and labels outside [0, 1],
    are a ``ValueError``.
    """
    scorer = _scorer(method)
    names: pd.Index | np.ndarray = np.arange(np.shape(getattr(values, "values", values))[1])
    if hasattr(values, "units"):
        labels, names = align(values, labels), values.units["unit"].to_numpy()
        values = values.values
    if len(values) != len(labels):
        raise ValueError(f"{len(values)} rows of activations and {len(labels)} rows of labels")
    found = _score_blocks(values, _checked(labels), scorer)
    return pd.DataFrame(found, index=labels.columns, columns=names)


def align(activations: Activations, labels: pd.DataFrame) -> pd.DataFrame:
    """``labels`` in the order of the rows of ``activations``. A text without labels: ``ValueError``."""
    text_ids = activations.rows["text_id"]
    missing = ~text_ids.isin(labels.index)
    if missing.any():
        raise ValueError(
            f"the label matrix has no row for {missing.sum()} of {len(text_ids)} rows of"
            f" {activations!r}, the first is text {text_ids[missing].iloc[0]}: make the labels from"
            " the same corpus (texts.descriptors() or descriptors.label(texts, ...))"
        )
    if not labels.index.is_unique:
        twice = labels.index[labels.index.duplicated()][0]
        raise ValueError(f"the label matrix has two rows for text {twice}")
    return labels.loc[text_ids]


def tag(
    activations: Activations,
    labels: pd.DataFrame,
    *,
    method: str = "pearson",
    top: int = 2,
    split: float = 0.5,
    permutations: int = 200,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """The ``top`` descriptors of every unit, chosen on one part of the texts, checked on the other.

    split         share of the texts used for calibration
    permutations  of the label rows; under each, a unit's best score over all descriptors is its null
                  (0: no test, p and q are NaN)
    seed          of the split and the permutations

    Returns a frame, one line for each unit and rank:

    unit, rank        rank 1 is the best
    descriptor        the tag
    score             on the calibration texts
    validation_score  of the same tag on the others
    p                 (1 + permutations whose best score reaches ``score``) / (1 + permutations)
    q                 Benjamini-Hochberg over the units of the same rank

    ``.attrs["texts"]`` holds how many texts each part had.
    """
    labels = align(activations, labels)
    if top > labels.shape[1]:
        raise ValueError(f"top={top} tags were asked for; there are {labels.shape[1]} descriptors")
    first, second = halves(len(labels), split, seed)
    scorer, matrix = _scorer(method), _checked(labels)
    chosen, n_units = [], len(activations.units)
    generator = np.random.default_rng(seed)
    orders = [generator.permutation(len(first)) for _ in range(permutations)]
    blocks = range(0, n_units, UNITS_AT_ONCE)
    for start in tqdm(blocks, desc="tag", unit=" blocks", leave=False, disable=not progress):
        values = np.asarray(activations.values[:, start : start + UNITS_AT_ONCE], dtype=np.float32)
        chosen.append(_tag_block(values, matrix, first, second, orders, scorer, top))
    parts = [np.concatenate(part, axis=1) for part in zip(*chosen, strict=True)]  # [rank, unit]
    descriptor, scores, validation, p = parts
    frame = pd.DataFrame(
        {
            "unit": np.repeat(activations.units["unit"].to_numpy(), top),
            "rank": np.tile(np.arange(1, top + 1), n_units),
            "descriptor": labels.columns.to_numpy()[descriptor.T.ravel()],
            "score": scores.T.ravel(),
            "validation_score": validation.T.ravel(),
            "p": p.T.ravel(),
        }
    )
    frame["q"] = frame.groupby("rank")["p"].transform(false_discovery_control) if orders else np.nan
    frame.attrs["texts"] = {"calibration": len(first), "validation": len(second)}
    return frame


def halves(n: int, split: float = 0.5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A random partition of ``range(n)`` into two sorted parts, the first with a share ``split``."""
    cut = round(n * split)
    if not 2 <= cut <= n - 2:
        raise ValueError(f"split={split} of {n} rows leaves a part with fewer than two")
    order = np.random.default_rng(seed).permutation(n)
    return np.sort(order[:cut]), np.sort(order[cut:])


# ---------------------------------------------------------------------------------- inside


def _tag_block(values, labels, first, second, orders, scorer, top) -> tuple[np.ndarray, ...]:
    """Tags, scores, held-out scores and p-values ``[rank, unit]`` of a block of units."""
    found = scorer(values[first], labels[first])
    best = np.argsort(-found, axis=0, kind="stable")[:top]
    scores = np.take_along_axis(found, best, axis=0)
    validation = np.take_along_axis(scorer(values[second], labels[second]), best, axis=0)
    if not orders:
        return best, scores, validation, np.full_like(scores, np.nan)
    reached = np.ones_like(scores)
    n = labels.shape[1]
    for some in np.array_split(np.arange(len(orders)), max(1, len(orders) // 25)):
        # permuted copies of the labels ride along as further descriptors: one product for many
        shuffled = np.concatenate([labels[first][orders[i]] for i in some], axis=1)
        null = scorer(values[first], shuffled).reshape(len(some), n, -1).max(1)
        reached += (null[:, None, :] >= scores).sum(0)
    return best, scores, validation, reached / (1 + len(orders))


def _score_blocks(values: np.ndarray, labels: np.ndarray, scorer: Callable) -> np.ndarray:
    starts = range(0, values.shape[1], UNITS_AT_ONCE)
    return np.concatenate(
        [scorer(np.asarray(values[:, i : i + UNITS_AT_ONCE], dtype=np.float32), labels) for i in starts],
        axis=1,
    )


def _scorer(method: str) -> Callable[..., np.ndarray]:
    if method not in SCORERS:
        raise ValueError(f"unknown scorer {method!r}; there are {', '.join(SCORERS)}")
    return SCORERS[method]


def _checked(labels: pd.DataFrame) -> np.ndarray:
    matrix = labels.to_numpy(dtype=np.float32)
    bad = ~((matrix >= 0) & (matrix <= 1))
    if bad.any():
        row, column = (int(x[0]) for x in np.nonzero(bad))
        raise ValueError(
            f"label {labels.columns[column]!r} of row {labels.index[row]} is {matrix[row, column]}:"
            " labels are probabilities, in [0, 1]"
        )
    return matrix


def _z(x: np.ndarray) -> np.ndarray:
    """Columns with mean 0 and standard deviation 1; constant columns become 0."""
    centred = x - x.mean(0, dtype=np.float64).astype(np.float32)
    scale = np.sqrt(np.einsum("ij,ij->j", centred, centred, dtype=np.float64) / len(x))
    constant = scale <= 1e-6 * np.maximum(1e-6, np.abs(x).max(0, initial=0))
    return np.divide(centred, scale, out=np.zeros_like(centred), where=~constant, casting="unsafe")
