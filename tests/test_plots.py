"""Figures: what is drawn is what was given, and names of any kind are shown as they are."""

import io
import unicodedata
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import font_manager
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgba
from matplotlib.text import Text

from nbkit import descriptors, plots
from nbkit.plots import figures
from nbkit.plots.html import shade_html
from nbkit.plots.style import RED, _fonts_for, looks
from nbkit.stats import Estimate

rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def no_figure_stays_open():
    yield
    plt.close("all")


def at(x):
    return Estimate(x, x - 0.03, x + 0.04, 9)


def baselines(within, across):
    others = dict.fromkeys(["random directions", "permuted units", "another kind"], 0.3)
    lines = [{"kind": k, "within": at(x), "across": at(x)} for k, x in others.items()]
    return pd.DataFrame([{"kind": "units", "within": at(within), "across": at(across)}, *lines])


def rates(names):
    lines = [(c, q, 0.1 + 0.02 * q + 0.01 * i) for i, c in enumerate(names) for q in range(1, 6)]
    table = pd.DataFrame(lines, columns=["corpus", "quantile", "share"])
    return table.assign(low=table["share"] - 0.05, high=table["share"] + 0.1)


def judged(methods):
    lines = [(w, m, k, at(0.2 * k), at(0.1 * k)) for w in ("a", "b") for m in methods for k in (1, 2, 3)]
    return pd.DataFrame(lines, columns=["where", "method", "k", "precision", "recall"])


def tags(n=60):
    units = [f"layer.{i % 3}.ffn.{i}" for i in range(n)]
    return pd.DataFrame(
        {"unit": units, "rank": 1 + (np.arange(n) >= 50), "q": rng.uniform(0, 0.1, n)}
        | {"score": rng.uniform(0.2, 0.8, n), "validation_score": rng.uniform(0.1, 0.7, n)}
    )


def trained(sites):
    table = pd.DataFrame({"site": ["baseline", *sites], "weight": 1.0, "gain": 0.1, "p": 0.3})
    return table.assign(low=0.05, high=0.2)


def layered(names):
    lines = [(n, layer, 0.5 + 0.1 * layer) for n in names for layer in (-1, 0, 1)]
    table = pd.DataFrame(lines, columns=["null", "layer", "value"])
    return table.assign(low=table["value"] - 0.1, high=table["value"] + 0.1)


def scored(names):
    return {c: pd.DataFrame({"u": rng.uniform(0, 1, 4)}, index=names) for c in names}


def placed(names):
    return pd.DataFrame({"corpus": names, "row": 0, "x": range(4), "y": 0})


def measured(names):
    return pd.DataFrame({"corpus": names * 9, "value": rng.uniform(0, 1, 36)})


def for_each(names):
    return pd.concat(rates("ab").assign(tag=name) for name in names)


#: Every figure that shows names, from four names of a user's.
OF_NAMES = {
    "agreement": lambda n: plots.agreement({name: baselines(0.8, 0.5) for name in n}),
    "transfer": lambda n: plots.transfer(scored(n), "u", top=4),
    "confusion_map": lambda n: plots.confusion_map(pd.DataFrame(np.eye(4), index=n, columns=n)),
    "corpus_map": lambda n: plots.corpus_map(placed(n), {n[0]: [0]}),
    "quintile_curves": lambda n: plots.quintile_curves(rates(n)),
    "histograms": lambda n: plots.histograms(measured(n), "value"),
    "precision_recall": lambda n: plots.precision_recall(judged(n)[:12]),
    "facets": lambda n: plots.facets(plots.precision_recall, judged(n), "where"),
    "panels": lambda n: plots.facets(plots.quintile_curves, for_each(n), "tag"),
    "accuracy_curves": lambda n: plots.accuracy_curves(pd.DataFrame(0.5, index=[3, 10], columns=n), 0.9),
    "layer_bars": lambda n: plots.layer_bars(pd.DataFrame(5, index=n, columns=n)),
    "layer_lines": lambda n: plots.layer_lines(layered(n), "loss", hue="null", log=True),
    "arcs": lambda n: plots.arcs(n, {(0, 1), (1, 3)}, {(0, 2)}),
    "gains": lambda n: plots.gains(trained(n)),
}

HARD = [
    ["$\\foo$", "from $5 to $10", "_private", "__a__"],
    ["a $ b", "$x^2$ $\\frac{$", "\\$5", "_"],
    ["a_b^c", "100 % {#} ~", "two\nlines", "tab\there"],
]


def shown_in(drawn):
    fig = getattr(drawn, "figure", drawn)
    fig.savefig(io.BytesIO(), format="png")  # a name that is set as mathematics ends here in an error
    return {text for text in fig.findobj(Text) if text.get_text()}


@pytest.mark.parametrize("names", HARD, ids=["dollars", "more dollars", "marks"])
@pytest.mark.parametrize("figure", OF_NAMES)
def test_names_are_shown_as_they_are(figure, names):
    with plots.style() if names is HARD[0] else nullcontext():
        texts = shown_in(OF_NAMES[figure](names))
    everything = " ".join(" ".join(text.get_text() for text in texts).split())
    for name in names:
        assert " ".join(name.split()) in everything, name
    assert not [text for text in texts if "$" in text.get_text() and text.get_parse_math()]


def test_a_dollar_is_drawn_as_a_dollar():
    """The picture is that of matplotlib with escaped dollars."""

    def picture(name):
        ax = plots.transfer({c: pd.DataFrame({"u": [0.5, 0.1]}, index=["d", "e"]) for c in "ab"}, "u")
        ax.set_title(name)
        ax.figure.canvas.draw()
        return np.asarray(ax.figure.canvas.buffer_rgba())

    ours = picture("from $5 to $10")
    for text in (fig := plt.figure()).findobj(Text):
        text.set_parse_math(True)
    plt.close(fig)
    ax = plots.transfer({c: pd.DataFrame({"u": [0.5, 0.1]}, index=["d", "e"]) for c in "ab"}, "u")
    ax.set_title("from \\$5 to \\$10").set_parse_math(True)
    ax.figure.canvas.draw()
    assert (ours == np.asarray(ax.figure.canvas.buffer_rgba())).all()


def test_hand_drawn_names_are_plain_in_a_saved_file_and_powers_of_ten_stay(tmp_path):
    fig, ax = plt.subplots()
    ax.semilogy([1, 2], [1e-5, 1e5])
    ax.set_title("$\\foo$ and $5")
    numbers = pd.DataFrame({"_x": ["$1", "_a"]})
    path = plots.save(fig, "x", {"seed": 0}, data=numbers, folder=tmp_path)
    assert path.with_suffix(".csv").read_text(encoding="utf-8") == "_x\n$1\n_a\n"
    assert ax.title.get_parse_math() is False
    assert all(label.get_parse_math() for label in ax.yaxis.get_ticklabels())


@pytest.mark.parametrize("figure", OF_NAMES)
def test_a_long_descriptor_is_cut_with_an_ellipsis(figure):
    names = [f"{letter} {'a descriptor of more than three hundred letters ' * 8}" for letter in "abcd"]
    texts = [text.get_text() for text in shown_in(OF_NAMES[figure](names))]
    assert any("…" in text for text in texts) and max(map(len, texts)) < 100


@given(st.text(), st.integers(1, 60))
def test_short_is_one_line_and_says_that_it_cut(text, width):
    found, whole = plots.short(text, width), " ".join(text.split())
    assert len(found) <= width and "\n" not in found
    assert found == whole or (found.endswith("…") and whole.startswith(found[:-1]))


# ---------------------------------------------------------------------------------- series


@given(st.lists(st.text(), unique=True, min_size=1, max_size=28))
def test_no_two_series_look_alike(names):
    found = looks(names)
    assert list(found) == names and len(set(found.values())) == len(names)


def test_more_series_than_can_be_told_apart_are_refused():
    with pytest.raises(ValueError, match="29 series: 28 can be told apart"):
        plots.quintile_curves(rates([f"c{i}" for i in range(29)]))


@pytest.mark.parametrize("n", [1, 8, 12])
def test_every_corpus_is_drawn(n):
    table = rates([f"c{i}" for i in range(n)])
    ax = plots.quintile_curves(table)
    drawn = [line.get_ydata() for line in ax.lines]
    expected = [part["share"].tolist() for _, part in table.groupby("corpus", sort=False)]
    assert [list(map(float, y)) for y in drawn] == [pytest.approx(y) for y in expected]
    assert len(ax.get_legend().get_texts()) == n == len(ax.collections)  # a band each
    low, high = (
        ax.collections[0].get_paths()[0].vertices[:, 1].min(),
        ax.collections[0].get_paths()[0].vertices[:, 1].max(),
    )
    first = table[table["corpus"] == "c0"]
    assert (low, high) == pytest.approx((first["low"].min(), first["high"].max()))


def test_panels_with_different_series_have_no_common_legend():
    table = judged(["m", "n"])
    with pytest.raises(ValueError, match="where 'b' shows m, precision@k, m, recall@k, and others m"):
        plots.facets(
            plots.precision_recall, table[(table["where"] == "a") | (table["method"] == "m")], "where"
        )


# ---------------------------------------------------------------------------------- numbers


def whiskers(ax):
    """(low, high) of every horizontal line."""
    lines = [line for line in ax.lines if len(line.get_xdata()) == 2 and len(set(line.get_ydata())) == 1]
    return sorted(tuple(sorted(line.get_xdata())) for line in lines)


def test_agreement_has_values_and_intervals_where_they_belong():
    ax = plots.agreement({"one": baselines(0.8, 0.5), "two": baselines(0.4, 0.6)})
    expected = sorted((x - 0.03, x + 0.04) for x in (0.8, 0.5, 0.4, 0.6))
    assert np.allclose(whiskers(ax), expected)
    assert {text.get_text() for text in ax.texts} == {"0.80", "0.50", "0.40", "0.60"}


def test_an_interval_beside_its_value_does_not_move_it():
    table = pd.DataFrame(
        {"null": ["none"] * 2, "layer": [0, 1], "value": [1.0, 2.0], "low": [2.0, 2.5], "high": 3.0}
    )
    ax = plots.layer_lines(table, "loss")
    assert ax.lines[0].get_ydata().tolist() == [1, 2]


def test_precision_and_recall_are_where_they_are():
    ax = plots.precision_recall(judged(["m"])[:3])
    lines = [
        line.get_ydata() for line in ax.lines if len(line.get_xdata()) == 3 and line.get_linestyle() != "None"
    ]
    assert np.allclose(sorted(map(list, lines)), [[0.1, 0.2, 0.3], [0.2, 0.4, 0.6]])


def test_reliability_draws_each_descriptor_and_all_together():
    gold = pd.DataFrame({"a": [0.0, 1.0] * 5, "b": [0.0] * 6 + [1.0] * 4})
    bins = descriptors.reliability(gold * 0.8 + 0.1, gold, bins=2).bins
    drawn = [line.get_xydata().round(2).tolist() for line in plots.reliability(bins).lines]
    assert len(drawn) == 4  # the diagonal, two descriptors, all together
    assert drawn[1] == [[0.1, 0.0], [0.9, 1.0]] and drawn[2] == [[0.1, 0.0], [0.74, 0.8]]
    assert (
        drawn[3] == bins.loc[bins["descriptor"] == "all", ["predicted", "observed"]].round(2).values.tolist()
    )


def test_bars_and_points_and_histograms_count():
    some = tags()
    ax = plots.layers(some, min_score=0.3)
    first = some[(some["rank"] == 1) & (some["validation_score"] >= 0.3)]
    expected = first["unit"].str.split(".").str[1].astype(int).value_counts().reindex(range(3), fill_value=0)
    assert [bar.get_height() for bar in ax.patches] == expected.tolist()
    points = np.concatenate([c.get_offsets() for c in plots.shift(some).collections])
    scores = some.loc[some["rank"] == 1, ["score", "validation_score"]].to_numpy()
    assert np.allclose(np.sort(points, axis=0), np.sort(scores, axis=0))
    counts = pd.DataFrame({"upos": [3, 4], "suffix": [5, 0]}, index=["layer.0", "layer.1"])
    heights = [bar.get_height() for bar in plots.layer_bars(counts).patches[:4]]
    assert heights == [3, 4, 5, 0]
    table = pd.DataFrame({"corpus": list("aab"), "value": [0.0, 1.0, 0.5]})
    panels = plots.histograms(table, "value").axes.flat
    assert [sum(bar.get_height() for bar in ax.patches) for ax in panels] == [2, 1]
    assert panels[0].get_xlim() == panels[1].get_xlim()


def test_what_is_above_is_red_and_counted():
    table = pd.DataFrame({"corpus": ["a"] * 5, "value": [0.0, 0.1, 0.49, 0.9, 1.0]})
    (ax,) = plots.histograms(table, "value", above=0.5).axes.flat
    red = [bar for bar in ax.patches if bar.get_facecolor() == to_rgba(RED)]
    assert sum(bar.get_height() for bar in red) == 2 and min(bar.get_x() for bar in red) >= 0.5
    assert [text.get_text() for text in ax.texts] == ["40% above 0.5"]


def test_outcomes_are_stacked_to_one_and_baselines_show_other_corpora_only():
    rng = np.random.default_rng(0)
    lines = []
    for kind in ("units", "same encoding"):
        for where in ("within", "across"):
            shares = dict(zip(figures.OUTCOMES, rng.dirichlet(np.ones(5)), strict=True))
            one = {name: Estimate(value, value, value, 9) for name, value in shares.items()}
            lines.append({"kind": kind, "where": where} | one)
    ax = plots.outcomes({"FFN": pd.DataFrame(lines)})
    widths = pd.Series(0.0, [0.0, 1.0, 2.0])
    for bar in ax.patches:
        widths[bar.get_y() + bar.get_height() / 2] += bar.get_width()
    assert np.allclose(widths, 1) and len(widths) == 3
    kept = [bar.get_width() for bar in ax.patches[:3]]
    assert np.allclose(kept, [line["kept"].value for line in (lines[0], lines[1], lines[3])])


# ---------------------------------------------------------------------------------- fonts


@pytest.fixture
def font(tmp_path):
    """A font with two letters that DejaVu has not: 日 and ह."""

    def box(wide):
        pen = TTGlyphPen(None)
        for step, point in enumerate(((0, 0), (0, 700), (wide, 700), (wide, 0))):
            (pen.lineTo if step else pen.moveTo)(point)
        pen.closePath()
        return pen.glyph()

    names = {".notdef": box(100), "sun": box(900), "ha": box(600)}
    made = FontBuilder(1000, isTTF=True)
    made.setupGlyphOrder(list(names))
    made.setupCharacterMap({ord("日"): "sun", ord("ह"): "ha"})
    made.setupGlyf(names)
    made.setupHorizontalMetrics({name: (1000, 0) for name in names})
    made.setupHorizontalHeader(ascent=800, descent=-200)
    made.setupNameTable({"familyName": "Two Letters", "styleName": "Regular"})
    made.setupOS2()
    made.setupPost()
    made.save(tmp_path / "two.ttf")
    known = list(font_manager.fontManager.ttflist)
    font_manager.fontManager.addfont(tmp_path / "two.ttf")
    _fonts_for.cache_clear()
    yield "Two Letters"
    font_manager.fontManager.ttflist[:] = known
    _fonts_for.cache_clear()


def test_a_font_is_chosen_that_has_the_letters(font, recwarn, caplog):
    texts = shown_in(plots.quintile_curves(rates(["日", "ह", "reviews"])))
    families = {text.get_text(): text.get_fontfamily() for text in texts}
    assert font in families["日"] and font in families["ह"] and font not in families["reviews"]
    assert not [w for w in recwarn if "missing from" in str(w.message)] and not caplog.records


def test_letters_that_no_font_has_are_told_once_with_their_script(caplog, recwarn):
    _fonts_for.cache_clear()
    letter = next(c for c in map(chr, range(0x12000, 0x12100)) if unicodedata.name(c, "").startswith("CUNEI"))
    for _ in range(2):
        shown_in(plots.quintile_curves(rates([letter, "reviews"])))
    (told,) = caplog.messages
    assert letter in told and "Cuneiform" in told and "Noto Sans" in told
    assert not [w for w in recwarn if "missing from" in str(w.message)]


# ---------------------------------------------------------------------------------- shading

SPANS = st.lists(
    st.tuples(st.integers(-3, 40), st.integers(-3, 40), st.floats(-5, 5) | st.just(float("nan"))), max_size=12
)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=30), SPANS, st.sampled_from([0.0, 2.0]))
def test_what_is_shaded_is_the_text_for_any_spans(text, spans, bound):
    from test_views import Page

    tokens = pd.DataFrame(spans, columns=["start", "end", "activation"]).astype({"activation": float})
    page = Page("")
    page.feed(shade_html(text, tokens, bound))
    page.close()
    assert page.text == text
    peaks = shade_html(text, tokens, bound).count('class="peak"')
    covering = [s for s in spans if max(0, s[0]) < min(len(text), s[1])]
    assert peaks == bool(covering)


def test_a_character_of_several_tokens_has_the_strongest_shade():
    tokens = pd.DataFrame({"start": [0, 1, 1, 1], "end": [1, 2, 2, 2], "activation": [0.5, 1.0, 2.0, 0.1]})
    first, peak, rest = shade_html("a🙂b", tokens, 2.0).split("</mark>")
    assert first == '<mark style="--a:0.25" title="0.50">a' and rest == "b"
    assert peak == '<mark class="peak" style="--a:1.00" title="2.00">🙂'
