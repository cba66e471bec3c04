"""Generators replay and extract; what they cannot answer is said."""

import json

import pytest

from nbkit import texts
from nbkit.descriptors import generators


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
    path.write_text(json.dumps({"text": "a", "reply": '["b"]'}) + "\n")
    generator = generators.connect(f"recorded:{path}")
    assert generator.complete_all([ask("a"), ask("x")]) == [
        generators.Reply('["b"]'),
        generators.Reply(None, "not recorded"),
    ]


@pytest.mark.parametrize("line", ["{", '{"text": "a"}', "[1]"])
def test_a_broken_recording_names_the_line(tmp_path, line):
    path = tmp_path / "replies.jsonl"
    path.write_text('{"text": "a", "reply": "b"}\n' + line + "\n")
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
