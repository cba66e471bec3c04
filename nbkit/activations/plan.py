"""Rows: which tokens of a corpus make up which row of activations, known before the first forward pass.

    plan = plan_of(subject, texts, rows="word", pool="max", long="windows")
    plan.rows       one line a row: text_id (and word_id, form, or position, token; start, end)
    plan.pieces(t)  where the token ids of a text are, as the model takes them: one piece, or windows
    plan.dropped     texts cut, words beyond the cut, words and texts without a token
    pool_tokens(values, members, pool)     [piece, token, unit] -> [row, unit]

A word's tokens are those whose character span overlaps the word's span, so that words and wordpieces are
aligned exactly whatever the tokenizer did in between. Special tokens and padding are in no row, except
where ``pool="cls"`` asks for the classification token.

A text longer than the model is cut (``long="truncate"``, counted), or read in windows that overlap by a
quarter (``long="windows"``): each of its tokens then belongs to the window in which it has most context on
the poorer side, and the rows are pooled over all of them as if the text were one. ``cls`` is that of the
first window. Windows are ours; a token there sees at most the model's length of text.

Texts are tokenized ``TEXTS_AT_ONCE`` at a time and kept as arrays, about ten bytes a token.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from nbkit.models import Subject
from nbkit.texts import Texts

log = logging.getLogger(__name__)

TEXTS_AT_ONCE = 2000
OVERLAP = 4  # windows share one token in so many


class Members(NamedTuple):
    """The rows of one text."""

    where: np.ndarray  # [token, 2] piece and position, row after row
    lengths: np.ndarray  # [row] tokens of each


@dataclass(frozen=True)
class Plan:
    """What to run and where its rows go; flat arrays, since a million small ones would be the larger part."""

    ids: np.ndarray  # token ids of all pieces of all texts, special tokens included
    types: np.ndarray | None  # token type ids where the tokenizer makes other ones than 0 (XLNet's matter)
    piece_start: np.ndarray  # [piece + 1] where each begins in ``ids``
    first_piece: np.ndarray  # [text + 1]
    where: np.ndarray  # [token, 2] of ``Members``, text after text
    lengths: np.ndarray  # [row]
    first_token: np.ndarray  # [text + 1] where each begins in ``where``
    first_row: np.ndarray  # [text + 1]
    rows: pd.DataFrame
    dropped: dict[str, int]

    def pieces(self, text: int) -> list[slice]:
        """The pieces of a text in ``ids`` and ``types``."""
        bounds = self.piece_start[self.first_piece[text] : self.first_piece[text + 1] + 1].tolist()
        return [slice(a, b) for a, b in itertools.pairwise(bounds)]

    def members(self, text: int) -> Members:
        tokens = slice(self.first_token[text], self.first_token[text + 1])
        return Members(self.where[tokens], self.lengths[self.first_row[text] : self.first_row[text + 1]])

    @cached_property
    def n_pieces(self) -> np.ndarray:
        """[text]"""
        return np.diff(self.first_piece)

    @cached_property
    def longest(self) -> np.ndarray:
        """[text] tokens of the longest piece"""
        return np.maximum.reduceat(np.diff(self.piece_start), self.first_piece[:-1])


class _Tokens(NamedTuple):
    """One tokenized text: its pieces, and its own (not special) tokens in order."""

    pieces: list[np.ndarray]
    types: list[np.ndarray] | None
    ids: np.ndarray  # [token]
    where: np.ndarray  # [token, 2]
    spans: np.ndarray  # [token, 2] characters


def plan_of(
    subject: Subject,
    texts: Texts,
    *,
    rows: str = "text",
    pool: str = "max",
    long: str = "truncate",
    progress: bool = False,
) -> Plan:
    """The rows of ``texts`` for ``subject``; arguments as in ``activations.capture``."""
    makers = {"text": _text_rows, "word": _word_rows, "token": _token_rows}
    words = _sorted_words(texts) if rows == "word" else None
    starts = range(0, len(texts), TEXTS_AT_ONCE)
    parts, frames, dropped = [], [], {"truncated_texts": 0}
    for start in tqdm(starts, desc="tokens", leave=False, disable=not progress or len(starts) < 5):
        part = texts.frame.iloc[start : start + TEXTS_AT_ONCE]
        tokens, cut = _tokenize(subject, part["text"].tolist(), long)
        text_ids = part["text_id"].to_numpy()
        found, frame, lost = makers[rows](subject, tokens, text_ids, words if rows == "word" else pool)
        parts.append(_flat(tokens, found))
        frames.append(frame)
        for name, n in {"truncated_texts": cut, **lost}.items():
            dropped[name] = dropped.get(name, 0) + n
    if any(dropped.values()):
        log.warning("%s: %s", texts.name, ", ".join(f"{n} {k}" for k, n in dropped.items() if n))
    joined = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    bounds = {name: _bounds(joined.pop(sizes)) for name, sizes in SIZES.items()}
    types = joined.pop("types")
    table = pd.concat(frames, ignore_index=True)
    return Plan(**joined, **bounds, types=types if types.any() else None, rows=table, dropped=dropped)


#: Bounds of a plan, and the sizes they are made of.
SIZES = {"piece_start": "of_piece", "first_piece": "of_text", "first_token": "own", "first_row": "n_rows"}


def _flat(tokens: list[_Tokens], members: list[Members]) -> dict[str, np.ndarray]:
    """A part of a plan: its arrays, and sizes instead of bounds."""
    pieces = list(itertools.chain(*(t.pieces for t in tokens)))
    types = list(itertools.chain(*(t.types for t in tokens))) if tokens[0].types is not None else []
    return {
        "ids": np.concatenate(pieces),
        "types": np.concatenate(types) if types else np.zeros(0, np.int8),
        "where": np.concatenate([m.where for m in members]).astype(np.int32),
        "lengths": np.concatenate([m.lengths for m in members]).astype(np.int32),
        "of_piece": np.array([len(p) for p in pieces]),
        "of_text": np.array([len(t.pieces) for t in tokens]),
        "own": np.array([len(m.where) for m in members]),
        "n_rows": np.array([len(m.lengths) for m in members]),
    }


def _bounds(sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes)])


# ---------------------------------------------------------------------------------- tokens


def _tokenize(subject: Subject, texts: list[str], long: str) -> tuple[list[_Tokens], int]:
    """Every text's tokens, and how many texts were cut."""
    bounded = subject.max_length is not None
    special = subject.tokenizer.num_special_tokens_to_add()
    room = subject.max_length - special if bounded else None
    stride = room // OVERLAP if bounded and long == "windows" else 0
    encoded = subject.tokenizer(
        texts,
        truncation=bounded,
        max_length=subject.max_length,
        stride=stride,
        return_overflowing_tokens=bounded,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        return_attention_mask=False,
    )
    owner = np.asarray(encoded.get("overflow_to_sample_mapping", range(len(texts))))
    bounds = np.searchsorted(owner, np.arange(len(texts) + 1))
    found, cut = [], 0
    columns = {name: encoded[name] for name in encoded if name != "overflow_to_sample_mapping"}
    for first, stop in zip(bounds.tolist(), bounds[1:].tolist(), strict=False):
        if long == "truncate":
            cut, stop = cut + (stop - first > 1), first + 1
        whole = stop == first + 1
        found.append(_single(columns, first) if whole else _joined(columns, range(first, stop), room, stride))
    return found, int(cut)


def _single(encoded: dict[str, list], i: int) -> _Tokens:
    """A text of one piece: as ``_joined``, and several times as fast."""
    ids = np.array(encoded["input_ids"][i], dtype=np.int32)
    types = [np.array(encoded["token_type_ids"][i], dtype=np.int8)] if "token_type_ids" in encoded else None
    own = np.flatnonzero(np.array(encoded["special_tokens_mask"][i]) == 0)
    where = np.zeros((len(own), 2), dtype=np.int32)
    where[:, 1] = own
    spans = np.array(encoded["offset_mapping"][i], dtype=np.int32).reshape(-1, 2)[own]
    return _Tokens([ids], types, ids[own], where, spans)


def _joined(encoded: dict[str, list], which: range, room: int | None, stride: int) -> _Tokens:
    """One text of the pieces ``which`` of what the tokenizer gave."""
    pieces = [np.asarray(encoded["input_ids"][i], dtype=np.int32) for i in which]
    types = None
    if "token_type_ids" in encoded:
        types = [np.asarray(encoded["token_type_ids"][i], dtype=np.int8) for i in which]
    own = [np.flatnonzero(~np.asarray(encoded["special_tokens_mask"][i], dtype=bool)) for i in which]
    number, kept = _most_context([len(p) for p in own], room, stride)
    piece = np.concatenate([np.full(len(p), i, np.int32) for i, p in enumerate(own)])[kept]
    position = np.concatenate(own)[kept].astype(np.int32)
    spans = np.concatenate(
        [
            np.asarray(encoded["offset_mapping"][i], np.int32).reshape(-1, 2)[p]
            for i, p in zip(which, own, strict=True)
        ]
    )[kept]
    ids = np.concatenate([p[o] for p, o in zip(pieces, own, strict=True)])[kept]
    return _Tokens(pieces, types, ids, np.stack([piece, position], axis=1), spans)


def _most_context(sizes: list[int], room: int | None, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Of tokens that several windows hold, the place in the window with most context on the poorer side.

    sizes   own tokens of each window; a window begins ``room - stride`` tokens after the one before

    Returns the tokens' numbers in the text and their positions in the windows laid end to end.
    """
    number, context = [], []
    for window, n in enumerate(sizes):
        local = np.arange(n)
        left = local if window else np.full(n, n)  # the text itself begins there: nothing is cut off
        right = n - 1 - local if window < len(sizes) - 1 else np.full(n, n)
        number.append(window * (room - stride) + local)
        context.append(np.minimum(left, right))
    number, context = np.concatenate(number), np.concatenate(context)
    order = np.lexsort((-context, number))
    tokens, first = np.unique(number[order], return_index=True)
    return tokens, order[first]


# ---------------------------------------------------------------------------------- rows


def _text_rows(subject: Subject, tokens: list[_Tokens], text_ids: np.ndarray, pool: str):
    """Members, the frame of rows and what was lost."""
    members = []
    for text in tokens:
        where = text.where
        if pool == "cls":
            at = np.flatnonzero(text.pieces[0] == subject.tokenizer.cls_token_id)[:1]
            where = np.stack([np.zeros_like(at), at], axis=1)
        members.append(Members(where, np.array([len(where)] if len(where) else [], dtype=np.int32)))
    kept = np.array([len(m.lengths) > 0 for m in members])
    return members, pd.DataFrame({"text_id": text_ids[kept]}), {"texts_without_token": int((~kept).sum())}


def _token_rows(subject: Subject, tokens: list[_Tokens], text_ids: np.ndarray, pool: str):
    members = [Members(t.where, np.ones(len(t.where), dtype=np.int32)) for t in tokens]
    spans, ids = np.concatenate([t.spans for t in tokens]), np.concatenate([t.ids for t in tokens])
    rows = pd.DataFrame(
        {
            "text_id": np.repeat(text_ids, [len(t.ids) for t in tokens]),
            "position": np.concatenate([_positions(t) for t in tokens]).astype(np.int64),
            "token": subject.tokenizer.convert_ids_to_tokens(ids.tolist()),
            "start": spans[:, 0].astype(np.int64),
            "end": spans[:, 1].astype(np.int64),
        }
    )
    return members, rows, {"texts_without_token": sum(len(t.ids) == 0 for t in tokens)}


def _positions(text: _Tokens) -> np.ndarray:
    """Of the tokens, in the text as if it were one piece; its leading special tokens count."""
    return text.where[:, 1] if len(text.pieces) == 1 else text.where[0, 1] + np.arange(len(text.ids))


def _sorted_words(texts: Texts) -> pd.DataFrame:
    return texts.words.sort_values(["text_id", "word_id"], kind="stable")


def _word_rows(subject: Subject, tokens: list[_Tokens], text_ids: np.ndarray, words: pd.DataFrame):
    """A word's tokens overlap its span; words beyond the cut or without a token are counted."""
    starts, ends, owner = (words[name].to_numpy() for name in ("start", "end", "text_id"))
    low, high = np.searchsorted(owner, text_ids), np.searchsorted(owner, text_ids, side="right")
    members, kept, beyond, without = [], [np.zeros(0, dtype=int)], 0, 0
    for i, text in enumerate(tokens):
        begin, end = starts[low[i] : high[i], None], ends[low[i] : high[i], None]
        own = (text.spans[:, 0] < end) & (text.spans[:, 1] > begin)  # [word, token]
        lengths = own.sum(1)
        covered = text.spans[:, 1].max(initial=0)
        lost = lengths == 0
        beyond += int((lost & (begin[:, 0] >= covered)).sum())
        without += int((lost & (begin[:, 0] < covered)).sum())
        members.append(Members(text.where[np.nonzero(own)[1]], lengths[~lost].astype(np.int32)))
        kept.append(low[i] + np.flatnonzero(~lost))
    columns = ["text_id", "word_id", "form", "start", "end"]
    rows = words[columns].iloc[np.concatenate(kept)].reset_index(drop=True)
    return members, rows, {"words_beyond_cut": beyond, "words_without_token": without}


# ---------------------------------------------------------------------------------- pooling


def pool_tokens(
    values: torch.Tensor, members: Sequence[Members], pool: str, pieces: Sequence[int] | None = None
) -> torch.Tensor:
    """Pool ``[piece, token, unit]`` into ``[row, unit]``, rows in the order of ``members``.

    ``members`` are those of the texts that ``values`` hold one after another, ``pieces`` how many pieces
    each has (None: one). ``pool`` is "max", "mean", "first", "last", "cls" or "token".
    """
    longest, flat = values.shape[1], values.reshape(-1, values.shape[-1])
    pieces = np.ones(len(members), dtype=int) if pieces is None else np.asarray(pieces)
    starts = np.cumsum(pieces) - pieces
    if pool in ("max", "mean") and len(values) == len(members):
        spans = _plain_spans(members)
        if spans is not None:
            return _pool_spans(values, spans, pool)
    index = np.concatenate(
        [(start + m.where[:, 0]) * longest + m.where[:, 1] for start, m in zip(starts, members, strict=True)]
    ).astype(np.int64)
    lengths = np.concatenate([m.lengths for m in members]).astype(np.int64)
    ends = np.cumsum(lengths)
    if pool in ("first", "cls", "token"):
        return flat[_on(index[ends - lengths], flat)]
    if pool == "last":
        return flat[_on(index[ends - 1], flat)]
    return torch.segment_reduce(flat[_on(index, flat)], pool, lengths=_on(lengths, flat), axis=0)


def _plain_spans(members: Sequence[Members]) -> list[tuple[int, int]] | None:
    """Half-open spans where every text is one row of neighbouring tokens; else None."""
    spans = []
    for where, lengths in members:
        if len(lengths) != 1 or where[-1, 1] - where[0, 1] + 1 != len(where):
            return None
        spans.append((int(where[0, 1]), int(where[-1, 1]) + 1))
    return spans


def _pool_spans(values: torch.Tensor, spans: list[tuple[int, int]], pool: str) -> torch.Tensor:
    """Text rows: runs of texts of one length need no gather, which would copy every token."""
    pooled = values.new_empty(len(spans), values.shape[2])
    for first, last in _runs(spans):
        a, b = spans[first]
        span = values[first:last, a:b]
        pooled[first:last] = span.amax(1) if pool == "max" else span.mean(1)
    return pooled


def _on(numbers: np.ndarray, values: torch.Tensor) -> torch.Tensor:
    """Indices on the device of ``values``; to a GPU without waiting for what it is doing."""
    found = torch.from_numpy(np.ascontiguousarray(numbers))
    return found.pin_memory().to(values.device, non_blocking=True) if values.is_cuda else found


def _runs(spans: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Stretches of equal neighbours, as half-open ranges."""
    start = 0
    for i in range(1, len(spans) + 1):
        if i == len(spans) or spans[i] != spans[start]:
            yield start, i
            start = i
