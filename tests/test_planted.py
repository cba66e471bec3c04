"""Planted units: the model they are in stays as it is, and they do what the truth says."""

import dataclasses
import os

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from nbkit import activations, evaluation, matching, texts
from nbkit.evaluation import detectors, planted, targets
from nbkit.workshop import presets

NAMES = ("reviews", "questions", "encyclopedia", "fiction")
COUNTS = {"pure": 6, "polysemantic": 6, "dataset-local": 6, "distractor": 4, "dead": 2}


@pytest.fixture(scope="module")
def sample():
    corpora = {name: texts.load(f"sample:{name}") for name in NAMES}
    return corpora, {name: corpus.descriptors("surface") for name, corpus in corpora.items()}


@pytest.fixture(scope="module")
def made(minilm, sample):
    return evaluation.plant(minilm, *sample, kinds=COUNTS, seed=0, progress=False)


@pytest.fixture(scope="module")
def responses(made):
    """{corpus: frame [text_id, unit]} of the planted units, and labels by corpus."""
    units = made.units["unit"].unique().tolist()
    found = {}
    for name, corpus in made.held_out.items():
        acts = activations.capture(made.subject, corpus, cache=False, progress=False).select(units=units)
        found[name] = pd.DataFrame(acts.values.astype(np.float32), acts.rows["text_id"], units)
    return found


def test_nothing_else_in_the_model_changes(minilm, made, sample):
    some = sample[0]["fiction"].frame["text"].tolist()[:24]
    batch = minilm.tokenizer(some, padding=True, return_tensors="pt")
    before, after = minilm.run(batch, "all"), made.subject.run(batch, "all")
    assert list(before) == list(after)
    for site, tensor in before.items():
        assert torch.allclose(tensor, after[site][..., : tensor.shape[-1]], atol=1e-5, rtol=0), site
    assert torch.allclose(minilm.model(**batch)[0], made.subject.model(**batch)[0], atol=1e-5, rtol=0)


def test_the_planted_subject_says_what_it_is(minilm, made):
    before, after = (s.sites.set_index("site")["width"] for s in (minilm, made.subject))
    units = made.units["unit"].unique()
    assert (after - before).sum() == len(units) == sum(COUNTS.values())
    assert made.subject.fingerprint != minilm.fingerprint
    assert before["layer.3.ffn"] == 1536 == minilm.model.encoder.layer[3].output.dense.in_features
    index = pd.Series(units).str.extract(r"layer\.(\d+)\.ffn\.(\d+)").astype(int)
    assert (index[1] >= 1536).all() and not index.duplicated().any()


def test_a_unit_is_kept_from_being_heard(made):
    for layer in range(1, 6):
        assert (made.subject.model.encoder.layer[layer].output.dense.weight[:, 1536:] == 0).all()


def test_every_kind_is_there_and_pure_units_reach_the_minimum(made):
    first = made.units.drop_duplicates("unit")
    assert first["kind"].value_counts().to_dict() == COUNTS
    assert made.units.loc[made.units["kind"] == "pure", "planted"].all()
    lines = made.units.groupby("kind")["unit"].value_counts().groupby("kind").max()
    assert lines["polysemantic"] == lines["dataset-local"] == 2 and lines["pure"] == 1


def test_achieved_auroc_of_pure_units_is_that_of_scikit_learn(made, responses):
    pure = made.units[made.units["kind"] == "pure"]
    labels = pd.concat(made.labels.values())
    values = pd.concat(responses.values())
    for unit, descriptor, auroc in pure[["unit", "descriptor", "achieved_auroc"]].itertuples(index=False):
        assert roc_auc_score(labels[descriptor], values[unit]) == pytest.approx(auroc, abs=1e-6)


def test_polysemantic_units_respond_to_both(made, responses):
    values, labels = pd.concat(responses.values()), pd.concat(made.labels.values())
    two = made.units[(made.units["kind"] == "polysemantic") & made.units["planted"]]
    assert two["unit"].nunique() >= 4
    for unit, part in two.groupby("unit"):
        a, b = (labels[d].to_numpy() > 0.5 for d in part["descriptor"])
        silent = values[unit].to_numpy()[~a & ~b].mean()
        for alone in (a & ~b, b & ~a):
            assert values[unit].to_numpy()[alone].mean() > silent + 0.3


def test_dataset_local_units_change_what_they_mean(made, responses):
    local = made.units[(made.units["kind"] == "dataset-local") & made.units["planted"]]
    assert len(local) >= 2
    found = []  # the held-out texts did not decide which units are kept: on average, not one by one
    for unit, part in local.groupby("unit"):
        for corpus, own in part.set_index("corpus")["descriptor"].items():
            other = part.loc[part["corpus"] != corpus, "descriptor"].item()
            column, labels = responses[corpus][unit], made.labels[corpus]
            found.append([roc_auc_score(labels[name], column) for name in (own, other)])
    own, other = np.mean(found, axis=0)
    assert own > 0.6 and own > other + detectors.MARGIN / 2, found


def test_distractors_follow_length_or_corpus(made, responses):
    of = made.units[made.units["kind"] == "distractor"]
    assert set(of["descriptor"]) == {"length", "corpus"}
    values = pd.concat(responses.values())
    words = [n for corpus in made.held_out.values() for n in corpus.lengths]
    origin = np.repeat(list(responses), [len(frame) for frame in responses.values()])
    for line in of.itertuples():
        if line.descriptor == "length":
            assert np.corrcoef(words, values[line.unit])[0, 1] > 0.4
        else:
            assert roc_auc_score(origin == line.corpus, values[line.unit]) == pytest.approx(
                line.achieved_auroc, abs=1e-6
            )


def test_dead_units_are_constant(made, responses):
    dead = made.units.loc[made.units["kind"] == "dead", "unit"]
    assert (pd.concat(responses.values())[dead] == 0).all(axis=None)


def test_no_text_is_trained_on_or_checked_and_held_out(made, sample):
    for name, corpus in sample[0].items():
        train, check, held_out = planted._parts(corpus, 0.4, 0.2, 0)
        assert sorted([*train, *check, *held_out]) == list(range(len(corpus)))
        assert len(train) == round(0.4 * len(corpus)) and len(check) == round(0.2 * len(corpus))
        assert made.held_out[name].frame["text_id"].tolist() == targets.ids(corpus, held_out)
        assert made.labels[name].index.equals(pd.Index(made.held_out[name].frame["text_id"]))


def test_the_seed_decides(minilm, sample):
    few = {"reviews": sample[0]["reviews"].sample(120, seed=0)}
    labels = {"reviews": sample[1]["reviews"]}
    plant = lambda seed: evaluation.plant(  # noqa: E731
        minilm, few, labels, kinds="pure", n=2, layers=[1], seed=seed, progress=False
    )
    one, same, other = plant(1), plant(1), plant(2)
    pd.testing.assert_frame_equal(one.units, same.units)
    assert one.subject.fingerprint == same.subject.fingerprint != other.subject.fingerprint


def test_blur_makes_units_weaker(minilm, sample):
    one = (sample[0]["fiction"], sample[1]["fiction"])
    options = dict(kinds="pure", n=4, layers=[2], progress=False)
    clear, faint = (evaluation.plant(minilm, *one, blur=b, **options).units for b in (0, 4))
    assert faint["achieved_auroc"].mean() < clear["achieved_auroc"].mean() - 0.05


def test_truth_of_is_gold_for_the_measures(made):
    gold = evaluation.gold_of(made)
    assert set(gold["kind"]) == {"pure", "polysemantic"}
    assert not gold["unit"].isin(made.units.loc[~made.units["planted"], "unit"]).any()
    local = made.units[(made.units["kind"] == "dataset-local") & made.units["planted"]].iloc[0]
    everything = evaluation.gold_of(made, every=True)
    assert set(everything["unit"]) == set(
        made.units.loc[made.units["kind"].isin(["pure", "polysemantic"]), "unit"]
    )
    there = evaluation.gold_of(made, corpus=local["corpus"])
    assert ((there["unit"] == local["unit"]) & (there["descriptor"] == local["descriptor"])).any()


def test_what_decides_on_a_unit_are_texts_on_which_nothing_is_judged():
    """Detectors that are no better than luck: the kept ones must not look good on the held-out texts."""
    rng = np.random.default_rng(0)
    target = targets.Target("pure", (("a", None),))
    luck = 0.5 + 0.1 * rng.standard_normal((2, 2000, 1)), np.full((2000, 1), np.nan)
    checked, held_out = (np.hstack([auroc, luck[1]]) for auroc in luck[0])
    units = [f"layer.0.ffn.{i}" for i in range(2000)]
    known = planted._known([target] * 2000, units, checked, held_out, 0.6)
    kept = known[known["planted"]]
    assert 200 < len(kept) < 500 and kept["check_auroc"].min() >= 0.6
    assert kept["achieved_auroc"].mean() == pytest.approx(0.5, abs=0.02)


def test_documents_are_trained_on_checked_or_held_out():
    corpus = texts.Texts.from_list([f"Text number {i}." for i in range(300)])
    corpus = dataclasses.replace(
        corpus, frame=corpus.frame.assign(doc_id=[f"d{i // 10}" for i in range(300)])
    )
    documents = [set(corpus.frame["doc_id"].iloc[part]) for part in planted._parts(corpus, 0.4, 0.2, 0)]
    assert sum(map(len, documents)) == len(set.union(*documents)) == 30


@pytest.mark.parametrize(
    "options, message",
    [
        ({"kinds": "mystic"}, "unknown kind 'mystic'"),
        ({"kinds": []}, "no kinds"),
        ({"n": 0}, "0 units"),
        ({"layers": [6]}, "layers 0 to 5"),
        ({"share": 0.8, "check": 0.2}, "share=0.8 and check=0.2"),
        ({"kinds": "dataset-local"}, "two corpora"),
    ],
)
def test_impossible_requests_are_refused(minilm, sample, options, message):
    with pytest.raises(ValueError, match=message):
        evaluation.plant(minilm, sample[0]["reviews"], sample[1]["reviews"], progress=False, **options)


def test_a_kind_that_the_texts_do_not_allow_is_left_out_and_said(minilm, sample):
    corpora, labels = sample
    with pytest.warns(UserWarning, match="not planted: dataset-local units need two corpora"):
        made = evaluation.plant(
            minilm,
            corpora["reviews"],
            labels["reviews"],
            kinds={"pure": 1, "dataset-local": 1},
            progress=False,
        )
    assert set(made.units["kind"]) == {"pure"}


def test_labels_that_do_not_fit_are_refused(minilm, sample):
    corpora, labels = sample
    with pytest.raises(ValueError, match="name them alike"):
        evaluation.plant(minilm, corpora, {"fiction": labels["fiction"]})
    with pytest.raises(ValueError, match="lack"):
        evaluation.plant(minilm, corpora["fiction"], labels["fiction"].iloc[5:])
    with pytest.raises(ValueError, match="no descriptor is in"):
        evaluation.plant(minilm, corpora["fiction"], labels["fiction"] * 0, kinds="pure")


@pytest.mark.slow
@pytest.mark.needs_data
def test_a_hundred_units_in_the_treebank(minilm, shared_data, monkeypatch):
    monkeypatch.setenv("NBKIT_DATA", str(shared_data))
    corpora = presets.load("treebank").corpora(seed=0)
    corpora = {name: corpus.sample(600, seed=0) for name, corpus in corpora.items()}
    labels = {name: corpus.descriptors() for name, corpus in corpora.items()}
    kinds = {"pure": 60, "polysemantic": 60}
    found = evaluation.plant(minilm, corpora, labels, kinds=kinds, seed=0, progress=False)
    good = found.units[found.units["planted"]]
    assert good["unit"].nunique() >= 100 and (good["check_auroc"] >= 0.85).all()
    # the held-out texts played no part in keeping them: some fall below the minimum there
    assert (good["achieved_auroc"] >= 0.85).mean() >= 0.9 and good["achieved_auroc"].median() >= 0.95
    assert os.environ["NBKIT_DATA"] == str(shared_data)
    acts = [
        activations.capture(found.subject, c, cache=False, progress=False) for c in found.held_out.values()
    ]
    units = good["unit"].unique().tolist()
    values = np.concatenate([a.select(units=units).values for a in acts])
    scores = matching.score(values, pd.concat(found.labels.values()))
    scores.columns = units
    pure = good[good["kind"] == "pure"]
    right = [scores[unit].idxmax() == name for unit, name in pure[["unit", "descriptor"]].values]
    assert np.mean(right) >= 0.95


def test_distractors_carry_no_descriptor_within_texts_alike(made):
    """Under control for length and corpus they keep next to nothing; without it they look like findings."""
    units = made.units.loc[made.units["kind"] == "distractor", "unit"].tolist()
    parts = {
        name: activations.capture(made.subject, t, cache=False, progress=False).select(units=units)
        for name, t in made.held_out.items()
    }
    whole, labels = matching.pooled(parts, made.labels)
    lengths = pd.concat({name: corpus.lengths for name, corpus in made.held_out.items()})
    control = whole.rows.join(lengths, on=["corpus", "of_corpus"])[["corpus", "length"]]
    values = whole.values.astype(np.float32)
    raw = matching.score(values, labels).max()
    left = matching.score(matching.residuals(values, control), labels).max()
    assert raw.mean() > 0.15 and left.max() < 0.13, (raw, left)  # 3 standard errors are .09


def test_local_candidates_are_judged_by_texts_they_did_not_see():
    """One learned its texts by heart, the other holds everywhere: only the second is above what it needs."""
    rng = np.random.default_rng(0)
    corpus, labels = np.repeat(["x", "y"], 400), rng.random((800, 2)) < 0.4
    table = targets.Table([""] * 800, corpus, labels, ["a", "b"], np.ones(800))
    target = targets.Target("dataset-local", (("a", "x"), ("b", "y")))
    meant = np.where(corpus == "x", labels[:, 0], labels[:, 1]).astype(np.float32)
    seen, noise = rng.random(800) < 0.7, rng.standard_normal(800).astype(np.float32)
    learned = np.where(seen, 9 * meant, 0) + 0.5 * noise
    by_heart, holds = (detectors._margin(target, x, table, ~seen) for x in (learned, meant + 0.5 * noise))
    assert by_heart < 0 < holds
    assert detectors._margin(target, learned, table, seen) > holds
    assert detectors._margin(target, learned, table, np.zeros(800, bool)) == -np.inf
    assert detectors._margin(targets.Target("pure", (("a", None),)), learned, table, ~seen) == 0
