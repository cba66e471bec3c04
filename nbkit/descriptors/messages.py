"""Requests to a generator and replies from it: what each kind of reply costs, how many go at once."""

from __future__ import annotations

import contextlib
import json
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol, TypeVar

from nbkit.provenance import fingerprint

Messages = Sequence[dict[str, str]]
T = TypeVar("T")
R = TypeVar("R")

#: Kinds of replies that were had: paid for, kept, not asked again. "" is a reply without a failure.
ANSWERED = ("", "empty", "refused", "truncated", "key in the reply")
#: Failures that may have been paid for: charged what was counted, or else the most; asked again.
UNCERTAIN = ("timed out", "connection lost", "broken reply")
#: Every other failure costs nothing and is asked again, among them:
OVER_THE_CAP, NOT_SENT = "over the cap", "not sent"

FRAME = 16  # tokens that a chat template may put around one message


class Request(list):
    """Messages that know the ``version`` of their prompt and the JSON ``schema`` of a good reply."""

    def __init__(
        self, messages: Messages, *, version: str = "", schema: dict[str, Any] | None = None
    ) -> None:
        super().__init__(messages)
        self.version, self.schema = version, schema


class Reply(NamedTuple):
    """What came back."""

    text: str | None
    failure: str = ""  # why there is no text, in a word or two
    raw: str = ""  # the text of a reply that failed, or the server's explanation
    tokens: tuple[int | None, int | None] = (None, None)  # of request and reply; None: not counted

    @property
    def answered(self) -> bool:
        """The model has replied, well or not: asking again would pay again."""
        return self.failure in ANSWERED


def judge(text: str, ended: bool, tokens: tuple[int | None, int | None]) -> Reply:
    """A reply with ``text``, or a failure where it is empty or was cut."""
    if not text.strip():
        return Reply(None, "empty" if ended else "truncated", text, tokens)
    return Reply(text, tokens=tokens) if ended else Reply(None, "truncated", text, tokens)


class Generator(Protocol):
    """Anything that answers messages: ``{"role": ..., "content": ...}``, the last one being the text.

    name         as in frames and counts
    provenance   where the replies come from, in a sentence

    A generator may also have ``identity`` (a JSON-able value of all that decides a reply), ``model`` (whose
    price counts), ``max_tokens`` (of a reply), ``batch`` and ``concurrency`` (requests in one call, calls at
    once), ``attempt(messages)`` with ``retries`` (one try that may have to be paid), and ``begin()`` (called
    before a run).
    """

    name: str
    provenance: str

    def complete(self, messages: Messages) -> Reply: ...

    def complete_all(self, requests: Sequence[Messages]) -> list[Reply]: ...


def identity_of(generator: Generator) -> Any:
    """What decides the generator's replies, besides the request."""
    return getattr(generator, "identity", generator.name)


def begin(generator: Generator) -> None:
    """Tell a generator that a run begins, if it wants to know."""
    if hasattr(generator, "begin"):
        generator.begin()  # pyright: ignore[reportAttributeAccessIssue]


def request_key(messages: Messages) -> str:
    """Fingerprint of a request: messages, version of the prompt, schema."""
    plain = [{key: valid(value) for key, value in message.items()} for message in messages]
    return fingerprint(plain, getattr(messages, "version", ""), getattr(messages, "schema", None))


def valid(text: str) -> str:
    """``text`` with lone surrogates replaced: they cannot be encoded, sent or stored."""
    return text.encode("utf-8", "replace").decode("utf-8")


def most_tokens(messages: Messages) -> int:
    """Tokens of a request at most: a token is a byte at least. With the chat template, and the schema."""
    return sum(len(valid(m["content"]).encode()) + FRAME for m in messages) + _schema_bytes(messages)


def likely_tokens(messages: Messages) -> int:
    """About the tokens of a request: four ASCII characters make one, any other character is one."""
    text = "".join(m["content"] for m in messages)
    ascii_ = sum(c.isascii() for c in text) + FRAME * len(messages) + _schema_bytes(messages)
    return math.ceil(ascii_ / 4) + sum(not c.isascii() for c in text)


def _schema_bytes(messages: Messages) -> int:
    schema = getattr(messages, "schema", None)
    return len(json.dumps(schema)) if schema else 0


def in_batches(ask: Callable[[Sequence[T]], R], things: Sequence[T], generator: Generator | None) -> list[R]:
    """``ask`` of batches of ``things``, as large and as many at once as suits ``generator``."""
    size = getattr(generator, "batch", None) or max(len(things), 1)
    batches = [things[i : i + size] for i in range(0, len(things), size)]
    return side_by_side(ask, batches, getattr(generator, "concurrency", 1))


def side_by_side(function: Callable[[T], R], things: Sequence[T], workers: int) -> list[R]:
    """``function`` of each; after an error or an interrupt what runs ends, and nothing new starts."""
    from tqdm.auto import tqdm

    stopped = threading.Event()

    def run(thing: T) -> R:
        if stopped.is_set():
            raise CancelledError
        try:
            return function(thing)
        except BaseException:
            stopped.set()
            raise

    pool = ThreadPoolExecutor(max(workers, 1))
    try:
        futures = [pool.submit(run, thing) for thing in things]
        return [f.result() for f in tqdm(futures, desc="replies", leave=False, delay=2, disable=None)]
    finally:
        with contextlib.suppress(KeyboardInterrupt):
            pool.shutdown(wait=True, cancel_futures=True)
