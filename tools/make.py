"""The Makefile's job without make: set the environment up once, then run one command in it.

    python tools/make.py run                                    the whole flow on the embedded sample
    python tools/make.py run --preset treebank --data FOLDER    the same on a real corpus
    python tools/make.py run --texts "films.csv wiki.txt"       the same on your own texts
    python tools/make.py test                                   every test
    python tools/make.py lab | preflight | docs | figures | notebooks | coverage | clean

Standard library only: it runs before anything is installed. On Windows type ``py`` for ``python``,
elsewhere ``python3``.
The environment is ``.venv`` (``VENV``); environment.py makes it and looks after it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys

import environment

#: A warning is an error, and all of them are shown.
BOOK = ("-W", "--keep-going", "-q", "-b", "html", "-c", "docs", "-d", "build/doctrees")
#: The tests are shared out by file to as many processes as there are cores, four at most; conftest.py says
#: which files come first.
SHARED = ("-n", "auto", "--maxprocesses", "4", "--dist", "loadfile", "--no-loadscope-reorder")
#: Command -> (extras it needs, what Python is asked to run). ``{preset}`` is filled in.
COMMANDS: dict[str, tuple[str, list[list[str]]]] = {
    "run": ("notebooks", [["tools/run.py", "--preset", "{preset}"]]),
    "figures": ("notebooks", [["tools/run.py", "--preset", "{preset}", "--figures", "figures"]]),
    # the browser is given the address, not a file in a hidden folder, which Ubuntu's Firefox may not read
    "lab": ("notebooks", [["-m", "jupyterlab", "--ServerApp.use_redirect_file=False", "notebooks"]]),
    "preflight": ("notebooks", [["tools/preflight.py"]]),
    "notebooks": ("notebooks", [["tools/build_notebooks.py"]]),
    "test": ("test", [["-m", "pytest", *SHARED]]),
    "coverage": ("test", [["-m", "coverage", "run", "-m", "pytest"], ["-m", "coverage", "report"]]),
    "docs": ("test", [["-m", "sphinx", *BOOK, ".", "build/docs"]]),
    "clean": ("", []),
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
        environment.install(extras)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    for number, step in enumerate(steps):
        asked = [part.format(preset=given.preset) for part in step]
        threads = {"OMP_NUM_THREADS": "1"} if given.command == "test" else {}
        status = environment.python(*asked, *(more if number == 0 else ()), data=given.data, **threads)
        if status:
            return status
    return 0


def clean() -> int:
    """Remove what the other commands made: the environment, ``build`` and the default cache."""
    if not environment.is_ours():
        print(f"VENV={environment.VENV} is no virtual environment: nothing is removed", file=sys.stderr)
        return 1
    for folder in (environment.VENV, environment.ROOT / "build", environment.ROOT / "cache"):
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
