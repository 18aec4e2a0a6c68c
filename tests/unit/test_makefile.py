"""The Makefile hands settings on as they stand and makes its environments when it must."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from kiln.cli import build as building
from kiln.cli import flash as flashing
from tests.support.checkout import ROOT

#: Stands where the driver's Python would: prints what it was given.
_RECORDER = f"""#!{sys.executable}
import json, os, sys
if sys.argv[1] != "-c":
    kept = {{name: value for name, value in os.environ.items() if name.startswith("KILN_")}}
    print(json.dumps([sys.argv[1:], kept]))
"""
_NASTY = 'it\'s "odd"; touch PWNED; `touch PWNED` $(touch PWNED) $(shell touch PWNED) $$HOME \\ #é'


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what make needs, with a driver that only records."""
    for name in ("Makefile", "kiln.lock", "dev.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "scripts").mkdir()
    bootstrap = tmp_path / "scripts" / "bootstrap.sh"
    # In place of the real one, which needs minutes and a network.
    bootstrap.write_text(
        "#!/bin/sh\nmkdir -p $1/bin && cp recorder $1/bin/python && touch $1/.complete\n"
        "echo bootstrap $* >&2\n",
        encoding="utf-8",
    )
    bootstrap.chmod(0o755)
    recorder = tmp_path / "recorder"
    recorder.write_text(_RECORDER, encoding="utf-8")
    recorder.chmod(0o755)
    return tmp_path


def _make(checkout: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        ["make", *arguments],
        cwd=checkout,
        env={**kept, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def _seen(done: subprocess.CompletedProcess[str]) -> tuple[list[str], dict[str, str]]:
    assert done.returncode == 0, done.stderr
    arguments, variables = json.loads(done.stdout)
    return arguments, variables


def test_make_alone_lists_every_target_in_a_line(checkout: Path) -> None:
    done = _make(checkout)
    listed = re.findall(r"^make (\S+) +\S", done.stdout, re.MULTILINE)
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert phony is not None
    assert set(listed) == set(phony[1].split()) - {"help", "lost"}
    assert not (checkout / ".kiln").exists()


def test_settings_reach_the_driver_and_only_those_that_are_given(checkout: Path) -> None:
    arguments, variables = _seen(_make(checkout, "model", "TARGET=grove-v2", "IMGSZ=192", "DATA="))
    assert arguments == ["-m", "kiln", "build"]
    given = {name: value for name, value in variables.items() if value}
    assert given == {"KILN_TARGET": "grove-v2", "KILN_IMGSZ": "192"}


def test_no_value_is_ever_run_or_changed(checkout: Path) -> None:
    _arguments, variables = _seen(_make(checkout, "model", f"DATA={_NASTY}", f"NAME={_NASTY}"))
    assert variables == {"KILN_DATA": _NASTY, "KILN_NAME": _NASTY}
    assert not list(checkout.rglob("PWNED"))


def test_variables_of_the_same_names_in_the_environment_are_not_taken(checkout: Path) -> None:
    _arguments, variables = _seen(_make(checkout, "explain", NAME="host", KILN_TASK="detect"))
    assert variables == {"KILN_TASK": "detect"}


def test_v_makes_it_talk(checkout: Path) -> None:
    assert _seen(_make(checkout, "model", "V=1"))[1] == {"KILN_VERBOSE": "1"}


def test_make_and_the_command_line_know_the_same_settings() -> None:
    settings = re.search(
        r"^SETTINGS := ((?:.*\\\n)*.*)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE
    )
    assert settings is not None
    made = {f"KILN_{name}" for name in settings[1].replace("\\\n", " ").split()}
    known = {
        parameter.envvar
        for parameter in building.build.params
        if isinstance(parameter, click.Option) and parameter.envvar
    }
    assert made == known


def test_make_knows_the_settings_of_a_board() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    settings = re.search(r"^BOARD_SETTINGS := (.*)$", makefile, re.MULTILINE)
    assert settings is not None
    known = [
        {parameter.envvar for parameter in command.params if isinstance(parameter, click.Option)}
        for command in (flashing.flash, building.build)
    ]
    assert {f"KILN_{name}" for name in settings[1].split()} == known[0] - known[1]


def test_the_environment_is_made_once_and_again_when_its_recipe_or_python_changes(
    checkout: Path,
) -> None:
    assert "bootstrap .kiln/driver kiln.lock" in _make(checkout, "model").stderr
    assert _make(checkout, "model").stderr == ""
    later = (checkout / ".kiln/driver/.complete").stat().st_mtime + 5
    os.utime(checkout / "kiln.lock", (later, later))
    assert "bootstrap" in _make(checkout, "model").stderr
    os.utime(checkout / "kiln.lock", (1, 1))
    (checkout / ".kiln/driver/bin/python").unlink()
    (checkout / ".kiln/driver/bin/python").symlink_to("/nowhere/python")
    (checkout / "scripts/bootstrap.sh").write_text("#!/bin/sh\necho again >&2; exit 5\n", "utf-8")
    os.utime(checkout / "scripts/bootstrap.sh", (1, 1))
    assert "again" in _make(checkout, "model").stderr


def test_private_state_may_lie_elsewhere(checkout: Path, tmp_path: Path) -> None:
    home = tmp_path / "elsewhere"
    _arguments, variables = _seen(_make(checkout, "model", KILN_HOME=str(home)))
    assert (home / "driver" / ".complete").exists()
    assert variables == {"KILN_HOME": str(home)}
    assert "must not hold a space" in _make(checkout, "model", KILN_HOME="/a b").stderr
