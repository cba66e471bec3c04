"""Other systems, as far as Linux can play them; ``NBKIT_TEST_SYSTEM=plain,locking`` is heard by conftest.py.

plain      an ``os`` without the functions that only POSIX has, and files that do not tell their blocks
locking    files that are open or mapped in this process are neither removed nor replaced (Windows)
spawn      processes start by spawn only
"""

import errno
import functools
import multiprocessing
import os
import shutil
import sys
from pathlib import Path

import pytest

#: Of ``os``; the standard library on Linux itself asks for a few others, such as ``statvfs``.
POSIX_ONLY = (
    *("pread", "pwrite", "preadv", "pwritev", "posix_fallocate", "posix_fadvise", "sendfile", "splice"),
    *("fchmod", "fchown", "chown", "lchown", "chroot", "mkfifo", "mknod", "lockf", "sync", "fdatasync"),
    *("nice", "getloadavg", "sched_getaffinity", "sched_setaffinity", "getpgid", "getuid", "geteuid"),
    *("uname", "ctermid", "getlogin", "setsid", "copy_file_range", "memfd_create", "pipe2"),
)
#: What of it this interpreter's own library calls on Linux whatever runs.
NEEDED = {
    "fchmod",
    "getuid",
    "geteuid",
    "uname",
    "sendfile",
    "sched_getaffinity",
    "setsid",
    "copy_file_range",
}


class Found:
    """What ``os.stat`` gives on Windows: no blocks."""

    def __init__(self, found: os.stat_result):
        self._found = found

    def __getattr__(self, name: str):
        if name in ("st_blocks", "st_blksize", "st_rdev"):
            raise AttributeError(name)
        return getattr(self._found, name)

    def __getitem__(self, i):
        return self._found[i]


def plain(patch: pytest.MonkeyPatch) -> None:
    for name in set(POSIX_ONLY) - NEEDED:
        patch.delattr(os, name, raising=False)
    stat = Path.stat
    patch.setattr(Path, "stat", lambda path, **options: Found(stat(path, **options)))


def open_here() -> set[str]:
    """The files that this process has open or mapped."""
    links = Path("/proc/self/fd")
    found = set()
    for name in os.listdir(links):
        try:
            found.add(os.readlink(links / name))
        except OSError:  # the one that lists them
            continue
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as lines:
        found |= {line.split(maxsplit=5)[5].strip() for line in lines if "/" in line}
    return found


def locking(patch: pytest.MonkeyPatch) -> None:
    def refusing(name: str, *, ends: int):
        act = getattr(os, name)

        @functools.wraps(act)
        def instead(*paths, **options):
            for path in paths[:ends]:
                refuse_open(path, options.get("dir_fd"))
            return act(*paths, **options)

        return instead

    for name, ends in (("unlink", 1), ("remove", 1), ("rmdir", 1), ("rename", 2), ("replace", 2)):
        patch.setattr(os, name, refusing(name, ends=ends))
    patch.setattr(shutil, "_use_fd_functions", False)


def refuse_open(path: str | Path, folder: int | None) -> None:
    whole = os.path.realpath(path if folder is None else f"/proc/self/fd/{folder}/{os.fspath(path)}")
    taken = [name for name in open_here() if name == whole or name.startswith(f"{whole}/")]
    if taken and not taken[0].startswith("/dev"):
        raise PermissionError(errno.EACCES, "the file is in use by another process", os.fspath(path))


def spawn(patch: pytest.MonkeyPatch) -> None:
    get = multiprocessing.get_context
    multiprocessing.set_start_method("spawn", force=True)

    def context(method: str | None = None):
        if method not in (None, "spawn"):
            raise ValueError(f"cannot find context for {method!r}")
        return get(method)

    patch.setattr(multiprocessing, "get_context", context)
    patch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    patch.delattr(os, "fork", raising=False)


EMULATIONS = {"plain": plain, "locking": locking, "spawn": spawn}


def play(names: str, patch: pytest.MonkeyPatch) -> None:
    for name in filter(None, names.split(",")):
        EMULATIONS[name](patch)


if __name__ == "__main__":  # python tests/systems.py plain,locking SCRIPT ARGUMENTS
    import runpy

    play(sys.argv[1], pytest.MonkeyPatch())
    sys.argv = sys.argv[2:]
    runpy.run_path(sys.argv[0], run_name="__main__")
