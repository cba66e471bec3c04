"""Precision and recall of tags against a gold standard, gold standards, and the sanity test of scorers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from nbkit import matching
from nbkit.evaluation.planted import Planted
from nbkit.stats import Estimate, bootstrap, thinned

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


def precision_at_k(tags: pd.DataFrame, gold: pd.DataFrame, k: int, *, seed: int = 0) -> Estimate:
    """Mean over the units of ``tags`` of (right tags among the first k) / (tags among the first k).

    A unit without gold has no right tag: pass only the tags of the units that are to be judged.
    """
    first = _first(tags, k)
    right = first.merge(gold[["unit", "descriptor"]].assign(right=1.0), how="left")
    return bootstrap(right["right"].fillna(0).groupby(right["unit"]).mean().to_numpy(), seed=seed)


def recall_at_k(tags: pd.DataFrame, gold: pd.DataFrame, k: int, *, seed: int = 0) -> Estimate:
    """Mean over the units of ``gold`` of (right tags among the first k) / (right descriptors).

    A unit with gold and no tag counts 0.
    """
    found = gold[["unit", "descriptor"]].merge(_first(tags, k).assign(found=1.0), how="left")
    return bootstrap(found["found"].fillna(0).groupby(found["unit"]).mean().to_numpy(), seed=seed)


def average_precision(tags: pd.DataFrame, gold: pd.DataFrame, *, seed: int = 0) -> Estimate:
    """Mean over the units of ``gold`` of the precision at each of their right descriptors.

    A right descriptor that is not among the tags counts 0, so give all ranks for the full measure.
    """
    found = gold[["unit", "descriptor"]].merge(tags[["unit", "descriptor", "rank"]], how="left")
    found = found.sort_values(["unit", "rank"], kind="stable")  # untagged ones (NaN) come last
    right = found.groupby("unit").cumcount() + 1
    return bootstrap((right / found["rank"]).fillna(0).groupby(found["unit"]).mean().to_numpy(), seed=seed)


def mrr(tags: pd.DataFrame, gold: pd.DataFrame, *, seed: int = 0) -> Estimate:
    """Mean over the units of ``gold`` of 1 / (rank of the first right tag); 0 where none is right."""
    found = gold[["unit", "descriptor"]].merge(tags[["unit", "descriptor", "rank"]], how="left")
    return bootstrap((1 / found.groupby("unit")["rank"].min()).fillna(0).to_numpy(), seed=seed)


def gold_of(
    planted: Planted, *, corpus: str | None = None, kinds: Iterable[str] = MEANINGFUL
) -> pd.DataFrame:
    """Gold (unit, descriptor, kind) from the planted units that reached their minimum.

    Dataset-local units are right about one corpus each time: they are in the gold of a ``corpus`` that
    they were planted for, and not in that of all. Distractors and dead units have no right descriptor.
    """
    units = planted.units[planted.units["planted"] & planted.units["kind"].isin(list(kinds))]
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
    ratings = _votes(ratings if isinstance(ratings, pd.DataFrame) else _read(Path(ratings)))
    groups = ratings.dropna(subset="vote").groupby(["unit", "descriptor"])["vote"]
    votes = groups.agg(votes="size", share="mean").reset_index()
    gold = votes[votes["share"] > 0.5].reset_index(drop=True)
    gold.attrs = {
        "pairs": len(votes),
        "ties": int((votes["share"] == 0.5).sum()),
        "unsure": int(ratings["vote"].isna().sum()),
        "annotators": int(ratings["annotator"].nunique()) if "annotator" in ratings else None,
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
    values: np.ndarray,
    labels: pd.DataFrame | np.ndarray,
    *,
    pairs: np.ndarray | None = None,
    prevalence: float | None = None,
    seed: int = 0,
    drop: float = 0.001,
    share: float = 0.9,
) -> Sanity:
    """Does a scorer notice when labels are missing, and when there are wrong ones?

    values, labels  a store or an array [row, unit], and labels [row, descriptor], which are cut at .5
    pairs           [unit] the column of the descriptor that each unit is judged on (a known meaning);
                    default: the unit's best under the scorer itself
    drop, share     a scorer passes if its score falls by more than ``drop`` for more than ``share`` of the
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
    if hasattr(values, "units"):
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
    return Sanity(missing, extra, len(units), min(missing, extra) > share)


def _damaged(on: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A label [row] with half of its positives gone, and with twice as many."""
    missing, extra = on.copy(), on.copy()
    positives, absent = np.flatnonzero(on), np.flatnonzero(~on)
    missing[generator.choice(positives, len(positives) // 2, replace=False)] = False
    extra[generator.choice(absent, len(positives), replace=False)] = True
    return missing, extra


def _first(tags: pd.DataFrame, k: int) -> pd.DataFrame:
    """Unit and descriptor of the first k tags of every unit."""
    if k < 1:
        raise ValueError(f"k={k}: at least one tag is needed")
    return tags.loc[tags["rank"] <= k, ["unit", "descriptor"]]
