"""A state machine: two processes ask through one ledger, servers fail, processes are killed, money adds up.

The server counts what it has answered, which is what would be billed. After every step: what it has billed is
within the cap; each answer that it has billed has a line of its own in the file (a reply, a charge, or a
reservation while it is under way), so that none was paid twice for one reply; no text is answered again once
its reply is in the file; what is in the file stays there.
"""

import os
import signal
import sqlite3
import tempfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from misbehaving import Misbehaving, chat, work
from processes import context

from nbkit.descriptors import Ledger

pytestmark = pytest.mark.slow

TEXTS = [f"text {i}" for i in range(16)]
COST = (20 * 10 + 8 * 30) / 1e6  # of a reply as the server counts it
MOST = ((6 + 16) * 10 + 16 * 30) / 1e6  # that a request may cost
CAP = 5 * MOST  # about seven answers: it binds before all texts are answered


class Money(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "replies.sqlite"
        self.mode, self.lock = "answer", threading.Lock()
        self.billed, self.again, self.known = [], [], set()
        self.server = Misbehaving(self.answer)
        self.port = self.server.port
        self.processes, self.pipes, self.busy = [None, None], [None, None], [False, False]

    def kept(self):
        """Texts whose replies are in the file, read without the ledger."""
        if not self.path.exists():
            return set()
        with sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=30) as base:
            try:
                found = base.execute("SELECT text FROM replies").fetchall()
            except sqlite3.OperationalError:  # the tables are not there yet
                return set()
        return {text for (text,) in found}

    def lines(self):
        """Lines of the file that an answer may belong to."""
        with sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=30) as base:
            tables = ("replies", "charges", "reserved")  # all in one moment
            counts = " + ".join(f"(SELECT COUNT(*) FROM {table})" for table in tables)
            return base.execute(f"SELECT {counts}").fetchone()[0]

    def answer(self, _, body):
        text, mode = body["messages"][-1]["content"], self.mode
        if mode in ("429", "503"):
            return int(mode), {"error": {"message": mode}}
        with self.lock:
            self.billed.append(text)
            if text in self.kept():
                self.again.append(text)
        if mode == "hang up":
            return None  # it has worked, and nobody hears of it
        if mode == "stall":
            time.sleep(0.9)  # longer than the client waits
        if mode == "garble":
            return 200, b'{"choices": [{"mes'
        time.sleep(0.05)  # time for another to ask the same
        return 200, chat(text, {"prompt_tokens": 20, "completion_tokens": 8})

    @initialize()
    def start_both(self):
        for who in (0, 1):
            self.start(who)

    def start(self, who):
        self.pipes[who], theirs = context.Pipe()
        url = f"http://127.0.0.1:{self.port}/v1"
        self.processes[who] = context.Process(
            target=work, args=(theirs, url, str(self.path), CAP), daemon=True
        )
        self.processes[who].start()
        assert self.pipes[who].poll(120) and self.pipes[who].recv() == "ready"
        self.busy[who] = False

    @rule(who=st.integers(0, 1), texts=st.lists(st.sampled_from(TEXTS), min_size=1, max_size=8, unique=True))
    def ask(self, who, texts):
        self.collect(who)
        self.pipes[who].send(texts)
        self.busy[who] = True

    @rule(texts=st.lists(st.sampled_from(TEXTS), min_size=4, max_size=8, unique=True))
    def both_ask(self, texts):
        """At once, about the same."""
        for who in (0, 1):
            self.collect(who)
        for who in (0, 1):
            self.ask(who, texts)

    @rule(who=st.integers(0, 1))
    def wait(self, who):
        self.collect(who)

    def collect(self, who):
        if self.busy[who]:
            assert self.pipes[who].poll(120), "a run does not end"
            self.pipes[who].recv()
            self.busy[who] = False

    @rule(mode=st.sampled_from(["answer", "answer", "429", "503", "hang up", "stall", "garble"]))
    def behave(self, mode):
        self.mode = mode

    @precondition(lambda self: self.server is not None)
    @rule()
    def die(self):
        self.server.close()
        self.server = None

    @precondition(lambda self: self.server is None)
    @rule()
    def come_back(self):
        self.server = Misbehaving(self.answer, self.port)

    @rule(who=st.integers(0, 1), after=st.sampled_from([0.0, 0.02, 0.1]))
    def kill(self, who, after):
        time.sleep(after)
        os.kill(self.processes[who].pid, signal.SIGKILL)
        self.processes[who].join()
        self.start(who)

    @invariant()
    def money_adds_up(self):
        with self.lock:
            billed = len(self.billed)
            assert billed * COST <= CAP + 1e-9
            assert not self.again, f"paid twice: {self.again}"
        assert billed <= self.lines(), "one line of the file stands for two answers"
        kept = self.kept()
        assert self.known <= kept, f"lost: {self.known - kept}"
        self.known = kept

    def teardown(self):
        """Once the server is well and there is money, every text is answered, and each once."""
        try:
            if self.processes[0] is None:
                return
            for who in (0, 1):
                self.collect(who)
            if self.server is None:
                self.come_back()
            self.mode = "answer"
            with self.lock:
                kept, billed = self.kept(), len(self.billed)
            from misbehaving import KEY

            from nbkit.descriptors import connect

            model = connect("openai:m", base_url=self.server.url, api_key=KEY, retries=0, max_tokens=16)
            ledger = Ledger(model, self.path, prices={"m": (10.0, 30.0)}, max_money=1.0)
            assert len(self.billed) * COST <= ledger.spent() + 1e-9 and ledger.spent() <= CAP + 1e-9
            replies = ledger.complete_all([[{"role": "user", "content": text}] for text in TEXTS])
            assert [reply.text for reply in replies] == TEXTS
            assert len(self.billed) - billed == len(TEXTS) - len(kept) and not self.again
            ledger.close()
        finally:
            for process in filter(None, self.processes):
                process.kill()
                process.join()
            if self.server is not None:
                self.server.close()
            self.folder.cleanup()


Money.TestCase.settings = settings(
    max_examples=6, stateful_step_count=14, deadline=None, suppress_health_check=list(HealthCheck)
)
TestMoney = Money.TestCase
