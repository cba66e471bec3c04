"""Widgets and pages in a real browser: clicked, chosen, typed into, and photographed before and after."""

import json
import re
import shutil
from pathlib import Path

import browsing
import nbformat
import numpy as np
import pandas as pd
import pytest
import report
import small
from playwright.sync_api import expect

from nbkit.workshop import presets

ROOT = Path(__file__).resolve().parents[2]
WIDGETS = ("neuron_browser salience_slider tree_stepper descriptor_editor corpus_compare annotate").split()
CELLS = [f"import small\nsmall.{name}()" for name in WIDGETS]
WIDTHS = {"desktop": (1280, 900), "projector": (1024, 768), "phone": (390, 844)}

pytestmark = pytest.mark.needs_browser


@pytest.fixture(scope="module")
def compared(minilm):
    return small.corpus_compare(minilm)


@pytest.fixture(scope="module")
def neurons(compared):
    return compared.browser


def strongest(neurons, unit):
    """The text with the largest activation in each corpus, from the matrices alone."""
    for name, stored in neurons.activations.items():
        at = np.argmax(np.asarray(stored.values[:, stored.column(unit)], np.float32))
        yield name, neurons.corpora[name].frame["text"].iloc[at]


def assert_shows(view, neurons, unit):
    """``view`` is the picture of ``unit`` and of no other."""
    expect(view.locator("h3")).to_have_text(unit)
    for name, text in strongest(neurons, unit):
        column = view.locator(".corpus", has=view.page.get_by_role("heading", name=name, exact=True))
        expect(column.locator("li").first).to_have_text(text)
        expect(column.locator("li mark.peak").first).to_be_visible()
    expect(view.locator(".near .note")).to_contain_text(f"with {unit} over")
    expect(view.locator("table.scores td.best")).to_have_count(len(neurons.corpora))
    near = [name for name in neurons.neighbours(unit).index]
    expect(view.locator(".near tr th:first-child")).to_have_text(
        ["rise with it", *near[:4], "fall when it rises", *near[4:]]
    )


# ---------------------------------------------------------------------------------- in JupyterLab


@pytest.fixture(scope="module")
def notebook(tmp_path_factory, chromium, witness):
    """The notebook of ``CELLS``, all run, and what the page complained about."""
    folder = tmp_path_factory.mktemp("notebooks")
    shutil.copy(Path(__file__).with_name("small.py"), folder)
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS])
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(made, folder / "widgets.ipynb")
    with browsing.lab(folder) as url:
        page = chromium.new_page(viewport={"width": 1280, "height": 1500})
        page.complaints, page.folder = witness(page), folder
        browsing.run_all(page, url("widgets.ipynb"), cells=len(CELLS))
        yield page
        page.close()


def assert_within(view):
    """Nothing is wider than its room: what is, can be moved sideways by itself."""
    wider = "all => all.filter(e => e.scrollWidth > e.clientWidth + 1 && !e.closest('.wide')).length"
    assert view.locator(".nbkit, .corpora, .widget-html-content").evaluate_all(wider) == 0
    assert view.evaluate("output => output.scrollWidth - output.clientWidth") <= 1


TEXTS_SEEN = Path(__file__).with_name("texts_seen.js").read_text(encoding="utf-8")


def assert_readable(page, selector="body *"):
    """From the back row: no letters under 12 px, and the contrast that WCAG 2 asks for (level AA, 4.5)."""
    seen = page.evaluate(TEXTS_SEEN, selector)
    assert len(seen) > 5
    assert not [line for line in seen if line[1] < 12 or line[2] < 4.5]


def chosen_units(view):
    """What the list of units holds."""
    options = view.get_by_label("unit", exact=True).locator("option").all_inner_texts()
    return [option.replace("\xa0", " ").split(" · ")[0] for option in options]


def test_neurons_are_chosen_by_descriptor_by_click_and_by_name(notebook, neurons, photograph):
    view = browsing.cell_output(notebook, 1)
    units = neurons.best_units("question")
    assert_shows(view, neurons, units[0])
    photograph(view, "lab-neurons-0")
    view.get_by_label("descriptor").select_option("negation")
    units = neurons.best_units("negation")
    assert_shows(view, neurons, units[0])
    listed = view.get_by_label("unit", exact=True)
    listed.locator("option").nth(3).click()
    assert_shows(view, neurons, units[3])
    listed.press("ArrowDown")
    assert_shows(view, neurons, units[4])
    name = view.get_by_label("or by name")
    name.fill(f"{small.SITE}.7")
    assert_shows(view, neurons, f"{small.SITE}.7")
    assert_within(view)
    photograph(view, "lab-neurons-1")
    name.fill(f"{small.SITE}.9999")
    expect(view.get_by_text(f"no unit {small.SITE}.9999; names look like {small.SITE}.0")).to_be_visible()
    photograph(view, "lab-neurons-2")


def test_neurons_are_searched_by_word_and_by_site(notebook, neurons, photograph):
    view = browsing.cell_output(notebook, 1)
    word = view.get_by_label("or word")
    word.fill("not")
    word.press("Enter")
    found = neurons.search(word="not").index.tolist()
    assert_shows(view, neurons, found[0])
    expect(view.get_by_role("status")).to_contain_text(
        "standard deviations they are above their mean on “not”"
    )
    assert chosen_units(view) == found
    assert_within(view)
    photograph(view, "lab-neurons-word")
    word.fill("xylophonist")
    word.press("Enter")
    expect(view.get_by_role("status")).to_have_text("no text has the word 'xylophonist'")
    expect(view.get_by_label("descriptor")).to_have_value("any")
    word.fill("")
    word.press("Enter")
    expect(view.get_by_role("status")).to_have_text("1,536 units, by their best tag")
    view.get_by_label("site").select_option(small.SITE)
    assert_shows(view, neurons, neurons.search(site=small.SITE).index[0])
    assert len(chosen_units(view)) == 1536


FOCUSED = """() => {
  const at = document.activeElement;
  return [at.tagName, (at.labels?.[0] ?? at).innerText];
}"""


def test_a_click_goes_to_a_neighbour_and_the_keyboard_goes_everywhere(notebook, neurons, photograph):
    """Tab alone, from the first field to the neighbours, in the order in which they stand."""
    view = browsing.cell_output(notebook, 1)
    view.get_by_label("descriptor").select_option("question")
    unit = neurons.best_units("question", 1)[0]
    assert_shows(view, neurons, unit)
    near = neurons.neighbours(unit).index
    view.get_by_role("button", name=near[0], exact=True).click()
    assert_shows(view, neurons, near[0])
    photograph(view, "lab-neurons-neighbour")
    view.get_by_label("descriptor").focus()
    reached = []
    while len(reached) < 7:  # a table that is wider than its room is reached, too, to be moved
        kind, name = notebook.evaluate(FOCUSED)
        reached += [name] if kind in ("SELECT", "INPUT", "BUTTON") else []
        notebook.keyboard.press("Tab")
    following = neurons.neighbours(near[0]).index
    assert reached == ["descriptor", "or word", "site", "unit", "or by name", *following[:2]]
    notebook.keyboard.press("Enter")  # on the third neighbour
    assert_shows(view, neurons, following[2])


def test_two_corpora_are_compared(notebook, compared, photograph):
    view, names = browsing.cell_output(notebook, 5), list(compared.browser.corpora)
    first = compared.browser.best_units(compared.browser.descriptors[0], 1)[0]
    assert_compares(view, compared, first, names[0], names[1])
    photograph(view, "lab-compare-0")
    view.get_by_label("descriptor").select_option("negation")
    units = compared.browser.best_units("negation")
    assert_compares(view, compared, units[0], names[0], names[1])
    listed = view.get_by_label("unit")
    listed.press("ArrowDown")
    assert_compares(view, compared, units[1], names[0], names[1])
    view.get_by_label("right").select_option(names[3])
    assert_compares(view, compared, units[1], names[0], names[3])
    assert_within(view)
    photograph(view, "lab-compare-1")
    view.get_by_label("left").select_option(names[3])
    expect(view.get_by_text("choose two different corpora")).to_be_visible()


def assert_compares(view, compared, unit, one, other):
    """``view`` holds ``unit`` in these two corpora, with their tags, numbers and verdicts, and is shaded."""
    expect(view.locator("h3")).to_contain_text(unit)
    expect(view.locator(".corpus h4")).to_have_text([one, other])
    best = dict(strongest(compared.browser, unit))
    for i, name in enumerate((one, other)):
        expect(view.locator(".corpus").nth(i).locator("li").first).to_have_text(best[name])
    expect(view.locator("li mark.peak")).to_have_count(2 * compared.browser.k)
    tags = compared.tags(unit, one, other)
    expect(view.locator("table.scores tr th:first-child")).to_have_text(["best tag", *tags.index])
    for tag in tags.index:
        for what in ("compare", "taxonomy"):
            expect(view.locator("p.note", has_text=f"{tag}, {what}: ")).to_be_visible()
    for i, tag in enumerate(tags.index, 1):
        cells = view.locator("table.scores tr").nth(i).locator("td")
        expect(cells.nth(0)).to_have_text(f"{tags.loc[tag, one]:z.2f}")
        expect(cells.nth(2)).to_have_text(f"{tags.loc[tag, other]:z.2f}")


def test_sets_are_judged_by_keyboard_saved_and_gone_on_with(notebook, photograph):
    """Typed answers, a mark by mouse, another annotator in the same kernel, and the cell run again."""
    view, answers = browsing.cell_output(notebook, 6), notebook.folder / "answers"
    expect(view.get_by_text("ada: set s1, from reviews; 0 of 4 judged")).to_be_visible()
    photograph(view, "lab-annotate-0")
    line = view.get_by_label("or type")
    line.focus()
    notebook.keyboard.type("has a price: 1-3")
    notebook.keyboard.press("Enter")
    expect(view.get_by_text("ada: set s2, from fiction; 1 of 4 judged")).to_be_visible()
    expect(line).to_be_focused()
    notebook.keyboard.type("a door")
    notebook.keyboard.press("Enter")
    expect(view.get_by_role("alert")).to_contain_text("type n, or the pattern's name")
    line.fill("n")
    notebook.keyboard.press("Enter")
    expect(view.get_by_text("ada: set s3, from reviews; 2 of 4 judged")).to_be_visible()
    assert saved_by(answers, "ada") == [["s1", "yes", "has a price", "1 2 3"], ["s2", "no", "", ""]]
    view.get_by_label("annotator").fill("bob")
    view.get_by_label("annotator").press("Enter")
    expect(view.get_by_text("bob: set s1, from reviews; 0 of 4 judged")).to_be_visible()
    for number in ("1", "3"):
        view.get_by_role("checkbox", name=number).check()
    view.get_by_role("button", name="pattern", exact=True).click()
    view.get_by_label("its name").fill("prices")
    view.get_by_label("its name").press("Tab")
    view.get_by_role("button", name="save, next").click()
    expect(view.get_by_text("bob: set s2, from fiction; 1 of 4 judged")).to_be_visible()
    assert_within(view)
    photograph(view, "lab-annotate-1")
    assert saved_by(answers, "bob") == [["s1", "yes", "prices", "1 3"]]
    notebook.locator(".jp-Notebook .jp-CodeCell").nth(5).locator(".jp-InputArea-editor").click()
    notebook.keyboard.press("Control+Enter")  # the cell again, as after a break
    expect(view.get_by_text("ada: set s3, from reviews; 2 of 4 judged")).to_be_visible()
    assert saved_by(answers, "ada")[0] == ["s1", "yes", "has a price", "1 2 3"]


def saved_by(folder, annotator):
    answers = pd.read_csv(folder / f"{annotator}.csv", dtype=str, keep_default_na=False)
    return answers[["set_id", "pattern", "name", "positives"]].to_numpy().tolist()


def test_the_salience_slider_moves_by_key_and_by_mouse(notebook, photograph):
    view = browsing.cell_output(notebook, 2)
    title = view.locator("h3")
    expect(title).to_have_text("upos: 1 of 24 units keep 0.70, all reach 0.97")
    expect(view.locator("ol li")).to_have_count(1)
    photograph(view, "lab-salience-0")
    handle = view.locator(".noUi-handle")
    handle.press("ArrowRight")
    handle.press("ArrowRight")
    expect(title).to_have_text("upos: 4 of 24 units keep 0.90, all reach 0.97")
    expect(view.locator("ol li")).to_have_count(4)
    track = view.locator(".noUi-target").bounding_box()
    notebook.mouse.click(track["x"] + track["width"] - 1, track["y"] + track["height"] / 2)
    expect(title).to_have_text("upos: 8 of 24 units keep 0.95, all reach 0.97")
    view.get_by_label("property").select_option("number")
    expect(title).to_have_text("number: 8 of 24 units keep 0.95, all reach 0.97")
    first = {view.locator("ol li b").nth(i).inner_text() for i in range(3)}
    assert first == {f"layer.1.hidden.{i}" for i in (5, 6, 7)}  # the units that carry it
    assert_within(view)
    photograph(view, "lab-salience-1")


def test_the_tree_stepper_goes_by_sentence_and_layer(notebook, photograph):
    view = browsing.cell_output(notebook, 3)
    words = view.locator("svg.tree text")
    expect(view.locator("h3")).to_have_text("40% of the edges at layer.0.hidden")
    expect(words).to_have_text(small.SENTENCES["one"])
    photograph(view, "lab-trees-0")
    view.get_by_label("sentence").select_option("two")
    expect(words).to_have_text(small.SENTENCES["two"])
    layer = view.get_by_label("layer")
    layer.focus()
    layer.press("ArrowDown")
    layer.press("ArrowDown")
    expect(view.locator("h3")).to_have_text("57% of the edges at layer.2.hidden")  # 4 of 7
    expect(view.locator("svg.tree path[stroke-dasharray]")).to_have_count(1)
    expect(view.locator("svg.tree path[stroke='#0072B2']")).to_have_count(4)
    assert_within(view)
    photograph(view, "lab-trees-1")


def test_descriptors_are_edited_and_saved(notebook, photograph):
    view = browsing.cell_output(notebook, 4)
    expect(view.locator("h3")).to_have_text("3 descriptors")
    photograph(view, "lab-editor-0")
    view.get_by_role("button", name="drop").click()
    expect(view.get_by_text("choose one of the list")).to_be_visible()
    chosen = view.get_by_label("descriptor")
    chosen.focus()
    chosen.press("ArrowDown")  # nothing was chosen: the first, price
    view.get_by_label("new name").fill("money")
    view.get_by_role("button", name="rename").click()
    expect(view.get_by_text("saved in edits.json")).to_be_visible()
    chosen.focus()
    for _ in range(3):
        chosen.press("ArrowDown")
    view.get_by_role("button", name="drop").click()
    expect(view.locator("h3")).to_have_text("2 descriptors")
    expect(view.locator("table tr")).to_contain_text(["texts", "money", "cost"])
    assert_within(view)
    photograph(view, "lab-editor-1")
    saved = json.loads((notebook.folder / "edits.json").read_text(encoding="utf-8"))
    assert saved == {"join": {}, "drop": ["mood"], "rename": {"price": "money"}}


def test_keys_in_a_widget_do_nothing_to_the_notebook(notebook):
    """Letters and arrows typed into a list are shortcuts of JupyterLab: X would cut the cell."""
    cells = notebook.locator(".jp-Notebook .jp-CodeCell")
    for number, name in enumerate(("unit", "property", "layer", "descriptor", "unit"), 1):
        field = browsing.cell_output(notebook, number).get_by_label(name, exact=True)
        for key in ("x", "d", "d", "a"):
            field.press(key)
        expect(field).to_be_focused()
    expect(cells).to_have_count(len(CELLS))


def test_everything_in_jupyterlab_can_be_read(notebook):
    assert_readable(notebook, ".nbkit *, .nbkit-controls *")


def test_jupyterlab_asked_this_machine_only_and_nothing_complained(notebook):
    assert not notebook.complaints
    assert {re.match(r"\w+://([\d.]+)|data:|blob:", a)[1] for a in notebook.complaints.addresses} <= {
        "127.0.0.1",
        None,
    }


# ---------------------------------------------------------------------------------- pages, without a network


@pytest.fixture(params=WIDTHS)
def page(request, chromium, witness):
    """A page without a network, at three widths; at the end: no complaint, nothing too wide or too small."""
    width, height = WIDTHS[request.param]
    context = chromium.new_context(viewport={"width": width, "height": height})
    context.set_offline(True)
    page = context.new_page()
    page.device, complaints = request.param, witness(page)
    yield page
    assert not complaints
    assert all(a.startswith(("file:", "data:", "about:", "blob:")) for a in complaints.addresses)
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page is wider than the window"
    assert_readable(page)
    context.close()


def opened(page, text, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(text, encoding="utf-8")
    page.goto(path.as_uri())


@pytest.fixture(scope="module")
def page_of_neurons(neurons):
    """Four units and a neighbour of the third, and the page of them."""
    units = neurons.best_units("question", 2) + neurons.best_units("negation", 2)
    units.append(neurons.neighbours(units[2]).index[1])
    return units, neurons.to_html(units, title="Neurons")


def test_the_page_of_neurons(page, neurons, page_of_neurons, photograph, tmp_path):
    units, text = page_of_neurons
    opened(page, text, tmp_path)
    shown, chosen = page.locator("section:visible"), page.get_by_label("unit")
    assert_shows(shown, neurons, units[0])
    photograph(page, f"page-neurons-{page.device}-0")
    chosen.select_option(index=2)
    assert_shows(shown, neurons, units[2])
    chosen.press("ArrowDown")
    assert_shows(shown, neurons, units[3])
    page.get_by_label("descriptor").select_option("negation")
    best = neurons.search(descriptor="negation", n=None)[units]
    assert chosen_units(page) == best.sort_values(ascending=False, kind="stable").index.tolist()
    word = page.get_by_label("or word")
    word.press_sequentially("Not")
    expect(page.get_by_role("status")).to_contain_text("by their response to the word")
    data = json.loads(page.locator("#data").text_content())
    found = [units[i] for i, _ in data["words"]["not"]]
    assert chosen_units(page) == found and units[2] in found[:2]
    assert_shows(shown, neurons, found[0])
    photograph(page, f"page-neurons-{page.device}-1")
    word.fill("xylophonist")
    expect(page.get_by_role("status")).to_contain_text("“xylophonist” is not among the")
    page.get_by_label("site").select_option(small.SITE)
    word.fill("")
    expect(chosen.locator("option")).to_have_count(len(units))
    chosen.select_option(index=2)
    near = shown.get_by_role("button", name=units[4], exact=True)
    near.focus()
    near.press("Enter")
    assert_shows(shown, neurons, units[4])
    expect(chosen).to_be_focused()


def test_the_page_of_two_corpora(page, compared, photograph, tmp_path):
    units, names = compared.browser.best_units("negation", 2), list(compared.browser.corpora)
    opened(page, compared.to_html(units), tmp_path)
    shown = page.locator("#view")
    assert_compares(shown, compared, units[0], names[0], names[1])
    photograph(page, f"page-compare-{page.device}-0")
    page.get_by_label("unit").select_option(index=1)
    page.get_by_label("corpora").select_option(f"{names[1]} · {names[3]}")
    assert_compares(shown, compared, units[1], names[1], names[3])
    photograph(page, f"page-compare-{page.device}-1")


def test_the_page_of_sets_to_judge(page, photograph, tmp_path):
    opened(page, small.annotate().to_html(), tmp_path)
    expect(page.locator("h3")).to_have_text(
        [f"set s{n}, from {name}" for n, name in enumerate(["reviews", "fiction"] * 2, 1)]
    )
    expect(page.locator("li")).to_have_count(12)
    photograph(page, f"page-annotate-{page.device}-0")


def test_the_page_of_descriptors(page, photograph, tmp_path):
    opened(page, small.descriptor_editor(tmp_path / "edits.json").to_html(), tmp_path)
    expect(page.locator("table tr")).to_contain_text(["texts", "price", "cost", "mood"])
    photograph(page, f"page-editor-{page.device}-0")


def test_the_page_of_salience(page, photograph, tmp_path):
    opened(page, small.salience_slider().to_html(), tmp_path)
    expect(page.locator("h3")).to_have_text("upos: 1 of 24 units keep 0.70, all reach 0.97")
    photograph(page, f"page-salience-{page.device}-0")
    slider = page.get_by_label("units")
    slider.fill("2")
    expect(page.locator("output")).to_have_text("4")
    slider.press("ArrowRight")
    page.get_by_label("property").select_option("number")
    expect(page.locator("h3")).to_have_text("number: 8 of 24 units keep 0.95, all reach 0.97")
    expect(page.locator("output")).to_have_text("8")
    photograph(page, f"page-salience-{page.device}-1")


def test_the_page_of_trees(page, photograph, tmp_path):
    opened(page, small.tree_stepper().to_html(), tmp_path)
    expect(page.locator("svg.tree text")).to_have_text(small.SENTENCES["one"])
    photograph(page, f"page-trees-{page.device}-0")
    page.get_by_label("sentence").select_option("two")
    page.get_by_label("layer").select_option("layer.3.hidden")
    expect(page.locator("svg.tree text")).to_have_text(small.SENTENCES["two"])
    expect(page.locator("h3")).to_have_text("71% of the edges at layer.3.hidden")  # 5 of 7
    photograph(page, f"page-trees-{page.device}-1")


# ---------------------------------------------------------------------------------- the report

FOUND = [0.5, 0.4, 0.6, 9]
FACTS = {
    "largest": {"reviews": ["food", "water", "sleep", "sea"]},
    "units": 9216, "texts": 1840, "descriptors": 106, "shared": 32, "tags": 17229, "tags_shuffled": 0,
    "precision_recall": [
        {"method": f"{rule}, {where}", "k": 2, "precision": FOUND, "recall": FOUND}
        for rule in ("pearson", "frequency") for where in ("same corpus", "other corpora")
    ],
    "agreement": {
        kind: {"tags": 61, "baselines": {"permuted rows": FOUND}}
        | dict.fromkeys(("within", "across", "gap", "same_encoding_gap"), FOUND)
        for kind in ("FFN units, max over tokens", "last layer, [CLS]")
    },
    "outcomes": {
        kind: dict.fromkeys(("kept", "significant", "changed", "silent", "undecided"), FOUND)
        for kind in ("FFN units, max over tokens", "last layer, [CLS]")
    },
    "salience": {
        "greedy_30": 0.8, "greedy_100": 0.9, "all": 0.95, "units": 2688, "words": 2896,
        "moved_100": 0.9, "moved_100_random": 0.1,
    },
    "trees": {
        "site": "layer.3.hidden", "uuas": 0.7, "uuas_random_weights": 0.5, "uuas_neighbours": 0.45,
    },
    "tuning": {"best_gain": [0.01, -0.01, 0.03]},
    "seconds": {"00_check_setup": 5.6},
    "peak_megabytes": {"00_check_setup": 1234},
}  # fmt: skip


@pytest.fixture
def written_report(neurons, tmp_path, monkeypatch):
    """The report on invented numbers, with the committed figures and the small browser."""
    monkeypatch.setenv("NBKIT_RESULTS", str(tmp_path))
    monkeypatch.setenv("NBKIT_FIGURES", str(ROOT / "figures"))
    monkeypatch.setattr(report, "ROOT", tmp_path)
    preset = presets.load("sample", ROOT / "notebooks" / "presets.toml")
    built = [name for name in report.MORE if (preset.figures / f"{name}.svg").exists()]
    monkeypatch.setattr(report, "MORE", built)  # that all are built is for test_notebooks to say
    preset.results.mkdir()
    (preset.results / "summary.json").write_text(json.dumps(FACTS), encoding="utf-8")
    (preset.results / "browser.html").write_text(neurons.to_html(), encoding="utf-8")
    return report.write_report(preset)


def test_the_report(page, neurons, written_report, photograph):
    page.goto(written_report.as_uri())
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    expect(page.locator(".cards div", has_text="illusion gap")).to_contain_text("0.50")
    drawn = [svg.bounding_box() for svg in page.locator("figure svg").all()]
    assert len(drawn) == 2 + len(report.MORE) > 4 and all(
        box["width"] > 250 and box["height"] > 100 for box in drawn
    )
    broken = "images => images.filter(i => !(i.complete && i.naturalWidth)).length"
    assert page.locator("img").evaluate_all(broken) == 0
    photograph(page, f"report-{page.device}-0")
    frame = page.frame_locator("iframe")
    frame.get_by_label("unit").select_option(index=1)
    unit = frame.locator("#unit option").nth(1).inner_text().split(" · ")[0]
    expect(frame.locator("section:visible h3")).to_have_text(unit)
    wider = "html => html.scrollWidth - html.clientWidth"
    assert frame.locator("html").evaluate(wider) == 0, "the neurons are wider than their frame"
    page.get_by_text("Time of each notebook").click()
    expect(page.get_by_text("1,234 MB")).to_be_visible()
    expect(page.get_by_text("00_check_setup")).to_be_visible()
    page.locator("iframe").scroll_into_view_if_needed()
    photograph(page, f"report-{page.device}-1")
