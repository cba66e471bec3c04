"""Agreement within and across corpora on planted truth, and the figures of METHODS on real text."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from nbkit import activations, illusions, matching, stats, texts
from nbkit.activations import Activations
from nbkit.illusions import transfer
from nbkit.illusions.corpora import Corpus

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


def number_of(table):
    """The number at the end of each unit's name."""
    return table["unit"].astype(str).str.extract(r"(\d+)$")[0].astype(int)


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
    tags = report.units[report.units["above"]]
    number, home = number_of(tags), tags["other"] == tags["corpus"]
    assert tags.loc[~home & (number < 150), "same"].mean() > 0.99
    assert tags.loc[~home & (number >= 150), "same"].mean() < 0.01
    assert tags.loc[home, "same"].mean() > 0.99


def test_the_gap_is_the_share_of_local_units(report):
    line = report.agreement.iloc[0]
    assert line["within"].value > 0.99
    assert line["gap"].value == pytest.approx(0.5, abs=0.02)
    assert line["gap"].low <= 0.5 <= line["gap"].high
    assert report.summary()["gap"] == line["gap"]


def test_permuted_rows_leave_nothing(report):
    baseline = report.baselines.set_index("kind").loc["permuted rows"]
    assert baseline["tags"] == 0
    assert baseline["within"].value < 0.35 and abs(baseline["kept_within"].value) < 0.1


def test_permuted_units_agree_as_often_as_two_random_units_do(report):
    """A tag of d0 to d2 finds its like on half of the units with chance 1/3; a local tag never does."""
    baseline = report.baselines.set_index("kind").loc["permuted units"]
    assert baseline["across"].value == pytest.approx(0.5 * 0.5 / 3, abs=0.05)
    assert baseline["tags"] == report.agreement.iloc[0]["tags"]


def test_taxonomy_counts_every_tag_once(report):
    tags = report.units[report.units["other"] == report.units["corpus"]]
    assert report.taxonomy["tags"].sum() == tags["above"].sum()
    assert report.taxonomy["share"].sum() == pytest.approx(1)
    by_count = report.taxonomy.set_index("survives")["share"]
    assert by_count[2] == pytest.approx(0.5, abs=0.02) and by_count[0] == pytest.approx(0.5, abs=0.02)


def test_identical_corpora_have_no_gap():
    stored, labels = corpus(5, local=3)
    twice = {"x": stored, "y": stored}, {"x": labels, "y": labels}
    for over in ("texts", "units"):
        same = illusions.compare(*twice, over=over, directions=50, progress=False)
        gap = same.agreement.iloc[0]["gap"]
        assert gap.low <= 0 <= gap.high
    line = same.agreement.iloc[0]
    for name in ("jaccard", "spearman"):
        assert line[f"{name}_across"].value == line[f"{name}_within"].value
    assert abs(line["matched_gap"].value) < 0.05
    assert same.agreement.iloc[0]["distinct"].value == 1


# ------------------------------------------------------------------------- more than the first tag


def test_distinct_tags_are_one_for_global_units_and_three_for_local_ones(report):
    assert report.agreement.iloc[0]["distinct"].value == pytest.approx((1 + 3) / 2, abs=0.02)
    assert report.agreement.iloc[0]["distinct"].n == UNITS


def test_the_new_columns_by_brute_force(three, report):
    """One cut and one corpus pair, every unit: Jaccard of two tags by sets, Spearman by scipy."""
    acts, labels = three
    first, _ = stats.halves(600, 0.5, 0)
    _, second = stats.halves(600, 0.5, 0)
    here = matching.score(acts["a"].values[first], labels["a"].iloc[first], "auroc")
    there = matching.score(acts["b"].values[second], labels["b"].iloc[second], "auroc")
    lines = report.units.query("split == 0 and corpus == 'a' and other == 'b'").set_index("unit")
    for unit, line in lines.iloc[::20].iterrows():
        column = int(unit.rsplit(".", 1)[1])
        one, two = (set(s[column].nlargest(2).index) for s in (here, there))
        assert line["jaccard"] == pytest.approx(len(one & two) / len(one | two))
        assert line["spearman"] == pytest.approx(scipy.stats.spearmanr(here[column], there[column]).statistic)


def test_equal_shares_are_equal_and_texts_are_drawn_at_random():
    rng, halves = np.random.default_rng(0), {}
    for name, often in (("a", [0.5, 0.1, 0.3]), ("b", [0.2, 0.4, 0.3])):
        labels = rng.random((4000, 3)) < often
        labels[:, 2] |= labels[:, 0] & (rng.random(4000) < 0.3)  # descriptors go together
        halves[name] = Corpus(np.arange(4000)[:, None], labels.astype(np.float32))
    found = transfer.at_equal_shares(halves, 1)
    odds = {name: half.labels.mean(0) / (1 - half.labels.mean(0)) for name, half in found.items()}
    lowest = np.min([h.labels.mean(0) / (1 - h.labels.mean(0)) for h in halves.values()], axis=0)
    assert np.allclose(odds["a"], lowest, rtol=0.15) and np.allclose(odds["b"], lowest, rtol=0.15)
    for name, half in found.items():
        assert len(half.labels) > 1000 and (np.diff(half.values[:, 0]) > 0).all()
        assert (half.labels == halves[name].labels[half.values[:, 0]]).all()


def shares(seed, share, n=4000):
    """Forty units that all respond to d0, equally strongly; d0 is in a ``share`` of the texts."""
    rng = np.random.default_rng(seed)
    labels = np.column_stack([rng.random(n) < share, rng.random(n) < 0.4]).astype(np.float32)
    values = rng.standard_normal((n, 40)).astype(np.float32) + 1.5 * labels[:, :1]
    units = pd.DataFrame({"unit": [f"layer.0.ffn.{i}" for i in range(40)]})
    stored = Activations(values, pd.DataFrame({"text_id": np.arange(n)}), units, {})
    return stored, pd.DataFrame(labels, columns=["d0", "d1"])


def test_a_share_that_differs_is_no_illusion_where_shares_are_matched():
    """Pearson falls with the share of the descriptor, .5 here and .05 there; matched scores do not."""
    (often, labels), (rarely, fewer) = shares(0, 0.5), shares(1, 0.05)
    options = dict(method="pearson", progress=False)
    found = illusions.compare({"x": often, "y": rarely}, {"x": labels, "y": fewer}, **options)
    d0, columns = found.units[found.units["descriptor"] == "d0"], ("transfer_score", "matched_score")
    d0 = d0[d0["corpus"] == "x"]
    score, matched = (d0.pivot(index=["split", "unit"], columns="other", values=v) for v in columns)
    assert (score["x"] - score["y"]).mean() > 0.2
    assert abs(matched["x"] - matched["y"]).mean() < 0.05


def test_what_a_covariate_explains_is_no_tag():
    """A unit that follows length has a tag that goes with length, until length is controlled."""
    acts, labels, control = {}, {}, {}
    for seed, name in enumerate("xy"):
        rng = np.random.default_rng(seed)
        length = rng.integers(4, 40, 1500)
        long = (length + rng.normal(0, 6, 1500) > 20).astype(np.float32)
        other = (rng.random(1500) < 0.3).astype(np.float32)
        values = rng.standard_normal((1500, 20)).astype(np.float32)
        values[:, :10] += 0.3 * length[:, None]
        values[:, 10:] += 3 * other[:, None]
        units = pd.DataFrame({"unit": [f"layer.0.ffn.{i}" for i in range(20)]})
        acts[name] = Activations(values, pd.DataFrame({"text_id": np.arange(1500)}), units, {})
        labels[name] = pd.DataFrame({"long": long, "other": other})
        control[name] = pd.DataFrame({"length": length})
    plain = illusions.compare(acts, labels, progress=False).units
    left = illusions.compare(acts, labels, covariates=control, progress=False)
    assert set(plain.loc[plain["above"], "descriptor"]) == {"long", "other"}
    assert set(left.units.loc[left.units["above"], "descriptor"]) == {"other"}
    assert left.settings["covariates"] == ["length"]
    with pytest.raises(ValueError, match="covariates lack 1 texts of 'y', the first is text 0"):
        illusions.compare(acts, labels, covariates={**control, "y": control["y"].iloc[1:]}, progress=False)


def test_probe_directions_are_compared_like_units(three):
    """Of units with meanings of their own in each corpus, a probe for d0 to d2 holds everywhere."""
    acts, labels = three
    probes = illusions.directions(acts, labels, "probe")
    found = illusions.compare(probes, labels, min_positives=5, directions=50, progress=False).units
    number = found["descriptor"].astype(str).str.removeprefix("d").astype(int)
    away = found["other"] != found["corpus"]
    assert set(found["unit"]) <= set(probes["a"].units["unit"])
    assert found.loc[(number < 3) & found["above"] & away, "same"].mean() > 0.8


def test_two_samples_of_one_source_have_no_gap_even_when_sizes_differ():
    """One meaning everywhere, 600 texts beside 6,000: size alone must not look like an illusion."""
    (small, labels), (large, more) = corpus(6, local=3), corpus(7, n=6000, local=3)
    found = illusions.compare(
        {"x": small, "y": large}, {"x": labels, "y": more}, directions=50, progress=False
    )
    line = found.agreement.iloc[0]
    assert line["tags"] == 2 * UNITS
    assert line["gap"].low <= 0 <= line["gap"].high


def test_two_corpora_of_very_different_sizes():
    """Local meanings are still found: half of the units of either corpus."""
    (small, labels), (large, more) = corpus(8, local=3), corpus(9, n=6000, local=4)
    found = illusions.compare(
        {"x": small, "y": large}, {"x": labels, "y": more}, directions=50, progress=False
    )
    line = found.agreement.iloc[0]
    assert line["gap"].value == pytest.approx(0.5, abs=0.02)
    assert found.taxonomy["survives"].tolist() == [0, 1]


def test_a_descriptor_that_one_corpus_lacks_is_left_out_and_named(three):
    """d0 never occurs in b: nothing can be said of it there, and its units have another tag or none."""
    acts, labels = ({n: part[n] for n in "ab"} for part in three)
    rare = {**labels, "b": labels["b"].assign(d0=0.0)}
    found = illusions.compare(acts, rare, progress=False, directions=50)
    assert found.settings["left_out"] == ["d0"] and len(found.settings["descriptors"]) == 5
    assert "d0" not in set(found.units["descriptor"])
    meant, home = number_of(found.units), found.units["other"] == found.units["corpus"]
    assert not ((meant < 150) & (meant % 3 == 0) & found.units["above"]).any()
    assert found.units.loc[home & (meant < 150), "same"].all()


def test_identical_corpora_agree_in_geometry_and_monotonicity_too():
    stored, labels = corpus(5, local=3)
    twice = {"x": stored, "y": stored}
    assert (illusions.range_overlap(twice)["overlap"] == 1).all()
    counts = {name: labels for name in twice}
    values = {name: stored.values for name in twice}
    rates = illusions.monotonicity(values, counts, progress=False)["found"]
    assert rates[0] == rates[1] > 0.1
    scores = {name: matching.score(stored.values, labels) for name in twice}
    assert illusions.distinct_tags(scores, 0.3)["distinct"].iloc[-1].value == 1


def test_random_weights_are_a_further_baseline(three):
    acts, labels = three
    rng = np.random.default_rng(0)
    noise = {
        n: Activations(rng.standard_normal(a.values.shape).astype(np.float32), a.rows, a.units, {})
        for n, a in acts.items()
    }
    report = illusions.compare(acts, labels, random_weights=noise, directions=50, progress=False)
    kinds = [
        "units",
        "same encoding",
        "random directions",
        "permuted units",
        "permuted rows",
        "random weights",
    ]
    assert report.baselines["kind"].tolist() == kinds
    assert report.baselines.set_index("kind").loc["random weights", "tags"] == 0


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
    options = dict(method="pearson", min_score=minimum, groups=False, progress=False)
    report = illusions.compare(captured(site, pool), gold, **options)
    line = report.agreement.iloc[0]
    found = [line[c].value for c in ("within", "across", "kept_within", "kept_across")]
    print(kind, np.round(found, 3))
    assert np.allclose(found, [*same, *kept], atol=0.05)


@pytest.mark.slow
@pytest.mark.needs_data
def test_a_third_of_the_gap_on_ewt_came_from_documents_in_both_halves(captured, gold):
    """By texts .72 of the last layer's tags are kept within and the gap is .35; by documents .57 and .23."""
    stored = captured("layer.5.hidden", "mean")
    options = dict(
        method="pearson", min_score=0.15, permutations=50, resamples=20, directions=20, progress=False
    )
    by_document = illusions.compare(stored, gold, **options)
    line = by_document.agreement.iloc[0]
    assert by_document.settings["groups"]["email"] < 100
    assert line["within"].value == pytest.approx(0.57, abs=0.04)
    assert line["gap"].value == pytest.approx(0.23, abs=0.04)
    assert line["same_encoding_gap"].value == pytest.approx(0.03, abs=0.03)
