"""Steps that hang, fork, will not hear, leave something running or talk without end."""

from __future__ import annotations

import pytest

from tests.chaos.bench import ALL, Victim, ended, gone, injected

pytestmark = pytest.mark.slow

_LIMITED = "[limits]\ntimeout_s = 3\n"


@pytest.mark.parametrize("how", ["wait with children", *(["wait deaf"] if ALL else [])])
def test_a_step_that_hangs_is_stopped_with_all_it_started(victim: Victim, how: str) -> None:
    injected.append("a step that hangs")
    settings = victim.user.folder / "kiln.toml"
    settings.write_text(_LIMITED, encoding="utf-8")
    with victim.waiting("quantize middle", how=how) as (driver, step):
        done = ended(driver)
    assert done.code == 11
    assert "step quantize ran past its limit of 3 s" in done.said
    assert gone(step)
    assert victim.running() == []
    settings.unlink()
    victim.recovers()


def test_what_a_step_leaves_running_is_ended(victim: Victim) -> None:
    """It has left the step's group and keeps the step's files open."""
    injected.append("a step that leaves a process behind")
    victim.order("quantize start", "leave")
    done = victim.builds()
    assert done.code == 0, done.said
    assert gone(int((victim.control / "stray").read_text(encoding="ascii")))
    victim.is_whole()


def test_a_step_that_talks_without_end(victim: Victim) -> None:
    injected.append("200 MB of garbage")
    victim.order("quantize middle", "talk")
    done = victim.builds()
    assert done.code == 0, done.said
    victim.is_whole()
    (log,) = (victim.home / "logs").glob("quantize-*")
    assert log.stat().st_size < 80 << 20
    assert "the log is cut here" in log.read_text(encoding="utf-8")[-100:]
