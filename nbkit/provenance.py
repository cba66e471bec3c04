"""Where a number came from: versions, machine, seeds, fingerprints, seconds.

Every store, figure and report carries a manifest made here, so that a reader can tell which model,
which texts and which versions are behind it.

    manifest(subject=subject.fingerprint, seed=0)   a plain dict, ready for JSON
    show()                                          the last cell of every notebook
    stopwatch                                       ``with stopwatch() as clock: ...; clock.seconds``
    fingerprint(*parts)                             SHA-256 over strings, numbers and arrays
    cache_root()                                    where stores live: $NBKIT_CACHE, else ./cache

Nothing here names the user, the host or a path: manifests are made to be published.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np

#: The libraries whose version can change a number.
LIBRARIES = (
    "nbkit",
    "torch",
    "transformers",
    "tokenizers",
    "sentence-transformers",
    "numpy",
    "pandas",
    "scipy",
    "scikit-learn",
    "matplotlib",
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
    """Installed version of every library of ``LIBRARIES``; absent ones are left out."""
    found = {}
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


class stopwatch:
    """``with stopwatch() as clock: ...`` leaves the wall-clock time in ``clock.seconds``."""

    seconds: float = float("nan")

    def __enter__(self) -> stopwatch:
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._start
