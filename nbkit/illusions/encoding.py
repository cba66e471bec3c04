"""The same-encoding baseline: how large a gap do the corpora make by themselves?

Descriptors are not equally frequent in all corpora, nor equally correlated with each other, and scores depend
on both. So units that encode the same everywhere show a gap, too. This baseline makes such units out of the
very data at hand.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nbkit.illusions.corpora import Corpus


def same_encoding(corpora: Mapping[str, Corpus], seed: int = 0) -> dict[str, Corpus]:
    """The corpora with units that have one linear encoding of the descriptors in all of them.

    The weights of each unit are the least-squares fit over all corpora together, each around its own means;
    the labels are the real ones, and what the fit leaves is drawn at random, with replacement, from the texts
    of all corpora: whole documents, one after another, and all units of a text together.
    """
    labels = [_centred(corpus.labels) for corpus in corpora.values()]
    values = [_centred(np.asarray(corpus.values)) for corpus in corpora.values()]
    weights = np.linalg.lstsq(np.concatenate(labels), np.concatenate(values), rcond=None)[0]
    left = np.concatenate([x - y @ weights for x, y in zip(values, labels, strict=True)])
    documents = _documents(corpora.values())
    generator, made = np.random.default_rng(seed), {}
    for name, corpus in corpora.items():
        rows = _drawn(documents, len(corpus.labels), generator)
        made[name] = corpus._replace(values=corpus.labels.astype(np.float32) @ weights + left[rows])
    return made


def _centred(matrix: np.ndarray) -> np.ndarray:
    matrix = np.asarray(matrix, np.float32)
    return matrix - matrix.mean(0)


def _documents(corpora) -> list[np.ndarray]:
    """Rows, among those of all corpora, of each document; a text that has none is one."""
    found, start = [], 0
    for corpus in corpora:
        n = len(corpus.labels)
        groups = np.arange(n) if corpus.groups is None else corpus.groups
        order = np.argsort(groups, kind="stable")
        found += np.split(start + order, np.flatnonzero(np.diff(groups[order])) + 1)
        start += n
    return found


def _drawn(documents: list[np.ndarray], n: int, generator: np.random.Generator) -> np.ndarray:
    """``n`` rows of documents drawn with replacement."""
    rows: list[np.ndarray] = []
    while sum(map(len, rows)) < n:
        some = generator.integers(0, len(documents), max(1, n // 10))
        rows += [documents[i] for i in some]
    return np.concatenate(rows)[:n]
