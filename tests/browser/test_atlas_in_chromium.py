"""The site of all units in a real Chromium: from disk, without a network, by mouse, keyboard and link."""

import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import small
from playwright.sync_api import expect
from test_any_text import MARKUP, WORDS, N, named

from nbkit import activations, claims, plots, texts
from nbkit.activations import exemplars
from nbkit.plots.html import shade_html

pytestmark = pytest.mark.needs_browser
WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def given(minilm):
    return small.stores(minilm)


@pytest.fixture(scope="module")
def index(given, tmp_path_factory):
    _, corpora, stored, labels = given
    made = pd.DataFrame(
        {"unit": [f"{small.SITE}.7", f"{small.SITE}.300"], "description": ["question", "number"]}
    )
    few = {"min_positives": 3, "permutations": 20, "progress": False}
    kept = {name: frame[["question", "number"]] for name, frame in labels.items()}
    judged = claims.judge(stored, made, corpora, labeller=kept, **few)
    folder = tmp_path_factory.mktemp("atlas")
    return plots.atlas(folder, *given, judged=judged, word_texts=60, progress=False)


@pytest.fixture
def opened(chromium, witness):
    """``opened(index, hash)``: the page from disk without a network, and what it complains about."""
    contexts = []

    def open_it(index, fragment="", size=WIDTHS["desktop"]):
        width, height = size
        contexts.append(chromium.new_context(offline=True, viewport={"width": width, "height": height}))
        page = contexts[-1].new_page()
        seen = witness(page)
        page.goto(index.as_uri() + fragment)
        expect(page.locator("#view h2")).to_be_visible()
        return page, seen

    yield open_it
    for context in contexts:
        context.close()


def listed(page):
    return page.locator("#list b").all_inner_texts()


def test_it_opens_from_disk_on_the_best_unit_and_searches_as_the_browser_does(index, given, opened):
    page, seen = opened(index)
    browser = plots.neuron_browser(*given)
    expect(page.locator("#view h2")).to_have_text(browser.search(n=1).index[0])
    expect(page.locator("#found")).to_have_text("1,536 units by their best tag")
    page.get_by_label("descriptor").select_option(label="negation")
    expect(page.locator("#found")).to_contain_text("by their highest score for the descriptor")
    assert listed(page)[:8] == browser.best_units("negation", 8)
    page.get_by_label("or word").fill("NOT")
    expect(page.locator("#found")).to_contain_text("that respond most to the word")
    responses = browser.page_responses(browser.units.tolist(), 60).loc["not"]
    assert listed(page)[:5] == responses.nlargest(5).index.tolist()
    assert page.get_by_label("descriptor").input_value() == ""
    page.get_by_label("or word").fill("xylophonist")
    expect(page.locator("#found")).to_contain_text("“xylophonist” is not among the")
    page.get_by_label("or claim").fill("quest")
    expect(page.locator("#found")).to_have_text("1 unit with such a claim; of 2 claims")
    page.locator("#list a").click()
    expect(page.locator("#view blockquote")).to_have_text("question")
    assert page.url.endswith(f"#{small.SITE}.7") and page.title().startswith(f"{small.SITE}.7")
    assert not seen and all(address.startswith("file:") for address in seen.addresses)


def test_every_unit_is_found_by_name_by_site_by_descriptor_and_by_link(index, opened):
    page, seen = opened(index)
    every = [f"{small.SITE}.{i}" for i in range(1536)]
    found = page.evaluate(
        """async () => {
          const wait = () => new Promise(resolve => setTimeout(resolve, 0)), missed = [], places = [];
          for (const name of names) {
            at("name").value = name;
            const {lines} = await search();
            if (lines.length !== 1 || names[lines[0][0]] !== name) missed.push(name);
          }
          at("name").value = "";
          at("descriptor").value = "3";
          const byTag = (await search()).lines.map(line => names[line[0]]);
          at("descriptor").value = "";
          for (const name of names) {
            const s = siteOf[placeOf.get(name)], i = placeOf.get(name) - firsts[s];
            const units = await load("units-" + s + "-" + Math.floor(i / data.unitsInFile));
            if (units[i % data.unitsInFile].length !== 6) missed.push(name);
          }
          return [names, byTag, missed];
        }"""
    )
    assert found[0] == every and sorted(found[1]) == sorted(every) and found[2] == []
    page.get_by_label("site").select_option(label=small.SITE)
    more = page.get_by_role("button", name="show more")
    while more.is_visible():
        more.click()
    assert sorted(listed(page)) == sorted(every)
    assert not seen


def test_a_link_shows_its_unit_shaded_as_python_shades_it(index, given, opened):
    subject, corpora, stored, _ = given
    unit = f"{small.SITE}.512"
    page, _ = opened(index, f"#{unit}")
    expect(page.locator("#view h2")).to_have_text(unit)
    bound = max(float(a.values[:, 512].max()) for a in stored.values())
    best = exemplars.top(stored["fiction"], corpora["fiction"], unit, 4)
    shaded = exemplars.shade(subject, texts.Texts.from_list(best["text"]), unit)
    items = page.locator("#view .corpus", has_text="fiction").locator("li")
    for i, (text, tokens) in enumerate(zip(best["text"], shaded.values(), strict=True)):
        assert items.nth(i).inner_text().startswith(text)
        marks = (
            items.nth(i)
            .locator("mark")
            .evaluate_all(
                "all => all.map(m => [m.textContent, Number(m.style.getPropertyValue('--a')), m.className])"
            )
        )
        found = re.findall(
            r'<mark( class="peak")? style="--a:([\d.]+)"[^>]*>([^<]*)', shade_html(text, tokens, bound)
        )
        clear = [(letters, float(share), peak != "") for peak, share, letters in found if float(share) > 0.03]
        seen = [(letters, share, name == "peak") for letters, share, name in marks if share > 0.03]
        close = {letters for letters, share, _ in [*clear, *seen] if share < 0.06}  # rounded to either side
        clear, seen = ([line for line in lines if line[0] not in close] for lines in (clear, seen))
        assert [line[::2] for line in seen] == [line[::2] for line in clear] and len(seen) > 2
        assert [line[1] for line in seen] == pytest.approx([line[1] for line in clear], abs=0.02)
    page.evaluate(f"location.hash = '{small.SITE}.3'")
    expect(page.locator("#view h2")).to_have_text(f"{small.SITE}.3")
    page.get_by_role("link", name=f"{small.SITE}.4 ›").click()
    expect(page.locator("#view h2")).to_have_text(f"{small.SITE}.4")
    page.go_back()
    expect(page.locator("#view h2")).to_have_text(f"{small.SITE}.3")
    page.evaluate("location.hash = 'layer.9.ffn.1'")
    expect(page.locator("#view")).to_have_text(f"no unit layer.9.ffn.1; names look like {small.SITE}.0")


def test_the_keyboard_goes_everywhere(index, opened):
    page, _ = opened(index)
    page.get_by_label("descriptor").focus()
    reached = []
    for _ in range(8):
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        page.keyboard.press("Tab")
    assert reached[:6] == ["descriptor", "word", "site", "claim", "verdict", "name"]
    page.get_by_label("or name").fill(".51")
    expect(page.locator("#found")).to_contain_text("in the name")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    second = listed(page)[1]
    page.keyboard.press("Enter")
    expect(page.locator("#view h2")).to_have_text(second)
    expect(page.locator("#list a[aria-current]")).to_contain_text(second)
    page.keyboard.press("End")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    expect(page.locator("#view h2")).to_have_text(listed(page)[-2])


@pytest.mark.parametrize("size", WIDTHS)
def test_no_page_is_wider_than_its_window(index, opened, photograph, size):
    page, seen = opened(index, f"#{small.SITE}.7", WIDTHS[size])
    expect(page.locator("#view mark").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= WIDTHS[size][0]
    wider = "all => all.filter(e => e.scrollWidth > e.clientWidth + 1 && !e.closest('.wide')).length"
    assert page.locator("#view div, #view p, #view li, nav, #list").evaluate_all(wider) == 0
    photograph(page, f"atlas-{size}")
    assert not seen


def test_any_text_is_shown_and_none_is_alive(minilm, opened, tmp_path):
    corpora = {
        named(c): texts.Texts.from_list([f"{WORDS} {named(i)} 😀 {c}" for i in range(N)], named(c))
        for c in (0, 1)
    }
    stored = {n: activations.capture(minilm, c, sites=small.SITE, cache=False) for n, c in corpora.items()}
    some = {n: a.select(units=a.units["unit"][:40].tolist()) for n, a in stored.items()}
    label = {named(i): (np.arange(N) % (i + 2) == 0).astype(float) for i in range(5)}
    labels = {n: pd.DataFrame(label, index=pd.RangeIndex(N, name="text_id")) for n in corpora}
    made = pd.DataFrame({"unit": [f"{small.SITE}.{i}" for i in range(4)], "description": list(label)[:4]})
    made["made_by"] = MARKUP[2]
    few = {"min_positives": 1, "permutations": 10, "progress": False}
    judged = claims.judge(some, made, corpora, labeller=labels, **few)
    index = plots.atlas(
        tmp_path / "a", minilm, corpora, some, labels, judged=judged, title=named(1), progress=False
    )
    page, seen = opened(index, f"#{small.SITE}.2")
    expect(page.locator("#view blockquote")).to_have_text(named(2))
    first = page.locator("#view li").first
    best = exemplars.top(some[named(0)], corpora[named(0)], f"{small.SITE}.2", 1)["text"][0]
    assert first.evaluate("li => li.textContent").startswith(best)
    for field, typed in (("or claim", "onerror"), ("or word", "not"), ("or name", MARKUP[0])):
        page.get_by_label(field).fill(typed)
        page.wait_for_timeout(100)
    units = some[named(0)].units.assign(site=MARKUP[2], unit=[named(i) for i in range(40)])
    odd = {n: replace(a, units=units) for n, a in some.items()}
    index = plots.atlas(tmp_path / "b", None, corpora, odd, labels, progress=False)
    other, complaints = opened(index)
    other.get_by_label("or name").fill(named(7))
    other.locator("#list a").click()
    expect(other.locator("#view h2")).to_have_text(named(7))
    expect(other.get_by_label("or word")).to_be_hidden()
    for shown in (page, other):
        assert shown.evaluate("window.alive") is None
        assert shown.evaluate("document.documentElement.scrollWidth") <= 1280
    assert not seen and not complaints


def test_a_script_that_is_missing_is_named(index, opened, tmp_path):
    shutil.copytree(index.parent, tmp_path / "part")
    for path in (tmp_path / "part").rglob("units-0-0.js"):
        path.unlink()
    page, _ = opened(tmp_path / "part" / "index.html", f"#{small.SITE}.1000")
    page.evaluate(f"location.hash = '{small.SITE}.1'")
    expect(page.locator("#view")).to_contain_text(
        "units-0-0.js is not there: copy the whole folder of this page"
    )
