"""Descriptors found by key phrases: how many known ones, how distinct, how fast; and product reviews.

    python benchmarks/descriptors.py              the sample, and product reviews of NBKIT_DATA
    python benchmarks/descriptors.py --show       prints the 30 largest of the reviews with two texts each

The sample: all four corpora through ``keyphrase``, merged, held against the descriptors written for it (same
meaning: cosine of .6 between embeddings). Product reviews: 2,000 sentences; the aspects annotated there
(picture, battery, sound, ...) in at least 10 of those sentences are the known ones. The sentences are printed
on demand and kept nowhere. Writes results/descriptors.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import time
from pathlib import Path

import pandas as pd

HERE = Path(__file__).parent
DATA = Path(os.environ.get("NBKIT_DATA", "../shared/data"))
SAMPLE = ("reviews", "questions", "encyclopedia", "fiction")
THRESHOLDS = (0.6, 0.75)  # of merging
SAME = 0.6  # cosine from which two names mean the same


def sample() -> dict:
    from nbkit import descriptors, texts
    from nbkit.models import sentence_encoder

    sentence_encoder().encode(["a first one"])  # loading is not timed
    found, written, seconds, n = [], [], 0.0, 0
    for name in SAMPLE:
        corpus = texts.load(f"sample:{name}")
        start = time.perf_counter()
        phrases = descriptors.propose(corpus, "keyphrase")
        seconds, n = seconds + time.perf_counter() - start, n + len(corpus)
        recorded = descriptors.propose(corpus, "recorded:sample")
        for frame, parts in ((phrases, found), (recorded, written)):
            parts.append(frame.assign(text_id=[(name, i) for i in frame["text_id"]]))
    known = pd.concat(written)["descriptor"].value_counts()
    lines = [judged(pd.concat(found), known, threshold, 1) for threshold in THRESHOLDS]
    lines += [judged(pd.concat(found), known[known >= 5], threshold, 2) for threshold in THRESHOLDS]
    return {"texts": n, "seconds": seconds, "seconds_for_1600": 1600 * seconds / n, "sets": lines}


def judged(proposals: pd.DataFrame, known: pd.Series, threshold: float, min_texts: int) -> dict:
    from nbkit import descriptors, evaluation

    merged = descriptors.merge(proposals, threshold=threshold, min_texts=min_texts)
    found = evaluation.recovered(merged.names, known, threshold=SAME)
    return {
        "threshold": threshold,
        "min_texts": min_texts,
        "descriptors": len(merged),
        "known": len(known),
        "recall": found.recall._asdict(),
        "mass": found.mass,
        "distinct": found.distinct,
    }


def reviews(show: bool) -> dict:
    from nbkit import descriptors, evaluation, texts

    corpus = texts.load(DATA / "corpora" / "product_reviews.jsonl").sample(2000, seed=0)
    proposals = descriptors.propose(corpus, "keyphrase")
    merged = descriptors.merge(proposals, threshold=0.7, min_texts=5)
    aspects = pd.Series(
        [a for cell in corpus.frame["aspects"].dropna() for a in re.findall(r"([a-z][a-z ]*)\[", str(cell))]
    ).value_counts()
    aspects = aspects[aspects >= 10]
    found = evaluation.recovered(merged.names, aspects, threshold=SAME)
    if show:
        labels = descriptors.label(corpus, merged, proposals=proposals)
        strings = corpus.frame.set_index("text_id")["text"]
        for name, n in merged.frame[["descriptor", "n_texts"]].head(30).itertuples(index=False):
            print(f"{name} ({n}): " + " | ".join(strings[labels.index[labels[name] > 0][:2]]))
        print(found.table.round(2).to_string())
    return {
        "texts": len(corpus),
        "descriptors": len(merged),
        "largest": merged.names[:30],
        "aspects": len(aspects),
        "recall": found.recall._asdict(),
        "mass": found.mass,
        "missed": found.table.loc[~found.table["found"], "descriptor"].tolist(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--show", action="store_true")
    given = parser.parse_args()
    from nbkit import provenance

    record = provenance.manifest(benchmark="descriptors", load=os.getloadavg()[0], same=SAME)
    record |= {"sample": sample(), "reviews": reviews(given.show)}
    (HERE / "results" / "descriptors.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({k: record[k] for k in ("sample", "reviews")}, indent=1))


if __name__ == "__main__":
    main()
