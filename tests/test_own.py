"""Anyone's texts: files as people have them become corpora of a preset that can be edited."""

import json
import os
import subprocess
import sys
from pathlib import Path

import make as tool
import pandas as pd
import pytest
import run

from nbkit.workshop import own, presets

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def here(tmp_path):
    """A folder with files of several kinds, messy in the usual ways."""
    films = pd.DataFrame({
        "id": range(240),
        "shop": ["north", "south", "east", None] * 60,
        "Review": [f"The film {i} was far too long for me, and cold." for i in range(238)] + ["", None],
        "stars": [i % 5 for i in range(240)],
        "user": [f"user{i}" for i in range(240)],
    })  # fmt: skip
    films.loc[7, "Review"] = films.loc[6, "Review"]
    films.to_csv(tmp_path / "films.csv", index=False, sep=";")
    (tmp_path / "wiki.txt").write_text(
        "\n".join(f"The town {i} lies on a river." for i in range(90)), encoding="utf-8"
    )
    letters = tmp_path / "my letters"
    letters.mkdir()
    for i in range(3):
        lines = "\n".join(f"Dear aunt, this is line {i} {j}." for j in range(40))
        (letters / f"{i}.txt").write_text(lines, encoding="utf-8")
    (letters / "notes.docx").write_bytes(b"x")
    return tmp_path


def test_files_become_corpora_and_what_was_assumed_is_told(here, tmp_path):
    made = own.make("films.csv wiki.txt", tmp_path / "out", bases=[here])
    preset = presets.load(made.name, made.path)
    corpora = preset.corpora()
    assert {name: len(c) for name, c in corpora.items()} == {"films": 237, "wiki": 90}
    told = " ".join(made.notes)
    assert "films.csv: the texts are taken from the column 'Review'" in told and "COLUMN=" in told
    assert "2 empty left out" in told and "1 duplicate left out" in told
    assert set(corpora["films"].frame) >= {"stars", "shop", "user"} and not preset.missing()
    assert preset["generators"] == ["topics"] and preset["minutes"] >= 10 and preset["disk"] > 50
    assert made.path.parent.parent == tmp_path / "out"  # kept, to be edited
    known = presets.load("sample", ROOT / "notebooks" / "presets.toml").settings
    assert set(known) <= {*preset.settings}  # every setting that the notebooks ask for


def test_paths_are_parted_as_they_are_typed_on_each_system(here):
    typed = r"C:\data\films.csv 'D:\my texts\wiki.txt' ..\a.txt"
    assert own._named(typed, [here], windows=True) == [
        r"C:\data\films.csv",
        r"D:\my texts\wiki.txt",
        r"..\a.txt",
    ]
    assert own._named(r"my\ films.csv 'a b.txt'", [here], windows=False) == ["my films.csv", "a b.txt"]
    assert own._named("my letters", [here]) == ["my letters"], "one alone needs no quotes"
    assert own._named(" films.csv wiki.txt#1", [here]) == ["films.csv", "wiki.txt#1"]


def test_a_folder_or_pattern_is_one_corpus_of_documents(here, tmp_path):
    made = own.make("'my letters' 'my letters/[01].txt'", tmp_path / "out", bases=[here])
    corpora = presets.load(made.name, made.path).corpora()
    (whole, part) = corpora.values()
    assert len(whole) == 120 and whole.frame["doc_id"].nunique() == 3 and whole.documents is not None
    assert len(part) == 80 and "3 files are one corpus" in " ".join(made.notes)


def test_one_file_is_cut_by_a_column(here, tmp_path):
    made = own.make("films.csv", tmp_path / "out", bases=[here], by="shop")
    corpora = presets.load(made.name, made.path).corpora()
    assert set(corpora) == {"north", "south", "east"} and sum(map(len, corpora.values())) == 179
    assert any("58 texts of 0 small values or of none" in note for note in made.notes)
    with pytest.raises(ValueError, match="no column 'town' to be cut by; it has .*shop"):
        own.make("films.csv", tmp_path / "out", bases=[here], by="town")
    with pytest.raises(ValueError, match="no value of 'stars' has 50 texts"):
        own.make("films.csv", tmp_path / "out", bases=[here], by="stars")
    with pytest.raises(ValueError, match="cuts one source into corpora, and 2 are named"):
        own.make("films.csv wiki.txt", tmp_path / "out", bases=[here], by="shop")


def test_what_cannot_be_read_is_told_with_its_mend(here, tmp_path):
    with pytest.raises(FileNotFoundError, match="'filns.csv' is no file, folder or pattern of .csv"):
        own.make("filns.csv", tmp_path / "out", bases=[here])
    with pytest.raises(ValueError, match="has no column 'body'"):
        own.make("films.csv", tmp_path / "out", bases=[here], column="body")
    pd.DataFrame({"a": ["x y", "z"], "b": ["u", "v w"]}).to_csv(here / "two.csv", index=False)
    with pytest.raises(ValueError, match="none is called 'text'.*with make: COLUMN=name"):
        own.make("two.csv", tmp_path / "out", bases=[here])
    one = own.make("wiki.txt", tmp_path / "out", bases=[here])
    assert any(note.startswith("one corpus:") for note in one.notes)


@pytest.mark.parametrize("name", ["body", "Content", "comment", "SENTENCE"])
def test_a_column_is_known_by_its_usual_name_or_by_its_length(name):
    rows = pd.DataFrame({"author": ["ann", "bob"], name: ["short", "texts"], "when": ["now", "then"]})
    assert own._guess(rows) == name
    rows = pd.DataFrame(
        {"author": ["ann", "bob"], "fliesstext": ["a much longer thing that somebody wrote"] * 2}
    )
    assert own._guess(rows) == "fliesstext"
    assert own._guess(rows.assign(other=rows["fliesstext"])) is None


def test_relative_paths_are_meant_from_where_the_command_was_typed(here, monkeypatch, capsys):
    """Also through make -C, and for a relative source in a preset, which notebooks read from their folder."""
    asked = []
    monkeypatch.setattr(run, "_run", lambda preset: asked.append(preset) or 0)
    monkeypatch.setattr(run, "ROOT", here / "checkout")
    for name in ("NBKIT_PRESETS", "NBKIT_RESULTS", "NBKIT_FIGURES"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("TYPED_FROM", str(here))
    assert run.main(["--texts", "films.csv wiki.txt", "--column", "Review"]) == 0
    told = capsys.readouterr().out
    assert asked[0].name == "films-wiki" and '"topics"' in told and "presets.toml" in told
    assert os.environ["NBKIT_PRESETS"] == str(here / "checkout/build/own/films-wiki/presets.toml")
    assert run.main(["--texts", "nothing.csv"]) == 2
    assert "'nothing.csv' is no file" in capsys.readouterr().err
    section = '[a]\ntreebank = "sample:treebank"\ngenerators = []\n[a.corpora]\nx = "mine/x.txt"\n'
    (here / "notebooks").mkdir()
    (here / "mine").mkdir()
    (here / "notebooks" / "presets.toml").write_text(section, encoding="utf-8")
    (here / "mine" / "x.txt").write_text("one\ntwo\n", encoding="utf-8")
    preset = presets.load("a", here / "notebooks" / "presets.toml")
    monkeypatch.chdir(ROOT)
    assert not preset.missing() and len(preset.corpora()["x"]) == 2


def test_make_hands_over_what_was_typed(here):
    """The Makefile's own words, with the tool replaced by one that prints what it sees."""
    shown = here / "show.py"
    shown.write_text(
        "import os, sys, json; print(json.dumps({k: os.environ.get(k) for k in sys.argv[1:]}))",
        encoding="utf-8",
    )
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    text = text.replace("tools/make.py $@", f"'{shown}' TEXTS COLUMN TYPED_FROM")
    (here / "checkout").mkdir()
    (here / "checkout" / "Makefile").write_text(text, encoding="utf-8")
    command = [
        "make",
        "-s",
        "-C",
        "checkout",
        "run",
        f"PYTHON={sys.executable}",
        "TEXTS=a.csv b.txt",
        "COLUMN=x",
    ]
    done = subprocess.run(
        command, cwd=here, capture_output=True, text=True, env={**os.environ, "PWD": str(here)}
    )
    assert json.loads(done.stdout) == {"TEXTS": "a.csv b.txt", "COLUMN": "x", "TYPED_FROM": str(here)}
    assert "--texts" in tool.__doc__
