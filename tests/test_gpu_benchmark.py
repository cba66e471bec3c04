"""`benchmarks/gpu.py` runs, on tiny shapes and without a GPU; its figures are for a GPU to give."""

import json
import runpy
from pathlib import Path

import pytest
import torch

SCRIPT = runpy.run_path(str(Path(__file__).resolve().parent.parent / "benchmarks" / "gpu.py"))


def test_the_benchmark_runs_on_tiny_shapes(tmp_path, capsys):
    options = [
        "--shapes",
        "tiny",
        "--device",
        "cpu",
        "--dtype",
        "float32",
        "--texts",
        "40",
        "--longest",
        "12",
    ]
    assert SCRIPT["main"]([*options, "--out", str(tmp_path / "gpu.json")]) == 0
    result = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    (line,) = result["table"]
    assert {"bare", "reducers", "store", "scorers", "ratio reducers"} <= set(line)
    assert line["ratio reducers"] == pytest.approx(line["bare"] / line["reducers"])
    assert "ratio reducers" in capsys.readouterr().out


def test_the_bare_pass_and_reducers_see_the_same_batches():
    subject, corpus = SCRIPT["subject_of"]("tiny", "cpu", "float32"), SCRIPT["corpus_of"](30, 12)
    seen = {}
    for mode in ("bare", "reducers"):
        sizes = []
        hook = subject.model.layers[0].register_forward_pre_hook(
            lambda m, x, sizes=sizes: sizes.append(x[0].shape)
        )
        SCRIPT["MODES"][mode](subject, corpus)
        hook.remove()
        seen[mode] = sizes
    assert seen["bare"] == seen["reducers"]


def test_without_a_gpu_it_says_not_measured(capsys):
    if torch.cuda.is_available():
        pytest.skip("NOT RUN: there is a GPU here")
    assert SCRIPT["main"]([]) == 2
    assert "not measured" in capsys.readouterr().err
