# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 02 · Discover descriptors: clusters find .54 of people's, a small model .46 (not surely less), random .21
#
# **Do** let generators say what is in each text, merge what means the same, and put a label on every
# text; hold three sources of words against each other: people, a small language model, clusters.
# **Learn** why every text needs labels, not only the exemplars of a unit; what each source is good and bad
# at.
# **Need** about two minutes, 5 MB of disk, no network and no key.
# **Words** [descriptor](../docs/glossary.md#descriptor), [generator](../docs/glossary.md#generator),
# [proposal](../docs/glossary.md#proposal), [merging](../docs/glossary.md#merging),
# [label matrix](../docs/glossary.md#label-matrix),
# [calibration of labels](../docs/glossary.md#calibration-of-labels), [kappa](../docs/glossary.md#kappa),
# [scorer](../docs/glossary.md#scorer), [tag](../docs/glossary.md#tag), [AUROC](../docs/glossary.md#auroc),
# [baseline](../docs/glossary.md#baseline), [gold](../docs/glossary.md#gold),
# [ranking](../docs/glossary.md#ranking).

# %%
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt

from nbkit import descriptors, evaluation, plots, provenance, stats
from nbkit.models import sentence_encoder
from nbkit.workshop import drawings, exercises, presets

# %% tags=["parameters"]
PRESET = None  # None: $NBKIT_PRESET, or "sample"
SEED = 0

# %%
preset = presets.load(PRESET)
corpora = preset.corpora(seed=SEED)
pd.set_option("display.max_colwidth", 100)

# %% [markdown]
# ## What a generator is asked
#
# Mondal et al. (2024) give a language model a task, one worked example drawn from the corpus, and the
# text. The prompt is a small object that you can print and change.

# %%
prompt = descriptors.Prompt()
prompt.messages("The soup was cold, and nobody came to ask.")

# %% [markdown]
# The shipped prompt shows three examples, of a review, an encyclopedia and a question. They are fixed, and
# not drawn from the corpus: a request then depends on its text alone, and a reply that was paid for once
# serves every later run. Examples of your own corpus, and a steer towards what its readers care about, are
# arguments. A model follows the form of its examples closely, and when it is small also their words: without
# examples SmolLM2 (135 million weights) finds descriptors for none of 40 texts of the sample, with the three
# for all 40, and a sixth of the descriptors are copied from the examples (`benchmarks/prompts.py`).
# `recorded:smollm2` replays what it replied to the shipped prompt about every text of the sample.

# %%
own = descriptors.Prompt(
    steer="Think of what a buyer cares about.", examples=[("Lovely soup!", ["food", "praise"])]
)
[message["content"] for message in own.messages("The zip broke on day two.")[:3]]

# %% [markdown]
# ## Asking
#
# Two of the generators that need no language model are asked here. `recorded:sample` replays the descriptors
# that were *written* for the sample by its authors: it shows what a careful reader would say, not what a
# model said. `keyphrase` takes phrases out of the text itself. Their answers are united.

#
# A dry run sends nothing and says what asking would come to. For the two here that is no money; for a
# language model behind a server it is read before the first request.

# %%
asked = {n: c if len(c) <= 500 else c.sample(300, seed=SEED) for n, c in corpora.items()}
askers = [generator for generator in preset["generators"] if generator != "topics"] or ["keyphrase"]
ask = dict(generators=askers, prompt=prompt, **preset.ledger)
planned = [descriptors.propose(corpus, **ask, dry_run=True) for corpus in asked.values()]
pd.concat(planned).groupby("generator")[["requests", "known", "money", "most"]].sum()

# %% [markdown]
# A ledger keeps the replies that were paid for; requests that it knows already are free. `most` is what no
# reply can pass, `money` what is usual. Then the asking itself; the table is of the first corpus (460
# reviews):

# %%
proposals = {name: descriptors.propose(corpus, **ask) for name, corpus in asked.items()}
name, proposed = next(iter(proposals.items()))
proposed.groupby("generator")["descriptor"].agg(["size", "nunique"])

# %% [markdown]
# Every request is accounted for: what failed, or could not be read, is counted and absent.

# %%
proposed.attrs["dropped"]

# %% [markdown]
# ## Merging
#
# "cat", "cats" and "the cat" are one descriptor. Proposals with close embeddings form a community; its
# most frequent member speaks for it. By hand on four phrases first:

# %%

phrases = ["cats", "cat", "train journey", "weather"]
vectors = sentence_encoder().encode(phrases, normalize_embeddings=True)
pd.DataFrame(vectors @ vectors.T, index=phrases, columns=phrases).round(2)

# %% [markdown]
# Only *cat* and *cats* are closer than the threshold of .75. `merge` must agree:

# %%
toy = pd.DataFrame({"text_id": range(4), "generator": "hand", "descriptor": phrases})
print(descriptors.merge(toy, min_texts=1).frame["members"].tolist())

# %% [markdown]
# What is wrong in your eyes you can rename, join or drop by hand; the file is read by later runs
# (`merge(..., edits="edits.json")`).

# %%
import tempfile
from pathlib import Path

edits = Path(tempfile.mkdtemp()) / "edits.json"
editor = plots.descriptor_editor(descriptors.merge(toy, min_texts=1), edits)
editor.rename("weather", "the weather")
editor

# %% [markdown]
# Now the corpora, all together, so that they share one vocabulary.

# %%
together = pd.concat([p.assign(text_id=[(name, i) for i in p["text_id"]]) for name, p in proposals.items()])
merged = descriptors.merge(together, min_texts=preset["min_texts"])
print(f"{together['descriptor'].nunique()} different phrases became {len(merged)} descriptors")
merged.frame.head(12)

# %% [markdown]
# Most of the phrases are in one text only: `merge` joins those that mean the same, and then leaves out
# whatever fewer than `min_texts` texts have (20 here: a descriptor of three texts cannot be tested).
#
# ## Labelling every text
#
# The label matrix [text, descriptor] has a probability for each pair. Here it is 1 where a generator
# named the descriptor. A scorer needs the zeros as much as the ones: without texts that *lack* a
# descriptor, the most frequent one fits every unit.

# %%
whole = all(len(asked[n]) == len(corpus) for n, corpus in corpora.items())
way = "proposals" if whole or "topics" in preset["generators"] else "similarity"  # of all texts, calibrated
discovered = {
    n: descriptors.label(corpus, merged, way, proposals=proposals[n]) for n, corpus in corpora.items()
}
share = pd.DataFrame({n: labels.mean() for n, labels in discovered.items()}).reindex(merged.names)
shown = share.loc[merged.names[:12]].style.set_uuid("share").format("{:.2f}")
shown.background_gradient(cmap="Blues", axis=None)

# %% [markdown]
# Each corpus has its own mixture. A descriptor that one corpus hardly knows cannot be tested there. The way
# so far, and the first labels of this corpus:

# %%
steps = {"proposals": len(together), "different ones": together["descriptor"].nunique()}
with plots.style():
    drawings.funnel(steps | {"descriptors": len(merged)}, discovered[name].to_numpy()[:6, :10] > 0.5)
    plt.show()

# %% [markdown]
# Merging joins the wordings and leaves the rare ones out; a text gets a label for each descriptor that was
# proposed for it, and 0 for the others.
#
# **Other ways to label.** A second way asks how close text and descriptor are for a sentence encoder,
# calibrated to probabilities on the proposals. It reaches texts that no generator has read. How often would
# it put a text with the descriptor above one without? We ask of the reviews, for the descriptors that at
# least five of them have; `shuffled` is the agreement with labels in another order.

# %%
from sklearn.metrics import roc_auc_score

given = {"proposals": proposals[name]}
read = close = descriptors.label(corpora[name], merged, **given)
if read.sum().between(5, len(read) - 5).any():  # else there is too little to calibrate with
    close = descriptors.label(corpora[name], merged, "similarity", **given)
varied = [c for c in close if 5 <= read[c].sum() <= len(read) - 5]
area = [roc_auc_score(read[c], close.loc[read.index, c]) for c in varied]
print(f"{len(varied)} descriptors, median AUROC {np.median(area or [np.nan]):.2f}")
descriptors.agreement({"proposals": read, "similarity": close}, seed=SEED).round(2)

# %% [markdown]
# For the middle one of 45 descriptors similarity puts the texts in a good order (median AUROC .84, on the
# texts that calibrated it), but the two ways agree only weakly once their probabilities are cut at .5 (kappa
# .27; .01 where labels are shuffled): take it as a ranking, not as yes and no.
#
# A third way asks a language model about every text and descriptor: `label(..., "asked", generator=...)`.
# With a server, or a model on this machine, the steps of this notebook are the same few lines:
#
# ```python
# model = descriptors.connect("openai:MODEL", base_url="http://localhost:8000/v1")
# paid = dict(ledger="replies.sqlite", prices={"MODEL": (0.15, 0.60)}, max_money=2.0)
# descriptors.propose(corpus, model, n=500, **paid, dry_run=True)    # what it would cost
# proposals = descriptors.propose(corpus, model, n=500, **paid)      # a stratified sample
# labels = descriptors.label(corpus, merged, "asked", generator=model, **paid)
# ```
#
# The file keeps every paid reply, so that a run that stopped goes on where it was; its cap holds over all
# runs. `descriptors.Ledger(model, "replies.sqlite").failures()` says what was lost, and
# `descriptors.connect("recorded:replies.jsonl", of=model)` records a run, so that a workshop replays it
# without a key and without a network.

# %% [markdown]
# ## Three ways to get words: people, a small model, clusters
#
# `discover` does all of this in one call: words, merging, a probability for every text, and a count. The
# words come from where you say. The same texts, three times: what their authors wrote, what SmolLM2 (135
# million weights) said of them, and clusters of the texts, each named by two of its typical words, without
# any language model. The first twelve names of each; `discover` takes no phrases of `keyphrase` here and
# counts texts by probability, so that people's are 127 and not the 94 above.

# %%
ways = {"people": ["recorded:sample"], "a small model": ["recorded:smollm2"]}
asked_for = {"as asked": preset["generators"]} if "topics" in preset["generators"] else {}
ways = (ways if "recorded:sample" in preset["generators"] else asked_for) | {"clusters": ["topics"]}
more = dict(n=500 if whole else 300, seed=SEED, prompt=prompt, **preset.ledger)
found = {way: descriptors.discover(corpora, words, **more) for way, words in ways.items()}
names = {way: one.descriptors.names for way, one in found.items()}
pd.DataFrame({way: pd.Series(some[:12]) for way, some in names.items()})

# %% [markdown]
# People mostly name with one word what a text is about. The small model does so for five of the twelve
# (*instrument*), takes several words for three more (*frosty weather*), and tells in four (*story of the old
# lady*). A cluster is named by what its texts say; *said / asked* and *went / stood* are ways of telling, not
# topics.
#
# How good is each? *Recall* is the share of the descriptors that people wrote for which a way has a name of
# the same meaning (a cosine of .6 between embeddings); *distinct* the share of its names that are no doubles
# of one another (a cosine of .6 again); *covered* the share of texts with a descriptor of .5 or more; *found
# again* the share of names from one half of the texts for which the other half, read alone, has one of the
# same meaning. Brackets are 95 % intervals over the descriptors of people. The baseline: as many phrases as
# there are clusters, drawn at random from those of `keyphrase` for all corpora.

# %%
halves = [{n: c.split(0.5, seed=SEED)[side] for n, c in corpora.items()} for side in (0, 1)]


def found_again(words):
    """Share of the names from one half of the texts that the other half has too, mean of both ways."""
    a, b = (descriptors.discover(half, words, **more).descriptors.names for half in halves)
    return np.mean([evaluation.recovered(*pair).recall.value for pair in ((a, b), (b, a))])


def covered(one):
    return (pd.concat(one.labels.values()) >= 0.5).any(axis=1).mean()


# %%
everyone = pd.concat(proposals.values())
phrases = everyone.loc[everyone["generator"] == "keyphrase", "descriptor"].drop_duplicates()
drawn = phrases.sample(min(len(phrases), len(names["clusters"])), random_state=SEED).tolist()
known, lines = names.get("people"), {}
for way, some in {**names, "random phrases": drawn}.items():
    q = evaluation.recovered(some, known or some)
    recall = "" if some == (known or some) else str(q.recall)  # people against people: 1 by definition
    lines[way] = {"descriptors": len(some), "recall": recall, "distinct": q.distinct}

# %%
for way, words in ways.items():
    if all(word in ("topics", "keyphrase") or word.startswith("recorded:") for word in words):  # free
        lines[way] |= {"covered": covered(found[way]), "found again": found_again(words)}
three = pd.DataFrame(lines).T
three.style.format(precision=2, na_rep="")

# %% [markdown]
# Clusters find .54 of the 127 descriptors that people wrote, with 157 names, the small model .46 with 111;
# 157 phrases drawn at random (one draw) find .21. More names find more, and the two have unequal numbers of
# names, so their recalls are not a fair comparison. Each way has a label for about four texts in five. When
# other texts are read, .57 of the clusters' names come back and .42 of the model's; of people's, who wrote
# with care and one vocabulary, .81 (names with many doubles come back more easily). By the same measure .28
# of the clusters' names are no doubles, .66 of the model's and .48 of people's own. The names of each way
# beside the descriptors of people that clusters find best, and least:

# %%
near = {w: evaluation.recovered(some, known or some).table for w, some in names.items() if w != "people"}
near = {way: table.set_index("descriptor") for way, table in near.items()}
beside = pd.DataFrame({w: t["nearest"] + t["cosine"].map(" ({:.2f})".format) for w, t in near.items()})
order = near["clusters"]["cosine"].sort_values(ascending=False).index
beside.loc[[*order[:6], *order[-6:]]] if known else None

# %% [markdown]
# The first six are those that clusters find best, the last six those that they find least. Descriptor by
# descriptor, how much more do clusters find?

# %%
hits = {way: table.loc[order, "cosine"] >= 0.6 for way, table in near.items()}
if known and len(hits) == 2:  # two ways asked for the same descriptors
    model, clusters = hits.values()
    print("clusters less small model:", stats.bootstrap(clusters.astype(float) - model, seed=SEED))

# %% [markdown]
# Of the same 127 descriptors clusters find .08 [-.02, .17] more: the interval holds 0, so no difference is
# shown, and clusters had 157 names to the model's 111. Clusters find what the words of a text show
# (*swimming*, *hotel*, *sewing*), and miss what no word says (*durability*, *inner monologue*) and some that
# a word does say, for which no cluster was made (*fungi*, *warranty*). The small model has the very word
# where it is lucky (*bread*, *warranty*), a wider one elsewhere (*transportation* for *bicycle*), and invents
# some (*swimmering*). So: clusters where no reply can be paid for, a larger model behind a server to name
# them (`discover(..., namer=model)`), and people for the last word.

# %% [markdown]
# ## One vocabulary of grammar
#
# Descriptors like *question* or *negation* can be read off the text (or, in a treebank, off its
# annotation) by documented rules. They complete the label matrix, and any set of corpora shares them.

# %%
grammar = preset.grammar(corpora)
pd.DataFrame({name: labels.mean() for name, labels in grammar.items()}).round(2)

# %% [markdown]
# *question* makes the corpora differ most: .62 of the questions have it, .10 of the others at the most.
# *comparison* is about as frequent everywhere, .18 to .23 (by this rule; what generators called *comparison*,
# .00 in fiction, is dropped in its favour below).
#
# ## Hand over
#
# The next notebooks use this matrix. Where a corpus has gold annotation (preset `treebank`), it is used
# alone.

# %%
if "topics" in preset["generators"]:  # what `discover` made of all of the preset's generators
    discovered = found["as asked"].labels
for name, labels in grammar.items():
    if "discovered" in preset["labels"]:
        labels = labels.join(discovered[name].drop(columns=labels.columns, errors="ignore"))
    preset.keep(f"labels/{name}", labels)
both = len(discovered[name].columns) + len(grammar[name].columns) - labels.shape[1]
print(f"{labels.shape[1]} descriptors for the units to be matched with ({both} are in both and count once)")
largest = {name: found.mean().nlargest(10).index.tolist() for name, found in discovered.items()}
preset.record(descriptors=labels.shape[1], discovered=len(merged), largest=largest)

# %% [markdown]
# ## Exercises
#
# 1. Lower the threshold of `merge` to .6. Which community goes wrong first?
# 2. Write a prompt with a steer for one corpus ("what a buyer cares about"), and print its messages.
# 3. Which of people's descriptors does neither other way find (`near`)? What kind are they?
# 4. The cells below are the answers to two more; in `exercises/` they are yours.

# %%
journeys = pd.DataFrame({"text_id": range(6), "generator": "hand"})
journeys["descriptor"] = ["train journey", "train", "journey", "railway", "travel", "trip"]
groups = {
    t: descriptors.merge(journeys, threshold=t, min_texts=1).frame["members"] for t in (0.5, 0.6, 0.7, 0.8)
}

# %% tags=["solution"]
# Six proposals, merged at four thresholds (`groups`: {threshold: members of each descriptor}). Which is the
# highest threshold that makes one descriptor of "travel" and "trip"? Look at what else it joins.
with_both = [t for t, found in groups.items() if any({"travel", "trip"} <= set(g) for g in found)]
threshold = max(with_both)

# %% tags=["check"]
joined = {t: any("travel" in g and "trip" in g for g in found) for t, found in groups.items()}
exercises.check(
    threshold,
    (lambda t: t in joined, f"one of {', '.join(map(str, joined))} is asked for"),
    (lambda t: joined[t], "there the two are still apart; a high threshold joins only the nearly same"),
    (lambda t: not any(joined[u] for u in joined if u > t), "they are one there, and at a higher one too"),
)

# %% tags=["solution"]
# `share` is the table [descriptor, corpus] of how many of the texts have a descriptor. Which descriptor has
# the largest distance between the corpus that has most of it and the one that has least?
uneven = (share.max(axis=1) - share.min(axis=1)).idxmax()

# %% tags=["check"]
exercises.check(
    uneven,
    (lambda a: a in share.index, "a descriptor of the table is asked for, by its name"),
    (lambda a: share.loc[a].min() < share.loc[a].max(), "every corpus has as much of it as the others"),
    (lambda a: np.ptp(share.loc[a]) >= np.ptp(share, axis=1).max() - 1e-9, "another is further apart"),
)

# %% [markdown]
# A descriptor that one corpus is full of and another lacks cannot be a unit's tag in both: remember it in
# notebook 04.
#
# ## What we learned
#
# The words of people, of a model or of clusters become a shared vocabulary by merging, and a label matrix by
# saying of every text which of them it was given. None of the three is the truth: hold one against another
# before you build on it. Next: `03_match_neurons`.

# %%
provenance.show()
