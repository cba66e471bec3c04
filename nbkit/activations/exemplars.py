"""Exemplars: the texts that drive a unit, from both ends and from the middle.

    top(activations, texts, unit, k=10, sign=1)         the k strongest texts (sign=-1: the k lowest)
    quantile_sample(activations, texts, unit, k=10)     k texts from the highest to the lowest activation
    shade(subject, texts, unit)                         the unit's activation on every token of some texts
    neighbours(activations, unit, k=10)                 the units that rise and fall with it
    correlations(activations, unit)                     the same for every unit, as an array
    word_responses(activations, words)                  how each unit responds to some words, from word rows
    fold(word)                                          a word as it is compared there: case does not count

The top ten alone mislead (Bolukbasi et al. 2021): look at ``quantile_sample`` too, and at another corpus.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import sparse

from nbkit import stats
from nbkit.activations.store import Activations, capture
from nbkit.models import Subject
from nbkit.texts import Texts


def top(
    activations: Activations,
    texts: Texts,
    unit: str | int,
    k: int = 10,
    sign: int = 1,
    *,
    subject: Subject | None = None,
) -> pd.DataFrame:
    """The ``k`` texts with the highest activation of ``unit`` (the lowest with ``sign=-1``).

    Columns: rank, text_id, text, activation, peak, start, end. ``peak`` is the word or token where the
    activation is found: the row itself in a store of word or token rows; in a store of text rows it
    takes a forward pass over the k texts, done when ``subject`` is given, else it is None. A text
    appears once, at its strongest row. ``k`` larger than the corpus is a ``ValueError``.
    """
    if sign not in (1, -1):
        raise ValueError(f"sign={sign!r}: 1 for the highest activations, -1 for the lowest")
    frame = _described(_strongest_rows(activations, unit, sign, k)[:k], activations, texts, unit)
    if subject is not None and "peak" not in frame:
        frame = frame.join(_peaks(subject, texts, frame, activations, unit, sign))
    return frame.assign(**{name: None for name in ("peak", "start", "end") if name not in frame})


def quantile_sample(activations: Activations, texts: Texts, unit: str | int, k: int = 10) -> pd.DataFrame:
    """``k`` texts at even ranks from the highest to the lowest activation. Columns as in ``top``."""
    ordered = _strongest_rows(activations, unit, 1, k)
    ranks = np.linspace(0, len(ordered) - 1, k).round().astype(int)
    return _described(ordered[ranks], activations, texts, unit)


def shade(subject: Subject, texts: Texts, unit: str, *, long: str = "truncate") -> dict[int, pd.DataFrame]:
    """The activation of ``unit`` ("layer.3.ffn.512") on every token, for each ``text_id``.

    One forward pass over ``texts``: meant for tens of texts, read as in ``capture(long=...)``. Frames have
    columns token, start, end (characters) and activation; special tokens are left out.
    """
    options = {"rows": "token", "dtype": "float32", "long": long, "cache": False, "progress": False}
    found = capture(subject, texts, sites=unit.rsplit(".", 1)[0], **options)
    frame = found.rows.assign(activation=np.asarray(found.values[:, found.column(unit)]))
    columns = ["token", "start", "end", "activation"]
    return {i: part[columns].reset_index(drop=True) for i, part in frame.groupby("text_id")}


def neighbours(activations: Activations, unit: str | int, k: int = 10, *, block: int = 256) -> pd.DataFrame:
    """The ``k`` units whose activations correlate most with those of ``unit``, itself left out.

    Columns: rank, unit, correlation (Pearson, over the rows of the store). A unit that never changes has
    no correlation and no neighbours: asked for it, ``ValueError``. Read in blocks of ``block`` columns.
    """
    column, n = activations.column(unit), len(activations.units)
    if not 1 <= k < n:
        raise ValueError(f"k={k} neighbours were asked for; {activations!r} has {n - 1} other units")
    own = activations.values[:, column]
    if (own == own[0]).all():
        raise ValueError(
            f"{activations.units['unit'].iloc[column]} never changes: it correlates with nothing"
        )
    found = correlations(activations, column, block=block)
    found[column] = -np.inf
    best = np.argsort(-found, kind="stable")[:k]
    names = activations.units["unit"].to_numpy()[best]
    return pd.DataFrame({"rank": np.arange(1, k + 1), "unit": names, "correlation": found[best]})


def correlations(activations: Activations, unit: str | int, *, block: int = 256) -> np.ndarray:
    """Pearson correlation [unit] of ``unit`` with every unit, over the rows of the store.

    0 where one of the two never changes. Read in blocks of ``block`` columns.
    """
    own = np.asarray(activations.values[:, activations.column(unit)], dtype=np.float64)
    own, found = own - own.mean(), np.empty(len(activations.units))
    for start in range(0, len(found), block):
        others = np.asarray(activations.values[:, start : start + block].T, dtype=np.float64)  # [unit, row]
        others = others - others.mean(1, keepdims=True)
        # no BLAS: on parts of this size its threads wait for each other most of the time
        norm = np.sqrt(np.einsum("ur,ur->u", others, others) * np.einsum("r,r", own, own))
        found[start : start + block] = np.einsum("ur,r->u", others, own) / np.where(norm > 0, norm, np.inf)
    return found


def word_responses(activations: Activations, words: Sequence[str]) -> pd.DataFrame:
    """How far each unit is above its mean on some words: [word, unit], in standard deviations.

    The mean activation over the occurrences of the word (compared by ``fold``), less the mean over the other
    words of the store, divided by the standard deviation over these. ``activations`` has word rows. Where
    the unit is the same on all other words, 0. A store of other rows, a word that is not in it, and one
    without others are a ``ValueError``.
    """
    if "form" not in activations.rows:
        raise ValueError(f"{activations!r} has no words: capture(..., rows='word') makes rows of them")
    wanted, folded = pd.factorize(pd.Series([fold(word) for word in words], dtype=object))
    at = pd.Index(folded).get_indexer(activations.rows["form"].map(fold))
    absent = set(range(len(folded))) - set(at.tolist())
    if absent:
        raise ValueError(f"the word {folded[min(absent)]!r} (case apart) is not in {activations!r}")
    values, here = np.asarray(activations.values, dtype=np.float64), np.flatnonzero(at >= 0)
    values = values - values.mean(0)  # so that squares are small
    occurs = sparse.csr_matrix((np.ones(len(here)), (at[here], here)), shape=(len(folded), len(values)))
    n = np.asarray(occurs.sum(1))
    if (n == len(values)).any():
        raise ValueError(f"{activations!r} has no other word to compare {folded[n.argmax()]!r} with")
    on, squares, others = occurs @ values, occurs @ values**2, len(values) - n
    variance = ((values**2).sum(0) - squares) / others - (on / others) ** 2
    deviation = np.sqrt(np.where(variance > 1e-12, variance, np.inf))
    found = (on / n + on / others) / deviation  # the others sum to -on
    return pd.DataFrame(found[wanted], index=list(words), columns=activations.units["unit"].to_numpy())


def fold(word: str) -> str:
    """``word`` without case, its accents written in one way (Unicode's canonical caseless form).

    "STRASSE" finds "Straße", "ΟΔΟΣ" finds "οδος", "café" finds itself however it was typed.
    """
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", word.strip()).casefold())


# ---------------------------------------------------------------------------------- inside


def _strongest_rows(activations: Activations, unit: str | int, sign: int, k: int) -> np.ndarray:
    """The strongest row of every text, strongest text first; ``k`` texts are needed."""
    values = np.asarray(activations.values[:, activations.column(unit)], dtype=np.float32)
    strength = pd.Series(sign * values)
    rows = strength.groupby(activations.rows["text_id"].to_numpy()).idxmax().to_numpy()
    if not 1 <= k <= len(rows):
        raise ValueError(f"k={k} exemplars were asked for; {activations!r} has {len(rows)} texts")
    return rows[stats.top_texts(strength.to_numpy()[rows, None], len(rows))[:, 0]]


def _described(rows: np.ndarray, activations: Activations, texts: Texts, unit: str | int) -> pd.DataFrame:
    """The frame of ``top`` for some rows, without a search for peaks."""
    text_ids = activations.rows["text_id"].to_numpy()[rows]
    known = texts.frame.set_index("text_id")["text"]
    if not np.isin(text_ids, known.index).all():
        raise ValueError(f"{activations!r} was not made from {texts!r}: a text_id is not in it")
    frame = pd.DataFrame(
        {
            "rank": np.arange(1, len(rows) + 1),
            "text_id": text_ids,
            "text": known.loc[text_ids].to_numpy(),
            "activation": np.asarray(activations.values[rows, activations.column(unit)], dtype=np.float32),
        }
    )
    for name in ("form", "token"):
        if name in activations.rows:
            at = activations.rows.iloc[rows][[name, "start", "end"]].reset_index(drop=True)
            frame = frame.join(at.rename(columns={name: "peak"}))
    return frame


def _peaks(
    subject: Subject, texts: Texts, frame: pd.DataFrame, activations: Activations, unit: str | int, sign: int
) -> pd.DataFrame:
    """The token where each exemplar peaks, by a forward pass over the exemplars, read as the store was."""
    name = activations.units["unit"].iloc[activations.column(unit)]
    exemplars = texts.where(text_id=frame["text_id"].tolist())
    shaded = shade(subject, exemplars, name, long=activations.manifest.get("long", "truncate"))
    peaks = []
    for text_id, text in zip(frame["text_id"], frame["text"], strict=True):
        tokens = shaded[text_id]
        at = tokens.loc[(sign * tokens["activation"]).idxmax()]
        peaks.append((text[at["start"] : at["end"]], at["start"], at["end"]))
    return pd.DataFrame(peaks, columns=["peak", "start", "end"])
