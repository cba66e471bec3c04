"""Rankers and probes against other libraries, brute force and planted units; the studies on known answers."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from sklearn.feature_selection import RFE
from sklearn.linear_model import MultiTaskLasso, OrthogonalMatchingPursuit, Ridge
from sklearn.metrics import mutual_info_score

from nbkit import activations, salience, texts
from nbkit.salience import probes, rankers, studies

PLANTED = {3, 17, 41}


def words(n=1500, units=60, seed=0, noise=0.7):
    """Three classes, each with a unit of its own; the others are noise at different scales and offsets."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 3, n)
    X = rng.standard_normal((n, units)).astype(np.float32)
    for c, unit in enumerate(sorted(PLANTED) if units > 41 else range(3)):
        X[:, unit] = 2 * (codes == c) + noise * rng.standard_normal(n)
    y = pd.Series(np.array(["a", "b", "c"])[codes], name="letter")
    y.index = pd.MultiIndex.from_arrays([np.arange(n) // 10, np.arange(n) % 10], names=["text_id", "word_id"])
    return X, y


@pytest.mark.parametrize("method", [name for name in salience.RANKERS if name != "random"])
def test_planted_units_come_first(method):
    X, y = words()
    options = {"epochs": 60, "learning_rate": 1e-2} if method == "lca" else {}  # few words need more passes
    found = salience.rank(X, y, method, **options)
    assert set(found.top(3)) == PLANTED
    assert found.classes == ["a", "b", "c"] and len(found.order) == len(set(found.order)) == 60
    again = salience.rank(X, y, method, **options)
    assert (again.order == found.order).all()


def test_random_is_at_chance():
    X, y = words()
    hits = [len(PLANTED & set(salience.rank(X, y, "random", seed=s).top(3))) for s in range(200)]
    assert np.mean(hits) == pytest.approx(3 * 3 / 60, abs=0.08)


@pytest.mark.parametrize("method", list(salience.RANKERS))
def test_constant_and_equal_units_and_few_rows_are_defined(method):
    X, y = words(n=40)
    X[:, 0], X[:, 1] = 5.0, X[:, 3]
    options = {"depth": 5} if method == "gaussian" else {}
    found = salience.rank(X[:, :50], y, method, **options)
    assert sorted(found.order) == list(range(50)) and np.isfinite(found.scores).all()
    if method not in ("random", "lca"):
        assert found.scores[0] == 0


def test_bad_input_is_named():
    X, y = words(n=30)
    with pytest.raises(ValueError, match="1 class"):
        salience.rank(X, ["a"] * 30)
    with pytest.raises(ValueError, match="30 rows of activations and 29 classes"):
        salience.rank(X, y[:29])
    with pytest.raises(ValueError, match="unknown ranker 'best'"):
        salience.rank(X, y, "best")
    X[4, 7] = np.nan
    with pytest.raises(ValueError, match="unit 7"):
        salience.rank(X, y)
    X[4, 7], y.iloc[0] = 0, "alone"  # a class with one example
    assert len(salience.rank(X, y).classes) == 4


# ---------------------------------------------------------------- each ranker by another way


def standardised(X, y, by_prior=True):
    """Units and one-hot classes as regression takes them, without the package."""
    codes, prior = pd.factorize(y, sort=True)[0], y.value_counts(normalize=True).sort_index().to_numpy()
    Y = np.eye(len(prior))[codes] - prior
    return (X - X.mean(0)) / X.std(0), Y / np.sqrt(prior) if by_prior else Y


@pytest.mark.parametrize("by_prior", [True, False])
def test_greedy_is_forward_selection_by_least_squares(by_prior):
    X, y = words(n=300, units=12, noise=2.0)
    rare = np.flatnonzero(y == "c")[20:]  # one class is rare, so that the scaling by its share matters
    X, y = np.delete(X, rare, 0), y.drop(y.index[rare])
    X[:, 5] = X[:, 1] + 0.3 * X[:, 5]
    Z, Y = standardised(X, y, by_prior)
    chosen = []
    for _ in range(6):
        left = {
            u: np.square(Y - Z[:, [*chosen, u]] @ np.linalg.lstsq(Z[:, [*chosen, u]], Y, rcond=None)[0]).sum()
            for u in range(12)
            if u not in chosen
        }
        chosen.append(min(left, key=left.get))
    assert salience.rank(X, y, by_prior=by_prior).top(6).tolist() == chosen


def test_gains_of_greedy_add_up_to_pillais_trace():
    X, y = words(n=300, units=12, noise=2.0)
    found = salience.rank(X, y, depth=5)
    some = X[:, found.top(5)].astype(float)
    total = np.cov(some.T, bias=True)
    means = pd.DataFrame(some).groupby(y.to_numpy()).mean()
    share = y.value_counts(normalize=True)[means.index].to_numpy()
    apart = (means - some.mean(0)).to_numpy()
    between = apart.T @ (share[:, None] * apart)
    assert found.notes["gains"].sum() == pytest.approx(np.trace(np.linalg.inv(total) @ between), rel=1e-3)


def test_omp_has_the_units_of_scikit_learn_for_every_class():
    X, y = words(n=400, units=30, noise=3.0)
    Z, Y = standardised(X, y, by_prior=False)
    for depth in (1, 3):
        one = [
            OrthogonalMatchingPursuit(n_nonzero_coefs=depth, fit_intercept=False).fit(Z, c).coef_ for c in Y.T
        ]
        wanted = set(np.flatnonzero(np.abs(one).sum(0)).tolist())
        found = salience.rank(X, y, "omp", depth=depth)
        assert set(found.notes["chosen"].tolist()) == wanted == set(found.top(len(wanted)).tolist())


def test_rfe_drops_units_in_the_order_of_scikit_learn():
    X, y = words(n=400, units=25, noise=3.0)
    Z, Y = standardised(X, y, by_prior=False)
    ridge = Ridge(alpha=1e-3 * len(Z), fit_intercept=False)
    theirs = RFE(ridge, n_features_to_select=1, step=1).fit(Z, Y).ranking_
    assert salience.rank(X, y, "rfe").order.tolist() == np.argsort(theirs).tolist()


def test_lasso_is_that_of_scikit_learn_on_the_words():
    X, y = words(n=400, units=30)
    m = rankers.moments(X, y)
    scores, notes = rankers.lasso(m, alpha=0.05)
    Z, Y = standardised(X, y)
    theirs = MultiTaskLasso(alpha=0.05, fit_intercept=False, tol=1e-10, max_iter=10000).fit(Z, Y).coef_.T
    assert notes["gap"] <= 1e-4 and np.allclose(notes["weights"], theirs, atol=1e-4)
    assert 3 <= (scores > 0).sum() < 30 and ((scores > 0) == (np.abs(theirs).sum(1) > 0)).all()


def test_loss_of_lca_is_the_published_formula():
    rng = np.random.default_rng(0)
    W, b, X, y = (
        rng.standard_normal((4, 6)),
        rng.standard_normal(4),
        rng.standard_normal((9, 6)),
        rng.integers(0, 4, 9),
    )
    logits = X @ W.T + b
    nll = -(logits[np.arange(9), y] - np.log(np.exp(logits).sum(1))).mean()
    expected = nll + 0.01 * np.abs(W).sum() + 0.02 * np.sqrt(np.square(W).sum())
    found = salience.lca_loss(*map(torch.from_numpy, (W, b, X, y)), 0.01, 0.02)
    assert float(found) == pytest.approx(expected, abs=1e-12)


def stepped(weights: np.ndarray, mass: float) -> set[int]:
    """Top units of all classes at a share of the mass, as the published code collects them."""
    union = set()
    for row in np.abs(weights):
        total, held = row.sum(), 0.0
        for unit in np.argsort(-row, kind="stable"):
            if held >= mass * total:
                break
            union.add(int(unit))
            held += row[unit]
    return union


@settings(deadline=None)
@given(st.integers(0, 10**6), st.floats(0.02, 0.98))
def test_closed_form_of_the_lca_order_is_its_stepping(seed, mass):
    weights = np.random.default_rng(seed).standard_normal((3, 12))
    assert {int(u) for u in np.flatnonzero(salience.entry_mass(weights) < mass - 1e-12)} == stepped(
        weights, mass
    )


def test_gaussian_likelihood_is_that_of_scipy():
    X, y = words(n=300, units=8)
    codes = pd.factorize(y, sort=True)[0]
    Z = (X - X.mean(0)) / X.std(0)
    prior = np.bincount(codes) / len(codes)
    means = [Z[codes == c].mean(0) for c in range(3)]
    covariances = [rankers._shrunk(Z[codes == c] - means[c], 0.1) for c in range(3)]

    def likelihood(units):
        joint = np.stack(
            [
                np.log(prior[c])
                + multivariate_normal(means[c][units], covariances[c][np.ix_(units, units)]).logpdf(
                    Z[:, units]
                )
                for c in range(3)
            ]
        )
        return (joint[codes, np.arange(300)] - np.log(np.exp(joint).sum(0))).mean()

    chosen = []
    for _ in range(4):
        chosen.append(max((u for u in range(8) if u not in chosen), key=lambda u: likelihood([*chosen, u])))
    found, _ = rankers.gaussian(X, codes, depth=4, words=300)
    assert np.argsort(-found)[:4].tolist() == chosen


def test_unit_by_unit_rankers_by_loops():
    X, y = words(n=200, units=6)
    codes = pd.factorize(y, sort=True)[0]
    by = {c: X[codes == c] for c in range(3)}
    span = X.max(0) - X.min(0)
    apart = [np.abs(by[c].mean(0) - X[codes != c].mean(0)) / span for c in range(3)]
    assert np.allclose(rankers.selectivity(X, codes)[0], np.max(apart, axis=0), atol=1e-5)
    Z = (X - X.mean(0)) / X.std(0)
    pairs = [
        np.abs(Z[codes == a].mean(0) - Z[codes == b].mean(0)) for a, b in itertools.combinations(range(3), 2)
    ]
    assert np.allclose(rankers.probeless(rankers.moments(X, y))[0], np.sum(pairs, axis=0), atol=1e-4)
    found = rankers.mutual_information(X, codes, bins=8)[0]
    for unit in range(6):
        bins = np.searchsorted(np.quantile(X[:, unit], np.linspace(0, 1, 9)[1:-1]), X[:, unit], side="right")
        assert found[unit] == pytest.approx(mutual_info_score(bins, codes), abs=1e-9)


def test_sums_of_one_pass_rank_as_the_words_do(minilm):
    treebank = texts.load("sample:treebank")
    y = salience.properties(treebank, "upos")
    onehot = pd.get_dummies(y).astype(np.float32)
    same = dict(sites=["layer.1.hidden", "layer.4.hidden"], rows="word", pool="mean")
    sums = activations.reduce(minilm, treebank, {"s": activations.LabelSums(onehot, gram=True)}, **same)["s"]
    stored = activations.capture(minilm, treebank, dtype="float32", cache=False, **same)
    there = y.loc[pd.MultiIndex.from_frame(stored.rows[["text_id", "word_id"]])]
    for method in ("greedy", "probeless"):
        whole = salience.rank(stored.values, there, method).top(40)
        assert (salience.rank_sums(sums, method).top(40) == whole).mean() > 0.9
    with pytest.raises(ValueError, match="'lca' needs the words"):
        salience.rank_sums(sums, "lca")


# ---------------------------------------------------------------- properties, probes, studies


def test_properties_of_a_treebank():
    treebank = texts.load("sample:treebank")
    upos = salience.properties(treebank, "upos")
    assert len(upos) == len(treebank.words) and {"NOUN", "VERB"} <= set(upos)
    tense = salience.properties(treebank, "feats:Tense") if "feats" in treebank.words else pd.Series(["Past"])
    assert set(tense) <= {"Past", "Pres"}
    by_form = dict(zip(treebank.words["form"], salience.properties(treebank, "casing"), strict=True))
    assert by_form["."] == "other" and by_form["the"] == "lower"
    suffix = salience.properties(treebank, "suffix")
    assert all(
        f.lower().endswith(s) for f, s in zip(treebank.words["form"], suffix, strict=True) if s != "none"
    )
    assert set(salience.properties(treebank, "length")) == {"1-2", "3-4", "5-7", "8+"}
    rare = salience.properties(treebank, "deprel", min_count=20)
    assert rare.value_counts().min() >= 20
    with pytest.raises(ValueError, match="no property 'colour'"):
        salience.properties(treebank, "colour")


def test_chunks_are_read_off_the_tree():
    table = pd.DataFrame(
        {
            "text_id": 0,
            "word_id": range(1, 8),
            "form": "the old dog has slept in gardens".split(),
            "upos": "DET ADJ NOUN AUX VERB ADP NOUN".split(),
            "head": [3, 3, 5, 5, 0, 7, 5],
            "deprel": "det amod nsubj aux root case obl".split(),
        }
    )
    assert probes._chunks(table).tolist() == ["NP", "NP", "NP", "VP", "VP", "PP", "NP"]


def test_words_without_class_and_lost_words_are_counted(minilm):
    treebank = texts.load("sample:treebank").sample(10, seed=0)
    y = salience.properties(treebank, "upos")
    stored = activations.capture(
        minilm, treebank, sites="layer.1.hidden", rows="word", pool="mean", cache=False
    )
    X, found = salience.matrix(stored, y.iloc[5:])
    assert len(X) == len(found) == len(y) - 5
    assert found.attrs["left_out"] == {
        "words without class": 5,
        "words without activations": 0,
        "words that share a vector": 0,
    }
    with pytest.raises(ValueError, match="has a class"):
        salience.matrix(stored, y.set_axis(y.index.set_levels(y.index.levels[0] + 10**6, level=0)))


CONLLU = """\
# text = Il va au marché
1\tIl\til\tPRON\t_\t_\t2\tnsubj\t_\t_
2\tva\taller\tVERB\t_\t_\t0\troot\t_\t_
3-4\tau\t_\t_\t_\t_\t_\t_\t_\t_
3\tà\tà\tADP\t_\t_\t5\tcase\t_\t_
4\tle\tle\tDET\t_\t_\t5\tdet\t_\t_
5\tmarché\tmarché\tNOUN\t_\tNumber=Sing|Number[psor]=Plur\t2\tobl\t_\t_

# text = we cannot go
1\twe\twe\tPRON\t_\tNumber=Plur\t4\tnsubj\t_\t_
2\tcan\tcan\tAUX\t_\t_\t4\taux\t_\tSpaceAfter=No
3\tnot\tnot\tPART\t_\t_\t4\tadvmod\t_\t_
4\tgo\tgo\tVERB\t_\t_\t0\troot\t_\t_

"""


@pytest.fixture
def odd_words(tmp_path):
    (tmp_path / "odd.conllu").write_text(CONLLU, encoding="utf-8")
    return texts.load(tmp_path / "odd.conllu")


def test_words_that_share_a_vector_are_left_out_and_counted(odd_words, minilm):
    """One vector each: "à" and "le", written "au"; "can" and "not", which are one token of the model."""
    stored = activations.capture(
        minilm, odd_words, sites=["embeddings", "hidden"], rows="word", pool="mean", cache=False
    )
    X, y = salience.matrix(stored, salience.properties(odd_words, "upos"))
    assert y.tolist() == ["PRON", "VERB", "NOUN", "PRON", "VERB"] and len(X) == 5
    assert len(np.unique(X, axis=0)) == 5  # no vector has two classes
    assert y.attrs["left_out"]["words that share a vector"] == 4
    only = salience.properties(odd_words, "upos").loc[[(0, 3), (0, 4)]]
    with pytest.raises(ValueError, match="all 2 words with a class in 'upos' share"):
        salience.matrix(stored, only)


def test_a_property_is_never_silently_empty(odd_words):
    assert salience.properties(odd_words, "feats:Number[psor]").tolist() == ["Plur"]
    assert salience.properties(odd_words, "feats:Number").tolist() == ["Sing", "Plur"]
    with pytest.raises(
        ValueError, match=r"no word of odd has 'feats:Numbr'; there are Number, Number\[psor\]"
    ):
        salience.properties(odd_words, "feats:Numbr")
    with pytest.raises(ValueError, match="no word of odd has 'xpos'"):  # "_" throughout
        salience.properties(odd_words, "xpos")
    with pytest.raises(ValueError, match="no class has min_count=9 words, at most 2"):
        salience.properties(odd_words, "upos", min_count=9)
    plain = texts.Texts.from_list(["no trees here"], "plain").tokenize()
    with pytest.raises(ValueError, match="no property 'feats:Number'"):
        salience.properties(plain, "feats:Number")


@settings(deadline=None, max_examples=50)
@given(
    st.dictionaries(
        st.from_regex(r"[A-Z][A-Za-z0-9]{0,5}(\[[a-z]{1,4}\])?", fullmatch=True),
        st.from_regex(r"[A-Z0-9][A-Za-z0-9]{0,3}(,[A-Z][a-z]{1,3})?", fullmatch=True),
        min_size=1,
        max_size=5,
    )
)
def test_every_feature_of_a_word_is_read(feats):
    corpus = texts.Texts.from_list(["word"], "one").tokenize()
    line = "|".join(f"{name}={value}" for name, value in feats.items())
    corpus = replace(corpus, words=corpus.words.assign(feats=line))
    for name, value in feats.items():
        assert salience.properties(corpus, f"feats:{name}").tolist() == [value]


def test_probe_curve_and_minimal_set():
    X, y = words()
    split = salience.split_of(y, dev=0.2, seed=0)
    texts_of = [set(y.index[part].get_level_values(0)) for part in split]
    assert [len(t) for t in texts_of] == [90, 30, 30] and len(set.union(*texts_of)) == 150
    assert (split.test == salience.split_of(y, seed=0).test).all()
    ranking = salience.rank(X[split.train], y.iloc[split.train])
    table = salience.accuracy_curve(X, y, ranking, [1, 3, 60], split)
    assert table["accuracy"].iloc[1] > 0.9 > table["accuracy"].iloc[0] and table["accuracy"].iloc[2] > 0.9
    dev = salience.accuracy_curve(X, y, ranking, [1, 2, 3, 60], split, on="dev").set_index("n")["accuracy"]
    least = int((dev > 0.97 * dev[60]).idxmax())
    for search in ("bisect", "published"):
        found = salience.minimal_set(X, y, ranking, split, search=search, within=3, seeds=(0,))
        assert found["units"].tolist() == [least] and found["dev_accuracy"][0] >= found["target"][0]
        test = salience.accuracy_curve(X, y, ranking, [least, 60], split)["accuracy"]
        assert found[["accuracy", "all"]].iloc[0].tolist() == test.tolist()
    with pytest.raises(ValueError, match=r"no dev part to choose on: split_of\(y, dev=0.1\)"):
        salience.minimal_set(X, y, ranking, salience.split_of(y))
    with pytest.raises(ValueError, match="search='all'"):
        salience.minimal_set(X, y, ranking, split, search="all")


def test_minimal_set_never_sees_the_test_part():
    """Other classes on the test part change what is reported, not what is chosen."""
    X, y = words(noise=1.5)
    split = salience.split_of(y, dev=0.2)
    ranking = salience.rank(X[split.train], y.iloc[split.train])
    other = y.copy()
    other.iloc[split.test] = np.random.default_rng(1).permutation(y.iloc[split.test])
    found, again = (
        salience.minimal_set(X, labels, ranking, split, seeds=(0, 1))[["units", "accuracy"]]
        for labels in (y, other)
    )
    assert found["units"].tolist() == again["units"].tolist()
    assert (again["accuracy"] < found["accuracy"]).all()


def test_the_accuracy_of_a_minimal_set_is_not_flattered(monkeypatch):
    """Simulation: where the units say nothing of the classes, few are as good as all, and not better."""
    monkeypatch.setattr(probes, "STEPS", 100)
    gains = []
    for seed in range(12):
        X, y = words(n=400, units=20, seed=seed)
        y[:] = np.random.default_rng(seed).permutation(y)
        split = salience.split_of(y, share=0.6, dev=0.3, seed=seed)
        ranking = salience.rank(X[split.train], y.iloc[split.train])
        found = salience.minimal_set(X, y, ranking, split, within=0, seeds=(0,))
        gains.append(found["accuracy"][0] - found["all"][0])
    assert abs(np.mean(gains)) < 2.5 * np.std(gains) / np.sqrt(len(gains))  # 3.2 when chosen on the test part


def test_ablation_zeroes_what_it_says():
    X, y = words()
    split = salience.split_of(y)
    table = salience.ablation_curve(X, y, salience.rank(X, y), split, shares=(0.05,)).set_index("kept")
    assert table.loc["top", "zeroed"] > 0.9 > table.loc["random", "zeroed"] >= 0.2
    assert table.loc["bottom", "refitted"] < 0.5 and (table["units"] == 3).all()


def test_control_task_has_one_class_a_type_and_selectivity_is_the_difference():
    X, y = words()
    forms = np.random.default_rng(0).integers(0, 80, len(y)).astype(str)
    control = studies.random_labels(y, forms, seed=1)
    assert (control.groupby(forms).nunique() == 1).all() and set(control) == {"a", "b", "c"}
    split = salience.split_of(y)
    table = salience.control_task(X, y, forms, salience.rank(X, y), split, counts=(None, 3))
    assert table["units"].tolist() == [60, 3]
    assert (
        np.allclose(table["selectivity"], table["accuracy"] - table["control_accuracy"])
        and table["selectivity"].min() > 0.3
    )


def test_layers_focus_and_redundancy():
    X, y = words()
    X = np.concatenate([X, X[:, sorted(PLANTED)] + 0.01], axis=1)  # copies: units 60, 61, 62
    units = pd.DataFrame({"site": ["layer.0.hidden"] * 30 + ["layer.1.hidden"] * 33})
    split, ranking = salience.split_of(y), salience.rank(X, y)
    counts = salience.layer_counts(units, np.array([3, 17, 41]))
    assert counts.to_dict() == {"layer.0.hidden": 2, "layer.1.hidden": 1}
    each = salience.layer_probes(X, y, units, split)
    assert each["accuracy"].iloc[1] > each["accuracy"].iloc[0]
    whole = salience.layer_probes(X, y, units, split, cumulative=True)
    assert whole["units"].tolist() == [30, 63]
    found = salience.redundancy(X, y, units, ranking, split, size=3, rounds=3)
    assert (found.clusters[60:] == found.clusters[sorted(PLANTED)]).all()
    assert (
        len(found.kept) == 60
        and {sorted(PLANTED)[k - 60] if k > 59 else k for k in found.kept[:3]} == PLANTED
    )
    accuracy = found.disjoint["accuracy"].tolist()
    assert accuracy[0] > 0.9 and accuracy[1] > 0.9 > accuracy[2]  # the copies do as well, the rest does not
    assert found.layers["layers"].tolist() == [2, 2, 2]
    weights = np.array([[4.0, 1, 1, 1, 1], [1, 1, 1, 1, 1]])
    assert salience.focus(weights, ["one", "all"]).to_dict() == {"one": 1, "all": 2}


def test_rankings_are_compared_with_random_ones():
    X, y = words()
    given = {m: salience.rank(X, y, m) for m in ("greedy", "probeless", "selectivity")}
    table = salience.compare_rankings(given, n=3)
    assert (
        (table["overlap"] == 1).all() and (table["votes"] == 1).all() and (table["expected"] == 3 / 60).all()
    )
    with pytest.raises(ValueError, match="two rankings"):
        salience.compare_rankings({"greedy": given["greedy"]})
