"""Intervals over texts that hold what they should, and tests whose false discoveries are counted."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from nbkit import illusions, matching
from nbkit.activations import Activations
from nbkit.illusions import resampling, transfer
from nbkit.illusions.agreement import agreement
from nbkit.illusions.transfer import Rule

D, U = 4, 60  # descriptors and units


def loadings(seed=0):
    """How much each unit of two corpora means each descriptor [descriptor, unit]: alike, and not the same."""
    rng = np.random.default_rng(seed)
    here = 0.5 * rng.standard_normal((D, U))
    return {"a": here, "b": 0.6 * here + 0.3 * rng.standard_normal((D, U))}


def drawn(meaning, n, rng):
    """Texts of each corpus: activations and labels."""
    labels = {name: (rng.random((n, D)) < 0.3).astype(np.float32) for name in meaning}
    values = {
        name: (labels[name] @ m + rng.standard_normal((n, m.shape[1]))).astype(np.float32)
        for name, m in meaning.items()
    }
    return values, labels


def line(values, labels, rule, **options):
    frame = transfer.look_up(values, labels, rule, **options)
    draws = resampling.resample(values, labels, rule, frame, progress=False, **options)
    return agreement("units", frame, rule, draws if rule.over == "texts" else None)


# ------------------------------------------------------------------------- texts drawn again


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(20, 90), st.integers(2, 9))
def test_sums_over_groups_score_a_resample_like_its_rows(seed, n, groups):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 6)).astype(np.float32) * [1, 5, 0.1, 1, 1, 0] + [0, 90, 0, 0, 0, 7]
    y = (rng.random((n, 4)) < [0.3, 0.5, 0.1, 0]).astype(np.float32)
    dealt = rng.permutation(n) % groups
    times = resampling._times(5, dealt, rng)
    assert (times.sum(1) == groups).all()
    found = resampling._drawn_again(x.astype(np.float32), y, dealt, times, "pearson")
    for often, scores in zip(times, found, strict=True):
        rows = np.repeat(np.arange(n), often[dealt].astype(int))
        assert np.allclose(scores, matching.pearson(x[rows], y[rows]), atol=2e-3)
    slow = resampling._drawn_again(x, y, dealt, times, "auroc")
    rows = np.repeat(np.arange(n), times[0][dealt].astype(int))
    assert np.allclose(slow[0], matching.auroc(x[rows], y[rows]))


@given(st.integers(0, 10**6), st.integers(2, 40), st.integers(1, 60))
def test_equal_scores_share_their_rank_and_the_first_is_first(seed, descriptors, different):
    scores = np.random.default_rng(seed).integers(0, different, (3, descriptors, 5)).astype(np.float32)
    found, by_unit = transfer.Ordered.of(scores), np.moveaxis(scores, 1, 2)
    assert np.array_equal(found.scores, by_unit)
    assert np.array_equal(found.first, np.argsort(-by_unit, axis=-1, kind="stable")[..., :2])
    assert np.array_equal(found.ranks, scipy.stats.rankdata(by_unit, axis=-1) - (descriptors + 1) / 2)


def test_a_resample_of_every_group_once_is_what_was_found():
    """The columns of a resample are those of the line: only the texts differ."""
    values, labels = drawn(loadings(), 400, np.random.default_rng(1))
    for minimum in (0.15, 0.9):  # tags above the minimum, and the best ones where none is
        rule = Rule(min_score=minimum, resamples=3, permutations=0)
        frame = transfer.look_up(values, labels, rule)
        once = lambda resamples, groups, rng: np.ones((resamples, groups.max() + 1), np.float32)  # noqa: E731
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(resampling, "_times", once)
            draws = resampling.resample(values, labels, rule, frame, progress=False)
        found = agreement("units", frame, rule, draws)
        for column in resampling.RESAMPLED:
            assert draws[column].tolist() == pytest.approx([found[column].value] * 3, abs=1e-4), column


def test_intervals_over_texts_hold_the_known_agreement():
    """Nominal 95 %: of 40 samples of texts, 80 % or more hold the mean over 120 other samples."""
    rng, meaning = np.random.default_rng(2), loadings()
    rule = Rule(min_score=0.2, splits=2, permutations=0)
    plain = [transfer.look_up(*drawn(meaning, 300, rng), rule) for _ in range(120)]
    truth = pd.DataFrame([agreement("units", frame, rule) for frame in plain])
    found = pd.DataFrame([line(*drawn(meaning, 300, rng), rule) for _ in range(40)])
    for column in resampling.RESAMPLED:
        known = np.mean([estimate.value for estimate in truth[column]])
        spread = np.std([estimate.value for estimate in truth[column]])
        held = np.mean([e.low <= known <= e.high for e in found[column]])
        error = np.mean([e.high - e.low for e in found[column]]) / 2 / 1.96
        assert held >= 0.8, (column, known, held)
        assert 0.7 < error / spread < 1.5, (column, error / spread)


def test_copies_of_units_are_no_further_evidence():
    """Every unit four times: intervals over units halve, those over texts stay."""
    values, labels = drawn(loadings(), 400, np.random.default_rng(3))
    copies = {name: np.tile(x, 4) for name, x in values.items()}
    width = {}
    for over in ("texts", "units"):
        rule = Rule(min_score=0.2, permutations=0, over=over, resamples=200)
        one, four = (line(x, labels, rule)["across"] for x in (values, copies))
        assert one.value == pytest.approx(four.value)
        width[over] = (four.high - four.low) / (one.high - one.low)
    assert width["units"] == pytest.approx(0.5, abs=0.1)
    assert width["texts"] == pytest.approx(1, abs=0.2)


def test_more_texts_make_intervals_narrower():
    rng, rule = np.random.default_rng(4), Rule(min_score=0.2, permutations=0)
    few, many = (line(*drawn(loadings(), n, rng), rule)["kept_across"] for n in (300, 2700))
    assert (many.high - many.low) < 0.65 * (few.high - few.low)


# ------------------------------------------------------------------------- chance


def test_p_of_a_pair_by_brute_force_and_uniform_where_nothing_is_related():
    rng = np.random.default_rng(5)
    x, y = rng.standard_normal((80, 500)).astype(np.float32), (rng.random((80, 3)) < 0.4).astype(np.float32)
    x[:, 0] += 2 * y[:, 1]
    descriptors, units = np.arange(500) % 3, np.arange(500)
    descriptors[0] = 1
    p = matching.permutation_test(x, y, descriptors, units, permutations=199, seed=6)
    assert p[0] == 1 / 200
    assert abs(np.quantile(p[1:], [0.05, 0.25, 0.5, 0.9]) - [0.05, 0.25, 0.5, 0.9]).max() < 0.07
    orders = np.random.default_rng(6)
    null = [np.corrcoef(x[:, 7], y[orders.permutation(80), 1])[0, 1] for _ in range(199)]
    assert p[7] == (1 + sum(r >= np.corrcoef(x[:, 7], y[:, 1])[0, 1] for r in null)) / 200
    assert np.isnan(matching.permutation_test(x, y, descriptors, units, permutations=0)).all()
    with pytest.raises(ValueError, match="'soft_wpmi' scores a unit beside others"):
        matching.permutation_test(x, y, descriptors, units, method="soft_wpmi")


def test_under_control_labels_are_permuted_among_texts_alike():
    """Units and labels that only follow length are related, until texts of a length are compared."""
    rng = np.random.default_rng(7)
    length = rng.integers(4, 40, 600)
    x = (length[:, None] + 8 * rng.standard_normal((600, 60))).astype(np.float32)
    y = (rng.random((600, 1)) < length[:, None] / 40).astype(np.float32)
    pairs, control = (np.zeros(60, int), np.arange(60)), pd.DataFrame({"length": length})
    assert (matching.permutation_test(x, y, *pairs) < 0.01).all()
    left = matching.residuals(x, control)
    assert (matching.permutation_test(left, y, *pairs, covariates=control) < 0.05).mean() < 0.2


def corpora(seed, common=150, n=500):
    """300 units: ``common`` mean d0 to d2 in both corpora, the others d3 in one and d4 in the other."""
    made, rng = {}, np.random.default_rng(seed)
    for name, local in zip("ab", (3, 4), strict=True):
        labels = (rng.random((n, 5)) < 0.3).astype(np.float32)
        means = np.where(np.arange(300) < common, np.arange(300) % 3, local)
        made[name] = (rng.standard_normal((n, 300)).astype(np.float32) + 0.8 * labels[:, means], labels)
    return {n: x for n, (x, _) in made.items()}, {n: y for n, (_, y) in made.items()}


def test_false_discoveries_are_as_few_as_the_level_says():
    """250 of 300 tags are lost elsewhere: a test of each at 5 % would be wrong in a fifth of its finds."""
    wrong = found = missed = 0
    for seed in range(8):
        frame = transfer.look_up(*corpora(seed, common=50), Rule(min_score=0.2, splits=1))
        away, lost = frame["other"] != frame["corpus"], frame["unit"] >= 50
        assert frame.loc[~away, "significant"].mean() > 0.98
        q, lost = frame.loc[away, "q"], lost[away]
        wrong, found = wrong + (q[lost] <= 0.05).sum(), found + (q <= 0.05).sum()
        missed += (q[~lost] > 0.05).sum()
    assert wrong / found <= 0.07 and missed / found < 0.02, (wrong, found, missed)


def stores(values, labels):
    units = pd.DataFrame({"unit": [f"layer.0.ffn.{i}" for i in range(300)]})
    acts = {n: Activations(x, pd.DataFrame({"text_id": range(len(x))}), units, {}) for n, x in values.items()}
    return acts, {n: pd.DataFrame(y, columns=[f"d{i}" for i in range(5)]) for n, y in labels.items()}


def test_the_report_counts_what_holds_beside_its_baselines():
    report = illusions.compare(*stores(*corpora(0)), min_score=0.2, directions=50, progress=False)
    baselines = report.baselines.set_index("kind")
    assert baselines.loc["units", "significant_within"].value > 0.98
    assert baselines.loc["units", "significant_across"].value == pytest.approx(0.5, abs=0.05)
    assert baselines.loc["permuted rows", "significant_across"].value <= 0.02
    assert baselines.loc["permuted rows", "significant_within"].value <= 0.02
    assert (report.units["significant"] == (report.units["q"] <= 0.05)).all()
    tags = report.units.groupby(["split", "corpus", "unit"], observed=True)["other"].agg(list)
    assert (tags.str.join("") == "ab").all()
    assert report.settings["over"] == "texts" and report.settings["permutations"] == 200


def test_what_cannot_be_done_is_named():
    made = stores(*corpora(0))
    with pytest.raises(ValueError, match="over='words': intervals are over"):
        illusions.compare(*made, over="words")
    with pytest.raises(ValueError, match="'soft_wpmi' scores a unit beside others"):
        illusions.compare(*made, method="soft_wpmi", progress=False)
    free = illusions.compare(*made, permutations=0, over="units", directions=20, progress=False)
    assert "significant_across" not in free.agreement and free.units[["p", "q", "significant"]].isna().all(
        axis=None
    )
