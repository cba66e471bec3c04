"""Notebooks as a product: pairs agree, outputs are clean, every source runs as a script offline."""

import base64
import getpass
import json
import os
import re
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path

import build_notebooks
import jupytext
import nbformat
import numpy as np
import pytest
import run
import schedule
from hypothesis import given, settings
from hypothesis import strategies as st

from nbkit import texts
from nbkit.workshop import own, presets

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.py"))
NAMES = [source.stem for source in SOURCES]


def built(name):
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def test_the_sequence_is_there():
    assert [n[:2] for n in NAMES] == [f"{n:02}" for n in range(12)]


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
    code = [[line for line in c.source.splitlines() if line] for c in notebook.cells if c.cell_type == "code"]
    long = [lines[0] for lines in code if len(lines) > 10]
    assert not long, "more than ten lines"


@pytest.mark.parametrize("name", NAMES)
def test_what_is_shown_is_followed_by_what_it_means(name):
    """After a table or a picture, or two of them, stands prose, and not the next heading.

    What to look for in a widget is said before it.
    """
    cells = built(name).cells
    data = [[output.get("data", {}) for output in cell.get("outputs", [])] for cell in cells]
    widget = re.compile(r"\w+\(")  # its name in plain text; that of a frame is the frame
    shown = [
        any(
            "image/png" in d or ("text/html" in d and not widget.match(d.get("text/plain", "Widget()")))
            for d in some
        )
        for some in data
    ]
    for i, (cell, after) in enumerate(zip(cells, cells[1:], strict=False)):
        if shown[i] and not shown[i + 1]:
            told = after.cell_type == "markdown" and not after.source.startswith("#")
            assert told, cell.source.splitlines()[-1]


def numbers_of(text):
    """Numbers as they are written (.44, 2,688, 29 %), as {text: value}; a file's name, as 04, is none."""
    found = re.findall(r"(?<![\w.`,])-?(?:\d{1,3}(?:,\d{3})+|\d*\.\d+|\d+)(?![\w`])(?: %)?", text)
    return {n: float(n.replace(",", "").replace(" %", "")) / (100 if "%" in n else 1) for n in found}


@pytest.mark.parametrize("name", NAMES)
def test_the_numbers_of_a_title_and_of_a_conclusion_are_in_the_notebook(name):
    """Each with a point, a comma or a percent sign is one that a cell printed, rounded as it is told."""
    notebook = built(name)
    title = notebook.cells[0].source.splitlines()[0]
    told = [
        c.source.split("## What we learned")[1] for c in notebook.cells if "## What we learned" in c.source
    ]
    shown = "".join(
        str(output.get("text", "")) + "".join(map(str, output.get("data", {}).values()))
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" not in output.get("data", {})
    )
    printed = np.array([float(n.replace(",", "")) for n in re.findall(r"-?\d[\d,]*\.?\d*", shown)])
    for text, value in numbers_of(" ".join([title, *told])).items():
        if not re.search(r"[.,%]", text):
            continue
        places = len(text.removesuffix(" %").partition(".")[2]) + 2 * ("%" in text)
        assert (np.abs(np.abs(printed) - abs(value)) <= 0.501 * 10**-places).any(), (
            f"{text} is printed nowhere"
        )


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
def test_the_minutes_it_states_are_those_it_took(name):
    """Recorded by `make notebooks` where the notebook was built, and by nobody's clock here."""
    seconds = json.loads((ROOT / "notebooks" / "seconds.json").read_text(encoding="utf-8"))[name]
    stated = build_notebooks.stated_minutes(ROOT / "notebooks" / f"{name}.py")
    assert stated in build_notebooks.minutes_of(seconds)


def test_minutes_are_rounded_up():
    assert build_notebooks.minutes_of(13) == {0.5} and build_notebooks.minutes_of(52) == {1}
    assert build_notebooks.minutes_of(196) == {3, 4} and build_notebooks.minutes_of(240.4) == {4, 5}


def test_a_slow_notebook_and_an_unclear_statement_are_named(tmp_path):
    seconds = {name: 1.0 for name in NAMES} | {"04_test_illusions": 481.0, "05_evaluate_tags": 119.0}
    assert run.slow(seconds) == ["04_test_illusions"]
    (tmp_path / "x.py").write_text("# **Need** some minutes, no network.", encoding="utf-8")
    with pytest.raises(ValueError, match="x.py: after .* none of half a minute"):
        build_notebooks.stated_minutes(tmp_path / "x.py")


# ------------------------------------------------------------------------------------- one after another


def test_a_notebook_waits_for_those_whose_frames_and_stores_it_takes():
    """Read from the notebooks: what they take with ``kept``, and for 10 the stores of those that capture."""
    makers = {first: name[:2] for first, name in presets.KEPT_BY.items()}
    text = {source.name[:2]: source.read_text(encoding="utf-8") for source in SOURCES}
    for number, source in text.items():
        taken = {makers[first] for first in re.findall(r'preset\.kept\(f?"(\w+)', source)}
        if "passes: run the notebooks 01 to 06" in source:
            capture = {n for n in text if "capture(" in text[n] and "preset.subject()" in text[n]}
            taken |= {n for n in capture if "01" <= n <= "06"} - {"05"}  # 05 captures a model of its own
        assert taken <= set(schedule.NEEDS.get(number, ())), number
        assert all(need < number for need in schedule.NEEDS.get(number, ()))
    assert set(schedule.NEEDS["10"]) == {"01", "02", "03", "04", "06"}


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 3), st.dictionaries(st.sampled_from(NAMES), st.floats(0, 300)))
def test_notebooks_side_by_side_run_once_each_and_after_what_they_need(workers, seconds):
    events, lock = [], threading.Lock()

    def one(name):
        with lock:
            events.append(("begins", name))
        time.sleep(0.001)
        with lock:
            events.append(("ends", name))
        return name.upper()

    done = []
    found = schedule.side_by_side(one, NAMES, workers, seconds, lambda *result: done.append(result))
    assert found == {name: name.upper() for name in NAMES} and sorted(done) == sorted(found.items())
    running, ended = set(), set()
    for what, name in events:
        if what == "begins":
            assert set(schedule.NEEDS.get(name[:2], ())) <= {n[:2] for n in ended} and name not in ended
            running.add(name)
        else:
            running.remove(name)
            ended.add(name)
        assert len(running) <= workers
    assert ended == set(NAMES)


def test_the_longest_way_to_the_end_begins_first():
    begun = []
    seconds = json.loads((ROOT / "notebooks" / "seconds.json").read_text(encoding="utf-8"))
    schedule.side_by_side(begun.append, NAMES, 1, seconds)
    assert begun[0][:2] == "02" and [n[:2] for n in begun].index("04") <= 2


def test_after_an_error_nothing_new_begins():
    begun = []

    def one(name):
        begun.append(name)
        if name.startswith("02"):
            raise run.NotebookStopped("KeyError: 'x'")

    with pytest.raises(run.NotebookStopped, match="KeyError: 'x'"):
        schedule.side_by_side(one, NAMES, 1, {"02_discover_descriptors": 1e6})
    assert begun == ["02_discover_descriptors"]


def test_a_notebook_that_stops_is_shown_with_its_traceback(tmp_path):
    with pytest.raises(run.NotebookStopped, match="00_check_setup:[^$]*unknown preset 'nowhere'"):
        run.execute("00_check_setup", "nowhere", tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_is_found_is_printed_once_as_soon_as_it_is_there(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NBKIT_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("NBKIT_FIGURES", str(tmp_path / "figures"))
    monkeypatch.setattr(run, "ROOT", tmp_path)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "seconds.json").write_text("{}", encoding="utf-8")
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "old.svg").touch()
    os.utime(tmp_path / "figures" / "old.svg", (0, 0))
    preset = presets.load("sample", ROOT / "notebooks" / "presets.toml")

    def one(name, *_):
        if name.startswith("01"):
            preset.record(units=9216, texts=1836)
            (tmp_path / "figures" / "01_unit_by_corpus.svg").touch()
        return 1.0

    monkeypatch.setattr(run, "execute", one)
    assert run.run_all(preset) == dict.fromkeys(NAMES, 1.0)
    told = capsys.readouterr().out
    assert told.count("units: 9,216 FFN units") == told.count("figures/01_unit_by_corpus.svg") == 1
    assert "old.svg" not in told and "10_make_figures: 1 s" in told


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


def run_as_scripts(names, folder, environment):
    """Each source in ``folder`` as a script without a network, beside other tests one at a time."""

    def one(name):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", BLOCKED, f"{name}.py"],
            cwd=folder, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, f"{name}: {done.stderr[-2000:]}"

    alone = "PYTEST_XDIST_WORKER" not in os.environ
    seconds = json.loads((ROOT / "notebooks" / "seconds.json").read_text(encoding="utf-8"))
    schedule.side_by_side(one, names, schedule.workers_and_threads()[0] if alone else 1, seconds)


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

    run_as_scripts(NAMES, copy, environment)
    for folder in ("figures", "figures/paper"):
        made = {p.name for p in (tmp_path / "checkout" / "build" / folder).glob("*.svg")}
        assert made == {p.name for p in (ROOT / folder).glob("*.svg")}
    assert {p.name for p in (tmp_path / "checkout").iterdir()} == {"notebooks", "build"}
    assert {p.name for p in copy.iterdir()} <= {f"{name}.py" for name in NAMES} | {"presets.toml"}


@pytest.mark.slow
@pytest.mark.parametrize("names", [["reviews", "encyclopedia"], ["fiction"]], ids=["two corpora", "one"])
def test_every_notebook_that_can_runs_on_few_texts_of_a_stranger(tmp_path, names):
    """200 texts a file, without the word that notebook 09 searches for; the treebank is cut for speed."""
    for name in names:
        found = [text for text in texts.load(f"sample:{name}").frame["text"] if "because" not in text.lower()]
        (tmp_path / f"{name}.txt").write_text("\n".join(found[:200]), encoding="utf-8")
    made = own.make(" ".join(f"{name}.txt" for name in names), tmp_path / "own", bases=[tmp_path])
    preset = made.path.read_text(encoding="utf-8")
    for long, short in (("sentences = 1000", "sentences = 150"), ("probed = 1000", "probed = 100")):
        assert long in preset
        preset = preset.replace(long, short)
    made.path.write_text(preset, encoding="utf-8")
    environment = {
        **os.environ,
        "NBKIT_PRESETS": str(made.path),
        "NBKIT_PRESET": made.name,
        "NBKIT_RESULTS": str(tmp_path / "results"),
        "NBKIT_FIGURES": str(tmp_path / "figures"),
        "NBKIT_CACHE": str(tmp_path / "cache"),
    }
    able = run.notebooks_of(presets.load(made.name, made.path))
    assert len(able) == (len(NAMES) if len(names) == 2 else 7)
    run_as_scripts(able, ROOT / "notebooks", environment)
