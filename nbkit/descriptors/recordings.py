"""Replies from a file: replayed, and recorded as they come."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from nbkit.descriptors.messages import (
    Generator,
    Messages,
    Reply,
    begin,
    identity_of,
    in_batches,
    request_key,
    valid,
)

log = logging.getLogger(__name__)


#: Real replies about the sample's texts, and the texts with their written descriptors.
REPLIES = resources.files("nbkit.data") / "replies" / "smollm2.jsonl"
WRITTEN = resources.files("nbkit.data")


class Line(NamedTuple):
    """A recorded reply. A line written by hand has no ``request`` and suits any request about its text."""

    text: str
    request: str | None
    by: Any  # identity of the generator, in older files its name
    reply: Reply


class Recorded:
    """Replays replies that were written down: one JSON object per line, ``{"text": ..., "reply": ...}``.

    where   a file; "sample": the descriptors that the embedded sample's authors wrote; or "smollm2": what
            SmolLM2-135M-Instruct replied about the sample's texts (``tools/record_replies.py``)
    of      a generator: it is asked for what the file lacks, and each of its replies is recorded at once

    A recorded line replays to the very same request only (prompt and version included), and with ``of`` only
    if the same generator gave it; a line without ``request`` replays to any request about its text. A
    request that was not recorded fails. ``FileNotFoundError`` without the file (and without ``of``),
    ``ValueError`` for a line that cannot be read; a last line that was cut by a stop is left out.
    """

    def __init__(self, where: str, *, of: Generator | None = None) -> None:
        self.name = f"recorded:{where}"
        self._of, self._path, self._lock = of, Path(where), threading.Lock()
        self._lines: dict[str, list[Line]] = {}
        if where == "sample":
            self.provenance = "descriptors written for the sample, not produced by a model"
            found = _written_lines()
        elif where == "smollm2":
            self.provenance = "recorded replies of SmolLM2-135M-Instruct in a 4-bit copy, greedy"
            with resources.as_file(REPLIES) as path:
                found = _read_lines(path)
        else:
            self.provenance = f"replies recorded in {self._path.name}"
            found = [] if of is not None and not self._path.exists() else _read_lines(self._path)
            if of is not None:
                self._path.parent.mkdir(parents=True, exist_ok=True)  # before anything is paid
                _end_last_line(self._path)
        for line in found:
            self._lines.setdefault(line.request or line.text, []).append(line)

    def complete(self, messages: Messages) -> Reply:
        return self.complete_all([messages])[0]

    def complete_all(self, requests: Sequence[Messages]) -> list[Reply]:
        absent = {request_key(m): m for m in requests if self._find(m) is None}
        failed: dict[str, Reply] = {}
        if self._of is not None and absent:
            begin(self._of)
            for replies in in_batches(self._ask, list(absent.items()), self._of):
                failed |= {key: reply for key, reply in replies.items() if not reply.answered}
        missing = Reply(None, "not recorded")
        return [self._find(m) or failed.get(request_key(m), missing) for m in requests]

    def _ask(self, batch: Sequence[tuple[str, Messages]]) -> dict[str, Reply]:
        """Runs in a worker: what comes back is in the file before anybody can be interrupted."""
        assert self._of is not None
        replies = self._of.complete_all([messages for _, messages in batch])
        for (key, messages), reply in zip(batch, replies, strict=True):
            if reply.answered:
                self._record(key, messages, reply)
        return {key: reply for (key, _), reply in zip(batch, replies, strict=True)}

    def _find(self, messages: Messages) -> Reply | None:
        same = self._lines.get(request_key(messages), [])
        if self._of is not None:
            same = [line for line in same if line.by in (identity_of(self._of), self._of.name)]
        elif len({json.dumps(line.by, sort_keys=True) for line in same}) > 1:
            raise ValueError(f"{self._path.name} has replies of several generators: say which with of=")
        found = same or self._lines.get(messages[-1]["content"], [])
        return found[-1].reply if found else None

    def _record(self, key: str, messages: Messages, reply: Reply) -> None:
        assert self._of is not None
        by, text = identity_of(self._of), valid(messages[-1]["content"])
        line = {"text": text, "request": key, "by": by, "reply": reply.text and valid(reply.text)}
        if reply.text is None:
            line |= {"failure": reply.failure, "raw": valid(reply.raw)}
        written = (json.dumps(line, ensure_ascii=False) + "\n").encode()
        with self._lock:
            file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                os.write(file, written)  # one call: two processes cannot mix their lines
            finally:
                os.close(file)
            kept = Line(text, key, by, reply._replace(tokens=Reply(None).tokens))
            self._lines.setdefault(key, []).append(kept)

    def __repr__(self) -> str:
        return f"Recorded({self.name}, {sum(map(len, self._lines.values())):,} replies)"


def _written_lines() -> list[Line]:
    """The sample's texts with their written descriptors, as a language model would have answered."""
    lines = []
    for file in WRITTEN.iterdir():
        if file.name.endswith(".jsonl"):
            for record in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
                reply = Reply(json.dumps(record["descriptors"]))
                lines.append(Line(record["text"], None, None, reply))
    return lines


def _read_lines(path: Path) -> list[Line]:
    if not path.exists():
        raise FileNotFoundError(f"no recording {path}: record one or use 'keyphrase'")
    # Lines end at newlines only: what str.splitlines takes for an end as well may stand inside a text.
    *whole, last = path.read_bytes().split(b"\n")
    lines = [_read_line(line, number, path) for number, line in enumerate(whole, 1) if line.strip()]
    try:
        lines += [_read_line(last, len(whole) + 1, path)] if last else []
    except ValueError:
        if not lines and not _is_cut(last):
            raise
        log.warning("%s: the last line was cut, and is left out", path.name)
    return lines


def _is_cut(line: bytes) -> bool:
    """Is it the beginning of a recorded line, and not of some other file?"""
    start = b'{"text": '
    return line.startswith(start) or start.startswith(line)


def _read_line(line: bytes, number: int, path: Path) -> Line:
    try:
        record = json.loads(line.decode("utf-8-sig"))
        text, reply, key = record["text"], record["reply"], record.get("request")
        failure, raw = record.get("failure", ""), record.get("raw", "")
        kinds = (text, str), (reply, str | None), (key, str | None), (failure, str), (raw, str)
        if not all(isinstance(value, kind) for value, kind in kinds):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        shown = line[:60].decode("utf-8", "replace")
        raise ValueError(f'line {number} of {path} is not {{"text": ..., "reply": ...}}: {shown!r}') from None
    return Line(text, key, record.get("by"), Reply(reply, failure, raw))


def _end_last_line(path: Path) -> None:
    """A file that ends inside a line ends with a newline after this: the line is completed, or removed."""
    data = path.read_bytes() if path.exists() else b""
    if not data or data.endswith(b"\n"):
        return
    start = data.rfind(b"\n") + 1
    try:
        _read_line(data[start:], 0, path)
    except ValueError:
        with path.open("r+b") as file:
            file.truncate(start)
    else:
        with path.open("ab") as file:
            file.write(b"\n")
