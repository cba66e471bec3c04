"""What a model takes of the memory, from its configuration and the headers of its files alone."""

from __future__ import annotations

import copy
import json
import math
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModel, MT5EncoderModel, PreTrainedConfig, T5EncoderModel, UMT5EncoderModel

from nbkit.models.architectures import Module, drop_pooler

DTYPES = {name: getattr(torch, name) for name in ("float32", "float16", "bfloat16")}
#: Families whose encoder is a class of its own, so that a checkpoint of it alone loads too.
ENCODERS = {"t5": T5EncoderModel, "mt5": MT5EncoderModel, "umt5": UMT5EncoderModel}
#: Where a multimodal model keeps its language model.
LANGUAGE_MODELS = ("language_model", "text_model")
#: Where Linux keeps how much a group of processes (a container, a job of a cluster) may use and uses, and
#: how much of it is files that can go; today's form, and the one before.
GROUPS = (
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)


class Memory(NamedTuple):
    """What the weights of a model take; see ``estimate``."""

    name: str
    parameters: int  # of what is studied: no pooler, no decoder beside an encoder, no tower of images
    stays: dict[str, int]  # bytes of these, by dtype
    loading: dict[str, int]  # bytes of all that is read at once, by dtype: as many, or more
    saved: dict[str, int]  # numbers in the files by their dtype there, as "BF16"; empty where not known
    free: int | None  # bytes of this machine's memory that are free now; None where not known

    def __str__(self) -> str:
        saved = max(self.saved, key=lambda dtype: self.saved[dtype], default="?")
        sizes = ", ".join(f"{size / 1e9:.2f} GB in {dtype}" for dtype, size in self.stays.items())
        free = "memory free: not known" if self.free is None else f"{self.free / 1e9:.2f} GB are free"
        return f"{self.name}: {self.parameters:,} parameters, saved as {saved}: {sizes}; {free}"


def class_of(config: PreTrainedConfig) -> Any:
    """The class of transformers that a configuration is loaded with."""
    return ENCODERS.get(config.model_type, AutoModel)


def studied(model: Module) -> Module:
    """The part that is studied: the encoder of two, the language model of a multimodal one, no pooler."""
    if hasattr(model, "encoder") and hasattr(model, "decoder"):
        model = model.get_encoder()
    elif hasattr(model.config, "text_config"):
        model = next((getattr(model, name) for name in LANGUAGE_MODELS if hasattr(model, name)), model)
    return drop_pooler(model)


def memory_of(name: str, config: PreTrainedConfig, saved: dict[str, int]) -> Memory:
    """The memory for the model of a configuration, whose files hold ``saved``."""
    sizes = {kind: _sizes(config, dtype) for kind, dtype in DTYPES.items()}
    stays = {kind: size.stays for kind, size in sizes.items()}
    loading = {kind: size.loading for kind, size in sizes.items()}
    return Memory(name, sizes["float32"].parameters, stays, loading, saved, free_memory())


class _Sizes(NamedTuple):
    """Of a model in one dtype: as in `Memory`."""

    parameters: int
    stays: int
    loading: int


def _sizes(config: PreTrainedConfig, dtype: torch.dtype) -> _Sizes:
    """The model is made on the meta device: shapes without values."""
    config = copy.deepcopy(config)
    made = class_of(config)
    make = AutoModel.from_config if made is AutoModel else made._from_config
    with torch.device("meta"):
        model = make(config, dtype=dtype)
    # Some weights are in float32 whatever one asks for: T5's second matrices in float16, half of XLNet.
    patterns = [pattern.replace("*", ".*") for pattern in model._get_dtype_plan(dtype)]
    size = {
        weight: weight.numel() * (4 if any(re.search(p, key) for p in patterns) else weight.itemsize)
        for key, weight in model.named_parameters()
    }
    kept = list(studied(model).parameters())
    return _Sizes(sum(w.numel() for w in kept), sum(size[w] for w in kept), sum(size.values()))


def saved_in(folder: Path) -> dict[str, int]:
    """How many numbers of each dtype the safetensors files of a folder hold, by their headers."""
    found: Counter = Counter()
    for path in sorted(folder.glob("model*.safetensors")):
        try:
            with path.open("rb") as file:
                header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        except (OSError, ValueError, MemoryError, OverflowError):
            return {}  # a broken file: loading says so
        for key, entry in header.items():
            if key != "__metadata__":
                found[entry["dtype"]] += math.prod(entry["shape"])
    return dict(found)


# ---------------------------------------------------------------------------------- free memory


def free_memory() -> int | None:
    """Bytes of this machine's memory that a process can take now; None where the system does not say."""
    bounds = [bound for bound in (_machine(), *map(_left, GROUPS)) if bound is not None]
    return min(bounds) if bounds else None


def _machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # macOS and Windows
        return None


def _left(names: tuple[str, str, str], root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What the group of this process may still take; None without a limit."""
    try:
        limit, used, stat = ((root / name).read_text(encoding="ascii") for name in names)
        files = re.search(r"^inactive_file (\d+)$", stat, re.MULTILINE)
        return max(0, int(limit) - int(used) + (int(files[1]) if files else 0))
    except (OSError, ValueError):  # "max"
        return None


def refuse_too_large(name: str, config: PreTrainedConfig, dtype: str, device: torch.device) -> None:
    """A ``ValueError`` where the weights are larger than what is free, with what would help."""
    needed, places = _sizes(config, DTYPES[dtype]).loading, {"this machine": free_memory()}
    if device.type == "cuda":
        places[str(device)] = torch.cuda.mem_get_info(device)[0]
    for place, free in places.items():
        if free is not None and needed > free:
            half = _sizes(config, torch.bfloat16).loading
            smaller = f"dtype='bfloat16' ({half / 1e9:.2f} GB), or " if half < needed and half <= free else ""
            raise ValueError(
                f"{name} takes {needed / 1e9:.2f} GB in {dtype}, and {free / 1e9:.2f} GB of the memory of"
                f" {place} are free: load it with {smaller}device_map='auto', which spreads it over GPUs,"
                " memory and disk"
            )
