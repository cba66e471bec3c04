"""What speaks for a claim and what against it: texts of each corpus, and its figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from nbkit.activations import Activations, exemplars
from nbkit.claims.judging import Judged
from nbkit.models import Subject
from nbkit.texts import Texts

#: What a text says about a claim, in the order of a page.
SAYS = {
    "supports": "has it, and the unit is high",
    "high without it": "the unit is high, and it lacks it",
    "low with it": "has it, and the unit is low",
}


class Card(NamedTuple):
    """One claim with what it rests on.

    verdict    the claim's line of ``Judged.verdicts``
    corpora    its lines of ``Judged.corpora``
    baselines  those of all claims
    texts      corpus, says (a key of ``SAYS``), text_id, text, activation, start and end of the row's word
               (-1 for text rows), tokens (a frame start, end, activation, or None)
    bound      {corpus: highest activation there}
    """

    verdict: pd.Series
    corpora: pd.DataFrame
    baselines: pd.DataFrame
    texts: pd.DataFrame
    bound: dict[str, float]


def card(
    judged: Judged,
    claim: int,
    activations_by_corpus: Mapping[str, Activations],
    corpora: Mapping[str, Texts],
    *,
    k: int = 3,
    subject: Subject | None = None,
) -> Card:
    """The evidence for claim number ``claim``; ``plots.claim_cards`` makes pages of it.

    k         texts of each kind and corpus, at most: those with the highest activation that have what is
              claimed; those with the highest that lack it, among the unit's ``high``; those with the lowest
              that have it
    subject   reads these texts, so that their tokens can be shaded; None: they are not

    ``ValueError`` for a claim that was not judged. Activations of a claim about the low end are negated.
    """
    found = judged.verdicts[judged.verdicts["claim"] == claim]
    if found.empty:
        raise ValueError(
            f"claim {claim!r} was not judged; there are {judged.verdicts['claim'].tolist()[:5]}..."
        )
    verdict = found.iloc[0]
    parts = [
        _texts(judged, verdict, name, stored, corpora[name], k)
        for name, stored in activations_by_corpus.items()
    ]
    table = pd.concat([part for part, _ in parts], ignore_index=True)
    bound = dict(zip(activations_by_corpus, (high for _, high in parts), strict=True))
    table["tokens"] = _tokens(table, verdict, subject)
    lines = judged.corpora[judged.corpora["claim"] == claim].reset_index(drop=True)
    return Card(verdict, lines, judged.baselines, table, bound)


def _texts(
    judged: Judged, verdict: pd.Series, corpus: str, stored: Activations, texts: Texts, k: int
) -> tuple[pd.DataFrame, float]:
    values = np.asarray(stored.values[:, stored.column(verdict["unit"])], dtype=np.float32)
    values = values * (-1 if verdict["sign"] < 0 else 1)
    label = judged.labels[corpus][verdict["description"]].to_numpy()
    order = np.argsort(-values, kind="stable")
    high = values[order] > np.quantile(values, 1 - judged.settings["high"])
    on, off = label[order] > 0.5, label[order] <= 0.5
    chosen = {
        "supports": order[on & high][:k],
        "high without it": order[off & high][:k],
        "low with it": order[on & ~high][::-1][:k],
    }
    known = texts.frame.set_index("text_id")["text"]
    lines = []
    for says, rows in chosen.items():
        part = stored.rows.iloc[rows]
        spans = part[["start", "end"]].to_numpy() if "start" in part else np.full((len(part), 2), -1)
        own = known.loc[part["text_id"]]
        for text_id, text, row, span in zip(part["text_id"], own, rows, spans, strict=True):
            lines.append((corpus, says, text_id, text, float(values[row]), int(span[0]), int(span[1])))
    columns = ["corpus", "says", "text_id", "text", "activation", "start", "end"]
    return pd.DataFrame(lines, columns=columns), float(values.max())


def _tokens(table: pd.DataFrame, verdict: pd.Series, subject: Subject | None) -> list[Any]:
    """The activation of every token of each text; where no subject reads them, of a word row its word's."""
    if subject is not None and len(table):
        read = Texts.from_list(table["text"].tolist(), "evidence")
        shaded = exemplars.shade(subject, read, verdict["unit"])
        sign = -1 if verdict["sign"] < 0 else 1
        frames = (shaded.get(i) for i in range(len(table)))
        return [None if f is None else f.assign(activation=sign * f["activation"]) for f in frames]
    lines = zip(table["start"], table["end"], table["activation"], strict=True)
    return [
        pd.DataFrame({"start": [start], "end": [end], "activation": [value]}) if start >= 0 else None
        for start, end, value in lines
    ]
