"""Language models against a real server with injected faults; the ledger accounts for every request."""

import json
import threading
import time

import nbformat
import pytest
from model_server import REPLY, Proxy, Server, make_model

from nbkit import descriptors, provenance, texts
from nbkit.descriptors import Ledger, Reply, generators, messages
from nbkit.texts import Texts

KEY = "canary-5f1c77e0"


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    corpus = texts.load("sample:reviews").frame["text"].tolist()[:200]
    return make_model(tmp_path_factory.mktemp("model"), corpus)


@pytest.fixture(scope="session")
def server(folder):
    server = Server(folder)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def proxy(server):
    proxy = Proxy(server)
    yield proxy
    proxy.http.shutdown()


@pytest.fixture
def connected(proxy, folder):
    options = dict(base_url=proxy.url, api_key=KEY, max_tokens=32, retries=3, timeout=120)
    return lambda **changed: generators.connect(f"openai:{folder}", **options | changed)


def ask(n, word="text"):
    return [[{"role": "user", "content": f"{word} {i}"}] for i in range(n)]


def test_the_whole_path_side_by_side_and_the_second_time_free(proxy, connected, tmp_path):
    corpus = Texts.from_list([f"the soup was good {i}" for i in range(6)])
    ledger = Ledger(connected(concurrency=3), tmp_path / "replies.sqlite")
    found = descriptors.propose(corpus, ledger)
    paid = proxy.answered
    assert paid == 6
    assert found.attrs["dropped"][ledger.name] == {"requests": 6}
    assert found["descriptor"].tolist() == ["food", "praise"] * 6
    assert 2 <= proxy.most_busy <= 3
    again = descriptors.propose(corpus, Ledger(connected(), tmp_path / "replies.sqlite"))
    assert proxy.answered == paid and again.values.tolist() == found.values.tolist()
    descriptors.propose(corpus, ledger, prompt=descriptors.Prompt(version="another"))
    assert proxy.answered == 2 * paid  # another version is another request


@pytest.mark.parametrize("fault", ["429", "500"])
def test_a_passing_fault_is_tried_again_and_paid_once(proxy, connected, tmp_path, fault):
    proxy.faults = [fault, fault]
    reply = Ledger(connected(), tmp_path / "r.sqlite").complete(ask(1)[0])
    assert proxy.answered == 1 and reply.answered


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("429", "busy"),
        ("500", "server error"),
        ("slow", "timed out"),
        ("broken", "broken reply"),
        ("empty", "empty"),
        ("refused", "refused"),
    ],
)
def test_every_fault_has_its_kind_and_only_passing_ones_are_asked_again(
    proxy, connected, tmp_path, fault, kind
):
    proxy.faults = [fault]
    timeout = 1 if fault == "slow" else 120
    ledger = Ledger(connected(retries=0, timeout=timeout), tmp_path / "r.sqlite")
    assert ledger.complete(ask(1)[0]).failure == kind
    assert ledger.failures()[["kind", "about"]].values.tolist() == [[kind, "text 0"]]
    before = proxy.answered
    resumed = Ledger(connected(retries=0), tmp_path / "r.sqlite").complete(ask(1)[0])
    if kind in ("empty", "refused"):  # paid for, so kept
        assert resumed.failure == kind and proxy.answered == before
    else:
        assert resumed.text.strip() == REPLY


def test_a_server_killed_half_way_is_resumed_and_nothing_is_paid_twice(proxy, server, connected, tmp_path):
    proxy.after = lambda n: server.kill() if n == 4 else None
    first = Ledger(connected(retries=0, concurrency=1), tmp_path / "r.sqlite").complete_all(ask(8))
    proxy.after = None
    server.process.wait()
    lost = sum(not reply.answered for reply in first)
    assert 3 <= lost <= 4
    server.start()
    second = Ledger(connected(), tmp_path / "r.sqlite").complete_all(ask(8))
    assert all(reply.answered for reply in second)
    assert proxy.answered == 8


class Counting:
    """A generator that counts, and can be interrupted."""

    name, provenance, model, batch, concurrency, max_tokens = "counting", "a script", "m", 1, 2, 10

    def __init__(self, stop_at=None):
        self.sent, self.stop_at, self.lock = 0, stop_at, threading.Lock()

    def complete_all(self, requests):
        with self.lock:
            self.sent += len(requests)
            if self.sent == self.stop_at:
                raise KeyboardInterrupt
        return [Reply('["a"]', tokens=(10, 5)) for _ in requests]


def test_an_interrupted_run_keeps_what_was_answered(tmp_path):
    counting = Counting(stop_at=5)
    with pytest.raises(KeyboardInterrupt):
        Ledger(counting, tmp_path / "r.sqlite").complete_all(ask(50))
    kept = Ledger(Counting(), tmp_path / "r.sqlite").estimate(ask(50)).known
    assert kept == counting.sent - 1


def test_the_cap_is_never_passed_and_what_was_paid_stays(tmp_path):
    prices = {"m": (1e6, 2e6)}  # a unit of money a token, two for a reply token
    requests = ask(20)
    ledger = Ledger(Counting(), tmp_path / "r.sqlite", prices=prices, max_money=150.0)
    assert ledger.estimate(requests[:1]).money == 6 + 2 * 10  # 22 bytes with the frame
    replies = ledger.complete_all(requests)
    sent = sum(reply.text is not None for reply in replies)
    assert 0 < sent < 20 and ledger.spent() == 20 * sent <= 150
    assert {r.failure for r in replies} == {"", messages.OVER_THE_CAP}
    more = Ledger(Counting(), tmp_path / "r.sqlite", prices=prices, max_requests=2)
    assert more.estimate(requests).known == sent
    assert sum(reply.text is not None for reply in more.complete_all(requests)) == sent + 2
    with pytest.raises(ValueError, match="needs a price"):
        Ledger(Counting(), tmp_path / "r.sqlite", max_money=1)


def test_two_that_look_at_the_cap_at_once_wait_for_one_another(tmp_path, monkeypatch):
    """Each reads what is committed, and reserves: were that not one step, one would find the file locked."""
    within, found = Ledger._within, []

    def slowly(self, base, request):
        allowed = within(self, base, request)
        time.sleep(0.3)  # the other looks in the meantime
        return allowed

    def ask_all(asker, word):
        ledger = Ledger(asker, tmp_path / "r.sqlite", prices={"m": (1e6, 2e6)}, max_money=60.0)
        found.append(ledger.complete_all(ask(2, word)))

    monkeypatch.setattr(Ledger, "_within", slowly)
    askers = [Counting(), Counting()]
    threads = [threading.Thread(target=ask_all, args=two) for two in zip(askers, "ab", strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2, "one of them has stopped"
    assert sum(asker.sent for asker in askers) == 2, "20 each, and 26 until the reply is there: two of 60"


def test_replies_without_a_token_count_are_charged_the_most_they_can_cost(tmp_path):
    silent = Counting()
    silent.complete_all = lambda requests: [Reply("x") for _ in requests]
    ledger = Ledger(silent, tmp_path / "r.sqlite", prices={"m": (1e6, 2e6)}, max_money=150.0)
    replies = ledger.complete_all(ask(20))
    sent = sum(reply.text is not None for reply in replies)
    assert 0 < sent < 20 and 0 < ledger.spent() <= 150 < ledger.spent() * (sent + 1) / sent


def test_an_unparsable_reply_is_absent_counted_and_kept_raw(tmp_path):
    counting = Counting()
    counting.complete_all = lambda requests: [Reply("[]") for _ in requests]
    ledger = Ledger(counting, tmp_path / "r.sqlite")
    found = descriptors.propose(Texts.from_list(["one"]), ledger)
    assert found.empty and found.attrs["dropped"]["counting"] == {"requests": 1, "unparsable": 1}
    assert ledger.failures()[["kind", "about", "raw"]].values.tolist() == [["unparsable", "one", "[]"]]


def test_a_recording_of_another_generator_replays_without_it(tmp_path):
    path = tmp_path / "replies.jsonl"
    recorder = generators.connect(f"recorded:{path}", of=Counting())
    said = recorder.complete_all(ask(3))
    replayed = generators.connect(f"recorded:{path}").complete_all(ask(4))
    assert [r.text for r in replayed[:3]] == [r.text for r in said] and replayed[3].failure == "not recorded"


def test_a_local_model_answers_in_batches_as_one_by_one(folder):
    local = generators.connect(f"local:{folder}", batch=3, max_tokens=32)
    requests = ask(4) + ask(1, "a much longer text about soup and ferries")
    assert [r[:3] for r in local.complete_all(requests)] == [local.complete(m)[:3] for m in requests]
    assert local.complete(requests[-1]).text == REPLY
    cut = generators.connect(f"local:{folder}", max_tokens=2).complete(requests[0])
    assert cut.text is None and cut.failure == "truncated" and REPLY.startswith(cut.raw)


def test_a_server_without_structured_output_is_asked_without(proxy, connected, tmp_path):
    proxy.faults = ["unstructured"] * 20
    corpus = Texts.from_list([f"the soup was good {i}" for i in range(4)])
    found = descriptors.propose(corpus, Ledger(connected(concurrency=1), tmp_path / "r.sqlite"))
    assert found["descriptor"].tolist() == ["food", "praise"] * 4
    assert proxy.answered == 4 and len(proxy.faults) == 20 - 5  # one request was turned down, once


def test_a_seq2seq_model_answers_in_batches_as_one_by_one(folder, tmp_path):
    """A tiny T5, as FLAN-T5 is one: encoder and decoder, no chat template."""
    import torch
    from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = None
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(
        T5Config(
            vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2,
            pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
            decoder_start_token_id=1,
        )
    )  # fmt: skip
    model.save_pretrained(tmp_path / "t5")
    tokenizer.save_pretrained(tmp_path / "t5")
    local = generators.connect(f"local:{tmp_path / 't5'}", batch=3, max_tokens=6)
    requests = ask(3) + ask(1, "a much longer text about soup and ferries")
    together, alone = local.complete_all(requests), [local.complete(m) for m in requests]
    assert [r[:3] for r in together] == [r[:3] for r in alone]
    assert all(r.text is not None or r.failure in ("truncated", "empty") for r in together)


def test_a_model_is_asked_whether_a_text_has_a_descriptor(proxy, connected, tmp_path):
    """Against the real server: this tiny model's answer is no JSON, so every text is counted lost."""
    corpus = Texts.from_list(["the soup was good", "the train was late"])
    merged = descriptors.merge(
        descriptors.propose(corpus, Ledger(connected(), tmp_path / "a.sqlite")), min_texts=1
    )
    ledger = Ledger(connected(), tmp_path / "b.sqlite")
    found = descriptors.label(corpus, merged, "asked", generator=ledger)
    assert found.empty and found.attrs["dropped"]["unparsable"] == 2
    assert ledger.failures()["kind"].tolist() == ["unparsable"] * 2


def test_the_key_is_nowhere(proxy, connected, tmp_path, caplog, capfd, monkeypatch):
    caplog.set_level("DEBUG")
    echo = b'{"error": {"message": "wrong key ' + KEY.encode() + b'"}}'
    real = proxy.answer
    ledger = Ledger(connected(retries=0), tmp_path / "r.sqlite")
    ledger.complete(ask(1)[0])
    recorder = generators.connect(f"recorded:{tmp_path / 'r.jsonl'}", of=connected(retries=0))
    recorder.complete(ask(1, "recorded")[0])
    for status in (400, 429, 500):
        proxy.answer = lambda *_, status=status: (status, echo)
        ledger.complete(ask(1, f"status {status}")[0])
    proxy.answer = lambda *_: (401, echo)
    with pytest.raises(ValueError, match="turned away .401") as caught:
        connected(retries=0).complete(ask(1, "denied")[0])
    assert caught.value.__cause__ is None and caught.value.__context__ is None
    proxy.answer = real
    said = [str(caught.value), repr(ledger), repr(connected()), repr(connected().identity), caplog.text]
    said += [*capfd.readouterr(), ledger.failures().to_csv()]
    assert not [s for s in said if KEY in s]
    ledger.close()
    (tmp_path / "manifest.json").write_text(
        json.dumps(provenance.manifest(generator=connected().identity)), encoding="utf-8"
    )
    found = descriptors.propose(Texts.from_list(["one"]), connected(retries=0))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(repr(connected()))])
    notebook.cells[0].outputs = [nbformat.v4.new_output("stream", text=f"{found.attrs} {ledger!r}")]
    nbformat.write(notebook, tmp_path / "made.ipynb")
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert len(files) >= 4 and not [p for p in files if KEY.encode() in p.read_bytes()]
