"""Descriptors: short properties of texts, found in a corpus, merged, and put on every text.

    propose(texts, generators)      what each generator says is in each text
    merge(proposals)                near-duplicates become one descriptor
    label(texts, descriptors)       label matrix [text, descriptor], P(descriptor | text) in [0, 1]

After Mondal et al. 2024 (arXiv 2401.16731, read second hand): every text goes to a generator with a task
description, one worked example drawn at random from the corpus, and the text; the union of the
generators' answers is taken; near-duplicates are merged by community detection on sentence embeddings,
one representative each. Labelling every text instead of the top exemplars alone is ours: without it a
scorer cannot see where a descriptor is absent.

A reply that cannot be read is absent and counted: ``proposals.attrs["losses"]``.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression

from nbkit import generators as gen
from nbkit.models import sentence_encoder

if TYPE_CHECKING:
    from nbkit.texts import Texts

log = logging.getLogger(__name__)

LONGEST = 6  # words; a longer "descriptor" is a sentence, not a descriptor

#: What a server that knows structured output is held to; ``read_reply`` reads it like any other list.
SCHEMA = {
    "type": "object",
    "properties": {"descriptors": {"type": "array", "items": {"type": "string"}}},
    "required": ["descriptors"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Prompt:
    """What a generator is asked: a task, a steer for this corpus, one worked example, the text."""

    task: str = (
        "List the properties of the text that a reader would name: its topics, its tone, what is said"
        " of what. Answer with a JSON list of two to five short phrases."
    )
    steer: str = ""  # what the readers of this corpus care about
    version: str = "1"

    def messages(self, text: str, example: tuple[str, list[str]] | None = None) -> gen.Messages:
        """Chat messages about ``text``; ``example`` is another text with its descriptors."""
        task = f"{self.task} {self.steer}".strip()
        shown = []
        if example is not None:
            shown = [
                {"role": "user", "content": example[0]},
                {"role": "assistant", "content": json.dumps(example[1])},
            ]
        asked = [{"role": "system", "content": task}, *shown, {"role": "user", "content": text}]
        return gen.Request(asked, version=self.version, schema=SCHEMA)


@dataclass(frozen=True)
class Descriptors:
    """Merged descriptors.

    ``frame`` has one line each, most frequent first: descriptor, n_texts, members (the proposals that
    it stands for). ``dropped`` counts proposals in groups seen in too few texts.
    """

    frame: pd.DataFrame
    dropped: int

    @property
    def names(self) -> list[str]:
        return self.frame["descriptor"].tolist()

    def mapping(self) -> dict[str, str]:
        """Proposal -> the descriptor that stands for it."""
        pairs = zip(self.frame["descriptor"], self.frame["members"], strict=True)
        return {member: name for name, members in pairs for member in members}

    def __len__(self) -> int:
        return len(self.frame)


def propose(
    texts: Texts,
    generators: str | gen.Generator | Sequence[str | gen.Generator],
    *,
    prompt: Prompt | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """What each generator says is in each text: a frame with text_id, generator, descriptor.

    ``generators`` are specs or connected generators; several give the union, each line naming its
    own. ``seed`` draws the worked example. ``.attrs["losses"]`` counts, for each generator, requests,
    failures by kind and replies that could not be read; ``.attrs["provenance"]`` says what each is.
    """
    wanted = [generators] if isinstance(generators, str) or hasattr(generators, "name") else generators
    connected = [gen.connect(g) if isinstance(g, str) else g for g in wanted]
    prompt = prompt or Prompt()
    lines, losses = [], {}
    for generator in connected:
        example = _worked_example(texts, generator, prompt, seed)
        asked = [prompt.messages(text, example) for text in texts.frame["text"]]
        replies = generator.complete_all(asked)
        losses[generator.name] = {"requests": len(asked)}
        for text_id, messages, reply in zip(texts.frame["text_id"], asked, replies, strict=True):
            found = read_reply(reply.text) if reply.text is not None else None
            if found is None and reply.text is not None and isinstance(generator, gen.Ledger):
                generator.note(messages, "unparsable", reply.text)
            if found is None:
                kind = reply.failure or "unparsable"
                losses[generator.name][kind] = losses[generator.name].get(kind, 0) + 1
            lines += [(text_id, generator.name, descriptor) for descriptor in found or []]
    frame = pd.DataFrame(lines, columns=["text_id", "generator", "descriptor"])
    frame.attrs["losses"] = losses
    frame.attrs["provenance"] = {g.name: g.provenance for g in connected}
    return frame


def read_reply(reply: str) -> list[str] | None:
    """Descriptors in a reply: a JSON list, or lines, or a list with commas. None when there are none.

    Lower-cased, without bullets, numbers and quotes; phrases over ``LONGEST`` words are left out.
    """
    match = re.search(r"\[.*\]", reply, re.DOTALL)
    try:
        items = json.loads(match.group()) if match else None
    except ValueError:
        items = None
    if not isinstance(items, list):
        parts = reply.splitlines() if "\n" in reply.strip() else reply.split(",")
        items = [re.sub(r"^\s*(?:[-*•]|\d+[.)])\s*", "", part) for part in parts]
    cleaned = [" ".join(str(item).strip(" \t\"'.[]").lower().split()) for item in items]
    kept = [item for item in dict.fromkeys(cleaned) if item and len(item.split()) <= LONGEST]
    return kept or None


def merge(
    proposals: pd.DataFrame,
    *,
    threshold: float = 0.75,
    min_texts: int = 10,
    encoder: Any = None,
) -> Descriptors:
    """Near-duplicate proposals become one descriptor, named by its most frequent member.

    threshold   cosine similarity from which two proposals belong together
    min_texts   descriptors found in fewer texts are dropped (and counted)
    encoder     anything with ``.encode(list_of_strings)``; default ``models.sentence_encoder()``

    ``sentence_transformers.util.community_detection`` with minimum size 1: the paper's minimum of 10
    members would count wordings; a minimum number of texts counts what matters.
    """
    if proposals.empty:
        raise ValueError("there are no proposals to merge: every reply was lost, see .attrs['losses']")
    from sentence_transformers.util import community_detection

    texts_of = proposals.groupby("descriptor")["text_id"].agg(set)
    names = sorted(texts_of.index, key=lambda name: (-len(texts_of[name]), name))
    embeddings = np.asarray(_encode(names, encoder))
    groups = community_detection(embeddings, threshold=threshold, min_community_size=1)
    lines = []
    for group in groups:
        members = [names[i] for i in sorted(group)]  # most frequent first
        n_texts = len(set().union(*(texts_of[member] for member in members)))
        lines.append((members[0], n_texts, members))
    frame = pd.DataFrame(lines, columns=["descriptor", "n_texts", "members"])
    frame = frame.sort_values(["n_texts", "descriptor"], ascending=[False, True], ignore_index=True)
    kept = frame["n_texts"] >= min_texts
    if not kept.any():
        most = frame["n_texts"].max()
        raise ValueError(f"no descriptor is in {min_texts} texts (the most is {most}): lower min_texts")
    return Descriptors(frame[kept].reset_index(drop=True), int((~kept).sum()))


def label(
    texts: Texts,
    descriptors: Descriptors,
    method: str = "proposals",
    *,
    proposals: pd.DataFrame,
    encoder: Any = None,
) -> pd.DataFrame:
    """Label matrix [text, descriptor] with P(descriptor | text); the index is ``text_id``.

    proposals    1 where a generator named the descriptor or one of its members, else 0
    similarity   from the cosine between text and descriptor, turned into a probability by a logistic
                 regression on the texts that ``proposals`` covers (which may be a sample of the corpus)

    Any other method is a ``ValueError``.
    """
    if method not in ("proposals", "similarity"):
        raise ValueError(f"method={method!r} is not one of proposals, similarity")
    said = _said(texts, descriptors, proposals)
    if method == "proposals":
        return said
    closeness = similarity(texts, descriptors.names, encoder)
    covered = said.index.isin(proposals["text_id"])
    known = said.to_numpy()[covered].ravel()
    if known.min() == known.max():
        raise ValueError("similarity cannot be calibrated: every label of the sample is the same")
    model = LogisticRegression(C=1e6).fit(closeness.to_numpy()[covered].reshape(-1, 1), known)
    probability = model.predict_proba(closeness.to_numpy().reshape(-1, 1))[:, 1]
    return pd.DataFrame(
        probability.reshape(closeness.shape), index=closeness.index, columns=closeness.columns
    )


def similarity(texts: Texts, names: Sequence[str], encoder: Any = None) -> pd.DataFrame:
    """Cosine [text, descriptor] between the embedding of each text and of each name."""
    cosine = _encode(texts.frame["text"].tolist(), encoder) @ _encode(list(names), encoder).T
    return pd.DataFrame(cosine, index=_index(texts), columns=list(names))


# ---------------------------------------------------------------------------------- inside


def _worked_example(
    texts: Texts, generator: gen.Generator, prompt: Prompt, seed: int
) -> tuple[str, list[str]] | None:
    """One text of the corpus with the generator's own reading of it; None if it cannot be read."""
    text = texts.sample(1, seed=seed).frame["text"].iloc[0]
    reply = generator.complete(prompt.messages(text))
    found = read_reply(reply.text) if reply.text is not None else None
    return (text, found) if found else None


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


def _encode(strings: list[str], encoder: Any) -> np.ndarray:
    model = encoder or sentence_encoder()
    return np.asarray(model.encode(strings, normalize_embeddings=True, show_progress_bar=False))
