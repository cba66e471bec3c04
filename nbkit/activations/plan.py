"""The plan: which tokens make which row, which units make the columns, and in what blocks they are computed.

Everything here is known before the first forward pass. ``identity_of`` checks the arguments of ``capture``
and names what changes the numbers; ``plan_of`` tokenizes the texts, 2,000 at a time, and keeps them as
arrays (about ten bytes a token); ``work_of`` adds the units and cuts the texts into blocks.

    plan = plan_of(subject, texts, rows="word", long="windows")
    plan.rows       one line for each row: text_id (and word_id, form, or position, token; start, end)
    plan.pieces(t)  where the token ids of a text are, as the model takes them: one piece, or windows
    plan.members(t) which tokens of its pieces make its rows
    plan.dropped    texts cut, words beyond the cut, words and texts without a token
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from nbkit.activations.dask import check_engine
from nbkit.models import Subject
from nbkit.texts import Texts

log = logging.getLogger(__name__)

SCHEMA = 4  # of a store; part of its key: raised whenever the same arguments give other numbers or rows
TEXTS_AT_ONCE = 2000
OVERLAP = 4  # windows share one token in so many
BLOCK_BYTES = 128 * 2**20  # values of one block: what is recomputed at most after a kill

DTYPES = {
    "float16": np.dtype(np.float16),
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
ROWS = ("text", "word", "token")
POOLS = ("max", "mean", "cls", "first", "last")
LONG = ("truncate", "windows")
SINKS = ("auto", "keep", "leave out")

#: Fields of a manifest that change the numbers: the key of a store is their hash.
IDENTITY = (
    "schema",
    "subject",
    "texts",
    "sites",
    "rows",
    "pool",
    "dtype",
    "compute_dtype",
    "max_length",
    "long",
    "sinks",
)


def identity_of(
    subject: Subject,
    texts: Texts,
    *,
    sites: str | Sequence[str],
    rows: str = "text",
    pool: str = "max",
    dtype: str = "float32",
    long: str = "truncate",
    sinks: str = "auto",
    engine: Any = "local",
) -> dict[str, Any]:
    """The fields of ``IDENTITY`` from the arguments of ``capture``; a wrong argument is a ``ValueError``."""
    for name, value, allowed in (
        ("rows", rows, ROWS),
        ("pool", pool, POOLS),
        ("dtype", dtype, tuple(DTYPES)),
        ("long", long, LONG),
        ("sinks", sinks, SINKS),
    ):
        if value not in allowed:
            raise ValueError(f"{name}={value!r} is not one of {', '.join(allowed)}")
    check_engine(engine)
    if rows == "word" and texts.words is None:
        raise ValueError(f"{texts.name} has no words: load a CoNLL-U file or use texts.tokenize()")
    if pool == "cls" and rows != "text":
        raise ValueError(f"pool='cls' is for text rows, not for {rows} rows: use 'max' or 'mean'")
    if pool == "cls" and subject.tokenizer.cls_token_id is None:
        raise ValueError(f"{subject.name} has no classification token: use pool='last' or 'mean'")
    asked = subject.select(sites)
    if sinks == "auto":
        at_hidden = any(site.endswith((".hidden", ".hidden.sae")) for site in asked)
        sinks = "leave out" if at_hidden and rows != "token" and pool != "cls" and subject.causal else "keep"
    return {
        "schema": SCHEMA,
        "subject": subject.fingerprint,
        "texts": texts.fingerprint,
        "sites": asked,
        "rows": rows,
        "pool": "token" if rows == "token" else pool,
        "dtype": dtype,
        # A schema of its own for half precision, whose means were rounded to it before 0.2.
        "compute_dtype": subject.dtype if subject.dtype == "float32" else f"{subject.dtype}, float32 means",
        "max_length": subject.max_length,
        "long": long,
        "sinks": sinks,
    }


# ---------------------------------------------------------------------------------- the plan


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


def plan_of(
    subject: Subject,
    texts: Texts,
    *,
    rows: str = "text",
    pool: str = "max",
    long: str = "truncate",
    sinks: str = "keep",
    progress: bool = False,
) -> Plan:
    """The rows of ``texts`` for ``subject``; arguments as in ``capture``, sinks "keep" or "leave out".

    What is dropped is counted and logged. Not a single row left is a ``ValueError``.
    """
    rows_of = _row_maker(subject, texts, rows, pool)
    starts = range(0, len(texts), TEXTS_AT_ONCE)
    parts, frames, dropped = [], [], {"truncated_texts": 0}
    for start in tqdm(starts, desc="tokens", leave=False, disable=not progress or len(starts) < 5):
        part = texts.frame.iloc[start : start + TEXTS_AT_ONCE]
        tokens = _tokenize(subject, part["text"].tolist(), long)
        found = rows_of(tokens, part["text_id"].to_numpy())
        if sinks == "leave out":
            found = _without_sinks(found)
        parts.append(_flat(tokens, found.members))
        frames.append(found.frame)
        for name, n in {"truncated_texts": sum(t.cut for t in tokens), **found.dropped}.items():
            dropped[name] = dropped.get(name, 0) + n
    if lost := [f"{n} {what}" for what, n in dropped.items() if n and what not in SINK_COUNTS]:
        log.warning("%s: %s", texts.name, ", ".join(lost))
    table = pd.concat(frames, ignore_index=True)
    if table.empty:
        raise ValueError(
            f"none of the {len(texts)} texts of {texts.name} has a {'word' if rows == 'word' else 'token'}"
            f" for {subject.name}, so there is nothing to capture: are they only invisible characters?"
        )
    joined = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    bounds = {name: _bounds(joined.pop(sizes)) for name, sizes in SIZES.items()}
    types = joined.pop("types")
    return Plan(**joined, **bounds, types=types if types.any() else None, rows=table, dropped=dropped)


#: Bounds of a plan, and the sizes they are made of.
SIZES = {"piece_start": "of_piece", "first_piece": "of_text", "first_token": "own", "first_row": "n_rows"}


def _flat(tokens: list[_Tokens], members: list[Members]) -> dict[str, np.ndarray]:
    """A part of a plan: its arrays, and sizes instead of bounds."""
    pieces = list(itertools.chain(*(t.pieces for t in tokens)))
    types = list(itertools.chain(*(t.types or [] for t in tokens)))
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


class _Tokens(NamedTuple):
    """One tokenized text: its pieces, and its own (not special) tokens in order."""

    pieces: list[np.ndarray]
    types: list[np.ndarray] | None
    ids: np.ndarray  # [token]
    where: np.ndarray  # [token, 2] piece and position
    spans: np.ndarray  # [token, 2] characters
    cut: bool  # is there more of the text than the model takes


def _tokenize(subject: Subject, texts: list[str], long: str) -> list[_Tokens]:
    bounded = subject.max_length is not None
    special = subject.tokenizer.num_special_tokens_to_add()
    room = subject.max_length - special if bounded else None
    stride = room // OVERLAP if bounded and long == "windows" else 0
    encoded = subject.tokenize(
        texts,
        truncation=bounded,
        max_length=subject.max_length,
        stride=stride,
        return_overflowing_tokens=bounded,
        return_offsets_mapping=True,
        return_attention_mask=False,
    )
    owner = np.asarray(encoded.get("overflow_to_sample_mapping", range(len(texts))))
    bounds = np.searchsorted(owner, np.arange(len(texts) + 1)).tolist()
    columns = {name: encoded[name] for name in encoded if name != "overflow_to_sample_mapping"}
    found = []
    for first, stop in itertools.pairwise(bounds):
        if long == "truncate" or stop == first + 1:
            found.append(_single(columns, first, cut=stop > first + 1))
        else:
            found.append(_joined([_single(columns, i) for i in range(first, stop)], room, stride))
    return found


def _single(encoded: dict[str, list], i: int, *, cut: bool = False) -> _Tokens:
    """One piece of what the tokenizer gave."""
    ids = np.array(encoded["input_ids"][i], dtype=np.int32)
    types = [np.array(encoded["token_type_ids"][i], dtype=np.int8)] if "token_type_ids" in encoded else None
    own = np.flatnonzero(np.array(encoded["special_tokens_mask"][i]) == 0)
    where = np.zeros((len(own), 2), dtype=np.int32)
    where[:, 1] = own
    spans = np.array(encoded["offset_mapping"][i], dtype=np.int32).reshape(-1, 2)[own]
    return _Tokens([ids], types, ids[own], where, spans, cut)


def _joined(windows: list[_Tokens], room: Any, stride: int) -> _Tokens:
    """One text of its windows; a token that several hold is read in the one with most context."""
    kept = _most_context([len(w.ids) for w in windows], room, stride)
    where = np.concatenate([w.where for w in windows])
    where[:, 0] = np.repeat(np.arange(len(windows)), [len(w.ids) for w in windows])
    return _Tokens(
        [w.pieces[0] for w in windows],
        [w.types[0] for w in windows] if windows[0].types is not None else None,
        np.concatenate([w.ids for w in windows])[kept],
        where[kept],
        np.concatenate([w.spans for w in windows])[kept],
        cut=False,
    )


def _most_context(sizes: list[int], room: int, stride: int) -> np.ndarray:
    """Of tokens that several windows hold, the place in the window with most context on the poorer side.

    sizes   own tokens of each window; a window begins ``room - stride`` tokens after the one before

    Returns the tokens' positions in the windows laid end to end, in the order of the text.
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
    return order[np.unique(number[order], return_index=True)[1]]


# ---------------------------------------------------------------------------------- rows


class _Rows(NamedTuple):
    """The rows of some texts."""

    members: list[Members]
    frame: pd.DataFrame  # [row]
    dropped: dict[str, int]


def _row_maker(
    subject: Subject, texts: Texts, rows: str, pool: str
) -> Callable[[list[_Tokens], np.ndarray], _Rows]:
    """The function that makes rows of kind ``rows`` from tokenized texts and their ``text_id``."""
    if rows == "word":
        words = texts.words.sort_values(["text_id", "word_id"], kind="stable")
        return lambda tokens, text_ids: _word_rows(tokens, text_ids, words)
    if rows == "token":
        return lambda tokens, text_ids: _token_rows(tokens, text_ids, subject.tokenizer)
    cls_id = subject.tokenizer.cls_token_id if pool == "cls" else None
    return lambda tokens, text_ids: _text_rows(tokens, text_ids, cls_id)


def _text_rows(tokens: list[_Tokens], text_ids: np.ndarray, cls_id: Any) -> _Rows:
    """One row of all tokens of a text, or of the classification token where ``cls_id`` is given."""
    members = []
    for text in tokens:
        where = text.where
        if cls_id is not None:
            at = np.flatnonzero(text.pieces[0] == cls_id)[:1]  # none is typed: see Subject.tokenize
            where = np.stack([np.zeros_like(at), at], axis=1)
        members.append(Members(where, np.array([len(where)] if len(where) else [], dtype=np.int32)))
    kept = np.array([len(m.lengths) > 0 for m in members])
    frame = pd.DataFrame({"text_id": text_ids[kept]})
    return _Rows(members, frame, {"texts_without_token": int((~kept).sum())})


def _token_rows(tokens: list[_Tokens], text_ids: np.ndarray, tokenizer: Any) -> _Rows:
    """One row for each token."""
    members = [Members(t.where, np.ones(len(t.where), dtype=np.int32)) for t in tokens]
    spans, ids = np.concatenate([t.spans for t in tokens]), np.concatenate([t.ids for t in tokens])
    frame = pd.DataFrame(
        {
            "text_id": np.repeat(text_ids, [len(t.ids) for t in tokens]),
            "position": np.concatenate([_positions(t) for t in tokens]).astype(np.int64),
            "token": tokenizer.convert_ids_to_tokens(ids.tolist()),
            "start": spans[:, 0].astype(np.int64),
            "end": spans[:, 1].astype(np.int64),
        }
    )
    return _Rows(members, frame, {"texts_without_token": sum(len(t.ids) == 0 for t in tokens)})


#: What is counted of sinks: tokens left out of pooling, and rows that are nothing but one and keep it.
SINK_COUNTS = ("sink_tokens", "rows_of_a_sink")


def _without_sinks(found: _Rows) -> _Rows:
    """The rows without the first token of each text, which is an attention sink in a causal model.

    A special token there is in no row anyway. A row of nothing else keeps it, so that rows stay the same.
    """
    members, left_out, alone = [], 0, 0
    for where, lengths in found.members:
        row = np.repeat(np.arange(len(lengths)), lengths)
        sink = (where[:, 0] == 0) & (where[:, 1] == 0)
        only = sink & (lengths[row] == 1)
        keep = ~sink | only
        kept = np.bincount(row[keep], minlength=len(lengths)).astype(np.int32)
        members.append(Members(where[keep], kept))
        left_out, alone = left_out + int((~keep).sum()), alone + int(only.sum())
    counts = dict(zip(SINK_COUNTS, (left_out, alone), strict=True))
    return _Rows(members, found.frame, {**found.dropped, **counts})


def _positions(text: _Tokens) -> np.ndarray:
    """Of the tokens, in the text as if it were one piece; its leading special tokens count."""
    return text.where[:, 1] if len(text.pieces) == 1 else text.where[0, 1] + np.arange(len(text.ids))


def _word_rows(tokens: list[_Tokens], text_ids: np.ndarray, words: pd.DataFrame) -> _Rows:
    """One row for each word that has tokens; ``words`` are sorted by text and word.

    Other words are counted: those that begin behind the cut of their text, and those without a token.
    """
    owner = words["text_id"].to_numpy()
    low, high = np.searchsorted(owner, text_ids), np.searchsorted(owner, text_ids, side="right")
    begins, ends = words["start"].to_numpy(), words["end"].to_numpy()
    members, kept, beyond, without = [], [np.zeros(0, dtype=int)], 0, 0
    for text, a, b in zip(tokens, low, high, strict=True):
        own, lengths = _overlaps(text.spans, begins[a:b], ends[a:b])
        lost = lengths == 0
        behind = lost & text.cut & (begins[a:b] >= text.spans[:, 1].max(initial=0))
        beyond, without = beyond + int(behind.sum()), without + int((lost & ~behind).sum())
        members.append(Members(text.where[own], lengths[~lost].astype(np.int32)))
        kept.append(a + np.flatnonzero(~lost))
    columns = ["text_id", "word_id", "form", "start", "end", *({"mwt"} & set(words))]
    frame = words[columns].iloc[np.concatenate(kept)].reset_index(drop=True)
    return _Rows(members, frame, {"words_beyond_cut": beyond, "words_without_token": without})


def _overlaps(spans: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tokens whose ``spans`` overlap each word, word after word, and how many each word has.

    In time and memory linear in tokens and words: spans go forward through a text, so that each word's
    tokens lie within a short range, found by bisection; within the range every token is compared.
    """
    if not len(spans):
        return np.zeros(0, dtype=int), np.zeros(len(begins), dtype=int)
    first = np.searchsorted(np.maximum.accumulate(spans[:, 1]), begins, side="right")
    last = np.searchsorted(np.minimum.accumulate(spans[::-1, 0])[::-1], ends, side="left")
    sizes = np.maximum(last - first, 0)
    word = np.repeat(np.arange(len(begins)), sizes)
    token = np.arange(len(word)) + np.repeat(first - (np.cumsum(sizes) - sizes), sizes)
    overlap = (spans[token, 0] < ends[word]) & (spans[token, 1] > begins[word])
    return token[overlap], np.bincount(word[overlap], minlength=len(begins))


# ---------------------------------------------------------------------------------- the work


@dataclass(frozen=True)
class Work:
    """A plan, the columns, and the blocks of consecutive texts that the work is cut into."""

    plan: Plan
    units: pd.DataFrame
    blocks: list[tuple[int, int]]
    identity: dict[str, Any]


def work_of(subject: Subject, texts: Texts, identity: dict[str, Any], progress: bool = False) -> Work:
    """What ``capture`` with the arguments in ``identity`` has to compute."""
    arguments = {name: identity[name] for name in ("rows", "pool", "long", "sinks")}
    plan = plan_of(subject, texts, **arguments, progress=progress)
    units = units_of(subject.sites.set_index("site").loc[identity["sites"]].reset_index())
    width = len(units) * DTYPES[identity["dtype"]].itemsize
    return Work(plan, units, _blocks(np.diff(plan.first_row), max(1, BLOCK_BYTES // width)), identity)


def units_of(sites: pd.DataFrame) -> pd.DataFrame:
    """The frame of units (unit, site, layer, index) of a frame of sites (site, layer, width)."""
    found = sites.loc[sites.index.repeat(sites["width"]), ["site", "layer"]].reset_index(drop=True)
    index = np.concatenate([np.arange(width) for width in sites["width"]])
    names = found["site"] + "." + pd.Series(index).astype(str)
    return pd.DataFrame({"unit": names, "site": found["site"], "layer": found["layer"], "index": index})


def _blocks(rows_of_text: np.ndarray, capacity: int) -> list[tuple[int, int]]:
    """Runs of consecutive texts with at most ``capacity`` rows each (one text at least)."""
    blocks, start, filled = [], 0, 0
    for i, n in enumerate(rows_of_text):
        if i > start and filled + n > capacity:
            blocks.append((start, i))
            start, filled = i, 0
        filled += n
    return [*blocks, (start, len(rows_of_text))]
