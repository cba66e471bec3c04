"""``descriptors.write`` and ``claims.sensitivity``: generators that write what is known."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbkit import activations, claims, descriptors, evaluation, texts
from nbkit.descriptors.writing import EXAMPLES, text_of, words_in

TOPICS = {"food": "soup bread", "music": "violin melody", "animals": "dog horse", "clothes": "coat sleeve"}


class Writer:
    """Writes texts that were written for the sample with the descriptor, another one for each request."""

    name, provenance, max_tokens, free = "writer", "a test", 60, True

    def __init__(self, replies):
        self.replies, self.asked = replies, []

    def complete(self, messages):
        return self.complete_all([messages])[0]

    def complete_all(self, requests):
        self.asked += requests
        found, place = [], {}
        for messages in requests:
            name = messages[-1]["content"].split("\n")[0].removeprefix("Description: ")
            place[name] = place.get(name, -1) + 1
            reply = self.replies[name][place[name] % len(self.replies[name])]
            found.append(reply if isinstance(reply, descriptors.Reply) else descriptors.Reply(reply))
        return found


@pytest.fixture(scope="module")
def made(minilm):
    """Planted units of four descriptors, and texts that have exactly one of them, which played no part."""
    corpora = {n: texts.load(f"sample:{n}") for n in ("reviews", "fiction", "encyclopedia", "questions")}
    corpus = texts.Texts.concat(corpora)
    labels = corpus.descriptors("written")[list(TOPICS)]
    planted = evaluation.plant(minilm, corpus, labels, kinds={"pure": 8}, progress=False, steps=15)
    on = planted.labels[corpus.name].to_numpy() > 0.5
    alone = on.sum(1) == 1
    strings = planted.held_out[corpus.name].frame["text"].to_numpy()
    names = planted.labels[corpus.name].columns
    written = {name: strings[alone & on[:, i]].tolist()[:12] for i, name in enumerate(names)}
    return planted, written


def test_a_planted_unit_is_sensitive_and_another_is_not(made):
    planted, written = made
    units = planted.units[planted.units["planted"]].drop_duplicates("descriptor")
    assert len(units) >= 3
    right = pd.DataFrame({"unit": units["unit"], "description": units["descriptor"]})
    wrong = right.assign(description=np.roll(right["description"], 1))
    real = pd.DataFrame({"unit": [f"layer.2.ffn.{i}" for i in range(20)], "description": "food"})
    asked = pd.concat([right, wrong, real], ignore_index=True)
    found = claims.sensitivity(planted.subject, asked, Writer(written), n=12, progress=False)
    kinds = np.repeat(["right", "wrong", "real"], [len(right), len(wrong), len(real)])
    assert found["sensitive"][kinds == "right"].all(), found.to_string()
    assert not found["sensitive"][kinds == "wrong"].any()
    assert found["sensitive"][kinds == "real"].mean() <= 0.1
    first = found[kinds == "right"]
    assert (first["mean"] > first["mean_others"]).all()
    assert ((first["low"] <= first["auroc"]) & (first["auroc"] <= first["high"])).all()
    assert (found["texts"] == 12).all()


def test_figures_equal_brute_force(minilm):
    written = {
        name: [f"{word} {i}" for i, word in enumerate(words.split())] for name, words in TOPICS.items()
    }
    asked = pd.DataFrame({"unit": "layer.1.ffn.7", "description": list(TOPICS), "sign": [1, -1, 1, 1]})
    found = claims.sensitivity(minilm, asked, Writer(written), n=2, progress=False)
    strings = [text for part in written.values() for text in part]
    stored = activations.capture(
        *(minilm, texts.Texts.from_list(strings)),
        sites="layer.1.ffn",
        dtype="float32",
        cache=False,
        progress=False,
    )
    x = stored.values[:, stored.column("layer.1.ffn.7")]
    for i, sign in enumerate(asked["sign"]):
        here, others = sign * x[2 * i : 2 * i + 2], sign * np.delete(x, [2 * i, 2 * i + 1])
        assert found["mean"][i] == pytest.approx(here.mean(), rel=1e-4)
        assert found["mean_others"][i] == pytest.approx(others.mean(), rel=1e-4)
        assert found["auroc"][i] == pytest.approx((here[:, None] > others).mean())


def test_replies_that_are_no_new_text_are_counted(minilm):
    lost = descriptors.Reply(None, "timed out")
    written = {
        "food": ["warm soup", "Warm soup!", "Food.", "  ", lost, "the same old song"],
        "music": ["a slow melody", "the same old song", EXAMPLES[0][1], "two", "three", "four"],
        "law": [lost] * 6,
    }
    asked = pd.DataFrame({"unit": [f"layer.1.ffn.{i}" for i in range(3)], "description": list(written)})
    found = claims.sensitivity(minilm, asked, Writer(written), n=6, progress=False)
    columns = ["texts", "duplicates", "shared", "copies", "empty", "lost"]
    assert found[columns].to_numpy().tolist() == [[1, 1, 1, 1, 1, 1], [4, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 6]]
    assert (found[columns].sum(axis=1) == found["written"]).all()
    assert found["auroc"].isna().tolist() == [True, True, True]  # others than music: one text
    assert not found["sensitive"].any()
    assert found.attrs["dropped"]["timed out"] == 7
    assert len(found.attrs["texts"]) == 18


def test_costs_are_known_before_and_nothing_is_paid_twice(minilm, tmp_path):
    written = {name: [f"{words} {i}" for i in range(3)] for name, words in TOPICS.items()}
    asked = pd.DataFrame({"unit": "layer.1.ffn.7", "description": list(TOPICS)})
    options = {"n": 3, "ledger": tmp_path / "paid.sqlite", "progress": False}
    writer = Writer(written)
    cost = claims.sensitivity(minilm, asked, writer, dry_run=True, **options)
    assert cost["requests"].tolist() == [12] and not writer.asked
    first = claims.sensitivity(minilm, asked, writer, **options)
    again = claims.sensitivity(minilm, asked, writer, **options)
    assert len(writer.asked) == 12
    pd.testing.assert_frame_equal(first, again)


def test_what_cannot_be_done_is_named_before_anything_is_asked(minilm):
    writer = Writer({})
    two = pd.DataFrame({"unit": "layer.1.ffn.7", "description": ["food", "law"]})
    with pytest.raises(ValueError, match=r"has no unit 'layer\.1\.ffn\.99999'"):
        claims.sensitivity(minilm, two.assign(unit="layer.1.ffn.99999"), writer)
    with pytest.raises(ValueError, match="1 description: texts for other descriptions"):
        claims.sensitivity(minilm, two[:1], writer)
    with pytest.raises(ValueError, match="no column 'description'"):
        claims.sensitivity(minilm, two[["unit"]], writer)
    with pytest.raises(ValueError, match="n=0 texts for 2 descriptions"):
        claims.sensitivity(minilm, two, writer, n=0)
    with pytest.raises(ValueError, match="the description '!' has no word"):
        claims.sensitivity(minilm, two.assign(description=["food", "!"]), writer)
    assert not writer.asked


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ('"A text."', "A text."),
        ("Text: A text.", "A text."),
        ("<think>hm</think>A text.", "A text."),
        ('["A text.", "Another."]', "A text."),
        ("```\nA text.\n```", "A text."),
        ("A\n text.", "A text."),
    ],
)
def test_a_reply_is_read(reply, text):
    assert text_of(descriptors.Reply(reply)) == text


def test_of_a_reply_that_was_cut_whole_words_are_used():
    assert text_of(descriptors.Reply(None, "truncated", "The coat has hung op")) == "The coat has hung"
    assert text_of(descriptors.Reply(None, "refused", "no")) is None


@given(st.lists(st.text("ab !", max_size=6), min_size=1, max_size=12))
def test_each_new_text_is_new(replies):
    """Whatever is answered: new texts differ in words, have one, and no request is without an outcome."""
    answers = {"x": replies, "y": replies[::-1]}
    found = descriptors.write(["x", "y"], Writer(answers), n=len(replies))
    new = found[found["outcome"] == "new"]
    keys = [words_in(text) for text in new["text"]]
    assert len(set(keys)) == len(keys) and all(keys)
    assert len(found) == 2 * len(replies) and found["outcome"].ne("").all()
    assert not set(keys) & {words_in(json.dumps(text)) for text in ("x", "y")}
