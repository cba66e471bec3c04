"""Does the taxonomy tell units that mean one thing everywhere from units that change their meaning?

    python benchmarks/illusions.py                     UD English EWT: five genres, gold descriptors
    python benchmarks/illusions.py --corpora registers five registers, descriptors read off the surface

Needs the real corpora ($NBKIT_DATA). Units are planted in the real model (``evaluation.plant``): pure ones
mean one descriptor in all corpora, dataset-local ones another in each of two. A unit is FLAGGED if one of the
descriptors it was planted for gets another verdict than "global" or "undecided". Wanted: at least .95 of the
dataset-local units flagged, at most .05 of the pure ones. Only units count whose ``planted`` says that they
hold on held-out texts; how many of the dataset-local ones do is reported. Planted are descriptors with 50
texts or more in every corpus: nothing could be said of others.

Writes illusions-CORPORA.json into benchmarks/results and prints it.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import pandas as pd

from nbkit import activations, evaluation, illusions, models, provenance, texts

DATA = Path(os.environ.get("NBKIT_DATA", "../shared/data"))
REGISTERS = ("product_reviews", "questions", "encyclopedia", "fiction", "dialogue")
COUNTS = {"pure": 30, "dataset-local": 30}
FREQUENT = 50  # texts of each corpus with a descriptor that is planted, and without it
SHARE = 0.6  # of the texts, to plant with; the others are judged


def ewt(n: int) -> dict[str, texts.Texts]:
    """``n`` sentences of 4 to 50 words of each genre."""
    whole = texts.load(DATA / "ud_en_ewt")
    words = whole.words.groupby("text_id").size()
    kept = whole.where(text_id=words.index[words.between(4, 50)].tolist())
    return {genre: kept.where(genre=genre).sample(n, seed=0) for genre in sorted(texts.EWT_GENRES)}


def registers(n: int) -> dict[str, texts.Texts]:
    """``n`` sentences of each register."""
    return {name: texts.load(DATA / "corpora" / f"{name}.jsonl").sample(n, seed=0) for name in REGISTERS}


def verdicts(made: evaluation.Planted, min_score: float) -> pd.DataFrame:
    """The taxonomy's lines about what the planted units were planted for, with their kind."""
    meant = made.units[made.units["planted"]]
    units = meant["unit"].unique().tolist()
    stored = {
        name: activations.capture(made.subject, corpus, sites="ffn").select(units=units)
        for name, corpus in made.held_out.items()
    }
    found = illusions.taxonomy(stored, made.labels, min_score=min_score).verdicts
    meant = meant[["unit", "kind", "descriptor"]].drop_duplicates()
    return meant.merge(found, on=["unit", "descriptor"], how="left")


def flagged(lines: pd.DataFrame) -> dict[str, dict]:
    """For each kind: units that held, units with a tag they were planted for, and the share flagged."""
    found = {}
    for kind, part in lines.groupby("kind"):
        judged = part.dropna(subset="verdict")
        other = (~judged["verdict"].isin(["global", "undecided"])).groupby(judged["unit"]).any()
        found[kind] = {"significant": part["unit"].nunique(), "judged": len(other), "flagged": other.mean()}
        found[kind]["verdicts"] = judged["verdict"].value_counts().to_dict()
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--corpora", choices=("ewt", "registers"), default="ewt")
    arguments.add_argument("--texts", type=int, default=1500, help="of each corpus")
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    arguments.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    given = arguments.parse_args()
    corpora = {"ewt": ewt, "registers": registers}[given.corpora](given.texts)
    labels, subject = {name: corpus.descriptors() for name, corpus in corpora.items()}, models.load()
    shared = illusions.shared_descriptors(labels, FREQUENT)
    labels = {name: frame[shared] for name, frame in labels.items()}
    result = provenance.manifest(
        corpora={name: corpus.fingerprint for name, corpus in corpora.items()},
        subject=subject.fingerprint,
        planted=COUNTS,
        descriptors=shared,
        share=SHARE,
        min_score=0.3,
    )
    result["seeds"] = {}
    for seed in given.seeds:
        made = evaluation.plant(subject, corpora, labels, kinds=COUNTS, share=SHARE, seed=seed, cache=None)
        result["seeds"][seed] = flagged(verdicts(made, min_score=0.3))
        print(seed, made, result["seeds"][seed], flush=True)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / f"illusions-{given.corpora}.json").write_text(
        json.dumps(result, indent=1) + "\n", encoding="utf-8"
    )
    print(json.dumps(result["seeds"], indent=1))


if __name__ == "__main__":
    main()
