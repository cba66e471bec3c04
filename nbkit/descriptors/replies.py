"""Reading replies: descriptors out of whatever a language model writes, and probabilities.

A reply is read once from left to right, whatever it holds: time grows with its length only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from nbkit.descriptors.messages import valid

LONGEST = 6  # words of a descriptor; more is a sentence
WIDEST = 80  # characters of a descriptor; scripts without spaces have one "word" a sentence
MOST = 10  # descriptors of a text

#: Marks of thinking aloud, as models of several families write them.
THINKING = re.compile(
    r"[<\[](/?)(?:think|thinking|thoughts?|reasoning|reflection|analysis|scratchpad)[>\]]", re.IGNORECASE
)
BULLET = re.compile(r"\s*(?:[-*+•‣▪–—·]\s*|\(?\d{1,3}[.):、]\s+|\(?\d{1,3}\)\s*)")
LABEL = re.compile(
    r"\s*(?:the )?(?:topics?|themes?|tone|mood|style|sentiment|subjects?|properties|descriptors?|keywords?"
    r"|phrases|tags|labels|answer|list|output|response)\s*[:：]\s*",
    re.IGNORECASE,
)
COMMAS = ",，、،﹐､՝߸᠂፣⸲⹁⹌"
COMMA = re.compile(f"[{COMMAS}]")
END = re.compile(r"[.!?…。！？।؟]+[\"'”’»)]*\s*$")
INSIDE = re.compile(r"[.!?…।؟][\"'”’»)]*\s+\S|[。！？]\S")  # a sentence ends, and another begins
#: What an item has around it and is no part of it.
AROUND = " \t\r\n\"'`“”„‟«»‹›‘’‚‛「」『』[]{}<>*_~|.;:!¡•" + COMMAS

REFUSAL = re.compile(
    r"(?:i'?m|i am) (?:\w+ )?(?:sorry|afraid|unable|not able|not allowed)\b"
    r"|(?:unfortunately,? |sorry,? (?:but )?)+i\b|sorry,? but\b"
    r"|i (?:can ?not|can'?t|won'?t|will not|do not|don'?t|must|have to|apologi[sz]e)\b"
    r"|as an? (?:\w+ )?(?:ai|assistant|language model)\b|my apologies\b",
    re.IGNORECASE,
)
PREAMBLE = re.compile(
    r"(?:sure|ok|okay|certainly|of course|absolutely|yes|no|hmm+|well)$"
    r"|(?:here (?:is|are|you)|here'?s|let me|let'?s|let us)\b"
)
NONE = {
    "none", "null", "nil", "nan", "n/a", "na", "nothing", "undefined", "unknown", "not applicable",
    "none found", "none of the above", "no descriptors", "no properties", "keine", "nichts", "aucun",
    "aucune", "rien", "ninguno", "ninguna", "nada", "nessuno", "nessuna", "niente", "nenhum", "nenhuma",
    "нет", "ничего", "无", "無", "没有", "沒有", "なし", "ない", "없음", "لا شيء",
}  # fmt: skip


class Read(NamedTuple):
    """What was found in a reply; without items ``failure`` is "refused" or "unparsable"."""

    items: list[str]
    failure: str = ""


def read_reply(reply: str) -> list[str] | None:
    """Descriptors in a reply, or None when there are none (nothing of use, or a refusal).

    Thinking aloud, code fences and bold are dropped. Then the last whole JSON value counts, flattened (of
    objects the values), or the whole items of a list that was cut; without any bracket or brace, the lines
    (bullets first), split at the commas of any script where they are no sentences. Items are lower-cased,
    without quotes; at most ten, of at most six words each.
    """
    return read(reply).items or None


def read(reply: str) -> Read:
    """``read_reply`` with the kind of failure."""
    text = without_marks(without_thinking(reply)).strip()
    found = json_items(text)
    if found is None and not re.search(r"[\[\]{}]", text):
        if REFUSAL.match(_straight(text)):
            return Read([], "refused")
        found = line_items(text)
    items: dict[str, None] = {}
    refused = False
    for item in found or []:
        cleaned = clean(item)
        refused = refused or bool(REFUSAL.match(cleaned))
        if is_descriptor(cleaned):
            items[cleaned] = None
        if len(items) == MOST:
            break
    failure = "" if items else "refused" if refused else "unparsable"
    return Read(list(items), failure)


def without_thinking(text: str) -> str:
    """What is outside of thinking marks; thinking that is not closed goes to the end."""
    text = text.rpartition("<|message|>")[2]  # the last channel of models that write several
    kept, start, thinking = [], 0, False
    for mark in THINKING.finditer(text):
        if mark[1]:  # closed; without an opening mark all before it was thinking
            kept, start, thinking = (kept if thinking else []), mark.end(), False
        elif not thinking:
            kept.append(text[start : mark.start()])
            thinking = True
    return "".join(kept) + ("" if thinking else text[start:])


def without_marks(text: str) -> str:
    """``text`` without code fences and bold."""
    lines = [line for line in text.splitlines() if not re.fullmatch(r"\s*(?:```|~~~)\s*\w*\s*", line)]
    return re.sub(r"[*_`]{2,}|`", "", "\n".join(lines))


def clean(item: str) -> str:
    """One item: without quotes and marks, lower-cased, single spaces."""
    item = without_marks(valid(item[: 4 * WIDEST]))
    return " ".join(_straight(item).lower().split()).strip(AROUND)


def is_descriptor(item: str) -> bool:
    """Is a cleaned item of use: not empty, not too long, no refusal, no word for none?"""
    if not any(c.isalnum() for c in item) or len(item) > WIDEST or len(item.split()) > LONGEST:
        return False
    junk = REFUSAL.match(item) or PREAMBLE.match(item) or THINKING.search(item) or "<|" in item
    return item not in NONE and not junk


def _straight(text: str) -> str:
    return text.replace("’", "'").replace("‘", "'")


# --------------------------------------------------------------------------------------------- lines


def line_items(text: str) -> list[str]:
    """Items of a plain reply: its bulleted lines, or all; commas split what is no sentence."""
    lines = [line for line in text.splitlines() if line.strip() and not line.rstrip().endswith((":", "："))]
    bulleted = [line for line in lines if BULLET.match(line)]
    items = []
    for line in bulleted or lines:
        line = LABEL.sub("", BULLET.sub("", line, count=1), count=1)
        items += [] if is_sentence(line) else COMMA.split(line)
    return items


def is_sentence(line: str) -> bool:
    """More than a list of phrases: a long part, a full stop after a longer phrase, or one inside."""
    longest = max(len(part.split()) for part in COMMA.split(line))
    return longest > LONGEST or bool(INSIDE.search(line)) or (longest > 3 and bool(END.search(line)))


# -------------------------------------------------------------------------------------------- values


class _Value:
    """Items of one bracketed value while it is read: all levels flattened, keys of objects left out."""

    def __init__(self, text: str, start: int) -> None:
        before = text[max(0, start - 80) : start].rpartition("\n")[2].rstrip()
        self.bare = not before or before.endswith((":", "="))  # else a bare word in brackets is prose
        self.open: list[str] = []  # brackets
        self.items: list[str] = []
        self.words = False  # anything but brackets and commas
        self.pending: list[str] = []  # of the bare item that is being read
        self.quoted: str | None = None

    def end_item(self) -> None:
        bare = "".join(self.pending).strip()
        self.words = self.words or bool(bare) or self.quoted is not None
        if self.quoted is not None:
            self.items.append(self.quoted)
        elif self.bare and bare and not re.fullmatch(r"[-+\d.eE]+|true|false", bare, re.IGNORECASE):
            self.items.append(bare)
        self.pending, self.quoted = [], None

    def end_key(self) -> None:
        self.pending, self.quoted = [], None


def json_items(text: str) -> list[str] | None:
    """Strings in the last value in brackets or braces; None without one. Keys, numbers and null do not count.

    Quotes may be single; words may be bare where the value begins a line. Of a value that is cut at the end
    of the text its whole items count.
    """
    found: list[str] | None = None
    value: _Value | None = None
    tokens = _Tokens(text)
    for at, token in tokens:
        if value is None:
            if token in "[{":
                value = _Value(text, at)
                value.open.append(token)
        elif token in "[{":
            value.end_item()
            value.open.append(token)
        elif token in "]}":
            value.end_item()
            value.open.pop()
            if not value.open:
                if value.items or not value.words:
                    found = value.items
                value = None
        elif token in COMMAS:
            value.end_item()
        elif token == ":" and value.open[-1] == "{":
            value.end_key()
        elif token in "\"'“‘" and not value.pending and value.quoted is None:
            value.quoted = tokens.string(token)
            if value.quoted is None:  # it is not closed: the reply was cut inside
                break
        elif value.quoted is None and (value.pending or token.strip()):
            value.pending.append(token)
    if value is not None:
        value.pending = []  # a bare item at the end may be cut
        value.end_item()
        found = value.items or found
    return found


class _Tokens:
    """Marks and the text between them, each with its place; ``string`` takes the rest of a quoted one."""

    MARK = re.compile(r"[\[\]{}:\"'“”‘’\\" + COMMAS + r"]|[^\[\]{}:\"'“”‘’\\" + COMMAS + r"]+")

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    def __iter__(self) -> Iterator[tuple[int, str]]:
        while (mark := self.MARK.match(self.text, self.at)) is not None:
            self.at = mark.end()
            yield mark.start(), mark.group()

    def string(self, quote: str) -> str | None:
        """The string after an opening quote; None when it is not closed."""
        closing, start, parts = {"“": "”", "‘": "’"}.get(quote, quote), self.at, []
        tokens = iter(self)
        for at, token in tokens:
            if token == "\\":
                _, following = next(tokens, (0, ""))
                parts += [token, following]
            elif token == closing and (closing in '"”' or self._ends()):
                return _unescaped(self.text[start:at])
        return None

    def _ends(self) -> bool:
        """Is the next thing the end of an item? (An apostrophe closes nothing.)"""
        following = re.compile(r"\s*").match(self.text, self.at)
        at = following.end() if following else self.at
        return at == len(self.text) or self.text[at] in "]}:" + COMMAS


def _unescaped(string: str) -> str:
    if "\\" not in string:
        return string
    try:
        return json.loads(f'"{string}"', strict=False)
    except ValueError:
        return string.replace("\\", "")


# -------------------------------------------------------------------------------------- probabilities


def read_answer(reply: str, names: Sequence[str]) -> list[float] | None:
    """Probabilities of ``names`` in a reply: a JSON object of numbers, or of yes and no. None: not all."""
    answers = last_object(without_thinking(reply))
    words = {"yes": 1.0, "no": 0.0, "true": 1.0, "false": 0.0}
    found = []
    for name in names if answers else ():
        value = answers.get(name)
        value = words.get(str(value).strip().lower(), value)
        value = _number(value) if isinstance(value, str) else value
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            return None
        found.append(float(value))
    return found or None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def last_object(text: str) -> dict[str, Any] | None:
    """The last whole JSON object of a text, without those inside it; None when there is none."""
    start, depth, quoted, last = 0, 0, False, None
    marks = re.finditer(r'\\.|["{}]', text, re.DOTALL)
    for mark in marks:
        if depth and mark.group() == '"':
            quoted = not quoted
        elif not quoted and mark.group() == "{":
            start, depth = (mark.start() if not depth else start), depth + 1
        elif not quoted and mark.group() == "}" and depth:
            depth -= 1
            last = (start, mark.end()) if not depth else last
    try:
        found = json.loads(text[slice(*last)]) if last else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
