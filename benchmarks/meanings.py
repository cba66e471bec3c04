"""Are units of two meanings found, are units of one left whole, and what do random directions get?

    python benchmarks/meanings.py                  the embedded sample, minilm: two or three minutes
    python benchmarks/meanings.py --writer smollm2 ``claims.sensitivity`` of pure units as well

Units are planted in minilm (``evaluation.plant``): polysemantic ones fire for either of two descriptors, pure
ones for one. Their meanings are sought in texts that played no part in planting, beside random directions of
the same space, drawn with another seed than the null's. A meaning is right if the descriptor to which its top
texts belong most, against the share of all texts, is one of the unit's. Writes meanings.json into
benchmarks/results and prints it.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from nbkit import activations, claims, evaluation, models, provenance, stats, texts

SAMPLES = ("reviews", "fiction", "encyclopedia", "questions")
FREQUENT = 85  # texts that have a descriptor which is planted


def with_directions(stored: activations.Activations, n: int, seed: int) -> activations.Activations:
    """The store with ``n`` random directions as further units."""
    drawn = stats.random_directions({"all": stored.values}, n, seed)["all"]
    units = pd.concat([stored.units, stats.direction_units(n)], ignore_index=True)
    return replace(stored, values=np.hstack([stored.values, drawn]), units=units)


def nearest(examples: list[str], corpus: texts.Texts, labels: pd.DataFrame) -> str:
    """The descriptor that the texts have most, against its share of all texts."""
    ids = corpus.frame.loc[corpus.frame["text"].isin(examples), "text_id"]
    return str((labels.loc[ids].mean() - labels.mean()).idxmax())


def planted(given: argparse.Namespace) -> evaluation.Planted:
    """minilm with pure and polysemantic units of what is written beside the sample's texts."""
    corpus = texts.Texts.concat({name: texts.load(f"sample:{name}") for name in SAMPLES}, "sample")
    labels = corpus.descriptors("written")
    labels = labels[[name for name in labels if FREQUENT <= labels[name].sum()]].drop(columns="question")
    kinds = {"pure": given.units, "polysemantic": given.units}
    return evaluation.plant(models.load("minilm"), corpus, labels, kinds=kinds, minimum=0.8, seed=given.seed)


def found_in(made: evaluation.Planted, given: argparse.Namespace) -> dict:
    """Shares of units with one and several meanings, of those with p of .05, and of right ones."""
    name, corpus = next(iter(made.held_out.items()))
    labels = made.labels[name]
    known = made.units[made.units["planted"]].groupby("unit")["descriptor"].agg(set)
    kind = made.units.drop_duplicates("unit").set_index("unit")["kind"]
    stored = activations.capture(made.subject, corpus, sites="ffn", cache=False)
    stored = with_directions(stored, given.directions, given.seed + 1)
    asked = [*known.index, *stats.direction_units(given.directions)["unit"]]
    start = time.perf_counter()
    found = claims.meanings({name: stored}, {name: corpus}, asked, seed=given.seed)
    seconds = round(time.perf_counter() - start, 1)
    found["kind"] = found["unit"].map(kind).fillna("random direction")
    found["nearest"] = [nearest(examples, corpus, labels) for examples in found["examples"]]
    found["right"] = [line.nearest in known.get(line.unit, set()) for line in found.itertuples()]
    lines = []
    for name, part in found.groupby("kind"):
        by_unit = part.groupby("unit")
        both = by_unit.apply(lambda p: known.get(p.name, {""}) <= set(p["nearest"]), include_groups=False)
        line = {"kind": name, "units": len(by_unit)}
        line["several"] = (by_unit["meanings"].first() > 1).mean()
        line["significant"] = (by_unit["p"].min() <= 0.05).mean()
        line["right_meanings"] = part["right"].mean()
        line["all_found"] = both.mean()
        lines.append(
            line | {"auroc_of_best": by_unit["auroc"].max().mean(), "null": part["null_high"].mean()}
        )
    shown = found[found["kind"] == "polysemantic"].assign(
        planted=lambda f: [" / ".join(sorted(known[unit])) for unit in f["unit"]]
    )
    columns = ["unit", "planted", "meaning", "description", "texts", "auroc", "p"]
    table = pd.DataFrame(lines).round(3).to_dict("records")
    texts_used = {"clustered": found.attrs["texts"], "held_out": found.attrs["held_out"]}
    return {
        "kinds": table,
        "seconds": seconds,
        **texts_used,
        "lines": shown[columns].round(3).to_dict("records"),
    }


def written_for(made: evaluation.Planted, given: argparse.Namespace) -> dict:
    """``claims.sensitivity`` of pure units, and of the same units with each other's descriptions."""
    pure = made.units[made.units["planted"] & (made.units["kind"] == "pure")].drop_duplicates("descriptor")
    right = pd.DataFrame({"unit": pure["unit"], "description": pure["descriptor"], "kind": "right"})
    right = right.head(given.claims).reset_index(drop=True)
    wrong = right.assign(description=np.roll(right["description"], 1), kind="another's")
    asked, start = pd.concat([right, wrong], ignore_index=True), time.perf_counter()
    found = claims.sensitivity(made.subject, asked, given.writer, n=given.written, seed=given.seed)
    seconds = round(time.perf_counter() - start, 1)
    columns = [
        "description",
        "texts",
        "duplicates",
        "shared",
        "copies",
        "empty",
        "lost",
        "auroc",
        "q",
        "as_good",
    ]
    lines = found.assign(kind=asked["kind"])[["kind", *columns, "sensitive"]].round(3).to_dict("records")
    shown = found.attrs["texts"].groupby("description").head(2)[["description", "text", "outcome"]]
    return {"writer": given.writer, "seconds": seconds, "lines": lines, "texts": shown.to_dict("records")}


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--units", type=int, default=20, help="planted, of each kind")
    arguments.add_argument("--directions", type=int, default=100)
    arguments.add_argument("--writer", help="a generator, such as smollm2")
    arguments.add_argument("--claims", type=int, default=5, help="pure units that texts are written for")
    arguments.add_argument("--written", type=int, default=8, help="texts for each description")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    given = arguments.parse_args()
    made = planted(given)
    print(made, flush=True)
    found = {"planted": repr(made), "meanings": found_in(made, given)}
    if given.writer:
        found["sensitivity"] = written_for(made, given)
    text = json.dumps(provenance.manifest(**found), indent=1, default=str)
    (given.out / "meanings.json").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
