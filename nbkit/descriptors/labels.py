"""Descriptors: short properties of texts, found in a corpus, merged, and put on every text.

    propose(texts, generators)      what each generator says is in each text, or in a stratified sample
    merge(proposals)                near-duplicates become one descriptor; edits by hand are read from a file
    label(texts, descriptors)       label matrix [text, descriptor], P(descriptor | text) in [0, 1]
    agreement({name: labels})       how far ways of labelling agree, beside chance

After Mondal et al. 2024 (arXiv 2401.16731, read second hand): every text goes to a generator with a task
description, one worked example drawn at random from the corpus, and the text; the union of the
generators' answers is taken; near-duplicates are merged by community detection on sentence embeddings,
one representative each. Labelling every text instead of the top exemplars alone is ours: without it a
scorer cannot see where a descriptor is absent.

A reply that cannot be read is absent and counted: ``proposals.attrs["dropped"]``.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import cohen_kappa_score

from nbkit import stats
from nbkit.descriptors.generators import Generator, Messages, Request, connect
from nbkit.descriptors.ledger import Ledger
from nbkit.descriptors.merging import Descriptors, encode
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
) -> pd.DataFrame:
    """Label matrix [text, descriptor] with P(descriptor | text); the index is ``text_id``.

    proposals    1 where a generator named the descriptor or one of its members, else 0
    similarity   from the cosine between text and descriptor, turned into a probability by a logistic
                 regression on the texts that ``proposals`` covers (which may be a sample of the corpus)
    asked        a ``generator`` is asked about every text and descriptor (``question``). Texts for which an
                 answer is missing are absent; ``.attrs["dropped"]`` counts them and the failures

    Any other method is a ``ValueError``, and so is one without what it needs.
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r} is not one of {', '.join(METHODS)}")
    if method == "asked":
        if generator is None:
            raise ValueError('method="asked" needs generator=, say "openai:MODEL"')
        return _asked(texts, descriptors.names, generator, question or Question())
    if proposals is None:
        raise ValueError(f"method={method!r} needs proposals=, what propose() returned")
    said = _said(texts, descriptors, proposals)
    if method == "proposals":
        return said
    closeness = similarity(texts, descriptors.names, encoder)
    covered = said.index.isin(proposals.attrs.get("texts", proposals["text_id"]))
    known = said.to_numpy()[covered].ravel()
    if known.min() == known.max():
        raise ValueError("similarity cannot be calibrated: every label of the sample is the same")
    model = LogisticRegression(C=1e6).fit(closeness.to_numpy()[covered].reshape(-1, 1), known)
    probability = model.predict_proba(closeness.to_numpy().reshape(-1, 1))[:, 1]
    return pd.DataFrame(
        probability.reshape(closeness.shape), index=closeness.index, columns=closeness.columns
    )


def agreement(labels: Mapping[str, pd.DataFrame], *, seed: int = 0) -> pd.DataFrame:
    """How far ways of labelling agree on the texts and descriptors they share, one line a pair.

    Columns: one, other, texts, descriptors, kappa (Cohen's, labels cut at .5), correlation (mean over
    descriptors that vary in both), chance (the same correlation with the texts of one shuffled).
    """
    if len(labels) < 2:
        raise ValueError("give two label matrices at least")
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
    names = ["one", "other", "texts", "descriptors", "kappa", "correlation", "chance"]
    return pd.DataFrame(lines, columns=names)


def _mean_correlation(x: np.ndarray, y: np.ndarray) -> float:
    found = stats.correlation(x.T, y.T, undefined=np.nan)
    return float(pd.Series(found).mean())


def similarity(texts: Texts, names: Sequence[str], encoder: Any = None) -> pd.DataFrame:
    """Cosine [text, descriptor] between the embedding of each text and of each name."""
    cosine = encode(texts.frame["text"].tolist(), encoder) @ encode(list(names), encoder).T
    return pd.DataFrame(cosine, index=_index(texts), columns=list(names))


def _asked(texts: Texts, names: list[str], generator: str | Generator, question: Question) -> pd.DataFrame:
    generator = connect(generator) if isinstance(generator, str) else generator
    parts = [names[i : i + question.at_once] for i in range(0, len(names), question.at_once)]
    pairs = list(itertools.product(texts.frame["text"], parts))
    replies = generator.complete_all([question.messages(text, part) for text, part in pairs])
    matrix = np.full((len(texts), len(names)), np.nan)
    dropped: dict[str, int] = {"requests": len(pairs)}
    for number, ((text, part), reply) in enumerate(zip(pairs, replies, strict=True)):
        found = read_answer(reply.text, part) if reply.text is not None else None
        if found is None:
            kind = reply.failure or "unparsable"
            dropped[kind] = dropped.get(kind, 0) + 1
            if reply.text is not None and isinstance(generator, Ledger):
                generator.note(question.messages(text, part), "unparsable", reply.text)
            continue
        row, column = divmod(number, len(parts))
        first = column * question.at_once
        matrix[row, first : first + len(part)] = found
    whole = ~np.isnan(matrix).any(1)
    dropped["texts without all answers"] = int((~whole).sum())
    frame = pd.DataFrame(matrix, index=_index(texts), columns=names)[whole]
    frame.attrs["dropped"] = dropped
    return frame


def read_answer(reply: str, names: Sequence[str]) -> list[float] | None:
    """Probabilities of ``names`` in a reply: a JSON object of numbers, or of yes and no. None: not all."""
    match = re.search(r"\{.*\}", reply, re.DOTALL)
    try:
        said = json.loads(match.group()) if match else None
    except ValueError:
        return None
    if not isinstance(said, dict):
        return None
    words = {"yes": 1.0, "no": 0.0, "true": 1.0, "false": 0.0}
    found = []
    for name in names:
        value = said.get(name)
        value = words.get(str(value).strip().lower(), value)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            return None
        found.append(float(value))
    return found


def _said(texts: Texts, descriptors: Descriptors, proposals: pd.DataFrame) -> pd.DataFrame:
    named = proposals.assign(name=proposals["descriptor"].map(descriptors.mapping())).dropna()
    matrix = pd.DataFrame(0.0, index=_index(texts), columns=descriptors.names)
    named = named[named["text_id"].isin(matrix.index)]
    rows, columns = (
        matrix.index.get_indexer(named["text_id"]),
        matrix.columns.get_indexer(named["name"]),
    )
    values = matrix.to_numpy().copy()
    values[rows, columns] = 1.0
    return pd.DataFrame(values, index=matrix.index, columns=matrix.columns)


def _index(texts: Texts) -> pd.Index:
    return pd.Index(texts.frame["text_id"], name="text_id")
