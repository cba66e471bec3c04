"""Do claims hold on some corpora? ``judge``, and what it returns."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from nbkit import activations, stats
from nbkit.activations import Activations
from nbkit.claims.figures import Corpus, Pairs, Rule, figures_of
from nbkit.claims.labellers import label
from nbkit.claims.words import in_words
from nbkit.models import Subject
from nbkit.texts import Texts

log = logging.getLogger(__name__)

#: Verdicts of a claim over all corpora, from the best to the least.
VERDICTS = (
    "holds everywhere",
    "holds in some corpora",
    "fits many units",
    "not found",
    "cannot be judged here",
)
SHUFFLED = 200  # pairs of a shuffled unit and description, at least
Z_ENOUGH = 3.0  # standard deviations that a relation needs to be told from none among many claims


@dataclass(frozen=True, repr=False)
class Judged:
    """What ``judge`` found.

    verdicts    one line for each claim: claim, unit, description, sign, verdict, holds_in (names of corpora),
                words (the verdict as a sentence), and whatever else the claims came with
    corpora     one line for each claim and corpus:
                  texts, documents, positives       rows, what counts as independent, rows that have it
                  auroc, low, high                  with its 95 % interval; of low activations for sign -1
                  pearson, pearson_low, _high       of activation and label
                  z, p, q                           permutations of whole documents; q over the claims
                  rank, rivals                      1 + other descriptions that score higher on the unit
                  unit_rank, units, as_good         1 + units that score higher, and units as good as this one
                  rival, rival_auroc, without_rival the best other description, and what is left without it
                  top_has                           share of the unit's top texts that have it; positives /
                                                    texts is what random texts have
                  has_high                          share of the texts that have it on which the unit is among
                                                    its ``high`` highest; ``high`` is what random texts have
                  outcome                           holds, fits many, explained, not found, too few, no label
                  more_texts                        texts that are missing for a judgement, about; else 0
    baselines   one line for each kind (claims, shuffled, random weights): pairs that can be judged
                somewhere, their mean AUROC, and the shares that hold in any corpus and in all
    settings    the arguments, the labeller of each description, what was ``dropped``
    """

    verdicts: pd.DataFrame
    corpora: pd.DataFrame
    baselines: pd.DataFrame
    settings: dict[str, Any]
    labels: dict[str, pd.DataFrame]

    def counts(self) -> pd.Series:
        """Claims with each verdict."""
        return self.verdicts["verdict"].value_counts().reindex(VERDICTS, fill_value=0)

    def table(self) -> pd.DataFrame:
        """For a paper: one line for each claim and corpus, figures as text; ``.to_latex()`` is pandas'."""
        found = self.corpora.merge(self.verdicts[["claim", "unit", "description", "verdict"]], on="claim")
        lines = found.to_dict("records")
        return pd.DataFrame(
            {
                **{name: found[name] for name in ("unit", "description", "corpus")},
                "with it": [f"{line['positives']:,} / {line['texts']:,}" for line in lines],
                "AUROC": [f"{line['auroc']:.2f} [{line['low']:.2f}, {line['high']:.2f}]" for line in lines],
                "q": [f"{line['q']:.2g}" for line in lines],
                "rank": [f"{line['rank']} / {line['rivals'] + 1}" for line in lines],
                "unit rank": [f"{line['unit_rank']:,} / {line['units']:,}" for line in lines],
                **{name: found[name] for name in ("outcome", "verdict")},
            }
        )

    def __repr__(self) -> str:
        found = ", ".join(f"{n:,} {verdict}" for verdict, n in self.counts().items() if n)
        return f"Judged({len(self.verdicts):,} claims: {found})"


def judge(
    activations_by_corpus: Mapping[str, Activations] | Subject,
    claims: pd.DataFrame,
    corpora: Mapping[str, Texts],
    *,
    labeller: Any = ("patterns", "similarity"),
    min_score: float = 0.7,
    alpha: float = 0.05,
    many: float = 0.05,
    min_positives: int = 10,
    top: int = 20,
    high: float = 0.1,
    permutations: int = 200,
    random_weights: Mapping[str, Activations] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Judged:
    """Test what each claim says of its unit on every corpus.

    activations_by_corpus  {corpus: store} with the same units; rows may be texts, words or tokens. A
                   ``Subject`` is captured at the sites of the claims, with text rows and their maximum
    claims         a frame with unit and description, as ``read`` makes it (sign is 1 where there is none)
    corpora        {corpus: Texts} of the same names
    labeller       says which rows have a description; see ``label``
    min_score      AUROC from which a description fits a unit
    alpha          of false discoveries, over the claims of a corpus
    many           share of all units: with more that fit as well, a claim names none
    min_positives  rows that have the description, and rows that lack it, that a judgement needs
    top, high      rows taken as a unit's top; share of rows on which a unit counts as high
    permutations   of the label rows
    random_weights stores of ``subject.randomized(seed)``, for that baseline

    A corpus's outcome: *holds* (AUROC of ``min_score`` at least, q of ``alpha`` at most); *fits many* (so do
    more than ``many`` of all units); *explained* (among the rows without the best rival description, AUROC
    is nearer to .5 than to ``min_score``); *not found*; *too few* (rows that have it or lack it, or too few
    for a q). A claim holds everywhere if it holds in each corpus. Documents, where a corpus names four or
    more, are permuted and counted as wholes; word and token rows are grouped at least by their text.

    Claims about units that the stores lack are left out and counted. ``ValueError``: no claim is left,
    stores of different units, a corpus without texts, an unknown labeller.
    """
    rule = Rule(min_score, alpha, many, min_positives, top, high, permutations, seed)
    stores = stores_of(activations_by_corpus, claims, corpora, progress)
    units = pd.Index(next(iter(stores.values())).units["unit"])
    kept, dropped = _known(claims, units)
    labels = label(stores, kept["description"], corpora, labeller)
    names = pd.Index(next(iter(labels.values())).columns)
    matrices, unanswered = _matrices(stores, labels)
    kinds = _kinds(matrices, _pairs(kept, units, names), random_weights, units, rule, progress)
    lines = {kind: (_lines(found, rule, names), pairs) for kind, (found, pairs) in kinds.items()}
    baselines = pd.DataFrame([_baseline(kind, *of_kind) for kind, of_kind in lines.items()])
    settings = rule._asdict() | {"dropped": dropped | unanswered, "units": len(units)}
    settings |= {"labellers": next(iter(labels.values())).attrs["labellers"]}
    of_claims, _ = lines["claims"]
    of_claims.insert(0, "claim", kept["claim"].to_numpy()[of_claims.pop("pair")])
    return Judged(_verdicts(kept, of_claims), of_claims, baselines, settings, labels)


# ---------------------------------------------------------------------------------- what is judged


def stores_of(given: Any, claims: pd.DataFrame, corpora: Mapping[str, Texts], progress: bool) -> dict:
    """{corpus: store} as given, checked; of a ``Subject`` captured at the sites of the claims."""
    missing = {"unit", "description"} - set(claims)
    if missing:
        raise ValueError(f"the claims have no column {min(missing)!r}: they have {', '.join(claims)}")
    if isinstance(given, Subject):
        asked = claims["unit"].str.rpartition(".")[0].unique().tolist()
        known = [site for site in asked if site in set(given.sites["site"])]
        if not known:
            raise ValueError(f"{given.name} has none of the sites of the claims: {', '.join(asked[:5])}")
        return {
            name: activations.capture(given, texts, sites=known, progress=progress)
            for name, texts in corpora.items()
        }
    if not given:
        raise ValueError("no corpus to judge on: give {corpus: store}")
    first, expected = next(iter(given.items()))
    for name, stored in given.items():
        if name not in corpora:
            raise ValueError(f"no texts for the corpus {name!r}; there are {', '.join(corpora)}")
        if stored.units["unit"].tolist() != expected.units["unit"].tolist():
            raise ValueError(f"{name!r} and {first!r} hold different units: capture the same sites")
    return dict(given)


def _known(claims: pd.DataFrame, units: pd.Index) -> tuple[pd.DataFrame, dict[str, int]]:
    """The claims about units that are there, numbered and with a sign."""
    kept = claims[claims["unit"].isin(units)].reset_index(drop=True)
    dropped = {"units that were not captured": n} if (n := len(claims) - len(kept)) else {}
    if kept.empty:
        raise ValueError(
            f"none of the {len(claims)} claims is about a captured unit: the first is about"
            f" {claims['unit'].iloc[0] if len(claims) else 'nothing'}, captured are {units[0]} to {units[-1]}"
        )
    if dropped:
        log.warning("%d claims left out: their units were not captured", n)
    if "claim" not in kept:
        kept.insert(0, "claim", np.arange(len(kept)))
    return kept.assign(sign=kept["sign"] if "sign" in kept else 1), dropped


def _matrices(
    stores: Mapping[str, Activations], labels: Mapping[str, pd.DataFrame]
) -> tuple[dict[str, Corpus], dict[str, int]]:
    """The two matrices of each corpus; rows for which a labeller got no answer are left out and counted."""
    found, dropped = {}, {}
    for name, stored in stores.items():
        matrix = labels[name].to_numpy(float)
        asked = ~np.isnan(matrix).all(0)
        answered = np.flatnonzero(~np.isnan(matrix[:, asked]).any(1))
        if lost := len(matrix) - len(answered):
            dropped[f"rows of {name} without an answer"] = lost
            log.warning("%s: %d rows without an answer left out", name, lost)
        groups = groups_of(stored.rows)
        values = stored.values if not lost else stored.values[answered]
        found[name] = Corpus(values, matrix[answered], None if groups is None else groups[answered])
    return found, dropped


def _kinds(
    matrices: Mapping[str, Corpus],
    pairs: Pairs,
    random_weights: Mapping[str, Activations] | None,
    units: pd.Index,
    rule: Rule,
    progress: bool,
) -> dict[str, tuple[dict[str, pd.DataFrame], Pairs]]:
    """{kind: (figures of each corpus, pairs)} of the claims, of shuffled ones, and under random weights."""
    shuffled = _shuffled(pairs, np.random.default_rng(rule.seed))
    both = Pairs(*(np.concatenate(parts) for parts in zip(pairs, shuffled, strict=True)))
    found, moved, untrained = {}, {}, {}
    for name, matrix in tqdm(matrices.items(), desc="judge", leave=False, disable=not progress):
        figures, n = figures_of(matrix, both, rule), len(pairs.unit)
        found[name], moved[name] = figures.iloc[:n], figures.iloc[n:]
        if random_weights is not None:
            values = _values(random_weights[name], matrix, units)
            untrained[name] = figures_of(matrix._replace(values=values), pairs, rule)
    kinds = {"claims": (found, pairs), "shuffled": (moved, shuffled)}
    return kinds if random_weights is None else kinds | {"random weights": (untrained, pairs)}


def groups_of(rows: pd.DataFrame) -> np.ndarray | None:
    """The document of each row as a number; of word and token rows the text, where no documents are known."""
    found = stats.usable_groups(rows["document"]) if "document" in rows else None
    if found is None and not rows["text_id"].is_unique:
        found = rows["text_id"].to_numpy()
    return None if found is None else pd.factorize(found)[0]


def _values(stored: Activations, matrix: Corpus, units: pd.Index) -> np.ndarray:
    if stored.units["unit"].tolist() != units.tolist() or len(stored.values) != len(matrix.values):
        raise ValueError("random_weights hold other units or rows: capture the same sites and texts")
    return stored.values


def _pairs(claims: pd.DataFrame, units: pd.Index, names: pd.Index) -> Pairs:
    return Pairs(
        units.get_indexer(claims["unit"]),
        names.get_indexer(claims["description"]),
        np.where(claims["sign"].to_numpy(float) < 0, -1, 1),
    )


def _shuffled(pairs: Pairs, generator: np.random.Generator) -> Pairs:
    """The descriptions on each other's units, as often as it takes; what is really claimed is left out."""
    real = set(zip(pairs.unit.tolist(), pairs.description.tolist(), strict=True))
    n, kept = len(pairs.unit), []
    for _ in range(-(-SHUFFLED // n) if n > 1 else 0):
        for i, j in enumerate(generator.permutation(n)):
            if (pairs.unit[j], pairs.description[i]) not in real:
                kept.append((pairs.unit[j], pairs.description[i], pairs.sign[j]))
    return Pairs(*np.array(kept, dtype=int).reshape(-1, 3).T)


# ---------------------------------------------------------------------------------- verdicts


def _lines(found: Mapping[str, pd.DataFrame], rule: Rule, names: pd.Index) -> pd.DataFrame:
    """The figures of all corpora with q and outcome, one line for each pair and corpus."""
    parts = []
    for corpus, figures in found.items():
        part = _outcomes(figures.reset_index(drop=True), rule)
        part.insert(0, "pair", np.arange(len(part)))
        part.insert(1, "corpus", corpus)
        part["rival"] = [names[i] if i >= 0 else None for i in part["rival"]]
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def _outcomes(frame: pd.DataFrame, rule: Rule) -> pd.DataFrame:
    """Adds q, outcome and more_texts to the figures of one corpus."""
    n, rows = frame["positives"], frame["texts"]
    fewer = np.minimum(n, rows - n)
    enough = (fewer >= rule.min_positives) & ~frame["unlabelled"]
    q = stats.q_values(frame["p"].where(enough).to_numpy())
    fits = frame["auroc"] >= rule.min_score
    halfway = (0.5 + rule.min_score) / 2
    outcome = np.select(
        [
            frame["unlabelled"],
            ~enough,
            ~fits,
            ~(q <= rule.alpha),
            frame["without_rival"] < halfway,
            frame["as_good"] > rule.many * frame["units"],
        ],
        ["no label", "too few", "not found", "too few", "explained", "fits many"],
        "holds",
    )
    # as many positives as are missing, at their share so far; none seen: at most 3 / rows (rule of three)
    for_positives = rows * (rule.min_positives / np.maximum(fewer, 3) - 1)
    for_q = rows * ((Z_ENOUGH / frame["z"].clip(lower=0.5)) ** 2 - 1)
    missing = np.where(enough, for_q, for_positives)
    more = np.where(outcome == "too few", np.ceil(np.maximum(missing, 1)), 0).astype(int)
    return frame.drop(columns="unlabelled").assign(q=q, outcome=outcome, more_texts=more)


def verdict_of(outcomes: pd.Series) -> str:
    """One of ``VERDICTS`` for the outcomes of a claim in all corpora."""
    holds = (outcomes == "holds").to_numpy()
    if holds.all():
        return VERDICTS[0]
    if holds.any():
        return VERDICTS[1]
    if (outcomes == "fits many").any():
        return VERDICTS[2]
    return VERDICTS[4] if outcomes.isin(["too few", "no label"]).all() else VERDICTS[3]


def _verdicts(claims: pd.DataFrame, lines: pd.DataFrame) -> pd.DataFrame:
    found = []
    for claim, part in lines.groupby("claim", sort=False):
        verdict = verdict_of(part["outcome"])
        holds_in = part.loc[part["outcome"] == "holds", "corpus"].tolist()
        found.append((claim, verdict, ", ".join(holds_in), in_words(verdict, part)))
    columns = ["claim", "verdict", "holds_in", "words"]
    table = claims.merge(pd.DataFrame(found, columns=columns), on="claim", validate="one_to_one")
    first = ["claim", "unit", "description", "sign", "verdict", "holds_in", "words"]
    return table[[*first, *(column for column in table if column not in first)]]


def _baseline(kind: str, lines: pd.DataFrame, pairs: Pairs) -> dict[str, Any]:
    judged = ~lines["outcome"].isin(["too few", "no label"])
    by_pair = lines.assign(judged=judged, holds=lines["outcome"] == "holds").groupby("pair")
    could = by_pair["judged"].any()
    alike = pairs.description[could.index[could]]
    shares = {
        "holds_somewhere": stats.share(by_pair["holds"].any()[could].to_numpy(float), alike),
        "holds_everywhere": stats.share(by_pair["holds"].all()[could].to_numpy(float), alike),
    }
    mean = stats.bootstrap(lines[judged].groupby("pair")["auroc"].mean().to_numpy())
    return {"kind": kind, "pairs": int(could.sum()), "auroc": mean, **shares}
