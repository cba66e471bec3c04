"""Trees: is a sentence's dependency tree in the vectors, and does training on trees help?

    depths(words), distances(words)         of the gold trees: root 1, edges between words
    pseudo_depths(s)                        the depth profile nearest to squared norms, without any gold
    measure(subject, treebank, "sp")        one probe a site, all sites trained together -> frame
    predicted_edges(probes, bank, number)   the tree a distance probe sees in one sentence, for pictures
    finetune(subject, train, dev, ...)      sentence labels with a tree term at a site -> frame
    differences(frame)                      against the paired baseline, with intervals

Probes. A probe is a matrix B; s_j = |B h_j|^2 for word j.

    sp        mean (s_j - depth_j)^2: is the gold depth there                    (Li et al. 2023, X_sp)
    ssp       mean (s_j - c_j(s))^2: is any depth profile there, c = pseudo_depths(s)      (their X_ssp)
    essp      the same with the profile written back in reversed order; ``assign`` has others (X_essp)
    depth     mean |s_j - (depth_j - 1)|                                       (Hewitt and Manning 2019)
    distance  mean |d_ij - |B (h_i - h_j)|^2| over pairs of words, each sentence counting once      (same)
    edge      softmax over j of (B h_i) . (C h_j): which word is the head (itself: root). Ours, since the
              control task (each word type attaches to itself, the first or the last word, Hewitt and Liang
              2019) needs a probe that can attach

The tree topological probe is Li, Yin and Lin (Findings of EMNLP 2023, arXiv 2310.12454). Ours: the closed
form of their labelling loop, the mask (they scored padding too: ``as_published``), the exact projection,
one set of sentences and one budget for all metrics, nulls in the same frame, and a trivial solution made
visible: one word at depth 1 and all others at 2 gives a loss of 0 without any syntax, so profile entropy
and mean depth stand beside every loss.
"""

from nbkit.trees.classifier import finetune_classifier
from nbkit.trees.depths import pseudo_depths
from nbkit.trees.finetuning import choose_site, differences, finetune
from nbkit.trees.measures import (
    bounds,
    gold_edges,
    intervals,
    linear_baseline,
    measure,
    parts,
    predicted_edges,
    score,
)
from nbkit.trees.probes import fit, published_dataset
from nbkit.trees.treebank import dataset

__all__ = [
    "bounds",
    "choose_site",
    "dataset",
    "differences",
    "finetune",
    "finetune_classifier",
    "fit",
    "gold_edges",
    "intervals",
    "linear_baseline",
    "measure",
    "parts",
    "predicted_edges",
    "pseudo_depths",
    "published_dataset",
    "score",
]
