"""Monotonicity: do rates rise or fall over the quantiles of a unit's activations?"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from math import factorial

import numpy as np
import pandas as pd
import scipy.stats
from tqdm.auto import tqdm

UNITS_AT_ONCE = 1024
BACK = 1 / 3  # of the range of the rates: a step back that is larger, and more than noise, ends a trend


def monotonicity(
    values_by_corpus: Mapping[str, np.ndarray],
    counts_by_corpus: Mapping[str, pd.DataFrame | np.ndarray],
    *,
    quantiles: int = 5,
    lengths_by_corpus: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """How many pairs of unit and token are strictly monotone over the quantiles, in m corpora at once.

    values_by_corpus   {corpus: [text, unit]}
    counts_by_corpus   {corpus: [text, token]}: how often each token is in each text, or a label matrix
                       of descriptors; the same columns in every corpus
    lengths_by_corpus  {corpus: [text]} words of each text: rates are then by words and not by texts, so
                       that a unit that follows length does not follow every token

    A frame with one line for each number m of corpora:

    corpora           m
    found             share of the pairs that rise (or fall) in all m, mean over the choices of m corpora
    lowest, highest   over those choices
    permuted          the same with the rows of the counts permuted: ties make it less than chance
    expected          2 / (q!)^m for q quantiles: all rising, or all falling

    A corpus without counts is a ``ValueError``. Bolukbasi et al. 2021, 915 tokens: 22.7-29.6 % in one
    corpus, 7.4-10.9 % in two, 3.0-4.2 % in three, 1.9 % in all four; by chance 1.7 % and 1e-8.
    """
    names, rng = list(values_by_corpus), np.random.default_rng(seed)
    missing = set(names) - set(counts_by_corpus)
    if missing:
        raise ValueError(f"no counts for the corpus {sorted(missing)[0]!r}")
    signs: dict[str, list[np.ndarray]] = {"found": [], "permuted": []}
    for name in tqdm(names, desc="monotonicity", leave=False, disable=not progress):
        counts = np.asarray(counts_by_corpus[name], dtype=np.float32)
        words = np.ones(len(counts)) if lengths_by_corpus is None else lengths_by_corpus[name]
        both = np.column_stack([counts, np.asarray(words, dtype=np.float32)])
        for kind, table in (("found", both), ("permuted", rng.permutation(both))):
            signs[kind].append(_signs(values_by_corpus[name], table, quantiles))
    lines = []
    for m in range(1, len(names) + 1):
        rates = {
            kind: [_together([parts[i] for i in some]) for some in combinations(range(len(names)), m)]
            for kind, parts in signs.items()
        }
        line = {"corpora": m, "found": np.mean(rates["found"])}
        line |= {"lowest": min(rates["found"]), "highest": max(rates["found"])}
        expected = 2 / factorial(quantiles) ** m
        lines.append(line | {"permuted": np.mean(rates["permuted"]), "expected": expected})
    return pd.DataFrame(lines)


# ---------------------------------------------------------------------------------- rates over quantiles


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks [text, unit] from 1; equal activations share their mean rank, whatever the order of the rows."""
    return scipy.stats.rankdata(values.T, axis=1).T


def cells(ranks: np.ndarray, quantiles: int) -> np.ndarray:
    """Quantile [text, unit] from 0; equal activations are in one."""
    return np.minimum((ranks - 0.5) * quantiles / len(ranks), quantiles - 1).astype(np.int8)


def rates(ranks: np.ndarray, labels: np.ndarray, quantiles: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the labels [quantile, descriptor, unit], and texts [quantile, unit], in each quantile."""
    inside, turned = cells(ranks, quantiles), np.ascontiguousarray(labels.T)
    members = [(inside == quantile).astype(np.float32) for quantile in range(quantiles)]
    return np.stack([turned @ part for part in members]), np.stack([part.sum(0) for part in members])


def direction(sums: np.ndarray, sizes: np.ndarray, alpha: float, strict: bool = False) -> np.ndarray:
    """1 where the rates rise, -1 where they fall, 0 for neither [descriptor, unit].

    ``strict``: every step rises, or every step falls; an empty quantile is neither. Otherwise the last rate
    is above the first, and no step back is both significant (two proportions, normal, one-sided ``alpha``)
    and more than ``BACK`` of the range; empty quantiles are passed over.
    """
    sizes = np.broadcast_to(sizes[:, None], sums.shape)
    if strict:
        steps, whole = np.diff(_rate(sums, sizes), axis=0), (sizes > 0).all(0)
        rises, falls = (steps > 0).all(0) & whole, (steps < 0).all(0) & whole
        return np.subtract(rises, falls, dtype=np.int8)
    sums, sizes = _passed_over(sums, sizes)
    rates = _rate(sums, sizes)
    steps, share = np.diff(rates, axis=0), _rate(sums[1:] + sums[:-1], sizes[1:] + sizes[:-1])
    error = np.sqrt((share * (1 - share)).clip(min=0) * (1 / sizes[1:] + 1 / sizes[:-1]))
    bound = np.maximum(scipy.stats.norm.isf(alpha) * error, BACK * np.ptp(rates, axis=0))
    change, bound = rates[-1] - rates[0], bound + 1e-6  # a step of rounding is none
    rises, falls = (steps >= -bound).all(0) & (change > 0), (steps <= bound).all(0) & (change < 0)
    return rises.astype(np.int8) - falls.astype(np.int8)


def _rate(sums: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    return np.divide(sums, sizes, out=np.zeros_like(sums), where=sizes > 0)


def _passed_over(sums: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quantiles without texts repeat the one below them (the lowest ones, the one above)."""
    sums, sizes, n = sums.copy(), sizes.copy(), len(sums)
    for here, there in [(i, i - 1) for i in range(1, n)] + [(i, i + 1) for i in range(n - 2, -1, -1)]:
        empty = sizes[here] == 0
        for part in (sums, sizes):
            part[here] = np.where(empty, part[there], part[here])
    return sums, sizes


def _signs(values, table: np.ndarray, quantiles: int) -> np.ndarray:
    """1, -1 or 0 [token, unit]: do the rates rise or fall strictly? The last column is the denominator."""
    parts = []
    for start in range(0, values.shape[1], UNITS_AT_ONCE):
        x = np.asarray(values[:, start : start + UNITS_AT_ONCE], dtype=np.float32)
        sums, _ = rates(ranks(x), table, quantiles)
        parts.append(direction(sums[:, :-1], sums[:, -1], alpha=0.0, strict=True))
    return np.concatenate(parts, axis=1)


def _together(signs: list[np.ndarray]) -> float:
    """Share of the pairs with one sign in all."""
    return float(np.mean(np.all(signs, axis=0) & (np.abs(np.sum(signs, axis=0)) == len(signs))))
