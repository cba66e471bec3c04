"""Composite descriptors: beam search on the calibration texts, a test on the held-out ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm
from tqdm.auto import tqdm

from nbkit.activations import Activations
from nbkit.matching.scorers import TOGETHER, NotFinite, Scorer, align, checked, named, scorer_of
from nbkit.matching.tags import groups_of
from nbkit.stats import halves, q_values, resampled


def compose(
    activations: Activations,
    labels: pd.DataFrame,
    units: list[str | int] | None = None,
    *,
    length: int = 3,
    beam: int = 5,
    method: str = "pearson",
    split: float = 0.5,
    groups: pd.Series | bool = True,
    alpha: float = 0.05,
    resamples: int = 200,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Composite descriptors, where a composite describes a unit better than any single one (an atom).

    units      names or positions; None: all
    length     atoms in a formula, at most
    beam       formulas of each length that are joined with every descriptor on the calibration texts, by
               "and", "or" and "and not" (minimum, maximum, minimum with 1 - p)
    split      share of the texts for calibration
    groups     as for ``tag``: they stay on one side, and are drawn whole
    alpha      level of the test that lets a longer formula replace the one before it: the gain on the
               held-out texts over its bootstrap error (``resamples`` of the texts, paired), one-sided
    method     any scorer that judges a unit by itself (``soft_wpmi`` is a ``ValueError``)

    Returns a line for each unit whose formula beats its best atom with q <= ``alpha`` (Benjamini-Hochberg
    over all ``units``): unit, formula, length, score (calibration), validation_score, atom, atom_score
    (validation), gain, low, high (95 %), p, q. ``.attrs["tried"]`` counts the units.
    """
    labels = align(activations, labels)
    columns = [activations.column(u) for u in (range(len(activations.units)) if units is None else units)]
    known = groups_of(activations, groups)
    first, second = halves(len(labels), split, seed, groups=known)
    matrix, names, scorer = checked(labels), labels.columns.to_numpy(), scorer_of(method)
    if method in TOGETHER:
        raise ValueError(f"{method!r} scores a unit beside others: choose another method for compose")
    draws = list(resampled(second, known, resamples, np.random.default_rng(seed)))
    lines = []
    for column in tqdm(columns, desc="compose", leave=False, disable=not progress):
        values = np.asarray(activations.values[:, [column]], dtype=np.float32)
        try:
            found = _formulas(values[first], matrix[first], scorer, length, beam)
            lines.append(_step_up(values, matrix, found, second, draws, scorer, alpha, names))
        except NotFinite as error:
            raise named(error, activations.units["unit"].to_numpy(), column) from None
    frame = pd.DataFrame(lines)
    frame.insert(0, "unit", activations.units["unit"].to_numpy()[columns])
    frame["q"] = q_values(frame["p"].to_numpy()) if len(frame) else []
    frame = frame[(frame["q"] <= alpha) & (frame["length"] > 1)].reset_index(drop=True)
    frame.attrs["tried"] = len(columns)
    return frame


JOINS: Mapping[str, Callable] = {
    "and": np.minimum,
    "or": np.maximum,
    "and not": lambda a, b: np.minimum(a, 1 - b),
}


def _formulas(
    values: np.ndarray, labels: np.ndarray, scorer: Scorer, length: int, beam: int
) -> list[tuple[float, tuple]]:
    """The best formula of each length, with its score. A formula is (atom, (join, atom), ...)."""
    scores = scorer(values, labels)[:, 0]
    kept = [((int(i),), labels[:, i]) for i in np.argsort(-scores, kind="stable")[:beam]]
    found = [(float(scores.max()), kept[0][0])]
    for _ in range(length - 1):
        grown = [
            ((*formula, (join, atom)), JOINS[join](column, labels[:, atom]))
            for formula, column in kept
            for join in JOINS
            for atom in range(labels.shape[1])
            if atom not in _atoms(formula)
        ]
        if not grown:
            break
        scores = scorer(values, np.stack([column for _, column in grown], axis=1))[:, 0]
        kept = [grown[i] for i in np.argsort(-scores, kind="stable")[:beam]]
        found.append((float(scores.max()), kept[0][0]))
    return found


def _atoms(formula: tuple) -> set[int]:
    return {formula[0], *(atom for _, atom in formula[1:])}


def _evaluate(formula: tuple, labels: np.ndarray) -> np.ndarray:
    """The formula's label for each row."""
    column = labels[:, formula[0]]
    for join, atom in formula[1:]:
        column = JOINS[join](column, labels[:, atom])
    return column


def _written(formula: tuple, names: np.ndarray) -> str:
    """``((a or b) and not c)``, outer brackets left out."""
    text = str(names[formula[0]])
    for i, (join, atom) in enumerate(formula[1:]):
        text = f"({text})" if i else text
        text = f"{text} {join} {names[atom]}"
    return text


def _step_up(
    values: np.ndarray,
    labels: np.ndarray,
    found: list[tuple[float, tuple]],
    rows: np.ndarray,
    draws: list[np.ndarray],
    scorer: Scorer,
    alpha: float,
    names: np.ndarray,
) -> dict[str, Any]:
    """From the atom to longer formulas, as long as each beats the one before on the held-out ``rows``."""
    table = np.stack([_evaluate(formula, labels) for _, formula in found], axis=1)
    held_out = scorer(values[rows], table[rows])[:, 0]
    kept, drawn = 0, None
    for i in range(1, len(found)):
        if held_out[i] <= held_out[kept]:
            continue
        if drawn is None:
            drawn = np.stack([scorer(values[d], table[d])[:, 0] for d in draws])  # [draw, length]
        if _one_sided(held_out[i] - held_out[kept], drawn[:, i] - drawn[:, kept]) <= alpha:
            kept = i
    gain = held_out[kept] - held_out[0]
    gains = np.zeros(1) if drawn is None else drawn[:, kept] - drawn[:, 0]
    low, high = np.quantile(gains, [0.025, 0.975])
    return {
        "formula": _written(found[kept][1], names),
        "length": kept + 1,
        "score": found[kept][0],
        "validation_score": held_out[kept],
        "atom": names[found[0][1][0]],
        "atom_score": held_out[0],
        "gain": gain,
        "low": low,
        "high": high,
        "p": _one_sided(gain, gains) if kept else 1.0,
    }


def _one_sided(gain: float, gains: np.ndarray) -> float:
    """P(a gain as large) for a normal with the error of the resampled ``gains``; 1 where they do not vary."""
    error = gains.std()
    return float(norm.sf(gain / error)) if error > 0 else 1.0
