"""Generators replay and extract; what they cannot answer is said."""

import json

import pandas as pd
import pytest
import torch
from model_server import Server, make_model

from nbkit import descriptors, texts
from nbkit.descriptors import Ledger, generators


def ask(text):
    return [{"role": "system", "content": "task"}, {"role": "user", "content": text}]


def test_the_sample_is_replayed_as_it_was_written():
    generator = generators.connect("recorded:sample")
    reviews = texts.load("sample:reviews")
    line = reviews.frame.iloc[3]
    assert json.loads(generator.complete(ask(line["text"])).text) == list(line["descriptors"])
    assert "not produced by a model" in generator.provenance


def test_a_recording_is_read_from_a_file_and_an_unknown_text_is_a_failure(tmp_path):
    path = tmp_path / "replies.jsonl"
    path.write_text(json.dumps({"text": "a", "reply": '["b"]'}) + "\n", encoding="utf-8")
    generator = generators.connect(f"recorded:{path}")
    assert generator.complete_all([ask("a"), ask("x")]) == [
        generators.Reply('["b"]'),
        generators.Reply(None, "not recorded"),
    ]


@pytest.mark.parametrize("line", ["{", '{"text": "a"}', "[1]"])
def test_a_broken_recording_names_the_line(tmp_path, line):
    path = tmp_path / "replies.jsonl"
    path.write_text('{"text": "a", "reply": "b"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 2 of"):
        generators.connect(f"recorded:{path}")


def test_unknown_and_absent_generators_are_named():
    with pytest.raises(ValueError, match="unknown generator 'oracle:x'"):
        generators.connect("oracle:x")
    with pytest.raises(FileNotFoundError, match="no recording"):
        generators.connect("recorded:/nowhere.jsonl")


def test_keyphrases_come_from_the_text():
    generator = generators.connect("keyphrase", top=3)
    replies = generator.complete_all(
        [
            ask("The goat climbed onto the roof of the barn."),
            ask("Thunderstorms delayed the ferry to the island."),
        ]
    )
    for reply, words in zip(
        replies, ("goat climbed roof barn", "thunderstorms delayed ferry island"), strict=True
    ):
        found = json.loads(reply.text)
        assert 1 <= len(found) <= 3
        assert set(" ".join(found).split()) <= set(words.split())


def test_one_text_gets_the_same_form_as_many_and_none_is_a_failure():
    generator = generators.connect("keyphrase")
    assert isinstance(json.loads(generator.complete(ask("The goat climbed.")).text), list)
    assert generator.complete(ask("It is the.")).failure == "empty"


# ------------------------------------------------------------------------------------------ recordings


class Told:
    """A generator that answers with its name and the request's number, and can be stopped."""

    provenance = "a script"

    def __init__(self, name="told", stop_at=None):
        self.name, self.asked, self.stop_at = name, 0, stop_at

    @property
    def identity(self):
        return {"name": self.name}

    batch = 1

    def complete_all(self, requests):
        if self.asked == self.stop_at:
            raise KeyboardInterrupt
        self.asked += len(requests)
        return [generators.Reply(f'["{self.name} {self.asked}"]') for _ in requests]


@pytest.mark.parametrize(
    "odd", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\r", "\r\n", "\n", "é", "\ud800"]
)
def test_a_recording_reads_back_any_text(tmp_path, odd):
    path = tmp_path / "r.jsonl"
    made = generators.connect(f"recorded:{path}", of=Told()).complete(ask(f"a{odd}b"))
    again = generators.connect(f"recorded:{path}")
    assert again.complete(ask(f"a{odd}b")).text == made.text and path.read_bytes().count(b"\n") == 1


def test_what_a_stopped_run_was_answered_is_recorded(tmp_path):
    path, requests = tmp_path / "r.jsonl", [ask(f"text {i}") for i in range(30)]
    with pytest.raises(KeyboardInterrupt):
        generators.connect(f"recorded:{path}", of=Told(stop_at=15)).complete_all(requests)
    rest = Told()
    replies = generators.connect(f"recorded:{path}", of=rest).complete_all(requests)
    assert rest.asked == 15 and all(reply.answered for reply in replies)


def test_replies_of_one_model_do_not_answer_for_another(tmp_path):
    path, question = tmp_path / "r.jsonl", ask("text")
    first, second = Told("A"), Told("B")
    assert "A" in generators.connect(f"recorded:{path}", of=first).complete(question).text
    assert "B" in generators.connect(f"recorded:{path}", of=second).complete(question).text
    assert "A" in generators.connect(f"recorded:{path}", of=first).complete(question).text
    assert (first.asked, second.asked) == (1, 1)
    with pytest.raises(ValueError, match="r.jsonl has replies of several generators"):
        generators.connect(f"recorded:{path}").complete(question)


@pytest.mark.parametrize("cut", [1, 2, 20, 60])
def test_a_last_line_that_was_cut_is_left_out_and_the_run_goes_on(tmp_path, cut, caplog):
    path, requests = tmp_path / "r.jsonl", [ask(f"text {i}") for i in range(3)]
    generators.connect(f"recorded:{path}", of=Told()).complete_all(requests)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    replayed = generators.connect(f"recorded:{path}").complete_all(requests)
    assert [r.failure for r in replayed] == ["", "", "" if cut == 1 else "not recorded"]
    assert ("the last line was cut" in caplog.text) == (cut > 1)
    again = Told()
    replies = generators.connect(f"recorded:{path}", of=again).complete_all([*requests, ask("more")])
    assert again.asked == (1 if cut == 1 else 2) and all(reply.answered for reply in replies)
    lines = path.read_text(encoding="utf-8").split("\n")
    assert lines.pop() == "" and [json.loads(line)["text"] for line in lines] == [
        *(f"text {i}" for i in range(3)),
        "more",
    ]


@pytest.mark.parametrize("left", [1, 5, 9, 30])
def test_a_file_that_holds_one_cut_line_only_is_begun_again(tmp_path, left):
    path = tmp_path / "new" / "r.jsonl"  # the folder is made before anything is paid
    generators.connect(f"recorded:{path}", of=Told()).complete(ask("text"))
    path.write_bytes(path.read_bytes()[:left])
    again = Told()
    assert generators.connect(f"recorded:{path}", of=again).complete(ask("text")).answered
    assert again.asked == 1 and json.loads(path.read_text(encoding="utf-8"))["text"] == "text"


def test_a_file_of_something_else_is_neither_read_nor_changed(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("my notes", encoding="utf-8")
    with pytest.raises(ValueError, match="line 1 of .*notes.txt"):
        generators.connect(f"recorded:{path}", of=Told())
    assert path.read_text(encoding="utf-8") == "my notes"


def test_two_processes_record_into_one_file(tmp_path):
    """As two processes do: each has read the file before the other wrote."""
    path = tmp_path / "r.jsonl"
    both = [generators.connect(f"recorded:{path}", of=Told(name)) for name in "AB"]
    for i in range(20):
        both[i % 2].complete(ask(f"text {i}"))
    for name in "AB":
        reader = Told(name)
        replies = generators.connect(f"recorded:{path}", of=reader).complete_all(
            [ask(f"text {i}") for i in range("AB".index(name), 20, 2)]
        )
        assert not reader.asked and all(name in reply.text for reply in replies)


@pytest.mark.parametrize("line", ['{"text": "a", "reply": ["b"]}', '{"text": 1, "reply": "b"}', "[" * 5000])
def test_a_line_of_another_type_is_named(tmp_path, line):
    path = tmp_path / "replies.jsonl"
    path.write_text('{"text": "a", "reply": "b"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 2 of"):
        generators.connect(f"recorded:{path}")


def test_what_is_recorded_later_is_found_through_a_ledger(tmp_path):
    path, question = tmp_path / "r.jsonl", ask("text")
    path.write_bytes(b"")
    assert Ledger(f"recorded:{path}", tmp_path / "l.sqlite").complete(question).failure == "not recorded"
    path.write_text('{"text": "text", "reply": "food"}\n', encoding="utf-8")
    assert Ledger(f"recorded:{path}", tmp_path / "l.sqlite").complete(question).text == "food"


def test_an_option_that_a_generator_does_not_take_is_named():
    with pytest.raises(ValueError, match="'keyphrase' cannot be connected so: .*tops"):
        generators.connect("keyphrase", tops=3)
    with pytest.raises(ValueError, match="names no model"):
        generators.connect("openai:")


# ---------------------------------------------------------------------------------------- local models


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    corpus = texts.load("sample:reviews").frame["text"].tolist()[:200]
    return make_model(tmp_path_factory.mktemp("model"), corpus)


def test_a_special_token_in_a_text_does_not_end_its_turn(folder):
    local = generators.connect(f"local:{folder}", max_tokens=8)
    special = {*local._tokenizer.all_special_ids} - {local._tokenizer.unk_token_id}
    typed = local._tokens(ask("soup <end> and <reply> then <pad> <unk>"))
    plain = local._tokens(ask("soup"))
    assert [t for t in typed if t in special] == [t for t in plain if t in special]  # the template's own
    assert local._plain("a <end> b") == "a < end> b" and "end" in local._tokenizer.decode(typed)


def test_a_request_that_does_not_fit_the_models_context_fails_alone(folder):
    local = generators.connect(f"local:{folder}", max_tokens=8, batch=3)
    long = ask("soup " * 2000)
    alone, longest, other = local.complete_all([ask("soup"), long, ask("late train")])
    assert longest.failure == "too long" and "1024 tokens" in longest.raw and not longest.answered
    assert alone.text == local.complete(ask("soup")).text and other.text
    assert local.complete_all([long])[0].failure == "too long"


def test_a_model_with_a_chat_template_can_be_asked_in_plain_lines(folder):
    local = generators.connect(f"local:{folder}", chat=False, max_tokens=4)
    assert local._prompt(ask("soup")) == "task\nText: soup\nAnswer:"
    assert local.identity != generators.connect(f"local:{folder}", max_tokens=4).identity


def test_what_requests_share_is_computed_once_and_changes_no_reply(folder, monkeypatch):
    """Batches of unequal texts behind three worked examples, against each text alone and without a cache."""
    few = ["soup", "the late train to the harbour was cold", "why", "a b c d e f g"]
    asked = [descriptors.Prompt().messages(text) for text in few]
    local = generators.connect(f"local:{folder}", max_tokens=12, batch=3)
    torch.manual_seed(5)
    for weight in local._model.parameters():  # the model as it is says the same of every text
        torch.nn.init.normal_(weight, std=0.5)
    shared = local._shared([local._tokens(messages) for messages in asked])
    assert len(shared[0]) > 50 and shared[1].get_seq_length() == len(shared[0])
    together = [reply.text or reply.raw for reply in local.complete_all(asked)]
    monkeypatch.setattr(local, "_shared", lambda tokens: None)
    assert together == [local.complete(m).text or local.complete(m).raw for m in asked]
    assert len(set(together)) == 4


def test_a_character_ends_a_reply(folder):
    free = generators.connect(f"local:{folder}", max_tokens=40).complete(ask("soup"))
    text = free.text or free.raw
    letter = next(c for c in text[3:] if c.isalpha())
    cut = generators.connect(f"local:{folder}", max_tokens=40, stop=letter).complete(ask("soup"))
    assert (
        cut.failure == "" and letter in cut.text and text.startswith(cut.text) and len(cut.text) < len(text)
    )


@pytest.mark.slow
def test_smollm2_answers_the_shipped_prompt(smollm2):
    """The embedded model, in earnest: most texts get descriptors, and not only the examples' own."""
    corpus = texts.load("sample:reviews").sample(8, seed=0)
    found = descriptors.propose(corpus, generators.connect("smollm2"))
    assert found["text_id"].nunique() >= 6
    shown = {name for _, names in descriptors.Prompt().examples for name in names}
    assert not set(found["descriptor"]) <= shown
    assert found["descriptor"].str.split().str.len().max() <= 6


@pytest.mark.slow
def test_smollm2_answers_through_a_server(smollm2, tmp_path):
    """``transformers serve`` with the embedded model: the ledger is filled, and the second time is free."""
    server = Server(smollm2, log=tmp_path / "server.log")
    server.start()
    try:
        url = f"http://127.0.0.1:{server.port}/v1"
        model = generators.connect(
            f"openai:{smollm2}", base_url=url, api_key="any", max_tokens=48, timeout=300
        )
        corpus = texts.load("sample:questions").sample(4, seed=0)
        found = descriptors.propose(corpus, model, ledger=tmp_path / "r.sqlite")
        assert found["text_id"].nunique() >= 3
    finally:
        server.kill()
    again = descriptors.propose(corpus, model, ledger=tmp_path / "r.sqlite")
    pd.testing.assert_frame_equal(again, found)
