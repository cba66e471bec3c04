"""What is found out about a model by running it: sites of an unknown family, a final norm, causality."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import torch
from transformers.activations import ACT2FN

from nbkit.models.architectures import (
    ARCHITECTURES,
    Architecture,
    Module,
    blocks_of,
    first_of,
    has_experts,
    matrices_of,
    shape,
    tap,
    why,
)
from nbkit.models.placement import home_of

log = logging.getLogger(__name__)
TRIED_TOKENS = 6


def architecture_for(model: Module) -> Architecture:
    """The record of a model's family, or one found by shape and checked against `hidden_states`.

    ``ValueError`` for an encoder-decoder, and for a model in which none is found: with the record to add.
    """
    kind = model.config.model_type
    base = model.base_model
    if hasattr(base, "encoder") and hasattr(base, "decoder"):
        raise ValueError(
            f"{type(model).__name__} is an encoder and a decoder, and nbkit studies the encoder: pass "
            "model.get_encoder(), or load it by name or folder, which takes the encoder"
        )
    return ARCHITECTURES.get(kind) or _guessed(model)


def _guessed(model: Module) -> Architecture:
    kind: str = model.config.model_type
    found: dict[str, Any] = {}
    try:
        found = _paths(model)
        architecture = Architecture(**found, guessed=True)
        _check(model, architecture)
    except Exception as error:  # anything may fail in a model that nobody has tried
        parts = ", ".join(f"{name}={found.get(name, '?')!r}" for name in ("blocks", "attention", "ffn"))
        raise ValueError(
            f"no site map for models of type {kind!r} (known: {', '.join(ARCHITECTURES)}), and none was"
            f" found by shape ({why(error)}). To add one, add a record: "
            f"nbkit.models.ARCHITECTURES[{kind!r}] = Architecture({parts})"
        ) from error
    log.warning(
        "%s: no record of this family; its sites were guessed by shape and agree with hidden_states: %s",
        kind,
        ", ".join(f"{name}={path}" for name, path in found.items()),
    )
    return architecture


def _paths(model: Module) -> dict[str, str]:
    """Paths of an `Architecture`, from which matrices run in a block, in which order, and their shapes."""
    base, found = model.base_model, {}
    lists = {name: m for name, m in base.named_modules() if isinstance(m, torch.nn.ModuleList)}
    outer = {n: m for n, m in lists.items() if not any(n.startswith(f"{o}.") for o in lists)}
    if not outer:
        raise ValueError("no list of blocks")
    found["blocks"] = max(outer, key=lambda name: len(outer[name]))
    block = outer[found["blocks"]][0]
    names = {m: name for name, m in block.named_modules() if name and "experts" not in name.split(".")}
    ran: dict[Module, tuple[torch.Tensor, torch.Tensor]] = {}
    with contextlib.ExitStack() as stack:
        for module in names:
            if getattr(getattr(module, "weight", None), "ndim", 0) == 2 and not list(module.children()):
                keep = _kept(ran, module)
                stack.callback(module.register_forward_hook(keep).remove)
        outputs: dict[Module, Any] = {}
        stack.callback(block.register_forward_hook(_kept(outputs, block)).remove)
        model(**_batch(model))
    width = outputs[block][1].shape[-1]
    back = [m for m in ran if shape(m)[1] == width]  # matrices into the residual stream
    attention = [m for m in back if "att" in names[m].lower()]
    # Beside experts there are a router and shared ones, which are not what all tokens pass.
    others = [] if has_experts(block) else [m for m in back if m not in attention]
    if not attention:
        raise ValueError("no attention projection")
    found["attention"] = names[attention[-1]]
    if not others and not has_experts(block):
        raise ValueError("no second matrix of a feed-forward network")
    second = max(others, key=lambda m: shape(m)[0]) if others else None
    found["ffn"] = names[second] if second is not None else "mlp.down_proj"
    if second is not None:
        found |= _gates(model, {names[m]: tensors for m, tensors in ran.items()}, found["ffn"])
    tables = {
        n: m for n, m in base.named_modules() if isinstance(m, torch.nn.Embedding) and "pos" in n.lower()
    }
    return found | ({"positions": next(iter(tables))} if tables else {})


def _kept(seen: dict, module: Module) -> Any:
    def keep(module, args, output) -> None:
        seen.pop(module, None)  # in the order of the last runs
        seen[module] = (args[0] if args else None, first_of(output))

    return keep


def _gates(model: Module, ran: dict[str, tuple[torch.Tensor, torch.Tensor]], ffn: str) -> dict[str, str]:
    """`gate` and `up` where what enters the second matrix is act(one matrix) * another."""
    entering = ran[ffn][0]
    config = model.config
    act = getattr(config, "hidden_act", None) or getattr(config, "hidden_activation", None)
    nonlinearity = ACT2FN[act or "silu"]
    size = entering.shape[-1]
    for name, (_, out) in ran.items():
        if out.shape[-1] == 2 * size:
            first, second = out.chunk(2, dim=-1)
            if _equal(nonlinearity(first) * second, entering):
                return {"gate": name, "up": name}
        for other, (_, up) in ran.items():
            if name != other and out.shape == up.shape == entering.shape:
                if _equal(nonlinearity(out) * up, entering):
                    return {"gate": name, "up": other}
    return {}


def _equal(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Equal but for rounding of the model's own precision."""
    if found.shape != expected.shape:
        return False
    expected = expected.to(found.device)  # with a device_map, the model's output is on its first device
    tolerance = 1e-4 if expected.dtype == torch.float32 else 0.05
    return torch.allclose(found, expected, rtol=tolerance, atol=tolerance * float(expected.abs().mean()))


def _batch(model: Module) -> dict[str, torch.Tensor]:
    """A short batch of two rows that differ in the last token; ids from the middle of the vocabulary."""
    n = model.get_input_embeddings().num_embeddings
    ids = torch.arange(TRIED_TOKENS + 1) + max(0, min(n // 2, n - TRIED_TOKENS - 1))
    ids = torch.stack([ids[:-1], torch.cat([ids[:-2], ids[-1:]])]).clamp(max=n - 1)
    ids = ids.to(home_of(model.get_input_embeddings()))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@contextlib.contextmanager
def _recorded(model: Module, architecture: Architecture) -> Iterator[dict[str, torch.Tensor]]:
    """What blocks give, in `layer.N.hidden`; a simple `Subject.record` for the questions of this file."""
    found: dict[str, torch.Tensor] = {}
    with contextlib.ExitStack() as stack:
        for block in dict.fromkeys(blocks_of(model, architecture)):

            def put(module, args, output) -> None:
                found[f"layer.{len(found)}.hidden"] = first_of(output)

            stack.callback(block.register_forward_hook(put).remove)
        yield found


@torch.no_grad()
def _check(model: Module, architecture: Architecture) -> None:
    """A guessed record against a forward pass: ``ValueError`` unless hidden states and shapes agree."""
    blocks, batch = blocks_of(model, architecture), _batch(model)
    shapes: dict[str, int] = {}
    with _recorded(model, architecture) as found, contextlib.ExitStack() as stack:
        tap(stack, blocks[-1], architecture, lambda kind, x: shapes.update({kind: x.shape[-1]}))
        states = model(**batch, output_hidden_states=True).hidden_states
    if len(states) != len(found) + 1:
        raise ValueError(f"{len(found)} blocks ran, and there are {len(states)} hidden states")
    inner = list(found.values())[:-1]
    if not all(_equal(a, b) for a, b in zip(inner, states[1:-1], strict=True)):
        raise ValueError("the outputs of the blocks are not hidden_states")
    for block in blocks:
        kinds = {kind: width for kind, (_, width) in matrices_of(block, architecture).items()}
        if block is blocks[-1] and kinds != shapes:
            raise ValueError(f"sites of widths {kinds}, and {shapes} were seen")
    last = list(found.values())[-1]
    if not _equal(last, states[-1]) and not final_path(model, architecture):
        raise ValueError("the output of the last block is not the last of hidden_states, nor becomes it")


@torch.no_grad()
def final_path(model: Module, architecture: Architecture) -> list[str]:
    """The modules that make the last of `hidden_states` of the last block's output: a final norm, mostly.

    Found by following the tensor through a short forward pass, not by name. Empty where the two are equal, or
    where no module leads from one to the other.
    """
    base, block = model.base_model, blocks_of(model, architecture)[-1]
    names = {m: name for name, m in base.named_modules() if name and not name.startswith(architecture.blocks)}
    state: dict[str, Any] = {"at": None, "path": []}

    def follow(module, args, output) -> None:
        if args and args[0] is state["at"] and first_of(output) is not args[0]:
            state["path"].append(names[module])
            state["at"] = first_of(output)

    def end(module, args, output) -> None:
        state["at"], state["path"] = first_of(output), []

    with contextlib.ExitStack() as stack:
        stack.callback(block.register_forward_hook(end).remove)
        for module in names:
            if not list(module.children()):
                stack.callback(module.register_forward_hook(follow).remove)
        expected = model(**_batch(model), output_hidden_states=True).hidden_states[-1]
    last = state["at"].to(expected.device)
    if state["path"] and last.shape == expected.shape and torch.equal(last, expected):
        return state["path"]
    return []


@torch.no_grad()
def is_causal(model: Module, architecture: Architecture) -> bool:
    """Whether tokens see only those before them: two texts that differ in the last token agree before it."""
    with _recorded(model, architecture) as found:
        model(**_batch(model))
    last = list(found.values())[-1]
    if architecture.xlnet:
        last = last.transpose(0, 1)
    one, other = last[:, :-1]
    return torch.allclose(one, other, rtol=1e-4, atol=1e-4 * float(one.abs().max()))
