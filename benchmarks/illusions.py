"""What becomes of tags in other corpora, and are planted units told apart by both tests?

    python benchmarks/illusions.py                     UD English EWT: five genres, gold descriptors
    python benchmarks/illusions.py --corpora registers five registers, descriptors read off the surface
    python benchmarks/illusions.py --only outcomes     without the planted units, which take most of the time
    python benchmarks/illusions.py --only figure       drawn again from the numbers that are there

Needs the real corpora ($NBKIT_DATA).

Outcomes: ``compare`` on the real units of each of ``SITES``: shares of tags kept, changed, silent, and the
agreement, beside the same-encoding baseline and permuted rows.

Planted: units in the real model (``evaluation.plant``): pure ones mean one descriptor in all corpora,
dataset-local ones another in each of two. Only units count that hold on the check texts; they are judged on
held-out texts, which played no part in keeping them. Each test says of each unit and descriptor it is planted
for: flagged (``taxonomy``: neither global nor undecided; ``compare``: changed or silent in another corpus),
undecided (not flagged, and undecided somewhere) or, for neither, stable; not judged where the descriptor is
no tag of the unit. Wanted: .95 or more of the dataset-local units flagged, .05 or less of the pure ones.
Planted are descriptors with 50 texts or more in every corpus: nothing could be said of others.

Writes illusions-CORPORA.json, and a figure of the outcomes, into benchmarks/results and prints the numbers.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import pandas as pd
from matplotlib import pyplot as plt

from nbkit import activations, evaluation, illusions, models, plots, provenance, stats, texts

DATA = Path(os.environ.get("NBKIT_DATA", "../shared/data"))
REGISTERS = ("product_reviews", "questions", "encyclopedia", "fiction", "dialogue")
COUNTS = {"pure": 30, "dataset-local": 30}
FREQUENT = 50  # texts of each corpus with a descriptor that is planted, and without it
SHARE = 0.4  # of the texts, to plant with; .2 decide which units count; the others are judged
SITES = {
    "last layer, mean": ("layer.5.hidden", "mean"),
    "last layer, [CLS]": ("layer.5.hidden", "cls"),
    "FFN, max": ("ffn", "max"),
}
WHERE = {"ewt": "in five genres of EWT, whole documents", "registers": "in five registers"}
SHOWN = ["units", "same encoding", "permuted rows"]


def ewt(n: int) -> dict[str, texts.Texts]:
    """``n`` sentences of 4 to 50 words of each genre."""
    whole = texts.load(DATA / "ud_en_ewt")
    words = whole.words.groupby("text_id").size()
    kept = whole.where(text_id=words.index[words.between(4, 50)].tolist())
    return {genre: kept.where(genre=genre).sample(n, seed=0) for genre in sorted(texts.EWT_GENRES)}


def registers(n: int) -> dict[str, texts.Texts]:
    """``n`` sentences of each register."""
    return {name: texts.load(DATA / "corpora" / f"{name}.jsonl").sample(n, seed=0) for name in REGISTERS}


def outcomes(subject: models.Subject, corpora: dict[str, texts.Texts], labels: dict) -> dict[str, dict]:
    """For each site: outcomes and agreement of the units and of two baselines."""
    found = {}
    for kind, (site, pool) in SITES.items():
        stored = {n: activations.capture(subject, c, sites=site, pool=pool) for n, c in corpora.items()}
        report = illusions.compare(stored, labels)
        columns = ["kind", "tags", "units", "within", "across", "gap", "matched_gap", "kept_across"]
        lines = report.baselines[report.baselines["kind"].isin(SHOWN)][columns]
        shares = report.outcomes[report.outcomes["kind"].isin(SHOWN)]
        found[kind] = {
            "agreement": plain(lines),
            "outcomes": plain(shares),
            "groups": report.settings["groups"],
        }
        print(kind, lines.to_string(), shares.to_string(), sep="\n", flush=True)
    return found


def plain(table: pd.DataFrame) -> list[dict]:
    """Records with rounded numbers; an estimate is its value and interval."""
    rounded = lambda e: [round(float(x), 4) for x in e[:3]] if isinstance(e, tuple) else e  # noqa: E731
    return table.map(rounded).to_dict("records")


def figure(result: dict, name: str, folder: Path) -> None:
    """What becomes of the tags of each of ``SITES``, and their number in a cut."""
    drawn = {}
    for kind, found in result["outcomes"].items():
        tags = next(line["tags"] for line in found["agreement"] if line["kind"] == "units")
        lines = pd.DataFrame(found["outcomes"])
        told = lines.columns.drop(["kind", "where"])
        lines[told] = lines[told].map(lambda three, n=tags: stats.Estimate(*three, n=n))
        drawn[f"{kind}: {tags:,} tags"] = lines
    with plots.style():
        ax = plots.outcomes(drawn)
        ax.set_title(f"What becomes of a tag, {WHERE[name]}")
        sources = {"benchmark": "illusions", "subject": result["subject"], "corpora": result["corpora"]}
        plots.save(ax.figure, f"illusions-{name}-figure", sources, data=drawn, folder=folder)
        plt.close(ax.figure)


def judged(made: evaluation.Planted) -> dict[str, dict]:
    """For each test and kind of unit: how many are flagged, undecided, stable, and not judged."""
    meant = made.units[made.units["planted"]][["unit", "kind", "descriptor"]].drop_duplicates()
    units = meant["unit"].unique().tolist()
    stored = {
        name: activations.capture(made.subject, corpus, sites="ffn").select(units=units)
        for name, corpus in made.held_out.items()
    }
    verdicts = illusions.taxonomy(stored, made.labels, min_score=0.3).verdicts
    verdicts["word"] = verdicts["verdict"].replace({"global": "stable", "dataset-level": "flagged"})
    verdicts["word"] = verdicts["word"].replace({"local": "flagged", "none": "flagged"})
    table = illusions.compare(stored, made.labels, over="units", directions=20).units
    table = table[table["above"] & (table["other"] != table["corpus"])]
    words = {"kept": "stable", "significant": "stable", "changed": "flagged", "silent": "flagged"}
    outcome = table.assign(word=table["outcome"].astype(str).map(words).fillna("undecided"))
    tests = {"taxonomy": verdicts, "compare": outcome}
    return {test: counted(meant, lines[["unit", "descriptor", "word"]]) for test, lines in tests.items()}


def counted(meant: pd.DataFrame, lines: pd.DataFrame) -> dict[str, dict]:
    """Units of each kind by the gravest word on a descriptor they were planted for."""
    lines = lines.astype(str).merge(meant.astype(str), on=["unit", "descriptor"])
    order = ["flagged", "undecided", "stable"]
    gravest = lines["word"].map(order.index).groupby([lines["kind"], lines["unit"]]).min()
    found = {}
    for kind, part in meant.groupby("kind"):
        mine = gravest.get(kind, pd.Series(dtype=int)).value_counts()
        counts = {word: int(mine.get(i, 0)) for i, word in enumerate(order)}
        counts["not judged"] = part["unit"].nunique() - sum(counts.values())
        n = counts["flagged"] + counts["undecided"] + counts["stable"]
        found[kind] = counts | {"share flagged": counts["flagged"] / n if n else None}
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--corpora", choices=("ewt", "registers"), default="ewt")
    arguments.add_argument("--texts", type=int, default=1500, help="of each corpus")
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    arguments.add_argument("--only", choices=("outcomes", "planted", "figure"), help="one of the parts")
    arguments.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    given = arguments.parse_args()
    path = given.out / f"illusions-{given.corpora}.json"
    if given.only == "figure":
        return figure(json.loads(path.read_text(encoding="utf-8")), given.corpora, given.out)
    corpora = {"ewt": ewt, "registers": registers}[given.corpora](given.texts)
    labels, subject = {name: corpus.descriptors() for name, corpus in corpora.items()}, models.load()
    shared = illusions.shared_descriptors(labels, FREQUENT)
    result = provenance.manifest(
        corpora={name: corpus.fingerprint for name, corpus in corpora.items()},
        subject=subject.fingerprint,
        planted=COUNTS,
        descriptors=shared,
        share=SHARE,
        min_score={"taxonomy": 0.3, "compare": "its default"},
    )
    if given.only in (None, "outcomes"):
        result["outcomes"] = outcomes(subject, corpora, labels)
    labels = {name: frame[shared] for name, frame in labels.items()}
    for seed in given.seeds if given.only in (None, "planted") else []:
        made = evaluation.plant(subject, corpora, labels, kinds=COUNTS, share=SHARE, seed=seed, cache=None)
        result.setdefault("planted units", {})[seed] = judged(made)
        print(seed, made, result["planted units"][seed], flush=True)
    given.out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if "outcomes" in result:
        figure(result, given.corpora, given.out)


if __name__ == "__main__":
    main()
