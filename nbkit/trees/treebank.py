"""Treebank: gold trees as numbers, and the vectors of their words in memory, ready for probes.

    depths(words), distances(words)     of the gold trees: root 1, edges between words
    bank(subject, treebank) -> Bank     vectors [site, word, width] of the sentences that can be used
    control_heads(bank)                 the dependency control task

Part of ``nbkit.trees``, which has the probes.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from nbkit import activations
from nbkit.models import Subject
from nbkit.texts import Texts
from nbkit.trees.depths import depths, distances, heads_of

NULLS = ("none", "shuffled", "random weights", "gaussian")
WORDS_AT_ONCE = 640  # words in a step of the probes' training
PUNCTUATION = "PUNCT"


# ---------------------------------------------------------------------------------- sentences in memory


@dataclass(frozen=True)
class TreeDataset:
    """Vectors of a treebank's words, ready for probes: sentences of one length lie together.

    ``values`` [site, word, width]; ``starts`` [sentence] and ``sizes`` say where each sentence is; ``depth``
    [word] from 1; ``head`` [word] position of the head in its sentence (itself: root); ``punct`` [word].
    """

    values: torch.Tensor
    sites: list[str]
    starts: np.ndarray
    sizes: np.ndarray
    depth: np.ndarray
    head: np.ndarray
    punct: np.ndarray
    forms: np.ndarray
    text_ids: np.ndarray
    distance: list[np.ndarray]
    dropped: dict[str, int]

    def __len__(self) -> int:
        return len(self.sizes)

    def subset(self, which: np.ndarray) -> TreeDataset:
        """The same vectors with fewer sentences."""
        return replace(
            self,
            starts=self.starts[which],
            sizes=self.sizes[which],
            text_ids=self.text_ids[which],
            distance=[self.distance[i] for i in which],
        )

    def batches(
        self, generator: np.random.Generator | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Sentences of one length at a time: their numbers, and the rows [sentence, word] of ``values``."""
        order = np.arange(len(self)) if generator is None else generator.permutation(len(self))
        groups = []
        for size in np.unique(self.sizes):
            some = order[self.sizes[order] == size]
            n = max(1, WORDS_AT_ONCE // int(size))
            groups += [some[i : i + n] for i in range(0, len(some), n)]
        turns = range(len(groups)) if generator is None else generator.permutation(len(groups))
        for turn in turns:
            some = groups[turn]
            yield some, self.starts[some][:, None] + np.arange(self.sizes[some[0]])


def dataset(
    subject: Subject,
    treebank: Texts,
    *,
    sites: str | Sequence[str] = ("embeddings", "hidden"),
    lengths: tuple[int, int] = (4, 40),
    null: str = "none",
    seed: int = 0,
    cache: Any = None,
    progress: bool = True,
) -> TreeDataset:
    """Vectors (mean of a word's tokens) and gold trees of a treebank's sentences.

    lengths   words a sentence may have, else it is left out
    null      "none"; "shuffled": the words of each sentence in random order, trees kept with their words;
              "random weights": the untrained subject; "gaussian": noise with the norm of each vector

    Left out and counted in ``dropped``: sentences of other lengths, whose heads are no tree, or which lost
    words in the tokenizer. All sites need one width. No sentence left: ``ValueError``.
    """
    if null not in NULLS:
        raise ValueError(f"null={null!r}: {', '.join(NULLS)}")
    if treebank.words is None or "head" not in treebank.words:
        raise ValueError(f"{treebank.name} has no trees: load a CoNLL-U file")
    words, dropped = _clean(treebank.words, lengths)
    corpus = treebank.where(text_id=words["text_id"].unique().tolist())
    if null == "random weights":
        subject = subject.randomized(seed)
    read, order = (corpus, None) if null != "shuffled" else _shuffled(corpus, seed)
    stored = activations.capture(
        subject, read, sites=sites, rows="word", pool="mean", dtype="float16", cache=cache, progress=progress
    )
    widths = stored.units["site"].value_counts(sort=False)
    if widths.nunique() != 1:
        raise ValueError(f"sites of different widths cannot share a batch: {widths.to_dict()}")
    found = pd.MultiIndex.from_frame(stored.rows[["text_id", "word_id"]])
    wanted = words[["text_id", "word_id"]]
    if order is not None:
        wanted = wanted.assign(word_id=order.loc[pd.MultiIndex.from_frame(wanted)].to_numpy())
    place = found.get_indexer(pd.MultiIndex.from_frame(wanted))
    broken = words["text_id"][place < 0].unique()
    dropped["sentences with words the tokenizer lost"] = len(broken)
    keep = ~words["text_id"].isin(broken).to_numpy()
    words, place = words[keep].reset_index(drop=True), place[keep]
    if words.empty:
        raise ValueError(f"no sentence of {treebank.name} is left: {dropped}")
    values = _sites_first(stored.values, place, len(widths))
    if null == "gaussian":
        values = _gaussian(values, seed)
    return _dataset_of(values, list(widths.index), words, dropped)


def _clean(words: pd.DataFrame, lengths: tuple[int, int]) -> tuple[pd.DataFrame, dict[str, int]]:
    """Words of the sentences that can be used, and how many cannot."""
    sizes = words.groupby("text_id")["word_id"].transform("size")
    short_or_long = ~sizes.between(*lengths)
    dropped = {
        f"sentences not of {lengths[0]} to {lengths[1]} words": words["text_id"][short_or_long].nunique()
    }
    words = words[~short_or_long]
    if words.empty:
        raise ValueError(f"no sentence has {lengths[0]} to {lengths[1]} words")
    try:
        depths(words)
    except ValueError:  # some sentence is no tree: find them all
        bad = [text_id for text_id, some in words.groupby("text_id") if not _is_tree(some)]
        dropped["sentences whose heads are no tree"] = len(bad)
        words = words[~words["text_id"].isin(bad)]
        if words.empty:
            raise ValueError("no sentence has a tree") from None
    return words.reset_index(drop=True), dropped


def _is_tree(words: pd.DataFrame) -> bool:
    try:
        depths(words)
    except ValueError:
        return False
    return True


def _shuffled(corpus: Texts, seed: int) -> tuple[Texts, pd.Series]:
    """The sentences with their words in random order, and the new word_id of each (text_id, word_id)."""
    generator = np.random.default_rng(seed)
    texts, lines, moved = [], [], []
    for text_id, words in corpus.words.groupby("text_id", sort=False):
        order, at, forms = generator.permutation(len(words)), 0, words["form"].tolist()
        ids = words["word_id"].to_numpy()
        for new, old in enumerate(order):
            lines.append((text_id, ids[new], forms[old], at, at + len(forms[old])))
            moved.append((text_id, ids[old], ids[new]))
            at += len(forms[old]) + 1
        texts.append((text_id, " ".join(forms[i] for i in order)))
    frame = pd.DataFrame(texts, columns=["text_id", "text"])
    table = pd.DataFrame(lines, columns=["text_id", "word_id", "form", "start", "end"])
    order = pd.DataFrame(moved, columns=["text_id", "word_id", "new"]).set_index(["text_id", "word_id"])[
        "new"
    ]
    return replace(corpus, name=f"{corpus.name}-shuffled", frame=frame, words=table), order


def _sites_first(values: np.ndarray, place: np.ndarray, n_sites: int) -> torch.Tensor:
    """[site, word, width] in half precision, read site by site."""
    width = values.shape[1] // n_sites
    parts = [np.asarray(values[:, i * width : (i + 1) * width])[place] for i in range(n_sites)]
    return torch.from_numpy(np.stack(parts))


def _gaussian(values: torch.Tensor, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    found = torch.empty_like(values)
    for i, site in enumerate(values):
        noise = torch.randn(site.shape, generator=generator)
        norm = site.float().norm(dim=1, keepdim=True)
        found[i] = (noise / noise.norm(dim=1, keepdim=True) * norm).to(values.dtype)
    return found


def _dataset_of(
    values: torch.Tensor, sites: list[str], words: pd.DataFrame, dropped: dict[str, int]
) -> TreeDataset:
    starts = words.groupby("text_id", sort=False).indices
    first = np.array([rows.min() for rows in starts.values()])
    sizes = np.array([len(rows) for rows in starts.values()])
    heads = heads_of(words)
    own = np.arange(len(words)) - np.repeat(first, sizes)
    head = np.where(heads < 0, own, heads - np.repeat(first, sizes))
    upos = words["upos"] if "upos" in words else pd.Series("", index=words.index)
    return TreeDataset(
        values,
        sites,
        first,
        sizes,
        depths(words).to_numpy(),
        head,
        (upos == PUNCTUATION).to_numpy(),
        words["form"].str.lower().to_numpy(dtype=object),
        np.array(list(starts)),
        list(distances(words).values()),
        dropped,
    )


def control_heads(sentences: TreeDataset, *, seed: int = 0) -> np.ndarray:
    """The dependency control task: each word type attaches to itself, the first or the last word [word].

    The rule of a type is a hash of it and ``seed``, so that training and test sentences share it.
    """
    types = pd.Series(sentences.forms)
    rule = types.map({form: zlib.crc32(f"{seed} {form}".encode()) % 3 for form in types.unique()}).to_numpy()
    found = np.zeros(len(types), dtype=np.int64)
    for start, size in zip(sentences.starts, sentences.sizes, strict=True):
        rows = slice(start, start + size)
        found[rows] = np.choose(rule[rows], [np.arange(size), np.zeros(size, int), np.full(size, size - 1)])
    return found
