"""What to plant: which texts each unit is to fire on, drawn from the labels, and how well it does."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from nbkit import matching
from nbkit.texts import Texts

MIN_POSITIVES = 10  # texts on either side that a unit needs in training
LOCAL_POSITIVES = 25  # the same inside each corpus, for a dataset-local unit
TRIES = 16  # dataset-local candidates trained for each that is kept, by the training texts they did not see
SEEN = 0.7  # share of the training texts that each unit sees, so that no two are alike


# ---------------------------------------------------------------------------------- what to plant


@dataclass(frozen=True)
class Table:
    """Texts of all corpora, one after another."""

    texts: list[str]
    corpus: np.ndarray  # [text]
    labels: np.ndarray  # [text, descriptor], bool
    names: list[str]  # of the descriptors
    words: np.ndarray  # [text] how long it is

    def has(self, descriptor: str | None) -> np.ndarray:
        """Which texts have it [text]; None: no text does."""
        if descriptor is None:
            return np.zeros(len(self.texts), dtype=bool)
        return self.labels[:, self.names.index(descriptor)]


@dataclass(frozen=True)
class Target:
    """What a unit is to respond to: its claims, and a cut where it is length (in words)."""

    kind: str
    claims: tuple[tuple[str | None, str | None], ...]  # (descriptor, corpus)
    cut: float = float("nan")

    def sides(self, table: Table) -> tuple[list[np.ndarray], list[np.ndarray]]:
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


def table_of(
    corpora: Mapping[str, Texts], matrices: Mapping[str, pd.DataFrame], rows: Mapping[str, np.ndarray]
) -> Table:
    """The chosen ``rows`` of all corpora as one table, with the descriptors that every label matrix has."""
    first, *others = [list(matrix.columns) for matrix in matrices.values()]
    names = [name for name in first if all(name in other for other in others)]
    if not names:
        raise ValueError(f"no descriptor is in the labels of all corpora ({', '.join(matrices)})")
    texts, corpus, labels, words = [], [], [], []
    for name, part in corpora.items():
        frame = part.frame.iloc[rows[name]]
        texts += frame["text"].tolist()
        corpus += [name] * len(frame)
        labels.append(matrices[name].loc[frame["text_id"], names].to_numpy() > 0.5)
        words.append(part.lengths.iloc[rows[name]].to_numpy())
    return Table(texts, np.array(corpus), np.concatenate(labels), names, np.concatenate(words))


def targets_of(table: Table, counts: Mapping[str, int], rng: np.random.Generator) -> list[Target]:
    """As many targets of each kind as ``counts`` says. A kind that the labels do not allow is a warning, and
    a ``ValueError`` where no other kind is left."""
    makers = {
        "pure": _pure,
        "polysemantic": _polysemantic,
        "dataset-local": _local,
        "distractor": _distractors,
        "dead": lambda table, n, rng: [Target("dead", ((None, None),))] * n,
    }
    found, impossible = [], []
    for kind, n in counts.items():
        try:
            found += makers[kind](table, n, rng)
        except ValueError as error:
            impossible.append(str(error))
    if impossible and not found:
        raise ValueError("; ".join(impossible))
    for why in impossible:
        warnings.warn(f"not planted: {why}", stacklevel=2)
    return found


def _pure(table: Table, n: int, rng: np.random.Generator) -> list[Target]:
    usable = _usable(table, np.ones(len(table.corpus), dtype=bool))
    if not usable:
        raise ValueError(f"no descriptor is in (and absent from) {MIN_POSITIVES} of the training texts")
    return [Target("pure", ((name, None),)) for name in _turns(usable, n, rng)]


def _polysemantic(table: Table, n: int, rng: np.random.Generator) -> list[Target]:
    usable = _usable(table, np.ones(len(table.corpus), dtype=bool))
    pairs = [(a, b) for i, a in enumerate(usable) for b in usable[:i] if _apart(table, a, b)]
    if not pairs:
        raise ValueError(f"polysemantic units need two descriptors with {MIN_POSITIVES} texts each")
    return [Target("polysemantic", ((a, None), (b, None))) for a, b in _turns(pairs, n, rng)]


def _local(table: Table, n: int, rng: np.random.Generator) -> list[Target]:
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
    return [Target("dataset-local", pair) for pair in _turns(choices, TRIES * n, rng)]


def _distractors(table: Table, n: int, rng: np.random.Generator) -> list[Target]:
    """Length and corpus in turn; only length when there is one corpus."""
    corpora = list(dict.fromkeys(table.corpus))
    found = []
    for i in range(n):
        if i % 2 and len(corpora) > 1:
            found.append(Target("distractor", (("corpus", corpora[i // 2 % len(corpora)]),)))
        else:
            cut = float(np.quantile(table.words, rng.uniform(0.3, 0.7)))
            found.append(Target("distractor", (("length", None),), cut))
    return found


def _usable(table: Table, rows: np.ndarray, minimum: int = MIN_POSITIVES) -> list[str]:
    """Descriptors with enough texts on both sides among ``rows`` [text]."""
    present = table.labels[rows].sum(0)
    enough = np.minimum(present, rows.sum() - present) >= minimum
    return [name for name, good in zip(table.names, enough, strict=True) if good]


def _apart(table: Table, a: str, b: str) -> bool:
    """Whether each is often enough without the other for a unit to be told to tell them apart."""
    one, other = table.has(a), table.has(b)
    return min((one & ~other).sum(), (other & ~one).sum()) >= MIN_POSITIVES


def _turns(choices: list, n: int, rng: np.random.Generator) -> list:
    """``n`` of the choices in random order, all once before any twice."""
    order = rng.permutation(len(choices))
    return [choices[order[i % len(order)]] for i in range(n)]


# ---------------------------------------------------------------------------------- what it came to


def ids(corpus: Texts, rows: np.ndarray) -> list[int]:
    """The text_id of each of the ``rows`` (positions)."""
    return corpus.frame["text_id"].iloc[rows].tolist()


def achieved_of(
    target: Target, i: int, column: np.ndarray, table: Table, rows: np.ndarray | None = None
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
