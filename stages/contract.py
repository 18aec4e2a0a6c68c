"""The contract between the driver and a step; standard library only.

A step is a module ``stages.<environment>.<name>`` run as ``python -m`` with a job folder::

    job.json   {"contract": 1, "step": ..., "params": {...}}
    in/        inputs, read-only: files or folders, named by the plan
    out/       empty at the start; the step's outputs
    state/     unfinished work from which a later attempt at the same job may continue

It prints one JSON event a line on stdout and its log on stderr. What libraries print to stdout is
sent to stderr, so stdout has only events. The last event holds the result, a record of
``stages.results``.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import resource
import shutil
import signal
import sys
import time
import traceback
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NoReturn, Protocol, TextIO, TypeVar

CONTRACT_VERSION = 1

EXIT_OK = 0
EXIT_INTERNAL = 1
EXIT_FAILED = 3
EXIT_TERMINATED = 143

#: A disk with less free space than this counts as full.
FULL_BYTES = 1 << 20

FailureKind = Literal[
    "data", "weights", "network", "disk", "memory", "model", "device", "request", "internal"
]


class Record(Protocol):
    """Any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


Run = Callable[["Job", "Events"], Record]
AnyRecord = TypeVar("AnyRecord", bound=Record)


class StepFailed(Exception):
    """A failure that the user can correct: what failed and why, and what to do about it."""

    def __init__(self, kind: FailureKind, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.hint = hint


class Terminated(BaseException):
    """SIGTERM arrived; raised so that ``finally`` blocks run."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One job folder, opened."""

    step: str
    params: Mapping[str, Any]
    folder: Path

    @property
    def inputs(self) -> Path:
        return self.folder / "in"

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def state(self) -> Path:
        return self.folder / "state"


class Events:
    """Writes events, one JSON object a line, flushed at once."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def emit(self, event: str, **fields: object) -> None:
        line = json.dumps({"event": event, **fields}, separators=(",", ":"), allow_nan=False)
        self._stream.write(line + "\n")
        self._stream.flush()

    def progress(self, done: float, total: float, unit: str) -> None:
        """Report that ``done`` of ``total`` units are finished."""
        self.emit("progress", done=done, total=total, unit=unit)

    def metric(self, name: str, value: float, *, at: int | None = None) -> None:
        """Report a figure; ``at`` is the epoch it belongs to, if any."""
        self.emit("metric", name=name, value=value, at=at)

    def warning(self, message: str, *, hint: str = "") -> None:
        self.emit("warning", message=message, hint=hint)

    def problem(self, path: str, message: str, *, line: int | None = None) -> None:
        """Report one fault of the user's data; ``path`` is relative to the data set."""
        self.emit("problem", path=path, line=line, message=message)


def open_job(folder: Path) -> Job:
    """Read ``job.json``; raises StepFailed if the folder does not hold a job of this contract."""
    try:
        document = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StepFailed("request", f"{folder}/job.json cannot be read: {error}") from error
    if document.get("contract") != CONTRACT_VERSION:
        raise StepFailed(
            "request",
            f"job.json is of contract {document.get('contract')}, this step of {CONTRACT_VERSION}",
            hint="use the container image of this version of Kiln: make images",
        )
    job = Job(step=document["step"], params=document["params"], folder=folder)
    job.out.mkdir(exist_ok=True)
    job.state.mkdir(exist_ok=True)
    return job


def write_json(path: Path, content: Record | Sequence[Record]) -> None:
    """Write a record, or a list of them, as JSON in UTF-8."""
    if isinstance(content, Sequence):
        value: object = [dataclasses.asdict(each) for each in content]
    else:
        value = dataclasses.asdict(content)
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    path.write_text(text + "\n", encoding="utf-8")


def read_json(cls: type[AnyRecord], path: Path) -> AnyRecord:
    """Read a record that another step has written with ``write_json``."""
    return from_json(cls, json.loads(path.read_text(encoding="utf-8")))


def from_json(cls: type[AnyRecord], table: object) -> AnyRecord:
    """Build a record from a table of JSON that its class has written."""
    record: AnyRecord = _build(cls, table)
    return record


def _build(hint: Any, value: Any) -> Any:
    """A value of JSON as the type ``hint``; plain values are not checked."""
    if dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        return typing.cast(Any, hint)(
            **{name: _build(hints[name], item) for name, item in value.items()}
        )
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return None if value is None else _build(arguments[0], value)
    if origin is tuple:
        return tuple(_build(arguments[0], item) for item in value)
    if origin is Mapping:
        return {key: _build(arguments[1], item) for key, item in value.items()}
    return value


def main(run: Run) -> NoReturn:
    """Run a step on the job folder named by argv (default: the working directory) and exit."""
    events = Events(_claim_stdout())
    signal.signal(signal.SIGTERM, _terminate)
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    sys.exit(_run(run, folder, events))


def _run(run: Run, folder: Path, events: Events) -> int:
    started = time.monotonic()
    try:
        job = open_job(folder)
        events.emit("started", step=job.step)
        result = run(job, events)
    except StepFailed as error:
        _report_failure(events, error.kind, error.message, error.hint)
        return EXIT_FAILED
    except (Terminated, KeyboardInterrupt):
        return EXIT_TERMINATED
    except Exception as error:
        if _is_from_signal(error):
            return EXIT_TERMINATED
        traceback.print_exc()
        message = f"{type(error).__name__}: {error}"
        _report_failure(events, _kind_of(error, folder), message, "")
        return EXIT_INTERNAL
    events.emit(
        "finished",
        seconds=round(time.monotonic() - started, 3),
        peak_memory_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        result=dataclasses.asdict(result),
    )
    return EXIT_OK


def _is_from_signal(error: BaseException | None) -> bool:
    """Whether an error is SIGTERM's or Ctrl-C's after all: C code in which the signal arrives may
    raise an error of its own from it."""
    while error is not None:
        if isinstance(error, Terminated | KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def _report_failure(events: Events, kind: str, message: str, hint: str) -> None:
    events.emit("failed", kind=kind, message=message, hint=hint)


def _kind_of(error: Exception, folder: Path) -> FailureKind:
    """Distinguish a full disk and a lack of memory, which any library may meet, from other errors.

    Libraries raise their own errors for a full disk, with or without the system's message in them,
    and may have deleted what did not fit, so both message and disk are checked.
    """
    named = any(os.strerror(code) in str(error) for code in (errno.ENOSPC, errno.EDQUOT))
    if named or shutil.disk_usage(folder).free < FULL_BYTES:
        return "disk"
    if isinstance(error, MemoryError):
        return "memory"
    return "internal"


def _claim_stdout() -> TextIO:
    """Keep the real stdout for events, and point descriptor 1 at stderr for C code and children."""
    private = os.dup(1)
    os.set_inheritable(private, False)
    os.dup2(2, 1)
    return os.fdopen(private, "w", encoding="utf-8", newline="\n")


def _terminate(_signal: int, _frame: types.FrameType | None) -> None:
    raise Terminated
