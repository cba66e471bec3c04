"""Readers of plain files: each turns a path into `Raw`, rows as found plus what could not be read."""

from __future__ import annotations

import csv
import difflib
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pandas as pd


class Raw(NamedTuple):
    """What a reader found, before cleaning."""

    name: str
    rows: pd.DataFrame  # a row a text, with the columns of the source
    words: pd.DataFrame | None = None  # text_id refers to the row position
    dropped: dict[str, int] = {}
    first_line: dict[str, str] = {}  # where the first loss of each kind is
    revision: str | None = None


def text_of(column: pd.Series, *, strip: bool) -> pd.Series:
    """The texts as plain strings; a missing or non-string value is an empty text."""
    values = [x if isinstance(x, str) else "" for x in column]
    stripped = [x.strip() for x in values]
    # a text of CoNLL-U keeps its white space (spans count it), unless that is all there is
    values = stripped if strip else [x if s else "" for x, s in zip(values, stripped, strict=True)]
    return pd.Series(values, index=column.index, dtype="str")


def name_columns(rows: pd.DataFrame, text: str | None, spec: str) -> pd.DataFrame:
    """`text` first; other columns that would collide get the prefix source_."""
    chosen = text_column(rows, text, spec)
    names = {c: f"source_{c}" for c in rows if c in ("text_id", "text") and c != chosen}
    rows = rows.rename(columns=names).rename(columns={chosen: "text"})
    return rows[["text", *(c for c in rows if c != "text")]]


def text_column(rows: pd.DataFrame, text: str | None, spec: str) -> str:
    columns = list(rows.columns)
    if text is not None:
        if text not in columns:
            raise ValueError(
                f"{spec!r} has no column {text!r}{nearest(text, columns)}; its columns are {columns}"
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


def nearest(word: str, choices: Iterable[str]) -> str:
    """A hint: " (did you mean 'x'?)", or nothing."""
    close = difflib.get_close_matches(str(word), [str(c) for c in choices], n=2, cutoff=0.5)
    return f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""


class Dropped:
    """Counts by reason, and where the first of each was."""

    def __init__(self, path: Path):
        self.path, self.count, self.first = path, Counter(), {}

    def add(self, reason: str, line: int) -> None:
        self.count[reason] += 1
        self.first.setdefault(reason, f"{self.path.name} line {line}")


def open(path: Path, newline: str | None = None):
    # Bytes that are not UTF-8 become lone surrogates, so a line that has them is found exactly
    # and the lines around it stay what they are. A byte order mark is not part of the text.
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def undecodable(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return True
    return False


def read_txt(path: Path) -> Raw:
    lost, lines = Dropped(path), []
    with open(path) as file:
        for number, line in enumerate(file, start=1):
            if undecodable(line):
                lost.add("undecodable", number)
            else:
                lines.append(line.rstrip("\n"))
    return Raw(path.stem, pd.DataFrame({"text": lines}), None, lost.count, lost.first)


def read_csv(path: Path) -> Raw:
    return _read_table(path, delimiter=",")


def read_tsv(path: Path) -> Raw:
    # No quoting: in tab-separated corpora a quotation mark is part of the text, and reading it as
    # syntax would swallow every line up to the next one.
    return _read_table(path, delimiter="\t", quoting=csv.QUOTE_NONE)


def _read_table(path: Path, **dialect) -> Raw:
    """A table whose first line names the columns; columns of numbers become numbers."""
    lost, rows = Dropped(path), []
    csv.field_size_limit(2**31 - 1)
    with open(path, newline="") as file:
        reader = csv.reader(file, **dialect)
        header = _header(next(reader, []))
        for row in reader:
            if not row:
                lost.add("empty", reader.line_num)
            elif any(map(undecodable, row)):
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


def read_jsonl(path: Path) -> Raw:
    lost, rows = Dropped(path), []
    with open(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                lost.add("empty", number)
            elif undecodable(line):
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
    bad = not isinstance(row, dict) or any(isinstance(v, str) and undecodable(v) for v in row.values())
    return None if bad else row


def read_parquet(path: Path) -> Raw:
    try:
        return Raw(path.stem, pd.read_parquet(path))
    except (OSError, ValueError) as error:
        raise ValueError(f"{str(path)!r} is not a readable parquet file: {error}") from error
