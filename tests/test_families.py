"""One line a family: every site of a tiny random model against transformers and against plain arithmetic.

The models are made from their configurations, 2 or 3 layers of 16, with grouped queries and head widths
unequal to the hidden width where the family has them. `python tests/test_families.py` prints the table of the
book (docs/families.md): family, sites, tests.
"""

from typing import NamedTuple

import pytest
import torch
from test_models import TEXTS, edit_json, tokenized, tokenizer_like
from transformers import AutoConfig, AutoModel
from transformers.activations import ACT2FN

from nbkit import activations, models, texts
from nbkit.models import memory

pytestmark = pytest.mark.usefixtures("one_thread")
BERT = dict(hidden_size=16, num_hidden_layers=3, num_attention_heads=4, intermediate_size=24)
BERT |= dict(max_position_embeddings=34, type_vocab_size=1)
# 4 heads of 6 share 2 keys and values: heads are 24 wide, the hidden states 16
GROUPED = dict(hidden_size=16, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=6)
GROUPED |= dict(intermediate_size=20, max_position_embeddings=32)
SQUARE = GROUPED | dict(head_dim=4)
PLAIN = dict(hidden_size=16, num_hidden_layers=3, num_attention_heads=4, intermediate_size=20)
PLAIN |= dict(max_position_embeddings=32)
BLOOM = dict(hidden_size=16, n_layer=3, n_head=4, num_hidden_layers=3, num_attention_heads=4)
T5 = dict(d_model=16, d_kv=6, d_ff=20, num_layers=3, num_decoder_layers=1, num_heads=4)
GATED_T5 = T5 | dict(feed_forward_proj="gated-gelu")


class Family(NamedTuple):
    """A line of the table: a configuration, and what is expected of it."""

    config: dict
    heads: int = 16
    ffn: int = 20
    length: int | None = 32
    gated: bool = False
    causal: bool = True
    final: bool = True  # does a final norm follow the last block


GATED = Family(GROUPED, heads=24, gated=True)
ENCODER = Family(BERT, ffn=24, length=32, causal=False, final=False)
FAMILIES = {
    "llama": GATED,
    "mistral": GATED,
    "qwen2": Family(SQUARE, gated=True),
    "qwen3": GATED,
    "gemma": GATED,
    "gemma2": GATED,
    "gemma3_text": GATED,
    "olmo2": Family(SQUARE, gated=True),
    "phi3": Family(SQUARE, gated=True),
    "smollm3": Family(SQUARE, gated=True),
    "nomic_bert": Family(PLAIN | dict(head_dim=6), heads=24, gated=True, causal=False, final=False),
    "eurobert": Family(SQUARE, gated=True, causal=False),
    "modernbert": Family(PLAIN, gated=True, causal=False),
    "gpt_neox": Family(PLAIN),
    "phi": Family(SQUARE),
    "bloom": Family(BLOOM, ffn=64, length=None),
    "falcon": Family(BLOOM | dict(max_position_embeddings=32), ffn=64),
    "gpt_neo": Family(
        PLAIN
        | dict(num_layers=3, num_heads=4, attention_types=[[["global", "local", "global"], 1]], window_size=4)
    ),
    "opt": Family(PLAIN | dict(ffn_dim=20, word_embed_proj_dim=16)),
    "xlm-roberta": ENCODER,
    "camembert": ENCODER,
    "deberta": ENCODER._replace(config=BERT | dict(position_biased_input=False), length=34),
    "deberta-v2": ENCODER._replace(
        config=BERT | dict(relative_attention=True, position_biased_input=False), length=34
    ),
    "t5": Family(GATED_T5, heads=24, gated=True, length=None, causal=False),
    "mt5": Family(GATED_T5, heads=24, gated=True, length=None, causal=False),
    "umt5": Family(GATED_T5, heads=24, gated=True, length=None, causal=False),
}
#: Families that have no record: their sites are found by shape.
GUESSED = {
    "olmo": Family(SQUARE, gated=True),
    "granite": Family(SQUARE, gated=True),
    "starcoder2": Family(SQUARE),
    "stablelm": Family(SQUARE, gated=True),
    "glm": Family(GROUPED, heads=24, gated=True),
    "cohere": Family(SQUARE, gated=True),
    "gptj": Family(dict(n_embd=16, n_layer=3, n_head=4, n_positions=32, rotary_dim=4), ffn=64),
    "gpt_bigcode": Family(dict(n_embd=16, n_layer=3, n_head=4, n_positions=32), ffn=64),
    "esm": Family(
        BERT | dict(mask_token_id=3, position_embedding_type="rotary"), ffn=24, length=34, causal=False
    ),
    "ernie": ENCODER._replace(length=34),
    "bart": Family(
        dict(
            d_model=16,
            encoder_layers=3,
            decoder_layers=1,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
        )
        | dict(encoder_ffn_dim=20, decoder_ffn_dim=20, max_position_embeddings=32),
        causal=False,
        final=False,
    ),
}
EVERY = FAMILIES | GUESSED


def save_tiny(folder, kind, **changes):
    torch.manual_seed(0)
    options = dict(vocab_size=19, pad_token_id=1, bos_token_id=0, eos_token_id=2, initializer_range=0.3)
    config = AutoConfig.for_model(kind, **options | EVERY[kind].config | changes)
    model = memory.ENCODERS[kind](config) if kind in memory.ENCODERS else AutoModel.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():  # biases and norms start as 0 and 1: move them
            weight.add_(0.2 * torch.randn_like(weight))
    model.save_pretrained(folder)
    tokenizer_like("gpt2" if EVERY[kind].causal else kind).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=list(EVERY))
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def subject(kind, tmp_path_factory) -> models.Subject:
    loaded = models.load(save_tiny(tmp_path_factory.mktemp("tiny") / kind, kind))
    # transformers takes the tokenizer's class from the family, and some (Qwen's) read no list of words
    tokenizer = tokenizer_like("gpt2" if EVERY[kind].causal else kind)
    tokenizer.pad_token = "<pad>"
    return models.Subject(kind, loaded.model, tokenizer)


def equal(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_every_family_is_tested():
    import test_models

    assert set(FAMILIES) | set(test_models.CONFIGS) == set(models.ARCHITECTURES)
    assert not set(GUESSED) & set(models.ARCHITECTURES)


def test_sites_widths_and_facts(subject, kind):
    family = EVERY[kind]
    widths = subject.sites.set_index("site")["width"]
    expected = {"heads": family.heads, "attention": 16}
    expected |= {"gate": family.ffn, "up": family.ffn} if family.gated else {}
    expected |= {"ffn": family.ffn, "hidden": 16}
    assert widths["embeddings"] == 16 and len(widths) == 1 + 3 * len(expected)
    assert {k: widths[f"layer.1.{k}"] for k in expected} == expected
    assert subject.gated == family.gated and subject.causal == family.causal
    assert bool(subject.final_norm) == family.final
    assert subject.max_length == family.length
    assert subject.architecture.guessed == (kind in GUESSED)
    assert ("guessed" in repr(subject)) == (kind in GUESSED) and len(repr(subject)) < 120


def test_hidden_sites_equal_transformers(subject, kind):
    batch = tokenized(subject)
    found = list(subject.run(batch, ["embeddings", "hidden"]).values())
    expected = subject.model(**batch, output_hidden_states=True).hidden_states
    assert len(expected) == len(found) == 4
    for one, other in zip(found[:-1], expected[:-1], strict=True):
        assert torch.equal(one, other)
    last = found[-1]
    for name in subject.final_norm:
        assert not torch.equal(last, expected[-1])
        last = subject.model.base_model.get_submodule(name)(last)
    assert torch.equal(last, expected[-1])
    assert len({tuple(state[0, 1].tolist()) for state in expected}) == 4  # no shift by one layer can pass


def weight_of(matrix) -> torch.Tensor:
    """[in, out]"""
    return matrix.weight.T if isinstance(matrix, torch.nn.Linear) else matrix.weight


def test_sites_are_what_goes_in_and_comes_out(subject, kind):
    """`attention` is `heads` through the projection's weights; the second matrix ends in the residual stream;
    a gated unit is act(gate) * up."""
    found = subject.run(tokenized(subject), "all")
    record = subject.architecture
    for layer, block in enumerate(subject.model.base_model.get_submodule(record.blocks)):
        out = block.get_submodule(record.attention)
        bias = out.bias if getattr(out, "bias", None) is not None else 0
        equal(found[f"layer.{layer}.heads"] @ weight_of(out) + bias, found[f"layer.{layer}.attention"])
        second = weight_of(block.get_submodule(record.ffn))
        assert second.shape == (found[f"layer.{layer}.ffn"].shape[-1], 16)
        if EVERY[kind].gated:
            config = subject.model.config
            act = getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", None)
            act = getattr(config, "dense_act_fn", None) or act
            gate, up = found[f"layer.{layer}.gate"], found[f"layer.{layer}.up"]
            equal(ACT2FN[act](gate) * up, found[f"layer.{layer}.ffn"])
            assert 0.2 < (found[f"layer.{layer}.ffn"] < 0).float().mean() < 0.8


def test_an_edit_changes_what_follows_and_nothing_before(subject, kind):
    batch, sites = tokenized(subject), list(subject.sites["site"])
    clean = subject.run(batch, "all")
    real = batch["attention_mask"].bool()
    kinds = ["heads", "attention", "ffn", "hidden", *(["gate", "up"] if EVERY[kind].gated else [])]
    for site in ("embeddings", *(f"layer.1.{name}" for name in kinds)):
        bump = torch.linspace(-1, 1, clean[site].shape[-1])
        with subject.edit({site: lambda t, bump=bump: t + bump}):
            edited = subject.run(batch, "all")
        equal(edited[site], clean[site] + bump)
        before = 0 if site == "embeddings" else 1 + (len(sites) - 1) // 3  # sites of the layers before
        for other in sites[:before]:
            assert torch.equal(clean[other], edited[other]), (site, other)
        assert not torch.allclose(clean[sites[-1]][real], edited[sites[-1]][real], atol=1e-4)
    assert all(torch.equal(subject.run(batch, "all")[s], clean[s]) for s in sites)  # the hooks are gone


def test_padding_and_order_leave_the_numbers(subject):
    batch = tokenized(subject)
    together = subject.run(batch, "all")
    reverse = subject.run(tokenized(subject, TEXTS[::-1]), "all")
    for row, text in enumerate(TEXTS):
        alone = subject.run(tokenized(subject, [text]), "all")
        length = int(batch["attention_mask"][row].sum())
        for site in alone:
            torch.testing.assert_close(together[site][row, :length], alone[site][0], rtol=1e-3, atol=1e-4)
            equal(reverse[site][len(TEXTS) - 1 - row, :length], together[site][row, :length])


def test_verify_is_all_ok(subject):
    checks = activations.verify(subject, texts.Texts.from_list(TEXTS, name="tiny"), dtype="float32")
    assert checks["ok"].all(), checks


def test_causality_by_hand(subject, kind):
    """A changed last token leaves the first ones in a causal model, and in no other."""
    one, other = (torch.tensor([[5, 6, 7, 8, last]]) for last in (9, 10))
    site = "layer.2.hidden"
    seen = [
        subject.run({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, site)[site]
        for ids in (one, other)
    ]
    assert torch.allclose(seen[0][0, :4], seen[1][0, :4], atol=1e-5) == EVERY[kind].causal


def test_random_copy_and_fingerprint(subject):
    copy, again = subject.randomized(1), subject.randomized(1)
    assert copy.fingerprint == again.fingerprint != subject.fingerprint
    assert list(copy.sites["site"]) == list(subject.sites["site"])


# ---------------------------------------------------------------------------------- traps


def test_opt_flattens_text_and_token_on_the_way(tmp_path):
    """What enters its second matrix has two dimensions: recorded and edited it has three."""
    subject = models.load(save_tiny(tmp_path / "opt", "opt"))
    batch, seen = tokenized(subject), []
    second = subject.model.decoder.layers[1].fc2
    second.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    found = subject.run(batch, "layer.1.ffn")["layer.1.ffn"]
    subject.model(**batch)
    assert seen[0].ndim == 2 and found.ndim == 3
    assert torch.equal(found.flatten(0, 1), seen[-1])
    assert subject.model.decoder.embed_positions.num_embeddings == 34 and subject.max_length == 32


def test_modernbert_makes_gate_and_up_with_one_matrix(tmp_path):
    subject = models.load(save_tiny(tmp_path / "modernbert", "modernbert"))
    batch, block = tokenized(subject), subject.model.layers[1]
    found = subject.run(batch, "all")
    entering = found["layer.0.hidden"] + found["layer.1.attention"]
    both = block.mlp_norm(entering) @ block.mlp.Wi.weight.T
    equal(found["layer.1.gate"], both[..., :20])
    equal(found["layer.1.up"], both[..., 20:])
    with subject.edit({"layer.1.up": torch.zeros_like}):
        assert subject.run(batch, "layer.1.ffn")["layer.1.ffn"].abs().max() == 0
    assert subject.model.config._attn_implementation == "sdpa"  # flash attention would flatten the batch


@pytest.mark.parametrize("kind", ["deberta", "deberta-v2"])
def test_deberta_with_and_without_a_table_of_positions(tmp_path, kind):
    without = models.load(save_tiny(tmp_path / "without", kind))
    table = models.load(save_tiny(tmp_path / "table", kind, position_biased_input=True))
    assert without.model.embeddings.position_embeddings is None and without.max_length == 34
    assert table.max_length == 34
    ids = torch.full((1, 34), 5)
    assert table.run({"input_ids": ids}, "layer.2.hidden")["layer.2.hidden"].shape == (1, 34, 16)


def test_the_convolution_of_deberta_v2_is_part_of_layer_0(tmp_path):
    subject = models.load(save_tiny(tmp_path / "conv", "deberta-v2", conv_kernel_size=3, conv_act="gelu"))
    batch = tokenized(subject)
    found = subject.run(batch, ["embeddings", "hidden"])
    expected = subject.model(**batch, output_hidden_states=True).hidden_states
    assert all(torch.equal(a, b) for a, b in zip(found.values(), expected, strict=True))
    with subject.edit({"layer.0.hidden": torch.zeros_like}):
        assert subject.run(batch, "layer.0.hidden")["layer.0.hidden"].abs().max() == 0


def test_positions_of_roberta_begin_behind_the_padding_index(tmp_path):
    subject = models.load(save_tiny(tmp_path / "xlm", "xlm-roberta"))
    assert subject.model.embeddings.position_embeddings.num_embeddings == 34 and subject.max_length == 32
    with pytest.raises((IndexError, RuntimeError)):
        subject.model(input_ids=torch.full((1, 33), 5))


def test_length_is_the_smallest_bound_and_can_be_set_lower(tmp_path):
    subject = models.load(save_tiny(tmp_path / "llama", "llama"))
    assert subject.max_length == 32
    subject.tokenizer.model_max_length = 10
    assert subject.max_length == 10


def test_t5_gives_its_encoder_gated_or_not(tmp_path):
    plain = models.load(save_tiny(tmp_path / "plain", "t5", feed_forward_proj="relu"))
    assert type(plain.model).__name__ == "T5EncoderModel" and not plain.gated
    found = plain.run(tokenized(plain), "ffn")
    assert all((units >= 0).all() for units in found.values())
    whole = AutoModel.from_config(AutoConfig.for_model("t5", vocab_size=19, **T5))
    whole.save_pretrained(tmp_path / "whole")
    tokenizer_like("t5").save_pretrained(tmp_path / "whole")
    assert models.load(tmp_path / "whole").sites["layer"].max() == 2
    with pytest.raises(ValueError, match="encoder and a decoder.*get_encoder"):
        models.Subject("whole", whole, tokenizer_like("t5"))


def test_a_text_with_a_token_beyond_the_embedding_is_named(tmp_path):
    """As with Gemma 3's image token: the tokenizer knows it, the model has no row for it."""
    subject = models.load(save_tiny(tmp_path / "llama", "llama"))
    subject.tokenizer.add_tokens(["<image>"])
    with pytest.raises(ValueError, match="see <image>.*'<image>'.*embeds 19 tokens"):
        subject.encode(["see <image>"])
    assert subject.encode(["the cat"])[0]["input_ids"].shape == (1, 2)


def test_auto_map_of_a_family_that_transformers_implements(tmp_path, caplog):
    folder = save_tiny(tmp_path / "nomic", "nomic_bert")
    edit_json(folder / "config.json", auto_map={"AutoConfig": "evil.C", "AutoModel": "evil.C"})
    (folder / "evil.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\nclass C: pass\n", encoding="utf-8"
    )
    assert type(models.load(folder).model).__name__ == "NomicBertModel"
    assert not (tmp_path / "ran").exists()


def test_the_language_model_of_a_multimodal_one(tmp_path):
    text = AutoConfig.for_model("gemma3_text", vocab_size=19, pad_token_id=1, **GROUPED)
    vision = dict(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=28
    )
    vision = AutoConfig.for_model("siglip_vision_model", patch_size=14, **vision)
    config = AutoConfig.for_model(
        "gemma3", text_config=text.to_dict(), vision_config=vision.to_dict(), mm_tokens_per_image=4
    )
    torch.manual_seed(0)
    model = AutoModel.from_config(config)
    model.save_pretrained(tmp_path / "both")
    tokenizer_like("gpt2").save_pretrained(tmp_path / "both")
    subject = models.load(tmp_path / "both")
    assert type(subject.model).__name__ == "Gemma3TextModel"
    assert subject.max_length == 32 and subject.sites["layer"].max() == 2
    weights = model.language_model.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in subject.model.state_dict().items())


MOE = SQUARE | dict(moe_intermediate_size=8, num_experts=4, num_experts_per_tok=2, num_local_experts=4)


@pytest.mark.parametrize("kind", ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe"])
def test_a_mixture_of_experts_has_no_ffn(kind):
    config = AutoConfig.for_model(kind, vocab_size=19, pad_token_id=1, **MOE)
    subject = models.Subject(kind, AutoModel.from_config(config), padded_tokenizer())
    assert set(subject.sites["kind"]) == {"embeddings", "heads", "attention", "hidden"}
    for site in ("ffn", "layer.1.ffn", "gate"):
        with pytest.raises(ValueError, match=f"mixture of experts, without '{site}'.*take hidden"):
            subject.select(site)
    assert activations.verify(subject, texts.Texts.from_list(TEXTS), dtype="float32")["ok"].all()


def padded_tokenizer():
    tokenizer = tokenizer_like("gpt2")
    tokenizer.pad_token = "<pad>"
    return tokenizer


def test_a_guess_is_said_and_a_failed_one_shows_the_record_to_add(tmp_path, caplog):
    models.load(save_tiny(tmp_path / "olmo", "olmo"))
    assert "guessed by shape" in caplog.text and "ffn=mlp.down_proj" in caplog.text
    mamba = AutoModel.from_config(
        AutoConfig.for_model("mamba", vocab_size=19, hidden_size=16, num_hidden_layers=2, state_size=4)
    )
    with pytest.raises(
        ValueError, match=r"'mamba' \(known: bert.*ARCHITECTURES\['mamba'\] = Architecture\(blocks="
    ):
        models.Subject("mamba", mamba, padded_tokenizer())


def test_a_wrong_guess_is_refused(tmp_path, monkeypatch):
    """Blocks that skip one: their outputs are not transformers' hidden states."""
    from nbkit.models import discovery

    model = AutoModel.from_config(AutoConfig.for_model("olmo", vocab_size=19, pad_token_id=1, **SQUARE))
    real = discovery.blocks_of
    monkeypatch.setattr(discovery, "blocks_of", lambda *arguments: real(*arguments)[1:])
    with pytest.raises(ValueError, match="2 blocks ran, and there are 4 hidden states"):
        models.Subject("olmo", model, padded_tokenizer())
