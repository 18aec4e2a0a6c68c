"""Several drivers at one store, and clocks that go wrong."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from tests.chaos.bench import STEPS, Victim, ended, gone, injected, reads_up_to, sample
from tests.chaos.damage import cut

pytestmark = pytest.mark.slow

_WAITS = "another Kiln is making this step; waiting for it"


def _started(victim: Victim) -> list[str]:
    return [line.removesuffix(" started") for line in victim.notes() if line.endswith(" started")]


def test_the_same_request_at_once(victim: Victim) -> None:
    injected.append("two drivers at once")
    with victim.starts() as one, victim.starts() as two:
        for driver in (one, two):
            done = ended(driver)
            assert done.code == 0, done.said
    assert sorted(_started(victim)) == sorted(STEPS)
    victim.is_whole()


def test_different_requests_at_once(victim: Victim) -> None:
    injected.append("two drivers at once")
    with victim.starts() as one, victim.starts("--imgsz", "224", "--name", "other") as two:
        for driver in (one, two):
            done = ended(driver)
            assert done.code == 0, done.said
    started = _started(victim)
    # What they share is made once, the rest once for each.
    assert {step: started.count(step) for step in set(started)} == {
        step: 1 if step in ("demo", "check") else 2 for step in STEPS
    }
    shutil.rmtree(victim.user.folder / "build" / "grove-v2" / "other")
    victim.recovers()


def test_many_lay_out_the_same_result(victim: Victim) -> None:
    injected.append("four drivers at once")
    victim.recovers()
    shutil.rmtree(victim.user.folder / "build")
    drivers = [victim.starts() for _ in range(4)]
    for driver in drivers:
        with driver:
            done = ended(driver)
            assert done.code == 0, done.said
    victim.is_whole()


@pytest.mark.parametrize("step", sample(STEPS, 1))
def test_one_dies_while_another_waits_for_it(victim: Victim, step: str) -> None:
    injected.append("kill -9 of one of two drivers")
    with victim.waiting(f"{step} middle") as (one, orphan), victim.starts() as two:
        reads_up_to(two, _WAITS)
        one.kill()
        done = ended(two)
        assert done.code == 0, done.said
    assert gone(orphan)
    victim.recovers()


def test_what_one_reads_another_makes_again(victim: Victim) -> None:
    """A file is damaged under a step that has begun and is about to read it."""
    injected.append("damaged output in the store")
    with victim.waiting("evaluate start") as (one, _step):
        (truth,) = victim.entries.glob("*/out/evaluation/truth.json")
        cut(truth)
        with victim.starts() as two:
            reads_up_to(two, _WAITS)
            victim.let_go()
            assert ended(two).code == 0
        assert ended(one).code == 0
    assert sorted(_started(victim)) == sorted([*STEPS, "images"])
    victim.is_whole()


@pytest.mark.parametrize("days", sample([-400, 400], 1))
def test_the_clock_is_set(victim: Victim, days: int) -> None:
    """Set back, everything seems to be of the future; set forward, to be old."""
    injected.append("clock set")
    with victim.waiting("quantize middle") as (driver, _step):
        driver.kill()
    then = time.time() - days * 86400
    for path in victim.home.rglob("*"):
        if "envs" not in path.parts and not path.is_symlink():
            os.utime(path, (then, then))
    victim.recovers()
    assert victim.builds().code == 0
    for path in victim.entries.rglob("vela.tflite"):
        _change_at(path, then)
    done = victim.builds()
    assert "its entry is damaged: vela.tflite has changed" in done.said
    victim.is_whole()


def _change_at(path: Path, then: float) -> None:
    """Change a byte, and no other trace of it than the change time."""
    raw = bytearray(path.read_bytes())
    raw[0] ^= 1
    path.chmod(0o644)
    path.write_bytes(raw)
    os.utime(path, (then, then))
