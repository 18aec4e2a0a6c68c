"""Work done at the same time ends as one: with the first failure, or at the user's word."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
from pathlib import Path

import pytest

from kiln.system.workers import Stopped, Workers, do_all, is_hurried, stop_if_asked, wait_for_lock


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
    hurried = threading.Event()

    def clears_up() -> None:
        try:
            running.set()
            while True:
                stop_if_asked()
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            while not is_hurried():
                continue
            hurried.set()

    def interrupted() -> None:
        with Workers[None]() as workers:
            workers.start(clears_up)
            assert running.wait(60)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert hurried.is_set()


def test_a_wait_for_a_lock_can_be_given_up(tmp_path: Path) -> None:
    path = tmp_path / "lock"

    def waits(number: int) -> None:
        if number:
            raise ValueError("enough")
        with path.open("w") as wanted:
            wait_for_lock(wanted)

    with path.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="enough"):
            do_all(waits, [0, 1])
