"""Generators."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from nbkit.provenance import fingerprint

Messages = Sequence[dict[str, str]]

#: Failures that another attempt may mend: never kept as an answer, asked again when a run resumes.
PASSING = ("timed out", "no connection", "busy", "server error", "broken reply")
OVER_THE_CAP = "over the cap"


class Request(list):
    """Messages that know the ``version`` of their prompt and the JSON ``schema`` of a good reply."""

    def __init__(
        self, messages: Messages, *, version: str = "", schema: dict[str, Any] | None = None
    ) -> None:
        super().__init__(messages)
        self.version, self.schema = version, schema


class Reply(NamedTuple):
    """What came back. ``raw`` is the text of a reply that failed; tokens as the server counted them."""

    text: str | None
    failure: str = ""  # why there is no text, in a word or two
    raw: str = ""
    tokens: tuple[int, int] = (0, 0)  # of the request, of the reply


class Generator(Protocol):
    """Anything that answers messages. ``provenance`` says what its words are worth."""

    name: str
    provenance: str

    def complete(self, messages: Messages) -> Reply: ...

    def complete_all(self, requests: Sequence[Messages]) -> list[Reply]: ...


def connect(spec: str, **options: object) -> Generator:
    """The generator that ``spec`` names; ``options`` go to it. Unknown: ``ValueError``."""
    kind, _, rest = spec.partition(":")
    if kind not in KINDS:
        raise ValueError(f"unknown generator {spec!r}; there are {', '.join(KINDS)}")
    return KINDS[kind](rest, **options)


class Recorded:
    """Replays replies that were written down. A text that was not recorded is a failed request.

    ``of`` is a generator or its spec: it is asked for what the file lacks, and every reply that is
    not a passing failure goes into the file. A recorded line replays to the very same request only
    (prompt and version included); a line without ``request`` replays to any request about its text.
    """

    def __init__(self, where: str, *, of: str | Generator | None = None) -> None:
        self.name = f"recorded:{where}"
        self._of = connect(of) if isinstance(of, str) else of
        self._path = Path(where)
        self._lock = threading.Lock()
        if where == "sample":
            self.provenance = "descriptors written for the sample, not produced by a model"
            self._replies = _written_replies()
        else:
            self.provenance = f"replies recorded in {self._path.name}"
            new = self._of is not None and not self._path.exists()
            self._replies = {} if new else _read_replies(self._path)

    def complete(self, messages: Messages) -> Reply:
        return self.complete_all([messages])[0]

    def complete_all(self, requests: Sequence[Messages]) -> list[Reply]:
        absent = {request_key(m): m for m in requests if self._find(m) is None}
        passing = {}
        if self._of is not None and absent:
            asked = self._of.complete_all(list(absent.values()))
            for (key, messages), reply in zip(absent.items(), asked, strict=True):
                if reply.failure in (*PASSING, OVER_THE_CAP):
                    passing[key] = reply
                else:
                    self._record(key, messages, reply)
        missing = Reply(None, "not recorded")
        return [self._find(m) or passing.get(request_key(m), missing) for m in requests]

    def _find(self, messages: Messages) -> Reply | None:
        return self._replies.get(request_key(messages)) or self._replies.get(messages[-1]["content"])

    def _record(self, key: str, messages: Messages, reply: Reply) -> None:
        line = {"text": messages[-1]["content"], "request": key, "by": self._of.name, "reply": reply.text}
        if reply.text is None:
            line |= {"failure": reply.failure, "raw": reply.raw}
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._replies[key] = reply._replace(tokens=(0, 0))

    def __repr__(self) -> str:
        return f"Recorded({self.name}, {len(self._replies):,} replies)"


class Keyphrase:
    """Key phrases of a text, extracted: KeyBERT's candidates (one and two words, English stop words
    dropped) ranked by their embedding's closeness to the text's.

    ``top`` phrases a text; ``encoder`` is a sentence encoder, by default ``descriptors.encoder()``.
    """

    def __init__(self, _: str = "", *, top: int = 5, encoder: object = None) -> None:
        self.name = "keyphrase"
        self.provenance = "phrases extracted from the text itself by KeyBERT, no language model"
        self.top = top
        self._encoder = encoder

    def complete(self, messages: Messages) -> Reply:
        return self.complete_all([messages])[0]

    def complete_all(self, requests: Sequence[Messages]) -> list[Reply]:
        from keybert import KeyBERT
        from sklearn.feature_extraction.text import CountVectorizer

        from nbkit.models import sentence_encoder

        model = KeyBERT(model=self._encoder or sentence_encoder())
        texts = [messages[-1]["content"] for messages in requests]
        vectorizer = CountVectorizer(
            ngram_range=(1, 2), stop_words="english", token_pattern=r"(?u)\b[^\W\d]{3,}\b"
        )
        try:
            found = model.extract_keywords(texts, vectorizer=vectorizer, top_n=self.top)
        except ValueError:  # no candidate in any of the texts
            found = [[] for _ in texts]
        if len(texts) == 1 and found and isinstance(found[0], tuple):
            found = [found]
        return [
            Reply(json.dumps([phrase for phrase, _ in phrases])) if phrases else Reply(None, "empty")
            for phrases in found
        ]

    def __repr__(self) -> str:
        return f"Keyphrase(top={self.top})"


class Local:
    """A language model on this machine through transformers; FLAN-T5 and Pythia go by name.

    ``model`` is a hub id or a folder; ``batch`` requests run together; a reply has at most
    ``max_tokens`` tokens and is greedy (the same request gives the same reply). The tokenizer's chat
    template is used when there is one. Without it the messages become plain lines; a causal model then
    never knows when to stop, so its reply is its first line.
    """

    concurrency = 1

    def __init__(self, model: str, *, batch: int = 8, max_tokens: int = 64, device: str = "cpu") -> None:
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

        self.name, self.model, self.batch, self.max_tokens = f"local:{model}", model, batch, max_tokens
        self.provenance = f"replies of the language model {model}, greedy"
        self._seq2seq = AutoConfig.from_pretrained(model).is_encoder_decoder
        kind = AutoModelForSeq2SeqLM if self._seq2seq else AutoModelForCausalLM
        self._model = kind.from_pretrained(model).eval().to(device)
        self._tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token

    @property
    def identity(self) -> dict[str, Any]:
        return {"name": self.name, "max_tokens": self.max_tokens}

    def complete(self, messages: Messages) -> Reply:
        return self.complete_all([messages])[0]

    def complete_all(self, requests: Sequence[Messages]) -> list[Reply]:
        starts = range(0, len(requests), self.batch)
        return [reply for i in starts for reply in self._answer(requests[i : i + self.batch])]

    def _answer(self, requests: Sequence[Messages]) -> list[Reply]:
        import torch

        prompts = [self._prompt(messages) for messages in requests]
        chat = bool(self._tokenizer.chat_template)
        given = self._tokenizer(prompts, padding=True, return_tensors="pt", add_special_tokens=not chat)
        given = {k: v.to(self._model.device) for k, v in given.items() if k != "token_type_ids"}
        with torch.inference_mode():
            out = self._model.generate(
                **given,
                max_new_tokens=self.max_tokens,
                do_sample=False,
                pad_token_id=self._tokenizer.pad_token_id,
            )
        new = out if self._seq2seq else out[:, given["input_ids"].shape[1] :]
        lengths = given["attention_mask"].sum(1).tolist()
        return [self._read(row, n) for row, n in zip(new.tolist(), lengths, strict=True)]

    def _prompt(self, messages: Messages) -> str:
        if self._tokenizer.chat_template:
            return self._tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=True
            )
        names = {"system": "", "user": "Text: ", "assistant": "Answer: "}
        return "\n".join([*(names[m["role"]] + m["content"] for m in messages), "Answer:"])

    def _read(self, row: list[int], asked: int) -> Reply:
        text = self._tokenizer.decode(row, skip_special_tokens=True).strip()
        ends = self._model.generation_config.eos_token_id
        ended = bool(set(row) & set(ends if isinstance(ends, list) else [ends]))
        if not self._seq2seq and not self._tokenizer.chat_template:
            text, newline, _ = text.partition("\n")
            ended = ended or bool(newline)
        return _judge(text, ended, (asked, len(row)))

    def __repr__(self) -> str:
        return f"Local({self.model})"


class OpenAI:
    """A model behind a server that speaks the OpenAI protocol (OpenAI, vLLM, Ollama, transformers serve).

    base_url      the server; default is the client's own ($OPENAI_BASE_URL, else OpenAI)
    concurrency   requests under way at once
    retries       attempts after the first, with growing pauses, on 429, 5xx, timeouts and lost connections
    timeout       seconds for one attempt
    temperature   0: the most likely reply

    A request with a JSON schema asks for structured output; a server that does not know it (400, 422) is
    asked without from then on. A wrong key or an unknown model (401, 403, 404) is a ``ValueError``.
    """

    batch = 1

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        concurrency: int = 4,
        retries: int = 4,
        timeout: float = 60.0,
        max_tokens: int = 128,
        temperature: float = 0.0,
    ) -> None:
        import openai

        self.name, self.model = f"openai:{model}", model
        self.provenance = f"replies of the language model {model}"
        self.concurrency, self.max_tokens, self.temperature = concurrency, max_tokens, temperature
        self._key = api_key or os.environ.get("OPENAI_API_KEY")
        if not self._key:
            raise ValueError("openai: has no key: set OPENAI_API_KEY (any word, if the server wants none)")
        self._client = openai.OpenAI(
            base_url=base_url, api_key=self._key, max_retries=retries, timeout=timeout
        )
        self._structured = True

    @property
    def identity(self) -> dict[str, Any]:
        """What decides a reply besides the messages; never the key."""
        return {
            "name": self.name,
            "server": self._hide(str(self._client.base_url)),
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
        }

    def complete_all(self, requests: Sequence[Messages]) -> list[Reply]:
        return side_by_side(self.complete, requests, self.concurrency)

    def complete(self, messages: Messages) -> Reply:
        import openai

        try:
            return self._read(self._send(messages))
        except openai.APITimeoutError:
            return Reply(None, "timed out")
        except openai.APIConnectionError:
            return Reply(None, "no connection")
        except openai.RateLimitError as error:
            return Reply(None, "busy", self._hide(str(error)))
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
            fault = f"{self.name} was turned away ({error.status_code}): {self._hide(str(error))}"
        except openai.InternalServerError as error:
            return Reply(None, "server error", self._hide(str(error)))
        except openai.APIStatusError as error:
            return Reply(None, "rejected", self._hide(str(error)))
        except (openai.APIError, ValueError, AttributeError, TypeError) as error:  # no JSON, or not a reply
            return Reply(None, "broken reply", self._hide(str(error)))
        raise ValueError(fault)  # outside the handler: the client's error, and its headers, stay behind

    def _send(self, messages: Messages) -> Any:
        import openai

        schema = getattr(messages, "schema", None)
        shape = {"type": "json_schema", "json_schema": {"name": "reply", "strict": True, "schema": schema}}
        asked = {
            "model": self.model,
            "messages": list(messages),
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
        }
        if schema is not None and self._structured:
            try:
                return self._client.chat.completions.create(**asked, response_format=shape)
            except (openai.BadRequestError, openai.UnprocessableEntityError):
                reply = self._client.chat.completions.create(**asked)  # raises again if it was not that
                self._structured = False
                return reply
        return self._client.chat.completions.create(**asked)

    def _read(self, answer: Any) -> Reply:
        used = answer.usage
        tokens = (used.prompt_tokens, used.completion_tokens) if used else (0, 0)
        if not answer.choices:
            return Reply(None, "empty", tokens=tokens)
        choice = answer.choices[0]
        if getattr(choice.message, "refusal", None) or choice.finish_reason == "content_filter":
            return Reply(None, "refused", self._hide(choice.message.refusal or ""), tokens)
        return _judge(self._hide(choice.message.content or ""), choice.finish_reason != "length", tokens)

    def _hide(self, text: str) -> str:
        return text.replace(self._key, "[key]")

    def __repr__(self) -> str:
        return f"OpenAI({self.model})"


def side_by_side(function: Callable[[Any], Any], things: Sequence[Any], workers: int) -> list[Any]:
    """``function`` of each; when interrupted, what runs ends properly and nothing new starts."""
    from tqdm.auto import tqdm

    pool = ThreadPoolExecutor(max(workers, 1))
    try:
        futures = [pool.submit(function, thing) for thing in things]
        return [f.result() for f in tqdm(futures, desc="replies", leave=False, delay=2, disable=None)]
    finally:
        with contextlib.suppress(KeyboardInterrupt):
            pool.shutdown(wait=True, cancel_futures=True)


def _judge(text: str, ended: bool, tokens: tuple[int, int]) -> Reply:
    if not text.strip():
        return Reply(None, "empty", text, tokens)
    return Reply(text, tokens=tokens) if ended else Reply(None, "truncated", text, tokens)


def size_of(messages: Messages) -> int:
    """Bytes of a request, with 16 a message for its frame: no tokenizer makes more tokens of it."""
    return sum(len(m["content"].encode()) + 16 for m in messages)


KINDS = {"recorded": Recorded, "keyphrase": Keyphrase, "local": Local, "openai": OpenAI}


def request_key(messages: Messages) -> str:
    return fingerprint(list(messages), getattr(messages, "version", ""), getattr(messages, "schema", None))


def _written_replies() -> dict[str, Reply]:
    """The sample's texts with their written descriptors, as a language model would have answered."""
    replies = {}
    for file in resources.files("nbkit.data").iterdir():
        if file.name.endswith(".jsonl"):
            for line in file.read_text(encoding="utf-8").splitlines():
                record = json.loads(line)
                replies[record["text"]] = Reply(json.dumps(record["descriptors"]))
    return replies


def _read_replies(path: Path) -> dict[str, Reply]:
    if not path.exists():
        raise FileNotFoundError(f"no recording {path}: record one or use 'keyphrase'")
    replies = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
            key = record.get("request", record["text"])
            replies[key] = Reply(record["reply"], record.get("failure", ""), record.get("raw", ""))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(
                f'line {number} of {path} is not {{"text": ..., "reply": ...}}: {line[:60]!r}'
            ) from None
    return replies
