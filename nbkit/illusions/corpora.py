"""What the corpora of a comparison must have in common: units, rows with labels, descriptors, covariates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from nbkit import matching, stats
from nbkit.activations import Activations

Groups = Mapping[str, pd.Series | bool] | bool


@dataclass(frozen=True)
class Columns:
    """Some rows of a matrix [row, unit] that is too large to copy: ``[:, units]`` reads some columns."""

    matrix: np.ndarray
    rows: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.rows), self.matrix.shape[1]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, where: tuple) -> np.ndarray:
        return np.take(self.matrix[where].T, self.rows, axis=-1).T  # stores lie unit after unit


class Corpus(NamedTuple):
    """The matrices of one corpus, their rows aligned."""

    values: np.ndarray | Columns  # activations [text, unit]
    labels: np.ndarray  # [text, descriptor]
    groups: np.ndarray | None = None  # [text] number of its document; None: texts are independent
    covariates: pd.DataFrame | None = None  # [text, .]

    @property
    def n_groups(self) -> int:
        """Documents, or texts where none are known: what counts as independent."""
        return len(self.labels) if self.groups is None else len(np.unique(self.groups))

    def half(self, rows: np.ndarray) -> Corpus:
        """The texts at these rows."""
        groups = None if self.groups is None else self.groups[rows]
        covariates = None if self.covariates is None else self.covariates.iloc[rows]
        values = self.values
        if isinstance(values, Columns):
            values = Columns(values.matrix, values.rows[rows])
        else:
            values = Columns(values, rows)
        return Corpus(values, self.labels[rows], groups, covariates)

    def some(self, units: np.ndarray) -> Corpus:
        """Of some of the units, in memory."""
        return self._replace(values=np.asarray(self.values[:, units]))

    def halves(self, seed: int) -> tuple[Corpus, Corpus]:
        """Two halves at random; whole documents on one side."""
        one, two = stats.halves(len(self.labels), 0.5, seed, groups=self.groups)
        return self.half(one), self.half(two)


def aligned(
    activations_by_corpus: Mapping[str, Activations], labels_by_corpus: Mapping[str, pd.DataFrame]
) -> dict[str, pd.DataFrame]:
    """Labels of each corpus in the order of the activations' rows.

    Raises ``ValueError`` for fewer than two corpora, a corpus without labels, different units, or rows
    without labels.
    """
    if len(activations_by_corpus) < 2:
        raise ValueError(f"{len(activations_by_corpus)} corpus: a comparison needs two or more")
    missing = set(activations_by_corpus) - set(labels_by_corpus)
    if missing:
        raise ValueError(f"no labels for the corpus {sorted(missing)[0]!r}")
    first_name, first = next(iter(activations_by_corpus.items()))
    for name, stored in activations_by_corpus.items():
        if stored.units["unit"].tolist() != first.units["unit"].tolist():
            raise ValueError(f"{name!r} and {first_name!r} hold different units: capture the same sites")
    return {
        name: matching.align(stored, labels_by_corpus[name]) for name, stored in activations_by_corpus.items()
    }


def shared_descriptors(labels: Mapping[str, pd.DataFrame], min_positives: float) -> list[str]:
    """Descriptors whose labels sum to ``min_positives`` or more in every corpus, and so do their complements.

    Nothing can be said of a descriptor on a corpus that lacks it. None in common: ``ValueError``.
    """
    enough = []
    for frame in labels.values():
        total = frame.sum()
        enough.append(set(total.index[(total >= min_positives) & (total <= len(frame) - min_positives)]))
    shared = set.intersection(*enough)
    if not shared:
        raise ValueError(
            f"the corpora {', '.join(labels)} share no descriptor with {min_positives:g} positive and"
            " negative texts in each: label them with one vocabulary, or lower min_positives"
        )
    first = next(iter(labels.values()))
    return [name for name in first.columns if name in shared]


def gathered(
    stored: Mapping[str, Activations],
    labels: Mapping[str, np.ndarray],
    covariates: Mapping[str, pd.DataFrame] | None = None,
    groups: Groups = True,
) -> dict[str, Corpus]:
    """The matrices of every corpus, activations without what the covariates explain.

    labels      {corpus: [text, descriptor]} in the order of the rows
    covariates  {corpus: frame by text_id}
    groups      as for ``compare``
    """
    covered, found = covariates_of(stored, covariates), {}
    for name, a in stored.items():
        codes = groups_of(name, a, groups)
        if covered is None:
            found[name] = Corpus(a.values, labels[name], codes)
        else:
            values = matching.residuals(a.values, covered[name])
            found[name] = Corpus(values, labels[name], codes, covered[name])
    return found


def groups_of(name: str, stored: Activations, groups: Groups = True) -> np.ndarray | None:
    """Document of each row of a corpus as a number from 0; None where texts count as independent.

    A text without a group in a series that was given, or fewer than four groups in it:
    ``ValueError``.
    """
    given = groups if isinstance(groups, bool) else groups.get(name, True)
    rows = stored.rows
    if isinstance(given, bool):
        found = stats.usable_groups(rows["document"]) if given and "document" in rows else None
        return None if found is None else pd.factorize(found)[0]
    missing = ~rows["text_id"].isin(given.index)
    if missing.any():
        first = rows["text_id"][missing].iloc[0]
        raise ValueError(f"groups lack {missing.sum()} texts of {name!r}, the first is text {first}")
    codes, known = pd.factorize(given.loc[rows["text_id"]])
    if (codes < 0).any() or stats.usable_groups(codes) is None:
        raise ValueError(
            f"{name!r} has {len(known)} groups, and {(codes < 0).sum()} texts without one: halves of whole"
            f" groups need 4. Take more documents, or set groups[{name!r}] = False and"
            " say that texts count as independent"
        )
    return codes


def covariates_of(
    stored: Mapping[str, Activations], covariates: Mapping[str, pd.DataFrame] | None
) -> dict[str, pd.DataFrame] | None:
    """Covariates of each corpus in the order of its rows; a text without any is a ``ValueError``."""
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
