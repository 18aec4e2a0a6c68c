"""Telling a dead driver from one that lives, or may."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kiln.executors import orphans
from kiln.executors.environments import load_environment
from kiln.executors.local import job
from kiln.executors.orphans import is_dead, this_driver
from kiln.executors.protocol import StepRun
from kiln.system import files
from tests.support.checkout import ROOT
from tests.support.fixtures import Recorder


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


def test_one_job_folder_claimed_and_left_by_many_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_TICK_S", 0)
    folder = tmp_path / "jobs" / "a-step"
    recorder = Recorder()
    run = StepRun(
        key="a-step",
        step="probe",
        module="stages.vela.probe",
        environment=load_environment(ROOT, "vela"),
        params={},
        inputs={},
        out=tmp_path,
    )

    def claim_and_leave(_worker: int) -> None:
        for _ in range(200):
            with job._claimed(folder, run, recorder):
                assert [path.name for path in folder.iterdir()] == [".claim"]
                (folder / "mine").mkdir()
                (folder / "mine").rmdir()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(claim_and_leave, range(4)))
    assert not folder.exists()


def test_a_dead_drivers_processes_are_told_from_a_living_ones_in_the_same_folder() -> None:
    place, _, process = this_driver().rpartition(" at ")
    dead, folder = f"{place} at {process}9", Path("/jobs/a-step")
    with _step_of(dead, folder) as orphan, _step_of(this_driver(), folder) as ours:
        orphans.end_processes(job.STARTED_BY, job._started_by(dead, folder))
        assert orphan.wait() == -signal.SIGKILL
        assert ours.poll() is None
        ours.kill()


def _step_of(driver: str, folder: Path) -> subprocess.Popen[bytes]:
    variables = {**os.environ, job.STARTED_BY: job._started_by(driver, folder)}
    return subprocess.Popen([sys.executable, "-c", "input()"], env=variables, stdin=subprocess.PIPE)
