"""Every scorer on units whose meaning is known: precision and recall at 1 to 5, with intervals, and time.

    python benchmarks/matching.py                  UD English EWT: five genres, gold descriptors
    python benchmarks/matching.py --preset sample  the embedded sample, surface descriptors

Units are planted in the real model (``evaluation.plant``), trained on a part of the texts, kept by another;
scores are over the others, for all units. Writes matching-PRESET.json (every number, and the machine) and a
figure into benchmarks/results, and prints the tables: pooled texts (the units that were kept, and all that
were trained), each corpus by itself, faint units (``--blur``), what tags distractors and dead units keep,
without and with covariates: length and corpus, how many tags real units get beside the baselines, and how
many of these are right by two golds, at home and in the other corpora.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt

from nbkit import activations, evaluation, matching, plots, provenance, stats
from nbkit.activations import Activations
from nbkit.evaluation import Planted
from nbkit.models import Subject
from nbkit.workshop import presets

KINDS = {"pure": 64, "polysemantic": 60, "dataset-local": 30, "distractor": 20, "dead": 10}
WEAK = {"pure": 64, "polysemantic": 60}
TARGETS = (("pure", "P@1", 0.95), ("polysemantic", "P@2", 0.90), ("polysemantic", "R@2", 0.90))
SHOWN = ("pearson", "auroc", "average_precision", "frequency")  # drawn: more lines cannot be told apart
PREVALENCES = (None, 0.05, 0.02, 0.01, 0.005)  # of the sanity tests; None: as the descriptors are
JUDGED = ("pearson", "auroc", "frequency")  # on real units, by both golds
CORES = "2 cores, shared with other work: times are upper bounds"


def pooled(
    made: Planted, subject: Subject | None = None
) -> tuple[Activations, pd.DataFrame, dict[str, slice]]:
    """All held-out texts in one store, their labels, and which rows are of which corpus."""
    parts = {name: activations.capture(subject or made.subject, t) for name, t in made.held_out.items()}
    bounds = np.cumsum([0, *map(len, parts.values())])
    slices = {name: slice(a, b) for name, a, b in zip(parts, bounds, bounds[1:], strict=False)}
    return *matching.pooled(parts, made.labels), slices


def quality(scores: pd.DataFrame, gold: pd.DataFrame) -> dict[str, dict]:
    """{kind: {measure: Estimate}}."""
    found = {}
    for kind, right in gold.groupby("kind", sort=False):
        tags = evaluation.ranked(scores, right["unit"].unique().tolist())
        line = {f"P@{k}": evaluation.precision_at_k(tags, right, k) for k in range(1, 6)}
        line |= {f"R@{k}": evaluation.recall_at_k(tags, right, k) for k in range(1, 6)}
        found[kind] = line | {
            "AP": evaluation.average_precision(tags, right),
            "MRR": evaluation.mrr(tags, right),
        }
    return found


def every_scorer(made: Planted, *, by_corpus: bool = True) -> tuple[list[dict], list[dict]]:
    """A record for each scorer, corpus (None: all texts), kind and measure: of the units kept, and of all."""
    whole, labels, slices = pooled(made)
    kept: list[dict] = []
    trained: list[dict] = []
    for method in matching.SCORERS:
        for corpus, rows in {None: slice(None), **(slices if by_corpus else {})}.items():
            with provenance.stopwatch() as clock:
                scores = matching.score(whole.values[rows], labels.iloc[rows], method)
            scores.columns = whole.units["unit"]
            for records, every in ((kept, False), (trained, True)):
                for kind, line in quality(
                    scores, evaluation.gold_of(made, corpus=corpus, every=every)
                ).items():
                    same = {"method": method, "corpus": corpus, "kind": kind}
                    same["seconds"] = round(clock.seconds, 2)
                    records += [{**same, "measure": name, **value._asdict()} for name, value in line.items()]
    return kept, trained


def covariates(made: Planted, whole: Activations) -> pd.DataFrame:
    """Length in words and corpus, by text_id."""
    lengths = pd.concat({name: corpus.lengths for name, corpus in made.held_out.items()})
    return whole.rows.join(lengths, on=["corpus", "of_corpus"]).set_index("text_id")[["length", "corpus"]]


def kept_tags(made: Planted, methods: list[str]) -> list[dict]:
    """Share of distractors and dead units with a tag (q <= .05), without and with covariates."""
    whole, labels, _ = pooled(made)
    given_covariates = covariates(made, whole)
    kind = made.units[made.units["planted"]].drop_duplicates("unit").set_index("unit")
    kind = kind["kind"].where(kind["descriptor"].isna(), kind["kind"] + ": " + kind["descriptor"].fillna(""))
    units = kind.index[kind.str.startswith(("distractor", "dead"))].tolist()
    records = []
    for method in methods:
        for name, given in {"none": None, "length, corpus": given_covariates}.items():
            for minimum in (0.0, 0.1):
                tags = matching.tag(
                    whole.select(units=units),
                    labels,
                    method=method,
                    top=1,
                    covariates=given,
                    permutations=1000,
                    min_score=minimum if method == "pearson" else 0.5 + minimum,
                    progress=False,
                )
                shares = tags["tagged"].groupby(tags["unit"].map(kind)).mean()
                strength = tags["validation_score"].groupby(tags["unit"].map(kind)).mean()
                same = {"method": method, "covariates": name, "effect": minimum}
                records += [{**same, "kind": k, "tagged": v, "score": strength[k]} for k, v in shares.items()]
    return records


def baselines(made: Planted, plain: Subject, min_score: float) -> list[dict]:
    """Tags of the real units beside random directions, permuted rows and random weights."""
    whole, labels, _ = pooled(made, plain)
    random = pooled(made, plain.randomized(0))[0]
    found = matching.baselines(whole, labels, random_weights=random, min_score=min_score, progress=False)
    return found.to_dict("records")


def real_units(subject: Subject, corpora: dict, labels: dict) -> list[dict]:
    """Scorecards of tags of the real units, at home and away, by both golds.

    Tags are of one half of a corpus, gold is of the other half, or of the other half of another corpus: there
    `judged` is the share of the units with gold at home that have gold too. Means over corpora, or over pairs
    of them, with intervals over corpora.
    """
    stored = {name: activations.capture(subject, corpus, sites="ffn") for name, corpus in corpora.items()}
    second = {
        name: stats.halves(len(one), seed=0, groups=stats.usable_groups(one.rows.get("document")))[1]
        for name, one in stored.items()
    }
    golds = {
        rule: {n: evaluation.held_out_gold(stored[n], labels[n], second[n], rule=rule) for n in corpora}
        for rule in evaluation.GOLDS
    }
    lines = []
    for method in JUDGED:
        options = {"method": method, "permutations": 0, "seed": 0, "progress": False}
        tags = {name: matching.tag(stored[name], labels[name], **options) for name in corpora}
        for (rule, gold), home, other in itertools.product(golds.items(), corpora, corpora):
            judged = gold[home]["unit"]
            there = gold[other][gold[other]["unit"].isin(judged)]
            some = tags[home] if home == other else tags[home][tags[home]["unit"].isin(judged)]
            if len(there):
                card = evaluation.scorecard(some, there).map(lambda x: getattr(x, "value", x))
                same = {"method": method, "gold": rule, "home": home, "other": other}
                lines.append({**same, **card.drop("units")})
    frame = pd.DataFrame(lines)
    frame["where"] = np.where(frame["home"] == frame["other"], "same corpus", "other corpora")
    records = []
    for (rule, where, method), part in frame.groupby(["gold", "where", "method"], sort=False):
        for measure in frame.columns[4:-1]:
            mean = stats.mean_of_pairs(part[measure].astype(float), part["home"], part["other"])
            same = {"gold": rule, "where": where, "method": method, "measure": measure}
            shares = mean._replace(low=max(0.0, mean.low), high=min(1.0, mean.high))
            records.append({**same, **shares._asdict()})
    return records


def sane(made: Planted) -> list[dict]:
    """NeuronEval's tests of every scorer on the pure units, whose meaning is known, by prevalence."""
    whole, labels, _ = pooled(made)
    pure = made.units[(made.units["kind"] == "pure") & made.units["planted"]]
    some, pairs = whole.select(units=pure["unit"].tolist()), labels.columns.get_indexer(pure["descriptor"])
    return [
        {
            "method": method,
            "prevalence": share,
            **evaluation.sanity(
                method, np.asarray(some.values, np.float32), labels, pairs=pairs, prevalence=share
            )._asdict(),
        }
        for method in matching.SCORERS
        if method not in matching.TOGETHER  # the prior would be the planted units alone
        for share in PREVALENCES
    ]


def switches(made: Planted, method: str) -> float:
    """Share of dataset-local units whose first tag is the planted one in both of their corpora."""
    whole, labels, slices = pooled(made)
    local = made.units[(made.units["kind"] == "dataset-local") & made.units["planted"]]
    if local.empty:
        return float("nan")
    units, right = local["unit"].unique().tolist(), []
    for corpus, part in local.groupby("corpus"):
        some = whole.select(units=units)
        scores = matching.score(some.values[slices[corpus]], labels.iloc[slices[corpus]], method)
        scores.columns = units
        right.append(
            part.assign(right=[scores[u].idxmax() == d for u, d in part[["unit", "descriptor"]].values])
        )
    return float(pd.concat(right).groupby("unit")["right"].all().mean())


def table(records: list[dict], corpus: str | None, kind: str, measures: list[str]) -> pd.DataFrame:
    """Methods by measures, as "value [low, high]", and seconds."""
    frame = pd.DataFrame(records)
    frame = frame[
        (frame["kind"] == kind) & (frame["corpus"].isna() if corpus is None else frame["corpus"] == corpus)
    ]
    frame["text"] = [f"{r.value:.2f} [{r.low:.2f}, {r.high:.2f}]" for r in frame.itertuples()]
    wide = frame.pivot_table(index="method", columns="measure", values="text", aggfunc="first", sort=False)
    return wide[measures].assign(seconds=frame.groupby("method")["seconds"].first())


def figure(records: list[dict], folder: Path, name: str, sources: dict) -> None:
    """P@k and R@k of polysemantic units, pooled."""
    frame = pd.DataFrame(records)
    frame = frame[frame["corpus"].isna() & (frame["kind"] == "polysemantic")].set_index("measure")
    lines = []
    for method in SHOWN:
        part = frame[frame["method"] == method]
        for k in range(1, 6):
            pair = [stats.Estimate(*part.loc[f"{m}@{k}", ["value", "low", "high", "n"]]) for m in "PR"]
            lines.append({"method": method, "k": k, "precision": pair[0], "recall": pair[1]})
    with plots.style():
        ax = plots.precision_recall(pd.DataFrame(lines))
        ax.set_title("Planted polysemantic units")
        plots.save(ax.figure, name, sources, data=pd.DataFrame(lines), folder=folder)
        plt.close(ax.figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="treebank")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--blur", type=float, default=1.0, help="of the faint units; 0: leave them out")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    given = parser.parse_args()
    preset = presets.load(given.preset)
    subject, corpora = preset.subject(), preset.corpora(seed=0)
    source = "annotation" if given.preset == "treebank" else "surface"
    labels = {name: corpus.descriptors(source) for name, corpus in corpora.items()}
    common = dict(seed=given.seed, cache=None, progress=False)
    with provenance.stopwatch() as clock:
        made = evaluation.plant(subject, corpora, labels, kinds=KINDS, **common)
    print(made, f"in {clock.seconds:.0f} s", flush=True)
    records, trained = every_scorer(made)
    result = provenance.manifest(
        preset=given.preset,
        seed=given.seed,
        subject=made.subject.fingerprint,
        texts={name: texts.fingerprint for name, texts in made.held_out.items()},
        held_out={name: len(texts) for name, texts in made.held_out.items()},
        real_units=int(subject.sites.query("kind == 'ffn'")["width"].sum()),
        note=CORES,
        plant_seconds=round(clock.seconds, 1),
        truth=json.loads(made.units.to_json(orient="records")),
        scorers=records,
        scorers_unfiltered=trained,
        real=real_units(subject, corpora, labels),
        false_tags=kept_tags(made, ["pearson", "auroc"]),
        baselines=baselines(made, subject, preset["min_score"]["ffn"]),
        sanity=sane(made),
        switches={method: switches(made, method) for method in matching.SCORERS},
    )
    if given.blur:
        faint = evaluation.plant(subject, corpora, labels, kinds=WEAK, blur=given.blur, minimum=0.6, **common)
        result |= {"blur": given.blur, "faint": every_scorer(faint, by_corpus=False)[0]}
        result["faint_auroc"] = faint.units.groupby("kind")["achieved_auroc"].mean().to_dict()
    given.out.mkdir(parents=True, exist_ok=True)
    name = f"matching-{given.preset}"
    (given.out / f"{name}.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    sources = {key: result[key] for key in ("preset", "seed", "subject", "texts")}
    figure(records, given.out, f"{name}-figure", sources)  # its manifest is a JSON of its own
    report(result, list(corpora))


def report(result: dict, corpora: list[str]) -> None:
    """The tables, in print."""
    show = {"pure": ["P@1", "R@2", "R@5", "AP"], "polysemantic": ["P@1", "P@2", "R@2", "R@3", "R@5", "AP"]}
    for kind, measures in show.items():
        for name, of in {"units kept": "scorers", "all units trained": "scorers_unfiltered"}.items():
            print(f"\n{kind}, all texts, {name}\n", table(result[of], None, kind, measures).to_string())
    real = pd.DataFrame(result["real"])
    real["text"] = [f"{r.value:.2f} [{r.low:.2f}, {r.high:.2f}]" for r in real.itertuples()]
    keys = ["gold", "where", "method"]
    print("\nreal units\n", real.pivot(index=keys, columns="measure", values="text").to_string())
    for kind, measure, target in TARGETS:
        frame = pd.DataFrame(result["scorers"]).query("kind == @kind and measure == @measure")
        wide = frame.assign(corpus=frame["corpus"].fillna("all")).pivot(
            index="method", columns="corpus", values="value"
        )
        print(
            f"\n{kind} {measure} by corpus (target {target})\n", wide[["all", *corpora]].round(2).to_string()
        )
    local = pd.Series(result["switches"]).round(2)
    print("\ndataset-local units right in both corpora\n", local.to_string())
    print("\ntags of units that mean nothing\n", pd.DataFrame(result["false_tags"]).round(2).to_string())
    print("\nreal units and baselines, all texts\n", pd.DataFrame(result["baselines"]).round(2).to_string())
    shares = [
        f"{s['missing']:.0%} / {s['extra']:.0%} {'pass' if s['passed'] else 'fail'}" for s in result["sanity"]
    ]
    sanity = pd.DataFrame(result["sanity"]).assign(share=shares)
    sanity["prevalence"] = sanity["prevalence"].astype(object).where(sanity["prevalence"].notna(), "as is")
    wide = sanity.pivot_table(
        index="method", columns="prevalence", values="share", aggfunc="first", sort=False
    )
    print("\nsanity (missing / extra labels) by prevalence\n", wide.to_string())
    if "faint" in result:
        print(f"\nblur {result['blur']}, mean AUROC", result["faint_auroc"])
        for kind, measures in show.items():
            print(kind, "\n", table(result["faint"], None, kind, measures).to_string())


if __name__ == "__main__":
    main()
