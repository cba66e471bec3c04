"""Scorers against scipy and scikit-learn, tags against planted and shuffled truth."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr
from sklearn.metrics import roc_auc_score

from nbkit import matching
from nbkit.activations import Activations


def stored(values: np.ndarray) -> Activations:
    units = pd.DataFrame({"unit": [f"layer.0.ffn.{i}" for i in range(values.shape[1])]})
    rows = pd.DataFrame({"text_id": np.arange(len(values))})
    return Activations(values, rows, units, {"rows": "text", "corpus": "toy", "pool": "max"})


def labelled(matrix: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(matrix.astype(float), columns=[f"d{i}" for i in range(matrix.shape[1])])


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6))
def test_scorers_agree_with_scipy_and_sklearn_with_ties(seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 5, (40, 3)).astype(np.float32)
    labels = rng.random((40, 2)).round(1).astype(np.float32)
    binary = (labels > 0.5).astype(int)
    pearson, auroc = matching.pearson(values, labels), matching.auroc(values, labels)
    for d in range(2):
        for u in range(3):
            if np.ptp(values[:, u]) and np.ptp(labels[:, d]):
                assert pearson[d, u] == pytest.approx(pearsonr(labels[:, d], values[:, u])[0], abs=1e-5)
            if np.ptp(binary[:, d]):
                assert auroc[d, u] == pytest.approx(roc_auc_score(binary[:, d], values[:, u]))


def test_frequency_is_the_mean_label_of_the_strongest_rows():
    rng = np.random.default_rng(0)
    values, labels = rng.standard_normal((50, 4)).astype(np.float32), rng.random((50, 3))
    found = matching.frequency(values, labels, exemplars=7)
    for u in range(4):
        strongest = sorted(range(50), key=lambda row: -values[row, u])[:7]
        assert np.allclose(found[:, u], labels[strongest].mean(0))


@pytest.mark.parametrize("method", matching.SCORERS)
def test_constant_sides_are_defined(method):
    values = np.stack([np.ones(30), np.arange(30)], axis=1).astype(np.float32)
    labels = labelled(np.stack([np.ones(30), np.zeros(30), np.arange(30) > 15], axis=1))
    found = matching.score(values, labels, method)
    assert np.isfinite(found.to_numpy()).all()
    if method == "pearson":
        assert (found.loc[["d0", "d1"]] == 0).all(axis=None) and found.loc["d2", 0] == 0


def test_large_offsets_do_not_cost_precision():
    rng = np.random.default_rng(1)
    label = (rng.random(500) < 0.3).astype(float)
    signal = label + rng.standard_normal(500)
    expected = pearsonr(label, signal)[0]
    found = matching.pearson((signal + 1000).astype(np.float32)[:, None], label.astype(np.float32)[:, None])
    assert found[0, 0] == pytest.approx(expected, abs=1e-3)


def planted(n=400, units=60, seed=0):
    """Units 0 to 2 respond to d0 to d2; unit 3 to d0 and, weaker, to d1; the others to nothing."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 5)) < 0.3).astype(float)
    values = rng.standard_normal((n, units))
    for unit in range(3):
        values[:, unit] += 3 * labels[:, unit]
    values[:, 3] += 3 * labels[:, 0] + 2 * labels[:, 1]
    return stored(values.astype(np.float32)), labelled(labels)


@pytest.mark.parametrize("method", ["pearson", "auroc"])
def test_planted_units_get_their_descriptors(method):
    activations, labels = planted()
    tags = matching.tag(activations, labels, method=method, permutations=99, progress=False)
    first = tags[tags["rank"] == 1].set_index("unit")
    names = [f"layer.0.ffn.{i}" for i in range(4)]
    assert first.loc[names, "descriptor"].tolist() == ["d0", "d1", "d2", "d0"]
    assert (first.loc[names, "q"] <= 0.2).all() and (first.loc[names, "p"] == 0.01).all()
    assert (abs(first.loc[names, "score"] - first.loc[names, "validation_score"]) < 0.15).all()
    second = tags[(tags["rank"] == 2) & (tags["unit"] == names[3])]
    assert second["descriptor"].item() == "d1"
    assert tags.attrs["texts"] == {"calibration": 200, "validation": 200}


def test_p_values_of_units_that_respond_to_nothing_are_uniform():
    activations, labels = planted(units=804)
    tags = matching.tag(activations, labels, permutations=99, progress=False)
    p = tags.loc[tags["rank"] == 1, "p"].iloc[4:]
    for level in (0.1, 0.3, 0.5):
        assert (p <= level).mean() == pytest.approx(level, abs=0.08)


def test_tags_do_not_depend_on_how_many_units_are_taken_at_once(monkeypatch):
    activations, labels = planted()
    whole = matching.tag(activations, labels, permutations=19, progress=False)
    monkeypatch.setattr(matching, "UNITS_AT_ONCE", 7)
    pd.testing.assert_frame_equal(
        whole, matching.tag(activations, labels, permutations=19, progress=False), atol=1e-5
    )


def test_without_permutations_there_is_no_p():
    activations, labels = planted()
    tags = matching.tag(activations, labels, permutations=0, progress=False)
    assert tags[["p", "q"]].isna().all(axis=None) and tags["score"].notna().all()


def test_rows_are_joined_by_text_id_and_mismatches_are_named():
    activations, labels = planted()
    shuffled = labels.sample(frac=1, random_state=3)
    assert matching.score(activations, shuffled).equals(matching.score(activations, labels))
    with pytest.raises(ValueError, match="no row for 1 of 400 rows .* text 17"):
        matching.score(activations, labels.drop(index=17))
    with pytest.raises(ValueError, match="two rows for text 5"):
        matching.score(activations, pd.concat([labels, labels.loc[[5]]]))
    with pytest.raises(ValueError, match="400 rows of activations and 399"):
        matching.score(activations.values, labels.iloc[:-1])


@pytest.mark.parametrize("bad", [1.5, -0.1, float("nan")])
def test_labels_are_probabilities(bad):
    activations, labels = planted()
    labels.loc[3, "d1"] = bad
    with pytest.raises(ValueError, match=r"label 'd1' of row 3"):
        matching.score(activations, labels)


def test_unknown_scorer_and_impossible_wishes():
    activations, labels = planted()
    with pytest.raises(ValueError, match="unknown scorer 'magic'"):
        matching.score(activations, labels, "magic")
    with pytest.raises(ValueError, match="top=9"):
        matching.tag(activations, labels, top=9)
    with pytest.raises(ValueError, match="split=1.0"):
        matching.tag(activations, labels, split=1.0)
