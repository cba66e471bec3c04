"""A preset for one's own texts: files, folders and patterns become corpora, and a column is guessed.

made = own.make("films.csv wiki.txt", folder)      a preset file in the folder, and what was assumed
made = own.make("reviews.csv", folder, by="shop")   one file, cut into corpora by a column
"""

from __future__ import annotations

import glob
import json
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from nbkit import provenance, texts

#: Columns that hold texts, as people call them, the surest first; upper or lower case.
USUAL = (
    "text review review_text body content comment comments message sentence abstract description post tweet"
    " answer question title"
).split()
READ = (".csv", ".tsv", ".jsonl", ".parquet", ".txt", ".conllu")
FEWEST = 50  # texts of a corpus that a column makes; smaller values are left out and counted
MOST = 8  # corpora at once
SETTINGS = {
    "labels": "surface+discovered",
    "min_texts": 2,
    "min_score": {"ffn": 0.30, "hidden": 0.15},
    "min_positives": 10,
    "treebank": "sample:treebank",
    "sentences": 1000,
    "probed": 1000,
    "money": 0,
}


class Made(NamedTuple):
    """What ``make`` made."""

    path: Path  # of the preset file
    name: str  # of the preset in it
    notes: list[str]  # what was found and assumed, in sentences


def make(
    asked: str,
    folder: Path,
    *,
    bases: Sequence[Path] = (),
    column: str | None = None,
    by: str | None = None,
    model: str = "minilm",
    generators: str = "topics",
    n: int = 2000,
) -> Made:
    """Write a preset for the texts that ``asked`` names, and their corpora, into a folder below ``folder``.

    asked       files, folders and patterns, separated by spaces (quoted where they hold some, unless there is
                one only), ``hf:`` and ``sample:`` sources. A folder or pattern is one corpus of documents
    bases       folders from which relative paths are tried, in this order; default: the current one
    column      of the texts in tables; None: ``text``, the only one of strings, or the likeliest by its name
    by          a column of the one source, whose values make the corpora
    model       subject; a relative path to a folder is meant from ``bases``, too
    generators  of descriptors, separated by commas or spaces
    n           texts of a corpus that take part, a sample

    ``FileNotFoundError`` for what is not there, ``ValueError`` for what cannot be read: both with the mend.
    """
    bases, notes = [*(bases or [Path.cwd()])], []
    corpora: dict[str, texts.Texts] = {}
    for source in _named(asked, bases):
        corpus = _read(source, bases, column, notes)
        name = _free(corpus.name, corpora)
        corpora[name] = corpus
    if by is not None:
        corpora = _cut(corpora, by, notes)
    if not corpora:
        raise ValueError("no texts: name a file, as TEXTS=films.csv")
    if len(corpora) == 1:
        notes.append("one corpus: whether a tag holds elsewhere cannot be asked; everything else is")
    name = re.sub(r"[^\w-]+", "-", "-".join(corpora)).strip("-")[:40] or "own"
    home = Path(folder) / name
    sources = {label: home / f"{label}.jsonl" for label in corpora}
    for label, corpus in corpora.items():
        with provenance.atomic(sources[label]) as part:
            corpus.frame.drop(columns="text_id").to_json(
                part, orient="records", lines=True, force_ascii=False
            )
    sizes = {label: min(n, len(corpus)) for label, corpus in corpora.items()}
    settings = {
        "title": "your texts: " + ", ".join(f"{label} ({size:,})" for label, size in sizes.items()),
        "subject": _model(model, bases),
        "texts": n,
        "generators": re.split(r"[,\s]+", generators.strip()),
        **SETTINGS,
        # measured: the sample (1,840 texts) 13 minutes and 300 MB, the registers (10,000) 20 and 1,600
        "minutes": round(11 + sum(sizes.values()) / 1100),
        "disk": round(50 + 0.16 * sum(sizes.values())),
    }
    with provenance.atomic(home / "presets.toml") as part:
        part.write_text(_toml(name, settings, sources), encoding="utf-8")
    return Made(home / "presets.toml", name, notes)


def _named(asked: str, bases: Sequence[Path], windows: bool = os.name == "nt") -> list[str]:
    """The sources in ``asked``: one that is there by the whole of it, or words as a shell parts them."""
    if asked.strip() and any((base / asked.strip()).exists() for base in bases):
        return [asked.strip()]
    words = shlex.shlex(asked, posix=True)
    words.whitespace_split, words.commenters = True, ""
    if windows:
        words.escape = ""  # a backslash there is part of a path
    return list(words)


def _read(source: str, bases: Sequence[Path], column: str | None, notes: list[str]) -> texts.Texts:
    """The corpus of one source; of several files, one after another with a column ``doc_id``."""
    if source.startswith(("hf:", "sample:")):
        return texts.load(source, text=column if source.startswith("hf:") else None)
    files = _files(source, bases)
    parts = [_load(file, column, notes) for file in files]
    stem = re.sub(r"[^\w-]+", "-", Path(source).stem).strip("-") or "texts"
    if len(parts) == 1:
        corpus = parts[0]
    else:
        frame = pd.concat([p.frame.assign(doc_id=f.name) for p, f in zip(parts, files, strict=True)])
        corpus = texts.Texts.from_frame(frame.drop(columns="text_id").drop_duplicates("text"), stem)
        notes.append(f"{source}: {len(files)} files are one corpus, each of them a document")
    corpus = texts.Texts(stem, corpus.frame)
    dropped = {reason: sum(p.dropped.get(reason, 0) for p in parts) for p in parts for reason in p.dropped}
    lost = "".join(f", {count} {reason} left out" for reason, count in dropped.items())
    notes.append(f"{stem}: {len(corpus):,} texts{lost}")
    return corpus


def _files(source: str, bases: Sequence[Path]) -> list[Path]:
    """Files of a path, pattern or folder. ``FileNotFoundError`` says where they were looked for."""
    for base in bases:
        path = (base / Path(source).expanduser()).resolve()
        if path.is_file():
            return [path]
        found = path.rglob("*") if path.is_dir() else map(Path, sorted(glob.glob(str(path), recursive=True)))
        files = sorted(f for f in found if f.is_file() and f.suffix.lower() in READ)
        if files:
            return files
    places = " or ".join(dict.fromkeys(str(base) for base in bases))
    raise FileNotFoundError(f"{source!r} is no file, folder or pattern of {', '.join(READ)} in {places}")


def _load(path: Path, column: str | None, notes: list[str]) -> texts.Texts:
    tabular = path.suffix.lower() in (".csv", ".tsv", ".jsonl", ".parquet")
    try:
        return texts.load(path, text=column if tabular else None)
    except ValueError as error:
        if column or not tabular or "none is called 'text'" not in str(error):
            raise
        guessed = _guess(_columns(path))
        if guessed is None:
            raise ValueError(f"{error} (with make: COLUMN=name)") from error
        notes.append(f"{path.name}: the texts are taken from the column {guessed!r} (another: COLUMN=name)")
        return texts.load(path, text=guessed)


def _columns(path: Path) -> pd.DataFrame:
    """The first rows of a table."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return pd.read_parquet(path).head(200)
    if suffix == ".jsonl":
        return pd.read_json(path, lines=True, nrows=200)
    return pd.read_csv(path, sep=None, engine="python", nrows=200, encoding_errors="replace")


def _guess(rows: pd.DataFrame) -> str | None:
    """The likeliest column of texts: by a usual name, else the one of strings that are the longest by far."""
    strings = [c for c in rows if rows[c].dropna().map(lambda value: isinstance(value, str)).all()]
    names = {str(c).strip().lower(): c for c in reversed(strings)}
    if found := next((names[usual] for usual in USUAL if usual in names), None):
        return found
    lengths = sorted(((rows[c].dropna().str.len().mean(), c) for c in strings), reverse=True)
    clear = len(lengths) > 1 and lengths[0][0] > 2 * lengths[1][0] and lengths[0][0] > 20
    return lengths[0][1] if clear else None


def _cut(corpora: dict[str, texts.Texts], by: str, notes: list[str]) -> dict[str, texts.Texts]:
    """The corpora that the values of a column make, the largest first."""
    if len(corpora) > 1:
        raise ValueError(f"BY={by} cuts one source into corpora, and {len(corpora)} are named: name one")
    ((name, corpus),) = corpora.items()
    if by not in corpus.frame:
        raise ValueError(f"{name} has no column {by!r} to be cut by; it has {', '.join(corpus.frame)}")
    sizes = corpus.frame[by].value_counts()
    sizes = sizes[sizes.index.astype(str).str.strip() != ""]
    kept = sizes[sizes >= FEWEST].head(MOST)
    if kept.empty:
        raise ValueError(f"no value of {by!r} has {FEWEST} texts (the most is {sizes.max()}): leave BY out")
    if len(kept) < len(sizes) or sizes.sum() < len(corpus):
        left = len(corpus) - int(kept.sum())
        notes.append(f"{by}: {left:,} texts of {len(sizes) - len(kept)} small values or of none are left out")
    found: dict[str, texts.Texts] = {}
    for value in kept.index:
        label = re.sub(r"[^\w-]+", "-", str(value)).strip("-") or "value"
        found[_free(label, found)] = corpus.where(**{by: value})
    return found


def _free(name: str, taken: dict[str, texts.Texts]) -> str:
    return name if name not in taken else _free(f"{name}-2", taken)


def _model(model: str, bases: Sequence[Path]) -> str:
    folders = [base / Path(model).expanduser() for base in bases]
    return next((str(f.resolve()) for f in folders if (f / "config.json").exists()), model)


def _toml(name: str, settings: dict, sources: dict[str, Path]) -> str:
    def value(x: object) -> str:
        if isinstance(x, dict):
            return "{ " + ", ".join(f"{key} = {value(v)}" for key, v in x.items()) + " }"
        return json.dumps(x, ensure_ascii=False)

    lines = [
        "# Made from TEXTS=...; edit it and run: NBKIT_PRESETS=this file, with make run PRESET=its name",
        f"[{json.dumps(name)}]",
    ]
    lines += [f"{key} = {value(x)}" for key, x in settings.items()]
    lines += ["", f"[{json.dumps(name)}.corpora]"]
    lines += [f"{json.dumps(label)} = {json.dumps(str(path))}" for label, path in sources.items()]
    return "\n".join(lines) + "\n"
