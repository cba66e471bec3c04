"""The look of figures, names as they are, and files that say what made them."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import pandas as pd
import seaborn as sns
from cycler import cycler
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import LogFormatterMathtext
from matplotlib.transforms import ScaledTranslation

from nbkit import provenance
from nbkit.stats import Estimate

log = logging.getLogger(__name__)

# Okabe and Ito's colours, which colour-blind readers can tell apart
BLUE, ORANGE, GREEN, PINK, SKY, RED, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#7F7F7F",
)
COLORS = (BLUE, ORANGE, GREEN, PINK, SKY, RED, GREY)
MARKERS = "os^Dv<>P"
DASHES = ("", (4, 1.5), (1, 1), (4, 1, 1, 1))  # on and off, in widths of the line; "" is solid

STYLE: dict[Any, Any] = {
    **sns.axes_style("ticks"),
    **sns.plotting_context("paper"),
    "font.sans-serif": matplotlib.rcParamsDefault["font.sans-serif"],  # DejaVu first: it is everywhere
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.labelsize": 10,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.fontsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.prop_cycle": cycler(color=COLORS),
    "legend.frameon": False,
    "svg.hashsalt": "nbkit",  # the same figure gives the same bytes
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
}

#: Width in inches of one and of two columns of a paper.
COLUMNS = {"single": 3.3, "double": 6.9}

#: What changes for a column: a reader sees it at this size, beside a text of ten points.
PAPER: dict[Any, Any] = {
    "savefig.dpi": 300,
    "font.size": 7,
    "axes.labelsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 6.5,
    "axes.titlesize": 7.5,
    "legend.handlelength": 1.5,
    "lines.linewidth": 1.0,
    "lines.markersize": 3.5,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
}


@contextmanager
def style(column: str | None = None) -> Iterator[None]:
    """The kit's look within the block; for a paper, ``column`` is "single" (3.3 in) or "double" (6.9 in)."""
    with matplotlib.rc_context({**STYLE, **_paper(column)}):
        yield


def _paper(column: str | None) -> dict[Any, Any]:
    if column is None:
        return {}
    if column not in COLUMNS:
        raise ValueError(f"column={column!r}: there are {', '.join(COLUMNS)}")
    return {**PAPER, "figure.figsize": (COLUMNS[column], 2.4)}


# ---------------------------------------------------------------------------------- series and their names


class Look(NamedTuple):
    """How one series is drawn."""

    color: str
    marker: str
    dash: Any = ""  # as in ``DASHES``

    @property
    def line(self) -> Any:
        """The dash as matplotlib's ``linestyle``."""
        return (0, self.dash) if self.dash else "-"


def looks(names: Iterable[Any]) -> dict[Any, Look]:
    """A look for each distinct name, in order; no two are the same.

    No name, a missing one, and more than 28 are a ``ValueError``.
    """
    distinct = list(dict.fromkeys(names))
    if not distinct:
        raise ValueError("there is no series to draw: the table is empty")
    if any(pd.isna(name) for name in distinct):
        raise ValueError("a series has no name (None or nan) and would not be drawn: name it or leave it out")
    if len(distinct) > len(COLORS) * len(DASHES):
        raise ValueError(
            f"{len(distinct)} series: {len(COLORS) * len(DASHES)} can be told apart, draw fewer at once"
        )
    return {
        name: Look(COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)], DASHES[i // len(COLORS) % len(DASHES)])
        for i, name in enumerate(distinct)
    }


def legend(ax: Axes, series: Mapping[Any, Look], *, lines: bool = True, **place: Any) -> None:
    """The names and looks of ``series`` under ``ax``, or in another ``place`` (as matplotlib's ``legend``).

    ``lines=False``: markers only. A name that begins with "_" is shown, too; matplotlib leaves it out.
    """
    handles = [
        Line2D([], [], color=look.color, marker=look.marker, linestyle=look.line if lines else "none")
        for look in series.values()
    ]
    named_legend(ax, handles, list(map(short, series)), **(place or _below(ax, list(map(short, series)))))


def named_legend(
    target: Axes | Figure, handles: Sequence[Artist], names: Sequence[str], **place: Any
) -> None:
    """A legend that shows ``names`` as they are."""
    box = target.legend(handles, [str(i) for i in range(len(handles))], **place)
    for text, name in zip(box.get_texts(), names, strict=True):
        text.set_text(name)
        text.set_parse_math(False)


def points(setting: Any) -> float:
    """A font size of matplotlib's settings, such as "axes.titlesize", in points."""
    size = matplotlib.rcParams[setting]  # pyright: ignore[reportArgumentType]
    return FontProperties(size=size).get_size_in_points()


def _below(ax: Axes, names: Sequence[str]) -> dict[str, Any]:
    """Under the label of the x axis, in as many columns as there is room for."""
    size = points("legend.fontsize")
    wide = ax.get_window_extent().width / ax.figure.dpi * 72 / size  # in letters' heights
    columns = int(wide / (4.5 + 0.45 * max(map(len, names))))
    down = ScaledTranslation(0, -3.6 * points("axes.labelsize") / 72, ax.figure.dpi_scale_trans)
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "bbox_transform": ax.transAxes + down}
    return {**place, "ncol": min(max(1, columns), len(names))}


def short(name: Any, width: int = 40) -> str:
    """``name`` on one line; what is longer than ``width`` characters is cut and ends in an ellipsis."""
    text = " ".join(str(name).split())
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


def plain(ax: Axes) -> Axes:
    """Show the names in ``ax`` as they are: "$" is a dollar sign, and letters are of a font that has them."""
    _plain(ax.findobj(Text), [ax])
    return ax


def _plain(texts: Iterable[Text], axes: Iterable[Axes]) -> None:
    numbers = {  # matplotlib writes powers of ten as mathematics
        label
        for ax in axes
        for axis in (ax.xaxis, ax.yaxis)
        if isinstance(axis.get_major_formatter(), LogFormatterMathtext)
        for label in axis.get_ticklabels(which="both")
    }
    for text in texts:
        if text not in numbers:
            text.set_parse_math(False)
        missing = _missing(text)
        if missing and (found := _fonts_for(missing)):
            text.set_fontfamily(list(dict.fromkeys([*text.get_fontfamily(), *found])))


def _missing(text: Text) -> frozenset[str]:
    """Letters of ``text`` that its font has not."""
    letters = {c for c in text.get_text() if ord(c) > 127 and unicodedata.category(c)[0] not in "CZ"}
    if not letters:
        return frozenset()
    known = _letters(findfont(text.get_fontproperties()))
    return frozenset(c for c in letters if ord(c) not in known)


@functools.cache
def _letters(path: str) -> frozenset[int]:
    return frozenset(get_font(path).get_charmap())


@functools.cache
def _fonts_for(missing: frozenset[str]) -> tuple[str, ...]:
    """Installed fonts that have the letters, as few as do; for letters that none has, a warning."""
    left, chosen = set(missing), []
    fonts = {font.name: font.fname for font in fontManager.ttflist if font.style == "normal"}
    boxes = [
        name for name in fonts if name.startswith("Last Resort")
    ]  # matplotlib's own: a box for any letter
    real = sorted(set(fonts).difference(boxes), key=lambda name: (not name.startswith("Noto Sans"), name))
    while left and real:
        having = {name: {c for c in left if ord(c) in _letters(fonts[name])} for name in real}
        best = max(real, key=lambda name: len(having[name]))
        if not having[best]:
            break
        chosen.append(best)
        left -= having[best]
    if left:
        log.warning(
            "no installed font has %s (%s): figures show boxes there. Install one that has, such as Noto Sans"
            " of that script",
            "".join(sorted(left)[:10]),
            unicodedata.name(min(left), "an unnamed character").title(),
        )
    return (*chosen, *(boxes if left else ()))


# ---------------------------------------------------------------------------------- files


def save(
    fig: Figure,
    name: str,
    sources: Mapping[str, Any],
    *,
    data: pd.DataFrame | Mapping[str, pd.DataFrame],
    folder: str | Path = "figures",
    column: str | None = None,
) -> Path:
    """Write NAME.svg, NAME.png, NAME.csv and NAME.json into ``folder``; the path of the SVG.

    name      a file's name that every system can have
    sources   what the figure was made from: subject, corpora, seeds, settings. A Subject and Texts become
              their fingerprints, and ``revisions`` names those that were read at a commit. ``subject``,
              ``corpora`` (or ``corpus``) and ``preset`` are looked up again by ``provenance.check``
    data      the frame that the figure was drawn from, or several by name (a column ``table`` says which).
              An ``Estimate`` becomes three columns: NAME, NAME_low, NAME_high
    column    "single" or "double": the width of the files, at 300 dots an inch. Draw within
              ``style(column)``: here the figure is resized, its letters are not

    No source, and another name, are a ``ValueError``.
    The manifest goes into both pictures, without date and machine, so that the same figure gives the same
    bytes; NAME.json holds these too.
    """
    if not sources:
        raise ValueError(f"figure {name!r} has no sources: say which subject, corpora and seed made it")
    folder, name = Path(folder), provenance.file_name(name)
    look = {**STYLE, **_paper(column)}
    if column is not None:
        width, height = fig.get_size_inches()
        fig.set_size_inches(COLUMNS[column], height * COLUMNS[column] / width)
    folder.mkdir(parents=True, exist_ok=True)
    path, table = folder / f"{name}.svg", _csv(data)
    path.with_suffix(".csv").write_bytes(table)
    made = {
        "figure": name,
        **_marked(sources),
        **provenance.place(),
        "data": hashlib.sha256(table).hexdigest(),
    }
    inside = json.dumps({**made, "versions": provenance.versions()}, default=str)
    _plain(fig.findobj(Text), fig.axes)
    with matplotlib.rc_context(look):
        fig.savefig(path, metadata={"Date": None, "Title": name, "Description": inside})
        fig.savefig(path.with_suffix(".png"), metadata={"Software": "nbkit", "Description": inside})
    kept = json.dumps(provenance.manifest(**made), indent=1, default=str)
    path.with_suffix(".json").write_text(kept + "\n", encoding="utf-8")
    return path


def _marked(sources: Mapping[str, Any]) -> dict[str, Any]:
    """Subject and texts as fingerprints, with "NAME at REVISION" of each that has a revision."""
    revisions: dict[str, str] = {}

    def mark(thing: Any) -> Any:
        if isinstance(thing, Mapping):
            return {key: mark(value) for key, value in thing.items()}
        if not hasattr(thing, "fingerprint"):
            return thing
        asked = getattr(thing, "source", {})
        if revision := asked.get("revision") or getattr(thing, "revision", None):
            revisions[thing.fingerprint] = f"{asked.get('source', thing.name)} at {revision}"
        return thing.fingerprint

    marked = mark(sources)
    return marked | ({"revisions": revisions} if revisions else {})


def _csv(data: pd.DataFrame | Mapping[str, pd.DataFrame]) -> bytes:
    """CSV (UTF-8) with six digits; a frame's index is written where it says something."""
    if not isinstance(data, pd.DataFrame):
        tables = {name: _flat(frame) for name, frame in data.items()}
        parts = [frame.assign(table=name)[["table", *frame]] for name, frame in tables.items()]
        data = pd.concat(parts, ignore_index=True)
    return _flat(data).to_csv(index=False, float_format="%.6g", lineterminator="\n").encode()


def _flat(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame if isinstance(frame.index, pd.RangeIndex) else frame.reset_index()
    columns: dict[Any, Any] = {}
    for name, values in frame.items():
        if len(values) and all(isinstance(value, Estimate) for value in values):
            columns |= {name: [e.value for e in values]}
            columns |= {f"{name}_{end}": [getattr(e, end) for e in values] for end in ("low", "high")}
        else:
            columns[name] = values
    return pd.DataFrame(columns)
