"""From a click to the picture: the neuron browser in JupyterLab with all 9,216 FFN units.

    python benchmarks/browser.py

The four sample corpora, MiniLM. A JupyterLab is started, a headless Chromium runs the notebook, chooses
units from the list, and its clock gives the milliseconds from the choice to the frame after the one in which
the new picture stands in the page (the round trip to the kernel, exemplars, HTML, layout), and on until its
tokens are shaded (the model has run over the exemplars). Every unit is chosen twice, never seen before and
known; and every descriptor once. Writes results/browser.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import nbformat
import pandas as pd

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tools"))
TARGET = 200  # milliseconds

CELL = """
from nbkit import activations, models, texts, widgets
subject = models.load()
corpora = {name: texts.load(f"sample:{name}") for name in texts.SAMPLES[:4]}
labels = {name: corpus.descriptors("surface") for name, corpus in corpora.items()}
stored = {name: activations.capture(subject, corpus) for name, corpus in corpora.items()}
browser = widgets.neuron_browser(subject, corpora, stored, labels)
print(len(browser.units))
browser
"""
#: In the page: choose an option, wait until the title in the same output is another, and for the frame after;
#: then until tokens are shaded.
CHOOSE = """async (field, value) => {
  const title = () => field.closest(".jp-Cell-outputArea").querySelector("h3")?.textContent;
  const frame = () => new Promise(requestAnimationFrame), before = title(), start = performance.now();
  field.value = value;
  field.dispatchEvent(new Event("change", {bubbles: true}));
  const until = async done => {
    while (!done()) {
      await frame();
      if (performance.now() - start > 20000) throw new Error(`no new picture after ${before} for ${value}`);
    }
    await frame();
    return performance.now() - start;
  };
  const output = field.closest(".jp-Cell-outputArea");
  return [await until(() => title() !== before), await until(() => output.querySelector("li mark"))];
}"""


def measure(descriptors: int, units: int) -> list[dict]:
    """One line a choice: unit, visit (first or again), milliseconds."""
    import browsing

    cell = nbformat.v4.new_code_cell(CELL)
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


def choices(view, descriptors: int, units: int) -> list[dict]:
    """Choose descriptors, and of each some units, all of them twice."""
    lines = []

    def choose(label: str, visit: str, values: list[str]) -> None:
        field = view.get_by_label(label, exact=True)
        for value in values:
            picture, shaded = (round(spent, 1) for spent in field.evaluate(CHOOSE, value))
            line = {"choice": label, "value": value, "visit": visit}
            lines.append({**line, "picture": picture, "shaded": shaded})

    for descriptor in options(view, "descriptor")[1 : descriptors + 1]:
        choose("descriptor", "first", [descriptor])
        some = options(view, "unit")[1 : units + 1]
        for visit in ("first", "again"):
            choose("unit", visit, some)
    return lines


def options(view, label: str) -> list[str]:
    found = view.get_by_label(label, exact=True).locator("option")
    return found.evaluate_all("all => all.map(option => option.value)")


def summary(lines: list[dict]) -> list[dict]:
    """Milliseconds by choice and visit, and the share within the target."""
    rows = []
    for (choice, visit), part in pd.DataFrame(lines).groupby(["choice", "visit"]):
        for what in ("picture", "shaded"):
            spent = part[what]
            row = {"choice": choice, "visit": visit, "until": what, "n": len(spent), "median": spent.median()}
            row |= {"p95": spent.quantile(0.95), "max": spent.max(), "within": (spent <= TARGET).mean()}
            rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--descriptors", type=int, default=5)
    parser.add_argument("--units", type=int, default=10, help="units of each descriptor")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    given = parser.parse_args()
    from nbkit import provenance

    lines = measure(given.descriptors, given.units)
    record = provenance.manifest(benchmark="browser", load=os.getloadavg()[0], target_milliseconds=TARGET)
    record |= {"results": summary(lines), "choices": lines}
    print(pd.DataFrame(record["results"]).round(2).to_string())
    given.out.mkdir(exist_ok=True)
    (given.out / "browser.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
