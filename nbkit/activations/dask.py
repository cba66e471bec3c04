"""Workers: the same work on several processes, machines or GPUs, through Dask.

    activations.capture(subject, texts, engine="dask")       two or more workers on this machine
    activations.reduce(subject, texts, reducers, engine=Client("scheduler:8786"))

Needs ``pip install distributed``. A worker gets the subject and the plan once, then blocks of texts. It
writes its blocks straight into the store, so the cache folder must be on a file system that all workers see;
reducers come back and are merged in the order of the blocks. A worker that dies costs its unfinished
blocks, which others take over. The result is that of one process, up to float rounding.

A worker may have several threads: forward passes of one model take turns (``Subject.run``), so more threads
than one gain little. In a script, ``engine="dask"`` belongs under ``if __name__ == "__main__":``, since every
worker on this machine runs the script once more to load its functions; without it there is an error that
says so.

On a Slurm cluster (one process a node, dask-jobqueue):

    from dask_jobqueue import SLURMCluster
    from distributed import Client
    nodes = SLURMCluster(cores=8, processes=1, memory="32GB", walltime="04:00:00")
    nodes.scale(16)
    stored = activations.capture(subject, texts, cache="/shared/nbkit", engine=Client(nodes))

One worker for each GPU of a machine (dask-cuda):

    from dask_cuda import LocalCUDACluster
    stored = activations.capture(subject, texts, engine=Client(LocalCUDACluster()))

The subject travels on the CPU and moves to the worker's GPU where there is one. These two were not run for
want of such machines; the local one is tested, with a worker killed half-way and with four threads a worker.
"""

from __future__ import annotations

import contextlib
import copy
import multiprocessing
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch

RETRIES = 3  # a job that was on workers that died; also how often a worker may fail

#: Threads that wait sleep: to spin would take the cores from others on a busy machine. The same numbers.
PATIENT = {"GOMP_SPINCOUNT": "0"}

#: Why workers do not start, where a script has no guard.
UNGUARDED = (
    "engine='dask' starts processes that run your script once more to load its functions, and this call is"
    ' among what they run: put it under `if __name__ == "__main__":`'
)


def check_engine(engine: Any) -> None:
    """``ValueError`` for what is no engine; ``RuntimeError`` in a worker that runs an unguarded script."""
    if isinstance(engine, str) and engine == "local":
        return
    if not (isinstance(engine, str) and engine == "dask" or hasattr(engine, "scatter")):
        raise ValueError(f"engine={engine!r} is neither 'local' nor 'dask' nor a distributed.Client")
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # multiprocessing's own mark
        raise RuntimeError(UNGUARDED)


def workers(engine: Any) -> int:
    """How many workers a client has now; for "dask", how many will be made."""
    return _local_workers() if engine == "dask" else max(1, len(engine.scheduler_info()["workers"]))


def deal(
    function: Callable, jobs: list, engine: Any, subject: Any, *shared: Any
) -> Iterator[tuple[Any, Any]]:
    """``function(job, subject, *shared)`` for every job, on the workers; pairs in the order of the jobs.

    ``subject`` and ``shared`` go to every worker once. An error on a worker is raised here.
    """
    with _client(engine) as client:
        device, there = subject.device.type, [client.scatter(x, broadcast=True, hash=False) for x in shared]
        model = client.scatter(_travelling(subject), broadcast=True, hash=False)
        futures = [
            client.submit(_on_worker, function, job, model, device, *there, pure=False, retries=RETRIES)
            for job in jobs
        ]
        for job, future in zip(jobs, futures, strict=True):
            yield job, future.result()
            future.release()


def _on_worker(function: Callable, job: Any, subject: Any, device: str, *shared: Any) -> Any:
    if device == "cuda" and torch.cuda.is_available():
        with subject.alone():
            if subject.device.type == "cpu":
                subject.model.to("cuda")  # the worker's copy: it stays there for the next job
    return function(job, subject, *shared)


def _travelling(subject: Any) -> Any:
    """A copy on the CPU without hooks: transformers leaves some that cannot be sent to a process."""
    if subject.dispatched:
        raise ValueError(f"{subject.name} is spread over devices (device_map): use engine='local'")
    moved = copy.copy(subject)
    moved.model = copy.deepcopy(subject.model).to("cpu")
    for module in moved.model.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
        vars(module).pop("_output_capturing_hooks_installed", None)  # so that they can be set again there
    return moved


def _local_workers() -> int:
    return max(2, (os.cpu_count() or 2) // 4)


@contextlib.contextmanager
def _client(engine: Any) -> Iterator[Any]:
    """The client given, or one of a cluster on this machine that ends with the work."""
    if engine != "dask":
        yield engine
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise ImportError("engine='dask' needs Dask: pip install distributed") from error
    n = _local_workers()
    threads = max(1, (os.cpu_count() or 1) // n)
    with _environment_kept(), _local_cluster(n) as cluster, Client(cluster) as client:
        client.run(torch.set_num_threads, threads)
        yield client


def _local_cluster(n: int) -> Any:
    from distributed import LocalCluster

    try:
        return LocalCluster(
            n_workers=n,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,  # pyright: ignore[reportArgumentType]
            env=PATIENT,
        )
    except RuntimeError as error:
        raise RuntimeError(f"no Dask worker starts ({error}). If this is a script: {UNGUARDED}") from error


@contextlib.contextmanager
def _environment_kept() -> Iterator[None]:
    """Dask sets OMP_NUM_THREADS=1 here for its workers: whatever this process starts later would be slow."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
