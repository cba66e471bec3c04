"""Rankers: how salient is each unit for the classes of words?

    RANKERS[method](X, codes, seed=0, **options) -> scores [unit], notes

``X`` is [word, unit] in float32, ``codes`` [word] are classes as numbers from 0. Higher scores are better;
constant units get 0; ``notes`` is a dict of what the method leaves behind. ``rank`` checks its input and
turns scores into an order.

    greedy              forward selection by explained variance (the default)
    lca                 weights of a penalised linear probe, as published
    lasso               group lasso on all classes at once, exact zeros
    omp                 orthogonal matching pursuit, class by class
    rfe                 backward: without the unit of least weight, again and again
    probeless           sum over pairs of classes of |difference of means|
    gaussian            forward selection by the likelihood of class-conditional Gaussians
    iou, selectivity, mutual_information      each unit by itself, for its best class
    random              the baseline

All down to ``probeless`` (``FROM_MOMENTS``) but ``lca`` need no more than sums over the words.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from scipy.linalg import cholesky, solve_triangular
from scipy.special import logsumexp
from sklearn.linear_model import MultiTaskLasso, orthogonal_mp_gram

from nbkit import matching
from nbkit.activations import LabelSums

FLAT = 1e-6  # deviation, relative to its mean and to the median unit's, up to which a unit is constant


class Moments(NamedTuple):
    """All that a linear ranker needs of words and classes."""

    gram: np.ndarray  # [unit, unit] correlations
    cross: np.ndarray  # [unit, class] covariance with the one-hot classes, divided by the root of the prior
    means: np.ndarray  # [class, unit] of the standardised units
    prior: np.ndarray  # [class]
    classes: list[str]

    def unscaled(self) -> np.ndarray:
        """Covariance [unit, class] with the one-hot classes themselves."""
        return self.cross.astype(np.float64) * np.sqrt(self.prior)


def moments(X: np.ndarray, y: ArrayLike) -> Moments:
    """Moments of standardised units and classes; constant units are zero throughout."""
    codes, classes = codes_of(X, y)
    mean, std = std_of(X)
    prior = np.bincount(codes) / len(codes)
    onehot = np.zeros((len(codes), len(classes)), dtype=np.float32)
    onehot[np.arange(len(codes)), codes] = 1
    Z = (X - mean) / std
    means = (onehot.T @ Z) / (len(codes) * prior[:, None])
    return Moments(Z.T @ Z / len(Z), _cross(means, prior), means, prior, classes)


def moments_of(sums: LabelSums) -> Moments:
    """``moments`` from ``LabelSums(one_hot_labels, gram=True)``, gathered by ``activations.reduce``."""
    covariance = sums.covariance().to_numpy()
    std = np.sqrt(np.clip(np.diag(covariance), 0, None))
    centre = (sums.x / sums.count + sums.shift).cpu().numpy()
    std = _unless_constant(std, centre)
    prior = (sums.y / sums.count).cpu().numpy()
    means = np.nan_to_num((sums.class_means().to_numpy() - centre) / std)
    gram = covariance / std[:, None] / std
    return Moments(gram, _cross(means, prior), means, prior, list(map(str, sums.labels.columns)))


def _cross(means: np.ndarray, prior: np.ndarray) -> np.ndarray:
    # mean of z (1[c] - p) / sqrt(p) = sqrt(p) (mean of z in c), since z has mean zero
    return (np.sqrt(prior)[:, None] * means).T


def codes_of(X: np.ndarray, y: ArrayLike) -> tuple[np.ndarray, list[str]]:
    """Class of each row as a number, and the names of the classes.

    Other numbers of rows than of classes, activations that are not finite and a single class: ``ValueError``.
    """
    of_row = np.asarray(y, dtype=object)
    if len(X) != len(of_row):
        raise ValueError(f"{len(X)} rows of activations and {len(of_row)} classes")
    if not np.isfinite(X).all():
        unit = int(np.flatnonzero(~np.isfinite(X).all(0))[0])
        raise ValueError(
            f"unit {unit} has activations that are not finite: capture in float32, or leave it out"
        )
    codes, classes = pd.factorize(of_row, sort=True)
    if len(classes) < 2:
        raise ValueError(f"the property has {len(classes)} class(es): a probe needs two at least")
    return codes, [str(c) for c in classes]


def std_of(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the units; infinite for constant ones, so that they become zero."""
    mean = X.mean(0, dtype=np.float64)
    std = np.sqrt(np.maximum(np.square(X - mean.astype(X.dtype)).mean(0, dtype=np.float64), 0))
    std = _unless_constant(std, mean)
    return mean.astype(np.float32), std.astype(np.float32)


def _unless_constant(std: np.ndarray, mean: np.ndarray) -> np.ndarray:
    least = FLAT * np.maximum(np.abs(mean), np.median(std) if len(std) else 0)
    return np.where(std > np.maximum(least, 1e-12), std, np.inf)


# ---------------------------------------------------------------------------------- methods


def greedy(m: Moments, *, depth: int = 512, by_prior: bool = True) -> tuple[np.ndarray, dict]:
    """Forward selection: the unit that explains most of what the chosen ones leave of the classes.

    With r_u the residual of unit u after regression on the chosen units, y_c the one-hot classes and p_c
    their shares, the gain of u is sum over c of cov(r_u, y_c)^2 / p_c / var(r_u), from a pivoted Cholesky
    factorisation of the Gram matrix. This is stepwise discriminant analysis: the gains add up to Pillai's
    trace of the chosen units. ``by_prior=False`` leaves out the division by p_c: the gains are then squared
    error of the one-hot classes, and frequent classes weigh more.

    The first ``depth`` units are chosen so; the others follow by their gain after these. Scores count down
    with the order; ``notes["gains"]`` are the gains of the chosen units.
    """
    left, cross = np.diag(m.gram).copy(), m.cross.astype(np.float64) if by_prior else m.unscaled()
    alive, chosen, gains, factors = left > 0.5, [], [], []
    for _ in range(min(depth, int(alive.sum()))):
        gain = np.where(alive & (left > 1e-6), (cross**2).sum(1) / np.maximum(left, 1e-6), -1)
        best = int(gain.argmax())
        if gain[best] <= 0:
            break
        column = m.gram[:, best].astype(np.float64)
        if factors:
            stacked = np.stack(factors)
            column = column - stacked[:, best] @ stacked
        column /= np.sqrt(left[best])
        cross -= np.outer(column, cross[best] / np.sqrt(left[best]))
        left -= column**2
        alive[best] = False
        factors.append(column)
        chosen.append(best)
        gains.append(gain[best])
    rest = np.where(alive & (left > 1e-6), (cross**2).sum(1) / np.maximum(left, 1e-6), 0)
    return _in_order(chosen, rest), {"gains": np.array(gains)}


def _in_order(chosen: Sequence[int] | np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Scores [unit]: the chosen units count down to 1; the others are between 0 and .5 by ``rest``."""
    scores = rest / (rest.max(initial=0) + 1e-12) * 0.5
    scores[list(chosen)] = np.arange(len(chosen), 0, -1)
    return scores


def lasso(m: Moments, *, alpha: float = 0.01, steps: int = 1000) -> tuple[np.ndarray, dict]:
    """Group lasso on all classes at once: min |Y - ZW|^2 / 2N + alpha sum over units of |W_u|.

    scikit-learn's ``MultiTaskLasso``. Scores are the norms |W_u|, with exact zeros for units left out;
    ``notes``: weights [unit, class], gap (the dual gap, 0 at the optimum), steps.
    """
    found = MultiTaskLasso(alpha=alpha, fit_intercept=False, max_iter=steps).fit(*_rows_of(m))
    weights = found.coef_.T
    return np.linalg.norm(weights, axis=1), {
        "weights": weights,
        "gap": found.dual_gap_,
        "steps": found.n_iter_,
    }


def _rows_of(m: Moments) -> tuple[np.ndarray, np.ndarray]:
    """As many rows [row, unit], [row, class] as units, with the same moments: what libraries can fit."""
    size = len(m.gram)
    lower = cholesky(m.gram.astype(np.float64) + 1e-6 * np.eye(size), lower=True)
    return np.sqrt(size) * lower.T, np.sqrt(size) * solve_triangular(lower, m.cross, lower=True)


def omp(m: Moments, *, depth: int = 50) -> tuple[np.ndarray, dict]:
    """Orthogonal matching pursuit for each class, ``depth`` steps; a unit counts by its earliest step.

    scikit-learn's ``orthogonal_mp_gram``: at each step the unit of largest covariance with what the chosen
    ones leave of the class. Units that enter at one step, for different classes, are in the order of their
    weight; units that no class chose follow by their covariance with the classes.
    """
    gram, entered = m.gram.astype(np.float64), np.zeros(len(m.gram))
    for cross in m.unscaled().T:
        path: Any = orthogonal_mp_gram(gram, cross, n_nonzero_coefs=min(depth, len(gram)), return_path=True)
        path = np.abs(path.reshape(len(gram), -1))  # [unit, step]
        step, steps = (path > 0).argmax(1), path.shape[1]
        weight = path[np.arange(len(gram)), step]
        entered = np.maximum(entered, np.where(weight > 0, steps - step + weight / (1 + weight), 0))
    chosen = np.argsort(-entered, kind="stable")[: int((entered > 0).sum())]
    return _in_order(chosen, np.square(m.cross).sum(1)), {"chosen": chosen}


def rfe(m: Moments, *, ridge: float = 1e-3) -> tuple[np.ndarray, dict]:
    """Recursive feature elimination: least squares on all units, without that of least |W_u|, and again.

    ``ridge`` is the penalty on |W|^2, relative to the number of words. One unit goes at a time; the inverse
    of the Gram matrix is brought up to date rather than computed anew. The score is the round in which a
    unit goes.
    """
    left, scores = np.arange(len(m.gram)), np.zeros(len(m.gram))
    inverse = np.linalg.inv(m.gram.astype(np.float64) + ridge * np.eye(len(m.gram)))
    weights = inverse @ m.unscaled()
    for number in range(len(scores)):
        worst = int(np.square(weights).sum(1).argmin())
        scores[left[worst]] = number
        column = inverse[worst] / inverse[worst, worst]
        weights = np.delete(weights - np.outer(column, weights[worst]), worst, 0)
        inverse -= np.outer(column, inverse[worst])
        inverse = np.delete(np.delete(inverse, worst, 0), worst, 1)
        left = np.delete(left, worst)
    return scores * (np.diag(m.gram) > 0.5), {}


def probeless(m: Moments) -> tuple[np.ndarray, dict]:
    """Sum over pairs of classes of the absolute difference of the class means (standardised units)."""
    pairs = itertools.combinations(range(len(m.classes)), 2)
    return np.sum([np.abs(m.means[a] - m.means[b]) for a, b in pairs], axis=0), {}


FROM_MOMENTS: dict[str, Callable] = {f.__name__: f for f in (greedy, lasso, omp, rfe, probeless)}


def _from_moments(name: str) -> Callable:
    def ranker(X: np.ndarray, codes: np.ndarray, *, seed: int = 0, **options: Any) -> tuple[np.ndarray, dict]:
        return FROM_MOMENTS[name](moments(X, codes), **options)

    ranker.__doc__ = FROM_MOMENTS[name].__doc__
    return ranker


def lca(
    X: np.ndarray,
    codes: np.ndarray,
    *,
    l1: float = 1e-5,
    l2: float = 1e-5,
    epochs: int = 10,
    batch: int = 128,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> tuple[np.ndarray, dict]:
    """A penalised linear probe, and the units by the share of its weight at which they enter.

    Trained as in the authors' code: Adam, rows in file order, no standardising, ``lca_loss`` per batch with
    ``l1`` and ``l2``. Scores are 1 - ``entry_mass`` of the weights; ``notes["weights"]`` [class, unit].
    """
    probe = _train(X, codes, l1=l1, l2=l2, epochs=epochs, batch=batch, learning_rate=learning_rate, seed=seed)
    weights = probe.weight.detach().numpy()
    return 1 - entry_mass(weights), {"weights": weights}


def entry_mass(weights: np.ndarray) -> np.ndarray:
    """Share of the weight mass [unit] at which a unit of ``weights`` [class, unit] enters the salient set.

    The published order takes for each class the heaviest units that hold a share of its mass, and raises the
    share in steps. In closed form, unit u enters at the least over classes c of (mass in c of the units
    heavier than u) / (mass of c).
    """
    size = np.abs(weights.astype(np.float64))
    order = np.argsort(-size, axis=1, kind="stable")
    heavy = np.take_along_axis(size, order, axis=1)
    before = (np.cumsum(heavy, axis=1) - heavy) / np.maximum(size.sum(1, keepdims=True), 1e-300)
    found = np.empty_like(before)
    np.put_along_axis(found, order, before, axis=1)
    return found.min(0)


def lca_loss(
    weight: torch.Tensor, bias: torch.Tensor, X: torch.Tensor, y: torch.Tensor, l1: float, l2: float
) -> torch.Tensor:
    """Mean cross-entropy + l1 sum |W| + l2 |W|_F: the norm is not squared, the bias not penalised.

    weight [class, unit], bias [class], X [word, unit], y [word] class numbers.
    """
    loss = torch.nn.functional.cross_entropy(torch.nn.functional.linear(X, weight, bias), y)
    return loss + l1 * weight.abs().sum() + l2 * weight.norm()


def _train(
    X: np.ndarray,
    codes: np.ndarray,
    *,
    l1: float,
    l2: float,
    epochs: int,
    batch: int,
    learning_rate: float,
    seed: int,
) -> torch.nn.Linear:
    values, y = torch.from_numpy(np.ascontiguousarray(X)), torch.from_numpy(codes.astype(np.int64))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        probe = torch.nn.Linear(values.shape[1], int(codes.max()) + 1)
    optimizer = torch.optim.Adam(probe.parameters(), lr=learning_rate)
    for _ in range(epochs):
        for start in range(0, len(values), batch):
            rows = slice(start, start + batch)
            optimizer.zero_grad()
            lca_loss(probe.weight, probe.bias, values[rows], y[rows], l1, l2).backward()
            optimizer.step()
    return probe


def gaussian(
    X: np.ndarray,
    codes: np.ndarray,
    *,
    depth: int = 50,
    words: int = 2000,
    shrink: float = 0.1,
    seed: int = 0,
) -> tuple[np.ndarray, dict]:
    """Forward selection of the unit that adds most log-likelihood of the classes under Gaussians.

    Each class has a full covariance, shrunk towards its diagonal by ``shrink`` (Torroba Hennigen et al. have
    an inverse-Wishart prior), with a Cholesky factor that grows by a unit a step: words x units x classes
    operations. Likelihoods are over ``words`` rows drawn by ``seed``; the first ``depth`` units are chosen,
    the others follow by their likelihood alone.
    """
    mean, std = std_of(X)
    Z = (X - mean) / std
    prior = np.bincount(codes) / len(codes)
    some = np.random.default_rng(seed).permutation(len(Z))[:words]
    means = np.stack([Z[codes == c].mean(0) for c in range(len(prior))])
    stack = [_shrunk(Z[codes == c] - means[c], shrink) for c in range(len(prior))]
    expected = np.repeat(means[:, None], len(some), axis=1)  # [class, word, unit] given the chosen units
    variance = np.stack([np.diag(s) for s in stack])  # [class, unit] left given the chosen units
    loglik = np.repeat(np.log(prior)[:, None], len(some), axis=1)  # [class, word]
    factors, chosen = [[] for _ in prior], []
    first: Any = None
    usable = np.isfinite(std)
    for _ in range(min(depth, int(usable.sum()))):
        gain = _likelihood(Z[some], codes[some], expected, variance, loglik)
        gain[~usable] = -np.inf
        first = gain if first is None else first
        best = int(gain.argmax())
        loglik = loglik + _log_normal(Z[some, best][None], expected[:, :, best], variance[:, best, None])
        for c, covariance in enumerate(stack):
            column = covariance[best] - sum((f[best] * f for f in factors[c]), np.zeros(len(mean)))
            column = column / np.sqrt(variance[c, best])
            whitened = (Z[some, best] - expected[c, :, best]) / np.sqrt(variance[c, best])
            expected[c] += np.outer(whitened, column)
            variance[c] = np.maximum(variance[c] - column**2, 1e-4)
            factors[c].append(column)
        usable[best] = False
        chosen.append(best)
    first = np.where(np.isfinite(first), first, np.nan)
    return _in_order(chosen, np.nan_to_num(first - np.nanmin(first))), {"words": len(some)}


def _shrunk(centred: np.ndarray, shrink: float) -> np.ndarray:
    """Covariance of one class, part of the way to a diagonal that is never zero."""
    covariance = centred.T @ centred / max(1, len(centred))
    diagonal = np.maximum(np.diag(covariance), 1e-2)
    weight = max(shrink, min(1.0, 10 / len(centred)))  # a class with few words says little of covariances
    covariance = (1 - weight) * covariance
    np.fill_diagonal(covariance, diagonal)
    return covariance


def _log_normal(x: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    return -0.5 * (np.log(2 * np.pi * variance) + (x - mean) ** 2 / variance)


def _likelihood(
    Z: np.ndarray, codes: np.ndarray, expected: np.ndarray, variance: np.ndarray, loglik: np.ndarray
) -> np.ndarray:
    """[unit] mean log P(class | chosen units and this one)."""
    parts = zip(loglik, expected, variance, strict=True)
    joint = np.stack([base[:, None] + _log_normal(Z, mean, var[None]) for base, mean, var in parts])
    own = np.take_along_axis(joint, codes[None, :, None], axis=0)[0]
    return (own - logsumexp(joint, axis=0)).mean(0)


def _of_classes(scorer: Callable) -> Callable:
    """A ranker by the best class of a unit under a scorer of ``matching``, when the unit is high or low."""

    def ranker(X: np.ndarray, codes: np.ndarray, *, seed: int = 0, **options: Any) -> tuple[np.ndarray, dict]:
        onehot = np.eye(codes.max() + 1, dtype=np.float32)[codes]
        both = np.stack([scorer(sign * X, onehot, **options) for sign in (1, -1)])
        varies = np.isfinite(std_of(X)[1])
        return both.max((0, 1)) * varies, {}

    return ranker


def selectivity(X: np.ndarray, codes: np.ndarray, *, seed: int = 0) -> tuple[np.ndarray, dict]:
    """|mean in the class - mean outside| / (maximum - minimum) [unit], for the best class."""
    span = X.max(0) - X.min(0)
    count, total = np.bincount(codes), X.sum(0, dtype=np.float64)
    sums = np.stack([X[codes == c].sum(0, dtype=np.float64) for c in range(len(count))])
    apart = np.abs(sums / count[:, None] - (total - sums) / (len(X) - count)[:, None])
    return np.where(span > 0, apart.max(0) / np.where(span > 0, span, 1), 0), {}


def mutual_information(
    X: np.ndarray, codes: np.ndarray, *, bins: int = 16, seed: int = 0
) -> tuple[np.ndarray, dict]:
    """Mutual information [unit] of the class and the unit cut into ``bins`` quantile bins, in nats."""
    edges = np.quantile(X, np.linspace(0, 1, bins + 1)[1:-1], axis=0)
    prior, found = np.bincount(codes) / len(codes), np.zeros(X.shape[1])
    for unit in range(X.shape[1]):
        bin_of = np.searchsorted(edges[:, unit], X[:, unit], side="right")
        table = np.bincount(bin_of * len(prior) + codes, minlength=bins * len(prior)).reshape(bins, -1) / len(
            codes
        )
        expected = table.sum(1, keepdims=True) * prior
        found[unit] = (table * np.log(np.where(table > 0, table / np.maximum(expected, 1e-300), 1))).sum()
    return found, {}


def _random(X: np.ndarray, codes: np.ndarray, *, seed: int = 0) -> tuple[np.ndarray, dict]:
    return np.random.default_rng(seed).random(X.shape[1]), {}


RANKERS: dict[str, Callable] = {
    **{name: _from_moments(name) for name in FROM_MOMENTS},
    "lca": lca,
    "gaussian": gaussian,
    "iou": _of_classes(matching.iou),
    "selectivity": selectivity,
    "mutual_information": mutual_information,
    "random": _random,
}


# ---------------------------------------------------------------------------------- rankings


class Ranking(NamedTuple):
    """Units from the most salient to the least."""

    order: np.ndarray  # [unit] columns, best first
    scores: np.ndarray  # [unit] by column; higher is better, comparable within one ranking only
    method: str
    classes: list[str]
    notes: dict[str, Any] = {}  # what the method leaves behind: weights, gains, dual gap

    def top(self, n: int) -> np.ndarray:
        """Columns of the first ``n`` units."""
        return self.order[:n]


def rank(X: np.ndarray, y: ArrayLike, method: str = "greedy", *, seed: int = 0, **options: Any) -> Ranking:
    """Rank the units [unit] of ``X`` [word, unit] by how well they tell the classes ``y`` [word] apart.

    Returns a ``Ranking``: ``.order`` (columns, best first), ``.scores``, ``.top(n)``.

    Deterministic for a ``seed``; ties go to the lower column; constant units come last, with score 0.
    ``options`` are those of the method (``RANKERS``). A single class, rows that do not match, and
    activations that are not finite are a ``ValueError``.
    """
    if method not in RANKERS:
        raise ValueError(f"unknown ranker {method!r}; there are {', '.join(RANKERS)}")
    X = np.asarray(X, dtype=np.float32)
    codes, classes = codes_of(X, y)
    scores, notes = RANKERS[method](X, codes, seed=seed, **options)
    return _ranking(scores, method, classes, notes)


def rank_sums(sums: LabelSums, method: str = "greedy", **options: Any) -> Ranking:
    """``rank`` from sums of one pass over the corpus, for the methods that need no more (``FROM_MOMENTS``).

    ``sums`` is what ``activations.reduce`` returns for ``LabelSums(one_hot_labels, gram=True)``, the labels
    indexed by (text_id, word_id). Words that share a vector are among them. Another method is a
    ``ValueError``.
    """
    if method not in FROM_MOMENTS:
        raise ValueError(
            f"{method!r} needs the words themselves; from sums there are {', '.join(FROM_MOMENTS)}"
        )
    found = moments_of(sums)
    scores, notes = FROM_MOMENTS[method](found, **options)
    return _ranking(scores, method, found.classes, notes)


def _ranking(scores: np.ndarray, method: str, classes: list[str], notes: dict) -> Ranking:
    scores = np.nan_to_num(np.asarray(scores, dtype=np.float64))
    return Ranking(np.argsort(-scores, kind="stable"), scores, method, classes, notes)
