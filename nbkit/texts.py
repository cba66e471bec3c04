"""Corpora with one exact index: text, character span, word, labels.

Everything downstream joins on the two ids made here, so they are made once and kept.

    load        read a corpus from any source into `Texts`
    Texts       the texts (`.frame`), their words (`.words`), what reading lost (`.losses`)
    words_of    the words of one plain text, with spans, by a simple regular expression
    READERS     the file suffixes that can be read, suffix -> reader

Sources of `load`:

    "sample:reviews"       written for the kit; also questions, encyclopedia, fiction, treebank
    "notes.txt"            a file: .txt (one text a line) .csv .tsv .jsonl .parquet .conllu
    "ud_en_ewt"            a folder of .conllu files; `split="dev"` takes ...-dev.conllu
    "hf:owner/name"        a dataset of the Hugging Face hub (streamed), or "hf:" + a local folder
    "hf:name/config"       the same, when no dataset has that whole name: the last part is a config

Conventions:
- `.frame` has one row a text, in corpus order: `text_id`, `text`, then the label columns of
  the source.
- `.words` has one row a word, in order, or is None for plain text: `text_id`, `word_id`, `form`,
  `start`, `end`, and from CoNLL-U `lemma upos xpos head deprel feats mwt`.
- `text_id` is 0..n-1 in a loaded corpus, and a sub-corpus KEEPS the ids of its parent (unique,
  ascending), so any table can be joined back. It is not a row position in a sub-corpus.
- `word_id` counts from 1 as in CoNLL-U, so that `head` refers to a `word_id` and 0 is the root.
- `start`, `end` are character offsets: `text[start:end] == form` for every word, except inside a
  multi-word token of CoNLL-U (`3-4 au`), whose words all get the span of the whole token
  (`mwt` is True there).
- The frames are the object's own, not copies: read them, `.copy()` before you change them.

The usual loop:

    corpus = texts.load("ud_en_ewt", split="train")
    genres = {genre: corpus.where(genre=genre) for genre in corpus.frame.genre.unique()}
    calibration, validation = genres["email"].split(0.5, seed=0)
    gold = calibration.descriptors()          # [text_id, descriptor], 0 or 1
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import itertools
import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from nbkit import grammar

log = logging.getLogger(__name__)

SAMPLES = ("reviews", "questions", "encyclopedia", "fiction", "treebank")

# EWT has no genre comment: its genre is the first part of the sentence id.
EWT_GENRES = ("answers", "email", "newsgroup", "reviews", "weblog")

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
    losses: dict[str, int] = field(default_factory=dict)  # what reading dropped, by reason
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
        if self.losses:
            parts.append("lost in reading: " + _counts(self.losses))
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

    def split(self, fraction: float, seed: int = 0, *, by: str | None = None) -> tuple[Texts, Texts]:
        """Two parts at random, the first with `fraction` of the texts; order and ids are kept.

        `by` names a column whose equal values stay on one side (`by="doc_id"`); the first part is
        then as near to `fraction` as whole groups allow. A text without a value is its own group.
        """
        if not 0 < fraction < 1:
            raise ValueError(f"fraction={fraction!r} leaves a part empty: give a number in (0, 1)")
        groups = self._groups(by)
        sizes = np.bincount(groups)
        if len(sizes) < 2:
            unit = "text" if by is None else f"value of {by!r}"
            raise ValueError(f"{self.name!r} has only one {unit}: it cannot be split in two")
        order = np.random.default_rng(seed).permutation(len(sizes))
        cut = _nearest_cut(sizes[order], fraction * len(self))
        first = np.isin(groups, order[:cut])
        return self._take(np.flatnonzero(first)), self._take(np.flatnonzero(~first))

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
            return grammar.from_surface(self.frame)
        if source == "written":
            return self._written()
        if source != "annotation":
            raise ValueError(
                f"descriptors from {source!r}: choose 'auto', 'annotation', 'surface' or 'written'"
            )
        if not self.annotated:
            raise ValueError(f"{self.name!r} has no annotation: load a .conllu source, or ask for 'surface'")
        return grammar.from_annotation(self.words, self.frame)

    # what the methods above are made of

    def _take(self, positions: np.ndarray) -> Texts:
        """The texts at these row positions, in corpus order, with their words."""
        frame = self.frame.iloc[np.sort(positions)].reset_index(drop=True)
        words = self.words
        if words is not None:
            inside = np.isin(words["text_id"].to_numpy(), frame["text_id"].to_numpy())
            words = words[inside].reset_index(drop=True)
        return replace(self, frame=frame, words=words)

    def _groups(self, by: str | None) -> np.ndarray:
        """A group number 0.. for every text."""
        if by is None:
            return np.arange(len(self))
        self._require(by)
        codes, _ = pd.factorize(self.frame[by])
        missing = codes < 0
        codes[missing] = codes.max(initial=-1) + 1 + np.arange(missing.sum())
        return codes

    def _require(self, column: str) -> None:
        if column not in self.frame:
            raise ValueError(
                f"{self.name!r} has no column {column!r}{_nearest(column, self.frame.columns)}; "
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


def _nearest_cut(sizes: np.ndarray, target: float) -> int:
    """How many of the first groups come nearest to `target` texts, at least 1 and not all."""
    return int(np.argmin(np.abs(np.cumsum(sizes)[:-1] - target))) + 1


# ------------------------------------------------------------------------------------- loading


def load(
    source: str | Path,
    *,
    split: str | None = None,
    limit: int | None = None,
    revision: str | None = None,
    seed: int = 0,
    text: str | None = None,
    shuffle: int = 0,
) -> Texts:
    """Read a corpus; what had to be dropped is counted in `.losses` and logged once.

    source    see the module's docstring.
    split     of a folder of .conllu files: "train", "dev", "test" (None: all of them, with a column
              `split`); of an `hf:` dataset (None: "train").
    limit     local sources: a random sample (by `seed`) of that many of the texts left after
              cleaning, in corpus order. `hf:`: the first that many of the stream. A corpus with
              fewer is taken whole, and that is logged. `text_id` is 0..n-1 after the limit.
    revision  of an `hf:` dataset: a commit, branch or tag. It is resolved to a commit hash, which
              `.source["revision"]` records (None: the newest; give the recorded hash to pin it).
    text      the column that holds the text. By default the column `text`, or the only column of
              strings. A column called `text` that is not the text becomes `source_text`.
    shuffle   `hf:` only: size of the buffer through which the stream is shuffled (by `seed`) first.

    Cleaning: outer white space is cut (not in CoNLL-U); dropped and counted are `empty` texts (also
    missing or not a string), exact `duplicate`s of an earlier text, lines that are not UTF-8
    (`undecodable`) or not what the format asks (`malformed`), and sentences whose words are not in
    their text (`misaligned`).
    Counted, nothing dropped: `empty_node` (the 8.1 of enhanced CoNLL-U, skipped).
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit!r}: give 1 or more, or None for all texts")
    spec = str(source)
    asked = {"source": spec, "split": split, "limit": limit, "revision": revision, "seed": seed}
    if spec.startswith("hf:"):
        raw = _read_hub(spec, split or "train", limit, revision, seed, text, shuffle)
    else:
        _refuse_hub_options(spec, revision, shuffle)
        raw = _read_sample(spec, split) if spec.startswith("sample:") else _read_path(spec, split)
    asked["revision"] = raw.revision
    frame, words, losses = _clean(raw, text, spec)
    corpus = Texts(raw.name, frame, words, losses, asked)
    _report(corpus, raw)
    return corpus if spec.startswith("hf:") else _limited(corpus, limit, seed)


class Raw(NamedTuple):
    """What a reader found, before cleaning."""

    name: str
    rows: pd.DataFrame  # a row a text, with the columns of the source
    words: pd.DataFrame | None = None  # text_id refers to the row position
    losses: dict[str, int] = {}
    first_line: dict[str, str] = {}  # where the first loss of each kind is
    revision: str | None = None


def _refuse_hub_options(spec: str, revision: str | None, shuffle: int) -> None:
    for name, value in (("revision", revision), ("shuffle", shuffle)):
        if value:
            raise ValueError(f"{name}={value!r} is for 'hf:' sources; {spec!r} is local: drop it")


def _limited(corpus: Texts, limit: int | None, seed: int) -> Texts:
    if limit is None:
        return corpus
    if limit >= len(corpus):
        log.info("%s: limit=%d, all %d texts taken", corpus.name, limit, len(corpus))
        return corpus
    return _renumbered(corpus.sample(limit, seed))


def _renumbered(corpus: Texts) -> Texts:
    """The same texts with text_id 0..n-1."""
    old = corpus.frame["text_id"].to_numpy()
    frame = corpus.frame.assign(text_id=np.arange(len(old)))
    words = corpus.words
    if words is not None:  # `old` is ascending, so the new id of an old one is its position
        words = words.assign(text_id=np.searchsorted(old, words["text_id"].to_numpy()))
    return replace(corpus, frame=frame, words=words)


def _clean(raw: Raw, text: str | None, spec: str) -> tuple[pd.DataFrame, pd.DataFrame | None, dict]:
    """Drop empty and duplicate texts, number the rest, put text_id and text first."""
    losses = Counter(raw.losses)
    rows = raw.rows
    if len(rows):
        rows = _name_columns(rows, text, spec)
        column = _text_of(rows["text"], strip=raw.words is None)
        losses["empty"] += int((column == "").sum())
        repeated = column.duplicated() & (column != "")
        losses["duplicate"] += int(repeated.sum())
        keep = ((column != "") & ~repeated).to_numpy()
        rows = rows.assign(text=column)[keep]
    losses = {reason: n for reason, n in losses.items() if n}
    if not len(rows):
        found = _counts(losses) if losses else "it holds no line"
        mend = "; save it as UTF-8" if "undecodable" in losses else ""
        raise ValueError(f"{spec!r} has no text left after cleaning: {found}{mend}")
    rows = rows.reset_index(drop=True)
    rows.insert(0, "text_id", np.arange(len(rows)))
    return rows, _renumber_words(raw.words, keep), losses


def _text_of(column: pd.Series, *, strip: bool) -> pd.Series:
    """The texts as plain strings; a missing or non-string value is an empty text."""
    values = [x if isinstance(x, str) else "" for x in column]
    stripped = [x.strip() for x in values]
    # a text of CoNLL-U keeps its white space (spans count it), unless that is all there is
    values = stripped if strip else [x if s else "" for x, s in zip(values, stripped, strict=True)]
    return pd.Series(values, index=column.index, dtype="str")


def _name_columns(rows: pd.DataFrame, text: str | None, spec: str) -> pd.DataFrame:
    """`text` first; other columns that would collide get the prefix source_."""
    chosen = _text_column(rows, text, spec)
    names = {c: f"source_{c}" for c in rows if c in ("text_id", "text") and c != chosen}
    rows = rows.rename(columns=names).rename(columns={chosen: "text"})
    return rows[["text", *(c for c in rows if c != "text")]]


def _text_column(rows: pd.DataFrame, text: str | None, spec: str) -> str:
    columns = list(rows.columns)
    if text is not None:
        if text not in columns:
            raise ValueError(
                f"{spec!r} has no column {text!r}{_nearest(text, columns)}; its columns are {columns}"
            )
        return text
    if "text" in columns:
        return "text"
    strings = [c for c in columns if _holds_strings(rows[c])]
    if len(strings) == 1:
        return strings[0]
    raise ValueError(
        f"{spec!r} has {len(strings)} columns of strings and none is called 'text': "
        f"name it with text=...; its columns are {columns}"
    )


def _holds_strings(column: pd.Series) -> bool:
    values = column.dropna()
    return len(values) > 0 and all(isinstance(x, str) for x in values)


def _renumber_words(words: pd.DataFrame | None, keep: np.ndarray) -> pd.DataFrame | None:
    if words is None:
        return None
    position = words["text_id"].to_numpy()
    new_id = np.cumsum(keep) - 1
    words = words.assign(text_id=new_id[position])[keep[position]]
    return words.reset_index(drop=True)


def _report(corpus: Texts, raw: Raw) -> None:
    """One warning with everything that was lost."""
    if corpus.losses:
        where = [f"first {reason}: {at}" for reason, at in raw.first_line.items()]
        log.warning(
            "%s: kept %d texts; %s",
            corpus.name,
            len(corpus),
            "; ".join([_counts(corpus.losses), *where]),
        )


def _counts(losses: dict[str, int]) -> str:
    return ", ".join(f"{n:,} {reason}" for reason, n in losses.items())


def _nearest(word: str, choices: Iterable[str]) -> str:
    """A hint: " (did you mean 'x'?)", or nothing."""
    close = difflib.get_close_matches(str(word), [str(c) for c in choices], n=2, cutoff=0.5)
    return f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""


# -------------------------------------------------------------------------------- local sources


def _read_sample(spec: str, split: str | None) -> Raw:
    name = spec.removeprefix("sample:")
    known = [f"sample:{s}" for s in SAMPLES]
    if name not in SAMPLES:
        raise ValueError(f"unknown sample {spec!r}{_nearest(spec, known)}; the samples are {known}")
    if split is not None:
        raise ValueError(f"split={split!r}: {spec!r} has no splits; use .split(fraction, seed)")
    suffix = ".conllu" if name == "treebank" else ".jsonl"
    file = resources.files("nbkit") / "data" / f"{name}{suffix}"
    if not file.is_file():
        raise FileNotFoundError(f"{spec!r}: {file} is missing; reinstall nbkit")
    with resources.as_file(file) as path:
        return READERS[suffix](path)


def _read_path(spec: str, split: str | None) -> Raw:
    path = Path(spec).expanduser()
    if path.is_dir():
        return _read_folder(path, split)
    if not path.exists():
        _refuse_missing(spec, path)
    if path.suffix.lower() not in READERS:
        raise ValueError(f"{spec!r}: files that can be read end in {', '.join(READERS)}, not {path.suffix!r}")
    if split is not None:
        raise ValueError(
            f"split={split!r}: {spec!r} is one file; splits are those of a folder of .conllu files"
        )
    return READERS[path.suffix.lower()](path)


def _refuse_missing(spec: str, path: Path) -> None:
    """A path gets FileNotFoundError with its neighbours, anything else the list of sources."""
    if path.suffix or len(path.parts) > 1:
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = _nearest(path.name, beside)
        raise FileNotFoundError(f"no file {spec!r}{hint} ({path.absolute()})")
    known = [f"sample:{s}" for s in SAMPLES]
    hint = _nearest(spec, known) or _nearest(f"sample:{spec}", known)
    raise ValueError(
        f"unknown source {spec!r}{hint}; give a path ({', '.join(READERS)}, or a folder of "
        f".conllu), 'hf:name', or one of {known}"
    )


def _read_folder(path: Path, split: str | None) -> Raw:
    """The treebank files of a folder, one split or all of them (UD names: en_ewt-ud-dev.conllu)."""
    files = {_split_of(p): p for p in sorted(path.glob("*.conllu"))}
    if not files:
        raise ValueError(f"{str(path)!r} is a folder without .conllu files: give a file")
    if split is not None and split not in files:
        raise ValueError(f"{str(path)!r} has no split {split!r}; it has {sorted(files)}")
    order = [s for s in ("train", "dev", "test") if s in files]
    order += [s for s in files if s not in order]
    parts = {s: _read_conllu(files[s]) for s in ([split] if split else order)}
    name = f"{path.name}:{split}" if split else path.name
    return _joined(name, parts)


def _split_of(path: Path) -> str:
    """en_ewt-ud-dev.conllu -> dev; de.conllu -> de"""
    return path.stem.rsplit("-", 1)[-1]


def _joined(name: str, parts: dict[str, Raw]) -> Raw:
    rows = pd.concat([p.rows.assign(split=s) for s, p in parts.items()], ignore_index=True)
    starts = np.cumsum([0, *(len(p.rows) for p in parts.values())])
    words = pd.concat(
        [
            p.words.assign(text_id=p.words["text_id"] + n)
            for p, n in zip(parts.values(), starts, strict=False)
        ],
        ignore_index=True,
    )
    losses: Counter = Counter()
    first: dict[str, str] = {}
    for part in parts.values():
        losses.update(part.losses)
        first = {**part.first_line, **first}
    return Raw(name, rows, words, dict(losses), first)


class _Losses:
    """Counts by reason, and where the first of each was."""

    def __init__(self, path: Path):
        self.path, self.count, self.first = path, Counter(), {}

    def add(self, reason: str, line: int) -> None:
        self.count[reason] += 1
        self.first.setdefault(reason, f"{self.path.name} line {line}")


def _open(path: Path, newline: str | None = None):
    # Bytes that are not UTF-8 become lone surrogates, so a line that has them is found exactly
    # and the lines around it stay what they are. A byte order mark is not part of the text.
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def _undecodable(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return True
    return False


def _read_txt(path: Path) -> Raw:
    lost, lines = _Losses(path), []
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            if _undecodable(line):
                lost.add("undecodable", number)
            else:
                lines.append(line.rstrip("\n"))
    return Raw(path.stem, pd.DataFrame({"text": lines}), None, lost.count, lost.first)


def _read_csv(path: Path) -> Raw:
    return _read_table(path, delimiter=",")


def _read_tsv(path: Path) -> Raw:
    # No quoting: in tab-separated corpora a quotation mark is part of the text, and reading it as
    # syntax would swallow every line up to the next one.
    return _read_table(path, delimiter="\t", quoting=csv.QUOTE_NONE)


def _read_table(path: Path, **dialect) -> Raw:
    """A table whose first line names the columns; columns of numbers become numbers."""
    lost, rows = _Losses(path), []
    csv.field_size_limit(2**31 - 1)
    with _open(path, newline="") as file:
        reader = csv.reader(file, **dialect)
        header = _header(next(reader, []))
        for row in reader:
            if not row:
                lost.add("empty", reader.line_num)
            elif any(map(_undecodable, row)):
                lost.add("undecodable", reader.line_num)
            elif len(row) != len(header):
                lost.add("malformed", reader.line_num)
            else:
                rows.append(row)
    frame = pd.DataFrame(rows, columns=header, dtype="str").apply(_numbers)
    return Raw(path.stem, frame, None, lost.count, lost.first)


def _header(names: list[str]) -> list[str]:
    """Column names, unique and not empty."""
    seen: dict[str, str] = {}
    for j, name in enumerate(names, start=1):
        seen[f"{name}_{j}" if name in seen else name or f"column_{j}"] = name
    return list(seen)


def _numbers(column: pd.Series) -> pd.Series:
    """Numbers where every value is one (an empty cell is missing), otherwise as it is."""
    filled = column[column != ""]
    if column.name == "text" or not len(filled):
        return column
    if pd.to_numeric(filled, errors="coerce").isna().any():
        return column
    return pd.to_numeric(column.where(column != ""))


def _read_jsonl(path: Path) -> Raw:
    lost, rows = _Losses(path), []
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                lost.add("empty", number)
            elif _undecodable(line):
                lost.add("undecodable", number)
            elif (row := _json_object(line)) is None:
                lost.add("malformed", number)
            else:
                rows.append(row)
    return Raw(path.stem, pd.DataFrame(rows), None, lost.count, lost.first)


def _json_object(line: str) -> dict | None:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    # "\ud800" is legal JSON and no character: such a text could not be written or hashed
    bad = not isinstance(row, dict) or any(isinstance(v, str) and _undecodable(v) for v in row.values())
    return None if bad else row


def _read_parquet(path: Path) -> Raw:
    try:
        return Raw(path.stem, pd.read_parquet(path))
    except (OSError, ValueError) as error:
        raise ValueError(f"{str(path)!r} is not a readable parquet file: {error}") from error


# ------------------------------------------------------------------------------------- CoNLL-U

COMMENT = re.compile(r"#\s*([\w:]+(?: \w+)?)\s*=\s*(.*)")


class _Malformed(ValueError):
    """A sentence that cannot be used; the message is the reason under which it is counted."""


def _read_conllu(path: Path) -> Raw:
    """Sentences with their words aligned in `# text`; comments become columns.

    `newdoc id` and `newpar id` are carried forward as `doc_id` and `par_id`. A sentence without
    `# text` is rebuilt from its forms and SpaceAfter=No. A missing head (`_`) is -1.
    """
    lost, rows, words = _Losses(path), [], []
    carried: dict[str, str] = {}
    with _open(path) as file:
        for number, comments, lines in _blocks(file):
            comments = _comments(comments, carried)
            try:
                text, found = _sentence(comments.get("text"), lines, lost, number)
            except _Malformed as reason:
                lost.add(str(reason), number)
                continue
            words += [(len(rows), *word) for word in found]
            rows.append({**comments, "text": text})
    columns = ["text_id", "word_id", "form", "start", "end", *ANNOTATION]
    frame = _with_genre(pd.DataFrame(rows))
    return Raw(path.stem, frame, pd.DataFrame(words, columns=columns), lost.count, lost.first)


def _blocks(file: Iterable[str]) -> Iterator[tuple[int, list[str], list[str]]]:
    """Sentences: number of the first line, comment lines, word lines."""
    first, comments, lines = 1, [], []
    for number, line in enumerate(itertools.chain(file, [""]), start=1):
        line = line.rstrip("\n")
        if not line.strip():
            if lines:
                yield first, comments, lines
            first, comments, lines = number + 1, [], []
        # only before the first word: afterwards "#" can be a damaged word line
        elif line.startswith("#") and not lines:
            comments.append(line)
        else:
            lines.append(line)


def _comments(lines: list[str], carried: dict[str, str]) -> dict[str, str]:
    """`# key = value` comments as columns; `carried` holds the document and paragraph so far."""
    found = {}
    for line in lines:
        if match := COMMENT.fullmatch(line):
            found[match[1]] = match[2]
    if "newdoc id" in found:
        carried.clear()
        carried["doc_id"] = found.pop("newdoc id")
    if "newpar id" in found:
        carried["par_id"] = found.pop("newpar id")
    return {**carried, **{re.sub(r"\W+", "_", key): value for key, value in found.items()}}


def _sentence(text: str | None, lines: list[str], lost: _Losses, number: int):
    """The text and its word rows (word_id, form, start, end, then ANNOTATION)."""
    fields = [line.split("\t") for line in lines]
    if any(len(f) != 10 for f in fields):
        raise _Malformed("malformed")
    if _undecodable(text or "") or any(map(_undecodable, lines)):
        raise _Malformed("undecodable")
    for f in fields:
        if "." in f[0]:
            lost.add("empty_node", number)
    fields = [f for f in fields if "." not in f[0]]
    tokens = _surface_tokens(fields)
    if text is None:
        text = "".join(f[1] + ("" if "SpaceAfter=No" in f[9].split("|") else " ") for f, _ in tokens).strip()
    spans = _aligned(text, tokens)
    syntactic = [f for f in fields if "-" not in f[0]]
    return text, _word_rows(syntactic, spans)


def _surface_tokens(fields: list[list[str]]) -> list[tuple[list[str], int]]:
    """What is written in the text, in order: (fields, how many words it stands for, 0 if one)."""
    tokens, inside = [], 0
    for f in fields:
        if "-" in f[0]:
            first, _, last = f[0].partition("-")
            if inside or not (first.isdecimal() and last.isdecimal() and int(first) < int(last)):
                raise _Malformed("malformed")
            inside = int(last) - int(first) + 1
            tokens.append((f, inside))
        elif inside:
            inside -= 1
        else:
            tokens.append((f, 0))
    if inside:
        raise _Malformed("malformed")
    return tokens


def _aligned(text: str, tokens: list[tuple[list[str], int]]) -> list[tuple[int, int, bool]]:
    """(start, end, mwt) of every word: each form follows the one before, white space apart."""
    spans, at = [], 0
    for f, count in tokens:
        form = f[1]
        while at < len(text) and text[at].isspace():
            at += 1
        if not text.startswith(form, at):
            raise _Malformed("misaligned")
        spans += [(at, at + len(form), count > 0)] * max(count, 1)
        at += len(form)
    if text[at:].strip():
        raise _Malformed("misaligned")
    return spans


def _word_rows(fields: list[list[str]], spans: list[tuple[int, int, bool]]) -> list[tuple]:
    rows = []
    for word_id, (f, (start, end, mwt)) in enumerate(zip(fields, spans, strict=True), start=1):
        head = int(f[6]) if f[6].isdecimal() else -1 if f[6] == "_" else None
        if f[0] != str(word_id) or head is None or head > len(fields):
            raise _Malformed("malformed")
        lemma = f[2] if f[2] != "_" or f[1] == "_" else ""
        upos, xpos, feats, deprel = ("" if f[j] == "_" else f[j] for j in (3, 4, 5, 7))
        rows.append((word_id, f[1], start, end, lemma, upos, xpos, head, deprel, feats, mwt))
    return rows


def _with_genre(frame: pd.DataFrame) -> pd.DataFrame:
    """Add EWT's genre, which is the first part of its sentence ids, unless a comment gives it."""
    if "genre" in frame or "sent_id" not in frame:
        return frame
    genre = frame["sent_id"].str.replace(r"-.*", "", regex=True)
    return frame.assign(genre=genre) if genre.isin(EWT_GENRES).all() else frame


READERS: dict[str, Callable[[Path], Raw]] = {
    ".txt": _read_txt,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
    ".conllu": _read_conllu,
}


# --------------------------------------------------------------------------------------- the hub


def _read_hub(spec, split, limit, revision, seed, text, shuffle) -> Raw:
    """Stream a dataset at one commit, as far as `limit` distinct texts."""
    import datasets

    name, config, commit = _locate(spec, revision)
    try:
        stream = datasets.load_dataset(name, config, split=split, revision=commit, streaming=True)
        if shuffle:
            stream = stream.shuffle(seed=seed, buffer_size=shuffle)
        rows = pd.DataFrame(_first_texts(stream, limit, text, spec))
    except Exception as error:
        raise _hub_error(spec, split, error) from error
    if limit is not None and len(rows) < limit:
        log.info("%s: limit=%d, the stream holds %d rows, all taken", spec, limit, len(rows))
    label = name if config is None else f"{name}/{config}"
    return Raw(f"hf:{label}", rows, revision=commit)


def _locate(spec: str, revision: str | None) -> tuple[str, str | None, str | None]:
    """(dataset, config, commit). One rule: the whole name if there is such a dataset (or local
    folder), otherwise the last part is the config. Three parts always end in a config, because
    a dataset's name has at most two."""
    whole = spec.removeprefix("hf:")
    if Path(whole).expanduser().is_dir():
        return str(Path(whole).expanduser()), None, None
    front, _, last = whole.rpartition("/")
    candidates = [(whole, None)] if whole.count("/") < 2 else []
    candidates += [(front, last)] if front else []
    for name, config in candidates:
        try:
            return name, config, _commit(name, revision, spec)
        except FileNotFoundError:
            log.debug("no dataset %s on the hub", name)
    tried = " or ".join(
        name if config is None else f"{name} (config {config})" for name, config in candidates
    )
    raise FileNotFoundError(
        f"no dataset {tried} on the hub for {spec!r}: check the name; a private or gated one "
        f"needs `hf auth login`"
    )


def _commit(name: str, revision: str | None, spec: str) -> str | None:
    """The commit hash of a revision (None: the newest), or `revision` itself if the hub, though
    reached, does not tell. Asked first because the hub's loader retries for half a minute."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return HfApi().dataset_info(name, revision=revision).sha
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise FileNotFoundError(name) from error
    except RevisionNotFoundError as error:
        raise ValueError(
            f"{spec!r} has no revision {revision!r}: give a commit, branch or tag, or None for the newest"
        ) from error
    except Exception as error:
        if _unreachable(error):
            raise _hub_error(spec, None, error) from error
        log.warning("%s: no commit known for revision %r (%s)", spec, revision, error)
        return revision


def _unreachable(error: BaseException | None) -> bool:
    """Whether the hub could not be reached, by any of the libraries that talk to it."""
    while error is not None:
        names = {c.__name__ for c in type(error).__mro__}
        if names & {"ConnectionError", "TransportError", "Timeout", "LocalEntryNotFoundError"}:
            return True
        error = error.__cause__
    return False


def _hub_error(spec: str, split: str | None, error: Exception) -> Exception:
    if _unreachable(error):
        return ConnectionError(
            f"{spec!r} could not be reached ({error}): connect to the network, or save the dataset "
            f"to a file elsewhere and load that; 'sample:reviews' needs no network"
        )
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(f"{spec!r} was not found: {error}")
    return ValueError(f"{spec!r}, split {split!r}, could not be read: {error}")


def _first_texts(stream, limit: int | None, text: str | None, spec: str) -> list[dict]:
    """Rows of a stream until `limit` distinct, non-empty texts were seen (cleaning drops the
    others later, and counts them)."""
    from tqdm.auto import tqdm

    rows, seen, column = [], set(), None
    for row in tqdm(stream, desc=spec, unit="row", leave=False):
        column = column or _text_column(pd.DataFrame([row]), text, spec)
        rows.append(row)
        value = row[column]
        seen.update([value.strip()] if isinstance(value, str) and value.strip() else [])
        if limit is not None and len(seen) >= limit:
            break
    return rows
