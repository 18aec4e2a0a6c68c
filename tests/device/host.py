"""The other end of an emulated board's line, without any of Kiln's own protocols."""

from __future__ import annotations

import binascii
import contextlib
import json
import os
import select
import time
import tty
from typing import Any

import pytest

ACK, NAK, CAN, EOT = b"\x06", b"\x15", b"\x18", b"\x04"
QUESTION = b"Do you want to end file transmission and reboot system? (y)"
MENU = b"Xmodem download and burn FW image"


class Host:
    """Reads and writes a port."""

    def __init__(self, port: str) -> None:
        self._handle = os.open(port, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(self._handle)
        self._left = b""

    def write(self, data: bytes) -> None:
        os.write(self._handle, data)

    def until(self, end: bytes, *, timeout_s: float = 5.0) -> bytes:
        """Everything up to and with ``end``."""
        deadline = time.monotonic() + timeout_s
        while end not in self._left:
            rest = deadline - time.monotonic()
            if rest <= 0 or not select.select([self._handle], [], [], rest)[0]:
                pytest.fail(f"no {end!r} within {timeout_s:g} s, but {self._left[-300:]!r}")
            self._read()
        found, _, self._left = self._left.partition(end)
        return found + end

    def byte(self) -> bytes:
        """The next byte."""
        while not self._left:
            assert select.select([self._handle], [], [], 5.0)[0], "nothing came"
            self._read()
        byte, self._left = self._left[:1], self._left[1:]
        return byte

    def is_quiet(self, seconds: float) -> bool:
        return not self._left and not select.select([self._handle], [], [], seconds)[0]

    def frame(self) -> dict[str, Any]:
        """The next frame; what comes before it is passed over."""
        self.until(b"\r{")
        frame: dict[str, Any] = json.loads(b"{" + self.until(b"\n"))
        return frame

    def ask(self, command: str) -> dict[str, Any]:
        """The reply to a command, or what is logged of an unknown one.

        Events go by, and so does the reply to nobody that the firmware sends when it starts.
        """
        name = command.removeprefix("AT+").removeprefix("at+").partition("=")[0].upper()
        self.write(command.encode("ascii") + b"\r")
        while (frame := self.frame())["type"] != 2 and (frame["type"], frame["name"]) != (0, name):
            pass
        return frame

    def enter_bootloader(self) -> None:
        """As a person does: press the key now and then until the menu is there."""
        while MENU not in self._left:
            self.write(b"1")
            if select.select([self._handle], [], [], 0.01)[0]:
                self._read()
        self.write(b"1")
        self.until(b"terminal\r\n")
        self.until(b"C")

    def announce(self, address: int) -> None:
        """Send a preamble, and answer that more is to come."""
        assert self.send(preamble(address)) == ACK
        self.end()
        self.write(b"n")
        self.until(b"C")

    def send(self, data: bytes, *, first: int = 1) -> bytes:
        """Packets as long as each is acknowledged; the last answer."""
        answer = b""
        for number, offset in enumerate(range(0, len(data), 128), start=first):
            self.write(packet(number, data[offset : offset + 128]))
            answer = self.byte()
            while answer == b"C":  # asked for again before the first packet was there
                answer = self.byte()
            if answer != ACK:
                break
        return answer

    def end(self) -> None:
        """End a file; the board wants to hear it twice."""
        self.write(EOT)
        assert self.byte() == NAK
        self.write(EOT)
        assert self.byte() == ACK
        self.until(QUESTION)

    def _read(self) -> None:
        data = os.read(self._handle, 1 << 16)
        if not data:
            raise BrokenPipeError("the board is gone")
        self._left += data

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._handle)


def packet(number: int, data: bytes) -> bytes:
    data = data.ljust(128, b"\x1a")
    head = bytes((1, number & 0xFF, 0xFF - (number & 0xFF)))
    return head + data + binascii.crc_hqx(data, 0).to_bytes(2, "big")


def preamble(address: int) -> bytes:
    body = b"\xc0\x5a" + address.to_bytes(4, "little") + bytes(4) + b"\x5a\xc0"
    return body.ljust(128, b"\xff")
