"""Proposals: what generators say is in each text."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nbkit.descriptors.ledger import Ledger, accounted, estimate
from nbkit.descriptors.messages import Generator, Messages, Reply, Request
from nbkit.descriptors.replies import Read, read
from nbkit.texts import Texts

log = logging.getLogger(__name__)

#: What a server that knows structured output is held to; ``read_reply`` reads it like any other list.
SCHEMA = {
    "type": "object",
    "properties": {"descriptors": {"type": "array", "items": {"type": "string"}}},
    "required": ["descriptors"],
    "additionalProperties": False,
}

#: Worked examples of three registers, written for the kit: a question, an encyclopedia, a complaint. A small
#: model copies what it is shown, so each has three short and general names.
EXAMPLES = (
    (
        "How often should I water a young lemon tree in winter?",
        ("question", "gardening", "season"),
    ),
    (
        "The bridge was built in 1894 and carries the railway across the river to the old harbour.",
        ("bridge", "railway", "history"),
    ),
    (
        "The zip broke on the second day, and the shop never answered my letter.",
        ("complaint", "clothing", "customer service"),
    ),
)

#: What to do about a kind of failure, where the server does not say it.
HINTS = {"truncated": "give connect(..., max_tokens=) more: a model that thinks aloud needs 1,000"}


@dataclass(frozen=True)
class Prompt:
    """What a generator is asked: a task, worked examples, and the text.

    task       what to do, and in which form to answer
    steer      what the readers of this corpus care about
    examples   pairs of a text and its descriptors: fixed, so that the same text is always the same request
    version    changes every request, and so asks a ledger's generator again
    """

    task: str = (
        "List the properties of the text that a reader would name: its topics, its tone, what is said"
        " of what. Answer with a JSON list of two to five short phrases."
    )
    steer: str = ""
    examples: Sequence[tuple[str, Sequence[str]]] = EXAMPLES
    version: str = "2"

    def messages(self, text: str) -> Messages:
        """Chat messages about ``text``: the task, the examples as turns, the text. An example is not shown
        when it is the text itself."""
        asked = [{"role": "system", "content": f"{self.task} {self.steer}".strip()}]
        for shown, descriptors in self.examples:
            if shown != text:
                answer = json.dumps(list(descriptors), ensure_ascii=False)
                asked += [{"role": "user", "content": shown}, {"role": "assistant", "content": answer}]
        return Request([*asked, {"role": "user", "content": text}], version=self.version, schema=SCHEMA)


def stratified(texts: Texts, n: int, *, groups: str | None = None, seed: int = 0) -> Texts:
    """``n`` texts drawn in proportion from the values of a column, or (None) from fifths of text length.

    Texts without a value are a group of their own. Top exemplars alone would show a generator one end of the
    corpus. A corpus that has no more than ``n`` texts: all of it. ``ValueError``: no such column.
    """
    if n >= len(texts):
        return texts
    if groups is not None and groups not in texts.frame:
        raise ValueError(f"{texts.name} has no column {groups!r}: {', '.join(texts.frame)}")
    if groups is None:
        lengths = texts.frame["text"].str.len().rank(method="first")
        strata = pd.Series(pd.qcut(lengths, 5, labels=False))
    else:
        strata = pd.Series(pd.factorize(texts.frame[groups], use_na_sentinel=False)[0])
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
    groups: str | None = None,
    seed: int = 0,
    ledger: str | Path | None = None,
    prices: Mapping[str, tuple[float, float]] | None = None,
    max_money: float | None = None,
    dry_run: bool = False,
) -> pd.DataFrame:
    """What each generator says is in each text: a frame with text_id, generator, descriptor.

    generators   specs or connected generators; several give the union, each line naming its own
    n            ask about so many texts only, a ``stratified`` sample drawn with ``seed``
    groups       column from whose values the sample is drawn in proportion; default: text length
    ledger       file in which the replies of language models are kept, and never paid twice (``Ledger``)
    prices       {model: (money for a million request tokens, for a million reply tokens)}
    max_money    money that the ledger's file may come to; the rest is not asked
    dry_run      send nothing, and return one line per generator: generator, requests (to be sent), known (in
                 the ledger), request_tokens (about), reply_tokens (the most), money, most

    ``.attrs["texts"]`` are the ids of the texts of which a reply was read, from one generator at least:
    about the others nothing is known, and ``label`` leaves them out. ``.attrs["dropped"]`` counts, for each
    generator, requests, failures by kind and replies that could not be read ("salvaged": of lists that were
    cut the whole items are used); ``.attrs["causes"]`` has an example of each kind; ``.attrs["provenance"]``
    says where each generator's words come from. A fault of one request never stops a run.
    """
    wanted: Any = [generators] if isinstance(generators, str) or hasattr(generators, "name") else generators
    texts = texts if n is None else stratified(texts, n, groups=groups, seed=seed)
    prompt = prompt or Prompt()
    asked = [prompt.messages(text) for text in texts.frame["text"]]
    lines, dropped, causes, estimates, origins = [], {}, {}, [], {}
    with ExitStack() as opened:
        for given in wanted:
            generator = accounted(given, ledger, prices, max_money)
            if isinstance(generator, Ledger) and generator is not given:
                opened.enter_context(closing(generator))
            if dry_run:
                estimates.append(estimate(generator, asked, prices))
                continue
            replies = generator.complete_all(asked)
            found, counts, examples = _read_all(generator, asked, replies)
            dropped[generator.name], causes[generator.name] = counts, examples
            origins[generator.name] = generator.provenance
            for text_id, items in zip(texts.frame["text_id"], found, strict=True):
                lines += [(text_id, generator.name, descriptor) for descriptor in items]
    if dry_run:
        return pd.concat(estimates, ignore_index=True)
    frame = pd.DataFrame(lines, columns=["text_id", "generator", "descriptor"])
    frame.attrs |= {"dropped": dropped, "causes": causes, "provenance": origins}
    frame.attrs["texts"] = frame["text_id"].drop_duplicates().sort_values().tolist()
    return frame


def _read_all(
    generator: Generator, requests: Sequence[Messages], replies: Sequence[Reply]
) -> tuple[list[list[str]], dict[str, int], dict[str, str]]:
    """Items of each reply, counts of what was asked and lost, and an example of each kind of loss."""
    found, counts, causes = [], Counter({"requests": len(requests)}), {}
    for messages, reply in zip(requests, replies, strict=True):
        items, kind = _read_one(reply)
        if kind and reply.text is not None and isinstance(generator, Ledger):
            generator.note(messages, kind, reply.text)
        if kind:
            counts[kind] += 1
            causes.setdefault(kind, (reply.raw or reply.text or "")[:300])
        found.append(items)
    warn_of_losses(generator.name, counts, causes)
    return found, dict(counts), causes


def warn_of_losses(name: str, counts: Mapping[str, int], causes: Mapping[str, str]) -> None:
    """Log what was lost, and why, where it is a tenth of all requests or more."""
    lost = {kind: n for kind, n in counts.items() if kind not in ("requests", "salvaged")}
    if 10 * sum(lost.values()) < max(counts["requests"], 1):
        return
    kinds = [f"{kind} {n} ({HINTS.get(kind) or causes.get(kind, '')})" for kind, n in lost.items()]
    log.warning("%s: %d requests, lost: %s", name, counts["requests"], "; ".join(kinds))


def _read_one(reply: Reply) -> Read:
    """Items of a reply, or the kind of its failure; of a list that was cut the whole items, "salvaged"."""
    if reply.text is not None:
        return read(reply.text)
    if reply.failure == "truncated" and "[" in reply.raw and (items := read(reply.raw).items):
        return Read(items, "salvaged")
    return Read([], reply.failure)
