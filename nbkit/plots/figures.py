"""Figures: one style; every plot takes ``ax`` and returns it; every saved file says what made it.

    with style(): ...                       the kit's look, for any matplotlib code
    agreement(baselines_by_kind, ax=ax)     within and across corpora, beside the baselines
    fate(scores_by_corpus, unit, ax=ax)     the scores of a unit's tags in every corpus
    shift(tags, ax=ax)                      score on the texts that chose a tag against held-out texts
    layers(tags, ax=ax)                     tagged units by layer
    precision_recall(table, ax=ax)          precision@k and recall@k with intervals
    confusion_map(shares, ax=ax)            which corpus a linear SVM takes a text for
    corpus_map(layout, marked, ax=ax)       corpora in two dimensions, a unit's top sets marked
    quintile_curves(rates, ax=ax)           how frequent a tag is along a unit's activation, by corpus
    save(fig, name, sources)                NAME.svg, .png, .csv (its numbers) and .json (the manifest)
    drawn(fig)                              the numbers that a figure shows, read off its axes

For a paper, draw within ``style("single")`` or ``style("double")``: a figure as wide as one column (3.3
inches) or two (6.9), with letters of the size of a caption, so that nothing is scaled afterwards.

A saved file carries a short manifest in its metadata: sources, versions, notebook and cell, and the hash of
the CSV beside it. ``python -m nbkit.provenance figures/NAME.svg`` reads it back. Letters in the SVG are
outlines (``svg.fonttype: path``): every viewer and printer shows the same, no font has to be there, and the
words cannot be searched; they are in the CSV. A PDF that you save yourself embeds its fonts (type 42).

Colours are Okabe and Ito's, which colour-blind readers can tell apart; no meaning hangs on colour alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from nbkit.plots.style import BLUE, COLUMNS, GREEN, GREY, ORANGE, PINK, RED, SKY

BASELINES = {
    "random directions": ("D", ORANGE),
    "random weights": ("s", PINK),
    "permuted units": ("+", "k"),
    "permuted rows": ("x", GREY),
}


def _axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    return plt.subplots(figsize=size)[1] if ax is None else ax


def agreement(baselines_by_kind: Mapping[str, pd.DataFrame], ax: Axes | None = None) -> Axes:
    """How often a unit's first tag stays first: on held-out texts of its corpus, and elsewhere.

    ``baselines_by_kind`` maps a name for the units to ``Report.baselines``. Bars join within and across;
    whiskers are 95 % intervals; the baselines' agreement across is drawn smaller.
    """
    ax = _axes(ax, (8, 0.9 + 0.75 * len(baselines_by_kind)))
    seen, dot = set(), 1.5 * plt.rcParams["lines.markersize"]
    for y, table in enumerate(reversed(baselines_by_kind.values())):
        lines = table.set_index("kind")
        within, across = lines.loc["units", "within"], lines.loc["units", "across"]
        ax.plot([across.value, within.value], [y, y], color=RED, lw=dot / 2, alpha=0.25, zorder=1)
        ends = ("left", "right") if within.value >= across.value else ("right", "left")
        for point, color, side, name in (
            (within, BLUE, ends[0], "same corpus, held-out texts"),
            (across, RED, ends[1], "other corpora"),
        ):
            label = None if name in seen else name
            seen.add(name)
            spread = [[point.value - point.low], [point.high - point.value]]
            ax.errorbar(point.value, y, xerr=spread, fmt="o", ms=dot, color=color, label=label)
            shift = (-4 if side == "left" else 4, 8)
            ax.annotate(f"{point.value:.2f}", (point.value, y), shift, textcoords="offset points", ha=side)
        for floor, (marker, color) in BASELINES.items():
            if floor in lines.index:
                label = None if floor in seen else f"{floor} (floor)"
                seen.add(floor)
                x = lines.loc[floor, "across"].value
                ax.plot(x, y - 0.22, marker, ms=0.6 * dot, color=color, label=label, alpha=0.9, ls="none")
    ax.set_yticks(range(len(baselines_by_kind)), list(reversed(baselines_by_kind)))
    ax.set(xlim=(0, 1), ylim=(-0.6, len(baselines_by_kind) - 0.4))
    ax.set_xlabel("share of tags that are still the unit's first tag")
    ax.grid(axis="x", alpha=0.3)
    _legend_below(ax, 0.28 / max(1, len(baselines_by_kind) / 3))
    return ax


def _legend_below(ax: Axes, distance: float) -> None:
    """A legend under the axes, points with whiskers first, floors after them."""
    handles, labels = ax.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda i: "floor" in labels[i])
    ax.legend(
        [handles[i] for i in order],
        [labels[i] for i in order],
        loc="upper center",
        bbox_to_anchor=(0.4, -distance),
        ncol=3 if ax.figure.get_size_inches()[0] > COLUMNS["single"] else 2,
    )


def transfer(
    scores_by_corpus: Mapping[str, pd.DataFrame], unit: str, ax: Axes | None = None, top: int = 2
) -> Axes:
    """The scores of a unit's best descriptors in every corpus; the best of each corpus is framed."""
    table = transfer_table(scores_by_corpus, unit, top)
    ax = _axes(ax, (1.6 + 1.2 * table.shape[1], 0.9 + 0.4 * len(table)))
    bound = max(0.3, float(table.abs().to_numpy().max()))
    ax.imshow(table, cmap="PuOr_r", vmin=-bound, vmax=bound, aspect="auto")
    for x, corpus in enumerate(table):
        for y, value in enumerate(table[corpus]):
            dark = abs(value) > 0.65 * bound
            ax.text(x, y, f"{value:.2f}", ha="center", va="center", color="w" if dark else "k")
        best = int(table[corpus].to_numpy().argmax())
        ax.add_patch(plt.Rectangle((x - 0.47, best - 0.45), 0.94, 0.9, fill=False, lw=2))
    ax.set_xticks(range(table.shape[1]), table.columns)
    ax.set_yticks(range(len(table)), table.index)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_title(unit)
    return ax


def transfer_table(scores_by_corpus: Mapping[str, pd.DataFrame], unit: str, top: int = 2) -> pd.DataFrame:
    """Scores [descriptor, corpus] of one unit, for the ``top`` descriptors of each corpus."""
    table = pd.DataFrame({corpus: scores[unit] for corpus, scores in scores_by_corpus.items()})
    table = table.dropna()  # a descriptor that one corpus has no labels for cannot be compared
    best = dict.fromkeys(name for c in table for name in table[c].nlargest(top).index)
    return table.loc[list(best)]


def confusion_map(shares: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Which corpus a linear SVM takes a text for: ``geometry.confusion``'s shares, as numbers on shades."""
    ax = _axes(ax, (2.2 + 0.7 * len(shares), 1.6 + 0.5 * len(shares)))
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (y, x), value in np.ndenumerate(shares.to_numpy()):
        ax.text(x, y, f"{value:.2f}", ha="center", va="center", color="w" if value > 0.6 else "k")
    ax.set_xticks(range(len(shares)), shares.columns, rotation=30, ha="right")
    ax.set_yticks(range(len(shares)), shares.index)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set(xlabel="predicted", ylabel="corpus")
    return ax


def corpus_map(
    layout: pd.DataFrame, marked: Mapping[str, Sequence[int]] | None = None, ax: Axes | None = None
) -> Axes:
    """The corpora in two dimensions (``geometry.layout``); ``marked`` {corpus: rows} are framed and large.

    A marked row that is not on the map is a ``ValueError``: give ``layout`` the same rows to ``keep``.
    """
    ax = _axes(ax, (6, 5))
    looks = zip((BLUE, ORANGE, GREEN, PINK, SKY, RED), "os^Dv<", strict=True)
    for (color, shape), (corpus, part) in zip(looks, layout.groupby("corpus", sort=False), strict=False):
        ax.plot(part["x"], part["y"], shape, ms=3, color=color, alpha=0.4, mew=0, label=corpus)
        rows = list((marked or {}).get(corpus, []))
        absent = set(rows) - set(part["row"])
        if absent:
            raise ValueError(
                f"row {min(absent)} of {corpus!r} is not on the map: give layout the rows to keep"
            )
        top = part[part["row"].isin(rows)]
        ax.plot(top["x"], top["y"], shape, ms=8, color=color, mec="k", mew=1.2, ls="none")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.legend(markerscale=2.5, loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def quintile_curves(rates: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """How frequent a tag is in each fifth of a unit's activations: ``taxonomy.quintile_rates``.

    A line a corpus with 95 % intervals. They rise together for a global tag, and apart or not at all for
    others.
    """
    ax = _axes(ax, (4.6, 3.4))
    looks = zip((BLUE, ORANGE, GREEN, PINK, SKY, RED), "os^Dv<", strict=True)
    for (color, shape), (corpus, part) in zip(looks, rates.groupby("corpus", sort=False), strict=False):
        ax.plot(part["quantile"], part["share"], shape + "-", ms=5, color=color, label=corpus)
        ax.fill_between(part["quantile"], part["low"], part["high"], color=color, alpha=0.15, lw=0)
    ax.set_xticks(sorted(rates["quantile"].unique()))
    ax.set(xlabel="activation, from the lowest texts to the highest", ylabel="share of texts", ylim=(0, None))
    ax.legend(fontsize="small")
    return ax


def shift(tags: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Score on the texts that chose the tag against the score on held-out texts: shrinkage."""
    ax = _axes(ax, (4.2, 4))
    first = tags[tags["rank"] == 1]
    strong = first["q"] <= 0.05
    for mask, color, name in ((~strong, GREY, "q > .05"), (strong, BLUE, "q ≤ .05")):
        part = first[mask]
        points = {
            "ms": 3,
            "color": color,
            "alpha": 0.4,
            "rasterized": True,
        }  # thousands: the file stays small
        ax.plot(part["score"], part["validation_score"], ".", label=name, **points)
    top = float(first["score"].max())
    ax.plot([0, top], [0, top], color="k", lw=0.8)
    ax.set(xlabel="score on calibration texts", ylabel="score on held-out texts")
    ax.legend(markerscale=4)
    return ax


def layers(tags: pd.DataFrame, min_score: float = 0.3, ax: Axes | None = None) -> Axes:
    """How many units of each layer have a first tag of at least ``min_score`` on held-out texts."""
    ax = _axes(ax, (5, 3))
    first = tags[(tags["rank"] == 1) & (tags["validation_score"] >= min_score)]
    layer = first["unit"].str.extract(r"layer\.(\d+)\.")[0].astype(int)
    n = 1 + tags["unit"].str.extract(r"layer\.(\d+)\.")[0].astype(int).max()
    counts = np.bincount(layer, minlength=n)
    ax.bar(range(n), counts, color=BLUE)
    ax.set_xticks(range(n))
    ax.set(xlabel="layer", ylabel=f"units with a tag ≥ {min_score:g}")
    return ax


def accuracy_curves(table: pd.DataFrame, everything: float, ax: Axes | None = None) -> Axes:
    """Accuracy by number of units, a line a ranking: ``table`` [n, ranking]; dotted, that of all units."""
    ax = _axes(ax, (5, 3.4))
    for color, name in zip((BLUE, RED, GREEN, GREY, ORANGE), table, strict=False):
        ax.plot(table.index, table[name], "o-", ms=4, color=color, label=name)
    ax.axhline(everything, color="k", lw=0.8, ls=":", label="all units")
    ax.set_xscale("log")
    ax.set_xticks(table.index, [str(n) for n in table.index])
    ax.minorticks_off()
    ax.set(xlabel="units kept, probe refitted", ylabel="accuracy on other sentences", ylim=(0, 1))
    ax.legend(loc="lower right", fontsize="small")
    return ax


def layer_bars(counts: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Salient units of each site, side by side for each property: ``counts`` [site, property]."""
    ax = _axes(ax, (5, 3.4))
    places, width = np.arange(len(counts)), 0.8 / counts.shape[1]
    for i, (color, name) in enumerate(zip((BLUE, ORANGE, GREEN, RED), counts, strict=False)):
        ax.bar(places + (i - (counts.shape[1] - 1) / 2) * width, counts[name], width, color=color, label=name)
    ax.set_xticks(places, [str(name).replace("layer.", "") for name in counts.index])
    ax.set(xlabel="layer", ylabel="units among the first 100")
    ax.legend()
    return ax


def precision_recall(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Precision@k and recall@k with intervals.

    ``table`` has columns method, k, precision and recall (``evaluation.Estimate``).
    """
    ax = _axes(ax, (5.5, 3.4))
    for color, (method, part) in zip(
        (BLUE, RED, GREEN, ORANGE), table.groupby("method", sort=False), strict=False
    ):
        for column, look in (("precision", "o-"), ("recall", "s--")):  # told apart without the line, too
            values = [estimate.value for estimate in part[column]]
            low = [estimate.value - estimate.low for estimate in part[column]]
            high = [estimate.high - estimate.value for estimate in part[column]]
            ax.errorbar(
                part["k"],
                values,
                yerr=[low, high],
                fmt=look,
                mfc=color if column == "precision" else "white",
                color=color,
                capsize=3,
                label=f"{method}, {column}@k",
            )
    ax.set(
        xlabel="k, tags looked at",
        ylabel="precision or recall",
        ylim=(0, 1.02),
        xticks=sorted(table["k"].unique()),
    )
    ax.grid(axis="y", alpha=0.3)
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def arcs(
    forms: Sequence[str],
    gold: set[tuple[int, int]],
    predicted: set[tuple[int, int]],
    ax: Axes | None = None,
) -> Axes:
    """A sentence with its gold edges above and the predicted ones below; blue: right, red: wrong."""
    ax = _axes(ax, (0.75 * len(forms) + 1, 3.2))
    for edges, side in ((gold, 1), (predicted, -1)):
        for a, b in edges:
            right = side > 0 or (a, b) in gold
            angle = np.linspace(0, np.pi, 40)
            x = (a + b) / 2 - (b - a) / 2 * np.cos(angle)
            y = side * (0.25 + 0.28 * (b - a) * np.sin(angle))
            ax.plot(
                x, y, color=("k" if side > 0 else BLUE) if right else RED, lw=1.4, ls="-" if right else "--"
            )
    for i, form in enumerate(forms):
        ax.text(i, 0, form, ha="center", va="center")
    ax.set_xlim(-0.7, len(forms) - 0.3)
    ax.text(-0.6, 0.6, "gold", color="k", va="bottom", fontsize="small")
    ax.text(-0.6, -0.6, "probe", color=BLUE, va="top", fontsize="small")
    ax.axis("off")
    return ax


def layer_lines(
    table: pd.DataFrame,
    ylabel: str,
    *,
    hue: str = "null",
    log: bool = False,
    published: pd.DataFrame | None = None,
    ax: Axes | None = None,
) -> Axes:
    """A figure by layer: ``table`` has layer, value, low, high; one line for each value of the column ``by``.

    ``published`` (depth from 0 to 1, value) are points of another model, drawn by relative depth.
    """
    ax = _axes(ax, (5, 3.4))
    looks = zip((BLUE, RED, GREEN, GREY), ("o-", "s--", "^--", "x:"), strict=True)
    for (color, look), (name, part) in zip(looks, table.groupby(hue, sort=False), strict=False):
        if hue == "null":
            name = "the subject" if name == "none" else f"{name} (floor)"
        ax.plot(part["layer"], part["value"], look, ms=4, color=color, label=name)
        ax.fill_between(part["layer"], part["low"], part["high"], color=color, alpha=0.2, lw=0)
    if published is not None:
        low, high = table["layer"].min(), table["layer"].max()
        x = low + published["depth"] * (high - low)
        ax.plot(x, published["value"], "D", mfc="none", color="k", ms=5, label="BERT-large, published")
    if log:
        ax.set_yscale("log")
    layers = sorted(table["layer"].unique())
    ax.set_xticks(layers, ["emb." if layer < 0 else str(layer) for layer in layers])
    ax.set(xlabel="layer", ylabel=ylabel)
    ax.legend(fontsize="small")
    return ax


def gains(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Gain over the baseline with intervals, and the p beside it: ``table`` of ``trees.differences``.

    Of few seeds the interval is too narrow; the p counts their number, and all settings that were tried.
    """
    some = table[table["site"] != "baseline"].reset_index(drop=True)
    ax = _axes(ax, (5.5, 0.8 + 0.32 * len(some)))
    places = np.arange(len(some))[::-1]
    spread = [some["gain"] - some["low"], some["high"] - some["gain"]]
    ax.errorbar(some["gain"], places, xerr=spread, fmt="o", color=BLUE, capsize=3)
    ax.axvline(0, color="k", lw=0.8)
    p = [f"{p:.2f}" if p >= 0.01 else "< .01" for p in some["p"]]
    lines = zip(some["site"], some["weight"], p, strict=True)
    ax.set_yticks(places, [f"{site}, weight {weight:g}, p {p}" for site, weight, p in lines])
    ax.margins(y=0.3 / max(1, len(some) - 1))
    ax.locator_params(axis="x", nbins=6)
    ax.set(xlabel="gain in Matthews correlation, 95 %")
    return ax
