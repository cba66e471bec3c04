"""Probes of trees: one per site, all sites trained in one product, and judged on held-out sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from nbkit.models import Subject
from nbkit.stats import rank_correlation
from nbkit.texts import Texts
from nbkit.trees.depths import pseudo_depths
from nbkit.trees.treebank import TreeDataset, control_heads, dataset, edges_of, spanning_tree, split

STEPS = 2000  # of training, where ``epochs`` does not say
METRICS = ("sp", "ssp", "essp", "depth", "distance", "edge")


# ---------------------------------------------------------------------------------- probes


@dataclass(frozen=True)
class Probes:
    """One probe per site."""

    metric: str
    sites: list[str]
    weight: torch.Tensor  # [site, width, rank] B
    heads: torch.Tensor | None  # [site, width, rank] C of edge
    dev: list[np.ndarray]  # [epoch][site] loss on the development sentences
    options: dict[str, Any]  # of ``fit``, and the ``scale`` of the vectors it saw

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
    epochs: int | None = None,
    learning_rate: float = 1e-3,
    published: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> Probes:
    """Train one probe for each site of ``train``, all sites in one product.

    metric       one of ``METRICS`` (see the room's manual)
    rank         columns of B; None: half the width, as published
    assign       of essp (``pseudo_depths``)
    projection   of ssp and essp (``pseudo_depths``)
    task         "gold", or "control_task": heads by the word type alone (edge only)
    epochs       passes over the sentences; None: as many as make ``STEPS`` steps, between 10 and 40. Each
                 site keeps the weights of its best epoch on ``dev``
    published    AdamW at 2e-5 and the weights of the last epoch, instead of Adam at ``learning_rate``

    The rate falls linearly to 0: at a constant one the structural probe of MiniLM's layer 2 finds .69 of the
    edges of English EWT, and .73 so. Gradients are clipped at norm 1 for each site by itself, so that sites
    do not touch one another. An unknown metric or task is a ``ValueError``.
    """
    if metric not in METRICS:
        raise ValueError(f"metric={metric!r}: {', '.join(METRICS)}")
    train, dev = (_with_task(part, task) for part in (train, dev))
    rank = rank or train.values.shape[2] // 2
    weights = _fresh(train, rank, 2 if metric == "edge" else 1, seed)
    loss_of = _Loss(metric, assign, projection, seed)
    optimizer = (
        torch.optim.AdamW(weights, lr=2e-5) if published else torch.optim.Adam(weights, lr=learning_rate)
    )
    each, order = sum(1 for _ in train.batches()), np.random.default_rng(seed)
    epochs = epochs or min(40, max(10, -(-STEPS // each)))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / (epochs * each))
    best = torch.full((len(train.sites),), torch.inf)
    kept, history = [w.detach().clone() for w in weights], []
    for _ in tqdm(range(epochs), desc=f"probe {metric}", leave=False, disable=not progress):
        for some, rows in train.batches(order):
            optimizer.zero_grad()
            loss_of(train, some, rows, weights).sum().backward()
            _clip(weights)
            optimizer.step()
            schedule.step()
        with torch.inference_mode():
            now = _mean_loss(loss_of, dev, weights)
        history.append(now.numpy())
        better = now < best if not published else torch.ones_like(now, dtype=torch.bool)
        best = torch.where(better, now, best)
        for keep, weight in zip(kept, weights, strict=True):
            keep[better] = weight.detach()[better]
    options = dict(rank=rank, assign=assign, projection=projection, task=task, seed=seed, scale=train.scale)
    return Probes(metric, train.sites, kept[0], kept[1] if metric == "edge" else None, history, options)


def _fresh(train: TreeDataset, rank: int, n: int, seed: int) -> list[torch.Tensor]:
    """``n`` matrices [site, width, rank], uniform in -.05 .. .05."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(train.sites), train.values.shape[2], rank)
    drawn = [torch.empty(shape).uniform_(-0.05, 0.05, generator=generator) for _ in range(n)]
    return [weight.requires_grad_(True) for weight in drawn]


def _clip(weights: list[torch.Tensor]) -> None:
    """Scale the gradient of each site [site, ...] to norm 1 at most."""
    for weight in weights:
        gradient: Any = weight.grad
        gradient /= gradient.flatten(1).norm(dim=1).clamp(min=1.0)[:, None, None]


def _with_task(sentences: TreeDataset, task: str) -> TreeDataset:
    """The sentences with the heads of the task."""
    if task not in ("gold", "control_task"):
        raise ValueError(f'task={task!r}: "gold" or "control_task"')
    return sentences if task == "gold" else replace(sentences, head=control_heads(sentences))


@dataclass(frozen=True)
class _Loss:
    """Loss [site] of a batch; its sentences have one length, so no mask is needed."""

    metric: str
    assign: str
    projection: str
    seed: int

    def __call__(
        self, sentences: TreeDataset, some: np.ndarray, rows: np.ndarray, weights: list[torch.Tensor]
    ) -> torch.Tensor:
        h = _vectors(sentences, rows)
        if self.metric == "edge":
            scores = _edge_scores(h, *weights)
            target = torch.from_numpy(sentences.head[rows]).expand(len(h), *rows.shape)
            loss = torch.nn.functional.cross_entropy(scores.flatten(0, 2), target.flatten(), reduction="none")
            return loss.view(len(h), -1).mean(1)
        if self.metric == "distance":
            gold = torch.from_numpy(np.stack([sentences.distance[i] for i in some]).astype(np.float32))
            return (_squared_distances(h, weights[0]) - gold).abs().mean((1, 2, 3))
        s = _squared_norms(h, weights[0])
        if self.metric == "depth":
            gold = torch.from_numpy(sentences.depth[rows].astype(np.float32)) - 1
            return (s - gold).abs().mean((1, 2))
        if self.metric == "sp":
            goal = torch.from_numpy(sentences.depth[rows].astype(np.float32))
        else:
            assign = "greedy" if self.metric == "ssp" else self.assign
            goal = pseudo_depths(s, projection=self.projection, assign=assign, seed=self.seed)
        return (s - goal).square().mean((1, 2))


def _vectors(sentences: TreeDataset, rows: np.ndarray) -> torch.Tensor:
    """[site, sentence, word, width] in single precision."""
    return sentences.values[:, torch.from_numpy(rows)].float()


def _squared_norms(h: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """|B h|^2 [site, sentence, word]."""
    return torch.bmm(h.flatten(1, 2), weight).square().sum(-1).view(h.shape[:3])


def _squared_distances(h: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """|B (h_i - h_j)|^2 [site, sentence, word, word]."""
    projected = torch.bmm(h.flatten(1, 2), weight).view(*h.shape[:3], -1)
    norms = projected.square().sum(-1)
    gram = projected @ projected.transpose(-1, -2)
    return (norms[..., :, None] + norms[..., None, :] - 2 * gram).clamp(min=0)


def _edge_scores(h: torch.Tensor, weight: torch.Tensor, heads: torch.Tensor | None) -> torch.Tensor:
    """(B h_i) . (C h_j) [site, sentence, word i, word j]."""
    flat = h.flatten(1, 2)
    own = torch.bmm(flat, weight).view(*h.shape[:3], -1)
    assert heads is not None, "only the metric edge has heads"
    other = torch.bmm(flat, heads).view(*h.shape[:3], -1)
    return own @ other.transpose(-1, -2)


def _mean_loss(loss_of: _Loss, sentences: TreeDataset, weights: list[torch.Tensor]) -> torch.Tensor:
    """Loss [site], mean over all words (sp, ssp, essp, edge) or over all sentences (depth, distance)."""
    total: Any = 0.0
    n = 0
    for some, rows in sentences.batches():
        count = len(some) if loss_of.metric in ("depth", "distance") else rows.size
        total, n = total + loss_of(sentences, some, rows, weights) * count, n + count
    return total / n


# ---------------------------------------------------------------------------------- what probes reach


@torch.inference_mode()
def score(probes: Probes, test: TreeDataset) -> pd.DataFrame:
    """Figures on the sentences of ``test``, one line per site; NaN where one does not belong to the metric.

    loss            of the metric (all metrics)
    constant        loss that one constant for all words reaches: a probe above it found nothing (sp, depth)
    entropy         of the depths in the profile c(s), bits (sp, ssp, essp)
    mean_depth      of the profile: 2 - 1/n for a trivial one of n words (sp, ssp, essp)
    spearman        of predicted and gold depths or distances, averaged by sentence length (5 to 50) and then
                    over lengths: NSpr, DSpr. Distances contain each word's own 0, as in Hewitt and
                    Manning's code, so that noise is above 0 (sp, depth, distance)
    root_accuracy   is the word of least depth the root (sp, depth)
    uuas            share of the gold edges in the minimum spanning tree, without punctuation (distance)
    accuracy        of heads (edge)
    rank            effective rank of the probe (all)
    """
    options = probes.options
    loss_of = _Loss(probes.metric, options["assign"], options["projection"], options["seed"])
    test = _with_task(test, options["task"])
    weights = [probes.weight, probes.heads] if probes.metric == "edge" else [probes.weight]
    columns = ("constant", "entropy", "mean_depth", "spearman", "root_accuracy", "uuas", "accuracy")
    found = {name: np.full(len(probes.sites), np.nan) for name in columns}
    found |= {"constant": np.full(len(probes.sites), _constant(probes.metric, test))}
    found |= _TALLIES[probes.metric](probes, test)
    loss = _mean_loss(loss_of, test, weights).numpy()
    return pd.DataFrame({"site": probes.sites, "loss": loss, **found, "rank": probes.rank()})


def _constant(metric: str, test: TreeDataset) -> float:
    """Loss of the best constant for all words of ``test``; NaN where the metric predicts no depths."""
    depths = [test.depth[a : a + n] for a, n in zip(test.starts, test.sizes, strict=True)]
    every = np.concatenate(depths)
    if metric == "depth":  # sentences count alike
        return float(np.mean([np.abs(d - np.median(every)).mean() for d in depths]))
    return float(every.var()) if metric == "sp" else float("nan")


def _profile_figures(probes: Probes, test: TreeDataset) -> dict[str, np.ndarray]:
    """Shape of the profiles that the norms are nearest to, and how the norms order the words."""
    entropy: Any = 0.0
    mean: Any = 0.0
    n = 0
    for _, rows in test.batches():
        c = pseudo_depths(_squared_norms(_vectors(test, rows), probes.weight))
        share = torch.nn.functional.one_hot(c.long() - 1).float().mean(2)
        entropy = entropy - (share * share.clamp(min=1e-12).log2()).sum(-1).sum(1)
        mean, n = mean + c.mean(2).sum(1), n + len(rows)
    found = {"entropy": (entropy / n).numpy(), "mean_depth": (mean / n).numpy()}
    return found | (_depth_figures(probes, test) if probes.metric == "sp" else {})


def _depth_figures(probes: Probes, test: TreeDataset) -> dict[str, np.ndarray]:
    right: Any = 0.0
    by_length, n = {}, 0
    for _, rows in test.batches():
        s = _squared_norms(_vectors(test, rows), probes.weight).numpy()
        gold = test.depth[rows]
        right = right + (np.take_along_axis(gold[None], s.argmin(-1)[..., None], -1)[..., 0] == 1).sum(1)
        n += len(rows)
        by_length.setdefault(rows.shape[1], []).append(_spearman(s, gold[None]))
    return {"spearman": _over_lengths(by_length), "root_accuracy": right / n}


def _distance_figures(probes: Probes, test: TreeDataset) -> dict[str, np.ndarray]:
    hit: Any = 0.0
    by_length, edges = {}, 0
    for some, rows in test.batches():
        d = _squared_distances(_vectors(test, rows), probes.weight).numpy()
        gold = np.stack([test.distance[i] for i in some])
        lines = [_spearman(d[:, :, i], gold[None, :, i]) for i in range(rows.shape[1])]
        by_length.setdefault(rows.shape[1], []).append(np.mean(lines, axis=0))
        for j in range(len(some)):
            words = ~test.punct[rows[j]]
            wanted = edges_of(gold[j], words)
            edges += len(wanted)
            hit = hit + np.array([len(wanted & spanning_tree(d[site, j], words)) for site in range(len(d))])
    return {"spearman": _over_lengths(by_length), "uuas": hit / max(1, edges)}


def _edge_figures(probes: Probes, test: TreeDataset) -> dict[str, np.ndarray]:
    right: Any = 0.0
    n = 0
    for _, rows in test.batches():
        predicted = _edge_scores(_vectors(test, rows), probes.weight, probes.heads).argmax(-1).numpy()
        right, n = right + (predicted == test.head[rows]).sum((1, 2)), n + rows.size
    return {"accuracy": right / n}


_TALLIES = {
    "sp": _profile_figures,
    "ssp": _profile_figures,
    "essp": _profile_figures,
    "depth": _depth_figures,
    "distance": _distance_figures,
    "edge": _edge_figures,
}


@torch.inference_mode()
def predicted_edges(probes: Probes, sentences: TreeDataset, number: int) -> dict[str, set[tuple[int, int]]]:
    """{site: edges} of the tree that distance probes see in sentence ``number``, without punctuation.

    Edges are (smaller, larger position).
    """
    start, size = sentences.starts[number], sentences.sizes[number]
    rows = np.arange(start, start + size)[None]
    found = _squared_distances(_vectors(sentences, rows), probes.weight)[:, 0].numpy()
    return {site: spanning_tree(found[i], ~sentences.punct[rows[0]]) for i, site in enumerate(probes.sites)}


def _spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rank correlation along the last axis, averaged over sentences: [site]; undefined ones are left out."""
    r = rank_correlation(a, b, undefined=np.nan)
    defined = np.isfinite(r)
    return np.where(defined, r, 0).sum(-1) / np.maximum(1, defined.sum(-1))


def _over_lengths(by_length: Mapping[int, list[np.ndarray]]) -> np.ndarray:
    """Mean over sentence lengths 5 to 50 of the mean over sentences (batches of one length are alike)."""
    found = [np.mean(parts, axis=0) for size, parts in by_length.items() if 5 <= size <= 50]
    return np.mean(found, axis=0) if found else np.array(np.nan)


def linear_baseline(test: TreeDataset) -> dict[str, float]:
    """What is reached without any vectors.

    uuas            of joining adjacent words (punctuation left out)
    root_accuracy   of the first word
    sp              loss of one constant: the variance of depth
    """
    hit = edges = root = 0
    for i, (start, size) in enumerate(zip(test.starts, test.sizes, strict=True)):
        words = ~test.punct[start : start + size]
        kept = np.flatnonzero(words).tolist()
        gold = edges_of(test.distance[i], words)
        edges, hit = edges + len(gold), hit + len(gold & set(zip(kept, kept[1:], strict=False)))
        root += test.depth[start] == 1
    return {
        "uuas": hit / max(1, edges),
        "root_accuracy": float(root / len(test)),
        "sp": _constant("sp", test),
    }


def measure(
    subject: Subject,
    treebank: Texts,
    metric: str | Sequence[str] = "sp",
    sites: str | Sequence[str] = ("embeddings", "hidden"),
    *,
    test: Texts | None = None,
    nulls: Sequence[str] = ("none",),
    seeds: Sequence[int] = (0, 1, 2),
    lengths: tuple[int, int] = (4, 40),
    task: str = "gold",
    cache: Any = None,
    progress: bool = True,
    **options: Any,
) -> pd.DataFrame:
    """Train and judge probes: one line for each metric, site, null and seed.

    metric    one of ``METRICS`` or several; all see the same sentences and have the same budget
    sites     sites of one width; other widths in another call
    test      held-out sentences; None: a fifth of ``treebank``. A tenth of the rest chooses the epoch
    nulls     besides "none": "shuffled", "random weights", "gaussian" (``dataset``)
    lengths   of the sentences (``dataset``)
    task, options   of ``fit``

    Columns: metric, null, seed, task, site, layer, sentences (tested), and those of ``score``;
    ``attrs["dropped"]`` counts, by null, what was left out. ``intervals`` sums the seeds up.
    """
    metrics = [metric] if isinstance(metric, str) else list(metric)
    layers = subject.sites.set_index("site")["layer"]
    lines, dropped = [], {}
    for null in nulls:
        arguments = {"sites": sites, "lengths": lengths, "null": null, "cache": cache, "progress": progress}
        whole = dataset(subject, treebank, **arguments)
        held_out = None if test is None else dataset(subject, test, **arguments)
        dropped[null] = whole.dropped
        for seed in seeds:
            train, dev, judged = split(whole, held_out, seed=seed)
            for one in metrics:
                probes = fit(train, dev, one, seed=seed, task=task, progress=progress, **options)
                table = score(probes, judged)
                table.insert(1, "layer", layers.loc[table["site"]].to_numpy())
                lines.append(table.assign(metric=one, null=null, seed=seed, task=task, sentences=len(judged)))
    found = pd.concat(lines, ignore_index=True)
    first = ["metric", "null", "seed", "task", "site", "layer", "sentences"]
    found = found[[*first, *(c for c in found if c not in first)]]
    found.attrs["dropped"] = dropped
    return found


def intervals(found: pd.DataFrame) -> pd.DataFrame:
    """Mean, lowest and highest over the seeds of ``measure``.

    Columns: metric, null, task, site, layer, figure (a column of ``score``), value, low, high.
    """
    keys = ["metric", "null", "task", "site", "layer"]
    figures = [c for c in found if c not in (*keys, "seed", "sentences")]
    long = found.melt(keys, figures, var_name="figure").dropna()
    return (
        long.groupby([*keys, "figure"], sort=False)["value"]
        .agg(value="mean", low="min", high="max")
        .reset_index()
    )


def bounds(found: pd.DataFrame) -> pd.DataFrame:
    """Does ssp <= sp <= essp hold, as Li et al. propose? One line per null and site.

    ``found`` is of ``measure`` with all three metrics, else ``ValueError``. Columns: null, site, layer, ssp,
    sp, essp (mean loss), holds, constant (what one constant reaches as sp).
    """
    missing = {"sp", "ssp", "essp"} - set(found["metric"])
    if missing:
        raise ValueError(f"measure {sorted(missing)[0]!r} too: the bounds are of sp, ssp and essp")
    table = found.pivot_table(index=["null", "site", "layer"], columns="metric", values="loss", sort=False)
    table = table[["ssp", "sp", "essp"]].reset_index().rename_axis(columns=None)
    table["holds"] = (table["ssp"] <= table["sp"]) & (table["sp"] <= table["essp"])
    return table.assign(constant=found[found["metric"] == "sp"]["constant"].mean())
