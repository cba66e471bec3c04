"""A language model behind a server that speaks the OpenAI protocol."""

from __future__ import annotations

import ipaddress
import json
import math
import os
import re
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from nbkit.descriptors.messages import (
    NOT_SENT,
    UNCERTAIN,
    Messages,
    Reply,
    judge,
    side_by_side,
    valid,
)

OPENAI_URL = "https://api.openai.com/v1"
SECRET = 16  # characters: a shorter key may be a common word, which replies contain by chance
#: Failures that cost nothing and may be over in a moment.
PASSING = ("busy", "server error", "no connection")
THOUGHT = ("thinking", "reasoning", "reasoning_text", "redacted_thinking")  # kinds of parts of a reply
#: How servers say, in lower case, why a reply ended: at its limit, or held back.
CUT = ("length", "max_tokens", "max_output_tokens", "model_length")
FILTERED = ("content_filter", "content_filtered", "safety", "refusal", "prohibited_content", "blocklist")
#: Errors of a connection that was not made, by the name of their class: nothing was sent.
NOT_CONNECTED = (
    "ConnectError ConnectTimeout PoolTimeout ProxyError UnsupportedProtocol LocalProtocolError".split()
)


class OpenAI:
    """A model behind a server (OpenAI, vLLM, Ollama, transformers serve).

    base_url      the server; default $OPENAI_BASE_URL, else OpenAI. Without user, password or query
    api_key       default $OPENAI_API_KEY; goes to the server and nowhere else
    concurrency   requests under way at once
    retries       attempts after the first: after 429, 5xx and refused connections with growing pauses
    timeout       seconds for one attempt
    max_tokens    of a reply; a model that thinks aloud needs 1,000 or more
    temperature   0: the most likely reply

    What a server refuses (a JSON schema, ``temperature``, ``max_tokens`` under that name) is left out from
    then on. A server that cannot be reached at all, a wrong key or an unknown model is a ``ValueError``
    before the first reply; later it is a failure. After ``patience`` equal failures in a row nothing more is
    sent for a few seconds ("not sent"), so that a run ends soon; ``Reply.raw`` says why.
    """

    batch = 1
    patience = 5
    rest = 5.0  # seconds without requests after too many failures

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

        if not model:
            raise ValueError('"openai:" names no model: say "openai:MODEL"')
        self.name, self.model, self.retries = f"openai:{model}", model, retries
        self.provenance = f"replies of the language model {model}"
        self.concurrency, self.max_tokens, self.temperature = concurrency, max_tokens, temperature
        url = checked_url(base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL)
        self._key = checked_key(api_key or os.environ.get("OPENAI_API_KEY"))
        # A server on this machine is not behind a proxy: the key must not go there.
        http = openai.DefaultHttpxClient(trust_env=False) if is_loopback(url) else None
        self._client = openai.OpenAI(
            base_url=url, api_key=self._key, max_retries=0, timeout=timeout, http_client=http
        )
        self._refused: set[str] = set()  # settings that the server does not take
        self._lock = threading.Lock()
        self._heard = self._answered = False  # any response; a reply
        self._failures: list[str] = []  # kinds of the latest failures, all equal
        self._silent_until = 0.0

    @property
    def identity(self) -> dict[str, Any]:
        """What decides a reply besides the messages; never the key."""
        return {
            "name": self.name,
            "server": str(self._client.base_url),
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
        }

    def begin(self) -> None:
        """A new run: what failed before it does not keep it from asking."""
        with self._lock:
            self._silent_until, self._failures = 0.0, []

    def complete_all(self, requests: Sequence[Messages]) -> list[Reply]:
        if len(requests) > 1:  # one alone may be part of a run
            self.begin()
        return side_by_side(self.complete, requests, self.concurrency)

    def complete(self, messages: Messages) -> Reply:
        reply = self.attempt(messages)
        for _ in range(self.retries):
            if reply.failure not in UNCERTAIN:
                break
            reply = self.attempt(messages)
        return reply

    def attempt(self, messages: Messages) -> Reply:
        """One try that may have to be paid; what certainly costs nothing is tried again within it."""
        for number in range(self.retries + 1):
            if time.monotonic() < self._silent_until:
                return Reply(None, NOT_SENT, f"too many failures in a row: {self._failures[-1]}")
            reply, pause = self._try(messages)
            if reply.failure not in PASSING or not self._heard:
                break
            if number < self.retries:
                time.sleep(max(pause, min(0.5 * 2**number, 8.0)))
        self._count(reply)
        return reply

    def _count(self, reply: Reply) -> None:
        with self._lock:
            if reply.answered:
                self._answered, self._failures = True, []
                return
            cause = f"{reply.failure}: {reply.raw[:500]}"
            equal = bool(self._failures) and self._failures[-1].split(":")[0] == reply.failure
            self._failures = [*self._failures, cause] if equal else [cause]
            # A server that has answered before may well refuse several texts in a row.
            patience = 4 * self.patience if self._answered and reply.failure == "rejected" else self.patience
            if len(self._failures) >= patience:
                self._silent_until = time.monotonic() + self.rest
                del self._failures[0]  # after the rest, one more failure is enough

    def _try(self, messages: Messages) -> tuple[Reply, float]:
        """A reply, and the seconds that the server wants to be left alone."""
        import openai

        try:
            return self._read(self._send(messages)), 0.0
        except openai.APIConnectionError as error:  # timeouts included
            reply, fault = self._connection_failure(error)
        except openai.APIStatusError as error:
            self._heard = True
            pause = _seconds(error.response.headers.get("retry-after"))
            reply, fault = self._status_failure(error)
            if not fault:
                return reply, pause
        except Exception as error:  # whatever a server may send: one reply must not stop a run
            return Reply(None, "broken reply", self._hide(f"{type(error).__name__}: {error}")), 0.0
        if fault:  # raised outside the handlers: the client's error, and its headers, stay behind
            raise ValueError(fault)
        return reply, 0.0

    def _connection_failure(self, error: Any) -> tuple[Reply, str]:
        import openai

        cause = error.__cause__ or error
        why = self._hide(f"{type(cause).__name__}: {cause}".strip(": "))
        if type(cause).__name__ in NOT_CONNECTED:
            if self._heard:
                return Reply(None, "no connection", why), ""
            proxy = next((n for n in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY") if _environment(n)), None)
            through = f", through the proxy of ${proxy}" if proxy and not is_loopback(self._url) else ""
            return Reply(None, "no connection", why), (
                f"{self.name}: nothing answers at {self._url}{through} ({why}): is the server running, and is"
                " this its address?"
            )
        kind = "timed out" if isinstance(error, openai.APITimeoutError) else "connection lost"
        return Reply(None, kind, why), ""

    def _status_failure(self, error: Any) -> tuple[Reply, str]:
        status, why = error.status_code, self._hide(str(error))
        if status in (401, 404, 405) and not self._answered:
            return Reply(None, "rejected", why), (
                f"{self.name} was turned away ({status}) at {self._url}: {why}"
                + ("; does the address end in /v1, and is the model there?" if status != 401 else "")
            )
        if status in (408, 409, 429) and "insufficient_quota" not in why:
            return Reply(None, "busy", why), ""
        return Reply(None, "server error" if status >= 500 else "rejected", f"({status}) {why}"), ""

    @property
    def _url(self) -> str:
        return str(self._client.base_url)

    def _send(self, messages: Messages) -> bytes:
        """The body of the server's answer; settings that it refuses are left out, then and later."""
        import openai

        left_out = set(self._refused)
        while True:
            options = self._options(messages, left_out)
            try:
                answer = self._client.chat.completions.with_raw_response.create(**options)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                refused = refused_setting(str(error), set(options) - left_out)
                if refused is None:
                    raise
                left_out.add(refused)
            else:
                self._heard, self._refused = True, self._refused | left_out
                return answer.http_response.content

    def _options(self, messages: Messages, left_out: set[str]) -> dict[str, Any]:
        limit = "max_completion_tokens" if "max_tokens" in left_out else "max_tokens"
        plain = [{key: valid(value) for key, value in message.items()} for message in messages]
        options = {"model": self.model, "messages": plain, limit: self.max_tokens}
        if "temperature" not in left_out:
            options["temperature"] = self.temperature
        schema = getattr(messages, "schema", None)
        if schema is not None and "response_format" not in left_out:
            shape = {"name": "reply", "strict": True, "schema": schema}
            options["response_format"] = {"type": "json_schema", "json_schema": shape}
        return options

    def _read(self, body: bytes) -> Reply:
        """The reply in the body of a 200. What cannot be read may have been paid for: it is uncertain."""
        try:
            answer: Any = json.loads(body)
            answer = answer[0] if isinstance(answer, list) and len(answer) == 1 else answer
            tokens = read_usage(answer.get("usage"))
        except (ValueError, AttributeError, RecursionError):
            return Reply(None, "broken reply", self._shown(body))
        choices, error = answer.get("choices"), error_in(answer)
        if not choices and error:
            return Reply(None, "server error", self._hide(valid(json.dumps(error))))
        if choices == []:
            return Reply(None, "empty", tokens=tokens)
        try:
            choice = choices[0]
            message = choice["message"]
            text = valid(content_text(message.get("content")))
            refusal, end = message.get("refusal"), str(choice.get("finish_reason")).lower()
        except (LookupError, TypeError, AttributeError):
            return Reply(None, "broken reply", self._shown(body), tokens)
        if end == "error":  # it went wrong while it replied
            return Reply(None, "broken reply", self._shown(body), tokens)
        if refusal or end in FILTERED:
            return Reply(None, "refused", self._hide(valid(str(refusal or text))), tokens)
        if len(self._key) >= SECRET and self._key in text:
            return Reply(None, "key in the reply", self._hide(text), tokens)
        return judge(text, end not in CUT, tokens)

    def _shown(self, body: bytes) -> str:
        """The beginning of an answer that cannot be read; cut last, so that no part of the key is left."""
        return self._hide(valid(body.decode("utf-8", "replace")))[:2000]

    def _hide(self, text: str) -> str:
        """``text`` without the key: a short one only where it stands alone, as in a server's message."""
        if len(self._key) >= SECRET:
            return text.replace(self._key, "[key]")
        return re.sub(rf"(?<!\w){re.escape(self._key)}(?!\w)", "[key]", text)

    def __repr__(self) -> str:
        return f"OpenAI({self.model})"


def checked_url(url: str) -> str:
    """A server's address; ``ValueError`` for what is none, or would carry secrets into logs and manifests."""
    url = url.strip()
    shown = re.sub(r".*@", "...@", re.split(r"[?#\s]", url)[0])
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"base_url {shown!r} is no address ({error})") from None
    if not url.isprintable() or " " in url:
        raise ValueError(f"base_url {shown!r} has white space or unprintable characters: copy it again")
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError(f"base_url {shown!r} must begin with http:// or https:// and a host")
    if "@" in url:
        raise ValueError(f"base_url {shown!r} holds a user or password: give the key as api_key=")
    if "?" in url or "#" in url:
        raise ValueError(f"base_url {shown!r} has a query or fragment: leave it out")
    return url


def checked_key(key: str | None) -> str:
    """The key without white space around it; ``ValueError`` without one, or when it cannot be sent."""
    key = (key or "").strip()
    if not key:
        raise ValueError("openai: has no key: set OPENAI_API_KEY (any word, if the server wants none)")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError("openai: the key has characters that no key has: copy it again")
    return key


def is_loopback(url: str) -> bool:
    """Is the server on this machine?"""
    host = urlsplit(url).hostname or ""
    host = host.rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        try:
            address = ipaddress.ip_address(socket.inet_aton(host))  # as 127.1
        except OSError:
            return False
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified


def refused_setting(message: str, settings: set[str]) -> str | None:
    """Which of ``settings`` a server's error is about; without a name it is the schema, if there is one."""
    names = {
        "max_tokens": ("max_tokens",),
        "temperature": ("temperature",),
        "response_format": ("response_format", "json_schema", "schema", "structured"),
    }
    text = message.lower()
    for setting, words in names.items():
        if setting in settings and any(word in text for word in words):
            return setting
    return "response_format" if "response_format" in settings else None


def error_in(answer: dict[str, Any]) -> Any:
    """The error that an answer reports instead of a reply; nothing where it reports none."""
    return answer.get("error") or (answer if answer.get("object") == "error" else None)


def content_text(content: Any) -> str:
    """Text of a message's content: a string, a list of parts, or nothing; thinking is left out.

    ``TypeError`` for anything else.
    """
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        raise TypeError(f"content is {content!r}")
    spoken = [part for part in content if isinstance(part, str) or part.get("type") not in THOUGHT]
    parts = [part if isinstance(part, str) else part.get("text") or "" for part in spoken]
    return "".join(part if isinstance(part, str) else str(part.get("value", "")) for part in parts)


def read_usage(usage: Any) -> tuple[int | None, int | None]:
    """Tokens of request and reply as whole numbers; None for what was not, or not sensibly, counted."""
    if not isinstance(usage, dict):
        return None, None
    asked, answered = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    return asked or None, answered  # no request has 0 tokens


def _count(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return math.ceil(number) if 0 <= number < 1e12 else None


def _seconds(header: str | None) -> float:
    """Seconds of a Retry-After header, at most a minute; a date is not waited for."""
    try:
        return min(max(float(header or 0), 0.0), 60.0)
    except ValueError:
        return 0.0


def _environment(name: str) -> str | None:
    return os.environ.get(name) or os.environ.get(name.lower())
