"""Models too big for one device or for float32: their memory is known before they are loaded, half precision
is close to single, and a model whose parts wait on disk or lie on several devices gives the same numbers.

There is one device here. Several are played by tensors that carry a device's name (several_devices.py).
"""

import json
import shutil
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_families import EVERY, save_tiny
from test_models import TEXTS, tokenizer_like
from test_models import save_tiny as save_classic
from transformers import AutoConfig, AutoModel

from nbkit import activations, evaluation, models, texts
from nbkit.activations import forward
from nbkit.activations.plan import Members
from nbkit.models import memory

pytestmark = pytest.mark.usefixtures("one_thread")
DTYPES = ("float32", "float16", "bfloat16")
CORPUS = texts.Texts.from_list([*TEXTS, "dogs like the mat", "a cat and a cat"], name="tiny")
#: Some modules of a family wait on disk: an embedding or a norm, and a block in the middle.
ON_DISK = {
    "llama": {"embed_tokens": "disk", "layers.0": "cpu", "layers.1": "disk", "layers.2": "cpu"}
    | {"norm": "disk", "rotary_emb": "cpu"},
    "modernbert": {"embeddings": "disk", "layers.0": "cpu", "layers.1": "disk", "layers.2": "disk"}
    | {"final_norm": "cpu", "rotary_emb": "cpu"},
    "gpt2": {"wte": "disk", "wpe": "cpu", "h.0": "cpu", "h.1": "disk", "h.2": "cpu", "ln_f": "disk"},
    "bert": {"embeddings": "cpu", "encoder.layer.0": "disk", "encoder.layer.1": "cpu"}
    | {"encoder.layer.2": "disk", "pooler": "cpu"},
    "t5": {"shared": "disk", "encoder.embed_tokens": "disk", "encoder.block.0": "cpu"}
    | {"encoder.block.1": "disk", "encoder.block.2": "cpu", "encoder.final_layer_norm": "cpu"},
    "olmo": {"embed_tokens": "cpu", "layers": "disk", "norm": "cpu", "rotary_emb": "cpu"},  # guessed
}


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """A function: the folder of a tiny model of a family."""
    root, made = tmp_path_factory.mktemp("big"), {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = (save_tiny if kind in EVERY else save_classic)(root / kind, kind)
        return made[kind]

    return folder


def loaded(folder: Path, **options) -> models.Subject:
    return models.load(folder, device=options.pop("device", "auto"), **options)


def values(subject: models.Subject, site: str, **options) -> np.ndarray:
    stored = activations.capture(
        subject, CORPUS, sites=site, dtype="float32", cache=False, progress=False, **options
    )
    return np.asarray(stored.values)


# --- memory, before loading ---


@pytest.mark.parametrize(
    "kind", ["llama", "gemma3_text", "phi3", "opt", "gpt2", "bert", "albert", "xlnet", "t5", "umt5", "bart"]
)
def test_an_estimate_is_the_bytes_of_the_parameters(folder_of, kind):
    """T5 is among them: transformers keeps its second matrices in float32 when one asks for float16."""
    found = models.estimate(folder_of(kind))
    assert found.name == kind
    for dtype in DTYPES:
        weights = list(loaded(folder_of(kind), dtype=dtype).model.parameters())
        assert found.stays[dtype] == sum(weight.nbytes for weight in weights), dtype
        assert found.parameters == sum(weight.numel() for weight in weights)
        assert found.loading[dtype] >= found.stays[dtype]


@settings(max_examples=25)
@given(
    kind=st.sampled_from(["llama", "bert", "gpt_neox", "mixtral"]),
    heads=st.integers(1, 4),
    layers=st.integers(1, 4),
    inner=st.integers(1, 40),
    words=st.integers(2, 200),
    tied=st.booleans(),
)
def test_an_estimate_follows_the_configuration(kind, heads, layers, inner, words, tied):
    options = dict(hidden_size=8 * heads, num_attention_heads=heads, num_key_value_heads=1, vocab_size=words)
    options |= dict(num_hidden_layers=layers, intermediate_size=inner, tie_word_embeddings=tied)
    config = AutoConfig.for_model(kind, **options, pad_token_id=None, num_local_experts=2)
    before = config.to_dict()
    model = AutoModel.from_config(config)
    model.pooler = None
    found = memory.memory_of("x", config, {})
    assert found.parameters == sum(weight.numel() for weight in model.parameters())
    assert found.stays == found.loading | {"float32": 4 * found.parameters} or kind == "bert"
    assert found.stays["bfloat16"] == 2 * found.parameters
    assert config.to_dict() == before


def test_what_is_read_and_not_studied_counts_while_loading(tmp_path, folder_of):
    """A decoder, a tower of images: they are in memory once, and gone afterwards."""
    whole = AutoModel.from_pretrained(folder_of("bart"))
    found = models.estimate(folder_of("bart"))
    assert found.loading["float32"] == sum(weight.nbytes for weight in whole.parameters())
    assert found.stays["float32"] < 0.8 * found.loading["float32"]
    assert sum(found.saved.values()) >= found.loading["float32"] // 4
    pooler = 12 * 12 + 12
    bert = models.estimate(folder_of("bert"))
    assert bert.loading["float32"] == bert.stays["float32"] + 4 * pooler


@pytest.fixture
def no_weights(monkeypatch):
    """Whoever reads weights fails."""

    def never(*args, **kwargs):
        raise AssertionError("weights were read")

    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", never)
    monkeypatch.setattr("transformers.AutoModel.from_pretrained", never)
    for name in ("safe_open", "torch.load_file", "torch.load"):
        monkeypatch.setattr(f"safetensors.{name}", never)
    monkeypatch.setattr("torch.load", never)


def test_an_estimate_reads_no_weights(tmp_path, folder_of, no_weights):
    folder = shutil.copytree(folder_of("llama"), tmp_path / "llama")
    whole = models.estimate(folder)
    path = folder / "model.safetensors"
    header = int.from_bytes(path.read_bytes()[:8], "little")
    path.write_bytes(path.read_bytes()[: 8 + header])  # not a byte of a weight is left
    assert models.estimate(folder)._replace(free=None) == whole._replace(free=None)
    assert whole.saved == {"F32": whole.parameters}
    path.unlink()  # as a model of the hub is before its weights are fetched
    assert models.estimate(folder).stays == whole.stays and models.estimate(folder).saved == {}
    with pytest.raises(ValueError, match="weights were read"):  # loading does
        models.load(folder_of("llama"))


def test_an_estimate_is_a_sentence(folder_of):
    found = models.estimate(folder_of("llama"))._replace(free=2 * 10**9)
    assert str(found).startswith(f"llama: {found.parameters:,} parameters, saved as F32: 0.00 GB in float32,")
    assert str(found).endswith("2.00 GB are free") and str(found._replace(free=None)).endswith("not known")
    with pytest.raises(FileNotFoundError, match="./no/folder"):
        models.estimate("./no/folder")


def test_a_model_that_the_memory_cannot_hold_is_refused_before_it_is_read(folder_of, monkeypatch, no_weights):
    size = models.estimate(folder_of("llama")).loading["float32"]
    monkeypatch.setattr(memory, "free_memory", lambda: size - 1)
    with pytest.raises(ValueError, match="llama takes .* GB in float32.*this machine") as caught:
        models.load(folder_of("llama"))
    assert "dtype='bfloat16'" in str(caught.value) and "device_map='auto'" in str(caught.value)
    monkeypatch.setattr(memory, "free_memory", lambda: size // 2 - 1)
    with pytest.raises(ValueError, match="in bfloat16.*load it with device_map='auto'") as caught:
        models.load(folder_of("llama"), dtype="bfloat16")
    assert "dtype=" not in str(caught.value)
    with pytest.raises(ValueError, match="load it with device_map='auto'") as caught:
        models.load(folder_of("llama"))  # half of it is too large as well
    assert "dtype=" not in str(caught.value)


def test_what_would_fit_is_loaded(folder_of, monkeypatch):
    size = models.estimate(folder_of("llama")).loading["float32"]
    for free, options in (
        (size, {}),
        (size // 2, {"dtype": "bfloat16"}),
        (0, {"device_map": ON_DISK["llama"]}),
    ):
        monkeypatch.setattr(memory, "free_memory", lambda free=free: free)
        assert models.load(folder_of("llama"), **options).sites["layer"].max() == 2
    monkeypatch.setattr(memory, "free_memory", lambda: None)  # not known: nothing is refused
    assert models.load(folder_of("llama"))


def test_a_gpu_that_cannot_hold_it_is_named(folder_of, monkeypatch):
    config = AutoConfig.from_pretrained(folder_of("llama"))
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (10, 20))
    with pytest.raises(ValueError, match="tiny takes .* 0.00 GB of the memory of cuda:1 are free"):
        memory.refuse_too_large("tiny", config, "float32", torch.device("cuda:1"))


def test_weights_of_the_hub_are_fetched_only_if_they_fit(folder_of, monkeypatch, tmp_path):
    """First all but the weights; then, if the memory holds them, the weights of the same commit."""
    asked, there = [], tmp_path / "0123abc"

    def snapshot_download(name, *, revision, allow_patterns):
        asked.append((revision, any("safetensors" in pattern for pattern in allow_patterns)))
        there.mkdir(exist_ok=True)
        for path in folder_of("llama").iterdir():
            if any(path.match(pattern) for pattern in allow_patterns):
                shutil.copy(path, there)
        return str(there)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.setattr(memory, "free_memory", lambda: 10)
    with pytest.raises(ValueError, match="org/big takes"):
        models.load("org/big", revision="v1")
    assert asked == [("v1", False)] and not list(there.glob("*.safetensors"))
    monkeypatch.setattr(memory, "free_memory", lambda: None)
    assert models.load("hf:org/big", revision="v1").fingerprint == models.load(folder_of("llama")).fingerprint
    assert asked[1:] == [("v1", False), ("0123abc", True)]


def test_free_memory_is_that_of_the_group_of_processes(tmp_path, monkeypatch):
    assert 10**8 < memory.free_memory() < 10**14
    monkeypatch.setattr(memory, "_left", lambda names: 12345)
    assert memory.free_memory() == 12345
    monkeypatch.setattr(memory, "_machine", lambda: 999)
    assert memory.free_memory() == 999
    monkeypatch.setattr(memory, "_left", lambda names: None)
    monkeypatch.setattr(memory, "_machine", lambda: None)
    assert memory.free_memory() is None


def test_a_limit_of_the_group_counts_less_what_is_used_and_cannot_go(tmp_path):
    names = memory.GROUPS[0]
    assert memory._left(names, tmp_path) is None
    for name, content in zip(names, ("1000\n", "700\n", "anon 1\ninactive_file 50\n"), strict=True):
        (tmp_path / name).write_text(content, encoding="utf-8")
    assert memory._left(names, tmp_path) == 350
    (tmp_path / names[1]).write_text("2000\n", encoding="utf-8")
    assert memory._left(names, tmp_path) == 0
    (tmp_path / names[0]).write_text("max\n", encoding="utf-8")
    assert memory._left(names, tmp_path) is None


# --- sharded files ---


def test_a_sharded_checkpoint_is_the_single_file(tmp_path, folder_of):
    whole = models.load(folder_of("llama"))
    whole.model.save_pretrained(tmp_path / "llama", max_shard_size="6KB")
    tokenizer_like("gpt2").save_pretrained(tmp_path / "llama")
    assert len(list((tmp_path / "llama").glob("model-*.safetensors"))) > 2
    sharded = models.load(tmp_path / "llama")
    assert sharded.fingerprint == whole.fingerprint
    batch, _ = whole.encode(TEXTS)
    one, other = whole.run(batch, "all"), sharded.run(batch, "all")
    assert all(torch.equal(one[site], other[site]) for site in one)
    assert models.estimate(tmp_path / "llama")[:5] == models.estimate(folder_of("llama"))[:5]
    first = sorted((tmp_path / "llama").glob("model-*.safetensors"))[0]
    first.rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="cannot read the weights"):
        models.load(tmp_path / "llama")


# --- device_map ---


@pytest.mark.parametrize("device_map", [{"": "cpu"}, "auto", "cpu"])
@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_a_device_map_onto_the_cpu_changes_nothing(folder_of, kind, device_map):
    if torch.cuda.is_available() and device_map == "auto":
        pytest.skip("NOT RUN: there is a GPU, which 'auto' takes")
    plain, mapped = models.load(folder_of(kind), device="cpu"), loaded(folder_of(kind), device_map=device_map)
    assert not mapped.dispatched and mapped.device.type == "cpu" and mapped.fingerprint == plain.fingerprint
    for site in ("ffn", "hidden"):
        assert np.array_equal(values(mapped, site), values(plain, site))
    assert mapped.randomized(0).fingerprint == plain.randomized(0).fingerprint


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", list(ON_DISK))
def test_parts_that_wait_on_disk_give_the_same_numbers(folder_of, kind, dtype):
    plain = models.load(folder_of(kind), device="cpu", dtype=dtype)
    spread = models.load(folder_of(kind), dtype=dtype, device_map=ON_DISK[kind])
    assert spread.dispatched and not plain.dispatched
    assert any(weight.is_meta for weight in spread.model.parameters())
    assert spread.device == torch.device("cpu") and spread.dtype == dtype
    batch, _ = plain.encode(TEXTS)
    one, other = plain.run(batch, "all"), spread.run(batch, "all")
    assert list(one) == list(other) and all(torch.equal(one[site], other[site]) for site in one)
    assert spread.fingerprint == plain.fingerprint, "of the values on disk, in the dtype they are used in"
    assert spread.final_norm == plain.final_norm and spread.causal == plain.causal
    assert np.array_equal(values(spread, "hidden", pool="mean"), values(plain, "hidden", pool="mean"))
    site = "layer.1.ffn"
    with plain.edit({site: torch.zeros_like}), spread.edit({site: torch.zeros_like}):
        one, other = (s.run(batch, "layer.2.hidden")["layer.2.hidden"] for s in (plain, spread))
    assert torch.equal(one, other)


def test_verify_of_a_model_that_is_dispatched(folder_of):
    for dtype in DTYPES[::2]:
        spread = models.load(folder_of("llama"), dtype=dtype, device_map=ON_DISK["llama"])
        checks = activations.verify(spread, CORPUS, sites="hidden")
        assert checks["ok"].all(), checks
        assert not checks["check"].str.startswith("arithmetic").any()
    assert activations.estimate(spread, CORPUS).rows == len(CORPUS)


def test_what_a_spread_model_cannot_do_is_said(folder_of):
    spread = models.load(folder_of("llama"), device_map=ON_DISK["llama"])
    with pytest.raises(ValueError, match="llama is spread over devices.*without device_map"):
        spread.randomized(0)
    labels = CORPUS.descriptors("surface")
    with pytest.raises(ValueError, match="planted in llama: load it without device_map"):
        evaluation.plant(spread, CORPUS, labels)
    from nbkit.activations import dask

    with pytest.raises(ValueError, match="llama is spread.*engine='local'"):
        dask._travelling(spread)


def test_a_device_map_that_cannot_be_used(folder_of, monkeypatch):
    with pytest.raises(ValueError, match="device='cpu' and device_map='auto': leave one of them out"):
        models.load(folder_of("llama"), device="cpu", device_map="auto")
    with pytest.raises(ValueError, match="device_map={'': 'tpu'} name its modules"):
        models.load(folder_of("llama"), device_map={"": "tpu"})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="device_map='auto' needs a package: pip install accelerate"):
        models.load(folder_of("llama"), device_map="auto")


def test_threads_share_a_model_that_is_dispatched(folder_of):
    spread = models.load(folder_of("llama"), device_map=ON_DISK["llama"])
    batch, _ = spread.encode(TEXTS)
    expected, found = spread.run(batch, "layer.2.hidden")["layer.2.hidden"], []
    run = lambda: found.append(spread.run(batch, "layer.2.hidden")["layer.2.hidden"])  # noqa: E731
    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and all(torch.equal(one, expected) for one in found)


def test_a_model_on_two_devices_is_that_on_one(folder_of):
    """In a process of its own, since what plays the devices stays registered with torch."""
    command = [sys.executable, str(Path(__file__).with_name("several_devices.py")), str(folder_of("llama"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert "REPORT" in done.stdout, done.stderr[-2000:]
    report = json.loads(done.stdout.partition("REPORT")[2])
    assert report["device"] == "played:0" and report["devices"] == ["played:0", "played:1", "played:1"]
    assert "tensors on" in report["noticed"], "sums over two devices must fail, or nothing here is tested"
    assert report["same"] and report["latents"] and all(report["verify"].values()), report
    assert max(report["differences"].values()) < 1e-4, report["differences"]


# --- half precision ---

#: Largest difference from float32 at a site, in standard deviations of the site's values. float16 has 11
#: bits, bfloat16 has 8, and three to six blocks add up what each rounds.
CLOSE = {"float16": 0.02, "bfloat16": 0.15}


@pytest.mark.parametrize("dtype", list(CLOSE))
@pytest.mark.parametrize("kind", ["llama", "minilm"])
@pytest.mark.parametrize("pool", ["max", "mean"])
def test_half_precision_is_close_to_single(folder_of, kind, dtype, pool):
    name = kind if kind == "minilm" else folder_of(kind)
    single, half = (models.load(name, device="cpu", dtype=d) for d in ("float32", dtype))
    assert half.dtype == dtype and half.fingerprint != single.fingerprint
    for site in ("ffn", "hidden", "attention"):
        exact, found = values(single, site, pool=pool), values(half, site, pool=pool)
        error = np.abs(found - exact).max() / exact.std()
        assert 0 < error < CLOSE[dtype], (site, error)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_means_of_half_precision_are_taken_in_single(dtype):
    tokens = (torch.randn(3, 4096, 5, generator=torch.Generator().manual_seed(0)) + 8).to(dtype)
    whole = [np.stack([np.zeros(4096, int), np.arange(4096)], axis=1)]
    plain = [Members(whole[0], np.array([4096])) for _ in range(3)]
    halves = [Members(whole[0], np.array([2048, 2048])) for _ in range(3)]
    for members, shape in ((plain, (3, 4096, 5)), (halves, (6, 2048, 5))):
        found = forward.pool_tokens(tokens, members, "mean")
        exact = tokens.double().reshape(shape).mean(1)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=0)
        assert forward.pool_tokens(tokens, members, "max").dtype == dtype


def test_a_store_of_half_precision_is_not_that_of_single(folder_of):
    single, half = (models.load(folder_of("llama"), dtype=dtype) for dtype in DTYPES[::2])
    found = [activations.capture(s, CORPUS, sites="ffn", progress=False) for s in (single, half)]
    assert found[0].manifest["compute_dtype"] == "float32"
    assert found[1].manifest["compute_dtype"] == "bfloat16, float32 means"


# --- bad input ---


def test_files_of_a_model_that_are_no_json_are_named(tmp_path, folder_of):
    for name, what in (("config.json", "config.json"), ("model.safetensors.index.json", "weights")):
        folder = shutil.copytree(folder_of("llama"), tmp_path / name)
        if name.startswith("model"):
            (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
        (folder / name).write_text("{half a file", encoding="utf-8")
        with pytest.raises(ValueError, match=what) as caught:
            models.load(folder)
        assert len(str(caught.value)) < 400 and name in str(caught.value)


def test_an_adapter_is_no_model(tmp_path, folder_of):
    folder = shutil.copytree(folder_of("llama"), tmp_path / "adapter")
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}), encoding="utf-8")
    with pytest.raises(FileNotFoundError, match="config.json is missing"):
        models.load(folder)


# --- planted units ---

PLANTED = ["llama", "gemma2", "phi3", "modernbert", "t5", "nomic_bert", "olmo"]
UNGATED = ["bert", "gpt2", "distilbert", "gpt_neox", "bloom", "falcon", "phi", "opt", "gpt_neo", "deberta-v2"]


@pytest.mark.parametrize("kind", [*PLANTED, *UNGATED])
def test_a_planted_unit_is_its_detector_and_nothing_else_changes(folder_of, kind):
    """Two units in layer 1 with directions made here: act(direction . input + bias), whatever the family."""
    from nbkit.evaluation import detectors

    subject = models.load(folder_of(kind))
    width = int(subject.sites.set_index("site")["width"]["layer.1.hidden"])
    random = torch.Generator().manual_seed(0)
    units = [
        detectors.Unit(None, 1, torch.randn(width, generator=random), torch.tensor(bias), 0.0)
        for bias in (0.3, -0.5)
    ]
    made = models.Subject("made", detectors.widened(subject, units), subject.tokenizer)
    batch, own = subject.encode(TEXTS)
    before, after = subject.run(batch, "all"), made.run(batch, "all")
    first = detectors._matrices(made.model, made.architecture, 1).first
    with made.record_inputs([first]) as seen:
        made.run(batch, "layer.1.ffn")
    n = before["layer.1.ffn"].shape[-1]
    pre = torch.stack([seen[first].reshape(-1, width) @ u.direction + u.bias for u in units], -1)
    config = subject.model.config
    names = ("hidden_activation", "hidden_act", "dense_act_fn", "activation_function", "activation")
    name = next((found for found in (getattr(config, n, None) for n in names) if found), "gelu_new")
    from transformers.activations import ACT2FN

    expected = ACT2FN[name](pre).reshape(*own.shape, 2)
    tolerance = 2e-3 if kind in ("bloom", "falcon") else 1e-5
    torch.testing.assert_close(after["layer.1.ffn"][..., n:], expected, rtol=tolerance, atol=tolerance)
    for site, tensor in before.items():
        real = after[site][..., : tensor.shape[-1]]
        torch.testing.assert_close(real, tensor, rtol=1e-4, atol=1e-4)
    kinds = Counter(after[s].shape[-1] - before[s].shape[-1] for s in before)
    assert kinds[2] == (3 if subject.gated else 1), "ffn, and of a gated layer gate and up"
    if subject.gated:
        assert (after["layer.1.up"][..., n:] == 1).all()


@pytest.mark.slow
def test_units_planted_in_smollm2(smollm2):
    """Detectors trained in a gated model reach what those of minilm do."""
    subject = models.load("smollm2" if smollm2 is None else smollm2)
    some = {name: texts.load(f"sample:{name}").sample(120, seed=0) for name in ("reviews", "questions")}
    labels = {name: corpus.descriptors("surface") for name, corpus in some.items()}
    made = evaluation.plant(
        subject, some, labels, kinds={"pure": 4, "dead": 1}, layers=[3, 6], progress=False
    )
    first = made.units.drop_duplicates("unit").set_index("kind")
    assert first.loc["pure", "planted"].sum() >= 3
    assert first.loc["pure", "achieved_auroc"].mean() > 0.85
    assert first.loc["dead", "unit"].startswith("layer.3.ffn.153")
