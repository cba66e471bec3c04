"""Corpora in space: planted regions, one source under two names, planted outliers."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import pyplot as plt
from scipy.spatial import cKDTree

from nbkit import illusions, matching, plots, stats
from nbkit.activations import Activations
from nbkit.illusions import geometry


def cloud(seed, n=300, shift=0.0):
    return np.random.default_rng(seed).standard_normal((n, 20)).astype(np.float32) + shift


def test_apart_corpora_are_told_apart_and_one_source_is_not():
    apart = illusions.confusion({"a": cloud(0), "b": cloud(1, shift=3), "c": cloud(2, shift=-3)})
    assert np.allclose(np.diag(apart), 1, atol=0.01) and np.allclose(apart.sum(axis=1), 1)
    same = illusions.confusion({"a": cloud(0, 1000), "b": cloud(1, 1000)})
    assert np.allclose(np.diag(same), 0.5, atol=0.06)


def test_a_small_corpus_is_not_swallowed_by_a_large_one():
    found = illusions.confusion({"small": cloud(0, 60, shift=0.5), "large": cloud(1, 3000)})
    assert found.loc["small", "small"] > 0.7


def test_what_cannot_be_told_apart_is_named():
    with pytest.raises(ValueError, match="needs two or more"):
        illusions.confusion({"a": cloud(0)})
    with pytest.raises(ValueError, match="'b' has 3 texts, fewer than 5 folds"):
        illusions.confusion({"a": cloud(0), "b": cloud(1, 3)})


def test_distant_texts_fill_the_places_they_were_planted_in():
    """Three far texts of 300: they hold the first 3 of 10 places on every unit they rise on."""
    values = cloud(3)
    values[[5, 50, 250], :10] += 100  # half of the units
    values[[5, 50, 250], 10:] -= 100
    line = illusions.outlier_share({"a": values}).iloc[0]
    assert line["outliers"] == 3
    assert line["share"] == pytest.approx(0.5 * 3 / 10)


def test_kept_rows_are_the_near_ones_and_the_texts_select_them():
    values = cloud(4)
    values[[7, 99]] += 50
    kept = illusions.without_outliers({"a": values, "b": cloud(5)}, distant=0.01)
    distance = np.linalg.norm(values - values.mean(0), axis=1)
    assert set(range(300)) - set(kept["a"]) == set(np.argsort(-distance)[:3]) >= {7, 99}
    assert len(kept["b"]) == 297 and (np.diff(kept["b"]) > 0).all()
    assert len(illusions.without_outliers({"a": values}, distant=0.1)["a"]) == 270
    with pytest.raises(ValueError, match="distant=1"):
        illusions.without_outliers({"a": values}, distant=1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 6), st.integers(1, 9))
def test_top_texts_are_the_first_of_a_stable_sort(seed, n, units, levels):
    """Few levels: many ties, at the edge too; constant units and infinities."""
    values = np.random.default_rng(seed).integers(0, levels, (n, units)).astype(np.float16)
    values[:, 0] = values[:, 0] if seed % 2 else -np.inf
    k = 1 + seed % n
    expected = np.argsort(-values.astype(np.float32), axis=0, kind="stable")[:k]
    assert (stats.top_texts(values, k) == expected).all()


def test_top_texts_by_sorting_and_ties_by_row():
    values = np.array([[1, 0], [3, 5], [3, 5], [2, 9]], dtype=np.float16)
    assert stats.top_texts(values, 3).tolist() == [[1, 3], [2, 1], [3, 2]]
    with pytest.raises(ValueError, match="k=5 texts"):
        stats.top_texts(values, 5)


def dots(values, rows, neighbours):
    """The two samples of dot products of one set, one after another."""
    gram = values.astype(float) @ values.T.astype(float)
    pairs = [gram[a, b] for i, a in enumerate(rows) for b in rows[i + 1 :]]
    near = [np.sort(np.delete(gram[a], a))[::-1][:neighbours] for a in rows]
    return np.array(pairs), np.concatenate(near)


@pytest.mark.parametrize("neighbours, bins", [(10, 20), (3, 7)])
def test_locality_by_brute_force(neighbours, bins):
    values = cloud(6, n=80)
    top = stats.top_texts(values, 5)
    found = illusions.locality(values, top, neighbours=neighbours, bins=bins)
    for unit in range(20):
        one, two = dots(values, top[:, unit], neighbours)
        edges = np.histogram_bin_edges(np.concatenate([one, two]), bins)
        h1, h2 = (np.histogram(part, edges)[0] / len(part) for part in (one, two))
        # a dot product on the edge of a bin may round to either side
        assert found["locality"][unit] == pytest.approx(
            np.minimum(h1, h2).sum() / np.maximum(h1, h2).sum(), abs=0.03
        )
        assert found["bin_free"][unit] == pytest.approx(
            1 - scipy.stats.ks_2samp(one, two).statistic, abs=1e-6
        )


def test_the_distance_counts_equal_values_together():
    one, two = np.array([[1.0, 1, 2, 3]]), np.array([[1.0, 2, 2, 2, 5]])
    assert geometry._ks(one, two)[0] == pytest.approx(scipy.stats.ks_2samp(one[0], two[0]).statistic)
    assert geometry._ks(one, one)[0] == pytest.approx(0) and geometry._ks(one, one + 9)[0] == 1


def test_a_cluster_is_local_and_scattered_texts_are_not():
    """Twelve near copies of one far text are each other's nearest texts; twelve of the crowd are not."""
    values = cloud(7)
    values[:12] = 20 + 0.1 * cloud(8, n=12)
    sets = np.stack([np.arange(12), np.arange(100, 112)], axis=1)
    local, scattered = illusions.locality(values, sets).itertuples(index=False)
    assert local.locality > 0.5 and local.bin_free > 0.8
    assert scattered.locality < 0.15 and scattered.bin_free < 0.15


def test_equal_texts_are_one_neighbourhood_and_what_has_none_is_named():
    values = cloud(9)
    with pytest.raises(ValueError, match="neighbours=300"):
        illusions.locality(values, stats.top_texts(values), neighbours=300)
    with pytest.raises(ValueError, match="no pairs"):
        illusions.locality(values, stats.top_texts(values, 1))
    same = np.ones((30, 4), dtype=np.float32)  # all dot products alike: one neighbourhood
    assert np.allclose(illusions.locality(same, stats.top_texts(same)), 1)


@pytest.mark.parametrize("method", ["tsne", "pca"])
def test_a_map_keeps_far_corpora_apart(method):
    corpora = {"a": cloud(0, 60), "b": cloud(1, 60, shift=4)}
    found = illusions.layout(corpora, method=method, n=40, keep={"b": [3, 59]})
    assert found.groupby("corpus").size()["a"] == 40 and {3, 59} <= set(found[found["corpus"] == "b"]["row"])
    points = found[["x", "y"]].to_numpy()
    nearest = cKDTree(points).query(points, 2)[1][:, 1]
    corpus = found["corpus"].to_numpy()
    assert (corpus[nearest] == corpus).mean() > 0.95
    assert found.equals(illusions.layout(corpora, method=method, n=40, keep={"b": [3, 59]}))


def test_an_unknown_map_is_named():
    with pytest.raises(ValueError, match="method='umap'"):
        illusions.layout({"a": cloud(0)}, method="umap")


def test_the_maps_show_every_corpus_and_mark_the_rows():
    shares = illusions.confusion({"a": cloud(0, 60), "b": cloud(1, 60, shift=4)})
    ax = plots.confusion_map(shares)
    assert [t.get_text() for t in ax.texts] == [f"{x:.2f}" for x in shares.to_numpy().ravel()]
    found = illusions.layout({"a": cloud(0, 60), "b": cloud(1, 60)}, method="pca", n=20, keep={"b": [3, 59]})
    ax = plots.corpus_map(found, {"b": [3, 59]})
    everything, marked = (np.asarray(points.get_offsets()) for points in ax.collections)
    assert np.allclose(everything, found[["x", "y"]])
    at = found[(found["corpus"] == "b") & found["row"].isin([3, 59])]
    assert np.allclose(marked, at[["x", "y"]])
    absent = min(set(range(60)) - set(found[found["corpus"] == "a"]["row"]))
    with pytest.raises(ValueError, match=f"row {absent} of 'a' is not on the map"):
        plots.corpus_map(found, {"a": [absent]})
    plt.close("all")


# ------------------------------------------------------------------------- linear combinations


def stored(seed, n=400, width=20):
    """Activations in which d0 is the direction (1, 1, 0, ...), and d1 nowhere."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 2)) < 0.4).astype(np.float32)
    values = rng.standard_normal((n, width)).astype(np.float32)
    values[:, :2] += 2 * labels[:, :1]
    units = pd.DataFrame({"unit": [f"layer.0.ffn.{i}" for i in range(width)]})
    rows = pd.DataFrame({"text_id": 1000 * seed + np.arange(n)})
    return Activations(values, rows, units, {}), pd.DataFrame(labels, rows["text_id"], ["d0", "d1"])


@pytest.fixture(scope="module")
def two():
    made = {name: stored(seed) for seed, name in enumerate("ab")}
    return {n: a for n, (a, _) in made.items()}, {n: y for n, (_, y) in made.items()}


def test_probes_and_means_find_the_planted_direction_on_texts_they_have_not_seen(two):
    acts, labels = two
    for kind, word in (("probe", "probe"), ("class means", "means")):
        found = illusions.directions(acts, labels, kind)
        assert found["a"].units["unit"].tolist() == [f"{word}.{c}.{d}" for c in "ab" for d in ("d0", "d1")]
        for name, projected in found.items():
            first, second = stats.halves(400, 0.5, 0)
            assert projected.rows["text_id"].tolist() == acts[name].rows["text_id"].iloc[second].tolist()
            scores = matching.score(projected, labels[name])
            assert (scores.loc["d0", [f"{word}.a.d0", f"{word}.b.d0"]] > 0.75).all()  # either corpus's
            assert abs(scores.loc["d1"]).max() < 0.3


def test_whole_documents_are_learned_from_or_projected(two):
    acts, labels = two
    in_documents = {n: replace(a, rows=a.rows.assign(document=np.arange(400) // 8)) for n, a in acts.items()}
    found = illusions.directions(in_documents, labels, "random", n=3)["a"]
    assert 150 < len(found) < 250 and (found.rows.groupby("document").size() == 8).all()
    apart = illusions.directions(in_documents, labels, "random", n=3, groups=False)["a"]
    assert (apart.rows.groupby("document").size() < 8).any()


def test_class_means_by_hand(two):
    acts, labels = two
    first, second = stats.halves(400, 0.5, 0)
    x, y = acts["b"].values[first], labels["b"]["d0"].to_numpy()[first] == 1
    by_hand = acts["a"].values[second] @ (x[y].mean(0) - x[~y].mean(0))
    found = illusions.directions(acts, labels, "class means")["a"]
    assert np.allclose(found.values[:, found.column("means.b.d0")], by_hand, atol=1e-4)


def test_components_by_singular_values_and_random_ones_have_length_one(two):
    acts, _ = two
    first, second = stats.halves(400, 0.5, 0)
    x = np.concatenate([a.values[first] for a in acts.values()])
    axes = np.linalg.svd(x - x.mean(0), full_matrices=False)[2][:3].T
    found = illusions.directions(acts, None, "principal components", n=3)["a"].values
    assert np.allclose(np.abs(found), np.abs(np.tile(acts["a"].values[second] @ axes, 2)), atol=1e-3)
    assert np.allclose(found[:, :3], -found[:, 3:], atol=1e-5)
    some = illusions.directions(acts, None, "random", n=5)
    lengths = np.linalg.norm(np.linalg.lstsq(acts["a"].values[second], some["a"].values)[0], axis=0)
    assert np.allclose(lengths, 1, atol=1e-4)


def test_directions_that_cannot_be_learned_are_named(two):
    acts, labels = two
    with pytest.raises(ValueError, match="kind='pca': there are probe, class means"):
        illusions.directions(acts, labels, "pca")
    with pytest.raises(ValueError, match="give labels_by_corpus"):
        illusions.directions(acts, None, "probe")
    with pytest.raises(ValueError, match="no descriptor of 'b' has 10 training texts"):
        illusions.directions(acts, {**labels, "b": 0 * labels["b"]}, "probe")
