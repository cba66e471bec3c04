"""Proposals, merging and labels on known cases."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbkit import descriptors, generators, texts
from nbkit.texts import Texts


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ('["Food", "price "]', ["food", "price"]),
        ('Sure! Here you go:\n```json\n["food", "price"]\n```', ["food", "price"]),
        ("- food\n- price\n", ["food", "price"]),
        ("1. food\n2) price", ["food", "price"]),
        ("food, price, food", ["food", "price"]),
        ('["food", "this is a whole sentence about the food"]', ["food"]),
        ("", None),
        ("[]", None),
        ("   \n ", None),
        ("The text describes a long and winding road that leads nowhere at all", None),
    ],
)
def test_replies_are_read_or_absent(reply, expected):
    assert descriptors.read_reply(reply) == expected


@given(st.lists(st.text(st.characters(categories=["Ll"]), min_size=1, max_size=9), min_size=1, unique=True))
def test_a_json_list_of_words_survives_reading(words):
    assert descriptors.read_reply(json.dumps(words)) == list(dict.fromkeys(w.lower() for w in words))


class Scripted:
    """A generator that answers from a list."""

    def __init__(self, replies, name="scripted"):
        self.name, self.provenance, self.replies, self.asked = name, "a script", replies, []

    def complete(self, messages):
        return generators.Reply('["example"]')

    def complete_all(self, requests):
        self.asked = list(requests)
        return self.replies


def test_the_union_of_generators_with_every_loss_counted():
    corpus = Texts.from_list(["one", "two", "three"])
    first = Scripted(
        [generators.Reply('["a", "b"]'), generators.Reply(None, "timed out"), generators.Reply("[]")], "first"
    )
    second = Scripted([generators.Reply("b"), generators.Reply("c"), generators.Reply("d")], "second")
    found = descriptors.propose(corpus, [first, second])
    assert found.values.tolist() == [
        [0, "first", "a"], [0, "first", "b"], [0, "second", "b"], [1, "second", "c"], [2, "second", "d"],
    ]  # fmt: skip
    assert found.attrs["losses"] == {
        "first": {"requests": 3, "timed out": 1, "unparsable": 1},
        "second": {"requests": 3},
    }


def test_every_request_has_the_task_a_worked_example_and_the_text():
    corpus = Texts.from_list(["one", "two"])
    generator = Scripted([generators.Reply("a"), generators.Reply("a")])
    descriptors.propose(corpus, generator, prompt=descriptors.Prompt(steer="Think of buyers."), seed=4)
    for messages, text in zip(generator.asked, ["one", "two"], strict=True):
        assert [m["role"] for m in messages] == ["system", "user", "assistant", "user"]
        assert messages[0]["content"].endswith("Think of buyers.")
        assert messages[2]["content"] == '["example"]' and messages[-1]["content"] == text


def proposals(**said):
    lines = [(i, "hand", d) for d, ids in said.items() for i in ids]
    return pd.DataFrame(lines, columns=["text_id", "generator", "descriptor"])


class Axes:
    """An encoder in which phrases with the same first letter are the same."""

    def encode(self, strings, **_):
        return np.eye(26, dtype=np.float32)[[ord(s[0]) - 97 for s in strings]]


def test_near_duplicates_become_one_named_by_the_most_frequent():
    found = descriptors.merge(
        proposals(cat=[0, 1, 2], cats=[2, 3], dog=[0, 5], owl=[9]), min_texts=2, encoder=Axes()
    )
    assert found.frame.values.tolist() == [["cat", 4, ["cat", "cats"]], ["dog", 2, ["dog"]]]
    assert found.dropped == 1
    assert found.mapping() == {"cat": "cat", "cats": "cat", "dog": "dog"}


def test_the_real_encoder_merges_a_plural_and_keeps_topics_apart():
    said = {"cat": [0, 1], "cats": [2], "train journey": [3], "weather": [4]}
    found = descriptors.merge(proposals(**said), min_texts=1)
    assert sorted(map(sorted, found.frame["members"])) == [["cat", "cats"], ["train journey"], ["weather"]]


def test_labels_from_proposals():
    corpus = Texts.from_list(["one", "two", "three"])
    said = proposals(cat=[0], cats=[1], dog=[1])
    merged = descriptors.merge(said, min_texts=1, encoder=Axes())
    labels = descriptors.label(corpus, merged, proposals=said)
    assert labels.loc[:, ["cat", "dog"]].values.tolist() == [[1, 0], [1, 1], [0, 0]]


def test_labels_by_similarity_are_probabilities_that_tell_topics_apart():
    corpus = texts.load("sample:reviews")
    said = descriptors.propose(corpus.sample(200, seed=0), "recorded:sample")
    merged = descriptors.merge(said, min_texts=10)
    labels = descriptors.label(corpus, merged, "similarity", proposals=said)
    assert labels.shape == (len(corpus), len(merged))
    assert labels.to_numpy().min() >= 0 and labels.to_numpy().max() <= 1
    unread = ~corpus.frame["text_id"].isin(said["text_id"]).to_numpy()
    food = corpus.descriptors("written")["food"].to_numpy()[unread] == 1
    found = labels["food"].to_numpy()[unread]
    assert found[food].mean() > 3 * found[~food].mean()


def test_nothing_to_merge_is_said():
    with pytest.raises(ValueError, match="every reply was lost"):
        descriptors.merge(proposals())
    with pytest.raises(ValueError, match="no descriptor is in 50 texts .the most is 3"):
        descriptors.merge(proposals(cat=[0, 1, 2]), min_texts=50, encoder=Axes())
    with pytest.raises(ValueError, match="method='magic'"):
        descriptors.label(
            Texts.from_list(["a"]), descriptors.Descriptors(pd.DataFrame(), 0), "magic", proposals=proposals()
        )
