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

A reply that cannot be read is absent and counted: ``proposals.attrs["losses"]``.
"""

from __future__ import annotations

import itertools
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import cohen_kappa_score

from nbkit import generators as gen
from nbkit.models import sentence_encoder

if TYPE_CHECKING:
    from nbkit.texts import Texts

log = logging.getLogger(__name__)

METHODS = ("proposals", "similarity", "asked")  # of label
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

    def messages(self, text: str, names: Sequence[str]) -> gen.Messages:
        """Chat messages about ``text`` and the descriptors ``names``."""
        asked = f"Text: {text}\nProperties: {json.dumps(list(names), ensure_ascii=False)}"
        schema = {
            "type": "object",
            "properties": {name: {"type": "number"} for name in names},
            "required": list(names),
            "additionalProperties": False,
        }
        messages = [{"role": "system", "content": self.task}, {"role": "user", "content": asked}]
        return gen.Request(messages, version=f"question {self.version}", schema=schema)


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

    def edited(self, edits: Mapping[str, Any]) -> Descriptors:
        """The same after changes by hand: {"join": {one: other}, "drop": [...], "rename": {old: new}}.

        They are made in this order; a name that is not among the descriptors is a ``ValueError``. A joined
        one counts in ``n_texts`` as if no text had both.
        """
        frame = self.frame.copy()
        known = set(frame["descriptor"])
        named = [*edits.get("join", {}), *edits.get("join", {}).values(), *edits.get("drop", [])]
        for name in [*named, *edits.get("rename", {})]:
            if name not in known:
                raise ValueError(
                    f"the edits name {name!r}, which is no descriptor here: was the corpus changed?"
                )
        for one, other in edits.get("join", {}).items():
            away, to = (frame.index[frame["descriptor"] == name][0] for name in (one, other))
            frame.at[to, "members"] = [*frame.at[to, "members"], *frame.at[away, "members"]]
            frame.at[to, "n_texts"] += frame.at[away, "n_texts"]
            frame = frame.drop(index=away)
        gone = frame["descriptor"].isin(edits.get("drop", []))
        frame = frame[~gone].replace({"descriptor": dict(edits.get("rename", {}))})
        twice = frame["descriptor"][frame["descriptor"].duplicated()]
        if len(twice):
            raise ValueError(f"the edits make two descriptors {twice.iloc[0]!r}: join them instead")
        order = frame.sort_values(["n_texts", "descriptor"], ascending=[False, True], ignore_index=True)
        return Descriptors(order, self.dropped + int(gone.sum()))

    def __len__(self) -> int:
        return len(self.frame)


def stratified(texts: Texts, n: int, *, by: str | None = None, seed: int = 0) -> Texts:
    """``n`` texts drawn in proportion from the values of a column, or (None) from fifths of text length.

    Top exemplars alone would show a generator one end of the corpus. A corpus that has no more: all of it.
    """
    if n >= len(texts):
        return texts
    if by is not None and by not in texts.frame:
        raise ValueError(f"{texts.name} has no column {by!r}: {', '.join(texts.frame)}")
    lengths = texts.frame["text"].str.len().rank(method="first")
    strata = pd.qcut(lengths, 5, labels=False) if by is None else texts.frame[by].astype(str)
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(texts))
    place = pd.Series(order).groupby(strata.to_numpy()[order]).cumcount().to_numpy()
    size = strata.map(strata.value_counts()).to_numpy()[order]
    # every stratum is used up at the same pace, so that any n is in proportion
    chosen = order[np.argsort((place + generator.random(len(order))) / size, kind="stable")[:n]]
    return texts.where(text_id=texts.frame["text_id"].iloc[np.sort(chosen)].tolist())


def propose(
    texts: Texts,
    generators: str | gen.Generator | Sequence[str | gen.Generator],
    *,
    prompt: Prompt | None = None,
    n: int | None = None,
    by: str | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """What each generator says is in each text: a frame with text_id, generator, descriptor.

    ``generators`` are specs or connected generators; several give the union, each line naming its
    own. With ``n``, only so many texts are asked about, a ``stratified`` sample (``by`` a column). ``seed``
    draws it and the worked example. ``.attrs["texts"]`` are the ids of the texts asked about;
    ``.attrs["losses"]`` counts, for each generator, requests, failures by kind and replies that could not be
    read; ``.attrs["provenance"]`` says what each is.
    """
    wanted = [generators] if isinstance(generators, str) or hasattr(generators, "name") else generators
    connected = [gen.connect(g) if isinstance(g, str) else g for g in wanted]
    texts = texts if n is None else stratified(texts, n, by=by, seed=seed)
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
    frame.attrs["texts"] = texts.frame["text_id"].tolist()
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
    min_size: int = 1,
    edits: str | Path | Mapping[str, Any] | None = None,
    encoder: Any = None,
) -> Descriptors:
    """Near-duplicate proposals become one descriptor, named by its most frequent member.

    threshold   cosine similarity from which two proposals belong together
    min_texts   descriptors found in fewer texts are dropped (and counted)
    min_size    wordings that a community must have. The paper's is 10; ours is 1, since a minimum number of
                texts counts what matters
    edits       renamed, joined and dropped by hand (``Descriptors.edited``): a dict, or the JSON file that
                ``widgets.descriptor_editor`` saves; a file that is not there yet changes nothing
    encoder     anything with ``.encode(list_of_strings)``; default ``models.sentence_encoder()``

    Communities are those of ``sentence_transformers.util.community_detection``, found again among their
    representatives until none are nearer than ``threshold``.
    """
    if proposals.empty:
        raise ValueError("there are no proposals to merge: every reply was lost, see .attrs['losses']")
    from sentence_transformers.util import community_detection

    texts_of = proposals.groupby("descriptor")["text_id"].agg(set)
    names = sorted(texts_of.index, key=lambda name: (-len(texts_of[name]), name))
    embeddings = np.asarray(_encode(names, encoder))
    groups = [[i] for i in range(len(names))]
    while True:  # until no two representatives are as near as the threshold (ours: one round leaves doubles)
        first = embeddings[[group[0] for group in groups]]
        found = community_detection(first, threshold=threshold, min_community_size=1)
        if len(found) == len(groups):
            break
        groups = [sorted(i for g in community for i in groups[g]) for community in found]
    groups = [group for group in groups if len(group) >= min_size]
    lines = []
    for group in groups:
        members = [names[i] for i in sorted(group)]  # most frequent first
        n_texts = len(set().union(*(texts_of[member] for member in members)))
        lines.append((members[0], n_texts, members))
    if not lines:
        raise ValueError(f"no community has {min_size} wordings: lower min_size or the threshold")
    frame = pd.DataFrame(lines, columns=["descriptor", "n_texts", "members"])
    frame = frame.sort_values(["n_texts", "descriptor"], ascending=[False, True], ignore_index=True)
    kept = frame["n_texts"] >= min_texts
    if not kept.any():
        most = frame["n_texts"].max()
        raise ValueError(f"no descriptor is in {min_texts} texts (the most is {most}): lower min_texts")
    merged = Descriptors(frame[kept].reset_index(drop=True), int((~kept).sum()))
    if edits is None or (isinstance(edits, (str, Path)) and not Path(edits).exists()):
        return merged
    return merged.edited(edits if isinstance(edits, Mapping) else json.loads(Path(edits).read_text()))


def label(
    texts: Texts,
    descriptors: Descriptors,
    method: str = "proposals",
    *,
    proposals: pd.DataFrame | None = None,
    generator: str | gen.Generator | None = None,
    question: Question | None = None,
    encoder: Any = None,
) -> pd.DataFrame:
    """Label matrix [text, descriptor] with P(descriptor | text); the index is ``text_id``.

    proposals    1 where a generator named the descriptor or one of its members, else 0
    similarity   from the cosine between text and descriptor, turned into a probability by a logistic
                 regression on the texts that ``proposals`` covers (which may be a sample of the corpus)
    asked        a ``generator`` is asked about every text and descriptor (``question``). Texts for which an
                 answer is missing are absent; ``.attrs["losses"]`` counts them and the failures

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
    varied = (x.std(0) > 0) & (y.std(0) > 0)
    found = [np.corrcoef(x[:, i], y[:, i])[0, 1] for i in np.flatnonzero(varied)]
    return float(np.mean(found)) if found else float("nan")


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


def _asked(
    texts: Texts, names: list[str], generator: str | gen.Generator, question: Question
) -> pd.DataFrame:
    generator = gen.connect(generator) if isinstance(generator, str) else generator
    parts = [names[i : i + question.at_once] for i in range(0, len(names), question.at_once)]
    pairs = list(itertools.product(texts.frame["text"], parts))
    replies = generator.complete_all([question.messages(text, part) for text, part in pairs])
    matrix = np.full((len(texts), len(names)), np.nan)
    losses: dict[str, int] = {"requests": len(pairs)}
    for number, ((text, part), reply) in enumerate(zip(pairs, replies, strict=True)):
        found = read_answer(reply.text, part) if reply.text is not None else None
        if found is None:
            kind = reply.failure or "unparsable"
            losses[kind] = losses.get(kind, 0) + 1
            if reply.text is not None and isinstance(generator, gen.Ledger):
                generator.note(question.messages(text, part), "unparsable", reply.text)
            continue
        row, column = divmod(number, len(parts))
        first = column * question.at_once
        matrix[row, first : first + len(part)] = found
    whole = ~np.isnan(matrix).any(1)
    losses["texts without all answers"] = int((~whole).sum())
    frame = pd.DataFrame(matrix, index=_index(texts), columns=names)[whole]
    frame.attrs["losses"] = losses
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


def _encode(strings: list[str], encoder: Any) -> np.ndarray:
    model = encoder or sentence_encoder()
    return np.asarray(model.encode(strings, normalize_embeddings=True, show_progress_bar=False))
