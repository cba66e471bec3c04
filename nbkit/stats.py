"""Statistics that several rooms need, each written once.

    bootstrap(values)               a mean with its 95 % interval: an ``Estimate``
    share(values, groups)           the same for shares (Wilson), also of things that are alike in groups
    mean_of_few, mean_of_pairs      of seeds or splits (Student's t), of pairs of corpora (jackknife)
    halves(n, groups=documents)     a random partition of rows; whole groups stay on one side
                                    (``usable_groups`` says whether documents are enough)
    permutations(size, n, generator)      random orders of rows, within cells, or of whole groups
    ranks(x)                        from 1, ties with their mean rank
    exchangeable(cells, groups)     which of them trade places
    resampled, thinned              rows drawn with replacement, and with fewer positives
    p_values(found, null)           permutation p: (1 + draws that reach what was found) / (1 + draws)
    q_values(p)                     Benjamini-Hochberg
    correlation(x, y)               Pearson along the last axis; ``rank_correlation`` Spearman;
                                    ``correlation_of_sums`` from running sums
    correlation_interval(x, y, groups)    its 95 % interval; ``correlation_p`` two-sided, by Student's t
    auroc_of_ranks(on, ranks)       AUROC of every descriptor and unit
    top_texts(values, k)            rows of the highest activations of every unit
    random_directions(values_by_corpus, n)     projections on random unit vectors (``unit_vectors``)

Arrays are numpy's; activations are [row, unit] unless a docstring says otherwise. ``seed`` is an integer
or a ``numpy.random.Generator``; ``permutations`` and ``resampled`` take a Generator. Intervals cover 95 %.
All of it is textbook material: scipy is called where it has a method, and what it lacks (groups, cells, many
columns at once) is written here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.special
import scipy.stats

Seed = int | np.random.Generator

FEWEST_GROUPS = 4  # documents, from which texts are treated as parts of them
ALIKE = 8  # groups of like size, at least, that trade places in a permutation

__all__ = [
    "Estimate",
    "auroc_of_ranks",
    "bootstrap",
    "correlation",
    "correlation_interval",
    "correlation_of_sums",
    "correlation_p",
    "cosine",
    "direction_units",
    "exchangeable",
    "halves",
    "mean_of_few",
    "mean_of_pairs",
    "p_values",
    "permutations",
    "q_values",
    "random_directions",
    "rank_correlation",
    "ranks",
    "resampled",
    "share",
    "thinned",
    "top_texts",
    "unit_vectors",
    "usable_groups",
]


class Estimate(NamedTuple):
    """A mean with its interval; prints as ``0.50 [0.41, 0.59]``."""

    value: float
    low: float
    high: float
    n: int  # how many things were averaged

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def bootstrap(
    values: np.ndarray,
    *,
    weights: np.ndarray | None = None,
    n: int = 1000,
    confidence: float = 0.95,
    seed: Seed = 0,
) -> Estimate:
    """Mean of ``values`` (weighted, if ``weights`` are given) with its percentile bootstrap interval.

    The ``n`` resamples draw the values one by one: give one value for each independent thing (unit, text).
    No values give NaN, a single one an interval of length 0.
    """
    x = np.asarray(values, dtype=float)
    if not len(x):
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    w = np.ones_like(x) if weights is None else np.asarray(weights, dtype=float)
    mean = float((x * w).sum() / w.sum())
    if len(x) == 1:
        return Estimate(mean, mean, mean, 1)
    found = scipy.stats.bootstrap(
        (x * w, w),
        lambda xs, ws, axis: xs.sum(axis) / ws.sum(axis),
        paired=True,
        n_resamples=n,
        confidence_level=confidence,
        method="percentile",
        batch=max(1, 2**21 // len(x)),  # bounds the memory
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(mean, float(found.low), float(found.high), len(x))


def mean_of_few(values: np.ndarray, *, overlap: float = 0.0) -> Estimate:
    """Mean of a few ``values`` (seeds, splits) with Student's t interval; a bootstrap of few is too narrow.

    overlap   rows to test on / rows to train on, for random splits of the same rows: what they share makes
              the variance of the mean (1/n + overlap) s^2 and not s^2 / n (Nadeau and Bengio 2003)

    No values give NaN, a single one a mean without an interval (NaN).
    """
    x = np.asarray(values, dtype=float)
    if len(x) < 2:
        nan = float("nan")
        return Estimate(float(x[0]) if len(x) else nan, nan, nan, len(x))
    half = float(scipy.stats.t.isf(0.025, len(x) - 1)) * float(
        np.sqrt((1 / len(x) + overlap) * x.var(ddof=1))
    )
    return Estimate(float(x.mean()), float(x.mean()) - half, float(x.mean()) + half, len(x))


def mean_of_pairs(values: np.ndarray, first: np.ndarray, second: np.ndarray) -> Estimate:
    """Mean over pairs of things (corpora) with an interval over the things; each is in several pairs.

    values          [pair]
    first, second   [pair] names of the two; ``first == second`` throughout makes it the t interval of a mean

    Each thing is left out in turn with all of its pairs (jackknife), Student's t for as many things. A thing
    that is in every pair, or fewer than three things: no interval (NaN).
    """
    x, first, second = np.asarray(values, dtype=float), np.asarray(first), np.asarray(second)
    names = pd.unique(np.concatenate([first, second]))
    rest = [x[(first != name) & (second != name)] for name in names]
    mean, n = float(x.mean()) if len(x) else float("nan"), len(names)
    if n < 3 or not all(map(len, rest)):
        return Estimate(mean, float("nan"), float("nan"), len(x))
    without = np.array([part.mean() for part in rest])
    error = np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum())
    half = float(scipy.stats.t.isf(0.025, n - 1) * error)
    return Estimate(mean, mean - half, mean + half, len(x))


def share(values: np.ndarray, groups: np.ndarray | None = None) -> Estimate:
    """Mean of ``values`` in [0, 1] (yes or no, or shares) with Wilson's interval at the effective number.

    values   [thing] one for each thing judged; none give NaN
    groups   [thing] things of a group are alike (units of one descriptor): the interval is then over groups

    Wilson's interval stays in [0, 1], and 64 of 64 is [.94, 1], where a bootstrap says [1, 1]. The effective
    number of things is the one at which yes-or-no answers would have the variance that the mean has. Where
    all values are 0, or 1, it is that of the groups.
    """
    x = np.asarray(values, dtype=float)
    if not len(x):
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    codes = np.arange(len(x)) if groups is None else pd.factorize(np.asarray(groups))[0]
    mean, n_groups = float(x.mean()), int(codes.max()) + 1
    z = 1.96 if groups is None else float(scipy.stats.t.isf(0.025, max(1, n_groups - 1)))
    n = n_groups
    if 0 < mean < 1 and n_groups > 1:
        variance = ((x - mean) ** 2).sum() / len(x) ** 2
        if groups is not None:
            by_group = (np.bincount(codes, x - mean) ** 2).sum() * n_groups / (n_groups - 1)
            variance = max(variance, by_group / len(x) ** 2)
        n = mean * (1 - mean) / variance if variance else n_groups
    centre, half = mean + z**2 / (2 * n), z * np.sqrt(mean * (1 - mean) / n + z**2 / (4 * n**2))
    low, high = ((centre + side * half) / (1 + z**2 / n) for side in (-1, 1))
    return Estimate(mean, float(max(0.0, low)), float(min(1.0, high)), len(x))


# ---------------------------------------------------------------------------------- rows drawn at random


def halves(
    n: int, split: float = 0.5, seed: Seed = 0, *, groups: np.ndarray | None = None, least: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    """A random partition of ``range(n)`` into two sorted parts, the first with a share ``split``.

    With ``groups`` (one for each row) whole groups are drawn, so many that the share is met as nearly as
    they allow. Fewer than ``least`` rows in a part, a missing group or a single one: ``ValueError``.
    """
    cut, generator = round(n * split), np.random.default_rng(seed)
    if not least <= cut <= n - least:
        raise ValueError(f"split={split} of {n} rows leaves a part with fewer than {least}")
    if groups is None:
        order = generator.permutation(n)
        return np.sort(order[:cut]), np.sort(order[cut:])
    codes, names = pd.factorize(np.asarray(groups))
    if len(names) < 2 or (codes < 0).any():
        raise ValueError(f"{len(names)} groups over {n} rows: a split needs two, and a group for every row")
    drawn = generator.permutation(len(names))
    filled = np.cumsum(np.bincount(codes)[drawn])[:-1]  # the last group stays for the second part
    taken = np.isin(codes, drawn[: 1 + np.abs(filled - n * split).argmin()])
    return np.flatnonzero(taken), np.flatnonzero(~taken)


def usable_groups(groups: pd.Series | np.ndarray | None) -> np.ndarray | None:
    """``groups`` (documents) of the rows, or None: where there are none, one is missing, or there are few.

    Fewer than ``FEWEST_GROUPS`` can neither be split nor permuted; rows then count as independent.
    """
    if groups is None or pd.isna(groups).any() or pd.Series(groups).nunique() < FEWEST_GROUPS:
        return None
    return np.asarray(groups)


def permutations(
    size: int,
    n: int,
    generator: np.random.Generator,
    *,
    cells: np.ndarray | None = None,
    groups: np.ndarray | None = None,
) -> Iterator[np.ndarray]:
    """``n`` random orders of ``range(size)``: which row takes the place of each.

    cells    [row] rows trade places only within their cell
    groups   [row] whole groups (documents) are exchanged: each receives the rows of a group of similar size,
             in order from a random row, wrapping round. Rows of a larger group are partly unused, those of a
             smaller one come twice. With ``cells``, only the parts inside one cell are exchanged

    Rows of a document are alike, in labels as in activations. Permuting single rows destroys that and
    gives p-values that are far too small.
    """
    if groups is not None:
        yield from _exchanges(np.zeros(size) if cells is None else cells, groups, n, generator)
        return
    for _ in range(n):
        order = generator.permutation(size)
        if cells is not None:
            within = np.empty_like(order)
            within[np.argsort(cells, kind="stable")] = order[np.argsort(cells[order], kind="stable")]
            order = within
        yield order


def _exchanges(
    cells: np.ndarray, groups: np.ndarray, n: int, generator: np.random.Generator
) -> Iterator[np.ndarray]:
    """``permutations`` of blocks of rows: a block is what a cell has of a group."""
    rows, block, sizes, cell, alike = exchangeable(cells, groups)
    first = np.cumsum(sizes) - sizes
    offset = np.empty_like(rows)
    offset[rows] = np.arange(len(rows)) - first[block[rows]]
    for _ in range(n):
        by_size = np.lexsort((generator.random(len(cell)), sizes, cell))  # equal sizes in random order
        source = np.empty_like(by_size)
        source[by_size] = by_size[np.lexsort((generator.random(len(cell)), alike, cell))]
        start = (generator.random(len(cell)) * sizes[source]).astype(int)
        other = source[block]
        yield rows[first[other] + (start[block] + offset) % sizes[other]]


def exchangeable(cells: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, ...]:
    """A block is what a cell has of a group: rows by block, block of each row, sizes, cells.

    Last, of the blocks by cell and size: equal numbers trade places.
    """
    cell_of_row, _ = pd.factorize(cells)
    block = (
        pd.DataFrame({"cell": cell_of_row, "group": groups}).groupby(["cell", "group"]).ngroup().to_numpy()
    )
    rows = np.argsort(block, kind="stable")
    sizes = np.bincount(block)
    cell = cell_of_row[rows[np.cumsum(sizes) - sizes]]  # blocks are numbered cell by cell
    blocks_in = np.bincount(cell)
    place = np.arange(len(cell)) - (np.cumsum(blocks_in) - blocks_in)[cell]
    alike = np.minimum(place // ALIKE, np.maximum(blocks_in[cell] // ALIKE - 1, 0))
    return rows, block, sizes, cell, alike


def resampled(
    rows: np.ndarray, groups: np.ndarray | None, n: int, generator: np.random.Generator
) -> Iterator[np.ndarray]:
    """``n`` bootstrap draws from ``rows``, of whole groups where there are any.

    ``groups`` has one value for each row of the whole, not only for those in ``rows``.
    """
    if groups is None:
        yield from (rows[generator.integers(0, len(rows), len(rows))] for _ in range(n))
        return
    members = [rows[i] for i in pd.Series(groups[rows]).groupby(groups[rows]).indices.values()]
    for _ in range(n):
        yield np.concatenate([members[i] for i in generator.integers(0, len(members), len(members))])


def thinned(on: np.ndarray, odds: float, seed: Seed = 0, *, least: int = 0) -> np.ndarray:
    """Drop positives at random until there are at most ``odds`` per negative; the sorted positions kept.

    ``on`` [row] says which rows are positive. All negatives stay, and at least ``least`` positives.
    """
    positive, negative = np.flatnonzero(on), np.flatnonzero(~on)
    kept = max(least, round(min(odds * len(negative), len(positive))))
    drawn = np.random.default_rng(seed).permutation(positive)[:kept]
    return np.sort(np.concatenate([drawn, negative]))


# ---------------------------------------------------------------------------------- tests


def p_values(found: np.ndarray, null: np.ndarray) -> np.ndarray:
    """One-sided permutation p: (1 + draws that reach ``found``) / (1 + draws); NaN without draws.

    null   [draw, ...] what the draws gave, of a shape that broadcasts against ``found`` [...]
    """
    if not len(null):
        return np.full(np.shape(found), np.nan)
    reached = (null >= np.asarray(found) - 1e-9).sum(0)  # equal up to rounding counts
    return (1 + reached) / (1 + len(null))


def q_values(p: np.ndarray) -> np.ndarray:
    """Benjamini-Hochberg over all of ``p``, in its shape; NaN (not tested) stays NaN and does not count."""
    p = np.asarray(p, dtype=float)
    q, tested = np.full(p.shape, np.nan), ~np.isnan(p)
    if tested.any():
        q[tested] = scipy.stats.false_discovery_control(np.clip(p[tested], 0, 1))
    return q


# ---------------------------------------------------------------------------------- correlation, AUROC


def ranks(x: np.ndarray) -> np.ndarray:
    """Ranks along the last axis, from 1, float32; equal values share their mean rank. Fastest in float16."""
    if x.dtype == np.float16:
        bits = (x + np.float16(0)).view(np.uint16)  # -0 becomes 0
        order = np.where(bits >> 15, ~bits, bits | 0x8000).argsort(-1, kind="stable")
    else:
        order = x.argsort(-1)
    ordered = np.take_along_axis(x, order, -1)
    place = np.arange(x.shape[-1], dtype=np.int32)
    new, end = np.ones((2, *x.shape), dtype=bool)
    new[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    end[..., :-1] = new[..., 1:]
    low = np.maximum.accumulate(np.where(new, place, 0), axis=-1)  # of the run of equal values
    high = np.minimum.accumulate(np.where(end, place, len(place))[..., ::-1], axis=-1)[..., ::-1]
    found = np.empty(x.shape, np.float32)
    np.put_along_axis(found, order, (low + high) / np.float32(2) + 1, axis=-1)
    return found


def cosine(x: np.ndarray, y: np.ndarray, *, undefined: float = 0.0) -> np.ndarray:
    """Cosine along the last axis [...]; ``undefined`` where a side is zero. Of centred sides: Pearson's r."""
    xy, xx, yy = (np.einsum("...d,...d->...", *pair) for pair in ((x, y), (x, x), (y, y)))
    length = np.sqrt(xx * yy)
    return np.divide(xy, length, out=np.full_like(length, undefined), where=length > 0)


def correlation(x: np.ndarray, y: np.ndarray, *, undefined: float = 0.0) -> np.ndarray:
    """Pearson's correlation along the last axis [...]; ``undefined`` where a side is constant."""
    centred = (side - side.mean(-1, keepdims=True) for side in (x, y))
    return cosine(*centred, undefined=undefined)


def rank_correlation(x: np.ndarray, y: np.ndarray, *, undefined: float = 0.0) -> np.ndarray:
    """Spearman's correlation along the last axis [...], ties with their mean rank."""
    ranks = (scipy.stats.rankdata(side, axis=-1) for side in (x, y))
    return correlation(*ranks, undefined=undefined)


def correlation_of_sums(n, x, xx, y, yy, xy, *, tiny: float = 1e-6) -> np.ndarray:
    """Pearson's correlation from sums over ``n`` rows of x, x^2, y, y^2 and x * y, which broadcast.

    0 where the product of the standard deviations is ``tiny`` or less, which is rounding error.
    """
    x, y = x / n, y / n
    scale = np.sqrt((xx / n - x * x).clip(min=0)) * np.sqrt((yy / n - y * y).clip(min=0))
    return np.divide(xy / n - x * y, scale, out=np.zeros_like(scale), where=scale > tiny)


def correlation_interval(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval (low, high) [pair] of the correlation of the columns of ``x`` and ``y`` [row, pair].

    ``groups`` [row] are what is independent (documents); None: the rows. The influence of the rows on the
    correlation is summed by group; the spread of the sums is its error, on Fisher's scale, with Student's t
    for as many groups as equally large ones would be. 0 to 0 where a side is constant.

    Fisher's own error, 1 / sqrt(n - 3), is that of normal variables: of units that vary more where they
    respond, or are cut off at zero, it covers 70 to 80 %.
    """
    groups = np.arange(len(x)) if groups is None else groups
    zx, zy = (np.nan_to_num((side - side.mean(0)) / side.std(0).clip(min=1e-12)) for side in (x, y))
    r = (zx * zy).mean(0)
    order = np.argsort(groups, kind="stable")
    first = np.flatnonzero(np.diff(pd.factorize(groups[order])[0], prepend=-1))
    sums = np.add.reduceat((zx * zy - r * (zx**2 + zy**2) / 2)[order], first, axis=0)  # [group, pair]
    sizes = np.diff(first, append=len(x))
    n = len(x) ** 2 / (sizes**2).sum()  # groups, if they were equally large
    error = np.sqrt((sums**2).sum(0) * n / max(1, n - 1)) / len(x)
    r = np.clip(r, -1 + 1e-12, 1 - 1e-12)
    half = scipy.stats.t.isf(0.025, max(1, n - 1)) * error / (1 - r**2)
    return np.tanh(np.arctanh(r) - half), np.tanh(np.arctanh(r) + half)


def correlation_p(r: np.ndarray, n: int) -> np.ndarray:
    """Two-sided p of correlations over ``n`` rows, by Student's t."""
    r = np.clip(r, -1 + 1e-12, 1 - 1e-12)
    return 2 * scipy.special.stdtr(n - 2, -np.abs(r) * np.sqrt((n - 2) / (1 - r**2)))


def auroc_of_ranks(on, ranks):
    """P(a row with the descriptor is above one without), ties half: Mann-Whitney U / (n+ n-).

    on      [descriptor, row] 1 where the row has the descriptor, else 0 (floats)
    ranks   [unit, row] of the activations, from 1, ties with their mean rank

    [descriptor, unit], .5 for a descriptor that every row has, or none. Arrays of numpy or torch.
    """
    n, rows = on.sum(1)[:, None], on.shape[1]
    pairs = n * (rows - n)
    won = on @ ranks.T - n * (n + 1) / 2
    return 0.5 + (won - pairs / 2) / (pairs + (pairs == 0))


# ---------------------------------------------------------------------------------- units


def top_texts(values: np.ndarray, k: int = 10) -> np.ndarray:
    """Rows [k, unit] of the ``k`` highest activations, strongest first; ties in the order of the rows.

    Fewer than ``k`` rows are a ``ValueError``.
    """
    if not 1 <= k <= len(values):
        raise ValueError(f"k={k} texts were asked for; there are {len(values)}")
    columns = -np.asarray(values, dtype=np.float32).T  # [unit, text]
    edge = np.partition(columns, k - 1, axis=1)[:, k - 1 : k]
    unit, row = np.nonzero(~(columns > edge))  # the k highest and their ties: little is left to sort
    order = np.lexsort((row, columns[unit, row], unit))
    first = np.searchsorted(unit, np.arange(len(columns)))  # where each unit's rows begin
    return row[order][first[:, None] + np.arange(k)].T


def unit_vectors(width: int, n: int, seed: Seed = 0) -> np.ndarray:
    """``n`` random directions of length 1, float32 [width, direction]."""
    drawn = np.random.default_rng(seed).standard_normal((width, n)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=0)


def direction_units(n: int) -> pd.DataFrame:
    """The frame of units of ``n`` directions: ``direction.0``, ``direction.1``, ..."""
    return pd.DataFrame({"unit": [f"direction.{i}" for i in range(n)]})


def random_directions(values_by_corpus: Mapping[str, Any], n: int, seed: Seed = 0) -> dict[str, np.ndarray]:
    """Projections [text, n] of every corpus on the same random unit vectors of the units' space."""
    drawn = unit_vectors(next(iter(values_by_corpus.values())).shape[1], n, seed)
    found = {name: np.zeros((len(x), n), np.float32) for name, x in values_by_corpus.items()}
    for name, x in values_by_corpus.items():
        for start in range(0, len(drawn), 1024):
            some = slice(start, start + 1024)
            found[name] += np.asarray(x[:, some], np.float32) @ drawn[some]
    return found
