"""Files of explanations, each read into records; what cannot be read is counted.

    .jsonl .jsonl.gz .json .json.gz   Neuronpedia, neuron-explainer, Transluce, or an object with ``unit`` and
                                      ``description``; one of them, a list, or one on each line
    layers.9_latent123.txt            delphi: one latent, a JSON string
    .csv .tsv                         a header that names the columns

Field names that mean the same are in ``FIELDS``.
"""

from __future__ import annotations

import csv
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

#: What a record needs, and the names that files give it, in the order in which they are asked for.
FIELDS = {
    "unit": ("unit",),
    "place": ("layer", "layer_index", "hookpoint", "module", "site", "source", "sae_id", "saeId"),
    "index": (
        *("index", "neuron", "neuron_index", "neuron_idx", "latent", "latent_index", "latent_idx"),
        *("feature", "feature_index", "feature_idx"),
    ),
    "description": ("description", "explanation", "interpretation", "claim", "label"),
    "model": ("modelId", "model_id", "model", "subject"),
    "made_by": ("explanationModelName", "explainer_model", "explainer", "typeName", "made_by"),
    "sign": ("sign", "polarity", "activation_sign", "is_positive"),
}
LATENT = re.compile(r"latent|feature")
#: What says that an explanation is of a unit's low end.
NEGATIVE = {"negative", "neg", "-1", "-1.0", "-", "false", "min"}
DELPHI = re.compile(r"(.+)_(latent|feature|neuron)(\d+)", re.DOTALL)
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt")


class Record(NamedTuple):
    """One explanation as a file has it."""

    place: str
    index: Any
    description: str
    model: str = ""
    made_by: str = ""
    sign: int = 1  # -1: of the unit's low end
    latent: bool = False
    unit: str = ""  # where the file has a name instead of place and index


def records(path: Path, dropped: Counter[str]) -> Iterator[tuple[str, Record]]:
    """Where each explanation of a file stands (FILE:LINE), and what it is. ``dropped`` is added to."""
    suffix = suffix_of(path)
    if suffix == ".txt":
        yield from _delphi(path, dropped)
    elif suffix in (".csv", ".tsv"):
        yield from _table(path, "\t" if suffix == ".tsv" else None, dropped)
    else:
        for place, found in _objects(path, dropped):
            for record in _records_of(found, dropped):
                yield place, record


def suffix_of(path: Path) -> str:
    """The suffix that tells the format, ``.gz`` apart; "" for another file."""
    name = path.name.removesuffix(".gz")
    suffix = Path(name).suffix.lower()
    if suffix == ".txt" and not DELPHI.fullmatch(Path(name).stem):
        return ""
    return suffix if suffix in SUFFIXES else ""


def _text(path: Path, dropped: Counter[str]) -> str:
    """The file's text. Of a damaged archive what came out of it; bytes that are no UTF-8 become "�"."""
    data = path.read_bytes()
    if path.name.endswith(".gz"):
        parts = []
        try:
            while data:  # an archive may have several members
                member = zlib.decompressobj(wbits=31)
                for start in range(0, len(data), 1 << 16):
                    parts.append(member.decompress(data[start : start + (1 << 16)]))
                    if member.eof:
                        data = member.unused_data + data[start + (1 << 16) :]
                        break
                else:
                    raise zlib.error("cut")
        except zlib.error:
            dropped["archives that are damaged"] += 1
        data = b"".join(parts)
    return data.decode("utf-8-sig", "replace")


def _delphi(path: Path, dropped: Counter[str]) -> Iterator[tuple[str, Record]]:
    """One latent a file; its module and number are in the name."""
    named = DELPHI.fullmatch(path.name.removesuffix(".gz").removesuffix(".txt"))
    found = _json(_text(path, dropped))
    if named is None or not isinstance(found, str):
        dropped["files that cannot be read"] += 1
        return
    yield path.name, Record(named[1], named[3], found, latent=named[2] != "neuron")


def _table(path: Path, separator: str | None, dropped: Counter[str]) -> Iterator[tuple[str, Record]]:
    """Rows under a header; those with more or fewer cells are counted."""
    text = _text(path, dropped).replace("\0", "")
    if separator is None:
        head = text.partition("\n")[0]
        separator = max(",;\t", key=head.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    header = [name.strip() for name in next(rows, [])]
    if not _found(dict.fromkeys(header, ""), "description"):
        raise ValueError(
            f"{path.name} has no column of descriptions: it has {header}; name one"
            f" {', '.join(FIELDS['description'])}"
        )
    for first, row in _rows(rows):
        if len(row) != len(header):
            dropped["lines that cannot be read"] += rows.line_num - first
            continue
        for record in _records_of(dict(zip(header, row, strict=True)), dropped):
            yield f"{path.name}:{rows.line_num}", record


def _rows(rows: Any) -> Iterator[tuple[int, list[str]]]:
    """The rows of a table that are not empty, each with the number of the line before it.

    A row that csv refuses comes as one without cells.
    """
    while True:
        first = rows.line_num
        try:
            row = next(rows, None)
        except csv.Error:
            yield first, []
            continue
        if row is None:
            return
        if row:
            yield first, row


def _objects(path: Path, dropped: Counter[str]) -> Iterator[tuple[str, Any]]:
    """The objects of a file of JSON: the whole, or one on each line."""
    text = _text(path, dropped)
    if suffix_of(path) == ".json":
        whole = _json(text)
        if whole is not None:
            yield path.name, whole
            return
        if _json(text.partition("\n")[0]) is None:
            dropped["files that cannot be read"] += 1
            return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            found = _json(line)
            if found is None:
                dropped["lines that cannot be read"] += 1
            else:
                yield f"{path.name}:{number}", found


def _json(text: str) -> Any:
    """What the text says in JSON; None where it says nothing."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _records_of(found: Any, dropped: Counter[str]) -> Iterator[Record]:
    """The explanations in a JSON value: an object, a list of them, or an object that lists explanations."""
    if isinstance(found, list):
        for part in found:
            yield from _records_of(part, dropped)
        return
    if not isinstance(found, Mapping):
        dropped["lines that cannot be read"] += 1
        return
    nested = found.get("scored_explanations", found.get("explanations"))
    if not isinstance(nested, (list, Mapping)):
        yield _record(found)
        return
    outer = {key: value for key, value in found.items() if key not in ("scored_explanations", "explanations")}
    neuron = outer.pop("neuron_id", None)
    outer |= neuron if isinstance(neuron, Mapping) else {}
    for part in _parts(nested):
        if isinstance(part, Mapping):
            yield _record({**outer, **part})
        else:
            dropped["lines that cannot be read"] += 1


def _parts(nested: list | Mapping) -> Iterable[Any]:
    """Explanations of one unit: a list, or {polarity: one, or a list}; a bare string is a description."""
    if isinstance(nested, list):
        return [{"description": part} if isinstance(part, str) else part for part in nested]
    found = []
    for sign, inside in nested.items():
        for part in _parts(inside if isinstance(inside, list) else [inside]):
            found.append({"sign": sign, **part} if isinstance(part, Mapping) else part)
    return found


def _record(found: Mapping[str, Any]) -> Record:
    index = next((name for name in FIELDS["index"] if found.get(name) is not None), "")
    description, sign = _found(found, "description"), _value(found, "sign")
    return Record(
        place=str(_value(found, "place")),
        index=found.get(index, ""),
        description=str(found[description]) if isinstance(found.get(description), (str, int, float)) else "",
        model=str(_value(found, "model")),
        made_by=str(_value(found, "made_by")),
        sign=-1 if str(sign).strip().lower() in NEGATIVE else 1,
        latent=bool(LATENT.match(index)),
        unit=str(_value(found, "unit")),
    )


def _found(found: Mapping[str, Any], field: str) -> str:
    """The name under which an object has a field; "" where it has none."""
    return next((name for name in FIELDS[field] if found.get(name) is not None), "")


def _value(found: Mapping[str, Any], field: str) -> Any:
    name = _found(found, field)
    return found[name] if name else ""
