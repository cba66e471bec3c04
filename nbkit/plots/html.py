"""Pieces of HTML, a page of them without a kernel, and what a notebook shows of a widget.

    Views(title, controls, view)     a view with a few choices, live and as a page
    page(title, body, data, script)  a page that needs no kernel, no server and no network
    live_and_static(widget, view, kwargs)   what a notebook shows: both
    controls([field, ...])           fields in a box that keeps the keys typed into it
    shade_html, transfer_html, histogram_svg, bar_html    pieces

Every text goes through ``escaped``, which escapes it. Texts of users stand in elements with ``dir="auto"``,
so that right-to-left scripts are set from the right. Colours are of Okabe and Ito's set, and nothing is told
by colour alone: the peak of a text and the best tag of a corpus are framed, a wrong edge is broken, and every
shade has its number in the title or in the cell.
"""

from __future__ import annotations

import functools
import html
import importlib.resources
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd


@functools.cache
def asset(name: str) -> str:
    """A style sheet or script of this folder, such as views.css."""
    return importlib.resources.files("nbkit.plots").joinpath(name).read_text(encoding="utf-8")


def escaped(text: Any) -> str:
    """``text`` as HTML that shows it and does nothing else."""
    return html.escape(str(text))


class Views:
    """A view with a few choices: ``view(*choice)`` is HTML, ``controls`` {name: its options}.

    Numbers get a slider, names a list. ``to_html`` makes a page of all combinations; what views share on
    lines of their own is on it once.
    """

    def __init__(self, title: str, controls: Mapping[str, Sequence], view: Callable[..., str]) -> None:
        empty = [name for name, options in controls.items() if not len(options)]
        if empty:
            raise ValueError(f"the control {empty[0]!r} has nothing to choose from")
        self.title, self.controls = title, {name: list(options) for name, options in controls.items()}
        self._view, self._known = view, {}

    def view(self, *choice: object) -> str:
        """The HTML for one value of each control."""
        if choice not in self._known:
            self._known[choice] = f'<div class="nbkit">{self._view(*choice)}</div>'
        return self._known[choice]

    def widget(self) -> ipywidgets.Widget:
        """The controls above the view."""
        fields = [self._field(name, options) for name, options in self.controls.items()]
        shown = ipywidgets.HTML()

        def show(*_: object) -> None:
            shown.value = self.view(*(field.value for field in fields))

        for field in fields:
            field.observe(show, names="value")
        show()
        return ipywidgets.VBox([controls(fields), shown])

    def _field(self, name: str, options: list) -> Any:
        kind = ipywidgets.SelectionSlider if _numbers(options) else ipywidgets.Dropdown
        named = [(str(option), option) for option in options]
        return kind(options=named, description=name, layout={"width": "40em"})

    def to_html(self) -> str:
        """A page that needs no kernel, no server and no network."""
        fields, places = [], itertools.product(*(range(len(options)) for options in self.controls.values()))
        for name, options in self.controls.items():
            if _numbers(options):
                field = f'<input type="range" min="0" max="{len(options) - 1}" value="0"><output></output>'
            else:
                field = f"<select>{options_html(enumerate(options))}</select>"
            fields.append(f"<p><label>{escaped(name)} {field}</label></p>")
        parts: dict[str, int] = {}
        views = {}
        for place in places:
            choice = (options[i] for i, options in zip(place, self.controls.values(), strict=True))
            lines = self.view(*choice).split("\n")
            views[",".join(map(str, place))] = [parts.setdefault(line, len(parts)) for line in lines]
        names = [[str(option) for option in options] for options in self.controls.values()]
        data = {"views": views, "parts": list(parts), "names": names}
        return page(self.title, f'{"".join(fields)}<div id="view"></div>', data, asset("views.js"))

    def _repr_mimebundle_(self, **kwargs: object) -> dict:
        first = self.view(*(options[0] for options in self.controls.values()))
        return live_and_static(self.widget(), first, kwargs)

    def __repr__(self) -> str:
        return f"Views({self.title}: {', '.join(self.controls)})"


def live_and_static(widget: ipywidgets.Widget, view: str, kwargs: dict) -> dict:
    """What a notebook shows: the live widget, and beside it a static view for readers without a kernel."""
    bundle: Any = widget._repr_mimebundle_(**kwargs)
    bundle = bundle[0] if isinstance(bundle, tuple) else bundle
    return {**bundle, "text/html": styled(view)}


def styled(view: str) -> str:
    """A view with the style it needs, for an output or a widget of its own."""
    return f"<style>{asset('views.css')}</style>{view}"


def page(title: str, body: str, data: Any = None, script: str = "") -> str:
    """A page in one file. ``script`` finds ``data`` (anything JSON can hold) as the variable ``data``.

    ``title`` and ``data`` may hold any text; ``body`` is HTML. Half a surrogate pair, which no file can hold,
    becomes "?".
    """
    inside = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    inside = inside.replace("</", "<\\/").replace("<!", "\\u003c!")
    name, found = escaped(title), "var data = JSON.parse(document.getElementById('data').textContent);"
    whole = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{name}</title>'
        f'<style>{asset("page.css")}{asset("views.css")}</style><h1 dir="auto">{name}</h1>{body}'
        f'<script id="data" type="application/json">{inside}</script>'
        f"<script>{found}{script}</script></html>\n"
    )
    return whole.encode("utf-8", "replace").decode()


def options_html(options: Iterable[tuple[Any, Any]]) -> str:
    """The options of a list, from (value, name)."""
    return "".join(
        f'<option value="{escaped(value)}" dir="auto">{escaped(name)}</option>' for value, name in options
    )


def _numbers(options: Sequence) -> bool:
    return all(isinstance(option, (int, float, np.integer, np.floating)) for option in options)


def controls(fields: Sequence[ipywidgets.Widget]) -> ipywidgets.VBox:
    """The fields in a box that keeps the keys typed into it (``keyboard.js``), and the style of the views.

    Once, and not with each view: a new style makes the browser lay out all of JupyterLab again.
    """
    script = {"application/javascript": asset("keyboard.js")}
    output = {"output_type": "display_data", "data": script, "metadata": {}}
    unseen = ipywidgets.Output(outputs=(output,), layout={"display": "none"})
    style = ipywidgets.HTML(styled(""), layout={"display": "none"})
    return ipywidgets.VBox([*fields, unseen, style]).add_class("nbkit-controls")


def shade_html(text: str, tokens: pd.DataFrame, bound: float) -> str:
    """``text`` with its tokens shaded by activation / ``bound``; the peak is framed.

    ``tokens`` has start, end, activation (``exemplars.shade``), in any order; a character of several tokens
    is shown once, for the strongest of them. Tokens whose shade is 0 (no positive activation) are not marked.
    Without its marks, what is shown is ``text``.
    """
    values = np.nan_to_num(tokens["activation"].to_numpy(float), nan=-np.inf)
    starts, ends = (tokens[end].to_numpy() for end in ("start", "end"))
    owner = np.full(len(text), -1)
    for token in np.lexsort((-np.arange(len(values)), values)):  # the strongest last
        owner[max(0, starts[token]) : max(0, ends[token])] = token
    shown = np.unique(owner[owner >= 0])
    peak = shown[np.argmax(values[shown])] if len(shown) else -1
    cuts = [0, *(np.flatnonzero(np.diff(owner)) + 1), len(text)]
    parts = []
    for start, end in itertools.pairwise(cuts):
        token = owner[start] if len(text) else -1
        shade = min(1.0, max(0.0, values[token] / bound)) if token >= 0 and bound > 0 else 0.0
        letters = escaped(text[start:end])
        if token >= 0 and (token == peak or shade >= 0.005):
            frame = ' class="peak"' if token == peak else ""
            letters = f'<mark{frame} style="--a:{shade:.2f}" title="{values[token]:.2f}">{letters}</mark>'
        parts.append(letters)
    return "".join(parts)


def bar_html(share: float) -> str:
    """A bar as long as ``share`` of its room."""
    return f'<div class="bar"><div style="width:{100 * min(1.0, max(0.0, share)):.0f}%"></div></div>'


def transfer_html(table: pd.DataFrame) -> str:
    """Scores [tag, corpus]; the best of each corpus is framed."""
    best = table.idxmax()
    lines = [
        (tag, "".join(cell_html(value, best[corpus] == tag) for corpus, value in line.items()))
        for tag, line in table.iterrows()
    ]
    return table_html(["tag", *table], lines)


def cell_html(value: float, framed: bool = False) -> str:
    """A number from -1 to 1 as a cell, blue above 0 and orange below."""
    color = "0,114,178" if value >= 0 else "230,159,0"
    frame = " class=best" if framed else ""
    return f'<td{frame} style="background:rgba({color},{min(1, abs(value)) * 0.55:.2f})">{value:z.2f}</td>'


def words_html(text: Any) -> str:
    """Words as a cell."""
    return f'<td class="words" dir="auto">{escaped(text)}</td>'


def table_html(head: Sequence[Any], lines: Iterable[tuple[Any, str]]) -> str:
    """A table of ``(name, cells)``; where it is wider than its room it can be moved sideways."""
    first = "".join(f'<th dir="auto">{escaped(name)}</th>' for name in head)
    rest = "".join(f'<tr><th dir="auto">{escaped(name)}</th>{cells}</tr>' for name, cells in lines)
    return f'<div class="wide"><table class="scores"><tr>{first}</tr>{rest}</table></div>'


def histogram_svg(values: np.ndarray, scale: tuple[float, float], bins: int = 40) -> str:
    """Counts of activations over the range ``scale``, square-root height so that tails show."""
    counts, edges = np.histogram(values, bins=bins, range=scale)
    heights = np.sqrt(counts / max(1, counts.max())) * 30
    bars = "".join(f"M{4 * i} 32v{-h:.1f}h3.4v{h:.1f}z" for i, h in enumerate(heights) if h)
    title = f"activations from {edges[0]:.2f} to {edges[-1]:.2f}"
    return (
        f'<svg viewBox="0 0 {4 * bins} 34" preserveAspectRatio="none" role="img">'
        f'<title>{title}</title><path d="{bars}" fill="#56B4E9"/></svg>'
    )
