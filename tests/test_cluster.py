"""The same work on two worker processes, and with one of them killed half-way, against one process."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from nbkit import activations, texts
from nbkit.activations import dask, plan, store

SITES = "layer.1.ffn"
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def corpus():
    return texts.load("sample:reviews").sample(200, seed=0)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(plan, "BLOCK_BYTES", 10 * 1536 * 2)  # twenty blocks


@pytest.fixture(scope="module")
def client():
    with dask._client("dask") as client:
        yield client


def kinds(labels):
    return {
        "moments": activations.Moments(),
        "top": activations.TopK(3),
        "sums": activations.LabelSums(labels, gram=True),
    }


def assert_same_tops(one, two, stored, atol):
    """Equal up to ties: each rank has its value, and each text its own, in either, within ``atol``.

    Which of two texts comes first, and which is the last to be among the k, is rounding where their
    activations are nearer than that.
    """
    keys = ["unit", "sign", "rank"]
    assert one[keys].equals(two[keys])
    assert np.allclose(one["value"], two["value"], atol=atol)
    row_of = pd.Series(np.arange(len(stored)), index=stored.rows["text_id"])
    column_of = pd.Series(np.arange(len(stored.units)), index=stored.units["unit"])
    for found in (one, two):
        assert not found.duplicated(["unit", "sign", "text_id"]).any()
        own = stored.values[row_of[found["text_id"]], column_of[found["unit"]]]
        assert np.allclose(found["value"], own, atol=atol)


def test_tops_are_equal_up_to_ties_and_no_further():
    units = pd.DataFrame({"unit": ["u"]})
    values = np.array([[1.0], [3.0], [3.0 + 1e-7], [2.0], [2.0 - 1e-7]], np.float32)
    stored = activations.Activations(values, pd.DataFrame({"text_id": range(5)}), units, {})
    top = pd.DataFrame({"unit": "u", "sign": 1, "rank": [1, 2, 3], "value": values[[2, 1, 3], 0]})
    top["text_id"] = [2, 1, 3]
    assert_same_tops(top, top.assign(text_id=[1, 2, 4]), stored, 1e-5)  # ties, the last place among them
    for wrong in ([2, 3, 1], [2, 1, 0], [2, 2, 3]):
        with pytest.raises(AssertionError):
            assert_same_tops(top, top.assign(text_id=wrong), stored, 1e-5)
    with pytest.raises(AssertionError):
        assert_same_tops(top, top.assign(value=top["value"] + 1e-3), stored, 1e-5)


@pytest.mark.slow
def test_two_workers_make_the_store_and_the_sums_of_one_process(
    minilm, corpus, tmp_path, client, small_blocks
):
    assert dask.workers(client) == 2
    alone = activations.capture(minilm, corpus, sites=SITES, dtype="float32", cache=tmp_path / "alone")
    dealt = activations.capture(
        minilm, corpus, sites=SITES, dtype="float32", cache=tmp_path / "dealt", engine=client
    )
    assert np.allclose(alone.values, dealt.values, atol=1e-5)
    assert dealt.manifest["checksums"] and store.load(next((tmp_path / "dealt").glob("activations/*/")))
    labels = corpus.descriptors("surface")
    one = activations.reduce(minilm, corpus, kinds(labels), sites=SITES)
    two = activations.reduce(minilm, corpus, kinds(labels), sites=SITES, engine=client)
    numbers = ["count", "mean", "std", "min", "max"]
    assert np.allclose(one["moments"][numbers], two["moments"][numbers], atol=1e-5)
    assert_same_tops(one["top"], two["top"], alone, atol=1e-5)
    assert np.allclose(one["sums"].pearson(), two["sums"].pearson(), atol=1e-5)
    assert np.allclose(one["sums"].covariance(), two["sums"].covariance(), atol=1e-5)


@pytest.mark.slow
def test_a_worker_killed_half_way_costs_time_only(minilm, corpus, tmp_path, small_blocks, monkeypatch):
    """And the environment stays as it was: Dask leaves OMP_NUM_THREADS=1 behind, and every kernel and server
    started later would have one thread."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    before = dict(os.environ)
    expected = activations.capture(minilm, corpus, sites=SITES, dtype="float32", cache=False)
    killed = []

    def kill(client):
        while (
            not (
                lines := [
                    p.read_text(encoding="utf-8").count("\n")
                    for p in tmp_path.glob("activations/*.part/journal")
                ]
            )
            or lines[0] < 5
        ):
            time.sleep(0.005)
        pids = {address: worker["pid"] for address, worker in client.run(_pid).items()}
        killed.append(next(iter(pids.values())))
        os.kill(killed[0], signal.SIGKILL)

    with dask._client("dask") as client:
        assert dask.workers(client) == 2
        killer = threading.Thread(target=kill, args=(client,))
        killer.start()
        found = activations.capture(
            minilm, corpus, sites=SITES, dtype="float32", cache=tmp_path, engine=client
        )
        killer.join()
        assert killed and killed[0] not in {w["pid"] for w in client.run(_pid).values()}
    assert dict(os.environ) == before
    assert np.allclose(expected.values, found.values, atol=1e-5)
    blocks = [tuple(block[:2]) for block in found.manifest["checksums"]]
    assert blocks == sorted(set(blocks)) and blocks[0][0] == 0 and blocks[-1][1] == len(corpus)


def _pid():
    return {"pid": os.getpid()}


def test_an_error_on_a_worker_is_raised_here(minilm, corpus, client):
    with pytest.raises(ZeroDivisionError):
        list(dask.deal(_fails, [0], client, minilm))


def _fails(job, subject):
    return 1 / job


def test_unknown_engines_are_refused(minilm, corpus):
    with pytest.raises(ValueError, match="engine='ray' is neither"):
        activations.capture(minilm, corpus, sites=SITES, engine="ray")


# ---------------------------------------------------------------------------------- threads


def test_one_thread_at_a_time_has_the_model(minilm, corpus):
    """Four threads share a subject: hooks of one that saw the pass of another gave wrong numbers."""
    some = [corpus.frame["text"].tolist()[4 * i : 4 * i + 4] for i in range(8)]
    batches = [minilm.encode(part)[0] for part in some]
    alone = [minilm.run(batch, "hidden") for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            found = list(pool.map(lambda batch: minilm.run(batch, "hidden"), batches))
            for one, other in zip(alone, found, strict=True):
                assert all(torch.equal(one[site], other[site]) for site in one)


def test_an_edit_in_one_thread_is_not_felt_in_another(minilm, corpus):
    batch, _ = minilm.encode(corpus.frame["text"].tolist()[:4])
    expected = minilm.run(batch, "layer.5.hidden")["layer.5.hidden"]
    with ThreadPoolExecutor(1) as pool:
        with minilm.edit({"layer.1.hidden": torch.zeros_like}):
            other = pool.submit(minilm.run, batch, "layer.5.hidden")
            assert not torch.equal(minilm.run(batch, "layer.5.hidden")["layer.5.hidden"], expected)
        assert torch.equal(other.result()["layer.5.hidden"], expected)


@pytest.mark.slow
def test_a_worker_with_four_threads_computes_what_one_process_does(minilm, corpus, tmp_path, small_blocks):
    """As the lines for Slurm make it, where a node is one worker with all its cores."""
    distributed = pytest.importorskip("distributed")
    alone = activations.capture(minilm, corpus, sites=SITES, dtype="float32", cache=False)
    moments = activations.reduce(minilm, corpus, {"m": activations.Moments()}, sites=SITES)["m"]
    cluster = distributed.LocalCluster(n_workers=1, threads_per_worker=4, dashboard_address=None)
    with cluster, distributed.Client(cluster) as client:
        for time_ in range(5):
            options = {"sites": SITES, "dtype": "float32", "engine": client, "cache": tmp_path / str(time_)}
            found = activations.capture(minilm, corpus, progress=False, **options)
            assert np.allclose(alone.values, found.values, atol=1e-5)
        found = activations.reduce(minilm, corpus, {"m": activations.Moments()}, sites=SITES, engine=client)
        assert np.allclose(moments["mean"], found["m"]["mean"], atol=1e-5)


UNGUARDED = """
import os, sys
from nbkit import activations, models, texts
corpus = texts.Texts.from_list(["one text", "another"])
activations.capture(models.load(), corpus, sites="layer.0.ffn", cache=sys.argv[1], engine="dask")
"""


@pytest.mark.slow
def test_a_script_without_a_guard_is_told_so(tmp_path):
    """It waited for ever: its workers ran it again, and waited for the store that it had locked."""
    (tmp_path / "script.py").write_text(UNGUARDED, encoding="utf-8")
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "cache")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert ran.returncode != 0
    assert 'put it under `if __name__ == "__main__":`' in ran.stderr.splitlines()[-1]
    guarded = UNGUARDED.replace("\nactivations", "\nif __name__ == '__main__':\n    activations")
    (tmp_path / "script.py").write_text(guarded, encoding="utf-8")
    assert subprocess.run(command, capture_output=True, timeout=600, env=environment).returncode == 0
