"""Matching: which descriptors does a unit respond to, and would chance do as well?

    tags = tag(stored, labels)         the best descriptors of every unit, tested, checked on held-out texts
    score(stored, labels, "auroc")     scores [descriptor, unit] of all pairs; ``SCORERS`` are the methods
    baselines(stored, labels)          the same for random directions, permuted rows, random weights
    coverage(tags, labels)             shares of units and descriptors with a tag; ``collisions(tags)``
    compose(stored, labels, units)     "a and not b", where that beats the best single descriptor
    permutation_test(values, labels, descriptors, units)      p of pairs that were chosen on other texts
    association(x, y)                  the same for all pairs, of a linear score, in closed form
    residuals(values, covariates)      activations without what length, corpus or the like explain
    pooled(stored, labels)             several corpora as one

``stored`` is what ``activations.capture`` gives; ``labels`` is a frame [text_id, descriptor] of probabilities
in [0, 1]. A scorer takes arrays of activations [row, unit] and labels [row, descriptor] with the same rows,
and returns [descriptor, unit]; higher means more alike:

    pearson             correlation: mean of z(a) z(c); the default
    cosine              a.c / (|a| |c|)
    auroc               Mann-Whitney U / (n+ n-), ties half; does not depend on how frequent a descriptor is
    average_precision   area under precision and recall, a step at each distinct activation
    f1, iou             overlap with the ``alpha`` highest rows: 2tp/(2tp+fp+fn), tp/(tp+fp+fn)
    mad                 (mean a on c - mean a off c) / standard deviation of a off c
    frequency           P(c | exemplar), over the 20 highest rows
    lift                P(c | exemplar) / P(c)
    wpmi                mean over exemplars of log P(c | x), minus lam log P(c)
    soft_wpmi           the same with 100 weighted exemplars; needs all units at once (``TOGETHER``)

Why pearson: ``benchmarks/matching.py`` measures all of them on planted units. auroc puts the right
descriptors first most often, with pearson and mad close behind; frequency, soft_wpmi, average_precision and
others lose the second meaning of a unit. But auroc hardly notices missing labels of a rare descriptor
(``evaluation.sanity``). So pearson is the default of ``tag`` and ``score``: it notices them at every
prevalence, and costs one matrix product. Between corpora use auroc, which does not depend on how frequent a
descriptor is: it is the default of ``illusions.compare``.

A tag is chosen on one part of the texts (calibration) and looked up on the other (validation). Its p compares
the score with the best that the unit reaches over all descriptors when the rows of the labels are permuted.

``tag`` returns a frame with one line for each unit and rank:

    unit, rank        rank 1 is the best
    descriptor        the tag
    score             on the calibration texts
    validation_score  of the same tag on the others
    p                 rank 1: (1 + permutations whose best score reaches ``score``) / (1 + permutations);
                      where none does, for pearson and auroc, the p of the pair in closed form
                      (``association``) times the number of descriptors, if that is less: among many units
                      1 / (1 + permutations) may be too much for any to be significant.
                      Rank 2 and below: does this descriptor add to the earlier tags? Their part is
                      removed from the activations, and rows are permuted only among texts with the same
                      earlier tags. NaN where the rank above is not significant (q > ``alpha``)
    q                 Benjamini-Hochberg over the units of the same rank that were tested
    sign              1: when the unit is high, -1: when it is low
    validation_rank   place of the tag among all descriptors on the validation texts
    low, high         95 % interval of ``validation_score``
    tagged            does the line pass both thresholds

Its ``.attrs["texts"]`` holds how many texts each part had, ``.attrs["groups"]`` how many groups (None: texts
are independent).

Sources
-------
``frequency``: Mondal et al. 2024 (arXiv 2401.16731), whose exact rule and number of exemplars are not known.
``mad``: CoSy. ``soft_wpmi``: CLIP-Dissect (Oikarinen and Weng 2023). ``compose``: the beam search is that of
compositional explanations (Mu and Andreas 2020); its test on held-out texts is new. New as well: the null of
the best of all descriptors, covariates by residuals within cells, ties shared at the edge of the exemplars.
"""

from nbkit.matching.association import CLOSED, association
from nbkit.matching.baselines import baselines, collisions, coverage
from nbkit.matching.composites import compose
from nbkit.matching.scorers import SCORERS, TOGETHER, align, auroc, iou, pearson, score, scorer_of
from nbkit.matching.tags import cells_of, permutation_test, pooled, residuals, tag

__all__ = [
    "CLOSED",
    "SCORERS",
    "TOGETHER",
    "align",
    "association",
    "auroc",
    "baselines",
    "cells_of",
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
