"""Discovery in one call: candidates, merged by meaning and by labels, on every text, counted."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from nbkit import provenance
from nbkit.descriptors.calibration import FOLDS, calibrated
from nbkit.descriptors.gathering import Gathered, gather, named_corpora
from nbkit.descriptors.ledger import accounted
from nbkit.descriptors.merging import Descriptors, communities, encode, encoder_name, merge, read_edits
from nbkit.descriptors.messages import Generator, identity_of
from nbkit.descriptors.naming import renamed
from nbkit.descriptors.proposals import propose
from nbkit.descriptors.topics import GRAINS, topics_of
from nbkit.texts import Texts

log = logging.getLogger(__name__)

PAID = ("ledger", "prices", "max_money")
NEAREST = 3  # proposed names that a passage belongs to, before its labels are calibrated
NEAR = 0.15  # how much nearer to a name than the mean of all passages one must be to belong to it
ALIKE = 0.9  # correlation of labels from which two descriptors are one
VERSION = 1  # of what is saved


class Discovery(NamedTuple):
    """What ``discover`` found.

    table        one line per descriptor and corpus, most frequent descriptor first: descriptor, origin
                 ("topics", or the generators that proposed it), corpus, n_texts (expected number: the sum of
                 the probabilities), share (their mean), typical (the three texts with the largest)
    labels       {corpus: [text, descriptor]}, P(descriptor | text)
    descriptors  the same descriptors before edits by hand, as ``plots.descriptor_editor`` takes them
    dropped      how many candidates were merged or left out, by reason
    notes        what was cut, sampled, assumed or left out, in sentences
    """

    table: pd.DataFrame
    labels: dict[str, pd.DataFrame]
    descriptors: Descriptors
    dropped: dict[str, int]
    notes: list[str]


class _Candidates(NamedTuple):
    """Columns of the arrays [text, candidate] are lines of ``frame``."""

    frame: pd.DataFrame  # descriptor, origin, members
    closeness: np.ndarray
    belongs: np.ndarray  # bool: what closeness is calibrated on


def discover(
    corpora: Texts | Mapping[str, Texts],
    generators: str | Generator | Sequence[str | Generator] = "topics",
    *,
    namer: str | Generator | None = None,
    folder: str | Path | None = None,
    n: int = 300,
    grains: Sequence[int] = GRAINS,
    threshold: float = 0.75,
    shares: tuple[float, float] = (0.01, 0.6),
    limit: int = 10_000,
    encoder: Any = None,
    seed: int = 0,
    **asking: Any,
) -> Discovery:
    """Descriptors of all corpora together, with a probability for every text that was read.

    generators  "topics" (clusters, no language model), and what ``connect`` takes; several give the union
    namer       a generator that names the clusters (about two hundred requests); None: their typical words
    folder      where the result is kept. A second call with the same arguments loads it and applies the
                edits in ``edits.json`` there, which an ``Editor`` saves (labels of joined descriptors: the
                larger); without it nothing is kept
    n           texts of a corpus about which the generators other than "topics" are asked
    grains      of ``topics``
    threshold   cosine from which two names mean the same
    shares      a descriptor is left out where no corpus has this share of it (and five texts), or all
                corpora together have more than the second
    limit       texts read of each corpus (empty, long and repeated ones: ``gather``)
    encoder     of sentences, by default minilm's; say so where the subject is the same model
    asking      prompt, ledger, prices and max_money of ``propose``

    A passage belongs to the topics whose centre is nearest (one for each grain), and to the three nearest
    names of those proposed (cosine less its mean over passages, .15 at least), and to those proposed for its
    own text. P(descriptor | text) is from the cosine to the centre or name, calibrated on that
    (``calibrated``). Of two descriptors whose labels correlate over .9 the one with surer labels (the mean
    probability of what belongs to it) stands for both. ``ValueError``: nothing is left.
    """
    named = named_corpora(corpora)
    several = isinstance(generators, Sequence) and not isinstance(generators, str)
    wanted: list[str | Generator] = [*generators] if several else [generators]  # pyright: ignore
    settings = {"n": n, "grains": list(grains), "threshold": threshold, "shares": list(shares)}
    settings |= {"limit": limit, "encoder": encoder_name(encoder), "seed": seed}
    key = _key(named, [*wanted, *([] if namer is None else ["named by", namer])], settings, asking)
    found = None if folder is None else _load(Path(folder), key)
    if found is None:
        gathered = gather(named, limit=limit, seed=seed, encoder=encoder)
        parts, notes = [], list(gathered.notes)
        proposers = [generator for generator in wanted if generator != "topics"]
        if len(proposers) < len(wanted):
            named_by = None if namer is None else accounted(namer, *(asking.get(a) for a in PAID))
            parts.append(_from_topics(gathered, grains, seed, encoder, named_by, notes))
        if proposers:
            proposals = _proposals(named, gathered, proposers, n=n, seed=seed, **asking)
            parts.append(_from_proposals(gathered, proposals, threshold, shares[0], encoder))
        found = _labelled(gathered, _joined(parts), threshold, shares, encoder, seed)
        found = found._replace(notes=notes)
        if folder is not None:
            _save(Path(folder), key, found)
    edits = {} if folder is None else read_edits(Path(folder) / "edits.json")
    return _edited(found, edits, named)


# ---------------------------------------------------------------------------------------- candidates


def _from_topics(
    gathered: Gathered,
    grains: Sequence[int],
    seed: int,
    encoder: Any,
    namer: Generator | None,
    notes: list[str],
) -> _Candidates:
    found = topics_of(gathered, grains=grains, seed=seed, encoder=encoder)
    if namer is not None:
        found = renamed(found, gathered, namer, encoder)
    notes += [note for note in found.notes if note not in notes]
    frame = found.frame[["descriptor"]].assign(origin="topics", members=found.frame["words"])
    closeness = gathered.of_texts(gathered.vectors @ found.centres.T)
    return _Candidates(frame, closeness, found.members)


def _proposals(
    corpora: dict[str, Texts], gathered: Gathered, generators: list, *, n: int, seed: int, **asking: Any
) -> pd.DataFrame:
    """What the generators say of ``n`` texts of each corpus; text_id is the row in ``gathered.texts``."""
    frames = []
    row_of = pd.Series(np.arange(len(gathered.texts)), gathered.texts.set_index(["corpus", "text_id"]).index)
    for name, corpus in corpora.items():
        read = gathered.texts.loc[gathered.texts["corpus"] == name, "text_id"]
        if read.empty:
            continue
        part = corpus.where(text_id=read.tolist())
        frame = propose(part, generators, n=min(n, len(part)), seed=seed, **asking)
        rows = row_of.loc[[(name, text_id) for text_id in frame["text_id"]]].to_numpy()
        frames.append(pd.DataFrame(frame).assign(text_id=rows))
    for frame in frames:
        frame.attrs = {}
    return pd.concat(frames, ignore_index=True)


def _from_proposals(
    gathered: Gathered, proposals: pd.DataFrame, threshold: float, rare: float, encoder: Any
) -> _Candidates:
    """Proposed names that enough passages are near to."""
    merged = merge(proposals, threshold=threshold, min_texts=1, encoder=encoder)
    cosine = gathered.vectors @ encode(merged.names, encoder).T
    cosine -= cosine.mean(0)
    kept = np.arange(len(merged))
    for part in (0.25, 0.5, 1.0):  # the few that are left take over what the others had
        counts = _nearest(cosine[:, kept]).sum(0)
        enough = counts >= part * rare * len(cosine)
        kept = kept[enough] if enough.any() else kept[np.argsort(-counts)[:NEAREST]]
    belongs = gathered.of_texts(_nearest(cosine[:, kept]))
    frame = merged.frame.iloc[kept].reset_index(drop=True)
    column = {name: i for i, name in enumerate(frame["descriptor"])}
    proposed = proposals.assign(column=proposals["descriptor"].map(merged.mapping()).map(column)).dropna()
    belongs[proposed["text_id"].to_numpy(int), proposed["column"].to_numpy(int)] = True
    origins = proposed.groupby("column")["generator"].agg(lambda g: ", ".join(sorted(set(g))))
    frame["origin"] = origins.reindex(range(len(frame))).fillna("").to_numpy()
    return _Candidates(
        frame[["descriptor", "origin", "members"]], gathered.of_texts(cosine[:, kept]), belongs
    )


def _nearest(closeness: np.ndarray) -> np.ndarray:
    """Which names [passage, name] are among the three nearest of a passage, and near to it at all."""
    rank = np.argpartition(-closeness, min(NEAREST, closeness.shape[1]) - 1, axis=1)[:, :NEAREST]
    nearest = np.zeros(closeness.shape, bool)
    np.put_along_axis(nearest, rank, True, axis=1)
    return nearest & (closeness >= NEAR)


def _joined(parts: list[_Candidates]) -> _Candidates:
    frames, *arrays = zip(*parts, strict=True)
    return _Candidates(pd.concat(frames, ignore_index=True), *(np.hstack(array) for array in arrays))


# -------------------------------------------------------------------------------------------- labels


def _labelled(
    gathered: Gathered,
    candidates: _Candidates,
    threshold: float,
    shares: tuple[float, float],
    encoder: Any,
    seed: int,
) -> Discovery:
    """Candidates merged, labelled, counted and sifted."""
    dropped = {"candidates": len(candidates.frame)}
    candidates = _merged_by_meaning(candidates, threshold, encoder)
    dropped["same meaning"] = dropped["candidates"] - len(candidates.frame)
    names, positive = candidates.frame["descriptor"], candidates.belongs.sum(0)
    few = np.minimum(positive, len(candidates.belongs) - positive) < FOLDS
    dropped["too few texts to label"] = int(few.sum())
    if few.all():
        raise ValueError(
            f"{len(candidates.belongs)} texts are too few: no descriptor is in {FOLDS} of them. Give more"
        )
    known = pd.DataFrame(candidates.belongs.astype(float), columns=names).loc[:, ~few]
    closeness = pd.DataFrame(candidates.closeness, columns=names).loc[:, ~few]
    labels = calibrated(closeness, known, seed=seed)
    frame = candidates.frame.set_index("descriptor").loc[list(labels)]
    sure = (labels * known[list(labels)]).sum() / known[list(labels)].sum()
    frame, labels = _merged_by_labels(frame, labels.iloc[:, np.argsort(-sure.to_numpy(), kind="stable")])
    dropped["same labels"] = int((~few).sum()) - len(frame)
    corpus = gathered.texts["corpus"]
    sums = labels.groupby(corpus.to_numpy()).sum()
    sizes = corpus.value_counts().reindex(sums.index)
    usable = (sums.div(sizes, axis=0) >= shares[0]) & (sums >= FOLDS)
    rare, common = ~usable.any(), labels.mean() > shares[1]
    dropped |= {f"in under {shares[0]:.0%} of each corpus": int(rare.sum())}
    dropped |= {f"in over {shares[1]:.0%} of all texts": int(common.sum())}
    kept = labels.columns[~(rare | common)]
    if kept.empty:
        raise ValueError(f"no descriptor is left of {dropped}: give more texts, or other shares=")
    kept = kept[np.argsort(-labels[kept].sum().to_numpy(), kind="stable")]
    merged = frame.loc[kept].assign(n_texts=labels[kept].sum().round().astype(int)).reset_index()
    merged = Descriptors(
        merged[["descriptor", "n_texts", "members", "origin"]], dropped["candidates"] - len(kept)
    )
    return Discovery(pd.DataFrame(), _by_corpus(labels[kept], gathered.texts), merged, dropped, [])


def _merged_by_meaning(candidates: _Candidates, threshold: float, encoder: Any) -> _Candidates:
    """Candidates with near names are one: the middle one, to which belongs what belonged to any."""
    order = np.argsort(-candidates.belongs.sum(0), kind="stable")
    frame = candidates.frame.iloc[order].reset_index(drop=True)
    closeness, belongs = candidates.closeness[:, order], candidates.belongs[:, order]
    vectors = encode(frame["descriptor"].tolist(), encoder)
    names, owner = communities(vectors, belongs.sum(0).astype(float), threshold)
    lines, groups = [], [np.flatnonzero(owner == name) for name in names]
    for name, group in zip(names, groups, strict=True):
        others = [frame["descriptor"][i] for i in group if i != name]
        members = [m for i in (name, *group) for m in frame["members"][i]]
        origins = sorted({origin for i in group for origin in frame["origin"][i].split(", ")})
        line = (frame["descriptor"][name], ", ".join(origins), list(dict.fromkeys([*others, *members])))
        lines.append(line)
    merged = pd.DataFrame(lines, columns=["descriptor", "origin", "members"])
    together = np.stack([belongs[:, group].any(1) for group in groups], axis=1)
    return _Candidates(merged, closeness[:, names], together)


def _merged_by_labels(frame: pd.DataFrame, labels: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Of descriptors whose labels correlate over .9 the first in ``labels`` stands for the others."""
    order = np.arange(labels.shape[1])
    alike = np.atleast_2d(np.corrcoef(labels.to_numpy().T)) > ALIKE
    owner = np.full(len(order), -1)
    for i in order:
        if owner[i] < 0:
            owner[np.flatnonzero(alike[i] & (owner < 0))] = i
            owner[i] = i
    kept = np.flatnonzero(owner == order)
    frame = frame.loc[list(labels)].copy()
    for i in np.flatnonzero(owner != order):
        into, name = labels.columns[owner[i]], labels.columns[i]
        members = [*frame.at[into, "members"], name, *frame.at[name, "members"]]
        frame.at[into, "members"] = list(dict.fromkeys(members))
        origins = {*frame.at[into, "origin"].split(", "), *frame.at[name, "origin"].split(", ")}
        frame.at[into, "origin"] = ", ".join(sorted(origins))
    return frame.iloc[kept], labels.iloc[:, kept]


def _by_corpus(labels: pd.DataFrame, texts: pd.DataFrame) -> dict[str, pd.DataFrame]:
    parts = {}
    for name, rows in texts.groupby("corpus", sort=False).groups.items():
        index = pd.Index(texts.loc[rows, "text_id"], name="text_id")
        parts[name] = labels.loc[rows].set_axis(index).rename_axis(columns=None)
    return parts


# ------------------------------------------------------------------------------------- edits and state


def _edited(found: Discovery, edits: Mapping[str, Any], corpora: dict[str, Texts]) -> Discovery:
    """After edits by hand, with the table. Edits of descriptors that are no longer found are counted."""
    known, notes = set(found.descriptors.names), list(found.notes)
    join = {one: other for one, other in edits.get("join", {}).items() if {one, other} <= known}
    drop = [name for name in edits.get("drop", []) if name in known]
    rename = {old: new for old, new in edits.get("rename", {}).items() if old in known}
    lost = sum(map(len, edits.values())) - len(join) - len(drop) - len(rename)
    if lost:
        notes.append(f"{lost} edits by hand name descriptors that are not found any more: they do nothing")
    after = found.descriptors.edited({"join": join, "drop": drop, "rename": rename})
    labels = {}
    for name, frame in found.labels.items():
        old = {new: old for old, new in rename.items()}
        columns = {}
        for line in after.frame.itertuples():
            first = old.get(line.descriptor, line.descriptor)
            joined = [one for one in frame if _end(join, one) == first]
            columns[line.descriptor] = frame[joined].max(axis=1)
        labels[name] = pd.DataFrame(columns, index=frame.index)
    return found._replace(table=_table(after, labels, corpora), labels=labels, notes=notes)


def _end(join: Mapping[str, str], name: str) -> str:
    while name in join:
        name = join[name]
    return name


def _table(merged: Descriptors, labels: dict[str, pd.DataFrame], corpora: dict[str, Texts]) -> pd.DataFrame:
    lines = []
    text_of = {name: corpora[name].frame.set_index("text_id")["text"] for name in labels}
    for line in merged.frame.itertuples():
        for name, frame in labels.items():
            p = frame[line.descriptor]
            top = text_of[name].loc[p.nlargest(20).index].drop_duplicates().head(3).tolist()
            lines.append((line.descriptor, line.origin, name, round(float(p.sum()), 1), float(p.mean()), top))
    return pd.DataFrame(lines, columns=["descriptor", "origin", "corpus", "n_texts", "share", "typical"])


def _key(corpora: dict[str, Texts], generators: list, settings: dict, asking: Mapping[str, Any]) -> str:
    """Fingerprint of all that decides the result."""
    texts = {name: corpus.fingerprint for name, corpus in corpora.items()}
    who = [g if isinstance(g, str) else identity_of(g) for g in generators]
    return provenance.fingerprint(VERSION, texts, who, settings, repr(asking.get("prompt")))


def _load(folder: Path, key: str) -> Discovery | None:
    """What was saved under this key, without edits; None where there is nothing."""
    path = folder / "discovery.json"
    if not path.exists():
        return None
    state = json.loads(path.read_text(encoding="utf-8"))
    if state["key"] != key:
        log.info("%s: other texts or arguments than last time: discovered anew", path)
        return None
    labels = {name: pd.read_parquet(folder / f"{i}.parquet") for i, name in enumerate(state["corpora"])}
    merged = Descriptors(pd.DataFrame(state["descriptors"]), state["left_out"])
    return Discovery(pd.DataFrame(), labels, merged, state["dropped"], state["notes"])


def _save(folder: Path, key: str, found: Discovery) -> None:
    for i, frame in enumerate(found.labels.values()):
        with provenance.atomic(folder / f"{i}.parquet") as part:
            frame.to_parquet(part)
    state = {"key": key, "corpora": list(found.labels), "dropped": found.dropped, "notes": found.notes}
    state |= {"left_out": found.descriptors.dropped}
    state |= {"descriptors": found.descriptors.frame.to_dict("records")}
    with provenance.atomic(folder / "discovery.json") as part:
        part.write_text(json.dumps(state, indent=1, ensure_ascii=False), encoding="utf-8")
