"""How good discovery is: known classes that no step sees, between random directions and a supervised probe.

    python benchmarks/discovery.py                          six corpora of $NBKIT_DATA, topics alone
    python benchmarks/discovery.py --ways topics smollm2 topics+smollm2 keyphrase
    python benchmarks/discovery.py --only registers         4,000 texts of five registers, from cold: seconds

Classes: the service of a dialogue, the aspects of product reviews (20 sentences or more), the corpus, the
polarity of film reviews. For each class the AUROC of the best single descriptor, and of the best union of
at most three (the largest of their labels, added greedily), chosen on a random half of the texts and
measured on the other. Anchors: as many random directions of the embedding space, chosen in the same way,
and a logistic regression on the same embeddings, fitted on the first half. ``way`` is (found - random) /
(supervised - random), of the mean AUROCs. Coverage: the share of texts with 1 to 8 descriptors of .5 or
more. Distinct: the share with no label correlation over .9. Stable: the corpora are cut in halves, and the
share of the one half's descriptors that the other half has by name (a cosine of .6) and by direction (the
mean embedding, weighted by the labels, less that of all texts: a cosine of .8). SmolLM2 is asked about 40
texts of a corpus. Writes results/discovery.json.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from nbkit import descriptors, evaluation, models, provenance, stats, texts

HERE = Path(__file__).parent
CORPORA = ("product_reviews", "questions", "encyclopedia", "fiction", "dialogue", "film_reviews")
FEWEST = 20  # texts of a class
UNION = 3
ASKED = {"smollm2": 40}  # texts of a corpus that a way with this generator asks about; the others: 300


def corpora(n: int) -> dict[str, texts.Texts]:
    folder = Path(os.environ.get("NBKIT_DATA", HERE.parent.parent / "shared" / "data")) / "corpora"
    loaded = {name: texts.load(folder / f"{name}.jsonl") for name in CORPORA}
    return {name: c.sample(min(n, len(c)), seed=0) for name, c in loaded.items()}


def classes(frame: pd.DataFrame) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
    """{(kind, class): (rows, y)} of the texts of all corpora; ``rows`` are those where the class is asked."""
    found = {}
    for name in CORPORA:
        found["corpus", name] = np.arange(len(frame)), (frame["corpus"] == name).to_numpy()
    rows = np.flatnonzero(frame["service"].notna()) if "service" in frame else []
    for service, n in frame["service"].value_counts().items():
        if n >= FEWEST:
            found["service", str(service)] = rows, (frame["service"].iloc[rows] == service).to_numpy()
    rows = np.flatnonzero(frame["polarity"].notna())
    film = frame["polarity"].iloc[rows]
    found["polarity", str(film.iloc[0])] = rows, (film == film.iloc[0]).to_numpy()
    rows = np.flatnonzero(frame["corpus"] == "product_reviews")
    aspects = [aspects_of(value) for value in frame["aspects"].iloc[rows]]
    for aspect, n in pd.Series([a for some in aspects for a in some]).value_counts().items():
        if n >= FEWEST:
            found["aspect", str(aspect)] = rows, np.array([aspect in some for some in aspects])
    return found


def aspects_of(value: object) -> set[str]:
    """ "picture[+2], zoom[-1]" or a list of such -> {"picture", "zoom"}."""
    items = value if isinstance(value, (list, tuple, np.ndarray)) else str(value or "").split(",")
    return {str(item).split("[")[0].strip().lower() for item in items} - {"", "nan", "none"}


def best(values: np.ndarray, y: np.ndarray, first: np.ndarray) -> tuple[float, float, list[int]]:
    """AUROC on the texts that are not ``first`` of the best single column of ``values`` [text, column] and of
    the best union of three, chosen on the ``first``; and the columns chosen."""
    a, b = values[first], values[~first]
    ranks = pd.DataFrame(a).rank().to_numpy()
    n1, n0 = y[first].sum(), (~y[first]).sum()
    single = (ranks[y[first]].sum(0) - n1 * (n1 + 1) / 2) / (n1 * n0)
    chosen = [int(np.argmax(single))]
    best_so_far = single[chosen[0]]
    for _ in range(UNION - 1):
        tried = np.argsort(-single)[:40]
        so_far = a[:, chosen].max(1)
        scores = [roc_auc_score(y[first], np.maximum(so_far, a[:, i])) for i in tried]
        if max(scores) <= best_so_far:
            break
        best_so_far = max(scores)
        chosen.append(int(tried[int(np.argmax(scores))]))
    alone = roc_auc_score(y[~first], b[:, chosen[0]])
    return float(alone), float(roc_auc_score(y[~first], b[:, chosen].max(1))), chosen


def judged(labels: pd.DataFrame, vectors: np.ndarray, frame: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """One line per class: AUROCs of the found, of random directions and of the probe."""
    directions = vectors @ stats.unit_vectors(vectors.shape[1], labels.shape[1], seed)
    directions = (directions - directions.mean(0)) / directions.std(0)
    first = np.random.default_rng(seed).random(len(frame)) < 0.5
    values, lines = labels.to_numpy(), []
    for (kind, name), (rows, y) in classes(frame).items():
        if min(y[first[rows]].sum(), y[~first[rows]].sum()) < 5:
            continue
        single, union, chosen = best(values[rows], y, first[rows])
        random_single, random_union, _ = best(directions[rows], y, first[rows])
        probe = LogisticRegression(max_iter=500, C=10).fit(vectors[rows][first[rows]], y[first[rows]])
        supervised = roc_auc_score(y[~first[rows]], probe.decision_function(vectors[rows][~first[rows]]))
        line = {"kind": kind, "class": name, "n": int(y.sum()), "single": single, "union": union}
        line |= {"random_single": random_single, "random_union": random_union, "supervised": supervised}
        lines.append(line | {"chosen": ", ".join(labels.columns[chosen])})
    return pd.DataFrame(lines)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Means by kind of class, and over all classes, with the way from random to supervised."""
    columns = ["single", "union", "random_single", "random_union", "supervised"]
    means = table.groupby("kind")[columns].mean()
    means.loc["all classes"] = table[columns].mean()
    for what in ("single", "union"):
        span = means["supervised"] - means[f"random_{what}"]
        means[f"way_{what}"] = (means[what] - means[f"random_{what}"]) / span
    return means


def direction(labels: pd.DataFrame, vectors: np.ndarray) -> np.ndarray:
    """[descriptor, width]: the mean embedding weighted by labels, less that of all texts."""
    p = labels.to_numpy()
    found = (p / p.sum(0)).T @ vectors - vectors.mean(0)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def facts(found: descriptors.Discovery, seconds: float) -> dict:
    """Counts of one discovery."""
    labels = pd.concat(found.labels.values(), ignore_index=True)
    n = (labels >= 0.5).sum(axis=1)
    alike = np.corrcoef(labels.to_numpy().T) - 2 * np.eye(labels.shape[1])
    sums = pd.DataFrame({name: frame.sum() for name, frame in found.labels.items()})
    some = found.table.drop_duplicates("descriptor").head(10)["descriptor"].tolist()
    return {
        "seconds": seconds,
        "descriptors": labels.shape[1],
        "in 20 texts": int((sums.sum(axis=1) >= 20).sum()),
        "usable in two corpora": int(((sums >= 20).sum(axis=1) >= 2).sum()),
        "coverage": float(n.between(1, 8).mean()),
        "mean per text": float(n.mean()),
        "distinct": float((alike.max(1) <= 0.9).mean()),
        "dropped": found.dropped,
        "notes": found.notes,
        "largest": some,
    }


def read_texts(
    found: descriptors.Discovery, given: dict[str, texts.Texts]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Labels of all corpora and the lines of their texts, aligned."""
    frames = [
        given[name].frame.set_index("text_id").loc[labels.index].assign(corpus=name)
        for name, labels in found.labels.items()
    ]
    return pd.concat(found.labels.values(), ignore_index=True), pd.concat(frames, ignore_index=True)


def discovered(
    given: dict[str, texts.Texts], way: list[str], encoder: Any, ledger: Path
) -> descriptors.Discovery:
    n = min(ASKED.get(generator, 300) for generator in way)
    return descriptors.discover(given, way, n=n, encoder=encoder, ledger=ledger)


def stability(given: dict[str, texts.Texts], way: list[str], encoder: Any, ledger: Path) -> dict[str, float]:
    """Share of one half's descriptors that the other half has too, by name and by direction."""
    sides = []
    for side in (0, 1):
        half = {name: corpus.split(0.5, seed=0)[side] for name, corpus in given.items()}
        labels, frame = read_texts(discovered(half, way, encoder, ledger), half)
        sides.append((list(labels), direction(labels, encoder.encode(frame["text"].tolist()))))
    (a, x), (b, y) = sides
    cosine = x @ y.T
    by_name = [evaluation.recovered(p, q, encoder=encoder).recall.value for p, q in ((a, b), (b, a))]
    by_direction = np.r_[cosine.max(1) >= 0.8, cosine.max(0) >= 0.8].mean()
    return {"stable by name": float(np.mean(by_name)), "stable by direction": float(by_direction)}


def five_registers() -> dict:
    """Topics of 800 texts of each of five registers, embeddings included."""
    given = {name: corpus for name, corpus in corpora(800).items() if name != "film_reviews"}
    models.sentence_encoder()  # loaded, and nothing embedded yet
    with provenance.stopwatch() as clock:
        found = descriptors.discover(given)
    return {"load": os.getloadavg()[0], "texts": sum(map(len, given.values()))} | facts(found, clock.seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=1500, help="texts of a corpus")
    parser.add_argument("--ways", nargs="+", default=["topics"], help="generators, joined by +")
    parser.add_argument("--only", choices=["registers"], help="beside the results that are there")
    given = parser.parse_args()
    target = HERE / "results" / "discovery.json"
    if given.only:
        record = json.loads(target.read_text(encoding="utf-8")) | {"five registers": five_registers()}
        target.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(record["five registers"])
        return
    read, encoder, results = corpora(given.texts), models.sentence_encoder(), {}
    with provenance.stopwatch() as clock:
        for corpus in read.values():
            encoder.encode(corpus.frame["text"].tolist())
    record = provenance.manifest(benchmark="discovery", load=os.getloadavg()[0], texts=given.texts)
    record |= {"embedding seconds": clock.seconds, "ways": results}
    ledger = Path(tempfile.mkdtemp()) / "replies.sqlite"  # what is asked for the halves again is known
    for way in given.ways:
        with provenance.stopwatch() as clock:
            found = discovered(read, way.split("+"), encoder, ledger)
        labels, frame = read_texts(found, read)
        table = judged(labels, encoder.encode(frame["text"].tolist()), frame)
        results[way] = facts(found, clock.seconds) | stability(read, way.split("+"), encoder, ledger)
        results[way] |= {"classes": table.to_dict("records"), "means": summary(table).to_dict("index")}
        target.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(way, {k: v for k, v in results[way].items() if k not in ("classes", "means")})
        print(summary(table).round(3).to_string())


if __name__ == "__main__":
    main()
