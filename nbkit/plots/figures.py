"""Figures of one axes: each takes ``ax`` (None: a new figure) and returns it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path as Curve
from matplotlib.ticker import LogFormatter

from nbkit.plots.style import (
    BLUE,
    GREY,
    RED,
    SKY,
    Look,
    legend,
    looks,
    plain,
    points,
    short,
)
from nbkit.plots.trees import tree_arcs

WITHIN, ACROSS = "same corpus, held-out texts", "other corpora"
#: The outcomes of ``illusions.compare`` and their colours: what is left of a tag, what took its place, and
#: what is not known.
OUTCOMES = {"kept": BLUE, "significant": SKY, "changed": RED, "silent": "#B8B8B8", "undecided": "#EDEDED"}
BASELINES = ("same encoding", "random directions", "random weights")  # shown beside the outcomes
#: The value of each point is the median of its three lines (see ``_observations``), its interval their range.
INTERVAL: dict[str, Any] = {"estimator": "median", "errorbar": ("pi", 100)}
#: Points with whiskers from left to right, at the numbers of a column.
POINTS: dict[str, Any] = {**INTERVAL, "orient": "h", "native_scale": True, "linestyle": "none"}


def _axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    return plt.subplots(figsize=size)[1] if ax is None else ax


def _observations(table: pd.DataFrame, value: str) -> pd.DataFrame:
    """Three lines for each of ``table``: ``value``, low and high, in the column "drawn"; for ``INTERVAL``.

    Without columns low and high, the value alone. An interval beside its value is drawn up to it.
    """
    if not {"low", "high"} <= set(table):
        return table.assign(drawn=table[value])
    value_too = {"low": table[["low", value]].min(axis=1), "high": table[["high", value]].max(axis=1)}
    table = table.assign(**value_too)
    keys = [c for c in table if c not in (value, "low", "high")]
    return table.melt(keys, [value, "low", "high"], value_name="drawn")


def _curves(table: pd.DataFrame, x: str, value: str, series: str, ax: Axes) -> dict[Any, Look]:
    """A line with markers and a band for each value of the column ``series``, and their legend."""
    look = looks(table[series])
    dashes: dict[Any, Any] = {name: one.dash for name, one in look.items()}
    drawn = _observations(table, value)
    sns.lineplot(drawn, x=x, y="drawn", dashes=dashes, ax=ax, **_looks_of(series, look), **INTERVAL)
    legend(ax, look)
    return look


def _looks_of(series: str, look: Mapping[Any, Look]) -> dict[str, Any]:
    """seaborn's arguments for the values of the column ``series``; ``style.legend`` draws the legend."""
    colors = {name: one.color for name, one in look.items()}
    markers = {name: one.marker for name, one in look.items()}
    return {"hue": series, "style": series, "palette": colors, "markers": markers, "legend": False}


# ---------------------------------------------------------------------------------- corpora


def agreement(baselines_by_kind: Mapping[str, pd.DataFrame], ax: Axes | None = None) -> Axes:
    """How often a unit's first tag stays first: on held-out texts of its corpus, and in other corpora.

    ``baselines_by_kind`` maps a name for the units to ``Report.baselines``: kind ("units" or one of the
    baselines), within and across (``Estimate``). Bars join the two; whiskers are 95 % intervals; the
    baselines' agreement across is drawn smaller, a little below.
    """
    ax = _axes(ax, (8, 1.1 + 0.75 * len(baselines_by_kind)))
    lines = [
        (y, line.kind, name, estimate.value, estimate.low, estimate.high)
        for y, table in enumerate(baselines_by_kind.values())
        for line in table.itertuples()
        for name, estimate in ((WITHIN, line.within), (ACROSS, line.across))
        if line.kind == "units" or name == ACROSS
    ]
    table = pd.DataFrame(lines, columns=["y", "kind", "series", "value", "low", "high"])
    units, others = table[table["kind"] == "units"], table[table["kind"] != "units"]
    shown = looks(["units", *others["kind"]])
    del shown["units"]  # and its blue
    ends = units.pivot(index="y", columns="series", values="value")
    ax.hlines(ends.index, ends[ACROSS], ends[WITHIN], color=RED, lw=5, alpha=0.25, zorder=0)
    observed = _observations(units, "value")
    colors = {"hue": "series", "palette": {WITHIN: BLUE, ACROSS: RED}, "legend": False}
    sns.pointplot(observed, x="drawn", y="y", ax=ax, **colors, **POINTS)
    below = others.assign(y=others["y"] + 0.25)
    sns.scatterplot(below, x="value", y="y", ax=ax, **_looks_of("kind", shown))
    for y, point in ends.iterrows():
        for name, other in ((WITHIN, ACROSS), (ACROSS, WITHIN)):
            after = point[name] > point[other] or (point[name] == point[other] and name == WITHIN)
            place: dict[str, Any] = {"textcoords": "offset points", "ha": "left" if after else "right"}
            ax.annotate(f"{point[name]:.2f}", (point[name], y), (-4 if after else 4, 6), **place)
    ax.set_yticks(range(len(baselines_by_kind)), [textwrap.fill(short(k, 60), 24) for k in baselines_by_kind])
    ax.set(xlim=(-0.02, 1.02), ylim=(len(baselines_by_kind) - 0.5, -0.5), ylabel="")
    ax.set_xlabel("share of tags that are still the unit's first tag")
    ax.grid(axis="x", alpha=0.3)
    series = {WITHIN: Look(BLUE, "o"), ACROSS: Look(RED, "o")}
    series |= {f"{kind} (baseline)": look for kind, look in shown.items()}
    legend(ax, series, lines=False)
    return plain(ax)


def outcomes(outcomes_by_kind: Mapping[str, pd.DataFrame], ax: Axes | None = None) -> Axes:
    """What becomes of tags: stacked shares of the outcomes, on held-out texts and in other corpora.

    ``outcomes_by_kind`` maps a name for the units to ``Report.outcomes``: kind ("units" or one of the
    baselines), where ("within", "across") and a column for each outcome (``Estimate``). The units have a bar
    for each ``where``; those baselines that can have tags have a thinner one, for other corpora.
    """
    lines, y = [], 0.0
    for name, table in outcomes_by_kind.items():
        others = table[table["kind"].isin(BASELINES) & (table["where"] == "across")]
        for line in pd.concat([table[table["kind"] == "units"], others]).to_dict("records"):
            units = line["kind"] == "units"
            what = {"within": WITHIN, "across": ACROSS}[line["where"]] if units else line["kind"]
            shares = {outcome: line[outcome].value for outcome in OUTCOMES}
            lines.append({"kind": name, "y": y, "what": what, "high": 0.8 if units else 0.45, **shares})
            y += 1 if units else 0.7
        y += 1.1
    table = pd.DataFrame(lines)
    ax = _axes(ax, (8, 0.8 + 0.24 * y))
    left = table[list(OUTCOMES)].cumsum(axis=1).shift(axis=1, fill_value=0)
    for outcome, color in OUTCOMES.items():
        ax.barh(table["y"], table[outcome], table["high"], left[outcome], color=color, lw=0)
        for line in table[(table["high"] > 0.5) & (table[outcome] >= 0.06)].itertuples():
            middle = left.loc[line.Index, outcome] + getattr(line, outcome) / 2
            share = f"{getattr(line, outcome):.2f}".lstrip("0")
            color = "w" if outcome in ("kept", "changed") else "k"
            ax.text(middle, line.y, share, ha="center", va="center", color=color)
    ax.set_yticks(table["y"], list(table["what"]))
    small = 0.85 * points("ytick.labelsize")
    for label, high in zip(ax.get_yticklabels(), table["high"], strict=True):
        if high < 0.5:
            label.set(fontsize=small, color=GREY)
    for name, part in table.groupby("kind", sort=False):
        ax.annotate(short(name, 60), (0, part["y"].min() - 0.75), va="center", weight="bold")
    ax.set(xlim=(0, 1), ylim=(table["y"].max() + 0.5, -1.3), ylabel="", xlabel="share of tags")
    ax.tick_params(axis="y", length=0)
    ax.spines[["left", "bottom"]].set_visible(False)
    legend(ax, {name: Look(color, "s") for name, color in OUTCOMES.items()}, lines=False)
    return plain(ax)


def transfer(
    scores_by_corpus: Mapping[str, pd.DataFrame],
    unit: str,
    ax: Axes | None = None,
    top: int = 2,
    null: float = 0.0,
) -> Axes:
    """The scores of a unit's ``top`` descriptors of each corpus in every corpus; the best there is framed.

    ``scores_by_corpus`` {corpus: [descriptor, unit]}; ``null`` is the score of what is unrelated (.5 for
    AUROC), shown white.
    """
    table = transfer_table(scores_by_corpus, unit, top)
    ax = _axes(ax, (2.4 + 1.1 * table.shape[1], 0.9 + 0.4 * len(table)))
    bound = max(0.3, float((table - null).abs().to_numpy().max()))
    _matrix(table, ax, cmap="PuOr_r", vmin=null - bound, vmax=null + bound)
    for x, best in enumerate(table.to_numpy().argmax(axis=0)):
        ax.add_patch(Rectangle((x + 0.03, best + 0.05), 0.94, 0.9, fill=False, ec="k", lw=2))
    ax.set(title=short(unit, 60), xlabel="", ylabel="")
    return plain(ax)


def _matrix(table: pd.DataFrame, ax: Axes, **options: Any) -> None:
    """A matrix as shades with its numbers."""
    shown = {"annot": True, "fmt": "z.2f", "cbar": False, "xticklabels": False, "yticklabels": False}
    sns.heatmap(table.to_numpy(float), ax=ax, **shown, **options)
    ax.set_xticks(np.arange(table.shape[1]) + 0.5, [textwrap.fill(short(c), 16) for c in table])
    ax.set_yticks(np.arange(len(table)) + 0.5, [textwrap.fill(short(d), 24) for d in table.index])
    ax.tick_params(length=0)


def transfer_table(scores_by_corpus: Mapping[str, pd.DataFrame], unit: str, top: int = 2) -> pd.DataFrame:
    """Scores [descriptor, corpus] of one unit, for the ``top`` descriptors of each corpus."""
    table = pd.DataFrame({corpus: scores[unit] for corpus, scores in scores_by_corpus.items()})
    table = table.dropna()  # a descriptor that one corpus has no labels for cannot be compared
    best = dict.fromkeys(name for c in table for name in table[c].nlargest(top).index)
    return table.loc[list(best)]


def confusion_map(shares: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Which corpus a linear SVM takes a text for: ``illusions.confusion``, [corpus, predicted]."""
    ax = _axes(ax, (2.2 + 0.7 * len(shares), 1.6 + 0.5 * len(shares)))
    _matrix(shares, ax, cmap="Blues", vmin=0, vmax=1)
    plt.setp(ax.get_xticklabels(), rotation=30, ha="right", rotation_mode="anchor")
    ax.set(xlabel="predicted", ylabel="corpus")
    return plain(ax)


def corpus_map(
    layout: pd.DataFrame, marked: Mapping[str, Sequence[int]] | None = None, ax: Axes | None = None
) -> Axes:
    """The corpora in two dimensions (``illusions.layout``); ``marked`` {corpus: rows} are framed and large.

    A marked row that is not on the map is a ``ValueError``: give ``layout`` the same rows to ``keep``.
    """
    ax, look, marked = _axes(ax, (6, 5)), looks(layout["corpus"]), marked or {}
    for corpus, rows in marked.items():
        if absent := set(rows) - set(layout.loc[layout["corpus"] == corpus, "row"]):
            raise ValueError(
                f"row {min(absent)} of {corpus!r} is not on the map: give layout the rows to keep"
            )
    framed = [row in set(marked.get(c, [])) for c, row in zip(layout["corpus"], layout["row"], strict=True)]
    drawn = {"x": "x", "y": "y", "ax": ax, **_looks_of("corpus", look)}
    sns.scatterplot(layout, s=14, alpha=0.5, linewidth=0, **drawn)
    if any(framed):
        sns.scatterplot(layout[framed], s=70, edgecolor="k", linewidth=1.2, zorder=3, **drawn)
    ax.set(xticks=[], yticks=[], xlabel="", ylabel="")
    ax.spines[:].set_visible(False)
    legend(ax, look, lines=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return plain(ax)


def quintile_curves(rates: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """How frequent a tag is in each fifth of a unit's activations: ``illusions.quintile_rates``.

    One line for each corpus with its 95 % interval. They rise together for a global tag, and apart or not at
    all for others.
    """
    ax = _axes(ax, (4.6, 3.4))
    _curves(rates, "quantile", "share", "corpus", ax)
    ax.set_xticks(sorted(rates["quantile"].unique()))
    ax.set(xlabel="activation, from the lowest texts to the highest", ylabel="share of texts", ylim=(0, None))
    return plain(ax)


# ---------------------------------------------------------------------------------- tags


def shift(tags: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Score on the texts that chose the tag against the score on held-out texts: ``matching.tag``."""
    ax = _axes(ax, (4.2, 4))
    first = tags[tags["rank"] == 1].sort_values("q", ascending=False)  # the strong ones on top
    first = first.assign(strong=np.where(first["q"] <= 0.05, "q ≤ .05", "q > .05"))
    look = {"q > .05": Look(GREY, "o"), "q ≤ .05": Look(BLUE, "o")}
    dots = {"s": 8, "alpha": 0.4, "linewidth": 0, "rasterized": True}  # thousands: the file stays small
    sns.scatterplot(first, x="score", y="validation_score", ax=ax, **dots, **_looks_of("strong", look))
    ax.axline((0, 0), slope=1, color="k", lw=0.8)
    ax.set(xlabel="score on calibration texts", ylabel="score on held-out texts")
    legend(ax, look, lines=False)
    return plain(ax)


def layers(tags: pd.DataFrame, min_score: float = 0.3, ax: Axes | None = None) -> Axes:
    """How many units of each layer have a first tag of at least ``min_score`` on held-out texts."""
    ax = _axes(ax, (5, 3))
    layer = tags["unit"].str.extract(r"layer\.(\d+)\.")[0].astype(int)
    found = layer[(tags["rank"] == 1) & (tags["validation_score"] >= min_score)]
    sns.countplot(x=found, order=range(layer.max() + 1), color=BLUE, saturation=1, ax=ax)
    ax.set(xlabel="layer", ylabel=f"units with a tag ≥ {min_score:g}, held out")
    return plain(ax)


def precision_recall(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Precision@k and recall@k with intervals.

    ``table`` has columns method, k, precision and recall (``Estimate``).
    """
    ax = _axes(ax, (5.5, 3.4))
    measures = {"precision": Look("", "o"), "recall": Look("", "s", (3, 1.5))}
    long = table.melt(["method", "k"], list(measures), var_name="measure", value_name="estimate")
    ends = pd.DataFrame(long["estimate"].tolist(), index=long.index)[["value", "low", "high"]]
    look = looks(table["method"])
    observed = _observations(long.drop(columns="estimate").join(ends), "value")
    drawn = _looks_of("measure", measures) | {
        "hue": "method",
        "palette": {m: one.color for m, one in look.items()},
    }
    dashes = {name: one.dash for name, one in measures.items()}
    bars = {"err_style": "bars", "err_kws": {"capsize": 3}, "dashes": dashes}
    sns.lineplot(observed, x="k", y="drawn", ax=ax, **drawn, **bars, **INTERVAL)
    ax.set(xlabel="k, tags looked at", ylabel="precision or recall", ylim=(0, 1.02))
    ax.set_xticks(sorted(table["k"].unique()))
    ax.grid(axis="y", alpha=0.3)
    series = {
        f"{short(name, 26)}, {what}@k": one._replace(color=look[name].color)
        for name in look
        for what, one in measures.items()
    }
    legend(ax, series)
    return plain(ax)


# ---------------------------------------------------------------------------------- salience


def accuracy_curves(table: pd.DataFrame, everything: float, ax: Axes | None = None) -> Axes:
    """Accuracy by number of units, one line for each ranking; dotted, that of all units (``everything``).

    ``table`` is [n, ranking], or has the columns n, ranking, accuracy, low and high.
    """
    ax = _axes(ax, (5, 3.4))
    long = table
    if "ranking" not in table:
        long = table.rename_axis("n").reset_index().melt("n", var_name="ranking", value_name="accuracy")
    look = _curves(long, "n", "accuracy", "ranking", ax)
    ax.axhline(everything, color="k", lw=0.8, ls=":")
    ax.set_xscale("log")
    counts = sorted(long["n"].unique())
    ax.set_xticks(counts, [str(n) for n in counts])
    ax.minorticks_off()
    ax.set(xlabel="units kept, probe refitted", ylabel="accuracy on other sentences", ylim=(0, 1))
    legend(ax, {**look, "all units": Look("k", "", (1, 1))})
    return plain(ax)


def layer_bars(counts: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Salient units of each site, side by side for each property: ``counts`` [site, property]."""
    ax = _axes(ax, (5, 3.4))
    sites = [str(site).replace("layer.", "").replace("embeddings", "emb.") for site in counts.index]
    long = counts.set_axis(range(len(sites))).rename_axis("site").reset_index()
    long = long.melt("site", var_name="property", value_name="units")
    look = looks(long["property"])
    colors = {"palette": [one.color for one in look.values()], "saturation": 1, "legend": False}
    sns.barplot(long, x="site", y="units", hue="property", ax=ax, **colors)
    ax.set_xticks(range(len(sites)), list(map(short, sites)))
    ax.set(xlabel="layer", ylabel="units among the first 100")
    legend(ax, {name: one._replace(marker="s") for name, one in look.items()}, lines=False)
    return plain(ax)


# ---------------------------------------------------------------------------------- trees


def layer_lines(
    table: pd.DataFrame,
    ylabel: str,
    *,
    hue: str = "null",
    log: bool = False,
    published: pd.DataFrame | None = None,
    baseline: tuple[str, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """A measure by layer: ``table`` has layer, value, low, high; one line for each value of column ``hue``.

    ``published`` (depth from 0 to 1, value) are points of another model, drawn by relative depth;
    ``baseline`` (name, value) is a dotted line.
    """
    ax = _axes(ax, (5, 3.4))
    if hue == "null":
        names = {n: "the subject" if n == "none" else f"{n} (baseline)" for n in table["null"].unique()}
        table = table.assign(null=table["null"].map(names))
    look = _curves(table, "layer", "value", hue, ax)
    if published is not None:
        low, high = table["layer"].min(), table["layer"].max()
        x = low + published["depth"] * (high - low)
        ax.plot(x, published["value"], "D", mfc="none", color="k", ms=5)
        look["BERT-large, published"] = Look("k", "D")
    if baseline is not None:
        ax.axhline(baseline[1], color="k", lw=0.8, ls=":")
        look[baseline[0]] = Look("k", "", (1, 1))
    if log:
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(_Plain())
        ax.yaxis.set_minor_formatter(_Plain())
    layers = sorted(table["layer"].unique())
    ax.set_xticks(layers, ["emb." if layer < 0 else str(layer) for layer in layers])
    ax.set(xlabel="layer", ylabel=ylabel)
    legend(ax, look)
    return plain(ax)


class _Plain(LogFormatter):
    """Ticks of a log axis as numbers: 0.01."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def arcs(
    forms: Sequence[str],
    gold: set[tuple[int, int]],
    predicted: set[tuple[int, int]],
    ax: Axes | None = None,
) -> Axes:
    """A sentence with its gold edges above and the predicted ones below; blue: right, red and broken: wrong.

    Edges are (smaller, larger) positions of words.
    """
    ax = _axes(ax, (0.75 * len(forms) + 1, 3.2))
    for arc in tree_arcs(gold, predicted):
        side = 1 if arc.above else -1
        top = ((arc.a + arc.b) / 2, side * (0.3 + 0.6 * (arc.b - arc.a)))
        curve = [(arc.a, 0.25 * side), top, (arc.b, 0.25 * side)]
        look = {"edgecolor": arc.color, "lw": 1.4, "ls": "-" if arc.right else "--"}
        ax.add_patch(PathPatch(Curve(curve, [Curve.MOVETO, Curve.CURVE3, Curve.CURVE3]), fill=False, **look))
    for i, form in enumerate(forms):
        ax.text(i, 0, short(form, 16), ha="center", va="center")
    longest = max((b - a for a, b in gold | predicted), default=1)
    ax.set(xlim=(-0.9, len(forms) - 0.3), ylim=(-0.5 - 0.32 * longest, 0.5 + 0.32 * longest))
    ax.text(-0.8, 0.6, "gold", color="k", va="bottom", fontsize="small")
    ax.text(-0.8, -0.6, "probe", color=BLUE, va="top", fontsize="small")
    ax.axis("off")
    return plain(ax)


def gains(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Gain over the baseline with intervals, and the p beside it: ``trees.differences``.

    The interval is of one setting; the p counts all settings that were tried.
    """
    some = table[table["site"] != "baseline"].reset_index(drop=True)
    ax = _axes(ax, (5.5, 0.8 + 0.32 * len(some)))
    some = some.assign(y=some.index)
    observed = _observations(some[["y", "gain", "low", "high"]], "gain")
    sns.pointplot(observed, x="drawn", y="y", color=BLUE, capsize=0.15, ax=ax, **POINTS)
    ax.axvline(0, color="k", lw=0.8)
    lines = zip(some["site"], some["weight"], some["p"], strict=True)
    names = [f"{short(s)}, weight {w:g}, p {f'{p:.2f}' if p >= 0.01 else '< .01'}" for s, w, p in lines]
    ax.set_yticks(some.index, names)
    ax.locator_params(axis="x", nbins=6)
    ax.set(xlabel="gain in Matthews correlation, 95 %", ylabel="", ylim=(len(some) - 0.5, -0.5))
    return plain(ax)


def reliability(bins: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Predicted probability against the share observed, on the diagonal where they are the same.

    ``bins`` as ``descriptors.reliability`` gives them: a thin grey line for each descriptor, a thick one for
    all together.
    """
    ax = _axes(ax, (4.2, 4))
    ax.plot([0, 1], [0, 1], color="k", lw=0.8, ls=":")
    together = bins["descriptor"] == "all"
    lines = {"units": "descriptor", "estimator": None, "legend": False, "ax": ax}
    sns.lineplot(bins[~together], x="predicted", y="observed", color=GREY, lw=0.8, alpha=0.6, **lines)
    sns.lineplot(bins[together], x="predicted", y="observed", color=BLUE, lw=2, marker="o", **lines)
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="predicted probability", ylabel="share observed")
    legend(ax, {"all descriptors together": Look(BLUE, "o"), "one descriptor": Look(GREY, "")})
    return plain(ax)
