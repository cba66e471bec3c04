"""Widgets: the same views with controls, and static without a kernel.

    neuron_browser(...)          search the units, and see what one does in every corpus
    corpus_compare(...)          a unit in two corpora, side by side (both are in ``nbkit.browser``)
    salience_slider(...)         accuracy, units and words as the number of units moves
    tree_stepper(...)            gold and probed trees, sentence by sentence and layer by layer
    annotate(sets, path, "ada")  judge blinded sets of texts; every answer is saved, and resumed from
    descriptor_editor(merged, path)   rename, join and drop descriptors; later runs read the file
    Views(title, controls, view) any view with a few choices (``nbkit.views``)

A widget is shown by naming it in a cell; ``.view(...)`` is its HTML, ``.to_html()`` a page that needs no
kernel, no server and no network. All of them can be used with the keyboard alone.
"""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets
import numpy as np
import pandas as pd

from nbkit import provenance
from nbkit.browser import corpus_compare as corpus_compare
from nbkit.browser import neuron_browser as neuron_browser
from nbkit.views import Views, bar_html, controls, live_and_static, page
from nbkit.views import shade_html as shade_html

if TYPE_CHECKING:
    from nbkit.descriptors import Descriptors


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
            f"<tr><th>{html.escape(site)}</th><td>{bar_html(count / n)}</td><td>{count}</td></tr>"
            for site, count in layers.items()
        )
        everything = float(curve.iloc[-1])
        return (
            f"<h3>{html.escape(what)}: {n} of {len(units):,} units keep {curve[n]:.2f}, all reach"
            f" {everything:.2f}</h3>{bar_html(curve[n] / everything)}"
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
        text = ipywidgets.Text(description="new name", layout=wide, continuous_update=False)
        other = ipywidgets.Dropdown(description="join to", layout=wide)
        shown, buttons = ipywidgets.HTML(), {}

        def refresh(message: str = "") -> None:
            frame = self.result.frame
            options = [
                (f"{name} ({n})", name) for name, n in zip(frame["descriptor"], frame["n_texts"], strict=True)
            ]
            chosen.options, other.options = options, options
            chosen.index = other.index = 0 if options else None
            shown.value = f"{self.view()}<p><b>{html.escape(message)}</b></p>"

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
        return page("Descriptors", self.view())

    def _repr_mimebundle_(self, **kwargs: object) -> dict:
        return live_and_static(self.widget(), self.view(), kwargs)

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
        items = "" if self.current is None else self._items(self.current)
        return f'<div class="nbkit"><p>{self._status()}</p>{items}</div>'

    def to_html(self) -> str:
        """All sets on a page, to read or to print; who judges needs a kernel, to save the answers."""
        sets = "".join(
            f"<h3>set {set_id}, from {html.escape(str(part['corpus'].iloc[0]))}</h3>{self._items(set_id)}"
            for set_id, part in self._sets.items()
        )
        return page("Is there a pattern?", f'<div class="nbkit">{sets}</div>')

    def _items(self, set_id: str) -> str:
        items = "".join(f"<li>{html.escape(text)}</li>" for text in self._sets[set_id]["text"])
        return f"<ol>{items}</ol>"

    def _status(self) -> str:
        done, n = len(self._answers), len(self._sets)
        if self.current is None:
            return f"{html.escape(self.annotator)}: all {n} sets are judged. Thank you."
        corpus = html.escape(str(self._sets[self.current]["corpus"].iloc[0]))
        return (
            f"{html.escape(self.annotator)}: set {self.current}, from <b>{corpus}</b>; {done} of {n} judged"
        )

    def _repr_mimebundle_(self, **kwargs: object) -> dict:
        return live_and_static(self.widget(), self.view(), kwargs)

    def __repr__(self) -> str:
        return f"Annotation({self.annotator}: {len(self._answers)} of {len(self._sets)} sets judged)"


class _AnnotationView:
    """The widgets of an ``Annotation``."""

    def __init__(self, annotation: Annotation) -> None:
        self.annotation, wide = annotation, {"width": "44em"}
        self.who = ipywidgets.Text(
            description="annotator", value=annotation.annotator, continuous_update=False
        )
        self.status, self.message = ipywidgets.HTML(), ipywidgets.HTML()
        self.texts = ipywidgets.VBox()
        self.pattern = ipywidgets.ToggleButtons(
            options=[("no pattern", False), ("pattern", True)], description=""
        )
        self.name = ipywidgets.Text(description="its name", layout=wide, continuous_update=False)
        self.line = ipywidgets.Text(
            description="or type",
            placeholder="n   or   asks for help: 1 3 5-8   then Enter",
            layout=wide,
            continuous_update=False,
        )
        save, back = ipywidgets.Button(description="save, next"), ipywidgets.Button(description="back")
        save.on_click(lambda _: self._try(self._answer))
        back.on_click(lambda _: self._try(annotation.back))
        self._on_enter(self.line, lambda: annotation.typed(self.line.value))
        self._on_enter(self.name, self._answer)
        self._on_enter(self.who, lambda: annotation.switch(self.who.value))
        self.save, self.go_back = save, back
        buttons = ipywidgets.HBox([save, back])
        self.box = controls(
            [self.who, self.status, self.texts, self.line, self.pattern, self.name, buttons, self.message]
        )
        self._show()

    def _on_enter(self, field: ipywidgets.Text, act: Callable[[], None]) -> None:
        """Act when Enter was pressed in ``field`` and its text is here.

        The browser sends "submit" for Enter, and only then the text, where that has changed. The text alone
        comes when the field is left, and means nothing yet. Enter twice takes the text as it is. (A field
        with ``continuous_update`` sends "submit" before the last letters while the kernel is busy, and half
        of an answer would be saved.)
        """
        entered = False

        def submitted(_: object, content: Mapping, __: object) -> None:
            nonlocal entered
            if content.get("event") == "submit":
                entered = not entered
                if entered:
                    self.message.value = "<p>Enter once more to take it as it is</p>"
                else:
                    self._try(act)

        def changed(_: object) -> None:
            nonlocal entered
            if entered:
                entered = False
                self._try(act)

        field.on_msg(submitted)
        field.observe(changed, "value")

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
