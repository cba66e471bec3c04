"""The arcs of a gold tree and a predicted one: for the figure and for the widget."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

GOLD, RIGHT, WRONG = "#1a1a1a", "#0072B2", "#B03A00"


class Arc(NamedTuple):
    """One edge between the words at positions ``a`` < ``b``."""

    a: int
    b: int
    above: bool  # gold edges are above the words, predicted ones below
    right: bool  # True for gold edges too; a wrong one is drawn broken

    @property
    def color(self) -> str:
        return GOLD if self.above else RIGHT if self.right else WRONG


def tree_arcs(gold: set[tuple[int, int]], predicted: set[tuple[int, int]]) -> Iterator[Arc]:
    """All edges, gold ones first, from left to right."""
    yield from (Arc(a, b, True, True) for a, b in sorted(gold))
    yield from (Arc(a, b, False, (a, b) in gold) for a, b in sorted(predicted))
