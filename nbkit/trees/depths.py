"""Depths: gold trees as numbers, and the depth profile nearest to any numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

ASSIGN = ("greedy", "reverse", "antisort", "random")


# ---------------------------------------------------------------------------------- gold trees


def depths(words: pd.DataFrame) -> pd.Series:
    """Depth of every word [word], 1 for the root; ``words`` has text_id, word_id and head (0: root).

    Several roots are all at depth 1. A cycle, and a head that is no word of its sentence, are a
    ``ValueError`` that names the sentence.
    """
    found, circular = _climbed(heads_of(words), words["text_id"])
    if circular.any():
        bad = words["text_id"].to_numpy()[circular][0]
        raise ValueError(f"the heads of sentence {bad} go round in a circle: no tree")
    return pd.Series(found, index=words.index, name="depth")


def not_trees(words: pd.DataFrame) -> np.ndarray:
    """text_id of the sentences that ``depths`` refuses: with a head that is no word of theirs, or a cycle."""
    heads, lost = _heads(words)
    _, circular = _climbed(heads, words["text_id"])
    return words["text_id"].to_numpy()[lost | circular]


def _climbed(heads: np.ndarray, text_ids: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Steps from each word up to a root, and which words never come to one."""
    found, at = np.zeros(len(heads), dtype=np.int64), np.arange(len(heads))
    alive = np.ones(len(heads), dtype=bool)
    for _ in range(text_ids.value_counts().max() if len(heads) else 0):  # no path is longer than a sentence
        found[alive] += 1
        at[alive] = heads[at[alive]]
        alive &= at >= 0
    return found, alive


def heads_of(words: pd.DataFrame) -> np.ndarray:
    """Position in ``words`` of each word's head; -1: root."""
    heads, lost = _heads(words)
    if lost.any():
        i = int(np.flatnonzero(lost)[0])
        raise ValueError(
            f"sentence {words['text_id'].iloc[i]}: word {words['word_id'].iloc[i]} has the head"
            f" {words['head'].iloc[i]}, which is no word of it"
        )
    return heads


def _heads(words: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the heads, -1 for a root, and which words have a head outside their sentence."""
    missing = {"text_id", "word_id", "head"} - set(words)
    if missing:
        raise ValueError(f"words without {sorted(missing)[0]!r}: load a treebank (CoNLL-U)")
    index = pd.MultiIndex.from_frame(words[["text_id", "word_id"]])
    heads = index.get_indexer(pd.MultiIndex.from_arrays([words["text_id"], words["head"]]))
    root = words["head"].to_numpy() == 0
    heads[root] = -1
    return heads, (heads < 0) & ~root


def distances(words: pd.DataFrame) -> dict[int, np.ndarray]:
    """Number of edges between every two words of each sentence: {text_id: [word, word]}.

    Two roots are one edge apart. Input and errors as for ``depths``.
    """
    depth = depths(words).to_numpy()
    heads = heads_of(words)
    found = {}
    for text_id, rows in words.groupby("text_id", sort=False).indices.items():
        first = rows.min()
        order = rows[np.argsort(depth[rows], kind="stable")]
        table = np.zeros((len(rows), len(rows)), dtype=np.int16)
        done: list[int] = []
        for i in order:
            here, parent = i - first, heads[i] - first
            if heads[i] >= 0:
                line = table[parent, done] + 1
            else:
                line = depth[np.array(done, dtype=int) + first]  # to the other root (1 edge), then down
            table[here, done] = table[done, here] = line
            done.append(here)
        found[int(text_id)] = table
    return found


# ---------------------------------------------------------------------------------- depth profiles


def pseudo_depths(
    s: torch.Tensor,
    *,
    projection: str = "greedy",
    assign: str = "greedy",
    mask: torch.Tensor | None = None,
    seed: int = 0,
) -> torch.Tensor:
    """The depth profile nearest to ``s`` [sentence, word], without gradient.

    A profile, sorted, is 1, 2, then each the same as the one before or one more: a tree has one root, and
    no depth is skipped.

    projection   "greedy": keep or add one, whichever is nearer to the next of the sorted s. In closed form
                 c_1 = 1, c_k = k + min over i in 2..k of (t_i - i), t_2 = 2, t_k = max(2, s_k rounded).
                 "exact": the profile with the least squared error, by dynamic programming over depths
    assign       which word gets which depth. "greedy": the smallest s the smallest depth; "reverse": the
                 same depths in reversed word order; "antisort": the smallest s the largest depth, which has
                 the largest error; "random"
    mask         [sentence, word] False at padding, which gets 0
    seed         of "random"

    Another ``projection`` or ``assign`` is a ``ValueError``; so is "reverse" with padding before a word.
    """
    if projection not in ("greedy", "exact"):
        raise ValueError(f'projection={projection!r}: "greedy" or "exact"')
    if assign not in ASSIGN:
        raise ValueError(f"assign={assign!r}: {', '.join(ASSIGN)}")
    s = s.detach()
    mask = torch.ones_like(s, dtype=torch.bool) if mask is None else mask
    sizes = mask.sum(-1, keepdim=True)
    values, order = s.masked_fill(~mask, torch.inf).sort(dim=-1, stable=True)
    profile = (_greedy if projection == "greedy" else _exact)(values)
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


def _greedy(values: torch.Tensor) -> torch.Tensor:
    """The closed form on sorted values; those of padding are infinite and come last."""
    n = values.shape[-1]
    k = torch.arange(1, n + 1, device=values.device, dtype=torch.float64)
    t = (values.double().clamp(max=n + 1) + 0.5).trunc().clamp(min=2)  # half up: less than 2 is of no matter
    t[..., 1:2] = 2
    least = (t - k)[..., 1:].cummin(-1).values
    first = torch.ones_like(values[..., :1], dtype=torch.float64)
    return torch.cat([first, k[1:] + least], dim=-1)


def _exact(values: torch.Tensor) -> torch.Tensor:
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
