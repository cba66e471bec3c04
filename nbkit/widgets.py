"""Widgets: the same views with controls, and static without a kernel.

    browser = neuron_browser(subject, corpora, activations, labels)
    browser                      in a notebook: choose a descriptor, then a unit
    browser.view(unit)           the HTML of one unit
    browser.to_html(units)       a page that needs no kernel, no server and no network
    salience_slider(...)         accuracy, units and words as the number of units moves
    tree_stepper(...)            gold and probed trees, sentence by sentence and layer by layer
    annotate(sets, path, "ada")  judge blinded sets of texts; every answer is saved, and resumed from
    Views(title, controls, view) what the last two are: any view with a few choices
    descriptor_editor(merged, path)   rename, join and drop descriptors; later runs read the file

A unit's view has one column a corpus: its strongest texts with the tokens shaded by activation, a
histogram of its activations, and above them the fate of its tags: the score of each corpus's best
descriptors in every corpus. A tag whose number is high in one column only is the illusion.
"""

from __future__ import annotations

import html
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets
import numpy as np
import pandas as pd

from nbkit import exemplars, matching, provenance
from nbkit.figures import fate_table
from nbkit.texts import Texts

if TYPE_CHECKING:
    from nbkit.activations import Activations
    from nbkit.descriptors import Descriptors
    from nbkit.models import Subject

CSS = """
.nbkit{font:15px/1.45 system-ui,sans-serif;color:#1a1a1a;background:#fff;padding:.6em}
.nbkit h3{margin:.2em 0 .5em;font-size:1.15em}
.nbkit table.fate{border-collapse:collapse;margin:0 0 1em}
.nbkit table.fate th,.nbkit table.fate td{padding:.2em .7em;text-align:right;border:1px solid #ddd}
.nbkit table.fate th:first-child{text-align:left}
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
.nbkit .wide{overflow-x:auto;background:
linear-gradient(90deg,transparent,#fff 60%) 100% 0/4em 100% no-repeat local,
linear-gradient(270deg,#bbb,transparent) 100% 0/.8em 100% no-repeat scroll}
.nbkit svg.tree{font:15px system-ui,sans-serif;max-width:none}
.nbkit .note{color:#555;font-size:.85em;margin:.2em 0 .8em}
"""

#: While a list or a slider has the focus, JupyterLab still takes arrows, X and D D for its own commands on
#: cells, unless the list has this attribute. ipywidgets cannot set one, so a line of script does.
KEYBOARD = """document.addEventListener("focusin", function (event) {
  if (event.target.closest(".nbkit-controls"))
    event.target.setAttribute("data-lm-suppress-shortcuts", "true");
});"""


def neuron_browser(
    subject: Subject,
    corpora: Mapping[str, Texts],
    activations: Mapping[str, Activations],
    labels: Mapping[str, pd.DataFrame],
    *,
    method: str = "pearson",
    k: int = 6,
) -> NeuronBrowser:
    """Browse the units of ``activations`` (text rows, the same units in every corpus).

    corpora, activations, labels   by the same corpus names; labels are [text, descriptor]
    method                         scorer of the fates
    k                              exemplars a corpus
    """
    return NeuronBrowser(subject, corpora, activations, labels, method=method, k=k)


class NeuronBrowser:
    """See ``neuron_browser``. ``scores`` holds [descriptor, unit] for every corpus."""

    def __init__(self, subject, corpora, activations, labels, *, method: str, k: int) -> None:
        self.subject, self.corpora, self.activations, self.k = subject, corpora, activations, k
        self.scores = {
            name: matching.score(stored, labels[name], method) for name, stored in activations.items()
        }
        known = [set(scores.index) for scores in self.scores.values()]
        first = next(iter(self.scores.values()))
        self.descriptors = [name for name in first.index if name in set.intersection(*known)]
        self.units = first.columns.to_numpy()
        known_everywhere = {name: scores.loc[self.descriptors] for name, scores in self.scores.items()}
        every = pd.concat(known_everywhere).fillna(-np.inf)  # [(corpus, descriptor), unit]
        self._best = pd.DataFrame({"tag": every.idxmax(), "score": every.max()})
        self._views: dict[str, str] = {}

    def best_units(self, descriptor: str, n: int = 50) -> list[str]:
        """Units whose score for ``descriptor`` is highest in any one corpus."""
        table = pd.DataFrame({c: s.loc[descriptor] for c, s in self.scores.items()})
        return table.max(axis=1).nlargest(n).index.tolist()

    def view(self, unit: str) -> str:
        """The HTML of one unit: fate of its tags, then exemplars and histogram in every corpus."""
        *_, last = self._drawn(unit)
        return last

    def _drawn(self, unit: str) -> Iterable[str]:
        """What a widget shows one after the other; of a unit seen before only the last."""
        return [self._views[unit]] if unit in self._views else self._stages(unit)

    def to_html(self, units: Sequence[str] | None = None, title: str = "Neuron browser") -> str:
        """A page with a list of ``units`` (default: the best unit of every descriptor)."""
        if units is None:
            units = list(dict.fromkeys(self.best_units(name, 1)[0] for name in self.descriptors))
        options = "".join(
            f'<option value="u{i}">{html.escape(self._title(unit))}</option>' for i, unit in enumerate(units)
        )
        views = "".join(
            f'<section id="u{i}"{"" if i == 0 else " hidden"}>{self.view(unit)}</section>'
            for i, unit in enumerate(units)
        )
        return PAGE.format(title=html.escape(title), css=CSS, options=options, views=views)

    def widget(self) -> ipywidgets.Widget:
        """Controls and view: a descriptor, its units, or a unit by name."""
        wide = {"width": "36em"}
        descriptor = ipywidgets.Dropdown(options=self.descriptors, description="descriptor", layout=wide)
        unit = ipywidgets.Select(description="unit", rows=8, layout=wide)
        name = ipywidgets.Text(description="or by name", placeholder="layer.3.ffn.512", layout=wide)
        page = ipywidgets.HTML()

        def list_units(*_: object) -> None:
            unit.options = [(self._title(u), u) for u in self.best_units(descriptor.value)]
            unit.value = unit.options[0][1]

        def draw(which: str) -> None:
            for view in self._drawn(which):
                page.value = f"<style>{CSS}</style>{view}"

        def show(*_: object) -> None:
            if unit.value:
                draw(unit.value)

        def show_named(*_: object) -> None:
            if name.value in self.units:
                draw(name.value)
            elif name.value:
                text = html.escape(f"no unit {name.value}; names look like {self.units[0]}")
                page.value = f"<p>{text}</p>"

        descriptor.observe(list_units, names="value")
        unit.observe(show, names="value")
        name.observe(show_named, names="value")
        list_units()
        show()
        return ipywidgets.VBox([_controls([descriptor, unit, name]), page])

    def _repr_mimebundle_(self, **kwargs: object) -> dict:
        first = self.best_units(self.descriptors[0], 1)[0]
        return _live_and_static(self.widget(), self.view(first), kwargs)

    def __repr__(self) -> str:
        return f"NeuronBrowser({len(self.units):,} units, {', '.join(self.corpora)})"

    # ------------------------------------------------------------------------------ rendering

    def _title(self, unit: str) -> str:
        """The unit with its best tag and the corpus where it is best."""
        (corpus, descriptor), score = self._best.loc[unit]
        return f"{unit} · {descriptor} {score:z.2f} in {corpus}"

    def _stages(self, unit: str) -> Iterator[str]:
        """The view of one unit twice: from the stores, at once; then with its tokens shaded, for which the
        model runs over the exemplars of all corpora."""
        best = pd.concat(
            {name: exemplars.top(a, self.corpora[name], unit, self.k) for name, a in self.activations.items()}
        )
        yield self._page(unit, best.assign(tokens=None))
        shaded = exemplars.shade(self.subject, Texts.from_list(best["text"]), unit)
        self._views[unit] = self._page(unit, best.assign(tokens=list(shaded.values())))
        yield self._views[unit]

    def _page(self, unit: str, best: pd.DataFrame) -> str:
        columns = [stored.values[:, stored.column(unit)] for stored in self.activations.values()]
        scale = min(float(c.min()) for c in columns), max(float(c.max()) for c in columns)
        corpora = "".join(self._corpus(name, unit, best.loc[name], scale) for name in self.corpora)
        return (
            f'<div class="nbkit"><h3>{html.escape(unit)}</h3>{_fate_html(fate_table(self.scores, unit, 2))}'
            '<p class="note">score of each tag in each corpus; framed: the best there</p>'
            f'<div class="corpora">{corpora}</div><p class="note">histograms from {scale[0]:z.2f} to'
            f" {scale[1]:z.2f} in every corpus; tokens shaded from 0 to {max(0, scale[1]):z.2f}</p></div>"
        )

    def _corpus(self, name: str, unit: str, best: pd.DataFrame, scale: tuple[float, float]) -> str:
        """Histogram and exemplars of one corpus, on the ``scale`` of all: what is weak here looks weak."""
        stored = self.activations[name]
        items = "".join(
            f"<li>{html.escape(text) if tokens is None else shade_html(text, tokens, scale[1])}</li>"
            for text, tokens in zip(best["text"], best["tokens"], strict=True)
        )
        histogram = _histogram_svg(np.asarray(stored.values[:, stored.column(unit)], np.float32), scale)
        low, high = best["activation"].iloc[-1], best["activation"].iloc[0]
        return (
            f'<div class="corpus"><h4>{html.escape(name)}</h4>{histogram}'
            f'<div class="note">top {self.k}: {high:z.2f} to {low:z.2f}</div><ol>{items}</ol></div>'
        )


def _controls(controls: Sequence[ipywidgets.Widget]) -> ipywidgets.VBox:
    """The controls in a box that keeps the keys typed into it (``KEYBOARD``)."""
    script = {"output_type": "display_data", "data": {"application/javascript": KEYBOARD}, "metadata": {}}
    unseen = ipywidgets.Output(outputs=(script,), layout={"display": "none"})
    return ipywidgets.VBox([*controls, unseen]).add_class("nbkit-controls")


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


PAGE = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>{title}</title>
<style>body{{margin:1em auto;max-width:80em;padding:0 1em;font-family:system-ui,sans-serif}}
select{{font-size:1em;max-width:100%;padding:.3em}}{css}</style>
<h1>{title}</h1><p><label>Unit <select id="unit">{options}</select></label></p>
{views}
<script>
document.getElementById("unit").addEventListener("change", function () {{
  var chosen = this.value;
  document.querySelectorAll("section").forEach(function (s) {{ s.hidden = s.id !== chosen; }});
}});
</script></html>
"""


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
        controls = [self._control(name, options) for name, options in self.controls.items()]
        page = ipywidgets.HTML()

        def show(*_: object) -> None:
            page.value = f"<style>{CSS}</style>{self.view(*(control.value for control in controls))}"

        for control in controls:
            control.observe(show, names="value")
        show()
        return ipywidgets.VBox([_controls(controls), page])

    def _control(self, name: str, options: list) -> ipywidgets.Widget:
        kind = ipywidgets.SelectionSlider if _numbers(options) else ipywidgets.Dropdown
        return kind(options=options, description=name, layout={"width": "40em"})

    def to_html(self) -> str:
        """A page that needs no kernel, no server and no network."""
        inputs, places = [], [range(len(options)) for options in self.controls.values()]
        for name, options in self.controls.items():
            if _numbers(options):
                field = f'<input type="range" min="0" max="{len(options) - 1}" value="0"><output></output>'
            else:
                names = "".join(
                    f'<option value="{i}">{html.escape(str(option))}</option>'
                    for i, option in enumerate(options)
                )
                field = f"<select>{names}</select>"
            inputs.append(f"<p><label>{html.escape(name)} {field}</label></p>")
        views = {
            ",".join(map(str, place)): self.view(
                *(options[i] for i, options in zip(place, self.controls.values(), strict=True))
            )
            for place in itertools.product(*places)
        }
        data = {"views": views, "names": [[str(o) for o in options] for options in self.controls.values()]}
        return VIEWS_PAGE.format(
            title=html.escape(self.title),
            css=CSS,
            controls="".join(inputs),
            data=json.dumps(data).replace("</", "<\\/"),
        )

    def _repr_mimebundle_(self, **kwargs: object) -> dict:
        first = self.view(*(options[0] for options in self.controls.values()))
        return _live_and_static(self.widget(), first, kwargs)

    def __repr__(self) -> str:
        return f"Views({self.title}: {', '.join(self.controls)})"


def _live_and_static(widget: ipywidgets.Widget, view: str, kwargs: dict) -> dict:
    """What a notebook shows: the live widget, and beside it a static view for readers without a kernel."""
    bundle = widget._repr_mimebundle_(**kwargs)
    bundle = bundle[0] if isinstance(bundle, tuple) else bundle
    return {**bundle, "text/html": f"<style>{CSS}</style>{view}"}


def _numbers(options: Sequence) -> bool:
    return all(isinstance(option, (int, float, np.integer, np.floating)) for option in options)


def salience_slider(
    stored: Mapping[str, tuple[np.ndarray, pd.Series]],
    units: pd.DataFrame,
    rankings: Mapping[str, Any],
    curves: Mapping[str, pd.DataFrame],
    words: pd.Series,
    *,
    shown: int = 12,
) -> Views:
    """How much of a property the first n units keep, which units they are, and which words excite them.

    stored     {property: (X [word, unit], y [word])} of ``salience.matrix``
    units      frame of the columns
    rankings   {property: Ranking}
    curves     {property: frame with n and accuracy} of ``salience.curve``; the last line is all units
    words      form of each word, by (text_id, word_id)
    shown      units in the list
    """
    counts = sorted(set.intersection(*(set(c["n"][:-1]) for c in curves.values())))
    tables = {what: _unit_lines(*stored[what], units, rankings[what], words, shown) for what in rankings}

    def view(what: str, n: int) -> str:
        curve = curves[what].set_index("n")["accuracy"]
        chosen = rankings[what].top(n)
        layers = units["site"].iloc[chosen].value_counts().reindex(units["site"].unique(), fill_value=0)
        bars = "".join(
            f"<tr><th>{html.escape(site)}</th><td>{_bar_html(count / n)}</td><td>{count}</td></tr>"
            for site, count in layers.items()
        )
        everything = float(curve.iloc[-1])
        return (
            f"<h3>{html.escape(what)}: {n} of {len(units):,} units keep {curve[n]:.2f}, all reach"
            f" {everything:.2f}</h3>{_bar_html(curve[n] / everything)}"
            f'<div class="corpora"><div><h4>where they are</h4><table class="plain">{bars}</table></div>'
            f"<div><h4>the first {min(n, shown)}, and the words they are highest on</h4>"
            f"<ol>{''.join(tables[what][:n])}</ol></div></div>"
        )

    return Views("Salient neurons", {"property": list(rankings), "units": counts}, view)


def _unit_lines(X, y: pd.Series, units: pd.DataFrame, ranking, words: pd.Series, shown: int) -> list[str]:
    forms, lines = words.loc[y.index].to_numpy(), []
    classes = y.to_numpy()
    for column in ranking.top(shown):
        best = np.argsort(-X[:, column], kind="stable")[:40]
        common = pd.Series(classes[best]).mode().iloc[0]
        some = ", ".join(dict.fromkeys(str(f).lower() for f in forms[best]).keys() if len(best) else [])
        short = ", ".join(some.split(", ")[:6])
        lines.append(
            f"<li><b>{html.escape(units['unit'].iloc[column])}</b> {html.escape(str(common))}:"
            f" {html.escape(short)}</li>"
        )
    return lines


def _bar_html(share: float) -> str:
    return f'<div class="bar"><div style="width:{100 * min(1.0, max(0.0, share)):.0f}%"></div></div>'


class DescriptorEditor:
    """See ``descriptor_editor``. ``edits`` is what the file holds, ``result`` the descriptors after it."""

    def __init__(self, merged: Descriptors, path: str | Path) -> None:
        self.merged, self.path = merged, Path(path)
        nothing = {"join": {}, "drop": [], "rename": {}}
        self.edits = {**nothing, **(json.loads(self.path.read_text()) if self.path.exists() else {})}
        self.result = merged.edited(self.edits)

    def rename(self, old: str, new: str) -> None:
        self._change("rename", {**self.edits["rename"], self._original(old): new.strip()})

    def join(self, one: str, other: str) -> None:
        self._change("join", {**self.edits["join"], self._original(one): self._original(other)})

    def drop(self, name: str) -> None:
        self._change("drop", [*self.edits["drop"], self._original(name)])

    def undo(self) -> None:
        """Back to what was merged; the file is kept, empty."""
        self.edits = {"join": {}, "drop": [], "rename": {}}
        self._save(self.merged)

    def _original(self, name: str) -> str:
        """The name before it was changed by hand."""
        back = {new: old for old, new in self.edits["rename"].items()}
        return back.get(name, name)

    def _change(self, kind: str, value: Any) -> None:
        edits = {**self.edits, kind: value}
        result = self.merged.edited(edits)  # raises before anything is saved
        self.edits = edits
        self._save(result)

    def _save(self, result: Descriptors) -> None:
        partial = self.path.with_name(self.path.name + ".part")
        partial.write_text(json.dumps(self.edits, indent=1, ensure_ascii=False))
        partial.replace(self.path)
        self.result = result

    def widget(self) -> ipywidgets.Widget:
        """A list of descriptors, a field for a new name, and buttons."""
        wide = {"width": "40em"}
        chosen = ipywidgets.Select(description="descriptor", rows=10, layout=wide)
        text = ipywidgets.Text(description="new name", layout=wide)
        other = ipywidgets.Dropdown(description="join to", layout=wide)
        page, buttons = ipywidgets.HTML(), {}

        def refresh(message: str = "") -> None:
            frame = self.result.frame
            options = [
                (f"{name} ({n})", name) for name, n in zip(frame["descriptor"], frame["n_texts"], strict=True)
            ]
            chosen.options, other.options = options, options
            chosen.index = other.index = 0 if options else None
            page.value = f"<style>{CSS}</style>{self.view()}<p><b>{html.escape(message)}</b></p>"

        def act(change: Callable[[], None]) -> None:
            try:
                change()
            except ValueError as error:
                refresh(str(error))
            else:
                refresh(f"saved in {self.path.name}")

        actions = {
            "rename": lambda: self.rename(chosen.value, text.value),
            "join": lambda: self.join(chosen.value, other.value),
            "drop": lambda: self.drop(chosen.value),
            "undo all": self.undo,
        }
        for name, action in actions.items():
            buttons[name] = ipywidgets.Button(description=name)
            buttons[name].on_click(lambda _, action=action: act(action))
        refresh()
        fields = _controls([chosen, text, other, ipywidgets.HBox(list(buttons.values()))])
        return ipywidgets.VBox([fields, page])

    def view(self) -> str:
        """The descriptors as they are now, with the wordings each stands for."""
        lines = "".join(
            f"<tr><th>{html.escape(line.descriptor)}</th><td>{line.n_texts}</td>"
            f"<td>{html.escape(', '.join(line.members[:8]))}</td></tr>"
            for line in self.result.frame.head(30).itertuples()
        )
        return (
            f'<div class="nbkit"><h3>{len(self.result)} descriptors</h3><table class="plain">'
            f"<tr><th>descriptor</th><th>texts</th><th>stands for</th></tr>{lines}</table></div>"
        )

    def to_html(self) -> str:
        """A page that needs no kernel."""
        style = f"<style>body{{font-family:system-ui,sans-serif}}{CSS}</style>"
        head = '<!doctype html><html lang="en"><meta charset="utf-8"><title>Descriptors</title>'
        return f"{head}{style}{self.view()}</html>"

    def _repr_mimebundle_(self, **kwargs: object) -> dict:
        return _live_and_static(self.widget(), self.view(), kwargs)

    def __repr__(self) -> str:
        return f"DescriptorEditor({len(self.result)} descriptors, {self.path.name})"


def descriptor_editor(merged: Descriptors, path: str | Path) -> DescriptorEditor:
    """Rename, join and drop descriptors by hand. Every change goes into the file ``path`` at once, and
    ``descriptors.merge(..., edits=path)`` reads it in later runs."""
    return DescriptorEditor(merged, path)


def tree_stepper(
    forms: Mapping[str, Sequence[str]],
    gold: Mapping[str, set[tuple[int, int]]],
    predicted: Mapping[str, Mapping[Any, set[tuple[int, int]]]],
) -> Views:
    """Step through sentences and layers: gold edges above the words, those of a probe below.

    forms      {sentence: its words}
    gold       {sentence: edges as (smaller, larger) positions}
    predicted  {sentence: {layer: edges}} (``trees.predicted_edges``)
    """

    def view(sentence: str, layer: Any) -> str:
        truth, said = gold[sentence], predicted[sentence][layer]
        share = len(truth & said) / max(1, len(truth))
        return (
            f"<h3>{share:.0%} of the edges at {html.escape(str(layer))}</h3>"
            f"{_tree_svg(forms[sentence], truth, said)}"
            '<p class="note">above: gold; below: the probe, blue where right, red and broken where wrong</p>'
        )

    layers = list(next(iter(predicted.values())))
    return Views("Trees in the vectors", {"sentence": list(forms), "layer": layers}, view)


def _tree_svg(forms: Sequence[str], gold: set, predicted: set) -> str:
    """Arcs over and under the words."""
    widths = [max(30, 9 * len(form) + 12) for form in forms]
    middle = np.cumsum(widths) - np.array(widths) / 2
    rise = 12 + 9 * max([b - a for a, b in gold | predicted], default=1)
    paths = []
    for edges, up in ((gold, True), (predicted, False)):
        for a, b in sorted(edges):
            right = up or (a, b) in gold
            base, height = (rise if up else rise + 26), (12 + 18 * (b - a)) * (-1 if up else 1)
            color = "#1a1a1a" if up else ("#0072B2" if right else "#B03A00")
            dash = "" if right else ' stroke-dasharray="5 3"'
            paths.append(
                f'<path d="M{middle[a]:.0f} {base} Q{(middle[a] + middle[b]) / 2:.0f} {base + height}'
                f' {middle[b]:.0f} {base}" fill="none" stroke="{color}" stroke-width="1.6"{dash}/>'
            )
    words = "".join(
        f'<text x="{x:.0f}" y="{rise + 18}" text-anchor="middle">{html.escape(form)}</text>'
        for x, form in zip(middle, forms, strict=True)
    )
    width, height = sum(widths), 2 * rise + 26
    return (
        f'<div class="wide"><svg class="tree" viewBox="0 0 {width} {height}" role="img"'
        f' style="width:{width}px;height:{height}px"><title>gold and probed edges</title>'
        f"{''.join(paths)}{words}</svg></div>"
    )


RANGE = r"\d{1,3}(?:-\d{1,3})?"  # 4, or 5-8


def annotate(sets: pd.DataFrame, path: str | Path, annotator: str) -> Annotation:
    """Judge blinded sets of texts (``illusions.annotation_set``): is there a pattern, which, in which texts?

    path       a folder; the answers of ``annotator`` are in path/ANNOTATOR.csv, saved after every set (the
               file is whole at any time). Called again, it goes on where that file ends
    annotator  letters, digits, - and _; another one may go on in the same kernel, by another call or by
               the field above the set

    By keyboard: in the field under the texts type ``n`` (no pattern), or the name of the pattern, a
    colon and the texts that have it (``asks for help: 1 3 5-8``), then Enter.

    Read the answers with ``illusions.agreement_of(path, key)``. A name that is no file name, and a file with
    answers on other sets, are a ``ValueError``.
    """
    return Annotation(sets, path, annotator)


class Annotation:
    """See ``annotate``. ``answers`` is the frame that is saved; ``current`` the id of the set on show."""

    COLUMNS = ("annotator", "set_id", "pattern", "name", "positives", "sets")

    def __init__(self, sets: pd.DataFrame, path: str | Path, annotator: str) -> None:
        self.folder = Path(path)
        self._sets = {i: part.sort_values("rank") for i, part in sets.groupby("set_id", sort=False)}
        if not self._sets:
            raise ValueError("there are no sets to annotate")
        columns = ["set_id", "corpus", "rank", "text_id", "text"]
        self._mark = provenance.fingerprint(sets[columns].to_csv(index=False))[:12]
        self.switch(annotator)

    def switch(self, annotator: str) -> None:
        """Go on as another annotator, at the first set that has no answer of theirs."""
        if not re.fullmatch(r"[\w-]+", annotator):
            raise ValueError(f"annotator {annotator!r}: letters, digits, - and _ only, it names a file")
        path, answers = self.folder / f"{annotator}.csv", pd.DataFrame(columns=list(self.COLUMNS))
        if path.exists():
            answers = pd.read_csv(path, dtype=str, keep_default_na=False)
            if list(answers) != list(self.COLUMNS) or set(answers["sets"]) - {self._mark}:
                raise ValueError(f"{path} holds answers on other sets: choose another folder or name")
        self.annotator, self.path = annotator, path
        self._answers = {line["set_id"]: line for line in answers.to_dict("records")}
        self.current = self._next(None)

    @property
    def answers(self) -> pd.DataFrame:
        """annotator, set_id, pattern (yes or no), name, positives ("1 4 7"), sets (their fingerprint)."""
        return pd.DataFrame(list(self._answers.values()), columns=list(self.COLUMNS))

    def answer(self, pattern: bool, name: str = "", positives: Sequence[int] = ()) -> None:
        """Save the judgement of the current set and go to the next. A pattern needs a name and two texts."""
        if self.current is None:
            raise ValueError(f"{self.annotator} has judged all {len(self._sets)} sets")
        chosen, n = sorted(set(positives)), len(self._sets[self.current])
        if pattern and (not name.strip() or len(chosen) < 2):
            raise ValueError("a pattern needs a name, and two texts at least that have it")
        if pattern and not 1 <= chosen[0] <= chosen[-1] <= n:
            raise ValueError(f"the texts are numbered from 1 to {n}")
        line = [self.annotator, self.current, "yes" if pattern else "no"]
        line += [name.strip(), " ".join(map(str, chosen))] if pattern else ["", ""]
        answer = dict(zip(self.COLUMNS, [*line, self._mark], strict=True))
        answers = {**self._answers, self.current: answer}
        self._save(answers)  # what could not be written does not count as answered
        self._answers = answers
        self.current = self._next(self.current)

    def typed(self, line: str) -> None:
        """``n``, or ``NAME: NUMBERS`` with ranges such as 5-8; anything else is a ``ValueError``."""
        if line.strip().lower() in ("n", "no"):
            return self.answer(False)
        found = re.fullmatch(rf"(.*\S)\s*:\s*({RANGE}(?:[\s,]+{RANGE})*)", line.strip())
        if not found:
            raise ValueError("type n, or the pattern's name, a colon and numbers: asks for help: 1 3 5-8")
        numbers: list[int] = []
        for low, high in re.findall(r"(\d+)(?:-(\d+))?", found[2]):
            numbers += range(int(low), int(high or low) + 1)
        return self.answer(True, found[1], numbers)

    def back(self) -> None:
        """Show the set before the current one again; a new answer replaces the old one."""
        ids = list(self._sets)
        at = len(ids) if self.current is None else ids.index(self.current)
        self.current = ids[max(0, at - 1)]

    def _next(self, after: str | None) -> str | None:
        """The first set behind ``after`` without an answer, else the first of all, else None."""
        ids = list(self._sets)
        start = 0 if after is None else ids.index(after) + 1
        return next((i for i in ids[start:] + ids[:start] if i not in self._answers), None)

    def _save(self, answers: Mapping[str, dict]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        whole = self.path.with_suffix(".part")
        pd.DataFrame(list(answers.values()), columns=list(self.COLUMNS)).to_csv(whole, index=False)
        os.replace(whole, self.path)  # the file is the old one or the new one, never half of either

    def widget(self) -> ipywidgets.Widget:
        """Controls and the current set."""
        return _AnnotationView(self).box

    def view(self) -> str:
        """The current set as HTML."""
        if self.current is None:
            return f'<div class="nbkit"><p>{self._status()}</p></div>'
        items = "".join(f"<li>{html.escape(text)}</li>" for text in self._sets[self.current]["text"])
        return f'<div class="nbkit"><p>{self._status()}</p><ol>{items}</ol></div>'

    def _status(self) -> str:
        done, n = len(self._answers), len(self._sets)
        if self.current is None:
            return f"{html.escape(self.annotator)}: all {n} sets are judged. Thank you."
        corpus = html.escape(str(self._sets[self.current]["corpus"].iloc[0]))
        return (
            f"{html.escape(self.annotator)}: set {self.current}, from <b>{corpus}</b>; {done} of {n} judged"
        )

    def _repr_mimebundle_(self, **kwargs: object) -> dict:
        return _live_and_static(self.widget(), self.view(), kwargs)

    def __repr__(self) -> str:
        return f"Annotation({self.annotator}: {len(self._answers)} of {len(self._sets)} sets judged)"


class _AnnotationView:
    """The widgets of an ``Annotation``."""

    def __init__(self, annotation: Annotation) -> None:
        self.annotation, wide = annotation, {"width": "44em"}
        self.who = ipywidgets.Text(description="annotator", value=annotation.annotator)
        self.status, self.message = ipywidgets.HTML(), ipywidgets.HTML()
        self.texts = ipywidgets.VBox()
        self.pattern = ipywidgets.ToggleButtons(
            options=[("no pattern", False), ("pattern", True)], description=""
        )
        self.name = ipywidgets.Text(description="its name", layout=wide)
        self.line = ipywidgets.Text(
            description="or type", placeholder="n   or   asks for help: 1 3 5-8   then Enter", layout=wide
        )
        save, back = ipywidgets.Button(description="save, next"), ipywidgets.Button(description="back")
        save.on_click(lambda _: self._try(self._answer))
        back.on_click(lambda _: self._try(annotation.back))
        self._on_enter(self.line, lambda: annotation.typed(self.line.value))
        self._on_enter(self.name, self._answer)
        self._on_enter(self.who, lambda: annotation.switch(self.who.value))
        self.save, self.go_back = save, back
        buttons = ipywidgets.HBox([save, back])
        self.box = ipywidgets.VBox(
            [self.who, self.status, self.texts, self.line, self.pattern, self.name, buttons, self.message]
        )
        self._show()

    def _on_enter(self, field: ipywidgets.Text, act: Callable[[], None]) -> None:
        """Browsers send "submit" for Enter; leaving the field does not."""
        field.on_msg(lambda _, content, __: self._try(act) if content.get("event") == "submit" else None)

    def _try(self, act: Callable[[], None]) -> None:
        """Do it and show the set that follows; what is wrong is said under the buttons."""
        try:
            act()
        except (ValueError, OSError) as error:
            self.message.value = f'<p role="alert"><b>{html.escape(str(error))}</b></p>'
            return
        self.message.value = ""
        self._show()
        self.line.focus()

    def _answer(self) -> None:
        marked = [i for i, box in enumerate(self.boxes, 1) if box.value]
        self.annotation.answer(self.pattern.value, self.name.value, marked)

    def _show(self) -> None:
        annotation = self.annotation
        lines = annotation._sets[annotation.current]["text"] if annotation.current else []
        old = annotation._answers.get(annotation.current, {})
        marked = set(old.get("positives", "").split())
        small = {"width": "3.5em"}
        self.boxes = [
            ipywidgets.Checkbox(value=str(i) in marked, description=str(i), indent=False, layout=small)
            for i in range(1, len(lines) + 1)
        ]
        shown = [ipywidgets.HTML(html.escape(text)) for text in lines]
        self.texts.children = [ipywidgets.HBox(pair) for pair in zip(self.boxes, shown, strict=True)]
        self.status.value = annotation._status()
        self.pattern.value, self.name.value = old.get("pattern") == "yes", old.get("name", "")
        self.line.value = ""


VIEWS_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>{title}</title>
<style>body{{margin:1em auto;max-width:80em;padding:0 1em;font-family:system-ui,sans-serif}}
select,input{{font-size:1em;max-width:100%;padding:.3em}}output{{margin-left:.5em}}
input[type=range]{{width:min(24em,60vw);padding:0;vertical-align:middle}}{css}</style>
<h1>{title}</h1>{controls}<div id="view"></div>
<script id="data" type="application/json">{data}</script>
<script>
var data = JSON.parse(document.getElementById("data").textContent);
var fields = Array.from(document.querySelectorAll("select,input"));
function show() {{
  var choice = fields.map(function (f) {{ return f.value; }}).join(",");
  document.getElementById("view").innerHTML = data.views[choice];
  fields.forEach(function (f, i) {{
    var out = f.parentNode.querySelector("output");
    if (out) out.textContent = data.names[i][f.value];
  }});
}}
fields.forEach(function (f) {{ f.addEventListener("input", show); }});
show();
</script></html>
"""


def _fate_html(table: pd.DataFrame) -> str:
    head = "".join(f"<th>{html.escape(str(corpus))}</th>" for corpus in table)
    best = table.idxmax()
    lines = []
    for descriptor, line in table.iterrows():
        cells = "".join(
            f"<td{' class=best' if best[corpus] == descriptor else ''}"
            f' style="background:rgba(0,114,178,{min(1, max(0, value)) * 0.55:.2f})">{value:z.2f}</td>'
            for corpus, value in line.items()
        )
        lines.append(f"<tr><th>{html.escape(str(descriptor))}</th>{cells}</tr>")
    table = f'<table class="fate"><tr><th>tag</th>{head}</tr>{"".join(lines)}</table>'
    return f'<div class="wide">{table}</div>'


def _histogram_svg(values: np.ndarray, scale: tuple[float, float], bins: int = 40) -> str:
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
