"""Writing: new texts for a description, by a generator."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import pandas as pd

from nbkit.descriptors.ledger import Ledger, accounted, estimate
from nbkit.descriptors.messages import Generator, Messages, Reply, Request
from nbkit.descriptors.proposals import warn_of_losses
from nbkit.descriptors.replies import json_items, without_marks, without_thinking

#: What is written, in turn: the forms keep texts for one description from being alike in all else.
FORMS = (
    "a line of a product review",
    "a question to a forum",
    "a sentence of an encyclopedia",
    "a sentence of a story",
    "a line of a dialogue",
    "a sentence of a news report",
    "a piece of advice",
    "a line of a letter to a friend",
)
TASK = (
    "You write short texts. You get a description and the kind of text. Write one text of ten to thirty words"
    " that a careful reader would describe so, and do not repeat the description. Answer with the text alone."
)
#: Worked examples, written for the kit.
EXAMPLES = (
    (
        ("broken zips", FORMS[0]),
        "The fastener came off its teeth on day two, and the coat has hung open since.",
    ),
    (("rivers", FORMS[3]), "All night the ferryman heard the current pull at the chain below his window."),
)
#: What becomes of a reply: only a new text is one.
OUTCOMES = ("new", "duplicate", "shared", "copy", "empty")
LABEL = re.compile(r"^\W*(?:text|answer|output|sentence)\W*:\s*", re.IGNORECASE)


def write(
    descriptions: Sequence[str],
    generator: str | Generator,
    *,
    n: int = 8,
    ledger: str | Path | None = None,
    prices: Mapping[str, tuple[float, float]] | None = None,
    max_money: float | None = None,
    dry_run: bool = False,
) -> pd.DataFrame:
    """``n`` texts for each description: a frame with description, number, text, outcome.

    generator   a spec or a connected generator, as for ``propose``; ``ledger``, ``prices``, ``max_money`` and
                ``dry_run`` (one line: what it would cost) likewise. A description is written once, however
                often it is given

    Every text is a request of its own, for one of eight forms in turn (``FORMS``). A reply that was cut by
    its length is used as far as its last whole word. Outcomes:

    new         a text
    duplicate   the same words as an earlier text for this description
    shared      the same words as a text for another description
    copy        no word that is not in the description, or one of the worked examples
    empty       a reply without a word
    else        why there is no reply: "timed out", "over the cap", ...; text is None

    ``.attrs`` has dropped, causes and provenance as ``propose`` has. ``ValueError``: no description, one
    without a word, or ``n`` below 1.
    """
    names = [descriptions] if isinstance(descriptions, str) else list(dict.fromkeys(descriptions))
    if n < 1 or not names:
        raise ValueError(f"n={n} texts for {len(names)} descriptions: ask for one text and one at least")
    if bare := [name for name in names if not words_in(name)]:
        raise ValueError(f"the description {bare[0]!r} has no word: leave it out")
    wanted = [(name, number) for name in names for number in range(1, n + 1)]
    requests = [_messages(name, number) for name, number in wanted]
    with ExitStack() as opened:
        connected = accounted(generator, ledger, prices, max_money)
        if isinstance(connected, Ledger) and connected is not generator:
            opened.enter_context(closing(connected))
        if dry_run:
            return estimate(connected, requests, prices)
        replies = connected.complete_all(requests)
    frame = pd.DataFrame(wanted, columns=["description", "number"])
    frame["text"] = pd.Series([text_of(reply) for reply in replies], dtype=object)
    frame["outcome"] = _outcomes(frame, replies)
    counts = Counter({"requests": len(frame)}) + Counter(frame["outcome"][~frame["outcome"].eq("new")])
    causes = {}
    for kind, reply in zip(frame["outcome"], replies, strict=True):
        causes.setdefault(kind, (reply.raw or reply.text or "")[:300])
    causes.pop("new", None)
    warn_of_losses(connected.name, counts, causes)
    frame.attrs = {"dropped": dict(counts), "causes": causes, "provenance": connected.provenance}
    return frame


def _messages(description: str, number: int) -> Messages:
    asked = [{"role": "system", "content": TASK}]
    for example, text in EXAMPLES:
        if example[0] != description:
            asked += [
                {"role": "user", "content": _question(*example)},
                {"role": "assistant", "content": text},
            ]
    turn, place = divmod(number - 1, len(FORMS))
    another = f", another one (number {turn + 1})" if turn else ""
    asked += [{"role": "user", "content": _question(description, FORMS[place] + another)}]
    return Request(asked, version="writing 1")


def _question(description: str, form: str) -> str:
    return f"Description: {description}\nKind of text: {form}"


def text_of(reply: Reply) -> str | None:
    """The text in a reply, or None where there is no reply; of one that was cut the whole words.

    Thinking aloud, code fences, a label before the text and quotes around it are dropped; of a JSON value the
    first string is taken.
    """
    raw = reply.text
    if raw is None and reply.failure == "truncated":
        raw = reply.raw.rpartition(" ")[0]
    if raw is None:
        return None
    text = without_marks(without_thinking(raw)).strip()
    if text[:1] in ("[", "{"):
        text = next(iter(json_items(text) or []), text)
    text = " ".join(LABEL.sub("", text).split())
    return text[1:-1].strip() if len(text) > 1 and text[0] + text[-1] in ('""', "''", "“”", "‘’") else text


def words_in(text: str) -> tuple[str, ...]:
    """The words of a text without case and punctuation: two texts with the same ones are the same text."""
    return tuple(re.findall(r"\w+", text.lower()))


def _outcomes(frame: pd.DataFrame, replies: Sequence[Reply]) -> list[str]:
    examples = {words_in(text) for _, text in EXAMPLES}
    words = [words_in(text or "") for text in frame["text"]]
    owners: dict[tuple[str, ...], set[str]] = {}
    for key, name in zip(words, frame["description"], strict=True):
        owners.setdefault(key, set()).add(name)
    found, known = [], set()
    for key, name, reply in zip(words, frame["description"], replies, strict=True):
        if not key:
            lost = reply.text is None and reply.failure != "truncated"
            found.append(reply.failure if lost else "empty")
        elif key in examples or set(key) <= set(words_in(name)):
            found.append("copy")
        elif len(owners[key]) > 1:
            found.append("shared")
        else:
            found.append("duplicate" if (name, key) in known else "new")
        known.add((name, key))
    return found
