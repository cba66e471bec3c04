"""Scores under weights of groups of rows: what a bootstrap and a jackknife over documents need, fast.

A resample draws group g ``times[g]`` times. ``pearson`` is made of sums over groups, and exact. ``auroc`` is
linear in the weights to first order (DeLong, DeLong and Clarke-Pearson 1988): each row adds the share of the
other class that it is above, or below, which counts over bins give for all descriptors and resamples.
Other scorers are computed from the rows of each resample, which is slow.
"""

from __future__ import annotations

import numpy as np
import scipy.special

from nbkit import matching, stats
from nbkit.illusions.corpora import Corpus

GROUPS = 50  # of the documents of a corpus, drawn or left out together
BINS = 24  # of the ranks of a unit
NUMBERS_AT_ONCE = 2**21  # [pair, row] of a block of units


def scores_under(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray, times: np.ndarray, method: str
) -> np.ndarray:
    """Scores [resample, descriptor, unit] of rows whose groups are drawn ``times`` [resample, group].

    x, y    activations [row, unit] and labels [row, descriptor]
    groups  [row] number of the group, from 0
    """
    if method == "auroc":
        return _auroc_of_sums(x, y, groups, times)
    x = np.asarray(x, np.float32)  # stores may be float16, in which squares overflow
    if method == "pearson":
        return _pearson_of_sums(x, y, groups, times)
    scorer = matching.scorer_of(method)
    rows = [np.repeat(np.arange(len(x)), often[groups].astype(int)) for often in times]
    return np.stack([scorer(x[some], y[some]) for some in rows])


def jackknife(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray, method: str, descriptor: np.ndarray, unit: np.ndarray
) -> np.ndarray:
    """Scores [group, pair] without each group, less their mean, times sqrt((n - 1) / n).

    The length of such a vector is a standard error; that of a difference the error of a difference.
    ``descriptor`` and ``unit`` [pair] are columns of ``y`` and ``x``.
    """
    _, number = np.unique(groups, return_inverse=True)
    n = number.max() + 1
    if method == "auroc":
        change = influence(stats.ranks(x.T), np.asarray(y) > 0.5, number, descriptor, unit)
        found = change * (len(x) / (len(x) - np.bincount(number)))[:, None]
    else:
        found = scores_under(x, y, number, 1 - np.eye(n, dtype=np.float32), method)[:, descriptor, unit]
    return np.sqrt((n - 1) / n) * (found - found.mean(0))


def influence(
    rank: np.ndarray, on: np.ndarray, groups: np.ndarray, descriptor: np.ndarray, unit: np.ndarray
) -> np.ndarray:
    """What a group adds to the AUROC of a pair when it counts once more [group, pair], float32.

    rank              [unit, row] of the activations, from 1
    on                [row, descriptor] True where the row has the descriptor
    groups            [row] from 0
    descriptor, unit  [pair]

    A row with the descriptor adds the share of the others below it, one without the share of those with it
    above. These shares are counted in ``BINS`` bins of the ranks, narrow at both ends: no sorting for each
    descriptor. 0 where a class is empty.
    """
    n, pairs = len(on), len(descriptor)
    edges = scipy.special.expit(np.linspace(-5, 5, BINS - 1))
    bins = np.searchsorted(edges, np.arange(2 * n + 2) / (2 * n)).astype(np.int32)
    cell = bins[(2 * rank - 1).astype(np.int32)][unit] + BINS * np.arange(pairs, dtype=np.int32)[:, None]
    has = np.ascontiguousarray(on.T)[descriptor]
    positives = np.bincount(cell[has], minlength=pairs * BINS).reshape(pairs, BINS)
    negatives = np.bincount(cell.ravel(), minlength=pairs * BINS).reshape(pairs, BINS) - positives
    size, other = (part.sum(1, keepdims=True) for part in (positives, negatives))
    both, size, other = (size > 0) & (other > 0), np.maximum(1, size), np.maximum(1, other)
    below, above = (np.cumsum(part, 1) - part / 2 for part in (negatives / other, positives / size))
    won = (positives / size * below).sum(1, keepdims=True)
    gains = (both * (1 - above - won) / other, both * (below - won) / size)  # without the descriptor, with it
    without, with_it = (gain.astype(np.float32).ravel() for gain in gains)
    members = (groups == np.arange(groups.max() + 1)[:, None]).astype(np.float32)
    return members @ np.where(has, with_it[cell], without[cell]).T


def dealt(corpus: Corpus, rng: np.random.Generator) -> np.ndarray:
    """A number below ``GROUPS`` for each text, the same for the texts of a document."""
    document = np.arange(len(corpus.labels)) if corpus.groups is None else corpus.groups
    _, document = np.unique(document, return_inverse=True)
    n = document.max() + 1
    return (rng.permutation(n) % min(GROUPS, n))[document]


def blocks(n: int, pairs: int, rows: int) -> list[slice]:
    """Slices of ``n`` units, with so many ``pairs`` each, that are small enough for ``influence``."""
    step = max(1, NUMBERS_AT_ONCE // max(1, pairs * rows))
    return [slice(start, start + step) for start in range(0, n, step)]


# ---------------------------------------------------------------------------------- inside


def _auroc_of_sums(x: np.ndarray, y: np.ndarray, groups: np.ndarray, times: np.ndarray) -> np.ndarray:
    """AUROC plus what the weights of the groups change, to first order."""
    on = np.asarray(y) > 0.5
    present, number = np.unique(groups, return_inverse=True)
    weight = (times / (times @ np.bincount(groups, minlength=times.shape[1]) / len(on))[:, None])[:, present]
    d, rank, parts = on.shape[1], stats.ranks(x.T), []
    for some in blocks(len(rank), d, len(on)):
        mine = rank[some]
        pairs = np.divmod(np.arange(d * len(mine)), len(mine))
        change = weight.astype(np.float32) @ influence(mine, on, number, *pairs)
        value = stats.auroc_of_ranks(on.T.astype(np.float32), mine)
        parts.append(value + change.reshape(len(times), d, -1))
    return np.concatenate(parts, axis=2).clip(0, 1)


def _pearson_of_sums(x: np.ndarray, y: np.ndarray, groups: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Pearson of every resample, out of sums over groups of z, z^2, labels, labels^2 and z * labels."""
    z = x - x.mean(0)
    z /= np.maximum(z.std(0), 1e-6 * np.abs(x).max(0, initial=0)) + 1e-12
    c = (y - y.mean(0)).astype(np.float32)
    d, u, sums, sizes = y.shape[1], x.shape[1], [], []
    for group in range(times.shape[1]):
        rows = groups == group
        zg, cg = z[rows], c[rows]
        parts = (cg.T @ zg).ravel(), zg.sum(0), (zg * zg).sum(0), cg.sum(0), (cg * cg).sum(0)
        sums.append(np.concatenate(parts))
        sizes.append(rows.sum())
    n = np.maximum(1, times @ np.array(sizes, np.float32))[:, None]
    cz, mz, zz, mc, cc = np.split(times @ np.stack(sums) / n, np.cumsum([d * u, u, u, d]), axis=1)
    c, z = (mc[:, :, None], cc[:, :, None]), (mz[:, None], zz[:, None])
    return stats.correlation_of_sums(1, *c, *z, cz.reshape(-1, d, u))
