"""Interventions: does the model itself use the units, or only the probe?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from nbkit import activations
from nbkit.activations import Activations, plan_of
from nbkit.models import Subject
from nbkit.texts import Texts

HOW = ("zero", "mean", "translate")


class _Means(NamedTuple):
    """What units are set to, or moved by."""

    mean: np.ndarray  # [unit]
    by_class: dict[str, np.ndarray]  # class -> [unit]


def intervene(
    subject: Subject,
    corpus: Texts,
    stored: Activations,
    y: pd.Series,
    order: Sequence[int],
    probe: Callable[[np.ndarray], np.ndarray],
    *,
    counts: Sequence[int] = (10, 30, 100),
    how: Sequence[str] = HOW,
    to: str | None = None,
    draws: int = 3,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Change the first units of ``order`` inside a forward pass, at the words of ``y``, and see what follows.

    corpus, stored   texts with words, and their activations [word, unit] at hidden sites (pool "mean")
    y                class of each word concerned, by (text_id, word_id); other words are left alone
    order            columns of ``stored``, best first (``Ranking.order``); units of the last site are left
                     out, since the probe reads there and would see the change and not its effect
    probe            classes [word] from the last site's activations [word, unit] (``Probe.predict``)
    counts           how many units
    how              "zero"; "mean": each unit's mean over ``stored``; "translate": the mean of class ``to``
                     less the mean of the word's own class is added
    to               class that words are moved to by "translate"; None: the most frequent one
    draws            sets of random units of the same sites, for the baseline

    A frame with a line for each setting, for the ``salient`` units and for as many ``random`` ones (averaged
    over ``draws``), after a line for the ``untouched`` model. Columns: how, units, kind, and

        probe        accuracy of the probe on the last hidden layer, at those words
        moved        share of the words of other classes that the probe takes for ``to``
        embedding    cosine between the texts' embeddings (mean of the last layer) before and after
        word         share of the words, all masked, that the language model names; NaN without such a head

    Unknown ``how`` or ``to``, words without a class, and a ranking of the last site alone: ``ValueError``.
    """
    last = stored.units["site"].iloc[-1]
    plan = plan_of(subject, corpus, rows="word")
    wanted = _classes(plan.rows, y)
    to = str(y.value_counts().index[0]) if to is None else to
    _check(how, to, y)
    below = np.asarray(order)[(stored.units["site"].to_numpy() != last)[np.asarray(order)]]
    if not len(below):
        raise ValueError(f"all ranked units are of {last}, where the probe reads: capture earlier sites too")
    means = _means(stored, y)
    watch = _Watch(subject, plan, wanted, probe, to, last)
    base = watch.run(None)
    lines = [{"how": "none", "units": 0, "kind": "untouched", **base.measures(base)}]
    generator = np.random.default_rng(seed)
    todo = [(h, n) for h in how for n in counts if n <= len(below)]
    for h, n in tqdm(todo, desc="intervene", leave=False, disable=not progress):
        for kind in ("salient", "random"):
            sets = [below[:n]]
            if kind == "random":
                sets = [_same_sites(stored.units, below[:n], generator) for _ in range(draws)]
            found = [watch.run(_edits(stored.units, s, h, means, watch, to)).measures(base) for s in sets]
            lines.append({"how": h, "units": n, "kind": kind, **pd.DataFrame(found).mean().to_dict()})
    return pd.DataFrame(lines)


def _check(how: Sequence[str], to: str, y: pd.Series) -> None:
    for h in how:
        if h not in HOW:
            raise ValueError(f"unknown intervention {h!r}: {', '.join(HOW)}")
    if to not in set(y.astype(str)):
        raise ValueError(f"to={to!r} is no class of {y.name!r}: {', '.join(sorted(set(y.astype(str))))}")


def _classes(rows: pd.DataFrame, y: pd.Series) -> np.ndarray:
    """Class of every row of the plan, None for words not concerned."""
    keys = pd.MultiIndex.from_frame(rows[["text_id", "word_id"]])
    found = np.array(y.astype(str).reindex(keys).astype(object), dtype=object)
    found[pd.isna(found)] = None
    if all(c is None for c in found):
        raise ValueError(f"none of the {len(rows)} words has a class in {y.name!r}")
    return found


def _means(stored: Activations, y: pd.Series) -> _Means:
    keys = pd.MultiIndex.from_frame(stored.rows[["text_id", "word_id"]])
    classes = y.astype(str).reindex(keys)
    values = np.asarray(stored.values, np.float32)
    frame = {c: values[(classes == c).to_numpy()].mean(0) for c in classes.dropna().unique()}
    return _Means(values.mean(0), frame)


def _same_sites(units: pd.DataFrame, chosen: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Random columns, as many of each site as ``chosen`` has, and none of those."""
    sites, found = units["site"].to_numpy(), []
    for site, n in pd.Series(sites[chosen]).value_counts().items():
        rest = np.setdiff1d(np.flatnonzero(sites == site), chosen)
        found.append(generator.choice(rest, min(n, len(rest)), replace=False))
    return np.concatenate(found)


def _edits(units: pd.DataFrame, chosen: np.ndarray, how: str, means: _Means, watch: _Watch, to: str) -> dict:
    """{site: function} that changes the chosen units at the words concerned of the current batch."""

    def edit_of(columns: np.ndarray) -> Callable[[torch.Tensor], torch.Tensor]:
        index = torch.from_numpy(units["index"].to_numpy()[columns].astype(np.int64))
        mean = torch.from_numpy(means.mean[columns])
        shift = {
            c: torch.from_numpy(means.by_class[to][columns] - m[columns]) for c, m in means.by_class.items()
        }

        def edit(tensor: torch.Tensor) -> torch.Tensor:
            changed = tensor.clone()
            flat = changed.view(-1, changed.shape[-1])
            place = watch.tokens.to(tensor.device)[:, None], index.to(tensor.device)[None]
            if how == "zero":
                flat[place] = 0.0
            elif how == "mean":
                flat[place] = mean.to(tensor)
            else:
                flat[place] += torch.stack([shift[c] for c in watch.classes]).to(tensor)
            return changed

        return edit

    sites = units["site"].to_numpy()[chosen]
    return {str(site): edit_of(chosen[sites == site]) for site in np.unique(sites)}


class _Seen(NamedTuple):
    """What one run over the corpus showed."""

    classes: np.ndarray  # [word] of the words concerned
    predicted: np.ndarray  # [word] by the probe
    embeddings: np.ndarray  # [text, width]
    named: np.ndarray  # [word] did the language model name it; empty without a head
    to: str

    def measures(self, base: _Seen) -> dict[str, float]:
        norm = np.linalg.norm(self.embeddings, axis=1) * np.linalg.norm(base.embeddings, axis=1)
        others = self.classes != self.to
        return {
            "probe": float((self.predicted == self.classes).mean()),
            "moved": float((self.predicted[others] == self.to).mean()) if others.any() else float("nan"),
            "embedding": float(((self.embeddings * base.embeddings).sum(1) / norm).mean()),
            "word": float(self.named.mean()) if len(self.named) else float("nan"),
        }


class _Watch:
    """Runs the corpus, with edits or without, and reads probe, embedding and language-model head."""

    def __init__(
        self, subject: Subject, plan: Any, wanted: np.ndarray, probe: Callable, to: str, last: str
    ) -> None:
        self.subject, self.plan, self.wanted, self.probe, self.to = subject, plan, wanted, probe, to
        self.last, self.tokens, self.classes = last, torch.empty(0, dtype=torch.long), []
        self.has_head = subject.model.get_output_embeddings() is not None and (
            subject.tokenizer.mask_token_id is not None
        )

    @torch.inference_mode()
    def run(self, edits: dict | None) -> _Seen:
        classes, predicted, embeddings, named = [], [], [], []
        for batch in activations.batches(self.subject, self.plan):
            here = np.array([c is not None for c in self.wanted[batch.rows]])
            owner = np.repeat(np.arange(len(batch.rows)), batch.lengths)
            self.tokens = torch.from_numpy(batch.tokens[here[owner]]).to(self.subject.device)
            self.classes = self.wanted[batch.rows][owner[here[owner]]]
            with self.subject.edit(edits or {}):
                hidden = self.subject.run(batch.inputs, self.last)[self.last].float().to(self.subject.device)
                if self.has_head:
                    named.append(self._named(batch, here, owner))
            mask = batch.inputs["attention_mask"][..., None]
            embeddings.append(((hidden * mask).sum(1) / mask.sum(1)).cpu().numpy())
            flat = hidden.reshape(-1, hidden.shape[-1])[torch.from_numpy(batch.tokens).to(hidden.device)]
            words = torch.segment_reduce(
                flat, "mean", lengths=torch.from_numpy(batch.lengths).to(flat.device)
            )
            predicted.append(self.probe(words.cpu().numpy()[here]))
            classes.append(self.wanted[batch.rows][here])
        return _Seen(
            np.concatenate(classes),
            np.concatenate(predicted),
            np.concatenate(embeddings),
            np.concatenate(named) if named else np.zeros(0),
            self.to,
        )

    def _named(self, batch: Any, here: np.ndarray, owner: np.ndarray) -> np.ndarray:
        """Are the tokens of the words concerned, all masked at once, the model's first guess?"""
        ids = batch.inputs["input_ids"].clone()
        masked = ids.view(-1)
        right = masked[self.tokens].clone()
        masked[self.tokens] = self.subject.tokenizer.mask_token_id
        logits = self.subject.model(**{**batch.inputs, "input_ids": ids}).logits
        good = (logits.reshape(-1, logits.shape[-1])[self.tokens].argmax(1) == right).cpu().numpy()
        return pd.Series(good).groupby(owner[here[owner]]).all().to_numpy()
