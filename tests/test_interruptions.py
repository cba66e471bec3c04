"""What happens in a room: a notebook interrupted or killed, a kernel restarted, two at once, a cache deleted.

The notebooks run as they are, on forty texts a corpus, with blocks of ten texts; what goes wrong is done by
the notebook's own process, at a block that is named, so that nothing depends on the clock.
"""

import json
import multiprocessing
import os
import re
import shutil
import signal
import uuid
from pathlib import Path

import jupytext
import numpy as np
import pandas as pd
import pytest
import run
from jupyter_client.manager import start_new_kernel
from processes import context, run_script

from nbkit import activations, texts
from nbkit.activations import plan, store
from nbkit.workshop import presets

ROOT = Path(__file__).resolve().parent.parent
BLOCK = 10 * 9216 * 2  # ten texts of all feed-forward units
BLOCKS = 4 * 4 + 1  # of notebook 01: four corpora, and one layer for the exercise

#: Before the first cell: small blocks, a line in ``written`` for each, and what is to happen after the n-th.
WATCHED = f"""
import os, shutil, signal, time
import matplotlib
matplotlib.use("agg")
from nbkit.activations import plan, store
plan.BLOCK_BYTES = {BLOCK}
blocks, compute, write = [], store.block_values, store._write_block
def computed(*arguments):
    blocks.append(1)
    if len(blocks) == int(os.environ.get("AT", -1)):
        exec(os.environ["HAPPENS"])
    return compute(*arguments)
def written(path, leaving, work, block):
    with open(os.environ["WRITTEN"], "a") as out:
        print(path.parent.name, *block, file=out)
    return write(path, leaving, work, block)
store.block_values, store._write_block = computed, written
"""
SCRIPT = WATCHED + "\nimport runpy, sys\nrunpy.run_path(sys.argv[1], run_name='__main__')\n"
WAIT = 300  # seconds for a notebook of forty texts


@pytest.fixture
def checkout(tmp_path):
    """Notebooks and their presets in a folder of their own; the sample has forty texts a corpus."""
    home = tmp_path / "checkout" / "notebooks"
    home.mkdir(parents=True)
    for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.py"):
        shutil.copy(path, home)
    settings = (
        (ROOT / "notebooks" / "presets.toml")
        .read_text(encoding="utf-8")
        .replace("[sample]\n", "[sample]\ntexts = 40\n")
    )
    (home / "presets.toml").write_text(settings, encoding="utf-8")
    return home


def surroundings(home, at=None, happens=""):
    folder = home.parent
    places = {
        "NBKIT_CACHE": folder / "cache",
        "NBKIT_RESULTS": folder / "results",
        "WRITTEN": folder / "written",
    }
    event = {} if at is None else {"AT": str(at), "HAPPENS": happens}
    return {**os.environ, "NBKIT_PRESET": "sample", **{k: str(v) for k, v in places.items()}, **event}


def start(home, name, at=None, happens=""):
    """A process that runs a notebook as a script, and the file that its stderr goes to."""
    said = home.parent / f"said-{uuid.uuid4().hex}"
    given = SCRIPT, [f"{name}.py"], home, surroundings(home, at, happens), said
    process = context.Process(target=run_script, args=given)
    process.start()
    return process, said


def ended(process, said):
    process.join(WAIT)
    assert not process.is_alive()
    return process.exitcode, said.read_text(encoding="utf-8")


def lines(home):
    return (home.parent / "written").read_text(encoding="utf-8").splitlines()


def right_stores(home, minilm, monkeypatch):
    """Whether the cache holds, byte for byte, what a process of its own computes undisturbed."""
    monkeypatch.setattr(plan, "BLOCK_BYTES", BLOCK)
    corpora = presets.load("sample", home / "presets.toml").corpora()
    for corpus in corpora.values():
        here = activations.capture(minilm, corpus, cache=home.parent / "other", progress=False)
        there = home.parent / "cache" / "activations" / store.key_of(here.manifest)
        assert np.array_equal(store.load(there).values, here.values)
    assert not list((home.parent / "cache" / "activations").glob("*.part"))
    assert len(list((home.parent / "cache" / "activations").glob("*/manifest.json"))) == len(corpora) + 1
    assert (home.parent / "build" / "figures" / "01_unit_by_corpus.svg").exists()
    return True


# ---------------------------------------------------------------------------------- interrupted and run again


@pytest.mark.slow
def test_a_notebook_killed_half_way_goes_on_from_its_finished_blocks(checkout, minilm, monkeypatch):
    code, _ = ended(*start(checkout, "01_capture_activations", 7, "os.kill(os.getpid(), signal.SIGKILL)"))
    assert code == -signal.SIGKILL
    stores = checkout.parent / "cache" / "activations"
    assert len(list(stores.glob("*/manifest.json"))) == 1, "killed in the second of four stores"
    (journal,) = stores.glob("*.part/journal")
    finished = [
        f"{journal.parent.name} {line.rsplit(' ', 1)[0]}"
        for line in journal.read_text(encoding="utf-8").splitlines()
    ]
    finished += [line for line in lines(checkout) if line.split()[0] != journal.parent.name]
    assert len(finished) == 5  # four of the first store, one of the second
    (checkout.parent / "written").unlink()
    code, said = ended(*start(checkout, "01_capture_activations"))
    assert code == 0, said
    assert sorted([*finished, *lines(checkout)]) == sorted({*finished, *lines(checkout)}), "computed twice"
    assert len(finished) + len(lines(checkout)) == BLOCKS
    assert right_stores(checkout, minilm, monkeypatch)


class HalfWay(Exception):
    """The cell said so."""


class Kernel:
    """A kernel of a notebook, with the client that talks to it."""

    def __init__(self, home, **event):
        self.manager, self.client = start_new_kernel(env=surroundings(home, **event), cwd=str(home))

    def run(self, *cells):
        """What the cells end in: "ok", or the names of errors. A cell that prints "half-way": ``HalfWay``."""

        def hook(message):
            if "half-way" in message["content"].get("text", ""):
                raise HalfWay

        answers = [self.client.execute_interactive(c, timeout=200, output_hook=hook) for c in cells]
        return {answer["content"].get("ename", "ok") for answer in answers}

    def interrupt(self):
        """Like the square button. What the cell that was running ended in."""
        self.manager.interrupt_kernel()
        return self.client.get_shell_msg(timeout=60)["content"].get("ename", "ok")

    def restart(self):
        """Like the round arrow, whatever it is at, with new channels. Nothing more will happen to it."""
        self.client.stop_channels()
        self.manager.restart_kernel(now=True)
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)
        self.run("import os; os.environ.pop('AT')")


@pytest.fixture
def kernel(checkout):
    """A kernel that says "half-way" at the seventh block, and waits."""
    one = Kernel(checkout, at=7, happens="print('half-way', flush=True); time.sleep(300)")
    yield one
    one.client.stop_channels()
    one.manager.shutdown_kernel(now=True)


@pytest.fixture
def cells(checkout):
    """Of notebook 01: the cells before the one that captures, that one, and those after it."""
    notebook = jupytext.read(checkout / "01_capture_activations.py")
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    place = next(i for i, source in enumerate(code) if "stored = {" in source)
    return code[:place], code[place], code[place + 1 :]


@pytest.mark.slow
def test_a_cell_interrupted_runs_again_and_a_restarted_kernel_computes_nothing(
    checkout, kernel, cells, minilm, monkeypatch
):
    before, capturing, after = cells
    assert kernel.run(WATCHED, *before) == {"ok"}
    with pytest.raises(HalfWay):
        kernel.run(capturing)
    assert kernel.interrupt() == "KeyboardInterrupt"
    assert kernel.run(capturing, *after) == {"ok"}
    once = lines(checkout)
    assert len(set(once)) == BLOCKS and len(once) <= BLOCKS + 1  # at most the block in hand twice
    assert right_stores(checkout, minilm, monkeypatch)
    kernel.restart()
    assert kernel.run(WATCHED, *before, capturing, *after) == {"ok"}
    assert lines(checkout) == once


@pytest.mark.slow
def test_a_kernel_restarted_half_way_goes_on_from_its_finished_blocks(
    checkout, kernel, cells, minilm, monkeypatch
):
    before, capturing, after = cells
    kernel.run(WATCHED, *before)
    with pytest.raises(HalfWay):
        kernel.run(capturing)
    done = lines(checkout)
    kernel.restart()
    assert kernel.run("stored") == {"NameError"}, "a new process"
    assert kernel.run(WATCHED, *before, capturing, *after) == {"ok"}
    once = lines(checkout)
    assert once[: len(done)] == done and len(done) >= 5
    assert len(set(once)) == BLOCKS and len(once) <= BLOCKS + 1
    assert right_stores(checkout, minilm, monkeypatch)


# ---------------------------------------------------------------------------------- from one to the next


def test_what_an_earlier_notebook_keeps_is_asked_for_by_its_name(checkout):
    code, said = ended(*start(checkout, "03_match_neurons"))
    assert code != 0
    assert "'labels/reviews' is not there yet: run the notebook 02_discover_descriptors with" in said


def test_every_frame_that_is_taken_has_its_maker():
    sources = {
        path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.py")
    }
    pattern = r'preset\.{}\(f?"(\w+)'
    for name, text in sources.items():
        for first in re.findall(pattern.format("keep"), text):
            assert presets.KEPT_BY[first] == name
        for first in re.findall(pattern.format("kept"), text):
            assert presets.KEPT_BY[first] < name
    kept = {first for text in sources.values() for first in re.findall(pattern.format("keep"), text)}
    assert kept == set(presets.KEPT_BY)


def test_a_frame_is_there_whole_or_not_at_all(checkout, monkeypatch):
    monkeypatch.setenv("NBKIT_RESULTS", str(checkout.parent / "results"))
    preset = presets.load("sample", checkout / "presets.toml")
    first = pd.DataFrame({"question": [0.0, 1.0]})
    preset.keep("labels/reviews", first)

    def torn(frame, path):
        Path(path).write_bytes(b"PAR1 half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(pd.DataFrame, "to_parquet", torn)
    with pytest.raises(KeyboardInterrupt):
        preset.keep("labels/reviews", first + 1)
    assert preset.kept("labels/reviews").equals(first)
    assert [path.name for path in (preset.results / "labels").iterdir()] == ["reviews.parquet"]


def test_facts_torn_by_a_kill_do_not_take_the_others_with_them(checkout, monkeypatch):
    monkeypatch.setenv("NBKIT_RESULTS", str(checkout.parent / "results"))
    preset = presets.load("sample", checkout / "presets.toml")
    preset.record(units=9216)
    write = Path.write_text

    def torn(path, text, **options):
        write(path, text[: len(text) // 2], **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", torn)
    with pytest.raises(KeyboardInterrupt):
        preset.record(texts=160)
    monkeypatch.setattr(Path, "write_text", write)
    preset.record(tags=7)
    assert json.loads((preset.results / "summary.json").read_text(encoding="utf-8")) == {
        "units": 9216,
        "tags": 7,
    }


# ---------------------------------------------------------------------------------- two at once


@pytest.mark.slow
def test_two_notebooks_at_once_end_in_the_same_stores(checkout, minilm, monkeypatch):
    both = [start(checkout, "01_capture_activations") for _ in range(2)]
    assert [ended(*one)[0] for one in both] == [0, 0]
    assert len(lines(checkout)) == BLOCKS, "each block was computed by one of the two"
    assert right_stores(checkout, minilm, monkeypatch)
    assert (
        json.loads((checkout.parent / "results" / "sample" / "summary.json").read_text(encoding="utf-8"))[
            "texts"
        ]
        == 160
    )


def record_many(home, who):
    for i in range(40):
        presets.load("sample", home / "presets.toml").record(**{f"{who}{i}": i})


def test_facts_of_two_at_once_are_all_recorded(checkout, monkeypatch):
    monkeypatch.setenv("NBKIT_RESULTS", str(checkout.parent / "results"))
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=record_many, args=(checkout, who)) for who in "ab"]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    known = json.loads((checkout.parent / "results" / "sample" / "summary.json").read_text(encoding="utf-8"))
    assert known == {f"{who}{i}": i for who in "ab" for i in range(40)}


def test_a_second_make_run_leaves_the_results_of_the_first_alone(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("NBKIT_RESULTS", str(tmp_path))
    preset = presets.load("sample", ROOT / "notebooks" / "presets.toml")
    preset.keep("labels/reviews", pd.DataFrame({"a": [1]}))
    with run.alone(preset):
        assert run.main(["--preset", "sample"]) == 2
    assert "another `make run` of 'sample' is at work here" in capsys.readouterr().err
    assert len(preset.kept("labels/reviews")) == 1


# ---------------------------------------------------------------------------------- the cache is deleted


@pytest.fixture
def reviews(monkeypatch):
    monkeypatch.setattr(plan, "BLOCK_BYTES", 10 * 1536 * 2)
    return texts.load("sample:reviews").sample(40, seed=0)


def capture(subject, corpus, cache):
    return activations.capture(subject, corpus, sites="layer.1.ffn", cache=cache, progress=False)


def at_block(monkeypatch, n, happens):
    """``happens(folder of the half store)`` before the n-th block (counted from one) is written."""
    write, calls = store._write_block, []

    def wrapped(path, *arguments):
        calls.append(1)
        if len(calls) == n:
            happens(path.parent)
        return write(path, *arguments)

    monkeypatch.setattr(store, "_write_block", wrapped)


DELETED = "was deleted from .* while it was being filled.*Run the same line again"


@pytest.mark.parametrize("block", [1, 3, 4])
def test_a_cache_deleted_under_a_capture_is_said_and_made_anew(minilm, reviews, tmp_path, monkeypatch, block):
    at_block(monkeypatch, block, lambda part: shutil.rmtree(tmp_path / "cache"))
    with pytest.raises(FileNotFoundError, match=DELETED):
        capture(minilm, reviews, tmp_path / "cache")
    assert not list(tmp_path.glob("cache/activations/*/manifest.json"))
    again = capture(minilm, reviews, tmp_path / "cache")
    assert np.array_equal(again.values, capture(minilm, reviews, tmp_path / "other").values)


def test_another_that_starts_anew_after_a_deletion_is_not_sealed_by_the_first(
    minilm, reviews, tmp_path, monkeypatch
):
    """The first one's blocks are gone with the old folder: to name the new one would be to keep zeros."""

    def deleted_and_begun_by_another(part):
        size = (part / "values.bin").stat().st_size
        shutil.rmtree(part)
        part.mkdir()
        (part / "journal").touch()
        with open(part / "values.bin", "wb") as values:
            values.truncate(size)

    at_block(monkeypatch, 3, deleted_and_begun_by_another)
    with pytest.raises(FileNotFoundError, match=DELETED):
        capture(minilm, reviews, tmp_path)
    assert not list(tmp_path.glob("activations/*/manifest.json"))
    again = capture(minilm, reviews, tmp_path)
    assert np.array_equal(again.values, capture(minilm, reviews, tmp_path / "other").values)


def test_a_deletion_at_the_very_end_is_seen(minilm, reviews, tmp_path, monkeypatch):
    write = pd.DataFrame.to_parquet

    def late(frame, path, **options):
        write(frame, path, **options)
        if Path(path).name == "units.parquet":
            shutil.rmtree(Path(path).parent)

    monkeypatch.setattr(pd.DataFrame, "to_parquet", late)
    with pytest.raises(FileNotFoundError, match=DELETED):
        capture(minilm, reviews, tmp_path)


def test_a_store_deleted_after_it_was_opened_can_be_read_to_the_end(minilm, reviews, tmp_path):
    stored = capture(minilm, reviews, tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache")
    assert np.array_equal(stored.values, capture(minilm, reviews, tmp_path / "other").values)


@pytest.mark.parametrize("lost", ["manifest.json", "values.bin", "rows.parquet", "units.parquet"])
def test_a_store_deleted_in_part_is_made_again_or_refused(minilm, reviews, tmp_path, lost):
    whole = np.array(capture(minilm, reviews, tmp_path).values)
    (manifest,) = tmp_path.glob("activations/*/manifest.json")
    manifest.with_name(lost).unlink()
    if lost != "manifest.json":
        with pytest.raises(ValueError, match=rf"{lost}.*Delete that folder and capture again"):
            capture(minilm, reviews, tmp_path)
        shutil.rmtree(manifest.parent)
    assert np.array_equal(capture(minilm, reviews, tmp_path).values, whole)


@pytest.mark.slow
def test_a_notebook_whose_cache_is_deleted_says_so_and_runs_again(checkout, minilm, monkeypatch):
    happens = "shutil.rmtree(os.environ['NBKIT_CACHE'])"
    code, said = ended(*start(checkout, "01_capture_activations", 7, happens))
    assert code != 0 and re.search(DELETED, said.splitlines()[-1])
    assert not list((checkout.parent / "cache").glob("activations/*/manifest.json"))
    code, said = ended(*start(checkout, "01_capture_activations"))
    assert code == 0, said
    assert right_stores(checkout, minilm, monkeypatch)
