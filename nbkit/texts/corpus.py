"""Corpus."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd

from nbkit import stats
from nbkit.texts.grammar import from_annotation, from_surface
from nbkit.texts.readers import nearest

WORD = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")

ANNOTATION = ["lemma", "upos", "xpos", "head", "deprel", "feats", "mwt"]


class Word(NamedTuple):
    """A word of one text: `text[start:end] == form`."""

    form: str
    start: int
    end: int


def words_of(text: str) -> list[Word]:
    """The words of a plain text: runs of letters and digits (with inner ' ’ -), or one other mark.

    Simple on purpose and the same everywhere. It is not UD's tokenization: "don't" is one word.
    """
    return [Word(m.group(), *m.span()) for m in WORD.finditer(text)]


# ---------------------------------------------------------------------------------- the corpus


@dataclass(frozen=True, eq=False, repr=False)
class Texts:
    """A corpus. Compare two by `.fingerprint`; the module's docstring says what the columns are."""

    name: str
    frame: pd.DataFrame  # one row a text: text_id, text, label columns
    words: pd.DataFrame | None = None  # one row a word, None for plain text
    dropped: dict[str, int] = field(default_factory=dict)  # what reading dropped, by reason
    source: dict = field(default_factory=dict)  # what `load` was asked for, revision resolved

    @classmethod
    def from_list(cls, texts: Iterable[str], name: str = "texts") -> Texts:
        """A corpus of the strings given, as they are; none at all is a `ValueError`."""
        frame = pd.DataFrame({"text": list(texts)}, dtype="str")
        if frame.empty:
            raise ValueError(f"{name!r} would have no text")
        frame.insert(0, "text_id", np.arange(len(frame)))
        return cls(name, frame)

    def __len__(self) -> int:
        return len(self.frame)

    def __repr__(self) -> str:
        parts = [self.name, f"{len(self):,} texts"]
        if self.words is not None:
            parts.append(f"{len(self.words):,} words")
        if self.dropped:
            parts.append("lost in reading: " + counts_of(self.dropped))
        return f"Texts({', '.join(parts)})"

    @property
    def annotated(self) -> bool:
        """Whether the words carry an annotation (they come from CoNLL-U)."""
        return self.words is not None and "upos" in self.words

    @property
    def documents(self) -> pd.Series | None:
        """The document of each text, by text_id (CoNLL-U: `newdoc id`); None where the source names none."""
        if "doc_id" not in self.frame or self.frame["doc_id"].isna().any():
            return None
        return self.frame.set_index("text_id")["doc_id"]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what an activation depends on: texts, ids, word spans, all in order.

        The name and the labels are left out: a renamed or relabelled corpus has the same
        activations. The ids are in, because stored rows are joined back on them.
        """
        digest = hashlib.sha256(b"nbkit.texts/1")
        digest.update(self.frame["text_id"].to_numpy("int64").tobytes())
        for text in self.frame["text"]:
            data = text.encode()
            digest.update(len(data).to_bytes(8, "little") + data)
        if self.words is not None:
            spans = self.words[["text_id", "word_id", "start", "end"]].to_numpy("int64")
            digest.update(b"words" + np.ascontiguousarray(spans).tobytes())
        return digest.hexdigest()

    def sample(self, n: int, seed: int = 0) -> Texts:
        """`n` texts drawn without replacement, in corpus order."""
        if not 1 <= n <= len(self):
            raise ValueError(
                f"cannot sample {n:,} of the {len(self):,} texts of {self.name!r}: ask for 1 to {len(self):,}"
            )
        rng = np.random.default_rng(seed)
        return self._take(rng.choice(len(self), size=n, replace=False))

    def split(self, fraction: float, seed: int = 0, *, groups: str | None = None) -> tuple[Texts, Texts]:
        """Two parts at random, the first with `fraction` of the texts; order and ids are kept.

        `groups` names a column whose equal values stay on one side (`groups="doc_id"`); the first part is
        then as near to `fraction` as whole groups allow. A text without a value is its own group.
        """
        if not 0 < fraction < 1:
            raise ValueError(f"fraction={fraction!r} leaves a part empty: give a number in (0, 1)")
        codes = self._groups(groups)
        if codes.max() == 0:
            unit = "text" if groups is None else f"value of {groups!r}"
            raise ValueError(f"{self.name!r} has only one {unit}: it cannot be split in two")
        first, second = stats.halves(len(self), fraction, seed, groups=codes, least=0)
        return self._take(first), self._take(second)

    def where(self, **columns) -> Texts:
        """The texts whose columns have these values; a list, tuple or set means any of them."""
        keep = np.ones(len(self), dtype=bool)
        for column, wanted in columns.items():
            self._require(column)
            values = wanted if isinstance(wanted, (list, tuple, set, frozenset)) else [wanted]
            keep &= self.frame[column].isin(list(values)).to_numpy()
        if not keep.any():
            raise ValueError(self._nothing_matches(columns))
        label = ", ".join(f"{k}={_brief(v)}" for k, v in columns.items())
        chosen = self._take(np.flatnonzero(keep))
        return replace(chosen, name=f"{self.name}[{label}]") if label else chosen

    def tokenize(self) -> Texts:
        """The same corpus with words: its own if it has them, otherwise those of `words_of`."""
        if self.words is not None:
            return self
        rows = [
            (text_id, word_id, *word)
            for text_id, text in zip(self.frame["text_id"], self.frame["text"], strict=True)
            for word_id, word in enumerate(words_of(text), start=1)
        ]
        words = pd.DataFrame(rows, columns=["text_id", "word_id", "form", "start", "end"])
        return replace(self, words=words)

    def descriptors(self, source: str = "auto") -> pd.DataFrame:
        """Label matrix [text_id, descriptor], values in [0, 1].

        "annotation": the rules of `grammar` on the words of CoNLL-U (gold);
        "surface":    those of its names that a rule on the plain text finds well enough;
        "written":    every descriptor written beside the texts (column `descriptors`), 0 or 1;
        "auto":       "annotation" when the corpus is annotated, otherwise "surface".
        """
        if source == "auto":
            source = "annotation" if self.annotated else "surface"
        if source == "surface":
            return from_surface(self.frame)
        if source == "written":
            return self._written()
        if source != "annotation":
            raise ValueError(
                f"descriptors from {source!r}: choose 'auto', 'annotation', 'surface' or 'written'"
            )
        if not self.annotated:
            raise ValueError(f"{self.name!r} has no annotation: load a .conllu source, or ask for 'surface'")
        return from_annotation(self.words, self.frame)

    # what the methods above are made of

    def _take(self, positions: np.ndarray) -> Texts:
        """The texts at these row positions, in corpus order, with their words."""
        frame = self.frame.iloc[np.sort(positions)].reset_index(drop=True)
        words = self.words
        if words is not None:
            inside = np.isin(words["text_id"].to_numpy(), frame["text_id"].to_numpy())
            words = words[inside].reset_index(drop=True)
        return replace(self, frame=frame, words=words)

    def _groups(self, groups: str | None) -> np.ndarray:
        """A group number 0.. for every text."""
        if groups is None:
            return np.arange(len(self))
        self._require(groups)
        codes, _ = pd.factorize(self.frame[groups])
        missing = codes < 0
        codes[missing] = codes.max(initial=-1) + 1 + np.arange(missing.sum())
        return codes

    def _require(self, column: str) -> None:
        if column not in self.frame:
            raise ValueError(
                f"{self.name!r} has no column {column!r}{nearest(column, self.frame.columns)}; "
                f"its columns are {list(self.frame.columns)}"
            )

    def _nothing_matches(self, columns: dict) -> str:
        seen = {c: list(self.frame[c].dropna().unique()[:10]) for c in columns}
        asked = ", ".join(f"{k}={v!r}" for k, v in columns.items())
        return f"no text of {self.name!r} has {asked}; values there: {seen}"

    def _written(self) -> pd.DataFrame:
        if "descriptors" not in self.frame:
            raise ValueError(
                f"{self.name!r} has no written descriptors: they are read from a column "
                f"'descriptors' (lists of strings), as in 'sample:reviews'"
            )
        lists = [
            list(x) if isinstance(x, (list, tuple, np.ndarray)) else [] for x in self.frame["descriptors"]
        ]
        counts = Counter(d for ds in lists for d in set(ds))
        names = sorted(counts, key=lambda d: (-counts[d], d))  # most frequent first
        column = {name: j for j, name in enumerate(names)}
        values = np.zeros((len(self), len(names)))
        for i, written in enumerate(lists):
            values[i, [column[d] for d in written]] = 1.0
        return pd.DataFrame(values, index=_id_index(self.frame), columns=names)


def _brief(value) -> str:
    """A value of `where` in the name of a corpus: long lists by their length."""
    if not isinstance(value, (list, tuple, set, frozenset)):
        return str(value)
    return "|".join(map(str, value)) if len(value) <= 3 else f"{len(value)} values"


def _id_index(frame: pd.DataFrame) -> pd.Index:
    return pd.Index(frame["text_id"], name="text_id")


def counts_of(dropped: dict[str, int]) -> str:
    return ", ".join(f"{n:,} {reason}" for reason, n in dropped.items())
