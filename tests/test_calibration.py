"""Labels by similarity are probabilities, for each descriptor and not only on the whole."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from nbkit import descriptors, texts
from nbkit.descriptors import calibration
from nbkit.descriptors.labels import similarity


def simulated(n=3000, seed=0):
    """Closeness and labels of three descriptors whose true probabilities differ at the same closeness."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((n, 3))
    true = 1 / (1 + np.exp(-(z * [2.0, 0.5, 1.5] + [-3.0, 0.5, -1.0])))
    names = ["rare", "common", "middling"]
    frame = pd.DataFrame(z, columns=names)
    return frame, frame * 0 + (rng.random((n, 3)) < true), frame * 0 + true


def test_known_probabilities_are_found_on_texts_that_were_not_read():
    closeness, y, true = simulated()
    labels = calibration.calibrated(closeness, y.iloc[:1500])
    assert (labels - true).iloc[1500:].abs().mean().max() < 0.02
    assert (labels - true).iloc[:1500].abs().mean().max() < 0.03


def test_what_was_read_is_not_predicted_from_itself():
    """Pure noise: fitted on itself the probabilities would tell positives from negatives (with documents of
    which all texts share closeness and label, by far); cross-fitted by document they cannot."""
    rng = np.random.default_rng(0)
    documents = pd.Series(np.repeat(np.arange(40), 10))
    closeness = pd.DataFrame(rng.standard_normal((40, 30))[documents], columns=[f"d{i}" for i in range(30)])
    y = pd.DataFrame((rng.random((40, 30)) < 0.4)[documents].astype(float), columns=closeness.columns)
    whole = calibration.calibrated(closeness, y, documents)
    alone = {d: roc_auc_score(y[d], calibration.calibrated(closeness[[d]], y[[d]])[d]) for d in y}
    assert np.mean([roc_auc_score(y[d], whole[d]) for d in y]) < 0.5 < np.mean(list(alone.values())) - 0.05


def test_the_mean_probability_of_each_descriptor_is_its_prevalence_where_one_logistic_for_all_is_not():
    """On the sample, held against the descriptors that its authors wrote: half of the texts are read."""
    corpus = texts.load("sample:reviews")
    gold = corpus.descriptors("written")
    gold = gold.loc[:, gold.sum() >= 30]
    read = gold.sample(frac=0.5, random_state=0).sort_index()
    closeness = similarity(corpus, list(gold))
    labels = calibration.calibrated(closeness, read)
    one = LogisticRegression(C=1e6).fit(
        closeness.loc[read.index].to_numpy().reshape(-1, 1), read.to_numpy().ravel()
    )
    pooled = one.predict_proba(closeness.to_numpy().reshape(-1, 1))[:, 1].reshape(closeness.shape)
    pooled = pd.DataFrame(pooled, index=closeness.index, columns=closeness.columns)
    rest = gold.drop(index=read.index)
    per, for_all = (descriptors.reliability(p, read).errors.set_index("descriptor") for p in (labels, pooled))
    assert per.loc["all", "error"] < 0.02 and for_all.loc["all", "error"] < 0.02  # both look well calibrated
    assert per["shift"].abs().max() < 0.01 and per["error"].max() < 0.08
    assert for_all["shift"].abs().max() > 0.2
    per, for_all = (descriptors.reliability(p, rest).errors.set_index("descriptor") for p in (labels, pooled))
    assert per["error"].mean() < 0.05 and per["shift"].abs().max() < 0.12 < 0.2 < for_all["shift"].abs().max()


def test_gold_of_a_treebank_by_document(shared_data):
    """What annotation says of EWT's reviews, with whole documents in a fold: 'question' among them."""
    corpus = texts.load(shared_data / "ud_en_ewt", split="dev").sample(700, seed=0)
    gold = corpus.descriptors("annotation")
    labels = calibration.calibrated(similarity(corpus, list(gold)), gold, corpus.documents)
    errors = descriptors.reliability(labels, gold).errors.set_index("descriptor")
    assert errors.loc["all", "error"] < 0.02 and errors["shift"].abs().max() < 0.02
    assert errors["error"].max() < 0.08


def test_a_descriptor_without_positives_is_refused_by_name():
    closeness, y, _ = simulated(400)
    y["rare"], y["common"] = 0.0, 1.0
    labels = calibration.calibrated(closeness, y)
    assert list(labels) == ["middling"] and labels.attrs["refused"] == {"rare": 0, "common": 400}
    documents = pd.Series(np.arange(400) % 4)  # positives enough, and all of four documents
    with pytest.raises(ValueError, match="no descriptor can be calibrated: none has .* in 5 documents"):
        calibration.calibrated(closeness, y, documents)


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 60), st.floats(-4, 4), st.floats(0.01, 3))
def test_probabilities_have_the_prevalence_as_mean_whatever_the_closeness(seed, per_document, shift, scale):
    rng = np.random.default_rng(seed)
    z = pd.DataFrame({"d": rng.standard_normal(600) * scale + shift})
    y = pd.DataFrame({"d": (rng.random(600) < 0.3).astype(float)})
    documents = pd.Series(np.arange(600) // per_document)
    labels = calibration.calibrated(z, y, documents)
    assert labels["d"].between(0, 1).all() and abs(labels["d"].mean() - y["d"].mean()) < 0.05
    assert labels.equals(calibration.calibrated(z, y, documents))  # the same again


def test_reliability_by_hand():
    p = pd.DataFrame({"a": [0.1, 0.1, 0.9, 0.9], "b": [0.5, 0.5, 0.5, 0.5]})
    y = pd.DataFrame({"a": [0.0, 0.0, 1.0, 1.0], "b": [0.0, 0.0, 0.0, 1.0], "c": [0.0, 1.0, 0.0, 1.0]})
    bins, errors = descriptors.reliability(p, y, bins=2)
    assert bins[bins["descriptor"] == "a"][["bin", "n", "predicted", "observed"]].values.tolist() == [
        [0, 2, 0.1, 0.0],
        [1, 2, 0.9, 1.0],
    ]
    found = errors.set_index("descriptor").round(3)
    assert found.loc["a"].tolist() == [0.1, 0.0] and found.loc["b", "shift"] == 0.25
    assert list(found.index) == ["all", "a", "b"]  # c has no prediction
    with pytest.raises(ValueError, match="share no text or no descriptor"):
        descriptors.reliability(p, y[["c"]])
