"""Exercises: checks that speak.

    answer = ...                                          what a reader fills in
    check(answer,
          (lambda a: 0 < a < 1, "a share lies between 0 and 1"),
          (lambda a: a < 0.5, "more than half? look at the shuffled labels again"))

``tools/build_notebooks.py`` makes ``notebooks/exercises`` from the sources: of a cell tagged ``solution``
only its opening comment, the task, and the names to fill in are kept; the cell tagged ``check`` after it
stays. A check tells what is wrong, or that the answer is right, and repeats it; it never raises.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

NOT_YET = "Not answered yet: put your answer where the dots are, and run both cells."


def check(answer: Any, *claims: tuple[Callable[[Any], Any], str]) -> str:
    """The sentence of the first of ``claims`` (what must hold, what to say otherwise) that fails.

    If none does: "Right: " and the answer.

    A claim that cannot even be asked of the answer (a text where a number was expected) has failed.
    """
    if answer is ...:
        return NOT_YET
    for holds, sentence in claims:
        try:
            right = bool(holds(answer))
        except Exception:
            right = False
        if not right:
            return f"Not yet: {sentence}."
    return f"Right: {_shown(answer)}."


def _shown(answer: Any) -> str:
    """Numbers with three digits, the rest as it is."""
    if isinstance(answer, (list, tuple)):
        return ", ".join(map(_shown, answer))
    return f"{answer:.3g}" if isinstance(answer, float) else str(answer)
