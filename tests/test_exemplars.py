"""Exemplars against sorting by hand."""

from dataclasses import replace
from unicodedata import normalize

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbkit import activations, texts
from nbkit.activations import exemplars


@pytest.fixture(scope="module")
def reviews():
    return texts.load("sample:reviews").sample(80, seed=0)


@pytest.fixture(scope="module")
def stored(minilm, reviews):
    return activations.capture(minilm, reviews, sites="layer.3.ffn", dtype="float32", cache=False)


@pytest.mark.parametrize("sign", [1, -1])
def test_top_is_the_sorted_head(stored, reviews, sign):
    found = exemplars.top(stored, reviews, "layer.3.ffn.9", k=5, sign=sign)
    order = np.argsort(-sign * stored.values[:, 9], kind="stable")[:5]
    assert found["text_id"].tolist() == stored.rows["text_id"].iloc[order].tolist()
    assert np.allclose(found["activation"], stored.values[order, 9])
    known = reviews.frame.set_index("text_id")["text"]
    assert found["text"].tolist() == known.loc[found["text_id"]].tolist()
    assert found["rank"].tolist() == [1, 2, 3, 4, 5]


def test_the_peak_is_where_the_activation_is_found(minilm, stored, reviews):
    by_text = exemplars.top(stored, reviews, "layer.3.ffn.9", k=5, subject=minilm)
    tokens = activations.capture(
        minilm, reviews, sites="layer.3.ffn", rows="token", dtype="float32", cache=False
    )
    by_token = exemplars.top(tokens, reviews, "layer.3.ffn.9", k=5)
    assert by_text["text_id"].tolist() == by_token["text_id"].tolist()
    assert by_text[["start", "end"]].values.tolist() == by_token[["start", "end"]].values.tolist()
    assert np.allclose(by_text["activation"], by_token["activation"], atol=1e-4)
    for line in by_text.itertuples():
        assert line.text[line.start : line.end] == line.peak


def test_shade_peaks_at_the_pooled_activation(minilm, stored, reviews):
    chosen = reviews.sample(4, seed=2)
    shaded = exemplars.shade(minilm, chosen, "layer.3.ffn.9")
    for text_id, tokens in shaded.items():
        row = np.flatnonzero(stored.rows["text_id"] == text_id)[0]
        assert tokens["activation"].max() == pytest.approx(float(stored.values[row, 9]), abs=1e-4)


def test_spread_reaches_from_the_highest_to_the_lowest(stored, reviews):
    found = exemplars.quantile_sample(stored, reviews, 9, k=6)["activation"]
    assert found.iloc[0] == stored.values[:, 9].max() and found.iloc[-1] == stored.values[:, 9].min()
    assert found.is_monotonic_decreasing


def test_impossible_wishes_are_named(stored, reviews):
    with pytest.raises(ValueError, match="k=81 .* has 80 texts"):
        exemplars.top(stored, reviews, 0, k=81)
    with pytest.raises(ValueError, match="sign=0"):
        exemplars.top(stored, reviews, 0, sign=0)
    with pytest.raises(ValueError, match="was not made from"):
        exemplars.top(stored, reviews.sample(5, seed=9), 0, k=20)


def test_neighbours_are_those_of_numpy(stored):
    values = np.asarray(stored.values, np.float64)
    expected = np.corrcoef(values, rowvar=False)[9]
    expected[9] = -1
    order = np.argsort(-expected)[:6]
    for block in (100, 4096):
        found = exemplars.neighbours(stored, 9, k=6, block=block)
        assert found["unit"].tolist() == [f"layer.3.ffn.{i}" for i in order]
        assert np.allclose(found["correlation"], expected[order])
    assert found.equals(exemplars.neighbours(stored, "layer.3.ffn.9", k=6, block=4096))


def test_a_unit_that_never_changes_is_nobodys_neighbour(stored):
    values = np.array(stored.values[:, :5])
    values[:, 2] = 1.5
    still = replace(stored, values=values, units=stored.units.iloc[:5])
    assert exemplars.neighbours(still, 0, k=4).set_index("unit")["correlation"]["layer.3.ffn.2"] == 0
    with pytest.raises(ValueError, match="layer.3.ffn.2 never changes"):
        exemplars.neighbours(still, 2, k=3)
    with pytest.raises(ValueError, match="k=5 neighbours .* 4 other units"):
        exemplars.neighbours(still, 0, k=5)


# ---------------------------------------------------------------------------------- long texts


def test_the_peak_in_a_long_text_is_that_of_the_pass_that_filled_the_store(minilm):
    """A text cut to the model's length peaks elsewhere, and never behind the cut."""
    long = texts.Texts.from_list(["the quick brown fox " * 130 + "volcano erupted", "hello"])
    options = {"sites": "layer.5.ffn", "long": "windows", "dtype": "float32", "cache": False}
    pooled = activations.capture(minilm, long, **options)
    tokens = activations.capture(minilm, long, rows="token", **options)
    mine = tokens.rows["text_id"] == 0
    behind = 0
    for unit in range(0, 1536, 192):
        found = exemplars.top(pooled, long, unit, k=2, subject=minilm).set_index("text_id").loc[0]
        values = tokens.values[mine.to_numpy(), unit]
        at = tokens.rows[mine].query("start == @found.start").index
        assert values[at[0] - tokens.rows[mine].index[0]] == pytest.approx(values.max(), abs=1e-5)
        assert found.activation == pytest.approx(values.max(), abs=1e-5)
        behind += found.start > 2550  # the model's 512 tokens end before
    assert behind > 0


# ---------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("written", "asked"),
    [("Straße", "STRASSE"), ("ΟΔΟΣ", "οδος"), ("cafe\u0301", "Café"), ("ﬁn", "FIN"), ("İzmir", "i̇zmir")],
)
def test_a_word_is_found_however_it_is_written(minilm, written, asked):
    corpus = texts.Texts.from_list([f"{written} here", "another word", f"then {asked}"])
    words = pd.DataFrame(
        [(0, 1, written), (0, 2, "here"), (1, 1, "another"), (1, 2, "word"), (2, 1, "then"), (2, 2, asked)],
        columns=["text_id", "word_id", "form"],
    )
    known = corpus.frame.set_index("text_id")["text"]
    words["start"] = [known[i].index(form) for i, form in zip(words["text_id"], words["form"], strict=True)]
    words["end"] = words["start"] + words["form"].str.len()
    stored = activations.capture(
        minilm, replace(corpus, words=words), sites="layer.0.hidden", rows="word", cache=False
    )
    found = exemplars.word_responses(stored, [written, asked, "here"])
    assert np.array_equal(found.iloc[0], found.iloc[1]) and exemplars.fold(written) == exemplars.fold(asked)
    values, on = np.asarray(stored.values, np.float64), stored.rows["form"].isin([written, asked]).to_numpy()
    by_hand = (values[on].mean(0) - values[~on].mean(0)) / values[~on].std(0)
    assert on.sum() == 2 and np.allclose(found.iloc[0], by_hand)


@given(st.text(max_size=8))
def test_folding_does_not_mind_case_or_how_accents_are_written(word):
    once = exemplars.fold(word)
    same = [word.lower(), word.casefold(), once, *(normalize(form, word) for form in ("NFC", "NFD"))]
    assert {exemplars.fold(other) for other in same} == {once}
