"""Matching: which descriptors does a unit respond to, and could chance have done it?

    SCORERS                       name -> scorer (nbkit.matching.scorers says what each is)
    score(values, labels)         frame [descriptor, unit]
    tag(activations, labels)      the best descriptors of every unit, with a p-value and a held-out score
    chance(values, labels, descriptors, units)           p of pairs that were named beforehand
    floors(activations, labels)   the same for random directions, permuted rows, random weights
    collisions(tags), coverage(tags), jaccard(tags)      what a set of tags is like
    compose(activations, labels, units)   "a and not b": composites, where they beat the best atom
    residuals(values, covariates)    activations without what length, corpus or the like explain
    pooled(activations, labels)   several corpora as one

A scorer takes activations ``[row, unit]`` and labels ``[row, descriptor]`` (P(descriptor | text), in
[0, 1]) with the same rows, and returns ``[descriptor, unit]``; higher is more alike.

A tag is a claim, so ``tag`` chooses it on one part of the texts (calibration) and looks it up on the
other (validation), and compares its score with what permuted rows reach at best. Ours: the null of the
best of all descriptors, the control for covariates by residuals within cells, the held-out test of
composites. Their beam search is that of compositional explanations (Mu and Andreas 2020).
"""

from nbkit.matching.baselines import baselines, collisions, coverage
from nbkit.matching.composites import compose
from nbkit.matching.scorers import (
    BLOCK_BYTES,
    SCORERS,
    TOGETHER,
    align,
    auroc,
    iou,
    pearson,
    score,
    scorer_of,
)
from nbkit.matching.tags import permutation_test, pooled, residuals, tag

__all__ = [
    "BLOCK_BYTES",
    "SCORERS",
    "TOGETHER",
    "align",
    "auroc",
    "baselines",
    "collisions",
    "compose",
    "coverage",
    "iou",
    "pearson",
    "permutation_test",
    "pooled",
    "residuals",
    "score",
    "scorer_of",
    "tag",
]
