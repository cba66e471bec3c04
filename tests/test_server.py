"""The language-model path against servers that misbehave: money, replies, addresses, secrets."""

import json
import logging
import sqlite3
import threading
import time

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from misbehaving import KEY, USAGE, Misbehaving, chat

from nbkit import descriptors
from nbkit.descriptors import Ledger, Reply, connect, server
from nbkit.descriptors.messages import ANSWERED, UNCERTAIN
from nbkit.texts import Texts

PRICES = {"m": (10.0, 30.0)}  # a request as chat() counts it costs .00406


@pytest.fixture
def serve():
    """serve(answer, **options) -> a server, and a generator that asks it."""
    running = []

    def start(answer, **options):
        made = Misbehaving(answer)
        running.append(made)
        options = {"api_key": KEY, "retries": 0, "concurrency": 1, "timeout": 20} | options
        return made, connect("openai:m", base_url=made.url, **options)

    yield start
    for made in running:
        made.close()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(server.time, "sleep", lambda _: None)


def ask(n, word="text"):
    return [[{"role": "user", "content": f"{word} {i}"}] for i in range(n)]


def corpus(n):
    return Texts.from_list([f"text {i}" for i in range(n)])


def good(*_):
    return 200, chat('["food"]')


# ------------------------------------------------------------------------------ 1: the key in replies


def test_a_key_that_is_a_common_word_changes_no_reply(serve):
    _, generator = serve(lambda *_: (200, chat('["extraordinary box"]')), api_key="x")
    assert descriptors.propose(corpus(1), generator)["descriptor"].tolist() == ["extraordinary box"]


def test_a_real_key_in_a_reply_is_a_counted_failure_without_the_key(serve, tmp_path):
    _, generator = serve(lambda *_: (200, chat(f'["{KEY}"]')))
    ledger = Ledger(generator, tmp_path / "r.sqlite")
    assert descriptors.propose(corpus(1), ledger).attrs["dropped"]["openai:m"]["key in the reply"] == 1
    assert ledger.failures()["raw"].tolist() == ['["[key]"]'] and KEY not in (
        tmp_path / "r.sqlite"
    ).read_text(encoding="latin-1")


def test_a_short_key_is_redacted_from_errors_where_it_stands_alone(serve):
    _, generator = serve(lambda *_: (400, {"error": {"message": "wrong key: x (extra)"}}), api_key="x")
    assert "wrong key: [key] (extra)" in generator.complete(ask(1)[0]).raw


# ----------------------------------------------------------------------- 2: what a request depends on


def test_a_larger_sample_pays_only_for_what_is_new(serve, tmp_path):
    served, generator = serve(good)
    texts = Texts.from_list([f"text number {i} " + "x" * (i % 50) for i in range(60)])
    for n in (10, 20, 40, 60):
        descriptors.propose(texts, generator, n=n, ledger=tmp_path / "r.sqlite")
    assert len(served.sent) == len(set(served.texts())) == 60


def test_a_failure_changes_no_other_request(serve, tmp_path):
    served, generator = serve(lambda n, _: (500, {}) if n == 0 else good())
    for _ in range(2):
        descriptors.propose(corpus(8), generator, ledger=tmp_path / "r.sqlite")
    assert len(served.sent) == 9 and len(set(map(json.dumps, served.sent))) == 8


# ------------------------------------------------------------------- 3: errors cost nothing, for ever


ERRORS = {
    f"status {status}": (status, {"error": {"message": "no"}})
    for status in (400, 402, 403, 408, 409, 413, 422, 429, 500, 503)
} | {"an error inside a 200": (200, {"error": {"message": "overloaded", "code": 502}})}


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_costs_nothing_and_is_asked_again(serve, tmp_path, kind):
    well = []
    served, generator = serve(lambda *_: good() if well else ERRORS[kind])
    ledger = Ledger(generator, tmp_path / "r.sqlite", prices=PRICES, max_money=1)
    assert not any(reply.answered for reply in ledger.complete_all(ask(8))) and ledger.spent() == 0
    assert len(ledger.failures()) == 8
    well.append(True)  # the same generator asks again at once, however often it has failed
    replies = Ledger(generator, tmp_path / "r.sqlite", prices=PRICES).complete_all(ask(8))
    assert [r.failure for r in replies] == [""] * 8
    assert ledger.failures().empty and ledger.spent() == pytest.approx(8 * 0.00406)


def test_a_kind_of_failure_can_be_forgotten_and_its_money_stays(serve, tmp_path):
    contents = ["[]", '["a"]']
    served, generator = serve(lambda n, _: (200, chat(contents[n])))
    ledger = Ledger(generator, tmp_path / "r.sqlite", prices=PRICES)
    assert descriptors.propose(corpus(1), ledger).empty and descriptors.propose(corpus(1), ledger).empty
    with pytest.raises(ValueError, match="no failure is 'refused'; there are: unparsable"):
        ledger.forget("refused")
    assert ledger.forget("unparsable") == 1 and ledger.spent() == pytest.approx(0.00406)
    assert descriptors.propose(corpus(1), ledger)["descriptor"].tolist() == ["a"]
    assert len(served.sent) == 2 and ledger.spent() == pytest.approx(2 * 0.00406)


def test_a_file_of_an_earlier_version_asks_its_errors_again(serve, tmp_path):
    served, generator = serve(good)
    ledger = Ledger(generator, tmp_path / "r.sqlite", prices=PRICES)
    line = (ledger._key(ask(1)[0]), "openai:m", None, "rejected", "", 0, 0, 0.5)
    with sqlite3.connect(tmp_path / "r.sqlite") as base:
        base.execute("INSERT INTO replies VALUES (?, ?, ?, ?, ?, ?, ?, ?)", line)
    assert ledger.complete(ask(1)[0]).answered and ledger.spent() == pytest.approx(0.00406)


# --------------------------------------------------------------------------- 4, 9: whatever is a 200


def test_content_in_parts_is_read(serve):
    parts = [{"type": "text", "text": '["fo'}, {"type": "text", "text": 'od"]'}, {"type": "other"}, "\n"]
    _, generator = serve(lambda *_: (200, chat(parts)))
    assert descriptors.propose(corpus(1), generator)["descriptor"].tolist() == ["food"]


UNREADABLE = {
    "no JSON": b"<html>please log in</html>",
    "cut": b'{"choices": [{"mess',
    "a list": b"[]",
    "deep": b"[" * 100_000,
    "no UTF-8": b"\xff\xfe\x00{",
    "choices is an object": {**chat("x"), "choices": {"a": 1}},
    "choices is a word": {**chat("x"), "choices": "food"},
    "choices of numbers": {**chat("x"), "choices": [1]},
    "no message": {**chat("x"), "choices": [{}]},
    "message is a word": {**chat("x"), "choices": [{"message": "food"}]},
    "content is a number": chat(5),
    "no choices": {"usage": USAGE},
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_the_cap_binds_when_replies_cannot_be_read(serve, tmp_path, kind):
    """100 sent and none charged, once: now each is charged as counted, or else the most."""
    served, generator = serve(lambda *_: (200, UNREADABLE[kind]))
    generator.patience = 1000
    ledger = Ledger(generator, tmp_path / "r.sqlite", prices=PRICES, max_money=0.02)
    replies = ledger.complete_all(ask(30))
    assert {r.failure for r in replies} == {"broken reply", "over the cap"}
    true = len(served.sent) * 0.00406
    assert 0 < true <= ledger.spent() <= 0.02 and len(served.sent) < 6
    kinds = ledger.failures()["kind"].value_counts()
    assert kinds["broken reply"] == len(served.sent) and kinds["over the cap"] == 30 - len(served.sent)


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 50}, (50, None)),
        ({"prompt_tokens": "5", "completion_tokens": "8"}, (5, 8)),
        ({"prompt_tokens": -5, "completion_tokens": 2.5}, (None, 3)),
        ({"prompt_tokens": True, "completion_tokens": [1]}, (None, None)),
        ({"prompt_tokens": "many", "completion_tokens": 1e300}, (None, None)),
        ({"prompt_tokens": 0, "completion_tokens": 0}, (None, 0)),
        ("12", (None, None)),
        (None, (None, None)),
    ],
)
def test_usage_of_any_kind_is_normalised_and_no_run_stops(serve, tmp_path, usage, tokens):
    served, generator = serve(lambda *_: (200, chat('["a"]', usage)))
    ledger = Ledger(generator, tmp_path / "r.sqlite", prices=PRICES, max_money=1)
    assert [r.tokens for r in ledger.complete_all(ask(3))] == [tokens] * 3
    with sqlite3.connect(tmp_path / "r.sqlite") as base:
        assert base.execute("SELECT COUNT(*) FROM reserved").fetchone() == (0,)
    most = ledger.estimate(ask(3, "other")).most / 3
    counted = [n * p / 1e6 for n, p in zip(tokens, PRICES["m"], strict=True) if n is not None]
    assert sum(counted) * 3 <= ledger.spent() + 1e-12 and ledger.spent() <= 3 * max(most, sum(counted)) + 1e-3
    if tokens == (None, None):
        assert ledger.spent() == pytest.approx(3 * most, rel=0.02)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)
@given(json_values, json_values, json_values)
def test_a_body_of_any_shape_is_a_reply_or_a_failure(choices, message, usage):
    generator = connect("openai:m", base_url="http://127.0.0.1:9/v1", api_key=KEY)
    bodies = [choices, {"choices": choices}, {"choices": [message]}, {"choices": [{"message": message}]}]
    bodies += [{"choices": [{"message": {"content": message}}], "usage": usage}, chat(message, usage)]
    for body in bodies:
        reply = generator._read(json.dumps(body).encode())
        assert (reply.text is None) == bool(reply.failure)
        assert reply.failure in (*ANSWERED, *UNCERTAIN, "server error")
        assert all(n is None or (isinstance(n, int) and n >= 0) for n in reply.tokens)


def test_lone_surrogates_go_through_requests_replies_ledgers_and_recordings(serve, tmp_path):
    served, generator = serve(lambda *_: (200, chat('["caf\ud83d"]')))
    messages = [{"role": "user", "content": "ab\udc00"}]
    assert Ledger(generator, tmp_path / "r.sqlite").complete(messages).text == '["caf?"]'
    assert connect(f"recorded:{tmp_path / 'r.jsonl'}", of=generator).complete(messages).answered
    assert descriptors.propose(corpus(1), generator)["descriptor"].tolist() == ["caf?"]


def test_one_flagged_text_is_one_failure(serve):
    def answer(_, body):
        flagged = "text 3" in body["messages"][-1]["content"]
        return (403, {"error": {"message": "input was flagged"}}) if flagged else good()

    _, generator = serve(answer)
    found = descriptors.propose(corpus(6), generator)
    assert len(found) == 5 and found.attrs["dropped"]["openai:m"] == {"requests": 6, "rejected": 1}
    assert "flagged" in found.attrs["causes"]["openai:m"]["rejected"]


def test_what_was_paid_is_kept_when_the_key_is_withdrawn(serve, tmp_path):
    served, generator = serve(lambda n, _: good() if n < 15 else (401, {"error": {"message": "no key"}}))
    found = descriptors.propose(corpus(30), generator)
    assert len(found) == 15 and len(served.sent) < 40
    assert sum(v for k, v in found.attrs["dropped"]["openai:m"].items() if k != "requests") == 15


CHOICE = chat('["food"]')["choices"][0]
#: What a server may send with status 200: (body, failure, is it charged).
ODD_ANSWERS = {
    "an error in a list": ([{"error": {"message": "overloaded"}}], "server error", False),
    "an error beside no choices": ({"choices": [], "error": {"message": "x"}}, "server error", False),
    "an error beside choices of null": ({"choices": None, "error": "overloaded"}, "server error", False),
    "an object that is an error": ({"object": "error", "message": "overloaded"}, "server error", False),
    "a reply that went wrong": (chat("", finish_reason="error"), "broken reply", True),
    "choices within a list": ({"usage": USAGE, "choices": [[CHOICE]]}, "broken reply", True),
    "choices by number": ({"usage": USAGE, "choices": {"0": CHOICE}}, "broken reply", True),
    "a completion without a message": ({"choices": [{"text": "food"}]}, "broken reply", True),
    "a piece of a stream": (b'data: {"choices": []}\n\ndata: [DONE]\n\n', "broken reply", True),
    "nothing": (b"", "broken reply", True),
    "a number of 5,000 digits": (b'{"choices": [], "usage": ' + b"9" * 5000 + b"}", "broken reply", True),
    "deep objects": (b'{"a":' * 100_000, "broken reply", True),
    "parts of null": (chat([None]), "broken reply", True),
    "parts without text": (chat([{"type": "image_url"}]), "empty", True),
    "a refusal": ({"choices": [{"message": {"content": None, "refusal": "no"}}]}, "refused", True),
    "held back": (chat("", finish_reason="SAFETY"), "refused", True),
    "filtered": (chat("half of it", finish_reason="content_filter"), "refused", True),
    "cut at its limit": (chat('["a", "b', finish_reason="length"), "truncated", True),
    "cut, in other words": (chat('["a", "b', finish_reason="MAX_TOKENS"), "truncated", True),
    "cut while thinking": (chat(None, finish_reason="length"), "truncated", True),
    "a good one, thinking in parts": (
        chat([{"type": "thinking", "text": '["x"]'}, {"type": "text", "text": '["food"]'}]), "", True,
    ),
    "a good one, no usage": ({"choices": [CHOICE]}, "", True),
    "a good one, usage in a list": ({"choices": [CHOICE], "usage": [22, 128]}, "", True),
    "a good one, usage not a number": (
        chat('["food"]', {"prompt_tokens": float("nan"), "completion_tokens": float("inf")}), "", True,
    ),
    "a good one, usage beyond all numbers": (
        chat('["food"]', {"prompt_tokens": 10**400, "completion_tokens": "1e400"}), "", True,
    ),
    "a good one, an end of another type": (chat('["food"]', finish_reason=["length"]), "", True),
    "a good one, an error that is null": ({**chat('["food"]'), "error": None}, "", True),
    "a good one, in a list": ([chat('["food"]')], "", True),
    "a good one, in UTF-16": (json.dumps(chat('["food"]')).encode("utf-16"), "", True),
}  # fmt: skip


@pytest.mark.parametrize("kind", ODD_ANSWERS)
def test_what_is_charged_and_kept_of_an_odd_answer(serve, tmp_path, kind):
    body, failure, charged = ODD_ANSWERS[kind]
    served, generator = serve(lambda *_: (200, body))
    ledger = Ledger(generator, tmp_path / "r.sqlite", prices=PRICES, max_money=1)
    assert [reply.failure for reply in ledger.complete_all(ask(2))] == [failure] * 2
    each = 0.00406  # with 22 tokens of request it is the most that a request may cost here, too
    assert ledger.spent() == (pytest.approx(2 * each, rel=0.02) if charged else 0)
    ledger.complete_all(ask(2))
    assert len(served.sent) == (2 if failure in ANSWERED else 4)


def test_an_answer_that_is_cut_for_showing_leaves_no_part_of_the_key(serve):
    _, generator = serve(lambda *_: (200, b"x" * 1990 + KEY.encode() + b"x" * 100))
    raw = generator.complete(ask(1)[0]).raw
    assert len(raw) == 2000 and KEY[:8] not in raw


def test_a_generator_that_loses_replies_is_named_and_charged(tmp_path):
    class Lossy:
        name, provenance, model, batch, max_tokens = "lossy", "a script", "m", 5, 10

        def complete_all(self, requests):
            return [Reply('["a"]') for _ in requests[1:]]

    ledger = Ledger(Lossy(), tmp_path / "r.sqlite", prices=PRICES, max_money=1)
    with pytest.raises(ValueError, match="lossy gave 4 replies to 5 requests"):
        ledger.complete_all(ask(5))
    assert ledger.spent() == pytest.approx(ledger.estimate(ask(5)).most)


# --------------------------------------------------------------------- 6: several runs on one ledger


def slow(*_):
    threading.Event().wait(0.05)
    return 200, chat("[]")


def test_two_ledgers_share_a_cap_and_pay_each_request_once(serve, tmp_path):
    served, generator = serve(slow, concurrency=4, max_tokens=128)
    cap = 0.03
    ledgers = [Ledger(generator, tmp_path / "r.sqlite", prices=PRICES, max_money=cap) for _ in range(2)]
    replies = [[], []]
    threads = [
        threading.Thread(target=lambda i=i: replies[i].extend(ledgers[i].complete_all(ask(20))))
        for i in (0, 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 2 <= len(served.sent) == len(set(served.texts())) and len(served.sent) * 0.00406 <= cap
    assert ledgers[0].spent() == pytest.approx(len(served.sent) * 0.00406)
    known = [{i for i, r in enumerate(part) if r.answered} for part in replies]
    assert known[0] | known[1] == {int(text.split()[1]) for text in served.texts()}


def test_nobody_else_may_write_between_the_look_at_the_cap_and_the_reservation(serve, tmp_path, monkeypatch):
    _, generator = serve(good)
    ledger = Ledger(generator, tmp_path / "r.sqlite", prices=PRICES, max_money=1)
    other = sqlite3.connect(tmp_path / "r.sqlite", timeout=0, isolation_level=None, check_same_thread=False)
    within, looked = ledger._within, []

    def look(base, messages):
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        looked.append(1)
        return within(base, messages)

    monkeypatch.setattr(ledger, "_within", look)
    assert ledger.complete(ask(1)[0]).answered and looked


def test_without_a_cap_two_runs_wait_for_one_another(serve, tmp_path):
    served, generator = serve(slow, concurrency=4)
    ledgers = [Ledger(generator, tmp_path / "r.sqlite") for _ in range(2)]
    replies = [[], []]
    threads = [
        threading.Thread(target=lambda i=i: replies[i].extend(ledgers[i].complete_all(ask(20))))
        for i in (0, 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(served.sent) == 20 and all(r.answered for part in replies for r in part)


def test_what_a_killed_run_had_under_way_is_charged_and_asked_again(serve, tmp_path):
    served, generator = serve(good)
    ledger = Ledger(generator, tmp_path / "r.sqlite", prices=PRICES, max_money=1)
    line = (ledger._key(ask(1)[0]), "0123456789ab", "openai:m", "text 0", 0.25)  # its owner holds no lock
    with sqlite3.connect(tmp_path / "r.sqlite") as base:
        base.execute("INSERT INTO reserved VALUES (?, ?, ?, ?, ?)", line)
    assert ledger.spent() == 0.25 and ledger.failures()["kind"].tolist() == ["interrupted"]
    assert ledger.complete(ask(1)[0]).answered and ledger.failures().empty
    assert ledger.spent() == pytest.approx(0.25 + 0.00406)
    ledger.close()
    assert not list(tmp_path.glob(".*lock"))


# ------------------------------------------------------------------------- 10: models, and addresses


def test_a_model_that_refuses_settings_is_asked_without_from_then_on(serve):
    def answer(_, body):
        for refused in ("max_tokens", "temperature", "response_format"):
            if refused in body:
                message = f"Unsupported parameter: '{refused}' is not supported with this model."
                return 400, {"error": {"message": message, "param": refused}}
        return (
            good() if body.get("max_completion_tokens") == 128 else (400, {"error": {"message": "no limit"}})
        )

    served, generator = serve(answer)
    found = descriptors.propose(corpus(5), generator)
    assert len(found) == 5 and len(served.sent) == 3 + 5


def test_an_unrelated_400_is_asked_once_more_and_remembered_by_nobody(serve):
    bad = lambda body: "text 0" in body["messages"][-1]["content"]  # noqa: E731
    served, generator = serve(
        lambda _, body: (400, {"error": {"message": "too long"}}) if bad(body) else good()
    )
    found = descriptors.propose(corpus(3), generator)
    assert len(found) == 2 and "response_format" in served.sent[-1]


def test_a_server_that_is_not_there_is_said_at_once_with_its_address(tmp_path):
    started = time.monotonic()
    generator = connect("openai:m", base_url="http://127.0.0.1:9/v1", api_key=KEY)
    for asked in (generator, Ledger(generator, tmp_path / "r.sqlite")):
        with pytest.raises(ValueError, match=r"nothing answers at http://127.0.0.1:9/v1.*(?i:refused)"):
            descriptors.propose(corpus(20), asked)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("status", [401, 404, 405])
def test_a_wrong_key_or_address_is_said_with_the_address(serve, status):
    served, generator = serve(lambda *_: (status, {"error": {"message": "no such thing"}}))
    with pytest.raises(ValueError, match=rf"turned away \({status}\) at http://127.0.0.1.*no such thing"):
        descriptors.propose(corpus(20), generator)
    assert len(served.sent) == 1


@pytest.mark.parametrize("status", [402, 403, 429, 503])
def test_a_server_that_only_fails_is_left_alone_soon_and_the_cause_is_kept(serve, status, caplog):
    said = {"error": {"message": "insufficient_quota", "code": "insufficient_quota"}}
    served, generator = serve(lambda *_: (status, said), retries=2)
    found = descriptors.propose(corpus(200), generator)
    counts = found.attrs["dropped"]["openai:m"]
    assert len(served.sent) <= 5 * 3 and counts["not sent"] >= 195 - 1 and sum(counts.values()) == 400
    assert "insufficient_quota" in found.attrs["causes"]["openai:m"]["not sent"]
    assert "insufficient_quota" in caplog.text


def test_a_server_that_comes_back_is_asked_again(serve):
    served, generator = serve(lambda n, _: good() if not 4 <= n < 10 else (503, {}))
    generator.rest = 0.0
    found = descriptors.propose(corpus(30), generator)
    assert found.attrs["dropped"]["openai:m"] == {"requests": 30, "server error": 6}


def test_a_lost_connection_is_charged_once_an_attempt_and_tried_again(serve, tmp_path):
    served, generator = serve(lambda n, _: None if n < 2 else good(), retries=3)
    ledger = Ledger(generator, tmp_path / "r.sqlite", prices=PRICES, max_money=1)
    assert ledger.complete(ask(1)[0]).answered and len(served.sent) == 3
    most = ledger.estimate(ask(1, "else")).most
    assert ledger.spent() == pytest.approx(2 * most + 0.00406)
    assert connect("openai:m", base_url=served.url, api_key=KEY).complete(ask(1)[0]).answered


# --------------------------------------------------------------------------------------- 11: secrets


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("http://user:s3cret@127.0.0.1:1/v1", "holds a user or password"),
        ("user:s3cret@127.0.0.1:1/v1", "must begin with http"),
        ("http://127.0.0.1:1/v1?token=s3cret", "has a query"),
        ("http://127.0.0.1:1/v1#s3cret", "has a query or fragment"),
        ("http://user:s3cret@h?x=y@z", "holds a user or password"),
        ("http://good.example\\@127.0.0.1/v1", "holds a user or password"),
        ("http://h/v1?", "has a query"),
        ("http://h/v1\r\nX: s3cret", "white space or unprintable"),
        ("http://h.exam\tple/v1", "white space or unprintable"),
        ("ftp://127.0.0.1/v1", "must begin with http"),
        ("http:/127.0.0.1/v1", "must begin with http:// or https:// and a host"),
        ("http://127.0.0.1:99999/v1", "is no address"),
        ("localhost:8000/v1", "must begin with http://"),
        ("http://", "must begin with http:// or https:// and a host"),
        ("http://127.0.0.1:port/v1", "is no address"),
        ("http://[::1/v1", "is no address"),
    ],
)
def test_an_address_that_is_wrong_or_carries_secrets_is_refused(url, match):
    with pytest.raises(ValueError, match=match) as caught:
        connect("openai:m", base_url=url, api_key=KEY)
    assert "s3cret" not in str(caught.value) and caught.value.__cause__ is None


@pytest.mark.parametrize("key", ["", "  ", None, "sk-\x00123", "sk-é", "a\nb", "Bearer sk", "sk\u200b1"])
def test_a_key_that_cannot_be_sent_is_refused_without_being_shown(key, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ValueError) as caught:
        connect("openai:m", base_url="http://127.0.0.1:1/v1", api_key=key)
    assert not key or not key.strip() or key not in str(caught.value)


def test_nothing_that_is_written_at_debug_level_holds_the_key(serve, tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    served, generator = serve(lambda n, _: [good(), (400, {"error": {"message": f"key {KEY}"}}), None][n % 3],
                              api_key=f" {KEY}\n")  # fmt: skip
    ledger = Ledger(generator, tmp_path / "r.sqlite")
    ledger.complete_all(ask(6))
    connect(f"recorded:{tmp_path / 'r.jsonl'}", of=generator).complete_all(ask(6, "other"))
    (tmp_path / "frame.csv").write_text(ledger.failures().to_csv(), encoding="utf-8")
    assert f"Bearer {KEY}" in served.headers[0].values()
    assert len(caplog.text) > 1000 and KEY not in caplog.text + "".join(capfd.readouterr()) + repr(generator)
    ledger.close()
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert len(files) >= 3 and not [p for p in files if KEY.encode() in p.read_bytes()]


def test_a_server_on_this_machine_is_not_asked_through_a_proxy(serve, monkeypatch):
    proxy, _ = serve(good)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    served, generator = serve(good)
    assert generator.complete(ask(1)[0]).answered
    assert len(served.sent) == 1 and not proxy.sent


@pytest.mark.parametrize(
    "host",
    "[::1]:80 localhost LOCALHOST. 127.1 127.0.0.1. [::ffff:127.0.0.1] 0.0.0.0 x.localhost".split(),
)
def test_every_name_of_this_machine_is_known(host):
    assert server.is_loopback(f"http://{host}/v1")


@pytest.mark.parametrize("host", "api.openai.com 10.0.0.1 localhost.example.com [::ffff:10.0.0.1]".split())
def test_other_machines_are_not_this_one(host):
    assert not server.is_loopback(f"http://{host}/v1")


# ----------------------------------------------------------------------- 12, 13: estimates and caps


def test_a_dry_run_counts_what_will_be_sent_and_sends_nothing(serve, tmp_path):
    served, generator = serve(good)
    paid = dict(ledger=tmp_path / "r.sqlite", prices=PRICES, max_money=1.0)
    (line,) = descriptors.propose(corpus(10), [generator], **paid, dry_run=True).to_dict("records")
    assert not served.sent and (line["requests"], line["known"]) == (10, 0)
    descriptors.propose(corpus(10), generator, **paid)
    characters = sum(len(m["content"]) for body in served.sent for m in body["messages"])
    assert line["request_tokens"] >= characters / 4 and line["reply_tokens"] == 10 * 128
    assert line["money"] <= line["most"] and line["most"] >= 10 * 0.00406
    again = descriptors.propose(corpus(12), generator, **paid, dry_run=True)
    assert again[["requests", "known"]].values.tolist() == [[2, 10]]
    merged = descriptors.Descriptors(pd.DataFrame({"descriptor": [f"d{i}" for i in range(25)]}), 0)
    asked = descriptors.label(corpus(4), merged, "asked", generator=generator, **paid, dry_run=True)
    assert asked["requests"].tolist() == [4 * 3] and len(served.sent) == 10
    keyphrase = descriptors.propose(corpus(3), "keyphrase", **paid, dry_run=True)
    assert keyphrase[["requests", "money"]].values.tolist() == [[3, 0.0]]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=60), min_size=1, max_size=5))
def test_the_most_is_never_less_than_any_tokenizer_makes(strings):
    requests = [descriptors.Prompt().messages(text) for text in strings]
    from nbkit.descriptors.messages import likely_tokens, most_tokens

    for messages in requests:
        whole = sum(len(m["content"].encode("utf-8", "replace")) for m in messages)
        assert most_tokens(messages) >= whole + len(json.dumps(messages.schema))
        assert likely_tokens(messages) <= most_tokens(messages)


@pytest.mark.parametrize("cap", [float("nan"), float("inf"), -1])
def test_a_cap_that_is_no_money_is_refused(serve, tmp_path, cap):
    _, generator = serve(good)
    with pytest.raises(ValueError, match="is no amount of money"):
        Ledger(generator, tmp_path / "r.sqlite", prices=PRICES, max_money=cap)


@pytest.mark.parametrize("price", [(-1, 2), (1, float("nan")), (1,), 5, "ab", (1, "x")])
def test_a_price_that_is_none_is_refused(serve, tmp_path, price):
    _, generator = serve(good)
    with pytest.raises(ValueError, match=r"prices\['m'\] is"):
        Ledger(generator, tmp_path / "r.sqlite", prices={"m": price}, max_money=1)


def test_prices_go_by_the_generators_name_too_and_a_cap_needs_a_file(serve, tmp_path):
    _, generator = serve(good)
    ledger = Ledger(generator, tmp_path / "r.sqlite", prices={"openai:m": (10, 30)}, max_money=1)
    assert ledger.complete(ask(1)[0]).answered and ledger.spent() == pytest.approx(0.00406)
    with pytest.raises(ValueError, match="max_money=1 needs a file"):
        descriptors.propose(corpus(1), generator, max_money=1, prices=PRICES)


def test_a_file_that_is_no_ledger_is_named(serve, tmp_path):
    _, generator = serve(good)
    path = tmp_path / "broken.sqlite"
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(ValueError, match="broken.sqlite cannot be used as a ledger .*move it away"):
        Ledger(generator, path)
    ledger = Ledger(generator, tmp_path / "torn.sqlite")
    ledger.complete_all(ask(3))
    ledger.close()
    whole = (tmp_path / "torn.sqlite").read_bytes()
    (tmp_path / "torn.sqlite").write_bytes(whole[:100] + b"\x00" * (len(whole) - 100))
    with pytest.raises(ValueError, match="torn.sqlite cannot be used as a ledger"):
        Ledger(generator, tmp_path / "torn.sqlite").complete_all(ask(3))


def test_a_ledger_keeps_generators_of_other_options_apart(tmp_path):
    question = [{"role": "user", "content": "The goat climbed onto the roof of the barn in heavy rain."}]
    many, few = (Ledger(connect("keyphrase", top=top), tmp_path / "k.sqlite") for top in (5, 2))
    assert len(json.loads(many.complete(question).text)) == 5
    assert len(json.loads(few.complete(question).text)) == 2
