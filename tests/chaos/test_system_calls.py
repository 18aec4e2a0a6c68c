"""Faults at the system calls of the driver and its steps: every boundary between two of them."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.chaos.bench import STEPS, Victim, faults, injected

pytestmark = pytest.mark.slow

#: Calls whose failing is a fault of the disk, and not of a library that is being imported.
_OF_THE_DISK = ("rename", "mkdir", "symlink", "fsync", "chmod", "flock", "ftruncate")
_ERRORS = ("ENOSPC", "EIO", "EROFS", "EDQUOT")


def _pick(kind: str, number: int, calls: Mapping[str, int]) -> tuple[str, int]:
    """A call and which of its many, the same for a number at every run."""
    chance = random.Random(f"{kind} {number}")
    call = chance.choice(sorted(calls))
    return call, chance.randint(1, calls[call])


@pytest.mark.parametrize("number", range(faults(5, 120)))
def test_killed(victim: Victim, calls: Mapping[str, int], number: int) -> None:
    call, when = _pick("kill", number, calls)
    injected.append("kill -9 at a system call")
    done = victim.builds_with(call, f"signal=KILL:when={when}")
    assert done.code != 0
    assert "Traceback" not in done.said
    victim.recovers()


@pytest.mark.parametrize("number", range(faults(5, 120)))
def test_the_disk_fails(victim: Victim, calls: Mapping[str, int], number: int) -> None:
    those = {call: count for call, count in calls.items() if call in _OF_THE_DISK}
    call, when = _pick("disk", number, those)
    error = random.Random(number).choice(_ERRORS)
    injected.append("error of the disk")
    done = victim.builds_with(call, f"error={error}:when={when}")
    assert "Traceback" not in done.said
    assert "Kiln itself failed" not in done.said
    if error in ("ENOSPC", "EDQUOT") and done.code == 9:
        assert "make room" in done.said or "free some space" in done.said
    victim.recovers()


@pytest.mark.parametrize("number", range(faults(2, 60)))
def test_interrupted(victim: Victim, calls: Mapping[str, int], number: int) -> None:
    those = {call: count for call, count in calls.items() if call in _OF_THE_DISK}
    call, when = _pick("interrupt", number, those)
    injected.append("Ctrl-C at a system call")
    done = victim.builds_with(call, f"signal=INT:when={when}")
    assert done.code == 130, done.said
    assert "Traceback" not in done.said
    victim.recovers()


_EVENT = re.compile(r'fsync\(\d+<(?P<flushed>[^>]*)>|rename\("(?P<old>[^"]*)", "(?P<new>[^"]*)"')


@pytest.mark.usefixtures("calls")
def test_an_entry_is_on_the_disk_before_it_has_its_name(victim: Victim) -> None:
    """Or a power cut would leave a name with nothing behind it."""
    events = list(_EVENT.finditer(victim.traces("fsync", "rename")))
    flushed = [event["flushed"] for event in events]
    named = [n for n, event in enumerate(events) if "/entries/" in str(event["new"])]
    assert len(named) == len(STEPS)
    for number in named:
        workspace, place = events[number]["old"], Path(events[number]["new"])
        inside = [path.relative_to(place).as_posix() for path in place.rglob("*")]
        assert {f"{workspace}/{name}" for name in inside} <= set(flushed[:number])
        assert workspace in flushed[:number]
        assert str(place.parent) in flushed[number:]
