"""What the first token of a causal model does to pooled activations: SmolLM2 on the sample, layer by layer.

    python benchmarks/sinks.py              400 texts, layers 5, 15 and 25: minutes on two cores

For every layer and for `hidden` and `ffn`: the norm of the first token beside the median of the others, the
share of (text, unit) pairs whose maximum over tokens is at the first token, the correlation of mean-pooled
units with 1 / number of tokens (the median of |r| over units), and how many units get a tag
(`matching.tag`), each with the first token in pooling ("keep") and without it ("leave out").
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd

from nbkit import activations, matching, models, provenance, texts

CORPORA = ("reviews", "questions", "encyclopedia", "fiction")
MIN_TEXTS, MIN_SCORE = 15, 0.3


def sample(n: int) -> texts.Texts:
    """`n` texts of the four sample corpora together."""
    corpora = {name: texts.load(f"sample:{name}") for name in CORPORA}
    return texts.Texts.concat(corpora).sample(n, seed=0)


def of_tokens(stored: activations.Activations) -> dict[str, float | None]:
    """Norms and places of maxima at the first token, from one row per token."""
    rows, values = stored.rows, np.asarray(stored.values, np.float32)
    first, owner = (rows["position"] == 0).to_numpy(), rows["text_id"].to_numpy()
    norms = np.linalg.norm(values, axis=1)
    starts = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]])
    largest = np.maximum.reduceat(values, starts)
    long = np.diff(np.r_[starts, len(owner)]) > 1
    return {
        "norm of the first token": float(np.median(norms[first])),
        "norm of others": float(np.median(norms[~first])),
        "maxima at the first token": float((values[starts] == largest)[long].mean()),
    }


def pooled(tokens: activations.Activations, pool: str, sinks: str) -> activations.Activations:
    """Text rows from token rows of whole texts: what `capture` with these arguments gives, without a pass."""
    keep = np.ones(len(tokens), bool)
    if sinks == "leave out":
        keep = (tokens.rows["position"] > 0).to_numpy()
        alone = tokens.rows.groupby("text_id")["position"].transform("size") == 1
        keep = keep | alone.to_numpy()  # a text of one token keeps it
    frame = pd.DataFrame(np.asarray(tokens.values[keep], np.float32))
    found = frame.groupby(tokens.rows["text_id"].to_numpy()[keep]).agg(pool)
    rows = pd.DataFrame({"text_id": found.index.to_numpy()})
    manifest = {**tokens.manifest, "rows": "text", "pool": pool}
    return activations.Activations(found.to_numpy(), rows, tokens.units, manifest)


def of_rows(
    stored: activations.Activations, lengths: np.ndarray, labels: pd.DataFrame
) -> dict[str, float | None]:
    """Correlation of pooled units with 1 / length, and their tags."""
    values = np.asarray(stored.values, np.float64)
    centred, inverse = values - values.mean(0), 1 / lengths - (1 / lengths).mean()
    r = inverse @ centred / (np.linalg.norm(inverse) * np.linalg.norm(centred, axis=0).clip(1e-12))
    tags = matching.tag(stored, labels, top=1, min_score=MIN_SCORE, seed=0, progress=False)
    return {
        "r with 1/length": float(np.median(np.abs(r))),
        "tagged units": int(tags["tagged"].sum()),
        "validation score of tagged": _mean(tags.loc[tags["tagged"], "validation_score"]),
        "distinct tags": int(tags.loc[tags["tagged"], "descriptor"].nunique()),
    }


def _mean(values: pd.Series) -> float | None:
    return float(values.mean()) if len(values) else None


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    arguments.add_argument("--texts", type=int, default=400)
    arguments.add_argument("--layers", type=int, nargs="+", default=[5, 15, 25])
    arguments.add_argument("--subject", default="smollm2")
    arguments.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    given = arguments.parse_args()
    subject, corpus = models.load(given.subject), sample(given.texts)
    labels = corpus.descriptors("surface")
    labels = labels.loc[:, (labels > 0).sum() >= MIN_TEXTS]
    table, sites = [], [f"layer.{layer}.{kind}" for layer in given.layers for kind in ("ffn", "hidden")]
    tokens = activations.capture(subject, corpus, sites=sites, rows="token", dtype="float32", cache=False)
    lengths = tokens.rows.groupby("text_id").size().to_numpy()
    for site in sites:
        here = tokens.select(sites=site)
        for sinks in ("keep", "leave out"):
            line = {"site": site, "sinks": sinks, **of_tokens(here)}
            for pool in ("mean", "max"):
                found = of_rows(pooled(here, pool, sinks), lengths, labels)
                line |= {f"{pool}: {name}": value for name, value in found.items()}
            table.append(line)
    result = provenance.manifest(
        subject=subject.name, texts=len(corpus), descriptors=labels.shape[1], table=table
    )
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "sinks.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(pd.DataFrame(table).round(2).T.to_string())


if __name__ == "__main__":
    main()
