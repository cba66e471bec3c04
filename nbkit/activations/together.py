"""Several stores of one corpus from one forward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nbkit import provenance
from nbkit.activations.forward import (
    batches_of,
    check_finite,
    inputs_of,
    pool_tokens,
    progress_bar,
    rows_of,
    run_batch,
    token_budget,
)
from nbkit.activations.plan import Work, identity_of, work_of
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
                values = _in_one_pass(subject, texts, list(alike.values()), progress)
                for (folder, work), ready in zip(alike.items(), values, strict=True):
                    filled(folder, subject, texts, work.identity, progress=progress, ready=ready)
    options = {"cache": root, "progress": progress}
    return {name: capture(subject, texts, **arguments, **options) for name, arguments in asked.items()}


def _in_one_pass(subject: Subject, texts: Texts, works: Sequence[Work], progress: bool) -> list[torch.Tensor]:
    """Values [row, unit] of each work, whose plans have the same tokens."""
    plan, found = works[0].plan, []
    for work in works:
        dtype = getattr(torch, work.identity["dtype"])
        found.append(torch.empty(len(work.plan.rows), len(work.units), dtype=dtype, device=subject.device))
    with progress_bar(subject, texts, progress) as bar:
        for batch in batches_of(plan, works[0].blocks[0], token_budget(subject)):
            for work, values, part in zip(works, found, _pooled(subject, works, batch), strict=True):
                rows = torch.from_numpy(rows_of(work.plan, batch).astype(np.int64)).to(values.device)
                values[rows] = part.to(values.dtype)
            bar.update(len(batch))
    for work, values in zip(works, found, strict=True):
        check_finite(values, work, 0)
    return found


@torch.inference_mode()
def _pooled(subject: Subject, works: Sequence[Work], batch: list[int]) -> list[torch.Tensor]:
    """``run_batch`` of every work, in one pass; each by itself where the memory does not suffice."""
    plan = works[0].plan
    sites = list(dict.fromkeys(site for work in works for site in work.identity["sites"]))
    members = [[work.plan.members(t) for t in batch] for work in works]

    def pool(values: torch.Tensor) -> list[torch.Tensor]:
        pools = [work.identity["pool"] for work in works]
        return [
            pool_tokens(values, own, how, plan.n_pieces[batch])
            for own, how in zip(members, pools, strict=True)
        ]

    try:
        seen = subject.run(inputs_of(subject, plan, batch), sites, keep=pool)
    except torch.OutOfMemoryError:
        return [run_batch(subject, work, batch) for work in works]
    return [
        torch.cat([seen[site][i].to(subject.device) for site in work.identity["sites"]], dim=1)
        for i, work in enumerate(works)
    ]
