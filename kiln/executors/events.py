"""What a step says, as small records, and the reader that makes them of its stdout."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

#: An event is far shorter; a step that prints more without a newline is not printing events.
MAX_LINE_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Started:
    """The step has read its job."""

    step: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
    """``done`` of ``total`` units are finished."""

    done: float
    total: float
    unit: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """A figure; ``at`` is the epoch it belongs to, if any."""

    name: str
    value: float
    at: int | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Warning:
    """Something that the user should know of; the step goes on."""

    message: str
    hint: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """One fault of the user's data; ``path`` is relative to the data set."""

    path: str
    line: int | None
    message: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Device:
    """What the step computes on; ``kind`` is cpu or cuda."""

    name: str
    kind: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failed:
    """The step gives up; ``kind`` is one of ``stages.contract.FailureKind``."""

    kind: str
    message: str
    hint: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finished:
    """The step has filled ``out/``."""

    seconds: float
    peak_memory_mib: int
    result: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogLine:
    """A line of the step's stderr, or of the executor about the step."""

    text: str


StepEvent = Started | Progress | Metric | Warning | Problem | Device | Failed | Finished | LogLine
StepObserver = Callable[[StepEvent], None]


class EventReader:
    """Splits a step's stdout into events, whatever arrives on it, and hands each one on."""

    def __init__(self, observe: StepObserver) -> None:
        self._observe = observe
        self._rest = b""
        self._skipping = False
        self._dropped_lines = 0

    def feed(self, chunk: bytes) -> None:
        lines = (self._rest + chunk).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            if self._skipping:
                self._skipping = False
            else:
                self._take(line)
        if len(self._rest) > MAX_LINE_BYTES:
            self._rest = b""
            self._dropped_lines += not self._skipping
            self._skipping = True

    def close(self) -> None:
        """Say how many lines were not events, if any."""
        self._take(self._rest)
        self._rest = b""
        if self._dropped_lines:
            text = f"{self._dropped_lines} lines on stdout were not events and are left out"
            self._observe(LogLine(text=text))

    def _take(self, line: bytes) -> None:
        event = _parse(line)
        if event is not None:
            self._observe(event)
        elif line.strip():
            self._dropped_lines += 1


def _parse(line: bytes) -> StepEvent | None:
    try:
        return _event_of(json.loads(line, parse_constant=_refuse))
    except (ValueError, OverflowError, RecursionError):
        return None


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _event_of(value: object) -> StepEvent | None:
    """The event that a JSON value is; None for all that ``stages.contract`` does not emit."""
    match value:
        case {"event": "started", "step": str(step)}:
            return Started(step=step)
        case {
            "event": "progress",
            "done": int() | float() as done,
            "total": int() | float() as total,
            "unit": str(unit),
        }:
            return Progress(done=float(done), total=float(total), unit=unit)
        case {
            "event": "metric",
            "name": str(name),
            "value": int() | float() as number,
            "at": int() | None as at,
        }:
            return Metric(name=name, value=float(number), at=at)
        case {"event": "warning", "message": str(message), "hint": str(hint)}:
            return Warning(message=message, hint=hint)
        case {
            "event": "problem",
            "path": str(path),
            "line": int() | None as at,
            "message": str(message),
        }:
            return Problem(path=path, line=at, message=message)
        case {"event": "device", "name": str(name), "kind": str(kind)}:
            return Device(name=name, kind=kind)
        case {"event": "failed", "kind": str(kind), "message": str(message), "hint": str(hint)}:
            return Failed(kind=kind, message=message, hint=hint)
        case {
            "event": "finished",
            "seconds": int() | float() as seconds,
            "peak_memory_mib": int(memory),
            "result": dict(result),
        }:
            return Finished(seconds=seconds, peak_memory_mib=memory, result=result)
    return None
