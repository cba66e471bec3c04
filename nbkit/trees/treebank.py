"""Treebank: the vectors of its words in memory beside its gold trees, ready for probes."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.sparse.csgraph import minimum_spanning_tree

from nbkit import activations
from nbkit.activations import Activations
from nbkit.models import Subject
from nbkit.texts import Texts
from nbkit.trees.depths import depths, distances, heads_of, not_trees

NULLS = ("none", "shuffled", "random weights", "gaussian")
WORDS_AT_ONCE = 640  # words in a step of the probes' training
LONG, LENGTH = 40.0, 10.0  # a site whose median vector is longer than the first is scaled to the second
LONGEST = 4.0  # times the median: a longer vector is shortened
PUNCTUATION = "PUNCT"


# ---------------------------------------------------------------------------------- sentences in memory


@dataclass(frozen=True)
class TreeDataset:
    """Vectors and gold trees of a treebank's sentences; its length is the number of sentences."""

    values: torch.Tensor  # [site, word, width] in half precision, all sentences one after another
    sites: list[str]
    starts: np.ndarray  # [sentence] its first word
    sizes: np.ndarray  # [sentence] words
    depth: np.ndarray  # [word] from 1
    head: np.ndarray  # [word] position of the head in its sentence; the word itself: root
    punct: np.ndarray  # [word] is it punctuation
    forms: np.ndarray  # [word] in lower case
    text_ids: np.ndarray  # [sentence]
    distance: list[np.ndarray]  # [sentence] of [word, word] edges apart
    dropped: dict[str, int]  # sentences left out, by reason
    scale: torch.Tensor | None = None  # [site] what the subject's vectors were multiplied by; None: by 1
    shortened: int = 0  # vectors that were far longer than the others of their site

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
        """Batches of sentences of one length: their numbers, and the rows [sentence, word] of ``values``.

        In random order with a ``generator``.
        """
        order = np.arange(len(self)) if generator is None else generator.permutation(len(self))
        groups = []
        for size in np.unique(self.sizes):
            some = order[self.sizes[order] == size]
            n = max(1, WORDS_AT_ONCE // int(size))
            groups += [some[i : i + n] for i in range(0, len(some), n)]
        turns = range(len(groups)) if generator is None else generator.permutation(len(groups))
        for turn in turns:
            some = groups[turn]
            yield some, self.starts[some][:, None] + np.arange(int(self.sizes[some[0]]))


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

    sites     all of one width; other widths in another call
    lengths   least and largest number of words of a sentence
    null      "none"; "shuffled": the words of each sentence in random order, trees kept with their words;
              "random weights": the untrained subject; "gaussian": noise with the norm of each vector
    cache, progress   of ``activations.capture``

    The probes' steps suit vectors as long as an encoder's. Where the median length at a site is over 40, its
    vectors are scaled to a median of 10 (``scale``); one of over four times the median, an attention sink, is
    shortened to that (``shortened`` counts them over all sites). In MiniLM neither happens.

    Left out and counted in ``dropped``: sentences of other lengths, whose heads are no tree, in which words
    share a vector (those of a multiword token, and "can" "not" in a model that has "cannot" as one token), or
    which lost words in the tokenizer. No trees, no sentence left, or several widths: ``ValueError``.
    """
    if null not in NULLS:
        raise ValueError(f"null={null!r}: {', '.join(NULLS)}")
    if treebank.words is None or "head" not in treebank.words:
        raise ValueError(f"{treebank.name} has no trees: load a CoNLL-U file")
    words, dropped = _clean(treebank.words, lengths)
    words = _apart(subject, treebank, words, dropped)
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
    words, place = _found(words, stored, order, dropped)
    if words.empty:
        raise ValueError(f"no sentence of {treebank.name} is left: {dropped}")
    values = _sites_first(stored.values, place, len(widths))
    values, scale, shortened = _evened(values)
    if null == "gaussian":
        values = _gaussian(values, seed)
    found = _dataset_of(values, list(widths.index), words, dropped)
    return replace(found, scale=scale, shortened=shortened)


def _found(
    words: pd.DataFrame, stored: Activations, order: pd.Series | None, dropped: dict[str, int]
) -> tuple[pd.DataFrame, np.ndarray]:
    """Words of the sentences with a vector for every word, and the row [word] of each."""
    wanted = words[["text_id", "word_id"]]
    if order is not None:  # of the shuffled sentence, the vector of the word's new place
        wanted = wanted.assign(word_id=order.loc[pd.MultiIndex.from_frame(wanted)].to_numpy())
    index = pd.MultiIndex.from_frame(stored.rows[["text_id", "word_id"]])
    place = index.get_indexer(pd.MultiIndex.from_frame(wanted))
    broken = words["text_id"][place < 0].unique()
    dropped["sentences with words the tokenizer lost"] = len(broken)
    keep = ~words["text_id"].isin(broken).to_numpy()
    return words[keep].reset_index(drop=True), place[keep]


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
    bad = np.unique(not_trees(words))
    if len(bad):
        dropped["sentences whose heads are no tree"] = len(bad)
        words = words[~words["text_id"].isin(bad)]
        if words.empty:
            raise ValueError("no sentence has a tree")
    return words.reset_index(drop=True), dropped


def _apart(subject: Subject, treebank: Texts, words: pd.DataFrame, dropped: dict[str, int]) -> pd.DataFrame:
    """Words of the sentences in which no two words are read off the same tokens."""
    plan = activations.plan_of(
        subject, treebank.where(text_id=words["text_id"].unique().tolist()), rows="word"
    )
    ends = np.cumsum(plan.lengths)
    spans = np.hstack([plan.where[ends - plan.lengths], plan.where[ends - 1]])  # first and last token
    text_id = plan.rows["text_id"].to_numpy()
    same = (spans[1:] == spans[:-1]).all(1) & (text_id[1:] == text_id[:-1])
    together = np.unique(text_id[1:][same])
    dropped["sentences with words that share a vector"] = len(together)
    words = words[~words["text_id"].isin(together)].reset_index(drop=True)
    if words.empty:
        raise ValueError(f"no sentence of {treebank.name} is left: {dropped}")
    return words


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


def _evened(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
    """``values`` at the length that probes are made for, the factor [site], and how many were shortened."""
    found, scale, shortened = torch.empty_like(values), torch.ones(len(values)), 0
    for i, site in enumerate(values):
        length = site.float().norm(dim=1, keepdim=True).clamp(min=1e-12)
        typical = length.median()
        if typical > LONG:
            scale[i] = LENGTH / typical
        factor = (LONGEST * typical / length).clamp(max=1)
        shortened += int((factor < 1).sum())
        found[i] = (site.float() * factor * scale[i]).to(values.dtype)
    return found, scale, shortened


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


class Parts(NamedTuple):
    """Sentences to train probes on, to choose their epoch by, and to judge them on."""

    train: TreeDataset
    dev: TreeDataset
    test: TreeDataset


def split(whole: TreeDataset, held_out: TreeDataset | None = None, *, seed: int = 0) -> Parts:
    """A fifth of the sentences to test on (or ``held_out``), a tenth of the rest for development.

    Fewer than ten sentences are a ``ValueError``.
    """
    if len(whole) < 10:
        raise ValueError(f"{len(whole)} sentences are too few to train and judge a probe: ten at least")
    order = np.random.default_rng(seed).permutation(len(whole))
    n_test = 0 if held_out is not None else len(whole) // 5
    n_dev = max(1, (len(whole) - n_test) // 10)
    test = whole.subset(order[:n_test]) if held_out is None else held_out
    return Parts(whole.subset(order[n_test + n_dev :]), whole.subset(order[n_test : n_test + n_dev]), test)


def gold_edges(sentences: TreeDataset, number: int) -> set[tuple[int, int]]:
    """Edges (smaller, larger position) of the gold tree of sentence ``number``, without punctuation."""
    start, size = sentences.starts[number], sentences.sizes[number]
    return edges_of(sentences.distance[number], ~sentences.punct[start : start + size])


def spanning_tree(distance: np.ndarray, words: np.ndarray) -> set[tuple[int, int]]:
    """Edges (smaller, larger) of the minimum spanning tree over the ``words`` (bool) of a sentence."""
    kept = np.flatnonzero(words)
    if len(kept) < 2:
        return set()
    # the library takes 0 for "no edge"
    tree = minimum_spanning_tree(distance[np.ix_(kept, kept)] + 1e-6).tocoo()
    return {
        (min(a, b), max(a, b)) for a, b in zip(kept[tree.row].tolist(), kept[tree.col].tolist(), strict=True)
    }


def edges_of(distance: np.ndarray, words: np.ndarray) -> set[tuple[int, int]]:
    """Edges (smaller, larger) between the ``words`` (bool) of a sentence that are one edge apart."""
    one = np.triu((distance == 1) & words[:, None] & words[None, :])
    return set(zip(*(index.tolist() for index in np.nonzero(one)), strict=True))


def control_heads(sentences: TreeDataset, *, seed: int = 0) -> np.ndarray:
    """Heads [word] of the control task: each word type attaches to itself, the first or the last word.

    The rule of a type is a hash of the type and ``seed``, so that training and test sentences share it.
    """
    types = pd.Series(sentences.forms)
    rule = types.map({form: zlib.crc32(f"{seed} {form}".encode()) % 3 for form in types.unique()}).to_numpy()
    found = np.zeros(len(types), dtype=np.int64)
    for start, size in zip(sentences.starts, sentences.sizes, strict=True):
        rows = slice(start, start + size)
        found[rows] = np.choose(rule[rows], [np.arange(size), np.zeros(size, int), np.full(size, size - 1)])
    return found


# ---------------------------------------------------------------------------------- as published


def published_dataset(
    subject: Subject,
    treebank: Texts,
    *,
    sites: str | Sequence[str] = ("embeddings", "hidden"),
    length: int = 128,
) -> TreeDataset:
    """Vectors as Li et al.'s code scores them: every position of texts padded to ``length``, padding too.

    Wordpieces have their word's depth, special tokens and padding depth 2; about nine positions in ten are
    padding. For ``fit(published=True)`` with sp, ssp and essp. The paper does not state its ``length``.
    """
    words = treebank.words.assign(depth=depths(treebank.words))
    by_text = dict(list(words.groupby("text_id")))
    names, values, depth = subject.select(sites), [], []
    for start in range(0, len(treebank), 32):
        part = treebank.frame.iloc[start : start + 32]
        encoded, _ = subject.encode(part["text"].tolist(), length=length, return_offsets_mapping=True)
        spans = encoded.pop("offset_mapping").cpu().numpy()
        seen = subject.run(encoded, names)
        values.append(torch.stack([seen[name].half().cpu() for name in names]))
        depth += [_of_pieces(by_text[i], spans[j]) for j, i in enumerate(part["text_id"])]
    n = len(treebank)
    flat = torch.cat(values, dim=1).flatten(1, 2)
    nothing = np.zeros(n * length, dtype=np.int64)
    return TreeDataset(
        flat,
        names,
        np.arange(n) * length,
        np.full(n, length),
        np.concatenate(depth),
        nothing,
        nothing.astype(bool),
        np.full(n * length, "", dtype=object),
        treebank.frame["text_id"].to_numpy(),
        [np.zeros((0, 0))] * n,
        {},
    )


def _of_pieces(words: pd.DataFrame, spans: np.ndarray) -> np.ndarray:
    """Depth of every position: that of the word it lies in, else 2."""
    found = np.full(len(spans), 2)
    for start, end, depth in zip(words["start"], words["end"], words["depth"], strict=True):
        found[(spans[:, 0] < end) & (spans[:, 1] > start)] = depth
    return found
