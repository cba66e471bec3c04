"""Trees: is a sentence's dependency tree in the vectors, and does training on trees help?

    depths(words), distances(words)         of the gold trees: root 1, edges between words
    pseudo_depths(s)                        the depth profile nearest to squared norms, without any gold
    measure(subject, treebank, "sp")        one probe a site, all sites trained together -> frame
    predicted_edges(probes, bank, number)   the tree a distance probe sees in one sentence, for pictures
    finetune(subject, train, dev, ...)      sentence labels with a tree term at a site -> frame
    differences(frame)                      against the paired baseline, with intervals

Probes. A probe is a matrix B; s_j = |B h_j|^2 for word j.

    sp        mean (s_j - depth_j)^2: is the gold depth there                    (Li et al. 2023, X_sp)
    ssp       mean (s_j - c_j(s))^2: is any depth profile there, c = pseudo_depths(s)      (their X_ssp)
    essp      the same with the profile written back in reversed order; ``assign`` has others (X_essp)
    depth     mean |s_j - (depth_j - 1)|                                       (Hewitt and Manning 2019)
    distance  mean |d_ij - |B (h_i - h_j)|^2| over pairs of words, each sentence counting once      (same)
    edge      softmax over j of (B h_i) . (C h_j): which word is the head (itself: root). Ours, since the
              control task (each word type attaches to itself, the first or the last word, Hewitt and Liang
              2019) needs a probe that can attach

The tree topological probe is Li, Yin and Lin (Findings of EMNLP 2023, arXiv 2310.12454). Ours: the closed
form of their labelling loop, the mask (they scored padding too: ``as_published``), the exact projection,
one set of sentences and one budget for all metrics, nulls in the same frame, and a trivial solution made
visible: one word at depth 1 and all others at 2 gives a loss of 0 without any syntax, so profile entropy
and mean depth stand beside every loss.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.stats import rankdata, ttest_1samp
from tqdm.auto import tqdm

from nbkit import tuning
from nbkit.evaluation import bootstrap
from nbkit.treebank import NULLS, Bank, bank, control_heads, depths, distances

if TYPE_CHECKING:
    from nbkit.models import Subject
    from nbkit.texts import Texts

METRICS = ("sp", "ssp", "essp", "depth", "distance", "edge")
__all__ = ["NULLS", "Bank", "bank", "control_heads", "depths", "distances"]
ASSIGN = ("greedy", "reverse", "antisort", "random")


# ---------------------------------------------------------------------------------- depth profiles


def pseudo_depths(
    s: torch.Tensor,
    *,
    projection: str = "greedy",
    assign: str = "greedy",
    mask: torch.Tensor | None = None,
    seed: int = 0,
) -> torch.Tensor:
    """The depth profile nearest to ``s`` [sentence, word], without gradient; padding gets 0.

    A profile is sorted: 1, 2, then each the same as the one before or one more (a tree has one root, and no
    depth is skipped). ``projection``

        greedy   the paper's rule: keep or add one, whichever is nearer to s. Closed form (ours, equal to
                 the loop): c_k = k + min over i in 2..k of (t_i - i), where t_2 = 2 and, of the sorted s,
                 t_k = max(2, floor(s_k + 1/2))
        exact    the profile with the least squared error, by dynamic programming over depths (ours)

    ``assign`` says which word gets which depth: "greedy" the smallest s the smallest; "reverse" that profile
    in reversed word order, as in X_essp; "antisort" the smallest s the largest, which is the worst; "random".
    """
    if projection not in ("greedy", "exact"):
        raise ValueError(f'projection={projection!r}: "greedy" or "exact"')
    if assign not in ASSIGN:
        raise ValueError(f"assign={assign!r}: {', '.join(ASSIGN)}")
    s = s.detach()
    mask = torch.ones_like(s, dtype=torch.bool) if mask is None else mask
    sizes = mask.sum(-1, keepdim=True)
    values, order = s.masked_fill(~mask, torch.inf).sort(dim=-1, stable=True)
    profile = (_greedy if projection == "greedy" else _exact)(values, sizes)
    place = torch.arange(s.shape[-1], device=s.device).expand_as(s)
    if assign == "antisort":
        profile = profile.gather(-1, (sizes - 1 - place).clamp(min=0))
    elif assign == "random":
        generator = torch.Generator().manual_seed(seed)
        key = torch.rand(s.shape, generator=generator).to(s.device).masked_fill(place >= sizes, torch.inf)
        profile = profile.gather(-1, key.argsort(-1))
    found = torch.zeros_like(s).scatter(-1, order, profile.to(s.dtype)) * mask
    if assign == "reverse":
        if not bool((mask == (place < sizes)).all()):
            raise ValueError('assign="reverse" needs the padding at the end of every sentence')
        found = found.gather(-1, (sizes - 1 - place).clamp(min=0)) * mask
    return found


def _greedy(values: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """Closed form on sorted values; what lies beyond the sizes is infinite and of no matter."""
    n = values.shape[-1]
    k = torch.arange(1, n + 1, device=values.device, dtype=torch.float64)
    t = (values.double().clamp(max=n + 1) + 0.5).floor().clamp(min=2)
    t[..., 1:2] = 2
    least = (t - k)[..., 1:].cummin(-1).values
    first = torch.ones_like(values[..., :1], dtype=torch.float64)
    return torch.cat([first, k[1:] + least], dim=-1)


def _exact(values: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """Least squares over profiles: cost[k, d] = (s_k - d)^2 + min(cost[k-1, d], cost[k-1, d-1])."""
    n, shape = values.shape[-1], values.shape
    flat = values.reshape(-1, n).double()
    inside = torch.isfinite(flat)
    flat = flat.masked_fill(~inside, 0.0)
    depth = torch.arange(1, n + 1, device=values.device, dtype=torch.float64)
    cost = torch.full((len(flat), n), torch.inf, device=values.device, dtype=torch.float64)
    cost[:, 0] = (flat[:, 0] - 1) ** 2
    deeper = []  # [k] did the best path to depth d come from d - 1
    for k in range(1, n):
        above = torch.cat([torch.full_like(cost[:, :1], torch.inf), cost[:, :-1]], dim=1)
        stay = cost if k > 1 else torch.full_like(cost, torch.inf)  # the second is never at depth 1
        stepped = above < stay
        deeper.append(stepped)
        new = torch.where(stepped, above, stay) + (flat[:, k, None] - depth) ** 2
        cost = torch.where(inside[:, k, None], new, cost)
    at = cost.argmin(1)
    found = torch.zeros(len(flat), n, device=values.device, dtype=torch.float64)
    for k in range(n - 1, -1, -1):
        found[:, k] = at + 1
        if k:
            down = deeper[k - 1].gather(1, at[:, None])[:, 0] & inside[:, k]
            at = at - down.long()
    return found.reshape(shape)


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
    train: Bank,
    dev: Bank,
    metric: str = "sp",
    *,
    rank: int | None = None,
    assign: str = "reverse",
    projection: str = "greedy",
    task: str = "gold",
    epochs: int = 20,
    patience: int = 2,
    rate: float = 1e-3,
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
    train, dev = (_with_task(part, task) for part in (train, dev))
    n_sites, _, width = train.values.shape
    generator = torch.Generator().manual_seed(seed)
    shape = (n_sites, width, rank or width // 2)
    weights = [
        torch.empty(shape).uniform_(-0.05, 0.05, generator=generator).requires_grad_(True)
        for _ in range(2 if metric == "edge" else 1)
    ]
    loss_of = _Loss(metric, assign, projection, seed)
    optimizer = torch.optim.AdamW(weights, lr=2e-5) if published else torch.optim.Adam(weights, lr=rate)
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
            now = _mean_loss(loss_of, dev, weights)
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


def _with_task(sentences: Bank, task: str) -> Bank:
    if task not in ("gold", "control"):
        raise ValueError(f'task={task!r}: "gold" or "control"')
    return sentences if task == "gold" else replace(sentences, head=control_heads(sentences))


@dataclass(frozen=True)
class _Loss:
    """Loss [site] of a batch; sentences of one length, so no mask is needed."""

    metric: str
    assign: str
    projection: str
    seed: int

    def __call__(self, sentences: Bank, some: np.ndarray, rows: np.ndarray, weights: list) -> torch.Tensor:
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


def vectors(sentences: Bank, rows: np.ndarray) -> torch.Tensor:
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


def _mean_loss(loss_of: _Loss, sentences: Bank, weights: list) -> torch.Tensor:
    """[site] over all words (sp, ssp, essp, edge) or over all sentences (depth, distance)."""
    total, n = 0.0, 0
    for some, rows in sentences.batches():
        count = len(some) if loss_of.metric in ("depth", "distance") else rows.size
        total, n = total + loss_of(sentences, some, rows, weights) * count, n + count
    return total / n


# ---------------------------------------------------------------------------------- what probes reach


@torch.inference_mode()
def score(probes: Probes, test: Bank) -> pd.DataFrame:
    """Held-out figures, one line a site; NaN where a column does not belong to the metric.

    loss            of the metric                              (all)
    entropy         of the depths in c(s), bits, and           (sp, ssp, essp)
    mean_depth      their mean: a trivial profile has all words but one at 2
    spearman        of predicted and gold depths or distances, averaged by sentence length (5 to 50) and
                    then over lengths: NSpr, DSpr; distances with each word's own 0, as in Hewitt and
                    Manning's code, so noise is not at 0       (sp, depth, distance)
    root_accuracy   is the word of least depth the root        (sp, depth)
    uuas            share of gold edges in the minimum spanning tree, without punctuation   (distance)
    accuracy        of heads                                   (edge)
    rank            effective rank of the probe
    """
    options = probes.options
    loss_of = _Loss(probes.metric, options["assign"], options["projection"], options["seed"])
    test = _with_task(test, options["task"])
    weights = [probes.weight, probes.heads] if probes.metric == "edge" else [probes.weight]
    columns = ("entropy", "mean_depth", "spearman", "root_accuracy", "uuas", "accuracy")
    found = {name: np.full(len(probes.sites), np.nan) for name in columns}
    found |= _TALLIES[probes.metric](probes, test)
    loss = _mean_loss(loss_of, test, weights).numpy()
    return pd.DataFrame({"site": probes.sites, "loss": loss, **found, "rank": probes.rank()})


def _profile_figures(probes: Probes, test: Bank) -> dict[str, np.ndarray]:
    """Shape of the profiles that the norms are nearest to, and how the norms order the words."""
    entropy, mean, n = 0.0, 0.0, 0
    for _, rows in test.batches():
        c = pseudo_depths(squared_norms(vectors(test, rows), probes.weight))
        share = torch.nn.functional.one_hot(c.long() - 1).float().mean(2)
        entropy = entropy - (share * share.clamp(min=1e-12).log2()).sum(-1).sum(1)
        mean, n = mean + c.mean(2).sum(1), n + len(rows)
    found = {"entropy": (entropy / n).numpy(), "mean_depth": (mean / n).numpy()}
    return found | (_depth_figures(probes, test) if probes.metric == "sp" else {})


def _depth_figures(probes: Probes, test: Bank) -> dict[str, np.ndarray]:
    by_length, right, n = {}, 0.0, 0
    for _, rows in test.batches():
        s = squared_norms(vectors(test, rows), probes.weight).numpy()
        gold = test.depth[rows]
        right = right + (np.take_along_axis(gold[None], s.argmin(-1)[..., None], -1)[..., 0] == 1).sum(1)
        n += len(rows)
        by_length.setdefault(rows.shape[1], []).append(_spearman(s, gold[None]))
    return {"spearman": _over_lengths(by_length), "root_accuracy": right / n}


def _distance_figures(probes: Probes, test: Bank) -> dict[str, np.ndarray]:
    by_length, hit, edges = {}, 0.0, 0
    for some, rows in test.batches():
        d = squared_distances(vectors(test, rows), probes.weight).numpy()
        gold = np.stack([test.distance[i] for i in some])
        lines = [_spearman(d[:, :, i], gold[None, :, i]) for i in range(rows.shape[1])]
        by_length.setdefault(rows.shape[1], []).append(np.mean(lines, axis=0))
        for j in range(len(some)):
            words = ~test.punct[rows[j]]
            truth = _gold_edges(gold[j], words)
            edges += len(truth)
            hit = hit + np.array([len(truth & spanning_tree(d[site, j], words)) for site in range(len(d))])
    return {"spearman": _over_lengths(by_length), "uuas": hit / max(1, edges)}


def _edge_figures(probes: Probes, test: Bank) -> dict[str, np.ndarray]:
    right, n = 0.0, 0
    for _, rows in test.batches():
        said = edge_scores(vectors(test, rows), probes.weight, probes.heads).argmax(-1).numpy()
        right, n = right + (said == test.head[rows]).sum((1, 2)), n + rows.size
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
def predicted_edges(probes: Probes, sentences: Bank, number: int) -> dict[str, set[tuple[int, int]]]:
    """{site: edges} of the spanning tree that distance probes see in one sentence, without punctuation."""
    start, size = sentences.starts[number], sentences.sizes[number]
    rows = np.arange(start, start + size)[None]
    found = squared_distances(vectors(sentences, rows), probes.weight)[:, 0].numpy()
    return {site: spanning_tree(found[i], ~sentences.punct[rows[0]]) for i, site in enumerate(probes.sites)}


def gold_edges(sentences: Bank, number: int) -> set[tuple[int, int]]:
    """Edges (smaller, larger position) of the gold tree of one sentence, without punctuation."""
    start, size = sentences.starts[number], sentences.sizes[number]
    return _gold_edges(sentences.distance[number], ~sentences.punct[start : start + size])


def spanning_tree(distance: np.ndarray, words: np.ndarray) -> set[tuple[int, int]]:
    """Edges (smaller, larger) of the minimum spanning tree over the ``words`` (bool) of a sentence."""
    kept = np.flatnonzero(words)
    if len(kept) < 2:
        return set()
    # the library takes 0 for "no edge"
    tree = minimum_spanning_tree(distance[np.ix_(kept, kept)] + 1e-6).tocoo()
    return {
        (min(a, b), max(a, b)) for a, b in zip(kept[tree.row].tolist(), kept[tree.col].tolist(), strict=True)
    }


def _gold_edges(distance: np.ndarray, words: np.ndarray) -> set[tuple[int, int]]:
    one = np.triu((distance == 1) & words[:, None] & words[None, :])
    return set(zip(*(index.tolist() for index in np.nonzero(one)), strict=True))


def _spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rank correlation along the last axis, averaged over sentences: [site]; undefined ones are left out."""
    a, b = rankdata(a, axis=-1), rankdata(b, axis=-1)
    a, b = a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    defined = np.isfinite(r)
    return np.where(defined, r, 0).sum(-1) / np.maximum(1, defined.sum(-1))


def _over_lengths(by_length: Mapping[int, list[np.ndarray]]) -> np.ndarray:
    """Mean over sentence lengths 5 to 50 of the mean over sentences (batches of one length are alike)."""
    found = [np.mean(parts, axis=0) for size, parts in by_length.items() if 5 <= size <= 50]
    return np.mean(found, axis=0) if found else np.array(np.nan)


def chain(test: Bank) -> dict[str, float]:
    """Without any vectors: UUAS of joining neighbours, root accuracy of the first word, variance of depth.

    The last is the loss ``sp`` of one constant.
    """
    hit = edges = root = 0
    for i, (start, size) in enumerate(zip(test.starts, test.sizes, strict=True)):
        words = ~test.punct[start : start + size]
        kept = np.flatnonzero(words).tolist()
        truth = _gold_edges(test.distance[i], words)
        edges, hit = edges + len(truth), hit + len(truth & set(zip(kept, kept[1:], strict=False)))
        root += test.depth[start] == 1
    rows = np.concatenate([np.arange(a, a + n) for a, n in zip(test.starts, test.sizes, strict=True)])
    return {
        "uuas": hit / max(1, edges),
        "root_accuracy": root / len(test),
        "sp": float(test.depth[rows].var()),
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
    **options,
) -> pd.DataFrame:
    """Train and judge probes of the tree: for each metric, site, null and seed one line.

    metric    one of ``METRICS`` or several; all see the same sentences, mask and budget
    sites     sites of one width; other widths in another call
    test      held-out sentences; None: a fifth of ``treebank``. A tenth of the rest is for early stopping
    nulls     besides "none": "shuffled", "random weights", "gaussian" (``bank``)
    options   of ``fit``

    Columns: metric, null, seed, task, site, layer, sentences (tested), and those of ``score``; ``.attrs``
    ["losses"] counts what was left out. ``intervals`` sums the seeds up.
    """
    metrics = [metric] if isinstance(metric, str) else list(metric)
    layers = subject.sites.set_index("site")["layer"]
    lines, losses = [], {}
    for null in nulls:
        arguments = {"sites": sites, "lengths": lengths, "null": null, "cache": cache, "progress": progress}
        whole = bank(subject, treebank, **arguments)
        held_out = None if test is None else bank(subject, test, **arguments)
        losses[null] = whole.losses
        for seed in seeds:
            train, dev, judged = parts(whole, held_out, seed)
            for one in metrics:
                probes = fit(train, dev, one, seed=seed, task=task, progress=progress, **options)
                table = score(probes, judged)
                table.insert(1, "layer", layers.loc[table["site"]].to_numpy())
                lines.append(table.assign(metric=one, null=null, seed=seed, task=task, sentences=len(judged)))
    found = pd.concat(lines, ignore_index=True)
    first = ["metric", "null", "seed", "task", "site", "layer", "sentences"]
    found = found[[*first, *(c for c in found if c not in first)]]
    found.attrs["losses"] = losses
    return found


def parts(whole: Bank, held_out: Bank | None, seed: int) -> tuple[Bank, Bank, Bank]:
    """Training, development and test sentences, drawn by ``seed``."""
    if len(whole) < 10:
        raise ValueError(f"{len(whole)} sentences are too few to train and judge a probe: ten at least")
    order = np.random.default_rng(seed).permutation(len(whole))
    n_test = 0 if held_out is not None else len(whole) // 5
    n_dev = max(1, (len(whole) - n_test) // 10)
    judged = whole.subset(order[:n_test]) if held_out is None else held_out
    return whole.subset(order[n_test + n_dev :]), whole.subset(order[n_test : n_test + n_dev]), judged


def intervals(found: pd.DataFrame) -> pd.DataFrame:
    """Mean, lowest and highest over seeds: metric, null, task, site, layer; figure, value, low, high."""
    keys = ["metric", "null", "task", "site", "layer"]
    figures = [c for c in found if c not in (*keys, "seed", "sentences")]
    long = found.melt(keys, figures, var_name="figure").dropna()
    return (
        long.groupby([*keys, "figure"], sort=False)["value"]
        .agg(value="mean", low="min", high="max")
        .reset_index()
    )


def bounds(found: pd.DataFrame) -> pd.DataFrame:
    """Does X_ssp <= X_sp <= X_essp hold? One line a site (and null): ssp, sp, essp (means), holds.

    The paper's X_ssp is a lower and X_essp an upper bound of X_sp; its own figures are of different corpora
    and budgets. ``found`` is of ``measure`` with all three metrics.
    """
    missing = {"sp", "ssp", "essp"} - set(found["metric"])
    if missing:
        raise ValueError(f"measure {sorted(missing)[0]!r} too: the bounds are of sp, ssp and essp")
    table = found.pivot_table(index=["null", "site", "layer"], columns="metric", values="loss", sort=False)
    table = table[["ssp", "sp", "essp"]].reset_index().rename_axis(columns=None)
    return table.assign(holds=(table["ssp"] <= table["sp"]) & (table["sp"] <= table["essp"]))


# ---------------------------------------------------------------------------------- as published


def published_bank(subject: Subject, treebank: Texts, *, sites=("embeddings", "hidden"), length: int = 128):
    """Vectors as the paper's code scores them: every position of texts padded to ``length``, padding too.

    Wordpieces have their word's depth, special tokens and padding depth 2. For ``fit(published=True)`` with
    sp, ssp and essp; about nine positions in ten are padding. ``length`` of the paper is not known to us.
    """
    words = treebank.words.assign(depth=depths(treebank.words))
    by_text = dict(list(words.groupby("text_id")))
    names, values, depth = subject.select(sites), [], []
    for start in range(0, len(treebank), 32):
        part = treebank.frame.iloc[start : start + 32]
        encoded = subject.tokenizer(
            part["text"].tolist(),
            padding="max_length",
            truncation=True,
            max_length=length,
            return_offsets_mapping=True,
            return_tensors="pt",
        )
        spans = encoded.pop("offset_mapping").numpy()
        seen = subject.run(encoded, names)
        values.append(torch.stack([seen[name].half().cpu() for name in names]))
        depth += [_of_pieces(by_text[i], spans[j]) for j, i in enumerate(part["text_id"])]
    n = len(treebank)
    flat = torch.cat(values, dim=1).flatten(1, 2)
    nothing = np.zeros(n * length, dtype=np.int64)
    return Bank(
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


# ---------------------------------------------------------------------------------- fine-tuning


def finetune(
    subject: Subject,
    train: Texts,
    dev: Texts,
    column: str,
    *,
    sites: Sequence[str],
    weights: Sequence[float] = (10.0,),
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    positive: str = "1",
    probes: Probes | None = None,
    frozen: bool = False,
    warmup: float = 0.0,
    rank: int | None = None,
    as_published: bool = False,
    done: pd.DataFrame | None = None,
    keep: Callable[[pd.DataFrame], None] | None = None,
    progress: bool = True,
    **options,
) -> pd.DataFrame:
    """Fine-tune on a sentence label with a tree term at one site: CE + weight * MSE(y s, y c(s)).

    y is 1 for texts of class ``positive`` and 0 for others, s the squared norms of the probed tokens at the
    site and c(s) their depth profile (Li et al. 2023; their weight is 10, at one hidden layer). For each seed
    a baseline without the term is trained too, with the same head, order and dropout.

    sites, weights, seeds    one run for each combination, and one baseline a seed; seed after seed
    probes      of ``fit("ssp")``, as a start; None: fresh ones, U(-.05, .05)
    frozen      the probe stays as it is
    warmup      the term's weight rises from 0 over this share of the steps
    as_published    special tokens and padding are scored too
    done        runs of an earlier call with the same options, which are not run again
    keep        called with the frame after every run, to save it: a sweep that was stopped goes on from there
    options     of ``tuning.finetune``

    Columns: site ("" for the baseline), weight, seed, matthews (whole of ``dev``), batch_matthews (the
    published average over batches of 32), collapsed (one class is all that is said), accuracy, term (last).
    """
    lines: list[dict] = [] if done is None else done.to_dict("records")
    runs = [("", 0.0), *itertools.product(sites, weights)]
    ran = {(line["site"], line["weight"], line["seed"]) for line in lines}
    todo = [(*run, seed) for seed in seeds for run in runs if (*run, seed) not in ran]
    for site in sites:
        subject.select(site)
    truth = dev.frame[column].astype(str).to_numpy()
    for site, weight, seed in tqdm(todo, desc="trees", leave=False, disable=not progress):
        if site:
            start = _start(subject, site, probes, rank, seed)
            matrix = torch.nn.Parameter(start, requires_grad=not frozen)
            tuned = _tuned_with_trees(
                subject, train, column, site, weight, matrix, positive, warmup, as_published, seed, options
            )
        else:
            tuned = tuning.finetune(subject, train, column, seed=seed, progress=False, **options)
        said = tuned.predict(dev)
        lines.append(
            {
                "site": site,
                "weight": weight,
                "seed": seed,
                "matthews": tuning.matthews(truth, said),
                "batch_matthews": _batch_matthews(truth, said),
                "collapsed": len(set(said)) == 1,
                "accuracy": float((truth == said).mean()),
                "term": float(tuned.history["term"].tail(20).mean()),
            }
        )
        if keep:
            keep(pd.DataFrame(lines))
    return pd.DataFrame(lines)


def _start(subject: Subject, site: str, probes: Probes | None, rank: int | None, seed: int) -> torch.Tensor:
    """[width, rank]"""
    if probes is not None:
        if site not in probes.sites:
            raise ValueError(f"the probes are of {', '.join(probes.sites)}, not of {site}")
        return probes.weight[probes.sites.index(site)].clone().to(subject.device)
    width = int(subject.sites.set_index("site")["width"][site])
    generator = torch.Generator().manual_seed(seed)
    shape = (width, rank or width // 2)
    return torch.empty(shape).uniform_(-0.05, 0.05, generator=generator).to(subject.device)


def _tuned_with_trees(
    subject, train, column, site, weight, matrix, positive, warmup, as_published, seed, options
) -> tuning.Tuned:
    classes = sorted(train.frame[column].astype(str).unique())
    if positive not in classes:
        raise ValueError(f"positive={positive!r} is no class of {column!r}: {', '.join(classes)}")
    batch, epochs = options.get("batch", 32), options.get("epochs", 3)
    steps, step = max(1.0, warmup * epochs * len(train) / batch), 0

    def term(seen: dict[str, torch.Tensor], own: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        nonlocal step
        step += 1
        s = (seen[site] @ matrix).square().sum(-1)
        mask = torch.ones_like(own) if as_published else own
        y = (labels == classes.index(positive)).float()[:, None]
        loss = (y * (s - pseudo_depths(s, mask=mask)) * mask).square().sum() / mask.sum().clamp(min=1)
        return weight * min(1.0, step / steps) * loss

    parameters = [matrix] if matrix.requires_grad else []
    return tuning.finetune(
        subject,
        train,
        column,
        sites=[site],
        term=term,
        parameters=parameters,
        seed=seed,
        progress=False,
        **options,
    )


def _batch_matthews(truth: np.ndarray, said: np.ndarray, size: int = 32) -> float:
    """Mean over batches: what the paper reports. Not the Matthews correlation of the set."""
    starts = range(0, len(truth), size)
    return float(np.mean([tuning.matthews(truth[i : i + size], said[i : i + size]) for i in starts]))


def differences(found: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """Each site and weight against the baseline of the same seed.

    Columns: site, weight, seeds, matthews (mean), gain, low, high (mean paired difference, 95 % bootstrap
    over seeds), p (paired t test, times the number of settings tried: Bonferroni), collapsed (share).
    The bootstrap of few seeds is too narrow: an interval without 0 and a large p is no gain.
    ``found`` is of ``finetune``; without a baseline: ``ValueError``.
    """
    base = found[found["site"] == ""].set_index("seed")["matthews"]
    if base.empty:
        raise ValueError("no baseline (site '') among the runs")
    lines, settings = [], found[found["site"] != ""].groupby(["site", "weight"]).ngroups
    for (site, weight), runs in found.groupby(["site", "weight"], sort=False):
        paired = runs["matthews"].to_numpy() - base.loc[runs["seed"]].to_numpy()
        gain = bootstrap(paired, seed=seed)
        lines.append(
            {
                "site": site or "baseline",
                "weight": weight,
                "seeds": len(runs),
                "matthews": runs["matthews"].mean(),
                "gain": gain.value,
                "low": gain.low,
                "high": gain.high,
                "p": min(1.0, settings * _paired_p(paired)),
                "collapsed": runs["collapsed"].mean(),
            }
        )
    return pd.DataFrame(lines)


def _paired_p(differences: np.ndarray) -> float:
    """Of a t test; 1 where nothing differs or there is one seed only."""
    if len(differences) < 2 or not differences.any():
        return 1.0
    return float(ttest_1samp(differences, 0).pvalue)


def choose_site(found: pd.DataFrame) -> str:
    """The site to train trees at, from ``measure`` of sp and ssp: where X_ssp is largest beside X_sp.

    A large X_ssp says that no depth profile is there yet, a small X_sp that syntax is: room for the term
    where it is wanted. The paper proposes to choose a submodule by the metrics; this rule is ours.
    """
    table = found[found["null"] == "none"].pivot_table(
        index="site", columns="metric", values="loss", sort=False
    )
    missing = {"sp", "ssp"} - set(table)
    if missing:
        raise ValueError(f"measure {sorted(missing)[0]!r} too: the site is chosen by sp and ssp")
    return str((table["ssp"] / table["sp"]).idxmax())
