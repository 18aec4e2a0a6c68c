"""Private state lies in the checkout, or among the user's caches if Kiln is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from kiln.cli.options import default_paths
from kiln.paths import home_of
from tests.support.checkout import ROOT

CHECKOUT = Path("/src/kiln")
INSTALLED = Path("/venv/lib/python3.11/site-packages/kiln-source")


@pytest.fixture(autouse=True)
def _somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")


@pytest.mark.parametrize("root", [CHECKOUT, INSTALLED])
def test_the_user_may_say_where(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {"KILN_HOME": "state", "XDG_CACHE_HOME": "/caches"}
    monkeypatch.chdir("/")
    assert home_of(root, environ) == Path("/state")


@pytest.mark.parametrize("environ", [{}, {"KILN_HOME": ""}, {"XDG_CACHE_HOME": "/caches"}])
def test_a_checkout_keeps_its_own(environ: dict[str, str]) -> None:
    assert home_of(CHECKOUT, environ) == CHECKOUT / ".kiln"


@pytest.mark.parametrize(
    ("environ", "platform", "home"),
    [
        ({"XDG_CACHE_HOME": "/caches"}, "linux", "/caches/kiln"),
        ({"XDG_CACHE_HOME": "/caches"}, "darwin", "/caches/kiln"),
        ({"XDG_CACHE_HOME": "not/absolute"}, "linux", "/home/somebody/.cache/kiln"),
        ({}, "linux", "/home/somebody/.cache/kiln"),
        ({}, "darwin", "/home/somebody/Library/Caches/kiln"),
    ],
)
def test_an_installed_kiln_uses_the_platforms_caches(
    environ: dict[str, str], platform: str, home: str
) -> None:
    assert home_of(INSTALLED, environ, platform) == Path(home)


def test_results_go_into_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KILN_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    paths = default_paths()
    assert (paths.root, paths.home, paths.results) == (ROOT, ROOT / ".kiln", tmp_path / "build")
