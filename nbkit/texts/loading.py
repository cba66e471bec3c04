"""`load`: find the source, read it, clean it, count what was dropped."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd

from nbkit.texts.conllu import read_conllu
from nbkit.texts.corpus import Texts, counts_of
from nbkit.texts.hub import read_hub
from nbkit.texts.readers import (
    Layout,
    Raw,
    concat_tables,
    name_columns,
    nearest,
    read_csv,
    read_jsonl,
    read_parquet,
    read_tsv,
    read_txt,
    text_of,
    undecodable,
)

log = logging.getLogger(__name__)

OTHER_ENCODING = "give its encoding, such as encoding='latin-1', or save it as UTF-8"
SHAPES = {
    ".jsonl": "each line has to be one JSON object, {...}",
    ".conllu": "each word has to be a line of ten columns with tabs between them",
}
SAMPLES = ("reviews", "questions", "encyclopedia", "fiction", "treebank")


def load(
    source: str | Path,
    *,
    split: str | None = None,
    limit: int | None = None,
    revision: str | None = None,
    seed: int = 0,
    text: str | None = None,
    shuffle: int = 0,
    encoding: str | None = None,
    separator: str | None = None,
    header: bool | None = None,
    names: Sequence[str] | None = None,
) -> Texts:
    """Read a corpus; what had to be dropped is counted in `.dropped` and logged once.

    source    a path, 'hf:...' or 'sample:...': see `nbkit.texts`.
    split     of a folder of .conllu files: "train", "dev", "test" (None: all of them, with a column
              `split`, and a column `file` where a split has several files); of an `hf:` dataset
              (None: "train").
    limit     local sources: a random sample (by `seed`) of that many of the texts left after
              cleaning, in corpus order. `hf:`: the first that many of the stream. A corpus with
              fewer is taken whole, and that is logged. `text_id` is 0..n-1 after the limit.
    revision  of an `hf:` dataset: a commit, branch or tag. It is resolved to a commit hash, which
              `.source["revision"]` records (None: the newest; give the recorded hash to pin it).
    text      the column that holds the text. By default the column `text`, or the only column of
              strings. A column called `text` that is not the text becomes `source_text`.
    shuffle   `hf:` only: size of the buffer through which the stream is shuffled (by `seed`) first.
    encoding  of a file of text without a byte order mark: "latin-1", "utf-16-le", ... (None: UTF-8).
    separator of a .csv: "," ";" tab or "|" (None: the one that fits); a .tsv has tabs.
    header    of a .csv or .tsv: whether its first line names the columns (None: yes, and a first line
              that looks like data is refused). Without names, columns are column_1, column_2, ...
    names     of the columns of a .csv or .tsv without a header.

    Cleaning: outer white space is cut (not in CoNLL-U); dropped and counted are `empty` texts (also
    missing or not a string), exact `duplicate`s of an earlier text, lines with bytes that are not of the
    encoding (`undecodable`) or not what the format asks (`malformed`), and sentences whose words are not
    in their text (`misaligned`).
    Counted, nothing dropped: `empty_node` (the 8.1 of enhanced CoNLL-U, skipped).
    A column of numbers becomes one of numbers where each can be written back as it was (007 cannot).
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit!r}: give 1 or more, or None for all texts")
    spec = str(source)
    asked = {"source": spec, "split": split, "limit": limit, "revision": revision, "seed": seed}
    layout = Layout(encoding, separator, header, names, text)
    asked |= {name: value for name, value in layout._asdict().items() if value is not None}
    if spec.startswith("hf:"):
        _refuse_layout(spec, layout, {"text"})
        raw = read_hub(spec, split or "train", limit, revision, seed, text, shuffle)
    else:
        _refuse_hub_options(spec, revision, shuffle)
        raw = _read_sample(spec, split) if spec.startswith("sample:") else _read_path(spec, split, layout)
    asked["revision"] = raw.revision
    frame, words, dropped = _clean(raw, text, spec)
    corpus = Texts(raw.name, frame, words, dropped, asked)
    _report(corpus, raw)
    return corpus if spec.startswith("hf:") else _limited(corpus, limit, seed)


def _refuse_hub_options(spec: str, revision: str | None, shuffle: int) -> None:
    for name, value in (("revision", revision), ("shuffle", shuffle)):
        if value:
            raise ValueError(f"{name}={value!r} is for 'hf:' sources; {spec!r} is local: drop it")


def _refuse_layout(spec: str, layout: Layout, takes: set[str]) -> None:
    for name, value in layout._asdict().items():
        if value is not None and name not in takes:
            raise ValueError(f"{name}={value!r} does not apply to {spec!r}: drop it")


def _read_file(path: Path, layout: Layout) -> Raw:
    """One file by the reader of its suffix; what cannot be decoded at all is a `ValueError`."""
    suffix = path.suffix.lower()
    _refuse_layout(str(path), layout, TAKES[suffix])
    for name, value in (("encoding", layout.encoding), ("separator", layout.separator)):
        if not isinstance(value, (str, type(None))):
            raise ValueError(f"{name}={value!r}: give a string")
    if layout.separator is not None and (len(layout.separator) != 1 or layout.separator in '"\r\n'):
        raise ValueError(
            f"separator={layout.separator!r}: give one character that is no quote and no line end, such as"
            " ';' or '\\t'"
        )
    try:
        "".encode(layout.encoding or "utf-8")
    except LookupError as error:
        raise ValueError(
            f"encoding={layout.encoding!r}: {error}; give one such as 'latin-1', 'cp1252' or 'utf-16'"
        ) from error
    try:
        return READERS[suffix](path, layout)
    except UnicodeError as error:
        raise ValueError(
            f"{str(path)!r} is not {layout.encoding or 'what its byte order mark says'} ({error}); give its "
            "encoding=, or save it as UTF-8"
        ) from error


def _limited(corpus: Texts, limit: int | None, seed: int) -> Texts:
    if limit is None:
        return corpus
    if limit >= len(corpus):
        log.info("%s: limit=%d, all %d texts taken", corpus.name, limit, len(corpus))
        return corpus
    return corpus.sample(limit, seed)._renumbered()


def _clean(raw: Raw, text: str | None, spec: str) -> tuple[pd.DataFrame, pd.DataFrame | None, dict]:
    """Drop empty and duplicate texts, number the rest, put text_id and text first."""
    dropped = Counter(raw.dropped)
    rows = raw.rows
    if len(rows):
        rows = name_columns(rows, text, spec)
        column = text_of(rows["text"], strip=raw.words is None)
        broken = column.map(undecodable).astype(bool)
        dropped["undecodable"] += int(broken.sum())
        dropped["empty"] += int((column == "").sum())
        repeated = column.duplicated() & (column != "") & ~broken
        dropped["duplicate"] += int(repeated.sum())
        keep = ((column != "") & ~repeated & ~broken).to_numpy()
        rows = rows.assign(text=column)[keep]
    dropped = {reason: n for reason, n in dropped.items() if n}
    if not len(rows):
        found = counts_of(dropped) if dropped else "it holds no line"
        if not dropped and list(raw.rows) and Path(spec).suffix.lower() in (".csv", ".tsv"):  # of one line
            found = f"its one line names the columns, {list(raw.rows)} (if it is a text: header=False)"
        fix = f"; {OTHER_ENCODING}" if "undecodable" in dropped else ""
        if "malformed" in dropped and (shape := SHAPES.get(Path(spec).suffix.lower())):
            fix += f" ({shape})"
        raise ValueError(f"{spec!r} has no text left after cleaning: {found}{fix}")
    rows = rows.reset_index(drop=True)
    rows.insert(0, "text_id", np.arange(len(rows)))
    return rows, _renumber_words(raw.words, keep), dropped


def _renumber_words(words: pd.DataFrame | None, keep: np.ndarray) -> pd.DataFrame | None:
    if words is None:
        return None
    position = words["text_id"].to_numpy()
    new_id = np.cumsum(keep) - 1
    words = words.assign(text_id=new_id[position])[keep[position]]
    return words.reset_index(drop=True)


def _report(corpus: Texts, raw: Raw) -> None:
    """One warning with everything that was dropped."""
    if corpus.dropped:
        where = [f"first {reason}: {at}" for reason, at in raw.first_line.items()]
        where += [OTHER_ENCODING] if "undecodable" in corpus.dropped else []
        log.warning(
            "%s: kept %d texts; %s",
            corpus.name,
            len(corpus),
            "; ".join([counts_of(corpus.dropped), *where]),
        )


# -------------------------------------------------------------------------------- local sources


def _read_sample(spec: str, split: str | None) -> Raw:
    name = spec.removeprefix("sample:")
    known = [f"sample:{s}" for s in SAMPLES]
    if name not in SAMPLES:
        raise ValueError(f"unknown sample {spec!r}{nearest(spec, known)}; the samples are {known}")
    if split is not None:
        raise ValueError(f"split={split!r}: {spec!r} has no splits; use .split(fraction, seed)")
    suffix = ".conllu" if name == "treebank" else ".jsonl"
    file = resources.files("nbkit") / "data" / f"{name}{suffix}"
    if not file.is_file():
        raise FileNotFoundError(f"{spec!r}: {file} is missing; reinstall nbkit")
    with resources.as_file(file) as path:
        return _read_file(path, Layout())


def _read_path(spec: str, split: str | None, layout: Layout) -> Raw:
    path = Path(spec).expanduser()
    if path.is_dir():
        return _read_folder(path, split, layout)
    if not path.exists():
        _refuse_missing(spec, path)
    if path.suffix.lower() not in READERS:
        raise ValueError(f"{spec!r}: files that can be read end in {', '.join(READERS)}, not {path.suffix!r}")
    if split is not None:
        raise ValueError(
            f"split={split!r}: {spec!r} is one file; splits are those of a folder of .conllu files"
        )
    return _read_file(path, layout)


def _refuse_missing(spec: str, path: Path) -> None:
    """A path gets FileNotFoundError with its neighbours, anything else the list of sources."""
    if path.suffix or len(path.parts) > 1:
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = nearest(path.name, beside)
        raise FileNotFoundError(f"no file {spec!r}{hint} ({path.absolute()})")
    known = [f"sample:{s}" for s in SAMPLES]
    hint = nearest(spec, known) or nearest(f"sample:{spec}", known)
    raise ValueError(
        f"unknown source {spec!r}{hint}; give a path ({', '.join(READERS)}, or a folder of "
        f".conllu), 'hf:name', or one of {known}"
    )


def _read_folder(path: Path, split: str | None, layout: Layout) -> Raw:
    """The treebank files of a folder, one split or all of them (UD names: en_ewt-ud-dev.conllu)."""
    files = sorted(p for p in path.iterdir() if p.suffix.lower() == ".conllu" and p.is_file())
    others = sorted(p.relative_to(path).as_posix() for p in path.rglob("*.conllu*") if p not in files)
    if not files:
        inside = f"; it has {', '.join(others[:3])}: give one of these, or its folder" if others else ""
        raise ValueError(f"{str(path)!r} is a folder without .conllu files: give a file{inside}")
    if others:
        log.warning(
            "%s: %d files of subfolders or of another kind are not read, such as %s: give them or their"
            " folder by themselves",
            *(path.name, len(others), ", ".join(others[:3])),
        )
    splits = {_split_of(p) for p in files}
    if split is not None and split not in splits:
        raise ValueError(f"{str(path)!r} has no split {split!r}; it has {sorted(splits)}")
    usual = ["train", "dev", "test"]
    order = [s for s in (*usual, *sorted(splits - {*usual})) if s in splits]
    chosen = [p for s in ([split] if split else order) for p in files if _split_of(p) == s]
    several = len(files) > len(splits)  # more than one treebank: say which a text is from
    parts = []
    for file in chosen:
        raw = _read_file(file, layout)
        rows = raw.rows.assign(split=_split_of(file), **({"file": file.stem} if several else {}))
        parts.append(raw._replace(rows=rows))
    return _joined(f"{path.name}:{split}" if split else path.name, parts)


def _split_of(path: Path) -> str:
    """en_ewt-ud-dev.conllu -> dev; cs_pdt-ud-train-l.conllu -> train; de.conllu -> de"""
    usual = re.search(r"(?:^|[-_.])(train|dev|test)(?=[-_.]|$)", path.stem)
    return usual[1] if usual else path.stem.rsplit("-", 1)[-1]


def _joined(name: str, parts: list[Raw]) -> Raw:
    """Treebank files one after another."""
    starts = np.cumsum([0, *(len(part.rows) for part in parts)])
    words = [
        part.words.assign(text_id=part.words["text_id"] + n) for part, n in zip(parts, starts, strict=False)
    ]
    dropped: Counter = Counter()
    first: dict[str, str] = {}
    for part in parts:
        dropped.update(part.dropped)
        first = {**part.first_line, **first}
    rows = concat_tables([part.rows for part in parts])
    return Raw(name, rows, pd.concat(words, ignore_index=True), dict(dropped), first)


READERS: dict[str, Callable[[Path, Layout], Raw]] = {
    ".txt": read_txt,
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".jsonl": read_jsonl,
    ".parquet": read_parquet,
    ".conllu": read_conllu,
}

#: The options of `load` that each kind of file takes.
TAKES = {suffix: {"text", "encoding"} for suffix in READERS} | {
    ".csv": set(Layout._fields),
    ".tsv": set(Layout._fields),
    ".parquet": {"text"},
}
