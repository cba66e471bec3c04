"""Data that a page asks for when it needs them, as scripts: a page opened from disk may not fetch files.

with whole_folder("site/data") as scripts:      scripts of one folder: there whole, or not at all
    scripts.write("units-0", [["a", 1], ...])
scripts.name                                    the folder's: a hash of all that is in it
packed(scores)                                  numbers as base64 of int16, and their step
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nbkit import provenance

MISSING = np.iinfo(np.int16).min  # a number that is not there


class Scripts:
    """Scripts that hand a value to the page; ``name`` is a hash of all."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.digest = folder, hashlib.sha256()

    def write(self, name: str, value: Any) -> None:
        """``value`` holds lists, numbers and texts. Half a surrogate pair, which no file can hold, is "?"."""
        inside = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        content = f'nbkit.take("{name}",{inside});\n'.encode("utf-8", "replace")
        self.digest.update(content)
        (self.folder / f"{name}.js").write_bytes(content)

    @property
    def name(self) -> str:
        return self.digest.hexdigest()[:16]


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Scripts]:
    """Files to write, which are in ``folder`` under their hash once all are there. An error leaves none."""
    part = folder / f".{os.getpid()}.part"
    shutil.rmtree(part, ignore_errors=True)  # of a killed process of the same number
    part.mkdir(parents=True)
    files = Scripts(part)
    try:
        yield files
        if not (folder / files.name).exists():
            provenance.replace(part, folder / files.name)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def packed(values: np.ndarray, step: float | None = None) -> list:
    """[step, numbers as base64 of int16]; without ``step`` one that the largest fits; -inf is ``MISSING``."""
    known = np.isfinite(values)
    if step is None:
        step = float(np.abs(values[known]).max(initial=0)) / np.iinfo(np.int16).max or 1.0
    whole = np.where(known, np.rint(np.where(known, values, 0) / step), MISSING).astype("<i2")
    return [step, base64.b64encode(whole.tobytes()).decode()]
