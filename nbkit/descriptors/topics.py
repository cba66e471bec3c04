"""Topics: descriptors from clusters of texts, named by their typical words. No language model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse
from sklearn.cluster import KMeans
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, CountVectorizer

from nbkit.descriptors.gathering import Gathered, gather
from nbkit.descriptors.merging import encode
from nbkit.texts import Texts

GRAINS = (15, 40, 80, 160)
SMALLEST = 8  # passages that a cluster has on average, at least: a corpus of 50 texts has six clusters
CANDIDATES = 40  # words of a cluster from which its name is chosen
LIFT = 1.5  # how much more frequent a word must be in a cluster than in all texts
SAME = 0.75  # cosine from which two words are not both in a name
ENGLISH = 0.25  # share of English stop words among the words of English texts: .35 and more
#: Scripts that are written without spaces: a word there is two or three characters.
UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")


class Topics(NamedTuple):
    """Clusters of texts with names.

    ``frame`` has a line for each topic, coarse ones first: descriptor (its name, two words or phrases),
    grain (clusters it was one of), n_texts (texts with a passage in it), words (the ten most typical),
    typical (three texts next to its centre).
    """

    frame: pd.DataFrame
    centres: np.ndarray  # [topic, width], unit length
    members: np.ndarray  # [text, topic], bool; rows as in ``texts``
    texts: pd.DataFrame  # corpus, text_id, text
    notes: list[str]


def topics(
    corpora: Texts | Mapping[str, Texts],
    *,
    grains: Sequence[int] = GRAINS,
    limit: int = 10_000,
    seed: int = 0,
    encoder: Any = None,
) -> Topics:
    """Clusters of the texts of all corpora together, at several ``grains``, each with a name.

    grains   clusters of each k-means; fewer where a cluster would have under 8 passages on average
    limit    texts read of each corpus (``gather``: empty, long and repeated texts)
    encoder  of sentences; the default is minilm's, which knows English: give a multilingual one for others

    The typical words of a cluster are those with the largest product of class-based tf-idf,
    tf[w, c] · log(1 + A / f[w]) with tf the share of w among the words of c, f[w] the count of w in all
    clusters and A the mean number of words in a cluster, and the cosine between the embedding of the word
    and the cluster's centre. Words are unigrams and bigrams that stand in five texts at least (in two where
    there are under 500 texts), and whose share in the cluster is 1.5 times that in all. English stop words
    are left out where the texts are English (by the share of such words); ``notes`` say where not.
    """
    gathered = gather(corpora, limit=limit, seed=seed, encoder=encoder)
    return topics_of(gathered, grains=grains, seed=seed, encoder=encoder)


def topics_of(gathered: Gathered, *, grains: Sequence[int], seed: int = 0, encoder: Any = None) -> Topics:
    """``topics`` of passages that have been gathered."""
    _, first = np.unique(np.array(gathered.passages, dtype=object).astype(str), return_index=True)
    vectors, notes = gathered.vectors[np.sort(first)], list(gathered.notes)
    possible = max(1, len(vectors) // SMALLEST)
    if possible < max(grains):
        notes.append(f"{len(vectors)} different passages: at most {possible} topics at a time")
    names = Names(gathered.passages, encoder)
    notes += names.notes
    frames, centres, members = [], [], []
    for grain in sorted({min(grain, possible) for grain in grains}):
        fitted = KMeans(grain, n_init="auto", random_state=seed).fit(vectors)
        centre = _unit(fitted.cluster_centers_)
        cluster = (gathered.vectors @ centre.T).argmax(1)
        frames.append(names.of(cluster, centre).assign(grain=grain))
        centres.append(centre)
        members.append(gathered.of_texts(cluster[:, None] == np.arange(grain)))
    frame, centre, member = pd.concat(frames, ignore_index=True), np.vstack(centres), np.hstack(members)
    closeness = gathered.of_texts(gathered.vectors @ centre.T)
    texts = gathered.texts["text"].to_numpy()
    frame["n_texts"] = member.sum(0)
    frame["typical"] = [_typical(texts, closeness[:, i]) for i in range(len(frame))]
    columns = ["descriptor", "grain", "n_texts", "words", "typical"]
    return Topics(frame[columns], centre, member, gathered.texts, notes)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _typical(texts: np.ndarray, closeness: np.ndarray, n: int = 3) -> list[str]:
    """The ``n`` different texts with the largest closeness."""
    return list(dict.fromkeys(texts[np.argsort(-closeness, kind="stable")[: 10 * n]]))[:n]


def word_counts(passages: Sequence[str]) -> tuple[scipy.sparse.csr_matrix, np.ndarray, list[str]]:
    """Which passage has which word or phrase [passage, word], the words, and what was done to them."""
    vectorizer, notes = _vectorizer(passages)
    try:
        counts = scipy.sparse.csr_matrix(vectorizer.fit_transform(passages))
    except ValueError:  # no word stands in enough texts
        return scipy.sparse.csr_matrix((len(passages), 0)), np.array([], dtype=object), notes
    return counts, vectorizer.get_feature_names_out(), notes


def _vectorizer(passages: Sequence[str]) -> tuple[CountVectorizer, list[str]]:
    few = 5 if len(passages) >= 500 else 2 if len(passages) >= 20 else 1
    some = " ".join(passages[:: max(1, len(passages) // 2000)]).lower()
    words = re.findall(r"[^\W\d_]+", some)
    if len(UNSPACED.findall(some)) > 0.2 * len(some):
        note = "the texts are written without spaces: names are parts of two or three characters"
        shape = {"analyzer": "char", "ngram_range": (2, 3)}
        return CountVectorizer(min_df=few, binary=True, **shape), [note]
    shape = {"ngram_range": (1, 2), "token_pattern": r"(?u)\b[^\W\d_][^\W\d_'’-]{2,}\b", "binary": True}
    if sum(word in ENGLISH_STOP_WORDS for word in words) >= ENGLISH * max(len(words), 1):
        return CountVectorizer(min_df=few, stop_words="english", **shape), []
    note = "the texts are not English: no list of stop words, only words that are spread unevenly are names"
    return CountVectorizer(min_df=few, **shape), [note]


class Names:
    """Names of clusters of the same texts: words are counted once, and each is embedded once.

    passages   the texts; ``encoder`` as in ``topics``. ``notes`` say what was done to the words
    """

    def __init__(self, passages: Sequence[str], encoder: Any = None) -> None:
        self._counts, self._words, self.notes = word_counts(passages)
        self._encoder, self._known = encoder, {}

    def of(self, cluster: np.ndarray, centres: np.ndarray) -> pd.DataFrame:
        """Name and typical words of each cluster: class-based tf-idf times closeness, as ``topics`` says.

        cluster   [text] its number; ``centres`` [cluster, width] of unit length. A frame with descriptor
                  and words, one line for each cluster; one without any typical word is "cluster 1 of 3"
        """
        n, weight = len(centres), self._weights(cluster, len(centres))
        best = np.argsort(-weight, axis=1, kind="stable")[:, :CANDIDATES]
        if best.shape[1]:
            self._vectors(best.ravel())  # all at once
        names, typical = [], []
        for c in range(n):
            rows = best[c][weight[c, best[c]] > 0]
            if not len(rows):
                names.append(f"cluster {c + 1} of {n}")
                typical.append([])
                continue
            vectors = self._vectors(rows)
            order = np.argsort(-weight[c, rows] * np.maximum(vectors @ centres[c], 0.01), kind="stable")
            typical.append([str(self._words[row]) for row in rows[order[:10]]])
            names.append(_name(typical[-1], vectors[order[:10]]))
        return pd.DataFrame({"descriptor": names, "words": typical})

    def _weights(self, cluster: np.ndarray, n: int) -> np.ndarray:
        """Class-based tf-idf [cluster, word]; 0 where the word is not typical of the cluster."""
        count = np.stack([np.asarray(self._counts[cluster == c].sum(0)).ravel() for c in range(n)])
        total = count.sum(1, keepdims=True)
        idf = np.log1p(total.mean() / np.maximum(count.sum(0), 1))
        part = count / np.maximum(total, 1)
        typical = part >= (LIFT if n > 1 else 0) * count.sum(0) / max(total.sum(), 1)
        return np.where(typical, part * idf, 0)

    def _vectors(self, rows: np.ndarray) -> np.ndarray:
        """Embeddings of words, each computed once."""
        new = [row for row in dict.fromkeys(rows.tolist()) if row not in self._known]
        if new:
            found = encode([str(self._words[row]) for row in new], self._encoder)
            self._known.update(zip(new, found, strict=True))
        return np.stack([self._known[row] for row in rows.tolist()])


def _name(words: list[str], vectors: np.ndarray) -> str:
    """The first word, and the first of the others that says something else."""
    parts = set(words[0].split())
    for word, vector in zip(words[1:], vectors[1:], strict=True):
        if not parts & set(word.split()) and vector @ vectors[0] < SAME:
            return f"{words[0]} / {word}"
    return words[0]
