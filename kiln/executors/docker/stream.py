"""Listens to a container while it runs, and sees to it that it ends."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterator
from typing import TypeAlias

from docker.models.containers import Container
from docker.types import CancellableStream

from kiln.errors import EngineError, StepTimeout
from kiln.executors.docker.engine import UNREACHABLE, engine_errors, engine_gone, is_alive
from kiln.executors.events import EventReader, LogLine, StepObserver
from kiln.executors.protocol import StepRun
from kiln.system.process import GRACE_S, Lines
from kiln.system.workers import stop_if_asked, stop_is_urgent

#: What an engine sends of a container: stdout or stderr, the other None.
Chunk = tuple[bytes | None, bytes | None]
Output: TypeAlias = "CancellableStream[Chunk]"

_TICK_S = 0.5
_PROBE_AFTER_S = 10.0
#: A busy engine may miss one.
_PROBES = 3
_WAIT_S = 60.0
_HANG_UP_S = 2.0
#: A step that talks faster than it is heard must wait, not fill the driver's memory.
_QUEUED = 1000


def follow(container: Container, output: Output, run: StepRun, observe: StepObserver) -> int:
    """Hand on what a started container says and return its exit code.

    However this ends, the container does not run any longer, unless the engine went away. Raises
    StepTimeout and EngineError; what ``observe`` raises, Stopped and KeyboardInterrupt pass.
    """
    try:
        with _in_background(output) as chunks:
            _listen(chunks, run, observe)
        with engine_errors(f"tell how {run.step} ended"):
            return int(container.wait(timeout=_WAIT_S)["StatusCode"])
    except BaseException:
        with contextlib.suppress(EngineError), engine_errors(f"stop {run.step}"):
            container.stop(timeout=0 if stop_is_urgent() else int(GRACE_S))
        raise


def _listen(chunks: queue.Queue[Chunk | None], run: StepRun, observe: StepObserver) -> None:
    """Hear the step to the end of its output."""
    deadline = None if run.limits.timeout_s is None else time.monotonic() + run.limits.timeout_s
    events, lines = EventReader(observe), Lines(lambda line: observe(LogLine(text=line)))
    heard_at, missed = time.monotonic(), 0
    while True:
        if deadline is not None and time.monotonic() > deadline:
            raise StepTimeout(
                f"step {run.step} ran past its limit of {run.limits.timeout_s:g} s",
                hint="it was stopped; run the same command again to try once more",
            )
        stop_if_asked()
        try:
            chunk = chunks.get(timeout=_TICK_S)
        except queue.Empty:
            if time.monotonic() - heard_at > _PROBE_AFTER_S:
                heard_at, missed = time.monotonic(), 0 if is_alive() else missed + 1
                if missed == _PROBES:
                    raise engine_gone(f"while {run.step} ran") from None
            continue
        heard_at, missed = time.monotonic(), 0
        if chunk is None:
            lines.close()
            events.close()
            return
        stdout, stderr = chunk
        events.feed(stdout or b"")
        lines.feed(stderr or b"")


@contextlib.contextmanager
def _in_background(output: Output) -> Iterator[queue.Queue[Chunk | None]]:
    """Read in a thread: the SDK's reading has no time limit. None comes last, whatever happens."""
    chunks: queue.Queue[Chunk | None] = queue.Queue(_QUEUED)

    def read() -> None:
        # An engine that goes away ends the stream like a step does; asking for the exit code
        # tells one from the other.
        with contextlib.suppress(*UNREACHABLE):
            for chunk in output:
                chunks.put(chunk)
        chunks.put(None)

    thread = threading.Thread(target=read, daemon=True, name="container output")
    thread.start()
    try:
        yield chunks
    finally:
        with contextlib.suppress(*UNREACHABLE):
            output.close()
        deadline = time.monotonic() + _HANG_UP_S
        while thread.is_alive() and time.monotonic() < deadline:
            # It may be waiting for room.
            with contextlib.suppress(queue.Empty):
                chunks.get(timeout=_TICK_S / 10)
        hang_up(output)


def hang_up(output: Output) -> None:
    """Close a stream of a container, the SDK's own end of it too, which it leaves open."""
    with contextlib.suppress(*UNREACHABLE):
        output.close()
    output._response.close()  # type: ignore[attr-defined]
