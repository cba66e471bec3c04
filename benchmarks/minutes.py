"""How long do the README's two commands take? In a fresh clone, installed once, each command several times.

    python benchmarks/minutes.py                     three runs of `make run`, three of `make test`
    python benchmarks/minutes.py --runs 1 --only run

Clones this checkout's last commit into a temporary folder. Installation is timed by itself. Before each
`make run` the clone's cache and build are removed, so that everything is captured again; seconds until the
headline (agreement within and across, and its figure) are read off what the command prints. A busy machine
says little: the load before each run is written beside it. Writes minutes.json into benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from nbkit import provenance

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = ("run", "test")
HEADLINE = "illusion gap"  # its line is printed when notebook 04 is done


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


def _environment() -> dict[str, str]:
    """Without what would let the clone use the cache or the results of this checkout."""
    given = ("NBKIT_CACHE", "NBKIT_RESULTS", "NBKIT_FIGURES", "NBKIT_PRESET", "PYTHONPATH", "OMP_NUM_THREADS")
    return {name: value for name, value in os.environ.items() if name not in given}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", choices=COMMANDS)
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
            seconds, first = [], []
            for _ in range(given.runs):
                for made in ("cache", "build"):
                    shutil.rmtree(clone / made, ignore_errors=True)
                one, printed = timed(clone, name)
                seconds.append(round(one, 1))
                first.append(headline(printed))
            found[name] = {
                "install": round(install, 1),
                "seconds": seconds,
                "median": statistics.median(seconds),
                "range": [min(seconds), max(seconds)],
            }
            if name == "run":
                found[name]["headline"] = first
    result = provenance.manifest(
        benchmark="minutes", cores=os.cpu_count(), load=os.getloadavg()[0], found=found
    )
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "minutes.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
