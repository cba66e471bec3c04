"""Where the weights of a model are: on one device, on several, or with accelerate until they are needed.

With `device_map` accelerate puts a hook on every module. Its `execution_device` is where the module
computes; a weight that waits in memory or on disk is on the meta device meanwhile, and in `weights_map`.
"""

from __future__ import annotations

from typing import Any

import torch

#: A transformers model or a part of one.
Module = Any


def is_dispatched(model: Module) -> bool:
    """Whether the parts of a model are on several devices, or wait in memory or on disk."""
    return any(hasattr(module, "_hf_hook") for module in model.modules())


def home_of(module: Module) -> torch.device:
    """The device on which a module computes."""
    for hook in _hooks(module):
        if getattr(hook, "execution_device", None) is not None:
            return torch.device(hook.execution_device)
    return next(module.parameters()).device


def value_of(model: Module, name: str, weight: torch.Tensor) -> torch.Tensor:
    """A weight of a model with its values: one that waits is fetched. Meta where nobody has them."""
    if not weight.is_meta:
        return weight
    parent, _, own = name.rpartition(".")
    for hook in _hooks(model.get_submodule(parent)):
        if getattr(hook, "weights_map", None) is not None:
            return hook.weights_map[own]  # accelerate has cast it
    return weight


def without_values(model: Module) -> list[str]:
    """Names of weights that are on the meta device and that nobody will fetch."""
    return [
        name
        for name, weight in model.named_parameters()
        if weight.is_meta and not _waits(model.get_submodule(name.rpartition(".")[0]))
    ]


def _waits(module: Module) -> bool:
    return any(getattr(hook, "weights_map", None) is not None for hook in _hooks(module))


def _hooks(module: Module) -> list[Any]:
    """What accelerate has put on a module: one hook, or several in one."""
    hook = getattr(module, "_hf_hook", None)
    return [] if hook is None else list(getattr(hook, "hooks", [hook]))
