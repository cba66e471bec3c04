"""Evaluation: how good are tags, and how good is the scorer that chose them?

    precision_at_k(tags, gold, k)          share of the first k tags that are right
    recall_at_k(tags, gold, k)             share of the right descriptors among the first k tags
    scorecard(tags, gold)                  both, beside the best possible and the share of units judged
    average_precision, mrr                 precision at each right descriptor; 1 / rank of the first right tag
    ranked(scores)                         every unit's descriptors, best first: tags without a test

    made = plant(subject, texts, labels)   a real model with units of known meaning added (``Planted``)
    gold_of(made)                          gold from those units
    held_out_gold(stored, labels, rows)    gold from texts that played no part in choosing the tags
    from_annotations("ratings.csv")        gold from people's ratings

    sanity("pearson", values, labels)      does a scorer notice missing labels, and wrong ones?
    recovered(found, written)              which known descriptors did a generator find, by meaning?

A scorer on units of known meaning, with ``corpora`` and ``labels`` by corpus name:

    made = plant(subject, corpora, labels)
    stored = activations.capture(made.subject, made.held_out["reviews"], sites="ffn", pool="max")
    scorecard(matching.tag(stored, made.labels["reviews"]), gold_of(made, corpus="reviews"))

``tags`` is a frame with unit, rank (from 1), descriptor, as ``matching.tag`` gives it; ``gold`` a frame
with unit and descriptor, one line for every descriptor that is right for a unit. Measures are means over
units with a 95 % interval (``stats.share``) in which units of one descriptor count as alike. A unit with
one right descriptor cannot have two right tags, so precision@2 has a ceiling: say it (``scorecard``).

Sources
-------
Mondal et al. 2024 report precision@2 of 75 % and recall@2 of 50 %, judged by people; gold from held-out
texts is no human judgement and its figures do not compare with theirs. ``sanity`` is the test of NeuronEval
(Oikarinen, Yan and Weng, ICML 2025), whose concepts are rare and whose units have a known meaning; thinning
by ``prevalence`` is added here. Planted units are new: no published benchmark of this kind is known to us.
"""

from nbkit.evaluation.metrics import (
    GOLDS,
    average_precision,
    from_annotations,
    gold_of,
    held_out_gold,
    mrr,
    precision_at_k,
    ranked,
    recall_at_k,
    sanity,
    scorecard,
)
from nbkit.evaluation.planted import Planted, plant
from nbkit.evaluation.recovery import recovered

__all__ = [
    "GOLDS",
    "Planted",
    "average_precision",
    "from_annotations",
    "gold_of",
    "held_out_gold",
    "mrr",
    "plant",
    "precision_at_k",
    "ranked",
    "recall_at_k",
    "recovered",
    "sanity",
    "scorecard",
]
