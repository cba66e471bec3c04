"""Interventions: edits reach every site and nothing else; planted causes are found; NeuroX files."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from test_models import TEXTS, save_tiny

from nbkit import activations, models, salience, texts
from nbkit.activations import neurox
from nbkit.salience.probes import Words


@pytest.fixture(scope="module")
def studied():
    subject = models.load("minilm")
    corpus = texts.load("sample:treebank").sample(160, seed=0)
    stored = activations.capture(
        subject, corpus, sites=["embeddings", "hidden"], rows="word", pool="mean", dtype="float32",
        cache=False, progress=False,
    )  # fmt: skip
    X, y = salience.matrix(stored, salience.properties(corpus, "upos", min_count=20))
    last = np.flatnonzero(stored.units["site"] == stored.units["site"].iloc[-1])
    probe = salience.fit_probe(X[:, last], y, epochs=20)
    return subject, corpus, stored, y, salience.rank(X, y, depth=200), probe


def test_salient_units_move_more_than_random_ones(studied):
    subject, corpus, stored, y, ranking, probe = studied
    found = salience.intervene(
        subject, corpus, stored, y, ranking.order, probe.predict, counts=(100,), to="NOUN", progress=False
    )
    base = found.iloc[0]
    assert base["kind"] == "untouched" and base["embedding"] == pytest.approx(1) and np.isnan(base["word"])
    table = found.set_index(["how", "kind"])
    assert base["probe"] > 0.8
    for how in ("zero", "mean"):
        assert table.loc[(how, "salient"), "probe"] < table.loc[(how, "random"), "probe"]
    assert table.loc[("translate", "salient"), "moved"] > table.loc[("translate", "random"), "moved"] + 0.05


def test_words_not_concerned_are_left_alone(studied):
    subject, corpus, stored, y, ranking, probe = studied
    one = corpus.frame["text_id"].iloc[3]
    only = y[y.index.get_level_values(0) == one]
    found = salience.intervene(
        subject, corpus, stored, only, ranking.order, probe.predict, counts=(50,), how=("zero",),
        to=str(only.iloc[0]), progress=False,
    )  # fmt: skip
    assert found["embedding"].iloc[1] == pytest.approx(1, abs=1 / len(corpus))  # one text of all moved


def test_bad_interventions_are_named(studied):
    subject, corpus, stored, y, ranking, probe = studied
    run = lambda **k: salience.intervene(  # noqa: E731
        subject, corpus, stored, y, ranking.order, probe.predict, progress=False, **k
    )
    with pytest.raises(ValueError, match="unknown intervention 'burn'"):
        run(how=("burn",))
    with pytest.raises(ValueError, match="to='FOO' is no class"):
        run(to="FOO")
    last = np.flatnonzero(stored.units["site"] == "layer.5.hidden")
    with pytest.raises(ValueError, match="all ranked units are of layer.5.hidden"):
        salience.intervene(subject, corpus, stored, y, last, probe.predict, progress=False)


def test_a_language_model_head_is_read(tmp_path):
    """A tiny masked language model whose head copies: the words it names are counted, by brute force too."""
    from transformers import AutoModelForMaskedLM

    base = models.load(save_tiny(tmp_path, "bert"))
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(base.model.config)
    tokenizer = base.tokenizer
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    model.resize_token_embeddings(len(tokenizer))
    subject = models.Subject("mlm", model, tokenizer)
    corpus = texts.Texts.from_list(TEXTS).tokenize()
    stored = activations.capture(
        subject,
        corpus,
        sites="hidden",
        rows="word",
        pool="mean",
        dtype="float32",
        cache=False,
        progress=False,
    )
    index = pd.MultiIndex.from_frame(stored.rows[["text_id", "word_id"]])
    y = pd.Series(np.where(np.arange(len(index)) % 2, "a", "b"), index=index, name="turn")
    found = salience.intervene(
        subject, corpus, stored, y, np.arange(8), lambda v: np.full(len(v), "a"), counts=(4,), how=("zero",),
        progress=False,
    )  # fmt: skip
    assert found["word"].between(0, 1).all()
    right = []
    for text in TEXTS:  # all of its words masked at once, as each of them has a class
        ids = tokenizer([text], return_tensors="pt")["input_ids"]
        masked = ids.clone()
        masked[0, 1:-1] = tokenizer.mask_token_id
        guess = model(input_ids=masked).logits.argmax(-1)
        right += (guess == ids)[0, 1:-1].tolist()
    assert found["word"][0] == pytest.approx(np.mean(right))


# ---------------------------------------------------------------------------------- NeuroX files


@pytest.mark.parametrize("ending", ["hdf5", "json"])
def test_neurox_files_come_back(studied, tmp_path, ending):
    _, corpus, stored, *_ = studied
    few = stored.select(
        text_ids=corpus.frame["text_id"].iloc[:5].tolist(), sites=["embeddings", "layer.0.hidden"]
    )
    path = neurox.write(tmp_path / f"few.{ending}", few)
    back = neurox.read(path)
    assert np.allclose(back.values, few.values, atol=1e-6)
    assert back.rows["form"].tolist() == few.rows["form"].tolist()
    assert back.units["unit"].tolist() == few.units["unit"].tolist()
    assert not list(tmp_path.glob("*.part"))


def test_the_layout_is_neuroxs(studied, tmp_path):
    """As NeuroX reads it: sentences by their words, [layer, word, width]; repeated ones are numbered."""
    import h5py

    _, corpus, stored, *_ = studied
    twice = texts.Texts.from_list(["so it is", "so it is"]).tokenize()
    stored = activations.capture(
        studied[0], twice, sites="hidden", rows="word", pool="mean", cache=False, progress=False
    )
    with h5py.File(neurox.write(tmp_path / "twice.hdf5", stored)) as file:
        index = json.loads(file["sentence_to_index"][0])
        assert index == {"so it is": "0", "so it is (Occurrence 2)": "1"}
        assert file["0"].shape == (6, 3, 384) and file["0"].dtype == np.float32
    back = neurox.read(tmp_path / "twice.hdf5", sites=[f"layer.{i}.hidden" for i in range(6)])
    assert back.rows["form"].tolist() == ["so", "it", "is"] * 2
    line = json.loads(
        neurox.write(tmp_path / "twice.json", stored).read_text(encoding="utf-8").splitlines()[0]
    )
    assert line["linex_index"] == 0 and line["features"][1]["token"] == "it"
    assert [layer["index"] for layer in line["features"][0]["layers"]] == list(range(6))


def test_bad_neurox_files_are_named(studied, tmp_path):
    stored = studied[2]
    with pytest.raises(ValueError, match="end in .hdf5 or .json"):
        neurox.write(tmp_path / "x.npz", stored)
    with pytest.raises(FileNotFoundError, match="no file"):
        neurox.read(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text('{"features": 3}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="bad.json, line 1 is not NeuroX's"):
        neurox.read(tmp_path / "bad.json")
    (tmp_path / "bad.hdf5").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="no hdf5 file, or cut short"):
        neurox.read(tmp_path / "bad.hdf5")
    with pytest.raises(ValueError, match="no word rows"):
        neurox.write(tmp_path / "x.json", replace(stored, rows=stored.rows[["text_id"]]))
    path = neurox.write(tmp_path / "short.json", stored.select(text_ids=stored.rows["text_id"].unique()[:2]))
    with pytest.raises(ValueError, match="has 7 layers and 2 names"):
        neurox.read(path, sites=["a", "b"])


# ---------------------------------------------------------------------------------- several subjects


def test_across_finds_what_is_shared(studied):
    subject, corpus, stored, y, *_ = studied
    words = salience.words_of(subject, corpus, "upos", cache=False)
    untrained = salience.words_of(subject.randomized(0), corpus, "upos", cache=False)
    tiny_one = Words(words.X[:, :500], words.y, words.units.iloc[:500])
    found = salience.across({"once": words, "again": words, "untrained": untrained, "small": tiny_one}, n=30)
    table = found.table.set_index("name")
    assert found.shared.loc["once", "again"] == 1 and np.isnan(found.shared.loc["once", "small"])
    assert found.shared.loc["once", "untrained"] < 0.3 and found.shared.attrs["expected"]["once"] == 30 / 2688
    assert table.loc["once", "all"] > table.loc["untrained", "all"]
    assert found.layers["once"].sum() == 30 and table["depth"].between(0, 1).all()
    with pytest.raises(ValueError, match="two at least"):
        salience.across({"one": words})
