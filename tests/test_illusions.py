"""Agreement within and across corpora on planted truth, and the figures of METHODS on real text."""

import numpy as np
import pandas as pd
import pytest

from nbkit import activations, illusions, matching, texts
from nbkit.activations import Activations

UNITS = 300


def corpus(seed, n=600, local=None):
    """Units 0 to 149 respond to d(unit % 3) in every corpus; 150 to 299 to ``local``, here only."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 6)) < 0.3).astype(np.float32)
    values = rng.standard_normal((n, UNITS)).astype(np.float32)
    for unit in range(UNITS):
        meaning = unit % 3 if unit < 150 else local
        values[:, unit] += 2 * labels[:, meaning]
    units = pd.DataFrame({"unit": [f"layer.0.ffn.{i}" for i in range(UNITS)]})
    stored = Activations(values, pd.DataFrame({"text_id": np.arange(n)}), units, {})
    return stored, pd.DataFrame(labels, columns=[f"d{i}" for i in range(6)])


@pytest.fixture(scope="module")
def three():
    made = {
        name: corpus(seed, local=local)
        for seed, (name, local) in enumerate(zip("abc", (3, 4, 5), strict=True))
    }
    return {n: a for n, (a, _) in made.items()}, {n: y for n, (_, y) in made.items()}


@pytest.fixture(scope="module")
def report(three):
    return illusions.compare(*three, progress=False, directions=200)


def test_global_units_survive_and_local_units_do_not(report):
    fates = report.units[report.units["above"]]
    number = fates["unit"].str.extract(r"(\d+)$")[0].astype(int)
    survived = fates.filter(like="same:").mean(axis=1)
    assert survived[number < 150].mean() > 0.99
    assert survived[number >= 150].mean() < 0.01
    assert (fates["within_same"] == 1).mean() > 0.99


def test_the_gap_is_the_share_of_local_units(report):
    line = report.agreement.iloc[0]
    assert line["within"].value > 0.99
    assert line["gap"].value == pytest.approx(0.5, abs=0.02)
    assert line["gap"].low < 0.5 < line["gap"].high
    assert report.summary()["gap"] == line["gap"]


def test_permuted_rows_leave_nothing(report):
    floor = report.controls.set_index("kind").loc["permuted rows"]
    assert floor["tags"] == 0
    assert floor["within"].value < 0.35 and abs(floor["kept_within"].value) < 0.1


def test_permuted_units_agree_as_often_as_two_random_units_do(report):
    """A tag of d0 to d2 finds its like on half of the units with chance 1/3; a local tag never does."""
    floor = report.controls.set_index("kind").loc["permuted units"]
    assert floor["across"].value == pytest.approx(0.5 * 0.5 / 3, abs=0.05)
    assert floor["tags"] == report.agreement.iloc[0]["tags"]


def test_taxonomy_counts_every_tag_once(report):
    assert report.taxonomy["tags"].sum() == report.units["above"].sum()
    assert report.taxonomy["share"].sum() == pytest.approx(1)
    by_count = report.taxonomy.set_index("survives")["share"]
    assert by_count[2] == pytest.approx(0.5, abs=0.02) and by_count[0] == pytest.approx(0.5, abs=0.02)


def test_identical_corpora_have_no_gap():
    stored, labels = corpus(5, local=3)
    same = illusions.compare({"x": stored, "y": stored}, {"x": labels, "y": labels}, progress=False)
    gap = same.agreement.iloc[0]["gap"]
    assert gap.low <= 0 <= gap.high


def test_two_samples_of_one_source_have_no_gap_even_when_sizes_differ():
    """One meaning everywhere, 600 texts beside 6,000: size alone must not look like an illusion."""
    (small, labels), (large, more) = corpus(6, local=3), corpus(7, n=6000, local=3)
    found = illusions.compare({"x": small, "y": large}, {"x": labels, "y": more}, progress=False)
    line = found.agreement.iloc[0]
    assert line["tags"] == 2 * UNITS
    assert line["gap"].low <= 0 <= line["gap"].high


def test_two_corpora_of_very_different_sizes():
    """Local meanings are still found: half of the units of either corpus."""
    (small, labels), (large, more) = corpus(8, local=3), corpus(9, n=6000, local=4)
    found = illusions.compare({"x": small, "y": large}, {"x": labels, "y": more}, progress=False)
    line = found.agreement.iloc[0]
    assert line["gap"].value == pytest.approx(0.5, abs=0.02)
    assert found.taxonomy["survives"].tolist() == [0, 1]


def test_random_weights_are_a_further_floor(three):
    acts, labels = three
    rng = np.random.default_rng(0)
    noise = {
        n: Activations(rng.standard_normal(a.values.shape).astype(np.float32), a.rows, a.units, {})
        for n, a in acts.items()
    }
    report = illusions.compare(acts, labels, random_weights=noise, progress=False)
    kinds = ["units", "random directions", "permuted units", "permuted rows", "random weights"]
    assert report.controls["kind"].tolist() == kinds
    assert report.controls.set_index("kind").loc["random weights", "tags"] == 0


def test_top_ranges_overlap_by_brute_force(three):
    acts, _ = three
    table = illusions.range_overlap(acts, k=4).set_index(["corpus", "other"])["overlap"]
    count = 0
    for unit in range(UNITS):
        a, b = (np.sort(acts[n].values[:, unit])[-4:] for n in "ab")
        count += a[0] <= b[-1] and b[0] <= a[-1]
    assert table["a", "b"] == count / UNITS == table["b", "a"]


def test_what_cannot_be_compared_is_named(three):
    acts, labels = three
    with pytest.raises(ValueError, match="needs two or more"):
        illusions.compare({"a": acts["a"]}, labels)
    with pytest.raises(ValueError, match="no labels for the corpus 'c'"):
        illusions.compare(acts, {n: labels[n] for n in "ab"})
    fewer = acts["b"].select(units=list(range(10)))
    with pytest.raises(ValueError, match="'b' and 'a' hold different units"):
        illusions.compare({"a": acts["a"], "b": fewer}, labels)
    with pytest.raises(ValueError, match="share no descriptor"):
        illusions.compare(acts, {n: y.add_prefix(n) for n, y in labels.items()})
    rare = {**labels, "b": labels["b"].assign(d0=0.0)}
    report = illusions.compare(acts, rare, progress=False, directions=200)
    assert "d0" not in report.settings["descriptors"]  # a descriptor that never occurs in one corpus


# ------------------------------------------------------------------------- real text, real model


@pytest.fixture(scope="module")
def genres(shared_data):
    ewt = texts.load(shared_data / "ud_en_ewt")
    n = ewt.words.groupby("text_id").size()
    kept = ewt.where(text_id=n.index[n.between(4, 50)].tolist())
    return {genre: kept.where(genre=genre).sample(1800, seed=0) for genre in sorted(texts.EWT_GENRES)}


@pytest.fixture(scope="module")
def gold(genres):
    return {genre: corpus.descriptors() for genre, corpus in genres.items()}


#: Units, pooling, minimum score, and the figures measured once, within and across (METHODS 1.1): same tag
#: first, and score kept.
PUBLISHED = {
    "FFN, max": ("ffn", "max", 0.30, (0.88, 0.645), (0.965, 0.795)),
    "FFN, mean": ("ffn", "mean", 0.30, (0.90, 0.655), (0.945, 0.74)),
    "last layer, mean": ("layer.5.hidden", "mean", 0.15, (0.70, 0.335), (0.835, 0.47)),
    "last layer, [CLS]": ("layer.5.hidden", "cls", 0.15, (0.73, 0.30), (0.775, 0.30)),
}


@pytest.fixture(scope="module")
def captured(minilm, genres, tmp_path_factory):
    cache = tmp_path_factory.mktemp("genres")

    def capture(site, pool):
        return {
            genre: activations.capture(minilm, corpus, sites=site, pool=pool, cache=cache)
            for genre, corpus in genres.items()
        }

    return capture


@pytest.mark.slow
@pytest.mark.needs_data
def test_best_single_units_on_ewt(captured, gold):
    stored = captured("ffn", "max")
    values = np.concatenate([a.values for a in stored.values()])
    best = matching.score(values, pd.concat(gold.values(), ignore_index=True)).max(axis=1)
    assert best["question"] >= 0.90 and best["negation"] >= 0.90 and best["past tense"] >= 0.85


@pytest.mark.slow
@pytest.mark.needs_data
@pytest.mark.parametrize("kind", PUBLISHED)
def test_within_and_across_on_ewt(captured, gold, kind):
    site, pool, minimum, same, kept = PUBLISHED[kind]
    report = illusions.compare(captured(site, pool), gold, min_score=minimum, progress=False)
    line = report.agreement.iloc[0]
    found = [line[c].value for c in ("within", "across", "kept_within", "kept_across")]
    print(kind, np.round(found, 3))
    assert np.allclose(found, [*same, *kept], atol=0.05)
