"""Figures of several panels: each returns seaborn's ``FacetGrid``, its figure is ``.figure``."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from nbkit.plots.style import BLUE, RED, named_legend, plain, points, short


def histograms(
    table: pd.DataFrame,
    value: str,
    panel: str = "corpus",
    xlabel: str | None = None,
    above: float | None = None,
) -> sns.FacetGrid:
    """The distribution of the column ``value``, one histogram for each value of the column ``panel``, on one
    scale.

    above  what lies above this value is drawn in red, and its share is written beside it
    """
    wide = plt.rcParams["figure.figsize"][0]
    high = min(0.9, 0.15 * wide)
    grid, panels = _panels(table, panel, "row", height=high, aspect=wide / high, sharey=False)
    edges = np.histogram_bin_edges(table[value], bins=60)
    if above is not None:  # no bar on both sides
        edges = np.union1d(edges[np.abs(edges - above) > (edges[1] - edges[0]) / 2], above)
    for name, ax in panels.items():
        mine = table.loc[table[panel] == name, value]
        sns.histplot(mine, bins=edges, color=BLUE, linewidth=0, ax=ax)
        if above is not None:
            for bar in ax.containers[0]:
                bar.set_facecolor(RED if bar.get_x() >= above else BLUE)
            share = f"{(mine > above).mean():.0%} above {above:g}"
            ax.annotate(share, (1, 0.6), xycoords="axes fraction", ha="right", color=RED)
        ax.set(yticks=[], xlabel="")
        ax.set_ylabel(short(name, 24), rotation=0, ha="right", va="center")
        plain(ax)
    grid.figure.supxlabel(
        short(value if xlabel is None else xlabel, 80), fontsize=points("axes.labelsize")
    ).set_parse_math(False)
    return grid


def facets(
    draw: Callable[..., Axes],
    table: pd.DataFrame,
    panel: str,
    title: str = "{}",
    size: tuple[float, float] | None = None,
) -> sns.FacetGrid:
    """``draw(part, ax=ax)`` side by side for each value of the column ``panel``, with one legend below.

    draw    a figure of this room that takes a frame, such as ``precision_recall``
    title   of each panel, from the value
    size    of the figure in inches (None: the style's)

    Panels with different series, which one legend cannot name, are a ``ValueError``.
    """
    (wide, high), n = size or plt.rcParams["figure.figsize"], table[panel].nunique()
    grid, panels = _panels(table, panel, "col", height=high, aspect=wide / n / high)
    letters = int(100 * wide / n / points("axes.titlesize"))
    handles, names = [], []
    for value, ax in panels.items():
        draw(table[table[panel] == value], ax=ax)
        ax.set_title(textwrap.fill(short(title.format(value), 60), letters))
        box: Any = ax.get_legend()
        shown = [text.get_text() for text in box.get_texts()]
        if names and names != shown:
            raise ValueError(f"{panel} {value!r} shows {', '.join(shown)}, and others {', '.join(names)}")
        handles, names = box.legend_handles, shown
        box.remove()
    for ax in grid.axes.flat[1:]:
        ax.set_ylabel("")
    named_legend(grid.figure, handles, names, loc="outside lower center", ncol=2)
    return grid


def _panels(
    table: pd.DataFrame, panel: str, to: str, **options: Any
) -> tuple[sns.FacetGrid, dict[Any, Axes]]:
    """A grid with a panel for each value of ``panel``, and {value: its axes}."""
    names = list(dict.fromkeys(table[panel]))
    numbered = table.assign(
        **{panel: table[panel].map(names.index)}
    )  # its titles are laid out before we can help
    with plt.rc_context({"figure.constrained_layout.use": False}):  # which FacetGrid would turn off, loudly
        grid = sns.FacetGrid(numbered, **{to: panel}, **options)
    grid.set_titles("")
    grid.figure.set_layout_engine("constrained")
    return grid, dict(zip(names, grid.axes.flat, strict=True))
