"""XMODEM with CRC over a line that drops, doubles and garbles bytes.

The `xmodem` package makes the packets and counts the attempts. It takes every byte that comes for
the answer to the packet it has just sent; what stands between it and the line here decides which
bytes are answers at all. Source of the protocol: C. Forsberg, XMODEM/YMODEM protocol reference.
"""

from __future__ import annotations

import binascii
import dataclasses
import logging
import time
from collections.abc import Callable
from typing import BinaryIO

import xmodem

from kiln.device.link import Link

PACKET_BYTES = 128
_RETRIES = 16
_EOT, _ACK, _NAK, _CAN, _CRC = b"\x04", b"\x06", b"\x15", b"\x18", b"C"
_ANSWERS, _REFUSALS = frozenset(_ACK + _NAK + _CAN), frozenset(_NAK + _CAN)
#: A receiver that is in the midst of a packet takes some of them for data.
_CANCEL = _CAN * 8
#: Of what came and was not understood yet; the longest that is looked for has a few dozen.
_HELD_BYTES = 1 << 12
#: A line that never falls quiet is not waited for any longer than this many quiet times.
_RESTLESS = 20

# It reports every resent packet as an error, and Python prints those that nobody handles.
logging.getLogger("xmodem.XMODEM").addHandler(logging.NullHandler())
logging.getLogger("xmodem.XMODEM").propagate = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
    """How long to wait, in seconds.

    For the menu ``enter_s``, in which a user can find the reset button; for the first sign of a
    receiver ``start_s``, and for the question after a transfer ``question_s``; for an answer
    ``reply_s``, in which a board erases a block of flash. A board that has answered nothing for
    ``silence_s`` is given up, and a line on which nothing came for ``quiet_s`` holds nothing more.
    """

    enter_s: float = 30.0
    start_s: float = 15.0
    question_s: float = 10.0
    reply_s: float = 2.0
    silence_s: float = 6.0
    quiet_s: float = 0.03


class Trouble(Exception):
    """A transfer failed; the text is the reason."""


class XmodemLine:
    """The sending side of XMODEM. One object sends any number of transfers, one at a time."""

    def __init__(self, link: Link, timing: Timing) -> None:
        self._link = link
        self._timing = timing
        self._held = b""
        self._answered_at = time.monotonic()

    def send(
        self,
        stream: BinaryIO,
        size: int,
        nudge: bytes,
        *,
        certain: bool,
        count: Callable[[int], None],
    ) -> None:
        """Send ``size`` bytes, a multiple of a packet; raises Trouble, and BoardError.

        ``nudge`` is what makes the receiver start, sent again if it seems to have been lost.
        ``count`` is told the bytes taken so far. ``certain`` allows no packet to be sent twice.
        """
        transfer = _Transfer(self, size // PACKET_BYTES, nudge, certain=certain)
        modem = xmodem.XMODEM(transfer.get, transfer.put)
        # Its own, in Python, takes as long as half a packet on the wire.
        modem.calc_crc = _crc
        if not modem.send(
            stream,
            retry=_RETRIES,
            timeout=self._timing.reply_s,
            quiet=True,
            callback=lambda _sent, taken, _errors: count(taken * PACKET_BYTES),
        ):
            raise Trouble(f"the board refused the same packet {_RETRIES} times")

    def cancel(self) -> None:
        """Make a receiver give up, whatever it waits for; raises BoardError."""
        self._link.write(_CANCEL)
        self._held = b""

    def settle(self) -> bytes:
        """Wait until nothing comes any more, and forget what has come; raises BoardError."""
        gone, self._held = self._held, b""
        deadline = time.monotonic() + _RESTLESS * self._timing.quiet_s
        while time.monotonic() < deadline and (chunk := self._link.read(self._timing.quiet_s)):
            gone += chunk
        return gone

    def forget(self) -> None:
        """Drop what has come so far, without waiting; raises BoardError."""
        self._held = b""
        while self._link.read(0):
            pass

    def write(self, data: bytes) -> None:
        """Send as it stands; raises BoardError."""
        self._link.write(data)

    def wait_for(self, text: bytes, timeout_s: float) -> bool:
        """Whether the board says ``text``, and forget all before it; raises BoardError."""
        deadline = time.monotonic() + timeout_s
        while text not in self._held:
            if not self._listen(deadline):
                return False
        self._held = self._held.partition(text)[2]
        return True

    def start(self, nudge: bytes) -> None:
        """Wait until a receiver asks for packets with CRC; raises Trouble, and BoardError.

        Text may hold a `C` too: what asks for packets is the last that comes for a while.
        """
        deadline = time.monotonic() + self._timing.start_s
        while time.monotonic() < deadline:
            until = min(deadline, time.monotonic() + self._timing.reply_s)
            while self._listen(until):
                if self._held.endswith(_CRC) and self.settle().endswith(_CRC):
                    self._answered_at = time.monotonic()
                    return
            self._link.write(nudge)
        raise Trouble("the board does not ask for data")

    def answer(self) -> bytes | None:
        """The answer to what was sent last: ACK, NAK, or None if none came in time.

        Raises Trouble if the receiver gave up or the board has fallen silent, and BoardError.
        """
        deadline = time.monotonic() + self._timing.reply_s
        while True:
            at = next((i for i, byte in enumerate(self._held) if byte in _ANSWERS), None)
            if at is None:
                self._held = b""
                if self._listen(deadline):
                    continue
                self._give_up_on_silence()
                return None
            kind, self._held = self._held[at : at + 1], self._held[at + 1 :]
            if kind != _CAN:
                self._answered_at = time.monotonic()
                # Both at once contradict each other; the packet is sent again, which harms nothing.
                return _NAK if _NAK in self._held else kind
            if not self._held:
                self._listen(time.monotonic() + self._timing.quiet_s)
            if self._held.startswith(_CAN):
                raise Trouble("the board broke the transfer off")

    def _give_up_on_silence(self) -> None:
        silent_s = time.monotonic() - self._answered_at
        if silent_s >= self._timing.silence_s:
            raise Trouble(f"the board has not answered for {silent_s:.0f} s")

    def _listen(self, deadline: float) -> bool:
        """Hold what comes next; False if nothing does until ``deadline``."""
        left_s = deadline - time.monotonic()
        chunk = self._link.read(left_s) if left_s > 0 else b""
        self._held = (self._held + chunk)[-_HELD_BYTES:]
        return bool(chunk)


class _Transfer:
    """What one transfer of the `xmodem` package reads and writes, seen from the protocol."""

    def __init__(self, line: XmodemLine, packets: int, nudge: bytes, *, certain: bool) -> None:
        self._line = line
        self._packets = packets
        self._nudge = nudge
        self._certain = certain
        self._sent = 0
        self._last = b""

    def get(self, _size: int, _timeout_s: float = 0) -> bytes | None:
        if not self._last:
            self._line.start(self._nudge)
            return _CRC
        answer = self._line.answer()
        if self._certain and self._last != _EOT and answer != _ACK:
            raise Trouble("the board did not take the flash address at once")
        return answer

    def put(self, data: bytes, _timeout_s: float = 0) -> int:
        data = bytes(data)
        if data == _CAN:
            return 1  # all failures end in XmodemLine.cancel
        if data == self._last:
            # An answer to the first copy may still be on its way.
            self._line.settle()
        else:
            self._sent += 1
            self._prepare()
        self._last = data
        self._line.write(data)
        return len(data)

    def _prepare(self) -> None:
        """Make sure that the next answer is one to the next packet.

        A doubled ACK would stand for the packet after the one that it belongs to, and so on. While
        packets follow, the receiver's count of them brings that to light; at the end nothing does,
        so the last answers are waited for on a quiet line.
        """
        if self._sent < self._packets:
            self._line.forget()
        elif _REFUSALS & set(self._line.settle()):
            raise Trouble("the board both took a packet and refused it")


def _crc(data: bytes, crc: int = 0) -> int:
    return binascii.crc_hqx(bytes(data), crc)
