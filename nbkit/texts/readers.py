"""Readers of plain files: each turns a path into `Raw`, rows as found plus what could not be read.

Nothing is lost uncounted: a line that is not used is in `Raw.dropped`, or the file is refused with a
`ValueError` that names the line and the option to set.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import difflib
import io
import json
import logging
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple, TextIO

import pandas as pd

log = logging.getLogger(__name__)


class Layout(NamedTuple):
    """How a file is written, as far as the caller says so; None: it is found out."""

    encoding: str | None = None
    separator: str | None = None
    header: bool | None = None
    names: Sequence[str] | None = None
    text: str | None = None  # the column asked for; where the first line has it, that line is a header


class Raw(NamedTuple):
    """What a reader found, before cleaning."""

    name: str
    rows: pd.DataFrame  # one row per text, with the columns of the source
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
    """The column of the texts: the one asked for, `text`, or the only one of strings; else a `ValueError`."""
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
    table = spec.lower().endswith((".csv", ".tsv"))
    raise ValueError(
        f"{spec!r} has {len(strings)} columns of strings and none is called 'text': "
        f"name it with text=...; its columns are {columns}"
        + (" (if that is the first text: header=False, or names=[...])" if table else "")
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
        self.path = path
        self.count: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def add(self, reason: str, line: int, n: int = 1) -> None:
        self.count[reason] += n
        self.first.setdefault(reason, f"{self.path.name} line {line}")


# ---------------------------------------------------------------------------------- characters

MARKS = (  # UTF-32's begins with UTF-16's, so it comes first
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def open_text(path: Path, encoding: str | None = None, *, newline: str | None = None) -> TextIO:
    """A file opened as text: in the encoding of its byte order mark, else in `encoding`, else UTF-8.

    Bytes that are not of an 8-bit encoding become lone surrogates, so that a line that has them is found
    (`undecodable`) and the lines around it stay what they are. A byte order mark is no part of the text.
    """
    with path.open("rb") as file:
        head = file.read(4096)
    marked = next((name for mark, name in MARKS if head.startswith(mark)), None)
    zeros, ends = head.count(0), b"\n\0" in head or b"\0\n" in head
    if marked is None and encoding is None and (zeros > len(head) / 8 or ends):
        little = head[1::2].count(0) > zeros / 2
        raise ValueError(
            f"{str(path)!r} is not UTF-8: it holds zero bytes, as UTF-16 without a byte order mark does; "
            f"give encoding='utf-16-{'le' if little else 'be'}'"
        )
    name = marked or encoding or "utf-8"
    return path.open(encoding=name, errors="surrogateescape", newline=newline)


def undecodable(value: str) -> bool:
    """Whether a string holds what no text has: half a character (a lone surrogate), or a zero byte."""
    try:
        return b"\0" in value.encode()
    except UnicodeEncodeError:
        return True


# -------------------------------------------------------------------------------- lines, JSON, parquet


def read_txt(path: Path, layout: Layout) -> Raw:
    """One text per line."""
    lost, lines = Dropped(path), []
    with open_text(path, layout.encoding) as file:
        for number, line in enumerate(file, start=1):
            if undecodable(line):
                lost.add("undecodable", number)
            else:
                lines.append(line.rstrip("\n"))
    return Raw(path.stem, pd.DataFrame({"text": lines}), None, lost.count, lost.first)


def read_jsonl(path: Path, layout: Layout) -> Raw:
    """One JSON object per line."""
    lost, rows = Dropped(path), []
    with open_text(path, layout.encoding) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                lost.add("empty", number)
            elif undecodable(line):
                lost.add("undecodable", number)
            elif (row := _json_object(line)) is None:
                lost.add("malformed", number)
            else:
                rows.append(row)
    return Raw(path.stem, table_of(rows), None, lost.count, lost.first)


def table_of(rows: list[dict]) -> pd.DataFrame:
    """Rows as a table, without floats where these would round a whole number beside a missing one."""
    frame = pd.DataFrame(rows)
    for name in frame.select_dtypes("float"):
        values = [row.get(name) for row in rows]
        if any(isinstance(x, int) and float(x) != x for x in values):
            frame[name] = _exact(values, frame.index)
    return frame


def _exact(values: list, index: pd.Index) -> pd.Series:
    """Whole numbers and missing values as Int64; with any other value, as they are."""
    try:
        return pd.Series(pd.array([None if x is None or x != x else x for x in values], "Int64"), index)
    except (TypeError, ValueError, OverflowError):
        return pd.Series(values, index, dtype=object)


def concat_tables(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Tables one below the other; a column that some lack stays whole where floats would round it."""
    whole = pd.concat(tables, ignore_index=True)
    for name in whole.select_dtypes("float"):
        parts = [table[name] for table in tables if name in table]
        if any(pd.api.types.is_integer_dtype(part) and (part.abs() > 2**53).any() for part in parts):
            kept = [table.get(name, pd.Series([None] * len(table))).astype(object) for table in tables]
            whole[name] = _exact([x for part in kept for x in part], whole.index)
    return whole


def _json_object(line: str) -> dict | None:
    try:
        row = json.loads(line)
        # "\ud800" is legal JSON and no character: such a text could not be written or hashed
        escaped = "\\u" in line and any(map(undecodable, _strings(row)))
    except (ValueError, RecursionError):  # no JSON, a number of thousands of digits, thousands of brackets
        return None
    return row if isinstance(row, dict) and not escaped else None


def _strings(value: object) -> Iterator[str]:
    """Every string in a JSON value, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for part in value if isinstance(value, list) else (*value, *value.values()):
            yield from _strings(part)


def read_parquet(path: Path, layout: Layout) -> Raw:
    """One text per row; a named index is a column like the others."""
    try:
        frame = pd.read_parquet(path, to_pandas_kwargs={"integer_object_nulls": True})
        for name in frame.select_dtypes("object", exclude="str"):
            if int in (found := {type(x) for x in frame[name]}) and found <= {int, type(None)}:
                frame[name] = table_of([{"n": x} for x in frame[name]])["n"].array
        return Raw(path.stem, with_named_index(frame))
    except (OSError, ValueError) as error:
        raise ValueError(f"{str(path)!r} is not a readable parquet file: {error}") from error


def with_named_index(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with named indexes as columns, and rows numbered from 0."""
    named = [name for name in frame.index.names if name is not None and name not in frame]
    return (frame.reset_index(level=named) if named else frame).reset_index(drop=True)


# -------------------------------------------------------------------------------------- tables

SEPARATORS = (",", ";", "\t", "|")
ENCLOSED = re.compile(r'"(?:[^"]|"")*""(?:[^"]|"")*"', re.DOTALL)  # a field as a .csv has it: "say ""no"""
LONG_FIELD = 20  # lines; a longer field is reported, since a forgotten quote makes one


def read_csv(path: Path, layout: Layout) -> Raw:
    """A table with quoted fields; the separator is the one that cuts most lines as it cuts the first."""
    separator = layout.separator or _separator(path, layout)
    if separator not in (",", layout.separator):
        log.info("%s: columns are separated by %r", path.name, separator)
    return _read_table(path, layout, delimiter=separator)


def read_tsv(path: Path, layout: Layout) -> Raw:
    """A table separated by tabs, in which a quotation mark is part of the text.

    In tab-separated corpora it is; to read it as syntax would swallow every line up to the next one.
    """
    if layout.separator in (None, "\t"):
        return _read_table(path, layout, delimiter="\t", quoting=csv.QUOTE_NONE)
    return _read_table(path, layout, delimiter=layout.separator)


def _separator(path: Path, layout: Layout) -> str:
    """The separator of a table, by its first 64 thousand characters; a comma where nothing separates."""
    with open_text(path, layout.encoding, newline="") as file:
        sample = file.read(2**16)
        whole = not file.read(1)
    agreement = {}
    for separator in SEPARATORS:
        rows = [row for row in csv.reader(io.StringIO(sample, newline=""), delimiter=separator) if row]
        rows = rows if whole or len(rows) < 3 else rows[:-1]  # the last one may be cut
        if rows and len(rows[0]) > 1 and {"text", layout.text} & set(map(str.strip, rows[0])):
            return separator  # a header that has the name asked for
        alike = [len(row) == len(rows[0]) for row in rows]
        agreement[separator] = statistics.mean(alike) if rows and len(rows[0]) > 1 else 0
    best = [s for s, share in agreement.items() if share == max(agreement.values()) and share > 0.5]
    if len(best) > 1:
        raise ValueError(
            f"{path.name}: {' and '.join(map(repr, best))} separate its lines alike: give separator="
        )
    return best[0] if best else SEPARATORS[0]


def _read_table(path: Path, layout: Layout, **dialect) -> Raw:
    """A table; columns of numbers become numbers where nothing is lost by that."""
    lost, rows, joined, enclosed, width = Dropped(path), [], [], [], 0
    csv.field_size_limit(2**31 - 1)
    with open_text(path, layout.encoding, newline="") as file:
        for line, raw, cells in _records(file, path, dialect):
            if not any(cells):
                lost.add("empty", line, len(raw))
            elif any(map(undecodable, cells)):
                _refuse_undecodable_header(path, layout, rows, line)
                lost.add("undecodable", line, len(raw))
            elif width and len(cells) != width:
                lost.add("malformed", line, len(raw))
                enclosed += [line] * ('"' in raw[0])
            else:
                width = len(cells)
                rows.append(cells)
                enclosed += [line] * any(map(ENCLOSED.fullmatch, cells))
                if _swallowed(raw, width, dialect["delimiter"]):
                    joined.append((line, line + len(raw) - 1))
    if joined:
        log.warning(
            "%s: %d fields run over lines that look like rows, the first from line %d to %d: if a quote was "
            "left open there, close it",
            *(path.name, len(joined), *joined[0]),
        )
    if enclosed and dialect.get("quoting") == csv.QUOTE_NONE:
        log.warning(
            "%s: quotes are plain characters in a .tsv, and in %d lines (the first is line %d) they look as"
            " if they enclosed a field: if they do, name the file .csv and give separator='\\t'",
            *(path.name, len(enclosed), enclosed[0]),
        )
    names, rows = _named(rows, layout, path) if rows else ([], [])
    frame = pd.DataFrame(rows, columns=names, dtype="str")
    others = [name for name in names if name not in ("text", layout.text)]  # a text of digits is a text
    frame[others] = frame[others].apply(_numbers)
    return Raw(path.stem, frame, None, lost.count, lost.first)


def _refuse_undecodable_header(path: Path, layout: Layout, rows: list, line: int) -> None:
    if not rows and not layout.names and layout.header is not False:
        raise ValueError(
            f"{path.name} line {line}, the names of the columns, is not {layout.encoding or 'UTF-8'}: give "
            "its encoding, such as encoding='latin-1' or encoding='cp1252', or save it as UTF-8"
        )


def _records(file: TextIO, path: Path, dialect: dict) -> Iterator[tuple[int, list[str], list[str]]]:
    """Every record of a table: number of its first line, its lines, its cells.

    A quote that is opened and not closed, or closed in the middle of a later field, is a `ValueError`. Lines
    in which quotes are not doubled are told of.
    """
    raw: list[str] = []
    odd: list[int] = []

    def lines() -> Iterator[str]:
        for line in file:
            raw.append(line)
            yield line

    reader, first = csv.reader(lines(), strict=True, **dialect), 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            if len(raw) > 1 or "end of data" in str(error):
                raise ValueError(
                    f"{path.name} line {first}: the quote opened there is never closed and swallows "
                    f'{len(raw) - 1} more lines; close it or double the quotes inside a text (as in "say '
                    '""no"""), or save the table as .tsv, where quotes are plain characters'
                ) from error
            cells = _oddly_quoted(raw, dialect)
            odd.append(first)
        yield first, list(raw), cells
        first += len(raw)
        raw.clear()
    if odd:
        log.warning(
            "%s: quotes inside a quoted field are not doubled in %d lines, the first is line %d: look at what"
            " is read there",
            *(path.name, len(odd), odd[0]),
        )


def _oddly_quoted(raw: list[str], dialect: dict) -> list[str]:
    """The cells of one line with quotes inside a quoted field: after backslashes, or as they stand."""
    if '\\"' in raw[0]:
        with contextlib.suppress(csv.Error):
            return next(csv.reader(raw, strict=True, escapechar="\\", doublequote=False, **dialect))
    return next(csv.reader(raw, **dialect))


def _swallowed(raw: list[str], width: int, separator: str) -> bool:
    """Whether a field over several lines is very long, or two of its lines look like rows."""
    cut = [line.split(separator) for line in raw]
    like_rows = sum(len(cells) == width > 1 and all(map(str.strip, cells)) for cells in cut)
    return len(raw) > LONG_FIELD or (len(raw) > 1 and like_rows > 1)


def _named(rows: list[list[str]], layout: Layout, path: Path) -> tuple[list[str], list[list[str]]]:
    """Names of the columns, and the rows below them."""
    first, width = rows[0], len(rows[0])
    if layout.names is not None:
        names = [layout.names] if isinstance(layout.names, str) else list(layout.names)
        if len(names) != width or len(set(names)) != width:
            raise ValueError(f"names={names}: {path.name} has {width} columns, name each of them")
        return names, rows[1:] if layout.header or first == names else rows
    if layout.header is False:
        return [f"column_{j}" for j in range(1, width + 1)], rows
    if layout.header is None and (why := _why_data(rows, layout.text)):
        raise ValueError(
            f"{path.name}: the first line looks like data and not like names of columns: {why}; if it is "
            f"data, give header=False or names=[...] ({width} names); if it names the columns, header=True"
        )
    return _header(first), rows[1:]


DATUM = re.compile(r"[-+]?[\d.,]*\d[\d.,]*(?:[eE][-+]?\d+)?%?|\d+[-/.]\d+[-/.]\d+.*|\w+://\S+|\S+@\S+\.\S+")


def _why_data(rows: list[list[str]], text: str | None) -> str | None:
    """Why the first row of a table is data rather than a header; None where it may be a header."""
    first, below = [cell.strip() for cell in rows[0]], rows[1:]
    if {"text", text} & set(first):
        return None
    for name in first:
        if DATUM.fullmatch(name):
            return f"{name!r} is a number, a date or an address"
    columns = [[row[j].strip() for row in below] for j in range(len(first))]
    if any(name and _numeric(column) for name, column in zip(first, columns, strict=True)):
        return None  # a word above numbers
    for name, column in zip(first, columns, strict=True):
        words, usual = len(name.split()), statistics.median([len(v.split()) for v in column] or [1])
        if words > 3 or words > 1 and (len(first) == 1 or name[-1] in ".!…。！" or words > 2 < usual):
            return f"{name[:60]!r} reads like a sentence"
        if name and name in column:
            return f"{name[:60]!r} is a value further down, too"
    return None


def _header(names: list[str]) -> list[str]:
    """Column names, unique and not empty."""
    seen: dict[str, str] = {}
    for j, name in enumerate(map(str.strip, names), start=1):
        seen[f"{name}_{j}" if name in seen else name or f"column_{j}"] = name
    return list(seen)


NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+][0-9]+)?")
INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")  # what fits 64 bits


def _numeric(values: Iterable[str]) -> bool:
    filled = {value for value in values if value}
    return bool(filled) and all(map(NUMBER.fullmatch, filled))


def _numbers(column: pd.Series) -> pd.Series:
    """Numbers where every value is one and can be written back (an empty cell is missing), otherwise text.

    007, +1, 1,5 and numbers of more digits than a float holds stay text.
    """
    stripped = column.str.strip()
    filled = stripped[stripped != ""].unique()
    if column.name == "text" or not _numeric(filled):
        return column
    if len(filled) and all(map(INTEGER.fullmatch, filled)) and (stripped != "").all():
        return stripped.astype("int64")
    if any(Decimal(value) != Decimal(repr(float(value))) for value in filled):
        return column
    return stripped.map(lambda value: float(value) if value else float("nan")).astype("float64")
