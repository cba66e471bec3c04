"""Capture beside the bare forward pass on a GPU, on random weights: one call, no network.

    python benchmarks/gpu.py                       bert-base, llama-1b and llama-8b on the GPU in bfloat16
    python benchmarks/gpu.py --shapes tiny --device cpu --texts 40      a trial without a GPU

For each shape, on the same texts of random words in batches of like length: `bare`, the model alone;
`reducers`, `activations.reduce` with TopK and Moments over all FFN units; `store`, `activations.capture` of
the hidden states into a folder that is deleted; `scorers`, Pearson of all FFN units with 20 labels from
`LabelSums`. Each is timed once after a warm-up; the ratio is the seconds of the bare pass over its seconds
(.90 with reducers is the aim). A shape that does not fit the memory is said to be skipped. On a GPU: not
measured.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers import models as tokenizer_models
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

from nbkit import activations, models, provenance, texts

WORDS, LABELS, SITES = 20_000, 20, "ffn"
_LLAMA = {"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": WORDS + 2, "model_type": "llama"}
SHAPES = {
    "tiny": _LLAMA
    | {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64, "num_attention_heads": 4}
    | {"num_key_value_heads": 2},
    "bert-base": {"model_type": "bert", "vocab_size": WORDS + 2},
    "llama-1b": _LLAMA | {"hidden_size": 2048, "num_hidden_layers": 16, "intermediate_size": 8192},
    "llama-8b": _LLAMA | {"hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 14336},
}


def subject_of(shape: str, device: str, dtype: str) -> models.Subject:
    """A subject of random weights, made on the device in its precision."""
    options = dict(SHAPES[shape])
    config = AutoConfig.for_model(options.pop("model_type"), **options, pad_token_id=0, use_cache=False)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModel.from_config(config, dtype=getattr(torch, dtype))
    vocabulary = {"[PAD]": 0, "[UNK]": 1} | {f"w{i}": i + 2 for i in range(WORDS)}
    backend = Tokenizer(tokenizer_models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")
    return models.Subject(shape, model, tokenizer)


def corpus_of(n: int, longest: int) -> texts.Texts:
    """Texts of random words, 8 to `longest` of them."""
    random = np.random.default_rng(0)
    lines = [
        " ".join(f"w{i}" for i in random.integers(0, WORDS, size)) for size in random.integers(8, longest, n)
    ]
    return texts.Texts.from_list(lines, name="random words")


def bare(subject: models.Subject, corpus: texts.Texts) -> None:
    """The model on the same batches, its output thrown away."""
    with torch.inference_mode():
        for batch in activations.batches(subject, activations.plan_of(subject, corpus)):
            subject.model(**batch.inputs)


def reducers(subject: models.Subject, corpus: texts.Texts) -> None:
    made = {"top": activations.TopK(10), "moments": activations.Moments()}
    activations.reduce(subject, corpus, made, sites=SITES, progress=False)


def store(subject: models.Subject, corpus: texts.Texts) -> None:
    with tempfile.TemporaryDirectory() as folder:
        activations.capture(subject, corpus, sites="hidden", dtype="bfloat16", cache=folder, progress=False)


def scorers(subject: models.Subject, corpus: texts.Texts) -> None:
    ids = corpus.frame["text_id"].to_numpy()
    drawn = np.random.default_rng(1).integers(0, 2, (len(ids), LABELS))
    labels = pd.DataFrame(drawn, index=pd.Index(ids, name="text_id"))
    made = {"sums": activations.LabelSums(labels)}
    activations.reduce(subject, corpus, made, sites=SITES, progress=False)["sums"].pearson()


MODES: dict[str, Callable[[models.Subject, texts.Texts], None]] = {
    "bare": bare,
    "reducers": reducers,
    "store": store,
    "scorers": scorers,
}


def seconds_of(mode: str, subject: models.Subject, corpus: texts.Texts) -> float:
    MODES[mode](subject, corpus.sample(min(16, len(corpus)), seed=0))  # the first pass is slow
    synchronize(subject)
    start = time.perf_counter()
    MODES[mode](subject, corpus)
    synchronize(subject)
    return time.perf_counter() - start


def synchronize(subject: models.Subject) -> None:
    if subject.device.type == "cuda":
        torch.cuda.synchronize()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["bert-base", "llama-1b", "llama-8b"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--longest", type=int, default=128)
    parser.add_argument("--out", type=Path, help="write the result there as JSON")
    given = parser.parse_args(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        print("no GPU here: not measured (--shapes tiny --device cpu is a trial)", file=sys.stderr)
        return 2
    corpus, table = corpus_of(given.texts, given.longest), []
    for shape in given.shapes:
        try:
            subject = subject_of(shape, given.device, given.dtype)
            seconds = {mode: seconds_of(mode, subject, corpus) for mode in MODES}
        except torch.OutOfMemoryError:
            print(f"{shape}: skipped, it does not fit the memory of {given.device}", flush=True)
            continue
        finally:
            subject = None
        ratios = {f"ratio {mode}": seconds["bare"] / seconds[mode] for mode in MODES if mode != "bare"}
        table.append({"shape": shape, "texts": len(corpus), **seconds, **ratios})
        print(pd.DataFrame(table[-1:]).round(3).to_string(index=False), flush=True)
    card = torch.cuda.get_device_name() if given.device == "cuda" else "cpu"
    result = provenance.manifest(card=card, dtype=given.dtype, table=table)
    if given.out:
        given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
