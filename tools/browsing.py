"""A JupyterLab of its own and a headless Chromium: for the browser tests and their benchmark.

    with lab(folder) as url, chromium() as browser:      # folder holds NAME.ipynb
        page = browser.new_page()
        run_all(page, url("NAME.ipynb"), cells=3)
        cell_output(page, 1).get_by_label("unit", exact=True).select_option("...")

The server listens on a free port of this machine only, asks for a token that is nowhere printed, reads no
settings of the user's and leaves none. The browser is Debian's ``chromium``; nothing is downloaded.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from playwright.sync_api import Browser, Locator, Page, TimeoutError, sync_playwright

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync"
).split()
SETTINGS = {
    # cells stay in the page when they are scrolled out of sight, so that they can be found and photographed
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
LAB = (
    "--no-browser --allow-root --ServerApp.ip=127.0.0.1 --LabApp.news_url=None"
    " --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"
).split()


def installed() -> str | None:
    """The path of Chromium: ``$NBKIT_CHROMIUM``, else what is on the PATH, else None.

    ``FileNotFoundError`` when the variable names what is not there.
    """
    if named := os.environ.get("NBKIT_CHROMIUM"):
        if path := shutil.which(named):
            return path
        raise FileNotFoundError(f"NBKIT_CHROMIUM={named} cannot be run: correct it, or unset it to skip")
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium, closed at the end. ``FileNotFoundError`` when none is installed."""
    path = installed()
    if path is None:
        raise FileNotFoundError("no `chromium` on the PATH; on Debian: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@contextlib.contextmanager
def lab(folder: Path, seconds: float = 120) -> Iterator[Callable[[str], str]]:
    """A JupyterLab on ``folder``; yields a function from a notebook's name to its address.

    ``RuntimeError`` with the end of the server's log when it does not answer within ``seconds``.
    """
    with tempfile.TemporaryDirectory() as private:
        port, token = _free_port(), secrets.token_hex(16)
        process, log = _start(folder, Path(private), port, token)
        try:
            _wait(f"http://127.0.0.1:{port}/api/status?token={token}", process, log, seconds)
            yield lambda name: f"http://127.0.0.1:{port}/lab/tree/{name}?token={token}&reset"
        finally:
            process.terminate()  # the server ends its kernels before itself
            process.wait(timeout=30)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _start(folder: Path, private: Path, port: int, token: str) -> tuple[subprocess.Popen, Path]:
    for name, values in SETTINGS.items():
        path = private / "settings" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(values), encoding="utf-8")
    places = {
        "JUPYTER_CONFIG_DIR": private / "config",
        "JUPYTER_DATA_DIR": private / "data",
        "JUPYTER_RUNTIME_DIR": private / "runtime",
        "JUPYTERLAB_SETTINGS_DIR": private / "settings",
        "JUPYTERLAB_WORKSPACES_DIR": private / "workspaces",
    }
    environment = {**os.environ, **{k: str(v) for k, v in places.items()}, "JUPYTER_TOKEN": token}
    log = private / "log"
    command = [sys.executable, "-m", "jupyterlab", *LAB, f"--ServerApp.port={port}"]
    command += ["--ServerApp.port_retries=0", f"--ServerApp.root_dir={folder}"]
    with log.open("w", encoding="utf-8") as out:
        return subprocess.Popen(command, env=environment, cwd=folder, stdout=out, stderr=out), log


def _wait(address: str, process: subprocess.Popen, log: Path, seconds: float) -> None:
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        try:
            urllib.request.urlopen(address, timeout=2).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(
        f"no JupyterLab within {seconds} s; its log ends:\n{log.read_text(encoding='utf-8')[-2000:]}"
    )


def run_all(page: Page, address: str, cells: int, seconds: float = 180) -> None:
    """Open the notebook, run all its ``cells`` code cells, and wait until the last one has run.

    ``RuntimeError`` with what the page says when they have not run within ``seconds``.
    """
    page.goto(address)
    page.locator(".jp-Notebook .jp-CodeCell").nth(cells - 1).wait_for(timeout=1000 * seconds)
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=1000 * seconds)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    last = page.locator(".jp-Notebook .jp-CodeCell .jp-InputPrompt", has_text=f"[{cells}]:")
    try:
        last.wait_for(timeout=1000 * seconds)
    except TimeoutError:
        shown = page.locator("body").inner_text()
        raise RuntimeError(
            f"{cells} cells have not run within {seconds} s; the page says:\n{shown}"
        ) from None


def cell_output(page: Page, number: int) -> Locator:
    """The output area of a code cell, counted from 1."""
    return page.locator(".jp-Notebook .jp-CodeCell").nth(number - 1).locator(".jp-Cell-outputArea")
