"""Keeps what a step says, and turns a bad end into a sentence."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from kiln import errors
from kiln.errors import KilnError, os_errors
from kiln.executors import events
from kiln.executors.events import StepEvent
from kiln.executors.protocol import StepExit
from kiln.plan.step import Step
from stages.contract import EXIT_INTERNAL

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
    "memory": " because memory ran out",
}
_HOST_HINTS: Mapping[str, str] = {
    "disk": "free some space (kiln clean, docker system prune) and run the same command again",
    "memory": "try a smaller BATCH or IMGSZ",
}


class StepLog:
    """Writes every log line to the file at ``path`` as it comes, and keeps all else that is said.

    Use it as a context manager; raises StoreError and DiskFull.
    """

    def __init__(self, path: Path, step: Step) -> None:
        self.path = path
        self.step = step
        self.last_line = "it said nothing"
        self.warnings: list[dict[str, str]] = []
        self.problems: list[events.Problem] = []
        self.device: events.Device | None = None
        self.failed: events.Failed | None = None
        self.finished: events.Finished | None = None
        self._written = 0

    def __enter__(self) -> StepLog:
        with os_errors("cannot write a log"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = self.path.open("w", encoding="utf-8")
        return self

    def __exit__(self, _kind: object, error: object, _traceback: object) -> None:
        # What a full disk did not take is still to be written, and that has been told already.
        with os_errors("cannot write a log") if error is None else contextlib.suppress(OSError):
            self._stream.close()

    def add(self, event: StepEvent) -> None:
        match event:
            case events.LogLine():
                self._write(event.text)
            case events.Warning():
                self.warn(event.message, hint=event.hint)
            case events.Problem():
                self.problems.append(event)
            case events.Device():
                self.device = event
            case events.Failed():
                self.failed = event
            case events.Finished():
                self.finished = event

    def warn(self, message: str, *, hint: str) -> None:
        """Keep a warning of this step, its own or the driver's."""
        self.warnings.append({"step": self.step.name, "message": message, "hint": hint})

    def _write(self, line: str) -> None:
        self.last_line = line if line.strip() else self.last_line
        if self._written < MAX_LOG_BYTES:
            with os_errors("cannot write a log"):
                self._written += self._stream.write(line + "\n")
                if self._written >= MAX_LOG_BYTES:
                    self._stream.write("the log is cut here: the step said more than is kept\n")
                self._stream.flush()


def failure_of(log: StepLog, ended: StepExit) -> KilnError:
    """Say why a step failed: its own words first, then what the executor saw."""
    step, failed = log.step, log.failed
    if failed is not None and not ended.oom_killed:
        message = failed.message or "no reason given"
        if log.problems:
            message = "\n".join([message, *_shown(log.problems)])
        if ended.code == EXIT_INTERNAL and failed.kind in _HOST_FAULTS:
            message = f"{step.name} stopped{_HOST_FAULTS[failed.kind]}: {message}"
        hint = failed.hint or _HOST_HINTS.get(failed.kind, "")
        return _CLASSES.get(failed.kind, errors.StepCrashed)(message, hint=hint, log=log.path)
    if ended.oom_killed:
        return errors.OutOfMemory(
            f"{step.name} was killed: it needed more memory than it may have",
            hint="try a smaller BATCH or IMGSZ, or raise memory_mib under [limits] in kiln.toml",
            log=log.path,
        )
    return errors.StepCrashed(
        f"{step.name} ended with code {ended.code} and without a result: {log.last_line}",
        hint="the log has the whole story",
        log=log.path,
    )


def _shown(problems: list[events.Problem]) -> list[str]:
    shown = [f"  {_place(each)}: {each.message}" for each in problems[:SHOWN_PROBLEMS]]
    rest = len(problems) - SHOWN_PROBLEMS
    return [*shown, f"  … and {rest} more"] if rest > 0 else shown


def _place(problem: events.Problem) -> str:
    return f"{problem.path}:{problem.line}" if problem.line else problem.path
