"""Claims: explanations of units made elsewhere, and whether they hold on your texts.

A claim is a unit and what it is believed to respond to: "layer.3.ffn.512", "text about food".
The usual loop:

    found = claims.read("explanations/", subject)           from the files of other tools, as one table
    judged = claims.judge(stores, found, corpora)           {corpus: store}, claims, {corpus: Texts}
    judged.verdicts                                         one line for each claim, its verdict in words
    judged.corpora                                          the figures of each claim and corpus
    judged.baselines                                        beside claims shuffled over units
    judged.table()                                          for a paper
    claims.card(judged, claim, stores, corpora)             texts for it and against it; plots.claim_cards
                                                            writes a page for each claim, and an index

    label(stores, descriptions, corpora, labeller)          which rows have what a description says
    similarity(encoder), patterns({...}), asked(generator)  labellers: closeness, words, a language model

    meanings(stores, corpora, units)        several meanings of a unit: its top texts in clusters, each of
                                            them described, and tested beside random directions
    sensitivity(subject, found, "smollm2")  does the unit fire on new texts that are written for its
                                            description, beside those for other descriptions?

A claim is judged by the two matrices: activations [row, unit] and labels [row, description]. AUROC says
whether the unit is higher on the rows that have it; it does not depend on how many have it, so that corpora
compare. Its verdict is one of

    holds everywhere         in each corpus
    holds in some corpora    ``holds_in`` names them
    fits many units          more than 5 % of all units fit the description as well: it names none
    not found                the unit does not respond to it, or another description explains that it does
    cannot be judged here    too few texts have it; the sentence says how many more would do

A verdict is about the claim *and* the labeller. The closeness of an encoder knows what a text is about; it
does not know syntax, nor single words. Labels that are wrong at random move AUROC towards .5. Where the
encoder is the subject itself, units and labels share a model. Compare labellers by
``descriptors.agreement``.

Sources
-------
The files are those of Neuronpedia (exports of explanations), delphi (Paulo et al. 2024), neuron-explainer
(Bills et al. 2023) and Transluce. That explanations fail on observation is from Huang et al. 2023, that
randomised transformers get similar scores from Heap et al. 2025. DeLong et al. 1988 and Obuchowski 1997 are
the source of the interval of AUROC. Several descriptions of a unit are from PRISM (Kopf et al. 2025), where
the best of five random ones reaches .65: here the null has as many to choose from. That units often do not
fire on new texts for their description, the less the larger a dictionary, is from arXiv 2509.23717.
New here: the table of names that maps units to sites, the verdicts, the test against the best rival
description, the null that pools the standardised draws of all claims, and other units as the comparison of a
sensitivity.
"""

from nbkit.claims.evidence import SAYS as EVIDENCE
from nbkit.claims.evidence import Card, card
from nbkit.claims.judging import VERDICTS, Judged, judge
from nbkit.claims.labellers import LABELLERS, asked, label, patterns, similarity
from nbkit.claims.meanings import meanings
from nbkit.claims.reading import read
from nbkit.claims.writing import sensitivity

__all__ = [
    "EVIDENCE",
    "LABELLERS",
    "VERDICTS",
    "Card",
    "Judged",
    "asked",
    "card",
    "judge",
    "label",
    "meanings",
    "patterns",
    "read",
    "sensitivity",
    "similarity",
]
