"""Listens to a step, keeps its log, and turns a bad end into a sentence."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from kiln import errors
from kiln.errors import KilnError, os_errors
from kiln.executors.protocol import StepExit
from kiln.plan.step import Step
from stages.contract import EXIT_INTERNAL

TAIL_LINES = 30
SHOWN_PROBLEMS = 10
#: A step that logs without end must not fill the disk.
MAX_LOG_BYTES = 64 << 20

_CLASSES: Mapping[str, type[KilnError]] = {
    "data": errors.DataError,
    "weights": errors.WeightsError,
    "network": errors.NetworkError,
    "disk": errors.DiskFull,
    "memory": errors.OutOfMemory,
    "model": errors.ModelError,
    "device": errors.DeviceError,
    "request": errors.RequestError,
    "internal": errors.StepCrashed,
}

#: Failures in a library's words, which need some of ours around them.
_HOST_FAULTS: Mapping[str, str] = {
    "internal": "",
    "disk": " because the disk is full",
    "memory": " for want of memory",
}
_HOST_HINTS: Mapping[str, str] = {
    "disk": "free some space (kiln clean, docker system prune) and run the same command again",
    "memory": "try a smaller BATCH or IMGSZ",
}


class _Audience(Protocol):
    def step_event(self, step: Step, event: Mapping[str, Any]) -> None: ...

    def step_log(self, step: Step, line: str) -> None: ...


class StepListener:
    """Writes every log line to the log file as it comes and keeps what the step says."""

    def __init__(self, path: Path, step: Step, audience: _Audience) -> None:
        self.path = path
        self.tail: collections.deque[str] = collections.deque(maxlen=TAIL_LINES)
        self.warnings: list[dict[str, str]] = []
        self.problems: list[str] = []
        self.failed: Mapping[str, Any] | None = None
        self.result: Mapping[str, Any] | None = None
        self.peak_memory_mib: int | None = None
        self.device: str | None = None
        self._step = step
        self._audience = audience
        self._written = 0

    def __enter__(self) -> StepListener:
        with os_errors("cannot write a log"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = self.path.open("w", encoding="utf-8")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        # What a full disk did not take is still to be written, and that has been told already.
        with os_errors("cannot write a log") if error is None else contextlib.suppress(OSError):
            self._stream.close()

    def log(self, line: str) -> None:
        self.tail.append(line)
        if self._written < MAX_LOG_BYTES:
            with os_errors("cannot write a log"):
                self._written += self._stream.write(line + "\n")
                if self._written >= MAX_LOG_BYTES:
                    self._stream.write("the log is cut here: the step said more than is kept\n")
                self._stream.flush()
        self._audience.step_log(self._step, line)

    def warn(self, message: str, *, hint: str) -> None:
        """Keep a warning of this step, its own or the driver's."""
        self.warnings.append({"step": self._step.name, "message": message, "hint": hint})

    def event(self, event: Mapping[str, Any]) -> None:
        match event["event"]:
            case "warning":
                self.warn(str(event.get("message", "")), hint=str(event.get("hint", "")))
            case "device":
                self.device = str(event.get("kind"))
            case "problem":
                self.problems.append(_problem(event))
            case "failed":
                self.failed = event
            case "finished":
                self.result = event.get("result") or {}
                self.peak_memory_mib = event.get("peak_memory_mib")
        self._audience.step_event(self._step, event)


def failure_of(step: Step, ended: StepExit, heard: StepListener) -> KilnError:
    """Say why a step failed: its own words first, then what the executor saw."""
    if heard.failed is not None and not ended.oom_killed:
        kind = str(heard.failed.get("kind"))
        message = str(heard.failed.get("message") or "no reason given")
        if heard.problems:
            message = "\n".join([message, *_shown(heard.problems)])
        if ended.code == EXIT_INTERNAL and kind in _HOST_FAULTS:
            message = f"{step.name} stopped{_HOST_FAULTS[kind]}: {message}"
        hint = str(heard.failed.get("hint") or _HOST_HINTS.get(kind, ""))
        return _CLASSES.get(kind, errors.StepCrashed)(message, hint=hint, log=heard.path)
    if ended.oom_killed:
        return errors.OutOfMemory(
            f"{step.name} was killed: it needed more memory than it may have",
            hint="try a smaller BATCH or IMGSZ, or raise memory_mib under [limits] in kiln.toml",
            log=heard.path,
        )
    last = next((line for line in reversed(heard.tail) if line.strip()), "it said nothing")
    return errors.StepCrashed(
        f"{step.name} ended with code {ended.code} and without a result: {last}",
        hint="the log has the whole story",
        log=heard.path,
    )


def _problem(event: Mapping[str, Any]) -> str:
    line = event.get("line")
    place = f"{event.get('path')}:{line}" if line else str(event.get("path"))
    return f"{place}: {event.get('message')}"


def _shown(problems: list[str]) -> list[str]:
    shown = [f"  {problem}" for problem in problems[:SHOWN_PROBLEMS]]
    rest = len(problems) - SHOWN_PROBLEMS
    return [*shown, f"  … and {rest} more"] if rest > 0 else shown
