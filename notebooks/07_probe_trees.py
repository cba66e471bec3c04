# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 07 · Probe trees: a probe on layer 2 finds .56 of a tree's edges, joining neighbours .45
#
# **Do** look for dependency trees in the hidden states, layer by layer, with probes, and draw one.
# **Learn** what a probe's success is worth beside neighbours, random weights and noise, and why "a tree is
# there" is easier said than "this tree is there".
# **Need** about two minutes, 20 MB of disk, no network.
# **Words** [depth](../docs/glossary.md#depth), [squared norm](../docs/glossary.md#squared-norm),
# [X_sp, X_ssp, X_essp](../docs/glossary.md#x_sp-x_ssp-x_essp),
# [profile entropy](../docs/glossary.md#profile-entropy), [UUAS](../docs/glossary.md#uuas),
# [spanning tree](../docs/glossary.md#spanning-tree), [collapsed](../docs/glossary.md#collapsed).

# %%
import pandas as pd
import torch
from matplotlib import pyplot as plt

from nbkit import plots, provenance, trees
from nbkit.workshop import drawings, exercises, presets

# %% tags=["parameters"]
PRESET = None  # None: $NBKIT_PRESET, or "sample"
SEED = 0

# %%
preset = presets.load(PRESET)
subject, whole = preset.subject(), preset.treebank(seed=SEED)
treebank = whole.sample(min(preset["probed"], len(whole)), seed=SEED)
print(treebank)

# %% [markdown]
# ## By hand: depths of a tree, and a tree near some numbers
#
# In "the old dog barked" the verb is the root (depth 1), the dog hangs on it (2), and "the" and "old" on
# the dog (3). A treebank has the heads, and depths and distances follow from them: the first words of a
# sentence, and how many edges the furthest two of its words are apart.

# %%
first = treebank.words[treebank.words["text_id"] == treebank.frame["text_id"].iloc[0]]
(between,) = trees.distances(first).values()
print(f"furthest apart: {between.max()} edges")
first.assign(depth=trees.depths(first))[["form", "head", "depth"]].head(8)

# %% [markdown]
# The words of the sentence at the height of their depth; a line joins each word to its head:

# %%
short = next(i for i, n in treebank.words.groupby("text_id").size().items() if 7 <= n <= 10)
shown = treebank.words[treebank.words["text_id"] == short]
with plots.style():
    drawings.heights(shown["form"].tolist(), shown["head"].tolist())
    plt.show()

# %% [markdown]
# Depths are all that the topological probe below is asked for; which word hangs on which is the structural
# probe's question.
#
# A *depth profile* is what depths look like when sorted: one 1, then 2, then each the same as the one
# before or one more.
#
# Give every word a number, and ask for a depth profile near to them: sort, begin with 1 and 2, and then keep
# or add one, whichever is nearer (the published rule; one step at a time, so not always the nearest of all).

# %%
numbers = [2.4, 3.1, 1.2, 0.3]  # the, old, dog, barked
order = sorted(range(4), key=lambda i: numbers[i])
labels = [1, 2]
for i in order[2:]:
    last = labels[-1]
    labels.append(last if abs(numbers[i] - last) < abs(numbers[i] - last - 1) else last + 1)
by_hand = dict(zip(order, labels, strict=True))
[by_hand[i] for i in range(4)]

# %% [markdown]
# ## With the kit
#
# `pseudo_depths` does this for whole batches, without a loop. It must agree with the hand.

# %%
kit = trees.pseudo_depths(torch.tensor([numbers]))[0].tolist()
assert kit == [by_hand[i] for i in range(4)], "hand and kit disagree"
kit

# %% [markdown]
# Now real sentences. `dataset` takes every word's vector (mean of its tokens) at the embeddings and the six
# hidden layers, and the gold trees. Sentences that cannot be used are counted.

# %%
sentences = trees.dataset(subject, treebank, progress=False)
train, dev, test = trees.split(sentences, seed=SEED)
print(
    f"{len(train)} sentences to train on, {len(dev)} to choose the epoch by, {len(test)} to judge on;"
    f" left out: {sentences.dropped}"
)

# %% [markdown]
# ## The structural probe: distances
#
# A matrix B is learned so that the squared distance between two projected words is the number of edges
# between them in the tree. Its minimum spanning tree is the probe's tree; UUAS is the share of gold edges
# in it, whichever way they point. What is that worth? Joining adjacent words is a tree too, and so is what
# the probe finds in a subject with random weights.

# %%
options = {"seeds": (0, 1, 2), "progress": False, "rank": 64}
distance = trees.measure(subject, treebank, "distance", nulls=("none", "random weights"), **options)
summary = trees.intervals(distance)
uuas = summary[summary["figure"] == "uuas"]
baseline = trees.linear_baseline(test)
print(f"adjacent words joined: UUAS {baseline['uuas']:.2f}")
shown = uuas.pivot_table(index="site", columns="null", values="value", sort=False)
shown.rename(columns={"none": "the subject"}).round(2)

# %% [markdown]
# Layers 1 to 3 are above both; layer 0 is level with adjacent words. In layer 4 the subject is no better than
# with random weights, and in the last it is below: perhaps because the model was trained for the mean of that
# layer.
#
# ## The tree topological probe: depths
#
# Three losses, all of squared norms s. `sp`: how far is s from the gold depths. `ssp`: how far is s from
# *some* depth profile, one near to it. `essp`: the same profile, written to the words in reversed order.
# The paper that proposes them sees `ssp` and `essp` as bounds below and above `sp`. Beside them stands what
# one constant for all words reaches as `sp`: a probe that is not below it found nothing.

# %%
nulls = ("none", "shuffled", "random weights", "gaussian")
topological = trees.measure(subject, treebank, ["sp", "ssp", "essp"], nulls=nulls, **options)
bounds = trees.bounds(topological)
print(f"ssp <= sp <= essp at {bounds['holds'].sum()} of {len(bounds)} sites and nulls")
bounds[bounds["null"] == "none"].replace("none", "the subject").round(3)

# %% [markdown]
# `ssp` is below `sp` everywhere. `essp` is not above it in 12 of the 28 lines (seven sites, four kinds of
# vectors), four of them the subject's: the reversed order is one wrong tree, not the worst (exercise 2). `sp`
# itself is hardly below the constant in the embeddings, and far above it in the last layer: that probe found
# nothing that holds for other sentences.
#
# `ssp` is small for the subject, and as small where there is little to find: for shuffled words and for
# random weights. For noise it is larger (.317). A probe can always send one word to 1 and all others to 2,
# which is a depth profile. So look at what the profile is like: its mean depth, and its entropy in bits.

# %%
ssp = topological[topological["metric"] == "ssp"]
profiles = ssp.groupby("null", sort=False)[["loss", "mean_depth", "entropy"]].mean()
profiles.rename({"none": "the subject"}).round(3)

# %% [markdown]
# Nor do the profiles tell the subject from shuffled words: depth and entropy are nearly the same (2.91 and
# 2.96, 1.94 and 1.98). (Random weights and noise have deeper ones.) On average none has become one 1 and 2
# for all others (a mean depth below 2).
#
# The curves, with the values that the paper prints for BERT-large on a log scale (24 layers, another
# corpus, padding scored as well: see `trees.published_dataset`); at the right below, the three that should be
# bounds of one another.

# %%
PUBLISHED = {  # layer of 24: value, Li et al. 2023
    "sp": {0: 1.52, 16: 0.518, 24: 1.23},
    "ssp": {0: 0.040, 8: 0.0103, 11: 0.021, 12: 0.054, 24: 0.114},
}
loss = trees.intervals(topological).query("figure == 'loss'")


# %%
def beside_published(metric, ax):
    values = pd.Series(PUBLISHED[metric])
    published = pd.DataFrame({"depth": values.index / 24, "value": values.to_numpy()})
    part = loss[loss["metric"] == metric]
    plots.layer_lines(part, f"X_{metric}", log=True, published=published, ax=ax)


def all_three(ax):
    plots.layer_lines(loss[loss["null"] == "none"], "X, the subject", hue="metric", log=True, ax=ax)
    ax.axhline(baseline["sp"], color="k", lw=0.8, ls=":")
    ax.text(3, 1.05 * baseline["sp"], "sp of one constant", va="bottom", ha="center", fontsize="small")


# %%
with plots.style():
    fig, axes = plt.subplots(2, 2, figsize=(10, 7.6))
    adjacent = ("adjacent words joined", baseline["uuas"])
    plots.layer_lines(uuas, "edges found (UUAS)", baseline=adjacent, ax=axes[0, 0])
    beside_published("sp", axes[0, 1])
    beside_published("ssp", axes[1, 0])
    all_three(axes[1, 1])
    plt.show()

# %% [markdown]
# The subject's line rises clearly above the grey one, of adjacent words, in layers 1 to 3 only (bands: 95 %
# over the test sentences). X_sp, the distance to the gold depths, is below the three other lines up to layer
# 4, though in the embeddings hardly below one constant. X_ssp, the distance to *some* profile, is on average
# hardly less for the subject (.114) than for shuffled words (.119), and more than for random weights (.087):
# a small X_ssp alone does not show a tree; published values come without these baselines.
#
# ## One sentence
#
# The gold tree above the words, the probe's below, for the sentence in which the probe finds most of what
# joining neighbours does not.

# %%
probes = trees.fit(train, dev, "distance", rank=64, seed=SEED, progress=False)
fits = [i for i in range(len(test)) if 7 <= test.sizes[i] <= 10]
best_site = uuas[uuas["null"] == "none"].set_index("site")["value"].idxmax()
forms = {
    f"{n + 1}": test.forms[test.starts[i] : test.starts[i] + test.sizes[i]].tolist()
    for n, i in enumerate(fits[:12])
}
gold = {name: trees.gold_edges(test, i) for name, i in zip(forms, fits, strict=False)}
predicted = {name: trees.predicted_edges(probes, test, i) for name, i in zip(forms, fits, strict=False)}

# %%
beyond = lambda n: sum(b - a > 1 for a, b in gold[n] & predicted[n][best_site]) / len(gold[n])
best = max(forms, key=beyond)
with plots.style():
    arcs, ax = plt.subplots(figsize=(8, 3.2))
    plots.arcs(forms[best], gold[best], predicted[best][best_site], ax=ax)
    plt.show()

# %% [markdown]
# It is the best of twelve, not a typical one. Step through the others, and through the layers.

# %%
names = {f"{name}: {' '.join(words)}": name for name, words in forms.items()}
stepper = plots.tree_stepper(
    {title: forms[name] for title, name in names.items()},
    {title: gold[name] for title, name in names.items()},
    {title: predicted[name] for title, name in names.items()},
)
stepper

# %% [markdown]
# For the sentence it opens on a third of the edges are found at the embeddings; step to layer 2.
#
# ## Is it the vectors, or the probe?
#
# A probe that chooses each word's head, and the control task of Hewitt and Liang: every word type attaches
# by lot to itself, the first or the last word. What the probe reaches there, it reaches by knowing the
# word.

# %%
edge = {
    task: trees.measure(subject, treebank, "edge", task=task, seeds=(SEED,), rank=64, progress=False)
    for task in ("gold", "control_task")
}
table = pd.DataFrame({task: found.set_index("site")["accuracy"] for task, found in edge.items()})
table.assign(selectivity=table["gold"] - table["control_task"]).round(2)

# %% [markdown]
# On the control task it is right as often: in the embeddings, layer 0 and the last layer more often than for
# the gold heads, in layers 1 to 4 nearly as often (a selectivity of .01 to .03). That task is the easier one,
# with three possible heads, so the difference cannot be read as syntax; nor can an accuracy of .73 alone.
#
# ## Exercises
#
# 1. Measure `"ssp"` at `sites="heads"` and `sites="ffn"`. Where is the profile clearest?
# 2. Use `assign="antisort"` for `essp`. Why is it a better upper bound than the reversed order?
# 3. Find a sentence whose probed tree is right in the middle layers and wrong in the last.
# 4. The cells below are the answers to two more; in `exercises/` they are yours.

# %%

five = [0.2, 5.0, 1.1, 1.4, 2.6]

# %% tags=["solution"]
# The numbers of five words (`five`). Which depth profile is nearest? Five depths, in the order of the words.
depths = [1, 4, 2, 2, 3]

# %% tags=["check"]
right = trees.pseudo_depths(torch.tensor([five]))[0].int().tolist()
in_order = lambda d: sorted(range(5), key=lambda i: (d[i], five[i]))
exercises.check(
    depths,
    (lambda d: len(d) == 5, "one depth for each of the five words"),
    (lambda d: sorted(d)[:2] == [1, 2], "a tree has one root, at depth 1, and something hangs on it, at 2"),
    (lambda d: set(d) == set(range(1, max(d) + 1)), "no depth between the root and the deepest can be empty"),
    (lambda d: in_order(d) == [0, 2, 3, 4, 1], "a word with a larger number cannot be nearer to the root"),
    (lambda d: list(d) == right, "in the order of size: is it nearer to the depth before, or to one more?"),
)

# %% tags=["solution"]
# `gold[best]` and `predicted[best][best_site]` are sets of edges: the tree of the sentence drawn above, and
# what the probe sees. What is its UUAS?
found_share = len(gold[best] & predicted[best][best_site]) / len(gold[best])

# %% tags=["check"]
both, either = gold[best] & predicted[best][best_site], gold[best] | predicted[best][best_site]
of_all, of_gold = len(both) / len(either), len(both) / len(gold[best])
exercises.check(
    found_share,
    (lambda a: 0 <= a <= 1, "UUAS is a share"),
    (lambda a: of_all in (0, 1) or abs(a - of_all) > 1e-6, "that is the share of all edges of the two trees"),
    (lambda a: abs(a - of_gold) < 1e-6, "how many of the gold edges are in the probe's tree?"),
)

# %% [markdown]
# ## What we learned
#
# A part of the gold tree is in the vectors of the middle layers: layer 2 holds .56 of the edges, where
# joining neighbours finds .45 and random weights .35. "Some depth profile" is in shuffled words and in an
# untrained model as well. Next: does training on such trees help a model? `08_finetune_with_trees`.

# %%
sources = {"subject": subject, "corpus": whole, "seed": SEED}
sources["sentences"] = len(treebank)  # drawn from the corpus by the seed
published = pd.DataFrame(PUBLISHED).rename_axis("layer of 24").reset_index()
drawn = {"UUAS": uuas, "loss": loss, "BERT-large, published": published}
plots.save(fig, "07_trees_by_layer", sources, data=drawn, folder=preset.figures)
found = uuas[uuas["site"] == best_site].set_index("null")["value"]
found = found.rename({"none": "uuas", "random weights": "uuas_random_weights"}).to_dict()

# %%
if preset.name == "sample":  # a sentence of a licensed corpus must not be published
    edges = {"gold": gold[best], "predicted": predicted[best][best_site]}
    drawn = [(kind, forms[best][a], forms[best][b], a, b) for kind in edges for a, b in sorted(edges[kind])]
    drawn = pd.DataFrame(drawn, columns=["tree", "word", "other word", "at", "other at"])
    plots.save(arcs, "07_one_tree", {**sources, "site": best_site}, data=drawn, folder=preset.figures)
known = {"sentences": len(sentences), "site": best_site, "uuas_neighbours": baseline["uuas"]}
preset.record(trees={**known, **found})

# %%
provenance.show()
