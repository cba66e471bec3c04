"""The 95 % intervals of matching, evaluation, salience and trees, against known truth: they cover .92."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from test_matching_nulls import labelled, stored

from nbkit import evaluation, matching, stats, trees

OWN = np.arange(60) % 12  # the descriptor of each unit
SHARES = np.linspace(0.08, 0.4, 12)
LEAST = 0.92


def related(seed: int, kind: str, n: int, alike: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """60 units, each of one of 12 descriptors; ``alike``: texts of a document (of ten) are."""
    rng = np.random.default_rng(seed)
    document = np.arange(n) // (10 if alike else 1)
    common = rng.standard_normal((n, 73))[document] * (0.5 if alike else 0)
    rest = np.sqrt(1 - (0.25 if alike else 0)) * rng.standard_normal((n, 73))
    drawn = common + rest
    labels = 0.6 * drawn[:, :1] + 0.8 * drawn[:, 1:13] > scipy.stats.norm.isf(SHARES)
    own, noise = labels[:, OWN], drawn[:, 13:]
    values = {
        "linear": 1.5 * own + noise,
        "wider where it responds": own * (2 + noise) + 0.1 * noise * ~own,
        "cut off at zero": np.maximum(0, 2 * own - 1 + noise),
    }[kind]
    return values.astype(np.float32), labels, document


@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("method", ["pearson", "auroc"])
@pytest.mark.parametrize("kind", ["linear", "wider where it responds", "cut off at zero"])
def test_intervals_of_tags(kind, method, alike):
    """Fisher's error, 1 / sqrt(n - 3), is that of normal variables: of the other units it covers .6 to .8."""
    many = related(999, kind, 30_000, alike)
    truth = matching.SCORERS[method](many[0], many[1].astype(np.float32))[OWN, np.arange(60)]
    options = {"method": method, "top": 1, "permutations": 0, "groups": alike, "progress": False}
    covered, fisher = [], []
    for seed in range(6):
        values, labels, document = related(seed, kind, 1000, alike)
        some = stored(values, document=document)
        tags = matching.tag(some, labelled(labels), resamples=50 * (method == "auroc"), seed=seed, **options)
        right = (tags["descriptor"] == [f"d{d}" for d in OWN]).to_numpy()
        covered.append(((tags["low"] <= truth) & (truth <= tags["high"]))[right].mean())
        z = np.arctanh(tags["validation_score"].clip(upper=0.999)) - np.arctanh(truth)
        fisher.append((np.abs(z) <= 1.96 / np.sqrt(500 - 3))[right].mean())
    assert np.mean(covered) >= LEAST
    if method == "pearson" and kind != "linear":
        assert np.mean(fisher) < 0.88


def test_twenty_positives_above_all_others_are_no_certain_auroc():
    labels = np.zeros((200, 2), bool)
    labels[::5, 0], labels[1::5, 1] = True, True
    values = labels[:, :1] + np.linspace(0, 0.5, 200)[:, None]
    tags = matching.tag(
        stored(values), labelled(labels), method="auroc", top=1, permutations=0, resamples=50, progress=False
    )
    assert tags["validation_score"][0] == 1 == pytest.approx(tags["high"][0])
    n = (np.array([19, 20, 21]) * np.array([81, 80, 79]) / 101).clip(
        10
    )  # positives among the validation texts
    assert (n / (n + 1.96**2)).min() - 0.1 < tags["low"][0] < (n / (n + 1.96**2)).max() + 0.1 < 1


def composite(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """40 units: d0 and d1, d2 or d3, d4 and not d0, ten each; the last ten are of d0."""
    rng = np.random.default_rng(seed)
    labels = rng.random((n, 6)) < 0.35
    a = labels.T
    meanings = [a[0] & a[1], a[2] | a[3], a[4] & ~a[0], a[0]]
    noise = rng.standard_normal((n, 40))
    return np.repeat(np.stack(meanings, axis=1), 10, axis=1) + 0.7 * noise, labels


def test_intervals_of_the_gain_of_composites():
    values, labels = composite(999, 40_000)
    meanings = {"and": labels[:, 0] & labels[:, 1], "or": labels[:, 2] | labels[:, 3]}
    meanings["not"] = labels[:, 4] & ~labels[:, 0]
    single = matching.pearson(values, labels.astype(np.float32))
    covered = []
    for seed in range(6):
        some, matrix = composite(seed, 600)
        found = matching.compose(
            stored(some), labelled(matrix), list(range(30)), length=2, progress=False, seed=seed
        )
        for line in found.itertuples():
            kind = ["and", "or", "not"][int(line.unit.rpartition(".")[2]) // 10]
            if kind in line.formula.split():
                column = int(line.unit.rpartition(".")[2])
                whole = np.corrcoef(meanings[kind], values[:, column])[0, 1]
                truth = whole - single[int(line.atom[1:]), column]
                covered.append(line.low <= truth <= line.high)
    assert len(covered) > 100 and np.mean(covered) >= LEAST


@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("measure", ["precision_at_k", "recall_at_k", "average_precision", "mrr"])
def test_intervals_of_measures_of_tags(measure, alike):
    """48 units of 16 descriptors with one or two right ones; ``alike``: a descriptor is found or is not."""

    def drawn(rng, n, names):
        own = np.arange(n) % names
        level = rng.beta(3, 1, names)[own] if alike else np.full(n, 0.75)
        right = np.stack([rng.random(n) < level, rng.random(n) < level / 2], axis=1)
        two = rng.random(n) < 0.4
        gold = [(u, f"g{own[u]}") for u in range(n)] + [(u, "h") for u in np.flatnonzero(two)]
        first = np.where(right[:, 0], [f"g{d}" for d in own], "x")
        second = np.where(right[:, 1] & two, "h", "y")
        tags = pd.DataFrame({"unit": np.repeat(range(n), 2), "rank": [1, 2] * n})
        tags["descriptor"] = np.stack([first, second], axis=1).ravel()
        return tags, pd.DataFrame(gold, columns=["unit", "descriptor"])

    options = {"k": 2} if measure.endswith("at_k") else {}
    of = getattr(evaluation, measure)
    truth = of(*drawn(np.random.default_rng(999), 20_000, 20_000), **options).value
    found = [of(*drawn(np.random.default_rng(seed), 48, 16), **options) for seed in range(120)]
    assert np.mean([one.low <= truth <= one.high for one in found]) >= LEAST


def test_intervals_over_splits_that_share_their_texts():
    """A rule learned on .8 of 300 texts, five random splits: a bootstrap of the five is too narrow."""

    def drawn(rng, n):
        codes = rng.integers(0, 2, n)
        return codes, codes[:, None] * 0.4 + rng.standard_normal((n, 5))

    def accuracy(train, test):
        means = [train[1][train[0] == c].mean(0) for c in (0, 1)]
        nearer = [((test[1] - mean) ** 2).sum(1) for mean in means]
        return ((nearer[1] < nearer[0]) == test[0]).mean()

    rng, covered, narrow = np.random.default_rng(0), [], []
    many = drawn(rng, 50_000)
    truth = np.mean([accuracy(drawn(rng, 240), many) for _ in range(60)])
    for seed in range(250):
        codes, x = drawn(rng, 300)
        parts = [stats.halves(300, 0.8, 5 * seed + i) for i in range(5)]
        scores = np.array([accuracy(*((codes[part], x[part]) for part in pair)) for pair in parts])
        low, high = stats.mean_of_few(scores, overlap=60 / 240)[1:3]
        covered.append(low <= truth <= high)
        low, high = stats.bootstrap(scores, n=200)[1:3]
        narrow.append(low <= truth <= high)
    assert np.mean(covered) >= LEAST and np.mean(narrow) < 0.8


def test_intervals_over_pairs_of_corpora():
    """Pairs of 5 corpora, with an effect of each and of the pair: a bootstrap of 20 pairs is too narrow."""
    first, second = (
        np.array(side) for side in zip(*((a, b) for a in range(5) for b in range(5) if a != b), strict=True)
    )
    rng, covered, narrow = np.random.default_rng(0), [], []
    for _ in range(300):
        a, b = rng.standard_normal((2, 5))
        values = 0.5 + 0.1 * (a[first] + b[second]) + 0.1 * rng.standard_normal(20)
        low, high = stats.mean_of_pairs(values, first, second)[1:3]
        covered.append(low <= 0.5 <= high)
        low, high = stats.bootstrap(values, n=200)[1:3]
        narrow.append(low <= 0.5 <= high)
    assert np.mean(covered) >= LEAST and np.mean(narrow) < 0.85


def test_the_mean_of_pairs_of_a_thing_with_itself_is_that_of_a_few():
    values = np.array([0.2, 0.5, 0.4, 0.9])
    assert stats.mean_of_pairs(values, np.arange(4), np.arange(4)) == pytest.approx(stats.mean_of_few(values))
    expected = scipy.stats.ttest_1samp(values, 0).confidence_interval()
    assert stats.mean_of_few(values)[1:3] == pytest.approx(tuple(expected))
    one = np.array([0.3])
    for few in (stats.mean_of_few(one), stats.mean_of_pairs(one, np.array(["a"]), np.array(["b"]))):
        assert few.value == 0.3 and np.isnan([few.low, few.high]).all() and few.n == 1


def test_intervals_of_gains_over_paired_seeds():
    rng, covered = np.random.default_rng(0), []
    for _ in range(200):
        level = rng.normal(0.3, 0.05, 5)
        runs = [("", 0.0, seed, level[seed]) for seed in range(5)]
        runs += [("a", 1.0, seed, level[seed] + rng.normal(0.02, 0.03)) for seed in range(5)]
        frame = pd.DataFrame(runs, columns=["site", "weight", "seed", "matthews"]).assign(collapsed=False)
        line = trees.differences(frame).set_index("site").loc["a"]
        covered.append(line["low"] <= 0.02 <= line["high"])
    assert np.mean(covered) >= LEAST
