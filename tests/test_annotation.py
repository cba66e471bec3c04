"""People's judgements: blinded sets, a widget that saves and resumes, the paper's table."""

import numpy as np
import pandas as pd
import pytest

from nbkit import illusions, plots, texts
from nbkit.activations import Activations
from nbkit.illusions import annotation
from nbkit.plots.annotation import _AnnotationView

NAMES = ("reviews", "questions")


@pytest.fixture(scope="module")
def stored():
    corpora, acts = {}, {}
    for seed, name in enumerate(NAMES):
        corpora[name] = texts.load(f"sample:{name}").sample(60, seed=0)
        values = np.random.default_rng(seed).standard_normal((60, 12)).astype(np.float16)
        rows = pd.DataFrame({"text_id": corpora[name].frame["text_id"].to_numpy()})
        units = pd.DataFrame({"unit": [f"layer.0.ffn.{i}" for i in range(12)]})
        acts[name] = Activations(values, rows, units, {})
    return acts, corpora


@pytest.fixture(scope="module")
def drawn(stored):
    return illusions.annotation_set(*stored, units=5, directions=6, random=7, k=8, seed=1)


def test_sets_are_the_top_texts_of_what_the_key_says(stored, drawn):
    sets, key = drawn
    acts, corpora = stored
    assert key["condition"].value_counts().to_dict() == {
        "units": 10,
        "random directions": 12,
        "random texts": 7,
    }
    assert (sets.groupby("set_id").size() == 8).all() and sets["set_id"].nunique() == len(key)
    whole = sets.merge(key, on="set_id")
    for (_, corpus, unit), part in whole.dropna(subset="unit").groupby(["set_id", "corpus", "unit"]):
        if unit.startswith("layer"):
            column = acts[corpus].values[:, acts[corpus].column(unit)]
            best = np.argsort(-column.astype(float), kind="stable")[:8]
            assert part["text_id"].tolist() == acts[corpus].rows["text_id"].iloc[best].tolist()
    known = corpora["reviews"].frame.set_index("text_id")["text"]
    mine = sets[sets["corpus"] == "reviews"]
    assert mine["text"].tolist() == known.loc[mine["text_id"]].tolist()
    at_random = whole[whole["condition"] == "random texts"]
    assert not at_random.duplicated(["set_id", "text_id"]).any()
    assert at_random.drop_duplicates("set_id")["corpus"].value_counts().tolist() == [4, 3]


def test_nothing_on_show_tells_the_condition(drawn):
    sets, key = drawn
    assert list(sets) == ["set_id", "corpus", "rank", "text_id", "text"]
    order = key.sort_values("set_id")["condition"].tolist()
    assert order != sorted(order) and sets["set_id"].is_monotonic_increasing
    assert len(set(order[:12])) == 3  # shuffled: all conditions come early
    page = plots.annotate(sets, "unused", "ada").view()
    assert "reviews" in page or "questions" in page
    assert "layer." not in page and "direction" not in page


def test_the_draw_is_seeded_and_needs_units_and_text_rows(stored):
    acts, corpora = stored
    one, two = (illusions.annotation_set(acts, corpora, units=2, directions=2, random=2, k=4) for _ in "ab")
    pd.testing.assert_frame_equal(one[0], two[0])
    pd.testing.assert_frame_equal(one[1], two[1])
    with pytest.raises(ValueError, match="units=25 were asked for; the stores hold 12"):
        illusions.annotation_set(acts, corpora)
    repeated = {
        name: Activations(a.values, a.rows.assign(text_id=a.rows["text_id"].iloc[0]), a.units, {})
        for name, a in acts.items()
    }
    with pytest.raises(ValueError, match="several rows for a text"):
        illusions.annotation_set(repeated, corpora, units=2, directions=2)


# ---------------------------------------------------------------------------------- agreement


def said(lines):
    columns = ["annotator", "set_id", "pattern", "name", "positives"]
    return pd.DataFrame(lines, columns=columns)


def test_the_table_by_hand():
    key = pd.DataFrame(
        [(f"s{i}", "units", "u") for i in (1, 2)]
        + [(f"s{i}", "units", "v") for i in (3, 4)]
        + [(f"s{i}", "random texts", None) for i in (5, 6)],
        columns=["set_id", "condition", "unit"],
    )
    ada = [
        ("ada", "s1", "yes", "Asks  for help", "1 2 3 4"),
        ("ada", "s2", "yes", "food", "1 2"),
        ("ada", "s3", "no", "", ""),
        ("ada", "s4", "yes", "asks for Help", "2 3 4 5 6 7"),
        ("ada", "s5", "no", "", ""),
        ("ada", "s6", "no", "", ""),
    ]
    bob = [
        ("bob", "s1", "yes", "help", "1 2"),
        ("bob", "s2", "no", "", ""),
        ("bob", "s3", "no", "", ""),
        ("bob", "s4", "yes", "help", "1 2 3 4 5 6"),
        ("bob", "s5", "yes", "x", "9 10"),
    ]
    found = annotation.agreement_of(said(ada + bob), key)
    units, rand = found.table.to_dict("records")
    assert units == {
        "condition": "units",
        "sets": 4,
        "both": 0.5,
        "neither": 0.25,
        "conflict": 0.25,
        "positives": pytest.approx((4 + 2 + 6 + 2 + 6) / 5),
    }
    assert rand["sets"] == 1 and rand["conflict"] == 1 and rand["both"] == 0 == rand["neither"]
    line = found.patterns.iloc[0]  # ada: u 2, v 1; bob: u 1, v 1
    assert (line["units"], line["distinct"], line[1], line[2]) == (4, 5 / 4, 0.75, 0.25)
    merged = annotation.agreement_of(said(ada + bob), key, same={"Food": "asks for help"})
    assert merged.patterns.iloc[0]["distinct"] == 1
    with pytest.raises(ValueError, match="set 's1' was annotated and is not in the key"):
        annotation.agreement_of(said(ada), key[1:])


def test_a_unit_counts_only_where_an_annotator_saw_it_in_every_corpus():
    key = pd.DataFrame({"set_id": ["s1", "s2"], "condition": "units", "unit": "u"})
    found = annotation.agreement_of(said([("ada", "s1", "yes", "x", "1 2")]), key)
    assert found.patterns["units"].tolist() == [0] and found.table["sets"].tolist() == [0]
    assert found.table["both"].isna().all()


def test_guessing_annotators_agree_as_often_as_chance_says(drawn):
    """Both say yes to 60 % of the sets at random: both .36, neither .16, conflict .48."""
    rng = np.random.default_rng(0)
    key = pd.DataFrame({"set_id": [f"s{i}" for i in range(4000)], "condition": "random texts", "unit": None})
    lines = [
        (who, set_id, "yes" if rng.random() < 0.6 else "no", "x", "1 2")
        for who in ("ada", "bob")
        for set_id in key["set_id"]
    ]
    line = annotation.agreement_of(said(lines), key).table.iloc[0]
    assert line[["both", "neither", "conflict"]].tolist() == pytest.approx([0.36, 0.16, 0.48], abs=0.03)


# ---------------------------------------------------------------------------------- the widget


def test_answers_are_saved_after_every_set_and_resumed(drawn, tmp_path):
    sets, key = drawn
    ada = plots.annotate(sets, tmp_path, "ada")
    assert ada.current == "s0001" and not list(tmp_path.iterdir())
    ada.answer(True, " asks for help ", [4, 1, 4])
    ada.typed("n")
    ada.typed("names: a, b: 2, 5-7")
    again = plots.annotate(sets, tmp_path, "ada")
    assert again.current == "s0004" and "3 of 29" in again.view()
    assert [p.name for p in tmp_path.iterdir()] == ["ada.csv"]
    pd.testing.assert_frame_equal(again.answers, ada.answers)
    saved = pd.read_csv(tmp_path / "ada.csv", dtype=str, keep_default_na=False)
    assert saved[["set_id", "pattern", "name", "positives"]].to_numpy().tolist() == [
        ["s0001", "yes", "asks for help", "1 4"],
        ["s0002", "no", "", ""],
        ["s0003", "yes", "names: a, b", "2 5 6 7"],
    ]


def test_going_back_replaces_an_answer_and_returns_to_the_first_open_set(drawn, tmp_path):
    ada = plots.annotate(drawn[0], tmp_path, "ada")
    for _ in range(3):
        ada.answer(False)
    ada.back()
    ada.back()
    assert ada.current == "s0002"
    ada.answer(True, "x", [1, 2])
    assert ada.current == "s0004" and len(ada.answers) == 3
    assert ada.answers.set_index("set_id").loc["s0002", "pattern"] == "yes"


def test_two_annotators_in_turn_do_not_see_each_other(drawn, tmp_path):
    sets, key = drawn
    view = plots.annotate(sets, tmp_path, "ada")
    view.answer(True, "x", [1, 2])
    view.switch("bob")
    assert view.current == "s0001" and view.answers.empty
    for _ in range(len(key)):
        view.answer(False)
    assert view.current is None and "all 29 sets are judged" in view.view()
    with pytest.raises(ValueError, match="bob has judged all 29 sets"):
        view.answer(False)
    view.back()
    assert view.current == "s0029"
    view.switch("ada")
    assert view.current == "s0002"
    found = annotation.agreement_of(tmp_path, key)
    assert found.table["sets"].sum() == 1 and found.table.set_index("sets").loc[1, "conflict"] == 1


@pytest.mark.parametrize(
    "line, complaint",
    [
        ("help", "type n, or"),
        (": 1 2", "type n, or"),
        ("help: 1", "two texts"),
        ("help: 1 9", "numbered from 1 to 8"),
        ("help: 0 3", "numbered from 1 to 8"),
        ("help: 7-6", "two texts"),
        ("help: 1 2 x", "type n, or"),
    ],
)
def test_what_is_no_answer_is_refused_and_nothing_is_saved(drawn, tmp_path, line, complaint):
    ada = plots.annotate(drawn[0], tmp_path, "ada")
    with pytest.raises(ValueError, match=complaint):
        ada.typed(line)
    assert ada.current == "s0001" and not list(tmp_path.iterdir())


def test_other_sets_and_odd_names_are_refused(drawn, tmp_path, stored):
    plots.annotate(drawn[0], tmp_path, "ada").answer(False)
    other, _ = illusions.annotation_set(*stored, units=5, directions=6, random=7, k=8, seed=2)
    with pytest.raises(ValueError, match="answers on other sets"):
        plots.annotate(other, tmp_path, "ada")
    with pytest.raises(ValueError, match="annotator '../x'"):
        plots.annotate(drawn[0], tmp_path, "../x")
    with pytest.raises(ValueError, match="no sets"):
        plots.annotate(drawn[0][:0], tmp_path, "ada")
    with pytest.raises(FileNotFoundError, match="no annotations in"):
        annotation.agreement_of(tmp_path / "empty", drawn[1])


def test_a_write_that_fails_leaves_the_file_whole(drawn, tmp_path, monkeypatch):
    ada = plots.annotate(drawn[0], tmp_path, "ada")
    ada.answer(False)
    before = (tmp_path / "ada.csv").read_bytes()

    def full(self, path, **kwargs):
        path.write_text("half", encoding="utf-8")
        raise OSError("no space left")

    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    with pytest.raises(OSError, match="no space"):
        ada.answer(True, "x", [1, 2])
    assert (tmp_path / "ada.csv").read_bytes() == before
    assert ada.current == "s0002" and len(ada.answers) == 1  # the answer is not on disk: still to be given


def press_enter(field, text=None):
    """As browsers do: the key, and then the text if it has changed."""
    field._handle_custom_msg({"event": "submit"}, [])
    if text is not None:
        field.value = text


def test_the_controls_answer_by_mouse_and_by_keyboard(drawn, tmp_path):
    sets, _ = drawn
    ada = plots.annotate(sets, tmp_path, "ada")
    view = _AnnotationView(ada)
    shown = [pair.children[1].value for pair in view.texts.children]
    assert len(shown) == 8 and "s0001" in view.status.value
    view.pattern.value, view.name.value = True, "asks"
    view.save.click()
    assert "two texts" in view.message.value and ada.current == "s0001"
    view.boxes[0].value = view.boxes[4].value = True
    view.save.click()
    assert ada.current == "s0002" and not view.message.value
    assert not view.pattern.value and not view.name.value and not any(b.value for b in view.boxes)
    press_enter(view.line, "short: 1-3")
    assert ada.current == "s0003" and view.line.value == ""
    view.go_back.click()
    assert view.pattern.value and view.name.value == "short"
    assert [b.value for b in view.boxes] == [True] * 3 + [False] * 5
    press_enter(view.who, "bob")
    assert ada.annotator == "bob" and "s0001" in view.status.value
    assert ada.answers.empty and (tmp_path / "ada.csv").exists()


def test_a_text_is_no_answer_before_enter_and_never_half_of_it(drawn, tmp_path):
    ada = plots.annotate(drawn[0], tmp_path, "ada")
    view = _AnnotationView(ada)
    view.line.value = "short: 1-2"  # the field was left
    assert ada.answers.empty
    press_enter(view.line, "short: 1-2 5")  # and come back to: what stood there before is not saved
    assert ada.answers["positives"].tolist() == ["1 2 5"]
    view.line.value = "n"
    press_enter(view.line)
    assert len(ada.answers) == 1 and "once more" in view.message.value
    press_enter(view.line)
    assert ada.answers["pattern"].tolist() == ["yes", "no"] and not view.message.value
    press_enter(view.line, "what")
    assert "type n, or" in view.message.value
    press_enter(view.line, "n")
    assert len(ada.answers) == 3
    assert not any(f.continuous_update for f in (view.line, view.name, view.who))


def test_a_notebook_gets_controls_and_a_static_view_with_the_texts_escaped(tmp_path):
    sets = pd.DataFrame(
        {"set_id": "s1", "corpus": "<c>", "rank": [1, 2], "text_id": [3, 4], "text": ["a <b>", "c & d"]}
    )
    ada = plots.annotate(sets, tmp_path, "ada")
    bundle = ada._repr_mimebundle_()
    assert {"application/vnd.jupyter.widget-view+json", "text/html"} <= set(bundle)
    assert "a &lt;b&gt;" in bundle["text/html"] and "&lt;c&gt;" in bundle["text/html"]
    assert repr(ada) == "Annotation(ada: 0 of 1 sets judged)"


def test_sets_numbered_from_0_are_judged_and_gone_on_with(tmp_path):
    """Ids come back from the file as text; 0 is an id like others."""
    lines = [(i, "c", rank, rank, f"text {rank}") for i in range(2) for rank in (1, 2)]
    sets = pd.DataFrame(lines, columns=["set_id", "corpus", "rank", "text_id", "text"])
    ada = plots.annotate(sets, tmp_path, "ada")
    assert len(_AnnotationView(ada).boxes) == 2
    ada.answer(False)
    again = plots.annotate(sets, tmp_path, "ada")
    assert again.current == ada.current == "1"
    again.answer(True, "a pattern", [1, 2])
    assert plots.annotate(sets, tmp_path, "ada").current is None
