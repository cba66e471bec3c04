"""Text generators behind one method: messages in, a reply out.

    connect("recorded:sample")    replays the descriptors written for the embedded sample
    connect("recorded:PATH")      replays replies from a file, one {"text": ..., "reply": ...} a line
    connect("keyphrase")          takes phrases out of the text itself (KeyBERT, no language model)

    generator.complete(messages) -> Reply
    generator.complete_all(list_of_messages) -> list of Reply      the same, batched where it pays

``messages`` are chat messages, ``{"role": ..., "content": ...}``; the last one is the text that the
request is about. A reply that could not be had has ``text=None`` and says why in ``failure``; it is
counted by whoever asked, and it never stops a run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import NamedTuple, Protocol

Messages = Sequence[dict[str, str]]


class Reply(NamedTuple):
    """What came back."""

    text: str | None
    failure: str = ""  # why there is no text, in a word or two


class Generator(Protocol):
    """Anything that answers messages. ``provenance`` says what its words are worth."""

    name: str
    provenance: str

    def complete(self, messages: Messages) -> Reply: ...

    def complete_all(self, requests: Sequence[Messages]) -> list[Reply]: ...


def connect(spec: str, **options: object) -> Generator:
    """The generator that ``spec`` names; ``options`` go to it. Unknown: ``ValueError``."""
    kind, _, rest = spec.partition(":")
    if kind not in KINDS:
        raise ValueError(f"unknown generator {spec!r}; there are {', '.join(KINDS)}")
    return KINDS[kind](rest, **options)


class Recorded:
    """Replays replies that were written down. A text that was not recorded is a failed request."""

    def __init__(self, where: str) -> None:
        self.name = f"recorded:{where}"
        if where == "sample":
            self.provenance = "descriptors written for the sample, not produced by a model"
            self._replies = _written_replies()
        else:
            self.provenance = f"replies recorded in {Path(where).name}"
            self._replies = _read_replies(Path(where))

    def complete(self, messages: Messages) -> Reply:
        found = self._replies.get(messages[-1]["content"])
        return Reply(found) if found is not None else Reply(None, "not recorded")

    def complete_all(self, requests: Sequence[Messages]) -> list[Reply]:
        return [self.complete(messages) for messages in requests]

    def __repr__(self) -> str:
        return f"Recorded({self.name}, {len(self._replies):,} replies)"


class Keyphrase:
    """Key phrases of a text, extracted: KeyBERT's candidates (one and two words, English stop words
    dropped) ranked by their embedding's closeness to the text's.

    ``top`` phrases a text; ``encoder`` is a sentence encoder, by default ``descriptors.encoder()``.
    """

    def __init__(self, _: str = "", *, top: int = 5, encoder: object = None) -> None:
        self.name = "keyphrase"
        self.provenance = "phrases extracted from the text itself by KeyBERT, no language model"
        self.top = top
        self._encoder = encoder

    def complete(self, messages: Messages) -> Reply:
        return self.complete_all([messages])[0]

    def complete_all(self, requests: Sequence[Messages]) -> list[Reply]:
        from keybert import KeyBERT
        from sklearn.feature_extraction.text import CountVectorizer

        from nbkit.models import sentence_encoder

        model = KeyBERT(model=self._encoder or sentence_encoder())
        texts = [messages[-1]["content"] for messages in requests]
        vectorizer = CountVectorizer(
            ngram_range=(1, 2), stop_words="english", token_pattern=r"(?u)\b[^\W\d]{3,}\b"
        )
        try:
            found = model.extract_keywords(texts, vectorizer=vectorizer, top_n=self.top)
        except ValueError:  # no candidate in any of the texts
            found = [[] for _ in texts]
        if len(texts) == 1 and found and isinstance(found[0], tuple):
            found = [found]
        return [
            Reply(json.dumps([phrase for phrase, _ in phrases])) if phrases else Reply(None, "empty")
            for phrases in found
        ]

    def __repr__(self) -> str:
        return f"Keyphrase(top={self.top})"


KINDS = {"recorded": Recorded, "keyphrase": Keyphrase}


def _written_replies() -> dict[str, str]:
    """The sample's texts with their written descriptors, as a language model would have answered."""
    replies = {}
    for file in resources.files("nbkit.data").iterdir():
        if file.name.endswith(".jsonl"):
            for line in file.read_text(encoding="utf-8").splitlines():
                record = json.loads(line)
                replies[record["text"]] = json.dumps(record["descriptors"])
    return replies


def _read_replies(path: Path) -> dict[str, str]:
    if not path.exists():
        raise FileNotFoundError(f"no recording {path}: record one or use 'keyphrase'")
    replies = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
            replies[record["text"]] = record["reply"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f'line {number} of {path} is not {{"text": ..., "reply": ...}}: {line[:60]!r}'
            ) from None
    return replies
