"""Names of units in other tools, as names of sites here.

    unit_of("gpt2-small", "6-res-jb", 123)       layer.5.hidden.sae.123
    unit_of("gemma-2-2b", "20-gemmascope-res-16k", 5)   layer.20.hidden.sae.5
    unit_of("pythia", "layers.9", 123, latent=True)     layer.9.hidden.sae.123
    unit_of("gpt2-xl", "31", 892)                layer.31.ffn.892

Neuronpedia's source is LAYER-KIND-AUTHOR. Its ``res`` is the residual stream after a block, and before it in
dictionaries of GPT-2 small; ``att`` is the input of the output projection (``heads`` here), Pythia's its
output. Outputs of the feed-forward network and transcoders have no site here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

OF_THE_KIT = re.compile(r"(?:embeddings|layer\.\d+\.(?:hidden|attention|heads|ffn|gate|up))(?:\.sae)?")
#: Module paths of blocks: ``layers.9``, ``transformer.h.9``, ``model.layers.9.self_attn``.
BLOCK = re.compile(r"(?:\w+\.)*?(?:layers?|h|blocks?)\.(\d+)(?:\.(.+))?")
SOURCE = re.compile(r"(\d+|e)-(.+)")
#: What follows a block's number in module paths and in TransformerLens' hook names: a kind of site here.
INSIDE = {
    None: "hidden",
    "hook_resid_post": "hidden",
    "hook_out": "hidden",
    "hook_attn_out": "attention",
    "attn.hook_out": "attention",
    "self_attn": "attention",
    "attention": "attention",
    "attn": "attention",
    "attn.hook_z": "heads",
    "mlp.hook_post": "ffn",
}
#: Models whose ``res`` dictionaries read the residual stream before the block of their number.
BEFORE_THE_BLOCK = ("gpt2-small", "gpt2")
#: Models whose ``att`` dictionaries read the output of attention's projection.
AFTER_PROJECTION = re.compile(r"pythia", re.IGNORECASE)


class Mapped(NamedTuple):
    """A unit's name here, or None and why it has none."""

    unit: str | None
    reason: str = ""


def unit_of(
    model: str, place: str, index: object, *, latent: bool = False, sites: Mapping[str, str] | None = None
) -> Mapped:
    """The name here of unit ``index`` of ``place``, as a file names it.

    model     whose unit it is; "" where the file does not say
    place     a layer's number, Neuronpedia's source, a module path, a hook name of TransformerLens, a site
    latent    whether the file speaks of latents of a dictionary rather than of neurons
    sites     {place: site here}, asked first
    """
    place, number = str(place).strip(), _whole(index)
    if number is None:
        return Mapped(None, "no index of a unit")
    site = (sites or {}).get(place) or _site(model, place, latent)
    if site is None:
        return Mapped(None, f"of {place[:60]!r}, which has no site here")
    return Mapped(f"{site}.{number}")


def split_name(name: object) -> tuple[str, int | None]:
    """A unit's name as place and index: ``layer.3.ffn.512``, ``L3N512``, ``3/512``, ``blocks.3.hook_out.7``.

    The index is None where the name has none.
    """
    name = str(name).strip()
    if short := re.fullmatch(r"[Ll](?:ayer)?[ _.]?(\d+)[ _.,:/]?[NnFf](?:euron)?[ _.]?(\d+)", name):
        return short[1], int(short[2])
    if found := re.fullmatch(r"(.+?)[./:_](\d+)", name):
        return found[1], int(found[2])
    return name, None


def _site(model: str, place: str, latent: bool) -> str | None:
    if OF_THE_KIT.fullmatch(place):
        return place if not latent or place.endswith(".sae") else f"{place}.sae"
    if place.isdecimal():
        return None if latent else f"layer.{int(place)}.ffn"
    if source := SOURCE.fullmatch(place):
        return _site_of_source(model, *source.groups())
    if block := BLOCK.fullmatch(place):
        return _site_of_module(int(block[1]), block[2], latent)
    return None


def _site_of_source(model: str, layer: str, rest: str) -> str | None:
    """The dictionary that Neuronpedia calls LAYER-REST."""
    kinds = re.split(r"[-_]", rest.lower())
    if "tm" in kinds or any(kind.startswith("transcoder") for kind in kinds):
        return None
    if "res" in kinds or "resid" in kinds:
        if layer == "e":
            return "embeddings.sae"
        before = model.lower() in BEFORE_THE_BLOCK or "pre" in kinds
        return _after_block(int(layer) - before, "hidden.sae")
    if "att" in kinds and layer != "e":
        return f"layer.{layer}.{'attention' if AFTER_PROJECTION.search(model) else 'heads'}.sae"
    return None


def _site_of_module(layer: int, inside: str | None, latent: bool) -> str | None:
    sae = ".sae" if latent else ""
    if inside == "hook_resid_pre":
        return _after_block(layer - 1, f"hidden{sae}")
    return f"layer.{layer}.{INSIDE[inside]}{sae}" if inside in INSIDE else None


def _after_block(layer: int, kind: str) -> str:
    return f"layer.{layer}.{kind}" if layer >= 0 else kind.replace("hidden", "embeddings")


def _whole(index: object) -> int | None:
    """A whole number from 0 of an index that may be written as text; None for anything else."""
    text = str(index).strip()
    text = text[:-2] if text.endswith(".0") else text
    return int(text) if text.isascii() and text.isdecimal() else None
