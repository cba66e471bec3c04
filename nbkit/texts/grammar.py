"""Sixteen descriptors that any corpus can share, read off an annotation or off the plain text.

    DESCRIPTORS       the vocabulary: name -> what it means, in the order of the columns
    from_annotation   words of CoNLL-U -> label matrix (gold)
    from_surface      plain texts -> label matrix, for the names in SURFACE only
    ANNOTATION        name -> annotation rule, in one line
    SURFACE           name -> surface rule, in one line; English only

Both return a frame [text_id, descriptor] of 0.0 and 1.0, without missing values. A name whose rule
cannot be applied is left out, not filled with zeros: a column of zeros would say "absent".

The annotation rules read UPOS, deprel and features and so hold for any UD treebank, but the word
lists in them (negation, modal, conditional, and the fall-backs when features are absent) are
English. So a name is left out, and that is logged, where nothing in the corpus shows that its
annotation could tell: no feature Degree for "comparison", no Person of pronouns, no modal at all.

The surface rules were written on EWT train and are tested on EWT dev and test by
tests/test_grammar.py, with a least F1 for every name. A name whose rule stays under F1 .85 there is
not in SURFACE: "passive" (.84 there, .91 on train), "proper name" (.80 on train, and nothing on
lower-cased corpora) and "imperative" (.65 on train). "plural" is the least exact of those that are
in (.92), the others are near .95 or above. "past tense" means any past form, participles included,
as UD's Tense=Past does. Question and exclamation use the same
mark in both kinds of rule: agreement there says little.

    gold = from_annotation(corpus.words, corpus.frame)
    plain = from_surface(corpus.frame)
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

log = logging.getLogger(__name__)

DESCRIPTORS = {
    "question": "asks something, and is marked as asking",
    "negation": "negates something",
    "first person": "speaks of the writer: a personal or possessive pronoun of the first person",
    "second person": "speaks to the reader: a pronoun of the second person",
    "third person": "a personal or possessive pronoun of the third person",
    "past tense": "has a verb in a past form: past tense or past participle (UD: Tense=Past)",
    "imperative": "has a verb in the imperative",
    "passive": "has a clause in the passive voice",
    "modal": "has a modal verb",
    "conditional": "has a condition: an if- or unless-clause",
    "comparison": "has a comparative or a superlative",
    "number": "has a number, in digits or words",
    "proper name": "names a person, place, organisation or the like",
    "quotation": "has something between quotation marks",
    "plural": "has a noun in the plural",
    "exclamation": "has an exclamation mark",
}

ANNOTATION = {
    "question": "a punctuation token with `?` (or ？ ؟ ...)",
    "negation": "Polarity=Neg or PronType=Neg, or the lemma not, never, no, nothing, ... nor",
    "first person": "PRON with PronType=Prs and Person=1",
    "second person": "PRON with PronType=Prs and Person=2",
    "third person": "PRON with PronType=Prs and Person=3",
    "past tense": "Tense=Past, participles too; without features: xpos VBD or VBN",
    "imperative": "Mood=Imp",
    "passive": "deprel aux:pass, nsubj:pass or csubj:pass",
    "modal": "xpos MD, or an AUX whose lemma is a modal",
    "conditional": "SCONJ `if` or `unless` marking an adverbial (or free-standing) clause",
    "comparison": "Degree=Cmp or Degree=Sup; without features: xpos JJR, JJS, RBR, RBS",
    "number": "UPOS NUM",
    "proper name": "UPOS PROPN",
    "quotation": "at least two quotation marks among the punctuation",
    "plural": "NOUN or PROPN with Number=Plur; without features: xpos NNS, NNPS",
    "exclamation": "a punctuation token with `!` (or ！ ...)",
}

SURFACE = {
    "question": "a `?`, outside addresses of the web",
    "negation": "a negative word, or one ending in n't",
    "first person": "I, me, my, we, us, our ... (`US` is not us)",
    "second person": "you, your, yourself ..., u, ur, thou",
    "third person": "he, she, it, they and their forms (`IT` is not it)",
    "past tense": "was, did, went, been, made ..., or a word in -ed that is no common adjective",
    "modal": "can, could, may, might, must, shall, should, will, would, ought, 'll, you'd",
    "conditional": "if or unless, but not after know, ask, see, sure ... (whether)",
    "comparison": "more, most, better ..., or -er, -est of a list of common adjectives",
    "number": "digits (not 2nd, 1990s, PS3), a number word, or `one` before a noun or of",
    "quotation": "two double quotation marks, or a pair of single ones around words",
    "plural": "people, men ..., or a word in -s that is no common verb or function word",
    "exclamation": "a `!` that no letter, digit or = follows",
}

NEGATORS = frozenset("not n't n’t never no nothing nobody no-one none neither nor nowhere".split())
MODALS = frozenset("can could may might must shall should will would ought".split())
QUOTES = frozenset(
    ['"', "“", "”", "„", "‟", "«", "»", "‹", "›", "``", "''", "’’", "‘’", '""', *"「」『』﹁﹂﹃﹄＂״"]
)
# Question and exclamation marks of all scripts: full width, Arabic, Armenian, Greek (not its `;`), Ethiopic
ASKING = "?？؟⁇⁈⁉՞፧⸮﹖︖‽\u037e"
EXCLAIMING = "!！‼⁈⁉՜﹗︕"
PRONOUNS = {
    1: frozenset("i me my mine myself we us our ours ourselves".split()),
    2: frozenset("you your yours yourself yourselves thou thee thy".split()),
    3: frozenset(
        "he him his himself she her hers herself it its itself they them their theirs themselves".split()
    ),
}
# A clause with "if" is a condition when it is an adverbial clause or stands free; as a complement
# ("ask if it is open") it means whether.
CONDITIONS = frozenset(["if", "unless"])
CONDITION_HEADS = frozenset(["advcl", "root", "parataxis"])


# ------------------------------------------------------------------------------- annotation rules


def from_annotation(words: pd.DataFrame, texts: pd.DataFrame) -> pd.DataFrame:
    """Gold label matrix [text_id, descriptor] by the rules of `ANNOTATION`.

    words  one row per word: text_id, word_id, form, lemma, upos, xpos, head, deprel, feats
    texts  one row per text: text_id
    """
    needed = ["text_id", "word_id", "form", "lemma", "upos", "xpos", "head", "deprel", "feats"]
    if missing := [c for c in needed if c not in words]:
        raise ValueError(f"words without {missing}: these rules need the annotation of CoNLL-U")
    index = pd.Index(texts["text_id"], name="text_id")
    row = index.get_indexer(words["text_id"])
    if (row < 0).any():
        stray = words["text_id"].to_numpy()[row < 0][0]
        raise ValueError(f"words of text_id {stray}, which is not among the texts")
    rules = _annotation_masks(_Words(words))
    if absent := [name for name in DESCRIPTORS if name not in rules]:
        log.warning("the annotation cannot tell %s in this language: left out", ", ".join(absent))
    columns = {name: _count(row, rules[name], len(index)) for name in DESCRIPTORS if name in rules}
    enough = {"quotation": 2}
    values = {name: (n >= enough.get(name, 1)).astype(float) for name, n in columns.items()}
    return pd.DataFrame(values, index=index)


def _count(row: np.ndarray, mask: np.ndarray, n: int) -> np.ndarray:
    """How many words of each text the mask marks."""
    return np.bincount(row[mask], minlength=n)


class _Words:
    """Columns of a words frame as codes, so that a rule looks at each distinct value once."""

    def __init__(self, words: pd.DataFrame):
        self.frame = words
        self.codes = {c: pd.factorize(words[c]) for c in ("form", "lemma", "upos", "xpos", "deprel", "feats")}

    def test(self, column: str, accepts: Callable[[str], bool]) -> np.ndarray:
        """Words [word] whose value in the column is accepted."""
        codes, values = self.codes[column]
        return np.array([accepts(v) for v in values], dtype=bool)[codes]

    def is_in(self, column: str, values) -> np.ndarray:
        return self.test(column, lambda v: v.lower() in values)

    def tag(self, column: str, *values: str) -> np.ndarray:
        return self.test(column, lambda v: v in values)

    def feature(self, name: str, *values: str) -> np.ndarray:
        """Words with this feature; `PronType=Int,Rel` has both values."""

        def accepts(feats: str) -> bool:
            pairs = (pair.partition("=") for pair in feats.split("|"))
            return any(key == name and set(value.split(",")) & set(values) for key, _, value in pairs)

        return self.test("feats", accepts)

    def has_feature(self, name: str, among: np.ndarray | None = None) -> bool:
        """Whether any word (of those in the mask `among`) has the feature, with any value."""
        has = self.test("feats", lambda feats: any(f.startswith(f"{name}=") for f in feats.split("|")))
        return bool((has if among is None else has & among).any())

    def present(self, column: str) -> bool:
        """Whether the column is annotated at all."""
        return bool(self.test(column, bool).any())


def _annotation_masks(w: _Words) -> dict[str, np.ndarray]:
    """Which words [word] show each descriptor; names that the annotation cannot tell are absent."""
    punct = w.tag("upos", "PUNCT")
    masks = {
        "question": punct & w.test("form", lambda v: not {*v}.isdisjoint(ASKING)),
        "exclamation": punct & w.test("form", lambda v: not {*v}.isdisjoint(EXCLAIMING)),
        "quotation": punct & (w.test("form", QUOTES.__contains__) | w.tag("xpos", "``", "''")),
        "number": w.tag("upos", "NUM"),
        "proper name": w.tag("upos", "PROPN"),
    }
    told = {  # name: the words with it, and whether the annotation shows the like anywhere
        "negation": (
            w.feature("Polarity", "Neg")
            | w.feature("PronType", "Neg")
            | w.is_in("lemma", NEGATORS)
            | w.is_in("form", {"n't", "n’t"}),
            w.has_feature("Polarity"),
        ),
        "modal": (w.tag("xpos", "MD") | (w.tag("upos", "AUX") & w.is_in("lemma", MODALS)), False),
        "passive": (w.tag("deprel", "aux:pass", "nsubj:pass", "csubj:pass"), w.has_feature("Voice")),
        "conditional": (_conditional(w), (w.tag("upos", "SCONJ") & w.is_in("lemma", CONDITIONS)).any()),
    }
    told |= _by_features(w) if w.present("feats") else _without_features(w)
    return masks | {name: mask for name, (mask, shown) in told.items() if shown or mask.any()}


def _by_features(w: _Words) -> dict[str, tuple[np.ndarray, Any]]:
    """Masks by morphological features, and whether the corpus has the feature at all."""
    noun, pronoun = w.tag("upos", "NOUN", "PROPN"), w.tag("upos", "PRON")
    personal = pronoun & w.feature("PronType", "Prs")
    people = w.has_feature("Person", personal)
    masks = {
        f"{p} person": (personal & w.feature("Person", str(n)), people)
        for n, p in enumerate(("first", "second", "third"), start=1)
    }
    return masks | {
        "past tense": (w.feature("Tense", "Past"), w.has_feature("Tense")),
        "imperative": (w.feature("Mood", "Imp"), w.has_feature("Mood")),
        "comparison": (w.feature("Degree", "Cmp", "Sup"), w.has_feature("Degree")),
        "plural": (noun & w.feature("Number", "Plur"), w.has_feature("Number", noun)),
    }


def _without_features(w: _Words) -> dict[str, tuple[np.ndarray, Any]]:
    """The same by English pronouns and the tags of the Penn treebank, as far as there are any."""
    pronoun = w.tag("upos", "PRON")
    people = (pronoun & w.is_in("form", frozenset().union(*PRONOUNS.values()))).any()
    masks = {
        f"{p} person": (pronoun & w.is_in("form", PRONOUNS[n]), people)
        for n, p in enumerate(("first", "second", "third"), start=1)
    }
    return masks | {
        "past tense": (w.tag("xpos", "VBD", "VBN"), w.tag("xpos", "VB", "VBP", "VBZ", "VBG").any()),
        "comparison": (w.tag("xpos", "JJR", "JJS", "RBR", "RBS"), w.tag("xpos", "JJ", "RB").any()),
        "plural": (w.tag("xpos", "NNS", "NNPS"), w.tag("xpos", "NN", "NNP").any()),
    }


def _conditional(w: _Words) -> np.ndarray:
    """SCONJ if/unless whose head is an adverbial or free-standing clause."""
    marks = w.tag("upos", "SCONJ") & w.is_in("lemma", CONDITIONS)
    # only the few texts that have one: looking heads up in a whole treebank is slow
    near = w.frame[w.frame["text_id"].isin(w.frame["text_id"][marks])]
    relation = near.set_index(["text_id", "word_id"])["deprel"].str.replace(r":.*", "", regex=True)
    heads = pd.MultiIndex.from_frame(w.frame.loc[marks, ["text_id", "head"]])
    accepted = relation.reindex(heads).isin(CONDITION_HEADS).to_numpy()
    result = np.zeros(len(marks), dtype=bool)
    result[np.flatnonzero(marks)[accepted]] = True
    return result


# ---------------------------------------------------------------------------------- surface rules


def from_surface(texts: pd.DataFrame) -> pd.DataFrame:
    """Label matrix [text_id, descriptor] by the rules of `SURFACE`, for English.

    texts  one row per text: text_id, text
    """
    index = pd.Index(texts["text_id"], name="text_id")
    # a web or mail address holds marks and words that nobody wrote as such
    plain = [ADDRESS.sub(" ", text) for text in texts["text"]]
    names = [name for name in DESCRIPTORS if name in SURFACE]
    values = {name: [float(bool(FINDERS[name](text))) for text in plain] for name in names}
    return pd.DataFrame(values, index=index, dtype=float)


def _any_of(words) -> str:
    """A pattern for any of the words, as a whole word."""
    return r"\b(?:" + "|".join(sorted(words)) + r")\b"


def _degrees(adjective: str) -> list[str]:
    """Comparative and superlative of a short adjective: big -> bigger, biggest."""
    if adjective.endswith("e"):
        stem = adjective[:-1]
    elif re.search(r"[^aeiou]y$", adjective) and adjective != "shy":
        stem = adjective[:-1] + "i"
    elif re.search(r"[^aeiou][aeiou][bdgmnpt]$", adjective) and adjective != "stupid":
        stem = adjective + adjective[-1]
    else:
        stem = adjective
    return [stem + "er", stem + "est"]


ADDRESS = re.compile(r"\S*(?:https?:|www\.)\S*|\S+@\S+|\S+\?\w+=\S*")

ADJECTIVES = (
    "big bold brave brief bright broad busy calm cheap classy clean clear clever close cold cool "
    "crazy crisp cute dark dear deep dense dirty dry dumb early easy fair fancy fast fat few fine "
    "firm flat fresh friendly full funny gentle grand great green handy happy hard harsh healthy "
    "heavy high hot huge humble hungry kind large late lazy light likely lively long loose loud "
    "lovely low lucky mad mean mild narrow nasty near neat new nice noisy odd old pale plain poor "
    "pretty pricey proud pure quick quiet rare rich rough rude sad safe sharp short shy sick silly "
    "simple slick slim slow small smart smooth soft soon sour steep strange strict strong stupid "
    "sturdy subtle sunny sure sweet tall tasty thick thin tight tiny tough true ugly vague warm "
    "weak wealthy weird wet wide wild wise worthy young windy thirsty"
).split()
COMPARED = {degree for adjective in ADJECTIVES for degree in _degrees(adjective)}
COMPARED |= set(
    "more most less least better best worse worst drier further furthest farther farthest "
    "lesser elder eldest".split()
)
COMPARED -= {"stranger", "cleaner", "dearest"}  # mostly nouns

NUMBER_WORDS = (
    "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred "
    "thousand million billion trillion zero"
).split()

# "the one", "no one", "a good one" are pronouns; so is "one" before a verb or a preposition
NOT_BEFORE_ONE = "the this that no any each every which another a new good great".split()
NOT_AFTER_ONE = (
    "is was has had can could would will should might must may does cares that who with for in on "
    "at to as from by up out i you we he she they it the a an this and or but if when where which "
    "because so there another"
).split()

# Words after which "if" asks whether.
WHETHER = (
    r"\b(?:know|knows|knew|wonder\w*|see|saw|asks?|asked|asking|sure|certain|check\w*|tell|told|"
    r"remember\w*|doubt\w*|find out|determin\w+|decid\w+|curious|say|said|clear|unclear|question|"
    r"verify|confirm|inquir\w+|idea|recall|guess|understand|care|look|test|advise|matter)"
    r"(?: (?:me|us|him|her|them|you|asap|back|exactly|yet|please|there))*,? if\b"
)

# Words in -s that are no plural nouns: function words, singulars, and verbs of the third person.
NOT_PLURAL = frozenset(
    "was has does perhaps always besides sometimes news thanks hers ours yours theirs towards "
    "afterwards christmas texas angeles series species politics physics economics mathematics "
    "makes gets goes says wants takes comes looks seems needs works helps means feels keeps gives "
    "knows thinks happens lets tells puts shows likes loves leaves requires provides includes "
    "tries runs uses serves asks calls turns deserves depends sounds appears contains allows "
    "brings becomes offers suggests hes shes thats whats theres".split()
)
IRREGULAR_PLURALS = frozenset(
    "people men women children feet teeth mice media data criteria phenomena".split()
)

# Irregular past forms and participles. Forms that look like the present (put, set, read, cut, run, come)
# are not here: they are more often something else.
PAST = frozenset(
    "was were did wasn't weren't didn't hadn't wasnt werent didnt hadnt went came saw took gave knew "
    "wrote spoke broke chose drove ate fell grew flew threw began ran became forgot rang sang "
    "drank swam rode rose wore tore stole froze blew drew shook hid woke withdrew "
    "had said thought got made told found left felt brought bought kept met sent spent paid lost "
    "heard held stood understood led taught caught fought sat slept built meant dealt sold won "
    "stuck hung lent done been gone seen taken given known written spoken broken chosen driven eaten "
    "fallen grown flown thrown begun forgotten sung worn torn stolen frozen blown drawn shaken hidden "
    "shown gotten born laid beaten bitten swept struck sunk sank woken overseen wound".split()
)
NOT_PAST = frozenset(
    "need feed speed seed weed breed bleed greed indeed exceed proceed succeed sacred hundred "
    "embed kindred naked wicked united limited unlimited tired interested excited".split()
)


def _finder(*patterns: str) -> Callable[[str], object]:
    """Search for any of the patterns, in any case; (?-i:...) inside one minds the case."""
    return re.compile("|".join(patterns), re.IGNORECASE).search


WHETHER_IF = re.compile(WHETHER, re.IGNORECASE)
CONDITION = re.compile(r"\b(?:if|unless)\b", re.IGNORECASE)
QUOTE = re.compile(r"[\"“”„«»]|``|''|’’|‘’")
SINGLE_QUOTED = re.compile(r"(?<!\w)['‘`](?=\w).+?(?<=[\w.,!?])['’](?!\w)")


def _is_conditional(text: str) -> bool:
    return bool(CONDITION.search(WHETHER_IF.sub(" ", text)))


def _is_quotation(text: str) -> bool:
    return len(QUOTE.findall(text)) >= 2 or bool(SINGLE_QUOTED.search(text))


def _is_plural(text: str) -> bool:
    return any(_plural_word(m.group().lower()) for m in re.finditer(r"[\w'’]+", text))


def _plural_word(word: str) -> bool:
    if word in IRREGULAR_PLURALS:
        return True
    ends_well = word.endswith("s") and not word.endswith(("ss", "us", "is", "'s", "’s"))
    return ends_well and len(word) > 3 and word.isalpha() and word not in NOT_PLURAL


def _is_past(text: str) -> bool:
    words = (m.group().replace("’", "'").lower() for m in re.finditer(r"[A-Za-z'’]+", text))
    return any(w in PAST or _ends_in_ed(w) for w in words)


def _ends_in_ed(word: str) -> bool:
    return word.endswith("ed") and len(word) > 3 and word not in NOT_PAST


FINDERS: dict[str, Callable[[str], object]] = {
    "question": _finder(f"[{ASKING}]"),
    "exclamation": _finder(rf"[{EXCLAIMING}](?![\w=])"),
    "negation": _finder(
        _any_of(NEGATORS - {"n't", "n’t"}),
        r"n['’]t\b",
        r"\b(?:cannot|no one|(?:do|does|did|wo|ca|is|was|could|would|should|have|has|are|ai)nt)\b",
    ),
    # `I` but not `I/O` or `(i)`; `us` but not `US`
    "first person": _finder(
        r"(?-i:\bI\b(?![./&]\w)|\bi\b(?![.)])|\b[Uu]s\b)",
        r"\b(?:im|ive|let['’]?s)\b",
        _any_of(PRONOUNS[1] - {"i", "us"}),
    ),
    "second person": _finder(
        _any_of(PRONOUNS[2] | {"ya", "ye", "youre", "youll"}), r"(?-i:\b(?:u|ur)\b(?!\.))"
    ),
    "third person": _finder(_any_of(PRONOUNS[3] - {"it"}), r"(?-i:\b[Ii]t\b)", r"['’]em\b"),
    # `May` is the month unless it opens a sentence
    "modal": _finder(
        r"(?-i:\bmay|\bMAY|(?:^|[.!?:;\"“] *)May(?! \d))\b",
        r"\b(?:can|could|might|must|shall|should|will|would|ought)(?:n['’]?t|not)?\b",
        r"\b(?:ca|wo)n['’]?t\b",
        r"['’]ll\b",
        r"\b(?:i|you|he|she|it|we|they|there|that|who)['’]d\b",
    ),
    "conditional": _is_conditional,
    "comparison": _finder(_any_of(COMPARED)),
    "number": _finder(
        r"(?<![\w.-])\d[\d.,:/-]*(?!\d)(?!['’]?(?:s|st|nd|rd|th)\b)",
        _any_of(NUMBER_WORDS),
        "".join(rf"(?<!\b{w} )" for w in NOT_BEFORE_ONE) + rf"\bone (?!(?:{'|'.join(NOT_AFTER_ONE)})\b)\w",
    ),
    "quotation": _is_quotation,
    "plural": _is_plural,
    "past tense": _is_past,
}
