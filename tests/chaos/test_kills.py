"""Whoever dies, and whenever: the next build ends like an undisturbed one and repeats nothing."""

from __future__ import annotations

import shutil
import signal

import pytest

from tests.chaos.bench import STEPS, Victim, ended, gone, injected, sample

pytestmark = pytest.mark.slow

POINTS = [f"{step} {point}" for step in STEPS for point in ("start", "middle", "end")]
POINTS += [f"train epoch {epoch}" for epoch in (1, 2, 3)]


@pytest.mark.parametrize("at", sample(POINTS, 3))
def test_the_driver_is_killed(victim: Victim, at: str) -> None:
    injected.append("kill -9 of the driver")
    with victim.waiting(at) as (driver, step):
        driver.kill()
        driver.wait()
    victim.recovers()
    assert gone(step)
    epochs = [line for line in victim.notes() if line.startswith("train epoch")]
    assert epochs == ["train epoch 1", "train epoch 2", "train epoch 3"]


def test_an_orphan_ends_though_nobody_asks_for_it_again(victim: Victim) -> None:
    injected.append("kill -9 of the driver")
    with victim.waiting("train epoch 2") as (driver, orphan):
        driver.kill()
        driver.wait()
    assert victim.builds("--imgsz", "224", "--name", "other").code == 0
    assert gone(orphan)
    assert {path.name for path in (victim.home / "jobs").glob("*/*")} == {".claim", "state"}
    shutil.rmtree(victim.user.folder / "build" / "grove-v2" / "other")
    noted = len(victim.notes())
    victim.recovers()
    assert "train epoch 2" not in victim.notes()[noted:]
    assert "train epoch 3" in victim.notes()[noted:]


@pytest.mark.parametrize("at", sample(POINTS, 2))
def test_a_step_is_killed(victim: Victim, at: str) -> None:
    injected.append("kill -9 of a step")
    victim.order(at, "die")
    done = victim.builds()
    step = at.partition(" ")[0]
    assert done.code in (7, 8)
    assert f"{step} ended with code 137" in done.said or "needed more memory" in done.said
    victim.recovers()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("at", sample(POINTS, 1))
def test_the_driver_is_asked_to_end(victim: Victim, at: str, number: signal.Signals) -> None:
    injected.append(f"{number.name} to the driver")
    with victim.waiting(at) as (driver, step):
        driver.send_signal(number)
        done = ended(driver)
    assert done.code == 130
    assert "interrupted; nothing is left running" in done.said
    assert gone(step)
    assert victim.running() == []
    victim.recovers()


@pytest.mark.parametrize("at", sample(POINTS, 1))
def test_ctrl_c_twice_while_the_step_will_not_end(victim: Victim, at: str) -> None:
    injected.append("Ctrl-C twice")
    with victim.waiting(at, how="wait deaf") as (driver, step):
        driver.send_signal(signal.SIGINT)
        assert victim.hears() == "asked"
        driver.send_signal(signal.SIGINT)
        done = ended(driver)
    assert done.code == 130
    assert gone(step)
    victim.recovers()
