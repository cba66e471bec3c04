"""Descriptors: short properties of texts, found in a corpus, merged, and put on every text.

    propose(texts, generators)      what each generator says is in each text, or in a stratified sample
    merge(proposals)                near-duplicates become one descriptor; edits by hand are read from a file
    label(texts, descriptors)       label matrix [text, descriptor], P(descriptor | text) in [0, 1]
    agreement({name: labels})       how far ways of labelling agree, beside chance

After Mondal et al. 2024 (arXiv 2401.16731, read second hand): every text goes to a generator with a task
description, one worked example drawn at random from the corpus, and the text; the union of the
generators' answers is taken; near-duplicates are merged by community detection on sentence embeddings,
one representative each. Labelling every text instead of the top exemplars alone is ours: without it a
scorer cannot see where a descriptor is absent.

A reply that cannot be read is absent and counted: ``proposals.attrs["dropped"]``.
"""

from nbkit.descriptors.labels import agreement, label
from nbkit.descriptors.merging import Descriptors, merge
from nbkit.descriptors.proposals import Prompt, propose

__all__ = ["Descriptors", "Prompt", "agreement", "label", "merge", "propose"]
