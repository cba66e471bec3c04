"""Views: pieces of HTML, a page of them without a kernel, and what a notebook shows of a widget.

    Views(title, controls, view)     a view with a few choices, live and as a page
    page(title, body, data, script)  a page that needs no kernel, no server and no network
    live_and_static(widget, view, kwargs)   what a notebook shows: both
    controls([field, ...])           fields in a box that keeps the keys typed into it
    shade_html, fate_html, histogram_svg, bar_html    pieces

Colours are of Okabe and Ito's set, and nothing is said by colour alone: the peak of a text and the best tag
of a corpus are framed, a wrong edge is broken, and every shade has its number in the title or in the cell.
"""

from __future__ import annotations

import html
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd

CSS = """
.nbkit{font:15px/1.45 system-ui,sans-serif;color:#1a1a1a;background:#fff;padding:.6em}
.nbkit h3{margin:.2em 0 .5em;font-size:1.15em}
.nbkit table.fate{border-collapse:collapse;margin:0 0 1em}
.nbkit table.fate th,.nbkit table.fate td{padding:.2em .7em;text-align:right;border:1px solid #ddd}
.nbkit table.fate th{text-align:center}
.nbkit table.fate th:first-child,.nbkit table.fate td.said{text-align:left}
.nbkit td.best{outline:2px solid #1a1a1a;outline-offset:-2px;font-weight:700}
.nbkit .corpora{display:grid;grid-template-columns:repeat(auto-fit,minmax(12em,1fr));gap:1em}
.nbkit .corpus h4{margin:0;font-size:1em;border-bottom:2px solid #0072B2}
.nbkit ol{padding-left:1.8em;margin:.3em 0}
.nbkit li{margin:.35em 0;font-size:.93em}
.nbkit li::marker{color:#666;font-size:.85em}
.nbkit mark{background:none;border-radius:2px;color:inherit}
.nbkit mark.peak{outline:1.5px solid #b03a00}
.nbkit svg{display:block;width:100%;height:34px}
.nbkit .bar{background:#eee;height:.9em;min-width:8em;border-radius:2px}
.nbkit .bar div{background:#0072B2;height:100%;border-radius:2px}
.nbkit table.plain th{text-align:left;font-weight:400;padding-right:.8em}
.nbkit table.plain td{padding:.1em .5em;min-width:2em}
.nbkit .wide{overflow-x:auto;contain:inline-size;background:
linear-gradient(90deg,transparent,#fff 60%) 100% 0/4em 100% no-repeat local,
linear-gradient(270deg,#bbb,transparent) 100% 0/.8em 100% no-repeat scroll}
.nbkit svg.tree{font:15px system-ui,sans-serif;max-width:none}
.nbkit .note,.nbkit.note{color:#555;font-size:.85em;margin:.2em 0 .8em}
.nbkit.near td,.nbkit.near th{white-space:nowrap}
.nbkit-controls{--jp-widgets-font-size:15px;--jp-widgets-inline-label-width:6.5em}
"""

PAGE_CSS = """
body{margin:1em auto;max-width:80em;padding:0 1em;font-family:system-ui,sans-serif}
select,input{font-size:1em;max-width:100%;padding:.3em}
button{font:inherit;color:#0072B2;background:none;border:0;padding:0;text-decoration:underline;cursor:pointer}
:focus-visible{outline:3px solid #E69F00;outline-offset:1px}
select[size]{width:44em}
.nbkit-fields{display:flex;flex-wrap:wrap;gap:.4em 1.2em}
output{margin-left:.5em}
input[type=range]{width:min(24em,60vw);padding:0;vertical-align:middle}
"""

#: Shows the view for what is chosen in the page's fields.
SHOW_VIEW = """
var fields = Array.from(document.querySelectorAll("select,input"));
function show() {
  var choice = fields.map(function (f) { return f.value; }).join(",");
  document.getElementById("view").innerHTML = data.views[choice];
  fields.forEach(function (f, i) {
    var out = f.parentNode.querySelector("output");
    if (out) out.textContent = data.names[i][f.value];
  });
}
fields.forEach(function (f) { f.addEventListener("input", show); });
show();
"""

#: While a list or a slider has the focus, JupyterLab still takes arrows, X and D D for its own commands on
#: cells, unless the list has this attribute. ipywidgets cannot set one, so a line of script does.
KEYBOARD = """document.addEventListener("focusin", function (event) {
  if (event.target.closest(".nbkit-controls"))
    event.target.setAttribute("data-lm-suppress-shortcuts", "true");
});"""


class Views:
    """A view with a few choices: ``view(*choice)`` is HTML, ``controls`` {name: its options}.

    Numbers get a slider, names a list. ``to_html`` makes a page of all combinations.
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

    def _field(self, name: str, options: list) -> ipywidgets.Widget:
        kind = ipywidgets.SelectionSlider if _numbers(options) else ipywidgets.Dropdown
        return kind(options=options, description=name, layout={"width": "40em"})

    def to_html(self) -> str:
        """A page that needs no kernel, no server and no network."""
        fields, places = [], itertools.product(*(range(len(options)) for options in self.controls.values()))
        for name, options in self.controls.items():
            if _numbers(options):
                field = f'<input type="range" min="0" max="{len(options) - 1}" value="0"><output></output>'
            else:
                field = f"<select>{options_html(enumerate(options))}</select>"
            fields.append(f"<p><label>{html.escape(name)} {field}</label></p>")
        views = {
            ",".join(map(str, place)): self.view(
                *(options[i] for i, options in zip(place, self.controls.values(), strict=True))
            )
            for place in places
        }
        data = {"views": views, "names": [[str(o) for o in options] for options in self.controls.values()]}
        return page(self.title, f'{"".join(fields)}<div id="view"></div>', data, SHOW_VIEW)

    def _repr_mimebundle_(self, **kwargs: object) -> dict:
        first = self.view(*(options[0] for options in self.controls.values()))
        return live_and_static(self.widget(), first, kwargs)

    def __repr__(self) -> str:
        return f"Views({self.title}: {', '.join(self.controls)})"


def live_and_static(widget: ipywidgets.Widget, view: str, kwargs: dict) -> dict:
    """What a notebook shows: the live widget, and beside it a static view for readers without a kernel."""
    bundle = widget._repr_mimebundle_(**kwargs)
    bundle = bundle[0] if isinstance(bundle, tuple) else bundle
    return {**bundle, "text/html": styled(view)}


def styled(view: str) -> str:
    """A view with the style it needs, for an output or a widget of its own."""
    return f"<style>{CSS}</style>{view}"


def page(title: str, body: str, data: Any = None, script: str = "") -> str:
    """A page in one file. ``script`` finds ``data`` (anything JSON can hold) as the variable ``data``."""
    held = json.dumps(data, ensure_ascii=False).replace("</", "<\\/").replace("<!", "\\u003c!")
    name, found = html.escape(title), "var data = JSON.parse(document.getElementById('data').textContent);"
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{name}</title>'
        f"<style>{PAGE_CSS}{CSS}</style><h1>{name}</h1>{body}"
        f'<script id="data" type="application/json">{held}</script><script>{found}{script}</script></html>\n'
    )


def options_html(options: Iterable[tuple[Any, Any]]) -> str:
    """The options of a list, from (value, name)."""
    return "".join(
        f'<option value="{html.escape(str(value))}">{html.escape(str(name))}</option>'
        for value, name in options
    )


def _numbers(options: Sequence) -> bool:
    return all(isinstance(option, (int, float, np.integer, np.floating)) for option in options)


def controls(fields: Sequence[ipywidgets.Widget]) -> ipywidgets.VBox:
    """The fields in a box that keeps the keys typed into it (``KEYBOARD``), and the style of the views.

    Once, and not with each view: a new style makes the browser lay out all of JupyterLab again.
    """
    script = {"output_type": "display_data", "data": {"application/javascript": KEYBOARD}, "metadata": {}}
    unseen = ipywidgets.Output(outputs=(script,), layout={"display": "none"})
    style = ipywidgets.HTML(f"<style>{CSS}</style>", layout={"display": "none"})
    return ipywidgets.VBox([*fields, unseen, style]).add_class("nbkit-controls")


def shade_html(text: str, tokens: pd.DataFrame, bound: float) -> str:
    """``text`` with every token shaded by activation / ``bound``; the peak is framed.

    ``tokens`` has start, end, activation (``exemplars.shade``). Negative activations stay white.
    """
    parts, at = [], 0
    peak = tokens["activation"].idxmax()
    for i, (start, end, value) in enumerate(
        zip(tokens["start"], tokens["end"], tokens["activation"], strict=True)
    ):
        parts.append(html.escape(text[at:start]))
        weight = min(1.0, max(0.0, value / bound)) if bound > 0 else 0.0
        frame = ' class="peak"' if i == peak else ""
        parts.append(
            f'<mark{frame} style="background:rgba(230,159,0,{weight:.2f})" title="{value:.2f}">'
            f"{html.escape(text[start:end])}</mark>"
        )
        at = end
    return "".join(parts) + html.escape(text[at:])


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


def status_html(text: str) -> str:
    """Words as a cell."""
    return f'<td class="said">{html.escape(text)}</td>'


def table_html(head: Sequence[Any], lines: Iterable[tuple[Any, str]]) -> str:
    """A table of ``(name, cells)``; where it is wider than its room it can be moved sideways."""
    first = "".join(f"<th>{html.escape(str(name))}</th>" for name in head)
    rest = "".join(f"<tr><th>{html.escape(str(name))}</th>{cells}</tr>" for name, cells in lines)
    return f'<div class="wide"><table class="fate"><tr>{first}</tr>{rest}</table></div>'


def histogram_svg(values: np.ndarray, scale: tuple[float, float], bins: int = 40) -> str:
    """Counts of activations over the range ``scale``, square-root height so that tails show."""
    counts, edges = np.histogram(values, bins=bins, range=scale)
    heights = np.sqrt(counts / counts.max()) * 30
    bars = "".join(
        f'<rect x="{4 * i}" y="{32 - h:.1f}" width="3.4" height="{h:.1f}" fill="#56B4E9"/>'
        for i, h in enumerate(heights)
    )
    title = f"activations from {edges[0]:.2f} to {edges[-1]:.2f}"
    return (
        f'<svg viewBox="0 0 {4 * bins} 34" preserveAspectRatio="none" role="img">'
        f"<title>{title}</title>{bars}</svg>"
    )
