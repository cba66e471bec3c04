"""Processes that tests start, kill and start again: forked from one that has imported everything once, where
there is forking. They play the system that the tests play (``systems.py``)."""

import multiprocessing
import os
import sys

import pytest
import systems

if "forkserver" in multiprocessing.get_all_start_methods():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["nbkit.descriptors", "nbkit.models", "nbkit.workshop.presets", "openai"])
else:
    context = multiprocessing.get_context("spawn")
if multiprocessing.parent_process() is not None:
    systems.play(os.environ.get("NBKIT_TEST_SYSTEM", ""), pytest.MonkeyPatch())


def run_script(code, arguments, folder, environment, said):
    """In a process of ``context``: ``code`` as ``python -c`` would run it there; stderr goes to a file."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.argv = ["-c", *arguments]
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102
