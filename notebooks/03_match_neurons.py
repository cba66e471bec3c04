# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 03 · Match neurons: 29 % of units get a strong tag, 16 % of random directions, none on shuffled labels
#
# **Do** score every unit against every descriptor, choose tags on one half of the texts, and check them
# on the other half, against chance, against units that mean nothing, and without the help of sentence length.
# **Learn** why the common rule ("what the exemplars share") rewards frequent descriptors, what a
# permutation null is, and what it does not protect from.
# **Need** about a minute, 80 MB of disk (what notebooks 01 and 02 kept), no network.
# **Words** [tag](../docs/glossary.md#tag), [scorer](../docs/glossary.md#scorer),
# [calibration and validation](../docs/glossary.md#calibration-and-validation),
# [p value](../docs/glossary.md#p-value), [false discovery rate](../docs/glossary.md#false-discovery-rate),
# [null](../docs/glossary.md#null), [baseline](../docs/glossary.md#baseline),
# [covariate](../docs/glossary.md#covariate), [Pearson](../docs/glossary.md#pearson),
# [significant](../docs/glossary.md#significant), [random direction](../docs/glossary.md#random-direction),
# [composite](../docs/glossary.md#composite).

# %%
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt

from nbkit import activations, matching, plots, provenance
from nbkit.activations import exemplars
from nbkit.workshop import drawings, exercises, presets

# %% tags=["parameters"]
PRESET = None  # None: $NBKIT_PRESET, or "sample"
SEED = 0

# %%
preset = presets.load(PRESET)
subject, corpora = preset.subject(), preset.corpora(seed=SEED)
labels = {name: preset.kept(f"labels/{name}") for name in corpora}
stored = {
    name: activations.capture(subject, corpus, sites="ffn", pool="max") for name, corpus in corpora.items()
}
pd.set_option("display.max_colwidth", 90)

# %% [markdown]
# ## By hand: one unit, one descriptor
#
# Two columns with the same rows: the activation of a unit, and whether each text is a question. Their
# Pearson correlation is the mean product of the two after standardising.

# %%
name = next(iter(corpora))
values, asks = np.asarray(stored[name].values, np.float32), labels[name]["question"].to_numpy()
z = lambda x: (x - x.mean()) / x.std()
by_hand = np.array([np.mean(z(values[:, unit]) * z(asks)) for unit in range(200)])
by_hand.max().round(3)

# %% [markdown]
# ## With the kit: every unit, every descriptor
#
# `score` returns the table [descriptor, unit]. It must agree with the hand.

# %%
scores = matching.score(stored[name], labels[name])
assert np.allclose(scores.loc["question"].iloc[:200], by_hand, atol=1e-4), "hand and kit disagree"
scores.shape

# %% [markdown]
# What does such a score look like? Three pairs of a unit and a descriptor; each dot is a text, at the unit's
# activation, orange and above if it has the descriptor, blue and below if not.

# %%
pairs = {}
for wanted in (0.95, 0.30, 0.10):
    row, unit = np.unravel_index(np.abs(scores.to_numpy() - wanted).argmin(), scores.shape)
    title = f"r = {scores.iat[row, unit]:.2f}, “{plots.short(scores.index[row], 18)}”"
    pairs[title] = values[:, unit], labels[name].iloc[:, row].to_numpy()
with plots.style():
    drawings.strips(pairs, seed=SEED)
    plt.show()

# %% [markdown]
# At .95 the unit alone tells the two kinds of texts apart. At .30, our minimum for a tag, they overlap: the
# texts with it lie higher on average, but the highest activations are of both kinds. At .10 nobody would see
# anything.
#
# The best unit for some descriptors, over all layers:

# %%
best = pd.DataFrame({"unit": scores.idxmax(axis=1), "score": scores.max(axis=1)})
best.sort_values("score", ascending=False).head(10).round(2)

# %% [markdown]
# Does the best unit for questions look the part?

# %%
asker = scores.loc["question"].idxmax()
exemplars.top(stored[name], corpora[name], asker, k=5, subject=subject)[["activation", "peak", "text"]]

# %% [markdown]
# It peaks on the question mark, also where somebody only quotes a question: in these five it follows the
# mark, whoever asks (questions without a mark were not looked at).
#
# ## The rule of the paper, and what it rewards
#
# Mondal et al. give a unit the descriptors that its exemplars have in common: the share of the top texts
# that have it (`frequency`). Compare what each rule names most often, with how common the descriptor is.

# %%
share = labels[name].mean()
frequent = matching.score(stored[name], labels[name], "frequency").idxmax().value_counts()
pearson = scores.idxmax().value_counts()
table = pd.DataFrame({"in texts": share, "frequency rule": frequent, "pearson": pearson})
table.fillna(0).sort_values("frequency rule", ascending=False).head(6).round(2)

# %% [markdown]
# The frequency rule gives .91 of the units one of the three commonest descriptors, Pearson .20. Pearson asks
# whether the unit can tell texts that have the descriptor from texts that do not.
#
# ## Could chance have done it?
#
# With thousands of units and dozens of descriptors, some pair always looks good. `tag` shuffles the rows of
# the labels 200 times, and notes each time the best score over *all* descriptors. A tag counts when chance
# hardly ever reaches it. The false discovery rate over units is then held at 5 %. Where a corpus says which
# document a text is from, whole documents go to one half or the other (`groups`). A second tag is tested
# given the first, and only where the first is significant: elsewhere its p is empty. `score` is that of the
# half which chose the tag, `validation_score` that of the other half, `validation_rank` the tag's place among
# all descriptors there, `low` and `high` the 95 % interval of `validation_score`. `sign` is the end of the
# unit (here always the high one), and a line is `tagged` if q ≤ .05.

# %%
tags = {
    name: matching.tag(stored[name], labels[name], groups=corpora[name].documents, seed=SEED)
    for name in corpora
}
first = {name: t[(t["rank"] == 1) & (t["q"] <= 0.05)] for name, t in tags.items()}
tags[name].head(4).round(3)

# %% [markdown]
# A p of 1/201, .005, says that in none of 200 shuffles any descriptor did as well. With thousands of units
# that is not small enough, so below it a formula goes on (the distribution of a correlation under shuffling,
# times the number of descriptors). `q` says the same for all units together: of those with q ≤ .05 at most
# one in twenty is expected to be related to no descriptor at all.
#
# The same procedure on shuffled labels is the null. It should find next to nothing.

# %%
shuffled = labels[name].sample(frac=1, random_state=SEED).set_axis(labels[name].index)
by_chance = matching.tag(stored[name], shuffled, seed=SEED)
counts = {corpus: len(t) for corpus, t in first.items()}
counts["shuffled labels"] = int(((by_chance["rank"] == 1) & (by_chance["q"] <= 0.05)).sum())
pd.Series(counts, name="units with a significant first tag")

# %% [markdown]
# Between a third of the units (fiction) and more than a half (encyclopedia) have a significant first tag;
# with shuffled labels none has. Significant is not strong: how many first tags of the reviews are
# significant, by their score?

# %%
ones = tags[name][tags[name]["rank"] == 1]
near = pd.cut(ones["score"], [0.2, 0.24, 0.26, 0.29, 0.31, 1])
(ones["q"] <= 0.05).groupby(near, observed=True).agg(["mean", "size"]).round(2)

# %% [markdown]
# With 230 texts in a half .57 of the tags near .25 are significant, and .86 of those near .30, though each
# had to beat the best of 103 descriptors.
# ## Chosen on one half, looked up on the other
#
# Each point is a unit with its first tag. Points below the diagonal lost some score on the texts that
# played no part in the choice: the winner's curse, strongest where the score was weak. At the right are the
# units whose first tag reaches the minimum on the held-out texts too.

# %%
with plots.style():
    fig, axes = plt.subplots(1, 2, figsize=(9.5, 4))
    plots.shift(tags[name], ax=axes[0])
    axes[0].set_title(f"score kept on held-out texts ({name})")
    plots.layers(tags[name], min_score=preset["min_score"]["ffn"], ax=axes[1])
    axes[1].set_title("where the tagged units are")
    plt.show()

# %% [markdown]
# Strong tags lie near the diagonal, a little below; most points are weak tags, and many of these lose most of
# their score. Units whose first tag has .3 or more on the held-out half are in all layers, more of them in
# layers 2 and 3 than elsewhere.
#
# ## How good is that? The baselines
#
# The same procedure on things that should mean nothing, or less than units do: random directions in the space
# of the units, shuffled labels (*permuted rows*), and the same model with random weights. The last is a
# baseline and not a null: without any training, a unit still knows which words are there. `score` and
# `validation_score` are medians over the tags.

# %%
strong = preset["min_score"]["ffn"]
untrained = activations.capture(subject.randomized(SEED), corpora[name], sites="ffn", pool="max")
baselines = matching.baselines(
    stored[name], labels[name], random_weights=untrained, min_score=strong, directions=500, seed=SEED
)
baselines.round(2)

# %% [markdown]
# `share` has a first tag of .3 or more that is significant, on the half that chose it: 29 % of the units (how
# many for each of the eight commonest stands under *as it is* in the table after the next heading). Shuffled
# labels give no tag, untrained units 9 %. Random directions have half of the units' share: a mixture of units
# that respond to something responds too, so they are a baseline as well. Among tags over .3 the medians are
# alike (.37 for units, .34 for directions), but the best units are stronger: the 95th percentile of all first
# scores (`top_score`) is .48 for units and .37 for directions. How far the halves agree in the two best
# descriptors (`jaccard`) is no higher for units than for directions.
#
# How many units share a descriptor (first and second tags together)? `units` is the share of all units with a
# tag, `descriptors` the share of the 103 that some unit has; then units for each descriptor. A tag that
# hundreds of units carry names none of them.

# %%
tagged = tags[name].assign(tagged=tags[name]["tagged"] & (tags[name]["score"] >= strong))
print({key: round(value, 2) for key, value in matching.coverage(tagged, labels[name]).items()})
matching.collisions(tagged).head(5)

# %% [markdown]
# ## Is it only the length?
#
# Long sentences have more of most things. A unit that counts tokens correlates with every descriptor that is
# more frequent in long texts, and no null above notices. `covariates` takes out, within texts of like length,
# what length explains, and permutes labels only among such texts.

# %%
length = corpora[name].lengths.to_frame()  # words of each text
controlled = matching.tag(
    stored[name], labels[name], groups=corpora[name].documents, covariates=length, min_score=strong, seed=SEED
)
before = tagged[(tagged["rank"] == 1) & tagged["tagged"]].set_index("unit")["descriptor"]
after = controlled[(controlled["rank"] == 1) & controlled["tagged"]].set_index("unit")["descriptor"]
changed = pd.DataFrame({"as it is": before.value_counts(), "length controlled": after.value_counts()})
changed = changed.fillna(0).astype(int).sort_values("as it is", ascending=False)
print(f"{len(before):,} units with a tag, {len(after):,} with length controlled")
changed.head(8)

# %% [markdown]
# There are a third fewer tagged units than before. Half of the loss is *first person*, and of *past tense* a
# quarter is left; *question*, *quotation* and *negation* hardly change.
#
# ## High and low
#
# A feed-forward unit has one interesting end: its nonlinearity cuts off the other. A hidden unit goes both
# ways, and can mean one thing when it is high and another when it is low. `ends="both"` lets both compete.

# %%
last = subject.select("hidden")[-1]
hidden = activations.capture(subject, corpora[name], sites=last, pool="mean")
both = matching.tag(hidden, labels[name], ends="both", min_score=preset["min_score"]["hidden"], seed=SEED)
both = both[both["tagged"]]
of = f"of {len(both)} tags (the last layer has {len(hidden.units)} units)"
print(f"{(both['sign'] < 0).mean():.0%} {of} are about the low end")
columns = ["unit", "rank", "sign", "descriptor", "score", "validation_score"]
both.sort_values("validation_score", ascending=False)[columns].head(6).round(2)

# %% [markdown]
# Ten of these 20 tags (of the mean over tokens, since a maximum would hide the low end) are about the low
# end, which a search of the high end alone misses.
#
# ## One word may not be enough
#
# Descriptors can be joined: *a and b*, *a or b*, *a and not b*. Longer formulas fit anything better on the
# texts they were searched on. So a composite is shown only where it beats the best single descriptor on the
# held-out texts, by more than a bootstrap of those texts allows.

# %%
strongest = tagged.sort_values("score", ascending=False)["unit"].unique()[:60].tolist()
composites = matching.compose(stored[name], labels[name], strongest, seed=SEED)
print(f"{len(composites)} of {composites.attrs['tried']} units are better described by a composite")
composites.sort_values("gain", ascending=False)[
    ["unit", "formula", "validation_score", "atom_score", "gain", "low", "high"]
].head(5).round(2)

# %% [markdown]
# One of sixty: for the others, which were chosen as the best described, no composite is clearly better. (Of
# sixty intervals of 95 % one or two lie above 0 by chance; this one lies far above.)
#
# Many studies stop here, or earlier: tags that hold on held-out texts *of the same corpus*. Whether they hold
# anywhere else is the next question.
#
# ## Exercises
#
# 1. Take `method="auroc"` in `score`. Which descriptors gain? (Think of rare ones.)
# 2. Find a unit with two strong tags. Read its exemplars: one meaning or two?
# 3. Which descriptors lost most units when length was controlled? Look at their texts: why?
# 4. How small can a p of permutations be? The cell below is the answer; in `exercises/` it is yours.

# %% tags=["solution"]
# Ask `tag` for 19 permutations and the scorer "cosine", for which there is no formula, on `stored[name]` and
# `labels[name]`. What is the smallest p of all units?
few = matching.tag(stored[name], labels[name], method="cosine", permutations=19, seed=SEED)
smallest = few["p"].min()

# %% tags=["check"]
exercises.check(
    smallest,
    (lambda p: p > 0, "a p of 0 would mean that chance never could; the real labels are one of the draws"),
    (lambda p: p < 1, "a p is a share of the draws"),
    (lambda p: abs(20 * p - 1) < 1e-6, "how many draws are there, with the real labels counted as one?"),
)

# %% [markdown]
# ## What we learned
#
# A tag is the best of many scores, so it needs a null of the best of many scores, and texts that played no
# part in the choice. Chance is not the only rival: length is one, random directions in the same space are
# another (half of the units' share), an untrained network a third. Next: `04_test_illusions`.

# %%
sources = {"subject": subject, "corpus": corpora[name], "seed": SEED}
sources["descriptors"] = list(labels[name].columns)
drawn = tags[name].loc[tags[name]["rank"] == 1, ["unit", "descriptor", "score", "validation_score", "q"]]
plots.save(fig, "03_held_out", sources, data=drawn.reset_index(drop=True), folder=preset.figures)
for corpus, frame in tags.items():
    preset.keep(f"tags/{corpus}", frame)
preset.record(tags=sum(len(t) for t in first.values()), tags_shuffled=counts["shuffled labels"])

# %%
provenance.show()
