"""Simulations of known truth: what is not there is found as often as the level says, the rest is found."""

import numpy as np
import pandas as pd
import pytest

from nbkit import activations, matching, stats, texts
from nbkit.activations import Activations


def stored(values: np.ndarray, **rows: np.ndarray) -> Activations:
    units = pd.DataFrame({"unit": [f"layer.0.ffn.{i}" for i in range(values.shape[1])]})
    frame = pd.DataFrame({"text_id": np.arange(len(values)), **rows})
    manifest = {"rows": "text", "corpus": "toy", "pool": "max"}
    return Activations(values.astype(np.float32), frame, units, manifest)


def labelled(matrix: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(matrix.astype(float), columns=[f"d{i}" for i in range(matrix.shape[1])])


def documents(seed: int, n: int = 40, mean: float = 25.0):
    """Documents of different lengths; units and descriptors that each vary by document, and no relation."""
    rng = np.random.default_rng(seed)
    lengths = np.maximum(1, rng.lognormal(np.log(mean) - 0.4, 0.9, n).astype(int))
    document = np.repeat(np.arange(n), lengths)
    by_document = rng.standard_normal((n, 80))[document]
    values = np.sqrt(0.25) * by_document + np.sqrt(0.75) * rng.standard_normal(by_document.shape)
    odds = rng.uniform(-2.5, 0, 10) + 1.2 * rng.standard_normal((n, 10))[document]
    return values, rng.random(odds.shape) < 1 / (1 + np.exp(-odds)), document


def significant(given: Activations, labels: np.ndarray, rank: int, seed: int, **options) -> float:
    """Share of the tested units with p <= .05 at a rank."""
    tags = matching.tag(given, labelled(labels), permutations=99, seed=seed, progress=False, **options)
    p = tags.loc[tags["rank"] == rank, "p"].dropna()
    return float((p <= 0.05).mean())


def test_first_tags_of_documents_without_relation_are_nominal_and_not_without_their_groups():
    with_groups, without = [], []
    for seed in range(12):
        values, labels, document = documents(seed)
        some = stored(values, document=document)
        with_groups.append(significant(some, labels, 1, seed))
        without.append(significant(some, labels, 1, seed, groups=False))
    assert np.mean(with_groups) <= 0.06 + 2 * np.std(with_groups) / np.sqrt(12)
    assert np.mean(with_groups) >= 0.02  # the level is not kept by finding nothing
    assert np.mean(without) >= 0.15  # what permuting single texts gives


def heavy(rng: np.random.Generator, rows: int, units: int) -> np.ndarray:
    """Activations as those of FFN units: many near 0, a few large."""
    return np.maximum(rng.standard_normal((rows, units)), 0) ** 3


@pytest.mark.parametrize("method", ["pearson", "auroc"])
@pytest.mark.parametrize("grouped", [False, True])
def test_a_few_units_among_thousands_are_significant_and_none_without_them(method, grouped):
    """p of 1 / 51 for thousands of units would leave no q below .05, whatever the score."""
    found, by_chance = [], []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        labels, values = rng.random((400, 20)) < rng.uniform(0.04, 0.3, 20), heavy(rng, 400, 3000)
        rows = {"document": np.arange(400) // 4} if grouped else {}
        options = {"method": method, "top": 1, "permutations": 50, "progress": False, "seed": seed}
        none = matching.tag(stored(values, **rows), labelled(labels), **options)
        by_chance.append(int(none["tagged"].sum()))
        values[:, :5] += 8 * labels[:, :5]
        some = matching.tag(stored(values, **rows), labelled(labels), **options)
        found.append(int(some["tagged"].iloc[:5].sum()))
        by_chance.append(int(some["tagged"].iloc[5:].sum()))
    assert sum(found) >= 18, found
    assert sum(by_chance) <= 3, by_chance


@pytest.mark.parametrize("method", ["pearson", "auroc"])
def test_p_below_what_permutations_reach_is_as_rare_as_it_says(method):
    """120,000 units without relation, 20 permutations: p below 1 / 21 comes from the closed form alone."""
    p = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        labels, values = rng.random((300, 10)) < rng.uniform(0.05, 0.3, 10), heavy(rng, 300, 6000)
        options = {"method": method, "top": 1, "permutations": 20, "progress": False, "seed": seed}
        p.append(matching.tag(stored(values), labelled(labels), **options)["p"].to_numpy())
    p = np.concatenate(p)
    for level in (1e-2, 1e-3, 1e-4):
        assert (p <= level).mean() <= level + 3 * np.sqrt(level / len(p)), (level, (p <= level).mean())


def test_permutation_test_of_pairs_in_documents_is_nominal():
    shares = []
    for seed in range(12):
        values, labels, document = documents(seed)
        pairs = np.arange(80)
        p = matching.permutation_test(
            values, labels.astype(np.float32), pairs % 10, pairs, permutations=99, groups=document, seed=seed
        )
        shares.append((p <= 0.05).mean())
    assert 0.02 <= np.mean(shares) <= 0.06 + 2 * np.std(shares) / np.sqrt(12)


@pytest.mark.parametrize("grouped", [False, True])
def test_false_discoveries_are_nominal_where_half_of_the_units_mean_something(grouped):
    """40 units of one descriptor each beside 40 of none; first and second tags at q <= .05."""
    wrong, found = [], []
    for seed in range(12):
        values, labels, document = documents(seed, n=60)
        if not grouped:  # the same texts in random order, one by one
            values = np.random.default_rng(seed).permutation(values)
        values[:, :40] += 0.9 * labels[:, np.arange(40) % 10]
        tags = matching.tag(
            stored(values, document=document), labelled(labels), groups=grouped, permutations=199, seed=seed,
            progress=False,
        )  # fmt: skip
        unit = tags["unit"].str.rpartition(".")[2].astype(int)
        right = (unit < 40) & (tags["descriptor"] == [f"d{u % 10}" for u in unit])
        of_first = tags["tagged"] & (tags["rank"] == 1)
        # a descriptor that goes with the meant one is no false discovery of a unit that means something
        wrong.append([(of_first & (unit >= 40)).sum() / max(1, of_first.sum())])
        wrong[-1].append((tags["tagged"] & (tags["rank"] == 2)).sum() / max(1, of_first.sum()))
        found.append((of_first & right).sum() / 40)
    error = np.std(wrong, axis=0) / np.sqrt(12)
    assert (np.mean(wrong, axis=0) <= 0.05 + 2 * error).all() and np.max(np.mean(wrong, axis=0)) <= 0.06
    assert np.mean(found) >= 0.8


@pytest.mark.needs_data
def test_labels_rotated_within_ewt_are_nominal(minilm, shared_data):
    """Documents intact, no relation left; permuting single texts finds some in 15 to 27 % of the units."""
    corpus = texts.load(shared_data / "ud_en_ewt").where(genre="newsgroup")
    corpus = corpus.where(text_id=corpus.frame.sort_values("doc_id", kind="stable")["text_id"].tolist()[:800])
    whole = activations.capture(minilm, corpus, sites="layer.5.ffn", pool="max", progress=False)
    order = np.argsort(whole.rows["document"].to_numpy(), kind="stable")
    rows = whole.rows.iloc[order].reset_index(drop=True)
    values = np.asarray(whole.values[:, ::8], np.float32)[order]
    labels = corpus.descriptors("annotation").loc[rows["text_id"]].to_numpy() > 0.5
    shares = {True: [], False: []}
    for seed, turn in enumerate((150, 300, 450, 600)):
        for groups, found in shares.items():
            some = stored(values, document=rows["document"].to_numpy())
            found.append(significant(some, np.roll(labels, turn, axis=0), 1, seed, groups=groups))
    assert np.mean(shares[True]) <= 0.06 + 2 * np.std(shares[True]) / 2, shares
    assert np.mean(shares[False]) > np.mean(shares[True]), shares


def test_whole_documents_trade_places_with_documents_of_like_size():
    rng = np.random.default_rng(0)
    document = np.repeat(np.arange(60), rng.integers(1, 40, 60))
    cells = rng.integers(0, 2, len(document))
    size = np.bincount(document)
    for order in stats.permutations(len(document), 20, rng, groups=document):
        for one in range(60):
            (other,) = set(document[order[document == one]])
            assert abs(np.argsort(np.argsort(size))[one] - np.argsort(np.argsort(size))[other]) < 24
    for order in stats.permutations(len(document), 20, rng, groups=document, cells=cells):
        assert (cells[order] == cells).all()
        for one in range(60):
            for cell in (0, 1):
                assert len(set(document[order[(document == one) & (cells == cell)]])) <= 1


def one_meaning(seed: int, kind: str, n: int = 1000):
    """100 units of one descriptor each, among descriptors that go together."""
    rng = np.random.default_rng(seed)
    latent = 0.6 * rng.standard_normal((n, 1)) + 0.8 * rng.standard_normal((n, 12))
    share = rng.uniform(0.1, 0.4, 12)
    labels = latent > [np.quantile(latent[:, d], 1 - s) for d, s in enumerate(share)]
    own, noise = labels[:, np.arange(100) % 12], rng.standard_normal((n, 100))
    values = {
        "linear": 1.5 * own + noise,
        "wider where it responds": own * (2 + noise) + 0.1 * noise * ~own,
        "cut off at zero": np.maximum(0, 2 * own - 1 + noise),
    }[kind]
    return values, labels


@pytest.mark.parametrize("method", ["pearson", "auroc"])
@pytest.mark.parametrize("kind", ["linear", "wider where it responds", "cut off at zero"])
def test_units_of_one_meaning_have_no_second_tag(kind, method):
    shares, tagged = [], []
    for seed in range(4):
        values, labels = one_meaning(seed, kind)
        shares.append(significant(stored(values), labels, 2, seed, method=method))
        tags = matching.tag(
            stored(values), labelled(labels), method=method, permutations=199, seed=seed, progress=False
        )
        tagged.append(tags.loc[tags["rank"] == 2, "tagged"].mean())
    assert np.mean(shares) <= 0.06 and np.mean(tagged) <= 0.05


def test_units_of_one_meaning_have_no_second_tag_in_documents_either():
    shares = []
    for seed in range(8):
        values, labels, document = documents(seed)
        values = values + 1.5 * labels[:, np.arange(80) % 10]
        shares.append(significant(stored(values, document=document), labels, 2, seed))
    assert np.mean(shares) <= 0.06 + 2 * np.std(shares) / np.sqrt(8)


def test_units_of_two_meanings_keep_both_tags():
    rng = np.random.default_rng(0)
    labels = rng.random((1000, 12)) < 0.25
    first, second = np.arange(100) % 12, (np.arange(100) + 5) % 12
    values = 2 * labels[:, first] + 1.2 * labels[:, second] + rng.standard_normal((1000, 100))
    tags = matching.tag(stored(values), labelled(labels), permutations=199, progress=False)
    tags = tags[tags["tagged"]]
    found = tags.groupby("unit")["descriptor"].agg(set)
    right = [found[f"layer.0.ffn.{u}"] == {f"d{first[u]}", f"d{second[u]}"} for u in range(100)]
    assert np.mean(right) >= 0.95


def test_the_documents_of_a_corpus_are_its_groups_unless_they_are_few():
    values, labels, document = documents(0)
    tags = matching.tag(stored(values, document=document), labelled(labels), permutations=0, progress=False)
    assert tags.attrs["groups"] == 40
    for few in (document % 3, None):
        rows = {} if few is None else {"document": few}
        tags = matching.tag(stored(values, **rows), labelled(labels), permutations=0, progress=False)
        assert tags.attrs["groups"] is None


def test_intervals_of_scores_in_documents_cover_the_truth_and_those_of_single_texts_do_not():
    """Units of one descriptor, both varying by document, against their correlation in many documents."""

    def drawn(seed, n):
        values, labels, document = documents(seed, n=n, mean=12)
        odds = np.linspace(-1, -0.2, 10)[None] + 0 * values[:, :10]  # the same prevalence in every draw
        rng = np.random.default_rng(seed)
        odds = odds + 1.5 * rng.standard_normal((n, 10))[document]
        labels = rng.random(odds.shape) < 1 / (1 + np.exp(-odds))
        return values + 0.8 * labels[:, np.arange(80) % 10], labels, document

    values, labels, _ = drawn(1000, 4000)
    truth = matching.score(values, labelled(labels)).to_numpy()[np.arange(80) % 10, np.arange(80)]
    covered = {True: [], False: []}
    for seed in range(20):
        values, labels, document = drawn(seed, 60)
        for groups, shares in covered.items():
            tags = matching.tag(
                stored(values, document=document),
                labelled(labels),
                groups=groups,
                permutations=0,
                progress=False,
            )
            first = tags[tags["rank"] == 1]
            right = (first["descriptor"] == [f"d{u % 10}" for u in range(80)]).to_numpy()
            shares.append(((first["low"] <= truth) & (truth <= first["high"]))[right].mean())
    assert np.mean(covered[True]) >= 0.92 > 0.9 > np.mean(covered[False])
