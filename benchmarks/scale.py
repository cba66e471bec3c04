"""Time and peak memory of ``illusions.compare`` against texts, units, corpora and descriptors.

    python benchmarks/scale.py           each varied by itself, the others as in ``BASE``: a few minutes
    python benchmarks/scale.py --full    one point: 46,080 units, four corpora of 10,000 texts

Corpora are synthetic and every unit has one linear encoding of the descriptors in all of them. Activations
are float16 in files, as stores hold them, and read from there: memory is what ``compare`` itself takes beside
the interpreter (anonymous pages, sampled ten times a second, without the pages of mapped files). Each point
runs in a process of its own. ``load``: processes that waited for a core, on average, when it began.

Writes scale.json into benchmarks/results, and scale-figure.svg, .png and .json (``--full``: scale-full.json).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib import ticker

from nbkit import illusions, plots, provenance
from nbkit.activations import Activations

BASE = {"texts": 2000, "units": 1024, "corpora": 2, "descriptors": 16}
VARIED = {
    "texts": (1000, 4000, 8000),
    "units": (256, 4096),
    "corpora": (3, 4),
    "descriptors": (4, 64),
}
FULL = {"texts": 10_000, "units": 46_080, "corpora": 4, "descriptors": 16}
UNITS_AT_ONCE = 1024  # units written at a time


def made(point: dict, folder: Path) -> tuple[dict[str, Activations], dict[str, pd.DataFrame]]:
    """Stores and labels by corpus; a unit follows about three of the descriptors."""
    n, width, d = point["texts"], point["units"], point["descriptors"]
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((d, width), np.float32) * (rng.random((d, width)) < 3 / d)
    often = rng.uniform(0.03, 0.3, d)
    units = pd.DataFrame({"unit": [f"layer.0.ffn.{i}" for i in range(width)]})
    acts, labels = {}, {}
    for number in range(point["corpora"]):
        name, on = f"corpus {number}", (rng.random((n, d)) < often).astype(np.float32)
        shape = (width, n)
        stored = np.lib.format.open_memmap(folder / f"{number}.npy", "w+", np.float16, shape)
        for start in range(0, width, UNITS_AT_ONCE):
            some = slice(start, start + UNITS_AT_ONCE)
            noise = rng.standard_normal((stored[some].shape[0], n), np.float32)
            stored[some] = (on @ weights[:, some]).T + noise
        stored.flush()
        acts[name] = Activations(stored.T, pd.DataFrame({"text_id": np.arange(n)}), units, {})
        labels[name] = pd.DataFrame(on, columns=[f"d{i}" for i in range(d)])
    return acts, labels


def anonymous() -> float:
    """GB of memory of this process that no file backs."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("RssAnon:")[1].split()[0]) / 1e6


def measured(point: dict) -> dict:
    """Seconds and GB of one comparison, in this process."""
    with tempfile.TemporaryDirectory() as folder:
        acts, labels = made(point, Path(folder))
        peak, done = [anonymous()], threading.Event()

        def watch() -> None:
            while not done.wait(0.1):
                peak.append(anonymous())

        thread = threading.Thread(target=watch)
        thread.start()
        load = os.getloadavg()[0]
        start, cpu = time.perf_counter(), time.process_time()
        report = illusions.compare(acts, labels, progress=False)
        line = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
        done.set()
        thread.join()
    tags = int(report.agreement["tags"].iloc[0])
    return point | line | {"gb": max(peak) - peak[0], "tags": tags, "load": load}


def in_a_process(point: dict) -> dict:
    command = [sys.executable, __file__, "--point", json.dumps(point)]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    line = json.loads(found.stdout.splitlines()[-1])
    print(line, flush=True)
    return line


def figure(table: pd.DataFrame, folder: Path) -> None:
    """Seconds of a core and GB against each of the four; the line is proportional growth."""
    with plots.style():
        fig, axes = plt.subplots(2, len(VARIED), figsize=(9, 4), sharey="row", layout="constrained")
        for name, column in zip(VARIED, axes.T, strict=True):
            part = table[table["varied"].isin([name, "none"])].sort_values(name)
            for what, ax in zip(("cpu_seconds", "gb"), column, strict=True):
                line = part[what].iloc[0] * part[name] / part[name].iloc[0]
                ax.plot(part[name], line, color="0.75", lw=1, zorder=0)
                ax.plot(part[name], part[what], "o-")
                ax.set(xscale="log", yscale="log", xlabel=name if what == "gb" else "")
                ax.set_xticks(part[name], [f"{value:,}" for value in part[name]], minor=False)
                ax.xaxis.set_minor_locator(ticker.NullLocator())
        for row, ticks in zip(axes, ((10, 20, 40, 80), (0.1, 0.2, 0.4, 0.8)), strict=True):
            row[0].set_yticks(ticks, [f"{tick:g}" for tick in ticks])
            row[0].yaxis.set_minor_locator(ticker.NullLocator())
        axes[0, 0].set_ylabel("seconds of a core")
        axes[1, 0].set_ylabel("GB beside the stores")
        plots.save(fig, "scale-figure", {"results": "scale.json"}, data=table, folder=folder)
        plt.close(fig)


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--full", action="store_true", help="only the large point")
    arguments.add_argument("--point", type=json.loads, help="one point, in this process")
    arguments.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    given = arguments.parse_args()
    if given.point:
        print(json.dumps(measured(given.point)))
        return
    points = [("none", FULL if given.full else BASE)]
    if not given.full:
        points += [(name, BASE | {name: value}) for name, values in VARIED.items() for value in values]
    table = pd.DataFrame([{"varied": name} | in_a_process(point) for name, point in points])
    result = provenance.manifest(base=BASE) | {"points": table.round(3).to_dict("records")}
    name = "scale-full" if given.full else "scale"
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if not given.full:
        figure(table, given.out)


if __name__ == "__main__":
    main()
