"""Planted units: a real model with neurons whose meaning is known, to measure methods against.

    planted = plant(subject, texts, labels, n=20, seed=0)
    planted.subject      the same model with the planted units at its `layer.N.ffn` sites
    planted.truth        what each of them responds to, and how well, on held-out texts
    planted.held_out     {corpus: Texts} that no unit was trained on, and `.labels` for them

    acts = activations.capture(planted.subject, planted.held_out["email"])
    tags = matching.tag(acts, planted.labels["email"])
    evaluation.precision_at_k(tags, evaluation.truth_of(planted), 1)

There is no published benchmark of this kind that we know of: the method is ours. So are the kinds:

    pure            one descriptor
    polysemantic    fires for either of two descriptors
    dataset-local   descriptor A inside one corpus, B inside another: an illusion by construction
    distractor      the length of the text, or the corpus it is from; no descriptor is right, and in
                    training each is kept from correlating with any within texts of like length and corpus
    dead            constant

Where the units go. They are APPENDED to the feed-forward network of a layer, behind the real ones
("layer.3.ffn.1536" is the first one of layer 3 of minilm): a row of the first matrix detects, a column of
zeros in the second keeps it from being heard. So nothing else in the model changes (up to float rounding,
as a wider matrix product may add in another order), and all real units stay as rivals. Replacing real units
would not do: their contribution would be missing, and every later layer would change. A method that looks
at a unit's index could tell the planted ones; none that looks at activations can.

Dataset-local units are the hard ones: one direction has to know the corpus as well as the descriptor. Several
candidates are trained for each and judged by those of the training texts that they have not seen; the best
are trained three times, on different texts, and the mean is planted. They are still much fainter than the
others, the more alike the corpora, and which of them hold is for ``truth`` to say.

What a unit detects. A direction in the input of the feed-forward network, trained so that its MAXIMUM over
the tokens of a text (special tokens left out) tells the texts with the descriptor from those without:
multiple-instance logistic loss, both sides with equal weight, started from the difference of the class
means, some steps of Adam, all units of a layer at once. Its output passes the model's own nonlinearity.
Units with the same descriptor differ by layer and by the texts they were trained on. They are as single
and clear as units of real models are rarely; ``blur`` adds a random direction to each, which makes them
weaker. A method that fails here will not do better on real units; one that passes may still fail there.

Limits: capture with pool="max", for which they are made; models with shared blocks (ALBERT) and XLNet have
no place for them; a planted model is for use in memory (its configuration still names the old width).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from nbkit import activations, matching
from nbkit.models import ARCHITECTURES, Subject

if TYPE_CHECKING:
    from nbkit.texts import Texts

KINDS = ("pure", "polysemantic", "dataset-local", "distractor", "dead")

#: The first matrix of the feed-forward network, within a block, by `config.model_type`.
FIRST_MATRIX = {
    "bert": "intermediate.dense",
    "roberta": "intermediate.dense",
    "electra": "intermediate.dense",
    "mpnet": "intermediate.dense",
    "distilbert": "ffn.lin1",
    "gpt2": "mlp.c_fc",
}

MIN_POSITIVES = 10  # texts on either side that a unit needs in training
LOCAL_POSITIVES = 25  # the same inside each corpus, for a dataset-local unit
SEEN = 0.7  # share of the training texts that each unit sees, so that no two are alike
TRIES = 16  # dataset-local candidates trained for each that is kept, by the training texts they did not see
SHORTLIST = 3  # of these are trained in all rounds
ROUNDS = 3
FAINT = 0.7  # AUROC that a dataset-local unit and a corpus distractor need (or ``minimum``, if lower)
MARGIN = 0.1  # by which a dataset-local unit must prefer its own descriptor inside a corpus
NOTHING_ELSE = 30.0  # weight of a distractor's squared correlations with descriptors, beside its loss
BINS = 10  # quantile bins of length, within which they are counted
TEXTS_AT_ONCE = 64  # in one forward pass


@dataclass(frozen=True, repr=False)
class Planted:
    """A subject with planted units, and the truth about them.

    ``truth`` has one line for each unit and descriptor:

    unit, kind        "layer.3.ffn.1540", one of ``KINDS``
    descriptor        what it responds to; "length" or "corpus" for a distractor, None when dead
    corpus            inside which (dataset-local), which one (corpus distractor); else None: all
    achieved_auroc    on held-out texts: of the texts with the descriptor against those without; for a
                      polysemantic unit against the texts with neither; for a dataset-local unit inside
                      the corpus. NaN when dead
    rival_auroc       dataset-local only: of the unit's OTHER descriptor in the same corpus
    planted           whether ALL lines of the unit reach ``minimum``; dataset-local units and corpus
                      distractors must reach .7, the former .1 more than the rival. Only these units
                      count as truth; the others are here to be reported
    """

    subject: Subject
    truth: pd.DataFrame
    held_out: dict[str, Texts]
    labels: dict[str, pd.DataFrame]  # of the held-out texts
    settings: dict = field(default_factory=dict)

    def __repr__(self) -> str:
        units = self.truth.drop_duplicates("unit")
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
    minimum        AUROC on held-out texts from which a unit counts as planted
    share          of the texts of each corpus, for training; the others are ``held_out``
    blur           length of a random direction added to each detector, relative to the detector's (of a
                   dataset-local unit .6 of it is left in the mean of three)
    cache          where activations of the held-out texts are stored (see ``activations.capture``)

    Impossible requests (unknown kind, one corpus for dataset-local units, too few texts with a
    descriptor) are a ``ValueError``.
    """
    corpora, matrices = _by_corpus(texts, labels)
    counts = _counts(kinds, n)
    places = _places(subject, layers)
    rng = np.random.default_rng(seed)
    parts = {name: matching.halves(len(corpus), share, seed) for name, corpus in corpora.items()}
    train = _table(corpora, matrices, {name: part[0] for name, part in parts.items()})
    units = _trained(subject, train, counts, places, steps, blur, rng, progress)
    name = f"{subject.name}-planted{seed}"
    planted = Subject(name, _widened(subject.model, units), subject.tokenizer, subject.revision)
    names = _names(subject, units)
    rest = {name: corpora[name].where(text_id=_ids(corpora[name], part[1])) for name, part in parts.items()}
    seen = _responses(planted, rest, names, cache, progress)
    test = _table(rest, matrices, {name: np.arange(len(rest[name])) for name in rest})
    truth = _truth([unit.target for unit in units], names, seen, test, minimum)
    settings = dict(share=share, blur=blur, steps=steps, seed=seed, minimum=minimum)
    kept = {name: matrices[name].loc[rest[name].frame["text_id"], train.names] for name in rest}
    return Planted(planted, truth, rest, kept, settings)


# ---------------------------------------------------------------------------------- arguments


def _by_corpus(texts, labels) -> tuple[dict[str, Texts], dict[str, pd.DataFrame]]:
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
    if subject.model.config.model_type not in FIRST_MATRIX:
        raise ValueError(
            f"no units can be planted in {subject.name}, of type {subject.model.config.model_type!r};"
            f" types with a place for them: {', '.join(FIRST_MATRIX)}"
        )
    last = int(subject.sites["layer"].max())
    places = list(range(min(1, last), last + 1)) if layers is None else list(layers)
    wrong = [layer for layer in places if not 0 <= layer <= last]
    if wrong or not places:
        raise ValueError(f"layers={places}: {subject.name} has layers 0 to {last}; name one at least")
    return places


# ---------------------------------------------------------------------------------- what to plant


@dataclass(frozen=True)
class _Table:
    """Texts of all corpora, one after another."""

    texts: list[str]
    corpus: np.ndarray  # [text]
    labels: np.ndarray  # [text, descriptor], bool
    names: list[str]  # of the descriptors
    words: np.ndarray  # [text] how long it is

    def has(self, descriptor: str) -> np.ndarray:
        return self.labels[:, self.names.index(descriptor)]


@dataclass(frozen=True)
class _Target:
    """What a unit is to respond to: lines of ``truth``, and a cut where it is length (in words)."""

    kind: str
    claims: tuple[tuple[str | None, str | None], ...]  # (descriptor, corpus)
    cut: float = float("nan")

    def sides(self, table: _Table) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Groups of texts [text] to fire on, and to be silent on; each group weighs the same."""
        if self.kind == "dead":
            return [], []
        if self.kind == "distractor":
            ((what, corpus),) = self.claims
            inside = table.words > self.cut if what == "length" else table.corpus == corpus
            return [inside], [~inside]
        has = [table.has(descriptor) for descriptor, _ in self.claims]
        if self.kind != "dataset-local":
            return has, [~np.any(has, axis=0)]
        (a, b), (one, two) = has, [table.corpus == corpus for _, corpus in self.claims]
        # the other descriptor alone is what such a unit must not fire on: groups of their own
        return [one & a, two & b], [one & ~a, two & ~b, one & b & ~a, two & a & ~b]


def _table(corpora: Mapping, matrices: Mapping, rows: Mapping[str, np.ndarray]) -> _Table:
    first, *others = [list(matrix.columns) for matrix in matrices.values()]
    names = [name for name in first if all(name in other for other in others)]
    if not names:
        raise ValueError(f"no descriptor is in the labels of all corpora ({', '.join(matrices)})")
    texts, corpus, labels = [], [], []
    for name, part in corpora.items():
        frame = part.frame.iloc[rows[name]]
        texts += frame["text"].tolist()
        corpus += [name] * len(frame)
        labels.append(matrices[name].loc[frame["text_id"], names].to_numpy() > 0.5)
    words = np.array([len(text.split()) for text in texts])
    return _Table(texts, np.array(corpus), np.concatenate(labels), names, words)


def _targets(table: _Table, counts: dict[str, int], rng: np.random.Generator) -> list[_Target]:
    makers = {
        "pure": _pure,
        "polysemantic": _polysemantic,
        "dataset-local": _local,
        "distractor": _distractors,
        "dead": lambda table, n, rng: [_Target("dead", ((None, None),))] * n,
    }
    return [target for kind, n in counts.items() for target in makers[kind](table, n, rng)]


def _pure(table: _Table, n: int, rng: np.random.Generator) -> list[_Target]:
    usable = _usable(table, np.ones(len(table.corpus), dtype=bool))
    if not usable:
        raise ValueError(f"no descriptor is in (and absent from) {MIN_POSITIVES} of the training texts")
    return [_Target("pure", ((name, None),)) for name in _turns(usable, n, rng)]


def _polysemantic(table: _Table, n: int, rng: np.random.Generator) -> list[_Target]:
    usable = _usable(table, np.ones(len(table.corpus), dtype=bool))
    pairs = [(a, b) for i, a in enumerate(usable) for b in usable[:i] if _apart(table, a, b)]
    if not pairs:
        raise ValueError(f"polysemantic units need two descriptors with {MIN_POSITIVES} texts each")
    return [_Target("polysemantic", ((a, None), (b, None))) for a, b in _turns(pairs, n, rng)]


def _local(table: _Table, n: int, rng: np.random.Generator) -> list[_Target]:
    corpora = list(dict.fromkeys(table.corpus))
    usable = {name: _usable(table, table.corpus == name, LOCAL_POSITIVES) for name in corpora}
    choices = [
        ((a, one), (b, two))
        for one in corpora
        for two in corpora
        for a in usable[one]
        for b in usable[two]
        if one < two and a != b and a in usable[two] and b in usable[one] and _apart(table, a, b)
    ]
    if not choices:
        raise ValueError(
            "dataset-local units need two corpora that share two descriptors with"
            f" {LOCAL_POSITIVES} training texts each; there is {', '.join(corpora)}"
        )
    return [_Target("dataset-local", pair) for pair in _turns(choices, TRIES * n, rng)]


def _distractors(table: _Table, n: int, rng: np.random.Generator) -> list[_Target]:
    """Length and corpus in turn; only length when there is one corpus."""
    corpora = list(dict.fromkeys(table.corpus))
    found = []
    for i in range(n):
        if i % 2 and len(corpora) > 1:
            found.append(_Target("distractor", (("corpus", corpora[i // 2 % len(corpora)]),)))
        else:
            cut = float(np.quantile(table.words, rng.uniform(0.3, 0.7)))
            found.append(_Target("distractor", (("length", None),), cut))
    return found


def _usable(table: _Table, rows: np.ndarray, minimum: int = MIN_POSITIVES) -> list[str]:
    """Descriptors with enough texts on both sides among ``rows`` [text]."""
    present = table.labels[rows].sum(0)
    enough = np.minimum(present, rows.sum() - present) >= minimum
    return [name for name, good in zip(table.names, enough, strict=True) if good]


def _apart(table: _Table, a: str, b: str) -> bool:
    """Whether each is often enough without the other for a unit to be told to tell them apart."""
    a, b = table.has(a), table.has(b)
    return min((a & ~b).sum(), (b & ~a).sum()) >= MIN_POSITIVES


def _turns(choices: list, n: int, rng: np.random.Generator) -> list:
    """``n`` of the choices in random order, all once before any twice."""
    order = rng.permutation(len(choices))
    return [choices[order[i % len(order)]] for i in range(n)]


# ---------------------------------------------------------------------------------- training


@dataclass(frozen=True)
class _Unit:
    """A trained detector."""

    target: _Target
    layer: int
    direction: torch.Tensor  # [width]
    bias: torch.Tensor  # []
    margin: float  # dataset-local: how far above what it needs, on training texts it did not see; else 0


def _trained(
    subject: Subject,
    table: _Table,
    counts: Mapping[str, int],
    places: list[int],
    steps: int,
    blur: float,
    rng: np.random.Generator,
    progress: bool,
) -> list[_Unit]:
    """As many units of each kind as asked for; candidates are spread over the layers in turn.

    The best dataset-local candidates are trained again, on other texts. What is kept is the mean: it errs
    less than any, and several margins on different texts are less luck than one.
    """
    targets = _targets(table, counts, rng)
    work = [(target, places[i % len(places)]) for i, target in enumerate(targets)]
    tokens = _token_inputs(subject, table.texts, sorted({layer for _, layer in work}), progress)
    units = _fitted(tokens, table, work, steps, blur, rng, progress)
    sure = [unit for unit in units if unit.target.kind != "dataset-local"]
    first = _best(units, {"dataset-local": SHORTLIST * counts.get("dataset-local", 0)})
    again = [(unit.target, unit.layer) for unit in first]
    rounds = [_fitted(tokens, table, again, steps, blur, rng, progress) for _ in range(ROUNDS - 1)]
    return _best(sure + [_mean(units) for units in zip(first, *rounds, strict=True)], counts)


def _fitted(
    tokens: Mapping[int, tuple[torch.Tensor, torch.Tensor]],
    table: _Table,
    work: list[tuple[_Target, int]],
    steps: int,
    blur: float,
    rng: np.random.Generator,
    progress: bool,
) -> list[_Unit]:
    """A unit for each target and layer, in the order given; all of a layer are trained at once."""
    units: dict[int, _Unit] = {}
    layers = sorted({layer for _, layer in work})
    for layer in tqdm(layers, desc="plant", unit=" layers", leave=False, disable=not progress):
        mine = [i for i, (_, where) in enumerate(work) if where == layer]
        targets, (inputs, lengths) = [work[i][0] for i in mine], tokens[layer]
        weights, seen = _weights(targets, table, rng)
        others = _Others.of(targets, table)
        directions, bias = _detectors(inputs, lengths, weights, others, steps, blur, rng)
        peaks = torch.segment_reduce(inputs.float() @ directions.T, "max", lengths=lengths, axis=0).numpy()
        parts = zip(mine, targets, directions, bias, peaks.T, seen.T, strict=True)
        for i, target, direction, threshold, column, known in parts:
            units[i] = _Unit(target, layer, direction, threshold, _margin(target, column, table, ~known))
    return [units[i] for i in range(len(work))]


def _mean(units: Sequence[_Unit]) -> _Unit:
    """Of units with one target and layer, trained on different texts."""
    direction, bias = (
        torch.stack([getattr(u, name) for u in units]).mean(0) for name in ("direction", "bias")
    )
    return replace(units[0], direction=direction, bias=bias, margin=float(np.mean([u.margin for u in units])))


def _margin(target: _Target, column: np.ndarray, table: _Table, rows: np.ndarray) -> float:
    """How far a dataset-local unit is above what it needs, judged on ``rows``; -inf where they cannot say."""
    if target.kind != "dataset-local":
        return 0.0
    both = [_achieved(target, i, column, table, rows) for i in range(len(target.claims))]
    return min(min(np.nan_to_num([own - FAINT, own - rival - MARGIN], nan=-np.inf)) for own, rival in both)


def _best(units: list[_Unit], counts: Mapping[str, int]) -> list[_Unit]:
    """As many of each kind as were asked for, those with the largest margin."""
    kept = []
    for kind, n in counts.items():
        mine = [unit for unit in units if unit.target.kind == kind]
        kept += sorted(mine, key=lambda unit: -unit.margin)[:n]  # stable: in order where all are 0
    return kept


def _weights(
    targets: list[_Target], table: _Table, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """[text, unit]: above 0 where the unit is to fire, below where not; each side sums to 1 or -1.

    And which texts [text, unit] the unit may see.
    """
    weights = np.zeros((len(table.corpus), len(targets)), dtype=np.float32)
    every = np.zeros(weights.shape, dtype=bool)
    for unit, target in enumerate(targets):
        seen = every[:, unit] = rng.random(len(weights)) < SEEN
        for sign, groups in zip((1, -1), target.sides(table), strict=True):
            groups = [g & seen if (g & seen).any() else g for g in groups if g.any()]
            for group in groups:
                weights[group, unit] += sign / group.sum() / len(groups)
    return weights, every


@dataclass(frozen=True)
class _Others:
    """The descriptors that distractors must not carry, within cells of like length and the same corpus."""

    units: torch.Tensor  # [distractor] positions among the units
    labels: torch.Tensor  # [text, descriptor] centred in each cell, columns of length 1
    cells: torch.Tensor  # [text]

    @classmethod
    def of(cls, targets: list[_Target], table: _Table) -> _Others:
        keys = pd.DataFrame({"corpus": table.corpus, "words": table.words})
        keys["words"] = pd.qcut(keys["words"], BINS, labels=False, duplicates="drop")
        cells = torch.tensor(keys.groupby(["corpus", "words"]).ngroup().to_numpy())
        labels = _centred(torch.from_numpy(table.labels.astype(np.float32)), cells)
        units = [i for i, target in enumerate(targets) if target.kind == "distractor"]
        return cls(torch.tensor(units, dtype=torch.long), labels / (labels.norm(dim=0) + 1e-6), cells)

    def carried(self, peaks: torch.Tensor) -> torch.Tensor:
        """Sum over distractors and descriptors of the squared correlation within cells."""
        if not len(self.units):
            return peaks.new_zeros(())
        left = _centred(peaks[:, self.units], self.cells)
        return ((self.labels.T @ left) / (left.norm(dim=0) + 1e-6)).square().sum()


def _centred(columns: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """``columns`` [text, .] less their means in each cell."""
    sums = columns.new_zeros(int(cells.max()) + 1, columns.shape[1]).index_add(0, cells, columns)
    return columns - (sums / torch.bincount(cells).clamp(min=1)[:, None])[cells]


def _detectors(
    tokens: torch.Tensor,
    lengths: torch.Tensor,
    weights: np.ndarray,
    others: _Others,
    steps: int,
    blur: float,
    rng: np.random.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Directions [unit, width] and biases [unit]; zeros for a unit without weights (dead).

    tokens   [token, width] of all texts, text after text
    lengths  [text] tokens of each
    """
    weights = torch.from_numpy(weights)
    centre, scale = tokens.float().mean(0), tokens.float().std(0) + 1e-6
    inputs = (tokens.float() - centre) / scale  # so that one learning rate serves all dimensions
    alive = (weights != 0).any(0)
    means = torch.segment_reduce(inputs, "mean", lengths=lengths, axis=0)  # [text, width]
    directions = means.T @ weights  # [width, unit] difference of the class means
    directions /= directions.norm(dim=0) + 1e-12
    peaks = torch.segment_reduce(inputs @ directions, "max", lengths=lengths, axis=0)
    directions *= 2 / (peaks.std(0) + 1e-6)
    bias = -torch.segment_reduce(inputs @ directions, "max", lengths=lengths, axis=0).mean(0)
    directions, bias = _descend(inputs, lengths, weights, others, directions, bias, steps)
    noise = torch.from_numpy(rng.standard_normal(directions.shape).astype(np.float32))
    directions = directions + blur * noise * directions.norm(dim=0) / noise.norm(dim=0)
    directions = directions / scale[:, None]
    return directions.T * alive[:, None], (bias - centre @ directions) * alive


def _descend(
    inputs, lengths, weights, others: _Others, directions, bias, steps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Adam on the logistic loss of each text's highest token; units do not see each other."""
    directions, bias = directions.clone().requires_grad_(), bias.clone().requires_grad_()
    optimizer = torch.optim.Adam([directions, bias], lr=0.05)
    with torch.enable_grad():
        for _ in range(steps):
            peaks = torch.segment_reduce(inputs @ directions, "max", lengths=lengths, axis=0) + bias
            loss = (weights.abs() * torch.nn.functional.softplus(-weights.sign() * peaks)).sum()
            loss = loss + NOTHING_ELSE * others.carried(peaks)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return directions.detach(), bias.detach()


def _token_inputs(
    subject: Subject, texts: list[str], layers: list[int], progress: bool
) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    """What enters the feed-forward network of each layer: float16 [token, width], and tokens a text.

    Special tokens are left out, and texts without any other token count one token of zeros.
    """
    parts: dict[int, dict[int, torch.Tensor]] = {layer: {} for layer in layers}
    order = np.argsort([len(text) for text in texts], kind="stable")  # like lengths: little padding
    firsts = [_matrices(subject.model, layer)[0] for layer in layers]
    starts = range(0, len(texts), TEXTS_AT_ONCE)
    with _inputs_of(firsts) as seen:
        for start in tqdm(starts, desc="tokens", unit=" batches", leave=False, disable=not progress):
            some = order[start : start + TEXTS_AT_ONCE]
            batch = subject.tokenizer(
                [texts[i] for i in some],
                padding=True,
                truncation=subject.max_length is not None,
                max_length=subject.max_length,
                return_special_tokens_mask=True,
                return_tensors="pt",
            )
            own = (batch["special_tokens_mask"] == 0) & (batch["attention_mask"] == 1)
            subject.run(batch, f"layer.{max(layers)}.ffn")
            for layer, first in zip(layers, firsts, strict=True):
                found = seen[first].half().cpu()
                for i, tokens, mine in zip(some, found, own, strict=True):
                    parts[layer][i] = tokens[mine] if mine.any() else torch.zeros_like(tokens[:1])
    lengths = torch.tensor([len(parts[layers[0]][i]) for i in range(len(texts))])
    return {
        layer: (torch.cat([found[i] for i in range(len(texts))]), lengths) for layer, found in parts.items()
    }


class _inputs_of:
    """``with _inputs_of(modules) as seen``: seen[module] is what entered it last."""

    def __init__(self, modules: list[torch.nn.Module]):
        self.modules, self.seen, self.hooks = modules, {}, []

    def __enter__(self) -> dict[torch.nn.Module, torch.Tensor]:
        keep = lambda module, args: self.seen.__setitem__(module, args[0])  # noqa: E731
        self.hooks = [module.register_forward_pre_hook(keep) for module in self.modules]
        return self.seen

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()


# ---------------------------------------------------------------------------------- the wider model


def _matrices(model: torch.nn.Module, layer: int) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The first and the second matrix of a layer's feed-forward network."""
    kind = model.config.model_type
    block = model.base_model.get_submodule(ARCHITECTURES[kind].blocks)[layer]
    return block.get_submodule(FIRST_MATRIX[kind]), block.get_submodule(ARCHITECTURES[kind].ffn)


def _widened(model: torch.nn.Module, units: list[_Unit]) -> torch.nn.Module:
    """A copy with a row and a bias more for each unit, whose outputs nobody reads."""
    model = copy.deepcopy(model)
    for layer in {unit.layer for unit in units}:
        mine = [unit for unit in units if unit.layer == layer]
        first, second = _matrices(model, layer)
        rows = torch.stack([unit.direction for unit in mine]).to(first.weight)
        unread = torch.zeros(len(mine), model.config.hidden_size).to(second.weight)
        if isinstance(first, torch.nn.Linear):
            _set(first, "weight", torch.cat([first.weight, rows]))
            _set(second, "weight", torch.cat([second.weight, unread.T], dim=1))
            first.out_features, second.in_features = len(first.weight), second.weight.shape[1]
        else:  # GPT-2's Conv1D keeps its weight as [in, out]
            _set(first, "weight", torch.cat([first.weight, rows.T], dim=1))
            _set(second, "weight", torch.cat([second.weight, unread]))
            first.nf, second.nx = first.weight.shape[1], len(second.weight)
        _set(first, "bias", torch.cat([first.bias, torch.stack([u.bias for u in mine]).to(first.bias)]))
    return model


def _set(module: torch.nn.Module, name: str, value: torch.Tensor) -> None:
    setattr(module, name, torch.nn.Parameter(value.detach().contiguous(), requires_grad=False))


def _names(subject: Subject, units: list[_Unit]) -> list[str]:
    """Unit names, behind the real units of their layer."""
    width = subject.sites[subject.sites["kind"] == "ffn"].set_index("layer")["width"].to_dict()
    names = []
    for unit in units:
        names.append(f"layer.{unit.layer}.ffn.{width[unit.layer]}")
        width[unit.layer] += 1
    return names


# ---------------------------------------------------------------------------------- what it came to


def _ids(corpus: Texts, rows: np.ndarray) -> list[int]:
    return corpus.frame["text_id"].iloc[rows].tolist()


def _responses(subject: Subject, corpora: Mapping, units: list[str], cache, progress: bool) -> np.ndarray:
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


def _truth(
    targets: list[_Target], units: list[str], values: np.ndarray, table: _Table, minimum: float
) -> pd.DataFrame:
    lines = []
    for target, unit, column in zip(targets, units, values.T, strict=True):
        for i, (descriptor, corpus) in enumerate(target.claims):
            achieved, rival = _achieved(target, i, column, table)
            lines.append((unit, target.kind, descriptor, corpus, achieved, rival))
    names = ["unit", "kind", "descriptor", "corpus", "achieved_auroc", "rival_auroc"]
    truth = pd.DataFrame(lines, columns=names).astype({"descriptor": object, "corpus": object})
    faint = (truth["kind"] == "dataset-local") | (truth["descriptor"] == "corpus")
    needed = np.where(faint, min(minimum, FAINT), minimum)
    reached = (truth["achieved_auroc"] >= needed) | (truth["kind"] == "dead")
    reached &= ~(truth["rival_auroc"] > truth["achieved_auroc"] - MARGIN)
    truth["planted"] = reached.groupby(truth["unit"]).transform("all")
    return truth


def _achieved(
    target: _Target, i: int, column: np.ndarray, table: _Table, rows: np.ndarray | None = None
) -> tuple[float, float]:
    """AUROC of the i-th claim on ``column`` [text], and of the rival where there is one.

    A dataset-local one may be judged on some ``rows`` [text] only.
    """
    if target.kind == "dead":
        return float("nan"), float("nan")
    if target.kind != "dataset-local":
        fire, silent = target.sides(table)
        return _auroc(column, fire[i], silent[0]), float("nan")
    inside = table.corpus == target.claims[i][1]
    inside = inside if rows is None else inside & rows
    own, other = (table.has(target.claims[j][0]) for j in (i, 1 - i))
    return _auroc(column, inside & own, inside & ~own), _auroc(column, inside & other, inside & ~other)


def _auroc(column: np.ndarray, present: np.ndarray, absent: np.ndarray) -> float:
    """Of ``column`` [text] for the texts ``present`` against ``absent``; NaN when a side is empty."""
    if not present.any() or not absent.any():
        return float("nan")
    rows = present | absent
    return float(matching.auroc(column[rows, None], present[rows, None].astype(np.float32))[0, 0])
