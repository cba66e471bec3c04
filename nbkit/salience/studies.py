"""Salience: which units carry a property of words, and how few of them are enough?

    y = properties(corpus, "upos")                        one class a word, by (text_id, word_id)
    acts = activations.capture(subject, corpus, sites="hidden", rows="word", pool="mean")
    X, y = matrix(acts, y)                                rows without a class are left out, and counted
    ranking = rank(X, y)                                  Ranking: .order, .scores, best unit first
    fit_probe(X, y, units=ranking.top(27))                a probe on those units; .accuracy(X, y)
    minimal_set, ablation_curve, control_task, layer_counts, layer_probes, focus, redundancy,
    compare_rankings                                      the studies, each a table
    across({name: words_of(subject, corpus, "upos")})     subjects, languages, before and after tuning
    intervene(subject, ...)                               change units inside the model (``nbkit.salience.interventions``)

Linguistic correlation analysis (Dalvi et al. 2019; Durrani, Dalvi and Sajjad, JMLR 2023) trains a linear
probe on all layers' units and reads the salient ones off its weights. ``rank(method="lca")`` does so;
the default is ours, ``greedy`` (``nbkit.salience.rankers`` has them all). ``greedy``, ``lasso`` and ``probeless`` need
no more than sums: ``rank_sums(LabelSums)`` takes them from ``activations.reduce`` in one pass, so that
memory does not grow with the corpus.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from nbkit.salience.probes import Probe, Split, curve, fit_probe, split_of
from nbkit.salience.rankers import Ranking, rank
from nbkit.salience.words import Words


def ablation_curve(
    X: np.ndarray,
    y: Sequence,
    ranking: Ranking,
    split: Split,
    *,
    shares: Sequence[float] = (0.1, 0.15, 0.2),
    seed: int = 0,
    **options,
) -> pd.DataFrame:
    """The top, random and bottom share of the units kept: the others zeroed at test time, or refitted.

    Zeroed is after standardising (the mean of the unit), with the probe of all units, as published.
    Columns: kept (top, random, bottom), share, units, zeroed, refitted (accuracies).
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


def control_labels(y: pd.Series, forms: Sequence[str], *, seed: int = 0) -> pd.Series:
    """Hewitt and Liang's control task: one class at random for every word type, drawn as often as in y."""
    forms = pd.Series(np.asarray(forms, dtype=object))
    types = forms.unique()
    drawn = np.random.default_rng(seed).choice(y.to_numpy(), len(types))
    return pd.Series(
        forms.map(dict(zip(types, drawn, strict=True))).to_numpy(), index=y.index, name="control"
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
    **options,
) -> pd.DataFrame:
    """Accuracy on the task, on the control task, and selectivity (the difference), by number of units.

    A probe that can learn any class for any word type says little about the units. The control task keeps
    the same units, training and size. None: all units.
    """
    control, lines = control_labels(y, forms, seed=seed), []
    for n in counts:
        some = X.shape[1] if n is None else n
        task, other = (
            curve(X, labels, ranking, [some], split, seed=seed, **options)["accuracy"][0]
            for labels in (y, control)
        )
        lines.append({"units": some, "accuracy": task, "control": other, "selectivity": task - other})
    return pd.DataFrame(lines)


def layer_counts(units: pd.DataFrame, chosen: np.ndarray) -> pd.Series:
    """How many of the ``chosen`` columns are at each site of the frame ``units``, in model order."""
    counts = units["site"].iloc[chosen].value_counts()
    return counts.reindex(units["site"].unique(), fill_value=0).rename("units")


def layer_probes(
    X: np.ndarray, y: Sequence, units: pd.DataFrame, split: Split, *, cumulative: bool = False, **options
) -> pd.DataFrame:
    """Accuracy of a probe on each site by itself, or on all sites up to it: site, units, accuracy."""
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
    """Units that hold ``mass`` of a class's weight in a probe [class, unit]: few mean a focused class."""
    size = -np.sort(-np.abs(weights), axis=1)
    enough = np.cumsum(size, axis=1) >= mass * size.sum(1, keepdims=True)
    return pd.Series(enough.argmax(1) + 1, index=list(classes), name="units")


class Redundancy(NamedTuple):
    """What can go without loss."""

    clusters: np.ndarray  # [unit] which cluster each unit is in
    kept: np.ndarray  # one unit of each cluster, the best ranked
    disjoint: pd.DataFrame  # round, units, accuracy of each set after removing those before
    layers: pd.DataFrame  # within (%), layers (the first that suffice), accuracy


def redundancy(
    X: np.ndarray,
    y: Sequence,
    units: pd.DataFrame,
    ranking: Ranking,
    split: Split,
    *,
    cut: float = 0.3,
    size: int = 100,
    rounds: int = 5,
    **options,
) -> Redundancy:
    """Dalvi et al. 2020: correlation clusters, sets found by remove-and-repeat, and the first layers that do.

    Clusters: 1 - |r|, average linkage, cut at ``cut``. Disjoint sets: the first ``size`` of the greedy
    ranking, of what is left, and so on. Layers: the least k so that the first k sites reach the accuracy of
    all within 3, 2 and 1 %.
    """
    y = np.asarray(y, dtype=object)
    with np.errstate(invalid="ignore"):
        r = np.nan_to_num(np.corrcoef(X[split.train].T))
    apart = np.clip(1 - np.abs(r), 0, None)
    np.fill_diagonal(apart, 0)
    clusters = fcluster(linkage(squareform(apart, checks=False), "average"), cut, "distance")
    place = pd.Series(np.argsort(ranking.order))
    best = place.groupby(clusters).idxmin().to_numpy()
    kept = best[np.argsort(place[best])]
    left, lines = np.arange(X.shape[1]), []
    for number in range(rounds):
        if len(left) < size:
            break
        chosen = left[rank(X[split.train][:, left], y[split.train], depth=size).top(size)]
        probe = fit_probe(X[split.train], y[split.train], units=chosen, **options)
        lines.append(
            {"round": number + 1, "units": size, "accuracy": probe.accuracy(X[split.test], y[split.test])}
        )
        left = np.setdiff1d(left, chosen)
    table = layer_probes(X, y, units, split, cumulative=True, **options)
    everything = table["accuracy"].iloc[-1]
    layers = []
    for within in (3, 2, 1):
        first = int((table["accuracy"] >= everything * (1 - within / 100)).idxmax())
        layers.append({"within": within, "layers": first + 1, "accuracy": table["accuracy"][first]})
    return Redundancy(clusters, kept, pd.DataFrame(lines), pd.DataFrame(layers))


def compare_rankings(rankings: dict[str, Ranking], *, n: int = 100) -> pd.DataFrame:
    """How far rankings agree on the first ``n`` units (Fan et al. 2023).

    One line a ranking: overlap (AvgOverlap: mean share of its first n that another ranking has too), votes
    (NeuronVote: share of its first n that at least half of all rankings have), chance (n over units: the
    overlap of random rankings).
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
        lines.append({"ranking": name, "overlap": np.mean(shared), "votes": votes[0], "chance": votes[1]})
    return pd.DataFrame(lines)


class Across(NamedTuple):
    """The same study of several subjects, corpora or languages, side by side."""

    table: pd.DataFrame  # name, words, classes, units, accuracy (first n), all, kept, depth
    layers: pd.DataFrame  # [site, name] units among the first n
    shared: pd.DataFrame  # [name, name] share of the first n that two have in common; NaN: other units


def across(
    words: Mapping[str, Words], *, method: str = "greedy", n: int = 100, share: float = 0.8, seed: int = 0
) -> Across:
    """Rank, refit and locate the first ``n`` units for each of several ``words``.

    For architectures (any list of subjects), languages (one multilingual subject on parallel treebanks), and
    a subject before and after fine-tuning. ``kept`` is accuracy / accuracy of all units, ``depth`` the mean
    place of the first n from 0 (embeddings) to 1 (last layer). Two random sets share n / units:
    ``shared.attrs["chance"]``.
    """
    if len(words) < 2:
        raise ValueError("give two at least to compare")
    lines, counts, first = [], {}, {}
    for name, (X, y, units) in words.items():
        split = split_of(y, share=share, seed=seed)
        options = {"depth": n} if method == "greedy" else {}
        ranking = rank(X[split.train], y.iloc[split.train], method, seed=seed, **options)
        some, everything = curve(X, y, ranking, [n, X.shape[1]], split, seed=seed)["accuracy"]
        counts[name] = layer_counts(units, ranking.top(n))
        place = pd.factorize(units["site"])[0] / max(1, units["site"].nunique() - 1)
        first[name] = (set(units["unit"].iloc[ranking.top(n)]), len(units))
        lines.append(
            {
                "name": name,
                "words": len(y),
                "classes": y.nunique(),
                "units": X.shape[1],
                "accuracy": some,
                "all": everything,
                "kept": some / everything,
                "depth": float(place[ranking.top(n)].mean()),
            }
        )
    shared = pd.DataFrame(np.nan, index=list(words), columns=list(words))
    for (a, (mine, size)), (b, (theirs, other)) in itertools.product(first.items(), repeat=2):
        if size == other:
            shared.loc[a, b] = len(mine & theirs) / n
    shared.attrs["chance"] = {name: n / size for name, (_, size) in first.items()}
    return Across(pd.DataFrame(lines), pd.DataFrame(counts), shared)
