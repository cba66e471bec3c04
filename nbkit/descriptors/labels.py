"""Label matrices: which text has which descriptor, with what probability."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import cohen_kappa_score

from nbkit import stats
from nbkit.descriptors.calibration import calibrated
from nbkit.descriptors.ledger import Ledger, accounted, estimate
from nbkit.descriptors.merging import Descriptors, encode, encoder_name
from nbkit.descriptors.messages import Generator, Messages, Request
from nbkit.descriptors.proposals import warn_of_losses
from nbkit.descriptors.replies import read_answer
from nbkit.texts import Texts

METHODS = ("proposals", "similarity", "asked")  # of label


@dataclass(frozen=True)
class Question:
    """The second prompt: which of these descriptors does the text have, with what probability?

    ``at_once`` descriptors go into one request.
    """

    task: str = (
        "You get a text and a list of properties. For each property say how probable it is that a careful"
        " reader would say that the text has it. Answer with a JSON object from property to a number"
        " between 0 and 1."
    )
    at_once: int = 10
    version: str = "1"

    def messages(self, text: str, names: Sequence[str]) -> Messages:
        """Chat messages about ``text`` and the descriptors ``names``."""
        asked = f"Text: {text}\nProperties: {json.dumps(list(names), ensure_ascii=False)}"
        schema = {
            "type": "object",
            "properties": {name: {"type": "number"} for name in names},
            "required": list(names),
            "additionalProperties": False,
        }
        messages = [{"role": "system", "content": self.task}, {"role": "user", "content": asked}]
        return Request(messages, version=f"question {self.version}", schema=schema)


def label(
    texts: Texts,
    descriptors: Descriptors,
    method: str = "proposals",
    *,
    proposals: pd.DataFrame | None = None,
    generator: str | Generator | None = None,
    question: Question | None = None,
    encoder: Any = None,
    groups: str | None = None,
    ledger: str | Path | None = None,
    prices: Mapping[str, tuple[float, float]] | None = None,
    max_money: float | None = None,
    dry_run: bool = False,
) -> pd.DataFrame:
    """Label matrix [text, descriptor] with P(descriptor | text); the index is ``text_id``.

    proposals    1 where a generator named the descriptor or one of its members, else 0. Texts that no
                 generator was asked about, or whose replies were all lost, are absent (nobody knows whether
                 they have it); ``.attrs["dropped"]`` counts them
    similarity   from the cosine between text and descriptor, turned into a probability descriptor by
                 descriptor (``calibrated``) on the texts that ``proposals`` covers, which may be a sample of
                 the corpus: every text has a label. ``groups`` is the document of each text (a column;
                 default ``doc_id`` where the corpus has documents). Descriptors with too few positives are
                 absent; ``.attrs["refused"]`` names them. ``.attrs["encoder"]`` names the encoder: where it
                 is the subject itself, units and labels share a model, and that has to be said
    asked        a ``generator`` is asked about every text and descriptor (``question``). Texts for which an
                 answer is missing are absent; ``.attrs["dropped"]`` counts them and the failures.
                 ``ledger``, ``prices``, ``max_money`` and ``dry_run`` as for ``propose``

    ``ValueError``: another method, one without what it needs, two descriptors of one name, or proposals that
    cover no text of the corpus.
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r} is not one of {', '.join(METHODS)}")
    names = descriptors.names if len(descriptors) else []
    if len(set(names)) < len(names):
        raise ValueError(f"two descriptors are named {Counter(names).most_common(1)[0][0]!r}: rename one")
    if method == "asked":
        if generator is None:
            raise ValueError('method="asked" needs generator=, say "openai:MODEL"')
        asked = accounted(generator, ledger, prices, max_money)
        requests = _questions(texts, names, question or Question())
        if dry_run:
            return estimate(asked, [messages for *_, messages in requests], prices)
        return _asked(texts, names, asked, requests)
    if proposals is None:
        raise ValueError(f"method={method!r} needs proposals=, what propose() returned")
    proposed = _proposed(texts, descriptors, proposals)
    if method == "proposals":
        return proposed
    labels = calibrated(similarity(texts, names, encoder), proposed, _documents(texts, groups))
    labels.attrs["encoder"] = encoder_name(encoder)
    return labels


def _documents(texts: Texts, groups: str | None) -> pd.Series | None:
    """The column ``groups`` by text_id, by default the documents; None where there are none."""
    if groups is None:
        return texts.documents
    if groups not in texts.frame:
        raise ValueError(f"{texts.name} has no column {groups!r}: {', '.join(texts.frame)}")
    return texts.frame.set_index("text_id")[groups]


def agreement(labels: Mapping[str, pd.DataFrame], *, seed: int = 0) -> pd.DataFrame:
    """How far ways of labelling agree on the texts and descriptors they share, one line a pair.

    labels   {name: label matrix [text, descriptor]}, two at least

    Columns: one, other, texts, descriptors, kappa (Cohen's, labels cut at .5), correlation (mean over
    descriptors that vary in both), shuffled (the same correlation with the texts
    of one shuffled by ``seed``).
    ``ValueError``: two columns of one name, or matrices that share nothing.
    """
    if len(labels) < 2:
        raise ValueError("give two label matrices at least")
    for name, matrix in labels.items():
        if not matrix.columns.is_unique:
            twice = matrix.columns[matrix.columns.duplicated()][0]
            raise ValueError(f"the labels {name!r} have two columns {twice!r}: rename or drop one")
    generator, lines = np.random.default_rng(seed), []
    for (one, a), (other, b) in itertools.combinations(labels.items(), 2):
        rows, columns = a.index.intersection(b.index), a.columns.intersection(b.columns)
        if rows.empty or columns.empty:
            raise ValueError(f"{one!r} and {other!r} share no text or no descriptor")
        x, y = a.loc[rows, columns].to_numpy(), b.loc[rows, columns].to_numpy()
        shuffled = y[generator.permutation(len(y))]
        kappa = cohen_kappa_score((x >= 0.5).ravel(), (y >= 0.5).ravel())
        found = (kappa, _mean_correlation(x, y), _mean_correlation(x, shuffled))
        lines.append((one, other, len(rows), len(columns), *found))
    names = ["one", "other", "texts", "descriptors", "kappa", "correlation", "shuffled"]
    return pd.DataFrame(lines, columns=names)


def _mean_correlation(x: np.ndarray, y: np.ndarray) -> float:
    found = stats.correlation(x.T, y.T, undefined=np.nan)
    return float(pd.Series(found).mean())


def similarity(texts: Texts, names: Sequence[str], encoder: Any = None) -> pd.DataFrame:
    """Cosine [text, descriptor] between the embedding of each text and of each name."""
    cosine = encode(texts.frame["text"].tolist(), encoder) @ encode(list(names), encoder).T
    return pd.DataFrame(cosine, index=_index(texts), columns=list(names))


def _questions(
    texts: Texts, names: list[str], question: Question
) -> list[tuple[int, int, list[str], Messages]]:
    """Every request: row of the text, first column of its descriptors, their names, the messages."""
    starts = range(0, len(names), question.at_once)
    parts = [(first, names[first : first + question.at_once]) for first in starts]
    return [
        (row, first, part, question.messages(text, part))
        for (row, text), (first, part) in itertools.product(enumerate(texts.frame["text"]), parts)
    ]


def _asked(
    texts: Texts, names: list[str], generator: Generator, requests: list[tuple[int, int, list[str], Messages]]
) -> pd.DataFrame:
    replies = generator.complete_all([messages for *_, messages in requests])
    matrix = np.full((len(texts), len(names)), np.nan)
    dropped, causes = Counter({"requests": len(requests)}), {}
    for (row, first, part, messages), reply in zip(requests, replies, strict=True):
        found = read_answer(reply.text, part) if reply.text is not None else None
        if found is not None:
            matrix[row, first : first + len(part)] = found
            continue
        kind = reply.failure or "unparsable"
        dropped[kind] += 1
        causes.setdefault(kind, (reply.raw or reply.text or "")[:300])
        if reply.text is not None and isinstance(generator, Ledger):
            generator.note(messages, kind, reply.text)
    warn_of_losses(generator.name, dropped, causes)
    whole = ~np.isnan(matrix).any(1)
    frame = pd.DataFrame(matrix, index=_index(texts), columns=names)[whole]
    frame.attrs["dropped"] = {**dropped, "texts without all answers": int((~whole).sum())}
    frame.attrs["causes"] = causes
    return frame


def _proposed(texts: Texts, descriptors: Descriptors, proposals: pd.DataFrame) -> pd.DataFrame:
    """1 where a proposal for the text belongs to the descriptor, else 0; only texts that were answered."""
    answered = pd.Index(proposals.attrs.get("texts", proposals["text_id"])).unique()
    index, columns = _index(texts), pd.Index(descriptors.names)
    known = index[index.isin(answered)]
    if known.empty:
        raise ValueError(f"the proposals are about no text of {texts.name!r}: are they of another corpus?")
    named = proposals.assign(name=proposals["descriptor"].map(descriptors.mapping())).dropna()
    named = named[named["text_id"].isin(known)]
    values = np.zeros((len(known), len(columns)))
    values[known.get_indexer(named["text_id"]), columns.get_indexer(named["name"])] = 1.0
    frame = pd.DataFrame(values, index=known, columns=columns)
    frame.attrs["dropped"] = {"texts without an answer": len(index) - len(known)}
    return frame


def _index(texts: Texts) -> pd.Index:
    return pd.Index(texts.frame["text_id"], name="text_id")
