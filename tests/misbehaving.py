"""Servers on loopback that answer as a test says, and a process that asks them through a ledger."""

import http.server
import json
import threading

KEY = "sk-0123456789abcdef"
USAGE = {"prompt_tokens": 22, "completion_tokens": 128, "total_tokens": 150}


def chat(content, usage=USAGE, **choice):
    """The body of a good answer."""
    message = {"role": "assistant", "content": content}
    return {
        "id": "x", "object": "chat.completion", "created": 0, "model": "m", "usage": usage,
        "choices": [{"index": 0, "finish_reason": "stop", "message": message, **choice}],
    }  # fmt: skip


class Misbehaving:
    """``answer(number of the request, its body)`` gives (status, dict or bytes), or None to hang up.

    ``sent`` are the bodies of all requests, ``headers`` what came with them.
    """

    def __init__(self, answer, port=0):
        self.sent, self.headers, self.answer, self.lock = [], [], answer, threading.Lock()
        served = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with served.lock:
                    number = len(served.sent)
                    served.sent.append(body)
                    served.headers.append(dict(self.headers))
                found = served.answer(number, body)
                if found is None:
                    self.close_connection = True
                    return
                status, content = found
                content = content if isinstance(content, bytes) else json.dumps(content).encode()
                try:
                    self.send_response(status)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)
                except OSError:
                    self.close_connection = True  # the client has gone

            def log_message(self, *_):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.http.daemon_threads = True
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()
        self.port = self.http.server_port
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def texts(self):
        """The text of every request so far."""
        return [body["messages"][-1]["content"] for body in self.sent]

    def close(self):
        self.http.shutdown()
        self.http.server_close()


def work(pipe, url, path, cap):
    """A process: asks for the texts that come through ``pipe``, sends back what was answered."""
    from nbkit.descriptors import Ledger, connect

    model = connect(
        "openai:m", base_url=url, api_key=KEY, retries=0, timeout=0.6, concurrency=2, max_tokens=16
    )
    model.patience, model.rest = 3, 0.05
    ledger = Ledger(model, path, prices={"m": (10.0, 30.0)}, max_money=cap)
    pipe.send("ready")
    while True:
        texts = pipe.recv()
        requests = [[{"role": "user", "content": text}] for text in texts]
        try:
            pipe.send([reply.failure for reply in ledger.complete_all(requests)])
        except ValueError as error:
            pipe.send(str(error))
