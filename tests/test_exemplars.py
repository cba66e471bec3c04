"""Exemplars against sorting by hand."""

from dataclasses import replace

import numpy as np
import pytest

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
