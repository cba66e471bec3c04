"""Several stores of one corpus from one forward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nbkit import provenance
from nbkit.activations.forward import progress_bar, values_of
from nbkit.activations.plan import identity_of, work_of
from nbkit.activations.store import Activations, capture, filled, folder_of, locked
from nbkit.models import Subject
from nbkit.texts import Texts


def capture_each(
    subject: Subject,
    texts: Texts,
    asked: Mapping[str, Mapping[str, Any]],
    *,
    cache: str | Path | None = None,
    progress: bool = True,
) -> dict[str, Activations]:
    """The stores of ``capture(subject, texts, **asked[name])`` by name, the absent ones from one pass.

    They are the stores that ``capture`` makes, to float rounding, and it finds them. A pass is shared by
    stores that are one block each (128 MB) and cut texts alike (``long``); others are made one after another.
    """
    root = provenance.cache_root() if cache is None else Path(cache)
    wanted = {}
    for arguments in asked.values():
        identity = identity_of(subject, texts, **{"sites": "ffn", "dtype": "float16", **arguments})
        wanted[folder_of(root, identity)] = identity
    with contextlib.ExitStack() as stack:
        for folder in sorted(wanted):  # in order: two processes do not wait for each other
            stack.enter_context(locked(folder))
        absent = {folder: one for folder, one in wanted.items() if not (folder / "manifest.json").exists()}
        works = {folder: work_of(subject, texts, identity) for folder, identity in absent.items()}
        whole = {folder: work for folder, work in works.items() if len(work.blocks) == 1}
        for long in ("truncate", "windows"):
            alike = {folder: work for folder, work in whole.items() if work.identity["long"] == long}
            if len(alike) > 1:
                with progress_bar(subject, texts, progress) as bar:
                    values = values_of(subject, list(alike.values()), (0, len(texts)), bar)
                for (folder, work), ready in zip(alike.items(), values, strict=True):
                    filled(folder, subject, texts, work.identity, progress=progress, ready=ready)
    options = {"cache": root, "progress": progress}
    return {name: capture(subject, texts, **arguments, **options) for name, arguments in asked.items()}
