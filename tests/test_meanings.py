"""``claims.meanings``: units whose meanings are known, random directions, and what cannot be done."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbkit import activations, claims, stats, texts
from nbkit.activations import Activations
from nbkit.texts import Texts

WORDS = {
    "food": "bread soup butter salad cheese onion",
    "music": "violin piano choir melody drum flute",
    "sea": "harbour wave sailor anchor tide gull",
    "law": "judge court verdict lawyer trial jury",
    "sport": "goal runner referee stadium medal race",
    "garden": "rose hedge spade seedling lawn compost",
    "travel": "train ticket luggage border hotel map",
    "money": "bank loan salary coin interest debt",
}
TOPICS = list(WORDS)
TOPIC_OF = {word: i for i, topic in enumerate(TOPICS) for word in WORDS[topic].split()}


class Encoder:
    """A text is the mean of its words; a word is its topic's vector and some of its own."""

    def __init__(self, width=48):
        rng = np.random.default_rng(0)
        self.topics = rng.standard_normal((len(TOPICS), width))
        self.words = {w: self.topics[t] + 0.7 * rng.standard_normal(width) for w, t in TOPIC_OF.items()}
        self.width = width

    def encode(self, strings, **_):
        found = [[self.words.get(w, np.zeros(self.width)) for w in s.lower().split()] for s in strings]
        vectors = np.array([np.mean(rows or [np.zeros(self.width)], axis=0) for rows in found])
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def world(seed=0, n=800, documents=False, n_random=0):
    """A corpus of texts of one topic each, and units: one topic, two topics, noise, random directions."""
    rng = np.random.default_rng(seed)
    topic = (
        np.repeat(rng.integers(0, len(TOPICS), n // 4), 4) if documents else rng.integers(0, len(TOPICS), n)
    )
    strings = [
        " ".join([*rng.choice(WORDS[TOPICS[t]].split(), 4), f"about {i}"]) for i, t in enumerate(topic)
    ]
    frame = pd.DataFrame({"text": strings})
    if documents:
        frame["doc_id"] = np.arange(n) // 4
    corpus = Texts.from_frame(frame, "one")
    one = np.stack([topic == i for i in range(4)], axis=1)
    two = np.stack([(topic == i) | (topic == i + 4) for i in range(4)], axis=1)
    planted = 3.0 * np.hstack([one, two])
    space = Encoder().encode(strings) @ rng.standard_normal((48, 40)) if not n_random else np.empty((n, 0))
    values = np.hstack([planted + 0.5 * rng.standard_normal(planted.shape), space])
    if n_random:
        values = rng.standard_normal((n, n_random))
    rows = pd.DataFrame({"text_id": corpus.frame["text_id"]})
    if documents:
        rows["document"] = frame["doc_id"]
    units = pd.DataFrame({"unit": [f"layer.0.ffn.{i}" for i in range(values.shape[1])]})
    return {"one": Activations(values.astype(np.float32), rows, units, {})}, {"one": corpus}


def names(*numbers):
    return [f"layer.0.ffn.{i}" for i in numbers]


def found_in(*args, **options):
    return claims.meanings(*args, **{"encoder": Encoder(), "null": 40, "progress": False} | options)


def topics_in(description):
    return {TOPICS[TOPIC_OF[word]] for word in description.replace("/", " ").split() if word in TOPIC_OF}


@pytest.mark.parametrize("documents", [False, True])
def test_a_unit_of_two_topics_has_two_meanings_with_their_words(documents):
    stores, corpora = world(documents=documents)
    found = found_in(stores, corpora, names(*range(8)), top=24, most=4)
    for i in range(4):
        single = found[found["unit"] == f"layer.0.ffn.{i}"]
        assert len(single) == 1 and topics_in(single["description"].iloc[0]) == {TOPICS[i]}
        double = found[found["unit"] == f"layer.0.ffn.{i + 4}"]
        assert len(double) == 2 and double["meaning"].tolist() == [1, 2]
        meant = [topics_in(description) for description in double["description"]]
        assert sorted(meant, key=min) == sorted([{TOPICS[i]}, {TOPICS[i + 4]}], key=min)
        assert double["texts"].sum() == 24 and double["share"].sum() == pytest.approx(1)
    assert (found["auroc"] > 0.8).all()
    assert ((found["low"] <= found["auroc"]) & (found["auroc"] <= found["high"])).all()


def test_a_description_stands_beside_the_claim():
    stores, corpora = world()
    asked = pd.DataFrame({"unit": names(0, 1), "description": [WORDS["food"], WORDS["law"]], "sign": 1})
    found = found_in(stores, corpora, asked).set_index("unit")
    assert found["claim"].tolist() == [WORDS["food"], WORDS["law"]]
    right, wrong = found["claim_auroc"]
    assert right > 0.9 and wrong < 0.6
    with_none = found_in(stores, corpora, names(0))
    assert with_none["claim"].isna().all() and with_none["claim_auroc"].isna().all()


def test_the_low_end_of_a_unit():
    stores, corpora = world()
    one = stores["one"]
    values = one.values.copy()
    values[:, 0] *= -1
    turned = {"one": Activations(values, one.rows, one.units, {})}
    low = found_in(turned, corpora, pd.DataFrame({"unit": names(0), "sign": [-1]}))
    assert low["description"].tolist() == found_in(stores, corpora, names(0))["description"].tolist()


def test_random_directions_have_significant_meanings_no_more_often_than_alpha():
    """Units of noise, over several worlds: a unit is wrong if any of its meanings has p of .05 or less."""
    wrong = []
    for seed in range(4):
        stores, corpora = world(seed, n_random=60, n=400)
        found = found_in(stores, corpora, names(*range(60)), null=60, top=20, most=3, seed=seed)
        wrong += (found.groupby("unit")["p"].min() <= 0.05).tolist()
        assert (found.groupby("unit")["meanings"].first() > 1).mean() <= 0.2
    assert np.mean(wrong) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / len(wrong))


def test_held_out_texts_play_no_part_in_clusters_and_names():
    """Each text has a document of its topic; no example is from a document that was held out."""
    stores, corpora = world(documents=True)
    found = found_in(stores, corpora, names(*range(8)))
    assert found.attrs["texts"] + found.attrs["held_out"] == 800
    known = corpora["one"].frame.set_index("text")["doc_id"]
    first, second = stats.halves(800, 0.5, 0, groups=corpora["one"].frame["doc_id"].to_numpy())
    held_out = set(corpora["one"].frame["doc_id"].iloc[second])
    assert not held_out & set(corpora["one"].frame["doc_id"].iloc[first])
    assert not held_out & {known[text] for examples in found["examples"] for text in examples}


def test_repeated_and_empty_texts_count_once_or_not_at_all():
    stores, corpora = world()
    one, corpus = stores["one"], corpora["one"]
    strings = [*corpus.frame["text"], *corpus.frame["text"], "", " "]
    values = np.vstack([one.values, one.values, one.values[:2]])
    more = Texts.from_list(strings, "one")
    rows = pd.DataFrame({"text_id": more.frame["text_id"]})
    found = found_in({"one": Activations(values, rows, one.units, {})}, {"one": more}, names(0))
    assert found.attrs["texts"] + found.attrs["held_out"] == 800


@given(st.integers(0, 2**16), st.sampled_from([1, 2, 4]))
@settings(max_examples=6)
def test_lines_add_up(seed, most):
    """Whatever the units: shares are of the top texts, p is a share of draws, the largest comes first."""
    stores, corpora = world(seed % 50, n=300, n_random=12)
    found = found_in(stores, corpora, names(0, 5), top=24, most=most, null=20, seed=seed)
    for _, part in found.groupby("unit"):
        assert part["texts"].sum() == 24 and len(part) == part["meanings"].iloc[0] <= most
        assert part["texts"].is_monotonic_decreasing
        assert [sum(counts.values()) for counts in part["corpora"]] == part["texts"].tolist()
    assert found["p"].between(1 / 21, 1).all() and (found["q"] >= found["p"] - 1e-12).all()


def test_what_cannot_be_done_is_named():
    stores, corpora = world()
    one, corpus = stores["one"], corpora["one"]
    with pytest.raises(ValueError, match=r"unknown unit 'layer\.9\.ffn\.0'"):
        found_in(stores, corpora, "layer.9.ffn.0")
    with pytest.raises(ValueError, match="no unit to describe"):
        found_in(stores, corpora, [])
    with pytest.raises(ValueError, match="no corpus to judge on"):
        found_in({}, {}, names(0))
    with pytest.raises(ValueError, match="top=8 texts for most=5 meanings"):
        found_in(stores, corpora, names(0), top=8)
    with pytest.raises(ValueError, match="null=10 random directions"):
        found_in(stores, corpora, names(0), null=10)
    with pytest.raises(ValueError, match=r"near=0\.9"):
        found_in(stores, corpora, names(0), near=0.9)
    few = {"one": one.select(text_ids=list(range(100)))}
    with pytest.raises(ValueError, match="100 texts that differ are too few for top=40: give 160"):
        found_in(few, corpora, names(0))
    with pytest.raises(ValueError, match="the stores hold 1 units"):
        found_in({"one": one.select(units=names(0))}, corpora, names(0))
    words = Activations(one.values, one.rows.assign(start=0, end=1), one.units, {})
    with pytest.raises(ValueError, match="word or token rows"):
        found_in({"one": words}, {"one": corpus}, names(0))


def test_on_the_sample_with_a_real_model(minilm):
    corpora = {name: texts.load(f"sample:{name}") for name in ("reviews", "questions")}
    stores = {
        name: activations.capture(minilm, corpus, sites="layer.4.ffn", progress=False)
        for name, corpus in corpora.items()
    }
    found = claims.meanings(stores, corpora, "layer.4.ffn.0", null=20, most=3, progress=False)
    assert len(found) == found["meanings"].iloc[0]
    assert found["auroc"].between(0, 1).all()
    assert not found["description"].str.startswith("cluster").any()
