"""Dictionary latents as units: sparse autoencoders in SAELens' files, encoded while the model runs.

A folder holds `cfg.json` (architecture, `d_in`, `d_sae`, the hook it was trained on, how its input is
normalised) and `sae_weights.safetensors`. With x what the site gives, normalised as the file says, less
b_dec where it says so:

    standard   relu(x W_enc + b_enc)
    jumprelu   relu(pre), where pre = x W_enc + b_enc is above its threshold, else 0
    topk       relu(pre) of the k highest, else 0
    gated      relu(x (W_enc exp(r_mag)) + b_mag), where x W_enc + b_gate is above 0, else 0

Encoding comes before pooling: max is the latent's largest value over a text's own tokens. The rows are stored
like any others, zeros included: 16,384 latents of 1,840 texts are 60 MB in float16.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

if TYPE_CHECKING:
    from nbkit.models.subject import Subject

WEIGHTS = {
    "standard": ("W_enc", "b_enc", "W_dec", "b_dec"),
    "jumprelu": ("W_enc", "b_enc", "W_dec", "b_dec", "threshold"),
    "topk": ("W_enc", "b_enc", "W_dec", "b_dec"),
    "gated": ("W_enc", "b_gate", "b_mag", "r_mag", "W_dec", "b_dec"),
}
#: What a file may ask for. The factor of "expected_average_only_in" is in the weights once they are saved.
NORMALISATIONS = ("none", "expected_average_only_in", "constant_norm_rescale", "layer_norm")
#: TransformerLens' names of the places that are sites here; {N} is the layer.
HOOKS = {
    r"blocks\.(\d+)\.(?:hook_resid_post|hook_out)": "hidden",
    r"blocks\.(\d+)\.(?:hook_attn_out|attn\.hook_out)": "attention",
    r"blocks\.(\d+)\.attn\.hook_z": "heads",
    r"blocks\.(\d+)\.mlp\.hook_post": "ffn",
}
PICKLES = ("*.pt", "*.pth", "*.bin", "*.pkl", "*.npz")


@dataclass(frozen=True, eq=False, repr=False)
class Dictionary:
    """A sparse autoencoder: its weights by SAELens' names, and the settings that change its numbers."""

    weights: Mapping[str, torch.Tensor]
    settings: Mapping[str, Any]  # architecture, normalize_activations, apply_b_dec_to_input, k, rescale

    @property
    def width(self) -> int:
        """How many latents."""
        return self.weights["W_enc"].shape[1]

    def encode(self, tensor: torch.Tensor) -> torch.Tensor:
        """Latents [.., latent] of what the site gives [.., unit], in its dtype."""
        w, kind = self.weights, self.settings["architecture"]
        x = self._normalised(tensor.to(w["W_enc"]))[0]  # its dtype, and its device if the model is on several
        x = x - w["b_dec"] if self.settings["apply_b_dec_to_input"] else x
        if kind == "gated":
            size = torch.relu(x @ (w["W_enc"] * w["r_mag"].exp()) + w["b_mag"])
            return (size * (x @ w["W_enc"] + w["b_gate"] > 0)).to(tensor.dtype)
        pre = x @ w["W_enc"] + w["b_enc"]
        if kind == "jumprelu":
            return (torch.relu(pre) * (pre > w["threshold"])).to(tensor.dtype)
        if kind == "topk":
            pre = pre * w["W_dec"].norm(dim=-1) if self.settings["rescale"] else pre
            best = pre.topk(self.settings["k"], dim=-1)
            pre = torch.zeros_like(pre).scatter(-1, best.indices, best.values)
        return torch.relu(pre).to(tensor.dtype)

    def reconstruct(self, tensor: torch.Tensor) -> torch.Tensor:
        """What the latents make of the site's values, in their scale: how much of them a dictionary keeps."""
        latents = self.encode(tensor).to(self.weights["W_dec"].dtype)
        if self.settings["rescale"]:
            latents = latents / self.weights["W_dec"].norm(dim=-1)
        _, scale, shift = self._normalised(tensor.to(latents.device))
        return (latents @ self.weights["W_dec"] + self.weights["b_dec"]) * scale + shift

    def _normalised(self, x: torch.Tensor) -> tuple[torch.Tensor, Any, Any]:
        """x as the encoder wants it, and the scale and the shift that undo it."""
        how = self.settings["normalize_activations"]
        if how == "constant_norm_rescale":
            scale = x.norm(dim=-1, keepdim=True) / x.shape[-1] ** 0.5
            return x / scale, scale, 0.0
        if how == "layer_norm":
            shift = x.mean(dim=-1, keepdim=True)
            scale = (x - shift).std(dim=-1, keepdim=True)
            return (x - shift) / (scale + 1e-5), scale, shift
        return x, 1.0, 0.0


def attach(subject: Subject, folder: str | Path, *, site: str | None = None) -> Subject:
    """The subject with a dictionary's latents as a further site, `layer.N.SITE.sae`.

    folder   cfg.json and sae_weights.safetensors, as SAELens saves them
    site     where it was trained; None: as its hook name says (blocks.15.hook_resid_post: layer.15.hidden)

    The weights and settings become part of `subject.fingerprint`, the latents a site like any other: select
    "sae". `FileNotFoundError` for a folder without the files, `ValueError` for a pickle, an architecture or
    a normalisation that is not read here, or a width that is not the site's.
    """
    folder = Path(folder).expanduser()
    config = _config(folder)
    site = site or _site(config, folder)
    subject.select(site)
    widths = subject.sites.set_index("site")["width"]
    if site not in widths:
        raise ValueError(f"{site!r} is a group: a dictionary belongs to one site, like layer.3.hidden")
    found = Dictionary(_weights(folder, config), _settings(config, folder))
    d_in = found.weights["W_enc"].shape[0]
    if d_in != widths[site]:
        raise ValueError(
            f"the dictionary in {folder.name} takes {d_in} numbers, {site} of {subject.name} gives"
            f" {widths[site]}: it was made for another model or site; name the right one as site=..."
        )
    weights = {name: weight.to(subject.device) for name, weight in found.weights.items()}
    found = replace(found, weights=weights)
    return replace(subject, dictionaries={**subject.dictionaries, site: found})


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "cfg.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there: a dictionary is a folder as SAELens saves it")
    plain = json.loads(path.read_text(encoding="utf-8"))
    return {**plain, **(plain.get("metadata") or {})}  # newer files nest the hook


def _site(config: Mapping[str, Any], folder: Path) -> str:
    """The site of a dictionary's hook."""
    hook = config.get("hook_name") or config.get("hook_point") or ""
    if before := re.fullmatch(r"blocks\.(\d+)\.hook_resid_pre", hook):
        layer = int(before[1])
        return f"layer.{layer - 1}.hidden" if layer else "embeddings"
    for pattern, kind in HOOKS.items():
        if found := re.fullmatch(pattern, hook):
            return f"layer.{found[1]}.{kind}"
    raise ValueError(
        f"the dictionary in {folder.name} was trained on {hook!r}, no site here: name one as site=..."
    )


def _settings(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What of the configuration changes the numbers; refused where it is not read here."""
    kind = config.get("architecture", "standard")
    activation = config.get("activation_fn") or config.get("activation_fn_str") or "relu"
    if kind == "standard" and activation == "topk":  # files of 2024
        kind = "topk"
    how = config.get("normalize_activations") or "none"
    for name, value, known in (
        ("architecture", kind, tuple(WEIGHTS)),
        ("normalize_activations", how, NORMALISATIONS),
        ("activation_fn", activation, ("relu", "topk")),
    ):
        if value not in known:
            allowed = ", ".join(known)
            raise ValueError(f"{folder.name}/cfg.json: {name} {value!r} is not read, only {allowed}")
    k = config.get("k") or (config.get("activation_fn_kwargs") or {}).get("k")
    if kind == "topk" and not k:
        raise ValueError(f"{folder.name}/cfg.json names no k, and a topk dictionary needs one")
    return {
        "architecture": kind,
        "normalize_activations": how,
        "apply_b_dec_to_input": bool(config.get("apply_b_dec_to_input", True)),
        "k": int(k) if k and kind == "topk" else None,
        "rescale": kind == "topk" and bool(config.get("rescale_acts_by_decoder_norm", False)),
    }


def _weights(folder: Path, config: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The weights in float32; only safetensors are read, since a pickle can run code."""
    path = folder / "sae_weights.safetensors"
    if not path.exists():
        pickles = [file.name for pattern in PICKLES for file in folder.glob(pattern)]
        if pickles:
            convert = "safetensors.torch.save_file(torch.load(path, weights_only=True), ...)"
            raise ValueError(
                f"{folder.name} holds {pickles[0]}, which may run code when it is read: write its tensors as"
                f" sae_weights.safetensors, by {convert}"
            )
        raise FileNotFoundError(f"{path} is not there: SAELens' save_model writes it")
    try:
        found = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path.name} in {folder.name} cannot be read ({error}): fetch it again") from error
    names = WEIGHTS[_settings(config, folder)["architecture"]]
    if missing := [name for name in names if name not in found]:
        raise ValueError(f"{path.name} in {folder.name} lacks {', '.join(missing)}")
    weights = {name: found[name].float() for name in names}
    d_in, d_sae = weights["W_enc"].shape
    shapes = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
    for name, weight in weights.items():
        expected = shapes.get(name, (d_sae,))
        if tuple(weight.shape) != expected:
            raise ValueError(f"{name} in {folder.name} is {tuple(weight.shape)}, and should be {expected}")
        if not torch.isfinite(weight).all():
            raise ValueError(f"{name} in {folder.name} is not finite everywhere")
    return weights
