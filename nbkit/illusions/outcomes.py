"""Outcomes: a tag that is not first in another corpus need not have changed there.

    kept         the unit's first tag there, and significant
    changed      another descriptor is significantly better there: the unit's own tag of that corpus (the
                 *rival*), chosen on the other half of its texts, so that the choice does not favour it
    significant  related to the unit there, not its first tag, and no rival is significantly better
    silent       neither the tag nor the rival is significant there, and the 95 % intervals of both end below
                 half of what the tag reaches on held-out texts of its own corpus
    undecided    the texts are too few to say

Each test is one-sided: permuted labels for a score, a jackknife over documents for the difference of two
scores on the same texts. False discoveries are controlled (Benjamini-Hochberg) over the units with a tag of
one corpus that are looked up in another.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.stats

from nbkit import matching, stats
from nbkit.illusions.corpora import Corpus
from nbkit.illusions.weighted import blocks, dealt, jackknife

OUTCOMES = ("kept", "significant", "changed", "silent", "undecided")


class Evidence(NamedTuple):
    """What the texts of a corpus say of pairs of a tag and its rival; all [pair]."""

    p: np.ndarray  # of the tag, by permuted labels
    rival_p: np.ndarray
    better_p: np.ndarray  # that the rival's score is no higher than the tag's; NaN where they are one
    high: np.ndarray  # upper end of the 95 % interval of the tag's score
    rival_high: np.ndarray

    def of(self, some: np.ndarray) -> Evidence:
        """Of some of the pairs."""
        return Evidence(*(part[some] for part in self))


def evidence(
    half: Corpus,
    scores: np.ndarray,
    tag: np.ndarray,
    rival: np.ndarray,
    unit: np.ndarray,
    *,
    method: str,
    permutations: int,
    seed: int,
) -> Evidence:
    """The evidence of ``half`` on ``tag`` and ``rival`` [pair], descriptors of ``unit`` [pair].

    scores  [descriptor, unit] of the half
    """
    width = half.values.shape[1]
    code, rival_code = tag * width + unit, rival * width + unit
    pairs, place = np.unique(np.concatenate([code, rival_code]), return_inverse=True)
    p = matching.permutation_test(
        half.values,
        half.labels,
        pairs // width,
        pairs % width,
        method=method,
        permutations=permutations,
        covariates=half.covariates,
        groups=half.groups,
        seed=seed,
    )
    error, rival_error, of_difference, n = errors_of(half, tag, rival, unit, method, seed)
    score, other = scores[tag, unit], scores[rival, unit]
    better = scipy.stats.t.sf((other - score) / np.maximum(of_difference, 1e-9), n - 1)
    wide = scipy.stats.t.isf(0.025, n - 1)
    return Evidence(
        p[place[: len(tag)]],
        p[place[len(tag) :]],
        np.where(tag == rival, np.nan, better),
        score + wide * error,
        other + wide * rival_error,
    )


def outcomes(
    found: Evidence, same: np.ndarray, at_home: np.ndarray, *, alpha: float, null: float
) -> np.ndarray:
    """Positions in ``OUTCOMES`` [pair] of tags of one corpus; -1 without permutations.

    same     [pair] is the tag first there
    at_home  [pair] the tag's score on held-out texts of its own corpus
    null     score of what is unrelated
    """
    if np.isnan(found.p).all():
        return np.full(len(same), -1, np.int8)
    significant, rivals = (stats.q_values(p) <= alpha for p in (found.p, found.rival_p))
    better = (stats.q_values(found.better_p) <= alpha) & rivals
    bound = null + (at_home - null).clip(min=0) / 2
    quiet = (found.high < bound) & (found.rival_high < bound) & ~significant & ~rivals
    order = [same & significant, better, significant, quiet]
    names = ["kept", "changed", "significant", "silent"]
    return np.select(order, [OUTCOMES.index(name) for name in names], OUTCOMES.index("undecided")).astype(
        np.int8
    )


def errors_of(
    half: Corpus, tag: np.ndarray, rival: np.ndarray, unit: np.ndarray, method: str, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Standard errors [pair] of the tag's score, the rival's and their difference; number of groups."""
    groups, parts = dealt(half, np.random.default_rng(seed)), []
    n = len(np.unique(groups))
    width = 2 if method == "auroc" else half.labels.shape[1]
    for some in blocks(len(unit), len(groups), width):
        x = np.asarray(half.values[:, unit[some]])
        one, two = jackknife(x, half.labels, groups, np.stack([tag[some], rival[some]]), method)
        parts.append(np.stack([np.linalg.norm(part, axis=-1) for part in (one, two, two - one)]))
    tags, rivals, differences = np.concatenate([np.zeros((3, 0)), *parts], axis=1)
    return tags, rivals, differences, n
