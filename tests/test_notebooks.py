"""Notebooks as a product: pairs agree, outputs are clean, every source runs as a script offline."""

import base64
import getpass
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import build_notebooks
import jupytext
import nbformat
import pytest
import run

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
    text = path.read_text(encoding="utf-8")
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
    assert all(f"**{word}**" in first for word in ("Do", "Learn", "Need", "Words"))
    tagged = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1
    assert "## What we learned" in "".join(c.source for c in notebook.cells)
    assert notebook.cells[-1].source == "provenance.show()"
    code = [len(c.source.splitlines()) for c in notebook.cells if c.cell_type == "code"]
    assert sorted(code)[len(code) // 2] <= 8, "half of the code cells have at most eight lines"


def test_presets_name_what_the_notebooks_ask_for():
    presets = tomllib.loads((ROOT / "notebooks" / "presets.toml").read_text(encoding="utf-8"))
    code = "".join(source.read_text(encoding="utf-8") for source in SOURCES)
    asked = set(re.findall(r'preset\["(\w+)"\]', code))
    for name, preset in presets.items():
        assert asked <= set(preset), name


def displays(name):
    """{kind: value} of every output of a built notebook that shows something, with the source of its cell."""
    for cell in built(name).cells:
        for output in cell.get("outputs", []):
            if "data" in output:
                yield cell.source, output.data


@pytest.mark.parametrize("name", NAMES)
def test_the_pictures_and_the_views_are_in_the_file(name):
    """A picture where a cell draws; where it ends with a widget its page, and no empty box."""
    pictures = {source for source, data in displays(name) if "image/png" in data}
    code = [c.source for c in built(name).cells if c.cell_type == "code"]
    drawing = {
        s for s in code if re.search(r'^make\("', s, re.M) or ("plt.show()" in s and "def make" not in s)
    }
    assert drawing <= pictures
    for source, data in displays(name):
        if "image/png" in data:
            image = base64.b64decode(data["image/png"])
            assert image.startswith(b"\x89PNG") and len(image) > 3000, source
        bare = set(data) == {"text/plain"} and re.match(r"\w*(Box|Widget|View|Browser)\(", data["text/plain"])
        assert not bare, f"a widget without its page: {data['text/plain'][:80]}"
    widgets = re.findall(r"^(\w+) = widgets\.\w+\(", "\n".join(code), re.M)
    pages = {s.splitlines()[-1]: d["text/html"] for s, d in displays(name) if "text/html" in d and s}
    for widget in widgets:
        assert len(pages[widget]) > 500, f"the page of {widget} is not in the file"


@pytest.mark.parametrize("name", NAMES)
def test_no_output_names_a_machine(name):
    outputs = "".join(str(c.get("outputs", "")) for c in built(name).cells if c.cell_type == "code")
    shown = re.sub(r"'image/png': '[^']*'", "", outputs)
    for pattern in (
        r"(?<![\w.])/(?:home|root|Users|tmp|work|usr|var)/",
        r"\b[A-Z]:\\\\",
        r"\b\d+\.\d+\.\d+\.\d+\b",
    ):
        assert not re.search(pattern, shown), pattern


@pytest.mark.parametrize("name", NAMES)
def test_the_time_it_took_is_at_most_twice_what_it_states(name):
    """Recorded by `make notebooks` where the notebook was built, and by nobody's clock here."""
    seconds = json.loads((ROOT / "notebooks" / "seconds.json").read_text(encoding="utf-8"))[name]
    assert 0 < seconds <= 120 * build_notebooks.stated_minutes(ROOT / "notebooks" / f"{name}.py")


def test_a_slow_notebook_and_an_unclear_statement_are_named(tmp_path):
    seconds = {name: 1.0 for name in NAMES} | {"04_test_illusions": 361.0, "05_evaluate_tags": 119.0}
    assert run.slow(seconds) == ["04_test_illusions"]
    (tmp_path / "x.py").write_text("# **Need** some minutes, no network.")
    with pytest.raises(ValueError, match="x.py: after .* none of half a minute"):
        build_notebooks.stated_minutes(tmp_path / "x.py")


#: An audit hook sees what asks for a name or an address, and remembers it even where the asker goes on.
BLOCKED = f"""
import runpy, sys
sys.path.append({str(ROOT / "tools")!r})
import preflight
import matplotlib
matplotlib.use("agg")
sys.addaudithook(preflight.refuse)
runpy.run_path(sys.argv[1], run_name="__main__")
sys.exit(f"the network was asked for {{preflight.ASKED}}" if preflight.ASKED else 0)
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
        (copy / path.name).write_bytes(path.read_bytes())
    for name in NAMES:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", BLOCKED, f"{name}.py"],
            cwd=copy, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, f"{name}: {done.stderr[-2000:]}"
    for folder in ("figures", "figures/paper"):
        made = {p.name for p in (tmp_path / "checkout" / "build" / folder).glob("*.svg")}
        assert made == {p.name for p in (ROOT / folder).glob("*.svg")}
    assert {p.name for p in (tmp_path / "checkout").iterdir()} == {"notebooks", "build"}
    assert {p.name for p in copy.iterdir()} <= {f"{name}.py" for name in NAMES} | {"presets.toml"}
