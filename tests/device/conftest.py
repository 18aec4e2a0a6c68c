"""Emulated boards for tests, unplugged when the test ends."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kiln.emulator.board import EmulatedBoard
from tests.device.host import Host

MakeBoard = Callable[..., EmulatedBoard]
OpenLine = Callable[[EmulatedBoard], Host]


@pytest.fixture
def emulated_board() -> Iterator[MakeBoard]:
    """A board by the arguments of EmulatedBoard, with ``file`` on its flash.

    It boots in no time unless a test says otherwise.
    """
    with contextlib.ExitStack() as plugged_in:

        def make(*arguments: Any, file: bytes = b"", **settings: Any) -> EmulatedBoard:
            board = EmulatedBoard(*arguments, **{"boot_s": 0.05, **settings})
            board.load(file)
            return plugged_in.enter_context(board)

        yield make


@pytest.fixture
def line() -> Iterator[OpenLine]:
    """Opens a board's port."""
    with contextlib.ExitStack() as opened:

        def open_line(board: EmulatedBoard) -> Host:
            return opened.enter_context(contextlib.closing(Host(board.port)))

        yield open_line
