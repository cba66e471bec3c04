"""NeuroX files: read and write the hdf5 and json activations of NeuroX 1.x, so that its users can move over.

    write("ewt.hdf5", stored, forms)      one dataset a sentence, [layer, word, width]
    stored = read("ewt.hdf5")             Activations of word rows, as ``capture(rows="word")`` gives them

A NeuroX file has no name for its layers: they are numbered from 0, the embeddings first where they were
extracted. Read, they become the sites "embeddings", "layer.0.hidden", ... unless ``sites`` names them. hdf5
(``pip install h5py``) holds 32-bit floats; json rounds to 8 decimals, as NeuroX does.

An hdf5 file of NeuroX holds a sentence as its words with spaces between. Where a word has spaces itself
("10 000"), an attribute ``parts`` of the sentence's dataset says how many pieces each word has; NeuroX does
not look at it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nbkit import provenance
from nbkit.activations.plan import units_of
from nbkit.activations.store import Activations

SENTENCES = "sentence_to_index"  # the dataset with NeuroX's list of sentences
PARTS = "parts"  # attribute of a sentence: [word] how many pieces between spaces


def write(path: str | Path, stored: Activations, forms: Sequence[str] | None = None) -> Path:
    """Write word rows as NeuroX does; the ending of ``path`` (.hdf5 or .json) says which kind.

    All sites of ``stored`` need the same width. ``forms`` are the words (default: ``stored.rows["form"]``).
    ``ValueError`` for other rows, other endings or mixed widths.
    """
    path = Path(path)
    _kind(path)
    if "word_id" not in stored.rows:
        raise ValueError(f"{stored!r} has no word rows: NeuroX files hold words, capture(rows='word')")
    widths = stored.units["site"].value_counts()
    if widths.nunique() != 1:
        raise ValueError(f"the sites have different widths, NeuroX needs one: {widths.to_dict()}")
    words = pd.Series(list(stored.rows["form"] if forms is None else forms)).groupby(
        stored.rows["text_id"].to_numpy(), sort=False
    )
    writer = _write_hdf5 if path.suffix == ".hdf5" else _write_json
    sentences = ((words.obj.iloc[rows].tolist(), rows) for rows in words.indices.values())
    with provenance.atomic(path) as part:
        writer(part, ((forms, _layers(stored, rows, len(widths))) for forms, rows in sentences))
    return path


def read(path: str | Path, *, sites: Sequence[str] | None = None) -> Activations:
    """Activations [word, unit] of a NeuroX file, in memory, float32; text_id counts the sentences.

    ``sites`` names its layers (default: embeddings, layer.0.hidden, ...). A file that is not NeuroX's, or
    cut short, is a ``ValueError``.
    """
    path = Path(path)
    _kind(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    values, rows = [], []
    reader = _read_hdf5 if path.suffix == ".hdf5" else _read_json
    for text_id, (forms, layers) in enumerate(reader(path)):
        if layers.ndim != 3 or layers.shape[1] != len(forms):
            raise ValueError(
                f"{path}: sentence {text_id} has {len(forms)} words and values of shape {layers.shape}"
            )
        values.append(np.swapaxes(layers, 0, 1).reshape(len(forms), -1))
        rows.append(pd.DataFrame({"text_id": text_id, "word_id": range(1, len(forms) + 1), "form": forms}))
    if not values:
        raise ValueError(f"{path} holds no sentence")
    n_layers, width = layers.shape[0], layers.shape[2]
    sites = ["embeddings", *(f"layer.{i}.hidden" for i in range(n_layers - 1))] if sites is None else sites
    if len(sites) != n_layers:
        raise ValueError(f"{path} has {n_layers} layers and {len(sites)} names were given")
    manifest = {"corpus": path.stem, "model": "NeuroX file", "rows": "word", "pool": "as extracted"}
    layers = [-1 if site == "embeddings" else int(site.split(".")[1]) for site in sites]
    units = units_of(pd.DataFrame({"site": sites, "layer": layers, "width": width}))
    values = np.concatenate(values).astype(np.float32)
    return Activations(values, pd.concat(rows, ignore_index=True), units, manifest)


def _kind(path: Path) -> None:
    if path.suffix not in (".hdf5", ".json"):
        raise ValueError(f"{path.name}: NeuroX files end in .hdf5 or .json")


def _layers(stored: Activations, rows: np.ndarray, n: int) -> np.ndarray:
    """[layer, word, width]"""
    values = np.asarray(stored.values[rows], np.float32)
    return np.swapaxes(values.reshape(len(rows), n, -1), 0, 1)


def _write_hdf5(path: Path, sentences: Iterator[tuple[list[str], np.ndarray]]) -> None:
    h5py = _h5py()
    index: dict[str, str] = {}
    with h5py.File(path, "w") as file:
        for number, (forms, layers) in enumerate(sentences):
            dataset = file.create_dataset(str(number), data=layers, dtype="float32")
            parts = [form.count(" ") + 1 for form in forms]
            if max(parts) > 1:
                dataset.attrs[PARTS] = np.array(parts, dtype=np.uint16)
            text = once = " ".join(forms)
            again = 1
            while once in index:  # the words are the key: NeuroX numbers repeated sentences
                again += 1
                once = f"{text} (Occurrence {again})"
            index[once] = str(number)
        listed = file.create_dataset(SENTENCES, (1,), dtype=h5py.special_dtype(vlen=str))
        listed[0] = json.dumps(index)


def _read_hdf5(path: Path) -> Iterator[tuple[list[str], np.ndarray]]:
    try:
        file = _h5py().File(path, "r")
    except OSError as error:
        raise ValueError(f"{path} is no hdf5 file, or cut short: {error}") from error
    with file:
        if SENTENCES not in file:
            raise ValueError(f"{path} has no dataset {SENTENCES!r}: not written by NeuroX, or cut short")
        index = json.loads(file[SENTENCES][0])
        for sentence, number in sorted(index.items(), key=lambda item: int(item[1])):
            layers = np.asarray(file[number])
            parts = file[number].attrs.get(PARTS, np.ones(layers.shape[1], dtype=int))
            yield _words(sentence, parts.tolist()), layers


def _words(sentence: str, parts: list[int]) -> list[str]:
    """The words of a key, ``parts`` pieces each; NeuroX may have added "(Occurrence 2)"."""
    pieces = sentence.split(" ")
    if len(pieces) == sum(parts) + 2 and pieces[-2] == "(Occurrence":
        pieces = pieces[:-2]
    if len(pieces) != sum(parts):
        return pieces
    ends = np.cumsum(parts).tolist()
    return [" ".join(pieces[end - n : end]) for end, n in zip(ends, parts, strict=True)]


def _write_json(path: Path, sentences: Iterator[tuple[list[str], np.ndarray]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for number, (forms, layers) in enumerate(sentences):
            rounded = layers.astype(np.float64).round(8)
            features = [
                {
                    "token": form,
                    "layers": [{"index": i, "values": v[word].tolist()} for i, v in enumerate(rounded)],
                }
                for word, form in enumerate(forms)
            ]
            file.write(json.dumps({"linex_index": number, "features": features}) + "\n")


def _read_json(path: Path) -> Iterator[tuple[list[str], np.ndarray]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                features = json.loads(line)["features"]
                layers = [[layer["values"] for layer in word["layers"]] for word in features]
                forms = [word["token"] for word in features]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path}, line {number} is not NeuroX's: {error!r}") from error
            yield forms, np.swapaxes(np.asarray(layers, np.float32), 0, 1)


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise ImportError("hdf5 files need h5py: pip install h5py") from error
    return h5py
