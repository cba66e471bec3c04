"""Scores of every descriptor and unit, and how far each is above what permuted labels would give.

``auroc`` and ``pearson`` are linear in the ranks or the activations, so that the test of a pair has a closed
form (``matching.association``) and costs nothing beside the score. Others permute labels, pair by pair.
Units are read in blocks: beside the scores only one block is in memory, as float32.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.special

from nbkit import matching, stats
from nbkit.illusions.corpora import Corpus

NUMBERS_AT_ONCE = 2**21  # activations [unit, row] of a block


class Scores(NamedTuple):
    """What the texts of (half of) a corpus say of every pair; float32 [descriptor, unit]."""

    score: np.ndarray
    normal: np.ndarray | None  # normal score of the pair under permuted labels; None: no closed form

    def p(self, descriptor: np.ndarray, unit: np.ndarray) -> np.ndarray:
        """One-sided p [pair] of pairs that were chosen on other texts."""
        assert self.normal is not None
        return scipy.special.ndtr(-self.normal[descriptor, unit].astype(float))


def scored(part: Corpus, method: str, *, tested: bool = True) -> Scores:
    """Scores of all pairs on ``part``, whose values may be ``Columns``; ``tested``: with normal scores.

    Activations that are not finite: ``ValueError``.
    """
    n, width = part.values.shape
    step = max(1, NUMBERS_AT_ONCE // max(1, n))
    found = [_block(part, method, slice(start, start + step), tested) for start in range(0, width, step)]
    score = np.concatenate([one.score for one in found], axis=1)
    normals = [one.normal for one in found if one.normal is not None]
    return Scores(score, np.concatenate(normals, axis=1) if normals else None)


def rivals(first: Scores, null: float) -> np.ndarray:
    """The descriptor [unit] by which ``changed`` is judged: the highest of ``score`` less 1.645 errors.

    The highest score itself is often the luck of a rare descriptor, of which nothing can be shown.
    """
    if first.normal is None:
        return first.score.argmax(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        low = (first.score - null) * (1 - 1.645 / first.normal)
    return np.where(first.normal > 0, low, -np.inf).argmax(0)


def luck(first: Scores, best: np.ndarray) -> np.ndarray:
    """q [unit]: would chance give one of the descriptors so high a score on the texts it was chosen on?

    Bonferroni over the descriptors, Benjamini-Hochberg over the units. 0 without a closed form.
    """
    if first.normal is None:
        return np.zeros(len(best))
    p = first.p(best, np.arange(len(best)))
    return stats.q_values(p * len(first.score))


def _block(part: Corpus, method: str, some: slice, tested: bool) -> Scores:
    x = np.asarray(part.values[:, some])
    if not np.isfinite(x.sum(0, dtype=np.float64)).all():
        bad = some.start + int(np.flatnonzero(~np.isfinite(x.sum(0, dtype=np.float64)))[0])
        raise ValueError(
            f"the activations of unit {bad} are not finite (NaN or infinity): capture them again, in float32"
            " if they are too large for float16, or leave the unit out"
        )
    if method not in matching.CLOSED:
        return Scores(matching.scorer_of(method)(x, part.labels).astype(np.float32), None)
    if method == "auroc":
        null, z, c = 0.5, stats.ranks(x.T).T / np.float32(len(x)), _in_pairs(part.labels)
    else:
        null, z, c = 0.0, _unit_length(x), _unit_length(part.labels)
    if not tested:
        return Scores((null + c.T @ (z - z.mean(0))).astype(np.float32), None)
    cells = None if part.covariates is None or part.groups is not None else matching.cells_of(part.covariates)
    total, normal = matching.association(z, c, cells=cells, groups=part.groups)
    return Scores((null + total).astype(np.float32), normal.astype(np.float32))


def _in_pairs(labels: np.ndarray) -> np.ndarray:
    """Labels [row, descriptor] in units in which their product with ranks / rows is AUROC - .5; centred."""
    on = (labels > 0.5).astype(np.float32)
    n, positives = len(on), on.sum(0)
    pairs = positives * (n - positives)
    return (on - on.mean(0)) * np.divide(n, pairs, out=np.zeros_like(pairs), where=pairs > 0)


def _unit_length(x: np.ndarray) -> np.ndarray:
    """Columns centred, of length 1; 0 where a column is constant."""
    size = np.abs(x).max(0).astype(np.float32) * np.float32(len(x) ** 0.5)
    z = (x - x.mean(0, dtype=np.float64)).astype(np.float32)
    length = np.sqrt(np.einsum("ru,ru->u", z, z))
    return z / np.where(length > 1e-6 * size, length, np.inf)
