"""How long do the README's two commands take? In a fresh clone, installed once, each command several times.

    python benchmarks/minutes.py                     three runs of `make run`, three of `make test`
    python benchmarks/minutes.py --runs 1 --only run
    python benchmarks/minutes.py --runs 1 --only run --busy     and once more beside two spinning programs

Clones this checkout's last commit into a temporary folder. Installation is timed by itself. Before each
`make run` the clone's cache and build are removed, so that everything is captured again; seconds until the
headline (agreement within and across, and its figure) are read off what the command prints. A busy machine
says little: the load before each run is written beside it. With ``--busy`` each run and each notebook is to
take at most ``AT_MOST`` times its quiet time; those that take more are printed. Writes minutes.json into
benchmarks/results.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from nbkit import provenance

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = ("run", "test")
HEADLINE = "illusion gap"  # its line is printed when notebook 04 is done
PROGRAMS, AT_MOST = 2, 3.0  # spinning programs beside, and how many times the quiet time is enough


def timed(clone: Path, *arguments: str) -> tuple[float, str]:
    """Seconds of ``tools/make.py`` in the clone, and what it printed. ``RuntimeError`` where it fails."""
    load, start = os.getloadavg()[0], time.perf_counter()
    command = [sys.executable, "tools/make.py", *arguments]
    done = subprocess.run(command, cwd=clone, capture_output=True, text=True, env=_environment())
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    print(f"make {' '.join(arguments)}: {seconds:.0f} s (load before {load:.1f})", flush=True)
    return seconds, done.stdout


def headline(printed: str) -> float | None:
    """Seconds from the start to the notebook after which the illusion gap stands: ``[ 104 s] 04_...``."""
    at = None
    for line in printed.splitlines():
        if begun := re.match(r"\[\s*(\d+) s\]", line):
            at = float(begun[1])
        elif HEADLINE in line:
            return at
    return None


def notebooks(printed: str) -> dict[str, float]:
    """Seconds of each notebook, off the lines ``[ 104 s] 04_test_illusions: 90 s``."""
    return {name: float(took) for name, took in re.findall(r"^\[.*\] (\d\d_\w+): (\d+) s$", printed, re.M)}


@contextlib.contextmanager
def spinning(programs: int) -> Iterator[None]:
    """So many other programs that take all the processor they get."""
    spin = [sys.executable, "-c", "while True: pass"]
    started = [subprocess.Popen(spin) for _ in range(programs)]
    try:
        yield
    finally:
        for program in started:
            program.kill()
            program.wait()


def several(clone: Path, name: str, runs: int) -> dict:
    """The command ``runs`` times, each time from cold: seconds, and for ``run`` those of its notebooks."""
    seconds, printed = [], []
    for _ in range(runs):
        for made in ("cache", "build"):
            shutil.rmtree(clone / made, ignore_errors=True)
        one, text = timed(clone, name)
        seconds.append(round(one, 1))
        printed.append(text)
    found = {"seconds": seconds, "median": statistics.median(seconds), "range": [min(seconds), max(seconds)]}
    if name == "run":
        each = [notebooks(text) for text in printed]
        found["headline"] = [headline(text) for text in printed]
        found["notebooks"] = {one: statistics.median(run[one] for run in each) for one in each[0]}
    return found


def slower(quiet: dict, busy: dict) -> dict[str, float]:
    """How many times its quiet time the command took, and each of its notebooks."""
    times = {"all": (quiet["median"], busy["median"])}
    times |= {name: (one, busy["notebooks"][name]) for name, one in quiet.get("notebooks", {}).items()}
    return {name: round(after / max(before, 1.0), 2) for name, (before, after) in times.items()}


def _environment() -> dict[str, str]:
    """Without what would let the clone use the cache or the results of this checkout."""
    given = ("NBKIT_CACHE", "NBKIT_RESULTS", "NBKIT_FIGURES", "NBKIT_PRESET", "PYTHONPATH", "OMP_NUM_THREADS")
    return {name: value for name, value in os.environ.items() if name not in given}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", choices=COMMANDS)
    parser.add_argument("--busy", action="store_true", help=f"also beside {PROGRAMS} spinning programs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    given = parser.parse_args()
    asked = [name for name in COMMANDS if given.only in (None, name)]
    found: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "main"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        for name in asked:
            install, _ = timed(
                clone, *(("preflight",) if name == "run" else ("test", "--collect-only", "-q"))
            )
            quiet = several(clone, name, given.runs)
            found[name] = {"install": round(install, 1), **quiet}
            if given.busy:
                with spinning(PROGRAMS):
                    busy = several(clone, name, given.runs)
                found[name] |= {"busy": busy, "times": slower(quiet, busy)}
                late = {one: times for one, times in found[name]["times"].items() if times > AT_MOST}
                print(f"more than {AT_MOST:g} times its quiet time: {late or 'none'}", flush=True)
    result = provenance.manifest(
        benchmark="minutes", cores=os.cpu_count(), load=os.getloadavg()[0], found=found
    )
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "minutes.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
