"""How far a unit and a descriptor go together beyond what permuted rows give, in closed form."""

from __future__ import annotations

from functools import partial

import numpy as np

from nbkit.stats import exchangeable

CLOSED = ("auroc", "pearson")  # scorers whose test has a closed form: linear in the ranks or the activations


def association(
    x: np.ndarray, y: np.ndarray, *, cells: np.ndarray | None = None, groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Sums [column of y, column of x] over the rows of the products, both centred, and their normal scores.

    x, y           [row, .] floats, such as activations (or their ranks) and labels
    cells, groups  as for ``stats.permutations``

    A normal score of 1.96 says that .025 of the permutations give as large a sum: ``scipy.special.ndtr`` of
    its negative is the one-sided p. It comes from the first three moments of the permutation distribution
    (gamma, by Wilson and Hilferty's cube root), and so can be as small as thousands of units need. They are
    exact for single rows, also in cells; rows of a group count as in random order. 0 where nothing varies.
    """
    x, y = (side - side.mean(0, dtype=np.float64).astype(side.dtype) for side in (x, y))
    total = y.T @ x
    if cells is None and groups is None:
        n, ((xx, xxx), (yy, yyy)) = len(x), ([side.sum(0) for side in powers(side)] for side in (x, y))
        mean, variance = 0.0, np.multiply.outer(yy, xx) / (n - 1)
        third = np.multiply.outer(yyy, xxx) * n / max(1, (n - 1) * (n - 2))
    else:
        mean, variance, third = _exchange_moments(x, y, np.zeros(len(x)) if cells is None else cells, groups)
    deviation = np.sqrt(np.maximum(variance, 0))
    scale = np.sqrt(np.multiply.outer((y * y).sum(0), (x * x).sum(0)))
    with np.errstate(invalid="ignore", divide="ignore"):
        score, skew = (total - mean) / deviation, third / (deviation * deviation * deviation)
        bent = np.cbrt(np.maximum(skew * score / 2 + 1, 0))
        score = np.where(np.abs(skew) > 1e-3, 6 / skew * (bent - 1) + skew / 6, score)
    return total, np.where(deviation > 1e-6 * scale, score, 0.0)


def _exchange_moments(
    x: np.ndarray, y: np.ndarray, cells: np.ndarray, groups: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, variance and third cumulant [column of y, column of x] of the sums when groups are exchanged.

    The sum varies with the means of the groups that trade places, and with the order of the rows in each.
    """
    rows, _, sizes, cell, alike = exchangeable(cells, np.arange(len(x)) if groups is None else groups)
    alike = alike if groups is not None else np.zeros_like(alike)
    first = np.cumsum(sizes) - sizes
    order = np.lexsort((sizes, cell))
    stratum = np.flatnonzero(np.diff(cell[order] * len(order) + alike, prepend=-1))
    m = np.diff(stratum, append=len(order))[:, None]
    (z, zz, zzz), (c, cc, ccc) = (
        [part[order] for part in _within(side[rows], first, sizes[:, None])] for side in (x, y)
    )
    size = sizes[order][:, None]
    z = z * size  # the sum of a group of x meets the mean of one of y
    cc, ccc = cc / np.maximum(1, size - 1), ccc * size / np.maximum(1, (size - 1) * (size - 2))
    add = partial(np.add.reduceat, indices=stratum, axis=0)
    centred = lambda part: part - np.repeat(add(part) / m, m[:, 0], axis=0)  # noqa: E731
    mean = (add(c) / m).T @ add(z)
    z, c, dcc = centred(z), centred(c), centred(cc)
    one, two = np.maximum(1, m - 1), np.maximum(1, (m - 1) * (m - 2))
    (c2, c3), (z2, z3) = ([add(part) for part in powers(side)] for side in (c, z))
    variance = (c2 / one).T @ z2 + (add(cc) / m).T @ add(zz)
    third = (c3 * m / two).T @ z3 + (add(ccc) / m).T @ add(zzz)
    return mean, variance, third + 3 * (add(c * dcc) / one).T @ add(z * zz)


def powers(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squares and cubes, by products: ``x**3`` takes a logarithm of every number, fifty times the work."""
    square = x * x
    return square, square * x


def _within(x: np.ndarray, first: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, ...]:
    """Mean of each group, and the sums of squares and of cubes around it [group, column]."""
    s, ss, sss = (np.add.reduceat(part, first, axis=0) for part in (x, *powers(x)))
    mean = s / sizes
    return mean, (ss - s * mean).clip(min=0), sss - 3 * mean * ss + 2 * s * mean**2
