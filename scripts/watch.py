"""Watches a command from outside, for benchmarks: how long, how much memory, which children."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_PROC = Path("/proc")
_POLL_S = 0.005
#: Among the words of every process of a step.
_STEP = b"\0-m\0stages."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Watched:
    """A command that has ended.

    ``cpu_s`` is what it and its children took of processors; ``alone_s`` is how long no step of it
    ran, ``first_step_s`` when its first one started, None if there was none; ``peak_mib`` is the
    command's own memory, without that of its children.
    """

    seconds: float
    cpu_s: float
    alone_s: float
    first_step_s: float | None
    peak_mib: float
    code: int
    said: str


def watch(
    command: Sequence[object],
    *,
    cwd: Path,
    variables: Mapping[str, str],
    until_a_step_runs: bool = False,
) -> Watched:
    """Run a command to its end, or interrupt it as soon as its first step runs."""
    with tempfile.TemporaryFile() as output:
        started = last = time.monotonic()
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=cwd,
            env={**os.environ, **variables},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        alone_s, first, peak = 0.0, None, 0.0
        while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
            running = _runs_a_step(process.pid)
            peak = max(peak, _peak_mib(process.pid))
            time.sleep(_POLL_S)
            now = time.monotonic()
            alone_s += 0 if running else now - last
            last = now
            if running and first is None:
                first = now - started
                if until_a_step_runs:
                    process.send_signal(signal.SIGTERM)
        _, status, usage = ended
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - started
        output.seek(0)
        said = output.read().decode(errors="replace")
    return Watched(
        seconds=seconds,
        cpu_s=usage.ru_utime + usage.ru_stime,
        alone_s=alone_s,
        first_step_s=first,
        peak_mib=peak,
        code=process.returncode,
        said=said,
    )


def expect(watched: Watched, words: str) -> Watched:
    """Exit with what a command said unless that has ``words`` in it."""
    if words not in watched.said:
        sys.exit(f"expected {words!r} of a command that ended with {watched.code}:\n{watched.said}")
    return watched


def machine(folder: Path) -> str:
    """This host in a line, and how busy it is with other things."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in (_PROC / "cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    disk = shutil.disk_usage(folder).total / 2**30
    return (
        f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB of memory, a disk of {disk:.0f} GiB; "
        f"{os.getloadavg()[0]:.1f} processes ran on average in the minute before"
    )


def _runs_a_step(process: int) -> bool:
    # Children are listed by the thread that started them.
    for task in _PROC.glob(f"{process}/task/*/children"):
        with contextlib.suppress(OSError):
            for each in task.read_text(encoding="ascii").split():
                if _STEP in (_PROC / each / "cmdline").read_bytes():
                    return True
    return False


def _peak_mib(process: int) -> float:
    with contextlib.suppress(OSError):
        for line in (_PROC / f"{process}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return 0.0
