"""Probes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from nbkit.models import Subject
from nbkit.texts import Texts
from nbkit.trees.depths import depths, pseudo_depths
from nbkit.trees.treebank import TreeDataset, control_heads

METRICS = ("sp", "ssp", "essp", "depth", "distance", "edge")


# ---------------------------------------------------------------------------------- probes


@dataclass(frozen=True)
class Probes:
    """One probe a site: ``weight`` [site, width, rank] (edge: another one for the heads)."""

    metric: str
    sites: list[str]
    weight: torch.Tensor
    heads: torch.Tensor | None
    dev: list[np.ndarray]  # [epoch][site] loss on the development sentences
    options: dict[str, Any]

    def rank(self) -> np.ndarray:
        """Effective rank [site]: exp of the entropy of the squared singular values."""
        energy = torch.linalg.svdvals(self.weight.float()).square()
        share = (energy / energy.sum(1, keepdim=True)).clamp(min=1e-30)
        return torch.exp(-(share * share.log()).sum(1)).numpy()


def fit(
    train: TreeDataset,
    dev: TreeDataset,
    metric: str = "sp",
    *,
    rank: int | None = None,
    assign: str = "reverse",
    projection: str = "greedy",
    task: str = "gold",
    epochs: int = 20,
    patience: int = 2,
    learning_rate: float = 1e-3,
    published: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> Probes:
    """Train one probe for each site of ``train``, all sites in one product.

    rank      columns of B (None: half the width, as published)
    assign, projection   of essp and of ssp and essp (``pseudo_depths``)
    task      "gold" or "control" (edge only)
    epochs, patience     at most so many; a site keeps the weights of its best epoch on ``dev``, and training
              ends when no site has got better for ``patience`` epochs
    published AdamW at 2e-5 with linear decay, no early stopping, instead of Adam at ``rate``

    Gradients are clipped at norm 1 for each site by itself, so that sites do not touch one another.
    """
    if metric not in METRICS:
        raise ValueError(f"metric={metric!r}: {', '.join(METRICS)}")
    train, dev = (with_task(part, task) for part in (train, dev))
    n_sites, _, width = train.values.shape
    generator = torch.Generator().manual_seed(seed)
    shape = (n_sites, width, rank or width // 2)
    weights = [
        torch.empty(shape).uniform_(-0.05, 0.05, generator=generator).requires_grad_(True)
        for _ in range(2 if metric == "edge" else 1)
    ]
    loss_of = Loss(metric, assign, projection, seed)
    optimizer = (
        torch.optim.AdamW(weights, lr=2e-5) if published else torch.optim.Adam(weights, lr=learning_rate)
    )
    order = np.random.default_rng(seed)
    steps = epochs * sum(1 for _ in train.batches())
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: 1 - s / steps if published else 1.0)
    best = torch.full((n_sites,), torch.inf)
    kept, history, worse = [w.detach().clone() for w in weights], [], 0
    for _ in tqdm(range(epochs), desc=f"probe {metric}", leave=False, disable=not progress):
        for some, rows in train.batches(order):
            optimizer.zero_grad()
            loss_of(train, some, rows, weights).sum().backward()
            for weight in weights:
                norm = weight.grad.flatten(1).norm(dim=1).clamp(min=1.0)
                weight.grad /= norm[:, None, None]
            optimizer.step()
            schedule.step()
        with torch.inference_mode():
            now = mean_loss(loss_of, dev, weights)
        history.append(now.numpy())
        better = now < best if not published else torch.ones_like(now, dtype=torch.bool)
        best = torch.where(better, now, best)
        for keep, weight in zip(kept, weights, strict=True):
            keep[better] = weight.detach()[better]
        worse = 0 if better.any() else worse + 1
        if worse >= patience and not published:
            break
    options = {"rank": shape[2], "assign": assign, "projection": projection, "task": task, "seed": seed}
    return Probes(metric, train.sites, kept[0], kept[1] if metric == "edge" else None, history, options)


def with_task(sentences: TreeDataset, task: str) -> TreeDataset:
    if task not in ("gold", "control"):
        raise ValueError(f'task={task!r}: "gold" or "control"')
    return sentences if task == "gold" else replace(sentences, head=control_heads(sentences))


@dataclass(frozen=True)
class Loss:
    """Loss [site] of a batch; sentences of one length, so no mask is needed."""

    metric: str
    assign: str
    projection: str
    seed: int

    def __call__(
        self, sentences: TreeDataset, some: np.ndarray, rows: np.ndarray, weights: list
    ) -> torch.Tensor:
        h = vectors(sentences, rows)
        if self.metric == "edge":
            scores = edge_scores(h, *weights)
            target = torch.from_numpy(sentences.head[rows]).expand(len(h), *rows.shape)
            loss = torch.nn.functional.cross_entropy(scores.flatten(0, 2), target.flatten(), reduction="none")
            return loss.view(len(h), -1).mean(1)
        if self.metric == "distance":
            gold = torch.from_numpy(np.stack([sentences.distance[i] for i in some]).astype(np.float32))
            return (squared_distances(h, weights[0]) - gold).abs().mean((1, 2, 3))
        s = squared_norms(h, weights[0])
        if self.metric == "depth":
            gold = torch.from_numpy(sentences.depth[rows].astype(np.float32)) - 1
            return (s - gold).abs().mean((1, 2))
        if self.metric == "sp":
            goal = torch.from_numpy(sentences.depth[rows].astype(np.float32))
        else:
            assign = "greedy" if self.metric == "ssp" else self.assign
            goal = pseudo_depths(s, projection=self.projection, assign=assign, seed=self.seed)
        return (s - goal).square().mean((1, 2))


def vectors(sentences: TreeDataset, rows: np.ndarray) -> torch.Tensor:
    """[site, sentence, word, width] in single precision."""
    return sentences.values[:, torch.from_numpy(rows)].float()


def squared_norms(h: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """|B h|^2 [site, sentence, word]."""
    return torch.bmm(h.flatten(1, 2), weight).square().sum(-1).view(h.shape[:3])


def squared_distances(h: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """|B (h_i - h_j)|^2 [site, sentence, word, word]."""
    projected = torch.bmm(h.flatten(1, 2), weight).view(*h.shape[:3], -1)
    norms = projected.square().sum(-1)
    gram = projected @ projected.transpose(-1, -2)
    return (norms[..., :, None] + norms[..., None, :] - 2 * gram).clamp(min=0)


def edge_scores(h: torch.Tensor, weight: torch.Tensor, heads: torch.Tensor) -> torch.Tensor:
    """(B h_i) . (C h_j) [site, sentence, word i, word j]."""
    flat = h.flatten(1, 2)
    own = torch.bmm(flat, weight).view(*h.shape[:3], -1)
    other = torch.bmm(flat, heads).view(*h.shape[:3], -1)
    return own @ other.transpose(-1, -2)


def mean_loss(loss_of: Loss, sentences: TreeDataset, weights: list) -> torch.Tensor:
    """[site] over all words (sp, ssp, essp, edge) or over all sentences (depth, distance)."""
    total, n = 0.0, 0
    for some, rows in sentences.batches():
        count = len(some) if loss_of.metric in ("depth", "distance") else rows.size
        total, n = total + loss_of(sentences, some, rows, weights) * count, n + count
    return total / n


# ---------------------------------------------------------------------------------- as published


def published_dataset(
    subject: Subject, treebank: Texts, *, sites=("embeddings", "hidden"), length: int = 128
):
    """Vectors as the paper's code scores them: every position of texts padded to ``length``, padding too.

    Wordpieces have their word's depth, special tokens and padding depth 2. For ``fit(published=True)`` with
    sp, ssp and essp; about nine positions in ten are padding. ``length`` of the paper is not known to us.
    """
    words = treebank.words.assign(depth=depths(treebank.words))
    by_text = dict(list(words.groupby("text_id")))
    names, values, depth = subject.select(sites), [], []
    for start in range(0, len(treebank), 32):
        part = treebank.frame.iloc[start : start + 32]
        encoded, _ = subject.encode(part["text"].tolist(), length=length, return_offsets_mapping=True)
        spans = encoded.pop("offset_mapping").cpu().numpy()
        seen = subject.run(encoded, names)
        values.append(torch.stack([seen[name].half().cpu() for name in names]))
        depth += [_of_pieces(by_text[i], spans[j]) for j, i in enumerate(part["text_id"])]
    n = len(treebank)
    flat = torch.cat(values, dim=1).flatten(1, 2)
    nothing = np.zeros(n * length, dtype=np.int64)
    return TreeDataset(
        flat,
        names,
        np.arange(n) * length,
        np.full(n, length),
        np.concatenate(depth),
        nothing,
        nothing.astype(bool),
        np.full(n * length, "", dtype=object),
        treebank.frame["text_id"].to_numpy(),
        [np.zeros((0, 0))] * n,
        {},
    )


def _of_pieces(words: pd.DataFrame, spans: np.ndarray) -> np.ndarray:
    """Depth of every position: that of the word it lies in, else 2."""
    found = np.full(len(spans), 2)
    for start, end, depth in zip(words["start"], words["end"], words["depth"], strict=True):
        found[(spans[:, 0] < end) & (spans[:, 1] > start)] = depth
    return found
