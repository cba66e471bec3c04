"""Tokens shaded for many units in one pass, in small numbers: what the pages of ``atlas`` are coloured by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

#: A shade is one of these letters: the first is none, the last is the unit's highest activation.
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
TABLE = np.frombuffer(LETTERS.encode(), np.uint8)


def letters_of(shares: np.ndarray) -> np.ndarray:
    """Shares from 0 to 1 (others are cut off) as letters, uint8 of the same shape; NaN is 0."""
    whole = np.clip(np.nan_to_num(shares), 0, 1) * (len(LETTERS) - 1)
    return TABLE[np.rint(whole).astype(np.uint8)]


class Shades:
    """How strongly some units respond to each token of their texts: a reducer for ``activations.reduce``.

    units     [unit] names
    text_ids  [unit, k] the texts that each is shaded on; every unit has its own
    bounds    [unit] the activation that has the full shade

    Wants token rows. Afterwards ``of(unit, j)`` is the peak and the shades of a unit's text ``j``, and
    ``spans(text_id)`` the characters of the tokens. One byte for each token of each pair is kept, so memory
    grows with units x k, not with the corpus.
    """

    def __init__(self, units: Sequence[str], text_ids: np.ndarray, bounds: np.ndarray) -> None:
        self.units, self.text_ids, self.bounds = units, text_ids, np.maximum(bounds, 0)

    def begin(self, units: pd.DataFrame, rows: pd.DataFrame, device: torch.device) -> None:
        """Where the tokens of each text are, and room for the shades."""
        self.columns = torch.from_numpy(pd.Index(units["unit"]).get_indexer(self.units)).to(device)
        ids, self.tokens = rows["text_id"].to_numpy(), rows[["start", "end"]].to_numpy()
        self.begins = np.flatnonzero(np.r_[True, ids[1:] != ids[:-1]])
        self.ends = np.r_[self.begins[1:], len(ids)]
        self.texts = pd.Index(ids[self.begins])
        place = self.texts.get_indexer(self.text_ids.ravel())  # -1: the text has no token
        lengths = np.where(place >= 0, (self.ends - self.begins)[place], 0)
        self.first = np.r_[0, np.cumsum(lengths)]
        self.shades, self.peaks = np.zeros(self.first[-1], np.uint8), np.full(len(place), -1, np.int32)
        self.order = np.argsort(place, kind="stable")  # pairs of unit and text, text after text
        self.pairs_of = np.searchsorted(place[self.order], np.arange(len(self.texts) + 1))

    def update(self, values: torch.Tensor, rows: torch.Tensor) -> None:
        """Takes whole texts: ``values`` [token, unit] of consecutive rows."""
        base = int(rows[0])
        for text in range(*np.searchsorted(self.begins, [base, base + len(rows)])):
            pairs = self.order[self.pairs_of[text] : self.pairs_of[text + 1]]
            span = slice(self.begins[text] - base, self.ends[text] - base)
            unit = pairs // self.text_ids.shape[1]
            own = values[span].index_select(1, self.columns[unit]).float().cpu().numpy()  # [token, pair]
            bounds = self.bounds[unit]
            shares = own / np.where(bounds > 0, bounds, np.inf)
            places = self.first[pairs][:, None] + np.arange(len(own))
            self.shades[places] = letters_of(shares).T
            start, end = self.tokens[self.begins[text] : self.ends[text]].T
            self.peaks[pairs] = np.where((end > start)[:, None], own, -np.inf).argmax(0)

    def result(self) -> Shades:
        """Itself: the shades are read one by one."""
        self.written = self.shades.tobytes().decode()
        return self

    def of(self, unit: int, j: int) -> tuple[int, str]:
        """Position of the strongest token (-1: none), and a letter for each token."""
        pair = unit * self.text_ids.shape[1] + j
        return int(self.peaks[pair]), self.written[self.first[pair] : self.first[pair + 1]]

    def spans(self, text_id: int) -> list[int]:
        """The tokens of a text as two numbers each: characters since the last one's end, and its length."""
        text = self.texts.get_indexer([text_id])[0]
        if text < 0:
            return []
        tokens = self.tokens[self.begins[text] : self.ends[text]]
        gaps = tokens[:, 0] - np.r_[0, tokens[:-1, 1]]
        return np.stack([gaps, tokens[:, 1] - tokens[:, 0]], axis=1).ravel().tolist()
