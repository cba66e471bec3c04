"""Two devices where there are none: tensors that say they are on "played:0" or "played:1" and compute here.

Inside `with Devices():` a tensor that is made on such a device, or moved there, is one of the CPU with the
device's name on it. An operation on tensors of two devices is an error, as on GPUs; what torch allows there
(numbers without dimension, and places to look up, from the CPU) is allowed here. Run as a script, which must
have a process of its own, it prints what differs between a model on two devices and the same on the CPU.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from nbkit import activations, models, texts
from nbkit.models.dictionaries import Dictionary

KIND = "played"
LOOK_UP = ("index.", "index_put", "_index_put")  # their places may be on the CPU


class Placed(torch.Tensor):
    """A tensor with the name of a device."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor, device: torch.device) -> Placed:
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), dtype=inner.dtype, device=device
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return computed(func, args, kwargs or {})


def computed(func: Any, args: tuple, kwargs: dict) -> Any:
    """What an operation gives, on the device of its tensors or the one that it names."""
    every = tree_flatten((args, kwargs))[0]
    tensors = [x for x in every if isinstance(x, torch.Tensor)]
    devices = {x.device for x in tensors if isinstance(x, Placed)}
    named = next((x for x in every if isinstance(x, torch.device)), None)
    copies = func.overloadpacket is torch.ops.aten.copy_
    moves = func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.to)
    looks = str(func).removeprefix("aten.").startswith(LOOK_UP)
    plain = [x for x in tensors if not isinstance(x, Placed) and x.ndim]
    if len(devices) > 1 and not copies or devices and plain and not (copies or moves or looks):
        raise RuntimeError(f"{func}: tensors on {devices}, and {len(plain)} on the CPU")
    found = func(*tree_map(inner, args), **tree_map(inner, kwargs))
    if copies:
        return args[0]
    target = named if named is not None else next(iter(devices), None)
    if target is None or target.type != KIND:
        return found
    return tree_map(lambda x: Placed(x, target) if isinstance(x, torch.Tensor) else x, found)


def inner(value: Any) -> Any:
    """What computes here: the tensor of a placed one, the CPU for a device of this file."""
    if isinstance(value, torch.device) and value.type == KIND:
        return torch.device("cpu")
    return value.inner if isinstance(value, Placed) else value


class Devices(TorchDispatchMode):
    """`with Devices():` there are devices called "played:0", "played:1", and so on."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return computed(func, args, kwargs or {})


def moved(module: Any, device: str) -> None:
    """A module with its weights on a device, in place."""
    for part in module.modules():
        for name, weight in list(part._parameters.items()):
            if weight is not None and not isinstance(weight.data, Placed):
                placed = Placed(weight.detach(), torch.device(device))
                part._parameters[name] = torch.nn.Parameter(placed, requires_grad=False)
        for name, buffer in list(part._buffers.items()):
            if buffer is not None and not isinstance(buffer, Placed):
                part._buffers[name] = Placed(buffer, torch.device(device))


def spread(subject: models.Subject, where: dict[str, str]) -> models.Subject:
    """The subject with its modules on the devices of `where`, as accelerate's `dispatch_model` puts them."""
    model = subject.model
    for name, device in where.items():
        moved(model.get_submodule(name), device)
        for part in model.get_submodule(name).modules():
            add_hook_to_module(part, AlignDevicesHook(execution_device=device), append=True)
    first = next(iter(where.values()))
    add_hook_to_module(model, AlignDevicesHook(execution_device=first, io_same_device=True), append=True)
    return models.Subject(subject.name, model, subject.tokenizer)


def differences(plain: models.Subject, other: models.Subject, corpus: texts.Texts) -> dict[str, float]:
    """The largest difference of what each function gives of the two."""
    found, options = {}, {"dtype": "float32", "cache": False, "progress": False}
    batch, _ = plain.encode(corpus.frame["text"].tolist())
    one, two = plain.run(batch, "all"), other.run(batch, "all")
    for site, tensor in one.items():
        found[f"run {site}"] = float((tensor - two[site].cpu()).abs().max())
    for rows, pool in (
        ("text", "max"),
        ("text", "mean"),
        ("text", "last"),
        ("word", "mean"),
        ("token", "max"),
    ):
        values = [
            activations.capture(s, corpus, sites=["ffn", "hidden"], rows=rows, pool=pool, **options).values
            for s in (plain, other)
        ]
        found[f"capture {rows} {pool}"] = float(np.abs(values[0] - values[1]).max())
    labels = corpus.descriptors("surface")
    for s in (plain, other):
        made = {"moments": activations.Moments(), "sums": activations.LabelSums(labels)}
        reduced = activations.reduce(s, corpus, made, sites="ffn", progress=False)
        found.setdefault("reduce", []).append(reduced["moments"]["mean"].to_numpy())
    found["reduce"] = float(np.abs(found["reduce"][0] - found["reduce"][1]).max())
    return found


def main(folder: str) -> None:
    backend_registration._setup_privateuseone_for_python_backend(KIND)
    corpus = texts.Texts.from_list(["the cat sat on a mat", "cat sat", "dogs like the mat"]).tokenize()
    plain = models.load(folder, device="cpu")
    blocks = {"layers.0": "played:0", "layers.1": "played:1", "layers.2": "played:1"}
    where = {"embed_tokens": "played:0", "rotary_emb": "played:0", **blocks, "norm": "played:1"}
    with Devices():
        other = spread(models.load(folder, device="cpu"), where)
        seen = other.run(other.encode(["the cat"])[0], "hidden")
        report = {"devices": [str(tensor.device) for tensor in seen.values()], "device": str(other.device)}
        report["same"] = other.fingerprint == plain.fingerprint and other.final_norm == plain.final_norm
        report["differences"] = differences(plain, other, corpus)
        checks = activations.verify(other, corpus, sites="hidden")
        report["verify"] = checks.set_index("check")["ok"].to_dict()
        weights = {"W_enc": torch.eye(16), "b_enc": torch.zeros(16), "W_dec": torch.eye(16)}
        settings = {"architecture": "standard", "normalize_activations": "none", "rescale": False}
        settings |= {"apply_b_dec_to_input": True, "k": None}
        weights = {name: w.to(other.device) for name, w in {**weights, "b_dec": torch.zeros(16)}.items()}
        other.dictionaries = {"layer.2.hidden": Dictionary(weights, settings)}
        vars(other).pop("sites", None)
        latents = activations.capture(other, corpus, sites="sae", cache=False, progress=False)
        report["latents"] = bool((np.asarray(latents.values) >= 0).all()) and len(latents.units) == 16
        try:
            seen["layer.0.hidden"] + seen["layer.2.hidden"]
        except RuntimeError as error:
            report["noticed"] = str(error)
    print("REPORT" + json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1])
