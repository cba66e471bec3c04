"""Stats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.stats
from scipy import special


class Estimate(NamedTuple):
    """A mean with its bootstrap interval."""

    value: float
    low: float
    high: float
    n: int  # how many things were averaged

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def bootstrap(values: np.ndarray, *, n: int = 1000, confidence: float = 0.95, seed: int = 0) -> Estimate:
    """Mean of ``values`` with the percentile interval over ``n`` resamples.

    The values are resampled one by one: give one value for each independent thing (unit, text). No
    values give NaN.
    """
    values = np.asarray(values, dtype=float)
    if not len(values):
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    generator = np.random.default_rng(seed)
    means = [values[generator.integers(0, len(values), len(values))].mean() for _ in range(n)]
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(float(values.mean()), float(low), float(high), len(values))


def rank_correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman's correlation [...] of centred ranks [..., descriptor]; 0 where a side is constant."""
    xy, xx, yy = (np.einsum("...d,...d->...", *pair) for pair in ((x, y), (x, x), (y, y)))
    spread = np.sqrt(xx * yy)
    return np.divide(xy, spread, out=np.zeros_like(spread), where=spread > 0)


def top_texts(values: np.ndarray, k: int = 10) -> np.ndarray:
    """Rows [k, unit] of the ``k`` highest activations, strongest first; ties in the order of the rows.

    Fewer than ``k`` texts are a ``ValueError``.
    """
    if not 1 <= k <= len(values):
        raise ValueError(f"k={k} texts were asked for; there are {len(values)}")
    columns = -np.asarray(values, dtype=np.float32).T  # [unit, text]
    edge = np.partition(columns, k - 1, axis=1)[:, k - 1 : k]
    unit, row = np.nonzero(~(columns > edge))  # the k highest, and what ties with the last: sorted is no more
    order = np.lexsort((row, columns[unit, row], unit))
    first = np.searchsorted(
        unit, np.arange(len(columns))
    )  # sorting leaves every unit's places where they are
    return row[order][first[:, None] + np.arange(k)].T


def random_directions(
    values_by_corpus: Mapping[str, np.ndarray], n: int, seed: int = 0
) -> dict[str, np.ndarray]:
    """Projections [text, n] of every corpus on the same random unit vectors of the units' space."""
    drawn = unit_vectors(next(iter(values_by_corpus.values())).shape[1], n, seed)
    return {name: np.asarray(x, dtype=np.float32) @ drawn for name, x in values_by_corpus.items()}


# ---------------------------------------------------------------------------------- inside


def unit_vectors(width: int, n: int, seed: int) -> np.ndarray:
    """``n`` random directions [unit, direction] of length 1."""
    drawn = np.random.default_rng(seed).standard_normal((width, n)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=0)


def halves(
    n: int, split: float = 0.5, seed: int = 0, *, groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """A random partition of ``range(n)`` into two sorted parts, the first with a share ``split``.

    With ``groups`` (one for each row) whole groups are drawn until the first part would be nearer to
    its share without the next.
    """
    cut, generator = round(n * split), np.random.default_rng(seed)
    if not 2 <= cut <= n - 2:
        raise ValueError(f"split={split} of {n} rows leaves a part with fewer than two")
    if groups is None:
        order = generator.permutation(n)
        return np.sort(order[:cut]), np.sort(order[cut:])
    codes, names = pd.factorize(np.asarray(groups))
    if len(names) < 2 or (codes < 0).any():
        raise ValueError(f"{len(names)} groups over {n} rows: a split needs two, and a group for every row")
    drawn = generator.permutation(len(names))
    filled = np.cumsum(np.bincount(codes)[drawn])[:-1]  # the last group stays for the second part
    taken = np.isin(codes, drawn[: 1 + np.abs(filled - cut).argmin()])
    return np.flatnonzero(taken), np.flatnonzero(~taken)


def fisher(r: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval of a correlation over n rows; NaN with fewer than four."""
    if n < 4:
        return np.full_like(r, np.nan), np.full_like(r, np.nan)
    z = np.arctanh(np.clip(r, -1 + 1e-12, 1 - 1e-12))
    return np.tanh(z - 1.96 / np.sqrt(n - 3)), np.tanh(z + 1.96 / np.sqrt(n - 3))


def shuffle(rows: np.ndarray, cells: np.ndarray | None, generator: np.random.Generator) -> np.ndarray:
    """A permutation of the positions in ``rows``, within cells if there are any."""
    order = generator.permutation(len(rows))
    if cells is None:
        return order
    found = np.empty_like(order)
    found[np.argsort(cells[rows], kind="stable")] = order[np.argsort(cells[rows][order], kind="stable")]
    return found


def resampled(rows, groups, n: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """``n`` bootstrap draws from ``rows``; of whole groups if there are any."""
    if groups is None:
        yield from (rows[generator.integers(0, len(rows), len(rows))] for _ in range(n))
        return
    members = [rows[i] for i in pd.Series(groups[rows]).groupby(groups[rows]).indices.values()]
    for _ in range(n):
        yield np.concatenate([members[i] for i in generator.integers(0, len(members), len(members))])


def two_sided(r: np.ndarray, n: int) -> np.ndarray:
    """p of a correlation over n rows, by Student's t."""
    r = np.clip(r, -1 + 1e-12, 1 - 1e-12)
    return 2 * special.stdtr(n - 2, -np.abs(r) * np.sqrt((n - 2) / (1 - r**2)))


def fdr(p: np.ndarray) -> np.ndarray:
    return scipy.stats.false_discovery_control(np.clip(p, 0, 1), axis=None).reshape(p.shape)
