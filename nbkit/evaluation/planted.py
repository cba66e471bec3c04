"""Planted units: a real model with units of known meaning, to measure methods against.

    made = plant(subject, texts, labels, n=20, seed=0)
    made.subject      the same model with the planted units at its `layer.N.ffn` sites
    made.units        what each of them responds to, and how well
    made.held_out     {corpus: Texts} that played no part in making the units, and `.labels` for them

    stored = activations.capture(made.subject, made.held_out["email"])
    tags = matching.tag(stored, made.labels["email"])
    precision_at_k(tags, gold_of(made), 1)

Kinds of units:

    pure            one descriptor
    polysemantic    fires for either of two descriptors
    dataset-local   descriptor A inside one corpus, B inside another: an illusion by construction
    distractor      the length of the text, or the corpus it is from; no descriptor is right, and in
                    training each is kept from correlating with any within texts of like length and corpus
    dead            constant

Where they go. Units are APPENDED to the feed-forward network of a layer, behind the real ones
("layer.3.ffn.1536" is the first of layer 3 of minilm): a row of the first matrix detects; the output
weights are zero, so nothing downstream changes (up to float rounding, as a wider matrix product may add in
another order). All real units stay as rivals. A method that looks at a unit's index could tell the planted
ones; none that looks at activations can.

What they detect. A direction in the input of the feed-forward network, trained so that its MAXIMUM over the
tokens of a text (special tokens left out) tells the texts with the descriptor from those without:
multiple-instance logistic loss, both sides with equal weight, started from the difference of the class
means, all units of a layer at once. The output passes the model's own nonlinearity. Units with one
descriptor differ by layer and by the texts they were trained on. They are single and clear as units of real
models rarely are; ``blur`` adds a random direction to each, which makes them weaker. A method that fails
here will not do better on real units; one that passes may still fail there.

In a gated network (SmolLM2, and all of Llama's family) a unit is act(gate) * up. A planted one detects with
its gate, and its up is 1 for every token: it is act(gate), as in a network without gates. That makes it
simpler than the real units beside it, which multiply two directions and are negative half of the time; a
planted one is never far below 0 (-.28 with SiLU). So planted units say less about gated models: they show
that a method finds units that are high for a descriptor, and nothing about units that mean something at both
ends.

Dataset-local units are the hardest: one direction has to know the corpus as well as the descriptor. Several
candidates are trained for each and judged by those of the training texts that they have not seen; the best
are trained three times, on different texts, and the mean is planted. They are much fainter than the others,
the more alike the corpora.

Limits: capture with pool="max", for which they are made; models with shared blocks (ALBERT) and XLNet have
no place for them; a planted model is for use in memory (its configuration still names the old width).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nbkit import activations, stats
from nbkit.evaluation.detectors import FAINT, FIRST_MATRIX, MARGIN, Unit, trained, widened
from nbkit.evaluation.targets import Target, achieved_of, ids, table_of
from nbkit.models import Subject
from nbkit.texts import Texts

KINDS = ("pure", "polysemantic", "dataset-local", "distractor", "dead")


@dataclass(frozen=True, repr=False)
class Planted:
    """A subject with planted units, and what is known of them.

    ``units`` has one line for each unit and descriptor:

    unit, kind        "layer.3.ffn.1540", one of ``KINDS``
    descriptor        what it responds to; "length" or "corpus" for a distractor, None when dead
    corpus            inside which (dataset-local), which one (corpus distractor); else None: all
    check_auroc       on the texts kept for checking: of the texts with the descriptor against those
                      without; for a polysemantic unit against the texts with neither; for a
                      dataset-local unit inside the corpus. NaN when dead
    check_rival       dataset-local only: of the unit's OTHER descriptor in the same corpus
    achieved_auroc    and ``rival_auroc``: the same on the held-out texts, which decide nothing
    planted           whether ALL lines of the unit reach ``minimum`` on the check texts; dataset-local
                      units and corpus distractors must reach .7, the former .1 more than the rival.
                      Only these units count as gold (``gold_of`` gives the others too)
    """

    subject: Subject
    units: pd.DataFrame
    held_out: dict[str, Texts]
    labels: dict[str, pd.DataFrame]  # of the held-out texts
    settings: dict = field(default_factory=dict)

    def __repr__(self) -> str:
        units = self.units.drop_duplicates("unit")
        counts = units.groupby("kind", sort=False)["planted"].agg(["sum", "size"])
        parts = [f"{kind} {good} of {all}" for kind, good, all in counts.itertuples()]
        return f"Planted({self.subject.name}: {', '.join(parts)})"


def plant(
    subject: Subject,
    texts: Texts | Mapping[str, Texts],
    labels: pd.DataFrame | Mapping[str, pd.DataFrame],
    *,
    n: int = 8,
    kinds: str | Sequence[str] | Mapping[str, int] = KINDS,
    layers: Sequence[int] | None = None,
    minimum: float = 0.85,
    share: float = 0.4,
    check: float = 0.2,
    blur: float = 0.0,
    steps: int = 25,
    seed: int = 0,
    cache: str | Path | bool | None = False,
    progress: bool = True,
) -> Planted:
    """Add units of known meaning to ``subject``.

    texts, labels  a corpus and its label matrix [text_id, descriptor], or both by corpus name; labels
                   count as present above .5. Descriptors that not all corpora have are left out
    n, kinds       ``n`` units of each kind; or a mapping kind -> number of units
    layers         that get the units, in turn; default all but the first
    minimum        AUROC from which a unit counts as planted
    share, check   of the texts of each corpus: for training, and for deciding which units count. The others
                   are ``held_out``: what a method is judged on played no part in keeping the units. Whole
                   documents go to one part, where the corpus names four or more
    blur           length of a random direction added to each detector, relative to the detector's (of a
                   dataset-local unit .6 of it is left in the mean of three)
    cache          where activations of the held-out texts are stored (see ``activations.capture``)

    A kind for which the texts with a descriptor, or the corpora, are too few is left out, with a warning; a
    ``ValueError`` where no other kind is left, and for an unknown kind.
    """
    corpora, matrices = _by_corpus(texts, labels)
    counts = _counts(kinds, n)
    places = _places(subject, layers)
    rng = np.random.default_rng(seed)
    parts = {name: _parts(corpus, share, check, seed) for name, corpus in corpora.items()}
    train = table_of(corpora, matrices, {name: part[0] for name, part in parts.items()})
    units = trained(subject, train, counts, places, steps, blur, rng, progress)
    name = f"{subject.name}-planted{seed}"
    planted = Subject(name, widened(subject, units), subject.tokenizer, subject.revision)
    names, targets = _names(subject, units), [unit.target for unit in units]
    check_texts, held_out = (
        {n: corpora[n].where(text_id=ids(corpora[n], part[i])) for n, part in parts.items()} for i in (1, 2)
    )
    options = (matrices, targets, names, cache, progress)
    checked = _aurocs(planted, check_texts, *options)
    known = _known(targets, names, checked, _aurocs(planted, held_out, *options), minimum)
    settings = dict(share=share, check=check, blur=blur, steps=steps, seed=seed, minimum=minimum)
    kept = {n: matrices[n].loc[some.frame["text_id"], train.names] for n, some in held_out.items()}
    return Planted(planted, known, held_out, kept, settings)


def _parts(corpus: Texts, share: float, check: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows for training, for checking, and held out."""
    if not (share > 0 and check > 0 and share + check < 1):
        raise ValueError(f"share={share} and check={check}: parts of the texts, which leave some held out")
    groups = stats.usable_groups(corpus.documents)
    train, rest = stats.halves(len(corpus), share, seed, groups=groups)
    inside = stats.usable_groups(None if groups is None else groups[rest])
    checked, held_out = stats.halves(len(rest), check / (1 - share), seed, groups=inside)
    return train, rest[checked], rest[held_out]


# ---------------------------------------------------------------------------------- arguments


def _by_corpus(
    texts: Texts | Mapping[str, Texts], labels: pd.DataFrame | Mapping[str, pd.DataFrame]
) -> tuple[dict[str, Texts], dict[str, pd.DataFrame]]:
    """Both by corpus name; texts without labels, or names that differ: ``ValueError``."""
    if isinstance(texts, Mapping) != isinstance(labels, Mapping):
        raise ValueError("texts and labels: give both as one thing, or both by corpus name")
    if not isinstance(texts, Mapping):
        texts, labels = {texts.name: texts}, {texts.name: labels}
    if not texts or set(texts) != set(labels):
        raise ValueError(f"texts of {', '.join(texts)}, but labels of {', '.join(labels)}: name them alike")
    for name, corpus in texts.items():
        missing = ~corpus.frame["text_id"].isin(labels[name].index)
        if missing.any():
            first = corpus.frame["text_id"][missing].iloc[0]
            raise ValueError(f"labels of {name!r} lack {missing.sum()} texts, the first is text {first}")
    return dict(texts), dict(labels)


def _counts(kinds: str | Sequence[str] | Mapping[str, int], n: int) -> dict[str, int]:
    if isinstance(kinds, str):
        kinds = [kinds]
    counts = dict(kinds) if isinstance(kinds, Mapping) else dict.fromkeys(kinds, n)
    for kind, number in counts.items():
        if kind not in KINDS:
            raise ValueError(f"unknown kind {kind!r} of planted units; there are {', '.join(KINDS)}")
        if number < 1:
            raise ValueError(f"{number} units of kind {kind!r}: plant one at least, or leave the kind out")
    if not counts:
        raise ValueError(f"no kinds of units; there are {', '.join(KINDS)}")
    return counts


def _places(subject: Subject, layers: Iterable[int] | None) -> list[int]:
    config: Any = subject.model.config
    if config.model_type not in FIRST_MATRIX and not subject.gated:
        raise ValueError(
            f"no units can be planted in {subject.name}, of type {config.model_type!r};"
            f" types with a place for them: gated ones such as llama, {', '.join(FIRST_MATRIX)}"
        )
    if subject.dispatched:
        raise ValueError(f"no units can be planted in {subject.name}: load it without device_map")
    known = subject.sites.loc[subject.sites["kind"] == "ffn", "layer"].tolist()  # not those of experts
    places = known[1:] or known if layers is None else list(layers)
    if not places or not set(places) <= set(known):
        raise ValueError(
            f"layers={places}: {subject.name} has layers {known[0]} to {known[-1]}; name one at least"
        )
    return places


def _names(subject: Subject, units: list[Unit]) -> list[str]:
    """Unit names, behind the real units of their layer."""
    width = subject.sites[subject.sites["kind"] == "ffn"].set_index("layer")["width"].to_dict()
    names = []
    for unit in units:
        names.append(f"layer.{unit.layer}.ffn.{width[unit.layer]}")
        width[unit.layer] += 1
    return names


def _responses(
    subject: Subject,
    corpora: Mapping[str, Texts],
    units: list[str],
    cache: str | Path | bool | None,
    progress: bool,
) -> np.ndarray:
    """Activations [text, unit] on all texts, as a user of the kit would capture them.

    A text without tokens has no row there; it counts as the lowest activation.
    """
    parts = []
    for corpus in corpora.values():
        found = activations.capture(subject, corpus, sites="ffn", cache=cache, progress=progress)
        found = found.select(units=units)
        rows = pd.Index(corpus.frame["text_id"]).get_indexer(found.rows["text_id"])
        values = np.tile(found.values.min(0).astype(np.float32), (len(corpus), 1))
        values[rows] = found.values
        parts.append(values)
    return np.concatenate(parts)


def _aurocs(
    subject: Subject,
    corpora: Mapping[str, Texts],
    matrices: Mapping[str, pd.DataFrame],
    targets: list[Target],
    units: list[str],
    cache: str | Path | bool | None,
    progress: bool,
) -> np.ndarray:
    """AUROC, and that of the rival, of every claim [claim, 2] on the texts of ``corpora``."""
    values = _responses(subject, corpora, units, cache, progress)
    table = table_of(corpora, matrices, {name: np.arange(len(corpus)) for name, corpus in corpora.items()})
    columns = zip(targets, values.T, strict=True)
    return np.array([achieved_of(t, i, x, table) for t, x in columns for i in range(len(t.claims))])


def _known(
    targets: list[Target], units: list[str], checked: np.ndarray, held_out: np.ndarray, minimum: float
) -> pd.DataFrame:
    """The frame ``Planted.units``."""
    claims = [(u, t.kind, *claim) for u, t in zip(units, targets, strict=True) for claim in t.claims]
    known = pd.DataFrame(claims, columns=["unit", "kind", "descriptor", "corpus"], dtype=object)
    known[["check_auroc", "check_rival"]] = checked
    known[["achieved_auroc", "rival_auroc"]] = held_out
    faint = (known["kind"] == "dataset-local") | (known["descriptor"] == "corpus")
    needed = np.where(faint, min(minimum, FAINT), minimum)
    reached = (known["check_auroc"] >= needed) | (known["kind"] == "dead")
    reached &= ~(known["check_rival"] > known["check_auroc"] - MARGIN)
    known["planted"] = reached.groupby(known["unit"]).transform("all")
    return known
