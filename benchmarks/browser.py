"""From a click to the picture: the neuron browser in JupyterLab with all 9,216 FFN units.

    python benchmarks/browser.py

The four sample corpora, MiniLM. A JupyterLab is started, a headless Chromium runs the notebook, searches and
chooses, and its clock gives three times in milliseconds for each choice. ``picture``: from the choice to the
frame after the one in which the right unit's picture stands in the page (the round trip to the kernel,
exemplars, HTML, layout). ``shaded``: the same until its tokens are shaded (the model has run over the
exemplars, up to the unit's site). ``whole``: until its neighbours are listed, too, and the next choice comes.
The choices:

    unit         from the 50 that a descriptor finds, never seen before ("first"), and once more ("again")
    unit of all  from the list of all 9,216, places drawn at random
    neighbour    a button under the picture
    descriptor   another list, and the picture of its first unit
    all          the list of 9,216 itself, put into the page
    word         the same, after the model has read up to 32 texts

Five processes take part, and on a busy machine each waits for its turn: ``load`` is written down, and so is
the processor time that the kernel's part takes by itself, which does not depend on it. Writes
results/browser.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import pandas as pd

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tools"))
TARGET = 200  # milliseconds
UNTIL = ("picture", "shaded", "whole")
WORDS = "not because mother price river they".split()

CELL = """
from nbkit import activations, models, texts, widgets
subject = models.load()
corpora = {name: texts.load(f"sample:{name}") for name in texts.SAMPLES[:4]}
labels = {name: corpus.descriptors("surface") for name, corpus in corpora.items()}
stored = {name: activations.capture(subject, corpus) for name, corpus in corpora.items()}
browser = widgets.neuron_browser(subject, corpora, stored, labels)
browser.view(browser.units[0])  # the first pass of a process is slow
"""
SHOW = """
print(len(browser.units))
browser
"""
#: In the page: choose, wait for the picture of the unit that was asked for (after a search: of the first unit
#: of a new list), and for the frame after; then until tokens are shaded.
CHOOSE = """async (field, value) => {
  const output = field.closest(".jp-Cell-outputArea"), list = output.querySelector("select[size]");
  const frame = () => new Promise(requestAnimationFrame), plain = text => text.replaceAll("\\u00a0", " ");
  const title = () => output.querySelector("h3")?.textContent;
  const before = list.options[0];
  const first = () => list.options.length ? plain(list.options[0].textContent).split(" · ")[0] : null;
  const button = field.tagName === "BUTTON", chosen = button || field === list;
  const wanted = button ? field.textContent : plain(value ?? "").split(" · ")[0];
  const start = performance.now();
  if (button) field.click();
  else {
    field.value = value;
    field.dispatchEvent(new Event("change", {bubbles: true}));
  }
  const until = async done => {
    while (!done()) {
      await frame();
      if (performance.now() - start > 20000) throw new Error(`no ${value ?? wanted}, but ${title()}`);
    }
    await frame();
    return performance.now() - start;
  };
  const right = () => chosen ? title() === wanted : list.options[0] !== before && title() === first();
  const shaded = () => right() && output.querySelector("li mark");
  const near = () => output.querySelector(".near .note")?.textContent.includes(` ${title()} `);
  return [await until(right), await until(shaded), await until(() => shaded() && near())];
}"""


def measure(descriptors: int, units: int) -> list[dict]:
    """One line a choice: what, its value, visit (first or again), milliseconds."""
    import browsing

    cell = nbformat.v4.new_code_cell(CELL + SHOW)
    made = nbformat.v4.new_notebook(cells=[cell])
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    with tempfile.TemporaryDirectory() as name, browsing.chromium() as browser:
        nbformat.write(made, Path(name) / "neurons.ipynb")
        with browsing.lab(Path(name)) as url:
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            browsing.run_all(page, url("neurons.ipynb"), cells=1, seconds=300)
            view = browsing.cell_output(page, 1)
            view.get_by_text("9216", exact=True).wait_for()
            return choices(view, descriptors, units)


def kernel(units: int = 30) -> dict[str, float]:
    """Median milliseconds of processor time for the parts of a view, in this process."""
    made: dict = {}
    exec(CELL, made)
    browser, spent = made["browser"], []
    for unit in random.Random(1).sample(browser.units.tolist(), units):
        times = [time.process_time()]
        for _ in browser.drawn(unit):
            times.append(time.process_time())
        browser.neighbours_html(unit)
        times.append(time.process_time())
        spent.append([1000 * (b - a) for a, b in itertools.pairwise(times)])
    return pd.DataFrame(spent, columns=["picture", "shading", "neighbours"]).median().round(1).to_dict()


def choices(view, descriptors: int, units: int) -> list[dict]:
    """Search by descriptors, words and nothing, and choose units from what is found."""
    lines = []

    def choose(what: str, field, value: str | None = None, visit: str = "first") -> None:
        spent = dict(zip(UNTIL, (round(x, 1) for x in field.evaluate(CHOOSE, value)), strict=True))
        lines.append({"choice": what, "value": value or field.inner_text(), "visit": visit, **spent})

    descriptor, listed = (view.get_by_label(label, exact=True) for label in ("descriptor", "unit"))
    for name in options(descriptor)[2 : descriptors + 2]:  # after "any" and the one that is shown
        choose("descriptor", descriptor, name)
        some = options(listed)[1 : units + 1]
        for visit in ("first", "again"):
            for unit in some:
                choose("unit", listed, unit, visit)
        choose("neighbour", view.locator("button:visible").last)
    for word in WORDS:
        choose("word", view.get_by_label("or word"), word)
    for name in options(descriptor)[1:4]:  # each empties the field of the word
        choose("descriptor", descriptor, name)
        choose("all", descriptor, "any")
    every = options(listed)
    assert len(every) == 9216, len(every)
    for unit in random.Random(0).sample(every[1:], descriptors * units // 2):
        choose("unit of all", listed, unit)
    return lines


def options(field) -> list[str]:
    return field.locator("option").evaluate_all("all => all.map(option => option.value)")


def summary(lines: list[dict]) -> list[dict]:
    """Milliseconds by choice and visit, and the share within the target."""
    rows = []
    for (choice, visit), part in pd.DataFrame(lines).groupby(["choice", "visit"]):
        for what in UNTIL:
            spent = part[what]
            row = {"choice": choice, "visit": visit, "until": what, "n": len(spent), "median": spent.median()}
            row |= {"p95": spent.quantile(0.95), "max": spent.max(), "within": (spent <= TARGET).mean()}
            rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--descriptors", type=int, default=2)
    parser.add_argument("--units", type=int, default=10, help="units of each descriptor")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    given = parser.parse_args()
    from nbkit import provenance

    lines = measure(given.descriptors, given.units)
    record = provenance.manifest(benchmark="browser", load=os.getloadavg()[0], target_milliseconds=TARGET)
    record |= {"results": summary(lines), "kernel_milliseconds": kernel(), "choices": lines}
    print(record["kernel_milliseconds"], record["load"])
    print(pd.DataFrame(record["results"]).round(2).to_string())
    given.out.mkdir(exist_ok=True)
    (given.out / "browser.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
