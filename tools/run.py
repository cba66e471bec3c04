"""The main job: run every notebook with a preset, write the figures and the report, print the table.

    python tools/run.py --preset sample
    python tools/run.py --preset sample --figures figures      refresh the committed figures
    python tools/run.py --texts "films.csv wiki.txt"           your own texts (nbkit.workshop.own)

For your own texts a preset is made in build/own/NAME and kept; ``--column``, ``--by``, ``--model`` and
``--generators`` say more. Relative paths are meant from where the command was typed.

Executed notebooks go to build/notebooks/PRESET, figures to build/figures (or build/figures/PRESET), the
report to build/report/index.html (or build/report/PRESET/index.html): the checkout stays as it was.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import filelock
from build_notebooks import PEAK, ROOT, sources, stated_minutes
from report import summary_lines, summary_table, write_report
from schedule import side_by_side, workers_and_threads

from nbkit.workshop import own, presets

#: Arguments for one's own texts; in capitals also on make's command line.
OWN = {
    "texts": "your own texts: files, folders, patterns, hf: sources, separated by spaces",
    "column": "the column of the texts in a table",
    "by": "a column whose values cut one source into corpora",
    "model": "the subject: minilm, a folder, or a model of the hub",
    "generators": "where descriptors come from: topics, keyphrase, smollm2, openai:MODEL",
}
#: Notebooks that need two corpora.
TWO_CORPORA = ("04", "05", "09", "10", "11")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--preset", default="sample", help="a section of notebooks/presets.toml")
    parser.add_argument("--figures", type=Path, help="the folder for the figures, instead of build/figures")
    for name, what in OWN.items():
        parser.add_argument(f"--{name}", default=os.environ.get(name.upper()), help=what)
    given = parser.parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # headings of others' texts, in a plain locale
    if given.figures:
        os.environ["NBKIT_FIGURES"] = str(given.figures.resolve())  # the notebooks' kernels read it, too
    name, file = given.preset, os.environ.get("NBKIT_PRESETS", ROOT / "notebooks" / "presets.toml")
    if given.texts:
        try:
            name, file = own_preset(given)
        except (OSError, ValueError) as error:
            print(error, file=sys.stderr)
            return 2
    preset = presets.load(name, file)
    if absent := preset.missing():
        print(f"The preset {name!r} cannot run here:", *absent, sep="\n  ", file=sys.stderr)
        return 2
    try:
        with alone(preset):
            return _run(preset)
    except filelock.Timeout:
        print(f"another `make run` of {name!r} is at work here: wait for it, or stop it", file=sys.stderr)
        return 2
    except NotebookStopped as error:
        print("\nA notebook stopped:\n" + re.sub(r"\x1b\[[0-9;]*m", "", str(error)), file=sys.stderr)
        return 1


def own_preset(given: argparse.Namespace) -> tuple[str, Path]:
    """Name and file of a preset for ``--texts``; the notebooks' kernels are told where it is."""
    typed = [Path(place) for place in (os.environ.get("TYPED_FROM"), os.getcwd()) if place]
    more = {
        key: getattr(given, key) for key in ("column", "by", "model", "generators") if getattr(given, key)
    }
    made = own.make(given.texts, ROOT / "build" / "own", bases=typed, **more)
    os.environ["NBKIT_PRESETS"] = str(made.path)
    os.environ.setdefault("NBKIT_RESULTS", str(ROOT / "build" / "results"))
    os.environ.setdefault("NBKIT_FIGURES", str(ROOT / "build" / "figures"))
    print(
        *made.notes, f"\nThe preset, {_short(made.path)}:\n", made.path.read_text(encoding="utf-8"), sep="\n"
    )
    return made.name, made.path


def alone(preset: presets.Preset) -> filelock.BaseFileLock:
    """One run at a time for a preset: a run begins by removing its results. ``Timeout`` for the second."""
    preset.results.parent.mkdir(parents=True, exist_ok=True)
    return filelock.FileLock(f"{preset.results}.lock", blocking=False)


def _run(preset: presets.Preset) -> int:
    shutil.rmtree(preset.results, ignore_errors=True)
    print(f"{preset['title']}: about {preset['minutes']} minutes on 2 cores", flush=True)
    seconds = run_all(preset)
    preset.record(seconds=seconds, peak_megabytes=peaks(ROOT / "build" / "notebooks" / preset.name))
    report = write_report(preset)
    facts = json.loads((preset.results / "summary.json").read_text(encoding="utf-8"))
    print("\n" + summary_table(facts))
    for name in slow(seconds) if preset.name == "sample" else []:
        print(f"{name} took {seconds[name]:.0f} s, more than twice what it states: is the machine busy?")
    print(f"\nfigures: {_short(preset.figures)}/   report: {_short(report)}")
    return 0


def run_all(preset: presets.Preset) -> dict[str, float]:
    """Execute the notebooks, two at once where there are cores for two; seconds each took.

    What they find is printed as soon as it is there. A preset that asks for a GPU runs one at a time.
    """
    target = ROOT / "build" / "notebooks" / preset.name
    target.mkdir(parents=True, exist_ok=True)
    known = json.loads((ROOT / "notebooks" / "seconds.json").read_text(encoding="utf-8"))
    names = notebooks_of(preset)
    workers, threads = workers_and_threads()
    if preset.settings.get("device") == "cuda":
        workers, threads = 1, workers * threads
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # the notebooks' kernels read it
    start, printed = time.time(), set()

    def done(name: str, seconds: float) -> None:
        print(f"[{time.time() - start:4.0f} s] {name}: {seconds:.0f} s", flush=True)
        for line in news(preset, start, printed):
            print(f"         {line}", flush=True)

    return side_by_side(lambda name: execute(name, preset.name, target), names, workers, known, done)


def notebooks_of(preset: presets.Preset) -> list[str]:
    """Those that can run on its corpora, in order; what is left out is printed."""
    names = [source.stem for source in sources()]
    one = "groups" not in preset.settings and len(preset.settings.get("corpora", ())) == 1
    left = [name for name in names if one and name.startswith(TWO_CORPORA)]
    if left:
        print(f"one corpus: not run are {', '.join(left)}, which need two", flush=True)
    return [name for name in names if name not in left]


class NotebookStopped(RuntimeError):
    """A cell of a notebook raised; the message is its traceback."""


def execute(name: str, preset: str, target: Path) -> float:
    """The notebook executed in a process of its own, into ``target``; the seconds it took."""
    command = [sys.executable, str(ROOT / "tools" / "build_notebooks.py"), "--preset", preset]
    start = time.perf_counter()
    done = subprocess.run(
        [*command, "--to", str(target), name], stderr=subprocess.PIPE, text=True, errors="replace"
    )
    if done.returncode:
        raise NotebookStopped(f"{name}:\n{done.stderr}")
    return round(time.perf_counter() - start, 1)


def peaks(folder: Path) -> dict[str, float]:
    """The memory that each executed notebook took at the most, in megabytes, where the system tells."""
    found = {}
    for source in sources():
        path = folder / f"{source.stem}.ipynb"
        made = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"metadata": {}}
        if peak := made["metadata"].get(PEAK):
            found[source.stem] = peak
    return found


def news(preset: presets.Preset, start: float, printed: set[str]) -> list[str]:
    """Lines of the closing table, and figures made since ``start``, that are not yet in ``printed``."""
    summary = preset.results / "summary.json"
    facts = json.loads(summary.read_text(encoding="utf-8")) if summary.exists() else {}
    lines = [f"{name}: {value}" for name, value in summary_lines(facts)]
    made = (path for path in sorted(preset.figures.glob("*.svg")) if path.stat().st_mtime >= start)
    lines += [f"figure: {_short(path)}" for path in made]
    new = [line for line in lines if line not in printed]
    printed.update(new)
    return new


def slow(seconds: dict[str, float]) -> list[str]:
    """The notebooks that took more than twice the minutes they state."""
    return [path.stem for path in sources() if seconds.get(path.stem, 0) > 120 * stated_minutes(path)]


def _short(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


if __name__ == "__main__":
    sys.exit(main())
