"""Sends by XMODEM with CRC over a line that drops, duplicates and corrupts bytes.

The `xmodem` package makes the packets and counts the attempts, but takes every byte for the reply
to the packet it has just sent. What stands between it and the line here decides which bytes are
replies. Source of the protocol: C. Forsberg, XMODEM/YMODEM protocol reference.
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
_REPLIES, _REFUSALS = frozenset(_ACK + _NAK + _CAN), frozenset(_NAK + _CAN)
#: A receiver in the middle of a packet takes some of them for data.
_CANCEL = _CAN * 8
#: Of input that was not interpreted yet; the longest text that is searched has a few dozen bytes.
_HELD_BYTES = 1 << 12
#: A line that never falls quiet is waited for no longer than this many quiet times.
_MAX_QUIET_TIMES = 20

# It logs every resent packet as an error, and Python prints errors that have no handler.
logging.getLogger("xmodem.XMODEM").addHandler(logging.NullHandler())
logging.getLogger("xmodem.XMODEM").propagate = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
    """How long to wait, in seconds.

    ``enter_s`` for the menu, in which a user can find the reset button; ``start_s`` for the
    receiver, ``question_s`` for the question after a transfer; ``reply_s`` for a reply, in which a
    board erases a block of flash. A board that has not replied for ``silence_s`` is given up, and a
    line on which nothing came for ``quiet_s`` is empty.
    """

    enter_s: float = 30.0
    start_s: float = 15.0
    question_s: float = 10.0
    reply_s: float = 2.0
    silence_s: float = 6.0
    quiet_s: float = 0.03


class TransferError(Exception):
    """A transfer failed; the text is the reason."""


class XmodemSender:
    """The sending side of XMODEM, for any number of transfers, one at a time."""

    def __init__(self, link: Link, timing: Timing) -> None:
        self._link = link
        self._timing = timing
        self._held = b""
        self._replied_at = time.monotonic()

    def send(
        self,
        stream: BinaryIO,
        size: int,
        start_key: bytes,
        *,
        no_retry: bool,
        count: Callable[[int], None],
    ) -> None:
        """Send ``size`` bytes, a multiple of a packet; raises TransferError, and BoardError.

        ``start_key`` makes the receiver start; it is repeated if it seems to have been lost.
        ``count`` gets the bytes acknowledged so far. With ``no_retry`` no packet is sent twice.
        """
        transfer = _Transfer(self, size // PACKET_BYTES, start_key, no_retry=no_retry)
        modem = xmodem.XMODEM(transfer.get, transfer.put)
        # The package's own function, in Python, takes as long as half a packet on the wire.
        modem.calc_crc = _crc
        if not modem.send(
            stream,
            retry=_RETRIES,
            timeout=self._timing.reply_s,
            quiet=True,
            callback=lambda _sent, taken, _errors: count(taken * PACKET_BYTES),
        ):
            raise TransferError(f"the board refused the same packet {_RETRIES} times")

    def cancel(self) -> None:
        """Make a receiver give up in any state; raises BoardError."""
        self._link.write(_CANCEL)
        self._held = b""

    def drain(self) -> bytes:
        """Wait until nothing comes any more; returns and drops what has come. Raises BoardError."""
        drained, self._held = self._held, b""
        deadline = time.monotonic() + _MAX_QUIET_TIMES * self._timing.quiet_s
        while time.monotonic() < deadline and (chunk := self._link.read(self._timing.quiet_s)):
            drained += chunk
        return drained

    def discard(self) -> None:
        """Drop what has come so far, without waiting; raises BoardError."""
        self._held = b""
        while self._link.read(0):
            pass

    def write(self, data: bytes) -> None:
        """Send unchanged; raises BoardError."""
        self._link.write(data)

    def wait_for(self, text: bytes, timeout_s: float) -> bool:
        """Whether the board sends ``text`` in time; drops all up to it. Raises BoardError."""
        deadline = time.monotonic() + timeout_s
        while text not in self._held:
            if not self._listen(deadline):
                return False
        self._held = self._held.partition(text)[2]
        return True

    def start(self, start_key: bytes) -> None:
        """Wait until a receiver asks for packets with CRC; raises TransferError, and BoardError.

        Text may hold a `C` too: a request for packets is the last byte before a pause.
        """
        deadline = time.monotonic() + self._timing.start_s
        while time.monotonic() < deadline:
            until = min(deadline, time.monotonic() + self._timing.reply_s)
            while self._listen(until):
                if self._held.endswith(_CRC) and self.drain().endswith(_CRC):
                    self._replied_at = time.monotonic()
                    return
            self._link.write(start_key)
        raise TransferError("the board does not ask for data")

    def reply(self) -> bytes | None:
        """The reply to what was sent last: ACK, NAK, or None if none came in time.

        Raises TransferError if the receiver gave up or the board no longer replies, and BoardError.
        """
        deadline = time.monotonic() + self._timing.reply_s
        while True:
            at = next((i for i, byte in enumerate(self._held) if byte in _REPLIES), None)
            if at is None:
                self._held = b""
                if self._listen(deadline):
                    continue
                self._check_silence()
                return None
            kind, self._held = self._held[at : at + 1], self._held[at + 1 :]
            if kind != _CAN:
                self._replied_at = time.monotonic()
                # If both come, the packet is sent again, which does no harm.
                return _NAK if _NAK in self._held else kind
            if not self._held:
                self._listen(time.monotonic() + self._timing.quiet_s)
            if self._held.startswith(_CAN):
                raise TransferError("the board cancelled the transfer")

    def _check_silence(self) -> None:
        silent_s = time.monotonic() - self._replied_at
        if silent_s >= self._timing.silence_s:
            raise TransferError(f"the board has not answered for {silent_s:.0f} s")

    def _listen(self, deadline: float) -> bool:
        """Keep what comes next; False if nothing does until ``deadline``."""
        left_s = deadline - time.monotonic()
        chunk = self._link.read(left_s) if left_s > 0 else b""
        self._held = (self._held + chunk)[-_HELD_BYTES:]
        return bool(chunk)


class _Transfer:
    """The read and write functions that the `xmodem` package gets for one transfer."""

    def __init__(
        self, line: XmodemSender, packets: int, start_key: bytes, *, no_retry: bool
    ) -> None:
        self._line = line
        self._packets = packets
        self._start_key = start_key
        self._no_retry = no_retry
        self._sent = 0
        self._last = b""

    def get(self, _size: int, _timeout_s: float = 0) -> bytes | None:
        if not self._last:
            self._line.start(self._start_key)
            return _CRC
        reply = self._line.reply()
        if self._no_retry and self._last != _EOT and reply != _ACK:
            raise TransferError("the board did not accept the flash address at once")
        return reply

    def put(self, data: bytes, _timeout_s: float = 0) -> int:
        data = bytes(data)
        if data == _CAN:
            return 1  # every failure ends in XmodemSender.cancel
        if data == self._last:
            # A reply to the first copy may still be on its way.
            self._line.drain()
        else:
            self._sent += 1
            self._prepare()
        self._last = data
        self._line.write(data)
        return len(data)

    def _prepare(self) -> None:
        """Make sure that the next reply is one to the next packet.

        A duplicated ACK would be taken for that of the next packet, and so on. While packets
        follow, the receiver's packet numbers reveal it; at the end nothing does, so the last
        packets wait until the line is quiet.
        """
        if self._sent < self._packets:
            self._line.discard()
        elif _REFUSALS & set(self._line.drain()):
            raise TransferError("the board both accepted and refused a packet")


def _crc(data: bytes, crc: int = 0) -> int:
    return binascii.crc_hqx(bytes(data), crc)
