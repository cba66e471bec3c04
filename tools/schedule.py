"""Which notebook runs when: several at once, each as soon as what it takes from others is there."""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")

#: Notebook -> those whose frames and stores it takes, by their first letters. A store that is absent would be
#: made again; notebook 10 refuses to.
NEEDS: dict[str, tuple[str, ...]] = {
    "03": ("01", "02"),
    "04": ("01", "02"),
    "05": ("01", "02"),
    "09": ("01", "02", "04"),
    "10": ("01", "02", "03", "04", "06"),
    "11": ("01", "02", "04"),
}


def side_by_side(
    run: Callable[[str], T],
    names: Iterable[str],
    workers: int,
    seconds: Mapping[str, float],
    done: Callable[[str, T], None] = lambda *_: None,
) -> dict[str, T]:
    """``run(name)`` of every name in ``workers`` threads; ``done(name, result)`` here, after each.

    Of what can run now, that with the most ``seconds`` of work behind it comes first (its own and of the
    longest line of notebooks that wait for it). After an error what runs ends, nothing new begins, and the
    error is raised.
    """
    names = list(names)
    needs = {name: {n for n in names if n[:2] in NEEDS.get(name[:2], ())} for name in names}
    behind: dict[str, float] = {}
    for name in reversed(sorted(names)):  # a notebook takes from earlier ones only
        waiting = [behind[other] for other in names if name in needs[other]]
        behind[name] = seconds.get(name, 60.0) + max(waiting, default=0.0)
    ready = [(-behind[name], name) for name in names if not needs[name]]
    heapq.heapify(ready)
    results: dict[str, T] = {}
    running = {}
    with ThreadPoolExecutor(workers) as pool:
        while ready or running:
            while ready and len(running) < workers:
                _, name = heapq.heappop(ready)
                running[pool.submit(run, name)] = name
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name = running.pop(future)
                results[name] = future.result()  # an error leaves the pool, which waits for the others
                done(name, results[name])
                for other in names:
                    if name in needs[other] and needs[other] <= set(results):
                        heapq.heappush(ready, (-behind[other], other))
    return {name: results[name] for name in names}


def workers_and_threads() -> tuple[int, int]:
    """Notebooks at once, and threads for each: two, or one where there is one core, share the cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(2, cores)
    return workers, cores // workers
