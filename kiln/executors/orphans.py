"""What a killed driver leaves running, told from what belongs to a living one."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from pathlib import Path

_PROC = Path("/proc")
_BOOT_ID = _PROC / "sys/kernel/random/boot_id"
#: Of /proc/<pid>/stat, counted behind the name: when the process started; see proc(5).
_START_TIME = 19
_ROUNDS = 10
#: How long a killed process may take to end.
_DEATH_S = 1.0


def this_driver() -> str:
    """Names this process among all of all hosts; a number alone is soon another's.

    Without /proc it names nobody, and nobody is taken for dead.
    """
    return f"{_place()} at {_started(str(os.getpid()))}"


def is_dead(driver: str) -> bool:
    """True if a driver has ended; False too if it could not be seen from here."""
    place, _, process = driver.rpartition(" at ")
    return place == _place() != "" and process != _started(process.partition(" ")[0])


def end_processes(variable: str, value: str) -> None:
    """Kill all processes that were started with a variable of this value.

    A step's process may have left the step's group and closed all that it had open, but the
    variables that it was started with go along.
    """
    mark = b"\0" + f"{variable}={value}".encode() + b"\0"
    for _ in range(_ROUNDS):
        killed = [each for each in _PROC.glob("[1-9]*") if _kill_if(mark, int(each.name))]
        # One of them may have started another meanwhile.
        if not killed:
            return


def _kill_if(mark: bytes, pid: int) -> bool:
    """Kill a process that has the mark among its variables, and wait for its end."""
    with contextlib.suppress(OSError):
        handle = os.pidfd_open(pid)
        try:
            # Read only now that the number cannot become another's.
            if mark in b"\0" + (_PROC / str(pid) / "environ").read_bytes():
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                select.select([handle], [], [], _DEATH_S)
                return True
        finally:
            os.close(handle)
    return False


def _place() -> str:
    """This start of this host, and the world of process numbers that we see; "" but on Linux."""
    try:
        return (
            f"{_BOOT_ID.read_text(encoding='ascii').strip()} {(_PROC / 'self/ns/pid').readlink()}"
        )
    except OSError:
        return ""


def _started(pid: str) -> str:
    """A process by its number and when it started, in clock ticks; "" if it is no more."""
    try:
        stat = (_PROC / pid / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else f"{pid} {fields[_START_TIME]}"
