"""Exercises: made from the sources, without their solutions, with checks that speak."""

import sys
from pathlib import Path
from types import SimpleNamespace

import jupytext
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch

from nbkit import activations, evaluation, salience, stats, texts, trees
from nbkit.activations import exemplars
from nbkit.workshop import exercises

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import build_notebooks  # noqa: E402

WITH = [source for source in build_notebooks.sources() if '"solution"' in source.read_text(encoding="utf-8")]
NAMES = [source.stem for source in WITH]


def cells(name, tag):
    notebook = jupytext.read(ROOT / "notebooks" / f"{name}.py")
    return [c.source for c in notebook.cells if tag in c.metadata.get("tags", [])]


def test_a_check_speaks_and_never_raises():
    claims = ((lambda a: 0 < a < 1, "a share lies between 0 and 1"), (lambda a: a < 0.5, "that is too much"))
    said = [exercises.check(a, *claims) for a in (0.2, 0.7, 3, "x", None, ...)]
    outside = "Not yet: a share lies between 0 and 1."
    assert said == ["Right: 0.2.", "Not yet: that is too much.", outside, outside, outside, exercises.NOT_YET]


def test_a_stub_keeps_the_task_and_the_name():
    assert build_notebooks.stub("# Do it.\n# Twice.\nx = 1\nlong_name = f(\n    x\n)\n") == (
        "# Do it.\n# Twice.\nlong_name = ..."
    )


def test_an_exercise_begins_with_the_cells_that_its_tasks_need_and_no_others():
    cells = [
        "import math\nimport json",
        "a = 1",
        "slow = sum(range(10))",
        "a = 2",
        "b = [a for slow in range(3)]",
        "b[0] = math.pi",
        "c = json.dumps(slow)",
        "for a in (7, 8):\n    d = a",
        "def f(x):\n    return x + b[0]",
        "if not a:\n    b = None",
    ]
    made = [nbformat.v4.new_code_cell(source) for source in cells]
    kept = [cells.index(c.source) for c in build_notebooks.slice_of(made, ["x = f(1)", "x + y"])]
    # `a = 1` is made anew, `slow` is a loop's own, nobody asks for c, and f reads b when it is called
    assert kept == [0, 3, 4, 5, 7, 8, 9]


def test_there_are_exercises_in_most_notebooks():
    assert [name[:2] for name in NAMES] == ["01", "02", "03", "04", "05", "06", "07", "08", "09", "10", "11"]
    kept = (ROOT / "notebooks" / "exercises").glob("*.ipynb")
    assert sorted(path.stem for path in kept) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_exercise_is_that_of_the_source_without_its_solution(name):
    made = build_notebooks.exercise(ROOT / "notebooks" / f"{name}.py")
    kept = nbformat.read(ROOT / "notebooks" / "exercises" / f"{name}.ipynb", as_version=4)
    assert [(c.id, c.source) for c in kept.cells] == [(c.id, c.source) for c in made.cells], "make notebooks"
    text = "\n".join(c.source for c in kept.cells)
    for solution in cells(name, "solution"):
        for line in solution.splitlines():
            assert line.startswith("#") or line not in text, line
    assert not any(c.get("outputs") or c.get("execution_count") for c in kept.cells)
    assert "check" in kept.cells[-1].metadata["tags"] and "figures.save" not in text


@pytest.mark.parametrize("name", NAMES)
def test_the_solution_passed_its_own_check(name):
    built = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    said = [
        c.outputs[-1]["data"]["text/plain"]
        for c in built.cells
        if "check" in c.metadata.get("tags", []) and c.cell_type == "code"
    ]
    assert said and all(sentence.startswith("'Right: ") for sentence in said)


def say(name, namespace, number=0, **answer):
    """What a check of a notebook says to an answer: its last expression."""
    before, call = cells(name, "check")[number].rsplit("exercises.check(", 1)
    scope = {**namespace, **answer, "exercises": exercises, "exemplars": exemplars, "np": np, "pd": pd}
    exec(before, scope)  # noqa: S102
    return eval(f"exercises.check({call}", scope)  # noqa: S307


def solved(name, namespace, number=0):
    scope = {**namespace, "np": np, "pd": pd}
    exec(cells(name, "solution")[number], scope)  # noqa: S102
    return scope


def told(name, scope, number, answer, wrong):
    """The solution is right; each of the ``wrong`` answers is met by a sentence with its word."""
    solution = solved(name, scope, number)[answer]
    assert say(name, scope, number, **{answer: solution}).startswith("Right: ")
    assert say(name, scope, number, **{answer: ...}) == exercises.NOT_YET
    for value, part in wrong:
        sentence = say(name, scope, number, **{answer: value})
        assert sentence.startswith("Not yet: ") and part in sentence, (value, sentence)


def test_what_01_says(minilm):
    corpora = {"a": texts.load("sample:reviews").sample(40, seed=1)}
    scope = {"subject": minilm, "corpora": corpora, "name": "a", "unit": "layer.3.ffn.9"}
    scope |= {"activations": activations, "exemplars": exemplars}
    six = solved("01_capture_activations", scope)["six"]

    other = next(i for i in corpora["a"].frame["text_id"] if i not in six)
    wrong = [(six[::-1], "strongest first"), ([*six[:5], other], "higher mean"), (six[:5], "six different")]
    wrong += [([*six[:5], -1], "not all of these"), ("x", "six different")]
    told("01_capture_activations", scope, 0, "six", wrong)


def test_what_02_says():
    groups = {0.6: [["travel", "trip", "train"], ["railway"]], 0.7: [["travel", "trip"]], 0.8: [["travel"]]}
    wrong = [(0.6, "higher one"), (0.8, "still apart"), (0.65, "one of 0.6, 0.7, 0.8"), ("x", "one of")]
    told("02_discover_descriptors", {"groups": groups}, 0, "threshold", wrong)
    share = pd.DataFrame({"a": [0.1, 0.5, 0.9], "b": [0.2, 0.5, 0.6]}, index=["rare", "even", "uneven"])
    wrong = [
        ("rare", "another is further apart"),
        ("even", "as much of it"),
        ("none", "of the table"),
        (2, "name"),
    ]
    told("02_discover_descriptors", {"share": share}, 1, "uneven", wrong)


def test_what_03_says():
    for wrong in (0.0, 1.0, 0.04, "p", None):
        assert say("03_match_neurons", {}, smallest=wrong).startswith("Not yet: ")
    assert say("03_match_neurons", {}, smallest=1 / 20) == "Right: 0.05."


def test_what_04_says():
    homes, same = ["a", "d", "b", "d"], {"a": [1, 0, 1, 1], "b": [0, 1, 0, 0], "c": [0, 1, 0, 1]}
    same["d"] = [0, 1, 0, 0]
    lines = [(home, other, bool(same[other][i]), i < 3) for i, home in enumerate(homes) for other in same]
    units = pd.DataFrame(lines, columns=["corpus", "other", "same", "above"])
    gap = stats.Estimate(1 / 3, 0, 1, 3)
    report = SimpleNamespace(units=units, agreement=pd.DataFrame({"gap": [gap]}))
    wrong = [(-gap.value, "the other way round"), (2, "two shares"), (0.5, "its other corpora")]
    wrong += [(1 / 12, "`above`"), ("x", "two shares")]
    told("04_test_illusions", {"report": report}, 0, "gap_by_hand", wrong)
    scope = {"told": gap.value}
    sentences = [say("04_test_illusions", scope, 1, gap_at_home=g) for g in (0.03, gap.value, 0.4, 2)]
    for sentence, part in zip(
        sentences, ("Right: 0.03.", "between the corpora", "near", "two shares"), strict=True
    ):
        assert part in sentence


def test_what_05_says():
    three_tags = pd.DataFrame({"unit": list("uuvvww"), "rank": [1, 2] * 3})
    three_tags["descriptor"] = ["question", "food", "modal", "negation", "food", "modal"]
    two_gold = pd.DataFrame({"unit": list("uvv"), "descriptor": ["question", "modal", "negation"]})
    scope = {"three_tags": three_tags, "two_gold": two_gold}
    assert evaluation.precision_at_k(three_tags, two_gold, k=2).value == 1 / 2
    wrong = [(1 / 2, "the third"), (1, "recall"), (3, "a share"), (1 / 3, "of these four"), (None, "a share")]
    told("05_evaluate_tags", {**scope, "evaluation": evaluation}, 0, "judged_only", wrong)
    right = pd.Series([1, 2, 4, 1])
    wrong = [(1, "three right"), (0.5, "averaged"), (0.6, "what share is found"), (2, "a share")]
    told("05_evaluate_tags", {"right": right}, 1, "ceiling", wrong)


def test_what_07_says():
    scope = {"five": [0.2, 5.0, 1.1, 1.4, 2.6], "torch": torch, "trees": trees}
    wrong = [([1, 2, 3], "five words"), ([1, 4, 1, 2, 3], "one root"), ([1, 5, 2, 2, 3], "can be empty")]
    wrong += [([1, 2, 2, 3, 4], "larger number"), ([1, 3, 2, 2, 3], "or to one more"), (7, "five words")]
    told("07_probe_trees", scope, 0, "depths", wrong)
    scope = {
        "gold": {"1": {(0, 1), (1, 2), (2, 3)}},
        "predicted": {"1": {"s": {(0, 1), (1, 2), (1, 3)}}},
        "best_site": "s",
        "best": "1",
    }
    wrong = [(0.5, "of the two trees"), (1, "how many of the gold"), (2, "a share"), (None, "a share")]
    told("07_probe_trees", scope, 1, "found_share", wrong)


def test_what_06_says():
    rng = np.random.default_rng(0)
    y = pd.Series(np.repeat(["NOUN", "VERB", "DET"], 30), name="upos")
    X = rng.standard_normal((90, 4))
    X[:, 2] += np.repeat([6.0, 5.0, 0.0], 30)
    scope = {"X": X, "y": y, "pd": pd, "rankings": {"greedy": salience.rank(X, y)}}
    assert scope["rankings"]["greedy"].order[0] == 2
    highest = solved("06_find_salient_neurons", scope)["highest"]
    told = [say("06_find_salient_neurons", scope, highest=a) for a in (highest, "VERB", "DET", "ADJ", 7, [])]
    assert highest == "NOUN" and told[0] == "Right: NOUN."
    for sentence, part in zip(told[1:], ("another", "lower", "one of", "one of", "one of"), strict=True):
        assert sentence.startswith("Not yet: ") and part in sentence


def test_what_08_says():
    runs = pd.DataFrame({"seed": [0, 1, 2] * 3, "site": [""] * 3 + ["a"] * 3 + ["b"] * 3})
    runs["matthews"] = [0.1, 0.2, 0.6, 0.15, 0.1, 0.75, 0.3, 0.4, 0.2]
    gains = pd.Series([0.05, -0.1, 0.15])
    wrong = [
        (-0.1, "not negative"),
        (gains.std(ddof=0), "divide by two"),
        (gains.mean(), "minus its baseline"),
    ]
    wrong += [(runs["matthews"][:3].std(), "baselines"), (runs["matthews"][3:6].std(), "with trees vary")]
    told("08_finetune_with_trees", {"runs": runs, "sites": ["a", "b"]}, 0, "std_of_gains", wrong)


def test_what_10_says(tmp_path):
    (tmp_path / "paper").mkdir()
    for name, rows in {"short": 2, "long": 9}.items():
        pd.DataFrame({"x": range(rows)}).to_csv(tmp_path / "paper" / f"{name}_double.csv", index=False)
    scope = {"preset": SimpleNamespace(figures=tmp_path)}
    wrong = [("short", "more rows"), ("long_double", "without"), ("none", "name of a figure"), (3, "name")]
    told("10_make_figures", scope, 0, "largest", wrong)


def test_what_09_says():
    units = pd.Index(["u", "v", "w", "x"])
    scores = {
        "one": pd.DataFrame([[0.9, 0.5, 0.4, 0.1], [0.1, 0.2, 0.1, 0.8]], ["food", "modal"], units),
        "two": pd.DataFrame([[0.9, 0.1, 0.1, 0.2], [0.1, 0.5, 0.3, 0.2]], ["food", "modal"], units),
    }
    scope = {"browser": SimpleNamespace(scores=scores, units=units)}
    wrong = [
        ("u", "same best"),
        ("w", "lowest score is higher"),
        ("y", "name of a unit"),
        (3, "name of a unit"),
    ]
    told("09_browse_neurons", scope, 0, "restless", wrong)
