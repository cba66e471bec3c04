"""Notebooks as a product: pairs agree, outputs are clean, every source runs as a script offline."""

import getpass
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jupytext
import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.py"))
NAMES = [source.stem for source in SOURCES]


def built(name):
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def test_the_sequence_is_there():
    assert [n[:2] for n in NAMES] == [f"{n:02}" for n in range(11)]


@pytest.mark.parametrize("name", NAMES)
def test_source_and_notebook_hold_the_same_cells(name):
    source = jupytext.read(ROOT / "notebooks" / f"{name}.py")
    cells = [[(c.cell_type, c.source) for c in notebook.cells] for notebook in (source, built(name))]
    assert cells[0] == cells[1], "run `make notebooks`"


@pytest.mark.parametrize("name", NAMES)
def test_the_notebook_was_executed_in_order_without_errors(name):
    code = [c for c in built(name).cells if c.cell_type == "code"]
    assert [c.execution_count for c in code] == list(range(1, len(code) + 1))
    assert not [o for c in code for o in c.outputs if o.output_type == "error"]


@pytest.mark.parametrize("name", NAMES)
def test_the_notebook_is_clean(name):
    path = ROOT / "notebooks" / f"{name}.ipynb"
    text = path.read_text()
    for bad in (str(Path.home()) + "/", str(ROOT), "/tmp/", " at 0x", "widget-state", "widget-view", "%|"):
        assert bad not in text, bad
    assert '"widgets"' not in text and "stderr" not in text
    assert not re.search(r"<script[^>]+src=|<link[^>]+href=", text), "loads something from elsewhere"
    assert f"/{getpass.getuser()}/" not in text
    for cell in built(name).cells:
        for output in cell.get("outputs", []):
            assert len(str(output)) < 300_000


@pytest.mark.parametrize("name", NAMES)
def test_the_notebook_follows_the_template(name):
    notebook = built(name)
    first = notebook.cells[0].source
    assert re.match(rf"# {name[:2]} · .+: .+", first), "a title with its finding"
    assert all(f"**{word}**" in first for word in ("Do", "Learn", "Need"))
    tagged = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1
    assert "## What we learned" in "".join(c.source for c in notebook.cells)
    assert notebook.cells[-1].source == "provenance.show()"
    code = [len(c.source.splitlines()) for c in notebook.cells if c.cell_type == "code"]
    assert sorted(code)[len(code) // 2] <= 8, "half of the code cells have at most eight lines"


def test_presets_name_what_the_notebooks_ask_for():
    presets = tomllib.loads((ROOT / "notebooks" / "presets.toml").read_text())
    code = "".join(source.read_text() for source in SOURCES)
    asked = set(re.findall(r'preset\["(\w+)"\]', code))
    for name, preset in presets.items():
        assert asked <= set(preset), name


BLOCKED = """
import runpy, socket, sys, types
import matplotlib
matplotlib.use("agg")
connect = socket.socket.connect
def refuse(self, address):
    if self.family == socket.AF_UNIX or str(address[0]).startswith("127."):
        return connect(self, address)
    raise OSError(f"the network was asked for {address}")
socket.socket.connect = refuse
runpy.run_path(sys.argv[1], run_name="__main__")
"""


@pytest.mark.slow
def test_every_source_runs_as_a_script_with_the_network_blocked(tmp_path):
    environment = {
        **os.environ,
        "NBKIT_RESULTS": str(tmp_path / "results"),
        "NBKIT_CACHE": str(tmp_path / "cache"),
        "NBKIT_PRESET": "sample",
    }
    copy = tmp_path / "checkout" / "notebooks"
    copy.mkdir(parents=True)
    for path in [*SOURCES, ROOT / "notebooks" / "presets.toml"]:
        (copy / path.name).write_text(path.read_text())
    for name in NAMES:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", BLOCKED, f"{name}.py"],
            cwd=copy, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, f"{name}: {done.stderr[-2000:]}"
    for folder in ("figures", "figures/paper"):
        made = {p.name for p in (tmp_path / "checkout" / folder).glob("*.svg")}
        assert made == {p.name for p in (ROOT / folder).glob("*.svg")}
