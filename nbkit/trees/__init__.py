"""Trees: is a sentence's dependency tree in the vectors, and does training on trees help?

    sentences = trees.dataset(subject, treebank)           vectors and gold trees, ready for probes
    train, dev, test = trees.split(sentences, seed=0)
    probes = trees.fit(train, dev, "distance")             one probe per site, trained together
    trees.score(probes, test)                              held-out figures, one line per site
    found = trees.measure(subject, treebank, ["sp", "ssp"], nulls=("none", "shuffled"))     all of the above
    trees.intervals(found)                                 mean and range over seeds

    depths, distances, gold_edges      of the gold trees
    pseudo_depths                      the depth profile nearest to some numbers, without any gold
    predicted_edges                    the tree that a distance probe sees in one sentence
    linear_baseline                    what joining adjacent words, or one constant, reaches
    bounds, choose_site                what the metrics say together
    finetune, differences              a sentence label with trees in the loss, against paired baselines
    finetune_classifier                a sentence label alone -> a trained subject

A probe is a matrix B [width, rank]; s_j = |B' h_j|^2 for the vector h_j of word j. ``metric``:

    sp         mean (s_j - depth_j)^2: are the gold depths there (root 1)
    ssp        mean (s_j - c_j(s))^2, c = pseudo_depths(s): are the depths of any tree there, right or wrong
    essp       the same with the depths given to the words in reverse order, wrong on purpose: the paper
               takes it as the upper bound of sp (``bounds`` tests that)
    depth      mean |s_j - (depth_j - 1)|
    distance   mean |d_ij - |B' (h_i - h_j)|^2| over pairs of words; d_ij edges apart in the gold tree
    edge       cross-entropy of the head of word i among all j, by (B' h_i) . (C' h_j); itself: root

A small ``ssp`` alone shows no syntax: one word at depth 1 and all others at 2 has a loss of 0. So the
entropy of the profile and its mean depth stand beside every loss, and ``nulls`` train the same probes on
vectors without the sentence's tree.

Sources
-------
- sp, ssp, essp and ``finetune``: Li, Yin and Lin, Findings of EMNLP 2023 (arXiv 2310.12454), X_sp, X_ssp,
  X_essp. New here: the closed form of their labelling loop and the exact projection (``pseudo_depths``),
  padding left out (``published_dataset`` scores it as they did), the same sentences and budget for all
  metrics, ``choose_site``, paired seeds with corrected p values.
- depth, distance, UUAS, NSpr, DSpr: structural probe, Hewitt and Manning 2019.
- the control task: Hewitt and Liang 2019. The edge probe is new: their task needs a probe that can attach
  a word to itself.
"""

from nbkit.trees.depths import depths, distances, pseudo_depths
from nbkit.trees.finetuning import choose_site, differences, finetune, finetune_classifier
from nbkit.trees.probes import bounds, fit, intervals, linear_baseline, measure, predicted_edges, score
from nbkit.trees.treebank import TreeDataset, dataset, gold_edges, published_dataset, split

__all__ = [
    "TreeDataset",
    "bounds",
    "choose_site",
    "dataset",
    "depths",
    "differences",
    "distances",
    "finetune",
    "finetune_classifier",
    "fit",
    "gold_edges",
    "intervals",
    "linear_baseline",
    "measure",
    "predicted_edges",
    "pseudo_depths",
    "published_dataset",
    "score",
    "split",
]
