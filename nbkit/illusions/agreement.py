"""Agreement: what a table of tags comes to, within and across corpora, with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from nbkit.illusions.outcomes import OUTCOMES
from nbkit.illusions.transfer import FEWEST, Rule, judged
from nbkit.stats import Estimate, bootstrap, share

#: Columns of a table of tags that are averaged, and how the averages' names begin.
MEASURES = {"same": "", "kept": "kept_", "jaccard": "jaccard_", "spearman": "spearman_"}
MEASURES |= {"matched_same": "matched_", "significant": "significant_"}


def agreement(
    kind: str, table: pd.DataFrame, rule: Rule, draws: pd.DataFrame | None = None
) -> dict[str, Any]:
    """One line of ``Report.baselines``. Intervals: of ``draws`` where there are any, else over units.

    Those of what no resample scores again (``matched_``, ``significant_``) are over descriptors instead.

    table  of ``transfer.look_up``
    draws  of ``resampling.resample``
    """
    some = judged(table)
    tags = (table["above"] & (table["other"] == table["corpus"])).sum() / rule.splits
    by_tag = within_and_across(some, rule.null)
    by_unit = by_tag.groupby(level="unit", observed=True)
    home = some[some["other"] == some["corpus"]].set_index(by_tag.index.names)
    descriptors = home["descriptor"].reindex(by_tag.index).to_numpy()
    found: dict[str, Any] = {"kind": kind, "tags": round(tags)}
    found["judged"] = "above" if tags >= 2 else f"best {FEWEST}"
    sums, sizes = by_unit.sum(), by_unit.size().to_numpy()
    for column in by_tag:
        # units are drawn, not tags: a unit's tags in several corpora are not independent
        found[column] = bootstrap(sums[column].to_numpy() / sizes, weights=sizes, seed=rule.seed)
        if draws is not None and column in draws:
            found[column] = _over_texts(column, found[column], draws[column].to_numpy())
        elif column.startswith(("matched", "significant")):
            found[column] = _over_descriptors(by_tag[column], descriptors)
    found["distinct"] = _distinct_of_tags(some, rule.seed)
    return found


def within_and_across(table: pd.DataFrame, null: float = 0.0) -> pd.DataFrame:
    """One line for each tag (split, corpus, unit): its measures at home, and their mean over the others.

    Columns ``within``, ``across``, ``gap`` of ``same``, and ``kept_within``, ``kept_across``, ... of the
    others; ``kept`` is ``transfer_score / score``, both less the ``null`` score.
    """
    table = table.assign(kept=(table["transfer_score"] - null) / (table["score"] - null))
    if table["significant"].isna().all():
        table = table.drop(columns="significant")
    names = [name for name in MEASURES if name in table]
    table[names] = table[names].astype(float)
    home, tag = table["other"] == table["corpus"], ["split", "corpus", "unit"]
    within = table[home].set_index(tag)[names].rename(columns=lambda name: f"{MEASURES[name]}within")
    across = table[~home].groupby(tag, observed=True)[names].mean()
    joined = within.join(across.rename(columns=lambda name: f"{MEASURES[name]}across"))
    joined = joined[[f"{MEASURES[name]}{where}" for name in names for where in ("within", "across")]]
    joined.insert(2, "gap", joined["within"] - joined["across"])
    if "matched_within" in joined:
        joined["matched_gap"] = joined["matched_within"] - joined["matched_across"]
    return joined


def shares_of_outcomes(kind: str, table: pd.DataFrame) -> list[dict[str, Any]]:
    """Lines of ``Report.outcomes``: share of the tags with each outcome, within and across corpora.

    Intervals are over descriptors: units with one tag share its texts, and are alike.
    """
    some, lines = judged(table), []
    away = some["other"] != some["corpus"]
    for where, part in (("within", some[~away]), ("across", some[away])):
        outcome, descriptor = part["outcome"].astype(object).to_numpy(), part["descriptor"].to_numpy()
        shares = {name: share(outcome == name, descriptor) for name in OUTCOMES}
        lines.append({"kind": kind, "where": where} | shares)
    return lines


def distinct_tags(
    scores_by_corpus: Mapping[str, pd.DataFrame], min_score: float, *, seed: int = 0
) -> pd.DataFrame:
    """How many different tags a unit has over the corpora: 1 without any illusion.

    scores_by_corpus  {corpus: [descriptor, unit]} of ``matching.score``
    min_score         from which a unit's best descriptor in a corpus is a tag there

    A frame with one line for each number of corpora in which a unit has a tag: tagged, units, distinct
    (``stats.Estimate``, interval over units), and baseline: the mean of ``distinct`` after shuffling each
    corpus's tags among units tagged there and in equally many corpora.
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
        counts, baseline = _distinct(mine), _distinct(shuffled)
        line = {"tagged": m, "units": mine.shape[1], "distinct": bootstrap(counts, seed=seed)}
        lines.append(line | {"baseline": baseline.mean() if len(baseline) else float("nan")})
    return pd.DataFrame(lines)


# ---------------------------------------------------------------------------------- inside


def _distinct(best: np.ndarray) -> np.ndarray:
    """Different values [unit] above -1 in each column of ``best`` [corpus, unit]."""
    return np.array([len(set(column[column >= 0])) for column in best.T], dtype=float)


def _distinct_of_tags(table: pd.DataFrame, seed: int) -> Estimate:
    """Different tags of the units that have one in every corpus: mean over the cuts, then over units."""
    tags = table[table["other"] == table["corpus"]]
    by_unit = tags.groupby(["unit", "split"], observed=True)["descriptor"].agg(["size", "nunique"])
    everywhere = by_unit.loc[by_unit["size"] == table["other"].nunique(), "nunique"]
    return bootstrap(everywhere.groupby("unit", observed=True).mean().to_numpy(), seed=seed)


def _over_descriptors(values: pd.Series, descriptors: np.ndarray) -> Estimate:
    """Mean of ``values`` [tag] with an interval over the descriptors; of a gap, from its positive share."""
    found = share((values.to_numpy(float) + 1) / 2, descriptors)
    value, low, high = (2 * float(end) - 1 for end in found[:3])
    return Estimate(value, low if values.name == "matched_gap" else max(0.0, low), high, found.n)


def _over_texts(column: str, found: Estimate, draws: np.ndarray) -> Estimate:
    """The spread of ``draws`` around what was found, within what the column can be.

    Resamples without any tag are left out; where none has one, ``found`` stays as it is.
    """
    draws = draws[np.isfinite(draws)]
    if not len(draws):
        return found
    low, high = found.value + np.quantile(draws - draws.mean(), [0.025, 0.975])
    if not column.startswith("kept"):
        least = -1 if column.startswith(("gap", "spearman")) else 0
        low, high = max(low, least), min(high, 1)
    return found._replace(low=float(low), high=float(high))
