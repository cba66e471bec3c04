"""The fingerprint of a subject: a hash over whatever changes its numbers."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from nbkit.models.dictionaries import Dictionary
from nbkit.models.placement import value_of


def fingerprint_of(model: Any, tokenizer: Any, dictionaries: Mapping[str, Dictionary]) -> str:
    """SHA-256 over configuration, tokenizer, weights, and the dictionaries by site."""
    digest = hashlib.sha256()
    for part in (_config_text(model.config), _tokenizer_text(tokenizer)):
        digest.update(part.encode())
    weights = model.state_dict()
    for piece in _pieces(weights, functools.partial(value_of, model)):
        digest.update(piece)
    for site, found in sorted(dictionaries.items()):
        digest.update(f"{site} {found.settings}".encode())
        for piece in _pieces(found.weights, lambda name, weight: weight):
            digest.update(piece)
    return digest.hexdigest()


def _pieces(
    weights: Mapping[str, torch.Tensor], values: Callable[[str, torch.Tensor], torch.Tensor]
) -> Iterator[bytes | Any]:
    """Name, dtype, shape and bytes of each weight, by name; `values` fetches one that waits on disk."""
    for name, weight in sorted(weights.items()):
        yield f"{name} {weight.dtype} {tuple(weight.shape)}".encode()
        yield values(name, weight).detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


# Names of the configuration that leave the numbers alone (weights bring their own dtype).
_BOOKKEEPING = {
    *("transformers_version", "architectures", "dtype", "torch_dtype", "id2label", "label2id"),
    *("problem_type", "return_dict", "task_specific_params", "gradient_checkpointing"),
    *("use_cache", "use_mems_eval", "use_mems_train", "chunk_size_feed_forward"),
    *("output_hidden_states", "output_attentions", "auto_map"),
}


def _config_text(config) -> str:
    plain = {
        key: value
        for key, value in config.to_diff_dict().items()
        if key not in _BOOKKEEPING and not key.startswith("_")
    }
    plain["attention implementation"] = config._attn_implementation
    return json.dumps(plain, sort_keys=True, default=str)


def _tokenizer_text(tokenizer: Any) -> str:
    plain = json.loads(tokenizer.backend_tokenizer.to_str())
    # These two are traces of the last call, not properties of the tokenizer.
    plain.pop("truncation", None)
    plain.pop("padding", None)
    return json.dumps(plain, sort_keys=True)
