"""Presets: what the notebooks run on, in one file (``notebooks/presets.toml``).

    preset = load("sample")          or "treebank"; ``$NBKIT_PRESET`` chooses when no name is given
    preset.subject()                 models.load of the subject it names
    preset.corpora()                 {name: Texts}
    preset.grammar(corpora)          {name: label matrix} of the shared vocabulary
    preset.keep(name, frame)         hand a frame to the next notebook ...
    preset.kept(name)                ... and take it there
    preset.record(**facts)           numbers for the closing table and the report

Notebooks talk to each other only through the activation store and these files.
"""

from __future__ import annotations

import json
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from nbkit import models, texts


@dataclass(frozen=True)
class Preset:
    """One section of the file: ``name`` and its ``settings``; ``home`` is the notebooks' folder."""

    name: str
    settings: dict[str, Any]
    home: Path

    def __getitem__(self, key: str) -> Any:
        return self.settings[key]

    def subject(self) -> models.Subject:
        return models.load(self["subject"])

    def corpora(self, seed: int = 0) -> dict[str, texts.Texts]:
        """The corpora by name. Long and short texts are left out first, then a sample is drawn."""
        if "corpora" in self.settings:
            loaded = {name: texts.load(source) for name, source in self["corpora"].items()}
        else:
            whole = texts.load(self.source())
            column = self["by"]
            groups = sorted(whole.frame[column].dropna().unique())
            loaded = {group: whole.where(**{column: group}) for group in groups}
        return {name: self._cut(corpus, seed) for name, corpus in loaded.items()}

    def treebank(self, seed: int = 0) -> texts.Texts:
        """The annotated corpus of the notebooks on words, at most ``sentences`` of it."""
        corpus = texts.load(self._filled(self["treebank"]))
        return corpus.sample(min(self["sentences"], len(corpus)), seed=seed)

    def source(self) -> str:
        """The source with $NBKIT_DATA filled in; when it is not set, the folder beside the checkout."""
        return self._filled(self["source"])

    def _filled(self, source: str) -> str:
        os.environ.setdefault("NBKIT_DATA", str(self.home.parent.parent / "shared" / "data"))
        return os.path.expandvars(source)

    def _cut(self, corpus: texts.Texts, seed: int) -> texts.Texts:
        if "words" in self.settings:
            low, high = self["words"]
            counted = corpus if corpus.words is not None else corpus.tokenize()
            n = counted.words.groupby("text_id").size()
            corpus = corpus.where(text_id=n.index[n.between(low, high)].tolist())
        wanted = self.settings.get("texts", len(corpus))
        return corpus.sample(min(wanted, len(corpus)), seed=seed)

    def grammar(self, corpora: dict[str, texts.Texts]) -> dict[str, pd.DataFrame]:
        """Label matrices of the shared vocabulary, from annotation or from surface rules."""
        source = "annotation" if "annotation" in self["labels"] else "surface"
        return {name: corpus.descriptors(source) for name, corpus in corpora.items()}

    @property
    def results(self) -> Path:
        """Where the notebooks leave what others read: ``$NBKIT_RESULTS`` or ``build/results``."""
        root = os.environ.get("NBKIT_RESULTS", self.home.parent / "build" / "results")
        return Path(root) / self.name

    @property
    def figures(self) -> Path:
        """``figures`` for the sample, ``figures/NAME`` for the others."""
        folder = self.home.parent / "figures"
        return folder if self.name == "sample" else folder / self.name

    def keep(self, name: str, frame: pd.DataFrame) -> None:
        path = self.results / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        frame.to_parquet(path)

    def kept(self, name: str) -> pd.DataFrame:
        path = self.results / f"{name}.parquet"
        if not path.exists():
            raise FileNotFoundError(
                f"{name!r} is not there yet: run the notebook before this one with the preset"
                f" {self.name!r} first, or `make run PRESET={self.name}` for all of them"
            )
        return pd.read_parquet(path)

    def record(self, **facts: Any) -> None:
        """Add ``facts`` (numbers, strings, ``Estimate``) to ``summary.json`` of the results."""
        path = self.results / "summary.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        known = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**known, **facts}, indent=1, default=float))


def load(name: str | None = None, path: str | Path | None = None) -> Preset:
    """The preset ``name``, by default ``$NBKIT_PRESET`` or "sample", from ``path``.

    ``path`` defaults to ``presets.toml`` here or in ``notebooks/``. An unknown name is a
    ``ValueError`` with the known ones.
    """
    name = name or os.environ.get("NBKIT_PRESET", "sample")
    places = [Path(path)] if path else [Path("presets.toml"), Path("notebooks/presets.toml")]
    found = next((place for place in places if place.exists()), None)
    if found is None:
        raise FileNotFoundError(f"no presets.toml in {Path.cwd()} or its notebooks folder")
    sections = tomllib.loads(found.read_text())
    if name not in sections:
        raise ValueError(f"unknown preset {name!r}; {found} has {', '.join(sections)}")
    return Preset(name, sections[name], found.resolve().parent)
