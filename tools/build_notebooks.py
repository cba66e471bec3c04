"""Build the notebooks: execute each .py source and write the paired .ipynb.

    python tools/build_notebooks.py              all of them, with the sample preset
    python tools/build_notebooks.py 03 04        some of them

The .py file (jupytext percent format) is the source; nobody edits the .ipynb. Outputs are cleaned so that
the committed file holds no progress bars, no widget state, no times of execution and no machine's paths.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
WIDGET = "application/vnd.jupyter.widget-view+json"


def sources(only: list[str] | None = None) -> list[Path]:
    """The numbered sources in order; ``only`` are their first letters ("03")."""
    found = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.py"))
    return [path for path in found if not only or path.name.startswith(tuple(only))]


def execute(source: Path, preset: str) -> nbformat.NotebookNode:
    """The notebook of ``source``, executed in a fresh kernel with ``preset``. Errors are raised."""
    notebook = jupytext.read(source)
    _name_cells(notebook)
    named = {"JPY_SESSION_NAME": f"{source.stem}.ipynb"}  # as JupyterLab does: figures say what made them
    environment = {**os.environ, "NBKIT_PRESET": preset, **named}
    environment.setdefault("NBKIT_CACHE", str(ROOT / "cache"))
    client = NotebookClient(
        notebook,
        timeout=1800,
        kernel_name="python3",
        record_timing=False,
        store_widget_state=False,
        extra_arguments=["--log-level=40"],
        resources={"metadata": {"path": str(NOTEBOOKS)}},
    )
    client.execute(env=environment)
    return _cleaned(notebook)


def _name_cells(notebook: nbformat.NotebookNode) -> None:
    """Stable ids: a cell keeps its id as long as its place and its text stay."""
    for number, cell in enumerate(notebook.cells):
        cell.id = hashlib.sha256(f"{number}{cell.source}".encode()).hexdigest()[:8]


def _cleaned(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    notebook.metadata.pop("widgets", None)
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        kept = [o for o in cell.outputs if o.get("name") != "stderr"]
        for output in kept:
            if "data" in output:
                # a blank box where no kernel runs: the HTML stays, a progress bar's text does not
                if output.data.pop(WIDGET, None) and "text/html" not in output.data:
                    output.data.clear()
                for kind, value in output.data.items():
                    if kind.startswith("text/") and isinstance(value, str):
                        output.data[kind] = re.sub(r" at 0x[0-9a-f]+", "", value)
        cell.outputs = [o for o in kept if o.get("data") or o.output_type != "display_data"]
    return notebook


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("only", nargs="*", help='first letters of the notebooks, as "03"')
    chosen = sources(parser.parse_args(arguments).only)
    for source in chosen:
        start = time.perf_counter()
        nbformat.write(execute(source, "sample"), source.with_suffix(".ipynb"))
        print(f"{source.stem}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
