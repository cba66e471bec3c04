"""Descriptors: short properties of texts, found in a corpus, merged, and put on every text.

    proposals = propose(corpus, "keyphrase")               frame: text_id, generator, descriptor
    merged = merge(proposals, min_texts=10)                near-duplicates become one; merged.names
    labels = label(corpus, merged, proposals=proposals)    [text, descriptor], P(descriptor | text) in [0, 1]
    reliability(labels, gold)                              are these probabilities? error of each descriptor

The same in one call, for one corpus or several, without a language model or with one:

    found = discover(corpora)                              clusters of the texts, named: seconds for thousands
    found = discover(corpora, ["topics", "smollm2"])       and what a generator says of some of the texts
    found = discover(corpora, namer="smollm2")             a language model names the clusters
    found.table, found.labels, found.notes                 shares and examples, label matrices, what was done
    discover(corpora, folder="build/mine")                 kept there; edits of it survive the next call

``topics(corpora)`` gives the clusters alone, ``Names`` the names of clusters found elsewhere. The other way
round, ``write(descriptions, generator)`` has texts written that fit a description. Where the words come from
is a generator: a spec, or what ``connect`` makes of one.

    connect("keyphrase")                     phrases of the text itself (KeyBERT, no language model)
    connect("smollm2")                       SmolLM2-135M-Instruct, on board
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
    Names of clusters are class-based tf-idf (Grootendorst 2022, BERTopic, arXiv 2203.05794) times the
    closeness of word and centre; the library itself is not used, since its clustering leaves a third of the
    texts without a topic, and its dependencies are many.
    New here: clusters at several grains, and descriptors counted after labelling; a name is the member
    nearest to all of its community, and no member is nearer to another name; labels by similarity are
    calibrated for each descriptor (logistic regression, Platt 1999), cross-fitted; every text is labelled
    instead of the top exemplars alone (a scorer has to see where a descriptor is absent), communities are
    merged until no two representatives are near, and every request is accounted for.
"""

from nbkit.descriptors.calibration import Reliability, reliability
from nbkit.descriptors.discovery import Discovery, discover
from nbkit.descriptors.generators import connect
from nbkit.descriptors.labels import Question, agreement, label
from nbkit.descriptors.ledger import Ledger
from nbkit.descriptors.merging import Descriptors, Editor, merge
from nbkit.descriptors.messages import Generator, Reply
from nbkit.descriptors.proposals import Prompt, propose
from nbkit.descriptors.topics import Names, Topics, topics
from nbkit.descriptors.writing import write

__all__ = [
    "Descriptors",
    "Discovery",
    "Editor",
    "Generator",
    "Ledger",
    "Names",
    "Prompt",
    "Question",
    "Reliability",
    "Reply",
    "Topics",
    "agreement",
    "connect",
    "discover",
    "label",
    "merge",
    "propose",
    "reliability",
    "topics",
    "write",
]
