"""Unit tests cannot reach an engine, a network or a board: trying to is a failure."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

import pytest

_SERIAL_PORT = re.compile(r"/dev/(tty(ACM|USB|S)|cu\.|serial/)")
_ENGINES = {"docker", "dockerd", "podman"}


class Reached(AssertionError):
    """A unit test tried to leave the process."""


class _Guard:
    """An audit hook, for nothing that a library does can get around one."""

    def __init__(self) -> None:
        self.active = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active:
            return
        if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
            raise Reached(f"a unit test may not use the network or an engine: {arguments!r}")
        if event == "open" and _SERIAL_PORT.match(str(arguments[0])):
            raise Reached(f"a unit test may not open a serial port: {arguments[0]}")
        if event == "subprocess.Popen" and PurePath(str(arguments[0])).name in _ENGINES:
            raise Reached(f"a unit test may not start {arguments[0]}")


_GUARD = _Guard()
sys.addaudithook(_GUARD)


@pytest.fixture(autouse=True)
def _stay_inside() -> Iterator[None]:
    _GUARD.active = True
    yield
    _GUARD.active = False
