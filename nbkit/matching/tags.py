"""Tags: descriptors chosen on one part of the texts, tested by permutation, looked up on the other part."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import pandas as pd
import scipy.special
from tqdm.auto import tqdm

from nbkit import stats
from nbkit.activations import Activations
from nbkit.matching.association import CLOSED, association
from nbkit.matching.scorers import TOGETHER, NotFinite, Scorer, align, both, checked, named, scorer_of
from nbkit.stats import correlation_interval, halves, p_values, q_values, resampled

UNITS_AT_ONCE = 2048  # columns turned into float32 at a time
INTERVALS_AT_ONCE = 2**20  # activations whose correlations get their intervals at a time
LABELS_AT_ONCE = 2**21  # bytes of permuted labels [row, descriptor] at a time: they stay in the cache

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
    if "document" in rows:  # names repeat from corpus to corpus; a text without a document is one by itself
        named = rows["document"].notna()
        own = rows["document"].where(named, rows["text_id"]).astype(str)
        rows["document"] = rows["corpus"] + np.where(named, ": ", ", text ") + own
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
    groups: pd.Series | bool = True,
    covariates: pd.DataFrame | None = None,
    ends: str | None = None,
    permutations: int = 200,
    min_score: float = 0.0,
    alpha: float = 0.05,
    resamples: int = 0,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """The ``top`` descriptors of every unit, chosen on one part of the texts, checked on the other.

    split         share of the texts used for calibration
    groups        texts that are alike because they belong together: a document for each text_id. A group is
                  never on both sides of the split, and whole groups are permuted. True: the documents of the
                  corpus, if it has four or more; False: texts are independent
    covariates    by text_id, numbers or categories: scores are of what they leave (``residuals``), and rows
                  are permuted only within their cells (with groups: over all cells)
    ends          "high", or "both": what a unit means when it is low competes too, as the score of
                  the negated unit; the column ``sign`` says which. None: "both" for FFN units of a gated
                  network (act(gate) * up, whose values are as often negative), else "high"
    permutations  of the label rows; under each, a unit's best score over all descriptors is its null
                  (0: no test, p and q are NaN). For pearson and auroc a closed form goes on where they end;
                  for others the smallest p is 1 / (1 + permutations): where only a share s of the units
                  responds, q <= alpha takes more than 1 / (s * alpha) of them
    min_score     and ``alpha``: a line is ``tagged`` if score >= min_score and q <= alpha
    resamples     bootstrap resamples of the held-out texts (or groups) for the interval of
                  ``validation_score``: percentiles, for auroc their variance in Wilson's interval. pearson
                  needs none (``stats.correlation_interval``); 0 for another scorer: NaN
    seed          of the split, the permutations and the resamples

    Returns a frame with one line for each unit and rank; ``help(nbkit.matching)`` has its columns.
    """
    labels = align(activations, labels)
    if top > labels.shape[1]:
        raise ValueError(f"top={top} tags were asked for; there are {labels.shape[1]} descriptors")
    ends = ends_of(activations, ends)
    known = groups_of(activations, groups)
    text_ids = activations.rows["text_id"]
    plan = _planned(text_ids, split, known, covariates, permutations, resamples, method, seed)
    scorer, matrix = both(scorer_of(method)) if ends == "both" else scorer_of(method), checked(labels)
    names = activations.units["unit"].to_numpy()
    found = _over_blocks(activations, matrix, plan, scorer, top, progress)
    if permutations:
        _test_further_ranks(activations, matrix, plan, scorer, found, alpha, seed)
    frame = _tag_frame(names, labels.columns.to_numpy(), found, top)
    frame["q"] = frame.groupby("rank")["p"].transform(lambda p: q_values(p.to_numpy()))
    significant = (frame["q"] <= alpha) if permutations else True
    frame["tagged"] = (frame["score"] >= min_score) & significant
    frame.attrs["texts"] = {"calibration": len(plan.first), "validation": len(plan.second)}
    frame.attrs["groups"] = None if known is None else len(np.unique(known))
    return frame


def ends_of(activations: Activations, ends: str | None) -> str:
    """What ``ends=None`` is for these units; anything but "high" and "both" is a ``ValueError``."""
    if ends is None:
        units = activations.units["unit"]
        gated = activations.manifest.get("gated") and units.str.contains(r"\.ffn\.\d+$").all()
        return "both" if gated else "high"
    if ends not in ("high", "both"):
        raise ValueError(f'ends={ends!r}: "high" or "both"')
    return ends


def permutation_test(
    values: np.ndarray,
    labels: np.ndarray,
    descriptors: np.ndarray,
    units: np.ndarray,
    *,
    method: str = "pearson",
    permutations: int = 200,
    groups: np.ndarray | None = None,
    covariates: pd.DataFrame | None = None,
    seed: int = 0,
) -> np.ndarray:
    """p [pair] of pairs that were chosen on other texts: do permuted labels score as high?

    values, labels      [row, unit] and [row, descriptor]
    descriptors, units  [pair] columns of the two
    permutations        of the rows: p is (1 + those under which the pair scores as high) /
                        (1 + permutations); 0: NaN
    groups              [row] the document of each row: whole documents are permuted
    covariates          [row, .] rows are permuted only among those alike in them (with groups: among all)

    ``tag`` tests the best of all descriptors, which it chooses; here nothing is chosen. Scorers that
    judge a unit beside others (``soft_wpmi``) are a ``ValueError``.
    """
    if method in TOGETHER:
        raise ValueError(f"{method!r} scores a unit beside others: choose another method to test a pair")
    scorer, generator = scorer_of(method), np.random.default_rng(seed)
    cells = None if covariates is None or groups is not None else cells_of(covariates)
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
    return _without(
        np.asarray(values, np.float32), cells_of(covariates, bins), _numbers(covariates), (every,)
    )


# ---------------------------------------------------------------------------------- inside


@dataclass(frozen=True)
class _Plan:
    """Which rows choose tags, which check them, and what is drawn at random: one for all blocks of units."""

    first: np.ndarray  # calibration rows
    second: np.ndarray  # validation rows
    orders: list[np.ndarray]  # permutations of the calibration rows
    draws: list[np.ndarray]  # bootstrap draws from the validation rows
    method: str
    groups: np.ndarray | None = None  # of each row
    cells: np.ndarray | None = None  # of each row, under covariates
    numbers: np.ndarray | None = None

    def controlled(self, values: np.ndarray) -> np.ndarray:
        """``values`` without what the covariates explain, if there are any."""
        if self.cells is None or self.numbers is None:
            return values
        return _without(values, self.cells, self.numbers, (self.first, self.second))

    def inside(self, cells: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """What the calibration rows are permuted within, for ``stats.permutations``: and within ``cells``."""
        found = {} if cells is None else {"cells": cells}
        if self.groups is not None:
            found["groups"] = self.groups[self.first]
        elif self.cells is not None:
            own = self.cells[self.first]
            found["cells"] = own if cells is None else cells * (self.cells.max() + 1) + own
        return found

    def within(self, cells: np.ndarray, generator: np.random.Generator) -> Iterator[np.ndarray]:
        """As many permutations as in ``orders``, within ``cells`` of the calibration rows."""
        return stats.permutations(len(self.first), len(self.orders), generator, **self.inside(cells))


def _planned(
    text_ids: pd.Series,
    split: float,
    groups: np.ndarray | None,
    covariates: pd.DataFrame | None,
    permutations: int,
    resamples: int,
    method: str,
    seed: int,
) -> _Plan:
    first, second = halves(len(text_ids), split, seed, groups=groups)
    cells = numbers = None
    if covariates is not None:
        covariates = of_texts(covariates, text_ids, "covariates")
        cells, numbers = cells_of(covariates), _numbers(covariates)
    generator = np.random.default_rng(seed)
    blocks = {"groups": groups} if groups is not None else {"cells": cells}  # what rows are permuted within
    inside = {name: None if block is None else block[first] for name, block in blocks.items()}
    orders = list(stats.permutations(len(first), permutations, generator, **inside))
    draws = list(resampled(second, groups, resamples, generator))
    return _Plan(first, second, orders, draws, method, groups, cells, numbers)


def groups_of(activations: Activations, groups: pd.Series | bool | None) -> np.ndarray | None:
    """The group of each row; None where texts are independent. ``groups`` as in ``tag``."""
    rows = activations.rows
    if isinstance(groups, pd.Series):
        return of_texts(groups, rows["text_id"], "groups").to_numpy()
    return stats.usable_groups(rows["document"]) if groups and "document" in rows else None


def _over_blocks(
    activations: Activations, labels: np.ndarray, plan: _Plan, scorer: Scorer, top: int, progress: bool
) -> list[np.ndarray]:
    """The arrays of ``_tag_block`` [rank, unit] over all units, which are taken some at a time."""
    names, chosen = activations.units["unit"].to_numpy(), []
    step = len(names) if plan.method in TOGETHER else UNITS_AT_ONCE
    blocks = range(0, len(names), max(1, step))
    for start in tqdm(blocks, desc="tag", unit=" blocks", leave=False, disable=not progress):
        values = np.asarray(activations.values[:, start : start + step], dtype=np.float32)
        try:
            chosen.append(_tag_block(plan.controlled(values), labels, plan, scorer, top))
        except NotFinite as error:
            raise named(error, names, start) from None
    return [np.concatenate(part, axis=1) for part in zip(*chosen, strict=True)]


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
    low, high = _intervals(values, labels, best, validation, plan, scorer)
    p = np.full(scores.shape, np.nan)
    x, y = values[plan.first], labels[plan.first]
    p[0] = p_values(scores[0], _null(x, y, plan.orders, scorer))
    p[0] = _beyond(p[0], x, y, best[0], len(found), plan, plan.inside())
    return best, scores, validation, p, ranks, low, high


def _test_further_ranks(
    activations: Activations,
    labels: np.ndarray,
    plan: _Plan,
    scorer: Scorer,
    found: list[np.ndarray],
    alpha: float,
    seed: int,
) -> None:
    """Fill in p of the ranks after the first: what is left when the tags before have explained their part.

    ``found`` are the arrays of ``_tag_block`` over all units. Units with the same tags before go together.
    """
    best, p, y = found[0], found[3], labels[plan.first]
    everywhere = (np.arange(len(plan.first)),)
    for rank in range(1, len(best)):
        units = np.flatnonzero(q_values(p[rank - 1]) <= alpha)
        before = np.sort(best[:rank, units] % labels.shape[1], axis=0)
        for tags in np.unique(before, axis=1).T:
            mine = units[(before == tags[:, None]).all(0)]
            x = plan.controlled(np.asarray(activations.values[:, mine], dtype=np.float32))[plan.first]
            cells = np.unique(y[:, tags] > 0.5, axis=0, return_inverse=True)[1].ravel()
            left = _without(x, cells, y[:, tags], everywhere)
            orders = list(plan.within(cells, np.random.default_rng(seed)))
            every = scorer(left, y)
            scores = np.take_along_axis(every, best[[rank]][:, mine], axis=0)[0]
            drawn, inside = p_values(scores, _null(left, y, orders, scorer)), plan.inside(cells)
            p[rank, mine] = _beyond(drawn, left, y, best[rank, mine], len(every), plan, inside)


def _tag_frame(names: np.ndarray, descriptors: np.ndarray, found: list[np.ndarray], top: int) -> pd.DataFrame:
    """One line for each unit and rank. Candidates beyond the descriptors are those of the low end."""
    candidate, scores, validation, p, ranks, low, high = (part.T.ravel() for part in found)
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


def _beyond(
    p: np.ndarray,
    values: np.ndarray,
    labels: np.ndarray,
    best: np.ndarray,
    choices: int,
    plan: _Plan,
    inside: dict[str, np.ndarray],
) -> np.ndarray:
    """``p`` [unit], but where no permutation reached the score the closed form, if it is less: p of the pair
    times the ``choices`` that the unit had (Bonferroni). It is asked only where the first p is the smallest
    that it can be, so that together they are a p-value, too.
    """
    units = np.flatnonzero(p <= 1 / (1 + len(plan.orders)))
    if plan.method not in CLOSED or not plan.orders or not len(units):
        return p
    n, p = labels.shape[1], p.copy()
    x = values[:, units]
    x, y = (x, labels) if plan.method == "pearson" else (stats.ranks(x.T).T, labels > 0.5)
    _, normal = association(x.astype(np.float32), y.astype(np.float32), **inside)
    low = best[units] >= n  # the end of the unit that was chosen
    normal = normal[best[units] % n, np.arange(len(units))] * np.where(low, -1, 1)
    p[units] = np.minimum(p[units], choices * scipy.special.ndtr(-normal.astype(float)))
    return p


def _at_once(orders: Sequence[np.ndarray], size: int) -> Iterator[Sequence[np.ndarray]]:
    step = max(1, LABELS_AT_ONCE // max(1, size))
    return (orders[i : i + step] for i in range(0, len(orders), step))


def _intervals(
    values: np.ndarray,
    labels: np.ndarray,
    best: np.ndarray,
    validation: np.ndarray,
    plan: _Plan,
    scorer: Scorer,
) -> tuple[np.ndarray, np.ndarray]:
    """95 % intervals ``[rank, unit]`` of the chosen pairs on the validation rows."""
    if plan.method != "pearson":
        if not plan.draws:
            return np.full(best.shape, np.nan), np.full(best.shape, np.nan)
        drawn = _drawn(values, labels, best, plan.draws, scorer)
        if plan.method == "auroc":
            has = (labels[plan.second] > 0.5).sum(0)[best % labels.shape[1]]
            return _wilson(validation, drawn.var(0), has * (len(plan.second) - has) / (len(plan.second) + 1))
        low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
        return low, high
    rows, n = plan.second, labels.shape[1]
    groups = None if plan.groups is None else plan.groups[rows]
    step, found = max(1, INTERVALS_AT_ONCE // len(rows)), np.empty((2, *best.shape))
    for rank, start in itertools.product(range(len(best)), range(0, best.shape[1], step)):
        some = best[rank, start : start + step]
        x = values[rows, start : start + step] * np.where(some < n, 1, -1)
        found[:, rank, start : start + step] = correlation_interval(x, labels[rows][:, some % n], groups)
    return found[0], found[1]


def _drawn(
    values: np.ndarray, labels: np.ndarray, best: np.ndarray, draws: list[np.ndarray], scorer: Scorer
) -> np.ndarray:
    """Scores ``[draw, rank, unit]`` of the chosen pairs in ``draws`` of the validation rows."""
    n = labels.shape[1]
    found = np.full((len(draws), *best.shape), np.nan)
    for i, rows in enumerate(draws):
        x, c = values[rows], labels[rows]
        for descriptor in np.unique(best % n):  # only the chosen pairs are scored
            rank, unit = np.nonzero(best % n == descriptor)
            some = scorer(x[:, unit], c[:, [descriptor]])
            found[i, rank, unit] = some[best[rank, unit] // n, np.arange(len(unit))]
    return found


def _wilson(auroc: np.ndarray, variance: np.ndarray, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's 95 % interval at the effective number auroc (1 - auroc) / variance.

    pairs   n+ n- / (n+ + n- + 1): the number is at most this for an AUROC of 1, and three times this, which
            is exact for a unit without relation, for one of .5

    Without a limit 20 positives above all other rows, where resamples do not vary, would be [1, 1].
    """
    product, z = auroc * (1 - auroc), 1.96
    n = np.divide(product, variance, out=np.full(auroc.shape, np.inf), where=variance > 0)
    n = np.minimum(n, pairs * (1 + 8 * product)).clip(min=1e-9)
    centre, half = auroc + z**2 / (2 * n), z * np.sqrt(product / n + z**2 / (4 * n**2))
    return (centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n)


def of_texts(given: Frame, text_ids: pd.Series, what: str) -> Frame:
    """``given`` (by text_id) in the order of ``text_ids``. A missing text or value: ``ValueError``."""
    missing = ~text_ids.isin(given.index)
    if missing.any() or given.loc[text_ids].isna().to_numpy().any():
        which = text_ids[missing].iloc[0] if missing.any() else "(a value is missing)"
        raise ValueError(f"`{what}` must have a value for every text_id; there is none for {which}")
    return given.loc[text_ids]


def cells_of(covariates: pd.DataFrame, bins: int = 10) -> np.ndarray:
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
