"""Work done at the same time ends together: with the first failure, or when the user says so."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from kiln.system.workers import Stopped, Workers, do_all, stop_if_asked, stop_is_urgent


def test_the_first_error_is_raised_and_the_others_are_stopped() -> None:
    seen: list[str] = []
    running = threading.Event()

    def waits(number: int) -> None:
        if number:
            assert running.wait(60)
            raise OSError("no")
        running.set()
        try:
            while True:
                stop_if_asked()
        except Stopped:
            seen.append("stopped")
            raise

    with pytest.raises(OSError, match="no"):
        do_all(waits, [0, 1])
    assert seen == ["stopped"]
    stop_if_asked()  # nobody stops the thread that all others belong to


def test_a_second_interrupt_hurries_what_clears_up() -> None:
    """The main thread is interrupted as Ctrl-C does it, again while it waits for its workers."""
    running = threading.Event()
    urgent = threading.Event()

    def clears_up() -> None:
        try:
            running.set()
            while True:
                stop_if_asked()
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            while not stop_is_urgent():
                continue
            urgent.set()

    def interrupted() -> None:
        with Workers[None]() as workers:
            workers.start(clears_up)
            assert running.wait(60)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert urgent.is_set()
