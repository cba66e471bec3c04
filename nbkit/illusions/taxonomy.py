"""Taxonomy: is a tag true along the whole direction, in one corpus only, or only at the very top?

After Bolukbasi et al. 2021 (arXiv 2104.07143, read second hand), who tell three kinds of concepts apart:

    global         becomes more frequent along the direction, from anywhere: in every corpus
    dataset-level  has a direction, valid inside the region of one corpus
    local          a cluster of texts at the top of the direction, and no trend below it

    taxonomy(activations_by_corpus, labels_by_corpus, min_score=.3)   -> a verdict for each unit and tag
    quintile_rates(activations_by_corpus, labels_by_corpus, unit, tag)   the curves behind a verdict
    monotonicity(values_by_corpus, counts_by_corpus)   the paper's count of tokens, with its chance
    distinct_tags(scores_by_corpus, min_score)         how many tags a unit has over the corpora (2.5)

What makes a trend (ours):

1. The correlation of the label with the RANK of the activation is positive and significant OUTSIDE the top
   set. A top ten alone, however striking, is local.
2. The rate of the descriptor does not fall, from one fifth of the activations to the next, by more than noise
   and more than a third of its range. So a bent curve is no trend, and a dip at the low end (GELU makes
   them) does not end one. ``strict=True`` asks for rates that rise strictly, as the paper does; even a
   perfect detector of something rare fails that, since its lower fifths are all at 0.
3. AUROC - .5 is half of what it is at best, or more. With thousands of texts any correlation is
   significant, and AUROC does not depend on how frequent a descriptor is in a corpus.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from math import factorial
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.stats
from tqdm.auto import tqdm

from nbkit import matching, stats
from nbkit.activations import Activations
from nbkit.stats import bootstrap, top_texts

UNITS_AT_ONCE = 1024
BACK = 1 / 3  # of the range of the rates: a step back that is larger, and more than noise, ends a trend


def taxonomy(
    activations_by_corpus: Mapping[str, Activations],
    labels_by_corpus: Mapping[str, pd.DataFrame],
    *,
    min_score: float,
    alpha: float = 0.05,
    quantiles: int = 5,
    strict: bool = False,
    keep: float = 0.5,
    k: int = 10,
    min_positives: float = 20,
    covariates: Mapping[str, pd.DataFrame] | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """A verdict for each unit and tag, and the evidence in each corpus.

    A unit's tags are its best descriptor in each corpus, where the correlation is ``min_score`` or more,
    and the descriptor its top set in a corpus holds most beyond chance, where that is significant.

    alpha          of false discoveries, over all units and descriptors of a corpus
    quantiles      into which the activations of a corpus are cut
    strict         rates must rise strictly over them (the paper's test); default: not fall back
    keep           of the tag's highest AUROC - .5 in any corpus, the part that a trend must have
    k              texts in a top set
    min_positives  a descriptor takes part if so many texts of each corpus have it, and lack it; with less
                   than 2 ``k``, a perfect detector has most of them in its top set and no trend outside
    covariates        {corpus: frame by text_id} of covariates, such as length in words: what is judged is what
                   they leave of the activations (``matching.residuals``)

    Returns a frame, with one line for each unit and tag:

    unit, descriptor   the tag
    verdict            "global": a trend in every corpus; "dataset-level": in some; "local": in none, but
                       enriched in a top set; "none"
    score, home        its highest correlation in any corpus, and that corpus
    chosen             "score", "top set" or "both"
    trends             corpora with a trend
    undecided          corpora with too few texts to say: no significant trend, but half of ``score`` is
                       within the 95 % interval of the correlation, or below it
    r:NAME, auroc:NAME correlation in the corpus, and AUROC (ties half; labels cut at .5)
    trend:NAME, q:NAME rank correlation outside the top set, and its q
    monotone:NAME      1 or -1 as the rates rise or fall over the quantiles, 0 for neither
    enriched:NAME      q of the number of texts with the descriptor in the top set

    ``.attrs["left_out"]`` lists descriptors that are too rare in some corpus. Errors as in
    ``illusions.compare``; texts too few for the quantiles are a ``ValueError``.
    """
    labels = aligned(activations_by_corpus, labels_by_corpus)
    shared = shared_descriptors(labels, min_positives)
    rule = _Rule(k, quantiles, strict, alpha / (quantiles - 1) / len(labels))
    found = {}
    for name, stored in activations_by_corpus.items():
        covered = None if covariates is None else covariates[name].loc[stored.rows["text_id"]]
        matrix = labels[name][shared].to_numpy(np.float32)
        found[name] = _evidence(name, stored.values, matrix, covered, rule, progress)
    frame = _verdicts(found, min_score, alpha, keep)
    units = next(iter(activations_by_corpus.values())).units["unit"].to_numpy()
    frame["unit"], frame["descriptor"] = units[frame["unit"]], np.asarray(shared)[frame["descriptor"]]
    first = next(iter(labels.values()))
    frame.attrs["left_out"] = [name for name in first.columns if name not in shared]
    return frame


def quintile_rates(
    activations_by_corpus: Mapping[str, Activations],
    labels_by_corpus: Mapping[str, pd.DataFrame],
    unit: str | int,
    descriptor: str,
    *,
    quantiles: int = 5,
) -> pd.DataFrame:
    """How frequent ``descriptor`` is in each fifth of a unit's activations, from the lowest.

    A frame corpus, quantile (from 1), texts, rate, low, high (Wilson's 95 % interval);
    ``figures.quintile_curves`` draws it.
    """
    lines = []
    for name, stored in activations_by_corpus.items():
        label = matching.align(stored, labels_by_corpus[name])[descriptor].to_numpy(float)
        values = np.asarray(stored.values[:, [stored.column(unit)]], np.float32)
        cell = _cells(_ranks(values), quantiles)[:, 0]
        for quantile in range(quantiles):
            inside = label[cell == quantile]
            if not len(inside):  # the unit is constant over more than a fifth of the texts
                continue
            spread = scipy.stats.binomtest(round(inside.sum()), len(inside)).proportion_ci(method="wilson")
            lines.append((name, quantile + 1, len(inside), inside.mean(), spread.low, spread.high))
    return pd.DataFrame(lines, columns=["corpus", "quantile", "texts", "rate", "low", "high"])


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
    chance            (1 / q!)^m each for rising and falling: 2 / q! for one corpus

    Bolukbasi et al. 2021, 915 tokens: 22.7-29.6 % in one corpus, 7.4-10.9 % in two, 3.0-4.2 % in three,
    1.9 % in all four; by chance 1.7 % in one and 1e-8 in four.
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
        chance = 2 / factorial(quantiles) ** m
        lines.append(line | {"permuted": np.mean(rates["permuted"]), "chance": chance})
    return pd.DataFrame(lines)


def distinct_tags(
    scores_by_corpus: Mapping[str, pd.DataFrame], min_score: float, *, seed: int = 0
) -> pd.DataFrame:
    """How many different tags a unit has over the corpora: 1 without any illusion (the paper: 2.5 of 4).

    scores_by_corpus  {corpus: [descriptor, unit]} of ``matching.score``
    min_score         from which a unit's best descriptor in a corpus is a tag there

    A frame with one line for each number of corpora in which a unit has a tag: tagged, units, distinct
    (``evaluation.Estimate``, intervals over units), and floor, the mean when each corpus's tags belong to
    another unit with as many: what tags that know nothing of each other come to.
    """
    names = list(scores_by_corpus)
    known = set.intersection(*(set(scores.index) for scores in scores_by_corpus.values()))
    index = [name for name in scores_by_corpus[names[0]].index if name in known]
    units = scores_by_corpus[names[0]].columns
    tables = [scores.loc[index, units].to_numpy() for scores in scores_by_corpus.values()]
    best = np.stack([np.where(s.max(0) >= min_score, s.argmax(0), -1) for s in tables])  # [corpus, unit]
    tagged, rng, lines = (best >= 0).sum(0), np.random.default_rng(seed), []
    for m in range(1, len(names) + 1):
        mine = best[:, tagged == m]
        shuffled = mine.copy()
        for row in shuffled:  # only among the units that have a tag in this corpus
            row[row >= 0] = rng.permutation(row[row >= 0])
        counts, floor = _distinct(mine), _distinct(shuffled)
        line = {"tagged": m, "units": mine.shape[1], "distinct": bootstrap(counts, seed=seed)}
        lines.append(line | {"floor": floor.mean() if len(floor) else float("nan")})
    return pd.DataFrame(lines)


def aligned(
    activations_by_corpus: Mapping[str, Activations], labels_by_corpus: Mapping[str, pd.DataFrame]
) -> dict[str, pd.DataFrame]:
    """Labels of each corpus in the order of the activations' rows, or an error that names the corpus."""
    if len(activations_by_corpus) < 2:
        raise ValueError(f"{len(activations_by_corpus)} corpus: a comparison needs two or more")
    missing = set(activations_by_corpus) - set(labels_by_corpus)
    if missing:
        raise ValueError(f"no labels for the corpus {sorted(missing)[0]!r}")
    first_name, first = next(iter(activations_by_corpus.items()))
    for name, stored in activations_by_corpus.items():
        if stored.units["unit"].tolist() != first.units["unit"].tolist():
            raise ValueError(f"{name!r} and {first_name!r} hold different units: capture the same sites")
    return {
        name: matching.align(stored, labels_by_corpus[name]) for name, stored in activations_by_corpus.items()
    }


def shared_descriptors(labels: Mapping[str, pd.DataFrame], min_positives: float) -> list[str]:
    """Descriptors with at least ``min_positives`` positive and negative texts in every corpus."""
    enough = []
    for frame in labels.values():
        total = frame.sum()
        enough.append(set(total.index[(total >= min_positives) & (total <= len(frame) - min_positives)]))
    shared = set.intersection(*enough)
    if not shared:
        raise ValueError(
            f"the corpora {', '.join(labels)} share no descriptor with {min_positives:g} positive and"
            " negative texts in each: label them with one vocabulary, or lower min_positives"
        )
    first = next(iter(labels.values()))
    return [name for name in first.columns if name in shared]


# ---------------------------------------------------------------------------------- inside


class _Rule(NamedTuple):
    """How a corpus is judged."""

    k: int  # texts in a top set
    quantiles: int
    strict: bool
    alpha: float  # of one step between two quantiles


class _Evidence(NamedTuple):
    """What one corpus says of every descriptor and unit; all [descriptor, unit]."""

    texts: int
    r: np.ndarray  # correlation
    auroc: np.ndarray
    trend: np.ndarray  # rank correlation outside the top set
    q: np.ndarray  # of the trend
    monotone: np.ndarray  # 1, 0, -1
    enriched: np.ndarray  # q of the top set


def _evidence(name: str, values, labels: np.ndarray, covariates, rule: _Rule, progress: bool) -> _Evidence:
    """``labels`` [text, descriptor]; the q values are over all descriptors and units."""
    n = len(labels)
    if n < max(rule.quantiles, rule.k + 4):
        raise ValueError(f"{name!r} has {n} texts, too few for {rule.quantiles} quantiles and top {rule.k}")
    tail = _tails(labels > 0.5, rule.k)
    parts = []
    blocks = range(0, values.shape[1], UNITS_AT_ONCE)
    for start in tqdm(blocks, desc=f"taxonomy of {name}", leave=False, disable=not progress):
        x = np.asarray(values[:, start : start + UNITS_AT_ONCE], dtype=np.float32)
        x = x if covariates is None else matching.residuals(x, covariates)
        top, ranks = top_texts(x, rule.k), _ranks(x)
        trend = _outside(ranks, labels, top)
        hits = sum((labels[rows] > 0.5).astype(int) for rows in top).T  # [descriptor, unit]
        parts.append(
            (
                matching.pearson(x, labels),
                stats.auroc_of_ranks((labels.T > 0.5).astype(float), ranks.T),
                trend,
                stats.correlation_p(trend, n - rule.k),
                _monotone(*_rates(ranks, labels, rule.quantiles), rule),
                np.take_along_axis(tail, hits, axis=1),
            )
        )
    r, auroc, trend, p, monotone, chance = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))
    return _Evidence(n, r, auroc, trend, stats.q_values(p), monotone, stats.q_values(chance))


def _verdicts(found: dict[str, _Evidence], min_score: float, alpha: float, keep: float) -> pd.DataFrame:
    """A line for each tag; unit and descriptor as positions."""
    r = np.stack([e.r for e in found.values()])  # [corpus, descriptor, unit]
    by_score, by_top = (np.zeros(r.shape[1:], dtype=bool) for _ in range(2))
    every = np.arange(r.shape[2])
    for e in found.values():
        best = e.r.argmax(0)
        by_score[best, every] |= e.r[best, every] >= min_score
        fullest = e.enriched.argmin(0)
        by_top[fullest, every] |= e.enriched[fullest, every] <= alpha
    unit, descriptor = np.nonzero((by_score | by_top).T)
    some = (descriptor, unit)
    score = r[:, descriptor, unit].max(0)
    frame = pd.DataFrame({"unit": unit, "descriptor": descriptor, "verdict": "none", "score": score})
    frame["home"] = np.asarray(list(found))[r[:, descriptor, unit].argmax(0)]
    chosen = np.where(by_score[some] & by_top[some], "both", np.where(by_score[some], "score", "top set"))
    frame["chosen"], frame["trends"], frame["undecided"] = chosen, 0, 0
    enriched, best = np.zeros(len(frame), dtype=bool), np.max([e.auroc[some] for e in found.values()], axis=0)
    for name, e in found.items():
        trend = (e.trend[some] > 0) & (e.q[some] <= alpha) & (e.monotone[some] == 1)
        trend &= e.auroc[some] - 0.5 >= keep * (best - 0.5)
        frame["trends"] += trend
        highest = stats.correlation_interval(e.r[some], e.texts)[1]
        frame["undecided"] += (e.q[some] > alpha) & (highest >= score / 2)
        enriched |= e.enriched[some] <= alpha
        for what in ("r", "auroc", "trend", "q", "monotone", "enriched"):
            frame[f"{what}:{name}"] = getattr(e, what)[some]
    frame.loc[enriched, "verdict"] = "local"
    frame.loc[frame["trends"] > 0, "verdict"] = "dataset-level"
    frame.loc[frame["trends"] == len(found), "verdict"] = "global"
    return frame


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks [text, unit] from 1; equal activations share their mean rank, whatever the order of the rows."""
    return scipy.stats.rankdata(values.T, axis=1).T


def _cells(ranks: np.ndarray, quantiles: int) -> np.ndarray:
    """Quantile [text, unit] from 0; equal activations are in one."""
    return np.minimum((ranks - 0.5) * quantiles / len(ranks), quantiles - 1).astype(np.int8)


def _rates(ranks: np.ndarray, labels: np.ndarray, quantiles: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the labels [quantile, descriptor, unit], and texts [quantile, unit], in each quantile."""
    cells, turned = _cells(ranks, quantiles), np.ascontiguousarray(labels.T)
    inside = [(cells == quantile).astype(np.float32) for quantile in range(quantiles)]
    return np.stack([turned @ part for part in inside]), np.stack([part.sum(0) for part in inside])


def _monotone(sums: np.ndarray, sizes: np.ndarray, rule: _Rule) -> np.ndarray:
    """1 where the rates rise, -1 where they fall, 0 for neither [descriptor, unit].

    Strictly, or else: the last rate above the first, and no step back that is significant (two proportions,
    normal) and more than ``BACK`` of the range. Quantiles without texts are passed over; strictly, they fail.
    """
    sizes = np.broadcast_to(sizes[:, None], sums.shape)
    if rule.strict:
        steps, whole = np.diff(_rate(sums, sizes), axis=0), (sizes > 0).all(0)
        return ((steps > 0).all(0) & whole).astype(np.int8) - ((steps < 0).all(0) & whole)
    sums, sizes = _passed_over(sums, sizes)
    rates = _rate(sums, sizes)
    steps, share = np.diff(rates, axis=0), _rate(sums[1:] + sums[:-1], sizes[1:] + sizes[:-1])
    error = np.sqrt((share * (1 - share)).clip(min=0) * (1 / sizes[1:] + 1 / sizes[:-1]))
    bound = np.maximum(scipy.stats.norm.isf(rule.alpha) * error, BACK * np.ptp(rates, axis=0))
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


def _outside(ranks: np.ndarray, labels: np.ndarray, top: np.ndarray) -> np.ndarray:
    """Correlation [descriptor, unit] of label and rank over the texts that are not in the unit's top set."""
    z = (ranks - (len(ranks) + 1) / 2) / len(ranks)
    units, n = np.arange(z.shape[1]), len(z) - len(top)
    x, xx = z.sum(0), (z * z).sum(0)
    c, cc = (np.repeat(part.sum(0)[:, None], len(units), 1) for part in (labels, labels**2))
    cx = labels.T.astype(np.float64) @ z
    for rows in top:
        here, label = z[rows, units], labels[rows].T.astype(np.float64)  # [unit], [descriptor, unit]
        x, xx, c, cc, cx = x - here, xx - here**2, c - label, cc - label**2, cx - label * here
    # ranks of n texts are in steps of 1 / n, labels in [0, 1]: less is rounding
    return stats.correlation_of_sums(n, x, xx, c, cc, cx, tiny=1e-3 / n)


def _tails(on: np.ndarray, k: int) -> np.ndarray:
    """P(at least h of k random texts have the descriptor) [descriptor, h]: hypergeometric."""
    n, hits = len(on), np.arange(k + 1)
    return np.stack([scipy.stats.hypergeom.sf(hits - 1, n, positives, k) for positives in on.sum(0)])


def _signs(values, table: np.ndarray, quantiles: int) -> np.ndarray:
    """1, -1 or 0 [token, unit]: do the rates rise or fall strictly? The last column is the denominator."""
    rule, parts = _Rule(1, quantiles, True, 0.0), []
    for start in range(0, values.shape[1], UNITS_AT_ONCE):
        x = np.asarray(values[:, start : start + UNITS_AT_ONCE], dtype=np.float32)
        sums, _ = _rates(_ranks(x), table, quantiles)
        parts.append(_monotone(sums[:, :-1], sums[:, -1], rule))
    return np.concatenate(parts, axis=1)


def _together(signs: list[np.ndarray]) -> float:
    """Share of the pairs with one sign in all."""
    return float(np.mean(np.all(signs, axis=0) & (np.abs(np.sum(signs, axis=0)) == len(signs))))


def _distinct(best: np.ndarray) -> np.ndarray:
    """Different values [unit] above -1 in each column of ``best`` [corpus, unit]."""
    return np.array([len(set(column[column >= 0])) for column in best.T], dtype=float)
