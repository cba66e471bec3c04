"""The figures of pairs of a unit and a description on one corpus, many pairs at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.special
import scipy.stats

from nbkit import matching, stats

CELLS = 2**22  # of [row, pair] that are worked on at once
ALIKE = 0.6  # correlation of labels from which two descriptions say the same, and are no rivals


class Corpus(NamedTuple):
    """The two matrices of a corpus."""

    values: np.ndarray  # [row, unit]
    labels: np.ndarray  # [row, description]
    groups: np.ndarray | None  # [row] number of its document; None: rows are independent

    @property
    def on(self) -> np.ndarray:
        return self.labels > 0.5

    @property
    def n_groups(self) -> int:
        return len(self.values) if self.groups is None else len(np.unique(self.groups))


class Pairs(NamedTuple):
    """What is claimed: positions of units and descriptions, and the end of the unit that is meant."""

    unit: np.ndarray  # [pair]
    description: np.ndarray  # [pair]
    sign: np.ndarray  # [pair] 1 or -1

    def at(self, part: slice) -> Pairs:
        return Pairs(self.unit[part], self.description[part], self.sign[part])


class Rule(NamedTuple):
    """What ``judge`` was asked for."""

    min_score: float
    alpha: float
    many: float
    min_positives: int
    top: int
    high: float
    permutations: int
    seed: int


def figures_of(corpus: Corpus, pairs: Pairs, rule: Rule) -> pd.DataFrame:
    """One line for each pair; the columns are those of ``Judged.corpora``, before q and outcome."""
    scores = matching.SCORERS["auroc"](corpus.values, np.nan_to_num(corpus.labels))
    blocks = [_block(corpus, part, rule) for part in _parts(pairs, len(corpus.values))]
    frame = pd.concat([block for block, _ in blocks], ignore_index=True)
    null = np.concatenate([found for _, found in blocks], axis=1)
    frame["z"], frame["p"] = _p(frame["auroc"].to_numpy(), null)
    return frame.join(_ranks(corpus, scores, pairs, frame, rule))


def _parts(pairs: Pairs, rows: int) -> Iterator[Pairs]:
    size = max(1, CELLS // rows)
    for start in range(0, len(pairs.unit), size):
        yield pairs.at(slice(start, start + size))


def _block(corpus: Corpus, pairs: Pairs, rule: Rule) -> tuple[pd.DataFrame, np.ndarray]:
    """The figures that need the rows, and the null [draw, pair] of AUROC."""
    x = np.asarray(corpus.values[:, pairs.unit], dtype=np.float64) * pairs.sign
    y, on = corpus.labels[:, pairs.description], corpus.on[:, pairs.description]
    unlabelled = np.isnan(y).any(0)
    y = np.where(unlabelled, 0, y)
    ranks = scipy.stats.rankdata(x, axis=0)
    n, rows = on.sum(0), len(x)
    auroc = auroc_of(ranks, on)
    low, high = auroc_interval(ranks, on, auroc, corpus.groups)
    r = stats.correlation(x.T, y.T)
    r_low, r_high = stats.correlation_interval(x, y, corpus.groups)
    best = stats.top_texts(x, min(rule.top, rows))
    above = x > np.quantile(x, 1 - rule.high, axis=0)
    frame = pd.DataFrame(
        {
            "texts": rows,
            "documents": corpus.n_groups,
            "positives": n,
            "unlabelled": unlabelled,
            **{"auroc": auroc, "low": low, "high": high},
            **{"pearson": r, "pearson_low": r_low, "pearson_high": r_high},
            "top_has": np.take_along_axis(on, best, 0).mean(0),
            "has_high": (above & on).sum(0) / np.maximum(n, 1),
        }
    )
    return frame, null_of(ranks, on, corpus.groups, rule.permutations, rule.seed)


def auroc_of(ranks: np.ndarray, on: np.ndarray) -> np.ndarray:
    """AUROC [...] of each column; .5 where all rows are on, or none."""
    n, rows = on.sum(0), len(ranks)
    pairs = n * (rows - n)
    won = np.einsum("rp,rp->p", ranks, on.astype(ranks.dtype)) - n * (n + 1) / 2
    return np.where(pairs > 0, won / np.maximum(pairs, 1), 0.5)


def auroc_interval(
    ranks: np.ndarray, on: np.ndarray, auroc: np.ndarray, groups: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval (low, high) [pair] of AUROC; ``ranks`` and ``on`` are [row, pair].

    DeLong's placements (the share of the other class that a row beats), summed by group (Obuchowski 1997),
    give the variance of the AUROC; on the logit scale the interval stays in [0, 1]. Where the classes are
    nearly apart the variance falls to 0; it is at least that of a rank sum with as many groups in the smaller
    class, scaled by A (1 - A), with A moved inwards by half a group.
    """
    rows, n = len(ranks), on.sum(0)
    codes = np.arange(rows) if groups is None else pd.factorize(groups)[0]
    influence = np.zeros_like(ranks, dtype=np.float64)
    least = np.ones(ranks.shape[1])
    for pair in range(ranks.shape[1]):
        for side, sign in ((on[:, pair], 1), (~on[:, pair], -1)):
            size = int(side.sum())
            if not 0 < size < rows:
                continue
            beaten = (ranks[side, pair] - scipy.stats.rankdata(ranks[side, pair])) / (rows - size)
            beaten = beaten if sign > 0 else 1 - beaten
            influence[side, pair] = (beaten - auroc[pair]) / size
        n_with, n_without = (len(np.unique(codes[side])) for side in (on[:, pair], ~on[:, pair]))
        least[pair] = max(1, min(n_with, n_without))
    sums = influence
    if groups is not None:
        order = np.argsort(codes, kind="stable")
        first = np.flatnonzero(np.diff(codes[order], prepend=-1))
        sums = np.add.reduceat(influence[order], first, axis=0)
    count = len(sums)
    inside = (auroc * least + 0.5) / (least + 1)
    spare = inside * (1 - inside)
    variance = np.maximum((sums**2).sum(0) * count / max(1, count - 1), spare / (3 * (least + 1)))
    half = scipy.stats.t.isf(0.025, np.maximum(1, least - 1)) * np.sqrt(variance) / spare
    middle = scipy.special.logit(inside)
    low, high = scipy.special.expit(middle - half), scipy.special.expit(middle + half)
    known = (n > 0) & (n < rows)
    return np.where(known, np.minimum(low, auroc), np.nan), np.where(known, np.maximum(high, auroc), np.nan)


def null_of(
    ranks: np.ndarray, on: np.ndarray, groups: np.ndarray | None, permutations: int, seed: int
) -> np.ndarray:
    """AUROC [draw, pair] with the rows of the labels permuted, whole documents at a time."""
    generator = np.random.default_rng(seed)
    small, on = ranks.astype(np.float32), on.astype(np.float32)
    orders = stats.permutations(len(ranks), permutations, generator, groups=groups)
    return np.stack([auroc_of(small, on[order]) for order in orders])


def _p(found: np.ndarray, null: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """z and one-sided p [pair]: the share of all draws, in deviations of their pair, that reach the pair's.

    The draws of all pairs are one null: with 200 draws of 100 pairs p goes down to 1 / 20,001, as q over
    many claims needs. It takes for granted that standardised nulls are alike.
    """
    mean, deviation = null.mean(0), np.maximum(null.std(0, ddof=1), 1e-9)
    z = (found - mean) / deviation
    drawn = np.sort(((null - mean) / deviation).ravel())
    reached = len(drawn) - np.searchsorted(drawn, z - 1e-9)
    return z, (1 + reached) / (1 + len(drawn))


# ---------------------------------------------------------------------------------- among others


def _ranks(corpus: Corpus, scores: np.ndarray, pairs: Pairs, frame: pd.DataFrame, rule: Rule) -> pd.DataFrame:
    """A pair among the other descriptions on its unit, and among the other units for its description.

    rank, rivals         1 + descriptions that score higher on the unit, and how many there are: those with
                         enough rows to be judged that do not label the same rows
    unit_rank, units     1 + units that score higher for the description, of how many
    as_good              other units whose score reaches the lower end of this one's interval and the minimum
    rival, rival_auroc   position and score of the best rival; -1 where there is none
    without_rival        AUROC among the rows that lack the best rival, if that is higher; NaN with too few
    """
    on = corpus.on
    n, rows = on.sum(0), len(on)
    usable = (n >= rule.min_positives) & (rows - n >= rule.min_positives)
    standard = on.astype(np.float32) - n.astype(np.float32) / rows
    standard /= np.maximum(standard.std(0), 1e-9)
    auroc, low = frame["auroc"].to_numpy(), frame["low"].to_numpy()
    lines = []
    for i, (unit, description, sign) in enumerate(zip(*pairs, strict=True)):
        of_unit, of_description = scores[:, unit], scores[description]
        if sign < 0:
            of_unit, of_description = 1 - of_unit, 1 - of_description
        rival = usable & (standard.T @ standard[:, description] <= ALIKE * rows)
        rival[description] = False
        best = int(np.argmax(np.where(rival, of_unit, -1.0))) if rival.any() else -1
        higher = best >= 0 and of_unit[best] > auroc[i]
        others = np.delete(of_description, unit)
        reach = np.nan_to_num(max(low[i], rule.min_score), nan=1.0)
        lines.append(
            (
                1 + int((of_unit[rival] > auroc[i]).sum()),
                int(rival.sum()),
                1 + int((others > auroc[i] + 1e-9).sum()),
                len(of_description),
                int((others >= reach).sum()),
                best,
                of_unit[best] if best >= 0 else np.nan,
                _without(corpus, on, unit, description, best, sign, rule) if higher else np.nan,
            )
        )
    names = ["rank", "rivals", "unit_rank", "units", "as_good", "rival", "rival_auroc", "without_rival"]
    return pd.DataFrame(lines, columns=names)


def _without(corpus: Corpus, on: np.ndarray, unit, description, rival, sign, rule: Rule) -> float:
    """AUROC of a description among the rows that lack a rival; NaN where too few of either kind are left."""
    kept = np.flatnonzero(~on[:, rival])
    here = on[kept, description]
    if min(here.sum(), len(here) - here.sum()) < rule.min_positives:
        return np.nan
    values = np.asarray(corpus.values[kept, unit], dtype=np.float64) * sign
    return float(auroc_of(scipy.stats.rankdata(values)[:, None], here[:, None])[0])
