"""Patterns of top sets: planted ones are found, random sets come out at the level of the test."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from nbkit import illusions
from nbkit.illusions import patterns

N, UNITS = 800, 120


def corpus(seed):
    """Units 0 to 59 rise on a label, the others on nothing; vectors know the labels, too."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((N, 6)) < 0.1).astype(np.float32)
    values = rng.standard_normal((N, UNITS)).astype(np.float32)
    values[:, :60] += 4 * labels[:, np.arange(60) % 6]
    vectors = rng.standard_normal((N, 16)) + 2 * labels @ rng.standard_normal((6, 16))
    return values, pd.DataFrame(labels), vectors


@pytest.fixture(scope="module")
def made():
    return corpus(0)


def measures(made):
    _, labels, vectors = made
    return {"enrichment": illusions.enrichment(labels), "cosine": illusions.mean_cosine(vectors)}


@pytest.mark.parametrize("name", ["enrichment", "cosine"])
def test_planted_patterns_are_found_and_no_others(made, name):
    found = patterns.patterns(made[0], measures(made)[name])
    assert (found["p"][:60] <= 0.05).mean() > 0.95 and (found["q"][:60] <= 0.05).mean() > 0.9
    assert (found["p"][60:] <= 0.05).mean() < 0.15
    assert np.allclose(found["q"], scipy.stats.false_discovery_control(found["p"]))


@pytest.mark.parametrize("name", ["enrichment", "cosine"])
def test_random_sets_have_a_pattern_at_the_level_of_the_test(made, name):
    """4,000 sets at .05: the rate is .05 within three standard errors of both sides of the draw."""
    measure = measures(made)[name]
    table = illusions.pattern_rate(
        {"a": made[0]}, {"a": measure}, sets=4000, directions=50, draws=8000, progress=False
    ).set_index("kind")
    error = 3 * np.sqrt(0.05 * 0.95 * (1 / 4000 + 1 / 8000))
    rate = table.loc["random sets", "share"]
    assert abs(rate - 0.05) <= error  # the enrichment has many ties
    assert table.loc["random sets", "share_fdr"] < 0.002
    assert table.loc["units", "share"] == pytest.approx(0.5, abs=0.06)
    assert table.loc["units", "coherence"] > table.loc["random sets", "coherence"]
    assert table.loc["random sets", "coherence"] == pytest.approx(table.loc["units", "expected"], abs=0.35)


def test_a_measure_of_nothing_but_ties_is_at_the_level_too(made):
    """Two values only, the higher one in a third of the sets: without the draw no p would reach .05."""
    coin = lambda sets: (sets[0] % 3 == 0).astype(float)  # noqa: E731
    table = illusions.pattern_rate({"a": made[0]}, {"a": coin}, sets=4000, directions=9, progress=False)
    assert table.set_index("kind").loc["random sets", "share"] == pytest.approx(0.05, abs=0.012)


def test_kinds_may_be_added_and_corpora_need_a_measure(made):
    values, labels, _ = made
    signal = {"a": labels.to_numpy() + 0.01 * values[:, :6]}
    table = illusions.pattern_rate(
        {"a": values},
        {"a": illusions.enrichment(labels)},
        further={"class means": signal},
        sets=50,
        directions=20,
        draws=500,
        progress=False,
    )
    assert table["kind"].tolist() == ["units", "random directions", "class means", "random sets"]
    assert table.set_index("kind").loc["class means", ["sets", "share"]].tolist() == [6, 1]
    with pytest.raises(ValueError, match="no measure of coherence for the corpus 'b'"):
        illusions.pattern_rate({"a": values, "b": values}, {"a": illusions.enrichment(labels)})


def test_the_mean_cosine_by_brute_force():
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((30, 5))
    vectors[4] = 0
    sets = illusions.random_sets(30, 12, 6, rng)
    sets[:, 0] = [4, 1, 2, 3, 5, 6]
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = np.nan_to_num(vectors / np.where(length > 0, length, 1))
    cosines = cosines @ cosines.T
    expected = [
        np.mean([cosines[a, b] for i, a in enumerate(rows) for b in rows[i + 1 :]]) for rows in sets.T
    ]
    assert np.allclose(illusions.mean_cosine(vectors)(sets), expected, atol=1e-6)


def test_enrichment_has_mean_0_and_variance_1_over_random_sets():
    """Also for probabilities and for sets that are a large part of the corpus."""
    rng = np.random.default_rng(2)
    labels = np.stack([rng.random(60), rng.random(60) < 0.3], axis=1)
    z = patterns.enriched(labels, illusions.random_sets(60, 20000, 20, rng))
    assert np.allclose(z.mean(1), 0, atol=0.03) and np.allclose(z.std(1), 1, atol=0.02)


def test_a_descriptor_too_rare_to_judge_is_left_out():
    labels = pd.DataFrame(np.zeros((100, 3)))
    labels.loc[:3, 0] = 1  # 4 texts
    labels.loc[:49, 1] = 1
    sets = np.arange(10)[:, None]
    assert patterns.enriched(labels, sets)[[0, 2], 0].tolist() == [-np.inf, -np.inf]
    assert patterns.enriched(labels, sets)[1, 0] == pytest.approx(0.5 / np.sqrt(0.25 / 10 * 90 / 99))
    assert illusions.enrichment(labels[[0, 2]])(sets).tolist() == [0]
    with pytest.raises(ValueError, match="sets of 100 texts from a corpus of 100"):
        patterns.enriched(labels, np.arange(100)[:, None])


@pytest.mark.parametrize("n, k", [(1000, 3), (12, 10), (5, 5)])
def test_random_sets_hold_every_text_as_often_and_none_twice(n, k):
    sets = illusions.random_sets(n, 6000, k, np.random.default_rng(3))
    assert (np.sort(sets, axis=0)[1:] != np.sort(sets, axis=0)[:-1]).all()
    counts = np.bincount(sets.ravel(), minlength=n)
    assert k == n or scipy.stats.chisquare(counts).statistic < scipy.stats.chi2.ppf(0.999, n - 1)
    with pytest.raises(ValueError, match=f"k={n + 1}"):
        illusions.random_sets(n, 2, n + 1, np.random.default_rng(0))


def test_illusions_reaches_it():
    assert illusions.pattern_rate is illusions.pattern_rate
