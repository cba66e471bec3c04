"""Salience: which units carry a property of words, and how few of them are enough?

    y = salience.properties(corpus, "upos")       one class per word, by (text_id, word_id)
    stored = activations.capture(subject, corpus, sites=["embeddings", "hidden"], rows="word", pool="mean")
    X, y = salience.matrix(stored, y)             activations [word, unit] and classes [word]
    split = salience.split_of(y)                  rows to train on and to test on, cut by text
    ranking = salience.rank(X[split.train], y.iloc[split.train])
    salience.accuracy_curve(X, y, ranking, [10, 100], split)

    rank, rank_sums       units by salience -> Ranking (.order, .scores, .top(n)); methods in RANKERS
    fit_probe             a linear probe on chosen units (.predict, .accuracy)
    accuracy_curve        accuracy of probes on the first n units
    minimal_set           the smallest n within some per cent of all units
    ablation_curve        top, random and bottom units kept
    control_task          accuracy on random classes, which a probe can only memorise, and selectivity
    layer_counts, layer_probes, focus     in which layers, and on how many units, a property lies
    redundancy            correlated units, disjoint sets that do as well, layers that suffice
    compare_rankings      how far rankings agree
    across                subjects, languages, before and after training, side by side (``words_of``)
    intervene             change units inside the model and watch what follows

The words of one multiword token (French "au" is two words), and words inside one token of the model, have the
same vector, so no probe can tell them apart: ``matrix`` leaves them out and counts them.

Arrays: ``X`` is [word, unit] in float32; ``y`` a series [word] with the index (text_id, word_id); ``units``
the frame of the columns (unit, site, layer, index). Every study is a frame with a line for each setting.
``rank_sums`` needs sums only, which ``activations.reduce`` gathers in one pass, so that memory does not grow
with the corpus.

Sources
-------
- ``lca``, ``minimal_set(search="published")``, ``ablation_curve``, ``focus``: linguistic correlation
  analysis, Dalvi et al. 2019; Durrani, Dalvi and Sajjad, JMLR 2023 (arXiv 2206.13288). New here: the order
  in closed form (``entry_mass``).
- ``redundancy``: Dalvi et al. 2020. ``compare_rankings``: Fan et al. 2023.
- ``control_task``: Hewitt and Liang 2019.
- ``probeless`` and ``intervene``: Antverg and Belinkov 2022.
- ``gaussian``: Torroba Hennigen et al. 2020, with another prior (see there).
- ``greedy`` is stepwise discriminant analysis (Pillai's trace), on the Gram matrix; ``lasso`` and ``omp`` are
  scikit-learn's, ``rfe`` is Guyon et al. 2002 with least squares.
"""

from nbkit.salience.interventions import intervene
from nbkit.salience.probes import (
    accuracy_curve,
    fit_probe,
    matrix,
    minimal_set,
    properties,
    split_of,
    words_of,
)
from nbkit.salience.rankers import RANKERS, Ranking, entry_mass, lca_loss, rank, rank_sums
from nbkit.salience.studies import (
    ablation_curve,
    across,
    compare_rankings,
    control_task,
    focus,
    layer_counts,
    layer_probes,
    redundancy,
)

__all__ = [
    "RANKERS",
    "Ranking",
    "ablation_curve",
    "accuracy_curve",
    "across",
    "compare_rankings",
    "control_task",
    "entry_mass",
    "fit_probe",
    "focus",
    "intervene",
    "layer_counts",
    "layer_probes",
    "lca_loss",
    "matrix",
    "minimal_set",
    "properties",
    "rank",
    "rank_sums",
    "redundancy",
    "split_of",
    "words_of",
]
