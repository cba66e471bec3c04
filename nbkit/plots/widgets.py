"""Widgets of salience, trees and descriptors: the same views with controls, and static without a kernel."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd

from nbkit import stats
from nbkit.descriptors import Descriptors, Editor
from nbkit.plots.html import Views, bar_html, controls, escaped, live_and_static, page
from nbkit.plots.style import short
from nbkit.plots.trees import tree_arcs
from nbkit.salience import Ranking


def salience_slider(
    stored: Mapping[str, tuple[np.ndarray, pd.Series]],
    units: pd.DataFrame,
    rankings: Mapping[str, Ranking],
    curves: Mapping[str, pd.DataFrame],
    words: pd.Series,
    *,
    shown: int = 12,
) -> Views:
    """How much of a property the first n units keep, which units they are, and which words excite them.

    stored     {property: (X [word, unit], y [word])} of ``salience.matrix``
    units      frame of the columns
    rankings   {property: Ranking}
    curves     {property: frame with n and accuracy} of ``salience.accuracy_curve``; last: all units
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
            f"<tr><th>{escaped(site)}</th><td>{bar_html(count / n)}</td><td>{count}</td></tr>"
            for site, count in layers.items()
        )
        everything = float(curve.iloc[-1])
        return (
            f"<h3>{escaped(what)}: {n} of {len(units):,} units keep {curve[n]:.2f}, all reach"
            f" {everything:.2f}</h3>{bar_html(curve[n] / everything)}"
            f'<div class="corpora"><div><h4>where they are</h4><table class="plain">{bars}</table></div>'
            f"<div><h4>the first {min(n, shown)}, and the words they are highest on</h4>"
            f"<ol>{''.join(tables[what][:n])}</ol></div></div>"
        )

    return Views("Salient neurons", {"property": list(rankings), "units": counts}, view)


def _unit_lines(
    X: np.ndarray, y: pd.Series, units: pd.DataFrame, ranking: Ranking, words: pd.Series, shown: int
) -> list[str]:
    """For each of the first ``shown`` units: class of most of its 40 highest words, and six of these."""
    forms, classes, lines = words.loc[y.index].to_numpy(), y.to_numpy(), []
    columns = ranking.top(shown)
    for column, best in zip(columns, stats.top_texts(X[:, columns], min(40, len(X))).T, strict=True):
        common = pd.Series(classes[best]).mode().iloc[0]
        some = list(dict.fromkeys(str(form).lower() for form in forms[best]))[:6]
        lines.append(
            f'<li dir="auto"><b>{escaped(units["unit"].iloc[column])}</b> {escaped(common)}:'
            f" {escaped(', '.join(some))}</li>"
        )
    return lines


class DescriptorEditor(Editor):
    """``descriptors.Editor`` with controls; see ``descriptor_editor``."""

    def widget(self) -> ipywidgets.Widget:
        """A list of descriptors, a field for a new name, and buttons."""
        wide = {"width": "40em"}
        chosen: Any = ipywidgets.Select(description="descriptor", rows=10, layout=wide)
        text = ipywidgets.Text(description="new name", layout=wide, continuous_update=False)
        other: Any = ipywidgets.Dropdown(description="join to", layout=wide)
        shown, buttons = ipywidgets.HTML(), {}

        def refresh(message: str = "") -> None:
            frame = self.result.frame
            options = [
                (f"{short(name, 60)} ({n})", name)
                for name, n in zip(frame["descriptor"], frame["n_texts"], strict=True)
            ]
            chosen.options, other.options = options, options
            chosen.index = other.index = None  # a click without a choice changes nothing
            shown.value = f"{self.view()}<p><b>{escaped(message)}</b></p>"

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
        fields = controls([chosen, text, other, ipywidgets.HBox(list(buttons.values()))])
        return ipywidgets.VBox([fields, shown])

    def view(self) -> str:
        """The descriptors as they are now, with the wordings each stands for."""
        lines = "".join(
            f'<tr><th dir="auto">{escaped(line.descriptor)}</th><td>{line.n_texts}</td>'
            f'<td dir="auto">{escaped(short(", ".join(map(str, line.members[:8])), 300))}</td></tr>'
            for line in self.result.frame.head(30).itertuples()
        )
        return (
            f'<div class="nbkit"><h3>{len(self.result)} descriptors</h3><table class="plain">'
            f"<tr><th>descriptor</th><th>texts</th><th>stands for</th></tr>{lines}</table></div>"
        )

    def to_html(self) -> str:
        """A page that needs no kernel."""
        return page("Descriptors", self.view())

    def _repr_mimebundle_(self, **kwargs: object) -> dict:
        return live_and_static(self.widget(), self.view(), kwargs)


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
        edges, found = gold[sentence], predicted[sentence][layer]
        share = len(edges & found) / max(1, len(edges))
        return (
            f"<h3>{share:.0%} of the edges at {escaped(layer)}</h3>{_tree_svg(forms[sentence], edges, found)}"
            '<p class="note">above: gold; below: the probe, blue where right, red and broken where wrong</p>'
        )

    layers = list(next(iter(predicted.values())))
    return Views("Trees in the vectors", {"sentence": list(forms), "layer": layers}, view)


def _tree_svg(forms: Sequence[str], gold: set, predicted: set) -> str:
    """Arcs over and under the words."""
    widths = [max(30, 12 + sum(map(_wide, form))) for form in forms]
    middle = np.cumsum(widths) - np.array(widths) / 2
    rise = 12 + 9 * max([b - a for a, b in gold | predicted], default=1)
    paths = []
    for arc in tree_arcs(gold, predicted):
        base, height = (rise, -1) if arc.above else (rise + 26, 1)
        left, right = middle[arc.a], middle[arc.b]
        top = base + height * (12 + 18 * (arc.b - arc.a))
        dash = "" if arc.right else ' stroke-dasharray="5 3"'
        paths.append(
            f'<path d="M{left:.0f} {base} Q{(left + right) / 2:.0f} {top} {right:.0f} {base}" fill="none"'
            f' stroke="{arc.color}" stroke-width="1.6"{dash}/>'
        )
    words = "".join(
        f'<text x="{x:.0f}" y="{rise + 18}" text-anchor="middle">{escaped(form)}</text>'
        for x, form in zip(middle, forms, strict=True)
    )
    width, height = sum(widths), 2 * rise + 26
    return (
        f'<div class="wide"><svg class="tree" viewBox="0 0 {width} {height}" role="img"'
        f' style="width:{width}px;height:{height}px"><title>gold and probed edges</title>'
        f"{''.join(paths)}{words}</svg></div>"
    )


def _wide(letter: str) -> int:
    """About, in pixels."""
    return 16 if unicodedata.east_asian_width(letter) in "WF" else 9
