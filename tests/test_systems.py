"""Windows, macOS, plain locales, odd paths: what Linux can play of them (``systems.py``)."""

import errno
import io
import json
import os
import re
import runpy
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import systems
from hypothesis import given
from hypothesis import strategies as st

from nbkit import activations, plots, provenance, texts
from nbkit.activations import plan, store

ROOT = Path(__file__).resolve().parent.parent
SITE = "layer.1.ffn"
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="this plays another system on Linux")


@pytest.fixture
def reviews(monkeypatch):
    monkeypatch.setattr(plan, "BLOCK_BYTES", 10 * 1536 * 2)
    return texts.load("sample:reviews").sample(40, seed=0)


def capture(subject, corpus, cache, **options):
    return activations.capture(subject, corpus, sites=SITE, cache=cache, progress=False, **options)


def values_of(cache):
    return next(Path(cache).glob("activations/*/values.bin")).read_bytes()


# -------------------------------------------------------------------------------------- what a system lacks


@LINUX
@pytest.mark.parametrize("system", ["plain", "locking", "plain,locking"])
def test_a_store_is_written_resumed_and_read_on_other_systems(minilm, reviews, tmp_path, monkeypatch, system):
    whole = values_of_new(minilm, reviews, tmp_path / "whole")
    systems.play(system, monkeypatch)
    write, blocks = store._write_block, []

    def stops(*arguments):
        blocks.append(1)
        if len(blocks) == 3:
            raise KeyboardInterrupt
        return write(*arguments)

    monkeypatch.setattr(store, "_write_block", stops)
    with pytest.raises(KeyboardInterrupt):
        capture(minilm, reviews, tmp_path / "stopped")
    assert len(blocks) == 3 and next((tmp_path / "stopped").glob("activations/*.part/journal")).read_text(
        encoding="utf-8"
    )
    capture(minilm, reviews, tmp_path / "stopped")
    assert len(blocks) == 3 + 2  # of four: the one that was stopped and the one after it
    assert values_of(tmp_path / "stopped") == whole
    assert not list((tmp_path / "stopped").glob("activations/*.part"))


def values_of_new(subject, corpus, cache):
    capture(subject, corpus, cache)
    return values_of(cache)


@LINUX
def test_the_emulations_refuse_what_the_systems_refuse(tmp_path, monkeypatch):
    held, folder = tmp_path / "held", tmp_path / "folder"
    folder.mkdir()
    (folder / "mapped").write_bytes(bytes(4096))
    systems.play("plain,locking", monkeypatch)
    mapped = np.memmap(folder / "mapped", mode="r")
    with held.open("w", encoding="utf-8"):
        for act in (held.unlink, lambda: os.replace(held, tmp_path / "x"), lambda: os.rename(folder, "y")):
            with pytest.raises(PermissionError, match="in use"):
                act()
    assert not hasattr(os, "pwrite") and not hasattr(held.stat(), "st_blocks") and len(mapped)
    del mapped
    held.unlink()
    os.rename(folder, tmp_path / "z")


@LINUX
def test_a_store_deleted_in_part_that_is_still_open_says_what_to_close(
    minilm, reviews, tmp_path, monkeypatch
):
    stored = capture(minilm, reviews, tmp_path)  # maps values.bin
    (manifest,) = tmp_path.glob("activations/*/manifest.json")
    manifest.unlink()
    systems.play("locking", monkeypatch)
    with pytest.raises(PermissionError, match="deleted in part.*has it open. Restart the kernels"):
        capture(minilm, reviews, tmp_path)
    before = np.array(stored.values)
    del stored
    assert np.array_equal(capture(minilm, reviews, tmp_path).values, before)


@LINUX
def test_a_table_that_another_program_has_open_is_named(tmp_path, monkeypatch):
    systems.play("locking", monkeypatch)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    path = tmp_path / "report.csv"
    path.write_text("before", encoding="utf-8")
    with (
        path.open(encoding="utf-8"),
        pytest.raises(PermissionError, match=r"report\.csv cannot be written: another program"),
    ):
        with provenance.atomic(path) as part:
            part.write_text("after", encoding="utf-8")
    assert path.read_text(encoding="utf-8") == "before" and list(tmp_path.iterdir()) == [path]
    with provenance.atomic(path) as part:
        part.write_text("after", encoding="utf-8")
    assert path.read_text(encoding="utf-8") == "after"


def test_a_file_that_is_open_for_a_moment_is_replaced_after_it(tmp_path, monkeypatch):
    path, replace, tries = tmp_path / "x", os.replace, []

    def busy(*paths):
        tries.append(1)
        if len(tries) < 4:
            raise PermissionError(errno.EACCES, "a virus scanner")
        replace(*paths)

    monkeypatch.setattr(os, "replace", busy)
    with provenance.atomic(path) as part:
        part.write_bytes(b"new")
    assert path.read_bytes() == b"new" and len(tries) == 4


@pytest.mark.skipif(not hasattr(os, "pwrite"), reason="NOT RUN: there is no pwrite to compare with")
@given(
    st.lists(st.tuples(st.integers(0, 60), st.binary(min_size=1, max_size=20)), max_size=8), st.integers(1, 9)
)
def test_a_positioned_write_is_pwrite_however_little_the_system_takes_at_once(tmp_path_factory, writes, most):
    class Slow(io.FileIO):
        def write(self, data):
            return super().write(data[:most])

    path, other = tmp_path_factory.mktemp("w") / "a", tmp_path_factory.mktemp("w") / "b"
    path.touch(), other.touch()
    with Slow(path, "r+b") as out, other.open("r+b") as expected:
        for place, data in writes:
            store._write_at(out, place, memoryview(data))
            os.pwrite(expected.fileno(), data, place)
    assert path.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("tells_blocks", [True, False])
def test_what_a_half_store_takes_counts_as_free_when_it_goes_on(tmp_path, monkeypatch, tells_blocks):
    monkeypatch.setattr(store.shutil, "disk_usage", lambda _: store.shutil._ntuple_diskusage(9, 9, 0))
    path = tmp_path / "values.bin"
    path.write_bytes(bytes(8192))
    if not tells_blocks:
        systems.play("plain", monkeypatch)
    store._reserve(path, 8192, tmp_path / "s")  # nothing is free, and nothing more is needed
    with pytest.raises(OSError, match="needs .* GB and the disk has"):
        store._reserve(path, 2**20, tmp_path / "s")


# ---------------------------------------------------------------------------------------------- names, paths


@pytest.mark.parametrize(
    "name", ["con", "CON.txt", "a:b", "a/b", "a\\b", "what?", "x.", "x ", "", "a" * 201, "tab\t", "nul"]
)
def test_names_that_some_system_cannot_have_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match="is no name for a file on every system"):
        provenance.file_name(name)
    with pytest.raises(ValueError, match="is no name for a file"):
        ax = plots.shift(pd.DataFrame({"rank": [1], "q": [0.1], "score": [0.1], "validation_score": [0.1]}))
        plots.save(ax.figure, name, {"seed": 1}, data=pd.DataFrame({"a": [1]}), folder=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["03_held_out", "Überblick", "שלום", "a.b", "console", "$x_1"])
def test_other_names_are_as_they_are(name):
    assert provenance.file_name(name) == name


def test_the_files_of_the_kit_can_be_on_every_system():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True).stdout.decode()
    files = [name for name in listed.split("\0") if name] or pytest.skip("NOT RUN: no git checkout")
    for name in files:
        for part in name.split("/"):
            assert provenance.file_name(part) and len(name) < 120, name
    assert len({name.casefold() for name in files}) == len(files), "two names differ in their case only"


LONG = "/".join(["a folder with a name of fifty letters, and of words"] * 4)


@pytest.mark.parametrize(
    "folder", ["with space", "Übung mit ß", "日本語 🙂", LONG, "dots.and'quotes", "#%&{}$@"]
)
def test_everything_is_written_to_and_read_from_any_folder(minilm, tmp_path, folder):
    home = tmp_path / folder
    try:
        home.mkdir(parents=True)
    except UnicodeEncodeError:
        pytest.skip("NOT RUN: Python makes no folder of such letters in this locale")
    table = home / "my texts.csv"
    table.write_text("text,n\n" + "".join(f"hello number {i},{i}\n" for i in range(12)), encoding="utf-8")
    corpus = texts.load(table)
    first = capture(minilm, corpus, home / "cache")
    assert np.array_equal(capture(minilm, corpus, str(home / "cache")).values, first.values)
    stored = activations.capture(
        minilm, corpus.tokenize(), sites=SITE, rows="word", cache=False, progress=False
    )
    activations.neurox.write(home / "a.hdf5", stored)
    assert len(activations.neurox.read(home / "a.hdf5").rows) == len(stored.rows)
    sets = pd.DataFrame({"set_id": 1, "corpus": "c", "rank": [1, 2], "text_id": [0, 1], "text": ["a", "b"]})
    assert plots.annotate(sets, home / "answers", "ada").to_html()
    ax = plots.quintile_curves(pd.DataFrame({"corpus": "c", "quantile": [1, 2], "share": [0.1, 0.2]}))
    svg = plots.save(ax.figure, "one", {"seed": 1}, data=pd.DataFrame({"a": [1]}), folder=home / "figures")
    assert provenance.read(svg)["figure"] == "one"


# ----------------------------------------------------------------------------------- locales, homes, workers

FLOW = """
import sys
from pathlib import Path
import matplotlib
matplotlib.use("agg")
import pandas as pd
from nbkit import activations, models, plots, texts
home = Path(sys.argv[1])
corpus = texts.load(home / "texts.jsonl")
stored = activations.capture(models.load(), corpus, sites="layer.1.ffn", cache=home / "cache", progress=False)
frame = pd.DataFrame({"corpus": corpus.frame["text"][0], "quantile": [1, 2], "share": [0.1, 0.2]})
plots.save(plots.quintile_curves(frame).figure, "figure", {"seed": 1}, data=frame, folder=home / "figures")
if __name__ == "__main__":
    print(ascii(corpus.frame["text"].tolist()), stored.values.shape)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "changed",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"},
        {"HOME": "/dev/null", "USERPROFILE": "/dev/null", "XDG_CACHE_HOME": "/dev/null/c"},
        {"GOMP_SPINCOUNT": "0", "OMP_NUM_THREADS": "2"},
    ],
    ids=["plain locale", "no home", "patient threads"],
)
def test_the_flow_in_a_process_with_another_environment(tmp_path, changed):
    lines = [json.dumps({"text": f"Grüße, 東京 {i}"}, ensure_ascii=False) for i in range(4)]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    script = tmp_path / "flow.py"
    script.write_text(FLOW, encoding="utf-8")
    environment = {k: v for k, v in os.environ.items() if k not in ("MPLCONFIGDIR", "LANG", "LC_CTYPE")}
    environment["PYTHONPATH"] = str(ROOT)
    ran = subprocess.run(
        [sys.executable, script, tmp_path], env={**environment, **changed}, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert re.search(r"Gr\\xfc\\xdfe, \\u6771\\u4eac 3'\] \(4, 1536\)$", ran.stdout.strip()), ran.stdout


#: What reads and writes files. The whole quick suite takes half an hour a system on one thread, and is run by
#: hand: ``NBKIT_TEST_SYSTEM=spawn python -m pytest -m "not slow" --basetemp="/tmp/Übung mit Leerzeichen"``.
QUICK = [
    f"tests/test_{name}.py"
    for name in ("texts", "readers", "tokens", "exemplars", "neurox", "annotation", "provenance", "own")
]


@pytest.mark.slow
@pytest.mark.parametrize("other", ["locale", "plain", "locking", "spawn"])
def test_the_quick_part_of_the_rooms_of_files_on_other_systems(other):
    changed = {"NBKIT_TEST_SYSTEM": other}
    if other == "locale":
        changed = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider", *QUICK]
    ran = subprocess.run(command, cwd=ROOT, env={**os.environ, **changed}, capture_output=True)
    assert ran.returncode == 0, ran.stdout.decode(errors="replace")[-5000:]


# ------------------------------------------------------------------------------------------ a busy machine

MINUTES = runpy.run_path(str(ROOT / "benchmarks" / "minutes.py"))


def test_the_benchmark_of_a_busy_machine_compares_each_notebook_with_its_quiet_time():
    printed = "[   9 s] 00_check_setup: 9 s\n         illusion gap: .11\n[ 104 s] 04_test_illusions: 95 s\n"
    assert MINUTES["notebooks"](printed) == {"00_check_setup": 9, "04_test_illusions": 95}
    quiet = {"median": 100.0, "notebooks": {"00_check_setup": 9.0, "04_test_illusions": 95.0}}
    busy = {"median": 210.0, "notebooks": {"00_check_setup": 18.0, "04_test_illusions": 380.0}}
    assert MINUTES["slower"](quiet, busy) == {"all": 2.1, "00_check_setup": 2.0, "04_test_illusions": 4.0}


def test_the_spinning_programs_end_with_what_they_stand_beside(monkeypatch):
    started, popen = [], subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *given: started.append(popen(*given)) or started[-1])
    with MINUTES["spinning"](2):
        assert len(started) == 2 and all(program.poll() is None for program in started)
    assert all(program.poll() is not None for program in started)
