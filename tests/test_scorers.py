"""Every scorer against scipy, scikit-learn or the formula written out, with ties and constants."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cosine
from scipy.stats import pearsonr
from sklearn.metrics import average_precision_score, f1_score, jaccard_score, roc_auc_score

from nbkit import matching
from nbkit.matching import scorers

rng_of = np.random.default_rng


def by_pair(function, values, labels):
    """``function(activation, label)`` of every pair: [descriptor, unit]."""
    return np.array([[function(a.astype(float), c.astype(float)) for a in values.T] for c in labels.T])


def drawn(seed, rows=40):
    """Tied, constant and untied units; graded, rare, empty and full descriptors."""
    rng = rng_of(seed)
    values = rng.integers(-2, 3, (rows, 5)).astype(np.float32)
    values[:, 1], values[:, 2] = 3, 0
    values[:, 3] = rng.standard_normal(rows)
    labels = rng.random((rows, 6)).round(1).astype(np.float32)
    labels[:, 1], labels[:, 2], labels[:, 3] = 0, 1, 0.3
    labels[:, 4] = (np.arange(rows) == 0).astype(float)
    return values, labels


def expected_pearson(a, c):
    return pearsonr(a, c)[0] if np.ptp(a) and np.ptp(c) else 0


def expected_cosine(a, c):
    return 1 - cosine(a, c) if a.any() and c.any() else 0


def expected_auroc(a, c):
    return roc_auc_score(c > 0.5, a) if 0 < (c > 0.5).mean() < 1 else 0.5


def expected_average_precision(a, c):
    return average_precision_score(c > 0.5, a) if (c > 0.5).any() else 0


def expected_mad(a, c):
    on, off = a[c > 0.5], a[c <= 0.5]
    return (on.mean() - off.mean()) / off.std() if len(on) and len(off) and np.ptp(off) else 0


def shares(a, k):
    """Share of the tie-breaks in which a row is among the k highest."""
    edge = np.sort(a)[-k]
    above, tied = a > edge, a == edge
    return above + tied * (k - above.sum()) / tied.sum()


def expected_frequency(a, c):
    return shares(a, 20) @ c / 20


def expected_lift(a, c):
    return expected_frequency(a, c) / c.mean() if c.any() else 0


def expected_wpmi(a, c):
    prior = np.log(c.mean()) if c.any() else 0
    return shares(a, 20) @ np.log(np.maximum(c, 1e-7)) / 20 - prior


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6))
@pytest.mark.parametrize(
    "method", ["pearson", "cosine", "auroc", "average_precision", "mad", "frequency", "lift", "wpmi"]
)
def test_agrees_with_an_independent_computation(method, seed):
    values, labels = drawn(seed)
    expected = by_pair(globals()[f"expected_{method}"], values, labels)
    assert matching.SCORERS[method](values, labels) == pytest.approx(expected, abs=1e-6)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.sampled_from([0.05, 0.2, 0.5, 1.0]))
def test_f1_and_iou_agree_with_sklearn_where_nothing_is_tied(seed, alpha):
    rng = rng_of(seed)
    values, labels = rng.standard_normal((60, 3)), (rng.random((60, 3)) < 0.3).astype(float)
    k = max(1, round(alpha * 60))
    active = values >= np.sort(values, axis=0)[-k]
    for name, reference in (("f1", f1_score), ("iou", jaccard_score)):
        expected = [[reference(c, a, zero_division=0) for a in active.T] for c in labels.T]
        assert matching.SCORERS[name](values, labels, alpha=alpha) == pytest.approx(np.array(expected))


def test_tied_rows_share_the_places_as_random_tie_breaks_do_on_average():
    values, labels = drawn(3)
    rng = rng_of(0)
    parts = []
    for _ in range(3000):
        order = rng.permutation(len(values))
        best = np.argsort(-values[order], axis=0, kind="stable")[:8]
        parts.append(labels[order][best].mean(0).T)
    assert scorers.frequency(values, labels, exemplars=8) == pytest.approx(np.mean(parts, 0), abs=0.02)


def test_soft_wpmi_is_the_formula_of_clip_dissect():
    rng = rng_of(1)
    values, labels = rng.standard_normal((300, 6)), rng.random((300, 4))
    evidence = np.zeros((4, 6))
    for unit in range(6):
        strongest = np.argsort(-values[:, unit])[:100]
        for i, row in enumerate(strongest):
            p = 0.998 - i / 100 * (0.998 - 0.97)
            evidence[:, unit] += np.log(1 + p * (labels[row] - 1) + 1e-7)
    prior = np.log(np.exp(evidence - evidence.max()).mean(1, keepdims=True)) + evidence.max()
    assert scorers.soft_wpmi(values, labels) == pytest.approx(evidence - prior, abs=1e-5)


@pytest.mark.parametrize("method", matching.SCORERS)
@pytest.mark.parametrize("rows", [1, 2, 40])
def test_everything_is_defined(method, rows):
    values, labels = drawn(0, rows)
    found = matching.SCORERS[method](values, labels)
    assert found.shape == (6, 5) and np.isfinite(found).all()


@pytest.mark.parametrize("method", matching.SCORERS)
def test_blocks_do_not_change_the_scores(method, monkeypatch):
    values, labels = drawn(5)
    whole = matching.SCORERS[method](values, labels)
    monkeypatch.setattr(scorers, "BLOCK_BYTES", 8 * 40 * 2)
    assert matching.SCORERS[method](values, labels) == pytest.approx(whole, abs=1e-12)


@pytest.mark.parametrize("method", sorted(set(matching.SCORERS) - {"soft_wpmi"}))
def test_the_order_of_the_rows_does_not_matter(method):
    values, labels = drawn(6)
    order = rng_of(1).permutation(len(values))
    scorer = matching.SCORERS[method]
    assert scorer(values[order], labels[order]) == pytest.approx(scorer(values, labels), abs=1e-9)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("method", matching.SCORERS)
def test_what_is_not_finite_is_refused_by_unit(method, bad):
    values, labels = drawn(0)
    values[7, 3] = bad
    with pytest.raises(ValueError, match="unit 3 are not finite"):
        matching.SCORERS[method](values, labels)


def test_alpha_is_a_share():
    values, labels = drawn(0)
    with pytest.raises(ValueError, match="alpha=0"):
        scorers.f1(values, labels, alpha=0)
