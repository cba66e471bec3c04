"""One unit in two corpora, side by side: see ``corpus_compare``."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd

from nbkit.activations import Activations
from nbkit.illusions import Report, Taxonomy
from nbkit.models import Subject
from nbkit.plots.browser import NeuronBrowser, neuron_browser, scale_html
from nbkit.plots.html import Views, cell_html, controls, escaped, live_and_static, table_html
from nbkit.plots.style import short
from nbkit.texts import Texts


def corpus_compare(
    subject: Subject,
    corpora: Mapping[str, Texts],
    activations: Mapping[str, Activations],
    labels: Mapping[str, pd.DataFrame],
    *,
    report: Report | None = None,
    verdicts: Taxonomy | None = None,
    method: str = "pearson",
    k: int = 6,
    unit: str | None = None,
    pair: tuple[str, str] | None = None,
) -> CorpusCompare:
    """Look at a unit in two corpora, side by side: exemplars, histogram, its tag in each, and do they agree?

    report     of ``illusions.compare`` on the same corpora: is each tag best in its random cuts
    verdicts   of ``illusions.taxonomy``: is the tag global, dataset-level or local
    pair       the two corpora shown first; None: the first two
    others     as for ``neuron_browser``

    Fewer than two corpora, and a pair that is not among them, are a ``ValueError``.
    """
    if len(corpora) < 2:
        raise ValueError(f"{len(corpora)} corpus: a comparison needs two or more")
    if pair is not None and (len(set(pair)) < 2 or not set(pair) <= set(corpora)):
        raise ValueError(f"pair={pair}: two different ones of {', '.join(corpora)} can be shown")
    browser = neuron_browser(subject, corpora, activations, labels, method=method, k=k, unit=unit)
    return CorpusCompare(browser, report, verdicts, pair or tuple(corpora)[:2])


class CorpusCompare:
    """See ``corpus_compare``. ``browser`` is the ``NeuronBrowser`` of the same units."""

    def __init__(
        self,
        browser: NeuronBrowser,
        report: Report | None,
        verdicts: Taxonomy | None,
        pair: tuple[str, ...],
    ) -> None:
        self.browser, self.report, self.verdicts, self.pair = browser, report, verdicts, pair
        self._shaded: dict[str, pd.DataFrame] = {}

    def tags(self, unit: str, one: str, other: str) -> pd.DataFrame:
        """The best descriptor of ``unit`` in each of two corpora (one line, where it is the same).

        Columns: one, other (its score in each), rank:one, rank:other (among the unit's descriptors), and two
        numbers about all units: correlation (of the descriptor's scores in the two corpora) and shared (how
        many of its ten best units are the same in both).
        """
        scores = {name: self._scores(name) for name in (one, other)}
        own = pd.DataFrame({name: table[unit] for name, table in scores.items()}).fillna(-np.inf)
        ranks, lines = own.rank(ascending=False, method="min").astype(int), {}
        for tag in dict.fromkeys([own[one].idxmax(), own[other].idxmax()]):
            a, b = scores[one].loc[tag], scores[other].loc[tag]
            line = {one: own.loc[tag, one], other: own.loc[tag, other]}
            line |= {f"rank:{name}": ranks.loc[tag, name] for name in scores}
            line["correlation"] = a.corr(b) if len(a) > 1 else np.nan
            line["shared"] = len(set(a.nlargest(10).index) & set(b.nlargest(10).index))
            lines[tag] = line
        return pd.DataFrame.from_dict(lines, orient="index")

    def agreement(self, unit: str, one: str, other: str) -> dict[str, float]:
        """Do two corpora agree on ``unit``?

        same (1 or 0: the best tag), jaccard (of the first two tags), spearman (over all descriptors), overlap
        (1 or 0: of the ranges of its ``k`` strongest activations).
        """
        own = pd.DataFrame({name: self._scores(name)[unit] for name in (one, other)})
        first = [set(own[name].nlargest(2).index) for name in own]
        varies = own.nunique().min() > 1
        tops = [self.browser.activations[name] for name in (one, other)]
        tops = [np.sort(np.asarray(a.values[:, a.column(unit)]))[-self.browser.k :] for a in tops]
        return {
            "same": float(own[one].idxmax() == own[other].idxmax()),
            "jaccard": len(first[0] & first[1]) / len(first[0] | first[1]),
            "spearman": float(own[one].corr(own[other], method="spearman")) if varies else 0.0,
            "overlap": float(tops[0][0] <= tops[1][-1] and tops[1][0] <= tops[0][-1]),
        }

    def view(self, unit: str, one: str, other: str) -> str:
        """The HTML of one unit in two corpora."""
        if unit not in self._shaded:
            self._shaded[unit] = self.browser.shaded(unit, self.browser.exemplars(unit))
        return self._page(unit, one, other, self._shaded[unit])

    def drawn(self, unit: str, one: str, other: str) -> Iterator[str]:
        """What a widget shows one after the other: the picture, and the same with its tokens shaded."""
        if unit not in self._shaded:
            yield self._page(unit, one, other, self.browser.exemplars(unit))
        yield self.view(unit, one, other)

    def to_html(self, units: Sequence[str] | None = None, title: str = "Two corpora") -> str:
        """A page of ``units`` (default: the best unit of each of the first 12 descriptors), for all pairs."""
        browser = self.browser
        if units is None:
            first = (browser.best_units(name, 1)[0] for name in browser.descriptors[:12])
            units = list(dict.fromkeys(first))
        titles = dict(browser.titles(browser.search(n=None).loc[list(units)], numbers=False))
        pairs = {
            f"{one} · {other}": (one, other) for one, other in itertools.combinations(browser.corpora, 2)
        }
        options = {"unit": list(titles), "corpora": list(pairs)}
        return Views(title, options, lambda unit, pair: self.view(titles[unit], *pairs[pair])).to_html()

    def widget(self) -> ipywidgets.Widget:
        """A descriptor, its units, and the two corpora."""
        browser, wide = self.browser, {"width": "44em"}
        names = list(browser.corpora)
        tags = [(short(name), name) for name in browser.descriptors]
        descriptor = ipywidgets.Dropdown(options=tags, description="descriptor", layout=wide)
        unit = ipywidgets.Select(description="unit", rows=6, layout=wide)
        sides: list[Any] = [
            ipywidgets.Dropdown(options=names, value=self.pair[i], description=what, layout=wide)
            for i, what in enumerate(("left", "right"))
        ]
        one, other = sides
        shown = ipywidgets.HTML()

        def fill(*_: object) -> None:
            unit.options, unit.index = browser.titles(browser.search(descriptor=descriptor.value)), 0

        def show(*_: object) -> None:
            if one.value == other.value:
                shown.value = '<p class="nbkit">choose two different corpora</p>'
            elif unit.value:
                for view in self.drawn(unit.value, one.value, other.value):
                    shown.value = view

        descriptor.observe(fill, "value")
        for field in (unit, one, other):
            field.observe(show, "value")
        fill()
        if browser.first != unit.value:
            listed = browser.search(n=None).loc[[browser.first]]
            unit.options, unit.index = [*browser.titles(listed, numbers=False), *unit.options], 0
        return ipywidgets.VBox([controls([descriptor, unit, one, other]), shown])

    def _repr_mimebundle_(self, **kwargs: object) -> dict:
        return live_and_static(self.widget(), self.view(self.browser.first, *self.pair), kwargs)

    def __repr__(self) -> str:
        return f"CorpusCompare({len(self.browser.units):,} units, {', '.join(self.browser.corpora)})"

    # ------------------------------------------------------------------------------ rendering

    def _scores(self, name: str) -> pd.DataFrame:
        """[descriptor, unit] in a corpus, of the descriptors that all corpora have."""
        return self.browser.scores[name].loc[self.browser.descriptors]

    def _page(self, unit: str, one: str, other: str, best: pd.DataFrame) -> str:
        scale, found = self.browser.scale(unit), self.agreement(unit, one, other)
        columns = (
            "\n".join(  # on lines of their own: a page has the column of a corpus once for all its pairs
                self.browser.column_html(name, unit, best.loc[[name]], scale) for name in (one, other)
            )
        )
        title = "the same best tag in both" if found["same"] else "another best tag in each"
        ranges = "overlap" if found["overlap"] else "do not overlap"
        return (
            f'<div class="nbkit"><h3>{escaped(unit)}: {title}</h3>{self._tags_html(unit, one, other)}'
            f'<p class="note">rank correlation of its scores over all descriptors: {found["spearman"]:z.2f};'
            f" of the first two tags in each, {found['jaccard']:.0%} are shared; the ranges of the"
            f' {self.browser.k} strongest activations {ranges}</p><div class="corpora">\n{columns}\n</div>'
            f"{scale_html(scale)}</div>"
        )

    def _tags_html(self, unit: str, one: str, other: str) -> str:
        """A line for each tag: scores and ranks, its numbers over all units, and the verdicts given."""
        table, lines = self.tags(unit, one, other), []
        extra = {"compare": self._transfer} if self.report is not None else {}
        extra |= {"taxonomy": self._verdict} if self.verdicts is not None else {}
        for tag, line in table.iterrows():
            cells = "".join(
                f"{cell_html(line[name], line[f'rank:{name}'] == 1)}<td>{line[f'rank:{name}']:.0f}</td>"
                for name in (one, other)
            )
            cells += f"<td>{line['correlation']:z.2f}</td><td>{line['shared']:.0f} of 10</td>"
            lines.append((tag, cells))
        verdicts = "".join(
            f'<p class="note"><b dir="auto">{escaped(tag)}</b>, {what}:'
            f" {escaped(verdict(unit, tag, one, other))}</p>"
            for tag in table.index
            for what, verdict in extra.items()
        )
        head = ["best tag", one, "rank", other, "rank", "over units", "best units"]
        note = "over units: correlation of the tag’s scores in the two; best units: how many are the same"
        return f'{table_html(head, lines)}<p class="note">{note}</p>{verdicts}'

    def _transfer(self, unit: str, tag: object, one: str, other: str) -> str:
        """What ``illusions.compare`` found in its cuts, from each of the two corpora."""
        table, found = self.report.units, []
        cuts = table["split"].nunique()
        for here, there in ((one, other), (other, one)):
            at = (table["unit"] == unit) & (table["descriptor"] == tag) & (table["corpus"] == here)
            own = table[at & table["above"]].set_index("other")["same"]
            if len(own):
                found.append(
                    f"chosen in {own[[here]].size} of {cuts} cuts of {here}; best on the other half in"
                    f" {own[[here]].sum()}, in {there} in {own[[there]].sum()}"
                )
        return "; ".join(found) or f"below {self.report.settings['min_score']:g}, or too rare: not judged"

    def _verdict(self, unit: str, tag: object, *_: str) -> str:
        """The verdict of ``illusions.taxonomy``, over all its corpora."""
        table = self.verdicts.verdicts
        found = table[(table["unit"] == unit) & (table["descriptor"] == tag)]
        if found.empty:
            return "not judged"
        line = found.iloc[0]
        return (
            f"{line['verdict']} (trends in {line['trends']} of"
            f" {self.verdicts.evidence['corpus'].nunique()} corpora)"
        )
