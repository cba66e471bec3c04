"""Annotation: blinded sets of texts for people to judge, and the table of what they said."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from nbkit.activations import Activations
from nbkit.illusions.patterns import random_sets
from nbkit.stats import random_directions, top_texts
from nbkit.texts import Texts

CONDITIONS = ("units", "random directions", "random texts")  # of the sets that people judge


class Agreement(NamedTuple):
    """What annotators said: the frames ``table`` and ``patterns`` of ``agreement_of``."""

    table: pd.DataFrame
    patterns: pd.DataFrame


def annotation_set(
    activations_by_corpus: Mapping[str, Activations],
    texts_by_corpus: Mapping[str, Texts],
    *,
    units: int = 25,
    directions: int = 33,
    random: int = 29,
    k: int = 10,
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Sets of texts for people to judge, blinded, and the key to them.

    The top ``k`` texts of ``units`` units and of ``directions`` random directions, a set in each corpus, and
    ``random`` sets of texts drawn at random, the corpora in turn. The annotator sees the corpus, and not
    which of the three a set is (the protocol and the numbers of Bolukbasi et al. 2021).

    Returns (sets, key). Sets: set_id, corpus, rank (from 1), text_id, text, the sets in random order; give
    them to ``plots.annotate``. Key: set_id, condition ("units", "random directions", "random texts"),
    unit (a name, or None). Keep it away from the annotators. Too few units or texts: ``ValueError``.
    """
    rng, first = np.random.default_rng(seed), next(iter(activations_by_corpus.values()))
    if units > len(first.units):
        raise ValueError(f"units={units} were asked for; the stores hold {len(first.units)}")
    chosen = np.sort(rng.choice(len(first.units), units, replace=False))
    names = first.units["unit"].to_numpy()[chosen]
    values = {name: stored.values for name, stored in activations_by_corpus.items()}
    projected = random_directions(values, directions, seed)
    drawn = []  # (condition, unit, corpus, rows)
    for corpus in values:
        tops = top_texts(np.asarray(values[corpus])[:, chosen], k), top_texts(projected[corpus], k)
        drawn += [("units", name, corpus, rows) for name, rows in zip(names, tops[0].T, strict=True)]
        drawn += [("random directions", f"direction.{i}", corpus, r) for i, r in enumerate(tops[1].T)]
    for i in range(random):
        corpus = list(values)[i % len(values)]
        drawn.append(("random texts", None, corpus, random_sets(len(values[corpus]), 1, k, rng)[:, 0]))
    drawn = [drawn[i] for i in rng.permutation(len(drawn))]
    ids = [f"s{i:04d}" for i in range(1, len(drawn) + 1)]
    key = pd.DataFrame([(i, *line[:2]) for i, line in zip(ids, drawn, strict=True)])
    sets = [
        _shown(set_id, corpus, rows, activations_by_corpus[corpus], texts_by_corpus)
        for set_id, (_, _, corpus, rows) in zip(ids, drawn, strict=True)
    ]
    return pd.concat(sets, ignore_index=True), key.set_axis(["set_id", "condition", "unit"], axis=1)


def agreement_of(
    annotations: pd.DataFrame | str | Path, key: pd.DataFrame, *, same: Mapping[str, str] | None = None
) -> Agreement:
    """The paper's table of what annotators said, and how many patterns a unit has.

    annotations  frame annotator, set_id, pattern (yes or no), name, positives ("1 4 7"); or the folder in
                 which ``plots.annotate`` saved them
    key          of ``annotation_set``
    same         {name: name it counts as}, for names that mean one pattern; case and spaces never count

    ``table`` has a line for each condition: sets (those two annotators saw), both (share in which both see
    a pattern), neither, conflict, positives (texts marked, mean over the patterns seen). With more than two
    annotators, the shares are over all pairs. The paper's lines: neurons .80, .12, .08, 6.80; random
    directions .82, .00, .18, 6.89; random sentences .14, .48, .38, 5.05.

    ``patterns`` has a line for each condition with units: units (judged in every corpus by an annotator),
    distinct (mean number of differently named patterns over the corpora; the paper's neurons: 2.5), and
    the share of units with 0, 1, 2, ... of them.
    """
    given: Any = annotations if isinstance(annotations, pd.DataFrame) else _saved(Path(annotations))
    unknown = set(given["set_id"]) - set(key["set_id"])
    if unknown:
        raise ValueError(
            f"set {min(unknown)!r} was annotated and is not in the key: is it that of other sets?"
        )
    answers = given.drop_duplicates(["annotator", "set_id"], keep="last").merge(key, on="set_id")
    answers["yes"] = answers["pattern"].astype(str).str.lower().isin(("yes", "true"))
    answers["marked"] = answers["positives"].fillna("").astype(str).str.split().str.len()
    alike = {_folded(name): _folded(meant) for name, meant in (same or {}).items()}
    answers["named"] = answers["name"].fillna("").astype(str).map(_folded).replace(alike)
    parts = {c: answers[answers["condition"] == c] for c in CONDITIONS if c in set(answers["condition"])}
    table = pd.DataFrame([_shares(condition, part) for condition, part in parts.items()])
    corpora = key.dropna(subset="unit").groupby("unit").size().max()
    lines = [_named(c, part, int(corpora)) for c, part in parts.items() if part["unit"].notna().all()]
    return Agreement(table, pd.DataFrame(lines))


# ---------------------------------------------------------------------------------- inside


def _shown(
    set_id: str, corpus: str, rows: np.ndarray, stored: Activations, texts_by_corpus: Mapping[str, Texts]
) -> pd.DataFrame:
    """The lines of one set."""
    text_ids = stored.rows["text_id"].to_numpy()[rows]
    if len(set(text_ids)) < len(text_ids):
        raise ValueError(f"{corpus!r} has several rows for a text: capture rows='text' for annotation")
    known = texts_by_corpus[corpus].frame.set_index("text_id")["text"]
    ranks = range(1, len(rows) + 1)
    lines = {"set_id": set_id, "corpus": corpus, "rank": ranks, "text_id": text_ids}
    return pd.DataFrame(lines).assign(text=known.loc[text_ids].to_numpy())


def _saved(folder: Path) -> pd.DataFrame:
    """All annotations in a folder, one file for each annotator."""
    files = sorted(folder.glob("*.csv"))
    if not files:
        raise FileNotFoundError(f"no annotations in {folder}: plots.annotate saves them there")
    return pd.concat([pd.read_csv(f, dtype=str, keep_default_na=False) for f in files], ignore_index=True)


def _folded(name: str) -> str:
    """The name without case, and with single spaces."""
    return " ".join(name.casefold().split())


def _shares(condition: str, answers: pd.DataFrame) -> dict[str, Any]:
    """A line of the table."""
    yes = answers.pivot(index="set_id", columns="annotator", values="yes")
    pairs = [yes[[a, b]].dropna().astype(bool) for a, b in combinations(yes, 2)]
    votes = pd.concat(pairs).sum(axis=1) if pairs else pd.Series(dtype=int)
    return {
        "condition": condition,
        "sets": int((yes.notna().sum(axis=1) >= 2).sum()),
        "both": (votes == 2).mean(),
        "neither": (votes == 0).mean(),
        "conflict": (votes == 1).mean(),
        "positives": answers.loc[answers["yes"], "marked"].mean(),
    }


def _named(condition: str, answers: pd.DataFrame, corpora: int) -> dict[Any, Any]:
    """A line of the patterns: differently named ones of each annotator and unit."""
    groups = answers.groupby(["annotator", "unit"])
    whole = groups.size() == corpora
    seen = answers[answers["yes"]].groupby(["annotator", "unit"])["named"].nunique()
    distinct = seen.reindex(whole.index, fill_value=0)[whole]
    shares = {n: (distinct == n).mean() for n in range(corpora + 1)}
    return {"condition": condition, "units": len(distinct), "distinct": distinct.mean()} | shares
