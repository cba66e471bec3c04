"""Search the units of a model, and look at one of them in every corpus: see ``neuron_browser``.

A unit's view has one column for each corpus: its strongest texts with the tokens shaded by activation, and a
histogram of its activations. Above them is the transfer of its tags: the score of each corpus's best
descriptors in every corpus. A tag whose number is high in one column only is the illusion. Below are its
neighbours, with their correlation in every corpus.

The picture comes first, from the stores. Shading follows, since it takes a forward pass over the exemplars up
to the unit's site, and then the neighbours (``benchmarks/browser.py`` measures both).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd

from nbkit import activations as store
from nbkit import matching
from nbkit.activations import Activations, exemplars
from nbkit.models import Subject
from nbkit.plots.figures import transfer_table
from nbkit.plots.html import (
    asset,
    cell_html,
    controls,
    escaped,
    histogram_svg,
    live_and_static,
    options_html,
    page,
    shade_html,
    table_html,
    transfer_html,
    words_html,
)
from nbkit.plots.style import short
from nbkit.texts import Texts

WORD_TEXTS = 32  # texts that are read for a word, spread evenly over those that have it
NEAR = 4  # neighbours shown at either end
LISTED = 50  # units found by a search
PAGE_WORDS = 8  # units that a page lists for a word
ANY = object()  # what a list of the widget stands on when nothing is asked for


@functools.cache
def script_folds() -> dict[str, str]:
    """The letters whose folded form is not their lower case, for the page: it folds as ``exemplars.fold``."""
    letters = map(chr, (*range(0xD800), *range(0xE000, 0x20000)))
    return {c: c.casefold() for c in letters if c.casefold() != c.lower()}


def neuron_browser(
    subject: Subject,
    corpora: Mapping[str, Texts],
    activations: Mapping[str, Activations],
    labels: Mapping[str, pd.DataFrame],
    *,
    method: str = "pearson",
    k: int = 6,
    unit: str | None = None,
) -> NeuronBrowser:
    """Browse the units of ``activations`` (text rows, the same units in every corpus).

        browser = neuron_browser(subject, corpora, activations, labels)
        browser                                in a notebook: search, then choose a unit
        browser.search(descriptor="question")  units and their number, the best first; or word=, and site=
        browser.neighbours(unit)               units that rise and fall with it, corpus by corpus
        browser.view(unit)                     the HTML of one unit
        browser.to_html(units)                 a page with the same searches, without kernel and network

    corpora, activations, labels   by the same corpus names; labels are [text, descriptor]
    method                         scorer of the tags: a key of ``matching.SCORERS``
    k                              exemplars for each corpus
    unit                           shown first; None: the best of the first descriptor

    A search by word ranks units by their mean activation on the word, less the mean on the other words of
    texts that have it, in standard deviations of the latter (``exemplars.word_responses``). A store of text
    rows does not tell which word its maximum is from, so the model reads up to ``WORD_TEXTS`` of these texts.
    Words are a treebank's own, or those of ``Texts.tokenize``; case does not count (``exemplars.fold``).

    Corpora that share no descriptor, and a unit that is not there, are a ``ValueError``.
    """
    return NeuronBrowser(subject, corpora, activations, labels, method=method, k=k, unit=unit)


class NeuronBrowser:
    """See ``neuron_browser``. ``scores`` holds [descriptor, unit] for every corpus."""

    def __init__(
        self,
        subject: Any,  # a Subject; None where nothing is to be shaded or read
        corpora: Mapping[str, Texts],
        activations: Mapping[str, Activations],
        labels: Mapping[str, pd.DataFrame],
        *,
        method: str,
        k: int,
        unit: str | None,
    ) -> None:
        self.subject, self.corpora, self.activations, self.k = subject, corpora, activations, k
        self.method = method
        self.scores = {
            name: matching.score(stored, labels[name], method) for name, stored in activations.items()
        }
        known = [set(scores.index) for scores in self.scores.values()]
        first, units = next(iter(self.scores.values())), next(iter(activations.values())).units
        self.descriptors = [name for name in first.index if name in set.intersection(*known)]
        if not self.descriptors:
            raise ValueError(
                f"the corpora {', '.join(corpora)} share no descriptor: label them with one list"
            )
        self.units, self.sites = first.columns.to_numpy(), list(units["site"].unique())
        if unit is not None and unit not in self.units:
            raise ValueError(f"no unit {unit!r} to begin with; names look like {self.units[0]!r}")
        self._asked_for = unit
        self._site_of = pd.Series(units["site"].to_numpy(), units["unit"].to_numpy())
        known_everywhere = {name: scores.loc[self.descriptors] for name, scores in self.scores.items()}
        every = pd.concat(known_everywhere).fillna(-np.inf)  # [(corpus, descriptor), unit]
        best = every.max()
        tags = [
            f"{short(tag)} {x:z.2f} in {short(c)}" for (c, tag), x in zip(every.idxmax(), best, strict=True)
        ]
        self._best, self._tags = best, pd.Series(tags, best.index)
        self._views: dict[str, str] = {}
        self._near: dict[tuple[str, int], pd.DataFrame] = {}
        self._responses: dict[str, pd.Series] = {}

    # ------------------------------------------------------------------------------ search

    def search(
        self,
        *,
        descriptor: Any = None,
        word: str | None = None,
        site: str | None = None,
        n: int | None = LISTED,
    ) -> pd.Series:
        """The first ``n`` units (None: all) and their number, the highest first.

        descriptor   by the score for it, in the corpus where it is highest
        word         by the response to it, in standard deviations (see ``neuron_browser``)
        neither      by the score of the best tag
        site         units of this site only

        An unknown name, a word that no text has, and both at once are a ``ValueError``.
        """
        if descriptor is not None and word is not None:
            raise ValueError(
                f"search for the descriptor {descriptor!r} or for the word {word!r}, not for both"
            )
        found = self._best
        if word is not None:
            found = self.responses(word)
        elif descriptor is not None:
            if descriptor not in self.descriptors:
                raise ValueError(f"unknown descriptor {descriptor!r}; .descriptors lists them")
            found = pd.DataFrame({c: s.loc[descriptor] for c, s in self.scores.items()}).max(axis=1)
        if site is not None:
            if site not in self.sites:
                raise ValueError(f"no site {site!r} here; the units are of {', '.join(self.sites)}")
            found = found[(self._site_of.loc[found.index] == site).to_numpy()]
        return found.sort_values(ascending=False, kind="stable").head(len(found) if n is None else n)

    def best_units(self, descriptor: Any, n: int = LISTED) -> list[str]:
        """Units whose score for ``descriptor`` is highest in any one corpus."""
        return self.search(descriptor=descriptor, n=n).index.tolist()

    def texts_with(self, word: str) -> np.ndarray:
        """Ids (in all corpora as one) of the texts that have the word."""
        words = self._whole.words
        return words.loc[self._forms == exemplars.fold(word), "text_id"].unique()

    def responses(self, word: str) -> pd.Series:
        """The response [unit] to a word; see ``neuron_browser``. A word that no text has: ``ValueError``."""
        word, typed = exemplars.fold(word), word.strip()
        if word not in self._responses:
            having = self.texts_with(word)
            if not len(having):
                raise ValueError(f"no text has the word {typed!r}")
            read = having[np.unique(np.linspace(0, len(having) - 1, WORD_TEXTS).round().astype(int))]
            stored = self._word_rows(self._whole.where(text_id=read.tolist()), self.units)
            self._responses[word] = exemplars.word_responses(stored, [word]).loc[word]
        return self._responses[word]

    @cached_property
    def _whole(self) -> Texts:
        """The corpora as one, with words: a treebank's own, those of ``Texts.tokenize`` for plain texts."""
        return Texts.concat({name: corpus.tokenize() for name, corpus in self.corpora.items()})

    @cached_property
    def _forms(self) -> pd.Series:
        return self._whole.words["form"].map(exemplars.fold)

    def _word_rows(self, texts: Texts, units: Sequence[str], at_once: int = 200) -> Activations:
        """Word rows of some units, their forms folded. A few texts at a time: the model gives whole sites."""
        sites, parts = self._site_of.loc[units].unique().tolist(), []
        for start in range(0, len(texts), at_once):
            part = texts.where(text_id=texts.frame["text_id"].iloc[start : start + at_once].tolist())
            found = store.capture(self.subject, part, sites=sites, rows="word", cache=False, progress=False)
            parts.append(found.select(units=units) if len(units) < len(found.units) else found)
        rows = pd.concat([part.rows for part in parts], ignore_index=True)
        rows["form"] = rows["form"].map(exemplars.fold)
        return replace(parts[0], values=np.concatenate([part.values for part in parts]), rows=rows)

    def neighbours(self, unit: str, k: int = NEAR) -> pd.DataFrame:
        """The units that correlate with ``unit`` over texts: the ``k`` highest, then the ``k`` lowest.

        A frame [unit, corpus] of the correlation in each corpus, and its ``mean``, by which they are chosen
        and ordered, the strongest of either kind first. Each corpus counts the same, and that a unit is
        higher in one corpus than in another does not count.
        """
        if (unit, k) not in self._near:
            found = {name: exemplars.correlations(a, unit) for name, a in self.activations.items()}
            frame = pd.DataFrame(found, index=self.units)
            frame = frame.assign(mean=frame.mean(axis=1)).drop(unit)
            frame, n = frame.sort_values("mean", ascending=False, kind="stable"), min(k, len(frame) // 2)
            self._near[unit, k] = pd.concat([frame.head(n), frame.tail(n)[::-1]])
        return self._near[unit, k]

    # ------------------------------------------------------------------------------ what is shown

    def view(self, unit: str) -> str:
        """The HTML of one unit: transfer of its tags, exemplars and histogram in every corpus, neighbours."""
        *_, last = self.drawn(unit)
        return last + self.neighbours_html(unit)

    def drawn(self, unit: str) -> Iterable[str]:
        """Its picture as a widget shows it, plain and then shaded; of a unit seen before only the last."""
        return [self._views[unit]] if unit in self._views else self._stages(unit)

    def to_html(
        self, units: Sequence[str] | None = None, title: str = "Neuron browser", *, word_texts: int = 400
    ) -> str:
        """A page with a list of ``units`` (default: the best unit of every descriptor, and its neighbour).

        It is searched as the widget is, among its own units. Its words are those that occur twice or more
        in ``word_texts`` texts drawn from the corpora, which the model reads for it.
        """
        if units is None:
            best = [self.best_units(name, 1)[0] for name in self.descriptors]
            units = [*best, *(self.neighbours(unit).index[0] for unit in best)]
        units = list(dict.fromkeys(units))
        views = "".join(f"<section>{self.view(unit)}</section>" for unit in units)
        scores = [self.search(descriptor=d, n=None).loc[units].round(2).tolist() for d in self.descriptors]
        sites = [self.sites.index(site) for site in self._site_of.loc[units]]
        data = {"units": units, "tags": self._tags.loc[units].tolist(), "scores": scores, "sites": sites}
        data |= {"words": self._page_words(units, word_texts), "fold": script_folds()}
        fields = f'<div class="nbkit-fields">{self.search_fields()}</div>{LIST_FIELDS}'
        return page(title, fields + views, data, asset("fields.js") + asset("browser.js"))

    def search_fields(self) -> str:
        """The fields of a page that searches by descriptor, word and site; ``fields.js`` reads them."""
        return SEARCH_FIELDS.format(
            descriptors=options_html([("", "any"), *enumerate(map(short, self.descriptors))]),
            sites=options_html([("", "any"), *enumerate(self.sites)]),
        )

    def _page_words(self, units: Sequence[str], word_texts: int) -> dict[str, list]:
        """{word: [[position in units, response], ...]}, the highest first."""
        responses = self.page_responses(units, word_texts)
        found = responses.to_numpy()
        order = np.argsort(-found, axis=1, kind="stable")[:, :PAGE_WORDS]
        return {
            word: [[int(i), round(float(line[i]), 2)] for i in best if line[i] > 0]
            for word, line, best in zip(responses.index, found, order, strict=True)
        }

    def page_responses(self, units: Sequence[str], word_texts: int) -> pd.DataFrame:
        """The responses [word, unit] of some units to the words of a page: those that occur twice or more in
        ``word_texts`` texts drawn from the corpora (0: none), in the order of the alphabet."""
        nothing = pd.DataFrame(np.zeros((0, len(units))), columns=list(units))
        if not word_texts:
            return nothing
        drawn = self._whole.sample(min(word_texts, len(self._whole)), seed=0)
        stored = self._word_rows(drawn, units)
        counts = stored.rows["form"].value_counts()
        vocabulary = sorted(counts.index[counts >= 2])
        return exemplars.word_responses(stored, vocabulary) if vocabulary else nothing

    def widget(self) -> ipywidgets.Widget:
        """Searches, the list of units they find, and the picture of one."""
        return _BrowserView(self).box

    @property
    def first(self) -> str:
        """The unit shown first."""
        return self._asked_for or self.best_units(self.descriptors[0], 1)[0]

    def _repr_mimebundle_(self, **kwargs: object) -> dict:
        return live_and_static(self.widget(), self.view(self.first), kwargs)

    def __repr__(self) -> str:
        return f"NeuronBrowser({len(self.units):,} units, {', '.join(self.corpora)})"

    def titles(self, found: pd.Series, *, numbers: bool = True) -> list[tuple[str, str]]:
        """(line of a list, unit) for what a search found: its number, and its best tag anywhere."""
        tags = self._tags.loc[found.index]
        shown = [f" · {x:z.2f}" if numbers else "" for x in found]
        return [(f"{unit}{x} · {tag}", unit) for unit, x, tag in zip(found.index, shown, tags, strict=True)]

    # ------------------------------------------------------------------------------ rendering

    def _stages(self, unit: str) -> Iterator[str]:
        """The picture twice: from the stores, at once; then with its tokens shaded, for which the model runs
        over the exemplars of all corpora."""
        best = self.exemplars(unit)
        yield self._page(unit, best)
        self._views[unit] = self._page(unit, self.shaded(unit, best))
        yield self._views[unit]

    def exemplars(self, unit: str) -> pd.DataFrame:
        """The ``k`` strongest texts of every corpus, by corpus; ``tokens`` is None until they are shaded."""
        best = {n: exemplars.top(a, self.corpora[n], unit, self.k) for n, a in self.activations.items()}
        return pd.concat(best).assign(tokens=None)

    def shaded(self, unit: str, best: pd.DataFrame) -> pd.DataFrame:
        """The same with the activation of every token (a forward pass over these texts)."""
        found = exemplars.shade(self.subject, Texts.from_list(best["text"]), unit)
        return best.assign(tokens=list(found.values()))

    def scale(self, unit: str) -> tuple[float, float]:
        """The lowest and the highest activation in any corpus."""
        columns = [stored.values[:, stored.column(unit)] for stored in self.activations.values()]
        return min(float(c.min()) for c in columns), max(float(c.max()) for c in columns)

    def _page(self, unit: str, best: pd.DataFrame) -> str:
        scale = self.scale(unit)
        corpora = "".join(self.column_html(name, unit, best.loc[[name]], scale) for name in self.corpora)
        table = transfer_html(transfer_table(self.scores, unit, 2))
        return (
            f'<div class="nbkit"><h3>{escaped(unit)}</h3>{table}'
            '<p class="note">score of each tag in each corpus; framed: the best there</p>'
            f'<div class="corpora">{corpora}</div>{scale_html(scale)}</div>'
        )

    def column_html(self, name: str, unit: str, best: pd.DataFrame, scale: tuple[float, float]) -> str:
        """Histogram and exemplars of one corpus, on the ``scale`` of all: what is weak here looks weak."""
        stored = self.activations[name]
        items = "".join(
            f'<li dir="auto">{escaped(text) if tokens is None else shade_html(text, tokens, scale[1])}</li>'
            for text, tokens in zip(best["text"], best["tokens"], strict=True)
        )
        histogram = histogram_svg(np.asarray(stored.values[:, stored.column(unit)], np.float32), scale)
        low, high = best["activation"].iloc[-1], best["activation"].iloc[0]
        return (
            f'<div class="corpus"><h4 dir="auto">{escaped(name)}</h4>{histogram}'
            f'<div class="note">top {self.k}: {high:z.2f} to {low:z.2f}</div><ol>{items}</ol></div>'
        )

    def neighbours_html(self, unit: str) -> str:
        """The neighbours with their best tag, and their correlation in every corpus."""
        near, parts = self.neighbours(unit), []
        half = len(near) // 2
        for title, part in (("rise with it", near.iloc[:half]), ("fall when it rises", near.iloc[half:])):
            lines = [
                (name, "".join(map(cell_html, line)) + words_html(self._tags[name]))
                for name, line in part.iterrows()
            ]
            parts.append(table_html([title, *part, "best tag"], lines))
        note = f"correlation with {unit} over the texts of each corpus; chosen by its mean"
        return f'<div class="nbkit near">{"".join(parts)}<p class="note">{escaped(note)}</p></div>'


SEARCH_FIELDS = """
<div><label for="descriptor">descriptor</label> <select id="descriptor">{descriptors}</select></div>
<div><label for="word">or word</label> <input id="word" type="search" autocomplete="off"></div>
<div><label for="site">site</label> <select id="site">{sites}</select></div>"""
LIST_FIELDS = """
<p><label for="unit">unit</label><br><select id="unit" size="6"></select></p>
<p id="found" class="nbkit note" role="status"></p>
"""


def scale_html(scale: tuple[float, float]) -> str:
    """What the histograms and the shading run over."""
    return (
        f'<p class="note">histograms from {scale[0]:z.2f} to {scale[1]:z.2f} in every corpus; tokens shaded'
        f" from 0 to {max(0, scale[1]):z.2f}</p>"
    )


class _BrowserView:
    """The widgets of a ``NeuronBrowser``."""

    def __init__(self, browser: NeuronBrowser) -> None:
        self.browser, wide = browser, {"width": "44em"}
        self.descriptor = ipywidgets.Dropdown(
            options=[("any", ANY), *((short(name), name) for name in browser.descriptors)],
            index=1,
            description="descriptor",
            layout=wide,
        )
        self.word = ipywidgets.Text(
            description="or word", placeholder="then Enter", layout=wide, continuous_update=False
        )
        sites = [("any", ANY), *((site, site) for site in browser.sites)]
        self.site = ipywidgets.Dropdown(options=sites, description="site", layout=wide)
        self.unit = ipywidgets.Select(description="unit", rows=8, layout=wide)
        self.name = ipywidgets.Text(description="or by name", placeholder=browser.units[0], layout=wide)
        self.note, self.picture, self.table = (ipywidgets.HTML() for _ in range(3))
        self.near = [ipywidgets.Button(layout={"width": "auto"}) for _ in range(2 * NEAR)]
        self.descriptor.observe(self._described, "value")
        self.word.observe(self._worded, "value")
        self.site.observe(self._list, "value")
        self.unit.observe(self._show, "value")
        self.name.observe(self._named, "value")
        for button in self.near:
            button.on_click(lambda pressed: setattr(self.name, "value", pressed.description))
        fields = controls([self.descriptor, self.word, self.site, self.unit, self.name, self.note])
        near = ipywidgets.Box(
            [ipywidgets.Label("go to a neighbour"), *self.near], layout={"flex_flow": "row wrap"}
        )
        self.box = ipywidgets.VBox([fields, self.picture, self.table, near])
        self._list()
        if browser.first != self.unit.value:
            self.name.value = browser.first

    def _described(self, *_: object) -> None:
        if self.descriptor.value is not ANY and self.word.value:
            self.word.value = ""  # which lists, too
        elif not self.word.value:
            self._list()

    def _worded(self, *_: object) -> None:
        if self.word.value.strip():
            self.descriptor.value = ANY
        self._list()

    def _list(self, *_: object) -> None:
        """The units that the fields ask for; all of them where they ask for nothing but a site."""
        word = self.word.value.strip() or None
        descriptor, site = (None if f.value is ANY else f.value for f in (self.descriptor, self.site))
        descriptor = descriptor if word is None else None
        asked = not (word is None and descriptor is None)
        try:
            n = LISTED if asked else None
            found = self.browser.search(descriptor=descriptor, word=word, site=site, n=n)
        except ValueError as error:
            return self._say(str(error))
        self._say(self._found(len(found), descriptor, word))
        self.unit.options = self.browser.titles(found, numbers=asked)
        self.unit.index = 0  # none was chosen since the list is new: this shows it

    def _found(self, n: int, descriptor: Any, word: str | None) -> str:
        if word is not None:
            texts = len(self.browser.texts_with(word))
            return (
                f"{n} units, by how many standard deviations they are above their mean on “{word}”"
                f" ({min(texts, WORD_TEXTS)} of the {texts} texts that have it were read)"
            )
        return f"{n:,} units, by their {'best tag' if descriptor is None else f'score for “{descriptor}”'}"

    def _say(self, message: str) -> None:
        self.note.value = f'<p class="nbkit note" role="status">{escaped(message)}</p>'

    def _show(self, *_: object) -> None:
        if self.unit.value:
            self.name.value = ""
            self._draw(self.unit.value)

    def _named(self, *_: object) -> None:
        name = self.name.value.strip()
        if name in self.browser.units:
            if self.unit.value != name:
                self.unit.index = None  # so that what it stood on can be chosen again
            self._draw(name)
        elif name:
            self._say(f"no unit {name}; names look like {self.browser.units[0]}")

    def _draw(self, unit: str) -> None:
        for view in self.browser.drawn(unit):
            self.picture.value = view
        near, self.table.value = self.browser.neighbours(unit).index, self.browser.neighbours_html(unit)
        for button, name in itertools.zip_longest(self.near, near):
            button.description = name or ""
            button.layout.display = None if name else "none"
