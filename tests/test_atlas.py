"""The site of all units: what its files say, against brute force. tests/browser has it in Chromium."""

import base64
import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from browser import small

from nbkit import claims, matching, plots
from nbkit.activations import exemplars
from nbkit.plots import atlas_pages
from nbkit.plots.figures import transfer_table
from nbkit.plots.shades import LETTERS
from nbkit.texts import Texts

K = 3
CLAIMS = pd.DataFrame(
    {
        "unit": [f"{small.SITE}.7", f"{small.SITE}.300", "layer.0.ffn.1"],
        "description": ["question", "number", "x"],
    }
)


@pytest.fixture(scope="module")
def given(minilm):
    return small.stores(minilm)


@pytest.fixture(scope="module")
def judged(given):
    _, corpora, stored, labels = given
    kept = {name: frame[["question", "number"]] for name, frame in labels.items()}
    few = {"min_positives": 3, "permutations": 20, "progress": False}
    return claims.judge(stored, CLAIMS.iloc[:2], corpora, labeller=kept, **few)


@pytest.fixture(scope="module")
def site(given, judged, tmp_path_factory):
    """The folder, and a function from the name of a script to what it hands to the page."""
    folder = tmp_path_factory.mktemp("atlas") / "site"
    index = plots.atlas(folder, *given, judged=judged, k=K, word_texts=60, progress=False)
    assert index == folder / "index.html"
    return folder, lambda name: taken(folder, name)


def taken(folder, name):
    (data,) = (folder / "data").iterdir()
    text = (data / f"{name}.js").read_text(encoding="utf-8")
    return json.loads(re.fullmatch(rf'nbkit\.take\("{name}",(.*)\);\n', text, re.DOTALL)[1])


def units_of(site):
    parts = [site[1](f"units-0-{i}") for i in range(1536 // atlas_pages.UNITS_IN_FILE)]
    return [unit for part in parts for unit in part]


def test_tags_are_those_of_the_transfer_table_with_their_ranks(site, given):
    _, _, stored, labels = given
    scores = {name: matching.score(stored[name], labels[name]) for name in stored}
    names = [d for d in scores["reviews"].index if all(d in s.index for s in scores.values())]
    units, columns = units_of(site), stored["reviews"].units["unit"]
    assert len(units) == 1536
    for u in range(0, 1536, 171):
        table = transfer_table(scores, columns[u], 2)
        assert [names[tag[0]] for tag in units[u][0]] == table.index.tolist()
        for tag, (name, line) in zip(units[u][0], table.iterrows(), strict=True):
            assert tag[1::2] == pytest.approx(line.tolist(), abs=6e-4)
            ranks = [1 + int((s.loc[name] > s.loc[name, columns[u]]).sum()) for s in scores.values()]
            assert np.abs(np.subtract(tag[2::2], ranks)).max() <= 1  # float32 makes ties


def test_a_descriptor_has_the_score_of_every_unit_in_its_best_corpus(site, given):
    subject, corpora, stored, labels = given
    browser = plots.neuron_browser(subject, corpora, stored, labels)
    for d in (0, 5):
        step, text = site[1](f"tag-{d}")
        found = np.frombuffer(base64.b64decode(text), "<i2") * step
        expected = browser.search(descriptor=browser.descriptors[d], n=None)
        assert found == pytest.approx(expected[browser.units].to_numpy(), abs=2e-4)


def test_exemplars_are_the_top_texts_with_the_shades_of_their_tokens(site, given):
    subject, corpora, stored, _ = given
    texts, units = site[1]("texts-0"), units_of(site)
    for u in (0, 7, 700, 1535):
        name = f"{small.SITE}.{u}"
        bound = max(float(a.values[:, u].max()) for a in stored.values())
        for found, corpus in zip(units[u][3], corpora, strict=True):
            best = exemplars.top(stored[corpus], corpora[corpus], name, K)
            assert [texts[line[0]][0] for line in found] == best["text"].tolist()
            assert [line[1] for line in found] == pytest.approx(best["activation"].tolist(), abs=6e-4)
            shaded = exemplars.shade(subject, Texts.from_list(best["text"]), name)
            for line, tokens in zip(found, shaded.values(), strict=True):
                spans = np.cumsum(texts[line[0]][1]).reshape(-1, 2)
                assert spans.tolist() == tokens[["start", "end"]].to_numpy().tolist()
                assert tokens["activation"].max() == pytest.approx(tokens["activation"][line[2]], abs=1e-4)
                shades = np.array([LETTERS.index(letter) for letter in line[3]]) / 63
                assert shades == pytest.approx((tokens["activation"] / bound).clip(0, 1), abs=0.01)


def test_histograms_are_of_all_texts_and_a_word_is_the_browsers(site, given):
    subject, corpora, stored, labels = given
    units, words = units_of(site), {line[0]: line[1:] for line in site[1]("words")}
    low, high = (f([f(a.values[:, 9]) for a in stored.values()]) for f in (min, max))
    bars = np.array([LETTERS.index(letter) for letter in units[9][1]]).reshape(4, atlas_pages.BINS)
    for own, a in zip(bars, stored.values(), strict=True):
        counts, _ = np.histogram(a.values[:, 9].astype(np.float32), bins=atlas_pages.BINS, range=(low, high))
        assert ((own > 0) == (counts > 0)).mean() > 0.9  # at most an edge is on the other side
    browser = plots.neuron_browser(subject, corpora, stored, labels)
    expected = browser.page_responses(browser.units.tolist(), 60)
    assert list(words) == expected.index.tolist()
    line = expected.loc["not"].sort_values(ascending=False, kind="stable").head(atlas_pages.LISTED)
    assert words["not"][0::2] == pd.Index(browser.units).get_indexer(line.index).tolist()
    assert words["not"][1::2] == pytest.approx(line.tolist(), abs=6e-3)
    assert units[9][4][0] in expected[f"{small.SITE}.9"].nlargest(2).index


def test_a_claim_is_on_its_unit_and_in_the_search(site, judged):
    line = judged.verdicts.iloc[0]
    assert units_of(site)[7][5] == [["question", 1, line["words"], ""]]
    found = {(place, text) for place, text, _ in site[1]("claims-0")}
    assert found == {(7, "question"), (300, "number")}
    assert all(not unit[5] for u, unit in enumerate(units_of(site)) if u not in (7, 300))


def test_a_second_run_replaces_the_site_and_a_failed_one_leaves_it(site, given, tmp_path, monkeypatch):
    _, corpora, stored, labels = given
    one = {"reviews": stored["reviews"].select(units=list(range(40)))}
    some = (None, {"reviews": corpora["reviews"]}, one, {"reviews": labels["reviews"]})
    plots.atlas(tmp_path, *some, k=2, progress=False)
    before = {p.relative_to(tmp_path) for p in tmp_path.rglob("*")}, (tmp_path / "index.html").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(atlas_pages._Atlas, "_write_texts", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            plots.atlas(tmp_path, *some, k=3, progress=False)
    after = {p.relative_to(tmp_path) for p in tmp_path.rglob("*")}, (tmp_path / "index.html").read_bytes()
    assert before == after
    plots.atlas(tmp_path, *some, k=3, progress=False)
    (data,) = (tmp_path / "data").iterdir()
    assert data.name in (tmp_path / "index.html").read_text(encoding="utf-8")
    assert data.relative_to(tmp_path) not in before[0]


def test_what_does_not_fit_together_is_named(given, judged, tmp_path):
    subject, corpora, stored, labels = given
    reviews = {"reviews": stored["reviews"]}
    words = replace(stored["reviews"], rows=stored["reviews"].rows.assign(text_id=0))
    for change, complaint in (
        ({"activations": {}}, "no corpus to show"),
        ({"activations": reviews}, "no store for the corpus 'questions'; there are reviews"),
        (
            {"labels": {"reviews": labels["reviews"]}},
            "no labels for the corpus 'questions'; there are reviews",
        ),
        ({"corpora": {}}, "no texts for the corpus 'reviews'; there are none"),
        (
            {"activations": {**stored, "fiction": stored["fiction"].select(units=[0])}},
            "'fiction' and 'reviews'",
        ),
        ({"activations": {**stored, "reviews": words}}, "the store of 'reviews' has several rows of a text"),
        ({"subject": subject.randomized(0)}, "the store of 'reviews' was not made by"),
        ({"k": 61}, "k=61 exemplars were asked for; 'reviews' has 60 texts"),
        ({"tags": 0}, "tags=0: the corpora share 13 descriptors"),
        ({"method": "person"}, "unknown scorer 'person'"),
    ):
        asked = {"subject": subject, "corpora": corpora, "activations": stored, "labels": labels} | change
        with pytest.raises(ValueError, match=complaint):
            plots.atlas(tmp_path / "no", **asked, progress=False)
    other = replace(judged, verdicts=judged.verdicts.assign(unit="layer.0.ffn.1"))
    with pytest.raises(ValueError, match="none of the 2 claims is about a unit of this atlas"):
        plots.atlas(tmp_path / "no", *given, judged=other, progress=False)
    assert not (tmp_path / "no").exists()
