"""Chromium or a clear word about its absence, photographs, and complaints of the pages."""

from collections.abc import Callable
from pathlib import Path

import browsing
import pytest
from playwright.sync_api import expect

expect.set_options(timeout=30_000)  # a machine may be busy; a view that is wrong stays wrong
PHOTOGRAPHS = Path(__file__).resolve().parents[2] / "build" / "browser"


@pytest.fixture(scope="module")
def chromium():
    """A headless browser. Where none is installed: a skip, or a failure when $NBKIT_CHROMIUM names one.

    It lives as long as one module: Playwright keeps an event loop in this thread while it runs.
    """
    if not browsing.installed():
        pytest.skip("no Chromium on the PATH (Debian: apt-get install chromium); NBKIT_CHROMIUM names one")
    with browsing.chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def photograph() -> Callable:
    """``photograph(page or locator, name)`` writes build/browser/NAME.png."""
    PHOTOGRAPHS.mkdir(parents=True, exist_ok=True)
    return lambda what, name: what.screenshot(path=PHOTOGRAPHS / f"{name}.png")


class Witness(list):
    """Everything a page complained about, and every address it asked for."""

    def __init__(self, page):
        super().__init__()
        self.addresses = []
        page.on("pageerror", lambda error: self.append(str(error)))
        page.on("console", lambda said: said.type == "error" and self.append(said.text))
        page.on("request", lambda request: self.addresses.append(request.url))


@pytest.fixture(scope="session")
def witness() -> type[Witness]:
    return Witness
