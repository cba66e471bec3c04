"""The project as a product: style, types, pins, commands, names of packages, the wheel."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

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
