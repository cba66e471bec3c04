# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 00 · Check the setup: this machine is ready
#
# **Do** load the model and the texts, run both once, and see that the second run costs nothing.
# **Learn** what a *subject*, a *corpus*, a *site* and a *unit* are.
# **Need** half a minute, 10 MB of disk, no network.
# **Words** [subject](../docs/glossary.md#subject), [corpus](../docs/glossary.md#corpus),
# [site](../docs/glossary.md#site), [unit](../docs/glossary.md#unit), [layer](../docs/glossary.md#layer),
# [hidden](../docs/glossary.md#hidden), [FFN](../docs/glossary.md#ffn), [text](../docs/glossary.md#text),
# [word](../docs/glossary.md#word), [token](../docs/glossary.md#token),
# [activation](../docs/glossary.md#activation), [store](../docs/glossary.md#store).
#
# Where the kit is installed the next cell does nothing. In a hosted notebook it is installed from the folder
# above, and the torch, numpy and drivers of the place stay as they are.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("nbkit") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", ".."], check=True)

# %%
from matplotlib import pyplot as plt

from nbkit import activations, plots, provenance, texts
from nbkit.workshop import drawings, presets

# %% tags=["parameters"]
PRESET = None  # None: $NBKIT_PRESET, or "sample"
SEED = 0

# %% [markdown]
# ## The subject
#
# The *subject* is the model under study. The embedded one is all-MiniLM-L6-v2: a BERT of six layers,
# fine-tuned from MiniLM to embed sentences. It came with the installation; its weights are checked
# against the hash of the original, so everybody in the room studies the same network.

# %%
preset = presets.load(PRESET)
subject = preset.subject()
subject

# %% [markdown]
# A *layer* takes a vector for each token, lets the tokens look at one another (attention), and passes each
# through two matrices with a bend between them, the feed-forward network (*FFN*). A *site* is a place where
# we listen. It yields a vector for each token, and one coordinate of this vector is a *unit* ("neuron").

# %%
widths = subject.sites.groupby("kind")["width"].first()
with plots.style():
    drawings.block(widths["hidden"], widths["ffn"])
    plt.show()

# %% [markdown]
# The blue names are sites. Each of the six layers has these four; the embeddings come before the first layer.
# `count` is the number of sites of a kind, `sum` the number of units in all of them:

# %%
subject.sites.groupby("kind", sort=False)["width"].agg(["count", "sum"])

# %% [markdown]
# An FFN site has 1,536 units a layer, the others 384. Most notebooks study the 9,216 FFN units.
#
# ## The corpora
#
# A *corpus* is a list of texts, here nearly always single sentences. The four of the sample were written for
# this kit, each in a register of its own.

# %%
corpora = preset.corpora(seed=SEED)
for corpus in corpora.values():
    print(corpus, "·", corpus.frame["text"].iloc[0])

# %% [markdown]
# ## One pass, then none
#
# `capture` runs the model over 100 texts of a corpus and keeps a number for each text and unit in a store:
# here the mean over the text's tokens (more in notebook 01). Asked again with the same arguments, it opens
# the store instead.

# %%
small = next(iter(corpora.values())).sample(100, seed=SEED)
last = subject.select("hidden")[-1]
with provenance.stopwatch() as first:
    stored = activations.capture(subject, small, sites=last, pool="mean")
with provenance.stopwatch() as second:
    again = activations.capture(subject, small, sites=last, pool="mean")
stored

# %%
assert (stored.values == again.values).all(), "the store gave other numbers: delete the cache folder"
print(f"first call {first.seconds:.2f} s; second call, from the store, {second.seconds:.2f} s")

# %% [markdown]
# ## An error that says what to do
#
# Mistakes in a notebook should cost seconds. The kit's messages try to name the thing, the value, and the
# mend. Here is one.

# %%
try:
    texts.load("sample:revews")
except ValueError as error:
    print(error)

# %% [markdown]
# ## What we learned
#
# The model and the texts are here and nothing needs the network. Next: `01_capture_activations`.

# %%
provenance.show()
