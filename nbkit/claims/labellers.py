"""Which rows have what a description says? Labellers, all with one signature.

    labeller(corpora, rows, descriptions) -> {corpus: array [row, description]}

    corpora        {name: Texts}
    rows           {name: frame of a store's rows}: texts, words or tokens
    descriptions   the sentences of the claims

Numbers are from 0 to 1, above .5 means that the row has it; a column of NaN means that the labeller cannot
say, a row with NaN that it got no answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.special

from nbkit import descriptors
from nbkit.activations import Activations
from nbkit.models import sentence_encoder
from nbkit.texts import Texts

Rows = Mapping[str, pd.DataFrame]
Labels = dict[str, np.ndarray]
Labeller = Callable[[Mapping[str, Texts], Rows, Sequence[str]], Labels]

#: A description that speaks of words and quotes them.
SPEAKS_OF_WORDS = re.compile(
    r"\b(?:words?|tokens?|phrases?|symbols?|characters?|strings?|mentions?|occurrences?|variants?)\b", re.I
)
QUOTED = re.compile(r"(?<!\w)[\"'“‘`](.+?)[\"'”’`](?!\w)")


def label(
    activations_by_corpus: Mapping[str, Activations],
    descriptions: Sequence[str],
    corpora: Mapping[str, Texts],
    labeller: Any = ("patterns", "similarity"),
) -> dict[str, pd.DataFrame]:
    """{corpus: labels [row, description]} for the rows of each store; the index is ``text_id``.

    labeller   a key of ``LABELLERS``; what ``similarity``, ``patterns`` or ``asked`` returned; a function
               of that signature; {corpus: frame [text_id, description]} of labels that are known; or
               several of these, of which the first that can say something of a description is taken

    A frame's ``.attrs["labellers"]`` has {description: number of the labeller that was taken}.
    """
    rows = {name: stored.rows for name, stored in activations_by_corpus.items()}
    names = list(dict.fromkeys(descriptions))
    several = list(labeller) if isinstance(labeller, (list, tuple)) else [labeller]
    found = {name: np.full((len(frame), len(names)), np.nan) for name, frame in rows.items()}
    taken = dict.fromkeys(names, -1)
    for number, one in enumerate(several):
        open_ = [i for i, name in enumerate(names) if taken[name] < 0]
        if not open_:
            break
        part = _labeller(one)(corpora, rows, [names[i] for i in open_])
        knows = ~np.all([np.isnan(part[name]).all(0) for name in rows], axis=0)
        for name in rows:
            found[name][:, np.array(open_)[knows]] = part[name][:, knows]
        taken |= {names[i]: number for i, known in zip(open_, knows, strict=True) if known}
    frames = {}
    for name, frame in rows.items():
        index = pd.Index(frame["text_id"], name="text_id")
        frames[name] = pd.DataFrame(found[name], index=index, columns=names)
        frames[name].attrs["labellers"] = taken
    return frames


def _labeller(one: Any) -> Labeller:
    if isinstance(one, str):
        if one not in LABELLERS:
            raise ValueError(f"unknown labeller {one!r}; there are {', '.join(LABELLERS)}")
        return LABELLERS[one]()
    return _given(one) if isinstance(one, Mapping) else one


# ---------------------------------------------------------------------------------- the labellers


def similarity(encoder: Any = None, *, cut: float = 2.0) -> Labeller:
    """Closeness to the description in the space of a sentence encoder.

    The cosine between description and row, in standard deviations from its mean over the rows of all
    corpora: z. The label is 1 / (1 + exp(2 (cut - z))), so that a row has the description from ``cut``
    standard deviations on; it orders rows, and is no calibrated probability. A word or token row is its
    word alone. ``encoder``: anything with ``.encode(strings)``; default ``models.sentence_encoder()``.
    """

    def labels(corpora: Mapping[str, Texts], rows: Rows, names: Sequence[str]) -> Labels:
        model = encoder or sentence_encoder()
        strings = {name: strings_of(corpora[name], frame) for name, frame in rows.items()}
        codes, unique = pd.factorize(np.concatenate(list(strings.values())))
        cosine = unit_length(model, unique.tolist()) @ unit_length(model, list(names)).T
        weights = np.bincount(codes, minlength=len(unique)) / len(codes)
        centred = cosine - weights @ cosine
        deviation = np.sqrt(weights @ centred**2)
        label = scipy.special.expit(2 * (centred / np.maximum(deviation, 1e-9) - cut))
        ends = np.cumsum([len(part) for part in strings.values()])[:-1]
        return {name: label[part] for name, part in zip(strings, np.split(codes, ends), strict=True)}

    return labels


def patterns(given: Mapping[str, str | Sequence[str]] | None = None) -> Labeller:
    """1 where a regular expression matches, or one of some words occurs.

    given   {description: regular expression, or list of words}. Without one the words that a description
            quotes are taken, if it speaks of words ("the word 'if'", "tokens “he” and “she”"); of others
            it cannot say anything

    Case does not count. A text row has it if there is a match anywhere; a word or token row if it overlaps
    a match, or its first group where it has one: r"\\d+ (\\w+)" is the word after a number.
    """

    def labels(corpora: Mapping[str, Texts], rows: Rows, names: Sequence[str]) -> Labels:
        rules = [_pattern((given or {}).get(name), name) for name in names]
        return {name: _matches(corpora[name], frame, rules) for name, frame in rows.items()}

    return labels


def asked(generator: Any, **options: Any) -> Labeller:
    """A language model says how probable it is that the text has it: ``descriptors.label(..., "asked")``.

    generator, options   as there: a spec such as "openai:MODEL" or a generator; ``ledger``, ``prices``,
                         ``max_money``, ``question``

    For text rows only (``ValueError``). Texts for which an answer is missing have NaN.
    """

    def labels(corpora: Mapping[str, Texts], rows: Rows, names: Sequence[str]) -> Labels:
        wanted, found = descriptors.Descriptors(pd.DataFrame({"descriptor": list(names)}), 0), {}
        for name, frame in rows.items():
            if {"form", "token"} & set(frame):
                raise ValueError(
                    f"a language model is asked about texts, and {name!r} has word or token rows: use"
                    ' rows="text", or the labeller "patterns"'
                )
            texts = corpora[name].where(text_id=frame["text_id"].tolist())
            matrix = descriptors.label(texts, wanted, "asked", generator=generator, **options)
            found[name] = matrix.reindex(frame["text_id"]).to_numpy(float)
        return found

    return labels


LABELLERS: dict[str, Callable[..., Labeller]] = {"patterns": patterns, "similarity": similarity}


def _given(known: Mapping[str, pd.DataFrame]) -> Labeller:
    """Labels that are known, by corpus and text."""

    def labels(corpora: Mapping[str, Texts], rows: Rows, names: Sequence[str]) -> Labels:
        missing = sorted(set(rows) - set(known))
        if missing:
            raise ValueError(f"no labels for the corpus {missing[0]!r}; there are {', '.join(known)}")
        found = {}
        for name, frame in rows.items():
            absent = ~frame["text_id"].isin(known[name].index)
            if absent.any():
                raise ValueError(
                    f"the labels of {name!r} lack {absent.sum()} texts, the first is text"
                    f" {frame['text_id'][absent].iloc[0]}"
                )
            matrix = known[name].reindex(columns=list(names)).loc[frame["text_id"]]
            found[name] = matrix.to_numpy(float)
        return found

    return labels


# ---------------------------------------------------------------------------------- inside


def strings_of(texts: Texts, rows: pd.DataFrame) -> np.ndarray:
    """What each row says: its text, or its word."""
    known = texts.frame.set_index("text_id")["text"]
    own = known.loc[rows["text_id"]].to_numpy(dtype=object)
    if "start" not in rows:
        return own
    spans = zip(own, rows["start"], rows["end"], strict=True)
    return np.array([text[start:end] for text, start, end in spans], dtype=object)


def unit_length(encoder: Any, strings: list[str]) -> np.ndarray:
    """Embeddings [string, width] of length 1."""
    vectors = np.asarray(encoder.encode(strings), dtype=np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _pattern(given: str | Sequence[str] | None, description: str) -> re.Pattern[str] | None:
    if isinstance(given, str):
        try:
            return re.compile(given, re.IGNORECASE)
        except re.error as error:
            raise ValueError(
                f"the pattern {given!r} of {description!r} is no regular expression: {error}"
            ) from error
    words = list(given or ())
    if not words and SPEAKS_OF_WORDS.search(description):
        words = [word.strip() for word in QUOTED.findall(description)]
    if not any(words):
        return None
    return re.compile("|".join(_whole_word(word) for word in words if word), re.IGNORECASE)


def _whole_word(word: str) -> str:
    before = r"(?<!\w)" if re.match(r"\w", word) else ""
    after = r"(?!\w)" if re.search(r"\w$", word) else ""
    return f"{before}{re.escape(word)}{after}"


def _matches(texts: Texts, rows: pd.DataFrame, rules: Sequence[re.Pattern[str] | None]) -> np.ndarray:
    """[row, rule] 1, 0, or NaN where there is no rule."""
    found = np.full((len(rows), len(rules)), np.nan)
    ids, strings = texts.frame["text_id"].to_numpy(), texts.frame["text"].tolist()
    at = pd.Index(ids).get_indexer(rows["text_id"])
    for column, rule in enumerate(rules):
        if rule is None:
            continue
        if "start" not in rows:
            found[:, column] = np.array([bool(rule.search(text)) for text in strings])[at]
        else:
            found[:, column] = _overlaps(rule, strings, at, rows)
    return found


def _overlaps(rule: re.Pattern[str], strings: list[str], at: np.ndarray, rows: pd.DataFrame) -> np.ndarray:
    """[row] whether a row's characters overlap a match (its first group, where it has one)."""
    group, marked = min(1, rule.groups), {}
    for number in np.unique(at):
        marks = np.zeros(len(strings[number]) + 1, dtype=bool)
        for match in rule.finditer(strings[number]):
            marks[slice(*match.span(group))] = True
        if marks.any():
            marked[number] = np.concatenate([[0], np.cumsum(marks)])
    zipped = zip(at, rows["start"], rows["end"], strict=True)
    return np.array([n in marked and marked[n][end] > marked[n][start] for n, start, end in zipped])
