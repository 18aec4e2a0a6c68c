"""Kiln's own environment is made by one script, whatever the host has to make it with."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.support.checkout import ROOT

SCRIPT = ROOT / "scripts" / "bootstrap.sh"
#: What the script itself calls.
TOOLS = ("sh", "cat", "cksum", "dirname", "basename", "mkdir", "rm", "flock")


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A folder for PATH with nothing in it that could make an environment."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        if found:
            (folder / tool).symlink_to(found)
    return folder


def _bootstrap(folder: Path, path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPT, folder, "kiln.lock"],
        env={**os.environ, "PATH": str(path), "VIRTUAL_ENV": "/nowhere", "PYTHONPATH": "/nowhere"},
        capture_output=True,
        text=True,
        check=False,
    )


def _stub(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)


@pytest.mark.parametrize("tool", ["python", "uv"])
def test_it_makes_a_working_driver_once(tool: str, bare: Path, tmp_path: Path) -> None:
    if tool == "uv":
        (bare / "uv").symlink_to(Path(sysconfig.get_path("scripts")) / "uv")
    (bare / "python3").symlink_to(Path(sys.base_prefix) / "bin" / "python3")
    driver = tmp_path / "driver"
    done = _bootstrap(driver, bare)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1, "it says in one line what it does"
    shown = subprocess.run(
        [driver / "bin" / "python", "-m", "kiln", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Usage: kiln" in shown.stdout


def test_it_is_made_once_unless_it_was_interrupted(bare: Path, tmp_path: Path) -> None:
    (bare / "uv").symlink_to(Path(sysconfig.get_path("scripts")) / "uv")
    (bare / "python3").symlink_to(Path(sys.base_prefix) / "bin" / "python3")
    driver = tmp_path / "driver"
    assert _bootstrap(driver, bare).returncode == 0
    (driver / "kept").touch()
    assert _bootstrap(driver, bare).stderr == ""
    assert (driver / "kept").exists()
    (driver / ".complete").unlink()
    assert _bootstrap(driver, bare).returncode == 0
    assert not (driver / "kept").exists(), "what an interrupted run left is made anew"


def test_without_python_and_uv_it_says_what_to_install(bare: Path, tmp_path: Path) -> None:
    done = _bootstrap(tmp_path / "driver", bare)
    assert done.returncode == 5
    assert "Python 3.11 or newer is needed" in done.stderr
    assert "apt-get install python3-venv" in done.stderr


def test_a_python_that_is_too_old_is_passed_over(bare: Path, tmp_path: Path) -> None:
    _stub(bare / "python3", "exit 1")
    assert "Python 3.11 or newer is needed" in _bootstrap(tmp_path / "driver", bare).stderr


def test_a_python_that_cannot_make_environments_is_named(bare: Path, tmp_path: Path) -> None:
    _stub(bare / "python3", "case $2 in *version_info*) exit 0 ;; *) exit 1 ;; esac")
    done = _bootstrap(tmp_path / "driver", bare)
    assert done.returncode == 5
    assert "cannot make environments: apt-get install python3-venv" in done.stderr
    assert not (tmp_path / "driver" / ".complete").exists()
