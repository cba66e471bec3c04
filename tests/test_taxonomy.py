"""Verdicts on planted concepts of every kind; the test of monotonicity against chance and simulation."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import pyplot as plt

from nbkit import illusions, matching, plots, stats
from nbkit.activations import Activations
from nbkit.illusions import monotone
from nbkit.illusions.taxonomy import _outside, _tails, _top

KINDS = ["global"] * 40 + ["dataset-level"] * 40 + ["local"] * 40 + ["none"] * 40
D = 8  # descriptors


def planted(seed, local, n=1200, share=0.15, longer=0.0):
    """A corpus. Units mean d(unit % 3) everywhere, ``local`` here, a cluster at the top, or nothing."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, D)) < share).astype(np.float32)
    values = rng.standard_normal((n, len(KINDS))).astype(np.float32)
    for unit, kind in enumerate(KINDS):
        if kind == "global":
            values[:, unit] += 2 * labels[:, unit % 3]
        elif kind == "dataset-level":
            values[:, unit] += 2 * labels[:, local]
        elif kind == "local":
            values[rng.choice(np.flatnonzero(labels[:, unit % 3]), 9, replace=False), unit] += 6
    units = pd.DataFrame({"unit": [f"layer.0.ffn.{i}" for i in range(len(KINDS))]})
    stored = Activations(values, pd.DataFrame({"text_id": np.arange(n)}), units, {})
    return stored, pd.DataFrame(labels, columns=[f"d{i}" for i in range(D)])


def by_name(made):
    return {n: a for n, (a, _) in made.items()}, {n: y for n, (_, y) in made.items()}


@pytest.fixture(scope="module")
def three():
    locals_ = zip("abc", (3, 4, 5), strict=True)
    return by_name({name: planted(seed, local) for seed, (name, local) in enumerate(locals_)})


@pytest.fixture(scope="module")
def verdicts(three):
    return illusions.taxonomy(*three, min_score=0.3, progress=False).verdicts


def kind_of(frame):
    return frame["unit"].str.extract(r"(\d+)$")[0].astype(int).map(dict(enumerate(KINDS)))


def test_every_planted_concept_gets_its_verdict(verdicts):
    kinds = kind_of(verdicts)
    for kind, tags in (("global", 1), ("dataset-level", 3), ("local", 1)):
        mine = verdicts[kinds == kind]
        assert (mine["verdict"] == kind).mean() >= 0.95, kind
        assert (mine["verdict"] == kind).sum() >= 0.95 * 40 * tags, kind
    assert (kinds == "none").sum() <= 4  # false discoveries of the top sets, at the level of the test
    assert set(verdicts.loc[kinds == "dataset-level", "descriptor"]) >= {"d3", "d4", "d5"}


def test_each_verdict_comes_with_its_evidence(verdicts, three):
    evidence = illusions.taxonomy(*three, min_score=0.3, progress=False).evidence
    evidence = evidence.set_index(["unit", "descriptor", "corpus"]).sort_index()
    line = verdicts[kind_of(verdicts).eq("dataset-level") & (verdicts["descriptor"] == "d4")].iloc[0]
    assert line["home"] == "b" and line["trends"] == 1 and line["undecided"] == 0
    a, b = (evidence.loc[(line["unit"], "d4", name)] for name in "ab")
    assert b["r"] == line["score"] > 0.4 and b["monotone"] == 1 and b["q"] < 1e-6
    assert abs(a["r"]) < 0.12 and a["q"] > 0.05
    local = verdicts[verdicts["verdict"] == "local"]
    least = evidence["enriched"].groupby(["unit", "descriptor"]).min()
    assert (local.join(least, on=["unit", "descriptor"])["enriched"] <= 0.05).all()
    assert (local["score"] < 0.3).all()
    assert set(local["chosen"]) == {"top set"}
    stored, labels = three[0]["b"], three[1]["b"]
    r = np.corrcoef(stored.values[:, stored.column(line["unit"])], labels["d4"])[0, 1]
    assert b["r"] == pytest.approx(r, abs=1e-5)


def test_identical_corpora_under_two_names_are_global(three):
    stored, labels = three[0]["a"], three[1]["a"]
    found = illusions.taxonomy({"x": stored, "y": stored}, {"x": labels, "y": labels}, min_score=0.3).verdicts
    assert set(found.loc[found["chosen"] != "top set", "verdict"]) == {"global"}
    assert "dataset-level" not in set(found["verdict"])


def test_two_corpora_of_very_different_sizes():
    """300 texts beside 4,000: meanings that hold in both are not called dataset-level for want of texts."""
    acts, labels = by_name({"small": planted(1, 3, n=300), "large": planted(2, 4, n=4000)})
    found = illusions.taxonomy(acts, labels, min_score=0.3, progress=False).verdicts
    kinds = kind_of(found)
    assert (found.loc[kinds == "global", "verdict"] == "global").mean() >= 0.95
    local = found[(kinds == "dataset-level") & (found["chosen"] != "top set")]
    assert (local["verdict"] == "dataset-level").mean() >= 0.95


def test_a_sign_that_turns_and_a_rate_that_falls_in_between_are_not_global():
    """Unit 150 is high on d6 in one corpus and low on it in the other; unit 151 also at its low end."""
    acts, labels = by_name({"a": planted(1, 3), "b": planted(2, 4)})
    for sign, name in ((1, "a"), (-1, "b")):
        on, values = labels[name]["d6"].to_numpy(), acts[name].values
        values[:, 150] += 3 * sign * on
        both = np.flatnonzero(on)
        values[both, 151] += np.where(np.arange(len(both)) % 3, 4, -4)
    found = illusions.taxonomy(acts, labels, min_score=0.3, progress=False)
    verdicts, evidence = (table.set_index(["unit", "descriptor"]) for table in found[:2])
    turned, bent = (verdicts.loc[(f"layer.0.ffn.{i}", "d6")] for i in (150, 151))
    of_turned, of_bent = (evidence.loc[[(f"layer.0.ffn.{i}", "d6")]].set_index("corpus") for i in (150, 151))
    assert turned["verdict"] == "dataset-level" and turned["trends"] == 1 and turned["undecided"] == 0
    assert of_turned.loc["b", "monotone"] == -1
    assert bent["trends"] == 0 and (of_bent["monotone"] == 0).all() and of_bent.loc["a", "q"] < 1e-6


def test_too_few_texts_leave_it_undecided():
    acts, labels = by_name({"small": planted(1, 3, n=60, share=0.3), "large": planted(2, 4, n=4000)})
    for unit in range(40):  # weaker: half a deviation
        acts["small"].values[:, unit] -= 1.5 * labels["small"].to_numpy()[:, unit % 3]
    found = illusions.taxonomy(acts, labels, min_score=0.3, min_positives=5, progress=False).verdicts
    verdict = found.loc[kind_of(found) == "global", "verdict"].value_counts(normalize=True)
    assert verdict["undecided"] > 0.5 and verdict.get("dataset-level", 0) < 0.25


def encoded(seed, weight, n=900, units=150):
    """Units with one linear encoding in three corpora that differ in the shares of the descriptors."""
    rng, acts, labels, groups = np.random.default_rng(seed), {}, {}, {}
    weights = weight * rng.standard_normal((D, units))
    for name in "abc":
        document = np.repeat(np.arange(n), rng.integers(1, 30, n))[:n]
        often = rng.uniform(0.05, 0.4, D) * rng.lognormal(0, 0.5, (n, D))[document]
        on = (rng.random((n, D)) < often).astype(np.float32)
        noise = 0.4 * rng.standard_normal((n, units))[document] + rng.standard_normal((n, units))
        names, rows = [f"layer.0.ffn.{i}" for i in range(units)], pd.DataFrame({"text_id": np.arange(n)})
        values = (on @ weights + noise).astype(np.float32)
        acts[name] = Activations(values, rows, pd.DataFrame({"unit": names}), {})
        labels[name] = pd.DataFrame(on, columns=[f"d{i}" for i in range(D)])
        groups[name] = pd.Series(document)
    return acts, labels, groups


def test_units_with_the_same_encoding_are_not_called_dataset_level():
    """.36 of the weakest tags were, before a missing trend had to be shown."""
    for weight in (0.2, 0.4, 0.8):
        acts, labels, groups = encoded(1, weight)
        found = illusions.taxonomy(acts, labels, min_score=0.15, groups=groups, progress=False).verdicts
        verdict = found.loc[found["chosen"] != "top set", "verdict"].value_counts(normalize=True)
        assert verdict.get("dataset-level", 0) <= 0.05, (weight, verdict)
        assert weight < 0.8 or verdict["global"] > 0.7, (weight, verdict)


def test_where_nothing_is_related_nothing_is_found_with_documents_and_without():
    lines = with_trend = 0
    for seed in range(4):
        acts, labels, groups = encoded(seed, 0)
        found = illusions.taxonomy(acts, labels, min_score=0.15, groups=groups, progress=False)
        lines, with_trend = lines + len(found.verdicts), with_trend + (found.verdicts["trends"] > 0).sum()
        assert (found.verdicts["chosen"] == "top set").sum() <= 0.06 * 150
    assert with_trend <= 0.05 * 4 * 150, (with_trend, lines)


def test_labels_that_no_text_has_are_left_out():
    """Below .5 everywhere, AUROC and top set know no text that has it: that was "global" for every unit."""
    acts, labels = by_name({"a": planted(1, 3), "b": planted(2, 4)})
    faint = {name: frame.assign(d7=0.4 * frame["d7"]) for name, frame in labels.items()}
    assert illusions.taxonomy(acts, faint, min_score=0.3, progress=False).left_out == ["d7"]


def test_a_top_set_has_one_text_of_a_document():
    rng = np.random.default_rng(8)
    x, document = rng.standard_normal((300, 5)).astype(np.float32), rng.integers(0, 40, 300)
    top = _top(x, document, 10)
    for unit in range(5):
        best = pd.Series(x[:, unit]).groupby(document).idxmax()
        assert top[:, unit].tolist() == best.to_numpy()[np.argsort(-x[best, unit])[:10]].tolist()


def test_a_descriptor_that_one_corpus_lacks_is_left_out(three):
    acts, labels = three
    rare = {**labels, "b": labels["b"].assign(d0=0.0)}
    found = illusions.taxonomy(acts, rare, min_score=0.3, progress=False)
    assert found.left_out == ["d0"] and "d0" not in set(found.verdicts["descriptor"])
    with pytest.raises(ValueError, match="'b' has 12 texts, too few for 5 quantiles and top 10"):
        few = acts["b"].select(text_ids=range(12))
        illusions.taxonomy({"a": acts["a"], "b": few}, labels, min_score=0.3, min_positives=1)


def test_a_unit_that_follows_length_has_no_trend_when_length_is_controlled():
    acts, labels, lengths = {}, {}, {}
    for seed, name in enumerate("ab"):
        stored, matrix = planted(seed, 3)
        rng = np.random.default_rng(seed + 10)
        words = rng.integers(4, 50, len(matrix))
        matrix["d7"] = (rng.random(len(matrix)) < words / 60).astype(np.float32)  # long texts have it
        stored.values[:, 150] = words + rng.standard_normal(len(words))
        acts[name], labels[name] = stored, matrix
        lengths[name] = pd.DataFrame({"words": words})
    pair = ("layer.0.ffn.150", "d7")
    free = illusions.taxonomy(acts, labels, min_score=0.2, progress=False).verdicts
    free = free.set_index(["unit", "descriptor"])
    assert free.loc[pair, "verdict"] == "global"
    left = illusions.taxonomy(acts, labels, min_score=0.2, covariates=lengths, progress=False).verdicts
    left = left.set_index(["unit", "descriptor"])
    assert pair not in left.index or left.loc[pair, "verdict"] in ("local", "none")
    assert (left.loc["layer.0.ffn.1", "verdict"] == "global").all()


def test_a_perfect_detector_of_a_rare_thing_is_global_unless_rates_must_rise_strictly():
    rng = np.random.default_rng(0)
    made = {}
    for name in "ab":
        labels = np.zeros((1000, 1), np.float32)
        labels[rng.choice(1000, 40, replace=False)] = 1
        values = rng.standard_normal((1000, 1)).astype(np.float32) + 20 * labels
        units = pd.DataFrame({"unit": ["u"]})
        stored = Activations(values, pd.DataFrame({"text_id": np.arange(1000)}), units, {})
        made[name] = (stored, pd.DataFrame(labels, columns=["d"]))
    acts, labels = by_name(made)
    for strict, verdict in ((False, "global"), (True, "local")):
        found = illusions.taxonomy(acts, labels, min_score=0.3, strict=strict).verdicts
        assert found["verdict"].tolist() == [verdict]


def test_the_trend_outside_the_top_set_by_brute_force():
    rng = np.random.default_rng(3)
    values = rng.integers(0, 12, (90, 7)).astype(np.float32)  # many ties
    values[:, 6] = 1
    labels = rng.random((90, 4)).astype(np.float32)
    top, ranks = stats.top_texts(values, 10), monotone.ranks(values)
    found = _outside(ranks, labels, top)
    for unit in range(6):
        rest = np.setdiff1d(np.arange(90), top[:, unit])
        rank = scipy.stats.rankdata(values[:, unit])[rest]
        expected = [scipy.stats.pearsonr(rank, labels[rest, d]) for d in range(4)]
        assert np.allclose(found[:, unit], [e.statistic for e in expected], atol=1e-6)
        p = stats.correlation_p(found[:, unit], 80)
        assert np.allclose(p, [e.pvalue for e in expected], rtol=1e-5)
    assert (found[:, 6] == 0).all()  # a constant unit


def test_the_top_set_is_judged_by_the_hypergeometric():
    on = np.arange(50)[:, None] < 20
    tail = _tails(on, 10)[0]
    table = [[7, 3], [13, 27]]
    assert tail[7] == pytest.approx(scipy.stats.fisher_exact(table, alternative="greater").pvalue)
    assert tail[0] == 1


@given(st.lists(st.integers(0, 6), min_size=5, max_size=40), st.integers(2, 5))
@settings(max_examples=60, deadline=None)
def test_equal_activations_share_a_quantile_and_rates_do_not_depend_on_the_order(values, quantiles):
    x = np.array(values, dtype=np.float32)[:, None]
    y = np.arange(len(values), dtype=np.float32)[:, None]
    cells = monotone.cells(monotone.ranks(x), quantiles)[:, 0]
    for value in set(values):
        assert len(set(cells[x[:, 0] == value])) == 1
    assert (np.diff(cells[np.argsort(x[:, 0], kind="stable")]) >= 0).all()
    order = np.random.default_rng(0).permutation(len(values))
    one = monotone.rates(monotone.ranks(x), y, quantiles)
    two = monotone.rates(monotone.ranks(x[order]), y[order], quantiles)
    assert np.allclose(one[0], two[0]) and np.allclose(one[1], two[1])
    assert one[0].sum() == y.sum() and one[1].sum() == len(values)


def test_steps_within_noise_do_not_break_a_trend_and_real_ones_do():
    sizes = np.full((5, 1), 200.0)
    loose, strict = ({"alpha": 0.0125, "strict": s} for s in (False, True))
    for counts, expected in (
        ([10, 20, 30, 40, 60], (1, 1)),
        ([0, 0, 0, 0, 60], (1, 0)),
        ([10, 20, 18, 40, 60], (1, 0)),
        ([10, 60, 20, 50, 70], (0, 0)),
        ([60, 40, 30, 20, 10], (-1, -1)),
        ([20, 20, 20, 20, 20], (0, 0)),
        ([50, 10, 80, 150, 190], (1, 0)),  # a dip at the low end, significant and less than a third
    ):
        sums = np.array(counts, float)[:, None, None]
        found = tuple(int(monotone.direction(sums, sizes, **rule)[0, 0]) for rule in (loose, strict))
        assert found == expected, counts


def test_quantiles_without_texts_are_passed_over():
    sums = np.array([[0, 10, 0, 0, 90], [90, 0, 10, 0, 0], [0, 0, 30, 0, 0]], float).T[:, None, :]
    sizes = np.array([[0, 100, 0, 0, 100], [100, 0, 100, 0, 0], [0, 0, 100, 0, 0]], float).T
    assert monotone.direction(sums, sizes, 0.01).tolist() == [[1, -1, 0]]
    assert monotone.direction(sums, sizes, 0.01, strict=True).tolist() == [[0, 0, 0]]


def test_auroc_is_that_of_the_scorer_and_a_faint_echo_is_no_trend():
    rng = np.random.default_rng(7)
    values = rng.integers(0, 9, (200, 5)).astype(np.float32)
    labels = (rng.random((200, 3)) < [0.1, 0.5, 0]).astype(np.float32)
    found = stats.auroc_of_ranks((labels.T > 0.5).astype(float), monotone.ranks(values).T)
    assert np.allclose(found, matching.auroc(values, labels))
    acts, matrices = by_name({"a": planted(1, 3, n=5000), "b": planted(2, 4, n=5000)})
    acts["a"].values[:, 150] += 2 * matrices["a"]["d6"].to_numpy()
    acts["b"].values[:, 150] += 0.4 * matrices["b"]["d6"].to_numpy()
    for keep, verdict in ((0.5, "dataset-level"), (0.1, "global")):
        lines = illusions.taxonomy(acts, matrices, min_score=0.3, keep=keep, progress=False)
        line = lines.verdicts.set_index(["unit", "descriptor"]).loc[("layer.0.ffn.150", "d6")]
        b = lines.evidence.set_index(["unit", "descriptor", "corpus"]).loc[("layer.0.ffn.150", "d6", "b")]
        assert line["verdict"] == verdict and b["q"] < 1e-6


# ---------------------------------------------------------------------------------- monotonicity


def test_chance_is_that_of_the_paper_and_of_a_simulation():
    """Counts without ties that know nothing of the activations: 2 / 5! = 1.7 % of 60,000 pairs."""
    rng = np.random.default_rng(4)
    values = {name: rng.standard_normal((250, 200)).astype(np.float32) for name in "abcd"}
    counts = {name: rng.random((250, 300)) for name in values}
    table = illusions.monotonicity(values, counts, progress=False).set_index("corpora")
    assert table.loc[1, "expected"] == pytest.approx(0.0167, abs=1e-4)
    assert table.loc[4, "expected"] == pytest.approx(1e-8, rel=0.05)
    for kind in ("found", "permuted"):
        assert table.loc[1, kind] == pytest.approx(2 / 120, abs=0.001)
        assert table.loc[2, kind] == pytest.approx(2 / 120**2, abs=1e-4)
    assert table.loc[1, "lowest"] <= table.loc[1, "found"] <= table.loc[1, "highest"]
    three = illusions.monotonicity({"a": values["a"]}, counts, quantiles=3, progress=False)
    assert three.loc[0, "expected"] == pytest.approx(1 / 3) == pytest.approx(three.loc[0, "found"], abs=0.01)


def test_monotone_pairs_by_brute_force():
    rng = np.random.default_rng(5)
    values = {name: rng.standard_normal((103, 6)).astype(np.float32) for name in "abc"}
    counts = {
        name: pd.DataFrame(rng.poisson(np.exp(x[:, :5] * [0, 0.5, 1, -1, 2]))) for name, x in values.items()
    }
    lengths = {name: rng.integers(4, 30, 103) for name in values}
    for words in (None, lengths):
        signs = {}
        for name, x in values.items():
            signs[name] = np.zeros((5, 6))
            for unit in range(6):
                cells = np.floor((scipy.stats.rankdata(x[:, unit]) - 0.5) / 103 * 5).astype(int)
                for token in range(5):
                    size = np.ones(103) if words is None else words[name]
                    rate = [counts[name][token][cells == q].sum() / size[cells == q].sum() for q in range(5)]
                    steps = np.diff(rate)
                    signs[name][token, unit] = (steps > 0).all() * 1 - (steps < 0).all() * 1
        found = illusions.monotonicity(values, counts, lengths_by_corpus=words, progress=False)
        for m, line in enumerate(found.itertuples(), 1):
            rates = [
                np.mean([np.all([signs[n] == s for n in some], axis=0).mean() for s in (1, -1)]) * 2
                for some in combinations("abc", m)
            ]
            assert line.found == pytest.approx(np.mean(rates))
            assert (line.lowest, line.highest) == pytest.approx((min(rates), max(rates)))
        assert found.loc[0, "found"] > 0.15 and found.loc[2, "found"] > 0


def test_opposite_signs_are_not_together():
    x = np.linspace(0, 1, 100)[:, None].astype(np.float32)
    values, counts = {"a": x, "b": -x}, {"a": x, "b": x}
    found = illusions.monotonicity(values, counts, progress=False)
    assert found["found"].tolist() == [1, 0]
    with pytest.raises(ValueError, match="no counts for the corpus 'b'"):
        illusions.monotonicity(values, {"a": x})


# ---------------------------------------------------------------------------------- distinct tags


def test_distinct_tags_by_hand():
    index = ["x", "y", "z"]
    scores = {
        "a": pd.DataFrame({"u": [0.9, 0, 0], "v": [0.5, 0.1, 0], "w": [0.1, 0, 0]}, index=index),
        "b": pd.DataFrame({"w": [0, 0, 0.4], "v": [0, 0.6, 0], "u": [0.9, 0, 0]}, index=[*index]),
        "c": pd.DataFrame({"u": [0, 0.8, 0], "v": [0, 0, 0.9], "w": [0, 0.2, 0]}, index=index),
    }
    table = illusions.distinct_tags(scores, 0.3).set_index("tagged")
    assert table.loc[3, "units"] == 2 and table.loc[3, "distinct"].value == pytest.approx((2 + 3) / 2)
    assert table.loc[1, "units"] == 1 and table.loc[1, "distinct"].value == 1
    assert table.loc[2, "units"] == 0


def test_unrelated_tags_come_to_the_baseline_and_one_meaning_to_one():
    rng = np.random.default_rng(6)
    same = pd.DataFrame(rng.random((5, 900)))
    fixed = illusions.distinct_tags({"a": same, "b": same, "c": same}, 0.0).set_index("tagged").loc[3]
    loose = {name: pd.DataFrame(rng.random((5, 900))) for name in "abc"}
    free = illusions.distinct_tags(loose, 0.0).set_index("tagged").loc[3]
    expected = 5 * (1 - 0.8**3)  # different ones among three draws of five
    assert fixed["distinct"] == (1, 1, 1, 900)
    assert free["distinct"].value == pytest.approx(expected, abs=0.08)
    assert fixed["baseline"] == pytest.approx(expected, abs=0.08) == free["baseline"]


# ---------------------------------------------------------------------------------- curves


def test_curves_of_a_global_and_a_dataset_level_tag(three):
    acts, labels = three
    table = illusions.quintile_rates(acts, labels, "layer.0.ffn.0", "d0")
    assert len(table) == 15 and set(table["texts"]) == {240}
    values, label = acts["a"].values[:, 0], labels["a"]["d0"].to_numpy()
    order = np.argsort(values)
    assert table[table["corpus"] == "a"]["share"].tolist() == pytest.approx(
        label[order].reshape(5, 240).mean(1).tolist()
    )
    assert (table["low"] <= table["share"]).all() and (table["share"] <= table["high"]).all()
    ax = plots.quintile_curves(table)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list("abc")
    drawn = np.concatenate([line.get_ydata() for line in ax.lines if len(line.get_ydata())])
    assert drawn.tolist() == pytest.approx(table["share"].tolist())
    assert all((np.diff(line.get_ydata()) > -0.05).all() for line in ax.lines)
    local = illusions.quintile_rates(acts, labels, "layer.0.ffn.40", "d3")
    rise = local.groupby("corpus")["share"].agg(lambda r: r.iloc[-1] - r.iloc[0])
    assert rise["a"] > 0.3 and rise[["b", "c"]].abs().max() < 0.15
    plt.close("all")
