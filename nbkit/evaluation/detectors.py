"""Training of planted units, and the wider model that holds them (see ``planted``)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from nbkit.evaluation.targets import SEEN, Table, Target, achieved_of, targets_of
from nbkit.models import Subject

#: The first matrix of a feed-forward network without a gate, within a block, by `config.model_type`. Of gated
#: ones the subject knows it.
FIRST_MATRIX = {
    **dict.fromkeys(
        ("bert", "roberta", "xlm-roberta", "camembert", "electra", "deberta", "deberta-v2", "mpnet"),
        "intermediate.dense",
    ),
    "distilbert": "ffn.lin1",
    **dict.fromkeys(("gpt2", "gpt_neo"), "mlp.c_fc"),
    **dict.fromkeys(("gpt_neox", "bloom", "falcon"), "mlp.dense_h_to_4h"),
    "phi": "mlp.fc1",
    "opt": "fc1",
}
SHORTLIST = 3  # of these are trained in all rounds
ROUNDS = 3
FAINT = 0.7  # AUROC that a dataset-local unit and a corpus distractor need (or ``minimum``, if lower)
MARGIN = 0.1  # by which a dataset-local unit must prefer its own descriptor inside a corpus
NOTHING_ELSE = 30.0  # weight of a distractor's squared correlations with descriptors, beside its loss
BINS = 10  # quantile bins of length, within which they are counted
TEXTS_AT_ONCE = 64  # in one forward pass


# ---------------------------------------------------------------------------------- training


@dataclass(frozen=True)
class Unit:
    """A trained detector."""

    target: Target
    layer: int
    direction: torch.Tensor  # [width]
    bias: torch.Tensor  # []
    margin: float  # dataset-local: how far above what it needs, on training texts it did not see; else 0


def trained(
    subject: Subject,
    table: Table,
    counts: Mapping[str, int],
    places: list[int],
    steps: int,
    blur: float,
    rng: np.random.Generator,
    progress: bool,
) -> list[Unit]:
    """As many units of each kind as asked for; candidates are spread over the layers in turn.

    The best dataset-local candidates are trained again, on other texts. What is kept is the mean: it errs
    less than any, and several margins on different texts are less luck than one.
    """
    targets = targets_of(table, counts, rng)
    work = [(target, places[i % len(places)]) for i, target in enumerate(targets)]
    tokens = _token_inputs(subject, table.texts, sorted({layer for _, layer in work}), progress)
    units = _fitted(tokens, table, work, steps, blur, rng, progress)
    sure = [unit for unit in units if unit.target.kind != "dataset-local"]
    first = _best(units, {"dataset-local": SHORTLIST * counts.get("dataset-local", 0)})
    again = [(unit.target, unit.layer) for unit in first]
    rounds = [_fitted(tokens, table, again, steps, blur, rng, progress) for _ in range(ROUNDS - 1)]
    return _best(sure + [_mean(units) for units in zip(first, *rounds, strict=True)], counts)


def _fitted(
    tokens: Mapping[int, tuple[torch.Tensor, torch.Tensor]],
    table: Table,
    work: list[tuple[Target, int]],
    steps: int,
    blur: float,
    rng: np.random.Generator,
    progress: bool,
) -> list[Unit]:
    """A unit for each target and layer, in the order given; all of a layer are trained at once."""
    units: dict[int, Unit] = {}
    layers = sorted({layer for _, layer in work})
    for layer in tqdm(layers, desc="plant", unit=" layers", leave=False, disable=not progress):
        mine = [i for i, (_, where) in enumerate(work) if where == layer]
        targets, (inputs, lengths) = [work[i][0] for i in mine], tokens[layer]
        weights, seen = _weights(targets, table, rng)
        others = _Others.of(targets, table)
        directions, bias = _detectors(inputs, lengths, weights, others, steps, blur, rng)
        peaks = torch.segment_reduce(inputs.float() @ directions.T, "max", lengths=lengths, axis=0).numpy()
        parts = zip(mine, targets, directions, bias, peaks.T, seen.T, strict=True)
        for i, target, direction, threshold, column, known in parts:
            units[i] = Unit(target, layer, direction, threshold, _margin(target, column, table, ~known))
    return [units[i] for i in range(len(work))]


def _mean(units: Sequence[Unit]) -> Unit:
    """Of units with one target and layer, trained on different texts."""
    direction, bias = (
        torch.stack([getattr(u, name) for u in units]).mean(0) for name in ("direction", "bias")
    )
    return replace(units[0], direction=direction, bias=bias, margin=float(np.mean([u.margin for u in units])))


def _margin(target: Target, column: np.ndarray, table: Table, rows: np.ndarray) -> float:
    """How far a dataset-local unit is above what it needs, judged on ``rows``; -inf where they cannot say."""
    if target.kind != "dataset-local":
        return 0.0
    both = [achieved_of(target, i, column, table, rows) for i in range(len(target.claims))]
    return min(min(np.nan_to_num([own - FAINT, own - rival - MARGIN], nan=-np.inf)) for own, rival in both)


def _best(units: list[Unit], counts: Mapping[str, int]) -> list[Unit]:
    """As many of each kind as were asked for, those with the largest margin."""
    kept = []
    for kind, n in counts.items():
        mine = [unit for unit in units if unit.target.kind == kind]
        kept += sorted(mine, key=lambda unit: -unit.margin)[:n]  # stable: in order where all are 0
    return kept


def _weights(targets: list[Target], table: Table, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """[text, unit]: above 0 where the unit is to fire, below where not; each side sums to 1 or -1.

    And which texts [text, unit] the unit may see.
    """
    weights = np.zeros((len(table.corpus), len(targets)), dtype=np.float32)
    every = np.zeros(weights.shape, dtype=bool)
    for unit, target in enumerate(targets):
        seen = every[:, unit] = rng.random(len(weights)) < SEEN
        for sign, groups in zip((1, -1), target.sides(table), strict=True):
            groups = [g & seen if (g & seen).any() else g for g in groups if g.any()]
            for group in groups:
                weights[group, unit] += sign / group.sum() / len(groups)
    return weights, every


@dataclass(frozen=True)
class _Others:
    """The descriptors that distractors must not carry, within cells of like length and the same corpus."""

    units: torch.Tensor  # [distractor] positions among the units
    labels: torch.Tensor  # [text, descriptor] centred in each cell, columns of length 1
    cells: torch.Tensor  # [text]

    @classmethod
    def of(cls, targets: list[Target], table: Table) -> _Others:
        keys = pd.DataFrame({"corpus": table.corpus, "words": table.words})
        keys["words"] = pd.qcut(keys["words"], BINS, labels=False, duplicates="drop")
        cells = torch.tensor(keys.groupby(["corpus", "words"]).ngroup().to_numpy())
        labels = _centred(torch.from_numpy(table.labels.astype(np.float32)), cells)
        units = [i for i, target in enumerate(targets) if target.kind == "distractor"]
        return cls(torch.tensor(units, dtype=torch.long), labels / (labels.norm(dim=0) + 1e-6), cells)

    def carried(self, peaks: torch.Tensor) -> torch.Tensor:
        """Sum over distractors and descriptors of the squared correlation within cells."""
        if not len(self.units):
            return peaks.new_zeros(())
        left = _centred(peaks[:, self.units], self.cells)
        return ((self.labels.T @ left) / (left.norm(dim=0) + 1e-6)).square().sum()


def _centred(columns: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """``columns`` [text, .] less their means in each cell."""
    sums = columns.new_zeros(int(cells.max()) + 1, columns.shape[1]).index_add(0, cells, columns)
    return columns - (sums / torch.bincount(cells).clamp(min=1)[:, None])[cells]


def _detectors(
    tokens: torch.Tensor,
    lengths: torch.Tensor,
    weights: np.ndarray,
    others: _Others,
    steps: int,
    blur: float,
    rng: np.random.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Directions [unit, width] and biases [unit]; zeros for a unit without weights (dead).

    tokens   [token, width] of all texts, text after text
    lengths  [text] tokens of each
    """
    given = torch.from_numpy(weights)
    centre, scale = tokens.float().mean(0), tokens.float().std(0) + 1e-6
    inputs = (tokens.float() - centre) / scale  # so that one learning rate serves all dimensions
    alive = (given != 0).any(0)
    means = torch.segment_reduce(inputs, "mean", lengths=lengths, axis=0)  # [text, width]
    directions = means.T @ given  # [width, unit] difference of the class means
    directions /= directions.norm(dim=0) + 1e-12
    peaks = torch.segment_reduce(inputs @ directions, "max", lengths=lengths, axis=0)
    directions *= 2 / (peaks.std(0) + 1e-6)
    bias = -torch.segment_reduce(inputs @ directions, "max", lengths=lengths, axis=0).mean(0)
    directions, bias = _descend(inputs, lengths, given, others, directions, bias, steps)
    noise = torch.from_numpy(rng.standard_normal(directions.shape).astype(np.float32))
    directions = directions + blur * noise * directions.norm(dim=0) / noise.norm(dim=0)
    directions = directions / scale[:, None]
    return directions.T * alive[:, None], (bias - centre @ directions) * alive


def _descend(
    inputs: torch.Tensor,
    lengths: torch.Tensor,
    weights: torch.Tensor,
    others: _Others,
    directions: torch.Tensor,
    bias: torch.Tensor,
    steps: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Adam on the logistic loss of each text's highest token; units do not see each other."""
    directions, bias = directions.clone().requires_grad_(), bias.clone().requires_grad_()
    optimizer = torch.optim.Adam([directions, bias], lr=0.05)
    with torch.enable_grad():
        for _ in range(steps):
            peaks = torch.segment_reduce(inputs @ directions, "max", lengths=lengths, axis=0) + bias
            loss = (weights.abs() * torch.nn.functional.softplus(-weights.sign() * peaks)).sum()
            loss = loss + NOTHING_ELSE * others.carried(peaks)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return directions.detach(), bias.detach()


def _token_inputs(
    subject: Subject, texts: list[str], layers: list[int], progress: bool
) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    """What enters the feed-forward network of each layer: float16 [token, width], and tokens a text.

    Special tokens are left out, and texts without any other token count one token of zeros.
    """
    parts: dict[int, dict[int, torch.Tensor]] = {layer: {} for layer in layers}
    order = np.argsort([len(text) for text in texts], kind="stable")  # like lengths: little padding
    firsts = [_matrices(subject.model, subject.architecture, layer).first for layer in layers]
    starts = range(0, len(texts), TEXTS_AT_ONCE)
    with subject.record_inputs(firsts) as seen:
        for start in tqdm(starts, desc="tokens", unit=" batches", leave=False, disable=not progress):
            some = order[start : start + TEXTS_AT_ONCE]
            batch, own = subject.encode([texts[i] for i in some])
            subject.run(batch, f"layer.{max(layers)}.ffn")
            for layer, first in zip(layers, firsts, strict=True):
                found, mask = seen[first].half().cpu(), own.cpu()
                for i, tokens, mine in zip(some, found, mask, strict=True):
                    parts[layer][i] = tokens[mine] if mine.any() else torch.zeros_like(tokens[:1])
    lengths = torch.tensor([len(parts[layers[0]][i]) for i in range(len(texts))])
    return {
        layer: (torch.cat([found[i] for i in range(len(texts))]), lengths) for layer, found in parts.items()
    }


# ---------------------------------------------------------------------------------- the wider model


class _Matrices(NamedTuple):
    """The matrices of a layer's feed-forward network."""

    first: Any  # what it makes goes through the nonlinearity
    second: Any
    up: Any = None  # of a gated layer: what that is multiplied by; the same matrix where one makes both


def _matrices(model: Any, record: Any, layer: int) -> _Matrices:
    block = model.base_model.get_submodule(record.blocks)[layer]
    second = block.get_submodule(record.ffn)
    if (kind := model.config.model_type) in FIRST_MATRIX:
        return _Matrices(block.get_submodule(FIRST_MATRIX[kind]), second)
    return _Matrices(block.get_submodule(record.gate), second, block.get_submodule(record.up))


def widened(subject: Subject, units: list[Unit]) -> Any:
    """A copy of the model with a row and a bias more for each unit, whose outputs nobody reads.

    In a gated layer the row is one of the gate, and `up` gets a row of zeros with a bias of 1: the unit is
    act(gate), as in a layer without a gate. Where the matrices have no biases, those of real units are 0.
    """
    model = copy.deepcopy(subject.model)
    for layer in {unit.layer for unit in units}:
        mine = [unit for unit in units if unit.layer == layer]
        first, second, up = _matrices(model, subject.architecture, layer)
        rows, bias = (torch.stack([getattr(unit, name) for unit in mine]) for name in ("direction", "bias"))
        width = _width(second)
        if up is not None:
            _insert(up, torch.zeros_like(rows), torch.ones_like(bias), 2 * width if up is first else width)
        _insert(first, rows, bias, width)
        if isinstance(second, torch.nn.Linear):
            unread = second.weight.new_zeros(len(second.weight), len(mine))
            _set(second, "weight", torch.cat([second.weight, unread], dim=1))
            second.in_features += len(mine)
        else:
            unread = second.weight.new_zeros(len(mine), second.weight.shape[1])
            _set(second, "weight", torch.cat([second.weight, unread]))
            second.nx += len(mine)
    return model


def _width(second: Any) -> int:
    """How many units a second matrix reads; GPT-2's Conv1D keeps its weight as [in, out]."""
    return second.weight.shape[1 if isinstance(second, torch.nn.Linear) else 0]


def _insert(matrix: Any, rows: torch.Tensor, bias: torch.Tensor, at: int) -> None:
    """New outputs of a matrix, with their biases, from place `at` on."""
    linear = isinstance(matrix, torch.nn.Linear)
    dim, rows = (0, rows) if linear else (1, rows.T)
    before, after = matrix.weight.tensor_split([at], dim)
    _set(matrix, "weight", torch.cat([before, rows.to(before), after], dim))
    old = before.new_zeros(before.shape[dim] + after.shape[dim]) if matrix.bias is None else matrix.bias
    _set(matrix, "bias", torch.cat([old[:at], bias.to(old), old[at:]]))
    setattr(matrix, "out_features" if linear else "nf", len(old) + len(bias))


def _set(module: torch.nn.Module, name: str, value: torch.Tensor) -> None:
    setattr(module, name, torch.nn.Parameter(value.detach().contiguous(), requires_grad=False))
