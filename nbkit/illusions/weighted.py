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
NUMBERS_AT_ONCE = 2**22  # [row, unit, bin] of a block of units


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


def jackknife(x: np.ndarray, y: np.ndarray, groups: np.ndarray, method: str) -> np.ndarray:
    """Scores [group, descriptor, unit] without each group, less their mean, times sqrt((n - 1) / n).

    The length of such a vector is a standard error; that of a difference the error of a difference.
    """
    _, number = np.unique(groups, return_inverse=True)
    n = number.max() + 1
    if method == "auroc":
        _, change = influence(x, np.asarray(y) > 0.5, number)
        found = change * (len(x) / (len(x) - np.bincount(number)))[:, None, None]
    else:
        found = scores_under(x, y, number, 1 - np.eye(n, dtype=np.float32), method)
    return np.sqrt((n - 1) / n) * (found - found.mean(0))


def influence(x: np.ndarray, on: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUROC [descriptor, unit], and what a group adds when it counts once more [group, descriptor, unit].

    x, on   activations [row, unit]; [row, descriptor] True where the row has the descriptor
    groups  [row] from 0

    A row with the descriptor adds the share of the others below it, one without the share of those with it
    above. These shares are counted in ``BINS`` bins of the ranks, narrow at both ends, so that one product
    a group counts them for all descriptors; the AUROC is exact. .5 and 0 where a class is empty.
    """
    order = np.argsort(groups, kind="stable")
    first = np.append(np.flatnonzero(np.diff(groups[order], prepend=-1)), len(x))
    n, width = len(x), x.shape[1]
    rank = stats.ranks(x.T[:, order])  # [unit, row]
    labels = np.column_stack([np.ones(n), on[order]]).astype(np.float32)
    edges = scipy.special.expit(np.linspace(-5, 5, BINS - 1))
    cell = np.searchsorted(edges, np.arange(2 * n + 2) / (2 * n))[(2 * rank - 1).astype(np.int32)]
    inside = np.zeros((n, width, BINS), np.float32)
    inside[np.arange(n)[:, None], np.arange(width), cell.T] = 1
    inside = inside.reshape(n, -1)
    counts = [labels[i:j].T @ inside[i:j] for i, j in zip(first, first[1:], strict=False)]
    found = np.stack(counts).reshape(len(counts), -1, width, BINS)  # [group, all and descriptor, unit, bin]
    has, lacks = found[:, 1:], found[:, :1] - found[:, 1:]
    positives, negatives = has.sum(0), lacks.sum(0)  # [descriptor, unit, bin]
    size, other = (part.sum(-1, keepdims=True) for part in (positives, negatives))
    both = ((size > 0) & (other > 0))[..., 0]
    size, other = np.maximum(1, size), np.maximum(1, other)
    below, above = (np.cumsum(part, -1) - part / 2 for part in (negatives / other, positives / size))
    won = (positives / size * below).sum(-1, keepdims=True)
    gain = np.einsum("gdub,dub->gdu", has, (below - won) / size)
    gain += np.einsum("gdub,dub->gdu", lacks, (1 - above - won) / other)
    return stats.auroc_of_ranks(labels[:, 1:].T, rank), np.where(both, gain, 0)


def dealt(corpus: Corpus, rng: np.random.Generator) -> np.ndarray:
    """A number below ``GROUPS`` for each text, the same for the texts of a document."""
    document = np.arange(len(corpus.labels)) if corpus.groups is None else corpus.groups
    _, document = np.unique(document, return_inverse=True)
    n = document.max() + 1
    return (rng.permutation(n) % min(GROUPS, n))[document]


def blocks(n: int, rows: int, labels: int) -> list[slice]:
    """Slices of ``n`` units that are small enough for ``influence``: [row or label, unit, bin]."""
    step = max(1, NUMBERS_AT_ONCE // (BINS * max(rows, labels, 1)))
    return [slice(start, start + step) for start in range(0, n, step)]


# ---------------------------------------------------------------------------------- inside


def _auroc_of_sums(x: np.ndarray, y: np.ndarray, groups: np.ndarray, times: np.ndarray) -> np.ndarray:
    """AUROC plus what the weights of the groups change, to first order."""
    on = np.asarray(y) > 0.5
    weight = times / (times @ np.bincount(groups, minlength=times.shape[1]) / len(on))[:, None]
    present = np.unique(groups, return_inverse=True)
    weight, parts = weight[:, present[0]], []
    for some in blocks(x.shape[1], len(x), times.shape[1] * (1 + on.shape[1])):
        value, change = influence(x[:, some], on, present[1])
        parts.append(value + np.tensordot(weight, change.astype(np.float32), 1))
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
