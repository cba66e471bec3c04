"""Illusions: does a unit's tag survive another corpus?

What a unit's top texts have in common in one corpus is often not what they have in common in the next. A
description is a claim about a model *and* a corpus. The usual loop:

    report = compare(activations_by_corpus, labels_by_corpus)   every tag, on held-out texts and elsewhere
    report.agreement, report.baselines                          shares and intervals, beside the baselines
    report.units                                                one line for each tag and corpus
    found = taxonomy(activations_by_corpus, labels_by_corpus, min_score=.3)
    found.verdicts                                              global, dataset-level or local

Arguments, with the same units and the same vocabulary of descriptors in all corpora:

    activations_by_corpus    {corpus: store} of ``activations.capture``
    values_by_corpus         {corpus: array [text, unit]}, such as ``stored.values``
    labels_by_corpus         {corpus: frame [text_id, descriptor]}

``compare`` chooses its own tags, by AUROC (at least .7, and significant among all descriptors on the half
they are chosen on) unless ``method=`` says otherwise. ``matching.tag`` chooses by pearson unless told
otherwise; its tags are not an input of ``compare``.

    compare, Report, shared_descriptors    the test of tags: within a corpus and across corpora
    distinct_tags                          different tags of a unit over the corpora
    taxonomy, quintile_rates               where a tag has a trend; the curves behind a verdict
    monotonicity                           tokens whose frequency is monotone along a unit's activations
    pattern_rate, mean_cosine, enrichment, random_sets    do top texts have more in common than random ones?
    confusion, range_overlap, outlier_share, without_outliers, locality, layout   where the corpora lie
    directions, DIRECTIONS                 probes, class means, components: tested like units
    annotation_set, agreement_of           the paper's experiment with people

The test. In each corpus the texts are cut into two halves. A unit's tag is its best descriptor on the first
half. *Within*: is it the best on the second half too? *Across*: is it on the second halves of the other
corpora? Within measures sampling noise and is the ceiling; the gap is what across loses beyond it.

The baselines. *Random directions* in the space of the units; *permuted units*, each tag looked up on another
unit, shows what frequent tags agree by themselves; *permuted rows*, labels shuffled within each corpus,
leaves only luck; *random weights*, the same architecture untrained, is a baseline and not a null, because
untrained units still encode which tokens are present.

Sources
-------
Bolukbasi et al. 2021 (arXiv 2104.07143, known here from summaries) is the source of the illusion itself, of
distinct tags, range overlap, the SVM's confusion, outliers, locality, monotonicity, the three kinds of
concepts and the annotation protocol. New here: descriptors in place of people's words, the split-half
ceiling and the gap, the baselines other than random directions, the bootstrap over documents, p and q of each
tag, what counts as a trend in ``taxonomy``, and coherence against random sets in ``pattern_rate``.
"""

from nbkit.illusions.agreement import distinct_tags
from nbkit.illusions.annotation import agreement_of, annotation_set
from nbkit.illusions.compare import Report, compare
from nbkit.illusions.corpora import shared_descriptors
from nbkit.illusions.geometry import (
    DIRECTIONS,
    confusion,
    directions,
    layout,
    locality,
    outlier_share,
    range_overlap,
    without_outliers,
)
from nbkit.illusions.monotone import monotonicity
from nbkit.illusions.patterns import enrichment, mean_cosine, pattern_rate, random_sets
from nbkit.illusions.taxonomy import Taxonomy, quintile_rates, taxonomy

__all__ = [
    "DIRECTIONS",
    "Report",
    "Taxonomy",
    "agreement_of",
    "annotation_set",
    "compare",
    "confusion",
    "directions",
    "distinct_tags",
    "enrichment",
    "layout",
    "locality",
    "mean_cosine",
    "monotonicity",
    "outlier_share",
    "pattern_rate",
    "quintile_rates",
    "random_sets",
    "range_overlap",
    "shared_descriptors",
    "taxonomy",
    "without_outliers",
]
