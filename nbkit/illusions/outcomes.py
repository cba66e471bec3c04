"""Outcomes: a tag that is not first in another corpus need not have changed there.

    kept         the unit's first tag there, and significant
    changed      another descriptor is significantly better there: the *rival*, which the unit follows best in
                 that corpus (``scoring.rivals``) by the other half of its texts, so that the choice does not
                 favour it
    significant  related to the unit there, not its first tag, and no rival is significantly better
    silent       the tag is with 95 % confidence less than half of what it reaches on held-out texts of its
                 own corpus, and neither it nor the rival is significant (the rival not even by itself)
    undecided    the texts are too few to say

Each test is one-sided: the permutation distribution of a score (its moments, for auroc and pearson), a
jackknife over documents for an error, and for that of the difference of two scores on the same texts. False
discoveries are controlled (Benjamini-Hochberg) over the units with a tag of one corpus that are looked up in
another.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.stats

from nbkit import matching, stats
from nbkit.illusions.corpora import Corpus
from nbkit.illusions.scoring import Scores
from nbkit.illusions.weighted import blocks, dealt, jackknife

OUTCOMES = ("kept", "significant", "changed", "silent", "undecided")


class Evidence(NamedTuple):
    """What the texts of a corpus say of pairs of a tag and its rival; all [pair]."""

    p: np.ndarray  # of the tag, by permuted labels
    rival_p: np.ndarray
    better_p: np.ndarray  # that the rival's score is no higher than the tag's; NaN where they are one
    high: np.ndarray  # below which the tag's score is with 95 % confidence

    def of(self, some: np.ndarray) -> Evidence:
        """Of some of the pairs."""
        return Evidence(*(part[some] for part in self))


def evidence(
    half: Corpus,
    scores: Scores,
    tag: np.ndarray,
    rival: np.ndarray,
    unit: np.ndarray,
    *,
    method: str,
    permutations: int,
    seed: int,
) -> Evidence:
    """The evidence of ``half`` on ``tag`` and ``rival`` [pair], descriptors of ``unit`` [pair].

    scores        of the half
    permutations  for scorers without a closed form; 0: no evidence
    """
    if not permutations:
        return Evidence(*np.full((4, len(tag)), np.nan))
    options: dict[str, Any] = dict(method=method, permutations=permutations, seed=seed)
    p, rival_p = (_p(half, scores, descriptor, unit, options) for descriptor in (tag, rival))
    error, of_difference, n = errors_of(half, tag, rival, unit, method, seed)
    score, other = scores.score[tag, unit], scores.score[rival, unit]
    better = scipy.stats.t.sf((other - score) / np.maximum(of_difference, 1e-9), n - 1)
    wide = scipy.stats.t.isf(0.05, n - 1)
    return Evidence(
        p,
        rival_p,
        np.where(tag == rival, np.nan, better),
        score + wide * error,
    )


def _p(half: Corpus, scores: Scores, descriptor: np.ndarray, unit: np.ndarray, options: dict) -> np.ndarray:
    """One-sided p [pair] of pairs that were chosen on other texts."""
    if scores.normal is not None:
        return scores.p(descriptor, unit)
    pairs, place = np.unique(np.stack([descriptor, unit]), axis=1, return_inverse=True)
    options = options | dict(covariates=half.covariates, groups=half.groups)
    values = np.asarray(half.values[:, pairs[1]])
    p = matching.permutation_test(values, half.labels, pairs[0], np.arange(len(pairs.T)), **options)
    return p[place.ravel()]


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
    quiet = (found.high < bound) & ~significant & (found.rival_p > 0.05)
    order = [same & significant, better, significant, quiet]
    names = ["kept", "changed", "significant", "silent"]
    return np.select(order, [OUTCOMES.index(name) for name in names], OUTCOMES.index("undecided")).astype(
        np.int8
    )


def errors_of(
    half: Corpus, tag: np.ndarray, rival: np.ndarray, unit: np.ndarray, method: str, seed: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Standard errors [pair] of the tag's score, and of its difference to the rival's; number of groups."""
    groups, order = dealt(half, np.random.default_rng(seed)), np.argsort(unit, kind="stable")
    units, first = np.unique(unit[order], return_index=True)
    first, found = np.append(first, len(unit)), np.zeros((2, len(unit)))
    most = 2 * (len(unit) // max(1, len(units)) + 1)
    for some in blocks(len(units), most, len(groups)):
        mine = order[first[some.start] : first[min(some.stop, len(units))]]  # pairs of these units
        x, place = np.asarray(half.values[:, units[some]]), np.searchsorted(units[some], unit[mine])
        both = np.concatenate([tag[mine], rival[mine]])
        left_out = jackknife(x, half.labels, groups, method, both, np.tile(place, 2))
        one, two = np.split(left_out, 2, axis=1)
        found[:, mine] = [np.linalg.norm(part, axis=0) for part in (one, two - one)]
    return found[0], found[1], len(np.unique(groups))
