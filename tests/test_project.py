"""The project as a product: style, types, pins, commands, names of packages, the wheel."""

import ast
import importlib
import inspect
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import browsing
import jupytext
import make
import pytest
import test_dictionaries
import test_house
import yaml

import nbkit
from nbkit.workshop import presets

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def pins():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def name_of(requirement):
    return re.split(r"[<>=!\[ ]", requirement)[0].lower().replace("_", "-")


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]])
def test_ruff_is_clean(command):
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *command, "."], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_every_dependency_is_pinned_within_its_range():
    from packaging.requirements import Requirement

    extras = sum(PROJECT["optional-dependencies"].values(), [])
    pinned = {name.lower().replace("_", "-"): version for name, version in pins().items()}
    for text in PROJECT["dependencies"] + extras:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pinned[name_of(text)]), text
    assert pinned["torch"] == "2.13.0"


def test_the_conda_environment_agrees():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    conda = [line for line in environment["dependencies"] if isinstance(line, str)]
    from_index = next(line["pip"] for line in environment["dependencies"] if isinstance(line, dict))
    assert f"python{PROJECT['requires-python']}" in conda
    assert f"torch=={pins()['torch']}" in from_index
    assert "--constraint constraints.txt" in from_index
    extras = ",".join(PROJECT["optional-dependencies"])
    assert f"--editable .[{extras}]" in from_index


# ------------------------------------------------------------------------------------------ commands


@pytest.fixture
def called(monkeypatch, tmp_path):
    """What tools/make.py would run: a list of (arguments, environment); every call succeeds."""
    calls = []
    monkeypatch.setattr(make, "VENV", tmp_path / "venv")
    monkeypatch.setattr(make, "BIN", tmp_path / "venv" / "bin")

    def call(command, cwd=None, env=None):
        (tmp_path / "venv").mkdir(exist_ok=True)
        calls.append((command[1:], env))
        return 0

    monkeypatch.setattr(make.subprocess, "call", call)
    return calls


def test_the_makefile_and_the_tool_have_the_same_commands():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^COMMANDS := (.*)$", makefile, re.MULTILINE)[1].split() == list(make.COMMANDS)
    assert all(f"# make {command} " in makefile for command in make.COMMANDS)
    for _, steps in make.COMMANDS.values():
        assert all((ROOT / step[0]).exists() or step[0] == "-m" for step in steps)


def test_the_tool_needs_the_standard_library_only():
    tree = ast.parse((ROOT / "tools" / "make.py").read_text(encoding="utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
    assert imported <= set(sys.stdlib_module_names)


def test_the_first_command_installs_and_the_second_does_not(called, tmp_path, monkeypatch):
    monkeypatch.delenv("NBKIT_DATA", raising=False)
    assert make.main(["run"]) == make.main(["run", "--preset", "treebank", "--data", str(tmp_path)]) == 0
    asked = [" ".join(arguments) for arguments, _ in called]
    pips = [line for line in asked if "pip install" in line]
    assert asked[0].startswith("-m venv") and len(pips) == len(make.INSTALL["notebooks"])
    assert "--constraint constraints.txt torch --editable" in pips[0]
    assert [line for line in asked if line.startswith("tools")] == [
        "tools/run.py --preset sample",
        "tools/run.py --preset treebank",
    ]
    data = [env.get("NBKIT_DATA") for arguments, env in called if arguments[0].startswith("tools")]
    assert data == [None, str(tmp_path)]
    assert make.main(["test", "-k", "x"]) == 0
    assert called[-1][0] == ["-m", "pytest", *make.SHARED, "-k", "x"]
    assert called[-1][1]["OMP_NUM_THREADS"] == "1"


def test_what_stops_the_tool_is_said_with_its_mend(called, monkeypatch, capsys):
    monkeypatch.setattr(make.sys, "version_info", (3, 9))
    assert make.main(["run"]) == 1 and not called
    assert "nbkit needs Python >= 3.11" in (told := capsys.readouterr().err) and "PYTHON=" in told
    monkeypatch.undo()
    monkeypatch.setattr(make, "VENV", ROOT / "nowhere")
    monkeypatch.setattr(make.subprocess, "call", lambda *_, **__: 1)
    assert make.main(["run"]) == 1
    assert "No virtual environment could be made" in capsys.readouterr().err


def test_no_message_names_an_extra_of_a_strangers_package():
    """The name nbkit on the package index is another project's."""
    files = [
        path
        for pattern in ("nbkit/**/*.py", "tools/*.py", "notebooks/*.py", "*.md")
        for path in ROOT.glob(pattern)
    ]
    named = [
        path.name for path in files if re.search(r"pip install\W+nbkit\b", path.read_text(encoding="utf-8"))
    ]
    assert not named
    assert PROJECT["name"] == "nbkit-neurons" and nbkit.__version__ == "0.2.0"


def test_what_a_preset_writes_lies_below_build_and_git_ignores_it(monkeypatch):
    for name in ("NBKIT_RESULTS", "NBKIT_FIGURES", "NBKIT_DATA"):
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    for name in presets.names(ROOT / "notebooks" / "presets.toml"):
        preset = presets.load(name, ROOT / "notebooks" / "presets.toml")
        preset._data_missing()
        for folder in (preset.results, preset.figures):
            assert folder.is_relative_to(ROOT / "build")
    assert dict(os.environ) == before, "a preset changed the environment"
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert {"build/", "cache/", ".venv/"} <= set(ignored)


@pytest.mark.slow
@pytest.mark.parametrize("named", [None, "nowhere"])
def test_a_strangers_clone_skips_real_text_and_says_so(named, tmp_path):
    """Even where CI is set: only a folder that NBKIT_DATA names is obligatory."""
    tests = tmp_path / "clone" / "tests"
    tests.mkdir(parents=True)
    for name in ("conftest.py", "systems.py"):
        shutil.copy(ROOT / "tests" / name, tests)
    (tests / "test_one.py").write_text(
        "def test_one(shared_data): ...\ndef test_two(): ...\n", encoding="utf-8"
    )
    given = {name: value for name, value in os.environ.items() if name != "NBKIT_DATA"}
    given |= {"CI": "true", "PYTHONPATH": str(ROOT)} | ({"NBKIT_DATA": named} if named else {})
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(tests)]
    done = subprocess.run(command, cwd=tmp_path, env=given, capture_output=True, text=True)
    if named:
        assert done.returncode == 1 and "NBKIT_DATA=nowhere is no folder" in done.stdout
    else:
        assert done.returncode == 0 and "1 NOT RUN: the real corpora are absent" in done.stdout, done.stdout


def test_a_browser_is_obligatory_where_it_is_named(monkeypatch):
    monkeypatch.delenv("NBKIT_CHROMIUM", raising=False)
    monkeypatch.setenv("PATH", "")
    assert browsing.installed() is None
    monkeypatch.setenv("NBKIT_CHROMIUM", "no-such-browser")
    with pytest.raises(FileNotFoundError, match="NBKIT_CHROMIUM=no-such-browser"):
        browsing.installed()


# --------------------------------------------------------------------------------------------- types


@pytest.mark.slow
def test_pyright_is_clean():
    """basedpyright is pyright with Node in its wheel, so that nothing is fetched when it runs."""
    command = [sys.executable, "-m", "basedpyright", "--pythonpath", sys.executable]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:]


# ---------------------------------------------------------------------------------------------- book


@pytest.fixture(scope="module")
def book(tmp_path_factory) -> Path:
    """The book, built anew; a warning is an error."""
    folder = tmp_path_factory.mktemp("book")
    options = [part if part != "build/doctrees" else str(folder / "doctrees") for part in make.BOOK]
    command = [sys.executable, "-m", "sphinx", *options, str(ROOT), str(folder / "html")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:]
    return folder / "html"


@pytest.mark.slow
def test_the_book_has_a_page_for_every_room_and_notebook(book):
    rooms = {source.room for source in test_house.package()} & set(test_house.ROOMS)
    assert {path.stem for path in (book / "docs" / "api").glob("*.html")} == rooms
    notebooks = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert {path.stem for path in (book / "notebooks").glob("*.html")} == notebooks
    for room, names in test_house.doors().items():
        page = (book / "docs" / "api" / f"{room}.html").read_text(encoding="utf-8")
        module = importlib.import_module(f"nbkit.{room}")
        functions = [name for name in names if inspect.isfunction(getattr(module, name))]
        assert all(f'id="nbkit.{room}.{name}"' in page for name in functions), room


@pytest.mark.slow
def test_the_book_loads_nothing_from_elsewhere(book):
    pages = list(book.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        loaded = r"<(?:script|link|img|iframe)[^>]+(?:src|href)=[\"'](?:https?:)?//[^\"']+"
        assert not re.findall(loaded, page.read_text(encoding="utf-8")), page.name
    for sheet in book.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//|@import", sheet.read_text(encoding="utf-8")), (
            sheet.name
        )


def test_every_link_to_the_glossary_names_a_word_of_it():
    glossary = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    headings = re.findall(r"^#{2,3} (.+)$", glossary, re.MULTILINE)
    words = [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]
    assert len(set(words)) == len(words) > 60
    for path in [*(ROOT / "notebooks").glob("*.py"), *ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for word in re.findall(r"glossary\.md#([\w-]+)", path.read_text(encoding="utf-8")):
            assert word in words, (path.name, word)


#: Words of the glossary that are also plain English: where they first stand says nothing.
PLAIN = {"head", "within", "across", "kept", "changed", "silent"}


def test_a_word_of_the_glossary_has_a_link_in_the_first_notebook_that_uses_it():
    glossary = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    unlinked, used = [], 0
    for word in set(re.findall(r"^### (.+)$", glossary, re.MULTILINE)) - PLAIN:
        said = re.compile(rf"\b{re.escape(word)}(s|es)?\b", re.IGNORECASE)
        link = "glossary.md#" + re.sub(r"[^\w -]", "", word).lower().replace(" ", "-") + ")"
        for path in sorted((ROOT / "notebooks").glob("*.py")):
            prose = "\n".join(c.source for c in jupytext.read(path).cells if c.cell_type == "markdown")
            if said.search(re.sub(r"\]\(\S+\)|`[^`]*`|\s", " ", prose)):
                used += 1
                unlinked += [] if link in prose else [f"{path.stem}: {word}"]
                break
    assert not unlinked and used > 40


@pytest.mark.slow
def test_the_code_of_the_book_runs(tmp_path, monkeypatch, smollm2):
    monkeypatch.chdir(tmp_path)
    test_dictionaries.save(tmp_path / "folder-with-cfg.json", d_in=576, hook="blocks.15.hook_resid_post")
    for page in (ROOT / "docs").glob("*.md"):
        for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            exec(block, {})  # noqa: S102


# ------------------------------------------------------------------------------------------- package


@pytest.mark.slow
def test_a_built_wheel_works_outside_the_checkout(tmp_path):
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    wheel = next(tmp_path.glob("*.whl"))
    names = zipfile.ZipFile(wheel).namelist()
    assert "nbkit/data/reviews.jsonl" in names and "nbkit/data/treebank.conllu" in names
    assert not [n for n in names if n.startswith(("tests", "tools", "notebooks", "build"))]
    target = tmp_path / "site"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(target),
        str(wheel),
    ]
    subprocess.run(pip, check=True)
    code = (
        "import nbkit, sys; from nbkit import activations, models, texts;"
        f"assert nbkit.__file__.startswith({str(target)!r}), nbkit.__file__;"
        "t = texts.load('sample:treebank').sample(5, seed=0);"
        "print(activations.capture(models.load(), t, sites='hidden', rows='word').values.shape[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(target), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == str(6 * 384), done.stderr
