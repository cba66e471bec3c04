"""Tags: descriptors chosen on one part of the texts, tested by permutation, looked up on the other part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from nbkit import stats
from nbkit.activations import Activations
from nbkit.matching.scorers import TOGETHER, NotFinite, Scorer, align, both, checked, named, scorer_of
from nbkit.stats import correlation_interval, halves, p_values, q_values, resampled

UNITS_AT_ONCE = 2048  # columns turned into float32 at a time
LABELS_AT_ONCE = 2**26  # permuted labels [row, descriptor] at a time, in bytes

Frame = TypeVar("Frame", pd.Series, pd.DataFrame)


def pooled(
    activations: Mapping[str, Activations], labels: Mapping[str, pd.DataFrame]
) -> tuple[Activations, pd.DataFrame]:
    """Several corpora as one: activations (in memory) and their label matrix, both by corpus name.

    Text ids count on from corpus to corpus; the rows carry ``corpus`` and the old id as ``of_corpus``.
    Descriptors that not all corpora have are left out. Stores with different units: ``ValueError``.
    """
    first, *others = parts = list(activations.values())
    for name, other in zip(list(activations)[1:], others, strict=True):
        if not other.units["unit"].equals(first.units["unit"]):
            raise ValueError(f"the activations of {name!r} have other units than those of the first corpus")
    matrix = pd.concat(
        [align(activations[n], labels[n]) for n in activations], join="inner", ignore_index=True
    )
    rows = pd.concat([part.rows.assign(corpus=n) for n, part in activations.items()], ignore_index=True)
    rows = rows.rename(columns={"text_id": "of_corpus"})
    rows.insert(0, "text_id", np.arange(len(rows)))
    values = np.concatenate([part.values.T for part in parts], axis=1).T  # unit after unit, as stored
    manifest = {**first.manifest, "corpus": " + ".join(activations)}
    return replace(first, values=values, rows=rows, manifest=manifest), matrix.rename_axis("text_id")


def tag(
    activations: Activations,
    labels: pd.DataFrame,
    *,
    method: str = "pearson",
    top: int = 2,
    split: float = 0.5,
    groups: pd.Series | None = None,
    covariates: pd.DataFrame | None = None,
    ends: str = "high",
    permutations: int = 200,
    min_score: float = 0.0,
    alpha: float = 0.05,
    resamples: int = 0,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """The ``top`` descriptors of every unit, chosen on one part of the texts, checked on the other.

    split         share of the texts used for calibration
    groups        a group (document) for each text_id: a group is never on both sides of the split
    covariates    by text_id, numbers or categories: scores are of what they leave (``residuals``), and rows
                  are permuted only within their cells
    ends          "high", or "both": what a unit means when it is low competes too, as the score of
                  the negated unit; the column ``sign`` says which
    permutations  of the label rows; under each, a unit's best score over all descriptors is its null
                  (0: no test, p and q are NaN). Rows count as exchangeable (within cells), groups or not.
                  The smallest p is 1 / (1 + permutations): where only a share s of the units responds,
                  q <= alpha takes more than 1 / (s * alpha) of them
    min_score     and ``alpha``: a line is ``tagged`` if score >= min_score and q <= alpha
    resamples     bootstrap resamples of the held-out texts (with ``groups``, of its groups) for the
                  interval of ``validation_score``. 0: Fisher's z for pearson, NaN for other scorers
    seed          of the split, the permutations and the resamples

    Returns a frame, one line for each unit and rank:

    unit, rank        rank 1 is the best
    descriptor        the tag
    score             on the calibration texts
    validation_score  of the same tag on the others
    p                 (1 + permutations whose best score reaches ``score``) / (1 + permutations)
    q                 Benjamini-Hochberg over the units of the same rank
    sign              1: when the unit is high, -1: when it is low
    validation_rank   place of the tag among all descriptors on the validation texts
    low, high         95 % interval of ``validation_score``
    tagged            does the line pass both thresholds

    ``.attrs["texts"]`` holds how many texts each part had.
    """
    labels = align(activations, labels)
    if top > labels.shape[1]:
        raise ValueError(f"top={top} tags were asked for; there are {labels.shape[1]} descriptors")
    if ends not in ("high", "both"):
        raise ValueError(f'ends={ends!r}: "high" or "both"')
    plan = _planned(activations.rows["text_id"], split, groups, covariates, permutations, resamples, seed)
    scorer, matrix = both(scorer_of(method)) if ends == "both" else scorer_of(method), checked(labels)
    names, chosen = activations.units["unit"].to_numpy(), []
    step = len(names) if method in TOGETHER else UNITS_AT_ONCE
    blocks = range(0, len(names), max(1, step))
    for start in tqdm(blocks, desc="tag", unit=" blocks", leave=False, disable=not progress):
        values = np.asarray(activations.values[:, start : start + step], dtype=np.float32)
        try:
            chosen.append(_tag_block(plan.controlled(values), matrix, plan, scorer, top))
        except NotFinite as error:
            raise named(error, names, start) from None
    frame = _tag_frame(names, labels.columns.to_numpy(), chosen, top)
    frame["q"] = frame.groupby("rank")["p"].transform(lambda p: q_values(p.to_numpy()))
    if method == "pearson" and not resamples:
        interval = correlation_interval(frame["validation_score"].to_numpy(), len(plan.second))
        frame["low"], frame["high"] = interval
    significant = (frame["q"] <= alpha) if permutations else True
    frame["tagged"] = (frame["score"] >= min_score) & significant
    frame.attrs["texts"] = {"calibration": len(plan.first), "validation": len(plan.second)}
    return frame


def permutation_test(
    values: np.ndarray,
    labels: np.ndarray,
    descriptors: np.ndarray,
    units: np.ndarray,
    *,
    method: str = "pearson",
    permutations: int = 200,
    covariates: pd.DataFrame | None = None,
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> np.ndarray:
    """p [pair] of pairs that were chosen on other texts: do permuted labels score as high?

    values, labels      [row, unit] and [row, descriptor]
    descriptors, units  [pair] columns of the two
    permutations        of the rows, within cells of ``covariates`` if given: p is (1 + those under which the
                        pair scores as high) / (1 + permutations); 0: NaN
    groups              [row] document of each row: whole documents are exchanged

    ``tag`` tests the best of all descriptors, which it chooses; here nothing is chosen. Scorers that
    judge a unit beside others (``soft_wpmi``) are a ``ValueError``.
    """
    if method in TOGETHER:
        raise ValueError(f"{method!r} scores a unit beside others: choose another method to test a pair")
    scorer, generator = scorer_of(method), np.random.default_rng(seed)
    cells = None if covariates is None else _cells(covariates)
    orders = list(stats.permutations(len(labels), permutations, generator, cells=cells, groups=groups))
    p = np.full(len(units), np.nan)
    for descriptor in np.unique(descriptors):
        mine = descriptors == descriptor
        x, y = np.asarray(values[:, units[mine]]), labels[:, [descriptor]]
        p[mine] = p_values(scorer(x, y)[0], _null(x, y, orders, scorer))
    return p


def residuals(values: np.ndarray, covariates: pd.DataFrame, *, bins: int = 10) -> np.ndarray:
    """Activations ``[row, unit]`` without what the covariates explain (float32).

    ``covariates`` has one line for each row. Rows fall into cells: the categories crossed with ``bins``
    quantile bins of each number. Within each cell the mean and the slope on the numbers go, so that curved
    relations, and slopes that differ between corpora, go too.
    """
    if len(covariates) != len(values):
        raise ValueError(f"{len(values)} rows of activations and {len(covariates)} rows of covariates")
    every = np.arange(len(values))
    return _without(np.asarray(values, np.float32), _cells(covariates, bins), _numbers(covariates), (every,))


# ---------------------------------------------------------------------------------- inside


@dataclass(frozen=True)
class _Plan:
    """Which rows choose tags, which check them, and what is drawn at random: one for all blocks of units."""

    first: np.ndarray  # calibration rows
    second: np.ndarray  # validation rows
    orders: list[np.ndarray]  # permutations of the calibration rows
    draws: list[np.ndarray]  # bootstrap draws from the validation rows
    cells: np.ndarray | None = None  # of each row, under covariates
    numbers: np.ndarray | None = None

    def controlled(self, values: np.ndarray) -> np.ndarray:
        """``values`` without what the covariates explain, if there are any."""
        if self.cells is None or self.numbers is None:
            return values
        return _without(values, self.cells, self.numbers, (self.first, self.second))


def _planned(
    text_ids: pd.Series,
    split: float,
    groups: pd.Series | None,
    covariates: pd.DataFrame | None,
    permutations: int,
    resamples: int,
    seed: int,
) -> _Plan:
    known = None if groups is None else of_texts(groups, text_ids, "groups").to_numpy()
    first, second = halves(len(text_ids), split, seed, groups=known)
    cells = numbers = None
    if covariates is not None:
        covariates = of_texts(covariates, text_ids, "covariates")
        cells, numbers = _cells(covariates), _numbers(covariates)
    generator = np.random.default_rng(seed)
    inside = None if cells is None else cells[first]
    orders = list(stats.permutations(len(first), permutations, generator, cells=inside))
    return _Plan(first, second, orders, list(resampled(second, known, resamples, generator)), cells, numbers)


def _tag_block(
    values: np.ndarray, labels: np.ndarray, plan: _Plan, scorer: Scorer, top: int
) -> tuple[np.ndarray, ...]:
    """Candidates, scores, held-out scores, p-values, held-out ranks and intervals ``[rank, unit]``."""
    found = scorer(values[plan.first], labels[plan.first])
    best = np.argsort(-found, axis=0, kind="stable")[:top]
    scores = np.take_along_axis(found, best, axis=0)
    held_out = scorer(values[plan.second], labels[plan.second])
    validation = np.take_along_axis(held_out, best, axis=0)
    ranks = 1 + (held_out[None] > validation[:, None]).sum(1)
    low, high = _intervals(values, labels, best, plan.draws, scorer)
    null = _null(values[plan.first], labels[plan.first], plan.orders, scorer)
    return best, scores, validation, p_values(scores, null[:, None]), ranks, low, high


def _tag_frame(names: np.ndarray, descriptors: np.ndarray, blocks: list[tuple], top: int) -> pd.DataFrame:
    """One line for each unit and rank. Candidates beyond the descriptors are those of the low end."""
    parts = [np.concatenate(part, axis=1).T.ravel() for part in zip(*blocks, strict=True)]
    candidate, scores, validation, p, ranks, low, high = parts
    return pd.DataFrame(
        {
            "unit": np.repeat(names, top),
            "rank": np.tile(np.arange(1, top + 1), len(names)),
            "descriptor": descriptors[candidate % len(descriptors)],
            "score": scores,
            "validation_score": validation,
            "p": p,
            "q": np.nan,
            "sign": np.where(candidate < len(descriptors), 1, -1),
            "validation_rank": ranks,
            "low": low,
            "high": high,
        }
    )


def _null(values: np.ndarray, labels: np.ndarray, orders: Sequence[np.ndarray], scorer: Scorer) -> np.ndarray:
    """A unit's best score over all descriptors with the labels' rows permuted ``[permutation, unit]``."""
    parts, n = [np.empty((0, values.shape[1]))], labels.shape[1]
    for some in _at_once(orders, labels.nbytes):
        # permuted copies of the labels ride along as further descriptors: one product for many
        found = scorer(values, np.concatenate([labels[order] for order in some], axis=1))
        # [(end,) permutation, descriptor; unit]
        parts.append(found.reshape(-1, len(some), n, found.shape[1]).max((0, 2)))
    return np.concatenate(parts)


def _at_once(orders: Sequence[np.ndarray], size: int) -> Iterator[Sequence[np.ndarray]]:
    step = max(1, LABELS_AT_ONCE // max(1, size))
    return (orders[i : i + step] for i in range(0, len(orders), step))


def _intervals(
    values: np.ndarray, labels: np.ndarray, best: np.ndarray, draws: list[np.ndarray], scorer: Scorer
) -> tuple[np.ndarray, np.ndarray]:
    """95 % percentile intervals ``[rank, unit]`` of the chosen pairs; NaN without draws."""
    n = labels.shape[1]
    if not draws:
        return np.full(best.shape, np.nan), np.full(best.shape, np.nan)
    found = np.full((len(draws), *best.shape), np.nan)
    for i, rows in enumerate(draws):
        x, c = values[rows], labels[rows]
        for descriptor in np.unique(best % n):  # only the chosen pairs are scored
            rank, unit = np.nonzero(best % n == descriptor)
            some = scorer(x[:, unit], c[:, [descriptor]])
            found[i, rank, unit] = some[best[rank, unit] // n, np.arange(len(unit))]
    low, high = np.quantile(found, [0.025, 0.975], axis=0)
    return low, high


def of_texts(given: Frame, text_ids: pd.Series, what: str) -> Frame:
    """``given`` (by text_id) in the order of ``text_ids``. A missing text or value: ``ValueError``."""
    missing = ~text_ids.isin(given.index)
    if missing.any() or given.loc[text_ids].isna().to_numpy().any():
        which = text_ids[missing].iloc[0] if missing.any() else "(a value is missing)"
        raise ValueError(f"`{what}` must have a value for every text_id; there is none for {which}")
    return given.loc[text_ids]


def _cells(covariates: pd.DataFrame, bins: int = 10) -> np.ndarray:
    """Cell of each row: categories crossed with quantile bins of the numbers."""
    parts = {}
    for i, name in enumerate(covariates):
        column = covariates[name]
        if pd.api.types.is_numeric_dtype(column) and column.nunique() > 2:
            parts[i] = pd.qcut(column, bins, labels=False, duplicates="drop")
        else:
            parts[i] = column.astype(str)
    return pd.DataFrame(parts, index=covariates.index).groupby(list(parts)).ngroup().to_numpy()


def _numbers(covariates: pd.DataFrame) -> np.ndarray:
    return covariates.select_dtypes("number").to_numpy(dtype=np.float64)


def _without(
    values: np.ndarray, cells: np.ndarray, numbers: np.ndarray, parts: Sequence[np.ndarray]
) -> np.ndarray:
    """``values`` less mean and slope on the numbers in each cell, for each part of the rows by itself."""
    left = values.copy()
    for part in parts:
        for cell in np.unique(cells[part]):
            rows = part[cells[part] == cell]
            design = np.column_stack([np.ones(len(rows)), numbers[rows] - numbers[rows].mean(0)])
            basis = np.linalg.svd(design, full_matrices=False)
            basis = basis.U[:, basis.S > 1e-9 * max(1, basis.S[0])].astype(np.float32)
            left[rows] -= basis @ (basis.T @ values[rows])
    left[:, np.abs(left).max(0) <= 1e-5 * np.abs(values).max(0)] = 0  # all explained: no rounding noise
    return left
