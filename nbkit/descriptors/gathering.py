"""The texts of several corpora as passages with embeddings: what discovery reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from nbkit.descriptors.merging import encode
from nbkit.descriptors.proposals import stratified
from nbkit.texts import Texts

LONGEST = 1000  # characters of a passage: about the 256 tokens that minilm reads
PASSAGES = 20  # of a text at most, evenly spaced
#: Where a passage may end: after a sentence, in scripts with and without spaces.
SENTENCE = re.compile(r"(?<=[.!?…])\s+|(?<=[。！？।؟])\s*|\n+")


class Gathered(NamedTuple):
    """Passages of all corpora.

    ``texts`` and ``passages`` are aligned with what is computed from them: ``vectors`` has a row for each
    passage, ``owner`` the row in ``texts`` of each passage.
    """

    texts: pd.DataFrame  # corpus, text_id, text: those that were read
    passages: list[str]
    owner: np.ndarray  # [passage]
    vectors: np.ndarray  # [passage, width], unit length
    notes: list[str]  # what was left out or cut, in sentences

    def of_texts(self, values: np.ndarray) -> np.ndarray:
        """Values [passage, ...] as [text, ...]: the largest of a text's passages."""
        starts = np.flatnonzero(np.diff(self.owner, prepend=-1))
        return np.maximum.reduceat(values, starts, axis=0)


def named_corpora(corpora: Texts | Mapping[str, Texts]) -> dict[str, Texts]:
    """{name: corpus}, of one corpus or several. ``ValueError`` without any."""
    found = {corpora.name: corpora} if isinstance(corpora, Texts) else dict(corpora)
    if not found:
        raise ValueError("no corpus to discover in: give Texts or {name: Texts}")
    return found


def gather(
    corpora: Texts | Mapping[str, Texts], *, limit: int = 10_000, seed: int = 0, encoder: Any = None
) -> Gathered:
    """Passages and embeddings of the texts of all corpora.

    limit    texts of a corpus at most; of a larger one a sample over fifths of text length is read
    encoder  anything with ``.encode(list_of_strings)``; default ``models.sentence_encoder()``

    Empty texts are left out. A text of more than 1,000 characters is read in passages that end with
    sentences, 20 at most. The same passage is embedded once. ``ValueError``: no text that is not empty.
    """
    frames, notes = [], []
    for name, corpus in named_corpora(corpora).items():
        if len(corpus) > limit:
            notes.append(f"{name}: {limit:,} of {len(corpus):,} texts read, a sample over text lengths")
        frame = stratified(corpus, limit, seed=seed).frame[["text_id", "text"]]
        empty = frame["text"].str.strip().eq("")
        if empty.any():
            notes.append(f"{name}: {empty.sum():,} empty texts left out")
        frames.append(frame[~empty].assign(corpus=name))
    texts = pd.concat(frames, ignore_index=True)[["corpus", "text_id", "text"]]
    if texts.empty:
        raise ValueError(f"{', '.join(named_corpora(corpora))}: every text is empty")
    parts = [passages_of(text) for text in texts["text"]]
    cut = [len(part) for part in parts if len(part) > 1]
    if cut:
        notes.append(f"{len(cut):,} long texts are read in {sum(cut):,} passages: a text has what one has")
    if PASSAGES in cut:
        notes.append(f"{cut.count(PASSAGES):,} texts have {PASSAGES} passages or more: {PASSAGES} were read")
    passages = [passage for part in parts for passage in part]
    codes, different = pd.factorize(pd.Series(passages, dtype=object))
    if len(different) < len(passages):
        notes.append(f"{len(passages) - len(different):,} passages are repeated: they count once in clusters")
    vectors = encode(list(different), encoder)[codes]
    return Gathered(texts, passages, np.repeat(np.arange(len(parts)), [*map(len, parts)]), vectors, notes)


def passages_of(text: str) -> list[str]:
    """``text`` in passages of at most 1,000 characters, cut between sentences where that is possible."""
    if len(text) <= LONGEST:
        return [text]
    found = [""]
    for sentence in SENTENCE.split(text):
        for piece in _pieces(sentence.strip()):
            if found[-1] and len(found[-1]) + len(piece) >= LONGEST:
                found.append("")
            found[-1] = f"{found[-1]} {piece}".strip()
    if len(found) > PASSAGES:
        found = [found[i] for i in np.linspace(0, len(found) - 1, PASSAGES).astype(int)]
    return found


def _pieces(sentence: str) -> list[str]:
    """A sentence, in parts where it is longer than a passage: at spaces, else anywhere."""
    pieces = []
    while len(sentence) > LONGEST:
        at = sentence.rfind(" ", LONGEST // 2, LONGEST)
        at = LONGEST if at < 0 else at
        pieces.append(sentence[:at])
        sentence = sentence[at:].lstrip()
    return [*pieces, sentence] if sentence else pieces
