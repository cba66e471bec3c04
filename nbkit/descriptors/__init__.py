"""Descriptors: short properties of texts, found in a corpus, merged, and put on every text.

    proposals = propose(corpus, "keyphrase")               frame: text_id, generator, descriptor
    merged = merge(proposals, min_texts=10)                near-duplicates become one; merged.names
    labels = label(corpus, merged, proposals=proposals)    [text, descriptor], P(descriptor | text) in [0, 1]
    reliability(labels, gold)                              are these probabilities? error of each descriptor

Where the words come from is a generator: a spec, or what ``connect`` makes of one.

    connect("keyphrase")                     phrases of the text itself (KeyBERT, no language model)
    connect("local:MODEL")                   a language model on this machine (hub id or folder)
    connect("openai:MODEL", base_url=...)    any server that speaks the OpenAI protocol
    connect("recorded:sample")               replays the descriptors written for the embedded sample
    connect("recorded:FILE", of=GENERATOR)   replays replies from a file, and records what it lacks
    Ledger(generator, "replies.sqlite", prices={"MODEL": (0.15, 0.60)}, max_money=2.0)
                                             keeps every paid reply, never pays twice, and holds a cap

``Prompt`` and ``Question`` are what a generator is asked. ``Editor`` renames, joins and drops descriptors by
hand. ``agreement`` compares label matrices. A reply that could not be had or read is absent and counted,
in ``.attrs["dropped"]`` of what ``propose`` and ``label`` return; it never stops a run.

Sources
    Mondal et al. 2024 (arXiv 2401.16731): every text goes to generators with a task description, one
    worked example drawn at random from the corpus, and the text; the union of the answers is taken;
    near-duplicates are merged by community detection on sentence embeddings, one representative each.
    New here: a name is the member nearest to all of its community, and no member is nearer to another name;
    labels by similarity are calibrated for each descriptor (logistic regression, Platt 1999), cross-fitted;
    every text is labelled instead of the top exemplars alone (a scorer has to see where a
    descriptor is absent), communities are merged until no two representatives are near, and every
    request is accounted for.
"""

from nbkit.descriptors.calibration import Reliability, reliability
from nbkit.descriptors.generators import connect
from nbkit.descriptors.labels import Question, agreement, label
from nbkit.descriptors.ledger import Ledger
from nbkit.descriptors.merging import Descriptors, Editor, merge
from nbkit.descriptors.messages import Generator, Reply
from nbkit.descriptors.proposals import Prompt, propose

__all__ = [
    "Descriptors",
    "Editor",
    "Generator",
    "Ledger",
    "Prompt",
    "Question",
    "Reliability",
    "Reply",
    "agreement",
    "connect",
    "label",
    "merge",
    "propose",
    "reliability",
]
