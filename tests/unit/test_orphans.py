"""Telling a dead driver from one that lives, or may."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kiln.executors import orphans
from kiln.executors.orphans import is_dead, this_driver


def test_a_driver_is_dead_once_it_has_ended() -> None:
    code = "from kiln.executors.orphans import this_driver; print(this_driver())"
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True
    )
    assert is_dead(done.stdout.strip())
    assert not is_dead(this_driver())


def test_another_process_of_the_same_number_is_not_that_driver() -> None:
    place, _, process = this_driver().rpartition(" at ")
    assert process.startswith(f"{os.getpid()} ")
    assert is_dead(f"{place} at {process}9")


def test_who_cannot_be_seen_from_here_is_not_taken_for_dead() -> None:
    _place, _, process = this_driver().rpartition(" at ")
    for elsewhere in ("", "nonsense", f"another-boot pid:[1] at {process}9"):
        assert not is_dead(elsewhere)


def test_where_there_is_no_proc_nobody_is_dead(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(orphans, "_PROC", tmp_path)
    monkeypatch.setattr(orphans, "_BOOT_ID", tmp_path / "boot_id")
    assert not is_dead(this_driver())
    assert not is_dead(" at 1 1")
