"""Build the notebooks: execute each .py source and write the paired .ipynb.

    python tools/build_notebooks.py              all of them, with the sample preset
    python tools/build_notebooks.py 03 04        some of them
    python tools/build_notebooks.py --to FOLDER --preset NAME 03     executed into a folder, and nothing else

The .py file (jupytext percent format) is the source; nobody edits the .ipynb. Outputs are cleaned so that
the committed file holds no progress bars, no widget state, no times of execution and no machine's paths.
The seconds that each took go to notebooks/seconds.json; tests hold the minutes that texts state to them.
A source with cells tagged ``solution`` also becomes an exercise, notebooks/exercises/NN_*.ipynb: the cells
from "## Exercises" to the last check, with a stub for each solution, and before them the code that these
need and no more.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import math
import os
import re
import symtable
import sys
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
PEAK = "peak_megabytes"  # in the metadata of a notebook that was executed into a folder
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
        timeout=4 * 3600,  # of a cell: fine-tuning a decoder on a slow machine takes an hour
        kernel_name="python3",
        record_timing=False,
        store_widget_state=False,
        extra_arguments=["--log-level=40"],
        resources={"metadata": {"path": str(NOTEBOOKS)}},
    )
    client.execute(env=environment)
    return _cleaned(notebook)


#: How a notebook states its minutes, after **Need**.
MINUTES = {"half a minute": 0.5, "a minute": 1, "two minutes": 2, "three minutes": 3, "four minutes": 4}


def stated_minutes(source: Path) -> float:
    """What a notebook says that it needs, as "about two minutes". Not one of ``MINUTES``: ``ValueError``."""
    text = source.read_text(encoding="utf-8")
    stated = re.search(r"\*\*Need\*\* (?:about |less than )?([a-z ]+)", text)
    if stated is None or stated[1] not in MINUTES:
        raise ValueError(f"{source.name}: after **Need** stands none of {', '.join(MINUTES)}")
    return MINUTES[stated[1]]


def minutes_of(seconds: float) -> set[float]:
    """The minutes that a text may state for ``seconds`` of seconds.json: rounded up, a tenth more or less
    (it is rewritten whenever a notebook is built); half a minute up to 30 s."""
    return {math.ceil(part) if part > 0.5 else 0.5 for part in (0.9 * seconds / 60, 1.1 * seconds / 60)}


def _record(seconds: dict[str, float]) -> None:
    """The seconds of what was built now, beside those of what was built before."""
    path = NOTEBOOKS / "seconds.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    table = json.dumps(dict(sorted({**known, **seconds}.items())), indent=1)
    path.write_text(table + "\n", encoding="utf-8")


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


def exercise(source: Path) -> nbformat.NotebookNode | None:
    """The exercise of ``source``, None where it has no solutions."""
    notebook = jupytext.read(source)
    tags = [set(cell.metadata.get("tags", [])) for cell in notebook.cells]
    if not any("solution" in of_cell for of_cell in tags):
        return None
    first = next(i for i, cell in enumerate(notebook.cells) if "## Exercises" in cell.source)
    last = max(i for i, of_cell in enumerate(tags) if "check" in of_cell)
    tasks = notebook.cells[first : last + 1]
    title = notebook.cells[0].source.splitlines()[0].split(":")[0]
    opening = nbformat.v4.new_markdown_cell(f"{title}, exercises\n\n{BEFORE}")
    tasks[0].source = tasks[0].source[tasks[0].source.index("## Exercises") :]
    needed = slice_of(notebook.cells[:first], [cell.source for cell in tasks if cell.cell_type == "code"])
    for cell in tasks:
        cell.source = cell.source.replace("](../docs/", "](../../docs/")  # it lies one folder deeper
        of_cell = set(cell.metadata.get("tags", []))
        if "solution" in of_cell:
            cell.source = stub(cell.source)
            cell.metadata["tags"] = ["exercise"]
        if "check" in of_cell:  # what is right stands in it: folded away until it is run
            cell.metadata["jupyter"] = {"source_hidden": True}
    notebook.cells = [opening, *needed, *tasks]
    _name_cells(notebook)
    return _cleaned(notebook)


#: What an exercise begins with.
BEFORE = "The cells before the tasks are those of the notebook that the tasks need."


#: What Python calls them; they are run where they stand.
COMPREHENSIONS = {"listcomp", "setcomp", "dictcomp", "genexpr"}


def slice_of(cells: list[nbformat.NotebookNode], sources: list[str]) -> list[nbformat.NotebookNode]:
    """Those of the code ``cells`` that make what the ``sources`` after them use, or what such cells use."""
    code, late = [cell for cell in cells if cell.cell_type == "code"], set()
    steps = [names_of(cell.source) for cell in code] + [names_of(source) for source in sources]
    while True:
        needed, kept, later = set(late), [], set(late)
        for i, (changed, anew, used, inside) in reversed(list(enumerate(steps))):
            if changed & needed or i >= len(code):
                needed = (needed - anew) | used
                later |= inside  # a function reads them when it is called, below its cell
                kept.append(i)
        if later == late:
            return [code[i] for i in sorted(kept) if i < len(code)]
        late = later


def names_of(source: str) -> tuple[set[str], set[str], set[str], set[str]]:
    """Names that a cell makes or changes; those of them that it always makes anew; names that it uses; and
    those of them that it uses inside functions."""
    used, inside, tables = set(), set(), [(symtable.symtable(source, "cell", "exec"), False)]
    for table, later in tables:  # grows: a function's or a comprehension's own names are in a table of theirs
        top = table.get_type() == "module"
        read = {s.get_name() for s in table.get_symbols() if s.is_referenced() and (top or s.is_global())}
        used, inside = used | read, inside | (read if later else set())
        for child in table.get_children():
            tables.append((child, later or child.get_name() not in COMPREHENSIONS))
    tree = ast.parse(source)
    parts = [node for node in ast.walk(tree) if isinstance(node, (ast.Subscript, ast.Attribute))]
    changed = {_root(node) for node in parts if isinstance(node.ctx, ast.Store)}  # table["x"] = ...
    blocks = (ast.If, ast.For, ast.With, ast.Try, ast.While)
    always = ast.Module([node for node in tree.body if not isinstance(node, blocks)], [])
    return _made(source) | changed, _made(ast.unparse(always)) - changed, used, inside


def _made(source: str) -> set[str]:
    symbols = symtable.symtable(source, "cell", "exec").get_symbols()
    return {s.get_name() for s in symbols if s.is_assigned() or s.is_imported()}


def _root(node: ast.AST) -> str:
    """ "a" of a.b["c"]; "" where it is no name."""
    while isinstance(node, (ast.Subscript, ast.Attribute)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def peak_megabytes() -> float | None:
    """The largest memory of a kernel that this process has started; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return round(peak / (1e6 if sys.platform == "darwin" else 1e3))


def stub(solution: str) -> str:
    """The task, and the last name that the solution assigns, to be filled in."""
    lines = solution.splitlines()
    code = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    assigned = [node for node in ast.parse(solution).body if isinstance(node, ast.Assign)]
    return "\n".join([*lines[:code], f"{ast.unparse(assigned[-1].targets[0])} = ..."])


def write_exercises(sources: list[Path]) -> None:
    for source in sources:
        if (made := exercise(source)) is not None:
            target = NOTEBOOKS / "exercises" / f"{source.stem}.ipynb"
            target.parent.mkdir(exist_ok=True)
            nbformat.write(made, target)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("only", nargs="*", help='first letters of the notebooks, as "03"')
    parser.add_argument("--preset", default="sample", help="with --to: a section of notebooks/presets.toml")
    parser.add_argument("--to", type=Path, help="a folder for what is executed; the checkout stays as it is")
    given = parser.parse_args(arguments)
    chosen = sources(given.only)
    if given.to:
        try:
            for source in chosen:
                made = execute(source, given.preset)
                made.metadata[PEAK] = peak_megabytes()
                nbformat.write(made, given.to / f"{source.stem}.ipynb")
        except CellExecutionError as error:
            sys.exit(str(error))
        return
    write_exercises(chosen)
    for source in chosen:
        start = time.perf_counter()
        nbformat.write(execute(source, "sample"), source.with_suffix(".ipynb"))
        seconds = round(time.perf_counter() - start, 1)
        _record({source.stem: seconds})
        print(f"{source.stem}: {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
