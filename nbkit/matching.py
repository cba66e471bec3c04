"""Matching: which descriptors does a unit respond to, and could chance have done it?

    SCORERS                       name -> scorer (nbkit.scorers says what each is)
    score(values, labels)         frame [descriptor, unit]
    tag(activations, labels)      the best descriptors of every unit, with a p-value and a held-out score
    chance(values, labels, descriptors, units)           p of pairs that were named beforehand
    floors(activations, labels)   the same for random directions, permuted rows, random weights
    collisions(tags), coverage(tags), jaccard(tags)      what a set of tags is like
    compose(activations, labels, units)   "a and not b": composites, where they beat the best atom
    residuals(values, control)    activations without what length, corpus or the like explain
    pooled(activations, labels)   several corpora as one

A scorer takes activations ``[row, unit]`` and labels ``[row, descriptor]`` (P(descriptor | text), in
[0, 1]) with the same rows, and returns ``[descriptor, unit]``; higher is more alike.

A tag is a claim, so ``tag`` chooses it on one part of the texts (calibration) and looks it up on the
other (validation), and compares its score with what permuted rows reach at best. Ours: the null of the
best of all descriptors, the control for covariates by residuals within cells, the held-out test of
composites. Their beam search is that of compositional explanations (Mu and Andreas 2020).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control, norm
from tqdm.auto import tqdm

from nbkit.scorers import SCORERS, TOGETHER, NotFinite, auroc, frequency, pearson

if TYPE_CHECKING:
    from nbkit.activations import Activations

__all__ = [
    "SCORERS",
    "align",
    "auroc",
    "chance",
    "collisions",
    "compose",
    "coverage",
    "floors",
    "frequency",
    "halves",
]
__all__ += ["jaccard", "pearson", "pooled", "residuals", "score", "tag"]

UNITS_AT_ONCE = 2048  # columns turned into float32 at a time
LABELS_AT_ONCE = 2**26  # permuted labels [row, descriptor] at a time, in bytes


def score(values: Activations | np.ndarray, labels: pd.DataFrame, method: str = "pearson") -> pd.DataFrame:
    """Scores ``[descriptor, unit]`` of every descriptor for every unit.

    ``values`` is a store of text rows or an array ``[row, unit]``; ``labels`` has one row for each of
    its rows (for a store: indexed by ``text_id``). Rows that do not match, and labels outside [0, 1],
    are a ``ValueError``, and so are activations that are not finite (the unit is named).
    """
    scorer = scorer_of(method)
    names: pd.Index | np.ndarray = np.arange(np.shape(getattr(values, "values", values))[1])
    if hasattr(values, "units"):
        labels, names = align(values, labels), values.units["unit"].to_numpy()
        values = values.values
    if len(values) != len(labels):
        raise ValueError(f"{len(values)} rows of activations and {len(labels)} rows of labels")
    if not len(values):
        raise ValueError("no rows to score: is the corpus empty, or the selection?")
    matrix = _checked(labels)
    try:
        found = scorer(values, matrix)
    except NotFinite as error:
        raise _named(error, names, 0) from None
    return pd.DataFrame(found, index=labels.columns, columns=names)


def align(activations: Activations, labels: pd.DataFrame) -> pd.DataFrame:
    """``labels`` in the order of the rows of ``activations``. A text without labels: ``ValueError``."""
    text_ids = activations.rows["text_id"]
    missing = ~text_ids.isin(labels.index)
    if missing.any():
        raise ValueError(
            f"the label matrix has no row for {missing.sum()} of {len(text_ids)} rows of"
            f" {activations!r}, the first is text {text_ids[missing].iloc[0]}: make the labels from"
            " the same corpus (texts.descriptors() or descriptors.label(texts, ...))"
        )
    if not labels.index.is_unique:
        twice = labels.index[labels.index.duplicated()][0]
        raise ValueError(f"the label matrix has two rows for text {twice}")
    return labels.loc[text_ids]


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
    by: pd.Series | None = None,
    control: pd.DataFrame | None = None,
    ends: str = "high",
    permutations: int = 200,
    min_score: float = 0.0,
    level: float = 0.05,
    resamples: int = 0,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """The ``top`` descriptors of every unit, chosen on one part of the texts, checked on the other.

    split         share of the texts used for calibration
    by            a group (document) for each text_id: a group is never on both sides of the split
    control       covariates by text_id, numbers or categories: scores are of what they leave
                  (``residuals``), and rows are permuted only within their cells
    ends          "high", or "both": what a unit means when it is low competes too, as the score of
                  the negated unit; the column ``sign`` says which
    permutations  of the label rows; under each, a unit's best score over all descriptors is its null
                  (0: no test, p and q are NaN). Rows count as exchangeable (within cells), groups or not.
                  The smallest p is 1 / (1 + permutations): where only a share s of the units responds,
                  q <= level takes more than 1 / (s * level) of them
    min_score     and ``level``: a line is ``tagged`` if score >= min_score and q <= level
    resamples     bootstrap resamples of the held-out texts (with ``by``, of its groups) for the
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
    plan = _planned(activations.rows["text_id"], split, by, control, permutations, resamples, seed)
    scorer, matrix = _both(scorer_of(method)) if ends == "both" else scorer_of(method), _checked(labels)
    names, chosen = activations.units["unit"].to_numpy(), []
    step = len(names) if method in TOGETHER else UNITS_AT_ONCE
    blocks = range(0, len(names), max(1, step))
    for start in tqdm(blocks, desc="tag", unit=" blocks", leave=False, disable=not progress):
        values = np.asarray(activations.values[:, start : start + step], dtype=np.float32)
        try:
            chosen.append(_tag_block(plan.controlled(values), matrix, plan, scorer, top))
        except NotFinite as error:
            raise _named(error, names, start) from None
    frame = _tag_frame(names, labels.columns.to_numpy(), chosen, top)
    frame["q"] = frame.groupby("rank")["p"].transform(false_discovery_control) if permutations else np.nan
    if method == "pearson" and not resamples:
        frame["low"], frame["high"] = _fisher(frame["validation_score"].to_numpy(), len(plan.second))
    significant = (frame["q"] <= level) if permutations else True
    frame["tagged"] = (frame["score"] >= min_score) & significant
    frame.attrs["texts"] = {"calibration": len(plan.first), "validation": len(plan.second)}
    return frame


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


def chance(
    values: np.ndarray,
    labels: np.ndarray,
    descriptors: np.ndarray,
    units: np.ndarray,
    *,
    method: str = "pearson",
    permutations: int = 200,
    control: pd.DataFrame | None = None,
    seed: int = 0,
) -> np.ndarray:
    """p [pair] of pairs that were chosen on other texts: could chance have scored as high?

    values, labels      [row, unit] and [row, descriptor]
    descriptors, units  [pair] columns of the two
    permutations        of the rows, within cells of ``control`` if given: p is (1 + those under which the
                        pair scores as high) / (1 + permutations); 0: NaN

    ``tag`` tests the best of all descriptors, which it chooses; here nothing is chosen. Scorers that
    judge a unit beside others (``soft_wpmi``) are a ``ValueError``.
    """
    if method in TOGETHER:
        raise ValueError(f"{method!r} scores a unit beside others: choose another method to test a pair")
    scorer, generator = scorer_of(method), np.random.default_rng(seed)
    cells = None if control is None else _cells(control)
    orders = [_shuffle(np.arange(len(labels)), cells, generator) for _ in range(permutations)]
    p = np.full(len(units), np.nan)
    for descriptor in np.unique(descriptors):
        mine = descriptors == descriptor
        x, y = np.asarray(values[:, units[mine]]), labels[:, [descriptor]]
        p[mine] = _p_values(x, y, orders, scorer(x, y), scorer)[0]
    return p


def residuals(values: np.ndarray, control: pd.DataFrame, *, bins: int = 10) -> np.ndarray:
    """Activations ``[row, unit]`` without what the covariates explain (float32).

    ``control`` has one line for each row. Rows fall into cells: the categories crossed with ``bins``
    quantile bins of each number. Within each cell the mean and the slope on the numbers go, so that curved
    relations, and slopes that differ between corpora, go too.
    """
    if len(control) != len(values):
        raise ValueError(f"{len(values)} rows of activations and {len(control)} rows of control")
    every = np.arange(len(values))
    return _without(np.asarray(values, np.float32), _cells(control, bins), _numbers(control), (every,))


def floors(
    activations: Activations,
    labels: pd.DataFrame,
    *,
    directions: int = 1000,
    random_weights: Activations | None = None,
    seed: int = 0,
    **options,
) -> pd.DataFrame:
    """What tags are worth: units beside things that mean nothing, or less.

    ``options`` go to ``tag``. One line for each of: units; random directions (unit vectors in the space
    of the units); permuted rows (labels shuffled over texts: only luck is left); and, if given, the same
    units of ``subject.randomized(seed)``, a floor and not a null since words still show. Columns: kind, n,
    tags (units with a tagged first rank), share, score and validation_score (medians over those, NaN
    without any), top_score (95th percentile of all first scores), jaccard.
    """
    generator = np.random.default_rng(seed)
    labels = align(activations, labels)
    shuffled = labels.iloc[generator.permutation(len(labels))].set_axis(labels.index)
    kinds = {
        "units": (activations, labels),
        "random directions": (_directions(activations, directions, generator), labels),
        "permuted rows": (activations, shuffled),
    }
    if random_weights is not None:
        kinds["random weights"] = (random_weights, labels)
    lines = [
        {"kind": kind, **_strength(tag(stored, matrix, seed=seed, **options))}
        for kind, (stored, matrix) in kinds.items()
    ]
    return pd.DataFrame(lines)


def collisions(tags: pd.DataFrame) -> pd.Series:
    """Units that share a descriptor, among the tagged lines: descriptor -> number of units."""
    return tags[tags["tagged"]].groupby("descriptor")["unit"].nunique().sort_values(ascending=False)


def coverage(tags: pd.DataFrame, labels: pd.DataFrame) -> dict[str, float]:
    """Share of units with a tagged line, and of the columns of ``labels`` that tag some unit."""
    tagged = tags[tags["tagged"]]
    return {
        "units": tagged["unit"].nunique() / max(1, tags["unit"].nunique()),
        "descriptors": tagged["descriptor"].nunique() / max(1, labels.shape[1]),
    }


def jaccard(tags: pd.DataFrame) -> pd.Series:
    """Overlap of a unit's first k tags on calibration and validation texts, over its tagged units.

    As Mondal et al. 2024 report it (about .95, read second hand): |both| / |either|, k the ranks given.
    """
    k = tags["rank"].max()
    judged = tags[tags.groupby("unit")["tagged"].transform("any")]
    both = (judged["validation_rank"] <= k).groupby(judged["unit"]).sum()
    return (both / (2 * k - both)).rename("jaccard")


def compose(
    activations: Activations,
    labels: pd.DataFrame,
    units: list[str | int] | None = None,
    *,
    length: int = 3,
    beam: int = 5,
    method: str = "pearson",
    split: float = 0.5,
    by: pd.Series | None = None,
    level: float = 0.05,
    resamples: int = 200,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Composite descriptors, where a composite describes a unit better than any single one.

    Beam search on the calibration texts: the best formulas of each length are joined with every
    descriptor by "and", "or", "and not" (minimum, maximum, minimum with 1 - p). On the held-out texts a
    longer formula must then beat the one before it, beginning with the best atom: the gain over its
    bootstrap error (``resamples`` of the texts, paired) is tested one-sided at ``level``.

    Returns a line for each unit whose formula beats its best atom with q <= ``level`` (Benjamini-Hochberg
    over all ``units``, None being all): unit, formula, length, score (calibration), validation_score,
    atom, atom_score (validation), gain, low, high (95 %), p, q. ``.attrs["tried"]`` counts the units.
    """
    labels = align(activations, labels)
    columns = [activations.column(u) for u in (range(len(activations.units)) if units is None else units)]
    groups = None if by is None else _of_texts(by, activations.rows["text_id"], "by").to_numpy()
    first, second = halves(len(labels), split, seed, groups=groups)
    matrix, names, scorer = _checked(labels), labels.columns.to_numpy(), scorer_of(method)
    if method in TOGETHER:
        raise ValueError(f"{method!r} scores a unit beside others: choose another method for compose")
    draws = list(_resampled(second, groups, resamples, np.random.default_rng(seed)))
    lines = []
    for column in tqdm(columns, desc="compose", leave=False, disable=not progress):
        values = np.asarray(activations.values[:, [column]], dtype=np.float32)
        try:
            found = _formulas(values[first], matrix[first], scorer, length, beam)
            lines.append(_step_up(values, matrix, found, second, draws, scorer, level, names))
        except NotFinite as error:
            raise _named(error, activations.units["unit"].to_numpy(), column) from None
    frame = pd.DataFrame(lines)
    frame.insert(0, "unit", activations.units["unit"].to_numpy()[columns])
    frame["q"] = false_discovery_control(frame["p"]) if len(frame) else []
    frame = frame[(frame["q"] <= level) & (frame["length"] > 1)].reset_index(drop=True)
    frame.attrs["tried"] = len(columns)
    return frame


# ---------------------------------------------------------------------------------- inside


@dataclass(frozen=True)
class _Plan:
    """Which rows choose tags, which check them, and how chance is drawn: one for all blocks of units."""

    first: np.ndarray  # calibration rows
    second: np.ndarray  # validation rows
    orders: list[np.ndarray]  # permutations of the calibration rows
    draws: list[np.ndarray]  # bootstrap draws from the validation rows
    cells: np.ndarray | None = None  # of each row, under control
    numbers: np.ndarray | None = None

    def controlled(self, values: np.ndarray) -> np.ndarray:
        if self.cells is None:
            return values
        return _without(values, self.cells, self.numbers, (self.first, self.second))


def _planned(text_ids: pd.Series, split, by, control, permutations, resamples, seed: int) -> _Plan:
    groups = None if by is None else _of_texts(by, text_ids, "by").to_numpy()
    first, second = halves(len(text_ids), split, seed, groups=groups)
    cells = numbers = None
    if control is not None:
        covariates = _of_texts(control, text_ids, "control")
        cells, numbers = _cells(covariates), _numbers(covariates)
    generator = np.random.default_rng(seed)
    orders = [_shuffle(first, cells, generator) for _ in range(permutations)]
    return _Plan(
        first, second, orders, list(_resampled(second, groups, resamples, generator)), cells, numbers
    )


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


def _fisher(r: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval of a correlation over n rows; NaN with fewer than four."""
    if n < 4:
        return np.full_like(r, np.nan), np.full_like(r, np.nan)
    z = np.arctanh(np.clip(r, -1 + 1e-12, 1 - 1e-12))
    return np.tanh(z - 1.96 / np.sqrt(n - 3)), np.tanh(z + 1.96 / np.sqrt(n - 3))


def _both(scorer: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """Candidates from both ends of a unit: ``[descriptor when high, descriptor when low; unit]``."""
    return lambda values, labels: np.concatenate([scorer(values, labels), scorer(-values, labels)])


def _shuffle(rows: np.ndarray, cells: np.ndarray | None, generator: np.random.Generator) -> np.ndarray:
    """A permutation of the positions in ``rows``, within cells if there are any."""
    order = generator.permutation(len(rows))
    if cells is None:
        return order
    found = np.empty_like(order)
    found[np.argsort(cells[rows], kind="stable")] = order[np.argsort(cells[rows][order], kind="stable")]
    return found


def _resampled(rows, groups, n: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """``n`` bootstrap draws from ``rows``; of whole groups if there are any."""
    if groups is None:
        yield from (rows[generator.integers(0, len(rows), len(rows))] for _ in range(n))
        return
    members = [rows[i] for i in pd.Series(groups[rows]).groupby(groups[rows]).indices.values()]
    for _ in range(n):
        yield np.concatenate([members[i] for i in generator.integers(0, len(members), len(members))])


def _of_texts(frame, text_ids: pd.Series, what: str):
    """``frame`` (series, or frame by text_id) in the order of the rows, all of them there."""
    missing = ~text_ids.isin(frame.index)
    if missing.any() or frame.loc[text_ids].isna().to_numpy().any():
        which = text_ids[missing].iloc[0] if missing.any() else "(a value is missing)"
        raise ValueError(f"`{what}` must have a value for every text_id; there is none for {which}")
    return frame.loc[text_ids]


def _cells(control: pd.DataFrame, bins: int = 10) -> np.ndarray:
    """Cell of each row: categories crossed with quantile bins of the numbers."""
    parts = [
        pd.qcut(control[name], bins, labels=False, duplicates="drop")
        if pd.api.types.is_numeric_dtype(control[name]) and control[name].nunique() > 2
        else control[name].astype(str)
        for name in control
    ]
    return (
        pd.DataFrame(dict(enumerate(parts)), index=control.index)
        .groupby(list(range(len(parts))))
        .ngroup()
        .to_numpy()
    )


def _numbers(control: pd.DataFrame) -> np.ndarray:
    return control.select_dtypes("number").to_numpy(dtype=np.float64)


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


def _directions(activations: Activations, n: int, generator: np.random.Generator) -> Activations:
    """Projections on random unit vectors, as if they were units."""
    drawn = generator.standard_normal((activations.values.shape[1], n)).astype(np.float32)
    drawn /= np.linalg.norm(drawn, axis=0)
    names = pd.DataFrame({"unit": [f"direction.{i}" for i in range(n)]})
    total = np.zeros((len(activations), n), np.float32)
    for start in range(0, len(drawn), UNITS_AT_ONCE):
        some = slice(start, start + UNITS_AT_ONCE)
        total += np.asarray(activations.values[:, some], np.float32) @ drawn[some]
    return replace(activations, values=total, units=names)


def _strength(tags: pd.DataFrame) -> dict[str, float]:
    """A line of ``floors``."""
    first = tags[tags["rank"] == 1]
    tagged = first[first["tagged"]]
    return {
        "n": len(first),
        "tags": len(tagged),
        "share": len(tagged) / max(1, len(first)),
        "score": tagged["score"].median(),
        "validation_score": tagged["validation_score"].median(),
        "top_score": first["score"].quantile(0.95),
        "jaccard": jaccard(tags).mean(),
    }


JOINS: Mapping[str, Callable] = {
    "and": np.minimum,
    "or": np.maximum,
    "and not": lambda a, b: np.minimum(a, 1 - b),
}


def _formulas(values, labels, scorer, length: int, beam: int) -> list[tuple[float, tuple]]:
    """The best formula of each length, with its score. A formula is (atom, (join, atom), ...)."""
    scores = scorer(values, labels)[:, 0]
    kept = [((int(i),), labels[:, i]) for i in np.argsort(-scores, kind="stable")[:beam]]
    found = [(float(scores.max()), kept[0][0])]
    for _ in range(length - 1):
        grown = [
            ((*formula, (join, atom)), JOINS[join](column, labels[:, atom]))
            for formula, column in kept
            for join in JOINS
            for atom in range(labels.shape[1])
            if atom not in _atoms(formula)
        ]
        if not grown:
            break
        scores = scorer(values, np.stack([column for _, column in grown], axis=1))[:, 0]
        kept = [grown[i] for i in np.argsort(-scores, kind="stable")[:beam]]
        found.append((float(scores.max()), kept[0][0]))
    return found


def _atoms(formula: tuple) -> set[int]:
    return {formula[0], *(atom for _, atom in formula[1:])}


def _evaluate(formula: tuple, labels: np.ndarray) -> np.ndarray:
    """The formula's label for each row."""
    column = labels[:, formula[0]]
    for join, atom in formula[1:]:
        column = JOINS[join](column, labels[:, atom])
    return column


def _written(formula: tuple, names: np.ndarray) -> str:
    """``((a or b) and not c)``, outer brackets left out."""
    text = str(names[formula[0]])
    for i, (join, atom) in enumerate(formula[1:]):
        text = f"({text})" if i else text
        text = f"{text} {join} {names[atom]}"
    return text


def _step_up(values, labels, found, rows, draws, scorer, level: float, names) -> dict:
    """From the atom to longer formulas, as long as each beats the one before on the held-out rows."""
    table = np.stack([_evaluate(formula, labels) for _, formula in found], axis=1)
    held_out = scorer(values[rows], table[rows])[:, 0]
    kept, drawn = 0, None
    for i in range(1, len(found)):
        if held_out[i] <= held_out[kept]:
            continue
        if drawn is None:
            drawn = np.stack([scorer(values[d], table[d])[:, 0] for d in draws])  # [draw, length]
        if _one_sided(held_out[i] - held_out[kept], drawn[:, i] - drawn[:, kept]) <= level:
            kept = i
    gain = held_out[kept] - held_out[0]
    spread = drawn[:, kept] - drawn[:, 0] if kept else np.zeros(1)
    low, high = np.quantile(spread, [0.025, 0.975])
    return {
        "formula": _written(found[kept][1], names),
        "length": kept + 1,
        "score": found[kept][0],
        "validation_score": held_out[kept],
        "atom": names[found[0][1][0]],
        "atom_score": held_out[0],
        "gain": gain,
        "low": low,
        "high": high,
        "p": _one_sided(gain, spread) if kept else 1.0,
    }


def _one_sided(gain: float, spread: np.ndarray) -> float:
    """P(a gain as large) for a normal with the bootstrap's error; 1 where nothing varies."""
    error = spread.std()
    return float(norm.sf(gain / error)) if error > 0 else 1.0


def _named(error: NotFinite, names, start: int) -> ValueError:
    """The same complaint, with the unit's name."""
    return ValueError(str(error).replace(f"unit {error.column} ", f"unit {names[start + error.column]} ", 1))


def scorer_of(method: str) -> Callable[..., np.ndarray]:
    """The scorer of that name. ``ValueError`` for one that does not exist, with those that do."""
    if method not in SCORERS:
        raise ValueError(f"unknown scorer {method!r}; there are {', '.join(SCORERS)}")
    return SCORERS[method]


def _checked(labels: pd.DataFrame) -> np.ndarray:
    matrix = labels.to_numpy(dtype=np.float32)
    bad = ~((matrix >= 0) & (matrix <= 1))
    if bad.any():
        row, column = (int(x[0]) for x in np.nonzero(bad))
        raise ValueError(
            f"label {labels.columns[column]!r} of row {labels.index[row]} is {matrix[row, column]}:"
            " labels are probabilities, in [0, 1]"
        )
    return matrix
