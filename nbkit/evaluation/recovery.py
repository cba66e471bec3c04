"""Recovery: how far the descriptors that a generator found cover known ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from nbkit.models import sentence_encoder
from nbkit.stats import Estimate, share


class Recovered(NamedTuple):
    """How far found descriptors cover known ones."""

    table: pd.DataFrame  # descriptor (known), mass, nearest (found), cosine, found
    recall: Estimate  # share of the known descriptors found
    mass: float  # the same, each weighted by its mass
    distinct: float  # share of the found descriptors with no other one as near as the threshold


def recovered(
    found: Iterable[str],
    written: pd.Series | Iterable[str],
    *,
    threshold: float = 0.6,
    encoder: Any = None,
) -> Recovered:
    """Which of the known descriptors have a found one of the same meaning?

    found      descriptors that a generator discovered
    written    known descriptors, or their mass (say, number of texts) by name
    threshold  cosine of sentence embeddings from which two count as the same
    encoder    as for ``descriptors.merge``; default: the sentence encoder of minilm

    Returns a ``Recovered``: table, recall, mass, distinct.

    Nothing found, or nothing known, is a ``ValueError``.
    """
    found = list(dict.fromkeys(found))
    named = isinstance(written, pd.Series)
    mass = pd.Series(written if named else 1.0, index=None if named else list(dict.fromkeys(written)))
    if not found or mass.empty:
        raise ValueError(f"{len(found)} descriptors found and {len(mass)} known: there is nothing to compare")
    encoder = encoder or sentence_encoder()
    a, b = (
        np.asarray(encoder.encode(names, normalize_embeddings=True, show_progress_bar=False))
        for names in (list(mass.index), found)
    )
    cosine, among = a @ b.T, b @ b.T
    np.fill_diagonal(among, -1)
    hit = cosine.max(1) >= threshold
    table = pd.DataFrame(
        {
            "descriptor": mass.index,
            "mass": mass.to_numpy(),
            "nearest": np.array(found, dtype=object)[cosine.argmax(1)],
            "cosine": cosine.max(1),
            "found": hit,
        }
    )
    recall = share(hit)
    weighted = float(mass.to_numpy()[hit].sum() / mass.sum())
    return Recovered(
        table, recall, weighted, float((among.max(1) < threshold).mean()) if len(found) > 1 else 1.0
    )
