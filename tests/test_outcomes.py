"""Scenarios of known truth: what becomes of a tag elsewhere, and which gap the corpora make by themselves."""

import numpy as np
import pandas as pd
import pytest

from nbkit import illusions
from nbkit.activations import Activations
from nbkit.illusions.agreement import shares_of_outcomes
from nbkit.illusions.corpora import Corpus
from nbkit.illusions.encoding import same_encoding

UNITS, TEXTS = 120, 1000  # at least 100 units are judged, whether they reach the minimum or not


def compared(made, **options):
    """A report on ``made`` {corpus: (values, labels)}."""
    acts, labels = {}, {}
    units = pd.DataFrame({"unit": [f"layer.0.ffn.{i}" for i in range(UNITS)]})
    for name, (values, matrix) in made.items():
        rows = pd.DataFrame({"text_id": np.arange(len(values))})
        acts[name] = Activations(values.astype(np.float32), rows, units, {})
        labels[name] = pd.DataFrame(
            matrix.astype(np.float32), columns=[f"d{i}" for i in range(matrix.shape[1])]
        )
    options = dict(over="units", splits=2, permutations=100, directions=20, progress=False) | options
    return illusions.compare(acts, labels, **options)


def shares(report, kind="units", where="across"):
    line = report.outcomes.set_index(["kind", "where"]).loc[(kind, where)]
    return {name: estimate.value for name, estimate in line.items()}


def drawn(rng, often, n=TEXTS):
    return rng.random((n, len(often))) < often


def two_meanings(seed):
    """Every unit means d0 and d1 in both corpora; one is frequent here, the other there."""
    made, rng = {}, np.random.default_rng(seed)
    weights = rng.normal(1, 0.3, (2, UNITS))
    for name, often in (("a", [0.5, 0.08, 0.3, 0.3]), ("b", [0.08, 0.5, 0.3, 0.3])):
        labels = drawn(rng, often, 4 * TEXTS)
        made[name] = labels[:, :2] @ weights + rng.standard_normal((4 * TEXTS, UNITS)), labels
    return made


def proxy(seed):
    """Every unit means something that no descriptor names; in one corpus d0 goes with it."""
    made, rng = {}, np.random.default_rng(seed)
    for name in "ab":
        labels, unnamed = drawn(rng, [0.3] * 4), rng.random(TEXTS) < 0.3
        if name == "a":
            labels[:, 0] = np.where(rng.random(TEXTS) < 0.8, unnamed, labels[:, 0])
        made[name] = 2 * unnamed[:, None] + rng.standard_normal((TEXTS, UNITS)), labels
    return made


def local(seed, elsewhere):
    """Units mean d(unit % 4) in one corpus, and in the other the next descriptor, or nothing."""
    made, rng, meant = {}, np.random.default_rng(seed), np.arange(UNITS) % 4
    for name, meaning, weight in (("a", meant, 2), ("b", (meant + 1) % 4, elsewhere)):
        labels = drawn(rng, [0.3] * 4)
        made[name] = weight * labels[:, meaning] + rng.standard_normal((TEXTS, UNITS)), labels
    return made


METHODS = {"auroc": 0.65, "pearson": 0.2}


@pytest.mark.parametrize("method", METHODS)
def test_two_meanings_of_different_prevalence_are_no_illusion(method):
    """Pearson sees a gap of .7 that AUROC, equal shares and units with the same encoding all explain."""
    report = compared(two_meanings(0), method=method, min_score=METHODS[method])
    line = report.agreement.iloc[0].map(lambda e: getattr(e, "value", e))
    assert abs(line["matched_gap"]) < 0.06
    assert abs(line["gap"] - line["same_encoding_gap"]) < 0.05
    if method == "auroc":
        assert line["gap"] < 0.1 and shares(report)["changed"] < 0.06
    else:
        assert line["gap"] > 0.5
        assert abs(shares(report)["changed"] - shares(report, "same encoding")["changed"]) < 0.1


@pytest.mark.parametrize("method", METHODS)
def test_a_proxy_in_one_corpus_and_a_unit_heard_at_home_only_are_silence_and_not_change(method):
    """Over seeds: all units of a proxy follow one thing, so that one accident of the texts is all theirs."""
    for scenario in (proxy, lambda seed: local(seed, elsewhere=0)):
        found = []
        for seed in range(6):
            report = compared(scenario(seed), method=method, min_score=METHODS[method])
            table = report.units[report.units["above"] & (report.units["corpus"] == "a")]
            assert table["unit"].nunique() > 0.95 * UNITS
            found.append(table.loc[table["other"] == "b", "outcome"].value_counts(normalize=True))
        away = pd.DataFrame(found).mean()
        assert away["silent"] > 0.9 and away["changed"] < 0.02, away


@pytest.mark.parametrize("method", METHODS)
def test_local_units_have_changed_and_others_are_kept(method):
    report = compared(local(3, elsewhere=2), method=method, min_score=METHODS[method])
    assert shares(report)["changed"] > 0.99
    assert shares(report, where="within")["kept"] > 0.99
    assert shares(report, "same encoding")["changed"] < 0.05
    away = report.units[report.units["other"] != report.units["corpus"]]
    number = away["unit"].astype(str).str.rsplit(".", n=1).str[1].astype(int)
    step = np.where(away["corpus"] == "a", number + 1, number) % 4
    assert (away["rival"].astype(str) == [f"d{i}" for i in step]).mean() > 0.99
    once = local(3, elsewhere=2)["a"]
    twice = compared({"a": once, "b": local(4, elsewhere=2)["a"]}, method=method, min_score=METHODS[method])
    assert shares(twice)["kept"] > 0.99


def test_nothing_is_found_where_nothing_is_related():
    rng = np.random.default_rng(5)
    made = {n: (rng.standard_normal((TEXTS, UNITS)), drawn(rng, [0.3] * 4)) for n in "ab"}
    report = compared(made, method="auroc", min_score=0.65)
    for where in ("within", "across"):
        found = shares(report, where=where)
        assert found["kept"] + found["changed"] + found["significant"] < 0.02, found


def test_few_texts_leave_it_undecided():
    made = {n: (values[:72], labels[:72]) for n, (values, labels) in local(6, elsewhere=0).items()}
    report = compared(made, method="auroc", min_score=0.65, min_positives=3)
    table = report.units[(report.units["corpus"] == "a") & (report.units["other"] == "b")]
    assert (table["outcome"] == "undecided").mean() > 0.3 and (table["outcome"] == "changed").mean() < 0.05
    free = compared(made, permutations=0, min_positives=3)
    assert free.units["outcome"].isna().all() and shares(free)["silent"] == 0


def test_units_with_the_same_encoding_have_the_pooled_weights_and_whole_documents():
    rng, corpora = np.random.default_rng(7), {}
    for name in "ab":
        labels = drawn(rng, [0.2, 0.5]).astype(np.float32)
        values = labels @ [[1, 0], [0, 2]] + rng.standard_normal((TEXTS, 2)) + (name == "b")
        corpora[name] = Corpus(values.astype(np.float32), labels, np.arange(TEXTS) // 10)
    made = same_encoding(corpora, seed=0)
    for name, corpus in made.items():
        assert (corpus.labels == corpora[name].labels).all() and corpus.values.shape == (TEXTS, 2)
        weights = np.linalg.lstsq(np.c_[corpus.labels, np.ones(TEXTS)], corpus.values, rcond=None)[0]
        assert np.allclose(weights[:2], [[1, 0], [0, 2]], atol=0.2)


def test_a_descriptor_takes_part_if_every_half_has_enough_texts_of_it():
    """All 30 texts of d3 are in one document, so one half has none; labels below .5 are no positives."""
    rng, made = np.random.default_rng(8), {}
    for name in "ab":
        labels = drawn(rng, [0.3] * 4).astype(float)
        labels[:, 3] = np.arange(TEXTS) < 30
        made[name] = labels[:, :1] * 2 + rng.standard_normal((TEXTS, UNITS)), labels
    groups = {name: pd.Series(np.arange(TEXTS) // 50) for name in "ab"}
    assert compared(made, groups=groups, permutations=0).settings["left_out"] == ["d3"]
    faint = {name: (values, labels * [1, 0.4, 1, 1]) for name, (values, labels) in made.items()}
    assert "d1" in compared(faint, permutations=0).settings["left_out"]
    assert "d1" not in compared(faint, method="pearson", permutations=0).settings["left_out"]


def test_length_counters_have_no_tag_when_length_is_a_covariate():
    """Units count words, and d0 and d1 go with length, so that every unit seems to mean one of them."""
    rng, made, words = np.random.default_rng(9), {}, {}
    for name, low, high in (("a", 12, 36), ("b", 4, 24)):
        length = rng.integers(low, high, TEXTS)
        often = 1 / (1 + np.exp((np.array([22, 14]) - length[:, None]) / 4))
        labels = np.column_stack([rng.random((TEXTS, 2)) < often, drawn(rng, [0.3] * 2)])
        made[name] = length[:, None] + 3 * rng.standard_normal((TEXTS, UNITS)), labels
        words[name] = pd.DataFrame({"words": length})
    plain, left = compared(made), compared(made, covariates=words)
    assert plain.agreement["tags"].iloc[0] == 2 * UNITS
    assert left.agreement["tags"].iloc[0] == 0
    assert shares(left)["changed"] + shares(left)["kept"] + shares(left)["significant"] < 0.02


def test_intervals_of_shares_hold_the_share_over_descriptors():
    """Units of one descriptor are alike: 16 descriptors, each with a share of its own, .92 or more hold."""
    rng, held = np.random.default_rng(10), []
    for _ in range(300):
        own = rng.beta(1.2, 1.8, 16)  # P(changed) of each descriptor, .4 on average
        descriptor = rng.choice(16, 200, p=rng.dirichlet(np.full(16, 2)))
        changed = rng.random(200) < own[descriptor]
        table = pd.DataFrame(
            {"descriptor": descriptor, "corpus": "a", "other": "b", "split": 0, "above": True}
        )
        table["outcome"] = np.where(changed, "changed", "silent")
        across = shares_of_outcomes("units", table)[1]["changed"]
        held.append(across.low <= 0.4 <= across.high)
    assert np.mean(held) >= 0.92
