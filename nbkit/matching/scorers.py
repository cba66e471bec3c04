"""The scorers, and how labels are joined to activations; the room's manual lists the formulas.

``average_precision``, ``auroc``, ``f1``, ``iou`` and ``mad`` cut the labels at .5; the others take the
probabilities. What has no answer gets a defined one: 0 for pearson, cosine and mad where a side is constant
(cosine: zero), .5 for auroc and 0 (nowhere) or 1 (everywhere) for average precision, 0 for f1, iou and lift
of a descriptor that no row has. Rows tied at the edge of the exemplars share the places that are left: the
mean over all ways to break the tie, whatever the order of the rows. ``soft_wpmi``, which needs ranks, breaks
ties by row order.

Values may be a memory map of any float type. They are read in blocks of units, so memory is a block, a few
times, plus labels and result, however many rows there are. Each unit is sorted once for all descriptors. The
work is torch's: ``device="cuda"`` moves it to a GPU. Activations that are not finite are a ``ValueError``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import torch

from nbkit.activations import Activations
from nbkit.stats import auroc_of_ranks

Scorer = Callable[..., np.ndarray]  # (values [row, unit], labels [row, descriptor]) -> [descriptor, unit]

BLOCK_BYTES = 2**25  # float64 activations of one block of units


def score(values: Activations | np.ndarray, labels: pd.DataFrame, method: str = "pearson") -> pd.DataFrame:
    """Scores ``[descriptor, unit]`` of every descriptor for every unit.

    ``values`` is a store of text rows or an array ``[row, unit]``; ``labels`` has one row for each of
    its rows (for a store: indexed by ``text_id``). Rows that do not match, and labels outside [0, 1],
    are a ``ValueError``, and so are activations that are not finite (the unit is named).
    """
    scorer = scorer_of(method)
    if isinstance(values, Activations):
        labels, names, values = align(values, labels), values.units["unit"].to_numpy(), values.values
    else:
        names = np.arange(np.shape(values)[1])
    if len(values) != len(labels):
        raise ValueError(f"{len(values)} rows of activations and {len(labels)} rows of labels")
    if not len(values):
        raise ValueError("no rows to score: is the corpus empty, or the selection?")
    matrix = checked(labels)
    try:
        found = scorer(values, matrix)
    except NotFinite as error:
        raise named(error, names, 0) from None
    return pd.DataFrame(found, index=labels.columns, columns=names)


def align(activations: Activations, labels: pd.DataFrame) -> pd.DataFrame:
    """``labels`` [text_id, descriptor] in the order of the rows of ``activations``.

    A text without labels, or two rows or columns of one name: ``ValueError``.
    """
    _refuse_doubles(labels)
    text_ids = activations.rows["text_id"]
    missing = ~text_ids.isin(labels.index)
    if missing.any():
        raise ValueError(
            f"the label matrix has no row for {missing.sum()} of {len(text_ids)} rows of"
            f" {activations!r}, the first is text {text_ids[missing].iloc[0]}: make the labels from"
            " the same corpus (texts.descriptors() or descriptors.label(texts, ...))"
        )
    if not labels.index.is_unique:
        twice = labels.index[labels.index.duplicated()][0]
        raise ValueError(f"the label matrix has two rows for text {twice}")
    return labels.loc[text_ids]


def both(scorer: Scorer) -> Scorer:
    """Candidates from both ends of a unit: ``[descriptor when high, descriptor when low; unit]``."""
    return lambda values, labels: np.concatenate([scorer(values, labels), scorer(-values, labels)])


def named(error: NotFinite, names, start: int) -> ValueError:
    """The same complaint, with the unit's name."""
    return ValueError(str(error).replace(f"unit {error.column} ", f"unit {names[start + error.column]} ", 1))


def scorer_of(method: str) -> Scorer:
    """The scorer of that name. ``ValueError`` for one that does not exist, with those that do."""
    if method not in SCORERS:
        raise ValueError(f"unknown scorer {method!r}; there are {', '.join(SCORERS)}")
    return SCORERS[method]


def checked(labels: pd.DataFrame) -> np.ndarray:
    """The labels as float32 [row, descriptor]. Outside [0, 1], or two columns of one name: ``ValueError``."""
    _refuse_doubles(labels)
    matrix = labels.to_numpy(dtype=np.float32)
    bad = ~((matrix >= 0) & (matrix <= 1))
    if bad.any():
        row, column = (int(x[0]) for x in np.nonzero(bad))
        raise ValueError(
            f"label {labels.columns[column]!r} of row {labels.index[row]} is {matrix[row, column]}:"
            " labels are probabilities, in [0, 1]"
        )
    return matrix


def _refuse_doubles(labels: pd.DataFrame) -> None:
    if not labels.columns.is_unique:
        name = labels.columns[labels.columns.duplicated()][0]
        raise ValueError(f"the label matrix has two columns {name!r}: merge them, or rename one")


class NotFinite(ValueError):
    """An activation is NaN or infinite; ``column`` is the unit's position."""

    def __init__(self, column: int):
        super().__init__(
            f"the activations of unit {column} are not finite (NaN or infinity): capture them again, in"
            " float32 if they are too large for float16, or leave the unit out"
        )
        self.column = column


def pearson(values: np.ndarray, labels: np.ndarray, *, device: str = "cpu") -> np.ndarray:
    """Pearson correlation ``[descriptor, unit]``; 0 where a side is constant."""
    return _cosines(values, labels, device, centred=True)


def cosine(values: np.ndarray, labels: np.ndarray, *, device: str = "cpu") -> np.ndarray:
    """Cosine ``[descriptor, unit]`` of activation and label, not centred; 0 where a side is zero."""
    return _cosines(values, labels, device, centred=False)


def mad(values: np.ndarray, labels: np.ndarray, *, device: str = "cpu") -> np.ndarray:
    """CoSy's mean activation difference ``[descriptor, unit]``, in deviations (n) of the rows without.

    0 where all rows or none have the descriptor, or those without it do not vary.
    """
    on = _positives(labels, device)  # [descriptor, row]
    n_on = on.sum(1, keepdim=True)
    n_off = on.shape[1] - n_on

    def block(x: torch.Tensor) -> torch.Tensor:
        x = x.double()
        shift = x.mean(1, keepdim=True)  # sums around the mean: large offsets cost no precision
        x = x - shift
        on_x, on_xx = on @ x.T, on @ (x * x).T
        off = (x.sum(1) - on_x) / n_off
        squares = (torch.linalg.vecdot(x, x) - on_xx) / n_off
        deviation = _deviation(squares - off**2, (off + shift[:, 0]).abs())
        return torch.nan_to_num((on_x / n_on - off) / deviation, nan=0.0, posinf=0.0, neginf=0.0)

    return _each(values, labels, block, device)


def auroc(values: np.ndarray, labels: np.ndarray, *, device: str = "cpu") -> np.ndarray:
    """P(a text with the descriptor is above one without), ties half: Mann-Whitney U / (n+ n-).

    Does not depend on how frequent a descriptor is, which makes it fit to compare corpora. A
    descriptor that every row has, or none, gets .5.
    """
    on = _positives(labels, device)  # [descriptor, row]

    def block(x: torch.Tensor) -> torch.Tensor:
        ordered, order = _sorted(x)
        last = _last(ordered)
        first = x.shape[1] - 1 - _last(ordered.flip(1)).flip(1)
        ranks = torch.empty_like(x, dtype=torch.float64)
        ranks.scatter_(1, order, (first + last).double() / 2 + 1)
        return auroc_of_ranks(on, ranks)

    return _each(values, labels, block, device)


def average_precision(values: np.ndarray, labels: np.ndarray, *, device: str = "cpu") -> np.ndarray:
    """Sum over the distinct activations, from the top, of (gain in recall) x precision.

    As ``sklearn.metrics.average_precision_score``: rows with the same activation count together. 0 for
    a descriptor that no row has.
    """
    hits = [torch.from_numpy(np.flatnonzero(c)).to(device) for c in (np.asarray(labels) > 0.5).T]

    def block(x: torch.Tensor) -> torch.Tensor:
        ordered, order = _sorted(-x)
        place = torch.empty_like(order, dtype=torch.int32)  # rows at least as high, [unit, row]
        place.scatter_(1, order, (_last(ordered) + 1).int())
        parts = [_precision_at_hits(place.index_select(1, rows), x.shape[1]) for rows in hits]
        return torch.stack(parts) if parts else x.new_zeros(0, len(x))

    return _each(values, labels, block, device)


def _precision_at_hits(place: torch.Tensor, rows: int) -> torch.Tensor:
    """Mean precision ``[unit]`` at the places ``[unit, hit]`` of the rows with the descriptor; 0 for none."""
    if not place.shape[1]:
        return torch.zeros(len(place), dtype=torch.float64, device=place.device)
    place = place.short() if rows < 2**15 else place
    place = place.sort(dim=1)[0] if place.is_cuda else torch.from_numpy(np.sort(place.numpy(), axis=1))
    return ((_last(place) + 1).double() / place).mean(1)


def f1(values: np.ndarray, labels: np.ndarray, *, alpha: float = 0.05, device: str = "cpu") -> np.ndarray:
    """F1 of "among the ``alpha`` highest rows" for the descriptor: 2 tp / (k + n+)."""
    hits, k, n = _overlap(values, labels, alpha, device)
    return 2 * hits / (k + n)


def iou(values: np.ndarray, labels: np.ndarray, *, alpha: float = 0.05, device: str = "cpu") -> np.ndarray:
    """Intersection over union of the ``alpha`` highest rows and the descriptor's: tp / (k + n+ - tp)."""
    hits, k, n = _overlap(values, labels, alpha, device)
    return hits / (k + n - hits)


def frequency(
    values: np.ndarray, labels: np.ndarray, *, exemplars: int = 20, device: str = "cpu"
) -> np.ndarray:
    """P(descriptor | exemplar): the mean label over the ``exemplars`` highest activations (all, if fewer)."""
    k = min(exemplars, len(values))
    return _top_sum(values, labels, np.asarray(labels), k, device) / k


def lift(values: np.ndarray, labels: np.ndarray, *, exemplars: int = 20, device: str = "cpu") -> np.ndarray:
    """P(descriptor | exemplar) / P(descriptor): how much more common among the exemplars; 0 if nowhere."""
    base = np.asarray(labels, dtype=float).mean(0)[:, None]
    found = frequency(values, labels, exemplars=exemplars, device=device)
    return np.divide(found, base, out=np.zeros_like(found), where=base > 0)


def wpmi(
    values: np.ndarray,
    labels: np.ndarray,
    *,
    exemplars: int = 20,
    lam: float = 1.0,
    least: float = 1e-7,
    device: str = "cpu",
) -> np.ndarray:
    """Mean over exemplars of log P(c | x), minus ``lam`` log of the mean P(c).

    Probabilities are at least ``least``; a descriptor that no row has gets log ``least``, the lowest.
    """
    labels, k = np.asarray(labels, dtype=float), min(exemplars, len(values))
    logs, base = np.log(np.maximum(labels, least)), labels.mean(0)
    prior = np.where(base > 0, np.log(np.maximum(base, least)), 0)
    return _top_sum(values, labels, logs, k, device) / k - lam * prior[:, None]


def soft_wpmi(
    values: np.ndarray, labels: np.ndarray, *, exemplars: int = 100, lam: float = 1.0, device: str = "cpu"
) -> np.ndarray:
    """CLIP-Dissect's soft-WPMI. Scores depend on which other units are given: they are the prior.

    The i-th exemplar belongs to the unit with p_i, from .998 down to .97; evidence is the sum of
    log(1 + p_i (P_i - 1) + 1e-7); minus ``lam`` times its log-mean-exp over the units.
    """
    k, c = min(exemplars, len(values)), _tensor(np.asarray(labels).T, device).double()
    member = 0.998 - torch.arange(k, device=device, dtype=torch.float64) / k * (0.998 - 0.97)

    def block(x: torch.Tensor) -> torch.Tensor:
        best = x.sort(dim=1, descending=True, stable=True).indices[:, :k]  # [unit, exemplar]
        parts = [torch.log(1 + member * (one[best] - 1) + 1e-7).sum(-1) for one in c]
        return torch.stack(parts) if parts else x.new_zeros(0, len(x))

    evidence = _each(values, labels, block, device)
    return evidence - lam * (np.logaddexp.reduce(evidence, axis=1, keepdims=True) - np.log(evidence.shape[1]))


SCORERS: dict[str, Scorer] = {
    "pearson": pearson,
    "cosine": cosine,
    "average_precision": average_precision,
    "f1": f1,
    "iou": iou,
    "auroc": auroc,
    "mad": mad,
    "frequency": frequency,
    "lift": lift,
    "wpmi": wpmi,
    "soft_wpmi": soft_wpmi,
}

#: Scorers that need all units at once, since a unit's score depends on the others.
TOGETHER = frozenset({"soft_wpmi"})


# ---------------------------------------------------------------------------------- inside


def _tensor(array: np.ndarray, device: str) -> torch.Tensor:
    """Contiguous, float64 if it was, else float32, on the device."""
    kind = np.float64 if array.dtype == np.float64 else np.float32
    return torch.from_numpy(np.array(array, dtype=kind, order="C")).to(device)


def _check_finite(x: torch.Tensor, start: int = 0) -> None:
    bad = ~torch.isfinite(x.sum(1, dtype=torch.float64))
    if bad.any():
        raise NotFinite(start + int(bad.nonzero()[0]))


def _blocks(values: np.ndarray, device: str) -> Iterator[torch.Tensor]:
    """Blocks ``[unit, row]`` of activations, in order; stores lie unit after unit, so this is one read."""
    width = max(1, BLOCK_BYTES // (8 * max(1, len(values))))
    for start in range(0, values.shape[1], width):
        x = _tensor(np.asarray(values[:, start : start + width]).T, device)
        _check_finite(x, start)
        yield x


def _each(values: np.ndarray, labels: np.ndarray, block: Callable, device: str) -> np.ndarray:
    """``block(x)`` -> [descriptor, unit] of every block of units, side by side."""
    parts = [np.zeros((np.shape(labels)[1], 0))]
    for x in _blocks(values, device):
        parts.append(block(x).cpu().numpy())
    return np.concatenate(parts, axis=1)


def _cosines(values: np.ndarray, labels: np.ndarray, device: str, *, centred: bool) -> np.ndarray:
    """One product of unit vectors: no arithmetic on [descriptor, unit], which may be far larger than both."""
    c = _unit_length(_tensor(np.asarray(labels).T, device), centred)
    return _each(values, labels, lambda x: (c @ _unit_length(x, centred).T).clamp_(-1, 1), device)


def _unit_length(x: torch.Tensor, centred: bool) -> torch.Tensor:
    """Rows of ``x`` [., row] in float64 at length 1; 0 where a row is constant (or, not centred, zero)."""
    x = x.double()
    size = x.abs().amax(1, keepdim=True) * x.shape[1] ** 0.5
    if centred:
        x = x - x.mean(1, keepdim=True)
    length = x.norm(dim=1, keepdim=True)
    return x / torch.where(length > 1e-6 * size, length, torch.inf)


def _positives(labels: np.ndarray, device: str) -> torch.Tensor:
    """``[descriptor, row]``, 1 where the label is above .5."""
    return torch.from_numpy((np.asarray(labels).T > 0.5).astype(float)).to(device)


def _deviation(variance: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """Square root; infinite where it is rounding noise beside ``size``, so that a quotient is 0."""
    found = variance.clamp(min=0).sqrt()
    return torch.where(found > 1e-6 * size, found, torch.inf)


def _sorted(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of ``x`` in ascending order, and their order; numpy sorts faster than torch on a CPU."""
    if x.is_cuda:
        values, order = x.sort(dim=1)
        return values, order
    found = np.argsort(x.numpy(), axis=1)
    return torch.from_numpy(np.take_along_axis(x.numpy(), found, axis=1)), torch.from_numpy(found)


def _last(ordered: torch.Tensor) -> torch.Tensor:
    """Last position ``[unit, row]`` of the run of equal values that each place is in."""
    end = torch.ones_like(ordered, dtype=torch.bool)
    end[:, :-1] = ordered[:, 1:] != ordered[:, :-1]
    ends = end.flatten().nonzero()[:, 0]  # a unit's last place is an end: runs do not reach over units
    runs = ends.diff(prepend=ends.new_full((1,), -1))
    return (ends % ordered.shape[1]).repeat_interleave(runs).reshape(ordered.shape)


def _top(x: torch.Tensor, k: int) -> torch.Tensor:
    """How much each row ``[unit, row]`` is among the k highest: 1, 0, or a share of the tied places."""
    edge = x.topk(k, dim=1).values[:, -1:]
    above, tied = x > edge, x == edge
    share = (k - above.sum(1, keepdim=True)).double() / tied.sum(1, keepdim=True)
    return above.double() + tied * share


def _top_sum(values, labels, weights: np.ndarray, k: int, device: str) -> np.ndarray:
    """Sum of ``weights`` [row, descriptor] over the k highest rows of each unit."""
    c = _tensor(weights.T, device).double()
    return _each(values, labels, lambda x: c @ _top(x, k).T, device)


def _overlap(values, labels, alpha: float, device: str) -> tuple[np.ndarray, int, np.ndarray]:
    """tp [descriptor, unit], rows taken, positives [descriptor, 1]."""
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha={alpha}: the share of rows that count as active is in (0, 1]")
    k = max(1, round(alpha * len(values)))
    on = (np.asarray(labels) > 0.5).astype(float)
    return _top_sum(values, labels, on, k, device), k, on.sum(0)[:, None]
