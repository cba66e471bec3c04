"""The same work on two worker processes, and with one of them killed half-way, against one process."""

import os
import signal
import threading
import time

import numpy as np
import pandas as pd
import pytest

from nbkit import activations, texts
from nbkit.activations import dask, plan, store

SITES = "layer.1.ffn"


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
    pd.testing.assert_frame_equal(one["top"], two["top"], atol=1e-5)
    assert np.allclose(one["sums"].pearson(), two["sums"].pearson(), atol=1e-5)
    assert np.allclose(one["sums"].covariance(), two["sums"].covariance(), atol=1e-5)


@pytest.mark.slow
def test_a_worker_killed_half_way_costs_time_only(minilm, corpus, tmp_path, small_blocks):
    expected = activations.capture(minilm, corpus, sites=SITES, dtype="float32", cache=False)
    killed = []

    def kill(client):
        while (
            not (lines := [p.read_text().count("\n") for p in tmp_path.glob("activations/*.part/journal")])
            or lines[0] < 5
        ):
            time.sleep(0.005)
        pids = {address: worker["pid"] for address, worker in client.run(_pid).items()}
        killed.append(next(iter(pids.values())))
        os.kill(killed[0], signal.SIGKILL)

    with dask._client("dask") as client:
        killer = threading.Thread(target=kill, args=(client,))
        killer.start()
        found = activations.capture(
            minilm, corpus, sites=SITES, dtype="float32", cache=tmp_path, engine=client
        )
        killer.join()
        assert killed and killed[0] not in {w["pid"] for w in client.run(_pid).values()}
    assert np.allclose(expected.values, found.values, atol=1e-5)
    blocks = [tuple(block[:2]) for block in found.manifest["checksums"]]
    assert blocks == sorted(set(blocks)) and blocks[0][0] == 0 and blocks[-1][1] == len(corpus)


def _pid():
    return {"pid": os.getpid()}


@pytest.mark.slow
def test_the_environment_is_left_as_it_was(monkeypatch):
    """Dask leaves OMP_NUM_THREADS=1 behind, and every kernel and server started later has one thread."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    before = dict(os.environ)
    with dask._client("dask") as client:
        assert dask.workers(client) == 2
    assert dict(os.environ) == before


def test_an_error_on_a_worker_is_raised_here(minilm, corpus, client):
    with pytest.raises(ZeroDivisionError):
        list(dask.deal(_fails, [0], client, minilm))


def _fails(job, subject):
    return 1 / job


def test_unknown_engines_are_refused(minilm, corpus):
    with pytest.raises(ValueError, match="engine='ray' is neither"):
        activations.capture(minilm, corpus, sites=SITES, engine="ray")
