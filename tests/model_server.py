"""A real model server for tests: ``transformers serve`` with a tiny model, behind a proxy with faults."""

import http.server
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

REPLY = "food, praise"
TEMPLATE = (
    "{% for m in messages %}{{ m['content'] }} {% endfor %}{% if add_generation_prompt %}<reply>{% endif %}"
)


def make_model(folder: Path, texts: list[str]) -> Path:
    """A tiny causal model that answers ``REPLY`` to anything, made from ``texts``; nothing is downloaded."""
    import tokenizers
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    base = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    base.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel()
    base.decoder = tokenizers.decoders.ByteLevel()
    special = ["<unk>", "<pad>", "<end>", "<reply>"]
    base.train_from_iterator(texts, tokenizers.trainers.BpeTrainer(vocab_size=300, special_tokens=special))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=base, unk_token="<unk>", pad_token="<pad>", eos_token="<end>"
    )
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=1024,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    _teach(model, tokenizer, texts[:64])
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _teach(model, tokenizer, texts: list[str]) -> None:
    import torch

    answer = tokenizer(REPLY + "<end>")["input_ids"]
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    for step in range(300):
        asked = tokenizer(texts[step % len(texts)] + " <reply>")["input_ids"]
        tokens = torch.tensor([asked + answer])
        labels = torch.tensor([[-100] * len(asked) + answer])
        optimizer.zero_grad()
        model(input_ids=tokens, labels=labels).loss.backward()
        optimizer.step()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """``transformers serve FOLDER``: start, kill, start again on the same port."""

    def __init__(self, folder: Path, log: Path | None = None) -> None:
        self.folder, self.port = folder, free_port()
        self.log = log or folder / "server.log"

    def start(self, patience: float = 180) -> None:
        command = [str(Path(sys.executable).with_name("transformers")), "serve", str(self.folder)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--host", "127.0.0.1", "--port", str(self.port)], stdout=log, stderr=log
            )
        until = time.monotonic() + patience
        while time.monotonic() < until and self.process.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5)
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.3)
        raise RuntimeError(f"the server did not start: {self.log.read_text(encoding='utf-8')[-2000:]}")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Proxy:
    """Passes requests on to ``server``; ``faults`` are used up first, one a request.

    A fault is "429", "500", "slow", "broken", "empty", "refused", "unstructured" (400 for requests that ask
    for structured output) or "ok". ``answered`` counts the replies that the
    real server gave: what would be paid. ``after(n)`` is called when a reply has been passed on.
    """

    def __init__(self, server: Server) -> None:
        self.faults, self.answered, self.after, self.lock = [], 0, None, threading.Lock()
        self.busy, self.most_busy = 0, 0
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with proxy.lock:
                    fault = proxy.faults.pop(0) if proxy.faults else "ok"
                    proxy.busy += 1
                    proxy.most_busy = max(proxy.busy, proxy.most_busy)
                try:
                    self.reply(*proxy.answer(server, self.path, body, fault))
                except OSError:
                    self.close_connection = True  # the server is gone, or the client is
                finally:
                    with proxy.lock:
                        proxy.busy -= 1
                if fault == "ok" and proxy.after:
                    proxy.after(proxy.answered)

            def reply(self, status, content):
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    def answer(self, server: Server, path: str, body: bytes, fault: str) -> tuple[int, bytes]:
        if fault in ("429", "500"):
            return int(fault), b'{"error": {"message": "fault"}}'
        if fault == "unstructured" and b"response_format" in body:
            return 400, b'{"error": {"message": "response_format is not known"}}'
        if fault == "refused":
            message = '{"role": "assistant", "content": null, "refusal": "I would rather not"}'
            choice = '{"index": 0, "finish_reason": "stop", "message": ' + message + "}"
            head = '{"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": ['
            return 200, (head + choice + "]}").encode()
        if fault == "broken":
            return 200, b'{"choices": [{"mess'
        if fault == "empty":
            return 200, b'{"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": []}'
        if fault == "slow":
            time.sleep(8)
        url = f"http://127.0.0.1:{server.port}{path}"
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=120) as found:
                content = found.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        with self.lock:
            self.answered += 1
        return 200, content
