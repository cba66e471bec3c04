r"""Salient units for part of speech: rankers beside NeuroX 1.0.9's LCA, on the same words and splits.

    python benchmarks/salience.py --peers PEERS/bin/python
    python benchmarks/salience.py --across      languages, fine-tuning before and after, causes in the model

PEERS as in capture.py. Words are those of 3,700 sentences of UD English EWT (NBKIT_DATA; 4 to 50 words),
units the embeddings and the six hidden layers of MiniLM. Five splits by sentence. Every ranking is judged by
the same probe, refitted on its first units; NeuroX is given the published settings (l1 = l2 = 1e-5,
batch 128, 10 epochs). `lca` is run with four penalties; `lca, tuned` has the one that is best on the
development part. Intervals are those of splits that share their texts (``stats.mean_of_few``), seconds those
of the processor, over all threads. Writes results/salience.json and a figure: accuracy by number of units,
time to rank, selectivity, where the salient units are, how far rankings agree, and whether `lca` is NeuroX's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
SENTENCES, SPLITS, SHARE, DEV = 3700, 5, 0.855, 0.1
# of lca, the published one first
PENALTIES = {"lca": 1e-5, "lca, 1e-4": 1e-4, "lca, 1e-3": 1e-3, "lca, 1e-2": 1e-2}
COUNTS = (10, 27, 100, 270)
TARGETS = {10: 0.65, 27: 0.80, 100: 0.92, 270: 0.945}
ONE_BY_ONE = ("probeless", "selectivity", "random")
METHODS = ("greedy", "greedy, unscaled", *PENALTIES, "rfe", "omp", "lasso", *ONE_BY_ONE)
DRAWN = ("greedy", "lca", "lca, tuned", "NeuroX", "rfe", "omp", "random")
OPTIONS = {
    "greedy": {"depth": max(COUNTS)},
    "greedy, unscaled": {"depth": max(COUNTS), "by_prior": False},
    "lasso": {"alpha": 0.02},
    **{name: {"l1": penalty, "l2": penalty} for name, penalty in PENALTIES.items()},
}
PROPERTIES = ("upos", "deprel", "suffix", "casing", "chunk")


def neurox(folder: Path) -> None:
    """In the peers' environment: NeuroX's ranking of X and y, its seconds, and its loss on given weights."""
    import torch
    from neurox.interpretation import linear_probe

    X, y = np.load(folder / "X.npy"), np.load(folder / "y.npy")
    torch.manual_seed(0)
    start = time.process_time()
    probe = linear_probe.train_logistic_regression_probe(
        X, y, lambda_l1=1e-5, lambda_l2=1e-5, num_epochs=10, batch_size=128
    )
    classes = {str(c): int(c) for c in np.unique(y)}
    order, _ = linear_probe.get_neuron_ordering(probe, classes)
    seconds = time.process_time() - start
    weights = next(iter(probe.parameters())).detach().numpy()
    tops = {}
    for share in (0.05, 0.25, 0.5, 0.9):
        some, _ = linear_probe.get_top_neurons(probe, share, classes)
        tops[share] = sorted(int(u) for u in some)
    np.save(folder / "weights.npy", weights)
    np.save(folder / "order.npy", np.asarray(order))
    given = np.load(folder / "given.npz")
    with torch.no_grad():
        probe.linear.weight.copy_(torch.from_numpy(given["weight"]))
        probe.linear.bias.copy_(torch.from_numpy(given["bias"]))
        rows = slice(0, 512)
        loss = torch.nn.CrossEntropyLoss()(probe(torch.from_numpy(X[rows])), torch.from_numpy(y[rows]).long())
        weight = probe.linear.weight
        loss = loss + 1e-3 * linear_probe.l1_penalty(weight) + 1e-3 * linear_probe.l2_penalty(weight)
    (folder / "neurox.json").write_text(
        json.dumps({"seconds": seconds, "tops": tops, "loss": float(loss)}), encoding="utf-8"
    )


def beside_neurox(X, codes, weight, bias, python: str) -> dict:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "X.npy", X)
        np.save(folder / "y.npy", codes)
        np.savez(folder / "given.npz", weight=weight, bias=bias)
        subprocess.run([python, __file__, "--neurox", name], check=True, capture_output=True)
        found = json.loads((folder / "neurox.json").read_text(encoding="utf-8"))
        return {**found, "order": np.load(folder / "order.npy"), "weights": np.load(folder / "weights.npy")}


def words():
    """Activations [word, unit], words with their annotation, and the frame of units."""
    from nbkit import activations, models, texts

    corpus = texts.load(Path(os.environ.get("NBKIT_DATA", "../shared/data")) / "ud_en_ewt", split="train")
    lengths = corpus.words.groupby("text_id").size()
    corpus = corpus.where(text_id=lengths.index[lengths.between(4, 50)].tolist()).sample(SENTENCES, seed=0)
    stored = activations.capture(
        models.load("minilm"),
        corpus,
        sites=["embeddings", "hidden"],
        rows="word",
        pool="mean",
        dtype="float32",
    )
    return corpus, stored


def agreement(X, codes, theirs: dict, weight, bias) -> dict:
    """`lca` against NeuroX: the loss on the same weights, the units at shares of its weights' mass."""
    import torch

    from nbkit import salience

    rows = slice(0, 512)
    loss = salience.lca_loss(*map(torch.from_numpy, (weight, bias, X[rows], codes[rows])), 1e-3, 1e-3)
    entry = salience.entry_mass(theirs["weights"])
    sets = {
        share: sorted(np.flatnonzero(entry < float(share)).tolist()) == top
        for share, top in theirs["tops"].items()
    }
    return {"loss_difference": abs(float(loss) - theirs["loss"]), "same_units_at_mass": sets}


def one_split(X, y, seed: int, python: str | None) -> tuple[list[dict], dict]:
    """Accuracy by ranking and number of units; and the agreement of `lca` with NeuroX."""
    import pandas as pd

    from nbkit import salience

    split = salience.split_of(y, share=SHARE, dev=DEV, seed=seed)
    X_train, y_train = X[split.train], y.to_numpy()[split.train]
    codes, classes = pd.factorize(y_train, sort=True)
    rankings, seconds, same = {}, {}, {}
    for method in METHODS:
        start = time.process_time()
        name, options = method.partition(",")[0], OPTIONS.get(method, {})
        rankings[method] = salience.rank(X_train, y_train, name, seed=seed, **options)
        seconds[method] = time.process_time() - start
    on_dev = {name: dev_accuracy(X, y, rankings[name], split, seed) for name in PENALTIES}
    best = max(on_dev, key=lambda name: on_dev[name])
    taken = sum(seconds[name] for name in PENALTIES)
    if python:
        rng = np.random.default_rng(seed)
        weight = rng.standard_normal((len(classes), X.shape[1])).astype(np.float32)
        bias = rng.standard_normal(len(classes)).astype(np.float32)
        theirs = beside_neurox(X_train, codes, weight, bias, python)
        rest = np.setdiff1d(np.arange(X.shape[1]), theirs["order"])
        order = np.concatenate([theirs["order"], rest]).astype(int)
        rankings["NeuroX"] = salience.Ranking(order, np.zeros(len(order)), "NeuroX", list(classes))
        seconds["NeuroX"] = theirs["seconds"]
        same = agreement(X_train, codes, theirs, weight, bias)
    lines = []
    for method, ranking in rankings.items():
        curve = salience.accuracy_curve(X, y, ranking, COUNTS, split, seed=seed)
        for n, accuracy in curve.itertuples(index=False):
            lines.append(
                {"method": method, "n": n, "accuracy": accuracy, "seconds": seconds[method], "seed": seed}
            )
    lines += [{**one, "method": "lca, tuned", "seconds": taken} for one in lines if one["method"] == best]
    curve = salience.accuracy_curve(X, y, rankings["greedy"], [X.shape[1]], split, seed=seed)
    everything = curve["accuracy"][0]
    lines.append(
        {"method": "all units", "n": X.shape[1], "accuracy": everything, "seconds": 0.0, "seed": seed}
    )
    chosen = {"penalty": PENALTIES[best], "dev_accuracy": {str(PENALTIES[n]): on_dev[n] for n in on_dev}}
    return lines, {**same, **chosen, "words": [len(part) for part in split]}


def dev_accuracy(X, y, ranking, split, seed: int) -> float:
    """Accuracy of the first 27 units on the development part, by which LCA's penalty is chosen."""
    from nbkit import salience

    return float(salience.accuracy_curve(X, y, ranking, [27], split, on="dev", seed=seed)["accuracy"][0])


def studies(corpus, stored) -> dict:
    """On the first split: selectivity, minimal sets, ablation, layers by property, agreement of rankings."""
    from nbkit import salience

    X, y = salience.matrix(stored, salience.properties(corpus, "upos"))
    split = salience.split_of(y, share=SHARE, dev=DEV)
    forms = stored.rows.set_index(["text_id", "word_id"])["form"].loc[y.index].to_numpy()
    ranking = salience.rank(X[split.train], y.iloc[split.train])
    found = {
        "control_task": salience.control_task(X, y, forms, ranking, split).to_dict("records"),
        "minimal": salience.minimal_set(X, y, ranking, split, within=1).to_dict("records"),
        "ablation": salience.ablation_curve(X, y, ranking, split).to_dict("records"),
        "layer_probes": salience.layer_probes(X, y, stored.units, split).to_dict("records"),
        "layers": {},
    }
    layer = stored.units["layer"].to_numpy()
    for what in PROPERTIES:
        X_here, labels = salience.matrix(stored, salience.properties(corpus, what, min_count=50))
        first = salience.rank(X_here, labels, depth=100).top(100)
        counts = salience.layer_counts(stored.units, first)
        found["layers"][what] = {"units": counts.to_dict(), "mean_layer": float(layer[first].mean())}
    methods = ("greedy", "lca", "probeless", "selectivity", "random")
    rankings = {m: salience.rank(X[split.train], y.iloc[split.train], m) for m in methods}
    weights = rankings["lca"].notes["weights"]
    found["focus"] = salience.focus(weights, rankings["lca"].classes).to_dict()
    found["rankings"] = salience.compare_rankings(rankings).to_dict("records")
    return found


def across() -> dict:
    """Parallel treebanks in four languages; before and after fine-tuning on polarity; what units cause."""
    from nbkit import models, salience, texts, trees

    data = Path(os.environ.get("NBKIT_DATA", "../shared/data"))
    subject = models.load("minilm")
    parallel = {name: texts.load(data / "ud_pud" / f"{name}.conllu") for name in ("en", "de", "fr", "es")}
    words = {name: salience.words_of(subject, corpus, "upos") for name, corpus in parallel.items()}
    found = {"languages": side_by_side(salience.across(words, n=100))}
    films = texts.load(data / "corpora" / "film_reviews.jsonl").sample(3000, seed=0)
    test, train = films.split(0.2, seed=0)
    tuned = trees.finetune_classifier(
        subject, train, "polarity", epochs=2, learning_rate=5e-5, half=True, progress=False
    )
    y_pred, y_true = tuned.predict(test), test.frame["polarity"].astype(str)
    ewt = texts.load(data / "ud_en_ewt", split="dev").sample(1000, seed=0)
    both = {"before": subject, "after": tuned.subject}
    for what in ("upos", "deprel"):
        words = {name: salience.words_of(one, ewt, what) for name, one in both.items()}
        found[f"fine-tuning, {what}"] = side_by_side(salience.across(words, n=100))
    found["polarity_accuracy"] = float((y_pred == y_true.to_numpy()).mean())
    found["causes"] = causes(subject, ewt)
    return found


def side_by_side(found) -> dict:
    return {
        "table": found.table.to_dict("records"),
        "layers": found.layers.to_dict(),
        "shared": found.shared.to_dict(),
        "expected": found.shared.attrs["expected"],
    }


def causes(subject, corpus) -> list[dict]:
    """The first units moved inside the model at held-out words, beside random ones of the same layers."""
    from nbkit import activations, salience

    stored = activations.capture(
        subject, corpus, sites=["embeddings", "hidden"], rows="word", pool="mean", dtype="float32"
    )
    X, y = salience.matrix(stored, salience.properties(corpus, "upos", min_count=20))
    split = salience.split_of(y, share=SHARE)
    last = np.flatnonzero(stored.units["site"] == stored.units["site"].iloc[-1])
    probe = salience.fit_probe(X[split.train][:, last], y.iloc[split.train])
    ranking = salience.rank(X[split.train], y.iloc[split.train])
    held_out = y.index[split.test].get_level_values(0).unique().tolist()
    found = salience.intervene(
        subject, corpus.where(text_id=held_out), stored, y, ranking.order, probe.predict,
        counts=(10, 30, 100, 270), to="NOUN", progress=False,
    )  # fmt: skip
    return found.drop(columns="word").to_dict("records")


def table(lines: list[dict], overlap: float):
    """Mean accuracy by ranking and number of units; ``overlap``: words to test on / words to train on."""
    import pandas as pd

    from nbkit import stats

    frame = pd.DataFrame(lines)
    rows = []
    for (method, n), part in frame.groupby(["method", "n"], sort=False):
        estimate = stats.mean_of_few(part["accuracy"].to_numpy(), overlap=overlap)
        row = {
            "method": method,
            "n": n,
            "accuracy": estimate.value,
            "low": max(0.0, estimate.low),
            "high": min(1.0, estimate.high),
        }
        rows.append({**row, "seconds": part["seconds"].median(), "target": TARGETS.get(n)})
    return pd.DataFrame(rows)


def figure(rows, folder: Path) -> None:
    from matplotlib import pyplot as plt

    from nbkit import plots

    whole, some = rows["method"] == "all units", rows["method"].isin(DRAWN)
    table = rows[some].rename(columns={"method": "ranking"})
    with plots.style():
        ax = plots.accuracy_curves(table, float(rows.loc[whole, "accuracy"].iloc[0]))
        plots.save(ax.figure, "salience-figure", {"results": "salience.json"}, data=rows, folder=folder)
        plt.close(ax.figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--neurox", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--peers", help="python of the environment with NeuroX")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--across", action="store_true")
    given = parser.parse_args()
    if given.neurox:
        neurox(given.neurox)
        return
    from nbkit import provenance, salience

    if given.across:
        record = provenance.manifest(benchmark="salience across", load=os.getloadavg()[0]) | across()
        (given.out / "salience-across.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(record, indent=1))
        return

    corpus, stored = words()
    X, y = salience.matrix(stored, salience.properties(corpus, "upos"))
    lines, same = [], []
    for seed in range(SPLITS):
        some, agrees = one_split(X, y, seed, given.peers)
        lines += some
        same.append(agrees)
        print(f"split {seed}: {agrees}", file=sys.stderr, flush=True)
    train, test, _ = np.mean([one["words"] for one in same], axis=0)
    rows = table(lines, test / train)
    print(rows.round(3).to_string())
    record = provenance.manifest(benchmark="salience", sentences=SENTENCES, load=os.getloadavg()[0])
    record |= {"results": rows.to_dict("records"), "every_split": lines, "lca_and_neurox": same}
    record |= studies(corpus, stored)
    print(json.dumps({k: record[k] for k in ("control_task", "minimal", "layers", "rankings")}, indent=1))
    given.out.mkdir(exist_ok=True)
    (given.out / "salience.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    figure(rows, given.out)


if __name__ == "__main__":
    main()
