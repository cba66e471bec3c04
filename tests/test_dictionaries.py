"""Dictionary latents: every architecture of SAELens by hand, pooling, refusals, and one that was trained."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_families import padded_tokenizer
from test_models import TEXTS
from transformers import AutoConfig, AutoModel

from nbkit import activations, illusions, matching, models, plots, texts
from nbkit.models import dictionaries

ARCHITECTURES = ("standard", "jumprelu", "topk", "gated")
LLAMA = dict(vocab_size=19, pad_token_id=1, hidden_size=16, num_hidden_layers=3, num_attention_heads=4)
LLAMA |= dict(num_key_value_heads=2, head_dim=6, intermediate_size=20, max_position_embeddings=32)
LATENTS = 40


@pytest.fixture(scope="module")
def llama() -> models.Subject:
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", **LLAMA, initializer_range=0.3)
    return models.Subject("tiny", AutoModel.from_config(config), padded_tokenizer())


def save(folder, kind="standard", d_in=16, *, hook="blocks.1.hook_resid_post", nested=True, **config):
    """A folder as SAELens writes it, with weights drawn at random."""
    folder.mkdir()
    draw = torch.Generator().manual_seed(3)
    shapes = dict(W_enc=(d_in, LATENTS), W_dec=(LATENTS, d_in), b_dec=(d_in,))
    weights = {
        name: torch.randn(shapes.get(name, (LATENTS,)), generator=draw) * 0.5
        for name in dictionaries.WEIGHTS[kind]
    }
    save_file(weights, folder / "sae_weights.safetensors")
    plain = dict(architecture=kind, d_in=d_in, d_sae=LATENTS, k=5, **config)
    plain |= {"metadata": {"hook_name": hook}} if nested else {"hook_name": hook}
    (folder / "cfg.json").write_text(json.dumps(plain), encoding="utf-8")
    return folder


def by_hand(kind: str, x: np.ndarray, w: dict, subtract: bool = True) -> np.ndarray:
    """Latents of one token's vector, number by number."""
    x = x - w["b_dec"] if subtract else x
    found = []
    for j in range(LATENTS):
        column = w["W_enc"][:, j]
        if kind == "gated":
            open_gate = float(x @ column + w["b_gate"][j]) > 0
            size = float(x @ column) * np.exp(w["r_mag"][j]) + w["b_mag"][j]
            found.append(max(size, 0) if open_gate else 0)
            continue
        pre = float(x @ column + w["b_enc"][j])
        found.append(max(pre, 0) if kind != "jumprelu" or pre > w["threshold"][j] else 0)
    if kind == "topk":
        kept = np.sort(found)[-5]
        found = [value if value >= kept else 0 for value in found]
    return np.array(found)


@pytest.mark.parametrize("subtract", [True, False])
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_latents_by_hand(tmp_path, llama, kind, subtract):
    folder = save(tmp_path / kind, kind, apply_b_dec_to_input=subtract)
    subject = models.attach(llama, folder)
    weights = {name: w.numpy() for name, w in load_file(folder / "sae_weights.safetensors").items()}
    batch, _ = subject.encode(TEXTS)
    found = subject.run(batch, ["layer.1.hidden", "sae"])
    latents = found["layer.1.hidden.sae"]
    assert latents.shape == (*batch["input_ids"].shape, LATENTS)
    for text, token in ((0, 0), (1, 1), (2, 2)):
        expected = by_hand(kind, found["layer.1.hidden"][text, token].numpy(), weights, subtract)
        np.testing.assert_allclose(latents[text, token], expected, rtol=1e-4, atol=1e-5)
    share = float((latents > 0).float().mean())
    assert 0.05 < share < 0.9, share


def test_normalised_input_by_hand(tmp_path, llama):
    x = llama.run(llama.encode(TEXTS)[0], "layer.1.hidden")["layer.1.hidden"][0, 3]
    plain = models.attach(llama, save(tmp_path / "none")).dictionaries["layer.1.hidden"]
    centred = x - x.mean()
    expected = {
        "constant_norm_rescale": x * 4 / x.norm(),  # 4 = sqrt(16)
        "layer_norm": centred / (centred.square().sum() / 15).sqrt(),
        "expected_average_only_in": x,
    }
    for how, normal in expected.items():
        folder = save(tmp_path / how, normalize_activations=how)
        made = models.attach(llama, folder).dictionaries["layer.1.hidden"]
        torch.testing.assert_close(made.encode(x), plain.encode(normal), rtol=1e-3, atol=1e-4)


def test_sites_are_where_the_hook_was(tmp_path, llama):
    hooks = {
        "blocks.1.hook_resid_post": ("layer.1.hidden", 16),
        "blocks.1.hook_out": ("layer.1.hidden", 16),
        "blocks.2.hook_resid_pre": ("layer.1.hidden", 16),
        "blocks.0.hook_resid_pre": ("embeddings", 16),
        "blocks.2.attn.hook_z": ("layer.2.heads", 24),
        "blocks.0.hook_attn_out": ("layer.0.attention", 16),
        "blocks.0.mlp.hook_post": ("layer.0.ffn", 20),
    }
    for i, (hook, (site, width)) in enumerate(hooks.items()):
        folder = save(tmp_path / str(i), d_in=width, hook=hook, nested=i % 2 == 0)
        subject = models.attach(llama, folder)
        assert subject.select("sae") == [f"{site}.sae"]
        place = subject.select("all").index(f"{site}.sae")
        assert subject.select("all")[place - 1] == site
    elsewhere = save(tmp_path / "mlp_out", hook="blocks.0.hook_mlp_out")
    with pytest.raises(ValueError, match="hook_mlp_out.*no site here.*site="):
        models.attach(llama, elsewhere)
    assert models.attach(llama, elsewhere, site="layer.2.attention").select("sae") == [
        "layer.2.attention.sae"
    ]


def test_special_tokens_padding_and_sinks_stay_out_of_pooling(tmp_path, llama):
    subject = models.attach(llama, save(tmp_path / "d"))
    corpus = texts.Texts.from_list(TEXTS)
    stored = activations.capture(subject, corpus, sites="sae", dtype="float32", cache=False)
    assert list(stored.units["unit"][:2]) == ["layer.1.hidden.sae.0", "layer.1.hidden.sae.1"]
    assert stored.manifest["sinks"] == "leave out" and stored.manifest["dropped"]["sink_tokens"] == 3
    for row, text in enumerate(TEXTS):
        batch, _ = subject.encode([text])
        latents = subject.run(batch, "sae")["layer.1.hidden.sae"][0]
        np.testing.assert_allclose(stored.values[row], latents[1:].amax(0), rtol=1e-4, atol=1e-5)
    checks = activations.verify(subject, corpus, sites="sae")
    assert checks["ok"].all(), checks


def test_weights_and_settings_are_in_the_fingerprint(tmp_path, llama):
    folder = save(tmp_path / "d")
    first = models.attach(llama, folder).fingerprint
    assert first == models.attach(llama, folder).fingerprint != llama.fingerprint
    assert first != models.attach(llama, save(tmp_path / "e", apply_b_dec_to_input=False)).fingerprint
    weights = load_file(folder / "sae_weights.safetensors")
    weights["b_enc"][0] += 1
    save_file(weights, folder / "sae_weights.safetensors")
    assert first != models.attach(llama, folder).fingerprint
    assert models.attach(llama, folder).randomized(1).select("sae") == ["layer.1.hidden.sae"]


def test_what_cannot_be_used_is_said(tmp_path, llama):
    def refused(error, message, **config):
        folder = save(tmp_path / str(len(list(tmp_path.iterdir()))), **config)
        return folder, pytest.raises(error, match=message)

    for error, message, config in (
        (ValueError, "takes 20 numbers, layer.1.hidden of tiny gives 16", dict(d_in=20)),
        (
            ValueError,
            "normalize_activations 'covariance_whitening' is not read",
            dict(normalize_activations="covariance_whitening"),
        ),
        (ValueError, "activation_fn 'tanh-relu' is not read", dict(activation_fn="tanh-relu")),
    ):
        folder, raises = refused(error, message, **config)
        with raises:
            models.attach(llama, folder)
    folder = save(tmp_path / "pickle")
    torch.save(load_file(folder / "sae_weights.safetensors"), folder / "sae_weights.pt")
    (folder / "sae_weights.safetensors").unlink()
    with pytest.raises(ValueError, match="sae_weights.pt, which may run code.*save_file"):
        models.attach(llama, folder)
    (folder / "sae_weights.pt").unlink()
    with pytest.raises(FileNotFoundError, match="SAELens"):
        models.attach(llama, folder)
    with pytest.raises(FileNotFoundError, match="cfg.json"):
        models.attach(llama, tmp_path / "absent")
    folder = save(tmp_path / "edit")
    with pytest.raises(ValueError, match="not edited: edit layer.1.hidden"):
        with models.attach(llama, folder).edit({"layer.1.hidden.sae": lambda t: t}):
            pass
    with pytest.raises(ValueError, match="is a group"):
        models.attach(llama, folder, site="hidden")
    (folder / "sae_weights.safetensors").write_bytes(b"{")
    with pytest.raises(ValueError, match="cannot be read"):
        models.attach(llama, folder)


# ---------------------------------------------------------------------------------- a trained one


def train(values: np.ndarray, folder, hook: str, *, latents: int = 512, k: int = 16, steps: int = 300):
    """A small topk dictionary on vectors [token, unit], saved as SAELens does."""
    torch.manual_seed(0)
    data = torch.from_numpy(np.array(values, np.float32))
    b_dec = data.mean(0)
    enc = (torch.randn(data.shape[1], latents) / data.shape[1] ** 0.5).requires_grad_()
    dec = enc.detach().T.clone().requires_grad_()
    b_enc = torch.zeros(latents, requires_grad=True)
    optimizer = torch.optim.Adam([enc, dec, b_enc], lr=3e-3)
    scale = data.std()
    for _ in range(steps):
        x = (data[torch.randint(len(data), (256,))] - b_dec) / scale
        best = (x @ enc + b_enc).topk(k)
        made = torch.zeros(len(x), latents).scatter(1, best.indices, best.values.relu()) @ dec
        loss = (made - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    folder.mkdir()
    weights = dict(W_enc=enc / scale, b_enc=b_enc, W_dec=dec * scale, b_dec=b_dec)
    save_file({n: w.detach().contiguous() for n, w in weights.items()}, folder / "sae_weights.safetensors")
    config = dict(architecture="topk", k=k, d_in=data.shape[1], d_sae=latents, metadata={"hook_name": hook})
    (folder / "cfg.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def unexplained(dictionary: dictionaries.Dictionary, values: np.ndarray) -> float:
    """Squared error of the reconstruction over the variance."""
    x = torch.from_numpy(np.array(values, np.float32))
    return float((dictionary.reconstruct(x) - x).square().sum() / (x - x.mean(0)).square().sum())


@pytest.mark.slow
def test_a_trained_dictionary_goes_through_the_whole_flow(tmp_path, minilm):
    corpora = {name: texts.load(f"sample:{name}").sample(150, seed=0) for name in ("reviews", "questions")}
    site = "layer.3.hidden"
    values = [
        activations.capture(minilm, corpus, sites=site, rows="token", dtype="float32", cache=False).values
        for corpus in corpora.values()
    ]
    folder = train(np.concatenate(values), tmp_path / "trained", "blocks.3.hook_resid_post")
    subject = models.attach(minilm, folder)
    error = unexplained(subject.dictionaries[site], np.concatenate(values))
    print(
        f"{len(np.concatenate(values))} tokens, 512 latents, 16 active: {error:.0%} of the variance is lost"
    )
    assert error < 0.45
    stored = {name: activations.capture(subject, corpus, sites="sae") for name, corpus in corpora.items()}
    first = stored["reviews"]
    assert 0.02 < (first.values > 0).mean() < 0.6
    labels = {name: corpus.descriptors("surface") for name, corpus in corpora.items()}
    tags = matching.tag(first, labels["reviews"], top=1, permutations=199, progress=False)
    assert len(tags) == 512 and tags["tagged"].any()
    top = activations.exemplars.top(first, corpora["reviews"], tags["unit"].iloc[0], k=3)
    assert len(top) == 3
    report = illusions.compare(stored, labels, splits=1, permutations=39, directions=50, progress=False)
    assert len(report.units)
    browser = plots.neuron_browser(subject, corpora, stored, labels)
    assert "layer.3.hidden.sae" in browser.to_html()
