"""Tokens of texts: special tokens that somebody typed, tokens a model does not embed, padding on the left."""

import json
import shutil

import numpy as np
import pytest
import torch
from test_models import save_tiny, tokenizer_like
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers import models as tokenizer_models
from transformers import (
    AutoModel,
    AutoTokenizer,
    GPT2Config,
    GPT2Model,
    PreTrainedTokenizerFast,
)

from nbkit import activations, models
from nbkit.texts import Texts

CAPTURE = {"cache": False, "progress": False, "sites": "layer.1.hidden"}


def sentencepiece_like() -> PreTrainedTokenizerFast:
    """As XLNet's: special tokens are pieces of a Unigram model, the most probable ones; <cls> is last."""
    special = ["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>"]
    pieces = [(piece, 0.0) for piece in special]
    pieces += [("▁", -3.0), *((piece, -9.0) for piece in "<>/abcdefghijklmnopqrstuvwxyz.")]
    pieces += [("▁the", -2.0), ("▁cat", -4.0), ("▁sat", -4.0)]
    backend = Tokenizer(tokenizer_models.Unigram(pieces, unk_id=0))
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.post_processor = processors.TemplateProcessing(
        single="$A <sep> <cls>", special_tokens=[("<sep>", 4), ("<cls>", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", cls_token="<cls>",
        sep_token="<sep>", pad_token="<pad>", mask_token="<mask>",
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


@pytest.fixture
def xlnet(tmp_path) -> models.Subject:
    tokenizer = sentencepiece_like()
    save_tiny(tmp_path / "xlnet", "xlnet", vocab_size=len(tokenizer), pad_token_id=5)
    tokenizer.save_pretrained(tmp_path / "xlnet")
    return models.load(tmp_path / "xlnet")


@pytest.fixture
def tiny(tmp_path) -> models.Subject:
    return models.load(save_tiny(tmp_path / "bert", "bert"))


# ------------------------------------------------------------------------- special tokens as text


@pytest.mark.parametrize("typed", ["[SEP]", "[CLS]", "[PAD]", "[MASK]", "[UNK]"])
def test_a_special_token_typed_in_a_text_is_plain_characters(minilm, typed):
    texts = Texts.from_list([f"The log prints {typed} twice.", "Nothing odd."])
    found = activations.capture(minilm, texts, rows="token", **CAPTURE).rows
    inside = found[(found["text_id"] == 0) & (found["start"] >= 15) & (found["end"] <= 15 + len(typed))]
    assert "".join(inside["token"]).replace("##", "") == typed.lower() and len(inside) >= 3
    assert not set(found["token"]) & {"[SEP]", "[CLS]", "[PAD]", "[MASK]"}
    _, own = minilm.encode(texts.frame["text"].tolist())
    assert own.sum() == len(found)


def test_a_piece_of_sentencepiece_is_no_special_token_either(xlnet):
    for text in ("the <cls> sat", "<sep> the cat", "the <mask></s>", "＜cls＞ sat"):  # the last one by NFKC
        batch, own = xlnet.encode([text])
        ids = batch["input_ids"][0][own[0]].tolist()
        assert not set(ids) & set(xlnet.tokenizer.all_special_ids), xlnet.tokenizer.convert_ids_to_tokens(ids)
    plain = xlnet.tokenizer("the cat sat")["input_ids"]
    assert (
        xlnet.tokenize(["the cat sat", "<cls>"])["input_ids"][0] == plain
    )  # its neighbours are as they were


def test_the_classification_token_is_the_tokenizers_own(xlnet):
    """XLNet's is the last one; a literal `<cls>` before it is not taken for it."""
    texts = Texts.from_list(["the <cls> cat sat", "the cat"])
    pooled = activations.capture(xlnet, texts, rows="text", pool="cls", **CAPTURE).values
    for row, text in enumerate(texts.frame["text"]):
        batch, own = xlnet.encode([text])
        assert batch["input_ids"][0, -1] == xlnet.tokenizer.cls_token_id and not own[0, -1]
        last = xlnet.run(batch, "layer.1.hidden")["layer.1.hidden"][0, -1]
        np.testing.assert_allclose(np.asarray(pooled[row], np.float32), last.numpy(), atol=2e-3)


@pytest.mark.parametrize(
    "text", ["A plain text.", "Brackets [like these] <b>too</b> | ok?", "«é» 漢字 🙂", ""]
)
def test_texts_without_special_tokens_are_tokenized_as_ever(minilm, xlnet, text):
    for subject in (minilm, xlnet):
        same = subject.tokenizer([text], return_special_tokens_mask=True)
        assert dict(subject.tokenize([text])) == dict(same)


def test_the_fingerprint_does_not_see_how_a_text_was_tokenized(xlnet):
    before = xlnet.fingerprint
    xlnet.tokenize(["the <cls> sat"])
    assert models.Subject("again", xlnet.model, xlnet.tokenizer).fingerprint == before


# ------------------------------------------------------------------ tokens that a model does not embed


def test_an_added_token_is_refused_in_the_text_that_has_it_and_nowhere_else(tmp_path, tiny):
    tiny.tokenizer.add_tokens(["<extra>"])
    tiny.model.save_pretrained(tmp_path / "more")
    tiny.tokenizer.save_pretrained(tmp_path / "more")
    subject = models.load(tmp_path / "more")
    assert len(subject.tokenizer) == subject.model.config.vocab_size + 1
    activations.capture(subject, Texts.from_list(["cat sat", "the cat"]), **CAPTURE)
    odd = Texts.from_list(["cat sat", "the <extra> cat"])
    with pytest.raises(
        ValueError, match=r"the text 'the <extra> cat' has the token '<extra>' \(id 19\).*19 tok"
    ):
        activations.capture(subject, odd, **CAPTURE)
    with pytest.raises(ValueError, match="'<extra>'"):
        subject.encode(odd.frame["text"].tolist())
    with pytest.raises(ValueError, match=r"token id 19 \('<extra>'\)"):
        subject.run({"input_ids": torch.tensor([[0, 19, 2]])}, "hidden")


def test_a_padding_token_that_is_not_embedded_pads_all_the_same(tmp_path):
    tokenizer = tokenizer_like("gpt2")
    save_tiny(tmp_path / "gpt2", "gpt2")
    tokenizer.add_special_tokens({"pad_token": "<new pad>"})  # what many users do, without resizing
    tokenizer.save_pretrained(tmp_path / "gpt2")
    model = AutoModel.from_pretrained(tmp_path / "gpt2")
    for subject in (models.load(tmp_path / "gpt2"), models.Subject("mine", model, tokenizer)):
        batch, own = subject.encode(["the cat sat", "cat"])
        both = subject.run(batch, "layer.1.hidden")["layer.1.hidden"][1][own[1]]
        alone = subject.run(subject.encode(["cat"])[0], "layer.1.hidden")["layer.1.hidden"][0]
        torch.testing.assert_close(both, alone, atol=1e-5, rtol=1e-4)


# ------------------------------------------------------------------- tokenizers that cannot be used


def test_padding_on_the_left_is_refused_or_set_right(minilm):
    tokenizer = AutoTokenizer.from_pretrained(models.loading._minilm_folder())
    tokenizer.padding_side = "left"
    tokenizer.model_input_names = ["input_ids", "attention_mask"]  # GPT-2 would embed types as tokens
    torch.manual_seed(0)
    model = GPT2Model(GPT2Config(vocab_size=len(tokenizer), n_layer=2, n_head=2, n_embd=32))
    subject, texts = models.Subject("mine", model, tokenizer), ["short", "a much longer text than that"]
    with pytest.raises(ValueError, match="padded on the left: mine counts.*subject.encode"):
        subject.run(tokenizer(texts, padding=True, return_tensors="pt"), "hidden")
    batch, own = subject.encode(texts)
    alone = subject.run(subject.encode(texts[:1])[0], "layer.1.hidden")["layer.1.hidden"]
    both = subject.run(batch, "layer.1.hidden")["layer.1.hidden"]
    torch.testing.assert_close(both[0, : alone.shape[1]], alone[0], atol=1e-5, rtol=1e-4)
    stored = activations.capture(subject, Texts.from_list(texts), pool="first", **CAPTURE)
    np.testing.assert_allclose(np.asarray(stored.values[0], np.float32), alone[0, 1].numpy(), atol=2e-3)
    left = tokenizer(texts, padding=True, return_tensors="pt")
    left["position_ids"] = (left["attention_mask"].cumsum(1) - 1).clip(min=0)  # who gives positions is right
    right = subject.run(left, "layer.1.hidden")["layer.1.hidden"][0, -3:]
    torch.testing.assert_close(right, alone[0], atol=1e-5, rtol=1e-4)


def test_a_tokenizer_without_offsets_is_refused_when_it_is_loaded(tmp_path, minilm):
    folder = save_tiny(tmp_path / "slow", "bert", vocab_size=minilm.model.config.vocab_size)
    for path in folder.glob("*token*"):
        path.unlink()
    vocabulary = sorted(minilm.tokenizer.get_vocab().items(), key=lambda item: item[1])
    (folder / "vocab.txt").write_text("\n".join(word for word, _ in vocabulary), encoding="utf-8")
    settings = {
        "tokenizer_class": "BertJapaneseTokenizer",
        "word_tokenizer_type": "basic",
        "subword_tokenizer_type": "wordpiece",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(ValueError, match="BertJapaneseTokenizer gives no character offsets.*fast tokenizer"):
        models.load(folder)


@pytest.mark.parametrize("head", [None, {"__version__": "0.2.5"}])
def test_the_old_layout_of_sentence_transformers_gets_a_hint(tmp_path, head):
    whole = tmp_path / "old-model"
    save_tiny(whole / "0_BERT", "bert")
    (whole / "1_Pooling").mkdir()
    (whole / "1_Pooling" / "config.json").write_text("{}", encoding="utf-8")
    (whole / "modules.json").write_text("[]", encoding="utf-8")
    if head:
        (whole / "config.json").write_text(json.dumps(head), encoding="utf-8")
    with pytest.raises(FileNotFoundError, match="config.json.*the model is in its folder '0_BERT'"):
        models.load(whole)
    assert len(models.load(whole / "0_BERT").sites) == 13
    shutil.rmtree(whole / "0_BERT")
    shutil.rmtree(whole / "1_Pooling")
    with pytest.raises((FileNotFoundError, ValueError), match="save_pretrained|no site map"):
        models.load(whole)
