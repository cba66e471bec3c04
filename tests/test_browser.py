"""The neuron browser and two corpora side by side: searches and numbers against brute force."""

import json
import re
from dataclasses import replace

import ipywidgets
import numpy as np
import pandas as pd
import pytest
import scipy.stats
from test_views import Page

from nbkit import activations, illusions, plots, texts
from nbkit.activations import exemplars
from nbkit.plots import browser

NAMES = ("reviews", "fiction")
SITES = ["layer.1.ffn", "layer.3.ffn"]


@pytest.fixture(scope="module")
def made(minilm):
    """What a browser is made from: 120 texts of each of two corpora, two sites."""
    corpora = {name: texts.load(f"sample:{name}").sample(120, seed=0) for name in NAMES}
    labels = {name: corpus.descriptors("surface") for name, corpus in corpora.items()}
    stored = {n: activations.capture(minilm, c, sites=SITES, cache=False) for n, c in corpora.items()}
    return minilm, corpora, stored, labels


@pytest.fixture(scope="module")
def neurons(made):
    return plots.neuron_browser(*made, k=4)


@pytest.fixture(scope="module")
def compared(made):
    _, _, stored, labels = made
    few = {"min_positives": 4, "progress": False}
    report = illusions.compare(stored, labels, directions=10, splits=2, **few)
    verdicts = illusions.taxonomy(stored, labels, min_score=0.3, **few)
    return plots.corpus_compare(*made, report=report, verdicts=verdicts, k=4)


def column(neurons, name, unit):
    stored = neurons.activations[name]
    return np.asarray(stored.values[:, stored.column(unit)], np.float64)


# ---------------------------------------------------------------------------------- search


def test_a_descriptor_finds_what_any_corpus_has_for_it(neurons):
    every = pd.DataFrame({name: neurons.scores[name].loc["question"] for name in NAMES}).max(axis=1)
    found = neurons.search(descriptor="question", n=7)
    assert found.index.tolist() == every.nlargest(7).index.tolist() == neurons.best_units("question", 7)
    assert np.array_equal(found, every.nlargest(7))
    assert (
        found.index[0] in neurons.titles(found)[0][0]
        and f" {found.iloc[0]:.2f} " in neurons.titles(found)[0][0]
    )


def test_a_site_leaves_its_units_and_nothing_asked_for_gives_them_all(neurons):
    assert len(neurons.search(n=None)) == len(neurons.units) == 2 * 1536
    best = {u: max(neurons.scores[n][u].max() for n in NAMES) for u in neurons.units[::500]}
    assert neurons.search(n=None)[list(best)].tolist() == pytest.approx(list(best.values()))
    for asked in ({}, {"descriptor": "negation"}, {"word": "not"}):
        found, every = neurons.search(site="layer.3.ffn", **asked), neurons.search(n=None, **asked)
        assert found.index.str.startswith("layer.3.ffn.").all() and len(found) == browser.LISTED
        assert found.tolist() == every[every.index.str.startswith("layer.3.ffn.")].tolist()[: browser.LISTED]


def test_a_word_finds_units_that_are_high_on_it(neurons, minilm):
    """Token by token, without word rows: every wordpiece of the texts that have the word, by hand."""
    found = neurons.search(word=" Not ", site="layer.3.ffn", n=3)
    having = neurons.texts_with("not")
    everything = [text for name in NAMES for text in neurons.corpora[name].frame["text"]]
    by_hand = [i for i, text in enumerate(everything) if "not" in re.findall(r"[\w'’-]+", text.lower())]
    assert having.tolist() == by_hand and len(by_hand) > 3
    unit, on, others = found.index[0], [], []
    for text in (everything[i] for i in by_hand[: browser.WORD_TEXTS]):
        tokens = exemplars.shade(minilm, texts.Texts.from_list([text]), unit)[0]
        for word in re.finditer(r"[\w'’-]+|[^\w\s]", text):
            inside = tokens[(tokens["end"] > word.start()) & (tokens["start"] < word.end())]
            (on if word.group().lower() == "not" else others).append(inside["activation"].max())
    assert found.iloc[0] == pytest.approx((np.mean(on) - np.mean(others)) / np.std(others), rel=0.02)
    assert found.iloc[0] > 2


def test_a_word_of_many_texts_is_read_in_some_of_them(neurons, monkeypatch):
    read = []
    rows_of = browser.NeuronBrowser._word_rows
    monkeypatch.setattr(
        browser.NeuronBrowser, "_word_rows", lambda self, t, u: read.append(len(t)) or rows_of(self, t, u)
    )
    assert len(neurons.texts_with("the")) > browser.WORD_TEXTS
    neurons.responses("the")
    neurons.responses("The")  # known by now
    assert read == [browser.WORD_TEXTS]


def test_what_cannot_be_searched_for_is_named(neurons, made):
    for asked, complaint in (
        ({"word": "xylophonist"}, "no text has the word 'xylophonist'"),
        ({"descriptor": "questoin"}, "unknown descriptor 'questoin'"),
        ({"site": "layer.9.ffn"}, "no site 'layer.9.ffn' here; the units are of layer.1.ffn, layer.3.ffn"),
        ({"word": "not", "descriptor": "question"}, "not for both"),
    ):
        with pytest.raises(ValueError, match=complaint):
            neurons.search(**asked)
    subject, corpora, stored, labels = made
    own = {name: frame.add_prefix(f"{name} ") for name, frame in labels.items()}
    with pytest.raises(ValueError, match="reviews, fiction share no descriptor"):
        plots.neuron_browser(subject, corpora, stored, own)


def test_neighbours_are_those_of_numpy_in_every_corpus(neurons):
    unit = neurons.best_units("question", 1)[0]
    at = neurons.units.tolist().index(unit)
    every = {
        n: np.corrcoef(np.asarray(a.values, np.float64), rowvar=False)[at]
        for n, a in neurons.activations.items()
    }
    mean = np.delete(np.mean(list(every.values()), axis=0), at)
    near = neurons.neighbours(unit, k=3)
    assert near["mean"].tolist() == pytest.approx([*np.sort(mean)[::-1][:3], *np.sort(mean)[:3]])
    for name in NAMES:
        expected = pd.Series(every[name], neurons.units)[near.index]
        assert near[name].tolist() == pytest.approx(expected.tolist())


def test_a_unit_that_never_changes_has_no_correlation(neurons):
    stored = neurons.activations["reviews"]
    values = np.array(stored.values[:, :4])
    values[:, 1] = 0.3
    still = replace(stored, values=values, units=stored.units.iloc[:4])
    assert exemplars.correlations(still, 1).tolist() == [0, 0, 0, 0]
    assert exemplars.correlations(still, 0)[1] == 0


def test_responses_to_words_are_means_in_standard_deviations():
    forms = ["A", "b", "a", "c", "B", "a"]
    values = np.array([[9, 0, 5], [1, 2, 5], [6, 0, 5], [0, 1, 5], [2, 9, 5], [9, 0, 5]], np.float16)
    units = pd.DataFrame({"unit": ["x.0", "x.1", "x.2"], "site": "x"})
    stored = activations.Activations(
        values, pd.DataFrame({"form": forms}), units, {"rows": "word", "corpus": "c", "pool": "max"}
    )
    found = exemplars.word_responses(stored, ["b", "a"])
    for word, rows in (("a", [0, 2, 5]), ("b", [1, 4])):
        others = np.delete(values.astype(float), rows, axis=0)
        expected = (values[rows].astype(float).mean(0) - others.mean(0))[:2] / others.std(0)[:2]
        assert found.loc[word].tolist() == pytest.approx([*expected, 0])
    assert found["x.2"].tolist() == [0, 0]
    with pytest.raises(ValueError, match="no other word to compare 'a' with"):
        exemplars.word_responses(replace(stored, rows=pd.DataFrame({"form": ["a"] * 6})), ["a"])
    with pytest.raises(ValueError, match="the word 'd' .* is not in"):
        exemplars.word_responses(stored, ["a", "d"])
    with pytest.raises(ValueError, match="rows='word'"):
        exemplars.word_responses(replace(stored, rows=pd.DataFrame({"text_id": range(6)})), ["a"])


# ---------------------------------------------------------------------------------- the picture


def test_the_view_shows_texts_tags_their_fate_and_neighbours(neurons):
    unit = neurons.best_units("question", 1)[0]
    view = Page(neurons.view(unit))
    for name in NAMES:
        assert name in view.text
        assert neurons.corpora[name].frame["text"].iloc[column(neurons, name, unit).argmax()] in view.text
        assert f"{neurons.scores[name].loc['question', unit]:.2f}" in view.text
    assert "question" in view.text and view.open.count("svg") == 2
    near = neurons.neighbours(unit)
    assert all(name in view.text for name in near.index)
    assert f"{near.iloc[-1]['fiction']:.2f}" in view.text


def test_all_corpora_share_one_scale(neurons):
    """What is weak in a corpus looks weak there: histograms and shading run to the maximum over corpora."""
    tops = pd.DataFrame({n: np.asarray(a.values, np.float32).max(0) for n, a in neurons.activations.items()})
    at = (tops.min(axis=1) / tops.max(axis=1)).where(tops.min(axis=1) > 0.1).idxmin()
    bound, view = tops.loc[at].max(), neurons.view(neurons.units[at])
    for name, half in zip(NAMES, view.split('class="corpus"')[1:], strict=True):
        strength = re.search(r'class="peak" style="--a:([\d.]+)"', half)[1]
        assert float(strength) == pytest.approx(tops.loc[at, name] / bound, abs=0.01)
    ranges = re.findall(r"<title>activations from (\S+) to (\S+)</title>", view)
    assert len(ranges) == 2 and len(set(ranges)) == 1
    assert float(ranges[0][1]) == pytest.approx(bound, abs=0.01)


def test_the_picture_comes_first_its_shading_and_neighbours_after_it(neurons):
    controls, picture, table, _ = neurons.widget().children
    seen = []
    picture.observe(lambda change: seen.append(change.new), "value")
    for _ in range(2):  # a unit seen before comes whole at once
        controls.children[4].value = "layer.3.ffn.11"
        controls.children[4].value = ""
    plain, whole = seen
    assert "<mark" not in plain and "<mark" in whole
    assert Page(whole).text == Page(plain).text
    assert "with layer.3.ffn.11 over" in table.value


def test_the_controls_search_and_go_to_neighbours(neurons):
    controls, picture, _, near = neurons.widget().children
    descriptor, word, site, unit, name, note, *_ = controls.children
    assert unit.value == neurons.best_units(neurons.descriptors[0], 1)[0]
    descriptor.value = "negation"
    assert unit.value == neurons.best_units("negation", 1)[0] and f"<h3>{unit.value}</h3>" in picture.value
    site.value = "layer.1.ffn"
    assert unit.value == neurons.search(descriptor="negation", site="layer.1.ffn").index[0]
    site.value = browser.ANY
    word.value = "not"
    assert unit.value == neurons.search(word="not").index[0] and "“not”" in note.value
    assert descriptor.value is browser.ANY
    listed = unit.options
    word.value = "xylophonist"
    assert "no text has the word" in note.value and unit.options == listed
    descriptor.value = "question"
    assert word.value == "" and unit.value == neurons.best_units("question", 1)[0]
    first = near.children[1]
    assert first.description == neurons.neighbours(unit.value).index[0]
    went_to, was = first.description, unit.value
    first.click()
    assert f"<h3>{went_to}</h3>" in picture.value and unit.value in (None, went_to)
    unit.value = was
    assert f"<h3>{was}</h3>" in picture.value and name.value == ""
    descriptor.value = browser.ANY
    assert len(unit.options) == len(neurons.units)
    name.value = "layer.3.ffn.9999"
    assert "no unit layer.3.ffn.9999" in note.value


def test_the_page_needs_nothing_from_elsewhere(neurons):
    chosen = neurons.best_units("question", 2) + neurons.best_units("negation", 1)
    page = neurons.to_html(chosen, title="A <title>", word_texts=100)
    assert not Page(page).addresses and "http" not in page and "A &lt;title&gt;" in page
    assert len(re.findall("<section", page)) == len(chosen)


def test_the_words_of_a_page_are_those_of_its_units(neurons):
    chosen = neurons.best_units("negation", 3)
    words = neurons._page_words(chosen, 240)
    rows = neurons._word_rows(neurons._whole, chosen)
    forms = rows.rows["form"].str.lower()
    values, on = np.asarray(rows.values, np.float64), (forms == "not").to_numpy()
    assert set(words) == set(forms.value_counts().loc[lambda n: n >= 2].index)
    expected = (values[on].mean(0) - values[~on].mean(0)) / values[~on].std(0)
    assert dict(words["not"]) == pytest.approx({i: x for i, x in enumerate(expected) if x > 0}, abs=0.01)
    assert neurons._page_words(chosen, 0) == {}


def test_a_notebook_gets_the_widget_and_a_static_view(neurons, compared):
    for shown in (neurons, compared):
        bundle = shown._repr_mimebundle_()
        assert {"application/vnd.jupyter.widget-view+json", "text/html"} <= set(bundle)
        assert "<h3>layer." in bundle["text/html"] and "<mark" in bundle["text/html"]
        assert isinstance(shown.widget(), ipywidgets.Widget)
        assert " at 0x" not in repr(shown)


# ---------------------------------------------------------------------------------- two corpora


def test_two_corpora_are_held_against_each_other(compared):
    neurons = compared.browser
    for unit in neurons.best_units("question", 1) + [neurons.units[5]]:
        scores = {n: neurons.scores[n].loc[neurons.descriptors, unit] for n in NAMES}
        tags, said = compared.tags(unit, *NAMES), compared.agreement(unit, *NAMES)
        best = [scores[n].idxmax() for n in NAMES]
        assert tags.index.tolist() == list(dict.fromkeys(best))
        assert said["same"] == (best[0] == best[1]) == (len(tags) == 1)
        expected = scipy.stats.spearmanr(*scores.values()).statistic
        assert said["spearman"] == pytest.approx(expected)
        two = [set(scores[n].sort_values().index[-2:]) for n in NAMES]
        assert said["jaccard"] == len(two[0] & two[1]) / len(two[0] | two[1])
        tops = [np.sort(column(neurons, n, unit))[-4:] for n in NAMES]
        assert said["overlap"] == (max(t[0] for t in tops) <= min(t[-1] for t in tops))
        a, b = (neurons.scores[n].loc[best[0]] for n in NAMES)
        assert tags.loc[best[0], "correlation"] == pytest.approx(np.corrcoef(a, b)[0, 1])
        assert tags.loc[best[0], "shared"] == len({*a.nlargest(10).index} & {*b.nlargest(10).index})
        assert tags.loc[best[0], f"rank:{NAMES[0]}"] == 1


def test_its_view_says_what_the_illusion_test_said(compared):
    tags = compared.report.units[compared.report.units["above"]]
    judged = compared.verdicts.verdicts.merge(tags[["unit", "descriptor"]].astype(str))
    compared_units = judged[judged["descriptor"] == "question"]
    line = next(
        line for line in compared_units.itertuples() if "question" in compared.tags(line.unit, *NAMES).index
    )
    view = Page(compared.view(line.unit, *NAMES)).text
    assert f"{line.verdict} (trends in {line.trends} of 2 corpora)" in view
    own = tags[(tags["unit"] == line.unit) & (tags["descriptor"] == "question")]
    here = own.iloc[0]["corpus"]
    own = own[own["corpus"] == here]
    there = NAMES[1 - NAMES.index(here)]
    assert f"chosen in {own['split'].nunique()} of 2 cuts of {here}" in view
    home, away = (own.loc[own["other"] == name, "same"].sum() for name in (here, there))
    assert f"best on the other half in {home:.0f}, in {there} in {away:.0f}" in view
    for name in NAMES:
        top = column(compared.browser, name, line.unit).argmax()
        assert compared.browser.corpora[name].frame["text"].iloc[top] in view


def test_without_a_report_no_verdict_is_given(made):
    plain = plots.corpus_compare(*made, k=3)
    view = Page(plain.view(plain.browser.units[0], *NAMES)).text
    assert "taxonomy" not in view and "compare" not in view and "top 3" in view
    subject, corpora, stored, labels = made
    one = {"reviews": corpora["reviews"]}
    with pytest.raises(ValueError, match="1 corpus: a comparison needs two or more"):
        plots.corpus_compare(subject, one, stored, labels)


def test_its_controls_choose_unit_and_corpora_and_its_page_has_all_pairs(compared):
    controls, shown = compared.widget().children
    descriptor, unit, left, right, *_ = controls.children
    descriptor.value = "negation"
    assert unit.value == compared.browser.best_units("negation", 1)[0]
    assert f"<h3>{unit.value}: " in shown.value and "<mark" in shown.value
    before = shown.value.index("reviews")
    left.value = "fiction"
    assert "choose two different corpora" in shown.value
    right.value = "reviews"
    assert shown.value.index("fiction") == before
    page = compared.to_html(compared.browser.best_units("question", 2))
    assert not Page(page).addresses and page.count("<option") == 3 and "question" in page


def test_a_page_of_many_pairs_has_each_column_once(made):
    """Three corpora are three pairs of columns, and three columns."""
    subject, corpora, stored, labels = made
    named = [{**one, "again": one["reviews"]} for one in (corpora, stored, labels)]
    more = [dict(zip("abc", one.values(), strict=True)) for one in named]
    three = plots.corpus_compare(subject, *more, k=4)
    unit = three.browser.best_units("question", 1)[0]
    page = three.to_html([unit])
    data = json.loads(re.search(r'application/json">(.*?)</script>', page, re.DOTALL)[1])
    views = ["\n".join(data["parts"][i] for i in places) for places in data["views"].values()]
    whole = [three.view(unit, *pair) for pair in ("ab", "ac", "bc")]
    assert views == [f'<div class="nbkit">{view}</div>' for view in whole]
    assert [page.count(f'<h4 dir=\\"auto\\">{name}<') for name in "abc"] == [1, 1, 1]


def test_long_names_are_cut_in_lists_and_whole_in_tables(made):
    subject, corpora, stored, _ = made
    name = "a descriptor of more than three hundred letters " * 8
    label = {name.strip(): np.arange(120) % 2.0, "short": np.arange(120) % 3 == 0}
    index = {n: corpus.frame["text_id"].rename("text_id") for n, corpus in corpora.items()}
    labels = {n: pd.DataFrame(label, index=pd.Index(ids)).astype(float) for n, ids in index.items()}
    neurons = plots.neuron_browser(subject, corpora, stored, labels, k=2)
    unit = neurons.search(descriptor=name.strip(), n=1).index[0]
    descriptor, _, _, units, *_ = neurons.widget().children[0].children
    listed = [label for label, _ in (*descriptor.options, *units.options)]
    listed += re.findall("<option[^>]*>(.*?)</option>", neurons.to_html([unit], word_texts=0))
    assert max(map(len, listed)) < 120 and any("…" in label for label in listed)
    assert name.strip() in neurons.view(unit)


def test_the_word_search_knows_the_words_of_a_treebank(minilm):
    """A rule would cut the number in two, and the contraction nowhere."""
    frame = pd.DataFrame({"text_id": [0, 1], "text": ["10 000 won't do", "another text"]})
    words = pd.DataFrame(
        [(0, 1, "10 000", 0, 6), (0, 2, "wo", 7, 9), (0, 3, "n't", 9, 12), (0, 4, "do", 13, 15)],
        columns=["text_id", "word_id", "form", "start", "end"],
    )
    gold = texts.Texts("gold", frame, words)
    plain = texts.Texts.from_list(["we don't know", "10 000"], "plain")
    stored = {c.name: activations.capture(minilm, c, sites="layer.1.ffn", cache=False) for c in (gold, plain)}
    labels = {n: pd.DataFrame({"a": [0.0, 1.0]}, index=pd.RangeIndex(2, name="text_id")) for n in stored}
    neurons = plots.neuron_browser(minilm, {"gold": gold, "plain": plain}, stored, labels, k=2)
    assert neurons.texts_with("10 000").tolist() == [0] and neurons.texts_with("N'T").tolist() == [0]
    assert neurons.texts_with("10").tolist() == [3] and neurons.texts_with("don't").tolist() == [2]
    assert np.isfinite(neurons.responses("10 000")).all()
