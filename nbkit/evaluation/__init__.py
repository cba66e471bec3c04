"""Evaluation: how good are the tags, and how sure are we?

    ranked(scores)                    tags without a test: every unit's descriptors, best first
    precision_at_k(tags, gold, k)     share of the first k tags that are right
    recall_at_k(tags, gold, k)        share of the right descriptors among the first k tags
    average_precision(tags, gold)     precision at each right descriptor, averaged
    mrr(tags, gold)                   one over the rank of the first right tag
    truth_of(planted)                 a gold standard from planted units
    from_annotations(path)            a gold standard from people's ratings
    validated(scores, minimum)        a gold standard from held-out texts
    bootstrap(values)                 the mean with its interval
    sanity(scorer, values, labels)    does a scorer notice missing labels, and extra ones?
    recovered(found, written)         which known descriptors were found, by meaning

``tags`` is a frame with unit, rank, descriptor (``matching.tag``); ``gold`` a frame with unit and
descriptor, one line for every descriptor that is right for a unit. Both measures are averages over units.
Mondal et al. 2024 report precision@2 of 75 % and recall@2 of 50 %, judged by people. *Validated gold* is ours
and is not human judgement: a descriptor is right for a unit when its score reaches a minimum on texts that
played no part in choosing the tags.
"""

from nbkit.evaluation.metrics import (
    average_precision,
    gold_of,
    mrr,
    precision_at_k,
    ranked,
    recall_at_k,
    sanity,
    validated,
)
from nbkit.evaluation.planted import Planted, plant
from nbkit.evaluation.recovery import recovered

__all__ = [
    "Planted",
    "average_precision",
    "gold_of",
    "mrr",
    "plant",
    "precision_at_k",
    "ranked",
    "recall_at_k",
    "recovered",
    "sanity",
    "validated",
]
