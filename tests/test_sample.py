"""The embedded sample is what its README says: distinct, varied, balanced, with valid trees."""

import re
from collections import Counter

import pandas as pd
import pytest

from nbkit import texts

CORPORA = ("reviews", "questions", "encyclopedia", "fiction")
TOPICS = (
    "food weather music money travel health animals family clothes machines books sport plants sleep water"
    " children work time home colour"
).split()


@pytest.fixture(scope="module")
def sample():
    return {name: texts.load(f"sample:{name}") for name in CORPORA}


def words(text):
    return re.findall(r"[a-z0-9']+", text.lower())


def test_no_two_sentences_are_alike_in_any_corpus(sample):
    every = [" ".join(words(t)) for corpus in sample.values() for t in corpus.frame["text"]]
    assert len(every) == len(set(every)) >= 4 * 400
    assert all(not corpus.dropped for corpus in sample.values())


@pytest.mark.parametrize("name", CORPORA)
def test_few_four_grams_are_repeated(sample, name):
    grams = Counter()
    for text in sample[name].frame["text"]:
        w = words(text)
        grams.update(zip(w, w[1:], w[2:], w[3:], strict=False))
    repeated = sum(n - 1 for n in grams.values()) / sum(grams.values())
    assert repeated <= 0.02


@pytest.mark.parametrize("name", CORPORA)
def test_openings_vary(sample, name):
    openings = Counter(tuple(words(t)[:2]) for t in sample[name].frame["text"])
    assert openings.most_common(1)[0][1] <= 0.02 * len(sample[name])


@pytest.mark.parametrize("name", CORPORA)
def test_every_sentence_has_two_to_five_short_descriptors(sample, name):
    for written in sample[name].frame["descriptors"]:
        assert 2 <= len(written) <= 5 and len(set(written)) == len(written)
        assert all(d == d.strip().lower() and 1 <= len(d.split()) <= 4 for d in written)
    assert len(sample[name].descriptors("written").columns) >= 100


def test_the_corpora_are_balanced(sample):
    sizes = {len(corpus) for corpus in sample.values()}
    assert sizes == {460}
    for corpus in sample.values():
        counts = corpus.descriptors("written").sum()
        assert (counts.reindex(TOPICS) >= 15).all(), counts.reindex(TOPICS)
        assert (corpus.descriptors("surface").sum() >= 10).all()


def test_the_registers_differ(sample):
    """A bag of words tells the four apart: they are not one style under four names."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    frame = pd.concat([c.frame.assign(corpus=n) for n, c in sample.items()])
    model = make_pipeline(TfidfVectorizer(token_pattern=r"\w+|[^\w\s]", sublinear_tf=True), LinearSVC())
    accuracy = cross_val_score(model, frame["text"], frame["corpus"], cv=5).mean()
    assert accuracy > 0.6  # chance: .25


UPOS = set("ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X".split())
RELATIONS = set(
    "acl advcl advmod amod appos aux case cc ccomp clf compound conj cop csubj dep det discourse dislocated"
    " expl fixed flat goeswith iobj list mark nmod nsubj nummod obj obl orphan parataxis punct reparandum"
    " root vocative xcomp".split()
)


def test_the_treebank_holds_valid_trees():
    treebank = texts.load("sample:treebank")
    assert len(treebank) >= 200 and not treebank.dropped
    assert treebank.frame["genre"].value_counts().min() >= 50
    for text_id, sentence in treebank.words.groupby("text_id"):
        head = dict(zip(sentence["word_id"], sentence["head"], strict=True))
        assert list(head.values()).count(0) == 1, text_id
        for word in head:
            path = []
            while word:
                assert word not in path, f"cycle in text {text_id}"
                path.append(word)
                word = head[word]
        assert (sentence["deprel"].eq("root") == sentence["head"].eq(0)).all(), text_id
        assert (sentence["deprel"].eq("punct") == sentence["upos"].eq("PUNCT")).all(), text_id
    assert set(treebank.words["upos"]) <= UPOS
    assert {relation.split(":")[0] for relation in treebank.words["deprel"]} <= RELATIONS


def test_the_treebank_is_part_of_the_corpora(sample):
    treebank = texts.load("sample:treebank")
    for text, genre in zip(treebank.frame["text"], treebank.frame["genre"], strict=True):
        assert text in set(sample[genre].frame["text"])
    surface, gold = treebank.descriptors("surface"), treebank.descriptors()
    agree = (surface == gold[surface.columns]).mean()
    assert agree.min() > 0.85 and agree.mean() > 0.97, agree
