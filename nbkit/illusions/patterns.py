"""Patterns: do a unit's top texts have more in common than texts drawn at random?

A measure of coherence takes the place of people. It is a function of sets [k, set], rows of the texts in
them, to numbers [set]; higher is more coherent. A set has a pattern if it is more coherent than random sets
of as many texts of the same corpus; random sets tested like units have one in ``alpha`` of the cases.

    measures = {name: enrichment(labels[name]) for name in labels}      or mean_cosine(vectors[name])
    pattern_rate(values_by_corpus, measures)     frame: share of the sets with a pattern, by kind
    patterns(values, measure)                    frame: coherence, p and q of every unit of one corpus
    enriched(labels, sets)                       z [descriptor, set]: what a set has in common
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from nbkit.stats import q_values, random_directions, top_texts

Measure = Callable[[np.ndarray], np.ndarray]  # sets [k, set] -> coherence [set]


def pattern_rate(
    values_by_corpus: Mapping[str, np.ndarray],
    measures: Mapping[str, Measure],
    *,
    k: int = 10,
    directions: int = 1000,
    sets: int = 1000,
    further: Mapping[str, Mapping[str, np.ndarray]] | None = None,
    draws: int = 10_000,
    alpha: float = 0.05,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """How many top sets have a pattern: of units, of random directions, of texts drawn at random.

    values_by_corpus  {corpus: [text, unit]}
    measures          {corpus: measure} for the same texts
    k                 texts in a set
    directions, sets  how many random directions and random sets are tested
    further           more kinds beside the units: {kind: {corpus: [text, direction]}} such as probe
                      directions or principal components
    draws             random sets that make the null of a corpus, the same for all its kinds
    alpha             of the test

    A frame with corpus, kind, sets, share (of the sets with p <= alpha), share_fdr (with q <= alpha,
    Benjamini-Hochberg over the sets of the kind) and coherence (the median), beside expected (that of the
    random draws). A corpus without a measure is a ``ValueError``.
    """
    missing = set(values_by_corpus) - set(measures)
    if missing:
        raise ValueError(f"no measure of coherence for the corpus {sorted(missing)[0]!r}")
    kinds = {
        "units": values_by_corpus,
        "random directions": random_directions(values_by_corpus, directions, seed),
        **(further or {}),
    }
    generator, lines = np.random.default_rng(seed), []
    for corpus in tqdm(values_by_corpus, desc="coherence", leave=False, disable=not progress):
        n, measure = len(values_by_corpus[corpus]), measures[corpus]
        null = measure(random_sets(n, draws, k, generator))
        tops = {kind: top_texts(values[corpus], k) for kind, values in kinds.items()}
        tops["random sets"] = random_sets(n, sets, k, generator)
        for kind, top in tops.items():
            found = _tested(measure(top), null, generator)
            shares = {"share": (found["p"] <= alpha).mean(), "share_fdr": (found["q"] <= alpha).mean()}
            middle = {"coherence": found["coherence"].median(), "expected": np.median(null)}
            lines.append({"corpus": corpus, "kind": kind, "sets": len(found), **shares, **middle})
    return pd.DataFrame(lines)


def patterns(
    values: np.ndarray, measure: Measure, *, k: int = 10, draws: int = 10_000, seed: int = 0
) -> pd.DataFrame:
    """The test of every unit of ``values`` [text, unit]: coherence of its top ``k`` texts, p, q.

    p  (1 + random sets that are more coherent + a random part of those that are as coherent) /
       (1 + ``draws``): exact also where few descriptors make many ties
    q  Benjamini-Hochberg over the units
    """
    generator = np.random.default_rng(seed)
    null = measure(random_sets(len(values), draws, k, generator))
    return _tested(measure(top_texts(values, k)), null, generator)


def mean_cosine(vectors: np.ndarray) -> Measure:
    """Mean cosine over the pairs of a set; ``vectors`` [text, d]. A text of length 0 has cosine 0.

    Take vectors of another encoder than the subject, whose own space puts its top texts together.
    """
    x = np.asarray(vectors, dtype=np.float32)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    x = np.divide(x, length, out=np.zeros_like(x), where=length > 0)
    own = (x * x).sum(1)  # 1, or 0 for a text of length 0

    def measure(sets: np.ndarray) -> np.ndarray:
        total, alone = np.zeros((sets.shape[1], x.shape[1]), np.float32), np.zeros(sets.shape[1])
        for rows in sets:  # |sum|^2 = the k texts with themselves + every pair twice
            total += x[rows]
            alone += own[rows]
        k = len(sets)
        return ((total * total).sum(1) - alone) / (k * (k - 1))

    return measure


def enrichment(labels: pd.DataFrame | np.ndarray, *, min_positives: float = 5) -> Measure:
    """How far the most over-represented descriptor of a set is above its share of the corpus.

    The largest z of ``enriched`` over the descriptors; 0 where none is frequent enough.
    """
    return lambda sets: enriched(labels, sets, min_positives=min_positives).max(0, initial=0.0)


def enriched(labels: pd.DataFrame | np.ndarray, sets: np.ndarray, *, min_positives: float = 5) -> np.ndarray:
    """How far the mean label of a set is above that of the corpus: z [descriptor, set].

    z is in standard errors of the mean of k texts drawn without replacement, labels being probabilities.
    A descriptor whose labels, or their complements, sum to less than ``min_positives`` gets -inf: one
    text that has it would be far out, and mean nothing.
    """
    y = np.asarray(labels, dtype=np.float64)
    n, k = len(y), len(sets)
    if not 0 < k < n:
        raise ValueError(f"sets of {k} texts from a corpus of {n}")
    mean = y.mean(0)
    error = np.sqrt(y.var(0) / k * (n - k) / (n - 1))
    known = (np.minimum(mean, 1 - mean) * n >= min_positives) & (error > 0)
    z = np.full((y.shape[1], sets.shape[1]), -np.inf)
    z[known] = ((_set_means(y[:, known], sets) - mean[known]) / error[known]).T
    return z


def random_sets(n: int, sets: int, k: int, generator: np.random.Generator) -> np.ndarray:
    """Rows [k, set]: ``k`` different ones of ``n`` texts in each set."""
    if not 1 <= k <= n:
        raise ValueError(f"k={k} texts were asked for; there are {n}")
    drawn = generator.integers(0, n, (k, sets))
    while True:  # sets with a text twice are drawn again, so that all sets stay equally likely
        ordered = np.sort(drawn, axis=0)
        twice = np.flatnonzero((ordered[1:] == ordered[:-1]).any(0))
        if not len(twice):
            return drawn
        if 4 * k * k > n:  # most would have one: shuffle instead
            parts = [generator.permutation(n)[:k] for _ in twice]
            drawn[:, twice] = np.stack(parts, axis=1)
        else:
            drawn[:, twice] = generator.integers(0, n, (k, len(twice)))


# ---------------------------------------------------------------------------------- inside


def _set_means(labels: np.ndarray, sets: np.ndarray) -> np.ndarray:
    """Mean label [set, descriptor] over the texts of each set."""
    total = np.zeros((sets.shape[1], labels.shape[1]))
    for rows in sets:
        total += labels[rows]
    return total / len(sets)


def _tested(coherence: np.ndarray, null: np.ndarray, generator: np.random.Generator) -> pd.DataFrame:
    """Frame coherence, p, q of sets against the random draws ``null``; a place among ties is drawn."""
    margin, null = 1e-9 * (1 + np.abs(coherence)), np.sort(null)
    above = len(null) - np.searchsorted(null, coherence + margin)
    tied = len(null) - above - np.searchsorted(null, coherence - margin)
    p = (1 + above + generator.integers(0, tied + 1)) / (1 + len(null))
    return pd.DataFrame({"coherence": coherence, "p": p, "q": q_values(p)})
