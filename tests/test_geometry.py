"""Corpora in space: planted regions, one source under two names, planted outliers."""

import numpy as np
import pytest

from nbkit import geometry


def cloud(seed, n=300, shift=0.0):
    return np.random.default_rng(seed).standard_normal((n, 20)).astype(np.float32) + shift


def test_apart_corpora_are_told_apart_and_one_source_is_not():
    apart = geometry.confusion({"a": cloud(0), "b": cloud(1, shift=3), "c": cloud(2, shift=-3)})
    assert np.allclose(np.diag(apart), 1, atol=0.01) and np.allclose(apart.sum(axis=1), 1)
    same = geometry.confusion({"a": cloud(0, 1000), "b": cloud(1, 1000)})
    assert np.allclose(np.diag(same), 0.5, atol=0.06)


def test_a_small_corpus_is_not_swallowed_by_a_large_one():
    found = geometry.confusion({"small": cloud(0, 60, shift=0.5), "large": cloud(1, 3000)})
    assert found.loc["small", "small"] > 0.7


def test_what_cannot_be_told_apart_is_named():
    with pytest.raises(ValueError, match="needs two or more"):
        geometry.confusion({"a": cloud(0)})
    with pytest.raises(ValueError, match="'b' has 3 texts, fewer than 5 folds"):
        geometry.confusion({"a": cloud(0), "b": cloud(1, 3)})


def test_distant_texts_fill_the_places_they_were_planted_in():
    """Three far texts of 300: they hold the first 3 of 10 places on every unit they rise on."""
    values = cloud(3)
    values[[5, 50, 250], :10] += 100  # half of the units
    values[[5, 50, 250], 10:] -= 100
    line = geometry.outlier_share({"a": values}).iloc[0]
    assert line["outliers"] == 3
    assert line["share"] == pytest.approx(0.5 * 3 / 10)
