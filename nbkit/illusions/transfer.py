"""Fates: what becomes of a tag on the other half of its corpus, and on other corpora.

    rule = Rule(method="pearson", min_score=0.3)
    frame = fates(values_by_corpus, labels_by_corpus, rule)       every tag, with its fate
    draws = resampled(values_by_corpus, labels_by_corpus, rule, frame)    the same from texts drawn anew
    agreement("units", frame, rule, draws)                        one line: shares and means, with intervals

``illusions.compare`` runs these for the units and for each of their floors, and says what the columns mean.

Intervals (ours). The texts are what chance has drawn, so by default they are drawn again: every corpus is
dealt into 50 groups at random, groups are drawn with replacement, tags are CHOSEN AGAIN on the first halves
of what was drawn and looked up on the second halves. No text is in both, and a text weighs the same in all
cuts. A resample is noisier than the sample it is from, so its agreement is a little lower: only the spread
is taken, and set around what was found. Groups make it cheap: scores of a resample are made of sums over
groups. At most 1,000 of the units with a tag carry it, drawn at random. On samples of texts whose agreement
is known (`tests/test_fates.py`) intervals of means hold it in 90 % or more; those of shares, which know only
yes and no, are up to a sixth too narrow where units are few.

Chance (ours). A tag was chosen without the texts it is looked up on, so one test a tag is enough, without a
correction for having chosen it: do permuted labels score as high there? Benjamini-Hochberg is over the
units that have a tag of the corpus. A tag that passes is related to the unit THERE; whether it is the first
tag, or as strong, is another question.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.stats
from tqdm.auto import tqdm

from nbkit import matching, stats
from nbkit.stats import Estimate, bootstrap

FEWEST = 100  # units (or directions) judged at least, the best ones, when fewer reach the minimum
GROUPS = 50  # of the texts of a corpus, drawn together
UNITS_RESAMPLED = 1000  # that carry the bootstrap over texts
NUMBERS_AT_ONCE = 2**24  # scores [resample, descriptor, unit] of a corpus held at a time
RESAMPLED = ("within", "across", "gap", "kept_within", "kept_across", "jaccard_within", "jaccard_across")
RESAMPLED += ("spearman_within", "spearman_across")


class Rule(NamedTuple):
    """How tags are chosen and judged."""

    method: str = "pearson"
    min_score: float = 0.3  # from which a unit has a tag
    splits: int = 3  # random cuts into halves
    permutations: int = 200  # of the labels, for p; 0: none
    alpha: float = 0.05  # of false discoveries
    over: str = "texts"  # or "units": what the intervals draw again
    resamples: int = 100  # of the texts
    seed: int = 0

    @property
    def cuts(self) -> range:
        """Seeds of the cuts."""
        return range(self.seed, self.seed + self.splits)


def followed(
    values: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    rule: Rule,
    *,
    elsewhere: np.ndarray | None = None,
    covariates: Mapping[str, pd.DataFrame] | None = None,
) -> pd.DataFrame:
    """Every tag chosen on the first half of a corpus, with its fate.

    values, labels  {corpus: [text, unit]}, {corpus: [text, descriptor]}
    elsewhere       a permutation of the units: tags are then looked up on the unit it names
    covariates         {corpus: covariates [text, .]}: labels are permuted only among texts alike in them

    Columns: split, corpus, unit and descriptor (positions), score, above (does it reach the minimum), then
    same, score, jaccard, spearman, matched, p, q as within_same, ... and for each other corpus same:NAME, ...
    (NaN in its own).
    """
    parts = [_one_cut(values, labels, rule, cut, elsewhere, covariates) for cut in rule.cuts]
    return pd.concat(parts, ignore_index=True)


def resampled(
    values: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    rule: Rule,
    frame: pd.DataFrame,
    *,
    elsewhere: np.ndarray | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Agreement [resample; column] where the texts of every corpus are drawn again; see the module.

    ``frame`` is what ``fates`` found. Scorers other than pearson score every resample from its rows: slow.
    """
    rng = np.random.default_rng(rule.seed)
    units = np.sort(rng.permutation(frame["unit"].unique())[:UNITS_RESAMPLED])
    places = units, units if elsewhere is None else elsewhere[units]
    mine = {name: [np.asarray(x[:, some], np.float32) for some in places] for name, x in values.items()}
    minimum = rule.min_score if judged(frame)["above"].all() else None
    dealt = {name: rng.permutation(len(x)) % min(GROUPS, len(x)) for name, x in values.items()}
    drawn = {name: _times(rule.resamples, groups, rng) for name, groups in dealt.items()}
    size = max(y.shape[1] for y in labels.values()) * len(units)
    step, totals = max(1, NUMBERS_AT_ONCE // max(1, size)), []
    blocks = range(0, rule.resamples, step)
    for start in tqdm(blocks, desc="texts drawn again", leave=False, disable=not progress):
        some, parts = {name: times[start : start + step] for name, times in drawn.items()}, []
        for cut in rule.cuts:
            here, there = _scored_again(mine, labels, dealt, some, cut, rule.method)
            parts += [_sums(name, here, there, minimum) for name in values]
        totals.append(sum(parts))
    sums = pd.concat(totals, ignore_index=True)
    return sums.div(sums.pop("tags"), axis=0)[list(RESAMPLED)]


def agreement(
    kind: str, frame: pd.DataFrame, rule: Rule, draws: pd.DataFrame | None = None
) -> dict[str, Any]:
    """One line of ``Report.controls``. Intervals: of ``draws`` where there are any, else over units."""
    tags = frame["above"].sum() / rule.splits
    some = judged(frame)
    table = _told(some, rule)
    by_unit = table.groupby(some["unit"])
    found: dict[str, Any] = {"kind": kind, "tags": round(tags)}
    found["judged"] = "above" if tags >= 2 else f"best {FEWEST}"
    sums, sizes = by_unit.sum(), by_unit.size().to_numpy()
    for column in table:
        # units are drawn, not tags: a unit's tags in several corpora are not independent
        found[column] = bootstrap(sums[column].to_numpy() / sizes, weights=sizes, seed=rule.seed)
        if draws is not None and column in draws:
            found[column] = _over_texts(column, found[column], draws[column].to_numpy())
    found["distinct"] = _distinct(some, frame["corpus"].nunique(), rule.seed)
    return found


def judged(frame: pd.DataFrame) -> pd.DataFrame:
    """The tags above the minimum; where there are fewer than two a cut, the best ones that ``fates`` kept."""
    above = frame[frame["above"]]
    return above if len(above) >= 2 * frame["split"].nunique() else frame


# ---------------------------------------------------------------------------------- one cut


def _one_cut(values, labels, rule: Rule, cut: int, elsewhere, covariates) -> pd.DataFrame:
    """The frame of ``fates`` for one random cut."""
    scorer = matching.scorer_of(rule.method)
    chosen, looked_up, second_half, covered = {}, {}, {}, {}
    for name, x in values.items():
        first, second = stats.halves(len(x), 0.5, cut)
        chosen[name] = scorer(x[first], labels[name][first])
        second_half[name] = x[second], labels[name][second]
        looked_up[name] = scorer(*second_half[name])
        if elsewhere is not None:
            looked_up[name] = looked_up[name][:, elsewhere]
        covered[name] = None if covariates is None else covariates[name].iloc[second]
    tags = {name: _chosen(name, scores, rule.min_score, cut) for name, scores in chosen.items()}
    here, there = ({n: _Ordered.of(scores) for n, scores in part.items()} for part in (chosen, looked_up))
    matched = _matched(second_half, tags, scorer, elsewhere, cut)
    whole = pd.concat(tags.values(), ignore_index=True)
    unit, best, home = (whole[column].to_numpy() for column in ("unit", "descriptor", "corpus"))
    place = unit if elsewhere is None else elsewhere[unit]
    options = dict(method=rule.method, permutations=rule.permutations, seed=cut)
    columns: dict[str, np.ndarray] = {}
    for other in values:
        p = matching.permutation_test(*second_half[other], best, place, covariates=covered[other], **options)
        for name, ordered in here.items():
            mine = np.flatnonzero(home == name)
            found = {w: number[unit[mine]] for w, number in _compared(ordered, there[other]).items()}
            found |= {"matched": matched[other][best[mine], unit[mine]], "p": p[mine]}
            found["q"] = stats.q_values(p[mine])
            for what, number in found.items():
                column = f"within_{what}" if other == name else f"{what}:{other}"
                columns.setdefault(column, np.full(len(whole), np.nan))[mine] = number
    return whole.assign(**columns)


def _chosen(corpus: str, scores: np.ndarray, min_score: float, cut: int) -> pd.DataFrame:
    """The tags of a corpus: the best descriptor of every unit that is kept."""
    best = scores.argmax(0)
    top = scores[best, np.arange(len(best))]
    kept = _kept(top, min_score)
    tags = {"split": cut, "corpus": corpus, "unit": kept, "descriptor": best[kept], "score": top[kept]}
    return pd.DataFrame(tags).assign(above=top[kept] > min_score)


def _kept(top: np.ndarray, min_score: float) -> np.ndarray:
    """Units that reach the minimum; the ``FEWEST`` best when fewer do."""
    above = np.flatnonzero(top > min_score)
    if len(above) >= FEWEST:
        return above
    return np.sort(np.argsort(-top, kind="stable")[:FEWEST])


class _Ordered(NamedTuple):
    """Scores [..., unit, descriptor], with what every comparison asks of them."""

    scores: np.ndarray
    first: np.ndarray  # the best descriptors, at most two, best first; of equals that which comes first
    ranks: np.ndarray  # around their mean; equals share theirs

    @classmethod
    def of(cls, scores: np.ndarray) -> _Ordered:
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


def _compared(here: _Ordered, there: _Ordered) -> dict[str, np.ndarray]:
    """What ``there`` keeps of the tags in ``here``: arrays [..., unit]."""
    best = here.first[..., :1]
    return {
        "same": (there.first[..., 0] == best[..., 0]).astype(float),
        "score": np.take_along_axis(there.scores, best, axis=-1)[..., 0],
        "jaccard": _overlap(here.first, there.first),
        "spearman": stats.cosine(here.ranks, there.ranks),
    }


def _overlap(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Jaccard [...] of the descriptors in ``one`` and ``two`` [..., k]."""
    k = one.shape[-1]
    both = (one[..., :, None] == two[..., None, :]).sum((-2, -1))
    return both / (2 * k - both)


def _matched(
    halves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    tags: Mapping[str, pd.DataFrame],
    scorer,
    elsewhere: np.ndarray | None,
    seed: int,
) -> dict[str, np.ndarray]:
    """Scores [descriptor, unit] of all pairs in ``tags``, each descriptor as frequent as where it is rarest.

    ``halves`` {corpus: (values, labels)}. All negatives stay, positives are drawn without replacement.
    """
    pairs = pd.concat(tags.values())[["descriptor", "unit"]].drop_duplicates()
    odds = {}  # positives for each negative
    for name, (_, labels) in halves.items():
        on = (labels > 0.5).sum(0)
        odds[name] = on / np.maximum(1, len(labels) - on)
    lowest = np.min(list(odds.values()), axis=0)
    found = {}
    for name, (values, labels) in halves.items():
        found[name] = np.full((labels.shape[1], values.shape[1]), np.nan)
        for descriptor, units in pairs.groupby("descriptor")["unit"]:
            rows = stats.thinned(labels[:, descriptor] > 0.5, lowest[descriptor], seed)
            columns = units.to_numpy() if elsewhere is None else elsewhere[units.to_numpy()]
            scores = scorer(values[np.ix_(rows, columns)], labels[np.ix_(rows, [descriptor])])
            found[name][descriptor, units] = scores[0]
    return found


# ---------------------------------------------------------------------------------- texts drawn again


def _times(resamples: int, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """How often each group is drawn [resample, group]."""
    n = groups.max() + 1
    return rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float32)


def _scored_again(mine, labels, dealt, times, cut: int, method: str) -> tuple[dict, dict]:
    """Scores [resample, unit, descriptor] of each corpus on its first half, and on its second."""
    here, there = {}, {}
    for name, parts in mine.items():
        sides = stats.halves(len(labels[name]), 0.5, cut)
        for rows, x, found in zip(sides, parts, (here, there), strict=True):
            y, groups = labels[name][rows], dealt[name][rows]
            found[name] = _Ordered.of(_drawn_again(x[rows], y, groups, times[name], method))
    return here, there


def _drawn_again(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray, times: np.ndarray, method: str
) -> np.ndarray:
    """Scores [resample, descriptor, unit] of rows whose groups are drawn ``times`` [resample, group]."""
    if method == "pearson":
        return _pearson_of_sums(x, y, groups, times)
    scorer = matching.scorer_of(method)
    rows = [np.repeat(np.arange(len(x)), often[groups].astype(int)) for often in times]
    return np.stack([scorer(x[some], y[some]) for some in rows])


def _pearson_of_sums(x: np.ndarray, y: np.ndarray, groups: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Pearson of every resample, out of sums over groups of z, z^2, labels, labels^2 and z * labels."""
    z = x - x.mean(0)
    z /= np.maximum(z.std(0), 1e-6 * np.abs(x).max(0, initial=0)) + 1e-12
    c = (y - y.mean(0)).astype(np.float32)
    d, u, sums, sizes = y.shape[1], x.shape[1], [], []
    for group in range(times.shape[1]):
        rows = groups == group
        zg, cg = z[rows], c[rows]
        parts = (cg.T @ zg).ravel(), zg.sum(0), (zg * zg).sum(0), cg.sum(0), (cg * cg).sum(0)
        sums.append(np.concatenate(parts))
        sizes.append(rows.sum())
    n = np.maximum(1, times @ np.array(sizes, np.float32))[:, None]
    cz, mz, zz, mc, cc = np.split(times @ np.stack(sums) / n, np.cumsum([d * u, u, u, d]), axis=1)
    c, z = (mc[:, :, None], cc[:, :, None]), (mz[:, None], zz[:, None])
    return stats.correlation_of_sums(1, *c, *z, cz.reshape(-1, d, u))


def _sums(name: str, here: Mapping, there: Mapping, minimum: float | None) -> pd.DataFrame:
    """Over the tags of corpus ``name``: their number and the sums of what they keep, by resample."""
    top = here[name].scores.max(-1)  # [resample, unit]
    if minimum is None:
        place = max(0, top.shape[1] - FEWEST)
        tags = top >= np.partition(top, place, axis=1)[:, [place]]
    else:
        tags = top > minimum
    kept = {other: _compared(here[name], scores) for other, scores in there.items()}
    for found in kept.values():
        found["kept"] = np.divide(found["score"], top, out=np.zeros_like(top), where=tags)
    within, sums = kept.pop(name), {"tags": tags.sum(1).astype(float)}
    for what in ("same", "kept", "jaccard", "spearman"):
        prefix = "" if what == "same" else f"{what}_"
        sums[f"{prefix}within"] = (tags * within[what]).sum(1)
        sums[f"{prefix}across"] = np.mean([(tags * found[what]).sum(1) for found in kept.values()], axis=0)
    return pd.DataFrame(sums).assign(gap=sums["within"] - sums["across"])


# ---------------------------------------------------------------------------------- the line


def _told(some: pd.DataFrame, rule: Rule) -> pd.DataFrame:
    """A line for each tag, the columns of the agreement."""

    def across(what: str) -> pd.DataFrame:
        return some[[c for c in some if c.startswith(f"{what}:")]]

    same, score = across("same").mean(axis=1), across("score").mean(axis=1)
    found = {"within": some["within_same"], "across": same, "gap": some["within_same"] - same}
    found |= {"kept_within": some["within_score"] / some["score"], "kept_across": score / some["score"]}
    for what in ("jaccard", "spearman", "matched"):
        found |= {f"{what}_within": some[f"within_{what}"], f"{what}_across": across(what).mean(axis=1)}
    if rule.permutations:
        q = across("q")
        found["significant_within"] = (some["within_q"] <= rule.alpha).astype(float)
        found["significant_across"] = (q <= rule.alpha).where(q.notna()).astype(float).mean(axis=1)
    return pd.DataFrame(found)


def _distinct(some: pd.DataFrame, corpora: int, seed: int) -> Estimate:
    """Different tags of the units that have one in every corpus: mean over the cuts, then over units."""
    by_unit = some.groupby(["unit", "split"])["descriptor"].agg(["size", "nunique"])
    everywhere = by_unit.loc[by_unit["size"] == corpora, "nunique"]
    return bootstrap(everywhere.groupby("unit").mean().to_numpy(), seed=seed)


def _over_texts(column: str, found: Estimate, draws: np.ndarray) -> Estimate:
    """The spread of ``draws`` around what was found, within what the column can be.

    Resamples without any tag have nothing to say; where no resample has one, ``found`` stays as it is.
    """
    draws = draws[np.isfinite(draws)]
    if not len(draws):
        return found
    low, high = found.value + np.quantile(draws - draws.mean(), [0.025, 0.975])
    if not column.startswith("kept"):
        least = -1 if column.startswith(("gap", "spearman")) else 0
        low, high = max(low, least), min(high, 1)
    return found._replace(low=float(low), high=float(high))
