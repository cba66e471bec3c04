"""Precision and recall against counting by hand; intervals against theory."""

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from nbkit import activations, evaluation, matching, stats, texts
from nbkit.evaluation import metrics

names = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=4, unique=True)


@settings(deadline=None, max_examples=50)
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
    found = stats.bootstrap(values, n=4000)
    half = 1.96 * values.std() / math.sqrt(400)
    assert found.value == pytest.approx(values.mean())
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.08)
    assert found == stats.bootstrap(values, n=4000)  # seeded


def test_nothing_to_average_is_not_a_number():
    assert math.isnan(stats.bootstrap(np.array([])).value)
    assert math.isnan(stats.share(np.array([])).value)


@settings(deadline=None)
@given(st.integers(1, 200), st.floats(0, 1))
def test_the_interval_of_yes_and_no_is_wilsons(n, fraction):
    yes = round(fraction * n)
    found = stats.share(np.arange(n) < yes)
    expected = scipy.stats.binomtest(yes, n).proportion_ci(method="wilson")
    assert (found.value, found.n) == (pytest.approx(yes / n), n)
    assert found[1:3] == (pytest.approx(expected.low, abs=1e-4), pytest.approx(expected.high, abs=1e-4))


@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.98])
def test_intervals_of_shares_cover_the_truth(alike, share):
    """Yes-or-no answers of 64 units; alike: of 16 descriptors, each with a share of its own."""
    rng, covered, too_narrow = np.random.default_rng(0), [], []
    groups = np.repeat(np.arange(16), 4)
    for _ in range(400):
        own = rng.beta(8 * share, 8 * (1 - share), 16)[groups] if alike else share
        hits = (rng.random(64) < own).astype(float)
        found = stats.share(hits, groups if alike else None)
        covered.append(found.low <= share <= found.high)
        boot = stats.bootstrap(hits, n=100)
        too_narrow.append(boot.low <= share <= boot.high)
    assert np.mean(covered) >= 0.92
    if share == 0.98:
        assert np.mean(too_narrow) < 0.85  # what a bootstrap over units covers: [1, 1] where all are right


def test_sixty_four_of_sixty_four_is_not_certain():
    tags = pd.DataFrame({"unit": range(64), "rank": 1, "descriptor": np.arange(64) % 16})
    found = evaluation.precision_at_k(tags, tags[["unit", "descriptor"]], 1)
    assert found.value == found.high == 1 and 0.7 < found.low < 0.85  # 16 descriptors, not 64 units


def test_the_scorecard_by_hand():
    tags = pd.DataFrame({"unit": list("aabbccdd"), "rank": [1, 2] * 4, "descriptor": list("xyyxzwxy")})
    gold = pd.DataFrame({"unit": list("abbc"), "descriptor": list("xxyx")})
    card = evaluation.scorecard(tags, gold)
    assert card["units"] == 3 and card["judged"] == 3 / 4
    assert card["precision@1"].value == pytest.approx(2 / 3)
    assert card["precision@2"].value == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert card["ceiling@2"] == pytest.approx((1 / 2 + 1 + 1 / 2) / 3)
    assert card["of ceiling@2"] == pytest.approx(3 / 4)
    assert card["hit@2"].value == card["recall@2"].value == pytest.approx(2 / 3)


def test_gold_of_held_out_texts_by_brute_force():
    rng = np.random.default_rng(0)
    labels = pd.DataFrame((rng.random((300, 3)) < 0.2).astype(float), columns=list("xyz"))
    values = 2 * labels.to_numpy() + rng.standard_normal((300, 3))
    units = pd.DataFrame({"unit": ["u", "v", "w"]})
    manifest = {"rows": "text", "corpus": "toy", "pool": "max"}
    stored = activations.Activations(values, pd.DataFrame({"text_id": range(300)}), units, manifest)
    rows = np.arange(100, 300)
    some, on = values[rows], labels.to_numpy()[rows] > 0.5
    auroc = [[roc_auc_score(on[:, d], some[:, u]) for u in range(3)] for d in range(3)]
    top = [[on[np.argsort(-some[:, u])[:20], d].mean() - on[:, d].mean() for u in range(3)] for d in range(3)]
    for rule, scores, minimum in (("auroc", auroc, 0.8), ("top share", top, 0.5), ("auroc", auroc, 0.5)):
        gold = evaluation.held_out_gold(stored, labels, rows, rule=rule, minimum=minimum)
        expected = {("uvw"[u], "xyz"[d]) for d in range(3) for u in range(3) if scores[d][u] >= minimum}
        assert set(zip(gold["unit"], gold["descriptor"], strict=True)) == expected
    with pytest.raises(ValueError, match="unknown rule 'people'"):
        evaluation.held_out_gold(stored, labels, rule="people")


def test_validated_keeps_the_pairs_that_reach_the_minimum():
    scores = pd.DataFrame({"u": [0.9, 0.1], "v": [0.3, 0.8]}, index=["x", "y"])
    gold = metrics.validated(scores, 0.3)
    assert set(zip(gold["unit"], gold["descriptor"], strict=True)) == {("u", "x"), ("v", "x"), ("v", "y")}


def test_k_below_one_is_refused():
    empty = pd.DataFrame({"unit": [], "rank": [], "descriptor": []})
    with pytest.raises(ValueError, match="k=0"):
        evaluation.precision_at_k(empty, empty, 0)


def aligned_units(n=1500, units=40, prevalence=0.1, seed=0):
    """Units that respond to a rare descriptor each, their labels and the pairs."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 5)) < prevalence).astype(float)
    pairs = np.arange(units) % 5
    return (2 * labels[:, pairs] + rng.standard_normal((n, units))).astype(np.float32), labels, pairs


def test_sanity_by_hand():
    values, labels, pairs = aligned_units()
    found = evaluation.sanity("pearson", values, labels, pairs=pairs)
    assert found == (1, 1, 40, True)
    assert evaluation.sanity("pearson", values, labels) == found
    constant = lambda values, labels: np.ones((labels.shape[1], values.shape[1]))  # noqa: E731
    assert evaluation.sanity(constant, values, labels, pairs=pairs) == (0, 0, 40, False)
    prevalence = lambda values, labels: labels.mean(0)[:, None] + np.zeros(values.shape[1])  # noqa: E731
    assert evaluation.sanity(prevalence, values, labels)[:2] == (1, 0)  # more labels are never noticed


def test_sanity_says_how_labels_were_damaged():
    on = aligned_units()[1][:, 0] > 0.5
    missing, extra = metrics._damaged(on, np.random.default_rng(0))
    n = on.sum()
    assert missing.sum() == n - n // 2 and extra.sum() == 2 * n
    assert not (missing & ~on).any() and extra[on].all()
    with pytest.raises(ValueError, match="nothing to judge"):
        evaluation.sanity("pearson", np.zeros((50, 2)), np.ones((50, 1)))


def test_sanity_thins_the_positives():
    on = aligned_units()[1][:, 0] > 0.5
    rows = stats.thinned(on, 0.02 / 0.98, 0, least=2)
    assert on[rows].mean() == pytest.approx(0.02, abs=0.002) and (~on[rows]).sum() == (~on).sum()
    assert (np.diff(rows) > 0).all()
    assert len(stats.thinned(on, np.inf, 0)) == len(on)
    assert on[stats.thinned(on, 1e-9, 0, least=2)].sum() == 2


@pytest.mark.parametrize("method", ["pearson", "cosine", "average_precision", "f1", "iou"])
def test_what_neuroneval_passes_passes_on_rare_descriptors(method):
    values, labels, pairs = aligned_units(prevalence=0.04)
    assert evaluation.sanity(method, np.maximum(values, 0), labels, pairs=pairs).passed


def test_the_frequency_rule_never_notices_extra_labels():
    values, labels, pairs = aligned_units()
    assert evaluation.sanity("frequency", values, labels, pairs=pairs).extra <= 0.05


@pytest.mark.needs_data
def test_sanity_on_ewt(minilm, shared_data):
    """Where our table agrees with NeuronEval's (METHODS 1.2), and where it does not and why.

    cosine and average_precision fail here over all units: the descriptors are common (5 to 47 % of the
    texts) and most units respond weakly, so that doubling the positives raises the score. On
    units that clearly mean their descriptor, as NeuronEval's do, they pass. auroc and mad then pass too.
    f1 and iou depend on the size: 98 % of units drop with 9,000 texts (pass), 86 % with 1,500.
    """
    corpus = texts.load(shared_data / "ud_en_ewt").sample(1500, seed=0)
    stored = activations.capture(minilm, corpus, sites="ffn", pool="max", progress=False)
    labels = corpus.descriptors("annotation")
    pearson = matching.score(stored, labels).to_numpy()
    passed = {m: evaluation.sanity(m, stored, labels).passed for m in matching.SCORERS}
    assert passed["pearson"]
    assert evaluation.sanity("f1", stored, labels).missing > 0.75
    assert not passed["frequency"] and not passed["auroc"] and not passed["mad"]
    assert not passed["cosine"] and not passed["average_precision"]  # METHODS: pass
    clear = pearson.max(0) > 0.7
    values, pairs = np.asarray(stored.values[:, clear]), pearson.argmax(0)[clear]
    for method in ("pearson", "cosine", "average_precision", "f1", "iou"):
        found = evaluation.sanity(method, values, labels, pairs=pairs)
        assert min(found.missing, found.extra) > 0.8, (method, found)  # some 30 units: one is 3 %
    assert not evaluation.sanity("frequency", values, labels, pairs=pairs).passed


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.integers(0, 5), st.tuples(names, names), min_size=1))
def test_average_precision_and_mrr_agree_with_counting(units):
    tags = pd.DataFrame(
        [(u, i + 1, d) for u, (given, _) in units.items() for i, d in enumerate(given)],
        columns=["unit", "rank", "descriptor"],
    )
    gold = pd.DataFrame(
        [(u, d) for u, (_, right) in units.items() for d in right], columns=["unit", "descriptor"]
    )
    precision, reciprocal = [], []
    for given_tags, right in units.values():
        hits = [k for k, d in enumerate(given_tags, 1) if d in right]
        precision.append(sum((i + 1) / k for i, k in enumerate(hits)) / len(right))
        reciprocal.append(1 / hits[0] if hits else 0)
    assert evaluation.average_precision(tags, gold).value == pytest.approx(np.mean(precision))
    assert evaluation.mrr(tags, gold).value == pytest.approx(np.mean(reciprocal))


def test_people_are_read_by_majority(tmp_path):
    path = tmp_path / "ratings.csv"
    lines = [
        "u,x,yes,a",
        "u,x,Yes,b",
        "u,x,no,c",
        "u,y,yes,a",
        "u,y,no,b",
        "v,x,unsure,a",
        "w,x,no,a",
        "w,x,1,a",
    ]
    path.write_text("unit,descriptor,rating,annotator\n" + "\n".join(lines), encoding="utf-8")
    gold = evaluation.from_annotations(path)
    assert gold[["unit", "descriptor", "votes"]].values.tolist() == [["u", "x", 3], ["w", "x", 1]]
    assert gold["share"].tolist() == pytest.approx([2 / 3, 1])
    pd.testing.assert_frame_equal(gold, evaluation.from_annotations(pd.read_csv(path)))
    assert gold.attrs == {"pairs": 3, "ties": 1, "unsure": 1, "annotators": 3, "judged": ["u", "w"]}


def test_ratings_that_cannot_be_read_are_named(tmp_path):
    path = tmp_path / "ratings.csv"
    with pytest.raises(FileNotFoundError, match="no ratings"):
        evaluation.from_annotations(path)
    path.write_text("unit,descriptor\nu,x\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no column rating"):
        evaluation.from_annotations(path)
    path.write_text("unit,descriptor,rating\nu,x,yes\nu,y,perhaps\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 3 of the ratings: 'perhaps'"):
        evaluation.from_annotations(path)
