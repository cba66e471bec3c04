"""Where each family of models keeps its sites, and the hooks that reach them."""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Callable
from typing import Any, NamedTuple

import torch


class Architecture(NamedTuple):
    """Where one family of models keeps its sites; all paths are module names."""

    blocks: str  # the list of blocks
    attention: str  # in a block: the output projection (`heads` go in, `attention` comes out)
    ffn: str  # in a block: the second matrix of the feed-forward network (`ffn` goes in)
    positions: str | None = "embeddings.position_embeddings"  # bounds the length; None: relative
    shared: bool = False  # blocks are ALBERT's groups, run several times each
    xlnet: bool = False  # [token, batch, width] inside; heads are projected by an einsum


# Keyed by `config.model_type`. To add a family, add its record (and its line in the tests).
ARCHITECTURES = {
    "bert": Architecture("encoder.layer", "attention.output.dense", "output.dense"),
    "roberta": Architecture("encoder.layer", "attention.output.dense", "output.dense"),
    "electra": Architecture("encoder.layer", "attention.output.dense", "output.dense"),
    "mpnet": Architecture("encoder.layer", "attention.attn.o", "output.dense"),
    "distilbert": Architecture("transformer.layer", "attention.out_lin", "ffn.lin2"),
    "albert": Architecture("encoder.albert_layer_groups", "attention.dense", "ffn_output", shared=True),
    "xlnet": Architecture("layer", "rel_attn", "ff.layer_2", positions=None, xlnet=True),
    "gpt2": Architecture("h", "attn.c_proj", "mlp.c_proj", positions="wpe"),
}

#: A transformers model or a part of one. Its attributes depend on the family; torch declares every attribute
#: of a module to be a tensor or a module.
Module = Any

KINDS = ("heads", "attention", "ffn", "hidden")  # of a block, in order of computation


def drop_pooler(model: Module) -> Module:
    """The model without its pooler, in place."""
    # It follows the last site. Many checkpoints (RoBERTa's) have none and would get a random
    # one, so that no two loads had the same fingerprint.
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    return model


def architecture_of(model_type: str | None) -> Architecture:
    """The record of a model type; `ValueError` for a family without one."""
    if model_type not in ARCHITECTURES:
        raise ValueError(
            f"no site map for models of type {model_type!r}; known: {', '.join(ARCHITECTURES)}. "
            "To add one, add a record to nbkit.models.ARCHITECTURES"
        )
    return ARCHITECTURES[model_type]


def blocks_of(model: Module, architecture: Architecture) -> list[Module]:
    """The blocks in the order they run; a shared block appears once for each of its runs."""
    blocks = list(part_of(model.base_model, architecture.blocks))
    if not architecture.shared:
        return blocks
    runs = model.config.num_hidden_layers
    groups = [blocks[int(run / (runs / len(blocks)))] for run in range(runs)]
    return [block for group in groups for block in group.albert_layers]


def part_of(module: Module, path: str) -> Module:
    """A module by its path; `ValueError` where this release of transformers has moved it."""
    try:
        return module.get_submodule(path)
    except AttributeError as error:
        raise ValueError(
            f"{type(module).__name__} has no module {path!r} in transformers "
            f"{importlib.metadata.version('transformers')}; correct its record in nbkit.models.ARCHITECTURES"
        ) from error


def shape(matrix: Module) -> tuple[int, int]:
    """Width in and width out of a Linear, a Conv1D (GPT-2) or XLNet's attention."""
    if hasattr(matrix, "d_head"):
        return matrix.n_head * matrix.d_head, matrix.d_model
    if isinstance(matrix, torch.nn.Linear):
        return matrix.in_features, matrix.out_features
    return tuple(matrix.weight.shape)  # Conv1D keeps its weight as [in, out]


def first_of(output: torch.Tensor | tuple) -> torch.Tensor:
    """The tensor itself, or the first of a tuple."""
    return output[0] if isinstance(output, tuple) else output


def with_first(values: torch.Tensor | tuple, changed: torch.Tensor | None) -> torch.Tensor | tuple | None:
    """``values`` with its first tensor changed, as a hook returns it; None: nothing changes."""
    if changed is None or not isinstance(values, tuple):
        return changed
    return (changed, *values[1:])


def why(error: Exception) -> str:
    """The first sentence of an error of another library."""
    return f"{type(error).__name__}: {error}".splitlines()[0].split(". ")[0]


def hook(
    stack: contextlib.ExitStack,
    module: Module,
    before: Callable | None = None,
    after: Callable | None = None,
) -> None:
    """Hooks on a module's forward pass, removed when the stack closes."""
    if before:
        stack.callback(module.register_forward_pre_hook(before).remove)
    if after:
        stack.callback(module.register_forward_hook(after).remove)


def tap_projection(stack: contextlib.ExitStack, projection: Module, put: Callable) -> None:
    """`put("heads", its input)` and `put("attention", its output)` for an output projection."""
    hook(stack, projection, before=lambda m, args: with_first(args, put("heads", args[0])))
    hook(stack, projection, after=lambda m, args, out: put("attention", out))


def tap_einsum(stack: contextlib.ExitStack, attention: Module, put: Callable) -> None:
    """XLNet projects its heads with an einsum, where no hook reaches: wrap the method instead.

    The projection then passes through the module's dropout, as [token, batch, width]; so do
    the attention weights, which have four dimensions.
    """
    outer = vars(attention).get("post_attention")  # there when another `record` is open
    original = attention.post_attention

    def post_attention(h, attn_vec, *args, **kwargs):
        put("heads", attn_vec.flatten(2))
        return original(h, attn_vec, *args, **kwargs)

    def dropout(module, args) -> None:
        if args[0].ndim == 3:
            put("attention", args[0])

    def restore() -> None:
        del attention.post_attention
        if outer is not None:
            attention.post_attention = outer

    attention.post_attention = post_attention
    stack.callback(restore)
    hook(stack, attention.dropout, before=dropout)
