"""Taxonomy: is a tag true along the whole direction, in some corpora only, or only at the very top?

A trend in a corpus is all of:

1. The correlation of the label with the rank of the activation is positive and significant outside the top
   set: ten striking texts alone are no trend.
2. The rate of the descriptor does not fall, from one quantile of the activations to the next, by more than
   noise and more than a third of its range. A bent curve is no trend; a dip at the low end (GELU makes them)
   does not end one. ``strict=True`` asks for rates that rise strictly, as the paper does; even a perfect
   detector of something rare fails that, since its lower quantiles are all at 0.
3. AUROC is above .5 by its 90 % interval, and AUROC - .5 is half of what it is at best, or more. With
   thousands of texts any correlation is significant, and AUROC does not depend on how frequent a descriptor
   is in a corpus.

A missing trend may be for want of texts. So a tag is dataset-level only where some corpus has a trend, and in
another AUROC - .5 is *significantly* below half of its best; with a trend in some and no such difference
anywhere, it is undecided.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.stats
from tqdm.auto import tqdm

from nbkit import matching, stats
from nbkit.activations import Activations
from nbkit.illusions.corpora import Corpus, Groups, aligned, gathered, shared_descriptors
from nbkit.illusions.monotone import UNITS_AT_ONCE, cells, direction, ranks, rates
from nbkit.illusions.outcomes import errors_of


class Taxonomy(NamedTuple):
    """What ``taxonomy`` found.

    verdicts   one line for each unit and tag:
               unit, descriptor   the tag
               verdict            "global": a trend in every corpus; "dataset-level": in some, and
                                  significantly less in another; "undecided": in some, the texts of the
                                  others are too few to say; "local": in none, but enriched in a top set;
                                  "none"
               score, home        its highest correlation in any corpus, and that corpus
               chosen             "score", "top set" or "both"
               trends             number of corpora with a trend
               undecided          number of corpora without a trend that are not significantly lower either
    evidence   one line for each unit, tag and corpus:
               unit, descriptor, corpus
               r                  correlation
               auroc, error       AUROC (ties half; labels cut at .5) and its standard error
               trend, q           rank correlation outside the top set, and its q
               monotone           1 or -1 as the rates rise or fall over the quantiles, 0 for neither
               enriched           q of the number of texts with the descriptor in the top set
               lower              q of AUROC - .5 being less than ``keep`` of its best over the corpora
    left_out   descriptors that are too rare in some corpus
    """

    verdicts: pd.DataFrame
    evidence: pd.DataFrame
    left_out: list[str]


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
    groups: Groups = True,
    progress: bool = True,
) -> Taxonomy:
    """A verdict for each unit and tag, and the evidence in each corpus.

    A unit's tags: in each corpus its best descriptor if the correlation is at least ``min_score``, and the
    descriptor most over-represented in its top ``k`` texts if that is significant.

    alpha          of false discoveries, over all units and descriptors of a corpus
    quantiles      into which the activations of a corpus are cut
    strict         rates must rise strictly over them (the paper's test); default: not fall back
    keep           of the tag's highest AUROC - .5 in any corpus, the part that a trend must have
    k              texts in a top set
    min_positives  a descriptor takes part if so many texts of each corpus have it (a label above .5), and
                   lack it; with less than 2 ``k``, a perfect detector has most of them in its top set and no
                   trend outside
    covariates     {corpus: frame by text_id} of covariates, such as length in words: what is judged is what
                   they leave of the activations (``matching.residuals``)
    groups         as for ``compare``: texts of a document are not independent, and only the highest of them
                   is in a top set

    Errors as in ``compare``; texts too few for the quantiles are a ``ValueError``.
    """
    labels = aligned(activations_by_corpus, labels_by_corpus)
    shared = shared_descriptors({name: frame > 0.5 for name, frame in labels.items()}, min_positives)
    rule = _Rule(k, quantiles, strict, alpha / (quantiles - 1) / len(labels))
    matrices = {name: frame[shared].to_numpy(np.float32) for name, frame in labels.items()}
    corpora = gathered(activations_by_corpus, matrices, covariates, groups)
    found = {name: _evidence(name, corpus, rule, progress) for name, corpus in corpora.items()}
    verdicts, evidence = _verdicts(found, corpora, min_score, alpha, keep)
    units = next(iter(activations_by_corpus.values())).units["unit"].to_numpy()
    for table in (verdicts, evidence):
        table["unit"], table["descriptor"] = units[table["unit"]], np.asarray(shared)[table["descriptor"]]
    left_out = [name for name in next(iter(labels.values())) if name not in shared]
    return Taxonomy(verdicts, evidence, left_out)


def quintile_rates(
    activations_by_corpus: Mapping[str, Activations],
    labels_by_corpus: Mapping[str, pd.DataFrame],
    unit: str | int,
    descriptor: str,
    *,
    quantiles: int = 5,
) -> pd.DataFrame:
    """How frequent ``descriptor`` is in each fifth of a unit's activations, from the lowest.

    A frame corpus, quantile (from 1), texts, share, low, high (Wilson's 95 % interval);
    ``plots.quintile_curves`` draws it. An unknown unit or descriptor is an error that names it.
    """
    lines = []
    for name, stored in activations_by_corpus.items():
        label = matching.align(stored, labels_by_corpus[name])[descriptor].to_numpy(float)
        values = np.asarray(stored.values[:, [stored.column(unit)]], np.float32)
        cell = cells(ranks(values), quantiles)[:, 0]
        for quantile in range(quantiles):
            inside = label[cell == quantile]
            if not len(inside):  # the unit is constant over more than a fifth of the texts
                continue
            interval = scipy.stats.binomtest(round(inside.sum()), len(inside)).proportion_ci(method="wilson")
            lines.append((name, quantile + 1, len(inside), inside.mean(), interval.low, interval.high))
    return pd.DataFrame(lines, columns=["corpus", "quantile", "texts", "share", "low", "high"])


# ---------------------------------------------------------------------------------- inside


class _Rule(NamedTuple):
    """How a corpus is judged."""

    k: int  # texts in a top set
    quantiles: int
    strict: bool
    alpha: float  # of one step between two quantiles


class _Evidence(NamedTuple):
    """What one corpus says of every descriptor and unit; all [descriptor, unit]."""

    r: np.ndarray  # correlation
    auroc: np.ndarray
    trend: np.ndarray  # rank correlation outside the top set
    q: np.ndarray  # of the trend
    monotone: np.ndarray  # 1, 0, -1
    enriched: np.ndarray  # q of the top set


def _evidence(name: str, corpus: Corpus, rule: _Rule, progress: bool) -> _Evidence:
    """What the texts of one corpus say; the q values are over all descriptors and units."""
    labels, n = corpus.labels, len(corpus.labels)
    if n < max(rule.quantiles, rule.k + 4):
        raise ValueError(f"{name!r} has {n} texts, too few for {rule.quantiles} quantiles and top {rule.k}")
    tail, parts = _tails(labels > 0.5, rule.k), []
    starts = range(0, corpus.values.shape[1], UNITS_AT_ONCE)
    for start in tqdm(starts, desc=f"taxonomy of {name}", leave=False, disable=not progress):
        x = np.asarray(corpus.values[:, start : start + UNITS_AT_ONCE], dtype=np.float32)
        top, ranked = _top(x, corpus.groups, rule.k), ranks(x)
        trend = _outside(ranked, labels, top)
        hits = np.sum([labels[rows] > 0.5 for rows in top], axis=0).T  # [descriptor, unit]
        parts.append(
            (
                matching.pearson(x, labels),
                stats.auroc_of_ranks((labels.T > 0.5).astype(float), ranked.T),
                trend,
                _p(trend, n - rule.k, corpus, ranked),
                direction(*rates(ranked, labels, rule.quantiles), rule.alpha, rule.strict),
                np.take_along_axis(tail, hits, axis=1),
            )
        )
    r, auroc, trend, p, monotone, tails = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))
    return _Evidence(r, auroc, trend, stats.q_values(p), monotone, stats.q_values(tails))


def _top(x: np.ndarray, groups: np.ndarray | None, k: int) -> np.ndarray:
    """Rows [k, unit] of the highest activations; with ``groups``, of the highest of so many documents."""
    if groups is None:
        return stats.top_texts(x, k)
    order = np.argsort(groups, kind="stable")
    first = np.flatnonzero(np.diff(groups[order], prepend=-1))  # of each document
    highest = np.maximum.reduceat(x[order], first, axis=0)
    row = np.where(
        x == highest[np.unique(groups, return_inverse=True)[1]], np.arange(len(x))[:, None], len(x)
    )
    rows = np.minimum.reduceat(row[order], first, axis=0)  # [document, unit]
    return np.take_along_axis(rows, stats.top_texts(highest, min(k, len(first))), axis=0)


def _p(trend: np.ndarray, n: int, corpus: Corpus, ranked: np.ndarray) -> np.ndarray:
    """Two-sided p of rank correlations [descriptor, unit] over ``n`` texts, by Student's t.

    With documents the variance is that of their sums, and there are as many independent things.
    """
    if corpus.groups is None:
        return stats.correlation_p(trend, n)
    z, c = ranked - ranked.mean(0), corpus.labels - corpus.labels.mean(0)
    _, group = np.unique(corpus.groups, return_inverse=True)
    squares, documents = np.zeros_like(trend), group.max() + 1
    for g in range(documents):
        squares += (c[group == g].T @ z[group == g]) ** 2
    inflation = np.sqrt(np.divide(squares, (c**2).T @ z**2, out=np.ones_like(squares), where=squares > 0))
    t = trend * np.sqrt((n - 2) / (1 - trend**2).clip(min=1e-12)) / inflation
    return 2 * scipy.stats.t.sf(np.abs(t), documents - 1)


def _verdicts(
    found: dict[str, _Evidence], corpora: dict[str, Corpus], min_score: float, alpha: float, keep: float
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The two frames of a ``Taxonomy``; unit and descriptor as positions."""
    descriptor, unit, chosen = _chosen(found, min_score, alpha)
    names = list(found)
    numbers = {  # [corpus, tag]
        what: np.stack([getattr(e, what)[descriptor, unit] for e in found.values()])
        for what in _Evidence._fields
    }
    numbers["error"] = np.stack(
        [errors_of(c, descriptor, descriptor, unit, "auroc", 0)[0] for c in corpora.values()]
    )
    numbers["lower"], enough = _lower(numbers["auroc"] - 0.5, numbers["error"], keep)
    trend = (numbers["trend"] > 0) & (numbers["q"] <= alpha) & (numbers["monotone"] == 1) & enough
    trend &= numbers["auroc"] - 1.645 * numbers["error"] > 0.5
    lower = ~trend & (numbers["lower"] <= alpha)
    kinds = [trend.all(0), trend.any(0) & lower.any(0), trend.any(0), (numbers["enriched"] <= alpha).any(0)]
    verdict = np.select(kinds, ["global", "dataset-level", "undecided", "local"], "none")
    columns = {"unit": unit, "descriptor": descriptor, "verdict": verdict, "score": numbers["r"].max(0)}
    columns |= {"home": np.asarray(names)[numbers["r"].argmax(0)], "chosen": chosen}
    columns |= {"trends": trend.sum(0), "undecided": (~trend & ~lower).sum(0)}
    evidence = [
        pd.DataFrame(
            {
                "unit": unit,
                "descriptor": descriptor,
                "corpus": pd.Categorical.from_codes(np.full(len(unit), i), names),
            }
            | {what: table[i] for what, table in numbers.items()}
        )
        for i in range(len(names))
    ]
    whole = pd.concat(evidence).sort_values(["unit", "descriptor", "corpus"], ignore_index=True)
    return pd.DataFrame(columns), whole


def _lower(excess: np.ndarray, error: np.ndarray, keep: float) -> tuple[np.ndarray, np.ndarray]:
    """q [corpus, tag] of ``excess`` being below ``keep`` of its best; and is it at least that, as it stands?

    One-sided, normal; Benjamini-Hochberg over all corpora but the best, and all tags.
    """
    best = excess.argmax(0)[None]
    least = keep * np.take_along_axis(excess, best, axis=0)
    wide = np.hypot(keep * np.take_along_axis(error, best, axis=0), error)
    p = scipy.stats.norm.sf((least - excess) / np.maximum(wide, 1e-9))
    np.put_along_axis(p, best, np.nan, axis=0)
    return np.nan_to_num(stats.q_values(p), nan=1.0), excess >= least


def _chosen(found: dict[str, _Evidence], min_score: float, alpha: float) -> tuple[np.ndarray, ...]:
    """The tags, unit after unit: descriptor, unit, and what chose them."""
    shape = next(iter(found.values())).r.shape
    by_score, by_top = (np.zeros(shape, dtype=bool) for _ in range(2))
    every = np.arange(shape[1])
    for e in found.values():
        best, fullest = e.r.argmax(0), e.enriched.argmin(0)
        by_score[best, every] |= e.r[best, every] >= min_score
        by_top[fullest, every] |= e.enriched[fullest, every] <= alpha
    unit, descriptor = np.nonzero((by_score | by_top).T)
    some = (descriptor, unit)
    chosen = np.where(by_score[some] & by_top[some], "both", np.where(by_score[some], "score", "top set"))
    return descriptor, unit, chosen


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
