r"""Trees in MiniLM: all metrics and sites on UD English EWT, and fine-tuning with trees on CoLA.

    python benchmarks/trees.py            probes: sp, ssp, essp, distance, depth, edge, with nulls
    python benchmarks/trees.py --cola     fine-tuning: baseline, 3 sites x 3 weights, 5 paired seeds
                                          (pass --texts and --seeds for less)

Probes: sentences of 4 to 40 words of EWT's training part; held-out figures on its test part; three seeds. The
time of sp, ssp and essp for all seven hidden states is taken for all sites in one product, and for one site
after another (one seed of sp). Fine-tuning: CoLA's in-domain training part, 2 epochs at 1e-4 in batches of
32, judged on its in-domain dev part; the probe of the auxiliary loss was fitted on EWT first, or is fresh as
in Li et al. 2023. Jobs and runs are kept as they end, and a second call goes on from there.
Writes results/trees.json, results/trees-cola.json and figures.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd

HERE = Path(__file__).parent
DATA = Path(os.environ.get("NBKIT_DATA", "../shared/data"))
SEEDS = (0, 1, 2)
COLA_SITES = ("layer.1.hidden", "layer.3.hidden", "layer.5.hidden")
COLA_WEIGHTS = (0.1, 1.0, 10.0)


def alternating(sentences, whole_epochs: int = 2) -> dict[str, float]:
    """Seconds of ``whole_epochs`` epochs of sp: all sites in one product, and one after another."""
    from nbkit import trees

    train, dev, _ = trees.split(sentences)
    options = {"epochs": whole_epochs, "progress": False}
    together, apart = [], []
    for _ in range(2):
        start = time.perf_counter()
        trees.fit(train, dev, "sp", **options)
        together.append(time.perf_counter() - start)
        start = time.perf_counter()
        for i, site in enumerate(sentences.sites):
            one = [replace(part, values=part.values[i : i + 1], sites=[site]) for part in (train, dev)]
            trees.fit(*one, "sp", **options)
        apart.append(time.perf_counter() - start)
    return {"together": min(together), "one_by_one": min(apart), "epochs": whole_epochs}


#: name of a job: metrics, seeds, nulls, task
JOBS = {
    "sp, ssp, essp": (("sp", "ssp", "essp"), SEEDS, ("none",), "gold"),
    "distance, depth": (("distance", "depth"), SEEDS, ("none",), "gold"),
    "distance, null": (("distance",), (0,), ("random weights",), "gold"),
    "nulls": (("sp", "ssp"), (0,), ("shuffled", "random weights", "gaussian"), "gold"),
    "edge": (("edge",), (0,), ("none",), "gold"),
    "edge, control": (("edge",), (0,), ("none",), "control_task"),
}


def submodules(subject, train, test) -> list[dict]:
    """The submodules that the paper announces, beside the hidden states, on 3,000 sentences: one seed."""
    from nbkit import trees

    options = {"test": test, "seeds": (0,), "rank": 64, "progress": False}
    some, lines = train.sample(3000, seed=0), []
    for kind in ("hidden", "attention", "heads", "ffn"):
        found = trees.measure(subject, some, ("distance", "sp", "ssp"), kind, **options)
        lines += json.loads(found.assign(kind=kind).to_json(orient="records"))
        print(kind, flush=True)
    return lines


def probes() -> None:
    from nbkit import models, provenance, texts, trees

    subject = models.load("minilm")
    train = texts.load(DATA / "ud_en_ewt", split="train")
    test = texts.load(DATA / "ud_en_ewt", split="test")
    path = HERE / "results" / "trees.json"
    record = provenance.manifest(benchmark="trees", load=os.getloadavg()[0], minutes={}, dropped={}, raw=[])
    record |= {"submodules": [], "time": {}, "published": []}
    kept = ("minutes", "dropped", "raw", "submodules", "time", "published")
    if path.exists():  # jobs that were done are not done again
        record |= {k: v for k, v in json.loads(path.read_text(encoding="utf-8")).items() if k in kept}
    for name, (metrics, seeds, nulls, task) in JOBS.items():
        if name in record["minutes"]:
            continue
        start = time.perf_counter()
        found = trees.measure(
            subject, train, metrics, test=test, seeds=seeds, nulls=nulls, task=task, progress=False
        )
        record["minutes"][name] = (time.perf_counter() - start) / 60
        record["dropped"] |= found.attrs["dropped"]
        record["raw"] += json.loads(found.to_json(orient="records"))
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(name, f"{record['minutes'][name]:.1f} min", flush=True)
    found = pd.DataFrame(record["raw"])
    three = found[found["metric"].isin(["sp", "ssp", "essp"])]
    record["bounds"] = trees.bounds(three[three["null"] == "none"]).to_dict("records")
    record["chosen_site"] = trees.choose_site(three)
    record["results"] = json.loads(trees.intervals(found).to_json(orient="records"))
    whole = trees.dataset(subject, train, progress=False)
    record["sentences"] = {"train": len(whole), "test": int(found["sentences"].iloc[0])}
    record["linear_baseline"] = trees.linear_baseline(trees.dataset(subject, test, progress=False))
    record["time"] = record["time"] or alternating(whole)
    record["published"] = record["published"] or published(subject, train)
    record["submodules"] = record["submodules"] or submodules(subject, train, test)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    draw(trees.intervals(found), record["linear_baseline"])
    print(trees.intervals(found).query("figure in ['loss', 'uuas', 'accuracy']").round(3).to_string())
    print(
        {k: record[k] for k in ("linear_baseline", "time", "minutes", "bounds", "chosen_site", "published")}
    )


def draw(results: pd.DataFrame, baseline: dict) -> None:
    """Edges found, and the three losses that should be bounds of one another, by layer."""
    from matplotlib import pyplot as plt

    from nbkit import plots

    loss = results[(results["figure"] == "loss") & (results["null"] == "none")]
    with plots.style():
        fig, axes = plt.subplots(1, 2, figsize=(10, 3.6))
        uuas = results[(results["figure"] == "uuas") & (results["metric"] == "distance")]
        adjacent = ("adjacent words joined", baseline["uuas"])
        plots.layer_lines(uuas, "edges found (UUAS)", baseline=adjacent, ax=axes[0])
        some = loss[loss["metric"].isin(["sp", "ssp", "essp"])]
        plots.layer_lines(some, "X on held-out sentences", hue="metric", log=True, ax=axes[1])
        axes[1].axhline(baseline["sp"], color="k", lw=0.8, ls=":", label="sp of one constant")
        axes[1].legend(fontsize="small")
        folder, drawn = HERE / "results", {"UUAS": uuas, "loss": some}
        plots.save(fig, "trees-figure", {"results": "trees.json"}, data=drawn, folder=folder)


def draw_gains(differences: list[dict]) -> None:
    from nbkit import plots

    with plots.style():
        sources, table = {"results": "trees-cola.json"}, pd.DataFrame(differences)
        ax = plots.gains(table)
        plots.save(ax.figure, "trees-cola-figure", sources, data=table, folder=HERE / "results")


def published(subject, train) -> list[dict]:
    """The paper's way, padding scored, few sentences and epochs: how much of the loss is padding."""
    from nbkit import trees

    sentences = trees.published_dataset(subject, train.sample(240, seed=0))
    lines = []
    for metric in ("sp", "ssp", "essp"):
        train_part, dev, test = trees.split(sentences)
        table = trees.score(
            trees.fit(train_part, dev, metric, published=True, epochs=3, progress=False), test
        )
        lines += table[["site", "loss", "entropy", "mean_depth"]].assign(metric=metric).to_dict("records")
    return lines


def cola_texts(name: str):
    """CoLA as it comes: source, label, mark, sentence, without a header."""
    from nbkit.texts import Texts

    table = pd.read_csv(DATA / "cola" / name, sep="\t", header=None, quoting=3)
    frame = pd.DataFrame({"text": table[3], "acceptable": table[1].astype(str)})
    return Texts.from_frame(frame, f"cola-{name.split('.')[0]}")


def earlier(arms: dict, arm: str) -> pd.DataFrame | None:
    """Runs that need not be run again: the arm's own, or else the baselines, which have no probe."""
    if arm in arms:
        return pd.DataFrame(arms[arm]["runs"])
    baselines = [run for other in arms.values() for run in other["runs"] if not run["site"]]
    return pd.DataFrame(baselines) if baselines else None


def cola(n: int | None, seeds: int) -> None:
    """Two arms: probes that were fitted on EWT first, all weights; fresh ones (as published), few runs."""
    from nbkit import models, provenance, texts, trees

    train, dev = cola_texts("in_domain_train.tsv"), cola_texts("in_domain_dev.tsv")
    if n:
        train = train.sample(n, seed=0)
    subject = models.load("minilm")
    sentences = trees.dataset(
        subject, texts.load(DATA / "ud_en_ewt", split="train").sample(3000), progress=False
    )
    fitted = trees.fit(*trees.split(sentences)[:2], "ssp", progress=False)
    path = HERE / "results" / "trees-cola.json"
    options = {"half": True, "epochs": 2, "learning_rate": 1e-4}
    record = provenance.manifest(
        benchmark="trees on CoLA", train=len(train), dev=len(dev), arms={}, **options
    )
    if path.exists():
        record["arms"] = json.loads(path.read_text(encoding="utf-8"))["arms"]
    arms = {"fitted": (fitted, COLA_WEIGHTS, range(seeds)), "fresh": (None, COLA_WEIGHTS[:1], range(2))}
    for arm, (probes, weights, some) in arms.items():

        def keep(found: pd.DataFrame, arm: str = arm) -> None:
            differences = trees.differences(found).to_dict("records")
            record["arms"][arm] = {"runs": found.to_dict("records"), "differences": differences}
            path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            print(arm, found.iloc[-1].to_dict(), flush=True)

        found = trees.finetune(
            subject,
            train,
            dev,
            "acceptable",
            sites=COLA_SITES,
            weights=weights,
            seeds=some,
            probes=probes,
            done=earlier(record["arms"], arm),
            keep=keep,
            progress=False,
            **options,
        )
        keep(found)
        if arm == "fitted":
            draw_gains(record["arms"][arm]["differences"])
        print(arm, trees.differences(found).round(3).to_string(), sep="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cola", action="store_true")
    parser.add_argument("--texts", type=int, help="CoLA sentences to train on")
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    cola(given.texts, given.seeds) if given.cola else probes()


if __name__ == "__main__":
    main()
