"""Bad requests, from the user's side: the command line as a process."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkout import ROOT

CASES = tomllib.loads((ROOT / "tests/cases/refusals.toml").read_text(encoding="utf-8"))["case"]


def _kiln(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("KILN_")}
    return subprocess.run(
        [sys.executable, "-m", "kiln", *arguments],
        cwd=folder,
        env=clean | {"PYTHONPATH": str(ROOT), "KILN_HOME": str(folder / "home")} | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_refusal(tmp_path: Path, case: dict[str, Any]) -> None:
    if "config" in case:
        (tmp_path / "kiln.toml").write_text(case["config"], encoding="utf-8")
    ended = _kiln(tmp_path, *case["arguments"])
    for words in case["says"]:
        assert words in ended.stderr
    assert ended.returncode == case["code"]
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


def test_make_variables_reach_the_request(tmp_path: Path) -> None:
    ended = _kiln(tmp_path, "build", KILN_TARGET="grove-v2", KILN_IMGSZ="33")
    assert "IMGSZ=33 does not fit grove-v2" in ended.stderr


def test_a_traceback_only_with_debug(tmp_path: Path) -> None:
    ended = _kiln(tmp_path, "--debug", "build", "--target", "nowhere")
    assert "Traceback" in ended.stderr


def test_help_explains_every_command(tmp_path: Path) -> None:
    text = _kiln(tmp_path, "--help").stdout
    for command in ("build", "explain", "targets", "doctor", "images", "clean"):
        assert command in text
        assert _kiln(tmp_path, command, "--help").returncode == 0


def test_targets_are_listed_for_people_and_machines(tmp_path: Path) -> None:
    assert "Grove Vision AI V2" in _kiln(tmp_path, "targets").stdout
    document = _kiln(tmp_path, "targets", "--json").stdout
    assert '"arena_kib": 1110' in document
