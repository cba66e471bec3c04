"""A site of all units of a subject, to search, and to send links into: see ``atlas``.

``index.html`` holds the search; the units, their texts, the scores and the claims are scripts in a folder
``data/HASH`` that the page asks for when it needs them. They are scripts, since a page opened from disk may
not fetch other files. The hash is of their contents: a page finds its own data or none, never those of
another run.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats
from tqdm.auto import tqdm

from nbkit import activations as store
from nbkit import claims, provenance, stats
from nbkit.activations import Activations
from nbkit.models import Subject
from nbkit.plots.browser import NeuronBrowser, script_folds
from nbkit.plots.html import asset, escaped, options_html, page
from nbkit.plots.scripts import Scripts, packed, whole_folder
from nbkit.plots.shades import LETTERS, Shades, letters_of
from nbkit.texts import Texts

log = logging.getLogger(__name__)
UNITS_IN_FILE = 128
TEXTS_IN_FILE = 512
BINS = 40  # of a histogram
LISTED = 50  # units that the page lists for a word
UNIT_WORDS = 5  # words that a unit's page names


def atlas(
    folder: str | Path,
    subject: Subject | None,
    corpora: Mapping[str, Texts],
    activations: Mapping[str, Activations],
    labels: Mapping[str, pd.DataFrame],
    *,
    judged: claims.Judged | None = None,
    method: str = "pearson",
    k: int = 4,
    tags: int = 2,
    word_texts: int = 400,
    title: str | None = None,
    progress: bool = True,
) -> Path:
    """Writes a site with a page for every unit of ``activations``; the path of its index.html.

        plots.atlas("site", subject, corpora, stored, labels, judged=judged)

    It works opened from disk and from any host of static files, and asks no network. ``#layer.3.ffn.512``
    behind its address is a link to that unit. Units are searched by descriptor, word, site, claim and name.

    folder       made where it is missing: index.html, and a folder ``data``, which is the site's own. The
                 index is replaced when all data are there, and then the data of an older one are removed
    subject      shades the tokens of the exemplars and reads the words, in one forward pass over the texts
                 that are anyone's exemplar, and one for each site over ``word_texts`` texts. None: texts are
                 plain, and there is no search by word
    corpora, activations, labels   by the same corpus names, as in ``neuron_browser``: stores of text rows
                 with the same units; labels are [text, descriptor]
    judged       what ``claims.judge`` found: a claim stands on the page of its unit with its verdict, and can
                 be searched for. Claims about units that the stores lack are left out, and counted
    method       scorer of the tags: a key of ``matching.SCORERS``
    k            exemplars for each corpus
    tags         the best descriptors of each corpus that a unit's table has (in all corpora)
    word_texts   texts drawn from the corpora, whose words can be searched for if they occur twice; 0: none
    title        of the site; None: the units of the subject

    Shades are told apart in 64 steps from 0 to the unit's highest activation in any corpus. A name that is
    missing, stores of other rows or units, corpora that share no descriptor, a subject or texts the stores
    were not made from, and k or tags that are too many are a ``ValueError``.
    """
    _check(subject, corpora, activations, labels, k)
    browser = NeuronBrowser(subject, corpora, activations, labels, method=method, k=k, unit=None)
    if not 1 <= tags <= len(browser.descriptors):
        raise ValueError(
            f"tags={tags}: the corpora share {len(browser.descriptors)} descriptors; take 1 to that"
        )
    made = _Atlas(browser, judged, tags, word_texts if subject is not None else 0, progress)
    if title is None:
        title = f"Units of {next(iter(activations.values())).manifest.get('model', 'a model')}"
    return made.write(Path(folder), title)


class _Atlas:
    """What the pages say, in the order of ``units``: site after site."""

    def __init__(
        self, browser: NeuronBrowser, judged: claims.Judged | None, tags: int, word_texts: int, progress: bool
    ) -> None:
        self.browser, self.tags, self.word_texts, self.progress = browser, tags, word_texts, progress
        self.stores, self.corpora, self.k = browser.activations, browser.corpora, browser.k
        units = next(iter(self.stores.values())).units
        place = pd.Index(browser.sites).get_indexer(units["site"])
        self.columns = np.argsort(place, kind="stable")  # in the stores
        self.units = units["unit"].to_numpy()[self.columns]
        self.bounds = np.searchsorted(place[self.columns], np.arange(len(browser.sites) + 1)).tolist()
        self.words = _Words()
        self.claims = self._claims_of(judged)

    @property
    def sites(self) -> list[tuple[str, int, int]]:
        """(site, its first unit, the unit after its last)"""
        return list(zip(self.browser.sites, self.bounds[:-1], self.bounds[1:], strict=True))

    def write(self, folder: Path, title: str) -> Path:
        """The data, then the index; ``folder`` is as it was if anything fails before."""
        with whole_folder(folder / "data") as files:
            for write in (self._write_scores, self._write_units, self._write_texts, self._write_claims):
                write(files)
            if self.word_texts:
                files.write("words", self.words.found())
        data = {"folder": f"data/{files.name}", "title": title, **self._facts()}
        manifest = self._manifest()
        body = INDEX.format(
            fields=self.browser.search_fields(),
            verdicts=options_html([("", "any"), *enumerate(claims.VERDICTS)]),
            manifest=escaped(json.dumps(manifest, indent=1, ensure_ascii=False, default=str)),
            style=asset("claims.css") + asset("atlas.css"),
        )
        index = folder / "index.html"
        with provenance.atomic(index) as part:
            script = asset("fields.js") + asset("atlas.js")
            part.write_text(page(title, body, data, script), encoding="utf-8")
        for old in (folder / "data").iterdir():
            if re.fullmatch("[0-9a-f]{16}", old.name) and old.name != files.name:
                shutil.rmtree(old, ignore_errors=True)
        return index

    def _facts(self) -> dict[str, Any]:
        """What the page has from the start: everything that lists need."""
        best = self._scores.reshape(-1, len(self.units))
        which = best.argmax(0)
        sites = [
            {"name": site, "n": stop - first, "names": self._odd_names(site, first, stop)}
            for site, first, stop in self.sites
        ]
        lines = {line["unit"] for _, line in self.claims.iterrows()}
        return {
            "sites": sites,
            "corpora": list(self.corpora),
            "descriptors": [str(name) for name in self.browser.descriptors],
            "best": packed(best[which, np.arange(best.shape[1])]),
            "which": [packed(part, 1)[1] for part in np.divmod(which, len(self.browser.descriptors))],
            "fold": script_folds(),
            "letters": LETTERS,
            "unitsInFile": UNITS_IN_FILE,
            "textsInFile": TEXTS_IN_FILE,
            "bins": BINS,
            "words": self.words.n,
            "verdicts": list(claims.VERDICTS),
            "claims": len(self.claims),
            "claimed": [any(unit in lines for unit in self.units[a:b]) for _, a, b in self.sites],
            "shaded": self.browser.subject is not None,
        }

    def _odd_names(self, site: str, first: int, stop: int) -> list[str] | None:
        """The names of a site's units, unless they are the site and a number that counts from 0."""
        names = self.units[first:stop].tolist()
        return None if names == [f"{site}.{i}" for i in range(len(names))] else names

    def _manifest(self) -> dict[str, Any]:
        """What made the site, for those who read it."""
        subject, browser = self.browser.subject, self.browser
        first = next(iter(self.stores.values())).manifest
        return provenance.manifest(
            subject=subject.fingerprint if subject is not None else first.get("subject"),
            model=first.get("model"),
            corpora={name: corpus.fingerprint for name, corpus in self.corpora.items()},
            texts={name: len(stored) for name, stored in self.stores.items()},
            pool=first.get("pool"),
            units=len(self.units),
            descriptors=len(browser.descriptors),
            method=browser.method,
            k=self.k,
            tags=self.tags,
            word_texts=self.word_texts,
            claims=len(self.claims),
            claims_left_out=self.claims.attrs["left_out"],
            **provenance.place(),
        )

    # ------------------------------------------------------------------------------ scores

    @cached_property
    def _scores(self) -> np.ndarray:
        """[corpus, descriptor, unit] float32; what a corpus cannot score is -inf."""
        names = self.browser.descriptors
        found = [s.loc[names].to_numpy(np.float32)[:, self.columns] for s in self.browser.scores.values()]
        return np.nan_to_num(np.stack(found), nan=-np.inf, posinf=np.inf, neginf=-np.inf)

    @cached_property
    def _ranks(self) -> np.ndarray:
        """[corpus, descriptor, unit] 1 + units that score higher."""
        found = np.empty(self._scores.shape, np.int32)
        for corpus, scores in enumerate(self._scores):
            found[corpus] = scipy.stats.rankdata(-scores, axis=1, method="min")
        return found

    def _write_scores(self, files: Scripts) -> None:
        """A file for each descriptor: every unit's score for it, in the corpus where it is highest."""
        for d, scores in enumerate(self._scores.max(0)):
            files.write(f"tag-{d}", packed(scores))

    @cached_property
    def _best(self) -> np.ndarray:
        """[corpus, tag, unit] the best descriptors of each corpus that all corpora can score."""
        known = np.where(np.isneginf(self._scores).any(0), -np.inf, self._scores)
        return np.stack([np.argsort(-scores, axis=0, kind="stable")[: self.tags] for scores in known])

    def _tags_of(self, unit: int) -> list[list]:
        """[descriptor, score and rank in each corpus] of a unit's table, as ``plots.transfer`` has it."""
        scores, ranks, lines = self._scores[:, :, unit], self._ranks[:, :, unit], []
        for d in dict.fromkeys(self._best[:, :, unit].ravel().tolist()):
            if np.isfinite(scores[:, d]).all():
                both = zip(scores[:, d].tolist(), ranks[:, d].tolist(), strict=True)
                lines.append([d, *(x for score, rank in both for x in (round(score, 3), rank))])
        return lines

    # ------------------------------------------------------------------------------ units

    def _block(self, name: str, first: int, stop: int) -> np.ndarray:
        """Activations float32 [text, unit] of a run of units."""
        columns = self.columns[first:stop]
        return np.asarray(self.stores[name].values[:, columns], dtype=np.float32)

    @cached_property
    def _top(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """{corpus: rows and activations [unit, k] of the exemplars}; also fills ``_extent`` and ``_bars``."""
        n, found = len(self.units), {}
        self._extent = np.full((2, n), np.inf, np.float32)  # lowest, and the highest with its sign changed
        for name in self.corpora:
            rows, values = np.empty((n, self.k), np.int64), np.empty((n, self.k), np.float32)
            for _, first, stop in self.sites:
                x, at = self._block(name, first, stop), slice(first, stop)
                rows[at] = stats.top_texts(x, self.k).T
                values[at] = np.take_along_axis(x.T, rows[at], 1)
                extent = np.stack([x.min(0), -x.max(0)])
                self._extent[:, at] = np.minimum(self._extent[:, at], extent)
            found[name] = rows, values
        return found

    @cached_property
    def _shades(self) -> dict[str, Shades]:
        """{corpus: its exemplars shaded}; none without a subject."""
        subject, found = self.browser.subject, {}
        if subject is None:
            return found
        for name, (rows, _) in self._top.items():
            stored = self.stores[name]
            text_ids = stored.rows["text_id"].to_numpy()[rows]
            wanted, some = np.unique(text_ids), self.corpora[name]
            some = some if len(wanted) == len(some) else some.where(text_id=wanted.tolist())
            options = {"sites": list(self.browser.sites), "rows": "token", "progress": self.progress}
            options["long"] = stored.manifest.get("long", "truncate")
            reducer = Shades(self.units.tolist(), text_ids, -self._extent[1])
            found[name] = store.reduce(subject, some, {"shades": reducer}, **options)["shades"]
        return found

    @cached_property
    def _numbers(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """{corpus: rows that are anyone's exemplar, number of each row's text (or -1)}, over all corpora."""
        found, total = {}, 0
        for name, (rows, _) in self._top.items():
            own = np.unique(rows)
            number = np.full(len(self.stores[name]), -1)
            number[own] = total + np.arange(len(own))
            found[name], total = (own, number), total + len(own)
        return found

    def _write_units(self, files: Scripts) -> None:
        """The units of each site, some in a file."""
        _ = self._top, self._shades
        bar = tqdm(total=len(self.units), desc="atlas", unit=" units", leave=False, disable=not self.progress)
        claimed = dict(list(self.claims.groupby("unit", sort=False)))
        with bar:
            for s, (_, first, stop) in enumerate(self.sites):
                names, bars = self.units[first:stop], self._histograms(first, stop)
                own = self.words.add(self.browser.page_responses(names.tolist(), self.word_texts), first)
                for start in range(first, stop, UNITS_IN_FILE):
                    part = range(start, min(start + UNITS_IN_FILE, stop))
                    lines = [
                        [
                            self._tags_of(u),
                            bars[u - first],
                            [round(float(x), 3) for x in (self._extent[0, u], -self._extent[1, u])],
                            [self._exemplars_of(name, u) for name in self.corpora],
                            own[u - first],
                            _claim_lines(claimed.get(self.units[u])),
                        ]
                        for u in part
                    ]
                    files.write(f"units-{s}-{(start - first) // UNITS_IN_FILE}", lines)
                    bar.update(len(part))

    def _histograms(self, first: int, stop: int) -> list[str]:
        """A letter for each bin and corpus of each unit: square roots of counts over the range of all."""
        low, high = self._extent[0, first:stop], -self._extent[1, first:stop]
        width, parts = np.where(high > low, high - low, 1), []
        for name in self.corpora:
            x = self._block(name, first, stop)
            bins = np.minimum(((x - low) / width * BINS).astype(np.int64), BINS - 1)
            bins += np.arange(stop - first) * BINS
            counts = np.bincount(bins.ravel(), minlength=(stop - first) * BINS).reshape(-1, BINS)
            parts.append(letters_of(np.sqrt(counts / counts.max(1, keepdims=True))))
        return [line.tobytes().decode() for line in np.concatenate(parts, axis=1)]

    def _exemplars_of(self, name: str, unit: int) -> list[list]:
        """[number of the text, activation, position of the strongest token, shades], the strongest first."""
        rows, values = self._top[name]
        numbers, lines = self._numbers[name][1][rows[unit]].tolist(), []
        for j, (number, value) in enumerate(zip(numbers, values[unit].tolist(), strict=True)):
            shaded = self._shades[name].of(unit, j) if self._shades else ()
            lines.append([number, round(value, 3), *shaded])
        return lines

    def _write_texts(self, files: Scripts) -> None:
        """The texts that are anyone's exemplar, once each, with the characters of their tokens."""
        lines = []
        for name, (rows, _) in self._numbers.items():
            known = self.corpora[name].frame.set_index("text_id")["text"]
            for text_id in self.stores[name].rows["text_id"].to_numpy()[rows].tolist():
                spans = self._shades[name].spans(text_id) if self._shades else []
                lines.append([known.loc[text_id], spans])
        for start in range(0, len(lines), TEXTS_IN_FILE):
            files.write(f"texts-{start // TEXTS_IN_FILE}", lines[start : start + TEXTS_IN_FILE])

    # ------------------------------------------------------------------------------ claims

    def _claims_of(self, judged: claims.Judged | None) -> pd.DataFrame:
        """The verdicts about units that are here, with ``place`` and the ``order`` of the verdict."""
        if judged is None:
            found = pd.DataFrame(columns=["unit", "place", "order"])
            found.attrs["left_out"] = 0
            return found
        table = judged.verdicts
        place = pd.Index(self.units).get_indexer(table["unit"])
        found = table.assign(place=place, order=[claims.VERDICTS.index(v) for v in table["verdict"]])
        found = found[place >= 0].sort_values("order", kind="stable")
        found.attrs["left_out"] = int((place < 0).sum())
        if found.empty:
            raise ValueError(
                f"none of the {len(table)} claims is about a unit of this atlas: the first is about"
                f" {table['unit'].iloc[0]!r}, here are {self.units[0]!r} to {self.units[-1]!r}: judge claims"
                " about these, or leave judged out"
            )
        if found.attrs["left_out"]:
            log.warning("%d claims left out: their units are not in this atlas", found.attrs["left_out"])
        return found

    def _write_claims(self, files: Scripts) -> None:
        """A file for each site that has any: what a search looks at."""
        for s, (_, first, stop) in enumerate(self.sites):
            own = self.claims[self.claims["place"].between(first, stop - 1)]
            lines = [[line.place, str(line.description), line.order] for line in own.itertuples()]
            if lines:
                files.write(f"claims-{s}", lines)


class _Words:
    """The words of the atlas, and for each the units that respond most, from one site after another."""

    n = 0

    def add(self, responses: pd.DataFrame, first: int) -> list[list]:
        """Takes [word, unit] of a site that begins at unit ``first``; [word, response, ...] of its units."""
        words, found = list(responses.index), responses.to_numpy()
        places = np.broadcast_to(first + np.arange(found.shape[1]), found.shape)
        if not words:
            return [[] for _ in range(found.shape[1])]
        if self.n:
            values, places = np.hstack([self.values, found]), np.hstack([self.places, places])
        else:
            values = found
        order = np.argsort(-values, axis=1, kind="stable")[:, :LISTED]
        self.values, self.places = (np.take_along_axis(x, order, 1) for x in (values, places))
        self.words, self.n = words, len(words)
        best = np.argsort(-found, axis=0, kind="stable")[:UNIT_WORDS].T
        return [
            [x for w in own if found[w, u] > 0 for x in (words[w], round(float(found[w, u]), 1))]
            for u, own in enumerate(best)
        ]

    def found(self) -> list[list]:
        """[word, unit, response, unit, response, ...], the highest first."""
        if not self.n:
            return []
        lines = zip(self.words, self.places.tolist(), self.values.tolist(), strict=True)
        return [
            [word, *(x for p, v in zip(places, values, strict=True) if v > 0 for x in (p, round(v, 2)))]
            for word, places, values in lines
        ]


def _claim_lines(lines: pd.DataFrame | None) -> list[list]:
    """[description, sign, verdict as a sentence, who made it] of a unit's claims."""
    if lines is None:
        return []
    return [
        [
            str(line["description"]),
            -1 if line["sign"] < 0 else 1,
            str(line["words"]),
            str(line["made_by"]) if isinstance(line.get("made_by"), str) else "",
        ]
        for line in lines.to_dict("records")
    ]


def _check(subject, corpora, activations, labels, k: int) -> None:
    """The arguments of ``atlas`` that belong together."""
    if not activations:
        raise ValueError("no corpus to show: give activations as {corpus: store}")
    first, expected = next(iter(activations.items()))
    for name, stored in activations.items():
        for what, given in (("texts", corpora), ("labels", labels)):
            if name not in given:
                raise ValueError(f"no {what} for the corpus {name!r}; there are {', '.join(given) or 'none'}")
        text_ids = stored.rows["text_id"]
        if not text_ids.is_unique:
            raise ValueError(f"the store of {name!r} has several rows of a text: capture(..., rows='text')")
        if stored.units["unit"].tolist() != expected.units["unit"].tolist():
            raise ValueError(f"{name!r} and {first!r} hold different units: capture the same sites")
        if not text_ids.isin(corpora[name].frame["text_id"]).all():
            raise ValueError(f"the store of {name!r} was not made from its texts: a text_id is not in them")
        if not 1 <= k <= len(stored):
            raise ValueError(f"k={k} exemplars were asked for; {name!r} has {len(stored)} texts")
        made_from = stored.manifest.get("subject")
        if subject is not None and made_from not in (None, subject.fingerprint):
            raise ValueError(
                f"the store of {name!r} was not made by {subject.name}: give the subject that it was captured"
                " from, or None for texts without shades"
            )
    if more := [name for name in corpora if name not in activations]:
        raise ValueError(f"no store for the corpus {more[0]!r}; there are {', '.join(activations)}")


INDEX = """<style>{style}</style><noscript><p>This page searches and draws by JavaScript.</p></noscript>
<div class="atlas"><nav aria-label="search"><div class="nbkit-fields">{fields}
<div class="of-claims"><label for="claim">or claim</label>
 <input id="claim" type="search" autocomplete="off"></div>
<div class="of-claims"><label for="verdict">verdict</label> <select id="verdict">{verdicts}</select></div>
<div><label for="name">or name</label> <input id="name" type="search" autocomplete="off"></div></div>
<p id="found" class="nbkit note" role="status"></p><ol id="list"></ol>
<p><button id="more" type="button"></button></p></nav>
<main id="view" class="nbkit" tabindex="-1"></main></div>
<details><summary>how this was made</summary><pre>{manifest}</pre></details>
"""
