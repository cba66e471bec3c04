"""``claims.judge``: verdicts against known truth, its statistics against brute force."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from nbkit import claims, descriptors
from nbkit.activations import Activations
from nbkit.claims.figures import auroc_interval
from nbkit.texts import Texts

N_TEXTS = 600
CORPORA = ("reviews", "letters")


def store(values, texts, documents=None):
    rows = pd.DataFrame({"text_id": texts.frame["text_id"]})
    if documents is not None:
        rows["document"] = documents
    units = pd.DataFrame({"unit": [f"layer.0.ffn.{i}" for i in range(values.shape[1])]})
    return Activations(values, rows, units, {})


def world(seed, *, n_claims=40, n_other=400, strength=2.0, flips=0.0, documents=False, n_texts=N_TEXTS):
    """Stores, texts, labels and claims of which the truth is known.

    Of ``n_claims`` each: true in both corpora, true in one, false (another unit's); and as many again that
    are vague: each fits a sixth of the other units, and is claimed of one of these. Descriptions are on in 5
    to 20 % of the texts.
    """
    rng = np.random.default_rng(seed)
    kinds = ["everywhere", "some", "false", "vague"]
    names = [f"{kind} {i}" for kind in kinds for i in range(n_claims)]
    n_units = len(names) + n_other
    stores, texts, labels = {}, {}, {}
    share = rng.uniform(0.05, 0.2, len(names))
    reach = np.arange(n_units) >= len(names)
    reach = reach & (rng.random((n_claims, n_units)) < 1 / 6)
    unit = np.arange(len(names))
    unit[3 * n_claims :] = reach.argmax(1)
    for number, corpus in enumerate(CORPORA):
        texts[corpus] = Texts.from_list([f"text {i}" for i in range(n_texts)], corpus)
        groups = np.repeat(np.arange(n_texts // 10), 10) if documents else None
        shift = rng.standard_normal((n_texts // 10, n_units))[groups] if documents else 0
        if documents:  # rows of a document are alike in labels, too
            drawn = rng.random((n_texts // 10, len(names)))[groups] * 0.5 + rng.random((n_texts, 1)) * 0.5
            on = drawn < np.quantile(drawn, share, axis=0).diagonal()
        else:
            on = rng.random((n_texts, len(names))) < share
        values = rng.standard_normal((n_texts, n_units)) + shift
        for i, name in enumerate(names):
            kind, j = name.split()
            if kind == "everywhere" or kind == "some" and (int(j) + number) % 2:
                values[:, i] += strength * on[:, i]
            elif kind == "false":  # the unit of the description is another one
                values[:, len(names) + int(j)] += strength * on[:, i]
            elif kind == "vague":
                values += strength * on[:, [i]] * reach[int(j)]
        flipped = on ^ (rng.random(on.shape) < flips * share)
        labels[corpus] = pd.DataFrame(flipped.astype(float), texts[corpus].frame["text_id"], names)
        stores[corpus] = store(values.astype(np.float32), texts[corpus], groups)
    found = pd.DataFrame({"unit": [f"layer.0.ffn.{i}" for i in unit], "description": names})
    return stores, found, texts, labels


def judged_world(seed, **options):
    stores, found, texts, labels = world(seed, **options)
    return claims.judge(stores, found, texts, labeller=labels, progress=False)


RIGHT = {
    "everywhere": {"holds everywhere"},
    "some": {"holds in some corpora"},
    "false": {"not found"},
    "vague": {"fits many units"},
}


def shares_right(judged):
    kinds = judged.verdicts["description"].str.split().str[0]
    right = [verdict in RIGHT[kind] for verdict, kind in zip(judged.verdicts["verdict"], kinds, strict=True)]
    return pd.Series(right).groupby(kinds.to_numpy()).mean()


def test_verdicts_of_claims_whose_truth_is_known():
    judged = judged_world(0, strength=2.5)
    right = shares_right(judged)
    assert right["everywhere"] >= 0.95
    assert right["some"] >= 0.90
    assert right["false"] >= 0.95
    assert right["vague"] >= 0.90
    some = judged.verdicts[judged.verdicts["description"].str.startswith("some")]
    expected = [CORPORA[0] if int(name.split()[1]) % 2 else CORPORA[1] for name in some["description"]]
    named = some["verdict"] == "holds in some corpora"
    assert (some["holds_in"] == expected)[named].all()
    baselines = judged.baselines.set_index("kind")
    assert baselines.loc["shuffled", "holds_somewhere"].value <= 0.05
    assert baselines.loc["shuffled", "pairs"] >= 150
    assert abs(baselines.loc["shuffled", "auroc"].value - 0.5) < 0.05


def test_wrong_labels_make_claims_fail_and_none_hold():
    clean, noisy = judged_world(1, n_claims=20, strength=2), judged_world(1, n_claims=20, strength=2, flips=2)
    assert clean.corpora["auroc"].max() > noisy.corpora["auroc"].max()
    assert shares_right(noisy)["everywhere"] < shares_right(clean)["everywhere"]
    assert shares_right(noisy)["false"] >= 0.95


def test_shuffled_claims_do_not_hold_where_documents_are_alike():
    judged = judged_world(2, n_claims=20, documents=True)
    baselines = judged.baselines.set_index("kind")
    assert baselines.loc["shuffled", "holds_somewhere"].value <= 0.05
    assert set(judged.corpora["documents"]) == {60}


def test_p_of_nothing_is_uniform_with_and_without_documents():
    for documents in (False, True):
        found = judged_world(3, n_claims=60, strength=0, documents=documents, n_other=60)
        p = found.corpora["p"]
        assert 0.02 <= (p <= 0.05).mean() <= 0.09
        assert scipy.stats.kstest(p, "uniform").statistic < 0.12


# ------------------------------------------------------------------------------------------- figures


def small(values, on, **options):
    """``judge`` on one corpus with one unit and one description for each column."""
    texts = Texts.from_list([f"text {i}" for i in range(len(values))], "one")
    names = [f"d{i}" for i in range(on.shape[1])]
    labels = pd.DataFrame(on.astype(float), texts.frame["text_id"], names)
    documents = options.pop("documents", None)
    found = pd.DataFrame({"unit": [f"layer.0.ffn.{i}" for i in range(on.shape[1])], "description": names})
    found = found.assign(**options.pop("columns", {}))
    return claims.judge(
        {"one": store(values, texts, documents)},
        found,
        {"one": texts},
        labeller={"one": labels},
        progress=False,
        **options,
    )


@given(st.integers(0, 2**32 - 1), st.integers(12, 60), st.booleans())
@settings(max_examples=12)
def test_figures_equal_brute_force(seed, n, ties):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 5, (n, 6)).astype(np.float32) if ties else rng.standard_normal((n, 6))
    on = rng.random((n, 3)) < rng.uniform(0.1, 0.9, 3)
    sign = np.array([1, -1, 1])
    found = small(values, on, columns={"sign": sign}, permutations=10, min_positives=2).corpora
    for i in range(3):
        line, x = found.iloc[i], values[:, i] * sign[i]
        if not 0 < on[:, i].sum() < n:
            assert line["auroc"] == 0.5 and line["outcome"] == "too few"
            continue
        assert line["auroc"] == pytest.approx(roc_auc_score(on[:, i], x))
        assert line["low"] <= line["auroc"] <= line["high"]
        assert line["pearson"] == pytest.approx(np.corrcoef(x, on[:, i])[0, 1] if x.std() else 0, abs=1e-6)
        others = [roc_auc_score(on[:, i], values[:, j] * sign[i]) for j in range(6) if j != i]
        assert line["unit_rank"] == 1 + sum(other > line["auroc"] + 1e-9 for other in others)
        order = np.argsort(-x, kind="stable")[: min(20, n)]
        assert line["top_has"] == pytest.approx(on[order, i].mean())
        above = x > np.quantile(x, 0.9)
        assert line["has_high"] == pytest.approx(above[on[:, i]].mean())


@pytest.mark.parametrize(("shift", "documents"), [(0.0, False), (1.0, False), (2.5, False), (1.0, True)])
def test_the_interval_of_auroc_covers(shift, documents):
    """Against the AUROC of the whole population: shift / sqrt(2) of a normal."""
    rng, n, pairs = np.random.default_rng(4), 300, 400
    groups = np.repeat(np.arange(n // 5), 5) if documents else None
    noise = rng.standard_normal((n, pairs))
    if documents:
        noise = (noise + rng.standard_normal((n // 5, pairs))[groups]) / np.sqrt(2)
    on = rng.random((n, pairs)) < 0.15
    if documents:
        on = (rng.random((n // 5, pairs)) < 0.15)[groups]
    ranks = scipy.stats.rankdata(noise + shift * on, axis=0)
    auroc = np.array([roc_auc_score(on[:, i], ranks[:, i]) for i in range(pairs)])
    low, high = auroc_interval(ranks, on, auroc, groups)
    true = scipy.stats.norm.cdf(shift / np.sqrt(2))
    assert 0.92 <= ((low <= true) & (true <= high)).mean() <= 0.995


def test_an_interval_of_a_perfect_score_is_not_a_point():
    ranks = np.arange(1.0, 41)[:, None]
    on = ranks > 30
    low, high = auroc_interval(ranks, on, np.array([1.0]), None)
    assert 0.7 < low[0] < 0.97
    assert high[0] == 1


def test_a_description_that_another_one_explains_is_not_found():
    """Of the rows with b half have a, too: a fits the unit of b, and means nothing to it."""
    rng, n = np.random.default_rng(5), 1000
    b = rng.random(n) < 0.3
    a = np.where(b, rng.random(n) < 0.5, rng.random(n) < 0.05)
    values = rng.standard_normal((n, 40)).astype(np.float32)
    values[:, :2] += 3 * b[:, None]
    judged = small(values, np.stack([a, b], axis=1))
    assert judged.corpora["auroc"].min() > 0.75
    assert judged.verdicts["verdict"].tolist() == ["not found", "holds everywhere"]
    assert "“d1” explains it" in judged.verdicts["words"][0]
    values[:, 0] += 3 * a  # now it means something
    assert small(values, np.stack([a, b], axis=1)).verdicts["verdict"][0] == "holds everywhere"


def test_too_few_texts_are_said_with_how_many_more():
    rng = np.random.default_rng(6)
    on = np.zeros((400, 3), dtype=bool)
    on[:5, 0], on[:, 1] = True, True
    judged = small(rng.standard_normal((400, 30)), on)
    assert set(judged.verdicts["verdict"]) == {"cannot be judged here"}
    assert judged.corpora["more_texts"].tolist() == [400, 934, 934]
    assert "about 400 more would do" in judged.verdicts["words"][0]


def test_a_claim_about_the_low_end():
    rng = np.random.default_rng(7)
    on = rng.random((400, 2)) < 0.2
    values = rng.standard_normal((400, 40))
    values[:, :2] -= 3 * on
    judged = small(values, on, columns={"sign": [1, -1]})
    assert judged.verdicts["verdict"].tolist() == ["not found", "holds everywhere"]


def test_random_weights_stand_beside():
    stores, found, texts, labels = world(8, n_claims=10, n_other=60)
    rng = np.random.default_rng(9)
    random = {n: store(rng.standard_normal(s.values.shape), texts[n]) for n, s in stores.items()}
    judged = claims.judge(stores, found, texts, labeller=labels, random_weights=random, progress=False)
    table = judged.baselines.set_index("kind")
    assert table.loc["random weights", "holds_somewhere"].value <= 0.05
    assert table.loc["claims", "holds_somewhere"].value >= 0.4
    with pytest.raises(ValueError, match="other units or rows"):
        claims.judge(
            *(stores, found, texts),
            labeller=labels,
            random_weights={n: store(s.values[:, :5], texts[n]) for n, s in stores.items()},
            progress=False,
        )


def test_claims_that_cannot_be_judged_are_refused_or_counted():
    stores, found, texts, labels = world(10, n_claims=2, n_other=5)
    options = {"labeller": labels, "progress": False}
    more = pd.concat([found, found.assign(unit="layer.9.ffn.1")], ignore_index=True)
    judged = claims.judge(stores, more, texts, **options)
    assert len(judged.verdicts) == len(found)
    assert judged.settings["dropped"] == {"units that were not captured": len(found)}
    with pytest.raises(ValueError, match="none of the 8 claims"):
        claims.judge(stores, found.assign(unit="layer.9.ffn.1"), texts, **options)
    with pytest.raises(ValueError, match="no column 'description'"):
        claims.judge(stores, found[["unit"]], texts, **options)
    with pytest.raises(ValueError, match="no texts for the corpus 'letters'"):
        claims.judge(stores, found, {"reviews": texts["reviews"]}, **options)
    with pytest.raises(ValueError, match="unknown labeller 'magic'"):
        claims.judge(stores, found, texts, labeller="magic", progress=False)
    with pytest.raises(ValueError, match="no labels for the corpus 'letters'"):
        claims.judge(stores, found, texts, labeller={"reviews": labels["reviews"]}, progress=False)


# ------------------------------------------------------------------------------------------- labellers


def texts_of(*strings):
    return Texts.from_list(strings, "one")


def labels_of(texts, descriptions, labeller, rows=None):
    frame = pd.DataFrame({"text_id": texts.frame["text_id"]}) if rows is None else rows
    stored = Activations(np.zeros((len(frame), 1)), frame, pd.DataFrame({"unit": ["u"]}), {})
    return claims.label({"one": stored}, descriptions, {"one": texts}, labeller)["one"]


def test_words_that_a_description_quotes():
    texts = texts_of("If you go", "a gift", "when? IF only", "he's here", "C++ is old")
    found = labels_of(
        texts,
        ["the word 'if'", 'tokens “he\'s” and "old"', "mentions of 'C++'", "don't shout", "'if' as a style"],
        "patterns",
    )
    assert found["the word 'if'"].tolist() == [1, 0, 1, 0, 0]
    assert found['tokens “he\'s” and "old"'].tolist() == [0, 0, 0, 1, 1]
    assert found["mentions of 'C++'"].tolist() == [0, 0, 0, 0, 1]
    assert found[["don't shout", "'if' as a style"]].isna().all(axis=None)


def test_a_pattern_on_word_rows_marks_what_it_overlaps():
    texts = texts_of("room 12 doors and 3 windows").tokenize()
    rule = claims.patterns({"the token after a number": r"\d+ (\w+)"})
    found = labels_of(texts, ["the token after a number"], rule, texts.words)
    assert texts.words["form"][found.iloc[:, 0].to_numpy() > 0].tolist() == ["doors", "windows"]
    with pytest.raises(ValueError, match="no regular expression"):
        labels_of(texts, ["x"], claims.patterns({"x": "("}))


def test_claims_about_words_are_judged_on_word_rows():
    rng = np.random.default_rng(11)
    strings = [" ".join(rng.choice(["if", "the", "sea", "is", "blue"], 8)) for _ in range(60)]
    texts = texts_of(*strings).tokenize()
    values = rng.standard_normal((len(texts.words), 40))
    values[:, 0] += 3 * (texts.words["form"] == "if")
    stored = Activations(values, texts.words, store(values, texts_of(*["a"])).units, {})
    units = ["layer.0.ffn.0", "layer.0.ffn.1"]
    found = pd.DataFrame({"unit": units, "description": ["the word 'if'", "the word 'sea'"]})
    judged = claims.judge({"one": stored}, found, {"one": texts}, labeller="patterns", progress=False)
    assert judged.verdicts["verdict"].tolist() == ["holds everywhere", "not found"]
    assert judged.corpora["documents"].tolist() == [60, 60]


class Letters:
    """An encoder for tests: counts of letters."""

    def encode(self, strings):
        return np.array(
            [[string.lower().count(c) for c in "abcdefghijklmnopqrstuvwxyz"] for string in strings]
        )


def test_similarity_is_closeness_over_all_corpora():
    texts = texts_of("zzz zz", *(["apple tree"] * 20))
    found = labels_of(texts, ["zz"], claims.similarity(Letters()))
    assert (found["zz"] > 0.5).tolist() == [True, *[False] * 20]


def test_the_first_labeller_that_can_say_something_is_taken():
    texts = texts_of("zzz zz if", *(["apple tree"] * 20))
    found = labels_of(texts, ["the word 'if'", "zz"], ("patterns", claims.similarity(Letters())))
    assert found.attrs["labellers"] == {"the word 'if'": 0, "zz": 1}
    assert found["the word 'if'"].tolist() == [1.0, *[0.0] * 20]
    both = {
        name: labels_of(texts, ["the word 'if'"], one)
        for name, one in (("patterns", "patterns"), ("similarity", claims.similarity(Letters())))
    }
    assert len(descriptors.agreement(both)) == 1


class Answers:
    """A generator that says yes to texts with an "a"; one request is lost."""

    name, provenance = "answers", "a test"

    def complete(self, messages):
        text = messages[-1]["content"].split("\n")[0]
        if "lost" in text:
            return descriptors.Reply(None, "timed out")
        return descriptors.Reply(f'{{"has an a": {0.9 if "a" in text.removeprefix("Text:") else 0.1}}}')

    def complete_all(self, requests):
        return [self.complete(messages) for messages in requests]


def test_a_language_model_is_asked():
    texts = texts_of("banana", "kiwi", "lost")
    found = labels_of(texts, ["has an a"], claims.asked(Answers()))["has an a"]
    assert found.tolist()[:2] == [0.9, 0.1]
    assert np.isnan(found.iloc[2])
    with pytest.raises(ValueError, match="asked about texts"):
        labels_of(texts.tokenize(), ["has an a"], claims.asked(Answers()), texts.tokenize().words)


def test_rows_without_an_answer_are_left_out_and_counted():
    texts = texts_of(*[f"text {'a' if i % 3 else ''} {i}" for i in range(90)], "lost", "lost")
    rng = np.random.default_rng(12)
    stored = store(rng.standard_normal((92, 20)), texts)
    found = pd.DataFrame({"unit": ["layer.0.ffn.0"], "description": ["has an a"]})
    labeller = claims.asked(Answers())
    judged = claims.judge({"one": stored}, found, {"one": texts}, labeller=labeller, progress=False)
    assert judged.corpora["texts"].tolist() == [90]
    assert judged.settings["dropped"] == {"rows of one without an answer": 2}
