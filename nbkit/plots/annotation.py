"""People judge blinded sets of texts: see ``annotate``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import ipywidgets
import pandas as pd

from nbkit import provenance
from nbkit.plots.html import controls, escaped, live_and_static, page

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
        parts = sets.groupby("set_id", sort=False)  # answers come back from a file, where an id is text
        self._sets = {str(i): part.sort_values("rank") for i, part in parts}
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
            answers = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
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
        frame = pd.DataFrame(list(answers.values()), columns=list(self.COLUMNS))
        with provenance.atomic(self.path) as part:
            frame.to_csv(part, index=False, encoding="utf-8")

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
            f'<h3 dir="auto">set {escaped(set_id)}, from {escaped(part["corpus"].iloc[0])}</h3>'
            f"{self._items(set_id)}"
            for set_id, part in self._sets.items()
        )
        return page("Is there a pattern?", f'<div class="nbkit">{sets}</div>')

    def _items(self, set_id: str) -> str:
        items = "".join(f'<li dir="auto">{escaped(text)}</li>' for text in self._sets[set_id]["text"])
        return f"<ol>{items}</ol>"

    def _status(self) -> str:
        done, n = len(self._answers), len(self._sets)
        if self.current is None:
            return f"{escaped(self.annotator)}: all {n} sets are judged. Thank you."
        corpus = escaped(self._sets[self.current]["corpus"].iloc[0])
        who, current = escaped(self.annotator), escaped(self.current)
        return f"{who}: set {current}, from <b>{corpus}</b>; {done} of {n} judged"

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
            self.message.value = f'<p role="alert"><b>{escaped(error)}</b></p>'
            return
        self.message.value = ""
        self._show()
        self.line.focus()

    def _answer(self) -> None:
        marked = [i for i, box in enumerate(self.boxes, 1) if box.value]
        self.annotation.answer(bool(self.pattern.value), self.name.value, marked)

    def _show(self) -> None:
        annotation = self.annotation
        lines = [] if annotation.current is None else annotation._sets[annotation.current]["text"]
        old = annotation._answers.get(annotation.current, {})
        marked = set(old.get("positives", "").split())
        small = {"width": "3.5em"}
        self.boxes = [
            ipywidgets.Checkbox(value=str(i) in marked, description=str(i), indent=False, layout=small)
            for i in range(1, len(lines) + 1)
        ]
        shown = [ipywidgets.HTML(f'<div dir="auto">{escaped(text)}</div>') for text in lines]
        self.texts.children = [ipywidgets.HBox(pair) for pair in zip(self.boxes, shown, strict=True)]
        self.status.value = annotation._status()
        self.pattern.value, self.name.value = old.get("pattern") == "yes", old.get("name", "")
        self.line.value = ""
