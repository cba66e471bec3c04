"""Several meanings of a unit: clusters of its top texts, each described, each tested on other texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.stats
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score
from tqdm.auto import tqdm

from nbkit import descriptors, stats
from nbkit.activations import Activations
from nbkit.claims.figures import auroc_interval, auroc_of
from nbkit.claims.judging import groups_of, stores_of
from nbkit.claims.labellers import strings_of, unit_length
from nbkit.models import Subject, sentence_encoder
from nbkit.texts import Texts

DIMENSIONS = 20  # of the space in which top texts are clustered: in all 384 of minilm nothing is a cluster
SMALLEST = 0.1  # share of the top texts that a meaning has at least: an outlier is none
FEWEST_UNITS = 10  # whose space has random directions
STARTS: Any = 5  # of k-means; scikit-learn's annotation says str
SHOWN = 3  # examples of each meaning


class _Rule(NamedTuple):
    """What ``meanings`` was asked for."""

    top: int
    most: int
    near: float
    null: int
    alpha: float
    seed: int


class _Pool(NamedTuple):
    """The texts of all corpora, each once; ``first`` are clustered and named, ``second`` are held out."""

    strings: np.ndarray  # [row]
    corpus: np.ndarray  # [row] its name
    vectors: np.ndarray  # [row, width] of the encoder, unit length
    groups: np.ndarray  # [row] number of its document
    first: np.ndarray  # rows
    second: np.ndarray  # rows


def meanings(
    activations_by_corpus: Mapping[str, Activations] | Subject,
    corpora: Mapping[str, Texts],
    units: str | Sequence[str] | pd.DataFrame,
    *,
    encoder: Any = None,
    top: int = 40,
    most: int = 5,
    near: float = 0.05,
    null: int = 100,
    alpha: float = 0.05,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """The meanings of each unit: its top texts in clusters, a description of each, and what it is worth.

    activations_by_corpus, corpora   as for ``judge``, with text rows
    units     names, or claims: a frame with unit, and maybe description and sign, of which each line is one
    encoder   of sentences: anything with ``.encode(strings)``; default ``models.sentence_encoder()``
    top       texts of a unit that are clustered: the highest of all corpora together, those held out apart
    most      meanings of a unit at most
    near      share of the held-out texts that count as having a description: the closest to it
    null      random directions of the units' space, which go through the same procedure
    alpha     p from which top texts fall into clusters, and quantile of ``null_high``

    Half of the texts are held out, whole documents where a corpus names four or more; a text that is repeated
    counts once. Clusters are k-means in 20 principal components of the embeddings, k = 2 to ``most``. The k
    with the largest z of the silhouette is taken if it is rare among as many texts drawn at random (these
    fall into clusters, too), else k = 1. Names are ``descriptors.Names``' against all
    other texts. AUROC is P(the unit is higher on a held-out text near to the description than on another).

    One line for each meaning: unit, claim (the description given, or None), claim_auroc, meaning (from 1),
    meanings (k), description, words, texts, share (of ``top``), corpora (texts of each), auroc, low, high
    (95 % interval), null_high (1 - ``alpha`` quantile of the null), p, q (over all lines), clusters_p,
    examples. The null of a unit with k meanings is the best of k descriptions of a random direction, or of as
    many as it would have itself, if that is better: the best of five is high by luck. ``.attrs``: settings.

    ``ValueError``: an unknown unit, no text, too few texts, units, or directions for ``alpha``; word rows.
    """
    rule = _checked(_Rule(top, most, near, null, alpha, seed))
    asked = _asked(units)
    stores = stores_of(activations_by_corpus, asked, corpora, progress)
    values, pool = _pooled(stores, corpora, asked, rule, encoder or sentence_encoder())
    partitions = _Partitions(pool, values, rule, progress)
    lines = _described(pool, values, partitions, rule, encoder)
    vectors = _Embedded(
        encoder or sentence_encoder(), [*lines["description"], *asked["description"].dropna()]
    )
    lines = lines.join(_scores(pool, values, lines["column"], vectors.of(lines["description"]), rule))
    found = _tested(lines, partitions, len(asked), rule)
    claimed = asked.dropna(subset="description")
    scores = _scores(pool, values, claimed.index.to_series(), vectors.of(claimed["description"]), rule)
    found = found.assign(unit=asked["unit"].to_numpy()[found["column"]])
    found["claim"] = asked["description"].reindex(found["column"]).to_numpy(dtype=object)
    found["claim_auroc"] = pd.Series(scores["auroc"].to_numpy(), claimed.index).reindex(found["column"]).array
    found.attrs = rule._asdict() | {"texts": len(pool.first), "held_out": len(pool.second)}
    first = ["unit", "claim", "claim_auroc", "meaning", "meanings", "description", "words", "texts", "share"]
    order = ["corpora", "auroc", "low", "high", "null_high", "p", "q", "clusters_p", "examples"]
    return found[[*first, *order]]


# ---------------------------------------------------------------------------------- what is asked


def _checked(rule: _Rule) -> _Rule:
    if rule.most < 1 or rule.top < 4 * rule.most:
        raise ValueError(
            f"top={rule.top} texts for most={rule.most} meanings: give four texts for each at least, top="
            f"{max(4, 4 * rule.most)}"
        )
    for name, value in (("near", rule.near), ("alpha", rule.alpha)):
        if not 0 < value < 0.5:
            raise ValueError(f"{name}={value}: give a share between 0 and .5")
    if (fewest := int(np.ceil(1 / rule.alpha - 1 - 1e-9))) > rule.null:
        raise ValueError(
            f"null={rule.null} random directions cannot show p of {rule.alpha}: give {fewest} at least"
        )
    return rule


def _asked(units: str | Sequence[str] | pd.DataFrame) -> pd.DataFrame:
    """unit, description (None where there is none) and sign, one line for each unit that is asked about."""
    named = [units] if isinstance(units, str) else units
    frame: Any = named if isinstance(named, pd.DataFrame) else pd.DataFrame({"unit": list(named)})
    if "unit" not in frame or frame.empty:
        raise ValueError(f"no unit to describe: {len(frame)} lines with the columns {list(frame)}")
    frame = frame.reset_index(drop=True)
    given = frame["description"] if "description" in frame else pd.Series(None, frame.index, dtype=object)
    signs = frame["sign"] if "sign" in frame else 1
    return pd.DataFrame({"unit": frame["unit"], "description": given, "sign": signs})


def _pooled(
    stores: Mapping[str, Activations],
    corpora: Mapping[str, Texts],
    asked: pd.DataFrame,
    rule: _Rule,
    encoder: Any,
) -> tuple[np.ndarray, _Pool]:
    """Activations [row, asked units and then random directions] and texts of all corpora."""
    width = len(next(iter(stores.values())).units)
    if width < FEWEST_UNITS:
        raise ValueError(
            f"the stores hold {width} units: random directions need {FEWEST_UNITS}, capture the whole site"
        )
    random = stats.random_directions({name: s.values for name, s in stores.items()}, rule.null, rule.seed)
    values, strings, names, groups, start = [], [], [], [], 0
    for name, stored in stores.items():
        if "start" in stored.rows:
            raise ValueError(f"{name!r} has word or token rows: meanings are of texts, capture rows='text'")
        columns = [stored.column(unit) for unit in asked["unit"]]
        own = np.asarray(stored.values[:, columns], np.float32) * np.sign(asked["sign"].to_numpy(np.float32))
        values.append(np.hstack([own, random[name]]))
        strings.append(strings_of(corpora[name], stored.rows))
        names.append(np.repeat(name, len(stored.rows)))
        found = groups_of(stored.rows)
        groups.append(start + (np.arange(len(own)) if found is None else found))
        start = groups[-1].max(initial=start) + 1
    text = np.concatenate(strings)
    kept = np.flatnonzero(~pd.Series(text).duplicated() & pd.Series(text).str.strip().ne(""))
    if len(kept) < (fewest := 4 * rule.top):
        raise ValueError(
            f"{', '.join(stores)}: {len(kept)} texts that differ are too few for top={rule.top}: give"
            f" {fewest} at least, or top={len(kept) // 4}"
        )
    group = pd.factorize(np.concatenate(groups)[kept])[0]
    first, second = stats.halves(len(kept), 0.5, rule.seed, groups=group)
    vectors = unit_length(encoder, text[kept].tolist())
    if len(first) < rule.top:
        raise ValueError(
            f"documents are so large that {len(first)} texts are left for top={rule.top}: lower it"
        )
    corpus = np.concatenate(names)[kept]
    return np.concatenate(values)[kept], _Pool(text[kept], corpus, vectors, group, first, second)


# ---------------------------------------------------------------------------------- clusters


class _Partitions:
    """How many clusters the top texts of each column fall into, against random texts; and which.

    rows       [column, top] the highest of the first half
    chosen     [column] number of clusters
    p          [column] that texts drawn at random fall into clusters as clear

    The null is of texts, not of random directions: a direction may mix meanings, and is then no example of
    a unit without clusters. Directions are the null of descriptions (``_tested``).
    """

    def __init__(self, pool: _Pool, values: np.ndarray, rule: _Rule, progress: bool) -> None:
        width = min(DIMENSIONS, *pool.vectors[pool.first].shape)
        fitted = PCA(width, random_state=rule.seed).fit(pool.vectors[pool.first])
        space = fitted.transform(pool.vectors)
        self._space = space / np.maximum(np.linalg.norm(space, axis=1, keepdims=True), 1e-12)
        self._rule, self._labels = rule, {}
        self.rows = pool.first[stats.top_texts(values[pool.first], rule.top).T]
        generator = np.random.default_rng(rule.seed)
        drawn = [generator.choice(pool.first, rule.top, replace=False) for _ in range(rule.null)]
        every = np.concatenate([self.rows, drawn])
        sizes = range(2, rule.most + 1)
        clear = np.array(
            [
                [self._silhouette(rows, k) for k in sizes]
                for rows in tqdm(every, desc="clusters", leave=False, disable=not progress)
            ]
        ).reshape(len(every), len(sizes))
        self.chosen, self.p = self._choose(clear[: len(self.rows)], clear[len(self.rows) :])

    def labels(self, rows: np.ndarray, k: int) -> np.ndarray:
        """The cluster of each of ``rows`` among ``k``, the largest first."""
        key = (rows.tobytes(), k)
        if key not in self._labels:
            found = KMeans(k, n_init=STARTS, random_state=self._rule.seed).fit_predict(self._space[rows])
            order = np.argsort(-np.bincount(found, minlength=k), kind="stable")
            self._labels[key] = np.argsort(order)[found]
        return self._labels[key]

    def _silhouette(self, rows: np.ndarray, k: int) -> float:
        """NaN where a cluster is too small to be a meaning."""
        labels = self.labels(rows, k)
        if np.bincount(labels, minlength=k).min() < max(2, SMALLEST * len(rows)):
            return np.nan
        return float(silhouette_score(self._space[rows], labels))

    def _choose(self, clear: np.ndarray, random: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The k whose silhouette is furthest above random texts', in deviations; 1 where that is not rare.

        clear, random   silhouettes [column, k] of top texts, and [draw, k] of random ones
        """
        if not clear.shape[1]:
            return np.ones(len(clear), int), np.ones(len(clear))
        known = ~np.isnan(random)
        count = np.maximum(known.sum(0), 1)
        mean = np.where(known, random, 0).sum(0) / count
        deviation = np.sqrt((np.where(known, random - mean, 0) ** 2).sum(0) / count)
        z, null = (
            np.where(np.isnan(x), -np.inf, (x - mean) / np.maximum(deviation, 1e-9)) for x in (clear, random)
        )
        p = stats.p_values(z.max(1), null.max(1)[:, None])
        return np.where((p <= self._rule.alpha) & (z.max(1) > 0), z.argmax(1) + 2, 1), p


def _described(
    pool: _Pool, values: np.ndarray, partitions: _Partitions, rule: _Rule, encoder: Any
) -> pd.DataFrame:
    """A line for each column, number of clusters that is asked of it, and cluster.

    A unit has its own number; a random direction its own, and those of all units, to be compared with them.
    """
    names = descriptors.Names(pool.strings[pool.first].tolist(), encoder)
    place = pd.Series(np.arange(len(pool.first)), pool.first)
    n_asked = values.shape[1] - rule.null
    sizes, lines = set(partitions.chosen[:n_asked].tolist()), []
    for column, (rows, own) in enumerate(zip(partitions.rows, partitions.chosen, strict=True)):
        for k in sorted({int(own)} | (sizes if column >= n_asked else set())):
            labels = partitions.labels(rows, k) if k > 1 else np.zeros(len(rows), int)
            cluster = np.full(len(pool.first), k)  # the last one: all other texts
            cluster[place[rows]] = labels
            sums = np.stack([pool.vectors[pool.first[cluster == c]].sum(0) for c in range(k + 1)])
            centres = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
            for number, name in enumerate(names.of(cluster, centres).iloc[:k].to_dict("records")):
                member = rows[labels == number]
                lines.append(
                    {
                        "column": column,
                        "meanings": k,
                        "meaning": number + 1,
                        "description": name["descriptor"],
                    }
                    | {"words": name["words"], "texts": len(member), "share": len(member) / rule.top}
                    | {"corpora": pd.Series(pool.corpus[member]).value_counts().to_dict()}
                    | {"examples": pool.strings[member[:SHOWN]].tolist(), "own": k == own}
                )
    return pd.DataFrame(lines)


# ---------------------------------------------------------------------------------- scores


class _Embedded:
    """Embeddings of descriptions, each computed once."""

    def __init__(self, encoder: Any, descriptions: Sequence[str]) -> None:
        self._place = {name: i for i, name in enumerate(dict.fromkeys(descriptions))}
        self._vectors = unit_length(encoder, list(self._place))

    def of(self, descriptions: Sequence[str] | pd.Series) -> np.ndarray:
        return self._vectors[[self._place[name] for name in descriptions]]


def _scores(
    pool: _Pool, values: np.ndarray, columns: pd.Series, described: np.ndarray, rule: _Rule
) -> pd.DataFrame:
    """AUROC of each description on the held-out texts with its interval, one line for each of ``columns``.

    The texts that count as having it are the same number for every description, so that AUROC of two of them,
    and of units and random directions, vary alike.
    """
    closeness = pool.vectors[pool.second] @ described.T
    n = max(2, round(rule.near * len(pool.second)))
    on = np.zeros(closeness.shape, dtype=bool)
    if len(columns):
        np.put_along_axis(on, stats.top_texts(closeness, n), True, 0)
    ranks = scipy.stats.rankdata(values[pool.second], axis=0)[:, columns.to_numpy(int)]
    auroc = auroc_of(ranks, on)
    mine = np.flatnonzero(columns < values.shape[1] - rule.null)  # the null needs no intervals
    low, high = np.full((2, len(auroc)), np.nan)
    groups = pool.groups[pool.second]
    low[mine], high[mine] = auroc_interval(ranks[:, mine], on[:, mine], auroc[mine], groups)
    return pd.DataFrame({"auroc": auroc, "low": low, "high": high})


def _tested(lines: pd.DataFrame, partitions: _Partitions, n_asked: int, rule: _Rule) -> pd.DataFrame:
    """The lines of the units, with p against the best description of each random direction."""
    found = lines[lines["column"] < n_asked].reset_index(drop=True)
    random = lines[lines["column"] >= n_asked]
    of_own = random[random["own"]].groupby("column")["auroc"].max()
    by_size = random.groupby(["column", "meanings"])["auroc"].max().unstack()
    for k in found["meanings"].unique():
        # a direction that has more meanings by itself had more to choose from: the larger one is safe
        best = np.maximum(by_size[k].to_numpy(), of_own.reindex(by_size.index).to_numpy())
        part = found["meanings"] == k
        found.loc[part, "null_high"] = np.quantile(best, 1 - rule.alpha)
        found.loc[part, "p"] = stats.p_values(found.loc[part, "auroc"].to_numpy(), best[:, None])
    found["q"] = stats.q_values(found["p"].to_numpy())
    return found.assign(clusters_p=partitions.p[found["column"]])
