"""Seconds and memory of every scorer; EWT's real activations when they are there, else noise.

    python benchmarks/scorers.py                     9,000 texts x 9,216 units x 25 descriptors
    python benchmarks/scorers.py --device cuda --out benchmarks/results/scorers-gpu.json

Prints a table and writes JSON with the machine it ran on. The last column is the time for 100,000 texts
x 36,864 units x 1,000 descriptors: measured on a slice of the units at that size of the other two, and
extrapolated (time is linear in units, which are read in blocks, beyond what the labels cost once).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from pathlib import Path

import numpy as np

from nbkit import activations, matching, provenance
from nbkit.workshop import presets

LARGE = {"texts": 100_000, "units": 36_864, "descriptors": 1_000}
SLOW = {"average_precision"}  # an eighth of the slice is enough
TARGETS = {"pearson": 3, "auroc": 40, "average_precision": 40}


def real(n_descriptors: int) -> tuple[np.ndarray, np.ndarray, str]:
    """EWT: values and gold descriptors, shuffled copies of which fill up the number."""
    preset = presets.load("treebank")
    subject, corpora = preset.subject(), preset.corpora(seed=0)
    stored = {n: activations.capture(subject, c, sites="ffn", pool="max") for n, c in corpora.items()}
    values = np.concatenate([s.values.T for s in stored.values()], axis=1).T  # unit after unit, as stored
    gold = np.concatenate([c.descriptors("annotation").to_numpy(np.float32) for c in corpora.values()])
    extra = np.random.default_rng(0).permutation(gold)
    return values, np.concatenate([gold, extra], axis=1)[:, :n_descriptors], "UD English EWT, MiniLM FFN"


def noise(rows: int, units: int, descriptors: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Activations as stored (float16, unit after unit) and labels of 20 %."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((units, rows), dtype=np.float32).astype(np.float16).T
    return values, (rng.random((rows, descriptors)) < 0.2).astype(np.float32), "standard normal noise"


def seconds(method: str, values: np.ndarray, labels: np.ndarray, device: str) -> float:
    start = time.perf_counter()
    matching.SCORERS[method](values, labels, device=device)
    return time.perf_counter() - start


def extrapolated(method: str, values: np.ndarray, labels: np.ndarray, device: str) -> float:
    """Seconds for all units, by the slope between a quarter of the slice and the slice."""
    n = values.shape[1]
    few = min(seconds(method, values[:, : n // 4], labels, device) for _ in range(2))
    more = min(seconds(method, values, labels, device) for _ in range(2))
    slope = max(0.0, more - few) / (n - n // 4)
    return more + slope * (LARGE["units"] - n)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--slice", type=int, default=512, help="units of the large size that are measured")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "scorers.json")
    arguments = parser.parse_args()
    try:
        values, labels, source = real(25)
    except FileNotFoundError:
        values, labels, source = noise(9000, 9216, 25)
    large = noise(LARGE["texts"], arguments.slice, LARGE["descriptors"])
    matching.pearson(values[:, :64], labels, device=arguments.device)  # warm
    lines = []
    print(f"{'scorer':18} {'seconds':>8} {'target':>7} {'large, minutes':>14}   {source}, {arguments.device}")
    for method in matching.SCORERS:
        here = seconds(method, values, labels, arguments.device)
        some = arguments.slice // (8 if method in SLOW else 1)
        there = extrapolated(method, large[0][:, :some], large[1], arguments.device)
        lines.append(
            {"scorer": method, "seconds": here, "target": TARGETS.get(method), "large_seconds": there}
        )
        print(f"{method:18} {here:8.1f} {TARGETS.get(method, ''):>7} {there / 60:14.1f}", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    # in a large run: float64 labels and their float32 source, the result, some blocks
    need = {
        "labels_gb": LARGE["texts"] * LARGE["descriptors"] * 12 / 1e9,
        "result_gb": 2 * LARGE["units"] * LARGE["descriptors"] * 8 / 1e9,
    }
    print(f"peak memory of this process {peak:.1f} GB; large: {need}; load {os.getloadavg()[0]:.1f}")
    record = provenance.manifest(
        benchmark="scorers",
        source=source,
        device=arguments.device,
        shape=[*values.shape, labels.shape[1]],
        large={**LARGE, "measured_units": arguments.slice, "memory": need},
        load=os.getloadavg()[0],
        peak_memory_gb=peak,
        results=lines,
    )
    arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
