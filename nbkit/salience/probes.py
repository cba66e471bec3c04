"""Probes: words as rows with a class, and linear probes on some of the units."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike

from nbkit import activations, stats
from nbkit.activations import Activations
from nbkit.models import Subject
from nbkit.salience.rankers import Ranking, codes_of, std_of
from nbkit.texts import Texts

STEPS = 500  # of a probe's training, at least
SUFFIXES = ("ing", "ed", "ly", "tion", "ness", "ment", "able", "est", "er", "s")
CHUNK_OF = {"NOUN": "NP", "PROPN": "NP", "PRON": "NP", "VERB": "VP", "ADP": "PP"}
WITHIN = {  # relations that keep a word in the chunk of its head
    "NP": {"det", "amod", "nummod", "compound", "flat", "nmod:poss"},
    "VP": {"aux", "aux:pass", "advmod"},
}


# ---------------------------------------------------------------------------------- words and classes


def properties(corpus: Texts, what: str, *, min_count: int = 1) -> pd.Series:
    """A class for each word of ``corpus``, by (text_id, word_id); words without one are absent.

    what        a column of ``corpus.words`` (upos, xpos, deprel, ...); "feats:Tense" or "feats:Number[psor]"
                for one morphological feature; "length" (1-2, 3-4, 5-7, 8+); "casing" (lower, Title, UPPER,
                mixed, other); "suffix" (a common English one, or none); "chunk" (NP, VP or PP by the tree,
                else O)
    min_count   classes with fewer words are left out

    A corpus without words, an unknown property, and one that no word has: ``ValueError``.
    """
    words = corpus.words
    if words is None:
        raise ValueError(f"{corpus.name} has no words: load a CoNLL-U file or use texts.tokenize()")
    index = pd.MultiIndex.from_frame(words[["text_id", "word_id"]])
    made = {"length": _lengths, "casing": _casing, "suffix": _suffixes, "chunk": _chunks}
    if what in made:
        found = made[what](words)
    elif what.startswith("feats:") and "feats" in words:
        name = re.escape(what.removeprefix("feats:"))
        found = words["feats"].str.extract(rf"(?:^|\|){name}=([^|]+)")[0]
    elif what in words:
        found = words[what].replace("", None)
    else:
        raise ValueError(
            f"no property {what!r}: a column of {', '.join(words)}, feats:NAME, or {', '.join(made)}"
        )
    found = pd.Series(found.to_numpy(), index=index, name=what).dropna()
    counts = found.value_counts()
    if not (counts >= min_count).any():
        raise ValueError(_nothing(corpus, what, counts, min_count))
    return found[found.map(counts) >= min_count]


def _nothing(corpus: Texts, what: str, counts: pd.Series, min_count: int) -> str:
    """Why no word of the corpus has a class."""
    if len(counts):
        return f"{what!r} of {corpus.name}: no class has min_count={min_count} words, at most {counts.max()}"
    there = ""
    if what.startswith("feats:"):
        names = corpus.words["feats"].str.findall(r"([^|=]+)=").explode().dropna().unique()
        there = f"; there are {', '.join(sorted(names)) or 'no features'}"
    return f"no word of {corpus.name} has {what!r}{there}"


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


def matrix(stored: Activations, y: pd.Series) -> tuple[np.ndarray, pd.Series]:
    """Activations [word, unit] in float32, and the classes [word] of the same words.

    stored   word rows of ``activations.capture``
    y        classes by (text_id, word_id) (``properties``)

    Left out are words without a class, words without activations, and words that share a vector but have
    classes of their own (those of a multiword token); ``attrs["left_out"]`` of the returned classes counts
    each. No word left: ``ValueError``.
    """
    keys = pd.MultiIndex.from_frame(stored.rows[["text_id", "word_id"]])
    have = keys.isin(y.index)
    if not have.any():
        raise ValueError(f"none of the {len(keys)} words of {stored!r} has a class in {y.name!r}")
    shared = _shared(stored)
    if not (have & ~shared).any():
        raise ValueError(f"all {have.sum()} words with a class in {y.name!r} share their vectors with others")
    found = y.loc[keys[have & ~shared]]
    found.attrs["left_out"] = {
        "words without class": int((~have).sum()),
        "words without activations": int((~y.index.isin(keys)).sum()),
        "words that share a vector": int((have & shared).sum()),
    }
    return np.asarray(stored.values[np.flatnonzero(have & ~shared)], dtype=np.float32), found


def _shared(stored: Activations) -> np.ndarray:
    """Words [word] whose vector is another word's too, so that a probe cannot tell them apart.

    Words of a multiword token ("au" for "à le") have one span; touching words may lie in one token of the
    model ("cannot"). ``stored`` has word rows; without start and end of the words nothing is found.
    """
    rows = stored.rows
    if not {"start", "end"} <= set(rows):
        return np.zeros(len(rows), dtype=bool)
    found = rows.duplicated(["text_id", "start", "end"], keep=False).to_numpy(copy=True)
    text_id, start, end = (rows[name].to_numpy() for name in ("text_id", "start", "end"))
    touch = np.flatnonzero((text_id[1:] == text_id[:-1]) & (start[1:] == end[:-1]))
    sites = stored.units["site"].to_numpy()
    last = np.asarray(stored.values[:, np.flatnonzero(sites == sites[-1])])  # what differs, differs here
    same = touch[(last[touch] == last[touch + 1]).all(1)]
    found[same] = found[same + 1] = True
    return found


class Words(NamedTuple):
    """Words of one subject and corpus: what ``across`` compares."""

    X: np.ndarray  # [word, unit]
    y: pd.Series  # [word] classes by (text_id, word_id)
    units: pd.DataFrame  # one line per column of X


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
    """Capture the words of ``corpus`` (the mean of their tokens) and take their classes.

    ``what`` and ``min_count`` are those of ``properties``, ``sites``, ``cache`` and ``progress`` those of
    ``activations.capture``.
    """
    options = {"rows": "word", "pool": "mean", "dtype": "float32", "cache": cache, "progress": progress}
    stored = activations.capture(subject, corpus, sites=sites, **options)
    X, y = matrix(stored, properties(corpus, what, min_count=min_count))
    return Words(X, y, stored.units)


# ---------------------------------------------------------------------------------- probes


@dataclass(frozen=True)
class Probe:
    """A linear softmax probe on some units."""

    weight: np.ndarray  # [class, unit]
    bias: np.ndarray  # [class]
    mean: np.ndarray  # [unit] in training
    std: np.ndarray  # [unit] in training
    units: np.ndarray  # columns of X it reads
    classes: list[str]

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Class [word] of each row of ``X`` [word, all units]."""
        Z = (np.asarray(X[:, self.units], np.float32) - self.mean) / self.std
        return np.array(self.classes, dtype=object)[(Z @ self.weight.T + self.bias).argmax(1)]

    def accuracy(self, X: np.ndarray, y: ArrayLike) -> float:
        """Share of rows with the right class; classes that were not in training count as wrong."""
        return float((self.predict(X) == np.asarray(y, dtype=object).astype(str)).mean())


def fit_probe(
    X: np.ndarray,
    y: ArrayLike,
    *,
    units: np.ndarray | None = None,
    penalty: float = 1e-5,
    epochs: int = 10,
    batch: int = 256,
    learning_rate: float = 3e-3,
    seed: int = 0,
) -> Probe:
    """Train a linear softmax probe on standardised units.

    units     columns of ``X`` [word, unit]; None: all
    penalty   on the sum of squared weights
    epochs    passes over the rows, or as many as make ``STEPS`` steps where rows are few

    Adam on shuffled batches of rows; ``learning_rate`` falls linearly to 0. Errors as ``rank``.
    """
    X = np.asarray(X, np.float32)
    codes, classes = codes_of(X, y)
    units = np.arange(X.shape[1]) if units is None else np.asarray(units)
    X = X[:, units]
    mean, std = std_of(X)
    Z, target = torch.from_numpy((X - mean) / std), torch.from_numpy(codes.astype(np.int64))
    generator = torch.Generator().manual_seed(seed)
    weight = torch.zeros(len(classes), len(units), requires_grad=True)
    bias = torch.zeros(len(classes), requires_grad=True)
    optimizer = torch.optim.Adam([weight, bias], lr=learning_rate)
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


# ---------------------------------------------------------------------------------- how many units


class Split(NamedTuple):
    """Rows of words; no text is in two parts."""

    train: np.ndarray  # to rank units and train probes on
    test: np.ndarray  # to judge on
    dev: np.ndarray = np.zeros(0, dtype=int)  # to choose numbers of units and penalties on


def split_of(y: pd.Series, *, share: float = 0.8, dev: float = 0.0, seed: int = 0) -> Split:
    """Rows of ``y`` (by text_id, word_id) cut by text: 1 - ``share`` of the texts to test on.

    dev   share of all texts for development, taken from those to train on; the test texts stay the same.
          ``minimal_set`` needs it

    An empty part is a ``ValueError``.
    """
    texts = y.index.get_level_values(0).to_numpy()
    names, codes = np.unique(texts, return_inverse=True)
    inside, outside = stats.halves(len(names), share, seed, least=1)
    chosen = np.zeros(0, dtype=int)
    if dev:
        rest, chosen = stats.halves(len(inside), 1 - dev * len(names) / len(inside), seed, least=1)
        inside, chosen = inside[rest], inside[chosen]
    return Split(*(np.flatnonzero(np.isin(codes, part)) for part in (inside, outside, chosen)))


def accuracy_curve(
    X: np.ndarray,
    y: ArrayLike,
    ranking: Ranking,
    counts: Sequence[int],
    split: Split,
    *,
    on: str = "test",
    seed: int = 0,
    **options: Any,
) -> pd.DataFrame:
    """Accuracy of a probe trained on the first n units of a ranking: columns n, accuracy.

    on        part of ``split`` to judge on: "test", or "dev" to choose by
    options   of ``fit_probe``

    Without rows in that part: ``ValueError``.
    """
    y, judged, lines = np.asarray(y, dtype=object), getattr(split, on), []
    if not len(judged):
        raise ValueError(f"the split has no {on} part to choose on: split_of(y, {on}=0.1)")
    for n in counts:
        probe = fit_probe(X[split.train], y[split.train], units=ranking.top(n), seed=seed, **options)
        lines.append({"n": n, "accuracy": probe.accuracy(X[judged], y[judged])})
    return pd.DataFrame(lines)


def minimal_set(
    X: np.ndarray,
    y: ArrayLike,
    ranking: Ranking,
    split: Split,
    *,
    within: float = 1.0,
    search: str = "bisect",
    seeds: Sequence[int] = (0, 1, 2),
    **options: Any,
) -> pd.DataFrame:
    """How many of the first units are enough for the accuracy of all, less ``within`` per cent of it?

    The number is chosen on the development part of the split (``split_of(y, dev=0.1)``), which neither the
    ranking nor the probes have seen; the accuracies reported are on the test part.

    search   "published": 0.1 ... 9.9 % of the units in steps of .1, then 10 ... 90 %, until the target
             is passed: up to 108 probes; "bisect": halving between 1 and all units, which takes the curve
             for a rising one: about a dozen probes

    One line for each seed of the probe: seed, units, share, accuracy and all (of these units and of all
    units, test part), dev_accuracy and target (development part), probes (how many were tried).
    """
    if search not in ("bisect", "published"):
        raise ValueError(f'search={search!r}: "bisect" or "published"')
    total, lines = X.shape[1], []
    for seed in seeds:
        tried: dict[int, float] = {}

        def score(n: int, seed: int = seed, tried: dict = tried) -> float:
            if n not in tried:
                curve = accuracy_curve(X, y, ranking, [n], split, on="dev", seed=seed, **options)
                tried[n] = curve["accuracy"][0]
            return tried[n]

        target = score(total) * (1 - within / 100)
        n = _published(total, score, target) if search == "published" else _bisected(total, score, target)
        few, everything = accuracy_curve(X, y, ranking, [n, total], split, seed=seed, **options)["accuracy"]
        line = {"seed": seed, "units": n, "share": n / total, "accuracy": few, "all": everything}
        lines.append({**line, "dev_accuracy": score(n), "target": target, "probes": len(tried)})
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
