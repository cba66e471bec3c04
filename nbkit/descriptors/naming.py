"""Names of clusters by a language model: what do these texts share that their neighbours lack?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from nbkit.descriptors.gathering import Gathered
from nbkit.descriptors.merging import encode
from nbkit.descriptors.messages import Generator, Messages, Request
from nbkit.descriptors.proposals import SCHEMA
from nbkit.descriptors.replies import read
from nbkit.descriptors.topics import Topics

TASK = (
    "You get texts of a group, and texts of its neighbours. Say in one to three words what the texts of the"
    " group have in common and their neighbours lack. Answer with a JSON list of one phrase."
)
INSIDE, OUTSIDE = 10, 5  # texts shown of a cluster, and of the nearest other one
LONGEST = 160  # characters shown of a text
#: Worked examples, written for the kit: texts of a group, of its neighbours, the name.
EXAMPLES = (
    (
        ("The zip broke on day two.", "Stopped working within a week.", "The handle came off at once."),
        ("The zip runs smoothly.", "I use it every day."),
        "broken product",
    ),
    (
        (
            "The bridge crosses the river at the old mill.",
            "The river floods in spring.",
            "A ferry runs daily.",
        ),
        ("The hill is 400 metres high.", "The road was built in 1931."),
        "rivers",
    ),
)


def messages(inside: Sequence[str], outside: Sequence[str]) -> Messages:
    """Chat messages that ask for the name of a cluster with the texts ``inside``."""
    asked = [{"role": "system", "content": TASK}]
    for shown, others, name in EXAMPLES:
        asked += [{"role": "user", "content": _shown(shown, others)}]
        asked += [{"role": "assistant", "content": json.dumps([name])}]
    return Request(
        [*asked, {"role": "user", "content": _shown(inside, outside)}], version="naming 1", schema=SCHEMA
    )


def _shown(inside: Sequence[str], outside: Sequence[str]) -> str:
    group, others = (
        "\n".join(f"- {' '.join(t.split())[:LONGEST]}" for t in part) for part in (inside, outside)
    )
    return f"Group:\n{group}\nNeighbours:\n{others}"


def renamed(found: Topics, gathered: Gathered, generator: Generator, encoder: Any = None) -> Topics:
    """``found`` with the names that ``generator`` gives to clusters, where they tell them from the others.

    A name counts where its embedding is nearer to its own cluster's centre than to any other centre of the
    same grain; otherwise the typical words stay the name. ``notes`` count the names and the losses.
    """
    closeness = gathered.vectors @ found.centres.T
    grains = found.frame["grain"].to_numpy()
    requests, others = [], []
    for i, grain in enumerate(grains):
        rivals = np.flatnonzero((grains == grain) & (np.arange(len(grains)) != i))
        others.append(rivals)
        nearest = rivals[np.argmax(found.centres[rivals] @ found.centres[i])] if len(rivals) else i
        parts = ((i, INSIDE), (nearest, OUTSIDE if len(rivals) else 0))
        requests.append(messages(*(_nearest(gathered.passages, closeness[:, j], n) for j, n in parts)))
    replies = generator.complete_all(requests)
    names = [read(reply.text).items[:1] if reply.text is not None else [] for reply in replies]
    told = [i for i, some in enumerate(names) if some]
    frame, kept = found.frame.copy(), 0
    vectors = encode([names[i][0] for i in told], encoder) if told else np.empty((0, closeness.shape[1]))
    for i, vector in zip(told, vectors, strict=True):
        if not len(others[i]) or vector @ found.centres[i] > (found.centres[others[i]] @ vector).max():
            frame.at[i, "words"] = [frame.at[i, "descriptor"], *frame.at[i, "words"]]
            frame.at[i, "descriptor"] = names[i][0]
            kept += 1
    note = (
        f"{generator.name} named {kept} of {len(names)} clusters; {len(told) - kept} of its names fit another"
        f" cluster better, {len(names) - len(told)} replies could not be read: words name these"
    )
    return found._replace(frame=frame, notes=[*found.notes, note])


def _nearest(passages: Sequence[str], closeness: np.ndarray, n: int) -> list[str]:
    """The ``n`` different passages with the largest closeness."""
    order = np.argsort(-closeness, kind="stable")[: 5 * n]
    return list(dict.fromkeys(str(passages[row]) for row in order))[:n]
