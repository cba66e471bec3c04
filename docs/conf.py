"""The book: the notebooks as built, one page a room from its docstrings, and the pages of this folder.

Sphinx with myst-nb and autodoc: all three are kept well, read notebooks and docstrings as they are, and write
pages that open from disk. The source folder is the checkout itself, so that a link from a notebook to
the glossary is the same in JupyterLab, on a code host and here.
"""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: The rooms in order; tests/test_project.py holds that none is missing.
ROOMS = (
    "stats provenance texts models activations descriptors matching evaluation illusions claims salience"
    " trees plots workshop"
).split()

project, author, copyright = "nbkit", "The nbkit authors", "The nbkit authors"
extensions = ["myst_nb", "sphinx.ext.autodoc"]
root_doc = "docs/index"
include_patterns = ["docs/**", "notebooks/*.ipynb", "*.md"]
exclude_patterns = ["build", "cache", "figures", "tests", "nbkit", "benchmarks", "tools", ".*", "*.egg-info"]

nb_execution_mode = "off"  # the outputs are those that were committed
nb_merge_streams = True
myst_heading_anchors = 3
myst_enable_extensions: list[str] = []
myst_links_external_new_tab = False

autodoc_default_options = {"members": True}
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 90
add_module_names = False

html_theme = "furo"
html_title = "nbkit"
html_extra_path = ["_extra"]
html_copy_source = False
html_show_sphinx = False


def setup(app) -> None:
    app.connect("builder-inited", lambda app: write_rooms(ROOT / "docs" / "api"))
    app.connect("autodoc-process-docstring", readable)


def write_rooms(folder: Path) -> None:
    """A page for every room; those that are already right are left alone, so that a second build is quick."""
    folder.mkdir(exist_ok=True)
    for room in ROOMS:
        module = importlib.import_module(f"nbkit.{room}")
        parts = [part for part in module.__all__ if inspect.ismodule(getattr(module, part))]
        text = manual(f"# nbkit.{room}", f"nbkit.{room}", door=True)
        text += "".join(manual(f"## {part}", f"nbkit.{room}.{part}", door=False) for part in parts)
        page = folder / f"{room}.md"
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")


def manual(title: str, module: str, door: bool) -> str:
    """A door documents what it lists, wherever that is written; another file what is written there."""
    option = "   :imported-members:\n" if door else ""
    return f"{title}\n\n```{{eval-rst}}\n.. automodule:: {module}\n{option}```\n\n"


def readable(app, what, name, obj, options, lines: list[str]) -> None:
    """Docstrings are written for ``help()``: plain paragraphs, and tables aligned by spaces. Keep both."""
    if lines and lines[0].startswith("Alias for field number"):
        lines[:] = [""]
    blocks = re.split(r"\n\s*\n", "\n".join(lines).strip("\n"))
    lines[:] = "\n\n".join(map(block_of, blocks)).split("\n") + [""]


def block_of(block: str) -> str:
    """One paragraph as reStructuredText."""
    rows = block.split("\n")
    if len(rows) >= 2 and re.fullmatch(r"[-=]{3,}", rows[1]):
        return f".. rubric:: {rows[0]}\n\n" + (block_of("\n".join(rows[2:])) if rows[2:] else "")
    head = [] if rows[0].startswith(" ") else [rows[0]] if all(r.startswith(" ") for r in rows[1:]) else rows
    aligned = any(re.search(r"\S {2,}\S", row) for row in rows)
    if len(rows) > 1 and head == rows[:1] and rows[0].rstrip().endswith(":") and not aligned:
        return f"{prose(rows[0])}\n\n" + literal(rows[1:])
    if rows[0].startswith((" ", ">>>")) or aligned:
        return literal(rows)
    if rows[0].startswith("- "):
        return "\n".join(row[:2] + prose(row[2:]) for row in rows)
    listed = next((i for i, row in enumerate(rows) if row.startswith(("- ", "  "))), len(rows))
    text = "\n".join(map(prose, rows[:listed]))
    return text if listed == len(rows) else f"{text}\n\n{block_of(chr(10).join(rows[listed:]))}"


def literal(rows: list[str]) -> str:
    return "::\n\n" + "\n".join(f"    {row}" for row in rows)


def prose(text: str) -> str:
    """``code`` and `code` are code; every other character stands for itself."""
    pieces = re.split(r"``(.+?)``|`([^`]+)`", text)
    found = []
    for i in range(0, len(pieces), 3):
        found.append(re.sub(r"([\\*|`]|_(?!\w))", r"\\\1", pieces[i]))
        code = (pieces[i + 1] or pieces[i + 2]) if i + 1 < len(pieces) else None
        if code:
            found.append(f"``{code.strip()}``" + ("\\ " if pieces[i + 3][:1].isalnum() else ""))
    return "".join(found)
