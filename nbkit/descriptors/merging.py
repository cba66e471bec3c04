"""Merging near-duplicate proposals into one descriptor each, and edits of the result by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pandas as pd

from nbkit import provenance
from nbkit.descriptors.messages import valid
from nbkit.models import sentence_encoder

#: What edits may hold: a join and a rename map a name to a name, a drop lists names.
EDITS: dict[str, type] = {"join": dict, "drop": list, "rename": dict}

ROUNDS = 50  # of naming and moving, at most; a few are usual


@dataclass(frozen=True)
class Descriptors:
    """Merged descriptors.

    frame     one line each, most frequent first: descriptor, n_texts, members (the proposals that it
              stands for)
    dropped   number of descriptors left out: found in too few texts, or dropped by hand
    worst     lowest cosine between a proposal and the name that stands for it, before edits by hand
    """

    frame: pd.DataFrame
    dropped: int
    worst: float = float("nan")

    @property
    def names(self) -> list[str]:
        return self.frame["descriptor"].tolist()

    def mapping(self) -> dict[str, str]:
        """Proposal -> the descriptor that stands for it."""
        pairs = zip(self.frame["descriptor"], self.frame["members"], strict=True)
        return {member: name for name, members in pairs for member in members}

    def edited(self, edits: Mapping[str, Any]) -> Descriptors:
        """The same after changes by hand: {"join": {one: other}, "drop": [...], "rename": {old: new}}.

        All names are those before the edits. Joins come first, then drops, then renames, whatever their
        order in ``edits``; a chain of joins ends in its last one. ``n_texts`` of a joined descriptor is a
        sum: texts that have both count twice. ``ValueError``: an unknown kind of edit, a name that is no
        descriptor here, joins in a circle, a descriptor both joined and dropped, an empty or doubled name.
        """
        edits = checked_edits(edits, set(self.names))
        if not any(edits.values()):
            return self
        target = _targets(edits["join"])
        if twice := set(edits["join"]) & set(edits["drop"]):
            raise ValueError(f"the edits both join and drop {min(twice)!r}: leave one of the two out")
        frame = self.frame.set_index("descriptor")
        frame["members"] = [list(members) for members in frame["members"]]
        for one, other in target.items():
            frame.at[other, "members"] = [*frame.at[other, "members"], *frame.at[one, "members"]]
            frame.at[other, "n_texts"] += frame.at[one, "n_texts"]
        gone = set(edits["drop"])
        frame = frame.drop(index=[*target, *gone]).rename(index=edits["rename"]).reset_index()
        twice = frame["descriptor"][frame["descriptor"].duplicated()]
        if len(twice):
            raise ValueError(f"the edits make two descriptors {twice.iloc[0]!r}: join them instead")
        return Descriptors(_most_frequent_first(frame), self.dropped + len(gone), self.worst)

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
    """Near-duplicate proposals become one descriptor, named by the member in their middle (the medoid).

    proposals   frame of ``propose``: text_id, descriptor
    threshold   cosine similarity from which two proposals belong together
    min_texts   descriptors found in fewer texts are dropped (and counted)
    min_size    wordings that a community must have; smaller ones are left out. The paper takes 10
    edits       renamed, joined and dropped by hand (``Descriptors.edited``): a dict, or the JSON file that an
                ``Editor`` saves; a file that is not there yet changes nothing
    encoder     anything with ``.encode(list_of_strings)``; default ``models.sentence_encoder()``

    Communities begin as those of ``sentence_transformers.util.community_detection``. The name of each is the
    member nearest to the mean of its members, weighted by the number of texts of each; then every proposal
    goes to the nearest name, and one that has none within ``threshold`` begins a community of its own, until
    nothing moves. So every member is at least ``threshold`` near to its name (``.worst`` is the lowest
    cosine), none is nearer to another name, and no two names are as near as ``threshold``.
    ``ValueError``: no proposals, one that is no string, or nothing left.
    """
    names, texts_of = _wordings(proposals)
    vectors = np.asarray(encode(names, encoder))
    weights = np.array([len(texts_of[name]) for name in names], float)
    medoids, owner = communities(vectors, weights, threshold)
    lines, worst = [], 1.0
    for medoid in medoids:
        group = np.flatnonzero(owner == medoid)  # most frequent first
        if len(group) >= min_size:
            members = [names[i] for i in group]
            lines.append((names[medoid], len(set().union(*(texts_of[m] for m in members))), members))
            worst = min(worst, *(vectors[group] @ vectors[medoid]).tolist(), 1.0)
    if not lines:
        raise ValueError(f"no community has {min_size} wordings: lower min_size or the threshold")
    frame = _most_frequent_first(pd.DataFrame(lines, columns=["descriptor", "n_texts", "members"]))
    kept = frame["n_texts"] >= min_texts
    if not kept.any():
        most = frame["n_texts"].max()
        raise ValueError(f"no descriptor is in {min_texts} texts (the most is {most}): lower min_texts")
    merged = Descriptors(frame[kept].reset_index(drop=True), int((~kept).sum()), worst)
    if edits is None:
        return merged
    return merged.edited(edits if isinstance(edits, Mapping) else read_edits(Path(edits)))


def _wordings(proposals: pd.DataFrame) -> tuple[list[str], pd.Series]:
    """The different proposals, most frequent first, and the texts of each. ``ValueError``: see ``merge``."""
    if proposals.empty:
        lost = proposals.attrs.get("dropped", "see .attrs['dropped']")
        raise ValueError(f"there are no proposals to merge: every reply was lost ({lost})")
    odd = [name for name in proposals["descriptor"] if not isinstance(name, str) or not name.strip()]
    if odd:
        raise ValueError(f"{odd[0]!r} among the proposals is no descriptor: give strings that are not empty")
    texts_of = proposals.groupby("descriptor")["text_id"].agg(set)
    return sorted(texts_of.index, key=lambda name: (-len(texts_of[name]), name)), texts_of


def communities(vectors: np.ndarray, weights: np.ndarray, threshold: float) -> tuple[list[int], np.ndarray]:
    """Rows that are names, and the name's row of each of the unit ``vectors`` [row, width].

    ``weights`` [row] descend: an earlier row is the more frequent wording.
    """
    from sentence_transformers.util import community_detection

    found = community_detection(vectors, threshold=threshold, min_community_size=1)
    centres = [community[0] for community in found] or [0]  # none: above 1 a row is not even near itself
    names = _apart(centres, vectors, weights, threshold)
    for _ in range(ROUNDS):
        owner = _nearest(names, vectors)
        medoids = [_medoid(np.flatnonzero(owner == name), vectors, weights) for name in names]
        moved = _apart(medoids, vectors, weights, threshold)
        if sorted(moved) == sorted(names):
            break
        names = moved
    return names, _nearest(names, vectors)


def _apart(names: list[int], vectors: np.ndarray, weights: np.ndarray, threshold: float) -> list[int]:
    """``names`` without those near to a heavier one, and with rows that are near to none, heaviest first."""
    of_row = np.bincount(_nearest(names, vectors), weights, len(vectors))
    of_group = {name: of_row[name] for name in names}
    free, kept = np.ones(len(vectors), bool), []
    rest = np.argsort(-weights, kind="stable").tolist()
    for row in (*sorted(names, key=lambda name: (-of_group[name], name)), *rest):
        if free[row]:
            kept.append(row)
            free &= vectors @ vectors[row] < threshold
            free[row] = False  # a unit vector's product with itself may round below a threshold near 1
    return kept


def _nearest(names: list[int], vectors: np.ndarray) -> np.ndarray:
    """For each row the name (a row) that is nearest; a name is its own."""
    names = sorted(names)  # of equally near ones the most frequent
    owner = np.empty(len(vectors), int)
    for start in range(0, len(vectors), 4096):  # flat memory
        cosine = vectors[start : start + 4096] @ vectors[names].T
        owner[start : start + 4096] = np.array(names)[cosine.argmax(1)]
    owner[names] = names
    return owner


def _medoid(group: np.ndarray, vectors: np.ndarray, weights: np.ndarray) -> int:
    """The row of ``group`` nearest to the weighted mean of all of it."""
    centre = weights[group] @ vectors[group]
    return int(group[np.argmax(np.round(vectors[group] @ centre, 6))])


def _most_frequent_first(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sort_values(["n_texts", "descriptor"], ascending=[False, True], ignore_index=True)


def encode(strings: list[str], encoder: Any) -> np.ndarray:
    """Unit vectors [string, width] of ``encoder``, by default of ``models.sentence_encoder()``."""
    model = encoder or sentence_encoder()
    return np.asarray(model.encode(strings, normalize_embeddings=True, show_progress_bar=False))


def encoder_name(encoder: Any) -> str:
    """What the encoder is called: "minilm" for the default, else its own name or its type's."""
    return "minilm" if encoder is None else str(getattr(encoder, "name", type(encoder).__qualname__))


# ------------------------------------------------------------------------------------------- by hand


def checked_edits(edits: Mapping[str, Any], known: set[str]) -> dict[str, Any]:
    """``edits`` with all three kinds, every name of them in ``known``; anything else is a ``ValueError``."""
    if not isinstance(edits, Mapping):
        raise ValueError(f"the edits are {edits!r}: they must be a dict of {', '.join(EDITS)}")
    for kind, value in edits.items():
        if kind not in EDITS:
            raise ValueError(f"unknown edit {kind!r}: there are {', '.join(EDITS)}")
        if not isinstance(value, EDITS[kind]):
            raise ValueError(f"the edits' {kind!r} is {value!r}: it must be a {EDITS[kind].__name__}")
    found = {kind: edits.get(kind, empty()) for kind, empty in EDITS.items()}
    for name in (*found["join"], *found["join"].values(), *found["drop"], *found["rename"]):
        if not isinstance(name, str) or name not in known:
            raise ValueError(f"the edits name {name!r}, which is no descriptor here: was the corpus changed?")
    for old, new in found["rename"].items():
        if not isinstance(new, str) or not new.strip():
            raise ValueError(f"the edits rename {old!r} to {new!r}: a name must not be empty")
    found["rename"] = {old: " ".join(valid(new).split()) for old, new in found["rename"].items()}
    return found


def _targets(join: Mapping[str, str]) -> dict[str, str]:
    """Where each joined descriptor ends up, through chains of joins. A circle is a ``ValueError``."""
    found = {}
    for one in join:
        path = [one]
        while path[-1] in join:
            path.append(join[path[-1]])
            if path[-1] in path[:-1]:
                raise ValueError(f"the edits join in a circle: {' -> '.join(path)}")
        found[one] = path[-1]
    return found


def read_edits(path: Path) -> dict[str, Any]:
    """The edits in a file, none where it is not there. What is no JSON object is a ``ValueError``."""
    try:
        edits = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as edits ({error}): mend it, or move it away") from None
    if not isinstance(edits, dict):
        raise ValueError(f'{path} holds no edits: {{"join": {{...}}, "drop": [...], "rename": {{...}}}}')
    return edits


class Editor:
    """Edits of merged descriptors by hand; every change is saved in a JSON file at once.

    merged   descriptors as ``merge`` returned them, before any edits
    path     the file, which ``merge(..., edits=path)`` reads in later runs

    ``result`` are the descriptors after the edits, ``edits`` what the file holds. Names in calls are those of
    ``result``. The file is read again before it is saved, so that the changes of two editors add up; a
    change that is not possible is a ``ValueError``, and nothing is saved.
    """

    def __init__(self, merged: Descriptors, path: str | Path) -> None:
        self.merged, self.path = merged, Path(path)
        self._take(read_edits(self.path))

    def rename(self, old: str, new: str) -> None:
        """Give the descriptor ``old`` another name."""
        new = " ".join((new or "").split())
        if not new:
            raise ValueError(f"the new name of {old!r} is empty: type one")
        with self._changing(old) as (edits, name):
            if edits["rename"].get(name) != self.edits["rename"].get(name):
                raise ValueError(f"{old!r} was renamed to {edits['rename'].get(name, name)!r} meanwhile")
            edits["rename"][name] = new

    def join(self, one: str, other: str) -> None:
        """``one`` becomes part of ``other``."""
        with self._changing(one, other) as (edits, name, target):
            edits["join"][name] = target
            edits["rename"].pop(name, None)

    def drop(self, name: str) -> None:
        """Leave a descriptor out, with all that was joined to it."""
        with self._changing(name) as (edits, original):
            edits["drop"].append(original)
            edits["rename"].pop(original, None)

    def undo(self) -> None:
        """Take all edits back: the file then holds none."""
        with self._lock():
            self._save({kind: empty() for kind, empty in EDITS.items()})

    @contextmanager
    def _changing(self, *names: str) -> Iterator[tuple[Any, ...]]:
        """The file's edits as they are now, and the unedited ``names``; saved at the end if possible."""
        for name in names:
            if name not in self._originals:
                raise ValueError(f"{name!r} is no descriptor here: choose one of the list")
        if len(set(names)) < len(names):
            raise ValueError(f"{names[0]!r} cannot be joined to itself: choose two descriptors")
        before = [self._originals[name] for name in names]
        with self._lock():
            edits = checked_edits(read_edits(self.path), set(self.merged.names))
            edits = {kind: empty(edits[kind]) for kind, empty in EDITS.items()}
            now = self.merged.edited(edits)
            try:
                for name, original in zip(names, before, strict=True):
                    if original not in {*_originals(self.merged, edits).values()}:
                        raise ValueError(f"{name!r} was joined or dropped meanwhile, in {self.path.name}")
                yield edits, *before
                self.merged.edited(edits)  # raises before anything is saved
            except ValueError:
                self._show(read_edits(self.path), now)
                raise
            self._save(edits)

    def _take(self, edits: Mapping[str, Any]) -> None:
        self._show(edits, self.merged.edited(edits))

    def _show(self, edits: Mapping[str, Any], result: Descriptors) -> None:
        self.edits = {kind: empty(edits.get(kind, empty())) for kind, empty in EDITS.items()}
        self.result, self._originals = result, _originals(self.merged, self.edits)

    def _save(self, edits: dict[str, Any]) -> None:
        with provenance.atomic(self.path) as part:
            part.write_text(json.dumps(edits, indent=1, ensure_ascii=False), encoding="utf-8")
        self._take(edits)

    def _lock(self) -> filelock.BaseFileLock:
        return filelock.FileLock(self.path.with_name(f".{self.path.name}.lock"), timeout=30)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.result)} descriptors, {self.path.name})"


def _originals(merged: Descriptors, edits: Mapping[str, Any]) -> dict[str, str]:
    """Name after the edits -> name before, for every descriptor that is left."""
    gone = {*edits["join"], *edits["drop"]}
    return {edits["rename"].get(name, name): name for name in merged.names if name not in gone}
