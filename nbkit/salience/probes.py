"""Probes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from nbkit import stats
from nbkit.salience.rankers import Ranking, codes_of, std_of

STEPS = 500  # of a probe's training, at least


# ---------------------------------------------------------------------------------- probes


@dataclass(frozen=True)
class Probe:
    """A linear softmax probe on some units."""

    weight: np.ndarray  # [class, unit]
    bias: np.ndarray
    mean: np.ndarray  # of the units, in training
    std: np.ndarray
    units: np.ndarray  # columns of X it reads
    classes: list[str]

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Class of each row."""
        Z = (np.asarray(X[:, self.units], np.float32) - self.mean) / self.std
        return np.array(self.classes, dtype=object)[(Z @ self.weight.T + self.bias).argmax(1)]

    def accuracy(self, X: np.ndarray, y: Sequence) -> float:
        """Share of rows with the right class; classes that were not in training count as wrong."""
        return float((self.predict(X) == np.asarray(y, dtype=object).astype(str)).mean())


def fit_probe(
    X: np.ndarray,
    y: Sequence,
    *,
    units: np.ndarray | None = None,
    penalty: float = 1e-5,
    epochs: int = 10,
    batch: int = 256,
    learning_rate: float = 3e-3,
    seed: int = 0,
) -> Probe:
    """Train a softmax probe on standardised ``units`` (None: all): Adam, shuffled rows, rate falling to 0.

    ``epochs`` passes over the rows, or as many as make ``STEPS`` steps where rows are few.
    """
    X = np.asarray(X, np.float32)
    codes, classes = codes_of(X, y)
    units = np.arange(X.shape[1]) if units is None else np.asarray(units)
    X = X[:, units]
    mean, std = std_of(X)
    Z, target = torch.from_numpy((X - mean) / std), torch.from_numpy(codes.astype(np.int64))
    generator = torch.Generator().manual_seed(seed)
    weight = torch.zeros(len(classes), len(units), requires_grad=True)
    bias = torch.zeros(len(classes), requires_grad=True)
    optimizer = torch.optim.Adam([weight, bias], lr=learning_rate)
    each = -(-len(Z) // batch)
    epochs = max(epochs, -(-STEPS // each))
    steps = epochs * each
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(Z), generator=generator).split(batch):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(Z[rows] @ weight.T + bias, target[rows])
            (loss + penalty * weight.square().sum()).backward()
            optimizer.step()
            schedule.step()
    return Probe(weight.detach().numpy(), bias.detach().numpy(), mean, std, units, classes)


# ---------------------------------------------------------------------------------- studies


class Split(NamedTuple):
    """Words for training and for the figures; ``groups`` (texts) are never on both sides."""

    train: np.ndarray
    test: np.ndarray


def split_of(y: pd.Series, *, share: float = 0.8, seed: int = 0) -> Split:
    """Rows of ``y`` (by text_id, word_id) cut by text: words of one sentence stay together."""
    texts = y.index.get_level_values(0).to_numpy()
    names, codes = np.unique(texts, return_inverse=True)
    inside = np.isin(codes, stats.halves(len(names), share, seed, least=1)[0])
    return Split(np.flatnonzero(inside), np.flatnonzero(~inside))


def curve(
    X: np.ndarray,
    y: Sequence,
    ranking: Ranking,
    counts: Sequence[int],
    split: Split,
    *,
    seed: int = 0,
    **options,
) -> pd.DataFrame:
    """Accuracy of a probe refitted on the first n units: n, units (as "all" where n is), accuracy."""
    y = np.asarray(y, dtype=object)
    lines = []
    for n in counts:
        probe = fit_probe(X[split.train], y[split.train], units=ranking.top(n), seed=seed, **options)
        lines.append({"n": n, "accuracy": probe.accuracy(X[split.test], y[split.test])})
    return pd.DataFrame(lines)


def minimal_set(
    X: np.ndarray,
    y: Sequence,
    ranking: Ranking,
    split: Split,
    *,
    within: float = 1.0,
    search: str = "bisect",
    seeds: Sequence[int] = (0, 1, 2),
    **options,
) -> pd.DataFrame:
    """How many of the first units are enough for the accuracy of all, less ``within`` per cent of it?

    search   "published": 0.1 ... 9.9 % of the units in steps of .1, then 10 ... 90 %, until the target
             is passed; "bisect": halving between 1 and all, where a curve that rises is assumed (ours: a
             dozen probes instead of up to 108)

    One line for each seed of the probe: seed, units, share, accuracy, target, all (accuracy of all units),
    probes (how many were trained).
    """
    if search not in ("bisect", "published"):
        raise ValueError(f'search={search!r}: "bisect" or "published"')
    y, total, lines = np.asarray(y, dtype=object), X.shape[1], []
    for seed in seeds:
        tried: dict[int, float] = {}

        def score(n: int, seed: int = seed, tried: dict = tried) -> float:
            if n not in tried:
                tried[n] = curve(X, y, ranking, [n], split, seed=seed, **options)["accuracy"][0]
            return tried[n]

        everything = score(total)
        target = everything * (1 - within / 100)
        n = _published(total, score, target) if search == "published" else _bisected(total, score, target)
        line = {"seed": seed, "units": n, "share": n / total, "accuracy": score(n), "target": target}
        lines.append({**line, "all": everything, "probes": len(tried)})
    return pd.DataFrame(lines)


def _published(total: int, score: Callable[[int], float], target: float) -> int:
    shares = [*np.arange(0.1, 10, 0.1), *range(10, 100, 10)]
    counts = [max(1, round(total * share / 100)) for share in shares]
    return next((n for n in dict.fromkeys(counts) if score(n) > target), total)


def _bisected(total: int, score: Callable[[int], float], target: float) -> int:
    low, high = 0, total  # low fails, high passes
    while high - low > max(1, low // 20):  # to 5 %: the probes themselves differ by as much
        middle = (low + high) // 2
        low, high = (low, middle) if score(middle) >= target else (middle, high)
    return high
