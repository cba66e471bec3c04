"""Salience: which units carry a property of words, and how few of them are enough?

    y = properties(corpus, "upos")                        one class a word, by (text_id, word_id)
    acts = activations.capture(subject, corpus, sites="hidden", rows="word", pool="mean")
    X, y = matrix(acts, y)                                rows without a class are left out, and counted
    ranking = rank(X, y)                                  Ranking: .order, .scores, best unit first
    fit_probe(X, y, units=ranking.top(27))                a probe on those units; .accuracy(X, y)
    minimal_set, ablation_curve, control_task, layer_counts, layer_probes, focus, redundancy,
    compare_rankings                                      the studies, each a table
    across({name: words_of(subject, corpus, "upos")})     subjects, languages, before and after tuning
    intervene(subject, ...)                               change units inside the model (``nbkit.salience.interventions``)

Linguistic correlation analysis (Dalvi et al. 2019; Durrani, Dalvi and Sajjad, JMLR 2023) trains a linear
probe on all layers' units and reads the salient ones off its weights. ``rank(method="lca")`` does so;
the default is ours, ``greedy`` (``nbkit.salience.rankers`` has them all). ``greedy``, ``lasso`` and ``probeless`` need
no more than sums: ``rank_sums(LabelSums)`` takes them from ``activations.reduce`` in one pass, so that
memory does not grow with the corpus.
"""

from nbkit.salience.interventions import intervene
from nbkit.salience.probes import curve, fit_probe, minimal_set, split_of
from nbkit.salience.rankers import Ranking, entry, lca_loss, rank
from nbkit.salience.studies import (
    ablation_curve,
    across,
    compare_rankings,
    control_task,
    layer_counts,
    redundancy,
)
from nbkit.salience.words import matrix, properties, words_of

__all__ = [
    "Ranking",
    "ablation_curve",
    "across",
    "compare_rankings",
    "control_task",
    "curve",
    "entry",
    "fit_probe",
    "intervene",
    "layer_counts",
    "lca_loss",
    "matrix",
    "minimal_set",
    "properties",
    "rank",
    "redundancy",
    "split_of",
    "words_of",
]
