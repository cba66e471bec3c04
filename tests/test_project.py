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
from importlib import metadata
from pathlib import Path

import browsing
import environment
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


def test_every_pin_can_be_installed_on_the_oldest_python():
    """Debian's 3.11.2 is a Python >= 3.11: a release that asks for 3.11.5 stops the installation there."""
    from packaging.specifiers import SpecifierSet

    installed = {name_of(d.metadata["Name"]): d for d in metadata.distributions()}
    pinned = map(name_of, pins())
    asked = {name: installed[name].metadata.get("Requires-Python") for name in pinned if name in installed}
    assert len(asked) > 150
    oldest = ".".join(map(str, environment.OLDEST)) + ".0"
    assert not {
        name: needs for name, needs in asked.items() if not SpecifierSet(needs or "").contains(oldest)
    }


def test_the_conda_environment_agrees():
    asked_for = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    conda = [line for line in asked_for if isinstance(line, str)]
    (from_index,) = (line["pip"] for line in asked_for if isinstance(line, dict))
    newest = (environment.NEWEST[0], environment.NEWEST[1] + 1)
    assert f"python{PROJECT['requires-python']},<{environment.dotted(newest)}" in conda
    assert f"torch=={pins()['torch']}" in from_index
    assert "--constraint constraints.txt" in from_index
    (asked,) = environment.INSTALL["notebooks"]
    assert " ".join(asked[1:]) in from_index, "conda installs the extras that make run does"


# ------------------------------------------------------------------------------------------ commands


@pytest.fixture
def called(monkeypatch, tmp_path):
    """What tools/make.py would run: a list of (arguments, environment); every call succeeds."""
    calls = []
    monkeypatch.delenv("PYTHON", raising=False)
    monkeypatch.setattr(environment, "VENV", tmp_path / "venv")
    monkeypatch.setattr(environment, "BIN", tmp_path / "venv" / "bin")

    def call(command, cwd=None, env=None):
        calls.append((command[1:], env))
        if command[1:3] == ["-m", "venv"]:
            made(tmp_path / "venv")
        return 0

    monkeypatch.setattr(environment.subprocess, "call", call)
    monkeypatch.setattr(
        environment, "pip_install", lambda *names: calls.append((["pip", "install", *names], {}))
    )
    return calls


def made(venv, version=sys.version_info[:2], finished=()):
    """An environment as far as the tool looks at it: a Python that tells its version."""
    (venv / "bin").mkdir(parents=True, exist_ok=True)
    (venv / "pyvenv.cfg").touch()
    (venv / "bin" / "python").write_text(f"#!/bin/sh\necho {version[0]} {version[1]}\n", encoding="utf-8")
    (venv / "bin" / "python").chmod(0o755)
    for extras in finished:
        (venv / f".ready-{extras}").write_text(str(ROOT), encoding="utf-8")


def test_the_makefile_and_the_tool_have_the_same_commands():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^COMMANDS := (.*)$", makefile, re.MULTILINE)[1].split() == list(make.COMMANDS)
    assert all(f"# make {command} " in makefile for command in make.COMMANDS)
    for _, steps in make.COMMANDS.values():
        assert all((ROOT / step[0]).exists() or step[0] == "-m" for step in steps)


@pytest.mark.parametrize("file", ["make.py", "environment.py"])
def test_the_tool_needs_the_standard_library_only(file):
    tree = ast.parse((ROOT / "tools" / file).read_text(encoding="utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
    assert imported <= set(sys.stdlib_module_names) | {"environment"}


def test_the_first_command_installs_and_the_second_does_not(called, tmp_path, monkeypatch):
    monkeypatch.delenv("NBKIT_DATA", raising=False)
    assert make.main(["run"]) == make.main(["run", "--preset", "treebank", "--data", str(tmp_path)]) == 0
    asked = [" ".join(arguments) for arguments, _ in called]
    pips = [line for line in asked if "pip install" in line]
    assert asked[0].startswith("-m venv") and len(pips) == len(environment.INSTALL["notebooks"])
    assert pips[0] == "pip install torch --editable .[cluster,notebooks]"
    assert [line for line in asked if line.startswith("tools")] == [
        "tools/run.py --preset sample",
        "tools/run.py --preset treebank",
    ]
    data = [env.get("NBKIT_DATA") for arguments, env in called if arguments[0].startswith("tools")]
    assert data == [None, str(tmp_path)]
    assert make.main(["test", "-k", "x"]) == 0
    assert called[-1][0] == ["-m", "pytest", *make.SHARED, "-k", "x"]
    assert called[-1][1]["OMP_NUM_THREADS"] == "1"


# ---------------------------------------------------------------------------- an environment that is stale


def test_a_half_made_environment_of_another_python_is_said_and_made_anew(called, tmp_path, capsys):
    made(tmp_path / "venv", (3, 15))
    (tmp_path / "venv" / "old").touch()
    assert make.main(["preflight"]) == 0
    assert "was made with Python 3.15: it is made anew with Python" in capsys.readouterr().err
    assert not (tmp_path / "venv" / "old").exists() and called[0][0][:2] == ["-m", "venv"]


def test_an_environment_whose_python_is_gone_is_made_anew(called, tmp_path, capsys):
    made(tmp_path / "venv", finished=["notebooks"])
    python = tmp_path / "venv" / "bin" / "python"
    python.unlink()
    python.symlink_to(tmp_path / "removed" / "python3.12")
    assert make.main(["lab"]) == 0
    assert "has no Python that starts: it is made anew" in capsys.readouterr().err
    assert ["pip", "install", *environment.INSTALL["notebooks"][0]] in [command for command, _ in called]


def test_a_finished_environment_is_used_whatever_python_made_it(called, tmp_path, monkeypatch, capsys):
    """What worked yesterday works on the day, without a network, and with a Python that is too old."""
    made(tmp_path / "venv", (3, 12), finished=["notebooks"])
    monkeypatch.setattr(environment.sys, "version_info", (3, 9))
    assert make.main(["lab"]) == 0 and [command for command, _ in called] == [make.COMMANDS["lab"][1][0]]
    assert re.search(r"has Python 3.12 and is used. To have 3.9: rm -r", capsys.readouterr().err)


def test_a_folder_that_was_moved_is_installed_anew(called, tmp_path, capsys):
    """An editable installation holds the folder's path: in another place nothing imports nbkit any more."""
    made(tmp_path / "venv", finished=["notebooks", "test"])
    assert make.main(["lab"]) == 0 and [command for command, _ in called] == [make.COMMANDS["lab"][1][0]]
    (tmp_path / "venv" / ".ready-notebooks").write_text("/where/it/was", encoding="utf-8")
    assert make.main(["lab"]) == 0
    assert "was made for another folder" in capsys.readouterr().err
    assert ["pip", "install", *environment.INSTALL["notebooks"][0]] in [command for command, _ in called]
    called.clear()
    assert make.main(["lab"]) == 0 and [command for command, _ in called] == [make.COMMANDS["lab"][1][0]]


@pytest.mark.parametrize(("found", "typed"), [(None, "python tools"), ("py.exe", "py tools")])
def test_windows_without_its_launcher_is_told_python(found, typed, monkeypatch):
    with monkeypatch.context() as patch:  # pytest itself must not take this machine for Windows
        patch.setattr(environment.shutil, "which", lambda name: found)
        patch.setattr(environment.os, "name", "nt")
        words = environment.typed("nt")
    assert words["make"].startswith(typed) and ("py -3.13" in words["other"]) == bool(found)


def test_a_python_that_make_names_replaces_a_finished_environment(called, tmp_path, monkeypatch, capsys):
    made(tmp_path / "venv", (3, 99), finished=["notebooks"])
    monkeypatch.setenv("PYTHON", "python3.11")
    assert make.main(["lab"]) == 0
    assert "was made with Python 3.99: it is made anew" in capsys.readouterr().err
    assert environment.version_in_venv() == sys.version_info[:2]


def test_a_folder_that_is_no_environment_is_never_removed(called, tmp_path, capsys):
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "thesis.txt").touch()
    assert make.main(["run"]) == 1 and not called
    assert "is there and no virtual environment" in capsys.readouterr().err
    assert make.main(["clean"]) == 1 and (tmp_path / "venv" / "thesis.txt").exists()


def test_an_environment_that_is_in_use_is_said(called, tmp_path, monkeypatch, capsys):
    made(tmp_path / "venv", (3, 15))

    def held(path, **options):
        raise PermissionError(13, "Access is denied", str(path / "python.exe"))

    monkeypatch.setattr(environment.shutil, "rmtree", held)
    assert make.main(["run"]) == 1 and not called
    assert re.search(r"python.exe cannot be removed .* Close notebooks", capsys.readouterr().err)


# ------------------------------------------------------------------------------- what stops an installation


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"sys.version_info": (3, 9)}, "nbkit needs Python >= 3.11"),
        ({"sys.version_info": (3, 15)}, "no wheel for a Python newer than 3.14"),
        ({"sys.maxsize": 2**31 - 1}, "64 bits only"),
        ({"sys.platform": "darwin", "platform.machine": lambda: "x86_64"}, "no wheel for Intel Macs"),
    ],
)
def test_a_python_that_cannot_have_torch_is_refused_with_the_line_to_type(
    called, monkeypatch, capsys, changes, message
):
    for name, value in changes.items():
        monkeypatch.setattr(f"environment.{name}", value)
    assert make.main(["run"]) == 1 and not called
    told = capsys.readouterr().err
    assert message in told and "python3.13 tools/make.py preflight" in told


def test_the_pythons_are_those_of_the_project():
    assert PROJECT["requires-python"] == f">={environment.dotted(environment.OLDEST)}"
    listed = {line.split(" :: ")[-1] for line in PROJECT["classifiers"] if "Python :: 3." in line}
    assert listed == {f"3.{minor}" for minor in range(environment.OLDEST[1], environment.NEWEST[1] + 1)}


def test_no_venv_is_said_with_its_mend(called, monkeypatch, capsys):
    monkeypatch.setattr(environment.subprocess, "call", lambda *_, **__: 1)
    assert make.main(["run"]) == 1
    assert re.search(r"No virtual environment could be made .*python3-venv", capsys.readouterr().err)


def test_what_an_installation_costs_is_said_before_pip_starts(called, monkeypatch, capsys):
    assert make.main(["run"]) == 0
    told = capsys.readouterr().err
    assert told.startswith(f"pip is at work: what `notebooks` needs goes into {environment.VENV}")
    monkeypatch.setattr(environment.sys, "platform", "win32")
    windows = environment.cost("notebooks")
    assert "about 600 MB to fetch and up to 2.3 GB on disk." in windows
    for name in ("README.md", "WORKSHOP.md"):
        page = (ROOT / name).read_text(encoding="utf-8")
        assert f"{environment.DISK_GB} GB" in page and f"{environment.DISK_GB_GPU} GB" in page, name
        assert f"{environment.FETCHED_MB} MB" in page or name == "README.md"


@pytest.mark.parametrize("full", ["VENV", "TMPDIR"])
def test_a_disk_that_is_too_small_is_said_before_pip_starts(called, monkeypatch, capsys, full):
    place = environment.VENV if full == "VENV" else environment.tempfile.gettempdir()
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(
        environment.shutil,
        "disk_usage",
        lambda folder: usage._replace(free=5 * 10**8 if folder == place else 10**11),
    )
    assert make.main(["run"]) == 1 and not called
    needed = "2.9" if full == "VENV" else "0.6"
    assert f"{needed} GB are needed in {place} and 0.5 GB are free: make room, or let {full}" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("refused, message", [("venv", "cannot be written"), ("a" * 95, "is too long")])
def test_a_folder_that_is_read_only_or_too_deep_is_said(called, monkeypatch, capsys, refused, message):
    mkdir = Path.mkdir

    def limited(path, *arguments, **options):
        if refused in (path.name, path.parent.name):
            raise PermissionError(13, "Access is denied", str(path))
        mkdir(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", limited)
    assert make.main(["run"]) == 1 and not called
    told = capsys.readouterr().err
    assert message in told and "Access is denied" in told and "Move this folder" in told


PIP_SAID = {
    '(Caused by SSLError("Can\'t connect to HTTPS URL because the SSL module is not available.")': "Anaconda",
    "ERROR: HTTPSConnectionPool(): Max retries exceeded (Caused by ProxyError('x'))": "the proxy",
    "WARNING: Retrying after 'NewConnectionError(': Failed to establish a new connection\nERROR: No matching"
    " distribution found for torch": "was not reached",
    "ERROR: Could not find a version that satisfies the requirement setuptools>=77 (from versions: none)": (
        "was not reached"
    ),
    "SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]": "certificates",
    "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device": "disk is full",
    "OSError: [Errno 2] No such file or directory\nHINT: ... Windows Long Path support enabled": "too long",
    "ERROR: Could not install packages due to an OSError: [WinError 5] Access is denied: 'x.pyd'": "in use",
    "ERROR: Could not install packages: [Errno 13] Permission denied: 'x'": "in use",
    "ERROR: No matching distribution found for torch": "no torch for this Python",
    "no such option: --no-user": "pip is too old",
    "something new": "its lines above tell why",
}


@pytest.mark.parametrize("said", PIP_SAID)
def test_what_pip_fails_at_is_told_with_its_mend(monkeypatch, tmp_path, capsys, said):
    (tmp_path / "python").write_text(f"#!/bin/sh\ncat <<'E'\n{said}\nE\nexit 1\n", encoding="utf-8")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(environment, "BIN", tmp_path)
    with pytest.raises(RuntimeError, match="pip could not install torch: .*" + PIP_SAID[said]) as raised:
        environment.pip_install("torch")
    assert said in str(raised.value) and "{" not in str(raised.value).split("pip could not")[1]


@pytest.mark.slow
def test_pip_itself_behind_a_proxy_that_is_not_there(monkeypatch, capsys):
    monkeypatch.setattr(environment, "BIN", Path(sys.executable).parent)
    for name, value in {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": "https://index.invalid/simple",
        "PIP_PROXY": "http://127.0.0.1:9",
        "PIP_RETRIES": "1",
        "PIP_NO_CACHE_DIR": "1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(RuntimeError, match="the proxy does not let pip through"):
        environment.pip_install("no-such-package-of-ours")
    assert "WARNING: Retrying" in capsys.readouterr().err, "a warning is shown as it comes"


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
