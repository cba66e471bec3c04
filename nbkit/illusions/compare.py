"""The test of a tag: on the other half of its corpus, and on every other corpus."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from nbkit import stats
from nbkit.activations import Activations
from nbkit.illusions.agreement import agreement, shares_of_outcomes
from nbkit.illusions.corpora import Corpus, Groups, aligned, gathered, groups_of, shared_descriptors
from nbkit.illusions.encoding import same_encoding
from nbkit.illusions.geometry import range_overlap
from nbkit.illusions.resampling import resample
from nbkit.illusions.transfer import Rule, look_up

MIN_SCORE = {"auroc": 0.7, "pearson": 0.3}
BASELINE_UNITS = 2000  # drawn from the units, at most, for the baselines made of them
CUT = ("auroc", "average_precision", "f1", "iou", "mad")  # scorers that cut labels at .5
Kind = tuple[dict[str, Corpus], np.ndarray | None]  # corpora, and the unit on which each tag is looked up


@dataclass(frozen=True)
class Report:
    """What ``compare`` found.

    units      one line for each tag and corpus it is looked up in:
               split                random cut (its seed)
               corpus               in which the tag was chosen (on the first half)
               unit, descriptor     the tag
               score                on the half it was chosen on
               above                is that the minimum or more, and no luck: significant among all the
                                    descriptors of its choice (``scoring.luck``), where p has a closed form.
                                    The others are kept for baselines that hardly have any such tag
               other                corpus it is looked up in (on the second half); ``other == corpus`` is
                                    the other half of its own corpus: *within*, all others are *across*
               same                 is it the unit's first tag there
               transfer_score       of the same pair there
               jaccard              overlap of the unit's first two tags there with those here
               spearman             rank correlation of its scores over all descriptors; 0 where constant
               matched_same         is it first there with every descriptor as frequent as in the corpus where
                                    it is rarest (texts are left out at random): scores depend on how
                                    frequent descriptors are, ``pearson`` most
               matched_score        of the same pair then
               rival                what the unit follows best in ``other``, chosen on its first half: the
                                    highest score less 1.645 of its errors
               p                    one-sided: would permuted labels let the pair score as high
               q                    Benjamini-Hochberg over the units with a tag of ``corpus``
               significant          q <= ``alpha``
               outcome              "kept", "changed", "significant", "silent" or "undecided"
                                    (``nbkit.illusions.outcomes`` says when)
    agreement  one line: number of tags, then of each measure the mean over the tags ``..._within`` and
               ``..._across`` (``stats.Estimate``, 95 %): ``within``, ``across`` and ``gap`` of ``same``;
               ``kept``, the share of the score (of AUROC - .5) that is left; ``jaccard``, ``spearman``,
               ``significant``; ``matched_within``, ``matched_across`` and ``matched_gap`` of
               ``matched_same``; ``distinct``, different tags of a unit over the corpora; ``units``, how many
               there are; and ``same_encoding_gap``, the gap of that baseline. Intervals of ``matched_...``
               and ``significant_...`` are over descriptors, that of ``distinct`` over units
    baselines  the same line for the units and for each baseline; those made of units take at most 2,000
    outcomes   two lines for each of these kinds, ``where`` "within" and "across": share of its tags with each
               outcome (``stats.Estimate``, intervals over descriptors)
    geometry   ``range_overlap``: do the top-10 activation ranges of two corpora overlap
    taxonomy   survives, tags, share: in how many other corpora a tag is first with half the minimum score
    settings   the arguments, the ``descriptors`` that took part, those ``left_out``: too rare
               somewhere, and the number of ``groups`` of each corpus that count as independent
    """

    units: pd.DataFrame
    agreement: pd.DataFrame
    baselines: pd.DataFrame
    outcomes: pd.DataFrame
    geometry: pd.DataFrame
    taxonomy: pd.DataFrame
    settings: dict[str, Any]

    def summary(self) -> dict[str, Any]:
        """The headline: tags, agreement within and across, gap, and agreement across of the baselines."""
        line = self.agreement.iloc[0]
        columns = ("within", "across", "gap", "same_encoding_gap", "kept_within", "kept_across")
        others = self.baselines.set_index("kind")["across"].drop("units")
        return {
            "tags": int(line["tags"]),
            **{column: line[column] for column in columns},
            "significant_across": line.get("significant_across"),
            "baselines": others.to_dict(),
        }


def compare(
    activations_by_corpus: Mapping[str, Activations],
    labels_by_corpus: Mapping[str, pd.DataFrame],
    *,
    method: str = "auroc",
    min_score: float | None = None,
    min_positives: float = 10,
    splits: int = 3,
    over: str = "texts",
    resamples: int = 100,
    permutations: int = 200,
    alpha: float = 0.05,
    directions: int = 1000,
    random_weights: Mapping[str, Activations] | None = None,
    covariates: Mapping[str, pd.DataFrame] | None = None,
    groups: Groups = True,
    seed: int = 0,
    progress: bool = True,
) -> Report:
    """Test every tag on the other half of its corpus and on the other corpora.

    Stores with the same units, and label matrices [text, descriptor], by the names of the corpora.

    method, min_score  scorer, and the score from which a unit has a tag (.7 for auroc, .3 for pearson). Most
                       scorers but ``auroc`` depend on how frequent a descriptor is, and show a gap for that
    min_positives      a descriptor takes part if so many texts of each half of each corpus have it, and lack
                       it (a label above .5 for scorers that cut labels there, else by their sum)
    splits             random cuts into halves; figures are over all of them
    over, resamples    intervals by a bootstrap over "texts", so many resamples (slow for scorers other than
                       auroc and pearson), or over "units", all tags of a unit together, the texts held fixed
    permutations       of the label rows, for the p of scorers other than auroc and pearson, whose p has a
                       closed form; 0: no p, no outcomes, any tag counts
    alpha              of false discoveries: of the tags of a corpus, and of those that hold in another
    directions, random_weights   how many random directions, and stores of ``subject.randomized(seed)``
    covariates         {corpus: frame by text_id}, such as length in words: judged is what they leave of the
                       activations (``matching.residuals``), geometry apart
    groups             texts that belong together: a document is in one half, is permuted and resampled as a
                       whole. True: the documents of each corpus, where it has four or more; False: texts are
                       independent; or {corpus: a group for each text_id, or True or False}

    ``ValueError``: fewer than two corpora, corpora without labels, different units, rows that do not match,
    texts without covariates or group, or no descriptor in common.
    """
    least = _min_score(method, min_score)
    rule = Rule(method, least, splits, permutations, alpha, over, resamples, seed).checked()
    labels = aligned(activations_by_corpus, labels_by_corpus)
    if random_weights is not None:
        aligned(random_weights, labels_by_corpus)
    shared = shared_descriptors(_halves_of_labels(activations_by_corpus, labels, groups, rule), min_positives)
    matrices = {name: frame[shared].to_numpy(np.float32) for name, frame in labels.items()}
    corpora = gathered(activations_by_corpus, matrices, covariates, groups)
    untrained = gathered(random_weights, matrices, covariates, groups) if random_weights else None
    table, baselines, outcomes = _looked_up(_kinds(corpora, untrained, directions, seed), rule, progress)
    units = next(iter(activations_by_corpus.values())).units["unit"].to_numpy()
    for column, names in (("unit", units), ("descriptor", shared), ("rival", shared)):
        table[column] = pd.Categorical.from_codes(table[column], names)
    settings = rule._asdict() | {"min_positives": min_positives, "directions": directions}
    settings |= _took_part(labels, shared, corpora)
    geometry, survival = range_overlap(activations_by_corpus), _survival(table, rule)
    return Report(table, _headline(baselines), baselines, outcomes, geometry, survival, settings)


# ---------------------------------------------------------------------------------- inside


def _min_score(method: str, given: float | None) -> float:
    if given is None and method not in MIN_SCORE:
        raise ValueError(f"min_score=None: the scorer {method!r} needs a minimum; auroc and pearson have one")
    return MIN_SCORE[method] if given is None else given


def _halves_of_labels(
    stored: Mapping[str, Activations], labels: Mapping[str, pd.DataFrame], groups: Groups, rule: Rule
) -> dict[str, pd.DataFrame]:
    """The labels of each half of each corpus and cut."""
    found = {}
    for name, frame in labels.items():
        count = frame > 0.5 if rule.method in CUT else frame
        documents = groups_of(name, stored[name], groups)
        for cut in rule.cuts:
            parts = stats.halves(len(frame), 0.5, cut, groups=documents)
            for half, rows in zip(("first", "second"), parts, strict=True):
                found[f"{name} ({half} half, cut {cut})"] = count.iloc[rows]
    return found


def _kinds(
    corpora: dict[str, Corpus], random_weights: dict[str, Corpus] | None, directions: int, seed: int
) -> dict[str, Kind]:
    """The units and their baselines."""
    generator, width = np.random.default_rng(seed), next(iter(corpora.values())).values.shape[1]
    drawn = np.sort(generator.permutation(width)[:BASELINE_UNITS])
    some = {n: c.some(drawn) for n, c in corpora.items()} if width > BASELINE_UNITS else corpora
    permuted = {}
    for name, corpus in some.items():
        (order,) = stats.permutations(len(corpus.labels), 1, generator, groups=corpus.groups)
        permuted[name] = corpus._replace(labels=corpus.labels[order])
    projected = stats.random_directions({n: c.values for n, c in corpora.items()}, directions, seed)
    kinds: dict[str, Kind] = {
        "units": (corpora, None),
        "same encoding": (same_encoding(some, seed), None),
        "random directions": ({n: c._replace(values=projected[n]) for n, c in corpora.items()}, None),
        "permuted units": (some, generator.permutation(len(drawn))),
        "permuted rows": (permuted, None),
    }
    return kinds if random_weights is None else kinds | {"random weights": (random_weights, None)}


def _looked_up(
    kinds: dict[str, Kind], rule: Rule, progress: bool
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The tags of the first kind, looked up in every corpus; a line for every kind; and their outcomes."""
    tables, lines, outcomes = [], [], []
    for kind, (corpora, elsewhere) in tqdm(kinds.items(), desc="compare", leave=False, disable=not progress):
        matched = kind in ("units", "same encoding")
        table, again = look_up(corpora, rule, elsewhere=elsewhere, matched=matched), None
        if rule.over == "texts":
            again = resample(corpora, rule, table, elsewhere=elsewhere, progress=progress)
        line = agreement(kind, table, rule, again)
        lines.append(line | {"units": next(iter(corpora.values())).values.shape[1]})
        outcomes += shares_of_outcomes(kind, table)
        tables += [table] if not tables else []
    return tables[0], pd.DataFrame(lines), pd.DataFrame(outcomes)


def _headline(baselines: pd.DataFrame) -> pd.DataFrame:
    """The line of the units, with the gap of the same encoding."""
    gap = baselines.set_index("kind").loc["same encoding", "gap"]
    return baselines.iloc[:1].assign(same_encoding_gap=[gap])


def _took_part(
    labels: dict[str, pd.DataFrame], shared: list[str], corpora: dict[str, Corpus]
) -> dict[str, Any]:
    """Covariates, groups and descriptors that took part, and the descriptors left out."""
    left_out = [name for name in next(iter(labels.values())) if name not in shared]
    groups = {name: corpus.n_groups for name, corpus in corpora.items()}
    given = next(iter(corpora.values())).covariates
    covariates = [] if given is None else list(given)
    return {"covariates": covariates, "groups": groups, "descriptors": shared, "left_out": left_out}


def _survival(table: pd.DataFrame, rule: Rule) -> pd.DataFrame:
    """In how many of the other corpora does a tag keep its first place and half of the minimum score?

    ``survives`` counts them; ``share`` is over all tags above the minimum.
    """
    away = table[table["above"] & (table["other"] != table["corpus"])]
    survives = away["same"] & (away["transfer_score"] >= (rule.min_score + rule.null) / 2)
    others = table["other"].nunique() - 1
    by_tag = survives.groupby([away["split"], away["corpus"], away["unit"]], observed=True).sum()
    counts = np.bincount(by_tag.astype(int), minlength=others + 1)
    share = counts / max(1, counts.sum())
    return pd.DataFrame({"survives": np.arange(others + 1), "tags": counts, "share": share})
