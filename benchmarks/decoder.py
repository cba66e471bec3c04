"""Encoder and decoder side by side: what the notebooks found on MiniLM and on SmolLM2, the same texts.

    make figures; make run PRESET=decoder; python benchmarks/decoder.py

Reads what the two runs recorded (their summaries, and the numbers of figure 06), writes decoder.json into
benchmarks/results, and prints the rows of the table in docs/models.md.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from nbkit import provenance

ROOT = Path(__file__).resolve().parent.parent
FIGURES = {"sample": ROOT / "figures", "decoder": ROOT / "build" / "figures" / "decoder"}
FFN, LAST = "FFN units, max over tokens", "last layer, mean over tokens"


def two(values: list[float] | float) -> str:
    """A number, or an estimate with its interval, with two digits."""
    if isinstance(values, float):
        return f"{values:.2f}"
    return f"{values[0]:.2f} [{values[1]:.2f}, {values[2]:.2f}]"


def rows(preset: str) -> dict[str, str]:
    """The lines of the table for one preset."""
    facts = json.loads((ROOT / "build" / "results" / preset / "summary.json").read_text(encoding="utf-8"))
    ffn, last = facts["agreement"][FFN], facts["agreement"][LAST]
    at_two = {row["method"]: row for row in facts["precision_recall"] if row["k"] == 2}
    numbers = pd.read_csv(FIGURES[preset] / "06_salient_units.csv")
    accuracy = numbers[numbers["table"] == "accuracy"].set_index("n")["greedy"]
    trees, claims = facts["trees"], facts["claims"]
    return {
        "FFN units": f"{facts['units']:,}",
        "significant first tags, four corpora": f"{facts['tags']:,}",
        "the same on shuffled labels of one": f"{facts['tags_shuffled']}",
        "FFN, first tag again: held-out texts, other corpora": ", ".join(
            two(ffn[where][0]) for where in ("within", "across")
        ),
        "FFN, illusion gap": two(ffn["gap"]),
        "the same without an illusion": two(ffn["same_encoding_gap"]),
        "other corpora: random directions, random weights": ", ".join(
            two(ffn["baselines"][name][0]) for name in ("random directions", "random weights")
        ),
        "last layer, illusion gap": two(last["gap"]),
        "precision@2 at home, in other corpora": ", ".join(
            two(at_two[f"pearson, {where}"]["precision"][0]) for where in ("same corpus", "other corpora")
        ),
        "of 96 claims made on reviews hold everywhere, somewhere": (
            f"{claims['holds everywhere']}, {claims['holds everywhere'] + claims['holds in some corpora']}"
        ),
        "part of speech from 10, 100, all hidden units": ", ".join(
            [two(float(accuracy[n])) for n in (10, 100)] + [f"{facts['salience']['all']:.2f}"]
        ),
        "hidden units": f"{facts['salience']['units']:,}",
        "tree edges (UUAS), best site": f"{trees['uuas']:.2f} (`{trees['site']}`)",
        "the same: random weights, neighbours": (
            f"{trees['uuas_random_weights']:.2f}, {trees['uuas_neighbours']:.2f}"
        ),
    }


def main() -> None:
    found: dict[str, Any] = {preset: rows(preset) for preset in FIGURES}
    target = Path(__file__).parent / "results" / "decoder.json"
    kept = json.dumps(provenance.manifest(**found), indent=1, ensure_ascii=False)
    target.write_text(kept + "\n", encoding="utf-8")
    for name in found["sample"]:
        print(f"| {name} | {found['sample'][name]} | {found['decoder'][name]} |")


if __name__ == "__main__":
    main()
