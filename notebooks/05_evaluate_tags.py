# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 05 · Evaluate tags: precision@2 is .43 of at most .55 at home, and .22 of at most .25 in other corpora
#
# **Do** measure rules on units whose meaning is known, test whether a rule notices wrong labels, and
# compute precision@k and recall@k on real units, on held-out texts and on the other corpora.
# **Learn** what a gold standard for tags can be, why Pearson is the default, and why in another corpus half
# of the precision is gone, whatever the rule: half and more of the units that are judged have nothing to be
# right about there.
# **Need** about a minute, what notebooks 01 and 02 kept, no network.
# **Words** [planted unit](../docs/glossary.md#planted-unit), [gold](../docs/glossary.md#gold),
# [precision at k](../docs/glossary.md#precision-at-k), [recall at k](../docs/glossary.md#recall-at-k),
# [AUROC](../docs/glossary.md#auroc), [sanity test](../docs/glossary.md#sanity-test),
# [prevalence](../docs/glossary.md#prevalence), [polysemantic](../docs/glossary.md#polysemantic).

# %%
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt

from nbkit import activations, evaluation, matching, plots, provenance, stats
from nbkit.illusions import shared_descriptors
from nbkit.workshop import drawings, exercises, presets

# %% tags=["parameters"]
PRESET = None  # None: $NBKIT_PRESET, or "sample"
SEED = 0

# %%
preset = presets.load(PRESET)
subject, corpora = preset.subject(), preset.corpora(seed=SEED)
labels = {name: preset.kept(f"labels/{name}") for name in corpora}

# %% [markdown]
# ## By hand
#
# A unit got the tags *question* and *food*. Right would be *question*, *negation* and *modal*. One of two
# tags is right: precision@2 is 1/2. One of three was found: recall@2 is 1/3.

# %%
toy_tags = pd.DataFrame({"unit": "u", "rank": [1, 2], "descriptor": ["question", "food"]})
toy_gold = pd.DataFrame({"unit": "u", "descriptor": ["question", "negation", "modal"]})
precision = evaluation.precision_at_k(toy_tags, toy_gold, k=2)
recall = evaluation.recall_at_k(toy_tags, toy_gold, k=2)
assert (precision.value, recall.value) == (1 / 2, 1 / 3)
precision

# %% [markdown]
# One unit says nothing about others: the interval goes from 0 to 1.
#
# Where people have rated tags, theirs is the gold: a CSV or a frame with unit, descriptor, rating (yes, no or
# unsure) and annotator. A majority of the votes decides; the unsure do not vote.

# %%
ratings = toy_tags.assign(rating=["yes", "no"], annotator="a")
by_people = evaluation.from_annotations(ratings)
evaluation.precision_at_k(toy_tags, by_people, k=1)

# %% [markdown]
# ## Known answers: planted units
#
# Nobody knows what a real unit means. So we build some for which we do: rows added to the feed-forward
# matrices of this very model, each trained to detect one descriptor (*pure*) or either of two
# (*polysemantic*), added beside the real ones, and nobody downstream listens to them. Some detect only the
# length of a text, or its corpus (*distractor*), some nothing (*dead*). They are trained on one part of the
# texts. Those with an AUROC of .85 on a second part count as planted, and the third part judges.

# %%
with plots.style():
    drawings.planting(int(subject.sites.query("kind == 'ffn'")["width"].iloc[0]))
    plt.show()

# %% [markdown]
# The orange row is what we write into the model, the grey column keeps the rest of the model from hearing it:
# all other activations stay as they are, to the last bit.

# %%
shared = shared_descriptors(labels, 2 * preset["min_positives"])
kinds = {"pure": 40, "polysemantic": 40, "distractor": 12, "dead": 5}
made = evaluation.plant(subject, corpora, {n: labels[n][shared] for n in corpora}, kinds=kinds, seed=SEED)
achieved = made.units.groupby("kind", sort=False)["achieved_auroc"].agg(["min", "median", "max"]).round(2)
achieved.join(made.units.drop_duplicates("unit").groupby("kind")["planted"].agg(["sum", "size"]))

# %% [markdown]
# `sum` of `size` units count as planted: three in four of the pure ones, and few of the polysemantic,
# which have to detect both of their descriptors. The AUROC is that of the third part, for all of them.
#
# All held-out texts together, all units, real ones too. Every rule ranks the descriptors of each planted unit
# (`help(matching.score)` says what each of them does):

# %%
parts = {n: activations.capture(made.subject, made.held_out[n]) for n in corpora}
whole, known = matching.pooled(parts, made.labels)
meant, kinds_and_k = evaluation.gold_of(made), {"pure": 1, "polysemantic": 2}


# %%
def line_of(method):
    """Precision and recall of one rule at the number of meanings that the units have."""
    scores, line = matching.score(whole, known, method), {"method": method}
    for kind, k in kinds_and_k.items():
        right = meant[meant["kind"] == kind]
        ranks = evaluation.ranked(scores, right["unit"].unique())
        line[f"{kind} P@{k}"] = str(evaluation.precision_at_k(ranks, right, k))
        line[f"{kind} R@{k}"] = str(evaluation.recall_at_k(ranks, right, k))
    return line


# %%
known_units = [line_of(method) for method in matching.SCORERS]
pd.DataFrame(known_units).set_index("method")

# %% [markdown]
# Each line is a rule: the share of its first tags that are right for units with one meaning (pure), and of
# its first two for units with two (polysemantic). With as many right descriptors as tags, precision is
# recall. Brackets are 95 % intervals over the units. Most rules find the one meaning; with the second they
# differ, but on 11 units only the best and the worst are apart for sure.
#
# ## Does a rule notice wrong labels?
#
# NeuronEval's sanity test: zero half of a descriptor's positives, or add as many wrong ones. A rule that is
# worth something gives a lower score, for more than 90 % of the units. Here the units are the pure ones,
# whose meaning is known, and texts are left out until 1 % have the descriptor: the test is about rare ones.
# Units whose descriptor more than half of all texts have are left out. `missing` and `extra` are the shares
# of the `units` whose score falls.

# %%
pure = made.units[(made.units["kind"] == "pure") & made.units["planted"]]
some = np.asarray(whole.select(units=pure["unit"].tolist()).values, np.float32)
pairs = known.columns.get_indexer(pure["descriptor"])
judged = [method for method in matching.SCORERS if method not in matching.TOGETHER]
sane = {m: evaluation.sanity(m, some, known, pairs=pairs, prevalence=0.01, seed=SEED) for m in judged}
pd.DataFrame(sane, index=["missing", "extra", "units", "passed"]).T

# %% [markdown]
# AUROC finds most of the second meanings; but a unit counts as planted by its AUROC, which favours it, and
# there are only 11 polysemantic ones. And it barely moves when labels of a rare descriptor are missing: at a
# prevalence of 1 % its excess over .5 shrinks by only .5 %. Pearson is as good on the pure units, finds three
# in four of the meanings of the polysemantic, and notices both kinds of damage; of the ten rules that can be
# tested (`soft_wpmi` scores a unit beside others) only cosine does so too, and the two cannot be told apart
# here. We take Pearson to choose the tags, since it does not change when all activations are shifted; and
# AUROC, which does not depend on how frequent a descriptor is, compares corpora and serves as gold below.
# (The full table on UD English EWT is in `benchmarks/results/matching-treebank.json`.)
#
# ## Units that mean nothing
#
# How many distractors and dead units get a tag, by the score that is asked for, and how many still have it
# once length and corpus are controlled?

# %%
mute = made.units[made.units["kind"].isin(["distractor", "dead"]) & made.units["planted"]]
lengths = pd.concat({n: corpus.lengths for n, corpus in made.held_out.items()})
covariates = whole.rows.join(lengths, on=["corpus", "of_corpus"]).set_index("text_id")[["length", "corpus"]]
silent, kinds_of = whole.select(units=mute["unit"].tolist()), mute.set_index("unit")["kind"]

# %%
false_tags = {}
for what, given in {"as it is": None, "controlled": covariates}.items():
    kept = matching.tag(silent, known, top=1, covariates=given, seed=SEED)
    for minimum in (0, 0.1, 0.2, 0.3):
        survives = kept["tagged"] & (kept["score"] >= minimum)
        shares = survives.groupby(kept["unit"].map(kinds_of)).mean()
        false_tags |= {(kind, minimum, what): share for kind, share in shares.items()}
pd.Series(false_tags).unstack().rename_axis(index=["kind", "score at least"]).round(2)

# %% [markdown]
# Dead units get no tag. Eight of nine distractors do, six with a score of .3 or more: each does respond to
# something that goes with length or corpus. With both controlled none of the nine has a tag (how many of the
# pure ones would lose theirs was not asked).
#
# ## What is right?
#
# Mondal et al. asked people, and report precision@2 of 75 % and recall@2 of 50 % for BERT on product reviews.
# Here a descriptor is right for a unit when the unit tells texts with it from texts without it, on texts that
# played no part in choosing the tags: an AUROC of at least .80. That is a different gold standard, so the
# numbers are not comparable with theirs. AUROC is neither of the two rules of the next table, and does not
# depend on how frequent a descriptor is.

# %%
MINIMUM = 0.80
TOP = 3
stored = {
    name: activations.capture(subject, corpus, sites="ffn", pool="max") for name, corpus in corpora.items()
}


def gold_of(name, rule="auroc", minimum=MINIMUM):
    second = stats.halves(len(corpora[name]), seed=SEED, groups=corpora[name].documents)[1]
    return evaluation.held_out_gold(stored[name], labels[name][shared], second, rule=rule, minimum=minimum)


# %% [markdown]
# Tags are chosen on one half of each corpus. Gold *at home* comes from the other half, gold *away* from the
# other halves of the other corpora. The units judged are those with gold at home, in both cases: a unit that
# responds to something at home and to nothing of the kind away has no right tag there.

# %%
gold = {name: gold_of(name) for name in corpora}


def tags_of(method, name):
    """The first tags of the units of a corpus that have gold at home."""
    options = {"top": TOP, "groups": corpora[name].documents, "permutations": 0, "seed": SEED}
    tags = matching.tag(stored[name], labels[name][shared], method=method, **options)
    return tags[tags["unit"].isin(gold[name]["unit"])]


def at_k(tags, there, k):
    return [f(tags, there, k).value for f in (evaluation.precision_at_k, evaluation.recall_at_k)]


# %%
lines = []
for method in ("pearson", "frequency"):
    for name in corpora:
        tags = tags_of(method, name)
        for other in corpora:
            there = gold[other][gold[other]["unit"].isin(gold[name]["unit"])]
            where = "same corpus" if other == name else "other corpora"
            lines += [(method, where, k, *at_k(tags, there, k)) for k in range(1, TOP + 1)]
measured = pd.DataFrame(lines, columns=["method", "where", "k", "precision", "recall"])
measured.groupby(["where", "method", "k"])[["precision", "recall"]].mean().round(2)

# %% [markdown]
# Away, both rules lose half of their precision. Recall rises there: it is over what the units still respond
# to, which are fewer things and may be the easier ones. And the paper's rule, which named all but three of
# the thirty pure planted units, is right for one in six of the real units that have gold: planted units are
# judged on all corpora together and were kept for an AUROC of .85, so their number says little about real
# ones.
#
# Precision@2 has a ceiling: a unit with one right descriptor cannot have two right tags. And the gold has a
# say in which rule wins: "top share" calls a descriptor right when its share among the unit's twenty highest
# texts is larger by .5 than among all texts. The scorecard of the first corpus shows both golds, at home,
# with the ceiling, the share of it that is reached, the share of units with a right tag among two, and how
# few units are judged.

# %%
home, cards = next(iter(corpora)), {}
for method in ("pearson", "auroc"):
    tags = matching.tag(stored[home], labels[home][shared], method=method, permutations=0, seed=SEED)
    for rule, minimum in evaluation.GOLDS.items():
        cards[f"gold: {rule}", method] = evaluation.scorecard(tags, gold_of(home, rule, minimum))
pd.DataFrame(cards).map(lambda value: f"{value:.2f}" if isinstance(value, float) else str(value))

# %% [markdown]
# By the gold "auroc", the rule `auroc` is ahead (.76 against .69), by "top share", `pearson` (.93 against
# .80): the order of the two changes with the gold, though the intervals overlap: with two golds neither rule
# is shown to be better. Only 12 and 3 % of the units have any right descriptor.

# %%
right = pd.concat([g.groupby("unit").size() for g in gold.values()])


def best_possible(name, other):
    """Precision@2 in `other` of a rule that is always right, for the units that have gold in `name`."""
    there = gold[other].groupby("unit").size().reindex(gold[name]["unit"].unique(), fill_value=0)
    return (there.clip(upper=2) / 2).mean()


# %%
pairs = [(name, other) for name in corpora for other in corpora]
at_home = np.mean([best_possible(a, b) for a, b in pairs if a == b])
in_others = np.mean([best_possible(a, b) for a, b in pairs if a != b])
print(f"best possible precision@2 at home: {at_home:.2f}, in other corpora: {in_others:.2f}")

# %% [markdown]
# In other corpora even a rule that is always right reaches .25, less than half of the .55 at home: half and
# more of the units with gold at home have no right descriptor there at all. Pearson reaches .22 of that .25,
# and .43 of .55 at home: what is lost away is mostly gold, not the rule. (A part of the gold is lost by
# selection alone: the units were chosen by it at home.)
#
# Units are averaged within each pair of corpora, then pairs are averaged; the intervals resample the pairs,
# because the corpora, not the units, are what we generalise over. Four corpora make twelve pairs that are not
# independent: the intervals are too narrow.

# %%
rows = []
for (where, method, k), part in measured.groupby(["where", "method", "k"], sort=False):
    p, r = (stats.bootstrap(part[c], seed=SEED) for c in ("precision", "recall"))
    rows.append({"where": where, "method": method, "k": k, "precision": p, "recall": r})
table = pd.DataFrame(rows)
table[table["k"] == 2].astype(str)

# %% [markdown]
# Look at the two colours first (the rule), then at home and away (the corpus).

# %%
with plots.style():
    title, size = "gold from the {}", (10, 3.8)
    fig = plots.facets(plots.precision_recall, table, "where", title=title, size=size).figure
    plt.show()

# %% [markdown]
# A better rule raises both. In another corpus precision falls, whatever the rule: tags that were right at
# home are wrong there, mostly because the unit has no right descriptor there. How much of that is chance (the
# units were chosen by their gold at home) this table does not say: it would take a third part of the home
# corpus. Recall does not fall: it is over what the units still respond to.
#
# ## Exercises
#
# 1. Set `MINIMUM` to .7 and to .9. Which of precision and recall moves, and why?
# 2. How many units have no gold at all? They are left out: what would counting them as failures do?
# 3. Use only tags with `q <= .05` (ask `tag` for permutations). What is gained, what is lost?
# 4. The cells below are the answers to two more; in `exercises/` they are yours.

# %%
three_tags = pd.DataFrame({"unit": list("uuvvww"), "rank": [1, 2] * 3})
three_tags["descriptor"] = ["question", "food", "modal", "negation", "food", "modal"]
two_gold = pd.DataFrame({"unit": list("uvv"), "descriptor": ["question", "modal", "negation"]})

# %% tags=["solution"]
# Three units have two tags each (`three_tags`), and nothing is right for the third (`two_gold`).
# `precision_at_k` counts it as a failure: 1/2. What is precision@2 of the units that have gold, as above?
with_gold = three_tags[three_tags["unit"].isin(two_gold["unit"])]
judged_only = evaluation.precision_at_k(with_gold, two_gold, k=2).value

# %% tags=["check"]
exercises.check(
    judged_only,
    (lambda a: 0 <= a <= 1, "a precision is a share"),
    (lambda a: abs(a - 1 / 2) > 1e-6, "that counts the third unit: three of six tags"),
    (lambda a: abs(a - 1) > 1e-6, "that is the recall: all that is right was found"),
    (lambda a: abs(a - 3 / 4) < 1e-6, "two units with two tags each; how many of these four are right?"),
)

# %% tags=["solution"]
# `right` holds, for each unit with gold at home, how many descriptors are right for it. With one tag a unit,
# what is the best possible recall@1?
ceiling = (1 / right).mean()

# %% tags=["check"]
exercises.check(
    ceiling,
    (lambda a: 0 < a <= 1, "a recall is a share"),
    (lambda a: a < 1 or (right == 1).all(), "one tag cannot find three right descriptors"),
    (lambda a: (right == 1).all() or abs(a - 1 / right.mean()) > 1e-6, "recalls of units are averaged"),
    (lambda a: abs(a - np.mean([1 / n for n in right])) < 1e-3, "one of n right ones: what share is found?"),
)

# %% [markdown]
# So a number without its ceiling says little: a rule that is always right about its one tag has this recall.
#
# ## What we learned
#
# Precision@2 is .43 at home, where .55 would be the best possible, and .22 in other corpora, where it would
# be .25. Precision and recall need a gold standard that had no part in the choice, an interval, and the
# name of the corpus. A rule is chosen where the answers are known, and used where they are not. Next, the
# second part, on words: `06_find_salient_neurons`.

# %%
sources = {"subject": subject, "gold": f"AUROC >= {MINIMUM} on held-out texts", "seed": SEED}
sources["corpora"] = corpora
plots.save(fig, "05_precision_recall", sources, data=table, folder=preset.figures)
lines = table.assign(method=table["method"] + ", " + table["where"]).drop(columns="where")
preset.record(precision_recall=lines.to_dict("records"), shared=len(shared), planted=known_units)
preset.record(false_tags=[[*key, round(share, 3)] for key, share in false_tags.items()])

# %%
provenance.show()
