"""Reducers: what one pass over the activations can leave behind when there is no store.

``reduce`` feeds every reducer with the same blocks of rows, so that several of them cost one forward pass
and memory does not grow with the corpus:

    TopK(k)             the k highest and the k lowest rows of every unit
    Moments()           count, mean, standard deviation, minimum, maximum of every unit
    Quantiles(size)     a uniform sample of the rows: quantiles with a bound, and AUROC from the sample
    LabelSums(labels)   sums from which ``.pearson()``, ``.class_means()`` and, with ``gram=True``, the
                        Gram matrix of the units follow exactly

A reducer is begun once, updated with blocks ``[row, unit]``, merged with reducers that saw other rows, and
asked for its result. ``shed`` drops what only the result needs, before a reducer travels to be merged. Sums
are taken about the mean of the first block and kept in float64, so that large offsets do not cost digits.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from nbkit import stats
from nbkit.activations import dask
from nbkit.activations.checks import announce
from nbkit.activations.forward import block_values, progress_bar
from nbkit.activations.plan import Work, identity_of, work_of
from nbkit.models import Subject
from nbkit.texts import Texts


def reduce(
    subject: Subject,
    texts: Texts,
    reducers: Mapping[str, Any],
    *,
    sites: str | Sequence[str] = "ffn",
    rows: str = "text",
    pool: str = "max",
    long: str = "truncate",
    sinks: str = "auto",
    engine: Any = "local",
    progress: bool = True,
) -> dict[str, Any]:
    """Feed ``reducers``, {name: reducer}, in one forward pass, without a store.

    Arguments as in ``capture``. The values are float32. Returns each reducer's result by its name.
    Memory does not grow with the corpus beyond its tokens and the list of rows.
    """
    options = {"sites": sites, "rows": rows, "pool": pool, "long": long, "sinks": sinks, "engine": engine}
    identity = identity_of(subject, texts, **options)
    work = work_of(subject, texts, identity, progress)
    for reducer in reducers.values():
        reducer.begin(work.units, work.plan.rows, subject.device)
    if progress:
        announce(subject, work, work.blocks)
    with progress_bar(subject, texts, progress) as bar:
        if engine == "local":
            _feed(subject, work, work.blocks, reducers, bar)
        else:
            jobs = _runs_of(work.blocks, dask.workers(engine))
            for part, found in dask.deal(_fed, jobs, engine, subject, work, reducers):
                for name, reducer in reducers.items():
                    reducer.merge(found[name])
                bar.update(part[-1][1] - part[0][0])
    return {name: reducer.result() for name, reducer in reducers.items()}


def _feed(subject: Subject, work: Work, blocks: list, reducers: Mapping[str, Any], bar: tqdm | None) -> None:
    for block in blocks:
        values = block_values(subject, work, block, bar)
        first, last = work.plan.first_row[block[0]], work.plan.first_row[block[1]]
        if first == last:
            continue
        numbers = torch.arange(int(first), int(last), device=subject.device)
        for reducer in reducers.values():
            reducer.update(values, numbers)
        del values  # before the next block is made: else two would be in memory


def _fed(blocks: list, subject: Subject, work: Work, reducers: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a worker sends back: reducers that saw ``blocks``."""
    reducers = copy.deepcopy(dict(reducers))
    _feed(subject, work, blocks, reducers, None)
    for reducer in reducers.values():
        reducer.shed()
    return reducers


def _runs_of(blocks: list, workers: int) -> list[list]:
    """Consecutive blocks for each job: a few jobs a worker, so that a lost one costs little."""
    n = max(1, min(len(blocks), 4 * workers))
    return [part.tolist() for part in np.array_split(np.array(blocks), n)]


# ---------------------------------------------------------------------------------- reducers


class Moments:
    """Count, mean, standard deviation (of the population), minimum and maximum of every unit.

    Result: a frame with the columns of ``units`` and count, mean, std, min, max.
    """

    def begin(self, units: pd.DataFrame, rows: pd.DataFrame, device: torch.device) -> None:
        self.units, self.count, n = units, 0, len(units)
        self.mean = torch.zeros(n, dtype=torch.float64, device=device)
        self.squares = torch.zeros(n, dtype=torch.float64, device=device)  # about the mean
        self.low = torch.full((n,), torch.inf, device=device)
        self.high = torch.full((n,), -torch.inf, device=device)

    def update(self, values: torch.Tensor, rows: torch.Tensor) -> None:
        mean = values.mean(0)
        squares = (values - mean).square_().sum(0)
        self._add(len(values), mean.double(), squares.double(), values.amin(0), values.amax(0))

    def shed(self) -> None:
        self.units = None

    def merge(self, other: Moments) -> None:
        self._add(other.count, other.mean, other.squares, other.low, other.high)

    def _add(self, count, mean, squares, low, high) -> None:
        """Chan, Golub and LeVeque 1979: moments of two parts joined."""
        total = self.count + count
        if not count:
            return
        delta = mean - self.mean
        self.mean += delta * (count / total)
        self.squares += squares + delta.square() * (self.count * count / total)
        self.low, self.high = torch.minimum(self.low, low), torch.maximum(self.high, high)
        self.count = total

    def result(self) -> pd.DataFrame:
        std = (self.squares / max(1, self.count)).sqrt()
        columns = {"mean": self.mean, "std": std, "min": self.low, "max": self.high}
        numbers = {name: tensor.cpu().numpy() for name, tensor in columns.items()}
        return self.units.assign(count=self.count, **numbers)


class TopK:
    """The ``k`` highest and the ``k`` lowest rows of every unit (texts, words or tokens).

    Result: a frame with unit, sign (1 high, -1 low), rank, value and the columns of the row. Equal values
    are taken in the order of the rows.
    """

    def __init__(self, k: int = 10) -> None:
        if k < 1:
            raise ValueError(f"k={k}: keep at least one row")
        self.k = k

    def begin(self, units: pd.DataFrame, rows: pd.DataFrame, device: torch.device) -> None:
        self.units, self.rows = units, rows
        self.best = {sign: self._nothing(len(units), device) for sign in (1, -1)}

    def _nothing(self, n: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        values = torch.full((n, self.k), -torch.inf, device=device)
        return values, torch.full((n, self.k), torch.iinfo(torch.int64).max, device=device)

    def update(self, values: torch.Tensor, rows: torch.Tensor) -> None:
        columns = values.T.contiguous()  # a unit's values lie together: five times as fast
        self._keep(1, columns, rows)
        self._keep(-1, columns.neg_(), rows)

    def shed(self) -> None:
        self.units = self.rows = None

    def merge(self, other: TopK) -> None:
        for sign, (values, rows) in other.best.items():
            self._keep(sign, values, rows)

    def _keep(self, sign: int, values: torch.Tensor, rows: torch.Tensor) -> None:
        """Join ``values`` [unit, row] with the best so far; ``rows`` are [row], or [unit, row]."""
        kept, kept_rows = self.best[sign]
        # only units with something above (or level with) their k-th value need sorting
        busy = (values.amax(1) >= kept[:, -1]).nonzero()[:, 0]
        if not len(busy):
            return
        if len(busy) < len(values):
            values, rows = values[busy], rows if rows.ndim == 1 else rows[busy]
        best, which = self._highest(values, rows)
        best, which = torch.cat([kept[busy], best], 1), torch.cat([kept_rows[busy], which], 1)
        order = which.argsort(1)  # then a stable sort by value breaks ties by row
        best, which = best.gather(1, order), which.gather(1, order)
        order = best.argsort(dim=1, descending=True, stable=True)[:, : self.k]
        kept[busy], kept_rows[busy] = best.gather(1, order), which.gather(1, order)

    def _highest(self, values: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The k highest of each unit; where the k-th is tied with the next, those of the first rows."""
        if values.shape[1] <= self.k:
            return values, rows.expand(values.shape)
        best, place = values.topk(self.k + 1, dim=1)
        tied = (best[:, -1] == best[:, -2]).nonzero()[:, 0]
        best, place = best[:, :-1], place[:, :-1]
        if len(tied):
            place[tied] = self._first_of_equals(values[tied], best[tied, -1:])
            best[tied] = values[tied].gather(1, place[tied])
        return best, rows[place] if rows.ndim == 1 else rows.gather(1, place)

    def _first_of_equals(self, values: torch.Tensor, edge: torch.Tensor) -> torch.Tensor:
        """[unit, k] places of all values above ``edge`` [unit, 1], and of the first ones level with it."""
        above, equal = values > edge, values == edge
        left = self.k - above.sum(1, keepdim=True)
        number = equal.cumsum(1, dtype=torch.int32)  # of a value among its equals, from 1
        return (above | equal & (number <= left)).nonzero()[:, 1].reshape(len(values), self.k)

    def result(self) -> pd.DataFrame:
        parts = []
        for sign, (values, rows) in self.best.items():
            value, row = values.cpu().numpy().ravel(), rows.cpu().numpy().ravel()
            part = pd.DataFrame(
                {
                    "unit": np.repeat(self.units["unit"].to_numpy(), self.k),
                    "sign": sign,
                    "rank": np.tile(np.arange(1, self.k + 1), len(values)),
                    "value": sign * value,
                    "row": row,
                }
            )
            parts.append(part[np.isfinite(value)])
        found = pd.concat(parts, ignore_index=True)
        described = self.rows.iloc[found["row"]].reset_index(drop=True)
        return found.drop(columns="row").join(described)


class Quantiles:
    """Quantiles of every unit, from a uniform sample of ``size`` rows (all of them, if there are fewer).

    Which rows is drawn once from ``seed`` for all units, so the sample is itself a small store: ``.values``
    [row, unit] and ``.rows``, to be scored by AUROC or anything else with the labels of those rows. It
    takes size x units x 4 bytes, whatever the corpus.

    Result: the reducer itself, with ``.quantiles(at)`` and ``.bound(delta)``.
    """

    def __init__(self, size: int = 4096, *, seed: int = 0) -> None:
        if size < 2:
            raise ValueError(f"size={size}: a sample of two rows at least")
        self.size, self.seed = size, seed

    def begin(self, units: pd.DataFrame, rows: pd.DataFrame, device: torch.device) -> None:
        size = min(self.size, len(rows))
        drawn = np.random.default_rng(self.seed).choice(len(rows), size, replace=False)
        self.drawn = torch.from_numpy(np.sort(drawn)).to(device)  # [sample] row numbers
        self.units, self.rows, self.total = units, rows.iloc[np.sort(drawn)].reset_index(drop=True), len(rows)
        self.seen = torch.zeros(size, dtype=torch.bool, device=device)
        self.sample = torch.empty(size, len(units), device=device)

    def update(self, values: torch.Tensor, rows: torch.Tensor) -> None:
        place = torch.searchsorted(self.drawn, rows).clamp(max=len(self.drawn) - 1)
        mine = self.drawn[place] == rows
        self.sample[place[mine]] = values[mine].float()
        self.seen[place[mine]] = True

    def shed(self) -> None:
        self.units = self.rows = None

    def merge(self, other: Quantiles) -> None:
        self.sample[other.seen] = other.sample[other.seen]
        self.seen |= other.seen

    def result(self) -> Quantiles:
        return self

    @property
    def values(self) -> np.ndarray:
        """The sampled rows [row, unit]; ``.rows`` says which they are."""
        return self.sample.cpu().numpy()

    def quantiles(self, at: tuple[float, ...] = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)) -> pd.DataFrame:
        """The columns of ``units`` and one for each share in ``at``."""
        found = np.quantile(self.values, at, axis=0)  # torch's own refuses as many numbers as this
        return self.units.assign(**{f"{q:g}": v for q, v in zip(at, found, strict=True)})

    def bound(self, delta: float = 0.05) -> float:
        """With probability 1 - delta no quantile of a unit is further off than this share of the rows.

        Dvoretzky, Kiefer and Wolfowitz with Massart's constant: sqrt(ln(2 / delta) / (2 size)); .021 for
        4,096 rows. 0 where all rows were kept. It holds for sampling without replacement too (Hoeffding).
        """
        return (
            0.0 if self.total <= len(self.drawn) else float(np.sqrt(np.log(2 / delta) / 2 / len(self.drawn)))
        )


class LabelSums:
    """Sums of the units, of labels, and of their products.

    ``labels`` is a frame [row, descriptor]; its index is ``text_id`` for text rows, or
    (``text_id``, ``word_id``) for word rows. ``gram=True`` also keeps the product of units with units, of
    size units squared: for thousands of units, not for a hundred thousand.

    Result: the reducer itself, with ``.pearson()``, ``.class_means()``, ``.covariance()``.
    """

    def __init__(self, labels: pd.DataFrame, *, gram: bool = False) -> None:
        self.labels, self.gram = labels, gram

    def begin(self, units: pd.DataFrame, rows: pd.DataFrame, device: torch.device) -> None:
        keys = self.labels.index.names if self.labels.index.nlevels > 1 else ["text_id"]
        index = pd.MultiIndex.from_frame(rows[keys]) if len(keys) > 1 else pd.Index(rows["text_id"])
        position = self.labels.index.get_indexer(index)
        if (position < 0).any():
            first = index[int(np.argmax(position < 0))]
            raise ValueError(f"the labels have no row for {first}: {(position < 0).sum()} rows lack labels")
        matrix = self.labels.to_numpy(np.float32)[position]
        self.units, self.count, n, d = units, 0, len(units), matrix.shape[1]
        self.matrix = torch.from_numpy(matrix)
        self.shift: Any = None
        self.x, self.xx, self.y, self.yy = (
            torch.zeros(size, dtype=torch.float64, device=device) for size in (n, n, d, d)
        )
        self.xy = torch.zeros(d, n, dtype=torch.float64, device=device)
        self.products = torch.zeros(n, n, dtype=torch.float64, device=device) if self.gram else None

    def update(self, values: torch.Tensor, rows: torch.Tensor) -> None:
        if self.shift is None:
            self.shift = values.mean(0)
        x, y = values - self.shift, self.matrix[rows.cpu()].to(values.device)
        self.count += len(x)
        self.x += x.sum(0)
        self.xx += x.square().sum(0)
        self.y += y.sum(0)
        self.yy += y.square().sum(0)
        self.xy += y.T @ x
        if self.products is not None:
            self.products += x.T @ x

    def shed(self) -> None:
        self.units = self.labels = self.matrix = None

    def merge(self, other: LabelSums) -> None:
        """Add the sums of ``other``, brought to this one's shift."""
        if other.shift is None:
            return
        if self.shift is None:
            self.shift = other.shift
        move = (other.shift - self.shift).double()
        n = other.count
        if self.products is not None:
            cross = torch.outer(other.x, move)
            self.products += other.products + cross + cross.T + n * torch.outer(move, move)
        self.xy += other.xy + torch.outer(other.y, move)
        self.xx += other.xx + 2 * move * other.x + n * move.square()
        self.x += other.x + n * move
        self.y += other.y
        self.yy += other.yy
        self.count += n

    def result(self) -> LabelSums:
        return self

    def _frame(self, matrix: np.ndarray) -> pd.DataFrame:
        return pd.DataFrame(matrix, index=self.labels.columns, columns=self.units["unit"])

    def pearson(self) -> pd.DataFrame:
        """Correlation [descriptor, unit]; 0 where a side is constant."""
        y, yy = self.y[:, None], self.yy[:, None]
        sums = (part.cpu().numpy() for part in (y, yy, self.x, self.xx, self.xy))
        return self._frame(stats.correlation_of_sums(self.count, *sums, tiny=1e-9))

    def class_means(self) -> pd.DataFrame:
        """Mean of every unit weighted by each label, [descriptor, unit]; NaN for an empty label."""
        return self._frame((self.xy / self.y[:, None] + self.shift).cpu().numpy())

    def covariance(self) -> pd.DataFrame:
        """Covariance [unit, unit] of the population; needs ``gram=True``."""
        if self.products is None:
            raise ValueError("the covariance needs LabelSums(labels, gram=True)")
        matrix = self.products / self.count - torch.outer(self.x, self.x) / self.count**2
        return pd.DataFrame(matrix.cpu().numpy(), index=self.units["unit"], columns=self.units["unit"])
