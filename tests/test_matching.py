"""Scorers against scipy and scikit-learn, tags against planted and shuffled truth."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr
from sklearn.metrics import roc_auc_score

from nbkit import matching, stats
from nbkit.activations import Activations
from nbkit.matching import scorers, tags
from nbkit.matching.baselines import jaccard


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
    found = scorers.frequency(values, labels, exemplars=7)
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
    assert (first.loc[names, "q"] <= 1e-3).all() and (first.loc[names, "p"] < 1e-4).all()
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
    monkeypatch.setattr(tags, "UNITS_AT_ONCE", 7)
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
    with pytest.raises(ValueError, match="two columns 'd1'"):
        matching.tag(activations, labels.rename(columns={"d0": "d1"}))
    with pytest.raises(ValueError, match="two columns 'd1'"):
        matching.score(activations.values, labels.rename(columns={"d0": "d1"}))
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


# ---------------------------------------------------------------- splits, ends, controls, floors


def test_groups_stay_on_one_side_of_the_split():
    groups = np.random.default_rng(0).integers(0, 40, 500)
    first, second = stats.halves(500, 0.5, seed=3, groups=groups)
    assert not set(groups[first]) & set(groups[second])
    assert np.array_equal(np.sort(np.concatenate([first, second])), np.arange(500))
    assert abs(len(first) - 250) <= 25
    with pytest.raises(ValueError, match="1 groups over 500 rows"):
        stats.halves(500, groups=np.zeros(500))


def test_documents_are_given_by_text_id():
    activations, labels = planted()
    documents = pd.Series(np.arange(400) // 8).sample(frac=1, random_state=0)
    tags = matching.tag(activations, labels, groups=documents, permutations=0, resamples=20, progress=False)
    assert sum(tags.attrs["texts"].values()) == 400
    assert (tags["low"] <= tags["high"]).all()
    with pytest.raises(ValueError, match="`groups` must have a value for every text_id; there is none for 7"):
        matching.tag(activations, labels, groups=documents.drop(7), progress=False)


def test_a_unit_may_mean_something_when_it_is_low():
    activations, labels = planted()
    activations.values[:, 1] *= -1
    high = matching.tag(activations, labels, permutations=0, progress=False)
    both = matching.tag(activations, labels, ends="both", permutations=39, progress=False)
    name = "layer.0.ffn.1"
    first = both[(both["unit"] == name) & (both["rank"] == 1)].iloc[0]
    assert (first["descriptor"], first["sign"]) == ("d1", -1) and first["p"] < 1 / 40
    assert (high["sign"] == 1).all()
    assert high.loc[(high["unit"] == name) & (high["rank"] == 1), "descriptor"].item() != "d1"
    gated = dataclasses.replace(activations, manifest={**activations.manifest, "gated": True})
    default = matching.tag(gated, labels, permutations=39, progress=False)
    pd.testing.assert_frame_equal(default, both)
    with pytest.raises(ValueError, match="ends='low'"):
        matching.tag(activations, labels, ends="low")


def test_intervals_cover_the_score_of_many_texts():
    activations, labels = planted(n=4000, units=4)
    truth = matching.score(activations, labels).max()
    part = stored(activations.values[:800])
    for options in ({}, {"resamples": 200}):
        tags = matching.tag(part, labels[:800], permutations=0, progress=False, **options)
        first = tags[tags["rank"] == 1].set_index("unit")
        covered = (first["low"] <= truth) & (truth <= first["high"])
        assert covered.sum() >= 3 and (first["high"] - first["low"]).between(0.01, 0.2).all()


def with_distractors(n=1200, seed=0):
    """Units 0 to 19 follow length or corpus and nothing else; 20 and 21 respond to d0 and d1."""
    rng = np.random.default_rng(seed)
    control = pd.DataFrame({"length": rng.integers(4, 50, n), "corpus": rng.choice(list("abc"), n)})
    length, place = control["length"].to_numpy() / 50, (control["corpus"] == "a").to_numpy()
    likely = 0.1 + 0.5 * length[:, None] * np.ones(5)
    likely[:, 3:] = 0.15 + 0.4 * place[:, None]
    labels = (rng.random((n, 5)) < likely).astype(float)
    values = 0.5 * rng.standard_normal((n, 22))
    values[:, :10] += 3 * length[:, None] ** 2
    values[:, 10:20] += 2 * place[:, None]
    values[:, 20:] += 2 * labels[:, :2]
    return stored(values.astype(np.float32)), labelled(labels), control


@pytest.mark.parametrize("method", ["pearson", "auroc", "average_precision"])
def test_distractors_lose_their_tags_under_control_and_real_units_keep_theirs(method):
    activations, labels, control = with_distractors()
    options = dict(method=method, permutations=499, progress=False)
    plain = matching.tag(activations, labels, **options)
    held = matching.tag(activations, labels, covariates=control, **options)
    plain, held = (t[t["rank"] == 1]["tagged"].to_numpy() for t in (plain, held))
    assert plain[:20].mean() >= 0.9 and held[:20].mean() <= 0.1 and held[20:].all()


def test_residuals_have_no_mean_or_slope_left_within_a_cell():
    activations, _, control = with_distractors()
    values = activations.values.copy()
    values[:, 0] = 3  # a unit that does not vary stays so
    left = matching.residuals(values, control)
    for _, rows in control.groupby("corpus"):
        assert np.abs(left[rows.index].mean(0)).max() < 1e-5
        slope = (rows["length"] - rows["length"].mean()).to_numpy() @ left[rows.index]
        assert np.abs(slope).max() < 0.05
    assert (left[:, 0] == 0).all()


def test_floors_collisions_coverage_and_overlap():
    activations, labels = planted(units=40)
    options = dict(permutations=299, min_score=0.3, progress=False)
    table = matching.baselines(activations, labels, directions=50, **options).set_index("kind")
    assert list(table.index) == ["units", "random directions", "permuted rows"]
    assert table.loc["permuted rows", "tags"] == 0 and table.loc["units", "tags"] == 4
    assert table.loc["units", "jaccard"] > table["top_score"].min()
    tags = matching.tag(activations, labels, **options)
    assert matching.collisions(tags)["d0"] == 2
    covered = matching.coverage(tags, labels)
    assert covered["units"] == 4 / 40 and covered["descriptors"] == 0.6
    overlap = jaccard(tags)
    assert set(overlap.round(3)) <= {1.0, round(1 / 3, 3)} and overlap["layer.0.ffn.3"] == 1


def test_a_unit_that_is_not_finite_is_named():
    activations, labels = planted()
    activations.values[5, 41] = np.nan
    for call in (matching.score, matching.tag, matching.compose):
        with pytest.raises(ValueError, match=r"unit layer\.0\.ffn\.41 are not finite"):
            call(activations, labels)


# ---------------------------------------------------------------- false discoveries


@pytest.mark.parametrize("method, ends", [("pearson", "high"), ("pearson", "both"), ("auroc", "high")])
def test_false_discoveries_stay_within_their_level_in_200_simulations(method, ends):
    shares, nothing, found = [], [], []
    for seed in range(200):
        activations, labels = planted(n=120, units=24, seed=seed)
        activations.values[:, 20:] = 0  # dead
        options = dict(method=method, ends=ends, top=1, permutations=199, seed=seed, progress=False)
        tagged = matching.tag(activations, labels, **options)["tagged"].to_numpy()
        assert not tagged[20:].any()
        found.append(tagged[:4].mean())
        shares.append(tagged[4:].sum() / max(1, tagged.sum()))
        shuffled = labels.sample(frac=1, random_state=seed).set_axis(labels.index)
        nothing.append(matching.tag(activations, shuffled, **options)["tagged"].any())
    assert np.mean(found) >= 0.9  # the level is not kept by finding nothing
    error = np.std(shares) / np.sqrt(200)
    assert np.mean(shares) <= 0.05 + 2 * error
    assert np.mean(nothing) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 200)


# ---------------------------------------------------------------- composites


def composites(n=1200, seed=0):
    """Twelve units for "d0 and d1", "d2 or d3", "d4 and not d0", four each; twelve for an atom; noise."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 6)) < 0.35).astype(float)
    a = labels.T
    meanings = [a[0] * a[1], np.maximum(a[2], a[3]), a[4] * (1 - a[0])]
    columns = [meanings[i // 4] for i in range(12)] + [a[i % 6] for i in range(12)] + [0 * a[0]] * 12
    values = np.stack(columns, axis=1) + 0.3 * rng.standard_normal((n, 36))
    return stored(values.astype(np.float32)), labelled(labels)


@pytest.mark.parametrize("method", ["pearson", "auroc"])
def test_planted_composites_are_found(method):
    activations, labels = composites()
    found = matching.compose(activations, labels, method=method, progress=False).set_index("unit")
    names = activations.units["unit"]
    written = found.reindex(names[:12])["formula"].tolist()
    right = [{"d0 and d1", "d1 and d0"}] * 4 + [{"d2 or d3", "d3 or d2"}] * 4 + [{"d4 and not d0"}] * 4
    assert sum(w in r for w, r in zip(written, right, strict=True)) >= 11
    assert (found["gain"] > 0).all() and (found["low"] <= found["high"]).all()
    assert found.attrs["tried"] == 36 if "tried" in found.attrs else True


def test_atoms_and_noise_get_no_composites_beyond_the_level():
    wrong = []
    for seed in range(5):
        activations, labels = composites(n=500, seed=seed)
        found = matching.compose(activations, labels, list(range(12, 36)), resamples=100, progress=False)
        wrong.append(len(found) / 24)
    assert np.mean(wrong) <= 0.05


def test_corpora_are_pooled_row_by_row():
    values, matrix = np.random.default_rng(0).random((2, 6, 4)), np.eye(6, 3)
    parts = {"a": stored(values[0]), "b": stored(values[1])}
    labels = {"a": labelled(matrix), "b": labelled(matrix[:, :2]).iloc[::-1]}
    whole, found = matching.pooled(parts, labels)
    assert np.allclose(whole.values, np.concatenate(list(values)), atol=1e-3)
    assert whole.rows["text_id"].tolist() == found.index.tolist() == list(range(12))
    assert whole.rows["corpus"].tolist() == ["a"] * 6 + ["b"] * 6
    assert (found.to_numpy() == np.concatenate([matrix, matrix])[:, :2]).all()
    with pytest.raises(ValueError, match="'b' have other units"):
        matching.pooled({"a": parts["a"], "b": parts["b"].select(units=[0])}, labels)


@pytest.mark.parametrize("method", matching.SCORERS)
def test_one_row_is_defined_and_none_is_refused(method):
    assert np.isfinite(matching.score(np.ones((1, 2)), labelled(np.array([[1.0, 0.0]])), method)).all(
        axis=None
    )
    with pytest.raises(ValueError, match="no rows to score"):
        matching.score(np.ones((0, 2)), labelled(np.ones((0, 2))), method)
