"""Geometry: where the corpora lie in the space of a site, and why a tag may hold in one of them only.

A direction's top texts come from the region that a corpus occupies, so two corpora can answer the same
direction with different things. All functions but ``range_overlap`` and ``directions`` take matrices
[text, unit] of one site, one or {corpus: ...}; texts are named by their row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import permutations as ordered_pairs

import numpy as np
import pandas as pd

from nbkit import matching, stats
from nbkit.activations import Activations
from nbkit.illusions.corpora import Groups, groups_of
from nbkit.stats import top_texts, unit_vectors

SETS_AT_ONCE = 1024  # top sets whose dot products are held at a time
LAYOUT_UNITS = 50  # principal components that t-SNE starts from
MIN_POSITIVES = 10  # training texts with a descriptor, and without, that a direction is learned from
PENALTIES = np.logspace(0, 5, 6)  # of the ridge probes; the best of them by leaving one out


def confusion(values_by_corpus: Mapping[str, np.ndarray], *, folds: int = 5, seed: int = 0) -> pd.DataFrame:
    """Can a linear SVM tell from the activations which corpus a text is from?

    A frame [corpus, predicted] whose rows sum to 1, every text judged by a model that did not see it
    (the paper's diagonal: .73 to 1.00). Units are standardized on the training folds, classes weighted
    by their sizes. Raises ``ValueError`` for fewer than two corpora, or fewer texts than ``folds``.
    """
    from sklearn.metrics import confusion_matrix
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    names = list(values_by_corpus)
    if len(names) < 2:
        raise ValueError(f"{len(names)} corpus: a comparison needs two or more")
    for name, values in values_by_corpus.items():
        if len(values) < folds:
            raise ValueError(f"{name!r} has {len(values)} texts, fewer than {folds} folds: lower folds")
    x = np.concatenate([np.asarray(v, dtype=np.float32) for v in values_by_corpus.values()])
    y = np.repeat(np.arange(len(names)), [len(v) for v in values_by_corpus.values()])
    model = make_pipeline(StandardScaler(), LinearSVC(class_weight="balanced", dual=False, random_state=seed))  # pyright: ignore[reportArgumentType]
    cut = StratifiedKFold(folds, shuffle=True, random_state=seed)
    shares = confusion_matrix(y, cross_val_predict(model, x, y, cv=cut), normalize="true")
    index = pd.Index(names, name="corpus")
    return pd.DataFrame(shares, index=index, columns=pd.Index(names, name="predicted"))


def range_overlap(activations_by_corpus: Mapping[str, Activations], k: int = 10) -> pd.DataFrame:
    """Do the ranges of a unit's top ``k`` activations in two corpora overlap?

    A frame with corpus, other and overlap, the share of units whose ranges [k-th, highest] intersect
    (Bolukbasi et al. 2021 report .38 over all neuron/corpus pairs).
    """
    ranges = {}
    for name, stored in activations_by_corpus.items():
        values = np.asarray(stored.values, dtype=np.float32)
        k_th = min(k, len(values))
        ranges[name] = (np.partition(values, -k_th, axis=0)[-k_th], values.max(0))
    lines = []
    for one, two in ordered_pairs(ranges, 2):
        (low1, high1), (low2, high2) = ranges[one], ranges[two]
        lines.append((one, two, float(((low1 <= high2) & (low2 <= high1)).mean())))
    return pd.DataFrame(lines, columns=["corpus", "other", "overlap"])


def outlier_share(
    values_by_corpus: Mapping[str, np.ndarray], *, distant: float = 0.01, k: int = 10
) -> pd.DataFrame:
    """How many of the units' top-``k`` places does the most distant share of the texts fill?

    Distance is Euclidean, from the mean of the corpus. A frame with corpus, texts, outliers (their number,
    at least 1) and share, to be read beside ``distant`` (the paper's most distant 1 % of QQP fill .48).
    """
    lines = []
    for name, stored in values_by_corpus.items():
        values = np.asarray(stored, dtype=np.float32)
        outlier = _distant(values, distant)
        share = float(outlier[top_texts(values, k)].mean())
        lines.append((name, len(values), int(outlier.sum()), share))
    return pd.DataFrame(lines, columns=["corpus", "texts", "outliers", "share"])


def without_outliers(
    values_by_corpus: Mapping[str, np.ndarray], *, distant: float = 0.01
) -> dict[str, np.ndarray]:
    """Rows of each corpus, in order, without its most distant share of texts (``outlier_share`` counts them).

    The paper's illusion survives without the most distant 1 % and 10 %. To run a test again:

        rows = without_outliers({name: a.values for name, a in acts.items()}, distant=0.1)
        acts = {name: a.select(text_ids=a.rows["text_id"].iloc[rows[name]]) for name, a in acts.items()}
    """
    if not 0 < distant < 1:
        raise ValueError(f"distant={distant}: the share of texts to leave out is between 0 and 1")
    return {
        name: np.flatnonzero(~_distant(np.asarray(values, dtype=np.float32), distant))
        for name, values in values_by_corpus.items()
    }


def directions(
    activations_by_corpus: Mapping[str, Activations],
    labels_by_corpus: Mapping[str, pd.DataFrame] | None = None,
    kind: str = "probe",
    *,
    n: int = 1000,
    share: float = 0.5,
    groups: Groups = True,
    seed: int = 0,
) -> dict[str, Activations]:
    """Projections on linear combinations of the units, for every test that takes units.

    kind    "probe"                 ridge regression on a descriptor in one corpus, units standardized
            "class means"           from the mean of a corpus's texts without a descriptor to that with it
            "principal components"  the first ``n`` of all corpora together, each in both senses
            "random"                ``n`` unit vectors
    share   of each corpus's texts that directions are learned from; only the others are projected (for all
            kinds, so that they can be compared), since a probe knows the texts it has seen
    groups  texts that belong together, as in ``compare``: whole documents are learned from or projected

    Stores [text, direction] in memory. Their units have unit (a name) and, for probes and class means,
    corpus and descriptor. A descriptor gives a direction in each corpus where 10 training texts have
    it and 10 lack it. No labels or no such descriptor, for kinds that need them: ``ValueError``.
    """
    if kind not in DIRECTIONS:
        raise ValueError(f"kind={kind!r}: there are {', '.join(DIRECTIONS)}")
    if labels_by_corpus is None and kind in ("probe", "class means"):
        raise ValueError(f"directions of the kind {kind!r} are learned from labels: give labels_by_corpus")
    parts = {
        name: stats.halves(len(a), share, seed, groups=groups_of(name, a, groups))
        for name, a in activations_by_corpus.items()
    }
    train = {name: a.values[parts[name][0]].astype(np.float32) for name, a in activations_by_corpus.items()}
    labels = {
        name: matching.align(activations_by_corpus[name], frame).iloc[parts[name][0]]
        for name, frame in (labels_by_corpus or {}).items()
        if name in parts
    }
    vectors, names = DIRECTIONS[kind](train, labels, n, seed)
    found = {}
    for name, stored in activations_by_corpus.items():
        rows = parts[name][1]
        values = stored.values[rows].astype(np.float32) @ vectors
        found[name] = replace(
            stored, values=values, rows=stored.rows.iloc[rows].reset_index(drop=True), units=names
        )
    return found


def locality(values: np.ndarray, top: np.ndarray, *, neighbours: int = 10, bins: int = 20) -> pd.DataFrame:
    """Is a set of texts as close together as each of its texts is to its nearest texts?

    values      [text, unit], the space (the paper: the layer that the unit is of, not centred)
    top         [k, set] rows; ``top_texts(values)`` for all units
    neighbours  nearest texts by dot product of each member, among all texts but itself
    bins        of the histograms, over the range of the set's own dot products

    A frame with one line for each set:

    locality    sum of min(h1, h2) / sum of max(h1, h2) of the histograms of dot products, each of area 1:
                h1 of the set's pairs, h2 of its members with their neighbours. The paper: .026 for
                meaningful sets, .010 for others; its bins are not known, so compare sets, not papers
    bin_free    1 - the Kolmogorov-Smirnov distance of the same two samples: no bins to choose

    Both are in [0, 1]; 1 where the set is one neighbourhood. ``neighbours`` out of range, and sets of one
    text, are a ``ValueError``.
    """
    x, top = np.asarray(values, dtype=np.float32), np.asarray(top)
    if not 1 <= neighbours < len(x):
        raise ValueError(f"neighbours={neighbours}: each of {len(x)} texts has between 1 and {len(x) - 1}")
    if len(top) < 2:
        raise ValueError(f"sets of {len(top)} text have no pairs")
    members, place = np.unique(top, return_inverse=True)
    place = place.reshape(top.shape)
    products = x[members] @ x.T  # [member, text]
    one, two = np.triu_indices(len(top), 1)
    near = products.copy()
    near[np.arange(len(members)), members] = -np.inf
    near = -np.partition(-near, neighbours - 1, axis=1)[:, :neighbours]  # [member, neighbour]
    parts = []
    for start in range(0, top.shape[1], SETS_AT_ONCE):
        some = slice(start, start + SETS_AT_ONCE)
        pairs = products[place[one, some], top[two, some]].T  # [set, pair]
        around = near[place[:, some]].transpose(1, 0, 2).reshape(pairs.shape[0], -1)
        parts.append(np.stack([_overlap(pairs, around, bins), 1 - _ks(pairs, around)], axis=1))
    return pd.DataFrame(np.concatenate(parts), columns=["locality", "bin_free"])


def layout(
    values_by_corpus: Mapping[str, np.ndarray],
    *,
    method: str = "tsne",
    n: int | None = 500,
    keep: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """A map of the corpora in two dimensions: a frame with corpus, row, x, y.

    method  "tsne" (scikit-learn's, on the first 50 principal components; the paper drew UMAP) or "pca"
    n       texts drawn from each corpus (None: all)
    keep    {corpus: rows} that are on the map in any case, such as a unit's top set in each corpus

    Distances between clusters of a t-SNE map mean nothing; membership of a cluster does.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if method not in ("tsne", "pca"):
        raise ValueError(f'method={method!r}: "tsne" or "pca"')
    keep, generator, rows = keep or {}, np.random.default_rng(seed), {}
    for name, values in values_by_corpus.items():
        drawn = generator.permutation(len(values))[:n]
        rows[name] = np.union1d(drawn, np.asarray(keep.get(name, []), dtype=int))
    x = np.concatenate([np.asarray(v[rows[name]], np.float32) for name, v in values_by_corpus.items()])
    size = 2 if method == "pca" else min(LAYOUT_UNITS, *x.shape)
    flat = PCA(size, random_state=seed).fit_transform(x)
    if method == "tsne":
        perplexity = min(30.0, (len(x) - 1) / 3)
        flat = TSNE(init="pca", perplexity=perplexity, random_state=seed).fit_transform(flat)
    corpus = np.repeat(list(rows), [len(r) for r in rows.values()])
    frame = pd.DataFrame({"corpus": corpus, "row": np.concatenate(list(rows.values()))})
    return frame.assign(x=flat[:, 0], y=flat[:, 1])


# ---------------------------------------------------------------------------------- inside


def _random(train: dict, labels: dict, n: int, seed: int) -> tuple[np.ndarray, pd.DataFrame]:
    """Vectors [unit, direction], and what they are called."""
    width = next(iter(train.values())).shape[1]
    return unit_vectors(width, n, seed), stats.direction_units(n)


def _components(train: dict, labels: dict, n: int, seed: int) -> tuple[np.ndarray, pd.DataFrame]:
    from sklearn.decomposition import PCA

    whole = np.concatenate(list(train.values()))
    vectors = PCA(min(n, *whole.shape), random_state=seed).fit(whole).components_.T
    names = [f"component.{i}{sign}" for sign in "+-" for i in range(vectors.shape[1])]
    return np.concatenate([vectors, -vectors], axis=1), pd.DataFrame({"unit": names})


def _class_means(train: dict, labels: dict, n: int, seed: int) -> tuple[np.ndarray, pd.DataFrame]:
    def fit(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x.T @ y) / y.sum(0) - (x.T @ (1 - y)) / (1 - y).sum(0)

    return _learned(train, labels, fit, "means")


def _probes(train: dict, labels: dict, n: int, seed: int) -> tuple[np.ndarray, pd.DataFrame]:
    from sklearn.linear_model import RidgeCV

    def fit(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        scale = x.std(0)
        scale[scale == 0] = 1
        model = RidgeCV(PENALTIES, alpha_per_target=True).fit((x - x.mean(0)) / scale, y)
        return (model.coef_.reshape(y.shape[1], -1) / scale).T

    return _learned(train, labels, fit, "probe")


DIRECTIONS = {
    "probe": _probes,
    "class means": _class_means,
    "principal components": _components,
    "random": _random,
}


def _learned(train: dict, labels: dict, fit, word: str) -> tuple[np.ndarray, pd.DataFrame]:
    """``fit(values, labels)`` [unit, descriptor] in each corpus, one after another."""
    vectors, names = [], []
    for corpus, x in train.items():
        total = labels[corpus].sum()
        enough = (total >= MIN_POSITIVES) & (total <= len(x) - MIN_POSITIVES)
        if not enough.any():
            raise ValueError(
                f"no descriptor of {corpus!r} has {MIN_POSITIVES} training texts with and without"
            )
        known = total.index[enough]
        vectors.append(fit(x, labels[corpus][known].to_numpy(np.float32)).astype(np.float32))
        names += [(f"{word}.{corpus}.{descriptor}", corpus, descriptor) for descriptor in known]
    return np.concatenate(vectors, axis=1), pd.DataFrame(names, columns=["unit", "corpus", "descriptor"])


def _distant(values: np.ndarray, share: float) -> np.ndarray:
    """Which texts are the most distant ``share`` (one at least), by Euclidean distance from the mean."""
    distance = np.linalg.norm(values - values.mean(0), axis=1)
    outlier = np.zeros(len(values), dtype=bool)
    outlier[np.argsort(-distance, kind="stable")[: max(1, round(share * len(values)))]] = True
    return outlier


def _overlap(a: np.ndarray, b: np.ndarray, bins: int) -> np.ndarray:
    """Sum of min / sum of max [set] of the histograms of ``a`` and ``b`` [set, .], each of area 1."""
    low = np.minimum(a.min(1), b.min(1))[:, None]
    width = np.maximum(a.max(1), b.max(1))[:, None] - low
    heights = []
    for part in (a, b):
        share = np.divide(part - low, width, out=np.zeros_like(part), where=width > 0)
        cell = np.minimum((share * bins).astype(int), bins - 1) + bins * np.arange(len(part))[:, None]
        counts = np.bincount(cell.ravel(), minlength=bins * len(part)).reshape(len(part), bins)
        heights.append(counts / part.shape[1])
    return np.minimum(*heights).sum(1) / np.maximum(*heights).sum(1)


def _ks(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Two-sample Kolmogorov-Smirnov distance [set] of ``a`` [set, .] and ``b`` [set, .], ties together."""
    both = np.concatenate([a, b], axis=1)
    order = np.argsort(both, axis=1)
    ordered = np.take_along_axis(both, order, axis=1)
    step = np.where(order < a.shape[1], 1 / a.shape[1], -1 / b.shape[1])
    distance = np.abs(step.cumsum(1))
    distance[:, :-1][ordered[:, 1:] == ordered[:, :-1]] = 0  # only the last of equal values counts
    return distance.max(1)
