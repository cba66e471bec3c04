"""Presets: what the notebooks run on, in one file (``notebooks/presets.toml``).

    preset = load("sample")          or another of ``names()``; ``$NBKIT_PRESET`` chooses without a name
    preset.missing()                 what it needs and this machine lacks (data, GPU, server), with the mend
    preset.subject()                 models.load of the subject it names
    preset.corpora()                 {name: Texts}
    preset.grammar(corpora)          {name: label matrix} of the shared vocabulary
    preset.keep(name, frame)         hand a frame to the next notebook ...
    preset.kept(name)                ... and take it there
    preset.record(**facts)           numbers for the closing table and the report
    preset.figures                   the folder for the figures: below build, so that a checkout stays clean

Notebooks talk to each other only through the activation store and these files. A file is there whole or not
at all, so that notebooks may be interrupted, and several may run at once.
"""

from __future__ import annotations

import json
import os
import tomllib
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import pandas as pd
import torch

from nbkit import models, provenance, texts

#: Which notebook keeps what others take, by the first part of its name.
KEPT_BY = {
    "labels": "02_discover_descriptors",
    "tags": "03_match_neurons",
    "opening": "04_test_illusions",
    "agreement": "04_test_illusions",
}


@dataclass(frozen=True)
class Preset:
    """One section of the file: ``name`` and its ``settings``; ``home`` is the notebooks' folder."""

    name: str
    settings: dict[str, Any]
    home: Path

    def __getitem__(self, key: str) -> Any:
        return self.settings[key]

    def missing(self) -> list[str]:
        """What the preset needs and this machine lacks, each with what to do. Empty: it can run.

        Asks the language-model server whether it is there (3 seconds at most); hub models and corpora are
        not asked for.
        """
        return [*self._data_missing(), *self._gpu_missing(), *self._server_missing()]

    def _data_missing(self) -> list[str]:
        sources = [*self.settings.get("corpora", {}).values(), self["treebank"]]
        sources += [self["source"]] if "source" in self.settings else []
        paths = dict.fromkeys(self._filled(s) for s in sources if not s.startswith(("sample:", "hf:")))
        return [
            f"{path} is not there: set NBKIT_DATA to the folder that holds it (make run DATA=...)"
            for path in paths
            if not Path(path).exists()
        ]

    def _gpu_missing(self) -> list[str]:
        if self.settings.get("device", "auto") != "cuda" or torch.cuda.is_available():
            return []
        return ['no GPU that torch can use: run it where there is one, or set device = "auto" and wait hours']

    def _server_missing(self) -> list[str]:
        if not any(spec.startswith("openai:") for spec in self["generators"]):
            return []
        server = os.environ.get("OPENAI_BASE_URL", "")
        if not server:
            return ["no language-model server: set OPENAI_BASE_URL (as http://localhost:8000/v1)"]
        if not os.environ.get("OPENAI_API_KEY"):
            return ["no key for the server: set OPENAI_API_KEY (any word, if the server wants none)"]
        try:
            urllib.request.urlopen(f"{server.rstrip('/')}/models", timeout=3).close()
        except urllib.error.HTTPError:
            return []  # it answers; whether it takes the key is for the generator to say
        except (OSError, ValueError) as error:
            why = getattr(error, "reason", error)
            return [f"the server at OPENAI_BASE_URL does not answer ({why}): start it, or mend the address"]
        return []

    def _check(self, absent: list[str]) -> None:
        if absent:
            raise FileNotFoundError(f"the preset {self.name!r} cannot run here: {'; '.join(absent)}")

    def subject(self) -> models.Subject:
        """The subject at the preset's revision. ``FileNotFoundError`` without the GPU that it asks for."""
        self._check(self._gpu_missing())
        settings = {key: self.settings[key] for key in ("revision", "device") if key in self.settings}
        return models.load(self["subject"], **settings)

    def corpora(self, seed: int = 0) -> dict[str, texts.Texts]:
        """The corpora by name. Long and short texts are left out first, then a sample is drawn.

        ``FileNotFoundError`` where the data are absent.
        """
        self._check(self._data_missing())
        if "corpora" in self.settings:
            limits = {"limit": self["read"]} if "read" in self.settings else {}
            sources = {name: self._filled(source) for name, source in self["corpora"].items()}
            loaded = {name: texts.load(source, **limits) for name, source in sources.items()}
        else:
            whole = texts.load(self.source())
            column = self["groups"]
            groups = sorted(whole.frame[column].dropna().unique())
            loaded = {group: whole.where(**{column: group}) for group in groups}
        return {name: self._cut(corpus, seed) for name, corpus in loaded.items()}

    @property
    def ledger(self) -> dict[str, Any]:
        """Arguments of ``descriptors.propose`` and ``label`` that keep paid replies and cap their money.

        The file is in the cache: it outlives the results, and serves every preset.
        """
        settings = {key: self.settings[key] for key in ("prices", "max_money") if key in self.settings}
        return {"ledger": provenance.cache_root() / "replies.sqlite", **settings}

    def treebank(self, seed: int = 0) -> texts.Texts:
        """The annotated corpus of the notebooks on words, at most ``sentences`` of it."""
        self._check(self._data_missing())
        corpus = texts.load(self._filled(self["treebank"]))
        return corpus.sample(min(self["sentences"], len(corpus)), seed=seed)

    def source(self) -> str:
        """The source with $NBKIT_DATA filled in; when it is not set, the folder beside the checkout."""
        return self._filled(self["source"])

    def _filled(self, source: str) -> str:
        beside = self.home.parent.parent / "shared" / "data"
        filled = source.replace("$NBKIT_DATA", os.environ.get("NBKIT_DATA", str(beside)))
        if filled.startswith(("sample:", "hf:")):
            return filled
        return str(self.home.parent / Path(filled).expanduser())  # relative ones: from the checkout

    def _cut(self, corpus: texts.Texts, seed: int) -> texts.Texts:
        if "words" in self.settings:
            low, high = self["words"]
            n = corpus.tokenize().words.groupby("text_id").size()
            corpus = corpus.where(text_id=n.index[n.between(low, high)].tolist())
        wanted = self.settings.get("texts", len(corpus))
        return corpus.sample(min(wanted, len(corpus)), seed=seed)

    def grammar(self, corpora: dict[str, texts.Texts]) -> dict[str, pd.DataFrame]:
        """Label matrices of the shared vocabulary, from annotation or from surface rules."""
        source = "annotation" if "annotation" in self["labels"] else "surface"
        return {name: corpus.descriptors(source) for name, corpus in corpora.items()}

    @property
    def results(self) -> Path:
        """Where the notebooks leave what others read: a folder in ``$NBKIT_RESULTS`` or ``build/results``."""
        root = os.environ.get("NBKIT_RESULTS", self.home.parent / "build" / "results")
        return Path(root) / self.name

    @property
    def figures(self) -> Path:
        """``$NBKIT_FIGURES`` or ``build/figures``; presets other than the sample have a folder of their own.

        `make figures` names the committed folder.
        """
        folder = Path(os.environ.get("NBKIT_FIGURES", self.home.parent / "build" / "figures"))
        return folder if self.name == "sample" else folder / self.name

    def keep(self, name: str, frame: pd.DataFrame) -> None:
        """``frame`` for the next notebooks, under a ``name`` whose first part is in ``KEPT_BY``."""
        with provenance.atomic(self.results / f"{name}.parquet") as part:
            frame.to_parquet(part)

    def kept(self, name: str) -> pd.DataFrame:
        """The frame ``name``; ``FileNotFoundError`` says which notebook has to run first."""
        path = self.results / f"{name}.parquet"
        if not path.exists():
            maker = KEPT_BY.get(name.split("/")[0], "before this one")
            raise FileNotFoundError(
                f"{name!r} is not there yet: run the notebook {maker} with the preset"
                f" {self.name!r} first, or `make run PRESET={self.name}` for all of them"
            )
        return pd.read_parquet(path)

    def record(self, **facts: Any) -> None:
        """Add ``facts`` (numbers, strings, ``Estimate``) to ``summary.json`` of the results."""
        path = self.results / "summary.json"
        path.parent.mkdir(parents=True, exist_ok=True)  # for the lock
        with filelock.FileLock(f"{path}.lock"), provenance.atomic(path) as part:
            known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            part.write_text(json.dumps({**known, **facts}, indent=1, default=float), encoding="utf-8")


def load(name: str | None = None, path: str | Path | None = None) -> Preset:
    """The preset ``name``, by default ``$NBKIT_PRESET`` or "sample", from ``path``.

    ``path`` defaults to ``$NBKIT_PRESETS``, else ``presets.toml`` here, in ``notebooks/`` or in the folder
    above. An unknown name is a ``ValueError`` with the known ones.
    """
    name = name or os.environ.get("NBKIT_PRESET", "sample")
    found = _file(path)
    sections = tomllib.loads(found.read_text(encoding="utf-8"))
    if name not in sections:
        raise ValueError(f"unknown preset {name!r}; {found} has {', '.join(sections)}")
    return Preset(name, sections[name], found.resolve().parent)


def names(path: str | Path | None = None) -> list[str]:
    """The presets of the file, in its order."""
    return list(tomllib.loads(_file(path).read_text(encoding="utf-8")))


def _file(path: str | Path | None) -> Path:
    path = path or os.environ.get("NBKIT_PRESETS")
    usual = ("presets.toml", "notebooks/presets.toml", "../presets.toml")  # the last for the exercises
    places = [Path(path)] if path else [Path(place) for place in usual]
    found = next((place for place in places if place.exists()), None)
    if found is None:
        raise FileNotFoundError(f"no presets.toml in {Path.cwd()} or its notebooks folder")
    return found
