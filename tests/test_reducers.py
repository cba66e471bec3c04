"""Reducers against numpy on the whole matrix, however the rows are cut and merged."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nbkit import activations, matching, texts
from nbkit.activations import plan, reducers


def frames(n_rows, n_units):
    units = pd.DataFrame({"unit": [f"layer.0.ffn.{i}" for i in range(n_units)]})
    return units, pd.DataFrame({"text_id": np.arange(n_rows) * 10})


def fed(make, values, cuts, merge):
    """A reducer that saw ``values`` in pieces, all of them itself or each by a reducer of its own."""
    units, rows = frames(*values.shape)
    pieces = np.split(np.arange(len(values)), sorted(cuts))
    held = []
    for piece in pieces if merge else [None]:
        reducer = make()
        reducer.begin(units, rows, torch.device("cpu"))
        for part in [piece] if merge else pieces:
            if len(part):
                reducer.update(torch.from_numpy(values[part]), torch.from_numpy(part))
        held.append(reducer)
    for other in held[1:]:
        held[0].merge(other)
    return held[0].result()


cases = st.tuples(
    st.integers(0, 10**6),
    st.lists(st.integers(0, 40), max_size=4),
    st.booleans(),
    st.sampled_from([0.0, 1e3]),
)


def matrix(seed, offset, ties=False):
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, 6, (40, 5)) if ties else rng.standard_normal((40, 5))
    return (drawn + offset).astype(np.float32)


@settings(deadline=None, max_examples=40)
@given(cases)
def test_moments(case):
    seed, cuts, merge, offset = case
    values = matrix(seed, offset)
    found = fed(activations.Moments, values, cuts, merge)
    exact = values.astype(np.float64)
    assert np.allclose(found["mean"], exact.mean(0), atol=1e-4)
    assert np.allclose(found["std"], exact.std(0), rtol=1e-3)
    assert (found["min"] == values.min(0)).all() and (found["max"] == values.max(0)).all()
    assert (found["count"] == 40).all()


@settings(deadline=None, max_examples=40)
@given(cases, st.integers(1, 50))
def test_top_k_with_ties_in_row_order(case, k):
    seed, cuts, merge, _ = case
    values = matrix(seed, 0, ties=True)
    found = fed(lambda: activations.TopK(k), values, cuts, merge)
    for unit in range(5):
        for sign in (1, -1):
            order = np.argsort(-sign * values[:, unit], kind="stable")[:k]
            mine = found[(found["unit"] == f"layer.0.ffn.{unit}") & (found["sign"] == sign)]
            assert mine["value"].tolist() == values[order, unit].tolist()
            assert mine["text_id"].tolist() == (order * 10).tolist()
            assert mine["rank"].tolist() == list(range(1, len(order) + 1))


@settings(deadline=None, max_examples=40)
@given(cases)
def test_label_sums_hold_pearson_means_and_covariance(case):
    seed, cuts, merge, offset = case
    values = matrix(seed, offset)
    rng = np.random.default_rng(seed + 1)
    labels = pd.DataFrame(rng.random((40, 3)).round(1), index=np.arange(40) * 10, columns=list("abc"))
    labels["never"] = 0.0
    found = fed(lambda: activations.LabelSums(labels, gram=True), values, cuts, merge)
    expected = matching.pearson(values.astype(np.float64) - offset, labels.to_numpy(np.float32))
    assert np.allclose(found.pearson(), expected, atol=2e-3)
    weights = labels.to_numpy()[:, :3]
    means = (weights / weights.sum(0)).T @ values.astype(np.float64)
    assert np.allclose(found.class_means().iloc[:3], means, rtol=1e-4, atol=1e-3)
    assert found.class_means().loc["never"].isna().all()
    assert np.allclose(found.covariance(), np.cov(values.astype(np.float64).T, bias=True), atol=2e-3)


@settings(deadline=None, max_examples=20)
@given(cases, st.sampled_from([7, 40, 100]))
def test_quantiles_are_those_of_the_rows_drawn(case, size):
    seed, cuts, merge, offset = case
    values = matrix(seed, offset)
    found = fed(lambda: reducers.Quantiles(size, seed=seed), values, cuts, merge)
    drawn = found.rows["text_id"].to_numpy() // 10
    assert len(drawn) == len(set(drawn)) == min(size, 40) and found.seen.all()
    assert (found.values == values[drawn]).all()
    assert np.allclose(
        found.quantiles((0.25, 0.9))[["0.25", "0.9"]], np.quantile(values[drawn], (0.25, 0.9), 0).T
    )
    assert (found.bound() == 0) == (size >= 40)


def test_the_bound_on_quantiles_holds_as_often_as_it_says():
    """400 units, 5,000 rows, 300 of them kept: how far off is the worst quantile of each unit?"""
    values = np.random.default_rng(0).standard_normal((5000, 400)).astype(np.float32)
    found = fed(lambda: reducers.Quantiles(300), values, [1000, 2500], False)
    kept, every = np.sort(found.values, axis=0), np.sort(values, axis=0)
    rank = np.stack([np.searchsorted(every[:, u], kept[:, u]) for u in range(400)], axis=1) / 5000
    worst = np.abs(rank - (np.arange(300) / 300)[:, None]).max(0)
    assert (worst <= found.bound(0.05) + 1 / 300).mean() >= 0.95
    assert found.bound(0.05) == pytest.approx(np.sqrt(np.log(40) / 600))


def test_auroc_from_the_sample(minilm):
    reviews = texts.load("sample:reviews")
    labels = reviews.descriptors("surface")
    exact = activations.capture(minilm, reviews, sites="layer.2.ffn", dtype="float32", cache=False)
    kept = activations.reduce(minilm, reviews, {"q": reducers.Quantiles(400)}, sites="layer.2.ffn")["q"]
    labels_there = labels.loc[kept.rows["text_id"]]
    common = (labels.mean() > 0.1) & (labels.mean() < 0.9)
    sampled = matching.score(kept.values, labels_there.loc[:, common], "auroc").to_numpy()
    whole = matching.score(exact.values, labels.loc[exact.rows["text_id"], common], "auroc").to_numpy()
    assert np.abs(sampled - whole).mean() < 0.02


def test_one_pass_feeds_them_all_and_agrees_with_the_store(minilm, monkeypatch):
    reviews = texts.load("sample:reviews").sample(60, seed=0)
    labels = reviews.descriptors()
    monkeypatch.setattr(plan, "BLOCK_BYTES", 17 * 1536 * 4)  # several blocks
    store = activations.capture(minilm, reviews, sites="layer.2.ffn", dtype="float32", cache=False)
    passes, run = [], type(minilm).run
    monkeypatch.setattr(
        type(minilm), "run", lambda s, b, w, **k: passes.append(len(b["input_ids"])) or run(s, b, w, **k)
    )
    wanted = {
        "top": activations.TopK(3),
        "moments": activations.Moments(),
        "sums": activations.LabelSums(labels),
    }
    found = activations.reduce(minilm, reviews, wanted, sites="layer.2.ffn", progress=False)
    assert sum(passes) == 60, "more than one pass"
    assert np.allclose(found["moments"]["mean"], store.values.mean(0), atol=1e-5)
    assert np.allclose(found["sums"].pearson(), matching.score(store, labels), atol=1e-4)
    top = found["top"].query("sign == 1 and rank == 1").set_index("unit")["text_id"]
    best = store.rows["text_id"].to_numpy()[store.values.argmax(0)]
    assert (top.loc[store.units["unit"]].to_numpy() == best).mean() > 0.99  # float ties aside


def test_word_rows_take_labels_by_text_and_word(minilm):
    treebank = texts.load("sample:treebank").sample(12, seed=0)
    nouns = treebank.words.set_index(["text_id", "word_id"])["upos"].eq("NOUN").astype(float).to_frame("noun")
    wanted = {"sums": activations.LabelSums(nouns)}
    found = activations.reduce(minilm, treebank, wanted, sites="layer.2.hidden", rows="word", pool="mean")
    store = activations.capture(
        minilm, treebank, sites="layer.2.hidden", rows="word", pool="mean", dtype="float32", cache=False
    )
    expected = matching.pearson(store.values, nouns.to_numpy(np.float32))
    assert np.allclose(found["sums"].pearson(), expected, atol=1e-4)
    with pytest.raises(ValueError, match="rows lack labels"):
        wanted = {"sums": activations.LabelSums(nouns.iloc[5:])}
        activations.reduce(minilm, treebank, wanted, sites="layer.2.hidden", rows="word", pool="mean")


def test_impossible_wishes_are_named():
    with pytest.raises(ValueError, match="k=0"):
        activations.TopK(0)
    labels = pd.DataFrame({"a": np.ones(40)}, index=np.arange(40) * 10)
    with pytest.raises(ValueError, match="gram=True"):
        fed(lambda: activations.LabelSums(labels), matrix(0, 0), [], False).covariance()
