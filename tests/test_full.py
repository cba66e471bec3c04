"""The preset `full` from its first notebook to its report: hub, datasets and language model on loopback.

Everything is what the preset asks for, but smaller: MiniLM under the name of BERT, the sample's texts under
the names of the hub's corpora, a tiny model behind a real server, and no GPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import Hub
from model_server import Server, make_model
from test_hub import parquet

from nbkit import provenance, texts
from nbkit.models.loading import _minilm_folder
from nbkit.workshop import presets

ROOT = Path(__file__).resolve().parent.parent
BERT = "google-bert/bert-base-uncased"
FIGURES = [*(ROOT / "figures").glob("*.svg"), *(ROOT / "figures" / "paper").glob("*.svg")]
#: Of the hub: repository, configuration, column of texts, and the corpus of the sample that stands for it.
CORPORA = (
    ("nyu-mll/glue", "sst2", "sentence", "reviews"),
    ("fancyzhx/ag_news", "default", "text", "questions"),
    ("Salesforce/wikitext", "wikitext-103-raw-v1", "text", "encyclopedia"),
    ("cardiffnlp/tweet_eval", "sentiment", "text", "fiction"),
)
SMALLER = {
    'device = "cuda"': 'device = "auto"',
    'treebank = "$NBKIT_DATA/ud_en_ewt"\nsentences = 5000\nprobed = 2000': (
        'treebank = "sample:treebank"\nsentences = 150\nprobed = 100'
    ),
    "prices = { gpt-4o-mini": 'prices = { "{model}"',
    "openai:gpt-4o-mini": "openai:{model}",
}


def filled(hub: Hub) -> dict[str, str]:
    """Model and corpora into the hub; {repository: commit}."""
    files = {path.name: path.read_bytes() for path in _minilm_folder().iterdir() if path.is_file()}
    commits = {BERT: hub.repository(f"models/{BERT}").push(files)}
    for name, config, column, stand_in in CORPORA:
        frame = texts.load(f"sample:{stand_in}").frame[["text"]].rename(columns={"text": column})
        card = f"---\nconfigs:\n- config_name: {config}\n  data_files: {config}/train.parquet\n---\n"
        pushed = {"README.md": card.encode(), f"{config}/train.parquet": parquet(frame.head(300))}
        commits[name] = hub.repository(f"datasets/{name}").push(pushed)
    return commits


def smaller(model: str, revision: str) -> str:
    """The preset's own section, with what this machine has."""
    toml = (ROOT / "notebooks" / "presets.toml").read_text(encoding="utf-8")
    for old, new in SMALLER.items():
        assert old in toml
        toml = toml.replace(old, new.replace("{model}", model))
    return toml.replace(presets.load("full", ROOT / "notebooks" / "presets.toml")["revision"], revision)


def run(folder: Path, hub: Hub, server: Server) -> subprocess.CompletedProcess:
    """`make run PRESET=full` with results, cache and figures in ``folder``."""
    environment = {
        "NBKIT_PRESETS": folder / "presets.toml",
        "NBKIT_RESULTS": folder / "results",
        "NBKIT_CACHE": folder / "cache",
        "HF_ENDPOINT": hub.url,
        "HF_HOME": folder / "hub",
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
        "OPENAI_BASE_URL": f"http://127.0.0.1:{server.port}/v1",
        "OPENAI_API_KEY": "any",
    }
    command = [sys.executable, ROOT / "tools" / "run.py", "--preset", "full", "--figures", folder / "figures"]
    there = {key: str(value) for key, value in environment.items()}
    return subprocess.run(
        [str(part) for part in command], env={**os.environ, **there}, capture_output=True, text=True
    )


@pytest.mark.slow
def test_every_notebook_runs_on_the_preset_full(tmp_path):
    server = Server(make_model(tmp_path / "writer", texts.load("sample:reviews").frame["text"].tolist()))
    server.start()
    with Hub() as hub:
        commits = filled(hub)
        preset = smaller(str(server.folder), commits[BERT])
        (tmp_path / "presets.toml").write_text(preset, encoding="utf-8")
        try:
            done = run(tmp_path, hub, server)
        finally:
            server.kill()
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    facts = json.loads((tmp_path / "results" / "full" / "summary.json").read_text(encoding="utf-8"))
    assert facts["seconds"].keys() == {path.stem for path in (ROOT / "notebooks").glob("[0-9]*.py")}
    figures = sorted((tmp_path / "figures").rglob("*.svg"))
    # 07_one_tree shows a sentence, which of a licensed corpus must not be published: of the sample only
    assert {path.name for path in figures} == {path.name for path in FIGURES} - {"07_one_tree.svg"}
    specs = {name: name if config == "default" else f"{name}/{config}" for name, config, *_ in CORPORA}
    corpora = {f"hf:{spec} at {commits[name]}" for name, spec in specs.items()}
    for path in figures:
        made = provenance.read(path)
        named = set(made["revisions"].values())
        assert f"{BERT} at {commits[BERT]}" in named, path.name
        assert corpora <= named or len(made.get("corpora", [])) < 4, path.name
