"""Text generators behind one method: messages in, a reply out. And the ledger that accounts for them.

    connect("recorded:sample")    replays the descriptors written for the embedded sample
    connect("recorded:PATH")      replays replies from a file, one {"text": ..., "reply": ...} a line;
                                  with of=GENERATOR it asks that one for what is missing, and records it
    connect("keyphrase")          takes phrases out of the text itself (KeyBERT, no language model)
    connect("local:HF_ID")        a seq2seq or causal language model on this machine (hub id or folder)
    connect("openai:MODEL", base_url=...)    any server that speaks the OpenAI protocol

    generator.complete(messages) -> Reply
    generator.complete_all(list_of_messages) -> list of Reply      the same, batched where it pays

    ledger = Ledger(generator, "replies.sqlite", prices={"MODEL": (0.15, 0.60)}, max_money=2.0)
    ledger.estimate(requests)     requests, tokens and money, before anything is sent
    ledger.complete_all(requests) a generator itself: paid replies are kept at once and never paid twice
    ledger.failures()             every request without a reply: kind, raw reply

``messages`` are chat messages, ``{"role": ..., "content": ...}``; the last one is the text that the
request is about. A reply that could not be had has ``text=None`` and says why in ``failure``; it is
counted by whoever asked, and it never stops a run. A key is read from ``api_key`` or
``$OPENAI_API_KEY``, goes to the server and nowhere else.
"""

from __future__ import annotations

import math
import sqlite3
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from nbkit.descriptors.generators import (
    OVER_THE_CAP,
    PASSING,
    Generator,
    Messages,
    Reply,
    connect,
    request_key,
    side_by_side,
    size_of,
)
from nbkit.provenance import fingerprint


class Estimate(NamedTuple):
    """What a run would cost at most (``money`` is None without a price)."""

    requests: int
    known: int  # answered from the cache, free
    tokens: tuple[int, int]  # of the requests (a quarter of their bytes), of the replies (the most allowed)
    money: float | None


class Ledger:
    """A generator that accounts for another one.

    path           sqlite file: every reply, kept as soon as it is there; a run that was stopped resumes
    prices         {model: (money for a million request tokens, for a million reply tokens)}
    max_requests   requests that this ledger may send
    max_money      money that the file may come to, over all runs; needs a price

    The cap is hard: before a request is sent, the most it can cost is set aside (one token a byte, the
    longest reply). What the cap does not allow is not sent and fails as "over the cap"; what was paid for
    stays. Passing failures (``PASSING``) are asked again next time; an empty, refused or truncated
    reply was paid for, and is not. Attempts that the client repeats inside one request cannot be
    priced from here: a server that bills a timed-out attempt is not seen.
    """

    def __init__(
        self,
        generator: str | Generator,
        path: str | Path,
        *,
        prices: Mapping[str, tuple[float, float]] | None = None,
        max_requests: int | None = None,
        max_money: float | None = None,
    ) -> None:
        self._generator = connect(generator) if isinstance(generator, str) else generator
        self.name, self.provenance = self._generator.name, self._generator.provenance
        self._price = (prices or {}).get(getattr(self._generator, "model", self.name))
        if max_money is not None and self._price is None:
            raise ValueError(f"max_money={max_money} needs a price for {self.name!r} in prices")
        self.max_requests, self.max_money = max_requests, max_money
        self._sent, self._reserved, self._lock = 0, 0.0, threading.Lock()
        self._base = sqlite3.connect(path, check_same_thread=False)
        with self._base:
            self._base.execute(
                "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, generator TEXT, text TEXT,"
                " failure TEXT, raw TEXT, asked INTEGER, answered INTEGER, money REAL)"
            )
            self._base.execute(
                "CREATE TABLE IF NOT EXISTS failures (key TEXT PRIMARY KEY, generator TEXT, kind TEXT,"
                " about TEXT, raw TEXT)"
            )

    def estimate(self, requests: Iterable[Messages]) -> Estimate:
        """Requests, tokens and money for ``requests``; nothing is sent."""
        wanted = {self._key(messages): messages for messages in requests}
        new = [messages for key, messages in wanted.items() if self._find(key) is None]
        asked = sum(math.ceil(size_of(messages) / 4) for messages in new)
        tokens = (asked, len(new) * getattr(self._generator, "max_tokens", 0))
        return Estimate(len(new), len(wanted) - len(new), tokens, self._money(tokens))

    def complete(self, messages: Messages) -> Reply:
        return self.complete_all([messages])[0]

    def complete_all(self, requests: Sequence[Messages]) -> list[Reply]:
        wanted = {self._key(messages): messages for messages in requests}
        replies = {key: found for key in wanted if (found := self._find(key)) is not None}
        new = [(key, messages) for key, messages in wanted.items() if key not in replies]
        size = getattr(self._generator, "batch", None) or max(len(new), 1)
        batches = [new[i : i + size] for i in range(0, len(new), size)]
        for answered in side_by_side(self._ask, batches, getattr(self._generator, "concurrency", 1)):
            replies |= answered
        return [replies[self._key(messages)] for messages in requests]

    def spent(self) -> float:
        """Money paid for all replies in the file."""
        with self._lock:
            return self._paid()

    def failures(self) -> pd.DataFrame:
        """One line a request that has no good reply: generator, kind, about (the text), raw."""
        with self._lock:
            return pd.read_sql_query(
                "SELECT generator, kind, about, raw FROM failures ORDER BY rowid", self._base
            )

    def note(self, messages: Messages, kind: str, raw: str) -> None:
        """A reply came but is of no use (say, "unparsable"): it stays paid, and is a failure."""
        with self._lock, self._base:
            self._fail(self._key(messages), messages, kind, raw)

    def close(self) -> None:
        self._base.close()

    def _ask(self, batch: Sequence[tuple[str, Messages]]) -> dict[str, Reply]:
        """Runs in a worker: what comes back is in the file before anybody can be interrupted."""
        replies = {key: Reply(None, OVER_THE_CAP) for key, _ in batch}
        allowed = {key: messages for key, messages in batch if self._reserve(messages)}
        unanswered = dict(allowed)
        try:
            answers = self._generator.complete_all(list(allowed.values())) if allowed else []
            for (key, messages), reply in zip(allowed.items(), answers, strict=True):
                self._keep(key, messages, reply)
                replies[key] = reply
                del unanswered[key]
        finally:
            with self._lock:
                self._reserved -= sum(self._most(messages) for messages in unanswered.values())
        return replies

    def _reserve(self, messages: Messages) -> bool:
        with self._lock:
            if self.max_requests is not None and self._sent >= self.max_requests:
                return False
            most = self._most(messages)
            if self.max_money is not None and self._paid() + self._reserved + most > self.max_money:
                return False
            self._sent, self._reserved = self._sent + 1, self._reserved + most
            return True

    def _keep(self, key: str, messages: Messages, reply: Reply) -> None:
        with self._lock, self._base:
            self._reserved -= self._most(messages)  # with what it cost, in one step: never counted twice
            self._base.execute("DELETE FROM failures WHERE key = ?", (key,))
            if reply.failure not in PASSING:
                line = (key, self.name, reply.text, reply.failure, reply.raw, *reply.tokens)
                # a server that does not count tokens is charged the most: else the cap would not hold
                money = (self._money(reply.tokens) or 0.0) if any(reply.tokens) else self._most(messages)
                self._base.execute("REPLACE INTO replies VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*line, money))
            if reply.text is None:
                self._fail(key, messages, reply.failure, reply.raw)

    def _fail(self, key: str, messages: Messages, kind: str, raw: str) -> None:
        line = (key, self.name, kind, messages[-1]["content"], raw)
        self._base.execute("REPLACE INTO failures VALUES (?, ?, ?, ?, ?)", line)

    def _find(self, key: str) -> Reply | None:
        with self._lock:
            query = "SELECT text, failure, raw, asked, answered FROM replies WHERE key = ?"
            found = self._base.execute(query, (key,)).fetchone()
        return Reply(*found[:3], tokens=found[3:]) if found else None

    def _key(self, messages: Messages) -> str:
        return fingerprint(getattr(self._generator, "identity", self.name), request_key(messages))

    def _paid(self) -> float:
        return self._base.execute("SELECT COALESCE(SUM(money), 0) FROM replies").fetchone()[0]

    def _most(self, messages: Messages) -> float:
        return self._money((size_of(messages), getattr(self._generator, "max_tokens", 0))) or 0.0

    def _money(self, tokens: tuple[int, int]) -> float | None:
        if self._price is None:
            return None
        return sum(n * price for n, price in zip(tokens, self._price, strict=True)) / 1e6

    def __repr__(self) -> str:
        return f"Ledger({self.name})"
