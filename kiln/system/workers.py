"""Runs several things at once, and ends them all when one fails or the user has had enough.

A thread cannot be interrupted from outside. So what waits in one (for a process, a container, a
lock) looks now and then whether it should stop: then ``stop_if_asked`` raises.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import os
import queue
import threading
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

Result = TypeVar("Result")
Item = TypeVar("Item")


#: How often a lock that another process holds is tried for, and a signal is looked for.
_TICK_S = 0.2


class Stopped(BaseException):
    """Something else has failed, or Ctrl-C was pressed: what runs beside it is given up."""


class _StopRequest:
    """Asked once, work ends as it should; asked twice, at once."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.urgent = threading.Event()


_STOP: contextvars.ContextVar[_StopRequest | None] = contextvars.ContextVar("stop", default=None)


def stop_if_asked() -> None:
    """Raises Stopped in a worker whose work is not wanted any longer; elsewhere does nothing."""
    stop = _STOP.get()
    if stop is not None and stop.asked.is_set():
        raise Stopped


def stop_is_urgent() -> bool:
    """True in a worker that must end at once, and do no more than clear up."""
    stop = _STOP.get()
    return stop is not None and stop.urgent.is_set()


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0))


class Workers(Generic[Result]):
    """Threads that each do one call; use it as a context manager, from one thread.

    However the block ends, no call is left running. A second Ctrl-C hurries them, a third one
    leaves them behind.
    """

    def __init__(self) -> None:
        self._stop = _StopRequest()
        self._ended: queue.SimpleQueue[Result | BaseException] = queue.SimpleQueue()
        self._done: list[threading.Event] = []
        self.busy = 0

    def start(self, call: Callable[[], Result]) -> None:
        """Begin a call beside the others."""

        def work() -> None:
            _STOP.set(self._stop)
            try:
                self._ended.put(call())
            # Raised again by `next`, which waits for it.
            except BaseException as error:
                self._ended.put(error)
            finally:
                done.set()

        done = threading.Event()
        self._done.append(done)
        self.busy += 1
        # A daemon, because a third Ctrl-C must end the program whatever a thread hangs on.
        thread = threading.Thread(target=work, daemon=True)
        try:
            thread.start()
        except BaseException:
            done.set()
            raise

    def next(self) -> Result:
        """Wait for the next call to end, in the order in which they do; raises what it raised."""
        while True:
            with contextlib.suppress(queue.Empty):
                ended = self._ended.get(timeout=_TICK_S)
                break
        self.busy -= 1
        if isinstance(ended, BaseException):
            raise ended
        return ended

    def __enter__(self) -> Workers[Result]:
        return self

    def __exit__(self, _kind: object, error: object, _traceback: object) -> None:
        try:
            if error is not None:
                self._stop.asked.set()
            self._wait()
        except KeyboardInterrupt:
            self._stop.asked.set()
            self._stop.urgent.set()
            self._wait()
            raise

    def _wait(self) -> None:
        # Ctrl-C may come between any two lines: what is waited for must be there still when it is
        # waited for again. An interrupted join, in Python 3.11, takes a running thread for ended.
        # And it may be delivered to another thread, which does not wake this one.
        for done in self._done:
            while not done.wait(_TICK_S):
                continue


def do_all(call: Callable[[Item], object], items: Iterable[Item]) -> None:
    """Call for every item at the same time; raises what the first to fail raised."""
    with Workers[object]() as workers:
        for item in items:
            workers.start(functools.partial(call, item))
        while workers.busy:
            workers.next()
