"""Figures that say how they were made: from the file alone back to the numbers, and to what made them."""

import dataclasses
import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb

from nbkit import plots, provenance, texts, workshop
from nbkit.plots.style import STYLE
from nbkit.stats import Estimate
from nbkit.workshop import presets

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def no_figure_stays_open():
    yield
    plt.close("all")


@pytest.fixture
def sources(minilm):
    marks = {name: texts.load(f"sample:{name}").fingerprint for name in ("reviews", "fiction")}
    return {"preset": "sample", "subject": minilm.fingerprint, "corpora": marks, "seed": 3}


NUMBERS = pd.DataFrame({"series": "a < b & “c”", "x": [1, 2, 4], "y": [0.5, 0.25, 1 / 3]})


@pytest.fixture
def saved(tmp_path, sources):
    with plots.style():
        fig, ax = plt.subplots()
        ax.plot(NUMBERS["x"], NUMBERS["y"], label="a < b & “c”")
    return plots.save(fig, "03_line", sources, data=NUMBERS, folder=tmp_path)


def states(path, **given):
    found = provenance.check(path, **given) if given else workshop.figures.check(path)
    return {finding.what: finding.state for finding in found}


# ---------------------------------------------------------------------------------- the way back


def test_the_manifest_comes_back_out_of_both_pictures(saved, sources):
    svg, png = (provenance.read(saved.with_suffix(suffix)) for suffix in (".svg", ".png"))
    assert svg == png and sources.items() <= svg.items()
    assert svg["versions"] == provenance.versions() and svg["figure"] == "03_line"
    beside = json.loads(saved.with_suffix(".json").read_text(encoding="utf-8"))
    assert svg.items() <= beside.items() and beside["machine"]


def test_an_untouched_figure_can_be_made_again(saved, capsys):
    assert set(states(saved).values()) == {"same"}
    assert workshop.figures.main([str(saved)]) == 0
    told = capsys.readouterr().out
    assert "subject" in told and "'fiction' of the preset 'sample'" in told
    assert told.endswith("It can be made again here.\n")


def test_the_command_runs_in_a_terminal(saved):
    command = [sys.executable, "-m", "nbkit.workshop", str(saved.with_suffix(".png"))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "03_line: made by" in done.stdout and not done.stderr


def test_changed_numbers_are_noticed(saved, capsys):
    table = saved.with_suffix(".csv")
    table.write_text(table.read_text(encoding="utf-8").replace("0.25", "0.85"), encoding="utf-8")
    assert states(saved)["data"] == "differs"
    assert workshop.figures.main([str(saved)]) == 1 and "03_line.csv was changed" in capsys.readouterr().out
    table.unlink()
    assert states(saved)["data"] == "missing" and workshop.figures.main([str(saved)]) == 1


def test_another_version_is_named_and_does_not_forbid(saved, monkeypatch, capsys):
    installed = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "0.0.1" if name == "scipy" else installed(name)
    )
    assert {name for name, state in states(saved).items() if state == "differs"} == {"scipy"}
    assert workshop.figures.main([str(saved)]) == 0
    told = capsys.readouterr().out
    assert f"made with {installed('scipy')}, here is 0.0.1" in told
    assert "with other versions of scipy" in told


def test_another_corpus_and_another_subject_are_named(tmp_path, saved, sources, minilm, capsys):
    reviews = texts.load("sample:reviews")
    assert states(saved, corpora={"mine": reviews}) == states(saved) | {
        "subject": "missing",
        "corpus fiction": "missing",
    }
    other = {**sources, "subject": minilm.randomized(1).fingerprint, "corpora": {"mine": "0" * 64}}
    path = plots.save(plt.figure(), "x", other, data=NUMBERS, folder=tmp_path)
    assert workshop.figures.main([str(path)]) == 1
    told = capsys.readouterr().out
    assert "000000000000 is nothing that was found here" in told and "see subject, corpus mine" in told


def test_what_was_read_at_a_commit_is_named_with_it(tmp_path, minilm):
    read = texts.Texts.from_list(["a", "b"], "news")
    pinned = dataclasses.replace(read, source={"source": "hf:org/news", "revision": "c0ffee"})
    sources = {"subject": minilm, "corpora": {"news": pinned, "mine": read}, "seed": 0}
    made = provenance.read(plots.save(plt.figure(), "x", sources, data=NUMBERS, folder=tmp_path))
    assert made["subject"] == minilm.fingerprint
    assert made["corpora"] == {"news": pinned.fingerprint, "mine": read.fingerprint}
    assert made["revisions"] == {pinned.fingerprint: "hf:org/news at c0ffee"}


def test_without_a_named_preset_those_with_data_here_are_searched(tmp_path, sources, monkeypatch):
    monkeypatch.setenv("NBKIT_DATA", str(tmp_path / "nothing"))
    del sources["preset"]
    path = plots.save(plt.figure(), "x", sources, data=NUMBERS, folder=tmp_path)
    assert states(path)["corpus reviews"] == "same"


def test_a_figure_that_says_nothing_is_named(tmp_path, capsys):
    for suffix in ("svg", "png"):
        path = tmp_path / f"bare.{suffix}"
        plt.figure().savefig(path)
        with pytest.raises(ValueError, match=f"bare.{suffix} does not say how it was made"):
            provenance.read(path)
        assert workshop.figures.main([str(path)]) == 1 and "does not say" in capsys.readouterr().out
    broken = tmp_path / "broken.svg"
    broken.write_text("<svg", encoding="utf-8")
    for bad in (broken, tmp_path / "absent.svg", tmp_path / "x.pdf"):
        assert workshop.figures.main([str(bad)]) == 1 and bad.name in capsys.readouterr().out


def test_what_a_figure_does_not_name_is_not_promised(tmp_path, sources, capsys):
    del sources["corpora"]
    path = plots.save(plt.figure(), "x", sources, data=NUMBERS, folder=tmp_path)
    assert states(path)["corpus"] == "unknown" and workshop.figures.main([str(path)]) == 0
    assert "made again here, as far as the file says: it does not name its corpus." in capsys.readouterr().out


# ---------------------------------------------------------------------------------- the figures of the sample

KEPT = sorted([*(ROOT / "figures").glob("*.svg"), *(ROOT / "figures" / "paper").glob("*.svg")])
OF_TREEBANK = sorted((ROOT / "figures" / "treebank").glob("*.svg"))


@pytest.fixture(scope="module")
def here():
    """Corpora of the sample, as a figure names them."""
    preset = presets.load("sample", ROOT / "notebooks" / "presets.toml")
    return {**preset.corpora(), "treebank": preset.treebank()}


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_every_committed_figure_says_how_it_was_made_and_can_be_made_again(path, minilm, here):
    assert_said(path, minilm, here)


@pytest.mark.needs_data
def test_the_figures_of_real_text_do_so_too(minilm, shared_data, monkeypatch):
    monkeypatch.setenv("NBKIT_DATA", str(shared_data))
    preset = presets.load("treebank", ROOT / "notebooks" / "presets.toml")
    there = {**preset.corpora(), "treebank": preset.treebank()}
    assert OF_TREEBANK
    for path in OF_TREEBANK:
        assert_said(path, minilm, there)


def assert_said(path, subject, corpora):
    """Its manifest is in both files and beside them, and everything that it names is here."""
    png = path.with_suffix(".png")
    assert provenance.read(path) == provenance.read(png)
    beside = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert provenance.read(path).items() <= beside.items() and beside["machine"] and beside["made"]
    made = provenance.read(path)
    assert (ROOT / "notebooks" / f"{made['notebook']}.py").exists() and made["cell"] > 1
    for file in (path, png):
        found = {
            finding.what: finding.state
            for finding in provenance.check(file, subject=subject, corpora=corpora)
        }
        assert found["data"] == found["subject"] == "same"
        assert "missing" not in found.values()
    assert len(pd.read_csv(path.with_suffix(".csv"))) > 1


@pytest.mark.parametrize("path", [*KEPT, *OF_TREEBANK], ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_committed_figure_needs_no_font_and_has_its_width(path):
    from PIL import Image

    svg = path.read_text(encoding="utf-8")
    assert "<text" not in svg and "font-family" not in svg and "@font-face" not in svg  # letters are outlines
    assert not re.search(r"(?:href|src)=\"(?!#|data:)", svg), "loads something from elsewhere"
    column = path.stem.rsplit("_", 1)[-1]
    if path.parent.name == "paper":
        width = plots.COLUMNS[column]
        assert f'width="{72 * width:g}pt"' in svg
        with Image.open(path.with_suffix(".png")) as image:
            assert image.width == round(300 * width) and round(image.info["dpi"][0]) == 300


def test_every_paper_figure_is_there_for_one_column_and_for_two():
    paper = {path.stem for path in KEPT if path.parent.name == "paper"}
    names = {stem.rsplit("_", 1)[0] for stem in paper}
    assert paper == {f"{name}_{column}" for name in names for column in plots.COLUMNS} and len(names) >= 5


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_the_command_says_of_a_committed_figure_how_it_was_made(suffix, capsys):
    assert workshop.figures.main([str(ROOT / "figures" / f"04_agreement{suffix}")]) == 0
    told = capsys.readouterr().out
    assert told.startswith("04_agreement: made by notebook 04_test_illusions, cell ")
    assert "'fiction' of the preset 'sample'" in told and "04_agreement.csv, as it was drawn" in told
    assert "It can be made again here" in told.splitlines()[-1]


# ---------------------------------------------------------------------------------- notebook and cell


CELLS = """# %%
from nbkit import provenance

def here():
    return provenance.place()

# %% [markdown]
# words

# %%
x = 1

# %%
y = [
    here(),
]
print(y[0])
"""


def test_a_kernel_names_its_cell_and_a_script_its_name(tmp_path):
    import jupytext
    from nbclient import NotebookClient

    source = tmp_path / "07_toy.py"
    source.write_text(CELLS, encoding="utf-8")
    here = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, source], capture_output=True, text=True, check=True, env=here)
    assert done.stdout.strip() == "{'script': '07_toy'}"
    run = {"cwd": tmp_path, "capture_output": True, "text": True, "check": True, "env": here}
    source.rename(tmp_path / "toy.py")
    done = subprocess.run([sys.executable, "-m", "toy"], **run)
    assert done.stdout.strip() == "{'script': 'toy'}"
    notebook = jupytext.reads(CELLS, fmt="py:percent")
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    named = {**here, "JPY_SESSION_NAME": "notebooks/07_toy.ipynb"}
    NotebookClient(notebook, timeout=60).execute(env=named)
    assert notebook.cells[-1].outputs[0].text.strip() == "{'notebook': '07_toy', 'cell': 3}"


def test_code_typed_into_standard_input_has_no_place():
    code = "from nbkit import provenance\nprint(provenance.place())\n"
    done = subprocess.run([sys.executable, "-"], input=code, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "{}"


# ---------------------------------------------------------------------------------- the numbers


def test_the_csv_holds_what_was_given(saved, tmp_path):
    table = pd.read_csv(saved.with_suffix(".csv"))
    assert table["series"].unique().tolist() == ["a < b & “c”"]
    assert np.allclose(table["y"], [0.5, 0.25, 1 / 3], rtol=1e-5)
    frame = pd.DataFrame({"score": [0.125, np.nan]}, index=pd.Index(["u", "v"], name="unit"))
    path = plots.save(plt.figure(), "y", {"seed": 0}, folder=tmp_path, data=frame)
    assert path.with_suffix(".csv").read_text(encoding="utf-8") == "unit,score\nu,0.125\nv,\n"
    both = {"one": frame, "two": pd.DataFrame({"n": [4]})}
    path = plots.save(plt.figure(), "z", {"seed": 0}, folder=tmp_path, data=both)
    back = pd.read_csv(path.with_suffix(".csv"))
    assert list(back) == ["table", "unit", "score", "n"]
    assert back["table"].tolist() == ["one", "one", "two"] and back["n"].dropna().tolist() == [4]
    estimates = pd.DataFrame({"k": [1], "precision": [Estimate(0.5, 0.25, 0.75, 9)]})
    path = plots.save(plt.figure(), "e", {"seed": 0}, folder=tmp_path, data={"_one": estimates})
    assert path.with_suffix(".csv").read_text(encoding="utf-8").splitlines() == [
        "table,k,precision,precision_low,precision_high",
        "_one,1,0.5,0.25,0.75",
    ]
    with pytest.raises(TypeError, match="data"):
        plots.save(plt.figure(), "x", {"seed": 0}, folder=tmp_path)


# ---------------------------------------------------------------------------------- for a paper


@pytest.mark.parametrize("column", ["single", "double"])
def test_a_column_has_its_width_and_letters_of_a_caption(tmp_path, column):
    from PIL import Image

    with plots.style(column):
        fig, ax = plt.subplots()
        ax.set_xlabel("words")
        assert ax.xaxis.label.get_fontsize() == pytest.approx(7)
    path = plots.save(fig, "x", {"seed": 0}, data=NUMBERS, folder=tmp_path, column=column)
    with Image.open(path.with_suffix(".png")) as image:
        assert image.width == round(300 * plots.COLUMNS[column])
    points = plots.COLUMNS[column] * 72
    svg = path.read_text(encoding="utf-8")
    assert f'width="{points:g}pt"' in svg
    assert "<text" not in svg and "font-family" not in svg  # letters are outlines
    with pytest.raises(ValueError, match="column='triple': there are single, double"):
        plots.save(fig, "x", {"seed": 0}, data=NUMBERS, folder=tmp_path, column="triple")


#: Machado et al. 2009, severity 1: how linear colours are seen without one kind of cone.
BLINDNESS = {
    "protanopia": [
        [0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}  # fmt: skip


def _lab(rgb):
    """CIE L*a*b* (D65) of linear colours."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    f = np.cbrt(np.clip(rgb @ to_xyz.T / [0.9505, 1, 1.089], 1e-6, None))
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)


def _nearest(colors, kind):
    """The smallest distance (CIE 1976) between two of ``colors`` for a reader without one kind of cone."""
    srgb = np.array([to_rgb(color) for color in colors])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    lab = _lab(np.clip(linear @ np.array(BLINDNESS[kind]).T, 0, 1))
    return np.linalg.norm(lab[:, None] - lab[None], axis=-1)[np.triu_indices(len(lab), 1)].min()


def test_the_colours_of_a_figure_stay_apart_for_colour_blind_readers():
    cycle = STYLE["axes.prop_cycle"].by_key()["color"][:4]
    assert min(_nearest(cycle, kind) for kind in BLINDNESS) > 15
    assert _nearest(["#00a000", "#c06000"], "deuteranopia") < 15, "the measure sees what is known to be bad"


# ---------------------------------------------------------------------------------- presets


def test_a_preset_says_what_is_missing(tmp_path, monkeypatch):
    file = tmp_path / "presets.toml"
    file.write_text(
        '[far]\nsubject = "minilm"\ndevice = "cuda"\ntreebank = "$NBKIT_DATA/ud_en_ewt"\n'
        'generators = ["openai:small", "keyphrase"]\n[far.corpora]\nmine = "$NBKIT_DATA/mine.jsonl"\n',
        encoding="utf-8",
    )
    monkeypatch.setenv("NBKIT_DATA", str(tmp_path))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    preset = presets.load("far", file)
    assert presets.names(file) == ["far"]
    mine, treebank, gpu, server = preset.missing()
    assert "mine.jsonl is not there: set NBKIT_DATA" in mine and "ud_en_ewt" in treebank
    assert "GPU" in gpu and "OPENAI_BASE_URL" in server
    with pytest.raises(FileNotFoundError, match="preset 'far' cannot run here: .*mine.jsonl"):
        preset.corpora()
    with pytest.raises(FileNotFoundError, match="no GPU"):
        preset.subject()
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    assert "does not answer (" in preset.missing()[-1]
    monkeypatch.setenv("OPENAI_BASE_URL", "no address")
    assert "does not answer (" in preset.missing()[-1]
    monkeypatch.delenv("OPENAI_API_KEY")
    assert "OPENAI_API_KEY" in preset.missing()[-1]


def test_every_preset_has_the_keys_of_the_first_and_its_own_needs():
    path = ROOT / "notebooks" / "presets.toml"
    first = set(presets.load("sample", path).settings)
    for name in presets.names(path):
        preset = presets.load(name, path)
        assert first - {"corpora"} <= set(preset.settings), name
        assert "corpora" in preset.settings or {"source", "groups"} <= set(preset.settings)
    full = presets.load("full", path)
    assert len(full["revision"]) == 40 and full["device"] == "cuda"
    assert any(spec.startswith("openai:") for spec in full["generators"])


@pytest.mark.needs_data
def test_the_registers_are_five_corpora_of_one_size(shared_data, monkeypatch):
    monkeypatch.setenv("NBKIT_DATA", str(shared_data))
    preset = presets.load("registers", ROOT / "notebooks" / "presets.toml")
    assert preset.missing() == []
    corpora = preset.corpora()
    assert len(corpora) == 5 and {len(corpus) for corpus in corpora.values()} == {2000}
