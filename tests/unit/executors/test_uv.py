"""Which of the user's settings reach the installer."""

from __future__ import annotations

from pathlib import Path

import pytest

from kiln.executors.uv import UvFailed, installer_variables


def test_a_company_mirror_that_only_pip_knows_is_used(tmp_path: Path) -> None:
    config = tmp_path / "pip.conf"
    config.write_text(
        "[global]\nindex-url = https://mirror/simple\ncert = /ca.pem\n"
        "[install]\nfind-links =\n  /wheels\n  /more\n",
        encoding="utf-8",
    )
    environ = {"HOME": str(tmp_path), "PIP_CONFIG_FILE": str(config), "HTTPS_PROXY": "http://p"}
    variables = installer_variables(environ, tmp_path)
    assert variables["UV_DEFAULT_INDEX"] == "https://mirror/simple"
    assert variables["SSL_CERT_FILE"] == "/ca.pem"
    assert variables["UV_FIND_LINKS"] == "/wheels,/more"
    assert variables["HTTPS_PROXY"] == "http://p"


def test_what_is_set_for_uv_goes_before_what_is_set_for_pip(tmp_path: Path) -> None:
    environ = {
        "HOME": str(tmp_path),
        "PIP_INDEX_URL": "https://pip/simple",
        "UV_INDEX_URL": "https://uv/simple",
        "UV_INDEX_INNER_PASSWORD": "secret",
    }
    variables = installer_variables(environ, tmp_path)
    assert "UV_DEFAULT_INDEX" not in variables
    assert variables["UV_INDEX_URL"] == "https://uv/simple"
    assert variables["UV_INDEX_INNER_PASSWORD"] == "secret"


@pytest.mark.parametrize(
    "name", ["VIRTUAL_ENV", "UV_PYTHON", "UV_CONSTRAINT", "UV_SYSTEM_PYTHON", "PYTHONPATH"]
)
def test_what_would_change_the_installation_is_left_out(tmp_path: Path, name: str) -> None:
    assert name not in installer_variables({"HOME": str(tmp_path), name: "stale"}, tmp_path)


def test_a_broken_pip_configuration_is_passed_over(tmp_path: Path) -> None:
    config = tmp_path / "pip.conf"
    config.write_text("no section\n", encoding="utf-8")
    environ = {"HOME": str(tmp_path), "PIP_CONFIG_FILE": str(config)}
    assert "UV_DEFAULT_INDEX" not in installer_variables(environ, tmp_path)


def test_the_cache_lies_beside_the_environments_unless_the_usual_one_shares_their_disk(
    tmp_path: Path,
) -> None:
    for home in (tmp_path, tmp_path / "not" / "there yet"):
        assert "UV_CACHE_DIR" not in installer_variables({"HOME": str(tmp_path)}, home)
    elsewhere = installer_variables({"HOME": "/proc"}, tmp_path)
    assert elsewhere["UV_CACHE_DIR"] == str(tmp_path / "uv-cache")


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("failed to write: No space left on device (os error 28)", "make room"),
        ("Hash mismatch for `idna==3.20`", "differs from the lock"),
        ("invalid peer certificate: UnknownIssuer", "SSL_CERT_FILE"),
        ("dns error: failed to lookup address information", "check the network"),
        ("No solution found when resolving dependencies", "lacks a pinned version"),
        ("something nobody foresaw", ""),
    ],
)
def test_the_advice_fits_what_uv_said(said: str, advice: str) -> None:
    failed = UvFailed(2, said)
    assert advice in failed.hint
    assert failed.disk_full == ("No space left" in said)
