"""A generator that accounts for another one: every reply is kept, none is paid twice, a cap holds."""

from __future__ import annotations

import math
import os
import sqlite3
import threading
import time
import uuid
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import pandas as pd

from nbkit.descriptors.generators import connect
from nbkit.descriptors.messages import (
    ANSWERED,
    OVER_THE_CAP,
    UNCERTAIN,
    Generator,
    Messages,
    Reply,
    begin,
    identity_of,
    in_batches,
    likely_tokens,
    most_tokens,
    request_key,
    valid,
)
from nbkit.provenance import fingerprint

INTERRUPTED = "interrupted"  # a run was stopped while this request was under way
WAIT = 0.2  # seconds between looks at what another run is asking

TABLES = """
CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, generator TEXT, text TEXT, failure TEXT, raw TEXT,
                                    asked INTEGER, answered INTEGER, money REAL);
CREATE TABLE IF NOT EXISTS failures (key TEXT PRIMARY KEY, generator TEXT, kind TEXT, about TEXT, raw TEXT);
CREATE TABLE IF NOT EXISTS reserved (key TEXT PRIMARY KEY, owner TEXT, generator TEXT, about TEXT,
                                     money REAL);
CREATE TABLE IF NOT EXISTS charges (key TEXT, kind TEXT, money REAL);
"""


class Estimate(NamedTuple):
    """What a run would cost (``money`` and ``most`` are None without a price)."""

    requests: int  # to be sent
    known: int  # answered from the file, free
    tokens: tuple[int, int]  # of the requests (about), of the replies (the most allowed)
    money: float | None  # of these tokens
    most: float | None  # what cannot be passed: a token per byte


class Ledger:
    """A generator that keeps the replies of another one in a file, and what they cost.

    path           sqlite file: every reply, as soon as it is there; a run that was stopped resumes. Several
                   runs may use one file at once: they share its cap and its replies
    prices         {model, or the generator's name: (money for a million request tokens, for a million reply
                   tokens)}
    max_requests   requests that this ledger may send
    max_money      money that the file may come to, over all runs; needs a price

    Before a request is sent, the most that it can cost is reserved in the file (a token per byte, the longest
    reply); what the cap does not allow is not sent and fails as "over the cap". A reply is charged as the
    server counted it, or else the most; so is an attempt that may have been worked on (timed out, connection
    lost, unreadable, or under way when its run was killed). Errors cost nothing. A reply that was paid for is
    kept, also when it is empty, refused or truncated; everything else is asked again.

    ``ValueError``: a cap without a price, a cap or price that is no amount of money, or a file that is no
    ledger.
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
        self._generator: Any = connect(generator) if isinstance(generator, str) else generator
        self.name, self.provenance = self._generator.name, self._generator.provenance
        self._price = _price_of(self._generator, prices or {})
        if max_money is not None and not 0 <= max_money < math.inf:
            raise ValueError(f"max_money={max_money} is no amount of money")
        if max_money is not None and self._price is None:
            raise ValueError(f"max_money={max_money} needs a price for {self.name!r} in prices")
        self.max_requests, self.max_money = max_requests, max_money
        self._path, self._sent, self._lock = Path(path), 0, threading.RLock()
        self._owner: str | None = None
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._named():
            self._base = sqlite3.connect(path, timeout=60, check_same_thread=False, isolation_level=None)
            self._base.executescript(TABLES)

    @property
    def identity(self) -> Any:
        return identity_of(self._generator)

    def estimate(self, requests: Iterable[Messages]) -> Estimate:
        """Requests, tokens and money for ``requests``; nothing is sent."""
        wanted = {self._key(messages): messages for messages in requests}
        new = [messages for key, messages in wanted.items() if self._find(key) is None]
        return _estimate(self._generator, new, len(wanted) - len(new), self._price)

    def complete(self, messages: Messages) -> Reply:
        return self.complete_all([messages])[0]

    def complete_all(self, requests: Sequence[Messages]) -> list[Reply]:
        """A reply for each request: from the file, or sent. What another run is asking is waited for."""
        wanted = {self._key(messages): messages for messages in requests}
        replies = {key: found for key in wanted if (found := self._find(key)) is not None}
        begin(self._generator)
        tries: Counter[str] = Counter()
        allowed = 1 + (self._generator.retries if hasattr(self._generator, "attempt") else 0)
        while left := [(key, messages) for key, messages in wanted.items() if key not in replies]:
            settled: dict[str, Reply] = {}
            for answered in in_batches(self._ask, left, self._generator):
                settled |= answered
            for key, reply in settled.items():
                tries[key] += 1
                if reply.failure not in UNCERTAIN or tries[key] >= allowed:
                    replies[key] = reply
            if not settled:
                time.sleep(WAIT)
        return [replies[self._key(messages)] for messages in requests]

    def spent(self) -> float:
        """Money for everything in the file, without what is reserved for requests under way."""
        with self._transaction() as base:
            self._sweep(base)
            return _sum(base, "replies") + _sum(base, "charges")

    def failures(self) -> pd.DataFrame:
        """One line per request that has no good reply: generator, kind, about (the text), raw."""
        with self._transaction() as base:
            self._sweep(base)
            return pd.read_sql_query("SELECT generator, kind, about, raw FROM failures ORDER BY rowid", base)

    def note(self, messages: Messages, kind: str, raw: str) -> None:
        """A reply came but is of no use (say, "unparsable"): it stays paid, and is a failure."""
        with self._transaction():
            self._fail(self._key(messages), messages[-1]["content"], kind, raw)

    def forget(self, kind: str) -> int:
        """Failures of this kind are asked again, also those that were paid for; what was paid stays counted.

        Returns how many. ``ValueError`` for a kind that no failure has.
        """
        with self._transaction() as base:
            keys = base.execute("SELECT key FROM failures WHERE kind = ?", (kind,)).fetchall()
            if not keys:
                there = [k for (k,) in base.execute("SELECT DISTINCT kind FROM failures ORDER BY kind")]
                raise ValueError(f"no failure is {kind!r}; there are: {', '.join(there) or 'none'}")
            paid = f"SELECT key, ?, money FROM replies WHERE key = ? AND failure IN {ANSWERED}"
            base.executemany(f"INSERT INTO charges {paid}", [(kind, key) for (key,) in keys])
            for table in ("replies", "failures"):
                base.executemany(f"DELETE FROM {table} WHERE key = ?", keys)
            return len(keys)

    def close(self) -> None:
        """Close the file."""
        if self._owner is not None:
            self._release()
        self._base.close()

    # ------------------------------------------------------------------------------------ one request

    def _ask(self, batch: Sequence[tuple[str, Messages]]) -> dict[str, Reply]:
        """Runs in a worker: what comes back is in the file before anybody can be interrupted.

        Requests that another run has under way are absent from what is returned.
        """
        settled, granted = self._reserve(batch)
        unanswered = dict(granted)
        try:
            replies = self._send(granted)
        except ValueError:  # turned away: nothing was worked on
            self._settle(unanswered, 0.0)
            raise
        except BaseException:
            self._settle(unanswered, None)
            raise
        try:
            if len(replies) != len(granted):
                raise ValueError(f"{self.name} gave {len(replies)} replies to {len(granted)} requests")
            for (key, messages), reply in zip(granted.items(), replies, strict=True):
                self._keep(key, messages, reply)
                settled[key] = reply
                del unanswered[key]
        except BaseException:
            self._settle(unanswered, None)
            raise
        return settled

    def _send(self, requests: Mapping[str, Messages]) -> list[Reply]:
        if not requests:
            return []
        if hasattr(self._generator, "attempt"):
            return [self._generator.attempt(messages) for messages in requests.values()]
        return self._generator.complete_all(list(requests.values()))

    def _reserve(self, batch: Sequence[tuple[str, Messages]]) -> tuple[dict[str, Reply], dict[str, Messages]]:
        """What needs no request any more or may not be sent, and what this run may send now."""
        settled, granted = {}, {}
        with self._transaction() as base:
            self._sweep(base)
            for key, messages in batch:
                if (found := self._find(key)) is not None:
                    settled[key] = found
                elif base.execute("SELECT 1 FROM reserved WHERE key = ?", (key,)).fetchone():
                    continue
                elif not self._within(base, messages):
                    settled[key] = Reply(None, OVER_THE_CAP)
                    self._fail(key, messages[-1]["content"], OVER_THE_CAP, "")
                else:
                    about = valid(messages[-1]["content"])
                    line = (key, self._own(), self.name, about, self._most(messages))
                    base.execute("INSERT INTO reserved VALUES (?, ?, ?, ?, ?)", line)
                    granted[key] = messages
                    self._sent += 1
        return settled, granted

    def _sweep(self, base: sqlite3.Connection) -> None:
        """Charge what killed runs had under way: nobody knows whether it was worked on. It is free again."""
        for (owner,) in base.execute("SELECT DISTINCT owner FROM reserved").fetchall():
            if owner == self._owner or _is_alive(self._lock_path(owner)):
                continue
            for what in (
                f"INSERT INTO charges SELECT key, '{INTERRUPTED}', money FROM reserved",
                f"REPLACE INTO failures SELECT key, generator, '{INTERRUPTED}', about, '' FROM reserved",
                "DELETE FROM reserved",
            ):
                base.execute(f"{what} WHERE owner = ?", (owner,))

    def _within(self, base: sqlite3.Connection, messages: Messages) -> bool:
        if self.max_requests is not None and self._sent >= self.max_requests:
            return False
        if self.max_money is None:
            return True
        committed = sum(_sum(base, table) for table in ("replies", "charges", "reserved"))
        return committed + self._most(messages) <= self.max_money

    def _keep(self, key: str, messages: Messages, reply: Reply) -> None:
        text, raw = (value and valid(value) for value in (reply.text, reply.raw))
        with self._transaction() as base:
            base.execute("DELETE FROM reserved WHERE key = ?", (key,))
            base.execute("DELETE FROM failures WHERE key = ?", (key,))
            if reply.answered:
                line = (key, self.name, text, reply.failure, raw, *reply.tokens, self._cost(messages, reply))
                base.execute("REPLACE INTO replies VALUES (?, ?, ?, ?, ?, ?, ?, ?)", line)
            elif reply.failure in UNCERTAIN:
                line = (key, reply.failure, self._cost(messages, reply))
                base.execute("INSERT INTO charges VALUES (?, ?, ?)", line)
            if reply.text is None:
                self._fail(key, messages[-1]["content"], reply.failure, raw or "")

    def _settle(self, requests: Mapping[str, Messages], money: float | None) -> None:
        """End the reservations of ``requests``; each costs ``money``, or (None) the most."""
        with self._transaction() as base:
            for key, messages in requests.items():
                base.execute("DELETE FROM reserved WHERE key = ?", (key,))
                if money is None:
                    line = (key, INTERRUPTED, self._most(messages))
                    base.execute("INSERT INTO charges VALUES (?, ?, ?)", line)

    def _fail(self, key: str, about: str, kind: str, raw: str) -> None:
        line = (key, self.name, kind, valid(about), valid(raw))
        self._base.execute("REPLACE INTO failures VALUES (?, ?, ?, ?, ?)", line)

    def _find(self, key: str) -> Reply | None:
        query = "SELECT text, failure, raw, asked, answered FROM replies WHERE key = ?"
        with self._lock, self._named():
            found = self._base.execute(query, (key,)).fetchone()
        # Files of earlier versions also hold errors as if they were replies.
        return Reply(*found[:3], tokens=found[3:]) if found and found[1] in ANSWERED else None

    def _key(self, messages: Messages) -> str:
        return fingerprint(self.identity, request_key(messages))

    # ------------------------------------------------------------------------------------------ money

    def _most(self, messages: Messages) -> float:
        return _money((most_tokens(messages), _longest(self._generator)), self._price) or 0.0

    def _cost(self, messages: Messages, reply: Reply) -> float:
        asked, answered = reply.tokens
        asked = most_tokens(messages) if asked is None else asked
        answered = _longest(self._generator) if answered is None else answered
        return _money((asked, answered), self._price) or 0.0

    # ------------------------------------------------------------------------------------------- file

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, and one at a time over all processes that use the file."""
        with self._lock, self._named():
            self._base.execute("BEGIN IMMEDIATE")
            try:
                yield self._base
                self._base.execute("COMMIT")
            except BaseException:
                if self._base.in_transaction:
                    self._base.execute("ROLLBACK")
                raise

    @contextmanager
    def _named(self) -> Iterator[None]:
        """A fault of the file is a ``ValueError`` that names it."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise ValueError(
                f"{self._path} cannot be used as a ledger ({error}): if it is damaged or something else, move"
                " it away or give another path"
            ) from error

    def _own(self) -> str:
        """The mark of this run on what it has reserved. A lock file tells others that the run is alive."""
        if self._owner is None:
            self._owner = uuid.uuid4().hex[:12]
            lock = filelock.FileLock(self._lock_path(self._owner), thread_local=False)
            lock.acquire()
            self._release = weakref.finalize(self, _release, lock, os.getpid())
        return self._owner

    def _lock_path(self, owner: str) -> Path:
        return self._path.with_name(f".{self._path.name}.{owner}.lock")

    def __repr__(self) -> str:
        return f"Ledger({self.name})"


def accounted(
    generator: str | Generator,
    ledger: str | Path | None,
    prices: Mapping[str, tuple[float, float]] | None,
    max_money: float | None,
) -> Generator:
    """``generator``, connected; with the file ``ledger``, a language model is put behind a ``Ledger``."""
    connected = connect(generator) if isinstance(generator, str) else generator
    if ledger is None and max_money is not None:
        raise ValueError(f"max_money={max_money} needs a file that counts: ledger=PATH")
    is_model = hasattr(connected, "max_tokens") and not isinstance(connected, Ledger)
    if ledger is None or not is_model:
        return connected
    return Ledger(connected, ledger, prices=prices, max_money=max_money)


def estimate(
    generator: Generator, requests: Sequence[Messages], prices: Mapping[str, Any] | None
) -> pd.DataFrame:
    """One line: generator, requests, known, request_tokens, reply_tokens, money, most (see ``Estimate``)."""
    if isinstance(generator, Ledger):
        found = generator.estimate(requests)
    else:
        found = _estimate(generator, requests, 0, _price_of(generator, prices or {}))
    line = {"generator": generator.name, "requests": found.requests, "known": found.known}
    line |= {"request_tokens": found.tokens[0], "reply_tokens": found.tokens[1]}
    return pd.DataFrame([line | {"money": found.money, "most": found.most}])


def _estimate(
    generator: Generator, new: Sequence[Messages], known: int, price: tuple[float, float] | None
) -> Estimate:
    if not hasattr(generator, "max_tokens"):  # no language model: nothing is sent anywhere
        return Estimate(len(new), known, (0, 0), 0.0, 0.0)
    longest = len(new) * _longest(generator)
    tokens = (sum(likely_tokens(messages) for messages in new), longest)
    most = (sum(most_tokens(messages) for messages in new), longest)
    return Estimate(len(new), known, tokens, _money(tokens, price), _money(most, price))


def _longest(generator: Generator) -> int:
    return getattr(generator, "max_tokens", 0)


def _money(tokens: tuple[int, int], price: tuple[float, float] | None) -> float | None:
    if price is None:
        return None
    return sum(n * one for n, one in zip(tokens, price, strict=True)) / 1e6


def _price_of(generator: Any, prices: Mapping[str, Any]) -> tuple[float, float] | None:
    """What a million tokens of request and of reply cost; nothing where the model runs here."""
    named = [name for name in (getattr(generator, "model", None), generator.name) if name in prices]
    if not named:
        return (0.0, 0.0) if getattr(generator, "free", False) else None
    price = prices[str(named[0])]
    try:
        asked, answered = (float(p) for p in price)
    except (TypeError, ValueError):
        asked = answered = math.nan
    if not (0 <= asked < math.inf and 0 <= answered < math.inf):
        raise ValueError(
            f"prices[{named[0]!r}] is {price!r}: give (money for a million request tokens, for a million"
            " reply tokens)"
        )
    return asked, answered


def _sum(base: sqlite3.Connection, table: str) -> float:
    return base.execute(f"SELECT COALESCE(SUM(money), 0) FROM {table}").fetchone()[0]


def _is_alive(path: Path) -> bool:
    """Does a process hold the lock file? The system lets go of it when the process ends, however it ends."""
    if not path.exists():
        return False
    try:
        with filelock.FileLock(path, blocking=False):
            pass
    except filelock.Timeout:
        return True
    path.unlink(missing_ok=True)
    return False


def _release(lock: filelock.BaseFileLock, pid: int) -> None:
    if os.getpid() == pid:  # a forked process has inherited the lock, and must leave it
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)
