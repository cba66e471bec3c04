"""`Subject`: a model with its tokenizer; recording, editing and naming its sites."""

from __future__ import annotations

import contextlib
import copy
import difflib
import functools
import inspect
import itertools
import json
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import tokenizers
import torch
from transformers import BatchEncoding, PreTrainedTokenizerBase

from nbkit.models.architectures import (
    KINDS,
    Architecture,
    blocks_of,
    drop_pooler,
    has_experts,
    hook,
    matrices_of,
    part_of,
    position_table,
    tap,
)
from nbkit.models.dictionaries import Dictionary
from nbkit.models.discovery import architecture_for, final_path, is_causal
from nbkit.models.fingerprints import fingerprint_of
from nbkit.models.placement import home_of, is_dispatched, without_values


class _Stop(Exception):
    """Ends a forward pass once everything asked for is recorded."""


#: One lock for each model: hooks see every forward pass, whichever thread began it.
_LOCKS: weakref.WeakKeyDictionary[torch.nn.Module, threading.RLock] = weakref.WeakKeyDictionary()
_LOCKS_LOCK = threading.Lock()


@dataclass(eq=False, repr=False)
class Subject:
    """A model under study. Also takes a model of your own: `Subject("mine", model, tokenizer)`.

    The model is put in evaluation mode and its parameters take no gradient. Weights changed
    afterwards make a new subject: wrap the changed model again, so that `fingerprint` is true.
    """

    name: str
    model: Any  # a transformers model; what its attributes are depends on the family
    tokenizer: PreTrainedTokenizerBase
    revision: str | None = None  # the hub's commit, for a model from there
    dictionaries: Mapping[str, Dictionary] = field(default_factory=dict)  # by site: see `models.attach`

    def __post_init__(self):
        if empty := without_values(self.model):
            raise ValueError(
                f"{self.name}: {len(empty)} weights are on the meta device (no values), "
                f"{empty[0]} first; load the model without low-memory options, or by models.load"
            )
        if not getattr(self.tokenizer, "is_fast", False):
            raise ValueError(
                f"{self.name}: {type(self.tokenizer).__name__} gives no character offsets, which match "
                "tokens with words; take a fast tokenizer (a folder with tokenizer.json)"
            )
        self.model.eval().requires_grad_(False)
        for module in self.model.modules():
            # An option to save memory. It would cut the `ffn` site into pieces.
            if getattr(module, "chunk_size_feed_forward", 0):
                module.chunk_size_feed_forward = 0
        self.architecture  # noqa: B018 (a model whose sites are not found is refused now)

    @functools.cached_property
    def architecture(self) -> Architecture:
        """Where the sites are: the record of the family, or one that was guessed (`.guessed`) and checked."""
        return architecture_for(self.model)

    @functools.cached_property
    def causal(self) -> bool:
        """Whether a token sees only those before it, found by comparing two short texts."""
        with self.alone():
            return is_causal(self.model, self.architecture)

    @functools.cached_property
    def final_norm(self) -> list[str]:
        """Modules from the last `hidden` to the last of transformers' `hidden_states`, found by comparing."""
        with self.alone():
            return final_path(self.model, self.architecture)

    @property
    def gated(self) -> bool:
        """Whether the feed-forward network is act(gate) * up, whose units mean something at both ends."""
        return "gate" in set(self.sites["kind"])

    def __repr__(self) -> str:
        layers, width = self.sites["layer"].max() + 1, self.sites["width"].iloc[0]
        guessed = " (sites guessed)" if self.architecture.guessed else ""
        return (
            f"<Subject {self.name}: {self.model.config.model_type}{guessed}, {layers} layers, "
            f"{width} wide, {len(self.sites)} sites, {self.device} {self.dtype}>"
        )

    @property
    def device(self) -> torch.device:
        """Where inputs go: the device of the embeddings."""
        return home_of(self.model.get_input_embeddings())

    @property
    def dispatched(self) -> bool:
        """Whether the model is on several devices, or waits in memory or on disk (`device_map`)."""
        return is_dispatched(self.model)

    @property
    def dtype(self) -> str:
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def max_length(self) -> int | None:
        """Tokens a text may have, special tokens included; None: no bound is known.

        The smallest of the table of positions, `config.max_position_embeddings` and the tokenizer's
        `model_max_length`, which you may set lower.
        """
        known = [self.tokenizer.model_max_length, getattr(self.model.config, "max_position_embeddings", None)]
        table = position_table(self.model, self.architecture)
        if table is not None:
            # RoBERTa and MPNet count positions from the padding index + 1: of 514 rows, 512 serve.
            known.append(table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1))
        bounds = [n for n in known if n is not None and 0 < n < 1e9]  # transformers writes "unknown" as 1e30
        return int(min(bounds)) if bounds else None

    @functools.cached_property
    def sites(self) -> pd.DataFrame:
        """One row a site, in order of computation: site, layer (-1: embeddings), kind, width."""
        blocks = blocks_of(self.model, self.architecture)
        matrices = [matrices_of(block, self.architecture) for block in blocks]
        hidden = matrices[0]["attention"][1]
        rows = [("embeddings", -1, "embeddings", hidden)]
        for layer, found in enumerate(matrices):
            widths = {kind: width for kind, (_, width) in found.items()} | {"hidden": hidden}
            rows += [(f"layer.{layer}.{kind}", layer, kind, widths[kind]) for kind in KINDS if kind in widths]
        latents = {site: found.width for site, found in self.dictionaries.items()}
        rows = [
            one
            for row in rows
            for one in (row, (f"{row[0]}.sae", row[1], "sae", latents.get(row[0])))
            if one[3] is not None
        ]
        return pd.DataFrame(rows, columns=["site", "layer", "kind", "width"])

    def select(self, sites: str | Iterable[str]) -> list[str]:
        """Site names, in model order, for a site, a group or a list of these.

        Groups: `hidden` (every layer.N.hidden, not the embeddings), `ffn`, `gate`, `up`, `attention`,
        `heads`, `sae`, `embeddings`, `all`.
        """
        groups = {"all": list(self.sites["site"])}
        for site, kind in zip(groups["all"], self.sites["kind"], strict=True):
            groups.setdefault(kind, []).append(site)
        asked = [sites] if isinstance(sites, str) else list(sites)
        if not asked:
            raise ValueError(f"no sites asked for; groups: {', '.join(groups)}")
        known = [*groups, *groups["all"]]
        for site in asked:
            if site not in known:
                self._refuse_experts(site)
                close = " or ".join(difflib.get_close_matches(str(site), known, n=3))
                raise ValueError(
                    f"unknown site {site!r} of {self.name}; "
                    + (f"did you mean {close}? " if close else "")
                    + f"groups: {', '.join(groups)}; single sites: embeddings, layer.N.KIND with "
                    f"N from 0 to {self.sites['layer'].max()}"
                )
        chosen = {site for one in asked for site in groups.get(one, [one])}
        return [site for site in groups["all"] if site in chosen]

    def _refuse_experts(self, site: Any) -> None:
        """A ``ValueError`` for a feed-forward site of a model whose experts share one weight tensor."""
        if str(site).rpartition(".")[2] in ("ffn", "gate", "up"):
            if any(has_experts(block) for block in blocks_of(self.model, self.architecture)):
                raise ValueError(
                    f"{self.name} is a mixture of experts, without {site!r} that all tokens pass: "
                    "take hidden, attention or heads"
                )

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Inside `with`, this thread has the model to itself; `run`, `record` and `edit` do this themselves.

        Other threads wait there; in the same thread they may be nested.
        """
        with _LOCKS_LOCK:
            lock = _LOCKS.setdefault(self.model, threading.RLock())
        with lock:
            yield

    @contextlib.contextmanager
    def record(
        self,
        sites: str | Iterable[str],
        *,
        stop: bool = False,
        keep: Callable[[torch.Tensor], Any] | None = None,
    ) -> Iterator[dict[str, torch.Tensor]]:
        """Inside `with`, every `subject.model(**batch)` refills the dict that is yielded.

        The tensors, [batch, token, width], are the model's own, not copies: read them, reduce
        them or clone them, and change none in place. With `keep`, what is recorded is what it
        makes of each tensor as soon as there is one. With `stop`, the forward pass raises a
        private exception after the last site; `run` is the way to use that.
        """
        wanted, recorded = set(self.select(sites)), dict[str, Any]()

        def put(site: str, tensor: torch.Tensor) -> None:
            if site in wanted:
                recorded[site] = tensor if keep is None else keep(tensor)
            if (latents := f"{site}.sae") in wanted:
                found = self.dictionaries[site].encode(tensor)
                recorded[latents] = found if keep is None else keep(found)
            if stop and len(recorded) == len(wanted):
                raise _Stop

        with self._tapped(put, recorded.clear):
            yield recorded

    @contextlib.contextmanager
    def edit(self, edits: Mapping[str, Callable[[torch.Tensor], torch.Tensor]]) -> Iterator[None]:
        """Inside `with`, every forward pass goes on with `edits[site](tensor)` in place of a site's tensor.

        Tensors are [batch, token, width]; an edit returns a new one of the same shape. What is
        recorded outside this `with` sees the tensors before, inside it those after. XLNet's heads
        and attention cannot be edited: `ValueError`.
        """
        for site in edits:
            self.select(site)
            if site not in set(self.sites["site"]):
                raise ValueError(f"{site!r} is a group: name single sites to edit, like layer.3.hidden")
            if site.endswith(".sae"):
                raise ValueError(f"{site!r} can be recorded but not edited: edit {site[:-4]}")
            if self.architecture.xlnet and site.endswith(("heads", "attention")):
                raise ValueError(f"{site!r} of XLNet can be recorded but not edited: edit hidden or ffn")
        with self._tapped(lambda site, tensor: edits[site](tensor) if site in edits else None):
            yield

    @contextlib.contextmanager
    def _tapped(
        self,
        put: Callable[[str, torch.Tensor], torch.Tensor | None],
        begin: Callable[[], None] = lambda: None,
    ) -> Iterator[None]:
        """Every site of every forward pass goes through `put(site, tensor)`; what it returns, if anything,
        takes the tensor's place. `begin` is called first."""
        architecture = self.architecture
        layer, size = -1, torch.Size()  # of the batch: [text, token]
        bridge = None  # what changes the output of block 0
        if architecture.after_first:
            parent, _, name = architecture.after_first.rpartition(".")
            bridge = getattr(part_of(self.model.base_model, parent), name, None)

        def at(kind: str, tensor: torch.Tensor) -> torch.Tensor | None:
            site = kind if kind == "embeddings" else f"layer.{layer}.{kind}"
            if architecture.xlnet:
                changed = put(site, tensor.transpose(0, 1))
                return None if changed is None else changed.transpose(0, 1)
            if tensor.ndim == 3:
                return put(site, tensor)
            changed = put(site, tensor.unflatten(0, size))  # OPT flattens [text, token] for a while
            return None if changed is None else changed.flatten(0, 1)

        def start(model, args) -> None:
            nonlocal layer
            layer = -1
            begin()

        def enter(block, tensor) -> torch.Tensor | None:
            # Counting entries, rather than a hook for each layer, is what makes ALBERT's shared
            # blocks work: the same module is entered once for every layer.
            nonlocal layer, size
            layer, size = layer + 1, tensor.shape[:2]
            return at("embeddings", tensor) if layer == 0 else None

        def leave(block, tensor) -> torch.Tensor | None:
            return None if bridge is not None and layer == 0 else at("hidden", tensor)

        with self.alone(), contextlib.ExitStack() as stack:
            stack.callback(self.model.base_model.register_forward_pre_hook(start).remove)
            for block in dict.fromkeys(blocks_of(self.model, architecture)):
                hook(stack, block, enter, leave)
                tap(stack, block, architecture, at)
            if bridge is not None:
                hook(stack, bridge, after=lambda m, tensor: at("hidden", tensor))
            yield

    def run(
        self,
        batch: Mapping[str, torch.Tensor],
        sites: str | Iterable[str],
        *,
        keep: Callable[[torch.Tensor], Any] | None = None,
    ) -> dict[str, Any]:
        """One forward pass over a tokenized batch, up to the last site asked for.

        `batch` is what the tokenizer returns with `return_tensors="pt"`; entries the model does
        not take (offsets, special-token masks) are left out. Gives {site: [batch, token, width]}
        on the subject's device (of a spread one: each where its block is), in model order, without
        gradients; or {site: keep(tensor)}, so that the tensors themselves go at once and their memory is
        used again.
        """
        wanted = self.select(sites)
        takes = inspect.signature(self.model.forward).parameters
        inputs = {key: value.to(self.device) for key, value in batch.items() if key in takes}
        inputs["input_ids"] = self._embedded(inputs)
        length = inputs["input_ids"].shape[1]
        if self.max_length is not None and length > self.max_length:
            raise ValueError(
                f"a batch of {length} tokens, but {self.name} has {self.max_length} positions; "
                f"tokenize with truncation=True, max_length={self.max_length}"
            )
        with torch.no_grad(), self.record(wanted, stop=True, keep=keep) as seen, contextlib.suppress(_Stop):
            self.model(**inputs)
        if lost := [site for site in wanted if site not in seen]:
            raise ValueError(
                f"{self.name}: its forward pass does not come through {lost[0]}; ask for other sites"
            )
        return {site: seen[site] for site in wanted}

    def _embedded(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Token ids that the model embeds, padded on the right: else a `ValueError`."""
        ids, mask = inputs["input_ids"], inputs.get("attention_mask")
        relative = position_table(self.model, self.architecture) is None
        if mask is not None and mask.ndim == 2:
            if "position_ids" not in inputs and not relative and (mask[:, 1:] > mask[:, :-1]).any():
                raise ValueError(
                    f"a batch padded on the left: {self.name} counts positions from there, so padding "
                    "would change its numbers; use subject.encode(texts) or tokenizer.padding_side = 'right'"
                )
            ids = ids.masked_fill((mask == 0) & (ids >= self._n_embedded), 0)  # padding is not looked at
        if (ids >= self._n_embedded).any():
            worst = int(ids.max())
            raise ValueError(
                f"token id {worst} ({self.tokenizer.convert_ids_to_tokens(worst)!r}), but {self.name} embeds "
                f"{self._n_embedded} tokens: leave it out of the texts"
            )
        return ids

    @property
    def _n_embedded(self) -> int:
        return self.model.get_input_embeddings().num_embeddings

    @contextlib.contextmanager
    def record_inputs(
        self, modules: Iterable[torch.nn.Module]
    ) -> Iterator[dict[torch.nn.Module, torch.Tensor]]:
        """Inside `with`, every forward pass refills the dict with the first input of each of `modules`.

        For places that have no site, such as what enters the first matrix of a feed-forward network.
        """
        seen: dict[torch.nn.Module, torch.Tensor] = {}
        with self.alone(), contextlib.ExitStack() as stack:
            for module in modules:
                hook(stack, module, before=lambda module, x: seen.update({module: x}))
            yield seen

    def tokenize(self, texts: Sequence[str], **options: Any) -> BatchEncoding:
        """The tokenizer's own call, of whose result every token of a text stands for its characters.

        A special token typed in a text, such as "[SEP]", is plain characters there. A text with a token that
        the model does not embed (one that was added to the tokenizer) is a `ValueError` with that text.
        """
        texts = list(texts)
        options |= {"split_special_tokens": True, "return_special_tokens_mask": True}
        found = self.tokenizer(texts, **options)
        flat, added = (_flat(found[name]) for name in ("input_ids", "special_tokens_mask"))
        special = set(self.tokenizer.all_special_ids).difference([self.tokenizer.unk_token_id])
        if np.isin(flat[added == 0], list(special)).any():
            found = _without_special_pieces(self.tokenizer)(texts, **options)
        if (flat[added == 0] >= self._n_embedded).any():
            self._refuse_beyond(texts)
        return found

    def _refuse_beyond(self, texts: list[str]) -> None:
        """A `ValueError` for the first text with a token that the model does not embed."""
        for text in texts:
            ids = self.tokenizer(text, split_special_tokens=True, add_special_tokens=False)["input_ids"]
            if (worst := max(ids, default=0)) >= self._n_embedded:
                raise ValueError(
                    f"the text {text[:60]!r} has the token {self.tokenizer.convert_ids_to_tokens(worst)!r} "
                    f"(id {worst}), but {self.name} embeds {self._n_embedded} tokens: leave it out"
                )

    def encode(
        self, texts: Sequence[str], *, length: int | None = None, **options: Any
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Tokenize texts: what `run` and the model take, and which tokens are the texts' own.

        length   pad every text to so many tokens and cut it there; None: pad to the longest of them, and
                 cut at `max_length`
        options  more for the tokenizer, such as return_offsets_mapping=True

        Gives a dict of tensors [text, token] on the subject's device, and a mask [text, token] that is
        False for special tokens and padding. Padding is on the right, as positions assume.
        """
        bound = self.max_length if length is None else length
        batch = self.tokenize(
            texts,
            padding=True if length is None else "max_length",
            padding_side="right",
            truncation=bound is not None,
            max_length=bound,
            return_tensors="pt",
            **options,
        ).to(self.device)
        own = batch["attention_mask"].bool() & ~batch.pop("special_tokens_mask").bool()
        return dict(batch), own

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over whatever changes the numbers, computed once, when it is first asked for:
        configuration, attention implementation, every weight (name, dtype, shape, bytes), the
        dictionaries attached, and the tokenizer. Not the device, and not the versions of libraries.
        """
        return fingerprint_of(self.model, self.tokenizer, self.dictionaries)

    def randomized(self, seed: int) -> Subject:
        """The same network with weights fresh from transformers' own initialisation: a control.

        Weights are drawn on the CPU, so that a seed means the same weights on every device;
        the global random state is left as it was. `ValueError` for a model that is spread over devices.
        """
        if self.dispatched:
            raise ValueError(
                f"{self.name} is spread over devices, where no randomized copy is made: load it without"
                " device_map"
            )
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            # Not torch.manual_seed: that would also seed the GPUs, which are not restored.
            torch.default_generator.manual_seed(seed)
            model = type(self.model)(copy.deepcopy(self.model.config))
        if getattr(self.model, "pooler", None) is None:
            drop_pooler(model)
        model.to(self.device, self.model.dtype)
        return Subject(f"{self.name}-random{seed}", model, self.tokenizer, dictionaries=self.dictionaries)


def _flat(values: torch.Tensor | list[list[int]]) -> np.ndarray:
    """The numbers of all texts, one after another."""
    if isinstance(values, torch.Tensor):
        return values.flatten().numpy()
    return np.fromiter(itertools.chain.from_iterable(values), dtype=np.int64)


def _without_special_pieces(tokenizer: Any) -> PreTrainedTokenizerBase:
    """A tokenizer that never makes a special token of a text.

    A SentencePiece model (XLNet, ALBERT, T5) has them among its pieces, as the most probable ones. Other
    tokenizers are returned as they are.
    """
    plain = json.loads(tokenizer.backend_tokenizer.to_str())
    if plain["model"].get("type") != "Unigram":
        return tokenizer
    special = set(tokenizer.all_special_tokens).difference([tokenizer.unk_token])
    for piece in plain["model"]["vocab"]:
        if piece[0] in special:
            piece[1] = -1e6
    made = copy.deepcopy(tokenizer)
    made._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(plain))
    return made
