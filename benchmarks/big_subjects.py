"""A big subject over several devices beside the same on one: numbers, memory, tokens a second.

    python benchmarks/big_subjects.py --model smollm2 --map disk       on any machine: middle blocks on disk
    python benchmarks/big_subjects.py --model smollm2 --map split      two GPUs, half of the blocks on each
    python benchmarks/big_subjects.py --model org/70b --map auto --alone    too big for one device

Expected lines with `--map split` on two GPUs. NOT RUN THERE, the machine at hand has none; `--map disk`
was run, with a difference of 0 and 87 tokens a second against 219:

    smollm2: 134,515,008 parameters, saved as F32: 0.54 GB in float32, 0.27 GB in float16, ...
    modules on: cuda:0, cuda:1
    fingerprints equal: True
    largest difference of pooled values: ... std (below 1e-3 in float32)
    verify: all ok
    tokens a second: ... on several devices, ... on one

Memory that GPUs report as taken should add up to `stays` of the chosen dtype within a few per cent. With
`--alone` nothing is loaded on one device: the lines that compare are left out.
"""

from __future__ import annotations

import argparse
from collections import Counter
from typing import Any

import numpy as np
import torch

from nbkit import activations, models, provenance, texts


def device_map(kind: str, subject: models.Subject | None) -> Any:
    """The map: "auto", or blocks in two halves (the second on another GPU, or on disk)."""
    if kind == "auto" or subject is None:
        return "auto"
    first = "cuda:0" if kind == "split" else "cpu"
    second = "cuda:1" if kind == "split" else "disk"
    blocks = subject.architecture.blocks
    found = {}
    for name, module in subject.model.named_modules():
        if name.startswith(f"{blocks}."):
            number = int(name.removeprefix(f"{blocks}.").split(".")[0])
            found[f"{blocks}.{number}"] = second if number >= subject.sites["layer"].max() / 2 else first
        elif not list(module.children()) and (name and name != blocks):
            found[name] = first
    return found


def speed(subject: models.Subject, corpus: texts.Texts, sites: str) -> tuple[np.ndarray, float]:
    """Pooled values and tokens a second."""
    with provenance.stopwatch() as clock:
        stored = activations.capture(
            subject, corpus, sites=sites, pool="mean", dtype="float32", cache=False, progress=False
        )
    tokens = len(activations.plan_of(subject, corpus).ids)
    return np.asarray(stored.values), tokens / clock.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--map", default="disk", choices=["auto", "split", "disk"])
    parser.add_argument("--alone", action="store_true", help="do not load it on one device as well")
    parser.add_argument("--texts", type=int, default=40)
    parser.add_argument("--sites", default="hidden")
    asked = parser.parse_args()
    corpus = texts.load("sample:reviews").sample(asked.texts, seed=0)
    found: models.Memory = models.estimate(asked.model)
    print(found)
    one = None if asked.alone else models.load(asked.model, dtype=asked.dtype)
    several = models.load(asked.model, dtype=asked.dtype, device_map=device_map(asked.map, one))
    places = Counter(str(weight.device) for weight in several.model.parameters())
    print("modules on:", ", ".join(sorted(places)).replace("meta", "disk or memory, until they are needed"))
    for gpu in range(torch.cuda.device_count()):
        print(f"cuda:{gpu} holds {torch.cuda.memory_allocated(gpu) / 1e9:.2f} GB")
    values, fast = speed(several, corpus, asked.sites)
    if one is not None:
        print("fingerprints equal:", one.fingerprint == several.fingerprint)
        alone, faster = speed(one, corpus, asked.sites)
        print(f"largest difference of pooled values: {np.abs((values - alone) / alone.std(0)).max():.2g} std")
        print(f"tokens a second: {fast:,.0f} on several devices, {faster:,.0f} on one")
    checks = activations.verify(several, corpus, sites=asked.sites)
    print("verify: all ok" if checks["ok"].all() else checks.to_string())


if __name__ == "__main__":
    main()
