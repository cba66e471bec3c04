"""Studies: what a ranking is worth, where its units are, and how rankings and subjects compare."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from nbkit.salience.probes import Probe, Split, Words, accuracy_curve, fit_probe, split_of
from nbkit.salience.rankers import Ranking, rank


def ablation_curve(
    X: np.ndarray,
    y: ArrayLike,
    ranking: Ranking,
    split: Split,
    *,
    shares: Sequence[float] = (0.1, 0.15, 0.2),
    seed: int = 0,
    **options: Any,
) -> pd.DataFrame:
    """Test accuracy with the top, a random or the bottom share of the units kept.

    Columns: kept (top, random, bottom), share, units, zeroed (the probe of all units, the other units set to
    their mean, as published), refitted (a probe trained on the kept units). ``options`` of ``fit_probe``.
    """
    y = np.asarray(y, dtype=object)
    probe = fit_probe(X[split.train], y[split.train], seed=seed, **options)
    orders = {
        "top": ranking.order,
        "random": np.random.default_rng(seed).permutation(len(ranking.order)),
        "bottom": ranking.order[::-1],
    }
    lines = []
    for share, (kept, order) in itertools.product(shares, orders.items()):
        some = np.sort(order[: max(1, round(share * len(order)))])
        part = Probe(
            probe.weight[:, some], probe.bias, probe.mean[some], probe.std[some], some, probe.classes
        )
        again = fit_probe(X[split.train], y[split.train], units=some, seed=seed, **options)
        accuracies = {
            "zeroed": part.accuracy(X[split.test], y[split.test]),
            "refitted": again.accuracy(X[split.test], y[split.test]),
        }
        lines.append({"kept": kept, "share": share, "units": len(some), **accuracies})
    return pd.DataFrame(lines)


def random_labels(y: pd.Series, forms: Sequence[str], *, seed: int = 0) -> pd.Series:
    """Classes [word] of the control task: one drawn from ``y`` for every word type in ``forms`` [word]."""
    of_word = pd.Series(np.asarray(forms, dtype=object))
    types = of_word.unique()
    drawn = np.random.default_rng(seed).choice(y.to_numpy(), len(types))
    return pd.Series(
        of_word.map(dict(zip(types, drawn, strict=True))).to_numpy(), index=y.index, name="control task"
    )


def control_task(
    X: np.ndarray,
    y: pd.Series,
    forms: Sequence[str],
    ranking: Ranking,
    split: Split,
    *,
    counts: Sequence[int | None] = (None, 27, 100),
    seed: int = 0,
    **options: Any,
) -> pd.DataFrame:
    """Test accuracy on the task and on the control task, and selectivity (their difference).

    In the control task every word type has one class at random: what a probe reaches there, it reaches by
    memory. ``forms`` [word] are the types, ``counts`` numbers of the first units (None: all), ``options`` of
    ``fit_probe``. Columns: units, accuracy, control_accuracy,
    selectivity.
    """
    drawn, lines = random_labels(y, forms, seed=seed), []
    for n in counts:
        some = X.shape[1] if n is None else n
        task, other = (
            accuracy_curve(X, labels, ranking, [some], split, seed=seed, **options)["accuracy"][0]
            for labels in (y, drawn)
        )
        line = {"units": some, "accuracy": task, "control_accuracy": other}
        lines.append({**line, "selectivity": task - other})
    return pd.DataFrame(lines)


def layer_counts(units: pd.DataFrame, chosen: np.ndarray) -> pd.Series:
    """Number of the ``chosen`` columns at each site of the frame ``units``, in the order of the model."""
    counts = units["site"].iloc[chosen].value_counts()
    return counts.reindex(units["site"].unique(), fill_value=0).rename("units")


def layer_probes(
    X: np.ndarray,
    y: ArrayLike,
    units: pd.DataFrame,
    split: Split,
    *,
    cumulative: bool = False,
    **options: Any,
) -> pd.DataFrame:
    """Test accuracy of a probe on each site by itself, or on all sites up to it (``cumulative``).

    Columns: site, units, accuracy. ``options`` of ``fit_probe``.
    """
    y, sites, lines = np.asarray(y, dtype=object), units["site"].to_numpy(), []
    names = list(dict.fromkeys(sites))
    for i, name in enumerate(names):
        some = np.flatnonzero(np.isin(sites, names[: i + 1] if cumulative else [name]))
        probe = fit_probe(X[split.train], y[split.train], units=some, **options)
        lines.append(
            {"site": name, "units": len(some), "accuracy": probe.accuracy(X[split.test], y[split.test])}
        )
    return pd.DataFrame(lines)


def focus(weights: np.ndarray, classes: Sequence[str], *, mass: float = 0.25) -> pd.Series:
    """Number of units, by class, that hold a share ``mass`` of the class's weight.

    weights [class, unit] of a probe or of ``lca``'s notes. Few units: the class is in a few places.
    """
    size = -np.sort(-np.abs(weights), axis=1)
    enough = np.cumsum(size, axis=1) >= mass * size.sum(1, keepdims=True)
    return pd.Series(enough.argmax(1) + 1, index=list(classes), name="units")


class Redundancy(NamedTuple):
    """What can be left out (``redundancy``)."""

    clusters: np.ndarray  # [unit] which cluster each unit is in
    kept: np.ndarray  # one unit of each cluster, the best ranked
    disjoint: pd.DataFrame  # round, units, accuracy of each set after removing those before
    layers: pd.DataFrame  # within (%), layers (the first that suffice), accuracy


def redundancy(
    X: np.ndarray,
    y: ArrayLike,
    units: pd.DataFrame,
    ranking: Ranking,
    split: Split,
    *,
    cut: float = 0.3,
    size: int = 100,
    rounds: int = 5,
    **options: Any,
) -> Redundancy:
    """Clusters of correlated units, disjoint sets that do as well, and the first sites that suffice.

    clusters   average linkage on 1 - |r| over the training rows, cut at ``cut``
    disjoint   the first ``size`` units of the greedy ranking; then those of the rest; ... (``rounds`` times)
    layers     the least k so that the first k sites reach the accuracy of all within 3, 2 and 1 %

    ``options`` of ``fit_probe``. Memory: units x units.
    """
    y = np.asarray(y, dtype=object)
    clusters = _clusters(X[split.train], cut)
    place = pd.Series(np.argsort(ranking.order))
    best = place.groupby(clusters).idxmin().to_numpy()
    kept = best[np.argsort(place[best])]
    disjoint = _disjoint(X, y, split, size, rounds, options)
    table = layer_probes(X, y, units, split, cumulative=True, **options)
    everything = table["accuracy"].iloc[-1]
    layers = []
    for within in (3, 2, 1):
        first = int((table["accuracy"] >= everything * (1 - within / 100)).idxmax())
        layers.append({"within": within, "layers": first + 1, "accuracy": table["accuracy"][first]})
    return Redundancy(clusters, kept, disjoint, pd.DataFrame(layers))


def _clusters(X: np.ndarray, cut: float) -> np.ndarray:
    """Cluster [unit] by average linkage on 1 - |r|."""
    with np.errstate(invalid="ignore"):
        r = np.nan_to_num(np.corrcoef(X.T))
    apart = np.clip(1 - np.abs(r), 0, None)
    np.fill_diagonal(apart, 0)
    return fcluster(linkage(squareform(apart, checks=False), "average"), cut, "distance")


def _disjoint(
    X: np.ndarray, y: np.ndarray, split: Split, size: int, rounds: int, options: dict
) -> pd.DataFrame:
    """Accuracy of the first ``size`` units, then of those of a ranking of the rest, and so on."""
    left, lines = np.arange(X.shape[1]), []
    for number in range(rounds):
        if len(left) < size:
            break
        chosen = left[rank(X[split.train][:, left], y[split.train], depth=size).top(size)]
        probe = fit_probe(X[split.train], y[split.train], units=chosen, **options)
        accuracy = probe.accuracy(X[split.test], y[split.test])
        lines.append({"round": number + 1, "units": size, "accuracy": accuracy})
        left = np.setdiff1d(left, chosen)
    return pd.DataFrame(lines)


def compare_rankings(rankings: dict[str, Ranking], *, n: int = 100) -> pd.DataFrame:
    """How far rankings agree on the first ``n`` units.

    One line per ranking: overlap (AvgOverlap: mean share of its first n that another ranking has too), votes
    (NeuronVote: share of its first n that at least half of all rankings have), expected (n / units: the
    overlap of random rankings). A single ranking, or rankings over different units, are a ``ValueError``.
    """
    if len(rankings) < 2:
        raise ValueError("give two rankings at least")
    total = {len(ranking.order) for ranking in rankings.values()}
    if len(total) > 1:
        raise ValueError(f"the rankings are over different numbers of units: {sorted(total)}")
    first = {name: set(ranking.top(n).tolist()) for name, ranking in rankings.items()}
    every = pd.Series(list(itertools.chain(*first.values()))).value_counts()  # rankings with each unit
    lines = []
    for name, mine in first.items():
        shared = [len(mine & theirs) / n for other, theirs in first.items() if other != name]
        votes = ((every[list(mine)] >= len(first) / 2).mean(), n / max(total))
        lines.append({"ranking": name, "overlap": np.mean(shared), "votes": votes[0], "expected": votes[1]})
    return pd.DataFrame(lines)


class Across(NamedTuple):
    """The same study of several subjects, corpora or languages (``across``)."""

    table: pd.DataFrame  # name, words, classes, units, accuracy (first n), all, kept, depth
    layers: pd.DataFrame  # [site, name] units among the first n
    shared: pd.DataFrame  # [name, name] share of the first n that two have in common; NaN: other units


def across(
    words: Mapping[str, Words], *, method: str = "greedy", n: int = 100, share: float = 0.8, seed: int = 0
) -> Across:
    """Rank, refit and locate the first ``n`` units for each of several {name: ``words_of``}.

    For architectures (several subjects), languages (one multilingual subject on parallel treebanks), and a
    subject before and after fine-tuning. ``kept`` is accuracy / accuracy of all units, ``depth`` the mean
    place of the first n from 0 (embeddings) to 1 (last layer). ``shared.attrs["expected"]`` is n / units, the
    share that two random sets have in common. A single name is a ``ValueError``.
    """
    if len(words) < 2:
        raise ValueError("give two at least to compare")
    lines, counts, first = [], {}, {}
    for name, one in words.items():
        line, top = _line_across(one, method, n, share, seed)
        lines.append({"name": name, **line})
        counts[name] = layer_counts(one.units, top)
        first[name] = (set(one.units["unit"].iloc[top]), len(one.units))
    shared = pd.DataFrame(np.nan, index=list(words), columns=list(words))
    for (a, (mine, size)), (b, (theirs, other)) in itertools.product(first.items(), repeat=2):
        if size == other:
            shared.loc[a, b] = len(mine & theirs) / n
    shared.attrs["expected"] = {name: n / size for name, (_, size) in first.items()}
    return Across(pd.DataFrame(lines), pd.DataFrame(counts), shared)


def _line_across(words: Words, method: str, n: int, share: float, seed: int) -> tuple[dict, np.ndarray]:
    """A line of ``Across.table`` and the columns of the first n units."""
    X, y, units = words
    split = split_of(y, share=share, seed=seed)
    options = {"depth": n} if method == "greedy" else {}
    ranking = rank(X[split.train], y.iloc[split.train], method, seed=seed, **options)
    some, everything = accuracy_curve(X, y, ranking, [n, X.shape[1]], split, seed=seed)["accuracy"]
    place = pd.factorize(units["site"])[0] / max(1, units["site"].nunique() - 1)
    line = {
        "words": len(y),
        "classes": y.nunique(),
        "units": X.shape[1],
        "accuracy": some,
        "all": everything,
        "kept": some / everything,
        "depth": float(place[ranking.top(n)].mean()),
    }
    return line, ranking.top(n)
