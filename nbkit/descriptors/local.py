"""A language model on this machine, through transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nbkit.descriptors.messages import Messages, Reply, judge


class Local:
    """A causal or seq2seq language model on this machine; the same request gives the same reply.

    model        hub id or folder
    batch        requests that run together
    max_tokens   of a reply; decoding is greedy
    device       of torch
    chat         use the tokenizer's chat template; default: where there is one

    Without a chat template the messages become lines ("Text: ...", "Answer: ..."), and since a causal model
    then does not know when to stop, its reply is its first line. Special tokens that are typed in a text
    are broken up by a space: they would end its turn. A request that with its reply does not fit the model's
    context fails as "too long".
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
    ) -> None:
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

        self.name, self.model, self.batch, self.max_tokens = f"local:{model}", model, batch, max_tokens
        self.provenance = f"replies of the language model {model}, greedy"
        self._seq2seq = AutoConfig.from_pretrained(model).is_encoder_decoder
        kind: Any = AutoModelForSeq2SeqLM if self._seq2seq else AutoModelForCausalLM
        self._model = kind.from_pretrained(model).eval().to(device)
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

    @property
    def identity(self) -> dict[str, Any]:
        return {"name": self.name, "max_tokens": self.max_tokens, "chat": self._chat}

    def complete(self, messages: Messages) -> Reply:
        return self.complete_all([messages])[0]

    def complete_all(self, requests: Sequence[Messages]) -> list[Reply]:
        starts = range(0, len(requests), self.batch)
        return [reply for i in starts for reply in self._answer(requests[i : i + self.batch])]

    def _answer(self, requests: Sequence[Messages]) -> list[Reply]:
        tokens = [self._tokens(messages) for messages in requests]
        fits = [self._context is None or len(t) + self.max_tokens <= self._context for t in tokens]
        replies = iter(self._generate([t for t, fit in zip(tokens, fits, strict=True) if fit]))
        long = f"with its reply it has more than the {self._context} tokens that {self.model} reads"
        return [next(replies) if fit else Reply(None, "too long", long) for fit in fits]

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

    def _generate(self, tokens: list[list[int]]) -> list[Reply]:
        import torch

        if not tokens:
            return []
        given = self._tokenizer.pad({"input_ids": tokens}, return_tensors="pt").to(self._model.device)
        with torch.inference_mode():
            out = self._model.generate(
                input_ids=given["input_ids"],
                attention_mask=given["attention_mask"],
                max_new_tokens=self.max_tokens,
                do_sample=False,
                pad_token_id=self._tokenizer.pad_token_id,
            )
        new = out if self._seq2seq else out[:, given["input_ids"].shape[1] :]
        return [self._read(row, len(asked)) for row, asked in zip(new.tolist(), tokens, strict=True)]

    def _read(self, row: list[int], asked: int) -> Reply:
        text = self._tokenizer.decode(row, skip_special_tokens=True).strip()
        ends = self._model.generation_config.eos_token_id
        ended = bool(set(row) & set(ends if isinstance(ends, list) else [ends]))
        if not self._seq2seq and not self._chat:
            text, newline, _ = text.partition("\n")
            ended = ended or bool(newline)
        return judge(text, ended, (asked, len(row)))

    def __repr__(self) -> str:
        return f"Local({self.model})"
