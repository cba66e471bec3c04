"""Illusions: does a tag survive another corpus?

After Bolukbasi et al. 2021 (arXiv 2104.07143, read second hand): what a unit's top texts have in common
in one corpus is often not what they have in common in the next. A description is a claim about a model
*and* a corpus.

    compare(activations_by_corpus, labels_by_corpus) -> Report
    Report.agreement    one line for each kind of unit: agreement within and across corpora, the gap
    Report.controls     the same lines for the floors, beside the units
    Report.units        every tag chosen, with its fate on each other corpus
    Report.geometry     overlap of the top-10 activation ranges of two corpora (the paper's figure: 38 %)
    Report.taxonomy     how many tags survive in how many corpora
    Report.summary()    a dict of the headline numbers

    annotation_set(activations_by_corpus, texts_by_corpus)   blinded sets of texts for people to judge
    agreement_of(annotations, key)                           the paper's table of what they said

The paper's other tests are reached from here, too: ``confusion``, ``outlier_share``, ``without_outliers``,
``locality``, ``layout`` (``nbkit.illusions.geometry``), ``pattern_rate`` (``nbkit.illusions.patterns``), ``taxonomy``,
``monotonicity``, ``distinct_tags``, ``quintile_rates`` (``nbkit.illusions.taxonomy``).

The test (ours). In each corpus the texts are cut into two halves. A unit's tag is its best descriptor on
the first half. *Within*: is it the best on the second half too, and how much of its score is left?
*Across*: the same on the second halves of the other corpora. Within measures sampling noise and is the
ceiling; the illusion gap is what across loses beyond it. Only descriptors that every corpus knows take
part, since nothing can be said of a tag that the other corpus has no word for.

Beside the first tag and its score, ``agreement`` and ``controls`` hold, within and across:

    jaccard     overlap of the unit's first two tags, |both| / |either|
    spearman    rank correlation of its scores over all descriptors; 0 where a side is constant
    matched     the tag's score where its descriptor is equally frequent everywhere: of the texts with it, as
                many are drawn (without replacement) in each corpus as bring its share down to that of
                the corpus where it is rarest; all texts without it stay. ``pearson`` and others fall
                with the share, and would show an illusion where only the share differs
    held        share of the tags with q <= ``alpha``: is the tag related to the unit there at all? A weaker
                question than being its first tag, and with the false discoveries counted
    distinct    different tags of a unit over the corpora, for the units that have one in each (the
                paper: 2.5 of 4; ``distinct_tags`` has its floor)

Intervals are 95 %, by a bootstrap over the texts (``nbkit.illusions.transfer`` says how); ``over="units"`` holds the
texts fixed and draws units again, all tags of a unit together. ``matched``, ``held`` and ``distinct`` have
intervals over units in any case.

``units`` has a line for each tag: split (the cut), corpus it was chosen in, unit, descriptor, score (on the
half it was chosen on), above (is that the minimum or more: the others are kept for floors that hardly
have any), and its fate, on the other half of its corpus (``within_same``, ...) and on the second halves of
the others (``same:NAME``, ...; NaN in its own):

    same        1 if it is the unit's first tag there
    score       of the same pair there
    jaccard, spearman, matched    as above
    p           by permuted labels, one-sided: would chance let the pair score as high there?
    q           Benjamini-Hochberg over the units with a tag of one corpus that are looked up in another

The floors. *Random directions* in the space of the units (the illusion holds for them too);
*permuted units*, each tag looked up on some other unit, which shows what frequent tags agree by
themselves; *permuted rows*, labels shuffled within each corpus, where only luck is left; *random weights*,
the same architecture untrained: a floor and not a null, since it still carries which words are there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from nbkit import matching
from nbkit.activations import Activations
from nbkit.illusions import transfer
from nbkit.illusions.geometry import range_overlap
from nbkit.illusions.taxonomy import aligned, shared_descriptors
from nbkit.illusions.transfer import Rule, followed, resampled
from nbkit.stats import random_directions


@dataclass(frozen=True)
class Report:
    """What ``compare`` found; the module says what each frame holds.

    ``settings`` has the arguments, the ``descriptors`` that took part, and those ``left_out``: too rare in
    some corpus.
    """

    units: pd.DataFrame
    agreement: pd.DataFrame
    controls: pd.DataFrame
    geometry: pd.DataFrame
    taxonomy: pd.DataFrame
    settings: dict[str, Any]

    def summary(self) -> dict[str, Any]:
        """Tags, agreement within and across with intervals, gap, what holds, and the floors' agreement."""
        line = self.agreement.iloc[0]
        floors = self.controls.set_index("kind")["across"].drop("units")
        return {
            "tags": int(line["tags"]),
            "within": line["within"],
            "across": line["across"],
            "gap": line["gap"],
            "kept_within": line["kept_within"],
            "kept_across": line["kept_across"],
            "significant_across": line.get("significant_across"),
            "floors": floors.to_dict(),
        }


def compare(
    activations_by_corpus: Mapping[str, Activations],
    labels_by_corpus: Mapping[str, pd.DataFrame],
    *,
    method: str = "pearson",
    min_score: float = 0.3,
    min_positives: float = 10,
    splits: int = 3,
    over: str = "texts",
    resamples: int = 100,
    permutations: int = 200,
    alpha: float = 0.05,
    directions: int = 1000,
    random_weights: Mapping[str, Activations] | None = None,
    covariates: Mapping[str, pd.DataFrame] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Report:
    """Test every tag on the other half of its corpus and on the other corpora.

    activations_by_corpus  stores with the same units, one for each corpus
    labels_by_corpus       label matrices [text, descriptor] for the same corpora
    method, min_score      scorer, and the score from which a unit has a tag
    min_positives          a descriptor takes part if its labels sum to this in each half of each corpus
    splits                 random cuts into halves; every figure is over all of them
    over, resamples        intervals from "texts" drawn again so often (scorers other than pearson: slow),
                           or from "units" (see below)
    permutations, alpha    of the label rows for the p of each tag (0: none), and of false discoveries
    directions             random directions in the floor
    random_weights         stores of ``subject.randomized(seed)``, for that floor
    covariates                {corpus: frame by text_id} of covariates, such as length in words: judged is what
                           they leave of the activations (``matching.residuals``), geometry apart

    Raises ``ValueError`` for fewer than two corpora, corpora without labels, different units, rows
    that do not match, texts without covariates, or no descriptor in common.
    """
    if over not in ("texts", "units"):
        raise ValueError(f'over={over!r}: intervals are over "texts" or over "units"')
    rule = Rule(method, min_score, splits, permutations, alpha, over, resamples, seed)
    labels = aligned(activations_by_corpus, labels_by_corpus)
    if random_weights is not None:
        aligned(random_weights, labels_by_corpus)
    shared = shared_descriptors(labels, 2 * min_positives)
    matrices = {name: frame[shared].to_numpy(np.float32) for name, frame in labels.items()}
    covered = _covariates(activations_by_corpus, covariates)
    values, untrained = (_left(stored, covered) for stored in (activations_by_corpus, random_weights))
    kinds = _kinds(values, matrices, untrained, directions, seed)
    table, controls = _followed(kinds, rule, covered, progress)
    units = next(iter(activations_by_corpus.values())).units["unit"].to_numpy()
    table["unit"], table["descriptor"] = units[table["unit"]], np.asarray(shared)[table["descriptor"]]
    left_out = [name for name in next(iter(labels.values())) if name not in shared]
    settings = rule._asdict() | {"min_positives": min_positives, "directions": directions}
    known = [] if covariates is None else list(next(iter(covariates.values())))
    return Report(
        units=table,
        agreement=controls.iloc[:1],
        controls=controls,
        geometry=range_overlap(activations_by_corpus),
        taxonomy=_taxonomy(table, min_score, len(activations_by_corpus) - 1),
        settings=settings | {"covariates": known, "descriptors": shared, "left_out": left_out},
    )


def _covariates(
    stored: Mapping[str, Activations], covariates: Mapping[str, pd.DataFrame] | None
) -> dict[str, pd.DataFrame] | None:
    """Those of each corpus in the order of its rows."""
    if covariates is None:
        return None
    found = {}
    for name, a in stored.items():
        known = covariates[name].index if name in covariates else []
        missing = ~a.rows["text_id"].isin(known)
        if missing.any():
            first = a.rows["text_id"][missing].iloc[0]
            raise ValueError(f"covariates lack {missing.sum()} texts of {name!r}, the first is text {first}")
        found[name] = covariates[name].loc[a.rows["text_id"]]
    return found


def _left(
    stored: Mapping[str, Activations] | None, covered: Mapping[str, pd.DataFrame] | None
) -> dict[str, np.ndarray] | None:
    """Activations [text, unit] of each corpus, without what the covariates explain."""
    if stored is None or covered is None:
        return stored and {name: a.values for name, a in stored.items()}
    return {name: matching.residuals(a.values, covered[name]) for name, a in stored.items()}


def _kinds(
    values: dict[str, np.ndarray],
    labels: dict[str, np.ndarray],
    random_weights: dict[str, np.ndarray] | None,
    directions: int,
    seed: int,
) -> dict[str, tuple[dict, dict, np.ndarray | None]]:
    """The units and their floors: activations and labels of every corpus, and where tags are looked up."""
    generator = np.random.default_rng(seed)
    permuted = {name: generator.permutation(matrix) for name, matrix in labels.items()}
    elsewhere = generator.permutation(next(iter(values.values())).shape[1])
    kinds = {
        "units": (values, labels, None),
        "random directions": (random_directions(values, directions, seed), labels, None),
        "permuted units": (values, labels, elsewhere),
        "permuted rows": (values, permuted, None),
    }
    if random_weights is not None:
        kinds["random weights"] = (random_weights, labels, None)
    return kinds


def _followed(
    kinds: dict[str, tuple], rule: Rule, covered: dict[str, pd.DataFrame] | None, progress: bool
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tags of the first kind with their fates, and a line for every kind."""
    frames, lines = [], []
    for kind, (values, labels, elsewhere) in tqdm(
        kinds.items(), desc="compare", leave=False, disable=not progress
    ):
        frames.append(followed(values, labels, rule, elsewhere=elsewhere, covariates=covered))
        again = None
        if rule.over == "texts":
            again = resampled(values, labels, rule, frames[-1], elsewhere=elsewhere, progress=progress)
        lines.append(transfer.agreement(kind, frames[-1], rule, again))
    return frames[0], pd.DataFrame(lines)


def _taxonomy(units: pd.DataFrame, min_score: float, others: int) -> pd.DataFrame:
    """In how many of the other corpora does a tag keep half of the minimum score and its first place?

    ``survives`` counts them; ``share`` is over all tags above the minimum.
    """
    judged = units[units["above"]]
    same = judged.filter(like="same:").to_numpy() == 1
    strong = judged.filter(like="score:").to_numpy() >= min_score / 2
    counts = np.bincount((same & strong).sum(1), minlength=others + 1)
    share = counts / max(1, counts.sum())
    return pd.DataFrame({"survives": np.arange(others + 1), "tags": counts, "share": share})
