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

#: Marks of thinking aloud, as models of several families write them; a group is filled where one is closed.
THINKING = re.compile(
    r"[<◁]\s{0,2}(/?)\s{0,2}(?:\w{1,9}[:_])?(?:think|thinking|thoughts?|reasoning|reflection|analysis"
    r"|scratchpad|monologue)(?:\s[^<>]{0,80})?[>▷]|\[(/?)think(?:ing)?\]|<\|(?:begin|(end))_of_thought\|>",
    re.IGNORECASE,
)
#: Marks that end a turn: what follows is no part of the reply.
TURN = re.compile(
    r"<[|｜](?:im_end|eot_id|eom_id|end|endoftext|end_of_text|return|end▁of▁sentence)[|｜]>"
    r"|</s>|<eos>|<end_of_turn>",
    re.IGNORECASE,
)
TAG = re.compile(
    r"<[|｜][^<>]{1,40}[|｜]>|</?[a-z][\w:.-]{0,30}(?: [^<>]{0,80})?/?>|\[/?INST\]", re.IGNORECASE
)
FENCE = re.compile(r"\s*(?:`{3,}|~{3,})\s*[\w+#.-]*\s*")
INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff]"
)
#: Full-width marks, and those they stand for.
PLAIN = str.maketrans("［］｛｝【】＂：", '[]{}[]":')

BULLET = re.compile(
    r"\s*(?:[-*+•‣▪–—·✅✔✓➤►→]\s*|\(?\d{1,3}[.):、]\s+|\(?\d{1,3}\)\s*|\(?[a-zA-Z]\)\s+|[①-⑳❶-❿]\s*)"
)
CHECKBOX = re.compile(r"^([ \t]{0,9}[-*+][ \t]{1,9})\[[ xX]?\][ \t]", re.MULTILINE)
NUMBER = re.compile(r"[\s,;]\(?\d{1,2}[.)]\s")  # of an item inside a line
NAMED = (
    r"(?:(?:the|final|my) )?(?:topics?|themes?|tone|mood|style|sentiment|subjects?|propert(?:y|ies)"
    r"|descriptors?|keywords?|phrases|tags|labels|answer|list|output|response|result|json)"
)
LABEL = re.compile(
    r"\s*(?:(?:sure|ok|okay|certainly|of course|absolutely|understood|got it)[,.!]\s{1,2})?"
    r"(?:(?:here (?:is|are)|here's|these are)[^:]{0,60}:"
    rf"|{NAMED}(?:\s{{0,2}}[:=]|\s[-–—]\s))?\s*",
    re.IGNORECASE,
)
#: What a reply in prose says besides its items.
CHATTER = re.compile(
    rf"{NAMED}(?: (?:is|are)(?: as follows)?)?$|assistant$|got it$|understood$|thank|you're welcome"
    r"|(?:i )?hope (?:this|that|it)|i (?:think|hope|see|would|will|chose|found|believe|have)\b",
)
#: Keys of an object whose values are no descriptors.
ASIDE = set(
    "error errors message reason reasons reasoning rationale explanation explanations thought thoughts"
    " thinking analysis confidence comment comments note notes type role status language $schema".split()
)
#: An item in bold, and what it is explained with.
HEAD = re.compile(rf"^([^*]{{0,9}}\*\*(?!{NAMED}\W)[^*:]{{1,80}}?)(?::\*\*|\*\*:)\s\S.*", re.IGNORECASE)
COMMAS = ",，、،﹐､՝߸᠂፣⸲⹁⹌;；؛|•"
COMMA = re.compile(f"[{COMMAS}]")
END = re.compile(r"[.!?…。！？।؟]+[\"'”’»)]*\s*$")
INSIDE = re.compile(r"[.!?…।؟][\"'”’»)]*\s+\S|[。！？]\S")  # a sentence ends, and another begins
QUOTED = re.compile(rf'\(?\s*(?:"[^"]*"[\s{COMMAS}]*)+\)?')
#: What an item has around it and is no part of it.
AROUND = " \t\r\n\"'`“”„‟«»‹›‘’‚‛「」『』[]{}<>*_~.:!¡…" + COMMAS

REFUSAL = re.compile(
    r"(?:i'?m|i am) (?:\w+ )?(?:sorry|afraid|unable|not able|not allowed)\b"
    r"|(?:unfortunately,? |sorry,? (?:but )?)+i\b|sorry,? but\b"
    r"|i (?:can ?not|can'?t|won'?t|will not|do not|don'?t|must|have to|apologi[sz]e|regret|decline)\b"
    r"|as an? (?:\w+ )?(?:ai|assistant|language model)\b|my apologies\b",
    re.IGNORECASE,
)
#: A reply that begins so is a refusal; in a list of several, or in two words, it may be a descriptor.
REFUSED = re.compile(
    r"\W{0,9}(?:sorry\W*$|(?:please accept )?(?:my )?(?:sincere )?apologies\b|unable to"
    r"|can ?not\b|can'?t\b"
    r"|i'?d rather not|we (?:are sorry|can ?not|can'?t)|(?:this|the|your) (?:request|content|text|prompt)"
    r" (?:violates|has been (?:flagged|blocked|rejected)|goes against|cannot be)"
    r"|(?:request|content) (?:denied|rejected|blocked|policy)"
    r"|es tut mir leid|leider|tut mir leid|lo siento|lamento|(?:je suis )?désolée?|je ne peux|desculpe"
    r"|sinto muito|lamento|mi dispiace|non posso|извините|простите|к сожалению|я не могу|przykro mi|het spijt"
    r"|(?:很|非常)?抱歉|对不起|對不起|我(?:不能|无法|無法)|申し訳|すみません|ごめんなさい|죄송|عذرا|آسف|क्षमा)",
    re.IGNORECASE,
)
PREAMBLE = re.compile(
    r"(?:sure|ok|okay|certainly|of course|absolutely|yes|no|hmm+|well)$"
    r"|(?:here (?:is|are|you)|here'?s|let me|let'?s|let us)\b"
)
NONE = {
    "none", "null", "nil", "nan", "n/a", "n / a", "n.a", "na", "nothing", "undefined", "unknown", "true",
    "false", "unspecified", "redacted", "empty list", "none of the above", "keine", "nichts", "aucun",
    "aucune", "rien", "ninguno", "ninguna", "nada", "nessuno", "nessuna", "niente", "nenhum", "nenhuma",
    "нет", "ничего", "无", "無", "没有", "沒有", "なし", "ない", "없음", "لا شيء",
}  # fmt: skip
NO_SUCH = re.compile(
    r"(?:there (?:is|are) )?(?:no|none)(?: (?:clear|specific|relevant|particular|obvious|such|other))?"
    r"(?: (?:topics?|themes?|descriptors?|properties|property|keywords?|phrases|tags|labels"
    r"|answer|text|items))?"
    r"(?: (?:was |were )?(?:found|identified|given|detected|provided|present|available|apply|applicable))?"
    r"|not (?:applicable|available|specified|given|provided|mentioned|stated)"
)


class Read(NamedTuple):
    """What was found in a reply; without items ``failure`` is "refused" or "unparsable"."""

    items: list[str]
    failure: str = ""


def read_reply(reply: str) -> list[str] | None:
    """Descriptors in a reply, or None when there are none (nothing of use, or a refusal).

    Thinking aloud, marks of turns, tags, code fences and bold are dropped. Then the last whole JSON value
    counts, flattened (of objects the values), or the whole items of a list that was cut; without any bracket
    or brace, the lines (bullets first), split at the commas of any script where they are no sentences. Items
    are lower-cased, without quotes; at most ten, of at most six words each.
    """
    return read(reply).items or None


def read(reply: str) -> Read:
    """``read_reply`` with the kind of failure."""
    text = without_marks(without_thinking(INVISIBLE.sub("", valid(reply)).translate(PLAIN))).strip()
    found = json_items(_decoded(text))
    if found is None and not re.search(r"[\[\]{}]", text):
        if _refuses(text):
            return Read([], "refused")
        found = json_items(f"[{text.strip('() ')}]") if QUOTED.fullmatch(text) else line_items(text)
    nested = [json_items(item) if item[:1] in ("[", "{") else None for item in found or []]
    parts = [part for item, inner in zip(found or [], nested, strict=True) for part in (inner or [item])]
    items: dict[str, None] = {}
    refused = False
    for item in map(clean, parts):
        refused = refused or bool(REFUSAL.match(item))
        if is_descriptor(item):
            items[item] = None
        if len(items) == MOST:
            break
    only = next(iter(items), "")
    if len(items) == 1 and len(only.split()) > 2 and _refuses(only):
        return Read([], "refused")
    refused = refused or _refuses(text)
    return Read(list(items), "" if items else "refused" if refused else "unparsable")


def without_thinking(text: str) -> str:
    """What is outside of thinking marks, as far as the end of the turn; open thinking goes to the end."""
    header, channel, last = text.rpartition("<|message|>")  # of models that write several channels
    text = "" if channel and re.search(r"analysis\s{0,9}$", header[-20:]) else last
    kept, start, thinking = [], 0, False
    for mark in THINKING.finditer(text):
        if any(mark.groups()):  # closed; without an opening mark all before it was thinking
            kept, start, thinking = (kept if thinking else []), mark.end(), False
        elif not thinking:
            kept.append(text[start : mark.start()])
            thinking = True
    outside = "".join(kept) + ("" if thinking else text[start:])
    return next((turn for turn in TURN.split(outside.rpartition("[/INST]")[2]) if turn.strip()), "")


def without_marks(text: str) -> str:
    """``text`` without code fences, tags, check boxes and bold; what is bold before a colon is the item."""
    lines = [line for line in text.splitlines() if not FENCE.fullmatch(line)]
    text = CHECKBOX.sub(r"\1", "\n".join(HEAD.sub(r"\1**", line) for line in lines))
    return re.sub(r"[*_`]{2,}|`", "", TAG.sub("\n", text))


def clean(item: str) -> str:
    """One item: without quotes and marks, lower-cased, single spaces."""
    before, item = None, valid(item[: 4 * WIDEST])
    for _ in range(4):  # what one step leaves may be something for another
        if item == before:
            break
        before = item
        item = INVISIBLE.sub("", item).lower()
        item = " ".join(_straight(without_marks(item)).split()).strip(AROUND)
        if item.count("(") != item.count(")") or re.fullmatch(r"\([^()]*\)", item):
            item = item.strip("()")
    return item


def is_descriptor(item: str) -> bool:
    """Is a cleaned item of use: not empty, not too long, no refusal, no word for none?"""
    if not any(c.isalnum() for c in item) or len(item) > WIDEST or len(item.split()) > LONGEST:
        return False
    junk = REFUSAL.match(item) or PREAMBLE.match(item) or THINKING.search(item) or NO_SUCH.fullmatch(item)
    return item not in NONE and not junk and not item.startswith(("//", "/*")) and "<|" not in item


def _refuses(text: str) -> bool:
    text = _straight(text).strip(AROUND)
    return bool(REFUSAL.match(text) or REFUSED.match(text))


def _decoded(text: str) -> str:
    """``text``, or what it holds where it is a JSON string with a list inside."""
    if text[:1] != '"' or "[" not in text:
        return text
    try:
        return str(json.loads(text, strict=False))
    except (ValueError, RecursionError):
        return text


def _straight(text: str) -> str:
    return text.replace("’", "'").replace("‘", "'")


# --------------------------------------------------------------------------------------------- lines


def line_items(text: str) -> list[str]:
    """Items of a plain reply: its bulleted lines, or all but headings; commas split what is no sentence."""
    lines = [line for line in text.splitlines() if line.strip() and not line.rstrip().endswith(":")]
    lines = [line for line in lines if not re.match(r"#{1,6} ", line)] or lines
    bulleted = [line for line in lines if BULLET.match(line)]
    items = []
    for line in bulleted or lines:
        line = _after(LABEL, _after(BULLET, line))
        for part in NUMBER.split(line) if bulleted else [line]:
            items += [] if is_sentence(part) else COMMA.split(part)
    return [item for item in (_after(LABEL, item) for item in items) if not CHATTER.match(clean(item))]


def _after(mark: re.Pattern[str], line: str) -> str:
    """``line`` without the mark that it begins with."""
    found = mark.match(line)
    return line[found.end() :] if found else line


def is_sentence(line: str) -> bool:
    """More than a list of phrases: a long part, a full stop after a longer phrase, or one inside."""
    longest = max(len(part.split()) for part in COMMA.split(line))
    return longest > LONGEST or bool(INSIDE.search(line)) or (longest > 3 and bool(END.search(line)))


# -------------------------------------------------------------------------------------------- values


class _Value:
    """Items of one bracketed value while it is read: all levels flattened, keys of objects left out."""

    def __init__(self, text: str, start: int) -> None:
        before = text[max(0, start - 80) : start].rpartition("\n")[2].rstrip()
        self.bare = not before.strip("-*+• ") or before.endswith((":", "="))  # else a bare word is prose
        self.open: list[str] = []  # brackets
        self.aside: list[bool] = []  # of each open bracket: is what stands in it now no item?
        self.items: list[str] = []
        self.words = False  # anything but brackets and commas
        self.pending: list[str] = []  # of the bare item that is being read
        self.quoted: str | None = None

    def may_quote(self) -> bool:
        """Does a quote begin a string here, where nothing but a comment stands before it?"""
        if self.pending and self.pending[0][:9].lstrip().startswith(("//", "/*")):
            self.pending = []
        return not self.pending

    def enter(self, bracket: str) -> None:
        self.aside.append(bool(self.aside) and self.aside[-1])
        self.open.append(bracket)

    def leave(self) -> None:
        self.end_item()
        self.open.pop()
        self.aside.pop()

    def end_item(self) -> None:
        bare = "".join(self.pending).strip()
        self.words = self.words or bool(bare) or self.quoted is not None
        if not self.aside[-1]:
            if self.quoted is not None:
                self.items.append(self.quoted)
            elif self.bare and bare and not re.fullmatch(r"[-+\d.eE]+|true|false", bare, re.IGNORECASE):
                self.items.append(bare)
        self.pending, self.quoted = [], None

    def comma(self) -> None:
        self.end_item()
        self.aside[-1] = len(self.aside) > 1 and self.aside[-2]

    def end_key(self) -> None:
        key = self.quoted if self.quoted is not None else "".join(self.pending)
        self.aside[-1] = self.aside[-1] or key.strip().lower() in ASIDE
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
                value.enter(token)
        elif token in "[{":
            value.end_item()
            value.enter(token)
        elif token in "]}":
            value.leave()
            if not value.open:
                if value.items or not value.words:
                    found = value.items
                value = None
        elif token in COMMAS:
            value.comma()
        elif token == ":" and value.open[-1] == "{":
            value.end_key()
        elif token in "\"'“‘" and value.may_quote():
            if value.quoted is not None:  # two strings with no comma between them
                value.end_item()
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
