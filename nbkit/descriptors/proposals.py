"""Proposals."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from nbkit.descriptors.generators import Generator, Messages, Request, connect
from nbkit.descriptors.ledger import Ledger
from nbkit.texts import Texts

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

    def messages(self, text: str, example: tuple[str, list[str]] | None = None) -> Messages:
        """Chat messages about ``text``; ``example`` is another text with its descriptors."""
        task = f"{self.task} {self.steer}".strip()
        shown = []
        if example is not None:
            shown = [
                {"role": "user", "content": example[0]},
                {"role": "assistant", "content": json.dumps(example[1])},
            ]
        asked = [{"role": "system", "content": task}, *shown, {"role": "user", "content": text}]
        return Request(asked, version=self.version, schema=SCHEMA)


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
    generators: str | Generator | Sequence[str | Generator],
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
    ``.attrs["dropped"]`` counts, for each generator, requests, failures by kind and replies that could not be
    read; ``.attrs["provenance"]`` says what each is.
    """
    wanted = [generators] if isinstance(generators, str) or hasattr(generators, "name") else generators
    connected = [connect(g) if isinstance(g, str) else g for g in wanted]
    texts = texts if n is None else stratified(texts, n, by=by, seed=seed)
    prompt = prompt or Prompt()
    lines, dropped = [], {}
    for generator in connected:
        example = _worked_example(texts, generator, prompt, seed)
        asked = [prompt.messages(text, example) for text in texts.frame["text"]]
        replies = generator.complete_all(asked)
        dropped[generator.name] = {"requests": len(asked)}
        for text_id, messages, reply in zip(texts.frame["text_id"], asked, replies, strict=True):
            found = read_reply(reply.text) if reply.text is not None else None
            if found is None and reply.text is not None and isinstance(generator, Ledger):
                generator.note(messages, "unparsable", reply.text)
            if found is None:
                kind = reply.failure or "unparsable"
                dropped[generator.name][kind] = dropped[generator.name].get(kind, 0) + 1
            lines += [(text_id, generator.name, descriptor) for descriptor in found or []]
    frame = pd.DataFrame(lines, columns=["text_id", "generator", "descriptor"])
    frame.attrs["dropped"] = dropped
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


# ---------------------------------------------------------------------------------- inside


def _worked_example(
    texts: Texts, generator: Generator, prompt: Prompt, seed: int
) -> tuple[str, list[str]] | None:
    """One text of the corpus with the generator's own reading of it; None if it cannot be read."""
    text = texts.sample(1, seed=seed).frame["text"].iloc[0]
    reply = generator.complete(prompt.messages(text))
    found = read_reply(reply.text) if reply.text is not None else None
    return (text, found) if found else None
