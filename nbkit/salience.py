"""Salience: which units carry a property of words, and how few of them are enough?

    y = properties(corpus, "upos")                        one class a word, by (text_id, word_id)
    acts = activations.capture(subject, corpus, sites="hidden", rows="word", pool="mean")
    X, y = matrix(acts, y)                                rows without a class are left out, and counted
    ranking = rank(X, y)                                  Ranking: .order, .scores, best unit first
    fit_probe(X, y, units=ranking.top(27))                a probe on those units; .accuracy(X, y)
    minimal_set, ablation_curve, control_task, layer_counts, layer_probes, focus, redundancy,
    compare_rankings                                      the studies, each a table
    across({name: words_of(subject, corpus, "upos")})     subjects, languages, before and after tuning
    intervene(subject, ...)                               change units inside the model (``nbkit.causal``)

Linguistic correlation analysis (Dalvi et al. 2019; Durrani, Dalvi and Sajjad, JMLR 2023) trains a linear
probe on all layers' units and reads the salient ones off its weights. ``rank(method="lca")`` does so;
the default is ours, ``greedy`` (``nbkit.rankers`` has them all). ``greedy``, ``lasso`` and ``probeless`` need
no more than sums: ``rank_sums(LabelSums)`` takes them from ``activations.reduce`` in one pass, so that
memory does not grow with the corpus.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from nbkit import activations as stores
from nbkit.causal import intervene as intervene
from nbkit.rankers import FROM_MOMENTS, RANKERS, codes_of, moments_of, spread_of

if TYPE_CHECKING:
    from nbkit.activations import Activations
    from nbkit.models import Subject
    from nbkit.reducers import LabelSums
    from nbkit.texts import Texts


STEPS = 500  # of a probe's training, at least


class Ranking(NamedTuple):
    """Units from the most salient to the least."""

    order: np.ndarray  # [unit] columns, best first
    scores: np.ndarray  # [unit] by column; higher is better, comparable within one ranking only
    method: str
    classes: list[str]
    notes: dict[str, Any] = {}  # what the method leaves behind: weights, certificates

    def top(self, n: int) -> np.ndarray:
        return self.order[:n]


# ---------------------------------------------------------------------------------- words and classes


def properties(corpus: Texts, what: str, *, min_count: int = 1) -> pd.Series:
    """A class for each word of ``corpus``, by (text_id, word_id); words without one are absent.

    what   a column of ``corpus.words`` (upos, xpos, deprel, ...); "feats:Tense" for one morphological
           feature; "length" (1-2, 3-4, 5-7, 8+), "casing" (lower, Title, UPPER, mixed, other) or "suffix"
           (the last of common English suffixes, none); "chunk" (NP, VP, PP by the tree, else O)
    min_count   classes with fewer words are left out
    """
    words = corpus.words
    if words is None:
        raise ValueError(f"{corpus.name} has no words: load a CoNLL-U file or use texts.tokenize()")
    index = pd.MultiIndex.from_frame(words[["text_id", "word_id"]])
    made = {"length": _lengths, "casing": _casing, "suffix": _suffixes, "chunk": _chunks}
    if what in made:
        found = made[what](words)
    elif what.startswith("feats:"):
        found = words["feats"].str.extract(rf"(?:^|\|){what.removeprefix('feats:')}=([^|]+)")[0]
    elif what in words:
        found = words[what]
    else:
        raise ValueError(
            f"no property {what!r}: a column of {', '.join(words)}, feats:NAME, or {', '.join(made)}"
        )
    found = pd.Series(found.to_numpy(), index=index, name=what).dropna()
    counts = found.value_counts()
    return found[found.map(counts) >= min_count]


SUFFIXES = ("ing", "ed", "ly", "tion", "ness", "ment", "able", "est", "er", "s")


def _suffixes(words: pd.DataFrame) -> pd.Series:
    forms = words["form"].str.lower()
    found = pd.Series("none", index=words.index)
    for suffix in reversed(SUFFIXES):  # the first of the list wins
        found[forms.str.fullmatch(rf"[a-z]{{3,}}{suffix}")] = suffix
    return found


def _lengths(words: pd.DataFrame) -> pd.Series:
    labels = ["1-2", "3-4", "5-7", "8+"]
    return pd.cut(words["form"].str.len(), [0, 2, 4, 7, np.inf], labels=labels).astype(object)


def _casing(words: pd.DataFrame) -> pd.Series:
    forms = words["form"]
    tests = {"lower": forms.str.islower(), "UPPER": forms.str.isupper(), "Title": forms.str.istitle()}
    letters = forms.str.contains(r"[^\W\d_]", regex=True)
    return pd.Series(
        np.select(list(tests.values()), list(tests), np.where(letters, "mixed", "other")), words.index
    )


CHUNK_OF = {"NOUN": "NP", "PROPN": "NP", "PRON": "NP", "VERB": "VP", "ADP": "PP"}
WITHIN = {
    "NP": {"det", "amod", "nummod", "compound", "flat", "nmod:poss"},
    "VP": {"aux", "aux:pass", "advmod"},
}


def _chunks(words: pd.DataFrame) -> pd.Series:
    """A word is in the chunk of its head where its relation belongs inside one; else it heads its own."""
    own = words["upos"].map(CHUNK_OF)
    key = pd.MultiIndex.from_frame(words[["text_id", "word_id"]])
    of_head = pd.Series(own.to_numpy(), index=key).reindex(
        pd.MultiIndex.from_arrays([words["text_id"], words["head"]])
    )
    inside = [
        kind in WITHIN and rel in WITHIN[kind] for kind, rel in zip(of_head, words["deprel"], strict=True)
    ]
    return pd.Series(np.where(inside, of_head.to_numpy(), own.fillna("O").to_numpy()), index=words.index)


def matrix(activations: Activations, y: pd.Series) -> tuple[np.ndarray, pd.Series]:
    """Activations [word, unit] in float32 and the classes of the same words.

    Words without a class, and words the model lost, are left out; ``y.attrs["left_out"]`` counts both.
    """
    keys = pd.MultiIndex.from_frame(activations.rows[["text_id", "word_id"]])
    have = keys.isin(y.index)
    if not have.any():
        raise ValueError(f"none of the {len(keys)} words of {activations!r} has a class in {y.name!r}")
    found = y.loc[keys[have]]
    found.attrs["left_out"] = {
        "words without class": int((~have).sum()),
        "classes without word": len(y) - len(found),
    }
    return np.asarray(activations.values[np.flatnonzero(have)], dtype=np.float32), found


# ---------------------------------------------------------------------------------- rankings


def rank(X: np.ndarray, y: Sequence, method: str = "greedy", *, seed: int = 0, **options) -> Ranking:
    """Rank the units [unit] of ``X`` [word, unit] by how well they tell the classes ``y`` [word] apart.

    Deterministic for a ``seed``; ties go to the lower column; constant units come last, with score 0.
    ``options`` are those of the method (``RANKERS``). A single class, rows that do not match, and
    activations that are not finite are a ``ValueError``.
    """
    if method not in RANKERS:
        raise ValueError(f"unknown ranker {method!r}; there are {', '.join(RANKERS)}")
    X = np.asarray(X, dtype=np.float32)
    codes, classes = codes_of(X, y)
    scores, notes = RANKERS[method](X, codes, seed=seed, **options)
    return _ranking(scores, method, classes, notes)


def rank_sums(sums: LabelSums, method: str = "greedy", **options) -> Ranking:
    """``rank`` from sums gathered in one pass: greedy, lasso or probeless."""
    if method not in FROM_MOMENTS:
        raise ValueError(
            f"{method!r} needs the words themselves; from sums there are {', '.join(FROM_MOMENTS)}"
        )
    found = moments_of(sums)
    scores, notes = FROM_MOMENTS[method](found, **options)
    return _ranking(scores, method, found.classes, notes)


def _ranking(scores: np.ndarray, method: str, classes: list[str], notes: dict) -> Ranking:
    scores = np.nan_to_num(np.asarray(scores, dtype=np.float64))
    return Ranking(np.argsort(-scores, kind="stable"), scores, method, classes, notes)


# ---------------------------------------------------------------------------------- probes


@dataclass(frozen=True)
class Probe:
    """A linear softmax probe on some units."""

    weight: np.ndarray  # [class, unit]
    bias: np.ndarray
    mean: np.ndarray  # of the units, in training
    std: np.ndarray
    units: np.ndarray  # columns of X it reads
    classes: list[str]

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Class of each row."""
        Z = (np.asarray(X[:, self.units], np.float32) - self.mean) / self.std
        return np.array(self.classes, dtype=object)[(Z @ self.weight.T + self.bias).argmax(1)]

    def accuracy(self, X: np.ndarray, y: Sequence) -> float:
        """Share of rows with the right class; classes that were not in training count as wrong."""
        return float((self.predict(X) == np.asarray(y, dtype=object).astype(str)).mean())


def fit_probe(
    X: np.ndarray,
    y: Sequence,
    *,
    units: np.ndarray | None = None,
    penalty: float = 1e-5,
    epochs: int = 10,
    batch: int = 256,
    rate: float = 3e-3,
    seed: int = 0,
) -> Probe:
    """Train a softmax probe on standardised ``units`` (None: all): Adam, shuffled rows, rate falling to 0.

    ``epochs`` passes over the rows, or as many as make ``STEPS`` steps where rows are few.
    """
    X = np.asarray(X, np.float32)
    codes, classes = codes_of(X, y)
    units = np.arange(X.shape[1]) if units is None else np.asarray(units)
    X = X[:, units]
    mean, std = spread_of(X)
    Z, target = torch.from_numpy((X - mean) / std), torch.from_numpy(codes.astype(np.int64))
    generator = torch.Generator().manual_seed(seed)
    weight = torch.zeros(len(classes), len(units), requires_grad=True)
    bias = torch.zeros(len(classes), requires_grad=True)
    optimizer = torch.optim.Adam([weight, bias], lr=rate)
    each = -(-len(Z) // batch)
    epochs = max(epochs, -(-STEPS // each))
    steps = epochs * each
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(Z), generator=generator).split(batch):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(Z[rows] @ weight.T + bias, target[rows])
            (loss + penalty * weight.square().sum()).backward()
            optimizer.step()
            schedule.step()
    return Probe(weight.detach().numpy(), bias.detach().numpy(), mean, std, units, classes)


# ---------------------------------------------------------------------------------- studies


class Split(NamedTuple):
    """Words for training and for the figures; ``groups`` (texts) are never on both sides."""

    train: np.ndarray
    test: np.ndarray


def split_of(y: pd.Series, *, share: float = 0.8, seed: int = 0) -> Split:
    """Rows of ``y`` (by text_id, word_id) cut by text: words of one sentence stay together."""
    texts = y.index.get_level_values(0).to_numpy()
    names = np.unique(texts)
    drawn = np.random.default_rng(seed).permutation(names)[: round(share * len(names))]
    inside = np.isin(texts, drawn)
    if inside.all() or not inside.any():
        raise ValueError(f"share={share} of {len(names)} texts leaves one side empty")
    return Split(np.flatnonzero(inside), np.flatnonzero(~inside))


def curve(
    X: np.ndarray,
    y: Sequence,
    ranking: Ranking,
    counts: Sequence[int],
    split: Split,
    *,
    seed: int = 0,
    **options,
) -> pd.DataFrame:
    """Accuracy of a probe refitted on the first n units: n, units (as "all" where n is), accuracy."""
    y = np.asarray(y, dtype=object)
    lines = []
    for n in counts:
        probe = fit_probe(X[split.train], y[split.train], units=ranking.top(n), seed=seed, **options)
        lines.append({"n": n, "accuracy": probe.accuracy(X[split.test], y[split.test])})
    return pd.DataFrame(lines)


def minimal_set(
    X: np.ndarray,
    y: Sequence,
    ranking: Ranking,
    split: Split,
    *,
    within: float = 1.0,
    search: str = "bisect",
    seeds: Sequence[int] = (0, 1, 2),
    **options,
) -> pd.DataFrame:
    """How many of the first units are enough for the accuracy of all, less ``within`` per cent of it?

    search   "published": 0.1 ... 9.9 % of the units in steps of .1, then 10 ... 90 %, until the target
             is passed; "bisect": halving between 1 and all, where a curve that rises is assumed (ours: a
             dozen probes instead of up to 108)

    One line for each seed of the probe: seed, units, share, accuracy, target, all (accuracy of all units),
    probes (how many were trained).
    """
    if search not in ("bisect", "published"):
        raise ValueError(f'search={search!r}: "bisect" or "published"')
    y, total, lines = np.asarray(y, dtype=object), X.shape[1], []
    for seed in seeds:
        tried: dict[int, float] = {}

        def score(n: int, seed: int = seed, tried: dict = tried) -> float:
            if n not in tried:
                tried[n] = curve(X, y, ranking, [n], split, seed=seed, **options)["accuracy"][0]
            return tried[n]

        everything = score(total)
        target = everything * (1 - within / 100)
        n = _published(total, score, target) if search == "published" else _bisected(total, score, target)
        line = {"seed": seed, "units": n, "share": n / total, "accuracy": score(n), "target": target}
        lines.append({**line, "all": everything, "probes": len(tried)})
    return pd.DataFrame(lines)


def _published(total: int, score: Callable[[int], float], target: float) -> int:
    shares = [*np.arange(0.1, 10, 0.1), *range(10, 100, 10)]
    counts = [max(1, round(total * share / 100)) for share in shares]
    return next((n for n in dict.fromkeys(counts) if score(n) > target), total)


def _bisected(total: int, score: Callable[[int], float], target: float) -> int:
    low, high = 0, total  # low fails, high passes
    while high - low > max(1, low // 20):  # to 5 %: the probes themselves differ by as much
        middle = (low + high) // 2
        low, high = (low, middle) if score(middle) >= target else (middle, high)
    return high


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


# ---------------------------------------------------------------------------------- several subjects


class Words(NamedTuple):
    """Words of one subject and corpus: what ``across`` compares."""

    X: np.ndarray  # [word, unit]
    y: pd.Series
    units: pd.DataFrame


def words_of(
    subject: Subject,
    corpus: Texts,
    what: str,
    *,
    sites: str | Sequence[str] = ("embeddings", "hidden"),
    min_count: int = 10,
    cache: Any = None,
    progress: bool = False,
) -> Words:
    """Capture the words of ``corpus`` (mean of their tokens) and take their classes (``properties``)."""
    options = {"rows": "word", "pool": "mean", "dtype": "float32", "cache": cache, "progress": progress}
    stored = stores.capture(subject, corpus, sites=sites, **options)
    X, y = matrix(stored, properties(corpus, what, min_count=min_count))
    return Words(X, y, stored.units)


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
