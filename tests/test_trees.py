"""Trees: the closed form against the paper's loop and brute force, gold trees against networkx-free search,
probes against planted trees, spanning trees and rank correlations against scipy."""

import dataclasses
import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import shortest_path
from sklearn.metrics import matthews_corrcoef

from nbkit import models, texts, trees
from nbkit.trees import finetuning, probes, treebank
from nbkit.trees.depths import ASSIGN


def by_the_loop(s):
    """The paper's rule, one value after another (Li et al. 2023, their code in words)."""
    order = sorted(range(len(s)), key=lambda i: s[i])
    labels, found = [1], [0] * len(s)
    if len(s) > 1:
        labels.append(2)
    for i in order[2:]:
        last = labels[-1]
        labels.append(last if abs(s[i] - last) < abs(s[i] - (last + 1)) else last + 1)
    for i, label in zip(order, labels, strict=True):
        found[i] = label
    return found


def profiles(n):
    """All depth profiles of n words in sorted order."""
    for steps in itertools.product((0, 1), repeat=max(0, n - 2)):
        yield np.array([1, 2, *(2 + np.cumsum(steps))][:n], dtype=float)


def test_the_closed_form_is_the_loop_in_20000_random_vectors():
    generator = torch.Generator().manual_seed(0)
    wrong = 0
    for size in range(1, 41):
        s = torch.rand(500, size, generator=generator) * (0.5 + size / 3)
        closed = trees.pseudo_depths(s)
        wrong += sum(closed[i].tolist() != by_the_loop(s[i].tolist()) for i in range(500))
    assert wrong == 0


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0, 12, width=32), min_size=1, max_size=8))
def test_exact_is_the_best_of_all_profiles_and_never_worse_than_greedy(values):
    s = torch.tensor([values])
    ordered = np.sort(np.array(values, dtype=np.float64))
    best = min(((ordered - p) ** 2).sum() for p in profiles(len(values)))
    errors = {
        how: float(((s.double() - trees.pseudo_depths(s.double(), projection=how)) ** 2).sum())
        for how in ("exact", "greedy")
    }
    assert errors["exact"] == pytest.approx(best, abs=1e-6)
    assert errors["exact"] <= errors["greedy"] + 1e-9


@given(st.integers(1, 7), st.randoms(use_true_random=False))
def test_both_leave_a_true_profile_as_it_is(n, random):
    profile = random.choice(list(profiles(n))).tolist()
    random.shuffle(profile)
    s = torch.tensor([profile])
    for how in ("greedy", "exact"):
        assert trees.pseudo_depths(s, projection=how).tolist() == [profile]


def test_greedy_is_often_not_the_nearest():
    s = torch.rand(2000, 15, generator=torch.Generator().manual_seed(1)) * 10
    greedy, exact = (((s - trees.pseudo_depths(s, projection=p)) ** 2).sum(1) for p in ("greedy", "exact"))
    assert (exact <= greedy + 1e-4).all() and (exact < greedy - 1e-4).float().mean() > 0.3


@pytest.mark.parametrize("projection", ["greedy", "exact"])
@pytest.mark.parametrize("assign", ASSIGN)
def test_padding_changes_nothing(projection, assign):
    s = torch.rand(6, 9, generator=torch.Generator().manual_seed(2)) * 5
    sizes = torch.tensor([9, 1, 2, 5, 7, 3])
    mask = torch.arange(9)[None] < sizes[:, None]
    padded = trees.pseudo_depths(s, projection=projection, assign=assign, mask=mask)
    assert (padded[~mask] == 0).all()
    for i, n in enumerate(sizes.tolist()):
        alone = trees.pseudo_depths(s[i : i + 1, :n], projection=projection, assign=assign)
        if assign == "random":  # the draw differs, the depths do not
            assert sorted(padded[i, :n].tolist()) == sorted(alone[0].tolist())
        else:
            assert padded[i, :n].tolist() == alone[0].tolist()


def test_antisort_is_the_worst_assignment():
    s = torch.rand(50, 6, generator=torch.Generator().manual_seed(3)) * 5
    loss = {a: ((s - trees.pseudo_depths(s, assign=a)) ** 2).sum(1) for a in ASSIGN}
    for other in ("greedy", "reverse", "random"):
        assert (loss["antisort"] >= loss[other] - 1e-4).all() and (loss["greedy"] <= loss[other] + 1e-4).all()


def test_no_gradient_goes_through_the_labels():
    s = (torch.rand(2, 5) * 4).requires_grad_(True)
    assert not trees.pseudo_depths(s).requires_grad


# ---------------------------------------------------------------------------------- gold trees

WORDS = pd.DataFrame(
    {
        "text_id": [0] * 5 + [1] + [2] * 4,
        "word_id": [1, 2, 3, 4, 5, 1, 1, 2, 3, 4],
        "head": [2, 0, 5, 5, 2, 0, 0, 1, 0, 3],  # the last sentence has two roots
        "form": list("abcdefghij"),
        "upos": ["NOUN"] * 4 + ["PUNCT"] + ["NOUN"] * 5,
    }
)


def test_depths_and_distances_of_small_trees():
    assert trees.depths(WORDS).tolist() == [2, 1, 3, 3, 2, 1, 1, 2, 1, 2]
    found = trees.distances(WORDS)
    assert found[0].tolist() == [
        [0, 1, 3, 3, 2],
        [1, 0, 2, 2, 1],
        [3, 2, 0, 2, 1],
        [3, 2, 2, 0, 1],
        [2, 1, 1, 1, 0],
    ]
    assert found[1].tolist() == [[0]] and found[2][1, 3] == 3 and found[2][0, 2] == 1


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(0, 10**6))
def test_distances_are_shortest_paths(n, seed):
    rng = np.random.default_rng(seed)
    order = rng.permutation(n) + 1
    head = np.zeros(n, dtype=int)
    for i in range(1, n):
        head[order[i] - 1] = order[rng.integers(0, i)]
    words = pd.DataFrame({"text_id": 7, "word_id": np.arange(1, n + 1), "head": head})
    edges = np.zeros((n, n))
    for child, parent in enumerate(head):
        if parent:
            edges[child, parent - 1] = 1
    wanted = shortest_path(edges, directed=False) if n > 1 else np.zeros((1, 1))
    assert (trees.distances(words)[7] == wanted).all()
    root = int(np.flatnonzero(head == 0)[0])
    assert (trees.depths(words).to_numpy() == wanted[root] + 1).all()


def test_what_is_no_tree_is_named():
    circle = WORDS.assign(head=[2, 3, 1, 5, 4, 0, 0, 1, 0, 3])
    with pytest.raises(ValueError, match="sentence 0 go round"):
        trees.depths(circle)
    with pytest.raises(ValueError, match="sentence 0: word 3 has the head 9"):
        trees.depths(WORDS.assign(head=[2, 0, 9, 5, 2, 0, 0, 1, 0, 3]))
    with pytest.raises(ValueError, match="without 'head'"):
        trees.depths(WORDS.drop(columns="head"))


# ---------------------------------------------------------------------------------- probes on planted trees


def planted(n=260, width=24, seed=0, noise=0.05, edges=False):
    """Sentences whose vectors hold the tree: each word is its head plus an axis of its own, then rotated.

    Squared distances then are tree distances, and squared norms depths, under the right projection. The
    second "site" is noise. With ``edges``, a vector holds where its word and its head are.
    """
    rng = np.random.default_rng(seed)
    lines = []
    for t in range(n):
        size = int(rng.integers(4, 10))
        order = rng.permutation(size) + 1
        head = np.zeros(size, dtype=int)
        for i in range(1, size):
            head[order[i] - 1] = order[rng.integers(0, i)]
        lines += [(t, w + 1, head[w], f"w{rng.integers(0, 40)}", "NOUN") for w in range(size)]
    words = pd.DataFrame(lines, columns=["text_id", "word_id", "head", "form", "upos"])
    vectors, depth = np.zeros((len(words), width)), trees.depths(words).to_numpy()
    index = {(t, w): i for i, (t, w) in enumerate(zip(words["text_id"], words["word_id"], strict=True))}
    for i in np.argsort(depth, kind="stable"):
        t, w, h = words.loc[i, ["text_id", "word_id", "head"]]
        axis = np.zeros(width)
        axis[w] = 1
        if edges:
            axis[12 + (h or w)] = 1
            vectors[i] = axis
        else:
            vectors[i] = axis + (vectors[index[t, h]] if h else 0)
    rotation = np.linalg.qr(rng.standard_normal((width, width)))[0]
    sites = np.stack([vectors @ rotation, rng.standard_normal(vectors.shape)])
    sites += noise * rng.standard_normal(sites.shape)
    values = torch.from_numpy(sites.astype(np.float16))
    return treebank._dataset_of(values, ["planted", "noise"], words, {})


OPTIONS = {"epochs": 20, "learning_rate": 1e-2, "progress": False}


@pytest.mark.parametrize("metric", ["sp", "depth", "distance"])
def test_a_planted_tree_is_found_and_noise_is_not(metric):
    train, dev, test = trees.split(planted())
    table = trees.score(trees.fit(train, dev, metric, **OPTIONS), test).set_index("site")
    assert table.loc["planted", "spearman"] > 0.95 and table.loc["noise", "spearman"] < 0.5
    if metric == "distance":
        baseline = trees.linear_baseline(test)["uuas"]
        assert table.loc["planted", "uuas"] > 0.95 and table.loc["noise", "uuas"] < baseline + 0.2
    else:
        assert table.loc["planted", "root_accuracy"] > 0.95 and table.loc["noise", "root_accuracy"] < 0.5


def test_a_tree_is_found_in_long_vectors_with_a_sink_in_front():
    """As in a decoder: vectors of length 300, and the first word of each sentence a hundred times longer."""
    plain = planted()
    values = plain.values.float() * 300 / plain.values.float().norm(dim=2).median()
    first = torch.zeros(values.shape[1], dtype=torch.bool)
    first[torch.from_numpy(plain.starts)] = True
    values[:, first] *= 50
    found = {}
    for name, (vectors, scale) in {
        "as they are": (values, None),
        "evened": treebank._evened(values)[:2],
    }.items():
        some = dataclasses.replace(plain, values=vectors, scale=scale)
        train, dev, test = trees.split(some)
        probes = trees.fit(train, dev, "distance", **{**OPTIONS, "learning_rate": 1e-3})
        found[name] = trees.score(probes, test).set_index("site").loc["planted", "uuas"]
    assert found["evened"] > found["as they are"] + 0.2, found
    evened, scale, shortened = treebank._evened(values)
    assert evened.float().norm(dim=2).median().item() == pytest.approx(treebank.LENGTH, rel=0.05)
    assert shortened == 2 * len(plain) and (scale < 0.1).all()
    same, one, none = treebank._evened(plain.values)
    assert torch.equal(same, plain.values) and (one == 1).all() and none == 0


def test_a_probe_of_scaled_vectors_begins_at_the_size_of_the_models_own(minilm):
    weight = torch.ones(1, 384, 2)
    fitted = probes.Probes("ssp", ["layer.1.hidden"], weight, None, [], {})
    scaled = dataclasses.replace(fitted, options={"scale": torch.tensor([0.25])})
    plain = finetuning._start(minilm, "layer.1.hidden", fitted, None, 0)
    assert torch.equal(finetuning._start(minilm, "layer.1.hidden", scaled, None, 0), 0.25 * plain)


def test_all_sites_together_are_each_site_alone():
    whole = planted(120)
    train, dev, test = trees.split(whole)
    both = trees.score(trees.fit(train, dev, "sp", seed=3, **OPTIONS), test)
    weight = torch.empty(2, 24, 12).uniform_(-0.05, 0.05, generator=torch.Generator().manual_seed(3))

    def first(part):
        return replace(part, values=part.values[:1], sites=["planted"])

    original = torch.Tensor.uniform_
    try:  # the first site alone, from the same start
        torch.Tensor.uniform_ = lambda self, *a, **k: self.copy_(weight[:1])
        alone = trees.score(trees.fit(first(train), first(dev), "sp", seed=3, **OPTIONS), first(test))
    finally:
        torch.Tensor.uniform_ = original
    assert alone["loss"][0] == pytest.approx(both["loss"][0], rel=0.02)


def test_training_settles():
    """A falling rate ends still, where a constant one goes on jumping: 1.5 % in the last epoch here."""
    train, dev, test = trees.split(planted(noise=0.3))
    found = trees.fit(train, dev, "distance", epochs=20, learning_rate=3e-2, progress=False)
    last = np.array(found.dev)[-2:, 0]
    assert len(found.dev) == 20
    assert len(trees.fit(train, dev, "sp", progress=False).dev) == 40  # few sentences: many passes
    assert abs(last[1] / last[0] - 1) < 0.005
    assert trees.score(found, test)["loss"][0] < 0.69  # .70 at a constant rate


def test_a_probe_stands_beside_a_constant():
    train, dev, test = trees.split(planted())
    rows = np.concatenate([np.arange(a, a + n) for a, n in zip(test.starts, test.sizes, strict=True)])
    sp = trees.score(trees.fit(train, dev, "sp", **OPTIONS), test)
    least = min(np.square(test.depth[rows] - c).mean() for c in np.linspace(1, 5, 4001))
    assert sp["constant"][0] == pytest.approx(least, abs=1e-5) == trees.linear_baseline(test)["sp"]
    assert sp["loss"][0] < 0.1 * sp["constant"][0]
    flat = trees.fit(train, dev, "depth", epochs=1, progress=False)
    depth = trees.score(replace(flat, weight=torch.zeros(2, 24, 3)), test)  # 0 for every word
    assert (depth["constant"] < depth["loss"]).all()
    ssp = trees.score(trees.fit(train, dev, "ssp", **OPTIONS), test)
    assert ssp["constant"].isna().all()


def test_ssp_has_the_trivial_solution_and_says_so():
    """Noise too reaches a small X_ssp; the profile's entropy and mean depth show what it is worth."""
    train, dev, test = trees.split(planted())
    found = {
        m: trees.score(trees.fit(train, dev, m, **OPTIONS), test).set_index("site") for m in ("ssp", "essp")
    }
    assert (found["ssp"]["loss"] <= found["essp"]["loss"]).all()
    assert found["ssp"]["mean_depth"].between(1.5, 6).all() and (found["ssp"]["entropy"] >= 0).all()


def test_edges_and_their_control_task():
    whole = planted(edges=True)
    train, dev, test = trees.split(whole)
    rules = treebank.control_heads(whole)
    for start, size in zip(whole.starts, whole.sizes, strict=True):
        own = np.arange(size)
        mine = rules[start : start + size]
        assert ((mine == own) | (mine == 0) | (mine == size - 1)).all()
    frame = pd.DataFrame({"form": whole.forms, "rule": rules, "own": 0})
    assert frame["form"].nunique() == 40
    gold, control = (
        trees.score(trees.fit(train, dev, "edge", task=task, **{**OPTIONS, "epochs": 40}), test)["accuracy"][
            0
        ]
        for task in ("gold", "control_task")
    )
    assert gold > 0.95 and gold > control + 0.3


def test_gold_distances_give_uuas_of_one():
    test = planted(40)
    for i, (start, size) in enumerate(zip(test.starts, test.sizes, strict=True)):
        words = ~test.punct[start : start + size]
        gold = test.distance[i]
        assert treebank.spanning_tree(gold.astype(float), words) == treebank.edges_of(gold, words)


def test_spearman_is_scipys():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((1, 5, 8)), rng.integers(1, 4, (5, 8))
    found = probes._spearman(a, b[None])
    assert found[0] == pytest.approx(
        np.mean([scipy.stats.spearmanr(x, y).statistic for x, y in zip(a[0], b, strict=True)])
    )


def test_effective_rank():
    flat = probes.Probes("sp", ["a"], torch.eye(6)[None, :, :3], None, [], {})
    assert flat.rank()[0] == pytest.approx(3)


# ---------------------------------------------------------------------------------- on a subject


@pytest.fixture(scope="module")
def sample():
    return models.load("minilm"), texts.load("sample:treebank").sample(120, seed=0)


def test_measure_on_the_sample_with_nulls(sample, tmp_path):
    subject, corpus = sample
    found = trees.measure(
        subject,
        corpus,
        ["sp", "ssp", "essp"],
        nulls=treebank.NULLS,
        seeds=(0,),
        cache=tmp_path,
        epochs=1,
        rank=32,
        progress=False,
    )
    assert len(found) == 3 * 4 * 7 and found["loss"].gt(0).all() and set(found["null"]) == set(treebank.NULLS)
    bounds = trees.bounds(found)
    assert bounds["holds"].dtype == bool and bounds["constant"].gt(0).all()
    assert trees.choose_site(found) in set(found["site"])
    summed = trees.intervals(found)
    assert {"metric", "figure", "value", "low", "high"} <= set(summed)
    with pytest.raises(ValueError, match="measure 'essp' too"):
        trees.bounds(found[found["metric"] != "essp"])


def test_every_site_of_a_subject_can_be_probed(sample, tmp_path):
    subject, corpus = sample
    for kind in ("heads", "attention", "ffn"):
        found = trees.measure(
            subject, corpus, "ssp", kind, seeds=(0,), cache=tmp_path, epochs=1, rank=32, progress=False
        )
        assert len(found) == 6
    with pytest.raises(ValueError, match="different widths"):
        trees.measure(subject, corpus, "ssp", ["hidden", "ffn"], cache=tmp_path, progress=False)


CONLLU = """\
# text = Stop
1\tStop\tstop\tVERB\t_\t_\t0\troot\t_\t_

# text = don't go there now
1-2\tdon't\t_\t_\t_\t_\t_\t_\t_\t_
1\tdo\tdo\tAUX\t_\t_\t3\taux\t_\t_
2\tn't\tnot\tPART\t_\t_\t3\tadvmod\t_\t_
3\tgo\tgo\tVERB\t_\t_\t0\troot\t_\t_
4\tthere\tthere\tADV\t_\t_\t3\tadvmod\t_\t_
4.1\tgone\tgo\tVERB\t_\t_\t_\t_\t_\t_
5\tnow\tnow\tADV\t_\t_\t3\tadvmod\t_\t_

# text = do not go there now
1	do	do	AUX	_	_	3	aux	_	_
2	not	not	PART	_	_	3	advmod	_	_
3	go	go	VERB	_	_	0	root	_	_
4	there	there	ADV	_	_	3	advmod	_	_
5	now	now	ADV	_	_	3	advmod	_	_

# text = we cannot go
1	we	we	PRON	_	_	4	nsubj	_	_
2	can	can	AUX	_	_	4	aux	_	SpaceAfter=No
3	not	not	PART	_	_	4	advmod	_	_
4	go	go	VERB	_	_	0	root	_	_

# text = round and round it goes
1\tround\tround\tADV\t_\t_\t2\tdep\t_\t_
2\tand\tand\tCCONJ\t_\t_\t3\tdep\t_\t_
3\tround\tround\tADV\t_\t_\t1\tdep\t_\t_
4\tit\tit\tPRON\t_\t_\t5\tnsubj\t_\t_
5\tgoes\tgo\tVERB\t_\t_\t0\troot\t_\t_

"""


def test_odd_sentences_are_counted(tmp_path, sample):
    path = tmp_path / "odd.conllu"
    path.write_text(CONLLU, encoding="utf-8")
    found = trees.dataset(sample[0], texts.load(path), cache=tmp_path, progress=False)
    assert found.dropped["sentences not of 4 to 40 words"] == 1
    assert found.dropped["sentences whose heads are no tree"] == 1
    # "don't" is a multiword token, "cannot" one token of the model: two words, one vector
    assert found.dropped["sentences with words that share a vector"] == 2
    assert len(found) == 1 and found.depth.tolist()[:3] == [2, 2, 1]
    one = trees.dataset(sample[0], texts.load(path), lengths=(1, 1), cache=tmp_path, progress=False)
    assert one.sizes.tolist() == [1] and trees.pseudo_depths(torch.tensor([[3.0]])).tolist() == [[1.0]]
    with pytest.raises(ValueError, match="no sentence has 30 to 40 words"):
        trees.dataset(sample[0], texts.load(path), lengths=(30, 40), cache=tmp_path, progress=False)
    with pytest.raises(ValueError, match="too few to train"):
        trees.measure(sample[0], texts.load(path), cache=tmp_path, progress=False)


def test_sentences_that_lose_words_are_left_out(tmp_path, sample):
    subject, corpus = sample
    words = corpus.words.copy()
    words.loc[0, "end"] = words.loc[0, "start"]  # a word without characters has no token
    found = trees.dataset(subject, replace(corpus, words=words), cache=tmp_path, progress=False)
    assert found.dropped["sentences with words the tokenizer lost"] == 1


def test_shuffled_words_keep_their_trees(sample, tmp_path):
    subject, corpus = sample
    plain = trees.dataset(subject, corpus, cache=tmp_path, progress=False)
    shuffled = trees.dataset(subject, corpus, null="shuffled", cache=tmp_path, progress=False)
    assert (plain.depth == shuffled.depth).all() and (plain.forms == shuffled.forms).all()
    first = plain.values[0].float(), shuffled.values[0].float()  # embeddings: position differs, word does not
    cosine = torch.nn.functional.cosine_similarity(*first, dim=1)
    other = torch.nn.functional.cosine_similarity(first[0], first[1].roll(1, 0), dim=1)
    assert cosine.mean() > other.mean() + 0.2


def test_as_published_scores_the_padding(sample):
    subject, corpus = sample
    found = trees.published_dataset(subject, corpus.sample(12, seed=1), length=64)
    assert found.values.shape[:2] == (7, 12 * 64)
    assert (found.depth.reshape(12, 64)[:, -20:] == 2).all() and (
        found.depth.reshape(12, 64)[:, 0] == 2
    ).all()
    probes = trees.fit(found, found, "sp", published=True, epochs=2, progress=False)
    assert trees.score(probes, found)["loss"].gt(0).all()


# ---------------------------------------------------------------------------------- fine-tuning


def opinions(n=96, seed=0):
    rng = np.random.default_rng(seed)
    good, bad = ["lovely", "great", "superb"], ["awful", "poor", "broken"]
    things = ["phone", "book", "film", "chair", "song", "lamp"]
    label = rng.integers(0, 2, n)
    strings = [
        f"this {rng.choice(things)} is {rng.choice((bad, good)[c])} number {i}" for i, c in enumerate(label)
    ]
    corpus = texts.Texts.from_list(strings, "opinions")
    return replace(corpus, frame=corpus.frame.assign(good=label.astype(str)))


def test_tuning_learns_and_leaves_the_subject_alone(sample):
    subject, before = sample[0], sample[0].fingerprint
    train, dev = opinions(), opinions(60, seed=9)
    tuned = trees.finetune_classifier(
        subject, train, "good", epochs=4, batch=8, learning_rate=2e-4, progress=False
    )
    assert matthews_corrcoef(dev.frame["good"], tuned.predict(dev).astype(str)) > 0.8
    assert models.Subject("again", subject.model, subject.tokenizer).fingerprint == before
    assert tuned.subject.fingerprint != before and not tuned.subject.model.training
    again = trees.finetune_classifier(
        subject, train, "good", epochs=4, batch=8, learning_rate=2e-4, progress=False
    )
    assert again.subject.fingerprint == tuned.subject.fingerprint
    assert tuned.history["loss"].tail(3).mean() < tuned.history["loss"].head(3).mean()


def test_trees_in_the_loss(sample):
    subject, kept = sample[0], []
    train, dev = opinions(), opinions(60, seed=9)
    found = trees.finetune(
        subject, train, dev, "good", sites=["layer.2.hidden", "layer.3.ffn"], weights=(0.1,),
        seeds=(0, 1), epochs=1, learning_rate=3e-4, keep=lambda frame: kept.append(len(frame)),
        progress=False,
    )  # fmt: skip
    assert len(found) == 2 + 2 * 2 and kept == list(range(1, 7))
    assert (
        found.loc[found["site"] != "", "auxiliary_loss"].gt(0).all()
        and found.loc[found["site"] == "", "auxiliary_loss"].eq(0).all()
    )
    again = trees.finetune(
        subject, train, dev, "good", sites=["layer.2.hidden", "layer.3.ffn"], weights=(0.1,),
        seeds=(0, 1), epochs=1, learning_rate=3e-4, done=found[:4],
        keep=lambda frame: kept.append(len(frame)), progress=False,
    )  # fmt: skip
    assert kept[6:] == [5, 6], "four of six runs were there"
    pd.testing.assert_frame_equal(again, found)
    table = trees.differences(found)
    assert table["site"].tolist()[0] == "baseline" and table["gain"][0] == 0
    assert found["matthews"].between(-1, 1).all() and found["batch_matthews"].between(-1, 1).all()
    with pytest.raises(ValueError, match="no baseline"):
        trees.differences(found[found["site"] != ""])
    with pytest.raises(ValueError, match="positive='yes' is no class"):
        trees.finetune(
            subject, train, dev, "good", sites=["layer.2.hidden"], positive="yes", seeds=(0,), epochs=1
        )


def test_differences_are_paired_and_corrected_for_all_settings_tried():
    rng, lines = np.random.default_rng(0), []
    for seed in range(5):
        level = rng.normal(0.5, 0.2)  # what the pairing takes away
        lines.append({"site": "", "weight": 0.0, "seed": seed, "matthews": level})
        for site, gain in {"a": 0.1, "b": 0.0}.items():
            lines.append(
                {"site": site, "weight": 1.0, "seed": seed, "matthews": level + gain + rng.normal(0, 0.01)}
            )
    runs = pd.DataFrame(lines).assign(collapsed=False)
    table = trees.differences(runs).set_index("site")
    wide = runs.pivot(index="seed", columns="site", values="matthews")
    for site in "ab":
        independent = scipy.stats.ttest_rel(wide[site], wide[""]).pvalue
        assert table["p"][site] == pytest.approx(min(1, 2 * independent))
    assert table["p"]["baseline"] == 1 and table["p"]["a"] < 0.001 < 0.2 < table["p"]["b"]
    assert table["gain"]["a"] == pytest.approx((wide["a"] - wide[""]).mean())


def test_a_fitted_probe_starts_with_a_small_loss_and_is_not_changed(sample):
    subject, corpus = sample
    sentences = trees.dataset(subject, corpus, progress=False)
    probes = trees.fit(*trees.split(sentences)[:2], "ssp", epochs=4, progress=False)
    start = probes.weight.clone()
    options = {"sites": ["layer.1.hidden"], "seeds": (0,), "weights": (1e-9,), "epochs": 1, "progress": False}
    fitted = trees.finetune(subject, opinions(32), opinions(8), "good", probes=probes, **options)
    fresh = trees.finetune(subject, opinions(32), opinions(8), "good", **options)
    losses = fitted["auxiliary_loss"].max(), fresh["auxiliary_loss"].max()
    assert 2 * losses[0] < losses[1], losses
    for frozen in (True, False):
        trees.finetune(
            subject, opinions(32), opinions(8), "good", sites=["layer.1.hidden"], seeds=(0,), epochs=1,
            probes=probes, frozen=frozen, progress=False,
        )  # fmt: skip
        assert (probes.weight == start).all()  # the caller's probes are never changed


def test_what_cannot_be_tuned_is_named(sample):
    train = opinions(32)
    with pytest.raises(ValueError, match="no column 'mood'"):
        trees.finetune_classifier(sample[0], train, "mood")
    with pytest.raises(ValueError, match="single class"):
        trees.finetune_classifier(sample[0], replace(train, frame=train.frame.assign(good="1")), "good")
    with pytest.raises(ValueError, match="the loss is"):
        trees.finetune_classifier(
            sample[0], train, "good", sites=["layer.0.hidden"],
            auxiliary_loss=lambda seen, own, labels: seen["layer.0.hidden"].sum() * torch.inf, progress=False,
        )  # fmt: skip
