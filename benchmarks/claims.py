"""Are verdicts on claims right, where the truth is known? And how long do a thousand claims take?

    python benchmarks/claims.py                     UD English EWT: five genres, gold descriptors
    python benchmarks/claims.py --corpora registers five registers, descriptors read off the surface
    python benchmarks/claims.py --model smollm2 --texts 800      the same in a decoder, on fewer texts
    python benchmarks/claims.py --only speed        1,000 claims, two corpora of 2,000 texts, 9,216 units

Needs the real corpora ($NBKIT_DATA), but for the speed. Units are planted in the real model
(``evaluation.plant``), and judged on texts that played no part in planting. The claims:

    everywhere   a pure unit and its descriptor
    some         a dataset-local unit and its descriptor in one corpus; right: it holds there, and does not
                 in the corpus in which the unit means something else
    false        a pure unit and the descriptor of another one
    vague        "a text of some length": longer than the median; units drawn from those for which it is true
                 (AUROC of .75 in the first corpus)

Labels are the gold descriptors, then the same with as many labels wrong as ``flips`` times the positives,
half of them missing and half too many. Wanted: .95, .90, .95 right; of shuffled claims .05 hold at most:
of all that are judged, and of the ``clear`` ones, which the vague are not among (a unit of long texts fires
for what long texts have, so that a shuffled claim about it may be true).
Writes claims-CORPORA.json (claims-CORPORA-MODEL.json for another model than minilm) into benchmarks/results
and prints it.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import pandas as pd

from nbkit import activations, claims, evaluation, matching, models, provenance, texts

DATA = Path(os.environ.get("NBKIT_DATA", "../shared/data"))
REGISTERS = ("product_reviews", "questions", "encyclopedia", "fiction", "dialogue")
FLIPS = (0.0, 0.2, 0.5, 1.0)
FREQUENT = 50  # texts of each corpus with a descriptor that is planted, and without it
VAGUE = "a text of some length"


def ewt(n: int) -> tuple[dict[str, texts.Texts], dict[str, pd.DataFrame]]:
    """``n`` sentences of 4 to 50 words of each genre, and their gold descriptors."""
    whole = texts.load(DATA / "ud_en_ewt")
    words = whole.words.groupby("text_id").size()
    kept = whole.where(text_id=words.index[words.between(4, 50)].tolist())
    corpora = {genre: kept.where(genre=genre).sample(n, seed=0) for genre in sorted(texts.EWT_GENRES)}
    return corpora, {name: corpus.descriptors("annotation") for name, corpus in corpora.items()}


def registers(n: int) -> tuple[dict[str, texts.Texts], dict[str, pd.DataFrame]]:
    """``n`` sentences of each register, and what rules on the plain text find."""
    corpora = {name: texts.load(DATA / "corpora" / f"{name}.jsonl").sample(n, seed=0) for name in REGISTERS}
    return corpora, {name: corpus.descriptors("surface") for name, corpus in corpora.items()}


def frequent(labels: dict[str, pd.DataFrame]) -> list[str]:
    """Descriptors that enough texts of every corpus have and lack."""
    known = set.intersection(*(set(frame) for frame in labels.values()))
    counts = pd.DataFrame({name: frame[sorted(known)].sum() for name, frame in labels.items()})
    most = pd.Series({name: len(frame) - FREQUENT for name, frame in labels.items()})
    return counts.index[(counts >= FREQUENT).all(axis=1) & (counts <= most).all(axis=1)].tolist()


def claims_of(made: evaluation.Planted, stored: dict, labels: dict, seed: int) -> pd.DataFrame:
    """The claims with their kind, and for ``some`` where it holds and where it does not."""
    rng = np.random.default_rng(seed)
    meant = made.units[made.units["planted"]]
    pure = meant[meant["kind"] == "pure"]
    local = meant[meant["kind"] == "dataset-local"]
    other = local.merge(local, on="unit", suffixes=("", "_other"))
    other = other[other["corpus"] != other["corpus_other"]]
    names = pure["descriptor"].unique()
    wrong = [rng.choice([name for name in names if name != own]) for own in pure["descriptor"]]
    first = next(iter(stored))
    fits = matching.score(stored[first], labels[first][[VAGUE]], "auroc").iloc[0]
    fits = fits[fits >= 0.75].index.to_numpy()
    long = rng.choice(fits, min(len(pure), len(fits)), replace=False)
    return pd.concat(
        [
            pd.DataFrame({"unit": pure["unit"], "description": pure["descriptor"], "kind": "everywhere"}),
            pd.DataFrame(
                {
                    "unit": other["unit"],
                    "description": other["descriptor"],
                    "kind": "some",
                    "inside": other["corpus"],
                    "outside": other["corpus_other"],
                }
            ),
            pd.DataFrame({"unit": pure["unit"], "description": wrong, "kind": "false"}),
            pd.DataFrame({"unit": long, "description": VAGUE, "kind": "vague"}),
        ],
        ignore_index=True,
    )


def flipped(labels: pd.DataFrame, flips: float, seed: int) -> pd.DataFrame:
    """The labels with ``flips`` wrong ones for each positive, half missing and half too many."""
    rng, matrix = np.random.default_rng(seed), labels.to_numpy() > 0.5
    share = np.maximum(matrix.mean(0), 1e-9)
    rate_of = np.where(matrix, flips / 2, flips / 2 * share / np.maximum(1 - share, 1e-9))
    wrong = rng.random(matrix.shape) < rate_of
    wrong[:, labels.columns.get_loc(VAGUE)] = False
    return pd.DataFrame((matrix ^ wrong).astype(float), labels.index, labels.columns)


def right(judged: claims.Judged) -> pd.Series:
    """[claim] Whether each verdict is right; a corpus with too few texts does not count."""
    outcome = judged.corpora.pivot(index="claim", columns="corpus", values="outcome")
    found = []
    for line in judged.verdicts.itertuples():
        of = outcome.loc[line.claim]
        known = of[of != "too few"]
        if line.kind == "some":
            found.append(of[line.inside] == "holds" and of[line.outside] != "holds")
        elif line.kind == "everywhere":
            found.append(len(known) > 0 and (known == "holds").all())
        else:
            found.append(line.verdict == ("fits many units" if line.kind == "vague" else "not found"))
    return pd.Series(found, judged.verdicts.index)


def verdicts(given: argparse.Namespace) -> dict:
    """Shares of right verdicts by kind of claim and noise of the labels."""
    corpora, labels = {"ewt": ewt, "registers": registers}[given.corpora](given.texts)
    names = frequent(labels)
    labels = {name: frame[names] for name, frame in labels.items()}
    subject, kinds = models.load(given.model), {"pure": given.units, "dataset-local": given.local}
    made = evaluation.plant(subject, corpora, labels, kinds=kinds, minimum=0.85, seed=given.seed)
    print(made, flush=True)
    stored = {
        name: activations.capture(made.subject, part, sites="ffn", cache=False)
        for name, part in made.held_out.items()
    }
    known = {}
    for name, part in made.held_out.items():
        length = part.lengths
        known[name] = made.labels[name].assign(**{VAGUE: (length > length.median()).astype(float)})
    found = claims_of(made, stored, known, given.seed)
    lines = []
    for flips in FLIPS:
        noisy = {name: flipped(frame, flips, given.seed) for name, frame in known.items()}
        judged = claims.judge(stored, found, made.held_out, labeller=noisy, seed=given.seed)
        correct = right(judged)
        shares = correct.groupby(judged.verdicts["kind"]).agg(["mean", "size"])
        lost = judged.verdicts[~correct].merge(judged.corpora, on="claim").groupby(["kind", "outcome"]).size()
        shuffled = judged.baselines.set_index("kind").loc["shuffled"]
        line = {"flips": flips, **shares["mean"].round(3).to_dict()}
        line["outcomes of the wrong"] = {" ".join(key): int(n) for key, n in lost.items()}
        line |= {"shuffled_holds": str(shuffled["holds_somewhere"]), "shuffled": int(shuffled["pairs"])}
        clear = found[found["kind"] != "vague"]
        judged = claims.judge(stored, clear, made.held_out, labeller=noisy, seed=given.seed)
        shuffled = judged.baselines.set_index("kind").loc["shuffled"]
        line |= {"clear_shuffled_holds": str(shuffled["holds_somewhere"]), "clear": int(shuffled["pairs"])}
        lines.append(line)
        print(line, flush=True)
    sizes = {"claims": shares["size"].to_dict(), "texts": {n: len(c) for n, c in made.held_out.items()}}
    vague = found.loc[found["kind"] == "vague", "unit"].tolist()
    sizes["others' descriptors hold"] = others(made, stored, vague, given.seed)
    return {"right": lines, **sizes, "descriptors": names, "model": subject.name, "seed": given.seed}


def others(made: evaluation.Planted, stored: dict, long: list[str], seed: int) -> dict[str, str]:
    """Every planted unit, and those of ``long`` texts, with every descriptor that is not its own: in how many
    corpora such a claim holds, of those in which it can be judged. Of a dataset-local unit its two corpora,
    where it was taught what to fire on, and the others, where it was not, are counted by themselves."""
    known = made.units[made.units["planted"]]
    meant = known.groupby(["unit", "kind"]).agg(own=("descriptor", set), taught=("corpus", set)).reset_index()
    vague = pd.DataFrame({"unit": long, "kind": "long texts", "own": [set()] * len(long)})
    units = pd.concat([meant, vague], ignore_index=True)
    names = pd.Series(next(iter(made.labels.values())).columns, name="description")
    pairs = units.merge(names, how="cross")
    pairs = pairs[[d not in own for d, own in zip(pairs["description"], pairs["own"], strict=True)]]
    judged = claims.judge(
        stored, pairs.reset_index(drop=True), made.held_out, labeller=made.labels, seed=seed
    )
    told = judged.corpora.merge(judged.verdicts[["claim", "kind", "taught"]], on="claim")
    local = told["kind"] == "dataset-local"
    taught = [isinstance(those, set) and c in those for c, those in told[["corpus", "taught"]].to_numpy()]
    told["kind"] = told["kind"].mask(local, np.where(taught, "local, taught here", "local, elsewhere"))
    told = told[told["outcome"] != "too few"]
    found = (told["outcome"] == "holds").groupby(told["kind"]).agg(["sum", "size"])
    return {str(name): f"{int(line['sum'])} of {int(line['size'])}" for name, line in found.iterrows()}


def speed(n_claims: int = 1000, n_texts: int = 2000, n_units: int = 9216) -> dict:
    """Seconds of ``judge`` from stored activations, labels by the encoder apart."""
    rng, stored, corpora, labels = np.random.default_rng(0), {}, {}, {}
    units = pd.DataFrame({"unit": [f"layer.0.ffn.{i}" for i in range(n_units)]})
    names = [f"description {i}" for i in range(n_claims)]
    for name in ("one", "two"):
        corpora[name] = texts.Texts.from_list([f"text {i}" for i in range(n_texts)], name)
        values = rng.standard_normal((n_units, n_texts), dtype=np.float32).astype(np.float16).T
        rows = pd.DataFrame({"text_id": corpora[name].frame["text_id"], "document": np.arange(n_texts) // 8})
        stored[name] = activations.Activations(values, rows, units, {})
        on = (rng.random((n_texts, n_claims)) < 0.1).astype(float)
        labels[name] = pd.DataFrame(on, corpora[name].frame["text_id"], names)
    found = pd.DataFrame({"unit": units["unit"].iloc[:n_claims], "description": names})
    start = time.perf_counter()
    claims.judge(stored, found, corpora, labeller=labels, progress=False)
    seconds = round(time.perf_counter() - start, 1)
    return {"claims": n_claims, "texts": n_texts, "units": n_units, "seconds": seconds}


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--corpora", choices=("ewt", "registers"), default="ewt")
    arguments.add_argument("--model", default="minilm")
    arguments.add_argument("--texts", type=int, default=1500, help="of each corpus")
    arguments.add_argument("--units", type=int, default=40, help="pure ones planted")
    arguments.add_argument("--local", type=int, default=40, help="dataset-local ones planted")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--only", choices=("verdicts", "speed"))
    arguments.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    given = arguments.parse_args()
    found = {"speed": speed()} if given.only != "verdicts" else {}
    found |= verdicts(given) if given.only != "speed" else {}
    model = "" if given.model == "minilm" else f"-{given.model}"
    name = "claims-speed.json" if given.only == "speed" else f"claims-{given.corpora}{model}.json"
    text = json.dumps(provenance.manifest(**found), indent=1, default=str)
    (given.out / name).write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
