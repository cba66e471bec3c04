"""The verdict of a claim, said as a sentence."""

from __future__ import annotations

import pandas as pd

#: What an outcome says of a corpus.
SAYS = {
    "holds": "it holds in {}",
    "fits many": "in {} it fits, and so do many other units",
    "explained": "in {} another description explains it",
    "not found": "it is not found in {}",
    "too few": "{} has too few texts to judge it",
    "no label": "the labeller cannot say which texts of {} have it",
}


def in_words(verdict: str, lines: pd.DataFrame) -> str:
    """The verdict of a claim as a sentence: what each corpus says, and how many more texts would do.

    lines   the claim's lines of ``Judged.corpora``
    """
    by_outcome = {}
    for line in lines.itertuples():
        by_outcome.setdefault(line.outcome, []).append(line)
    parts = []
    for outcome, text in SAYS.items():
        found = by_outcome.get(outcome, [])
        if outcome == "too few":
            parts += [
                f"{line.corpus} has too few texts to judge it: about {line.more_texts:,} more would do"
                for line in found
            ]
        elif outcome == "explained":
            parts += [f"in {line.corpus} “{line.rival}” explains it" for line in found]
        elif found:
            parts.append(text.format(listed([line.corpus for line in found])))
    return f"{verdict[0].upper()}{verdict[1:]}: {'; '.join(parts)}."


def listed(names: list[str]) -> str:
    """a, b and c"""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
