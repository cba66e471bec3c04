"""Figures, widgets, provenance and presets: what a reader sees carries what made it."""

import json
import re
from html.parser import HTMLParser

import ipywidgets
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex
from test_figures import BLINDNESS, _nearest

from nbkit import plots, provenance, salience, texts
from nbkit.plots import figures, html, trees
from nbkit.stats import Estimate
from nbkit.workshop import presets

NUMBERS = pd.DataFrame({"x": [0, 1], "y": [1, 2]})


class Page(HTMLParser):
    """Text, and every address that a page would load."""

    def __init__(self, page):
        super().__init__()
        self.addresses, self.text, self.open = [], "", []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.addresses += [v for k, v in attributes if k in ("src", "href", "data")]
        self.open.append(tag)

    def handle_data(self, data):
        self.text += data


def test_shading_keeps_the_text_and_marks_the_peak():
    text = 'a <b> & "c" d'
    tokens = pd.DataFrame({"start": [0, 2, 8], "end": [1, 5, 11], "activation": [-1.0, 0.5, 2.0]})
    found = html.shade_html(text, tokens, bound=2.0)
    assert Page(found).text == text
    assert 'class="peak" style="--a:1.00" title="2.00">&quot;c&quot;</mark>' in found
    assert found.startswith("a &lt;b&gt; &amp;") is False and found.startswith("a ")  # below 0: no shade
    assert found.count("<mark") == 2 and '<mark style="--a:0.25" title="0.50">&lt;b&gt;</mark>' in found


# ---------------------------------------------------------------------------------- figures


def controls(within, across):
    def at(x):
        return Estimate(x, x - 0.02, x + 0.02, 50)

    others = [("random directions", 0.3), ("permuted rows", 0.05)]
    lines = [{"kind": "units", "within": at(within), "across": at(across)}]
    return pd.DataFrame(lines + [{"kind": k, "within": at(x), "across": at(x)} for k, x in others])


def test_agreement_draws_what_it_is_given():
    ax = plots.agreement({"FFN": controls(0.9, 0.6), "last": controls(0.7, 0.3)})
    texts_shown = {t.get_text() for t in ax.texts}
    assert {"0.90", "0.60", "0.70", "0.30"} <= texts_shown
    assert [t.get_text() for t in ax.get_yticklabels()] == ["FFN", "last"] and ax.yaxis_inverted()
    plt.close("all")


def test_transfer_frames_the_best_descriptor_of_every_corpus():
    scores = {
        "a": pd.DataFrame({"u": [0.9, 0.1, 0.0]}, index=["x", "y", "z"]),
        "b": pd.DataFrame({"u": [0.2, 0.6, 0.1]}, index=["x", "y", "z"]),
    }
    assert figures.transfer_table(scores, "u", top=1).values.tolist() == [[0.9, 0.2], [0.1, 0.6]]
    ax = plots.transfer(scores, "u", top=1)
    assert len(ax.patches) == 2
    plt.close("all")


def test_saved_figures_come_in_three_files_with_the_same_bytes(tmp_path):
    for folder in ("one", "two"):
        with plots.style():
            fig, ax = plt.subplots()
            ax.plot([1, 2])
        plots.save(fig, "01_line", {"seed": 0}, data=NUMBERS, folder=tmp_path / folder)
        plt.close(fig)
    for suffix in ("svg", "png"):
        one, two = (tmp_path / f / f"01_line.{suffix}" for f in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()
    manifest = json.loads((tmp_path / "one" / "01_line.json").read_text(encoding="utf-8"))
    assert manifest["seed"] == 0 and manifest["versions"]["torch"] and manifest["figure"] == "01_line"


def test_a_figure_without_sources_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'x' has no sources"):
        plots.save(plt.figure(), "x", {}, data=NUMBERS, folder=tmp_path)
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------- provenance


def test_fingerprints_tell_parts_apart():
    made = [
        provenance.fingerprint("ab", "c"),
        provenance.fingerprint("a", "bc"),
        provenance.fingerprint(["a", "bc"]),
        provenance.fingerprint(np.array([1, 2])),
        provenance.fingerprint(np.array([1, 2], dtype=np.int8)),
        provenance.fingerprint(np.array([[1, 2]])),
    ]
    assert len(set(made)) == len(made)
    assert made[0] == provenance.fingerprint("ab", "c")


def test_manifests_name_no_user_no_host_and_no_path(monkeypatch):
    import getpass
    import socket
    from pathlib import Path

    text = json.dumps(provenance.manifest(seed=1)) + provenance.show()
    for private in (socket.gethostname(), str(Path.home()), str(Path.cwd())):
        assert private not in text
    assert getpass.getuser() not in json.loads(json.dumps(provenance.machine())).values()


# ---------------------------------------------------------------------------------- presets


def test_presets_hand_frames_on(tmp_path, monkeypatch):
    monkeypatch.setenv("NBKIT_RESULTS", str(tmp_path))
    preset = presets.load("sample")
    with pytest.raises(FileNotFoundError, match="run the notebook 02_discover_descriptors"):
        preset.kept("labels/reviews")
    frame = pd.DataFrame({"x": [1.0]}, index=pd.Index([3], name="text_id"))
    preset.keep("labels/reviews", frame)
    pd.testing.assert_frame_equal(preset.kept("labels/reviews"), frame)
    preset.record(a=1)
    preset.record(b=Estimate(0.5, 0.4, 0.6, 9))
    assert json.loads((tmp_path / "sample" / "summary.json").read_text(encoding="utf-8")) == {
        "a": 1,
        "b": [0.5, 0.4, 0.6, 9],
    }


def test_an_unknown_preset_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown preset 'smaple'.*sample, treebank, registers, full"):
        presets.load("smaple")


@pytest.mark.needs_data
def test_the_treebank_preset_cuts_ewt_into_genres(shared_data, monkeypatch):
    monkeypatch.setenv("NBKIT_DATA", str(shared_data))
    corpora = presets.load("treebank").corpora()
    assert sorted(corpora) == sorted(texts.EWT_GENRES)
    for genre, corpus in corpora.items():
        n = corpus.words.groupby("text_id").size()
        assert len(corpus) == 1800 and n.between(4, 50).all() and set(corpus.frame["genre"]) == {genre}


# ---------------------------------------------------------------------------------- views with choices


def test_views_hold_every_combination_without_a_kernel():
    view = plots.Views(
        "Two <ways>", {"name": ["a", "b</script>"], "n": [1, 2, 3]}, lambda a, n: f"<p>{a}{n}</p>"
    )
    page = view.to_html()
    assert not Page(page).addresses and "Two &lt;ways&gt;" in page and "b</script>" not in page
    data = json.loads(re.search(r'application/json">(.*?)</script>', page, re.DOTALL)[1])
    shown = {choice: "\n".join(data["parts"][i] for i in parts) for choice, parts in data["views"].items()}
    assert len(shown) == 6 and "<p>b</script>3</p>" in shown["1,2"]
    box, shown = view.widget().children
    assert isinstance(box.children[0], ipywidgets.Dropdown)
    assert isinstance(box.children[1], ipywidgets.SelectionSlider)
    box.children[1].value = 3
    assert "<p>a3</p>" in shown.value
    assert "<p>a1</p>" in view._repr_mimebundle_()["text/html"]
    with pytest.raises(ValueError, match="'n' has nothing"):
        plots.Views("x", {"n": []}, str)


def test_the_tree_stepper_shows_right_and_wrong_edges():
    stepper = plots.tree_stepper(
        {"s": ["the", "dog", "barked"]}, {"s": {(0, 1), (1, 2)}}, {"s": {"layer.0.hidden": {(0, 1), (0, 2)}}}
    )
    page = stepper.view("s", "layer.0.hidden")
    assert "50% of the edges" in page and page.count("<path") == 4 and page.count("stroke-dasharray") == 1


def test_the_salience_slider_tells_accuracy_layers_and_words():
    rng = np.random.default_rng(0)
    index = pd.MultiIndex.from_arrays([np.arange(60), np.ones(60, int)], names=["text_id", "word_id"])
    y = pd.Series(np.where(np.arange(60) < 30, "N", "V"), index=index)
    X = rng.standard_normal((60, 4)).astype(np.float32)
    X[:30, 2] += 9
    units = pd.DataFrame({"unit": list("abcd"), "site": ["layer.0.hidden"] * 2 + ["layer.1.hidden"] * 2})
    words = pd.Series([f"w{i}" for i in range(60)], index=index)
    ranking = salience.rank(X, y)
    curve = pd.DataFrame({"n": [1, 2, 4], "accuracy": [0.9, 0.95, 1.0]})
    slider = plots.salience_slider({"upos": (X, y)}, units, {"upos": ranking}, {"upos": curve}, words)
    page = slider.view("upos", 1)
    assert "1 of 4 units keep 0.90, all reach 1.00" in page and page.count("<li ") == 1
    assert "<b>c</b> N:" in page and f"w{int(X[:, 2].argmax())}" in page


def test_figures_of_trees():
    fig, axes = plt.subplots(1, 3)
    plots.arcs(["a", "b", "c"], {(0, 1), (1, 2)}, {(0, 1), (0, 2)}, ax=axes[0])
    colors = [to_hex(arc.get_edgecolor()).upper() for arc in axes[0].patches]
    assert colors == ["#1A1A1A"] * 2 + ["#0072B2", "#B03A00"]
    assert [arc.get_linestyle() for arc in axes[0].patches] == ["-", "-", "-", "--"]
    table = pd.DataFrame(
        {"null": ["none"] * 2, "layer": [-1, 0], "value": [1.0, 2], "low": [0.9, 2], "high": [1, 3]}
    )
    published = pd.DataFrame({"depth": [0.0, 1.0], "value": [1.0, 2.0]})
    plots.layer_lines(table, "loss", published=published, ax=axes[1])
    assert axes[1].lines[-1].get_xdata().tolist() == [-1, 0]
    gains = pd.DataFrame(
        {
            "site": ["baseline", "x", "y"],
            "weight": [0, 1.0, 0.1],
            "gain": [0, 0.1, 0.2],
            "p": [1, 0.674, 0.001],
        }
    ).assign(low=0, high=0.3)
    plots.gains(gains, ax=axes[2])
    names = [t.get_text() for t in axes[2].get_yticklabels()]
    assert names == ["x, weight 1, p 0.67", "y, weight 0.1, p < .01"]
    plt.close(fig)


# ---------------------------------------------------------------------------------- colours


def linear(color):
    c = np.array([int(color[i : i + 2], 16) for i in (0, 2, 4)]) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def test_colours_that_mean_something_differ_to_the_colour_blind():
    used = {
        c.upper()
        for c in re.findall(
            r"#([0-9A-Fa-f]{6})\b",
            html.asset("views.css") + html.asset("page.css") + trees.GOLD + trees.RIGHT + trees.WRONG,
        )
    }
    meaning = "0072B2", "B03A00", "E69F00"  # above 0 or right, the peak or wrong, activation or below 0
    assert set(meaning) <= used
    for blindness in BLINDNESS:
        assert _nearest([f"#{color}" for color in meaning], blindness) > 15


def test_text_on_any_shade_can_be_read():
    """WCAG's contrast of 4.5 for the text on the strongest shading, and for notes on white."""

    def light(rgb):
        return float(np.dot([0.2126, 0.7152, 0.0722], rgb)) + 0.05

    blue = [f"{round(255 - 0.55 * (255 - v)):02x}" for v in (0, 114, 178)]
    for text, ground in (
        ("1a1a1a", "E69F00"),
        ("1a1a1a", "".join(blue)),
        ("555555", "ffffff"),
        ("0072B2", "ffffff"),
    ):
        one, two = sorted((light(linear(text)), light(linear(ground))))
        assert two / one > 4.5
