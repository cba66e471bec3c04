"""Fixtures for all tests: the subject, the real corpora, and caches that leave nothing behind."""

import os
from collections import Counter
from pathlib import Path

import hypothesis
import pytest
import systems
import torch

from nbkit import models
from nbkit.activations import forward

ROOT = Path(__file__).resolve().parent.parent
hypothesis.settings.register_profile("kit", deadline=None)  # a busy machine is not a fault
hypothesis.settings.load_profile("kit")

if tokens := os.environ.get("NBKIT_TEST_BATCH_TOKENS"):  # see test_kernels.py
    forward.BATCH_TOKENS = int(tokens)


if played := os.environ.get("NBKIT_TEST_SYSTEM"):
    systems.play(played, pytest.MonkeyPatch())


@pytest.fixture(scope="session")
def minilm() -> models.Subject:
    return models.load("minilm")


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """Folder of SmolLM2. Its conversion takes half a minute: it stays in the cache of the environment."""
    try:
        return models.smollm2_folder()
    except FileNotFoundError as error:
        pytest.skip(f"NOT RUN: {error}")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch) -> None:
    """Tests never see a cache of the user's, nor leave one in the checkout."""
    monkeypatch.setenv("NBKIT_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real corpora: $NBKIT_DATA, which must be there, or shared/data beside the checkout if it is."""
    if named := os.environ.get("NBKIT_DATA"):
        assert Path(named).is_dir(), (
            f"NBKIT_DATA={named} is no folder: correct it, or unset it to skip these tests"
        )
        return Path(named)
    if not (beside := ROOT.parent / "shared" / "data").is_dir():
        pytest.skip("the real corpora are absent: set NBKIT_DATA to their folder")
    return beside


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The notebooks first, then files by their number of slow tests: where several processes share the tests,
    files are given out in this order, and the long ones must not be the last."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: (item.path.name != "test_notebooks.py", -slow[item.path]))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many tests did not run, and what would make them: the last thing before the counts."""
    reasons = Counter(report.longrepr[2] for report in terminalreporter.stats.get("skipped", []))
    for reason, n in reasons.most_common():
        terminalreporter.write_line(f"{n} NOT RUN: {reason.removeprefix('Skipped: ')}")


@pytest.fixture(scope="module")
def one_thread():
    """On matrices this small, threads only wait for each other (60 s instead of 10 on a busy machine)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
