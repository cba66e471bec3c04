"""Where a number came from: versions, machine, seeds, fingerprints, seconds.

Every store, figure and report carries a manifest made here, so that a reader can tell which model,
which texts and which versions are behind it.

    manifest(subject=subject.fingerprint, seed=0)   a plain dict, ready for JSON
    show()                                          the last cell of every notebook
    stopwatch                                       ``with stopwatch() as clock: ...; clock.seconds``
    fingerprint(*parts)                             SHA-256 over strings, numbers and arrays
    cache_root()                                    where stores live: $NBKIT_CACHE, else ./cache
    atomic(path)                                    ``with atomic(path) as part:`` and then
                                                    ``part.write_text(..., encoding="utf-8")``
    replace(source, target)                         rename a file or folder, on any system
    file_name(name)                                 refuses what is no name of a file on some system
    place()                                         the notebook and cell, or the script, that is running
    read("figures/NAME.svg")                        the manifest inside a figure's file (.svg or .png)
    check("figures/NAME.svg")                       can it still be made here? one line a question

In a terminal ``python -m nbkit.workshop figures/NAME.svg`` asks the same.

Nothing here names the user, the host or a path: manifests are made to be published.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import sys
import time
import xml.etree.ElementTree
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nbkit import __version__

__all__ = [
    "Finding",
    "atomic",
    "cache_root",
    "check",
    "file_name",
    "fingerprint",
    "manifest",
    "place",
    "read",
    "replace",
    "show",
    "stopwatch",
    "versions",
]

#: The libraries whose version can change a number.
LIBRARIES = (
    "torch",
    "transformers",
    "tokenizers",
    "sentence-transformers",
    "numpy",
    "pandas",
    "scipy",
    "scikit-learn",
    "matplotlib",
    "seaborn",
)


def cache_root() -> Path:
    """The folder of all caches: the environment variable ``NBKIT_CACHE``, else ``cache`` here."""
    return Path(os.environ.get("NBKIT_CACHE", "cache"))


def fingerprint(*parts: Any) -> str:
    """SHA-256 (hex) over ``parts``: strings, bytes, numbers, arrays, and JSON-able containers.

    Every part is hashed with its length, so that ``("ab", "c")`` and ``("a", "bc")`` differ.
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            part = f"{part.dtype}{part.shape}".encode() + np.ascontiguousarray(part).tobytes()
        elif not isinstance(part, bytes):
            part = json.dumps(part, sort_keys=True, ensure_ascii=False).encode()
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """The version of nbkit and of every library of ``LIBRARIES``; absent ones are left out."""
    found = {"nbkit": __version__}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Python, operating system, processor architecture and number of cores; no names, no paths."""
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
    }


def manifest(**inputs: Any) -> dict[str, Any]:
    """What made a result: ``inputs`` (fingerprints, seeds, parameters), versions, machine, time."""
    return {
        **inputs,
        "versions": versions(),
        "machine": machine(),
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def show() -> str:
    """One short paragraph for the end of a notebook: versions only, so that it stays the same."""
    parts = [f"Python {platform.python_version()}"]
    parts += [f"{name} {version}" for name, version in versions().items()]
    return " · ".join(parts)


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Inside `with`, a file to write that takes the place of ``path`` once it is complete.

    After an error or a kill ``path`` is what it was before. Missing folders are made. Two processes may
    write at once: the last one to finish wins.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def replace(source: Path, target: Path) -> None:
    """Give a file or folder the name ``target``; a file takes the place of the one that has it.

    Windows refuses that while any program has one of them open. A virus scanner or a cloud client opens new
    files for a moment, so it is tried for two seconds; then a ``PermissionError`` names the file
    and what may hold it.
    """
    for seconds in (0.05, 0.15, 0.3, 0.5, 1.0, None):
        try:
            return os.replace(source, target)
        except PermissionError as error:
            if seconds is None:
                raise PermissionError(
                    f"{target} cannot be written: another program has it open (a spreadsheet,"
                    " another notebook, a cloud client), or it may not be changed. Close it and run the same"
                    " line again"
                ) from error
            time.sleep(seconds)


#: Not in the name of a file on one of Windows, macOS and Linux; nor are the names of Windows' devices.
ILLEGAL = re.compile(
    r'[<>:"/\\|?*\x00-\x1f]|[ .]$|^(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.|$)', re.IGNORECASE
)


def file_name(name: str) -> str:
    """``name``, if every system can have a file of that name; else a ``ValueError`` that says why not."""
    found = ILLEGAL.search(name)
    if not name or len(name.encode()) > 200 or found:
        why = f"{found[0]!r} cannot be in it" if found else "1 to 200 bytes are possible"
        raise ValueError(f"{name[:60]!r} is no name for a file on every system ({why}): choose another")
    return name


class stopwatch:
    """``with stopwatch() as clock: ...`` leaves the wall-clock time in ``clock.seconds``."""

    seconds: float = float("nan")

    def __enter__(self) -> stopwatch:
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._start


# ---------------------------------------------------------------------------------- figures and back


class Finding(NamedTuple):
    """One line of ``check``: ``state`` is "same", "differs", "missing", or "unknown" (not recorded)."""

    what: str
    state: str
    text: str


def place() -> dict[str, Any]:
    """What is running: ``{"notebook": "03_match_neurons", "cell": 17}``, ``{"script": "capture"}`` or ``{}``.

    The cell is the number in its brackets, [17]. Jupyter gives the notebook's name in the environment
    variable ``JPY_SESSION_NAME``; without it, "unnamed". Code from standard input or ``-c`` has no place.
    """
    main = sys.modules["__main__"]
    if hasattr(main, "get_ipython"):
        name = os.environ.get("JPY_SESSION_NAME", "")
        history = main.get_ipython().user_ns["In"]  # the running cell is its last entry
        return {"notebook": Path(name).stem or "unnamed", "cell": len(history) - 1}
    if getattr(main, "__spec__", None):  # python -m package.module
        return {"script": main.__spec__.name.removesuffix(".__main__")}
    file = Path(getattr(main, "__file__", ""))
    return {"script": file.stem} if file.is_file() else {}


def read(path: str | Path) -> dict[str, Any]:
    """The manifest that ``plots.save`` put into the file (.svg or .png). None in it: ``ValueError``."""
    path = Path(path)
    if path.suffix == ".svg":
        tag = "{http://purl.org/dc/elements/1.1/}description"
        text = xml.etree.ElementTree.parse(path).getroot().findtext(f".//{tag}")
    elif path.suffix == ".png":
        from PIL import Image  # matplotlib brings it; only needed here

        with Image.open(path) as image:
            text = image.info.get("Description")
    else:
        raise ValueError(f"{path.name}: a figure is an .svg or a .png")
    try:
        found = json.loads(text or "")
    except json.JSONDecodeError:
        found = None
    if not isinstance(found, dict) or "figure" not in found:
        raise ValueError(f"{path.name} does not say how it was made: plots.save writes that into the file")
    return found


def check(
    path: str | Path,
    *,
    subject: Any = None,
    corpora: Mapping[str, Any] | None = None,
    known: Mapping[str, str] | None = None,
) -> list[Finding]:
    """Can the figure in ``path`` still be made here? A ``Finding`` for each thing that it depends on.

    subject, corpora   what is here, to compare with ({name: Texts})
    known              more of what is here, {fingerprint: what it is}; ``workshop.figures.check`` gives
                       the models and texts of the presets
    """
    made = read(path)
    found = [_data_finding(Path(path), made)]
    known = {**_given(subject, corpora), **(known or {})}
    asked = [("subject", made.get("subject"))]
    asked += [(f"corpus {name}", mark) for name, mark in (made.get("corpora") or {}).items()]
    if "corpus" in made or "corpora" not in made:
        asked.append(("corpus", made.get("corpus")))
    for what, mark in asked:
        if mark is None:
            found.append(Finding(what, "unknown", "the figure does not say which"))
        elif mark in known:
            found.append(Finding(what, "same", f"{mark[:12]}, {known[mark]}"))
        else:
            found.append(Finding(what, "missing", f"{str(mark)[:12]} is nothing that was found here"))
    here = versions()
    for name, version in made.get("versions", {}).items():
        if here.get(name) != version:
            found.append(Finding(name, "differs", f"made with {version}, here is {here.get(name, 'none')}"))
    return found


def _data_finding(path: Path, made: Mapping[str, Any]) -> Finding:
    table = path.with_name(f"{made['figure']}.csv")
    if "data" not in made:
        return Finding("data", "unknown", "the figure does not say which")
    if not table.exists():
        return Finding("data", "missing", f"{table.name} is not beside the figure")
    if hashlib.sha256(table.read_bytes()).hexdigest() != made["data"]:
        return Finding("data", "differs", f"{table.name} was changed after the figure was saved")
    return Finding("data", "same", f"{table.name}, as it was drawn")


def _given(subject: Any, corpora: Mapping[str, Any] | None) -> dict[str, str]:
    known = {corpus.fingerprint: f"the corpus {name!r}" for name, corpus in (corpora or {}).items()}
    return known | ({subject.fingerprint: subject.name} if subject is not None else {})
