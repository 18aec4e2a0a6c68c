"""What all tests share."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def _no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """A make variable or an exported setting of the person who runs the tests changes none."""
    for name in os.environ:
        if name.startswith("KILN_") and name != "KILN_HOME":
            monkeypatch.delenv(name)
