"""Merging."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nbkit.models import sentence_encoder


@dataclass(frozen=True)
class Descriptors:
    """Merged descriptors.

    ``frame`` has one line each, most frequent first: descriptor, n_texts, members (the proposals that
    it stands for). ``dropped`` counts proposals in groups seen in too few texts.
    """

    frame: pd.DataFrame
    dropped: int

    @property
    def names(self) -> list[str]:
        return self.frame["descriptor"].tolist()

    def mapping(self) -> dict[str, str]:
        """Proposal -> the descriptor that stands for it."""
        pairs = zip(self.frame["descriptor"], self.frame["members"], strict=True)
        return {member: name for name, members in pairs for member in members}

    def edited(self, edits: Mapping[str, Any]) -> Descriptors:
        """The same after changes by hand: {"join": {one: other}, "drop": [...], "rename": {old: new}}.

        They are made in this order; a name that is not among the descriptors is a ``ValueError``. A joined
        one counts in ``n_texts`` as if no text had both.
        """
        frame = self.frame.copy()
        known = set(frame["descriptor"])
        named = [*edits.get("join", {}), *edits.get("join", {}).values(), *edits.get("drop", [])]
        for name in [*named, *edits.get("rename", {})]:
            if name not in known:
                raise ValueError(
                    f"the edits name {name!r}, which is no descriptor here: was the corpus changed?"
                )
        for one, other in edits.get("join", {}).items():
            away, to = (frame.index[frame["descriptor"] == name][0] for name in (one, other))
            frame.at[to, "members"] = [*frame.at[to, "members"], *frame.at[away, "members"]]
            frame.at[to, "n_texts"] += frame.at[away, "n_texts"]
            frame = frame.drop(index=away)
        gone = frame["descriptor"].isin(edits.get("drop", []))
        frame = frame[~gone].replace({"descriptor": dict(edits.get("rename", {}))})
        twice = frame["descriptor"][frame["descriptor"].duplicated()]
        if len(twice):
            raise ValueError(f"the edits make two descriptors {twice.iloc[0]!r}: join them instead")
        order = frame.sort_values(["n_texts", "descriptor"], ascending=[False, True], ignore_index=True)
        return Descriptors(order, self.dropped + int(gone.sum()))

    def __len__(self) -> int:
        return len(self.frame)


def merge(
    proposals: pd.DataFrame,
    *,
    threshold: float = 0.75,
    min_texts: int = 10,
    min_size: int = 1,
    edits: str | Path | Mapping[str, Any] | None = None,
    encoder: Any = None,
) -> Descriptors:
    """Near-duplicate proposals become one descriptor, named by its most frequent member.

    threshold   cosine similarity from which two proposals belong together
    min_texts   descriptors found in fewer texts are dropped (and counted)
    min_size    wordings that a community must have. The paper's is 10; ours is 1, since a minimum number of
                texts counts what matters
    edits       renamed, joined and dropped by hand (``Descriptors.edited``): a dict, or the JSON file that
                ``widgets.descriptor_editor`` saves; a file that is not there yet changes nothing
    encoder     anything with ``.encode(list_of_strings)``; default ``models.sentence_encoder()``

    Communities are those of ``sentence_transformers.util.community_detection``, found again among their
    representatives until none are nearer than ``threshold``.
    """
    if proposals.empty:
        raise ValueError("there are no proposals to merge: every reply was lost, see .attrs['dropped']")
    from sentence_transformers.util import community_detection

    texts_of = proposals.groupby("descriptor")["text_id"].agg(set)
    names = sorted(texts_of.index, key=lambda name: (-len(texts_of[name]), name))
    embeddings = np.asarray(encode(names, encoder))
    groups = [[i] for i in range(len(names))]
    while True:  # until no two representatives are as near as the threshold (ours: one round leaves doubles)
        first = embeddings[[group[0] for group in groups]]
        found = community_detection(first, threshold=threshold, min_community_size=1)
        if len(found) == len(groups):
            break
        groups = [sorted(i for g in community for i in groups[g]) for community in found]
    groups = [group for group in groups if len(group) >= min_size]
    lines = []
    for group in groups:
        members = [names[i] for i in sorted(group)]  # most frequent first
        n_texts = len(set().union(*(texts_of[member] for member in members)))
        lines.append((members[0], n_texts, members))
    if not lines:
        raise ValueError(f"no community has {min_size} wordings: lower min_size or the threshold")
    frame = pd.DataFrame(lines, columns=["descriptor", "n_texts", "members"])
    frame = frame.sort_values(["n_texts", "descriptor"], ascending=[False, True], ignore_index=True)
    kept = frame["n_texts"] >= min_texts
    if not kept.any():
        most = frame["n_texts"].max()
        raise ValueError(f"no descriptor is in {min_texts} texts (the most is {most}): lower min_texts")
    merged = Descriptors(frame[kept].reset_index(drop=True), int((~kept).sum()))
    if edits is None or (isinstance(edits, (str, Path)) and not Path(edits).exists()):
        return merged
    return merged.edited(edits if isinstance(edits, Mapping) else json.loads(Path(edits).read_text()))


def encode(strings: list[str], encoder: Any) -> np.ndarray:
    model = encoder or sentence_encoder()
    return np.asarray(model.encode(strings, normalize_embeddings=True, show_progress_bar=False))
