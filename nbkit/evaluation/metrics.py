"""Precision and recall of tags against a gold standard, gold standards, and the sanity test of scorers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from pandas.api.typing import SeriesGroupBy

from nbkit import matching
from nbkit.activations import Activations
from nbkit.evaluation.planted import Planted
from nbkit.stats import Estimate, share, thinned

#: Kinds of planted units that have a right descriptor.
MEANINGFUL = ("pure", "polysemantic", "dataset-local")


def ranked(scores: pd.DataFrame, units: Iterable[str] | None = None) -> pd.DataFrame:
    """All descriptors of ``units`` (None: all) by ``scores`` [descriptor, unit]: unit, rank, descriptor."""
    scores = scores if units is None else scores[list(units)]
    order = np.argsort(-scores.to_numpy(), axis=0, kind="stable")  # [rank, unit]
    return pd.DataFrame(
        {
            "unit": np.repeat(scores.columns.to_numpy(), len(scores)),
            "rank": np.tile(np.arange(1, len(scores) + 1), scores.shape[1]),
            "descriptor": scores.index.to_numpy()[order.T.ravel()],
        }
    )


def precision_at_k(tags: pd.DataFrame, gold: pd.DataFrame, k: int) -> Estimate:
    """Mean over the units of ``tags`` of (right tags among the first k) / (tags among the first k).

    A unit without gold has no right tag: pass only the tags of the units that are to be judged.
    """
    right = _first(tags, k).merge(gold[["unit", "descriptor"]].assign(right=1.0), how="left")
    return _over_units(right["right"].fillna(0).groupby(right["unit"]).mean(), gold)


def recall_at_k(tags: pd.DataFrame, gold: pd.DataFrame, k: int) -> Estimate:
    """Mean over the units of ``gold`` of (right tags among the first k) / (right descriptors).

    A unit with gold and no tag counts 0.
    """
    return _over_units(_found(_first(tags, k), gold).mean(), gold)


def hit_at_k(tags: pd.DataFrame, gold: pd.DataFrame, k: int) -> Estimate:
    """Share of the units of ``gold`` that have a right tag among the first k."""
    return _over_units(_found(_first(tags, k), gold).max(), gold)


def ceiling_at_k(gold: pd.DataFrame, k: int) -> float:
    """The best possible precision at k: a unit with one right descriptor cannot have two right tags."""
    return float((gold.groupby("unit").size().clip(upper=k) / k).mean())


def scorecard(tags: pd.DataFrame, gold: pd.DataFrame, k: int = 2) -> pd.Series:
    """Precision at 1 and at k, with what they have to be read beside, over the units that have gold.

    units            with gold
    judged           their share of all units of ``tags``: of the others the gold says nothing
    precision@1, precision@k
    ceiling@k        the best possible precision@k; ``of ceiling@k`` is the share of it that is reached
    hit@k            share of the units with a right tag among the first k
    recall@k

    Values are ``stats.Estimate``, but for units, judged, ceiling@k and of ceiling@k.
    """
    some = tags[tags["unit"].isin(gold["unit"])]
    best, found = ceiling_at_k(gold, k), precision_at_k(some, gold, k)
    lines = {
        "units": gold["unit"].nunique(),
        "judged": gold["unit"].nunique() / max(1, tags["unit"].nunique()),
        "precision@1": precision_at_k(some, gold, 1),
        f"precision@{k}": found,
        f"ceiling@{k}": best,
        f"of ceiling@{k}": found.value / best,
        f"hit@{k}": hit_at_k(tags, gold, k),
        f"recall@{k}": recall_at_k(tags, gold, k),
    }
    return pd.Series(lines, dtype=object)


def average_precision(tags: pd.DataFrame, gold: pd.DataFrame) -> Estimate:
    """Mean over the units of ``gold`` of the precision at each of their right descriptors.

    A right descriptor that is not among the tags counts 0, so give all ranks for the full measure.
    """
    found = gold[["unit", "descriptor"]].merge(tags[["unit", "descriptor", "rank"]], how="left")
    found = found.sort_values(["unit", "rank"], kind="stable")  # untagged ones (NaN) come last
    right = found.groupby("unit").cumcount() + 1
    return _over_units((right / found["rank"]).fillna(0).groupby(found["unit"]).mean(), gold)


def mrr(tags: pd.DataFrame, gold: pd.DataFrame) -> Estimate:
    """Mean over the units of ``gold`` of 1 / (rank of the first right tag); 0 where none is right."""
    found = gold[["unit", "descriptor"]].merge(tags[["unit", "descriptor", "rank"]], how="left")
    return _over_units((1 / found.groupby("unit")["rank"].min()).fillna(0), gold)


def _first(tags: pd.DataFrame, k: int) -> pd.DataFrame:
    """Unit and descriptor of the first k tags of every unit."""
    if k < 1:
        raise ValueError(f"k={k}: at least one tag is needed")
    return tags.loc[tags["rank"] <= k, ["unit", "descriptor"]]


def _found(tags: pd.DataFrame, gold: pd.DataFrame) -> SeriesGroupBy:
    """Whether each right descriptor is among ``tags`` (1 or 0), grouped by unit."""
    found = gold[["unit", "descriptor"]].merge(tags.assign(found=1.0), how="left")
    return found["found"].fillna(0).groupby(found["unit"])


def _over_units(values: pd.Series, gold: pd.DataFrame) -> Estimate:
    """Mean of ``values`` [unit]. Units of one descriptor (the first in ``gold``) are alike."""
    descriptor = gold.drop_duplicates("unit").set_index("unit")["descriptor"].reindex(values.index)
    alone = descriptor.isna().to_numpy() * np.arange(1, len(values) + 1)  # without gold: by itself
    groups = pd.MultiIndex.from_arrays([descriptor.astype(str), alone])
    return share(values.to_numpy(), pd.factorize(groups)[0])


def gold_of(
    planted: Planted,
    *,
    corpus: str | None = None,
    kinds: Iterable[str] = MEANINGFUL,
    every: bool = False,
) -> pd.DataFrame:
    """Gold (unit, descriptor, kind) from the planted units that reached their minimum, or from ``every`` one.

    Dataset-local units are right about one corpus each time: they are in the gold of a ``corpus`` that
    they were planted for, and not in that of all. Distractors and dead units have no right descriptor.
    """
    units = planted.units[planted.units["kind"].isin(list(kinds)) & (planted.units["planted"] | every)]
    here = units["corpus"].isna() | (units["corpus"] == corpus)
    return units.loc[here, ["unit", "descriptor", "kind"]].reset_index(drop=True)


YES, NO = {"yes", "right", "true", "1", "1.0"}, {"no", "wrong", "false", "0", "0.0"}
UNSURE = {"unsure", "?", ""}


def from_annotations(ratings: str | Path | pd.DataFrame) -> pd.DataFrame:
    """Gold from people's ratings: a frame or CSV with unit, descriptor, rating and, optionally, annotator.

    rating   yes, right, true, 1; no, wrong, false, 0; or unsure, ?, nothing, which is no vote. Anything else
             is a ``ValueError`` with its line

    A descriptor is right for a unit when more than half of its votes say so: a tie is not right. An
    annotator's last rating of a pair counts; without annotators every line is a vote.

    Returns unit, descriptor, votes, share (of the votes for it), one line for each right pair.
    ``.attrs`` counts pairs, ties, unsure ratings and annotators, and ``.attrs["judged"]`` lists the units
    with a vote: precision is over the tags of these.
    """
    judged = _votes(ratings if isinstance(ratings, pd.DataFrame) else _read(Path(ratings)))
    groups = judged.dropna(subset="vote").groupby(["unit", "descriptor"])["vote"]
    votes = groups.agg(votes="size", share="mean").reset_index()
    gold = votes[votes["share"] > 0.5].reset_index(drop=True)
    gold.attrs = {
        "pairs": len(votes),
        "ties": int((votes["share"] == 0.5).sum()),
        "unsure": int(judged["vote"].isna().sum()),
        "annotators": int(judged["annotator"].nunique()) if "annotator" in judged else None,
        "judged": sorted(votes["unit"].unique()),
    }
    return gold


def _read(path: Path) -> pd.DataFrame:
    if not path.exists():
        raise FileNotFoundError(f"no ratings at {path}: save the annotations there first")
    return pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")


def _votes(ratings: pd.DataFrame) -> pd.DataFrame:
    """``ratings`` with ``vote`` (1, 0 or NaN), one line for each annotator and pair."""
    missing = {"unit", "descriptor", "rating"} - set(ratings)
    if missing:
        have = ", ".join(map(str, ratings))
        raise ValueError(f"the ratings have no column {', '.join(sorted(missing))}; they have {have}")
    rating = ratings["rating"].fillna("").astype(str).str.strip().str.lower()
    unknown = ~rating.isin(YES | NO | UNSURE)
    if unknown.any():
        line = int(np.flatnonzero(unknown)[0])
        raise ValueError(f"line {line + 2} of the ratings: {rating.iloc[line]!r} is not yes, no or unsure")
    ratings = ratings.assign(vote=rating.map(dict.fromkeys(YES, 1.0) | dict.fromkeys(NO, 0.0)))
    if "annotator" not in ratings:
        return ratings
    return ratings.drop_duplicates(["unit", "descriptor", "annotator"], keep="last")


def validated(scores: pd.DataFrame, minimum: float = 0.3) -> pd.DataFrame:
    """Gold (unit, descriptor) from held-out ``scores`` [descriptor, unit]: pairs that reach ``minimum``."""
    descriptor, unit = np.nonzero(scores.to_numpy() >= minimum)
    gold = pd.DataFrame({"unit": scores.columns[unit], "descriptor": scores.index[descriptor]})
    return gold.sort_values("unit", kind="stable", ignore_index=True)


#: Rules by which a descriptor is right for a unit on held-out texts, and the minimum of each.
GOLDS = {"auroc": 0.8, "top share": 0.5}


def held_out_gold(
    activations: Activations,
    labels: pd.DataFrame,
    rows: np.ndarray | None = None,
    *,
    rule: str = "auroc",
    minimum: float | None = None,
) -> pd.DataFrame:
    """Gold (unit, descriptor) from texts that played no part in choosing the tags.

    rows       positions of those texts among the rows of ``activations``; None: all
    rule       "auroc": the unit tells texts with the descriptor from those without, AUROC >= .8;
               "top share": of its 20 highest texts, the share that has the descriptor is at least .5 above
               the share of all texts that has it
    minimum    another one than that

    The rule decides which scorer looks best, since each scorer is near to one of them: show both.
    """
    if rule not in GOLDS:
        raise ValueError(f"unknown rule {rule!r}; there are {', '.join(GOLDS)}")
    labels, values = matching.align(activations, labels), activations.values
    if rows is not None:
        labels, values = labels.iloc[rows], values[rows]
    scores = matching.score(values, labels, "auroc" if rule == "auroc" else "frequency")
    if rule == "top share":
        scores = scores.sub(labels.mean(), axis=0)
    scores.columns = activations.units["unit"]
    return validated(scores, GOLDS[rule] if minimum is None else minimum)


class Sanity(NamedTuple):
    """Shares of units whose score drops, and the verdict."""

    missing: float  # when half of the positives are zeroed
    extra: float  # when the positives are doubled at random
    n: int  # units judged
    passed: bool  # both above .9

    def __str__(self) -> str:
        verdict = "pass" if self.passed else "fail"
        return f"missing {self.missing:.1%}, extra {self.extra:.1%} of {self.n} units: {verdict}"


def sanity(
    scorer: str | Callable[..., np.ndarray],
    values: Activations | np.ndarray,
    labels: pd.DataFrame | np.ndarray,
    *,
    pairs: np.ndarray | None = None,
    prevalence: float | None = None,
    seed: int = 0,
    drop: float = 0.001,
    least: float = 0.9,
) -> Sanity:
    """Does a scorer notice when labels are missing, and when there are wrong ones?

    values, labels  a store or an array [row, unit], and labels [row, descriptor], which are cut at .5
    pairs           [unit] the column of the descriptor that each unit is judged on (a known meaning);
                    default: the unit's best under the scorer itself
    drop, least     a scorer passes if its score falls by more than ``drop`` for more than ``least`` of the
                    units both when half of the descriptor's positives, drawn at random, become negatives
                    (missing) and when as many negatives as there are positives become positives (extra)
    prevalence      rows with the descriptor are left out at random until they are this share; None: none are

    Left out are descriptors that cannot be halved or doubled (fewer than two positives, or more than half of
    the rows), units whose given descriptor is such a one, and units that do not vary. Nothing left to judge
    is a ``ValueError``.

    The verdict depends on the prevalence. Where descriptors are common and units weak,
    ``average_precision`` and ``cosine`` miss the extra labels, since both grow with prevalence; where they
    are rare, ``auroc`` hardly notices the missing ones: its excess over .5 shrinks by half of the
    prevalence only.
    """
    if isinstance(values, Activations):
        labels, values = matching.align(values, labels), values.values
    together = scorer in matching.TOGETHER
    scorer = matching.SCORERS[scorer] if isinstance(scorer, str) else scorer
    on, generator = np.asarray(labels) > 0.5, np.random.default_rng(seed)
    judged = (on.sum(0) >= 2) & (2 * on.sum(0) <= len(on))
    varies = np.asarray(values.max(0) > values.min(0))
    if not judged.any() or not varies.any():
        raise ValueError("no descriptor can be halved and doubled, or no unit varies: nothing to judge")
    if pairs is None:
        pairs = np.flatnonzero(judged)[scorer(values, on[:, judged].astype(np.float32)).argmax(0)]
    units = np.flatnonzero(varies & judged[pairs])
    falls = []
    for descriptor in np.unique(pairs[units]):
        rows = np.arange(len(on))
        if prevalence is not None:
            rows = thinned(on[:, descriptor], prevalence / (1 - prevalence), generator, least=2)
        labels = np.stack([on[rows, descriptor], *_damaged(on[rows, descriptor], generator)], axis=1)
        mine = units[pairs[units] == descriptor]
        given = np.arange(len(varies)) if together else mine
        found = scorer(values[:, given][rows], labels.astype(np.float32))[:, np.isin(given, mine)]
        falls.append(found[0] - found[1:])
    missing, extra = (np.concatenate(falls, axis=1) > drop).mean(1).tolist()
    return Sanity(missing, extra, len(units), min(missing, extra) > least)


def _damaged(on: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A label [row] with half of its positives gone, and with twice as many."""
    missing, extra = on.copy(), on.copy()
    positives, absent = np.flatnonzero(on), np.flatnonzero(~on)
    missing[generator.choice(positives, len(positives) // 2, replace=False)] = False
    extra[generator.choice(absent, len(positives), replace=False)] = True
    return missing, extra
