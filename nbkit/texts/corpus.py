"""A corpus in memory: `Texts`, its parts, its label matrix, its fingerprint."""

from __future__ import annotations

import hashlib
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from nbkit import stats
from nbkit.texts.grammar import from_annotation, from_surface
from nbkit.texts.readers import concat_tables, nearest, undecodable, with_named_index

ANNOTATION = ["lemma", "upos", "xpos", "head", "deprel", "feats", "mwt"]


class Word(NamedTuple):
    """A word of one text: `text[start:end] == form`."""

    form: str
    start: int
    end: int


def words_of(text: str) -> list[Word]:
    """The words of a plain text: runs of letters and digits (with inner ' ’ -), or one other character.

    A mark (accent, vowel sign, emoji variation) belongs to the character before it, and an emoji of several
    characters is one word. Format characters (soft hyphen, zero-width space, joiners) cut no word and are
    none. Simple on purpose and the same everywhere. It is not UD's tokenization: "don't" is one word.
    """
    return [Word(m.group(), *m.span()) for m in _word_pattern().finditer(text)]


@cache
def _word_pattern() -> re.Pattern[str]:
    """The rule of `words_of`, in the classes of Unicode, which `re` does not have."""
    of = {"M": [], "Cf": [], "Cc": []}
    for i in range(sys.maxunicode + 1):
        category = unicodedata.category(chr(i))
        if category[0] == "M" or category in of:
            of["M" if category[0] == "M" else category].append(i)
    mark, form, controls = (_ranges(numbers) for numbers in of.values())
    # a variation selector or a grapheme joiner shows nothing by itself
    hidden = ("VARIATION SELECTOR", "GRAPHEME JOINER")
    visible = _ranges([i for i in of["M"] if not any(h in unicodedata.name(chr(i), "") for h in hidden)])
    core = rf"[\w{visible}](?:[\w{mark}{form}]*[\w{mark}])?"
    word = rf"{core}(?:[{form}]*['’-][{form}]*{core})*"
    skin = "\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f"  # emoji modifiers and tags
    symbol = rf"[^\w\s{mark}{form}{controls}][{mark}{skin}]*"
    flag = "[\U0001f1e6-\U0001f1ff]{2}"
    return re.compile(rf"{word}|{flag}|{symbol}(?:\u200d{symbol})*")


def _ranges(numbers: list[int]) -> str:
    """The characters of these numbers, ascending, as part of a character class: a-bc-d..."""
    starts = [i for i, before in zip(numbers, [-2, *numbers], strict=False) if i != before + 1]
    ends = [i for i, after in zip(numbers, [*numbers[1:], -2], strict=True) if i != after - 1]
    return "".join(f"\\U{a:08x}-\\U{b:08x}" for a, b in zip(starts, ends, strict=True))


@dataclass(frozen=True, eq=False, repr=False)
class Texts:
    """A corpus. Its columns are listed in `nbkit.texts`; compare two corpora by `.fingerprint`."""

    name: str
    frame: pd.DataFrame  # one row per text: text_id, text, label columns
    words: pd.DataFrame | None = None  # one row per word, None for plain text
    dropped: dict[str, int] = field(default_factory=dict)  # what reading dropped, by reason
    source: dict = field(default_factory=dict)  # what `load` was asked for, revision resolved

    @classmethod
    def from_list(cls, texts: Iterable[str], name: str = "texts") -> Texts:
        """A corpus of the strings given, unchanged: text_id is the position in the list.

        `ValueError` for a single string, no text at all, or a text that is no string.
        """
        if isinstance(texts, (str, bytes)):
            raise ValueError(f"from_list got one string, {texts[:40]!r}: give a list of texts, [text]")
        if isinstance(texts, Mapping) or not isinstance(texts, Iterable):
            raise ValueError(
                f"from_list got a {type(texts).__name__}: give a list of texts (a file: texts.load)"
            )
        return cls.from_frame(pd.DataFrame({"text": pd.Series(list(texts), dtype=object)}), name)

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, name: str = "texts", *, text: str = "text") -> Texts:
        """A corpus of one text per row, unchanged: the texts of column `text`, all other columns as labels.

        A column or index called `text_id` gives the ids (whole numbers, ascending, none twice), otherwise
        they are 0..n-1. Other named indexes become columns. `ValueError` for no row, no such column, a text
        that is no string or not valid Unicode, and ids that do not ascend.
        """
        frame = with_named_index(frame)
        if len(twice := frame.columns[frame.columns.duplicated()]) or frame.columns.nlevels > 1:
            which = f"two columns {twice[0]!r}" if len(twice) else "columns with names of several parts"
            raise ValueError(f"{name!r} has {which}: give each column one name of its own")
        if text not in frame:
            raise ValueError(
                f"{name!r} has no column {text!r}{nearest(text, frame.columns)}: name the column of texts "
                f"with text=...; its columns are {list(frame.columns)}"
            )
        if frame.empty:
            raise ValueError(f"{name!r} would have no text: give at least one")
        frame = frame.rename(columns={"text": "source_text"} if text != "text" else {})
        frame = frame.rename(columns={text: "text"})
        _refuse_other_than_strings(frame["text"], name)
        ids = _checked_ids(frame["text_id"], name) if "text_id" in frame else np.arange(len(frame))
        labels = frame.drop(columns=["text_id", "text"], errors="ignore")
        found = pd.DataFrame({"text_id": ids, "text": frame["text"].astype("str")})
        return cls(name, pd.concat([found, labels], axis=1))

    @classmethod
    def concat(cls, corpora: Mapping[str, Texts], name: str = "all corpora") -> Texts:
        """One corpus of several, {name: corpus}, one after another; text_id is 0..n-1.

        Two columns tell where a text is from: `corpus`, the name given here, and `of_corpus`, its text_id
        there. Label columns are kept, missing where a corpus has none. Words are kept if all corpora have
        words (with the columns that all of them have), otherwise the result is plain text.
        """
        if not corpora:
            raise ValueError("no corpus to put together: give {name: corpus}")
        starts = np.cumsum([0, *map(len, corpora.values())])
        parts = [part._renumbered(start) for part, start in zip(corpora.values(), starts, strict=False)]
        frames = []
        for (label, part), new in zip(corpora.items(), parts, strict=True):
            labels = new.frame.rename(columns={c: f"source_{c}" for c in ("corpus", "of_corpus")})
            labels.insert(2, "corpus", label)
            labels.insert(3, "of_corpus", part.frame["text_id"].to_numpy())
            frames.append(labels)
        words = [part.words for part in parts if part.words is not None]
        joined = pd.concat(words, join="inner", ignore_index=True) if len(words) == len(parts) else None
        dropped = sum((Counter(part.dropped) for part in parts), Counter())
        source = {"corpora": {label: part.source for label, part in corpora.items()}}
        return cls(name, concat_tables(frames), joined, dict(dropped), source)

    def __len__(self) -> int:
        return len(self.frame)

    def __repr__(self) -> str:
        parts = [self.name, f"{len(self):,} texts"]
        if self.words is not None:
            parts.append(f"{len(self.words):,} words")
        if self.dropped:
            parts.append("dropped in reading: " + counts_of(self.dropped))
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

    @property
    def lengths(self) -> pd.Series:
        """Length of each text in words between white space, by text_id; `.to_frame()` serves as covariates.

        For a language written without spaces count the rows of `.words` instead.
        """
        counts = [len(text.split()) for text in self.frame["text"]]
        return pd.Series(counts, index=pd.Index(self.frame["text_id"], name="text_id"), name="length")

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

    def where(self, **columns: Any) -> Texts:
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

    def _renumbered(self, start: int = 0) -> Texts:
        """The same texts with text_id start, start + 1, ..."""
        old = self.frame["text_id"].to_numpy()
        words = self.words
        if words is not None:  # `old` is ascending, so the new id of an old one is its position
            words = words.assign(text_id=start + np.searchsorted(old, words["text_id"].to_numpy()))
        return replace(self, frame=self.frame.assign(text_id=start + np.arange(len(old))), words=words)

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
        nested = next((x for x in self.frame[column] if isinstance(x, (list, dict, set, np.ndarray))), None)
        if nested is not None:
            raise ValueError(
                f"column {column!r} of {self.name!r} holds a {type(nested).__name__}, {_brief(nested)[:40]}:"
                " texts are chosen and grouped by single values; make a column of these first"
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
        columns = self.frame["text_id"], self.frame["descriptors"]
        lists = [self._list_of(text_id, value) for text_id, value in zip(*columns, strict=True)]
        counts = Counter(d for ds in lists for d in set(ds))
        names = sorted(counts, key=lambda d: (-counts[d], d))  # most frequent first
        column = {name: j for j, name in enumerate(names)}
        values = np.zeros((len(self), len(names)))
        for i, written in enumerate(lists):
            values[i, [column[d] for d in written]] = 1.0
        return pd.DataFrame(values, index=pd.Index(self.frame["text_id"], name="text_id"), columns=names)

    def _list_of(self, text_id: int, value: object) -> list[str]:
        """One text's written descriptors: numbers as strings, missing ones left out."""
        if value is None or value is pd.NA or isinstance(value, float) and np.isnan(value):
            return []
        items = list(value) if isinstance(value, (list, tuple, set, np.ndarray)) else None
        plain = (str, int, float, np.number, np.bool_, type(None))
        if items is None or not all(isinstance(x, plain) for x in items):
            raise ValueError(
                f"descriptors of text {text_id} of {self.name!r} are {value!r}: give a list of strings "
                "(a .jsonl or .parquet file holds lists), or drop the column"
            )
        return [str(x) for x in items if x is not None and x == x]


def _refuse_other_than_strings(texts: pd.Series, name: str) -> None:
    """A `ValueError` that names the first value that is no text."""
    for position, value in enumerate(texts):
        if not isinstance(value, str):
            raise ValueError(
                f"text {position} of {name!r} is {value!r}, not a string: leave it out or give a string"
            )
        if undecodable(value):
            raise ValueError(
                f"text {position} of {name!r} holds half a character (a lone surrogate) or a zero byte, "
                f"{value[:40]!r}: decode its source in its own encoding, or leave it out"
            )


def _checked_ids(ids: pd.Series, name: str) -> np.ndarray:
    """The ids as int64, or a `ValueError` if one is missing, no whole number, or not above the one before."""
    whole = pd.api.types.is_integer_dtype(ids) and not ids.isna().any()
    if not (whole and (np.diff(ids.to_numpy("int64")) > 0).all() and ids.min() >= 0):
        raise ValueError(
            f"text_id of {name!r} must be whole numbers from 0 that ascend, none twice: sort by it, or "
            f"drop(columns='text_id') to number the texts anew; it begins {ids.head(3).tolist()}"
        )
    return ids.to_numpy("int64")


def _brief(value: object) -> str:
    """A value of `where` in the name of a corpus: long lists by their length."""
    if not isinstance(value, (list, tuple, set, frozenset)):
        return str(value)
    return "|".join(map(str, value)) if len(value) <= 3 else f"{len(value)} values"


def counts_of(dropped: dict[str, int]) -> str:
    """{"empty": 2, "duplicate": 1} -> "2 empty, 1 duplicate" """
    return ", ".join(f"{n:,} {reason}" for reason, n in dropped.items())
