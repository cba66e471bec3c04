"""Where each family of models keeps its sites, and the hooks that reach them."""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Callable
from typing import Any, NamedTuple

import torch


class Architecture(NamedTuple):
    """Where one family of models keeps its sites; all paths are module names.

    A block that lacks the module of `gate` and `up` has no such sites (T5 comes with and without), a block
    with experts has no `ffn`.
    """

    blocks: str  # the list of blocks
    attention: str  # in a block: the output projection (`heads` go in, `attention` comes out)
    ffn: str  # in a block: the second matrix of the feed-forward network (`ffn` goes in)
    gate: str | None = None  # in a block: the matrix whose output goes through the nonlinearity, if gated
    up: str | None = None  # the matrix it is multiplied by; the same path: one matrix makes both, gate first
    positions: str | None = None  # table of position embeddings, where there is one
    after_first: str | None = None  # what changes the output of block 0 (the convolution of DeBERTa-v2)
    shared: bool = False  # blocks are ALBERT's groups, run several times each
    xlnet: bool = False  # [token, batch, width] inside; heads are projected by an einsum
    guessed: bool = False  # found by shape: see nbkit.models.discovery


POSITIONS = "embeddings.position_embeddings"
BERT = Architecture("encoder.layer", "attention.output.dense", "output.dense", positions=POSITIONS)
LLAMA = Architecture("layers", "self_attn.o_proj", "mlp.down_proj", "mlp.gate_proj", "mlp.up_proj")
BLOOM = Architecture("h", "self_attention.dense", "mlp.dense_4h_to_h")
_DENSE = "layer.1.DenseReluDense"
T5 = Architecture(
    "encoder.block", "layer.0.SelfAttention.o", f"{_DENSE}.wo", f"{_DENSE}.wi_0", f"{_DENSE}.wi_1"
)

# Keyed by `config.model_type`. To add a family, add its record (and its line in the tests).
ARCHITECTURES = {
    "bert": BERT,
    "roberta": BERT,
    "xlm-roberta": BERT,
    "camembert": BERT,
    "electra": BERT,
    "deberta": BERT,
    "deberta-v2": BERT._replace(after_first="encoder.conv"),
    "mpnet": BERT._replace(attention="attention.attn.o"),
    "distilbert": Architecture("transformer.layer", "attention.out_lin", "ffn.lin2", positions=POSITIONS),
    "albert": Architecture(
        "encoder.albert_layer_groups", "attention.dense", "ffn_output", positions=POSITIONS, shared=True
    ),
    "xlnet": Architecture("layer", "rel_attn", "ff.layer_2", xlnet=True),
    "modernbert": Architecture("layers", "attn.Wo", "mlp.Wo", "mlp.Wi", "mlp.Wi"),
    "nomic_bert": LLAMA,
    "eurobert": LLAMA,
    "t5": T5,
    "mt5": T5,
    "umt5": T5,
    "gpt2": Architecture("h", "attn.c_proj", "mlp.c_proj", positions="wpe"),
    "gpt_neo": Architecture("h", "attn.attention.out_proj", "mlp.c_proj", positions="wpe"),
    "gpt_neox": Architecture("layers", "attention.dense", "mlp.dense_4h_to_h"),
    "opt": Architecture("decoder.layers", "self_attn.out_proj", "fc2"),
    "bloom": BLOOM,
    "falcon": BLOOM,
    "phi": Architecture("layers", "self_attn.dense", "mlp.fc2"),
    "phi3": LLAMA._replace(gate="mlp.gate_up_proj", up="mlp.gate_up_proj"),
    **dict.fromkeys(
        ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "olmo2", "smollm3"), LLAMA
    ),
}

#: A transformers model or a part of one. Its attributes depend on the family; torch declares every attribute
#: of a module to be a tensor or a module.
Module = Any

KINDS = ("heads", "attention", "gate", "up", "ffn", "hidden")  # of a block, in order of computation


def drop_pooler(model: Module) -> Module:
    """The model without its pooler, in place."""
    # It follows the last site. Many checkpoints (RoBERTa's) have none and would get a random
    # one, so that no two loads had the same fingerprint.
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    return model


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


def position_table(model: Module, architecture: Architecture) -> Module | None:
    """The table of position embeddings; None without one (DeBERTa has one only if configured so)."""
    if architecture.positions is None:
        return None
    parent, _, name = architecture.positions.rpartition(".")
    return getattr(part_of(model.base_model, parent), name)


def first_in(args: tuple, kwargs: dict[str, Any]) -> torch.Tensor:
    """What enters a module, however it is handed over."""
    return args[0] if args else kwargs[_first_key(kwargs)]


def _first_key(kwargs: dict[str, Any]) -> str:
    return "hidden_states" if "hidden_states" in kwargs else next(iter(kwargs))


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
    """Hooks on a module's forward pass, removed when the stack closes.

    before  (module, what enters) -> what enters instead, or None
    after   (module, what comes out) -> what comes out instead, or None
    """

    def enter(module, args, kwargs):
        changed = before(module, first_in(args, kwargs)) if before else None
        if changed is None:
            return None
        return ((changed, *args[1:]), kwargs) if args else (args, {**kwargs, _first_key(kwargs): changed})

    def leave(module, args, output):
        return with_first(output, after(module, first_of(output))) if after else None

    if before:
        stack.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
    if after:
        stack.callback(module.register_forward_hook(leave).remove)


def has_experts(block: Module) -> bool:
    """Whether the block is a mixture of experts."""
    return any(name.rpartition(".")[2] == "experts" for name, _ in block.named_modules())


def matrices_of(block: Module, architecture: Architecture) -> dict[str, tuple[Module, int]]:
    """{kind: (module, width)} of the sites within a block, in order of computation."""
    projection = part_of(block, architecture.attention)
    heads, attention = shape(projection)
    found = {"heads": (projection, heads), "attention": (projection, attention)}
    gate, up = architecture.gate, architecture.up
    if has_experts(block) and not _is_matrix(block, architecture.ffn):
        return found
    second = part_of(block, architecture.ffn)
    width = shape(second)[0]
    if gate and up and _is_matrix(block, gate) and _is_matrix(block, up):
        found |= {"gate": (part_of(block, gate), width), "up": (part_of(block, up), width)}
    return {**found, "ffn": (second, width)}


def _is_matrix(block: Module, path: str) -> bool:
    try:
        return getattr(block.get_submodule(path), "weight", torch.empty(0)).ndim == 2
    except AttributeError:
        return False


def tap(stack: contextlib.ExitStack, block: Module, architecture: Architecture, put: Callable) -> None:
    """`put(kind, tensor)` for every site within a block; what it returns, if anything, takes the place."""
    matrices = {kind: module for kind, (module, _) in matrices_of(block, architecture).items()}
    if architecture.xlnet:
        tap_einsum(stack, matrices["heads"], put)
    else:
        hook(stack, matrices["heads"], before=lambda m, x: put("heads", x))
        hook(stack, matrices["attention"], after=lambda m, x: put("attention", x))
    if "gate" in matrices and matrices["gate"] is matrices["up"]:
        hook(stack, matrices["gate"], after=lambda m, x: put_halves(x, put))
    elif "gate" in matrices:
        hook(stack, matrices["gate"], after=lambda m, x: put("gate", x))
        hook(stack, matrices["up"], after=lambda m, x: put("up", x))
    if "ffn" in matrices:
        hook(stack, matrices["ffn"], before=lambda m, x: put("ffn", x))


def put_halves(both: torch.Tensor, put: Callable) -> torch.Tensor | None:
    """`put` for gate and up where one matrix makes both."""
    halves: dict[str, torch.Tensor] = dict(zip(("gate", "up"), both.chunk(2, dim=-1), strict=True))
    changed = {kind: put(kind, half) for kind, half in halves.items()}
    if all(half is None for half in changed.values()):
        return None
    return torch.cat([halves[k] if half is None else half for k, half in changed.items()], dim=-1)


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

    def dropout(module, entering) -> None:
        if entering.ndim == 3:
            put("attention", entering)

    def restore() -> None:
        del attention.post_attention
        if outer is not None:
            attention.post_attention = outer

    attention.post_attention = post_attention
    stack.callback(restore)
    hook(stack, attention.dropout, before=dropout)
