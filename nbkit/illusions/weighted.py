"""Scores under weights of groups of rows: what a bootstrap and a jackknife over documents need, fast.

A resample draws group g ``times[g]`` times. ``pearson`` is made of sums over groups, and exact. ``auroc`` is
linear in the weights to first order (DeLong, DeLong and Clarke-Pearson 1988): each row adds the share of the
other class that it is above, or below, which one sort of the unit gives for all descriptors and resamples.
Other scorers are computed from the rows of each resample, which is slow.
"""

from __future__ import annotations

import numpy as np

from nbkit import matching, stats
from nbkit.illusions.corpora import Corpus

GROUPS = 50  # of the documents of a corpus, drawn or left out together
NUMBERS_AT_ONCE = 2**22  # [row, unit, descriptor] of a block of units


def scores_under(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray, times: np.ndarray, method: str
) -> np.ndarray:
    """Scores [resample, descriptor, unit] of rows whose groups are drawn ``times`` [resample, group].

    x, y    activations [row, unit] and labels [row, descriptor]
    groups  [row] number of the group, from 0
    """
    x = np.asarray(x, np.float32)  # stores may be float16, in which squares overflow
    if method == "pearson":
        return _pearson_of_sums(x, y, groups, times)
    if method == "auroc":
        return _auroc_of_sums(x, y, groups, times)
    scorer = matching.scorer_of(method)
    rows = [np.repeat(np.arange(len(x)), often[groups].astype(int)) for often in times]
    return np.stack([scorer(x[some], y[some]) for some in rows])


def jackknife(x: np.ndarray, y: np.ndarray, groups: np.ndarray, pairs: np.ndarray, method: str) -> np.ndarray:
    """Scores [pair, unit, group] without each group, less their mean, times sqrt((n - 1) / n).

    pairs  [pair, unit] descriptors of each unit, positions in ``y``

    The length of such a vector is a standard error; that of a difference the error of a difference.
    """
    _, number = np.unique(groups, return_inverse=True)
    n = number.max() + 1
    if method == "auroc":
        found = _auroc_left_out(np.asarray(x, np.float32), np.asarray(y) > 0.5, number, pairs)
    else:
        every = scores_under(x, y, number, 1 - np.eye(n, dtype=np.float32), method)
        found = np.moveaxis(every[:, pairs, np.arange(x.shape[1])], 0, -1)
    return np.sqrt((n - 1) / n) * (found - found.mean(-1, keepdims=True))


def placements(x: np.ndarray, on: np.ndarray) -> np.ndarray:
    """Share of the other class that each row has on its right side [row, unit, descriptor], ties half.

    x, on  activations [row, unit]; [row, descriptor] True where the row has the descriptor, or
           [row, unit, descriptor] where each unit has descriptors of its own

    For a row that has the descriptor: of those without it, the share below; for one without: of those with
    it, the share above. The mean over either class is the AUROC. NaN where a class is empty.
    """
    rows, units = np.arange(len(x))[:, None], np.arange(x.shape[1])
    on = on if on.ndim == 3 else on[:, None]
    order = np.argsort(x, axis=0)
    ordered = np.take_along_axis(x, order, axis=0)
    new = np.ones(x.shape, dtype=bool)
    new[1:] = ordered[1:] != ordered[:-1]
    first = np.maximum.accumulate(np.where(new, rows, 0), axis=0)  # of the run of equal values
    end = np.ones(x.shape, dtype=bool)
    end[:-1] = new[1:]
    after = np.minimum.accumulate(np.where(end, rows + 1, len(x))[::-1], axis=0)[::-1]
    has = np.take_along_axis(on, order[..., None], axis=0)
    sums = np.zeros((len(x) + 1, *has.shape[1:]), np.float32)
    np.cumsum(has, axis=0, out=sums[1:], dtype=np.float32)
    positives = (sums[first, units] + sums[after, units]) / 2  # below each place, ties half
    negatives = ((first + after) / 2).astype(np.float32)[..., None] - positives
    found = np.empty_like(positives)
    n = on.sum(0).astype(np.float32)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = np.where(has, negatives / (len(on) - n), 1 - positives / n)
    np.put_along_axis(found, order[..., None], shares, axis=0)
    return found


def dealt(corpus: Corpus, rng: np.random.Generator) -> np.ndarray:
    """A number below ``GROUPS`` for each text, the same for the texts of a document."""
    document = np.arange(len(corpus.values)) if corpus.groups is None else corpus.groups
    _, document = np.unique(document, return_inverse=True)
    n = document.max() + 1
    return (rng.permutation(n) % min(GROUPS, n))[document]


def blocks(n: int, rows: int, descriptors: int) -> list[slice]:
    """Slices of ``n`` units that are small enough for arrays [row, unit, descriptor]."""
    step = max(1, NUMBERS_AT_ONCE // max(1, rows * descriptors))
    return [slice(start, start + step) for start in range(0, n, step)]


# ---------------------------------------------------------------------------------- inside


def _auroc_of_sums(x: np.ndarray, y: np.ndarray, groups: np.ndarray, times: np.ndarray) -> np.ndarray:
    """AUROC plus what the weights of the groups change, to first order."""
    on = np.asarray(y) > 0.5
    member = (np.arange(times.shape[1])[:, None] == groups).astype(np.float32)  # [group, row]
    weight = times / (times @ member.sum(1) / len(on))[:, None]
    parts = []
    for some in blocks(x.shape[1], *on.shape):
        value, change = _influence(np.asarray(x[:, some]), on[:, None])
        moved = weight @ (member @ change.reshape(len(on), -1))
        parts.append(value + moved.reshape(len(times), *value.shape))
    return np.concatenate(parts, axis=1).swapaxes(1, 2).clip(0, 1)


def _auroc_left_out(x: np.ndarray, on: np.ndarray, groups: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """AUROC [pair, unit, group] without each group, to first order."""
    member = (np.arange(groups.max() + 1)[:, None] == groups).astype(np.float32)
    kept = len(x) / (len(x) - member.sum(1))  # [group]
    parts = []
    for some in blocks(x.shape[1], len(x), len(pairs)):
        value, change = _influence(x[:, some], on[:, pairs.T[some]])
        moved = member @ change.reshape(len(on), -1)
        parts.append(value - kept[:, None, None] * moved.reshape(len(kept), *value.shape))
    return np.moveaxis(np.concatenate(parts, axis=1), 0, -1).swapaxes(0, 1)


def _influence(x: np.ndarray, on: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUROC [unit, descriptor], and what a row adds when it counts once more [row, unit, descriptor]."""
    shares, n = placements(x, on), on.sum(0)
    both = (n > 0) & (n < len(on))
    shares = np.where(both, shares, 0.5)
    value = np.where(both, np.where(on, shares, 0).sum(0) / np.maximum(1, n), 0.5)
    return value, (shares - value) / np.maximum(1, np.where(on, n, len(on) - n))


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
