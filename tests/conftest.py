"""Fixtures for all tests: the subject, the real corpora, and caches that leave nothing behind."""

import logging
import os
from pathlib import Path

import pytest

from nbkit import models

ROOT = Path(__file__).resolve().parent.parent


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
    """The real corpora: $NBKIT_DATA, or shared/data beside the checkout; in CI they must be there."""
    places = [os.environ.get("NBKIT_DATA"), ROOT.parent / "shared" / "data"]
    found = next((Path(p) for p in places if p and Path(p).is_dir()), None)
    if found is None:
        message = "NOT RUN: the real corpora are absent (set NBKIT_DATA to their folder)"
        if os.environ.get("CI"):
            pytest.fail(message)
        logging.getLogger(__name__).warning(message)
        pytest.skip(message)
    return found
