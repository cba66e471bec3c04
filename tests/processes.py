"""Processes that tests start, kill and start again: forked from one that has imported everything once."""

import multiprocessing
import os
import sys

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["nbkit.descriptors", "nbkit.models", "nbkit.workshop.presets", "openai"])


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
