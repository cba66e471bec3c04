"""The widgets under test, small: built in a notebook's kernel, and in the test to know what to expect."""

import functools

import numpy as np
import pandas as pd

from nbkit import activations, descriptors, illusions, models, plots, salience, texts

SITE = "layer.3.ffn"
SENTENCES = {
    "one": ["the", "dog", "barked", "at", "the", "moon"],
    "two": ["a", "friend", "of", "mine", "bakes", "bread", "on", "Sundays"],
}
GOLD = {
    "one": {(0, 1), (1, 2), (2, 5), (3, 5), (4, 5)},
    "two": {(0, 1), (1, 4), (2, 3), (1, 3), (4, 5), (4, 7), (6, 7)},
}


@functools.cache
def stores(subject=None):
    """1,536 units of one site on the four corpora, 60 texts of each: four columns, also on a phone."""
    subject = subject or models.load("minilm")
    corpora = {name: texts.load(f"sample:{name}").sample(60, seed=0) for name in texts.SAMPLES[:4]}
    labels = {name: corpus.descriptors("surface") for name, corpus in corpora.items()}
    stored = {n: activations.capture(subject, c, sites=SITE, cache=False) for n, c in corpora.items()}
    return subject, corpora, stored, labels


def neuron_browser():
    return plots.neuron_browser(*stores(), k=4)


def corpus_compare(subject=None):
    """The same units, with what ``illusions`` says of their tags."""
    _, _, stored, labels = given = stores(subject)
    few = {"min_positives": 3, "progress": False}
    report = illusions.compare(stored, labels, directions=20, splits=2, **few)
    verdicts = illusions.taxonomy(stored, labels, min_score=0.3, **few)
    return plots.corpus_compare(*given, report=report, verdicts=verdicts, k=4)


def annotate():
    """Four sets of three texts; the answers go into the folder ``answers``."""
    lines = [
        (f"s{n}", corpus, rank, 10 * n + rank, f"Text {rank} of set {n} has {thing}.")
        for n, (corpus, thing) in enumerate(
            [("reviews", "a price"), ("fiction", "a door"), ("reviews", "nothing"), ("fiction", "a dog")], 1
        )
        for rank in (1, 2, 3)
    ]
    sets = pd.DataFrame(lines, columns=["set_id", "corpus", "rank", "text_id", "text"])
    return plots.annotate(sets, "answers", "ada")


def salience_slider():
    """Two properties of 80 words on 24 units, of which 3 of each property carry it."""
    rng = np.random.default_rng(0)
    index = pd.MultiIndex.from_arrays([np.arange(80), np.ones(80, int)], names=["text_id", "word_id"])
    words = pd.Series([f"word{i}" for i in range(80)], index=index)
    units = pd.DataFrame(
        {"unit": [f"layer.{i // 8}.hidden.{i % 8}" for i in range(24)]}
        | {"site": [f"layer.{i // 8}.hidden" for i in range(24)]}
    )
    X = rng.standard_normal((80, 24)).astype(np.float32)
    stored, rankings, curves = {}, {}, {}
    for what, names, at in (("upos", ["NOUN", "VERB"], 3), ("number", ["Plur", "Sing"], 13)):
        y = pd.Series(rng.choice(names, 80), index=index)
        X[:, at : at + 3] += 4 * (y.to_numpy() == names[0])[:, None]
        stored[what], rankings[what] = (X, y), salience.rank(X, y)
        curves[what] = pd.DataFrame({"n": [1, 2, 4, 8, 24], "accuracy": [0.7, 0.8, 0.9, 0.95, 0.97]})
    return plots.salience_slider(stored, units, rankings, curves, words)


def tree_stepper():
    """Two sentences; the probe of layer n finds the first n + 2 gold edges, and a wrong one."""
    layers = [f"layer.{n}.hidden" for n in range(4)]
    predicted = {
        s: {layer: set(sorted(edges)[: n + 2]) | {(0, 4)} for n, layer in enumerate(layers)}
        for s, edges in GOLD.items()
    }
    return plots.tree_stepper(SENTENCES, GOLD, predicted)


def descriptor_editor(path="edits.json"):
    """Three descriptors to rename, join and drop."""
    lines = [("price", 40, ["price", "prices"]), ("cost", 25, ["cost"]), ("mood", 12, ["mood"])]
    frame = pd.DataFrame(lines, columns=["descriptor", "n_texts", "members"])
    return plots.descriptor_editor(descriptors.Descriptors(frame, 0), path)
