"""The first screen of the report: three sentences that are true of the numbers under them."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import report  # noqa: E402
import run  # noqa: E402

from nbkit.workshop import presets  # noqa: E402


def found(tags, gap, same):
    return {"tags": tags, "within": [0.6], "across": [0.45], "gap": gap, "same_encoding_gap": same}


FACTS = {
    "largest": {"films": ["plot", "cast", "music", "love"], "wiki": ["towns", "law", "war", "birds"]},
    "agreement": {
        "few": found(8, [0.0, -0.2, 0.2, 8], [-0.15, -0.2, 0.0, 8]),
        "many": found(4537, [0.15, 0.11, 0.19, 4537], [0.02, -0.01, 0.06, 900]),
    },
    "outcomes": dict.fromkeys(
        ("few", "many"), {"kept": [0.46], "changed": [0.03], "silent": [0.01], "undecided": [0.19]}
    ),
}


def test_the_headline_is_of_the_units_with_most_tags_and_says_what_the_texts_are_about():
    told = report._headline(FACTS)
    assert told.startswith("What is found most often: in films plot, cast, music; in wiki towns, law, war. ")
    assert "the units (many)" in told and "4,537 such tags 60% are still the first" in told
    assert told.count(". ") == 2 and "love" not in told


@pytest.mark.parametrize(
    ("gap", "same", "part"),
    [
        ([0.15, 0.11, 0.19, 9], [0.02, -0.01, 0.06, 9], "so say with every tag which corpus it is from."),
        ([0.15, 0.05, 0.19, 9], [0.02, -0.01, 0.06, 9], "That is no more than chance may be:"),
    ],
)
def test_the_conclusion_hangs_on_the_gap_without_an_illusion(gap, same, part):
    facts = {**FACTS, "agreement": {"many": found(100, gap, same)}}
    assert part in report._headline(facts) and "a gap of 0.02, these 0.15" in report._headline(facts)


def test_of_one_corpus_no_illusion_is_told_and_notebooks_that_need_two_are_left_out(tmp_path, capsys):
    assert report._headline({"largest": {"films": ["plot"]}}).endswith("could not be asked.")
    settings = presets.load("sample", ROOT / "notebooks" / "presets.toml").settings
    one = presets.Preset("one", {**settings, "corpora": {"films": "films.csv"}}, tmp_path)
    assert [name[:2] for name in run.notebooks_of(one)] == ["00", "01", "02", "03", "06", "07", "08"]
    assert "one corpus: not run are 04_test_illusions" in capsys.readouterr().out
    genres = presets.Preset("genres", {"source": "ewt", "groups": "genre"}, tmp_path)
    assert len(run.notebooks_of(genres)) == len(run.sources())
