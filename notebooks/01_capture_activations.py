# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 01 · Capture activations: one number for every unit and text
#
# **Do** catch the activations of a feed-forward layer by hand, then let the kit do it for every layer
# of four corpora, and look at the texts that drive one unit.
# **Learn** what pooling leaves out, why padding must not be in it, and what a store is.
# **Need** about a minute, 80 MB of disk, no network.
# **Words** [token](../docs/glossary.md#token), [pooling](../docs/glossary.md#pooling),
# [activation](../docs/glossary.md#activation), [store](../docs/glossary.md#store),
# [exemplar](../docs/glossary.md#exemplar).

# %%
import numpy as np
import pandas as pd
import torch
from matplotlib import pyplot as plt

from nbkit import activations, plots, provenance
from nbkit.activations import exemplars
from nbkit.texts import Texts
from nbkit.workshop import drawings, exercises, presets

# %% tags=["parameters"]
PRESET = None  # None: $NBKIT_PRESET, or "sample"
SEED = 0

# %%
preset = presets.load(PRESET)
subject, corpora = preset.subject(), preset.corpora(seed=SEED)
pd.set_option("display.max_colwidth", 100)

# %% [markdown]
# ## By hand
#
# A feed-forward layer multiplies by a matrix, bends the result (GELU), and multiplies by a second
# matrix. What lies between the two is its *units*. The second matrix is the last of its layer with a side as
# long as there are units. Here is that of a layer in the middle:

# %%
layer = (subject.sites["layer"].max() + 1) // 2
site, width = subject.sites.query("layer == @layer and kind == 'ffn'")[["site", "width"]].iloc[0]
inside = [m for path, m in subject.model.named_modules() if f".{layer}." in path and hasattr(m, "weight")]
second_matrix = [m for m in inside if width in m.weight.shape][-1]
print(site, second_matrix)

# %% [markdown]
# A hook on it sees the units pass.

# %%
seen = {}
hook = second_matrix.register_forward_pre_hook(lambda _, inputs: seen.update(ffn=inputs[0]))
sentence = "Nobody told me that the train would not stop here."
batch = subject.tokenizer([sentence, "Yes."], padding=True, return_tensors="pt").to(subject.model.device)
with torch.inference_mode():
    subject.model(**batch)
hook.remove()
seen["ffn"].shape  # text, token, unit

# %% [markdown]
# The shape says: 2 texts, 13 tokens (the shorter text is padded), 1,536 units, one number each. To give a
# *text* one number for each unit, we *pool* over its tokens. The maximum asks "does it fire anywhere?", the
# mean "how much, on the whole?". Two kinds of positions must stay out: the padding of the short text, whose
# values would change with the longest text of the batch, and the special tokens, which every text has. Here
# is one unit on the short text:

# %%
tokens = subject.tokenizer.convert_ids_to_tokens(batch["input_ids"][1])
out = [i for i, token in enumerate(tokens) if token in subject.tokenizer.all_special_tokens]
with plots.style():
    drawings.pooling(tokens[:8], out, seen["ffn"][1, :8, 3].numpy())
    plt.show()

# %% [markdown]
# Of thirteen positions (eight are drawn) only two belong to the text; the maximum is the framed one.

# %%
special = torch.tensor(subject.tokenizer.all_special_ids, device=subject.device)
own = batch["attention_mask"].bool() & ~torch.isin(batch["input_ids"], special)
by_hand = seen["ffn"].masked_fill(~own[..., None], -torch.inf).amax(1).cpu()
by_hand.shape  # text, unit

# %% [markdown]
# ## With the kit
#
# `capture` does the same for all layers in one forward pass, in batches of texts of like length.

# %%
stored = {
    name: activations.capture(subject, corpus, sites="ffn", pool="max") for name, corpus in corpora.items()
}
for store in stored.values():
    print(store)

# %% [markdown]
# Do the two agree? The kit's values were stored in half precision, so we allow a difference in the third
# decimal.

# %%

toy = Texts.from_list([sentence, "Yes."], name="toy")
captured = activations.capture(subject, toy, sites=site, cache=False, progress=False)
assert np.allclose(captured.values, by_hand, atol=2e-3), "the kit and the hand disagree"
print(f"largest difference: {np.abs(captured.values - by_hand.numpy()).max():.4f}")

# %% [markdown]
# ## The store
#
# `values` is an array [row, unit] on disk, mapped into memory when it is read. `rows` says which text
# a row is, `units` which unit a column is, and the manifest how all of it was made. What was lost on the
# way is counted.

# %%
name, store = next(iter(stored.items()))
store.units.iloc[[0, width, -1]]

# %% [markdown]
# A unit's name says where it is: column 1,536 is the first unit of layer 1. And how it was made:

# %%
{key: store.manifest[key] for key in ("sites", "pool", "dtype", "n_rows", "n_units", "dropped")}

# %% [markdown]
# ## What drives a unit?
#
# The *exemplars* of a unit are the texts with its highest activations. We take the unit whose
# activation varies most, and ask where in each text it peaks.

# %%
std = np.asarray(store.values, dtype=np.float32).std(0)
unit = store.units["unit"].iloc[int(std.argmax())]
exemplars.top(store, corpora[name], unit, k=6, subject=subject)[["activation", "peak", "text"]]

# %% [markdown]
# The top alone misleads: six texts of 460. `quantile_sample` shows the whole range.

# %%
exemplars.quantile_sample(store, corpora[name], unit, k=5)[["activation", "text"]]

# %% [markdown]
# Two kinds of texts: some near 0, some near 4. Every exemplar peaks on "I". So how many texts of each corpus
# make this unit fire? We cut at 2, in the gap between the two. Compare the heaps on the right (orange, above
# 2): they are what the exemplars are drawn from.

# %%
of_unit = {c: np.asarray(a.values[:, a.column(unit)], dtype=float) for c, a in stored.items()}
table = pd.concat([pd.DataFrame({"corpus": c, "activation": a}) for c, a in of_unit.items()])
with plots.style():
    told = f"activation of {unit} (maximum over tokens)"
    fig = plots.histograms(table, "activation", xlabel=told, above=2).figure
    plt.show()

# %% [markdown]
# The two heaps lie at the same places in the corpora where both can be seen (the encyclopedia has 14 texts
# above 2, too few to draw); how many texts are in the right one depends on the corpus: nearly every second
# review is in it, and hardly any sentence of the encyclopedia. Six exemplars could not tell us: even the
# encyclopedia, with 3 % of its 460 texts above 2, has enough of them for six that look the same. Nor did they
# show that "I" is not all of it:

# %%
high = corpora[name].frame.loc[of_unit[name] > 2, "text"].str.lower()
has_i = high.str.contains(r"\bi\b")
has_my = high[~has_i].str.contains(r"\b(?:my|me|mine|myself)\b")
print(f"{len(high)} texts above 2: {has_i.sum()} with I, {has_my.sum()} more with my or me")

# %% [markdown]
# Of the 216 reviews in the heap 133 have an "I"; the other 83 all have "my", "me", "mine" or "myself". And
# what is said of a unit from one corpus has to be asked again in another; that is notebook 04.
#
# ## Exercises
#
# 1. The cell below is the answer to the first one; in `exercises/` it is yours. Which exemplars stay? Are
#    those that leave longer, and why would they be?
# 2. Repeat the hand computation for layer 0. Where is the difference to the kit largest?
# 3. Look at the lowest activations, `exemplars.top(..., sign=-1)`. Which is the lowest that GELU can give?

# %% tags=["solution"]
# Take the mean over tokens for the same unit and corpus (`unit`, `corpora[name]`), and find the six
# exemplars again: a list of text_ids, the strongest first.
averaged = activations.capture(subject, corpora[name], sites=unit.rsplit(".", 1)[0], pool="mean")
six = exemplars.top(averaged, corpora[name], unit, k=6)["text_id"].tolist()

# %% tags=["check"]
on_tokens = exemplars.shade(subject, corpora[name], unit)
means = pd.Series({text_id: tokens["activation"].mean() for text_id, tokens in on_tokens.items()})
exercises.check(
    six,
    (lambda a: len(set(a)) == 6, "six different text_ids are asked for"),
    (lambda a: set(a) <= set(means.index), "not all of these are text_ids of this corpus"),
    (lambda a: means[a].min() >= means.drop(a).max() - 2e-3, "another text has a higher mean"),
    (lambda a: (means[a].diff().dropna() < 2e-3).all(), "the right six, but not the strongest first"),
)

# %% [markdown]
# ## What we learned
#
# A text becomes one number a unit, by pooling over its own tokens. Padding and special tokens are no part of
# it. Asked again with the same subject, texts, sites and pooling, `capture` opens the store and computes
# nothing. Next: `02_discover_descriptors`.

# %%
sources = {"subject": subject, "corpora": corpora, "unit": unit, "seed": SEED}
plots.save(fig, "01_unit_by_corpus", sources, data=table.reset_index(drop=True), folder=preset.figures)
preset.record(units=len(store.units), texts=sum(map(len, stored.values())), preset=preset["title"])

# %%
provenance.show()
