"""Any text in every place of every page and widget, in a real browser: shown, and never alive."""

import sys
import unicodedata

import ipywidgets
import numpy as np
import pandas as pd
import pytest
import small
from playwright.sync_api import expect

from nbkit import activations, descriptors, illusions, plots, salience, texts
from nbkit.activations import exemplars
from nbkit.plots.html import page, styled

pytestmark = pytest.mark.needs_browser

#: Each would set window.alive: as an element, out of an attribute, out of a script, out of a comment in one.
MARKUP = (
    "<img src=x onerror=window.alive=1>",
    "\"'><svg onload=window.alive=1>",
    "</script><script>window.alive=1</script>",
    "<!--<script>&lt;b&gt;${window.alive=1}",
)
HEBREW = "שלום עולם"
N = 24  # texts of each corpus
WORDS = f"{MARKUP[0]} {HEBREW} Straße οδος caf\u00e9 not"


def named(i):
    """Another name that is markup for every ``i``."""
    return f"{MARKUP[i % len(MARKUP)]}{i}"


@pytest.fixture(scope="module")
def compared(minilm):
    """Units, corpora and descriptors whose every name and text is markup."""
    corpora = {
        named(c): texts.Texts.from_list([f"{WORDS} {named(i)} {c}" for i in range(N)], named(c))
        for c in (0, 1)
    }
    stored = {n: activations.capture(minilm, c, sites=small.SITE, cache=False) for n, c in corpora.items()}
    some = {n: a.select(units=a.units["unit"][:40].tolist()) for n, a in stored.items()}
    label = {named(i): (np.arange(N) % (i + 2) == 0).astype(float) for i in range(5)}
    labels = {n: pd.DataFrame(label, index=pd.RangeIndex(N, name="text_id")) for n in corpora}
    few = {"min_positives": 1, "progress": False}
    report = illusions.compare(some, labels, method="pearson", min_score=0.01, directions=4, splits=1, **few)
    verdicts = illusions.taxonomy(some, labels, min_score=0.01, **few)
    return plots.corpus_compare(minilm, corpora, some, labels, report=report, verdicts=verdicts, k=3)


def slider():
    index = pd.MultiIndex.from_arrays([np.arange(20), np.ones(20, int)], names=["text_id", "word_id"])
    words = pd.Series([named(i) for i in range(20)], index=index)
    y = pd.Series([named(i % 2) for i in range(20)], index=index)
    units = pd.DataFrame({"unit": [named(i) for i in range(4)], "site": [named(i % 2) for i in range(4)]})
    X = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    curve = pd.DataFrame({"n": [1, 2, 4], "accuracy": [0.5, 0.7, 0.9]})
    what = named(3)
    return plots.salience_slider({what: (X, y)}, units, {what: salience.rank(X, y)}, {what: curve}, words)


def stepper():
    forms = {named(0): [named(i) for i in range(3)]}
    edges = {(0, 1), (1, 2)}
    return plots.tree_stepper(forms, {named(0): edges}, {named(0): {named(1): edges, named(2): {(0, 2)}}})


def judge(tmp_path):
    lines = [(named(s), named(s + 1), r, r, named(r)) for s in range(2) for r in (1, 2, 3, 4)]
    sets = pd.DataFrame(lines, columns=["set_id", "corpus", "rank", "text_id", "text"])
    return plots.annotate(sets, tmp_path / "answers", "ada")


def editor(tmp_path):
    frame = pd.DataFrame(
        {"descriptor": [named(0), named(1)], "n_texts": 3, "members": [[named(2)], [named(3)]]}
    )
    return plots.descriptor_editor(descriptors.Descriptors(frame, 0), tmp_path / "edits.json")


def htmls(widget):
    """The HTML of every part of a widget."""
    if isinstance(widget, ipywidgets.HTML):
        yield widget.value
    for child in getattr(widget, "children", ()):
        yield from htmls(child)


@pytest.fixture
def opened(chromium, witness, tmp_path):
    """``opened(page)``: it in a browser without a network; at the end nothing in it was alive."""
    context = chromium.new_context()
    context.set_offline(True)
    tab = context.new_page()
    complaints = witness(tab)

    def show(text):
        path = tmp_path / "page.html"
        path.write_text(text, encoding="utf-8")
        tab.goto(path.as_uri())
        return tab

    yield show
    assert not complaints
    assert tab.evaluate("window.alive") is None
    assert tab.locator("img").count() == 0 and tab.locator("script:not(#data)").count() == 1
    context.close()


def test_the_markup_would_be_alive_where_it_is_not_escaped(chromium):
    """What the tests below look for can be seen."""
    for text in MARKUP[:3]:
        tab = chromium.new_page()
        tab.set_content(f"<p title=\"{text}\">{text}</p><script>var x = '{text}'</script>")
        tab.wait_for_function("window.alive === 1", timeout=5000)
        tab.close()


def test_no_page_of_neurons_is_alive(opened, compared):
    neurons = compared.browser
    tab = opened(neurons.to_html(neurons.units[:3], title=named(2), word_texts=12))
    expect(tab).to_have_title(named(2))
    names = [option.strip() for option in tab.locator("#descriptor option").all_inner_texts()]
    assert names == ["any", *map(plots.short, neurons.descriptors)]
    for i in range(1, len(names)):
        tab.get_by_label("descriptor").select_option(index=i)
        expect(tab.locator("section:visible li").first).to_contain_text(WORDS)
    for name in neurons.corpora:
        expect(tab.get_by_role("heading", name=name, exact=True).first).to_be_visible()


def test_no_page_of_two_corpora_is_alive(opened, compared):
    tab = opened(compared.to_html(compared.browser.units[:2], title=named(1)))
    tab.get_by_label("unit").select_option(index=1)
    expect(tab.locator(".corpus h4")).to_have_text(list(compared.browser.corpora))
    expect(tab.locator("p.note b").first).to_contain_text("window.alive")


@pytest.mark.parametrize("made", [slider, stepper], ids=["salience", "trees"])
def test_no_page_of_choices_is_alive(opened, made):
    tab = opened(made().to_html())
    for field in tab.locator("select").all():
        for i in range(field.locator("option").count()):
            field.select_option(index=i)
            expect(tab.locator("#view")).to_contain_text("window.alive")


@pytest.mark.parametrize("made", [judge, editor], ids=["annotation", "descriptors"])
def test_no_page_to_edit_is_alive(opened, made, tmp_path):
    tab = opened(made(tmp_path).to_html())
    for text in MARKUP:
        expect(tab.locator("body")).to_contain_text(text)


def test_no_widget_is_alive(opened, compared, tmp_path):
    shown = [compared, compared.browser, slider(), stepper(), judge(tmp_path), editor(tmp_path)]
    parts = [part for one in shown for part in htmls(one.widget())]
    parts += [one._repr_mimebundle_()["text/html"] for one in shown]
    parts += [styled(compared.browser.view(compared.browser.units[1]))]
    notes = htmls(compared.browser.widget())
    field = compared.browser.widget().children[0].children[1]
    field.value = MARKUP[0]  # a word that no text has
    tab = opened(page("widgets", "".join([*parts, *notes])))
    for text in MARKUP:
        expect(tab.locator("body")).to_contain_text(text)


# ---------------------------------------------------------------------------------- directions and words


def test_right_to_left_text_is_set_from_the_right(opened, compared):
    neurons = compared.browser
    right = texts.Texts.from_list([f"{HEBREW} {i}" for i in range(N)])
    corpora = {HEBREW: right, "left": next(iter(neurons.corpora.values()))}
    stored = dict(zip(corpora, neurons.activations.values(), strict=True))
    labels = {
        n: pd.DataFrame({"شيء": np.arange(N) % 2.0}, index=pd.RangeIndex(N, name="text_id")) for n in corpora
    }
    mixed = plots.neuron_browser(neurons.subject, corpora, stored, labels, k=2)
    tab = opened(mixed.to_html(mixed.units[:1], word_texts=0))
    direction = "e => getComputedStyle(e).direction"
    columns = tab.locator(".corpus")
    assert columns.nth(0).locator("li").first.evaluate(direction) == "rtl"
    assert columns.nth(0).locator("h4").evaluate(direction) == "rtl"
    assert columns.nth(1).locator("li").first.evaluate(direction) == "ltr"
    assert tab.locator("table.scores tr").nth(1).locator("th").evaluate(direction) == "rtl"


def test_page_and_widget_find_the_same_words(opened, compared):
    neurons = compared.browser
    tab = opened(neurons.to_html(neurons.units[:3], word_texts=2 * N))
    for typed in ("STRASSE", "straße", "ΟΔΟΣ", "οδοσ", "Café", "CAFE\u0301", " Not ", "ONERROR"):
        tab.get_by_label("or word").fill(typed)
        expect(tab.get_by_role("status")).to_contain_text("by their response to the word")
        assert len(neurons.texts_with(typed)) == 2 * N, typed
        assert neurons.search(word=typed, n=1).index[0] in neurons.units
    for typed in ("strase", "cafe"):
        tab.get_by_label("or word").fill(typed)
        expect(tab.get_by_role("status")).to_contain_text("is not among")
        assert not len(neurons.texts_with(typed))


def test_the_script_folds_every_letter_as_python_does(opened, compared):
    neurons = compared.browser
    tab = opened(neurons.to_html(neurons.units[:1], word_texts=0))
    letters = [
        chr(i) for i in range(33, sys.maxunicode // 6) if not 0xD800 <= i < 0xE000 and not chr(i).isspace()
    ]
    folded = tab.evaluate("all => all.map(fold)", letters)
    for letter, found in zip(letters, folded, strict=True):
        if found != exemplars.fold(letter):  # one of the two has an older Unicode, where it is no letter yet
            unknown = unicodedata.category(letter) == "Cn" or found == letter
            assert unknown and unicodedata.ucd_3_2_0.category(letter) == "Cn", letter


def test_a_descriptor_may_be_called_0(opened, compared):
    """Python takes 0 and "" for nothing; they are names like others."""
    old = compared.browser
    label = {
        0: np.arange(N) % 2.0,
        1: np.arange(N) % 3 == 0,
        "": np.arange(N) % 5 == 0,
        "0": np.arange(N) < 3,
    }
    labels = {
        n: pd.DataFrame(label, index=pd.RangeIndex(N, name="text_id")).astype(float) for n in old.corpora
    }
    neurons = plots.neuron_browser(old.subject, old.corpora, old.activations, labels, k=2)
    highest = {d: max(s.loc[d].max() for s in neurons.scores.values()) for d in label}
    controls = neurons.widget().children[0].children
    tab = opened(neurons.to_html(neurons.units, word_texts=0))
    for place, (name, score) in enumerate(highest.items(), 1):
        best = neurons.search(descriptor=name, n=1)
        assert best.iloc[0] == score
        controls[0].index = 0
        controls[0].index = place
        assert controls[3].value == best.index[0] and "score for" in controls[5].value
        tab.get_by_label("descriptor").select_option(index=place)
        expect(tab.get_by_role("status")).to_contain_text("by their highest score")
        expect(tab.locator("#unit option").first).to_contain_text(best.index[0])
