"""Illusions: does a tag survive another corpus?

After Bolukbasi et al. 2021 (arXiv 2104.07143, read second hand): what a unit's top texts have in common
in one corpus is often not what they have in common in the next. A description is a claim about a model
*and* a corpus.

    compare(activations_by_corpus, labels_by_corpus) -> Report
    Report.agreement    one line for each kind of unit: agreement within and across corpora, the gap
    Report.controls     the same lines for the floors, beside the units
    Report.units        every tag chosen, with its fate on each other corpus
    Report.geometry     overlap of the top-10 activation ranges of two corpora (the paper's figure: 38 %)
    Report.taxonomy     how many tags survive in how many corpora
    Report.summary()    a dict of the headline numbers

    annotation_set(activations_by_corpus, texts_by_corpus)   blinded sets of texts for people to judge
    agreement_of(annotations, key)                           the paper's table of what they said

The paper's other tests are reached from here, too: ``confusion``, ``outlier_share``, ``without_outliers``,
``locality``, ``layout`` (``nbkit.illusions.geometry``), ``pattern_rate`` (``nbkit.illusions.patterns``), ``taxonomy``,
``monotonicity``, ``distinct_tags``, ``quintile_rates`` (``nbkit.illusions.taxonomy``).

The test (ours). In each corpus the texts are cut into two halves. A unit's tag is its best descriptor on
the first half. *Within*: is it the best on the second half too, and how much of its score is left?
*Across*: the same on the second halves of the other corpora. Within measures sampling noise and is the
ceiling; the illusion gap is what across loses beyond it. Only descriptors that every corpus knows take
part, since nothing can be said of a tag that the other corpus has no word for.

Beside the first tag and its score, ``agreement`` and ``controls`` hold, within and across:

    jaccard     overlap of the unit's first two tags, |both| / |either|
    spearman    rank correlation of its scores over all descriptors; 0 where a side is constant
    matched     the tag's score where its descriptor is equally frequent everywhere: of the texts with it, as
                many are drawn (without replacement) in each corpus as bring its share down to that of
                the corpus where it is rarest; all texts without it stay. ``pearson`` and others fall
                with the share, and would show an illusion where only the share differs
    held        share of the tags with q <= ``alpha``: is the tag related to the unit there at all? A weaker
                question than being its first tag, and with the false discoveries counted
    distinct    different tags of a unit over the corpora, for the units that have one in each (the
                paper: 2.5 of 4; ``distinct_tags`` has its floor)

Intervals are 95 %, by a bootstrap over the texts (``nbkit.illusions.transfer`` says how); ``over="units"`` holds the
texts fixed and draws units again, all tags of a unit together. ``matched``, ``held`` and ``distinct`` have
intervals over units in any case.

``units`` has a line for each tag: split (the cut), corpus it was chosen in, unit, descriptor, score (on the
half it was chosen on), above (is that the minimum or more: the others are kept for floors that hardly
have any), and its fate, on the other half of its corpus (``within_same``, ...) and on the second halves of
the others (``same:NAME``, ...; NaN in its own):

    same        1 if it is the unit's first tag there
    score       of the same pair there
    jaccard, spearman, matched    as above
    p           by permuted labels, one-sided: would chance let the pair score as high there?
    q           Benjamini-Hochberg over the units with a tag of one corpus that are looked up in another

The floors. *Random directions* in the space of the units (the illusion holds for them too);
*permuted units*, each tag looked up on some other unit, which shows what frequent tags agree by
themselves; *permuted rows*, labels shuffled within each corpus, where only luck is left; *random weights*,
the same architecture untrained: a floor and not a null, since it still carries which words are there.
"""

from nbkit.illusions.annotation import annotation_set
from nbkit.illusions.compare import Report, compare
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
from nbkit.illusions.patterns import enrichment, mean_cosine, pattern_rate, random_sets
from nbkit.illusions.taxonomy import distinct_tags, monotonicity, quintile_rates, shared_descriptors, taxonomy

__all__ = [
    "DIRECTIONS",
    "Report",
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
