"""Transfer: choose the tags of one half of every corpus, look them up on the other halves.

    rule = Rule(method="pearson", min_score=0.3)
    table = look_up(corpora, rule)      one line for each tag and corpus; corpora {name: Corpus}

The frame is that of ``Report.units``, with positions in place of the names of units and descriptors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.stats

from nbkit import stats
from nbkit.illusions.corpora import Corpus
from nbkit.illusions.outcomes import OUTCOMES, evidence, outcomes
from nbkit.illusions.scoring import Scores, luck, rivals, scored

FEWEST = 100  # units (or directions) kept at least, the best ones, when fewer reach the minimum


class Rule(NamedTuple):
    """How tags are chosen and judged."""

    method: str = "pearson"
    min_score: float = 0.3  # from which a unit has a tag
    splits: int = 3  # random cuts into halves
    permutations: int = 200  # of the labels, for p of scorers without a closed form; 0: no p at all
    alpha: float = 0.05  # of false discoveries
    over: str = "texts"  # or "units": what the intervals resample
    resamples: int = 100  # of the texts
    seed: int = 0

    def checked(self) -> Rule:
        """Itself; ``ValueError`` for intervals over anything but texts or units."""
        if self.over not in ("texts", "units"):
            raise ValueError(f'over={self.over!r}: intervals are over "texts" or over "units"')
        return self

    @property
    def null(self) -> float:
        """Score of a descriptor that has nothing to do with the unit."""
        return 0.5 if self.method == "auroc" else 0.0

    @property
    def cuts(self) -> range:
        """Seeds of the cuts."""
        return range(self.seed, self.seed + self.splits)


def look_up(
    corpora: Mapping[str, Corpus],
    rule: Rule,
    *,
    elsewhere: np.ndarray | None = None,
    matched: bool = False,
) -> pd.DataFrame:
    """Every tag of the first half of a corpus, looked up on the second half of each corpus.

    elsewhere  a permutation of the units: tags are then looked up on the unit it names
    matched    look them up with every descriptor equally frequent in all corpora, too

    Whole documents are in one half, and trade places when labels are permuted; under covariates, only texts
    alike in them do. A tag reaches the minimum and is significant on the half it was chosen on. The lines of
    a tag follow each other, in the order of the corpora.
    """
    parts = [_one_cut(corpora, rule, cut, elsewhere, matched) for cut in rule.cuts]
    return pd.concat(parts, ignore_index=True)


def judged(table: pd.DataFrame) -> pd.DataFrame:
    """The lines of tags above the minimum; with fewer than two such tags a cut, all (the best were kept)."""
    above = table[table["above"]]
    tags = (above["other"] == above["corpus"]).sum()
    return above if tags >= 2 * table["split"].nunique() else table


# ---------------------------------------------------------------------------------- one cut


def _one_cut(
    corpora: Mapping[str, Corpus], rule: Rule, cut: int, elsewhere: np.ndarray | None, matched: bool
) -> pd.DataFrame:
    """The frame of ``look_up`` for one random cut."""
    names, tested = list(corpora), rule.permutations > 0
    chosen, looked_up, second = {}, {}, {}
    for name, corpus in corpora.items():
        first, second[name] = corpus.halves(cut)
        chosen[name] = scored(first, rule.method, tested=tested)
        looked_up[name] = scored(second[name], rule.method, tested=tested)
    tags = {name: _chosen(name, names, scores, rule, cut) for name, scores in chosen.items()}
    whole = pd.concat(tags.values(), ignore_index=True)
    unit, tag, home = (whole[column].to_numpy() for column in ("unit", "descriptor", "corpus"))
    places = np.arange(chosen[names[0]].score.shape[1]) if elsewhere is None else elsewhere
    here = {name: Ordered.of(scores.score) for name, scores in chosen.items()}
    there = {name: Ordered.of(scores.score[:, places]) for name, scores in looked_up.items()}
    at_home = np.select([home == n for n in names], [s.score[tag, places[unit]] for s in looked_up.values()])
    equal = at_equal_shares(second, cut) if matched else {}
    equal = {name: scored(half, rule.method, tested=False).score for name, half in equal.items()}
    options: dict[str, Any] = dict(method=rule.method, permutations=rule.permutations, seed=cut)
    parts = []
    for other in names:
        rival = rivals(chosen[other], rule.null)[places[unit]]
        known = evidence(second[other], looked_up[other], tag, rival, places[unit], **options)
        for name in names:
            mine = np.flatnonzero(home == name)
            found = {w: number[unit[mine]] for w, number in compared(here[name], there[other]).items()}
            if matched:
                scores = equal[other][:, places[unit[mine]]]
                found["matched_same"] = scores.argmax(0) == tag[mine]
                found["matched_score"] = scores[tag[mine], np.arange(len(mine))]
            found |= {"rival": rival[mine], "p": known.p[mine], "q": stats.q_values(known.p[mine])}
            same = found["same"] == 1
            found["outcome"] = outcomes(known.of(mine), same, at_home[mine], alpha=rule.alpha, null=rule.null)
            parts.append(_lines(tags[name], names.index(other), names, found, rule))
    return pd.concat(parts).sort_values(["corpus", "unit", "other"], ignore_index=True)


def _lines(tags: pd.DataFrame, other: int, names: list[str], found: dict, rule: Rule) -> pd.DataFrame:
    """The tags of one corpus, looked up in one. Small types: a site has 10,000 units, and a line for each."""
    n, q = len(tags), found["q"]
    significant = q <= rule.alpha if rule.permutations else [None] * n
    kinds = {"same": bool, "matched_same": bool, "rival": np.int32}
    numbers = {
        name: part.astype(kinds.get(name, np.float32)) for name, part in found.items() if name != "outcome"
    }
    return tags.assign(
        other=pd.Categorical.from_codes(np.full(n, other), names),
        **numbers,
        significant=pd.array(significant, dtype="boolean"),
        outcome=pd.Categorical.from_codes(found["outcome"], OUTCOMES),
    )


def _chosen(corpus: str, names: list[str], scores: Scores, rule: Rule, cut: int) -> pd.DataFrame:
    """The tags of a corpus: the best descriptor of every unit that is kept.

    A tag reaches the minimum, and is no luck: with 20 positives, the best of 16 descriptors reaches an AUROC
    of .65 where nothing is related.
    """
    best = scores.score.argmax(0)
    top = scores.score[best, np.arange(len(best))]
    above = (top > rule.min_score) & (luck(scores, best) <= rule.alpha)
    kept = _kept(top, above)
    return pd.DataFrame(
        {
            "split": np.full(len(kept), cut, np.int32),
            "corpus": pd.Categorical.from_codes(np.full(len(kept), names.index(corpus)), names),
            "unit": kept.astype(np.int32),
            "descriptor": best[kept].astype(np.int32),
            "score": top[kept].astype(np.float32),
            "above": above[kept],
        }
    )


def _kept(top: np.ndarray, above: np.ndarray) -> np.ndarray:
    """Units with a tag; where they are fewer than ``FEWEST``, so many: the others by their best score."""
    if above.sum() >= FEWEST:
        return np.flatnonzero(above)
    return np.sort(np.lexsort((-top, ~above))[:FEWEST])


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


def at_equal_shares(halves: Mapping[str, Corpus], seed: int) -> dict[str, Corpus]:
    """Texts of each half, drawn so that every descriptor is as frequent in all as where it is rarest.

    A text stays with a probability that is a product over its descriptors, found by iterative proportional
    fitting. So the other meanings of a unit are as frequent everywhere, too.
    """
    on = {name: half.labels > 0.5 for name, half in halves.items()}
    odds = np.min([o.sum(0) / np.maximum(1, (~o).sum(0)) for o in on.values()], axis=0)
    found, generator = {}, np.random.default_rng(seed)
    for name, half in halves.items():
        weight = _fitted(on[name], odds)
        found[name] = half.half(np.flatnonzero(generator.random(len(weight)) < weight / weight.max()))
    return found


def _fitted(on: np.ndarray, odds: np.ndarray, rounds: int = 30) -> np.ndarray:
    """Weights [row] under which each column of ``on`` [row, descriptor] has its ``odds``."""
    weight = np.ones(len(on))
    for _ in range(rounds):
        for column, wanted in zip(on.T, odds, strict=True):
            known = weight[column].sum() / max(weight[~column].sum(), 1e-9)
            weight[column] *= wanted / known if known > 0 else 1
    return weight
