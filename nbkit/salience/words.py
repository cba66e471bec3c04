"""Words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from nbkit import activations as stores
from nbkit.activations import Activations
from nbkit.models import Subject
from nbkit.texts import Texts

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
