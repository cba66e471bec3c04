"""Models and corpora of the hub, through `huggingface_hub` and `datasets` themselves, from a hub on loopback.

Both libraries read HF_ENDPOINT when they are imported: what is tested runs in a process of its own, which
takes lines of Python and answers with their value, or with the error.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from hub_server import Hub
from test_families import save_tiny

from nbkit import models

ROOT = Path(__file__).resolve().parent.parent
WORKER = """
import json, sys
from nbkit import models, texts
for line in sys.stdin:
    try:
        reply = {"value": eval(json.loads(line))}
    except Exception as error:
        reply = {"error": type(error).__name__, "message": str(error)}
    print("REPLY" + json.dumps(reply), flush=True)
"""


class Client:
    """A process whose hub is on loopback; `ask("code")` gives the value of an expression in it."""

    def __init__(self, url: str, home: Path, **environment: str) -> None:
        quiet = {"HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(ROOT)}
        quiet |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "OMP_NUM_THREADS": "1", "HF_HUB_ETAG_TIMEOUT": "5"}
        quiet |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "HF_HUB_DOWNLOAD_TIMEOUT": "5"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **quiet, **environment},
        )

    def ask(self, code: str):
        self.process.stdin.write(json.dumps(code) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("REPLY"):
                reply = json.loads(line.removeprefix("REPLY"))
                return reply["value"] if "value" in reply else reply
        raise AssertionError("the process ended")

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(30)


@pytest.fixture(scope="module")
def hub():
    with Hub() as served:
        yield served


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("hub-home")


@pytest.fixture(scope="module")
def client(hub, home):
    made = Client(hub.url, home)
    yield made
    made.close()


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny") / "xlm-roberta", "xlm-roberta")


def fingerprint(name: str, revision: str | None = None) -> str:
    return f"(lambda s: [s.fingerprint, s.revision, s.name])(models.load({name!r}, revision={revision!r}))"


pytestmark = pytest.mark.slow


def test_a_model_at_a_revision_and_when_the_branch_moves(hub, client, folder):
    local = models.load(folder).fingerprint
    repository = hub.repository("models/org/tiny")
    first = repository.push(files_of(folder))
    repository.refs["v1"] = first
    assert client.ask(fingerprint("org/tiny")) == [local, first, "org/tiny"]
    assert ("HEAD", f"org/tiny/resolve/{first}/model.safetensors") in hub.requests
    assert any(path.startswith("storage/models/org/tiny") for _, path in hub.requests), (
        "the redirect is followed"
    )
    model = models.load(folder).model
    with torch.no_grad():
        model.encoder.layer[0].output.dense.weight.add_(1)
    model.save_pretrained(folder.parent / "moved")
    moved = {**files_of(folder), **files_of(folder.parent / "moved")}
    second = repository.push(moved)
    found = client.ask(fingerprint("hf:org/tiny"))
    assert found[1] == second != first and found[0] != local
    for pinned in ("v1", first):
        assert client.ask(fingerprint("org/tiny", pinned))[:2] == [local, first]
    lost = client.ask(fingerprint("org/tiny", "v9"))
    assert lost["error"] == "FileNotFoundError" and "'org/tiny' at revision 'v9'" in lost["message"]


def test_sharded_safetensors(hub, client, folder):
    whole = models.load(folder)
    whole.model.save_pretrained(folder.parent / "shards", max_shard_size="10KB")
    shards = files_of(folder.parent / "shards")
    assert sum(name.endswith(".safetensors") for name in shards) > 1
    files = {**files_of(folder), **shards}
    files.pop("model.safetensors")
    hub.repository("models/org/shards").push(files)
    assert client.ask(fingerprint("org/shards"))[0] == whole.fingerprint
    files.pop(next(name for name in files if name.endswith(".safetensors")))
    hub.repository("models/org/lost-shard").push(files)
    lost = client.ask(fingerprint("org/lost-shard"))
    assert lost["error"] == "ValueError" and "cannot read the weights" in lost["message"]


def test_an_estimate_fetches_no_weights(hub, client, folder):
    hub.repository("models/org/unread").push(files_of(folder))
    found = client.ask("(lambda m: [m.name, m.stays, m.saved])(models.estimate('org/unread'))")
    local = models.estimate(folder)
    assert found == ["org/unread", local.stays, {"F32": sum(local.saved.values())}]
    there = "__import__('huggingface_hub').try_to_load_from_cache('org/unread', {!r})"
    assert client.ask(there.format("config.json")) and not client.ask(there.format("model.safetensors"))


def test_a_model_that_is_not_there_gated_or_incomplete(hub, client, folder):
    absent = client.ask(fingerprint("org/absent"))
    assert absent["error"] == "FileNotFoundError" and "check the name" in absent["message"]
    gated = hub.repository("models/org/gated")
    gated.push(files_of(folder))
    gated.gated = True
    refused = client.ask(fingerprint("org/gated"))
    assert refused["error"] == "FileNotFoundError"
    assert (
        "'org/gated' is gated: accept its terms" in refused["message"]
        and "hf auth login" in refused["message"]
    )
    files = files_of(folder)
    files.pop("config.json")
    hub.repository("models/org/bare").push(files)
    bare = client.ask(fingerprint("org/bare"))
    assert bare["error"] == "FileNotFoundError" and "config.json is missing" in bare["message"]


def test_slow_and_broken_transfers(hub, client, folder):
    local, files = models.load(folder).fingerprint, files_of(folder)
    hub.repository("models/org/broken").push(files)
    hub.cut["model.safetensors"] = 1
    assert client.ask(fingerprint("org/broken"))[0] == local, "taken up again where it broke off"
    hub.repository("models/org/slow").push(files)
    hub.slow["model.safetensors"] = 1.0
    assert client.ask(fingerprint("org/slow"))[0] == local
    hub.slow.clear()
    hub.repository("models/org/cut").push(files)
    hub.cut["model.safetensors"] = 99
    broken = client.ask(fingerprint("org/cut"))
    hub.cut.clear()
    assert broken["error"] == "FileNotFoundError" and "the network" in broken["message"], broken
    assert client.ask(fingerprint("org/cut"))[0] == local, "nothing half-loaded stays behind"


def corpus(n: int, first: int = 0) -> pd.DataFrame:
    lines = [
        f"text number {i} of the corpus, about {'cats' if i % 2 else 'dogs'}" for i in range(first, first + n)
    ]
    return pd.DataFrame({"text": lines, "label": range(n)})


def parquet(frame: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.to_parquet(buffer)
    return buffer.getvalue()


CARD = b"""---
configs:
- config_name: plain
  data_files: plain/*.parquet
---
"""


def read(spec: str, options: str = "") -> str:
    return f"(lambda t: [t.frame['text'].tolist(), t.source['revision']])(texts.load({spec!r}{options}))"


def test_a_dataset_in_parquet_and_jsonl_at_a_revision(hub, client):
    repository = hub.repository("datasets/org/corpus")
    first = repository.push({"README.md": CARD, "plain/a.parquet": parquet(corpus(5))})
    found = client.ask(read("hf:org/corpus/plain"))
    assert found == [corpus(5)["text"].tolist(), first], found
    assert client.ask(read("hf:org/corpus/plain", ", limit=2"))[0] == corpus(2)["text"].tolist()
    jsonl = corpus(4, 100).to_json(orient="records", lines=True).encode()
    hub.repository("datasets/org/lines").push({"lines.jsonl": jsonl})
    found = client.ask(read("hf:org/lines"))
    assert isinstance(found, list) and found[0] == corpus(4, 100)["text"].tolist(), found
    second = repository.push({"README.md": CARD, "plain/a.parquet": parquet(corpus(3, 50))})
    assert client.ask(read("hf:org/corpus/plain"))[:2] == [corpus(3, 50)["text"].tolist(), second]
    assert client.ask(read("hf:org/corpus/plain", f", revision={first!r}"))[0] == corpus(5)["text"].tolist()
    for spec, options, hint in (
        ("hf:org/corpus/plain", ", revision='v9'", "no revision 'v9'"),
        ("hf:org/nowhere", "", "check the name"),
        ("hf:org/corpus/other", "", "other"),
    ):
        lost = client.ask(read(spec, options))
        assert isinstance(lost, dict) and hint in lost["message"], lost


def test_a_second_run_without_a_network(hub, home, client, folder):
    """What was fetched is found again; what was not is said in one sentence."""
    repository = hub.repository("models/org/kept")
    commit = repository.push(files_of(folder))
    local = client.ask(fingerprint("org/kept"))[0]
    offline = Client("http://127.0.0.1:9", home, HF_HUB_OFFLINE="1")
    try:
        assert offline.ask(fingerprint("org/kept"))[:2] == [local, commit]
        lost = offline.ask(fingerprint("org/never"))
        assert lost["error"] == "FileNotFoundError" and "the network" in lost["message"]
        lost = offline.ask(read("hf:org/never"))
        assert "org/never" in lost["message"]
    finally:
        offline.close()
