"""Matching: which descriptors does a unit respond to, and could chance have done it?

    SCORERS                       name -> scorer (nbkit.matching.scorers says what each is)
    score(values, labels)         frame [descriptor, unit]
    tag(activations, labels)      the best descriptors of every unit, with a p-value and a held-out score
    chance(values, labels, descriptors, units)           p of pairs that were named beforehand
    floors(activations, labels)   the same for random directions, permuted rows, random weights
    collisions(tags), coverage(tags), jaccard(tags)      what a set of tags is like
    compose(activations, labels, units)   "a and not b": composites, where they beat the best atom
    residuals(values, covariates)    activations without what length, corpus or the like explain
    pooled(activations, labels)   several corpora as one

A scorer takes activations ``[row, unit]`` and labels ``[row, descriptor]`` (P(descriptor | text), in
[0, 1]) with the same rows, and returns ``[descriptor, unit]``; higher is more alike.

A tag is a claim, so ``tag`` chooses it on one part of the texts (calibration) and looks it up on the
other (validation), and compares its score with what permuted rows reach at best. Ours: the null of the
best of all descriptors, the control for covariates by residuals within cells, the held-out test of
composites. Their beam search is that of compositional explanations (Mu and Andreas 2020).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control
from tqdm.auto import tqdm

from nbkit.activations import Activations
from nbkit.matching.scorers import TOGETHER, NotFinite, align, both, checked, named, scorer_of
from nbkit.stats import correlation_interval, halves, resampled, shuffled

UNITS_AT_ONCE = 2048  # columns turned into float32 at a time
LABELS_AT_ONCE = 2**26  # permuted labels [row, descriptor] at a time, in bytes


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
    whole = replace(
        first, values=values, rows=rows, manifest={**first.manifest, "corpus": " + ".join(activations)}
    )
    return whole, matrix.rename_axis("text_id")


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
    covariates       covariates by text_id, numbers or categories: scores are of what they leave
                  (``residuals``), and rows are permuted only within their cells
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
    frame["q"] = frame.groupby("rank")["p"].transform(false_discovery_control) if permutations else np.nan
    if method == "pearson" and not resamples:
        frame["low"], frame["high"] = correlation_interval(
            frame["validation_score"].to_numpy(), len(plan.second)
        )
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
    seed: int = 0,
) -> np.ndarray:
    """p [pair] of pairs that were chosen on other texts: could chance have scored as high?

    values, labels      [row, unit] and [row, descriptor]
    descriptors, units  [pair] columns of the two
    permutations        of the rows, within cells of ``covariates`` if given: p is (1 + those under which the
                        pair scores as high) / (1 + permutations); 0: NaN

    ``tag`` tests the best of all descriptors, which it chooses; here nothing is chosen. Scorers that
    judge a unit beside others (``soft_wpmi``) are a ``ValueError``.
    """
    if method in TOGETHER:
        raise ValueError(f"{method!r} scores a unit beside others: choose another method to test a pair")
    scorer, generator = scorer_of(method), np.random.default_rng(seed)
    cells = None if covariates is None else _cells(covariates)
    orders = [shuffled(np.arange(len(labels)), cells, generator) for _ in range(permutations)]
    p = np.full(len(units), np.nan)
    for descriptor in np.unique(descriptors):
        mine = descriptors == descriptor
        x, y = np.asarray(values[:, units[mine]]), labels[:, [descriptor]]
        p[mine] = _p_values(x, y, orders, scorer(x, y), scorer)[0]
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
    """Which rows choose tags, which check them, and how chance is drawn: one for all blocks of units."""

    first: np.ndarray  # calibration rows
    second: np.ndarray  # validation rows
    orders: list[np.ndarray]  # permutations of the calibration rows
    draws: list[np.ndarray]  # bootstrap draws from the validation rows
    cells: np.ndarray | None = None  # of each row, under covariates
    numbers: np.ndarray | None = None

    def controlled(self, values: np.ndarray) -> np.ndarray:
        if self.cells is None:
            return values
        return _without(values, self.cells, self.numbers, (self.first, self.second))


def _planned(text_ids: pd.Series, split, groups, covariates, permutations, resamples, seed: int) -> _Plan:
    groups = None if groups is None else of_texts(groups, text_ids, "groups").to_numpy()
    first, second = halves(len(text_ids), split, seed, groups=groups)
    cells = numbers = None
    if covariates is not None:
        covariates = of_texts(covariates, text_ids, "covariates")
        cells, numbers = _cells(covariates), _numbers(covariates)
    generator = np.random.default_rng(seed)
    orders = [shuffled(first, cells, generator) for _ in range(permutations)]
    return _Plan(first, second, orders, list(resampled(second, groups, resamples, generator)), cells, numbers)


def _tag_block(values, labels, plan: _Plan, scorer, top: int) -> tuple[np.ndarray, ...]:
    """Candidates, scores, held-out scores, p-values, held-out ranks and intervals ``[rank, unit]``."""
    found = scorer(values[plan.first], labels[plan.first])
    best = np.argsort(-found, axis=0, kind="stable")[:top]
    scores = np.take_along_axis(found, best, axis=0)
    held_out = scorer(values[plan.second], labels[plan.second])
    validation = np.take_along_axis(held_out, best, axis=0)
    ranks = 1 + (held_out[None] > validation[:, None]).sum(1)
    low, high = _intervals(values, labels, best, plan.draws, scorer)
    p = _p_values(values[plan.first], labels[plan.first], plan.orders, scores, scorer)
    return best, scores, validation, p, ranks, low, high


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


def _p_values(values, labels, orders, scores, scorer) -> np.ndarray:
    """(1 + permutations whose best score reaches ``scores``) / (1 + permutations), ``[rank, unit]``."""
    if not orders:
        return np.full_like(scores, np.nan)
    reached, n = np.ones_like(scores), labels.shape[1]
    at_once = max(1, LABELS_AT_ONCE // max(1, labels.nbytes))
    for some in (orders[i : i + at_once] for i in range(0, len(orders), at_once)):
        # permuted copies of the labels ride along as further descriptors: one product for many
        shuffled = np.concatenate([labels[order] for order in some], axis=1)
        null = scorer(values, shuffled)  # [(end,) permutation, descriptor; unit]
        null = null.reshape(-1, len(some), n, null.shape[1]).max((0, 2))
        reached += (null[:, None, :] >= scores - 1e-9).sum(0)
    return reached / (1 + len(orders))


def _intervals(values, labels, best, draws, scorer) -> tuple[np.ndarray, np.ndarray]:
    """95 % percentile intervals ``[rank, unit]`` of the chosen pairs; NaN without draws."""
    n = labels.shape[1]
    found = np.full((len(draws), *best.shape), np.nan)
    for i, rows in enumerate(draws):
        x, c = values[rows], labels[rows]
        for descriptor in np.unique(best % n):  # only the chosen pairs are scored
            rank, unit = np.nonzero(best % n == descriptor)
            some = scorer(x[:, unit], c[:, [descriptor]])
            found[i, rank, unit] = some[best[rank, unit] // n, np.arange(len(unit))]
    if not draws:
        return np.full(best.shape, np.nan), np.full(best.shape, np.nan)
    return tuple(np.quantile(found, [0.025, 0.975], axis=0))


def of_texts(frame, text_ids: pd.Series, what: str):
    """``frame`` (series, or frame by text_id) in the order of the rows, all of them there."""
    missing = ~text_ids.isin(frame.index)
    if missing.any() or frame.loc[text_ids].isna().to_numpy().any():
        which = text_ids[missing].iloc[0] if missing.any() else "(a value is missing)"
        raise ValueError(f"`{what}` must have a value for every text_id; there is none for {which}")
    return frame.loc[text_ids]


def _cells(covariates: pd.DataFrame, bins: int = 10) -> np.ndarray:
    """Cell of each row: categories crossed with quantile bins of the numbers."""
    parts = [
        pd.qcut(covariates[name], bins, labels=False, duplicates="drop")
        if pd.api.types.is_numeric_dtype(covariates[name]) and covariates[name].nunique() > 2
        else covariates[name].astype(str)
        for name in covariates
    ]
    return (
        pd.DataFrame(dict(enumerate(parts)), index=covariates.index)
        .groupby(list(range(len(parts))))
        .ngroup()
        .to_numpy()
    )


def _numbers(covariates: pd.DataFrame) -> np.ndarray:
    return covariates.select_dtypes("number").to_numpy(dtype=np.float64)


def _without(values: np.ndarray, cells: np.ndarray, numbers: np.ndarray, parts) -> np.ndarray:
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
