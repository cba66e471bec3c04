"""A language model on this machine, through transformers."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from typing import Any

from nbkit.descriptors.messages import Messages, Reply, judge

SHORTEST = 16  # tokens that requests must have in common at their start, to be computed once for all


class Local:
    """A causal or seq2seq language model on this machine; the same request gives the same reply.

    model        hub id or folder
    batch        requests that run together
    max_tokens   of a reply; decoding is greedy
    device       of torch
    chat         use the tokenizer's chat template; default: where there is one
    dtype        of the weights: "float32", "bfloat16", or "auto": bfloat16 where the processor computes in it
    stop         a character that ends a reply, and belongs to it
    name         in frames and counts; default: "local:" and the model

    What all requests begin with (task and worked examples) is computed once, and each batch goes on from
    there. Without a chat template the messages become lines ("Text: ...", "Answer: ..."), and since a causal
    model then does not know when to stop, its reply is its first line. Special tokens that are typed in a
    text are broken up by a space: they would end its turn. A request that with its reply does not fit the
    model's context fails as "too long".
    """

    concurrency = 1
    free = True

    def __init__(
        self,
        model: str,
        *,
        batch: int = 8,
        max_tokens: int = 64,
        device: str = "cpu",
        chat: bool | None = None,
        dtype: str = "float32",
        stop: str = "",
        name: str = "",
    ) -> None:
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

        self.name, self.model, self.batch, self.max_tokens = (
            name or f"local:{model}",
            model,
            batch,
            max_tokens,
        )
        self.provenance = f"replies of the language model {model}, greedy"
        self._seq2seq = AutoConfig.from_pretrained(model).is_encoder_decoder
        kind: Any = AutoModelForSeq2SeqLM if self._seq2seq else AutoModelForCausalLM
        self._dtype = _fastest() if dtype == "auto" else dtype
        self._model = kind.from_pretrained(model, dtype=self._dtype).eval().to(device)
        self._tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        has_template = bool(self._tokenizer.chat_template)
        if chat and not has_template:
            raise ValueError(f"{model!r} has no chat template: leave chat out")
        self._chat = has_template if chat is None else chat
        self._context = getattr(self._model.config, "max_position_embeddings", None)
        special = self._tokenizer.added_tokens_decoder.values()
        self._special = [t.content for t in special if t.special and len(t.content) > 1]
        ends = self._model.generation_config.eos_token_id
        self._ends: set[int] = set(ends if isinstance(ends, list) else [ends]) - {None}
        self._stops = self._with(stop) if stop else set()

    @property
    def identity(self) -> dict[str, Any]:
        known = {"name": self.name, "max_tokens": self.max_tokens, "chat": self._chat}
        return known | ({"dtype": self._dtype} if self._dtype != "float32" else {})

    def complete(self, messages: Messages) -> Reply:
        return self.complete_all([messages])[0]

    def complete_all(self, requests: Sequence[Messages]) -> list[Reply]:
        from tqdm.auto import tqdm

        tokens = [self._tokens(messages) for messages in requests]
        long = f"with its reply it has more than the {self._context} tokens that {self.model} reads"
        replies = [Reply(None, "too long", long)] * len(tokens)
        limit = float("inf") if self._context is None else self._context - self.max_tokens
        fits = [i for i, row in enumerate(tokens) if len(row) <= limit]
        fits.sort(key=lambda i: len(tokens[i]))  # rows of a batch are padded to one length
        shared = self._shared([tokens[i] for i in fits])
        starts = range(0, len(fits), self.batch)
        for start in tqdm(starts, desc=self.name, leave=False, delay=2, disable=None):
            rows = fits[start : start + self.batch]
            for row, reply in zip(rows, self._generate([tokens[i] for i in rows], shared), strict=True):
                replies[row] = reply
        return replies

    def _shared(self, tokens: list[list[int]]) -> tuple[Sequence[int], Any] | None:
        """The tokens that all rows begin with, and their keys and values; None where it is not worth it."""
        import torch

        common = os.path.commonprefix(tokens)[: min(map(len, tokens), default=1) - 1]
        if self._seq2seq or len(tokens) < 2 or len(common) < SHORTEST:
            return None
        with torch.inference_mode():
            ids = torch.tensor([common], device=self._model.device)
            return common, self._model(input_ids=ids, use_cache=True).past_key_values

    def _tokens(self, messages: Messages) -> list[int]:
        prompt = self._prompt([{**m, "content": self._plain(m["content"])} for m in messages])
        return self._tokenizer(prompt, add_special_tokens=not self._chat)["input_ids"]

    def _plain(self, text: str) -> str:
        for token in self._special:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    def _prompt(self, messages: Messages) -> str:
        if self._chat:
            return self._tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=True
            )
        names = {"system": "", "user": "Text: ", "assistant": "Answer: "}
        return "\n".join([*(names[m["role"]] + m["content"] for m in messages), "Answer:"])

    def _generate(self, tokens: list[list[int]], shared: tuple[Sequence[int], Any] | None) -> list[Reply]:
        import torch

        prefix, past = shared or ([], None)
        rests = [row[len(prefix) :] for row in tokens]
        given = self._tokenizer.pad({"input_ids": rests}, return_tensors="pt").to(self._model.device)
        ids, mask = given["input_ids"], given["attention_mask"]
        more = {}
        if past is not None:  # padding stands between what is shared and the rest: masked, and not counted
            start = torch.tensor([prefix], device=ids.device).expand(len(tokens), -1)
            ids, mask = torch.hstack([start, ids]), torch.hstack([torch.ones_like(start), mask])
            more["past_key_values"] = copy.deepcopy(past)
            more["past_key_values"].batch_repeat_interleave(len(tokens))
        with torch.inference_mode():
            out = self._model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=self.max_tokens,
                do_sample=False,
                pad_token_id=self._tokenizer.pad_token_id,
                eos_token_id=sorted(self._ends | self._stops) or None,
                **more,
            )
        new = out if self._seq2seq else out[:, ids.shape[1] :]
        return [self._read(row, len(asked)) for row, asked in zip(new.tolist(), tokens, strict=True)]

    def _read(self, row: list[int], asked: int) -> Reply:
        text = self._tokenizer.decode(row, skip_special_tokens=True).strip()
        ended = bool(set(row) & (self._ends | self._stops))
        if not self._seq2seq and not self._chat:
            text, newline, _ = text.partition("\n")
            ended = ended or bool(newline)
        return judge(text, ended, (asked, len(row)))

    def _with(self, character: str) -> set[int]:
        """Tokens that hold ``character``."""
        ids = range(len(self._tokenizer))
        return {
            i
            for i, text in zip(ids, self._tokenizer.batch_decode([[i] for i in ids]), strict=True)
            if character in text
        }

    def __repr__(self) -> str:
        return f"Local({self.model})"


def _fastest() -> str:
    """bfloat16 where this processor has instructions for it: elsewhere it is slower than float32."""
    import torch

    mkldnn = torch.ops.mkldnn
    return (
        "bfloat16"
        if torch.backends.mkldnn.is_available() and mkldnn._is_mkldnn_bf16_supported()
        else "float32"
    )
