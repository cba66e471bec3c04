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

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.sparse.csgraph import minimum_spanning_tree

from nbkit import stats
from nbkit.models import Subject
from nbkit.texts import Texts
from nbkit.trees.depths import pseudo_depths
from nbkit.trees.probes import (
    Loss,
    Probes,
    edge_scores,
    fit,
    mean_loss,
    squared_distances,
    squared_norms,
    vectors,
    with_task,
)
from nbkit.trees.treebank import TreeDataset, dataset

# ---------------------------------------------------------------------------------- what probes reach


@torch.inference_mode()
def score(probes: Probes, test: TreeDataset) -> pd.DataFrame:
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
    loss_of = Loss(probes.metric, options["assign"], options["projection"], options["seed"])
    test = with_task(test, options["task"])
    weights = [probes.weight, probes.heads] if probes.metric == "edge" else [probes.weight]
    columns = ("entropy", "mean_depth", "spearman", "root_accuracy", "uuas", "accuracy")
    found = {name: np.full(len(probes.sites), np.nan) for name in columns}
    found |= _TALLIES[probes.metric](probes, test)
    loss = mean_loss(loss_of, test, weights).numpy()
    return pd.DataFrame({"site": probes.sites, "loss": loss, **found, "rank": probes.rank()})


def _profile_figures(probes: Probes, test: TreeDataset) -> dict[str, np.ndarray]:
    """Shape of the profiles that the norms are nearest to, and how the norms order the words."""
    entropy, mean, n = 0.0, 0.0, 0
    for _, rows in test.batches():
        c = pseudo_depths(squared_norms(vectors(test, rows), probes.weight))
        share = torch.nn.functional.one_hot(c.long() - 1).float().mean(2)
        entropy = entropy - (share * share.clamp(min=1e-12).log2()).sum(-1).sum(1)
        mean, n = mean + c.mean(2).sum(1), n + len(rows)
    found = {"entropy": (entropy / n).numpy(), "mean_depth": (mean / n).numpy()}
    return found | (_depth_figures(probes, test) if probes.metric == "sp" else {})


def _depth_figures(probes: Probes, test: TreeDataset) -> dict[str, np.ndarray]:
    by_length, right, n = {}, 0.0, 0
    for _, rows in test.batches():
        s = squared_norms(vectors(test, rows), probes.weight).numpy()
        gold = test.depth[rows]
        right = right + (np.take_along_axis(gold[None], s.argmin(-1)[..., None], -1)[..., 0] == 1).sum(1)
        n += len(rows)
        by_length.setdefault(rows.shape[1], []).append(_spearman(s, gold[None]))
    return {"spearman": _over_lengths(by_length), "root_accuracy": right / n}


def _distance_figures(probes: Probes, test: TreeDataset) -> dict[str, np.ndarray]:
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


def _edge_figures(probes: Probes, test: TreeDataset) -> dict[str, np.ndarray]:
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
def predicted_edges(probes: Probes, sentences: TreeDataset, number: int) -> dict[str, set[tuple[int, int]]]:
    """{site: edges} of the spanning tree that distance probes see in one sentence, without punctuation."""
    start, size = sentences.starts[number], sentences.sizes[number]
    rows = np.arange(start, start + size)[None]
    found = squared_distances(vectors(sentences, rows), probes.weight)[:, 0].numpy()
    return {site: spanning_tree(found[i], ~sentences.punct[rows[0]]) for i, site in enumerate(probes.sites)}


def gold_edges(sentences: TreeDataset, number: int) -> set[tuple[int, int]]:
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
    r = stats.rank_correlation(a, b, undefined=np.nan)
    defined = np.isfinite(r)
    return np.where(defined, r, 0).sum(-1) / np.maximum(1, defined.sum(-1))


def _over_lengths(by_length: Mapping[int, list[np.ndarray]]) -> np.ndarray:
    """Mean over sentence lengths 5 to 50 of the mean over sentences (batches of one length are alike)."""
    found = [np.mean(parts, axis=0) for size, parts in by_length.items() if 5 <= size <= 50]
    return np.mean(found, axis=0) if found else np.array(np.nan)


def linear_baseline(test: TreeDataset) -> dict[str, float]:
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
    ["dropped"] counts what was left out. ``intervals`` sums the seeds up.
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
            train, dev, judged = parts(whole, held_out, seed)
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


def parts(
    whole: TreeDataset, held_out: TreeDataset | None, seed: int
) -> tuple[TreeDataset, TreeDataset, TreeDataset]:
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
