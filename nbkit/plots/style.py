"""Style."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import LineCollection
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, ScalarFormatter

from nbkit import provenance

BLUE, ORANGE, GREEN, PINK, SKY, RED, YELLOW, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#F0E442",
    "#7F7F7F",
)

STYLE = {
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.prop_cycle": matplotlib.cycler(color=[BLUE, ORANGE, GREEN, PINK, SKY, RED]),
    "legend.frameon": False,
    "svg.hashsalt": "nbkit",  # the same figure gives the same bytes
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
}

#: Width in inches of one and of two columns of a paper.
COLUMNS = {"single": 3.3, "double": 6.9}

#: What changes for a column: a reader sees it at this size, beside a text of ten points.
PAPER = {
    "savefig.dpi": 300,
    "font.size": 7,
    "axes.titlesize": 7.5,
    "legend.handlelength": 1.5,
    "lines.linewidth": 1.0,
    "lines.markersize": 3.5,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
}


@contextmanager
def style(column: str | None = None) -> Iterator[None]:
    """The kit's look within the block; for a paper, ``column`` is "single" (3.3 in) or "double" (6.9 in)."""
    with matplotlib.rc_context({**STYLE, **_paper(column)}):
        yield


def _paper(column: str | None) -> dict[str, Any]:
    if column is None:
        return {}
    if column not in COLUMNS:
        raise ValueError(f"column={column!r}: there are {', '.join(COLUMNS)}")
    return {**PAPER, "figure.figsize": (COLUMNS[column], 2.4)}


def save(
    fig: Figure,
    name: str,
    sources: Mapping[str, Any],
    *,
    folder: str | Path = "figures",
    data: pd.DataFrame | Mapping[str, pd.DataFrame] | None = None,
    column: str | None = None,
) -> Path:
    """Write NAME.svg, NAME.png, NAME.csv and NAME.json into ``folder``; the path of the SVG.

    sources   what the figure was made from: fingerprints of subject and corpora, seeds, settings.
              Without any: ``ValueError``. ``subject``, ``corpora`` (or ``corpus``) and ``preset`` are
              looked up again by ``provenance.check``
    data      the numbers behind the figure: a frame, or several by name (a column ``table`` says which);
              by default what the axes show (``drawn``)
    column    "single" or "double": the width of the files, at 300 dots an inch. Draw within
              ``style(column)``: here the figure is resized, its letters are not

    The manifest goes into both pictures, without date and machine, so that the same figure gives the same
    bytes; NAME.json holds these too.
    """
    if not sources:
        raise ValueError(f"figure {name!r} has no sources: say which subject, corpora and seed made it")
    folder = Path(folder)
    look = {**STYLE, **_paper(column)}
    if column is not None:
        width, height = fig.get_size_inches()
        fig.set_size_inches(COLUMNS[column], height * COLUMNS[column] / width)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.svg"
    table = _csv(drawn(fig) if data is None else data)
    path.with_suffix(".csv").write_bytes(table)
    made = {"figure": name, **sources, **provenance.place(), "data": hashlib.sha256(table).hexdigest()}
    inside = json.dumps({**made, "versions": provenance.versions()}, default=str)
    with matplotlib.rc_context(look):
        fig.savefig(path, metadata={"Date": None, "Title": name, "Description": inside})
        fig.savefig(path.with_suffix(".png"), metadata={"Software": "nbkit", "Description": inside})
    path.with_suffix(".json").write_text(
        json.dumps(provenance.manifest(**made), indent=1, default=str) + "\n"
    )
    return path


def _csv(data: pd.DataFrame | Mapping[str, pd.DataFrame]) -> bytes:
    """CSV with six digits; a frame's index is written where it says something."""

    def flat(frame: pd.DataFrame) -> pd.DataFrame:
        return frame if isinstance(frame.index, pd.RangeIndex) else frame.reset_index()

    if not isinstance(data, pd.DataFrame):
        tables = [(name, flat(frame)) for name, frame in data.items()]
        data = pd.concat([frame.assign(table=name)[["table", *frame]] for name, frame in tables])
    else:
        data = flat(data)
    return data.to_csv(index=False, float_format="%.6g", lineterminator="\n").encode()


def drawn(fig: Figure) -> pd.DataFrame:
    """The numbers that ``fig`` shows: lines, points, bars, intervals, bands and images of its axes.

    Columns: panel (number and title), kind, series (its name in the legend), x, y, width (of a bar),
    value (of an image's cell), x_name and y_name (where an axis counts named things). A line across the
    whole panel has no x (or no y).
    """
    found = []
    for number, ax in enumerate(fig.axes, 1):
        panel = f"{number} {ax.get_title(loc='left') or ax.get_title()}".strip()
        for part in (*_lines(ax), *_bars(ax), *_collections(ax), *_images(ax)):
            part["x_name"], part["y_name"] = _names(ax.xaxis, part["x"]), _names(ax.yaxis, part["y"])
            found.append(part.assign(panel=panel))
    columns = ["panel", "kind", "series", "x", "y", "width", "value", "x_name", "y_name"]
    table = pd.concat(found) if found else pd.DataFrame(columns=columns)
    table = table.reindex(columns=columns).reset_index(drop=True)
    return table.drop(columns=[c for c in columns[5:] if table[c].isna().all()])


def _part(kind: str, label: Any, x: Any, y: Any, **more: Any) -> pd.DataFrame:
    series = "" if str(label).startswith("_") else str(label)
    return pd.DataFrame({"kind": kind, "series": series, "x": x, "y": y, **more})


def _lines(ax: Axes) -> Iterator[pd.DataFrame]:
    bars = [c for c in ax.containers if isinstance(c, ErrorbarContainer)]
    named = {c.lines[0]: c.get_label() for c in bars}
    caps = {cap for c in bars for cap in c.lines[1]}
    for line in ax.lines:
        if line not in caps:
            x, y = (np.asarray(v, dtype=float) for v in (line.get_xdata(), line.get_ydata()))
            on_x, on_y = line.get_transform().contains_branch_seperately(ax.transData)
            x, y = np.where(on_x, x, np.nan), np.where(on_y, y, np.nan)
            yield _part("line", named.get(line, line.get_label()), x, y)


def _bars(ax: Axes) -> Iterator[pd.DataFrame]:
    for bars in (c for c in ax.containers if isinstance(c, BarContainer)):
        x, y, wide, high = np.array([(*bar.get_xy(), bar.get_width(), bar.get_height()) for bar in bars]).T
        if bars.orientation == "horizontal":
            yield _part("bar", bars.get_label(), x + wide, y + high / 2, width=high)
        else:
            yield _part("bar", bars.get_label(), x + wide / 2, y + high, width=wide)


def _collections(ax: Axes) -> Iterator[pd.DataFrame]:
    whiskers = {
        b: c.get_label() for c in ax.containers if isinstance(c, ErrorbarContainer) for b in c.lines[2]
    }
    for some in ax.collections:
        label = whiskers.get(some, some.get_label())
        if isinstance(some, LineCollection):
            points = np.concatenate([np.empty((0, 2)), *some.get_segments()])
            yield _part("interval", label, *points.T)
        elif len(some.get_offsets()) and some.get_offset_transform() == ax.transData:
            yield _part("point", label, *np.asarray(some.get_offsets(), dtype=float).T)
        else:
            for outline in some.get_paths():
                yield _part("band", label, *outline.vertices.T)


def _images(ax: Axes) -> Iterator[pd.DataFrame]:
    for image in ax.images:
        values = np.ma.filled(image.get_array(), np.nan).astype(float)
        if values.ndim == 2:  # a matrix; a photograph has colours as a third dimension
            y, x = np.indices(values.shape)
            yield _part("cell", image.get_label(), x.ravel(), y.ravel(), value=values.ravel())


def _names(axis: Axis, places: pd.Series) -> list[str | None]:
    """The tick's label at each place, for an axis whose labels were set by hand and are no numbers."""
    if isinstance(axis.get_major_formatter(), (ScalarFormatter, LogFormatter)):
        return [None] * len(places)
    labels = [" ".join(label.get_text().split()) for label in axis.get_majorticklabels()]
    ticks = dict(zip(axis.get_majorticklocs(), labels, strict=True))
    return [ticks.get(round(place)) if np.isfinite(place) else None for place in places]
