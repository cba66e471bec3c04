"""`load`: find the source, read it, clean it, count what was dropped."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd

from nbkit.texts.conllu import read_conllu
from nbkit.texts.corpus import Texts, counts_of
from nbkit.texts.hub import read_hub
from nbkit.texts.readers import (
    Raw,
    name_columns,
    nearest,
    read_csv,
    read_jsonl,
    read_parquet,
    read_tsv,
    read_txt,
    text_of,
)

log = logging.getLogger(__name__)

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
) -> Texts:
    """Read a corpus; what had to be dropped is counted in `.dropped` and logged once.

    source    a path, 'hf:...' or 'sample:...': see `nbkit.texts`.
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
        raw = read_hub(spec, split or "train", limit, revision, seed, text, shuffle)
    else:
        _refuse_hub_options(spec, revision, shuffle)
        raw = _read_sample(spec, split) if spec.startswith("sample:") else _read_path(spec, split)
    asked["revision"] = raw.revision
    frame, words, dropped = _clean(raw, text, spec)
    corpus = Texts(raw.name, frame, words, dropped, asked)
    _report(corpus, raw)
    return corpus if spec.startswith("hf:") else _limited(corpus, limit, seed)


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
    return corpus.sample(limit, seed)._renumbered()


def _clean(raw: Raw, text: str | None, spec: str) -> tuple[pd.DataFrame, pd.DataFrame | None, dict]:
    """Drop empty and duplicate texts, number the rest, put text_id and text first."""
    dropped = Counter(raw.dropped)
    rows = raw.rows
    if len(rows):
        rows = name_columns(rows, text, spec)
        column = text_of(rows["text"], strip=raw.words is None)
        dropped["empty"] += int((column == "").sum())
        repeated = column.duplicated() & (column != "")
        dropped["duplicate"] += int(repeated.sum())
        keep = ((column != "") & ~repeated).to_numpy()
        rows = rows.assign(text=column)[keep]
    dropped = {reason: n for reason, n in dropped.items() if n}
    if not len(rows):
        found = counts_of(dropped) if dropped else "it holds no line"
        mend = "; save it as UTF-8" if "undecodable" in dropped else ""
        raise ValueError(f"{spec!r} has no text left after cleaning: {found}{mend}")
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
    """One warning with everything that was lost."""
    if corpus.dropped:
        where = [f"first {reason}: {at}" for reason, at in raw.first_line.items()]
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
        hint = nearest(path.name, beside)
        raise FileNotFoundError(f"no file {spec!r}{hint} ({path.absolute()})")
    known = [f"sample:{s}" for s in SAMPLES]
    hint = nearest(spec, known) or nearest(f"sample:{spec}", known)
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
    parts = {s: read_conllu(files[s]) for s in ([split] if split else order)}
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
    dropped: Counter = Counter()
    first: dict[str, str] = {}
    for part in parts.values():
        dropped.update(part.dropped)
        first = {**part.first_line, **first}
    return Raw(name, rows, words, dict(dropped), first)


READERS: dict[str, Callable[[Path], Raw]] = {
    ".txt": read_txt,
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".jsonl": read_jsonl,
    ".parquet": read_parquet,
    ".conllu": read_conllu,
}
