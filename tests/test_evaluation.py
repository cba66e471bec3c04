"""Precision and recall against counting by hand; intervals against theory."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbkit import evaluation

names = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=4, unique=True)


@given(st.dictionaries(st.integers(0, 5), st.tuples(names, names), min_size=1), st.integers(1, 4))
def test_precision_and_recall_agree_with_counting(units, k):
    tags = pd.DataFrame(
        [(u, i + 1, d) for u, (given, _) in units.items() for i, d in enumerate(given)],
        columns=["unit", "rank", "descriptor"],
    )
    gold = pd.DataFrame(
        [(u, d) for u, (_, right) in units.items() for d in right], columns=["unit", "descriptor"]
    )
    precision = [len(set(g[:k]) & set(r)) / len(g[:k]) for g, r in units.values()]
    recall = [len(set(g[:k]) & set(r)) / len(r) for g, r in units.values()]
    assert evaluation.precision_at_k(tags, gold, k).value == pytest.approx(np.mean(precision))
    assert evaluation.recall_at_k(tags, gold, k).value == pytest.approx(np.mean(recall))


def test_precision_is_over_tagged_units_and_recall_over_units_with_gold():
    tags = pd.DataFrame({"unit": ["a", "c", "d"], "rank": 1, "descriptor": ["x", "x", "y"]})
    gold = pd.DataFrame({"unit": ["a", "b"], "descriptor": ["x", "x"]})
    assert evaluation.precision_at_k(tags, gold, 1)[::3] == (1 / 3, 3)  # c and d have no right tag
    assert evaluation.recall_at_k(tags, gold, 1)[::3] == (1 / 2, 2)  # b has no tag


def test_the_interval_is_that_of_the_mean():
    values = np.random.default_rng(0).standard_normal(400)
    found = evaluation.bootstrap(values, n=4000)
    half = 1.96 * values.std() / math.sqrt(400)
    assert found.value == pytest.approx(values.mean())
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.08)
    assert found == evaluation.bootstrap(values, n=4000)  # seeded


def test_nothing_to_average_is_not_a_number():
    assert math.isnan(evaluation.bootstrap(np.array([])).value)


def test_validated_keeps_the_pairs_that_reach_the_minimum():
    scores = pd.DataFrame({"u": [0.9, 0.1], "v": [0.3, 0.8]}, index=["x", "y"])
    gold = evaluation.validated(scores, 0.3)
    assert set(zip(gold["unit"], gold["descriptor"], strict=True)) == {("u", "x"), ("v", "x"), ("v", "y")}


def test_k_below_one_is_refused():
    empty = pd.DataFrame({"unit": [], "rank": [], "descriptor": []})
    with pytest.raises(ValueError, match="k=0"):
        evaluation.precision_at_k(empty, empty, 0)
