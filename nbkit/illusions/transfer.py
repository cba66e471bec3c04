"""Transfer: choose the tags of one half of every corpus, look them up on the other halves.

    rule = Rule(method="pearson", min_score=0.3)
    table = look_up(corpora, rule)      one line for each tag and corpus; corpora {name: Corpus}

The frame is that of ``Report.units``, with positions in place of the names of units and descriptors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.stats

from nbkit import matching, stats
from nbkit.illusions.corpora import Corpus

FEWEST = 100  # units (or directions) kept at least, the best ones, when fewer reach the minimum

Scorer = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Rule(NamedTuple):
    """How tags are chosen and judged."""

    method: str = "pearson"
    min_score: float = 0.3  # from which a unit has a tag
    splits: int = 3  # random cuts into halves
    permutations: int = 200  # of the labels, for p; 0: none
    alpha: float = 0.05  # of false discoveries
    over: str = "texts"  # or "units": what the intervals resample
    resamples: int = 100  # of the texts
    seed: int = 0

    @property
    def cuts(self) -> range:
        """Seeds of the cuts."""
        return range(self.seed, self.seed + self.splits)


def look_up(
    corpora: Mapping[str, Corpus], rule: Rule, *, elsewhere: np.ndarray | None = None
) -> pd.DataFrame:
    """Every tag of the first half of a corpus, looked up on the second half of each corpus.

    elsewhere  a permutation of the units: tags are then looked up on the unit it names

    Whole documents are in one half, and trade places when labels are permuted; under covariates, only texts
    alike in them do. The lines of a tag follow each other, in the order of the corpora.
    """
    parts = [_one_cut(corpora, rule, cut, elsewhere) for cut in rule.cuts]
    return pd.concat(parts, ignore_index=True)


def judged(table: pd.DataFrame) -> pd.DataFrame:
    """The lines of tags above the minimum; with fewer than two such tags a cut, all (the best were kept)."""
    above = table[table["above"]]
    tags = (above["other"] == above["corpus"]).sum()
    return above if tags >= 2 * table["split"].nunique() else table


# ---------------------------------------------------------------------------------- one cut


def _one_cut(
    corpora: Mapping[str, Corpus], rule: Rule, cut: int, elsewhere: np.ndarray | None
) -> pd.DataFrame:
    """The frame of ``look_up`` for one random cut."""
    scorer, names = matching.scorer_of(rule.method), list(corpora)
    chosen, looked_up, second = {}, {}, {}
    for name, corpus in corpora.items():
        first, second[name] = corpus.halves(cut)
        chosen[name] = scorer(first.values, first.labels)
        looked_up[name] = scorer(second[name].values, second[name].labels)
        if elsewhere is not None:
            looked_up[name] = looked_up[name][:, elsewhere]
    tags = {name: _chosen(name, names, scores, rule.min_score, cut) for name, scores in chosen.items()}
    here, there = ({n: Ordered.of(scores) for n, scores in part.items()} for part in (chosen, looked_up))
    matched = _matched(second, tags, scorer, elsewhere, cut)
    whole = pd.concat(tags.values(), ignore_index=True)
    unit, descriptor, home = (whole[column].to_numpy() for column in ("unit", "descriptor", "corpus"))
    place = unit if elsewhere is None else elsewhere[unit]
    blocks = []
    for other in names:
        p = matching.permutation_test(
            second[other].values,
            second[other].labels,
            descriptor,
            place,
            method=rule.method,
            permutations=rule.permutations,
            covariates=second[other].covariates,
            groups=second[other].groups,
            seed=cut,
        )
        for name in names:
            mine = home == name
            found = {w: number[unit[mine]] for w, number in compared(here[name], there[other]).items()}
            found["matched"] = matched[other][descriptor[mine], unit[mine]]
            blocks.append(_lines(tags[name], names.index(other), names, found, p[mine], rule))
    return pd.concat(blocks).sort_values(["corpus", "unit", "other"], ignore_index=True)


def _lines(tags, other: int, names: list[str], found: dict, p: np.ndarray, rule: Rule) -> pd.DataFrame:
    """The tags of one corpus, looked up in one. Small types: a site has 10,000 units, and a line for each."""
    q = stats.q_values(p)
    significant = pd.array(q <= rule.alpha if rule.permutations else [None] * len(q), dtype="boolean")
    same = found.pop("same").astype(bool)
    numbers = {name: number.astype(np.float32) for name, number in (found | {"p": p, "q": q}).items()}
    corpus = pd.Categorical.from_codes(np.full(len(tags), other), names)
    return tags.assign(other=corpus, same=same, **numbers, significant=significant)


def _chosen(corpus: str, names: list[str], scores: np.ndarray, min_score: float, cut: int) -> pd.DataFrame:
    """The tags of a corpus: the best descriptor of every unit that is kept."""
    best = scores.argmax(0)
    top = scores[best, np.arange(len(best))]
    kept = _kept(top, min_score)
    return pd.DataFrame(
        {
            "split": np.full(len(kept), cut, np.int32),
            "corpus": pd.Categorical.from_codes(np.full(len(kept), names.index(corpus)), names),
            "unit": kept.astype(np.int32),
            "descriptor": best[kept].astype(np.int32),
            "score": top[kept].astype(np.float32),
            "above": top[kept] > min_score,
        }
    )


def _kept(top: np.ndarray, min_score: float) -> np.ndarray:
    """Units that reach the minimum; the ``FEWEST`` best when fewer do."""
    above = np.flatnonzero(top > min_score)
    if len(above) >= FEWEST:
        return above
    return np.sort(np.argsort(-top, kind="stable")[:FEWEST])


class Ordered(NamedTuple):
    """Scores [..., unit, descriptor] with the order of the descriptors of each unit."""

    scores: np.ndarray
    first: np.ndarray  # the best descriptors, at most two, best first; of equals that which comes first
    ranks: np.ndarray  # around their mean; equals share theirs

    @classmethod
    def of(cls, scores: np.ndarray) -> Ordered:
        """``scores`` [..., descriptor, unit]."""
        scores = np.ascontiguousarray(np.swapaxes(scores, -2, -1))
        order = np.argsort(scores, axis=-1)
        ordered = np.take_along_axis(scores, order, axis=-1)
        tied = (ordered[..., 1:] == ordered[..., :-1]).any(-1)  # rare, and slow to rank
        order[tied] = np.argsort(-scores[tied], axis=-1, kind="stable")[..., ::-1]
        n = scores.shape[-1]
        ranks = np.empty(scores.shape, np.float32)
        np.put_along_axis(ranks, order, np.arange(n, dtype=np.float32) - (n - 1) / 2, axis=-1)
        ranks[tied] = scipy.stats.rankdata(scores[tied], axis=-1) - (n + 1) / 2
        return cls(scores, order[..., :-3:-1], ranks)


def compared(here: Ordered, there: Ordered) -> dict[str, np.ndarray]:
    """What ``there`` keeps of the tags in ``here``: arrays [..., unit]."""
    best = here.first[..., :1]
    return {
        "same": (there.first[..., 0] == best[..., 0]).astype(float),
        "transfer_score": np.take_along_axis(there.scores, best, axis=-1)[..., 0],
        "jaccard": _overlap(here.first, there.first),
        "spearman": stats.cosine(here.ranks, there.ranks),
    }


def _overlap(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Jaccard [...] of the descriptors in ``one`` and ``two`` [..., k]."""
    k = one.shape[-1]
    both = (one[..., :, None] == two[..., None, :]).sum((-2, -1))
    return both / (2 * k - both)


def _matched(
    halves: Mapping[str, Corpus],
    tags: Mapping[str, pd.DataFrame],
    scorer: Scorer,
    elsewhere: np.ndarray | None,
    seed: int,
) -> dict[str, np.ndarray]:
    """Scores [descriptor, unit] of all pairs in ``tags``, each descriptor as frequent as where it is rarest.

    All texts without the descriptor stay, those with it are drawn without replacement.
    """
    pairs = pd.concat(tags.values())[["descriptor", "unit"]].drop_duplicates()
    odds = {}  # positives for each negative
    for name, half in halves.items():
        on = (half.labels > 0.5).sum(0)
        odds[name] = on / np.maximum(1, len(half.labels) - on)
    lowest = np.min(list(odds.values()), axis=0)
    found = {}
    for name, (values, labels, *_) in halves.items():
        found[name] = np.full((labels.shape[1], values.shape[1]), np.nan)
        for descriptor, units in pairs.groupby("descriptor")["unit"]:
            rows = stats.thinned(labels[:, descriptor] > 0.5, lowest[descriptor], seed)
            columns = units.to_numpy() if elsewhere is None else elsewhere[units.to_numpy()]
            scores = scorer(values[np.ix_(rows, columns)], labels[np.ix_(rows, [descriptor])])
            found[name][descriptor, units] = scores[0]
    return found
