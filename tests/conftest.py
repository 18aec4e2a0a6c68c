"""What all tests share."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser


pytest_plugins = ["tests.support.fixtures"]


@pytest.fixture(autouse=True, scope="session")
def _heeds_ctrl_c() -> Iterator[None]:
    """As from a terminal, however the tests were started.

    `nohup`, `&` in a script and some CI systems have SIGINT ignored, and all that tests start
    would inherit that.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def _no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """A make variable or an exported setting of the person who runs the tests changes none."""
    for name in os.environ:
        if name.startswith("KILN_") and name != "KILN_HOME":
            monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium without a window; without one on this host a test is skipped, in CI it fails."""
    # Few tests need it, and it takes long to import.
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if chromium is None:
        if os.environ.get("CI"):
            pytest.fail("no Chromium: apt-get install chromium", pytrace=False)
        pytest.skip("no Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        # Chromium's sandbox does not start as root, and the page is our own.
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()
