"""The bootloader of Himax's WiseEye2, which receives a model by XMODEM and writes it to flash.

Source: SenseCraft-Web-Toolkit, src/sscma/grove_ai_we2/deviceHimax.ts, and xmodem/xmodem_send.py
in HimaxWiseEyePlus/Seeed_Grove_Vision_AI_Module_V2. The board is restarted and sent a key
until it shows its menu; then it receives transfers, and after each asks whether to reboot. The
first one is a preamble of a single packet, which names the flash address: without it, what follows
would be taken for a new firmware.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable

from kiln.device.link import Link
from kiln.device.xmodem_sender import PACKET_BYTES, Timing, TransferError, XmodemSender
from kiln.errors import BoardError, FlashFailed
from kiln.plan.targets import Handshake

#: Announce another transfer and its address; the offset counts from the address.
_PREAMBLE_HEAD, _PREAMBLE_TAIL = b"\xc0\x5a", b"\x5a\xc0"
_ERASED = b"\xff"
#: Nothing is written before the preamble was accepted, so everything up to it may be retried.
_ATTEMPTS = 3
#: When the user is told to press the reset button.
_HELP_AFTER_S = 3.0
_ENTER_EVERY_S = 0.01
#: Input that is kept, to find a line that comes in pieces.
_MENU_BYTES = 1000
#: What a receiver sends that waits for a packet, or got a damaged one.
_PACKET_REQUESTS = b"C\x15"


def preamble(address: int) -> bytes:
    """The packet that names the flash address of the next transfer."""
    numbers = address.to_bytes(4, "little") + (0).to_bytes(4, "little")
    return (_PREAMBLE_HEAD + numbers + _PREAMBLE_TAIL).ljust(PACKET_BYTES, _ERASED)


def packets_of(model: bytes) -> bytes:
    """What is sent for a model: the model, padded to whole packets, and one empty packet more.

    The receiver accepts a packet only after the one before it. So an acknowledged empty packet
    shows that the model's last packet arrived; otherwise one corrupted reply could pass for that.
    """
    size = -(-len(model) // PACKET_BYTES) * PACKET_BYTES
    return model.ljust(size + PACKET_BYTES, _ERASED)


class BootloaderClient:
    """One attempt to write a model. ``say`` gets what the user has to do."""

    def __init__(
        self,
        link: Link,
        handshake: Handshake,
        *,
        say: Callable[[str], object] = lambda _text: None,
        timing: Timing | None = None,
    ) -> None:
        self._link = link
        self._handshake = handshake
        self._say = say
        self._timing = timing or Timing()
        self._xmodem = XmodemSender(link, self._timing)

    def write(self, model: bytes, address: int, progress: Callable[[int, int], None]) -> None:
        """Write a model to the flash, and restart the board.

        ``progress`` gets the bytes that the board has acknowledged, and their total. Returns only
        after the board has acknowledged every packet and the end, and has asked its question.
        Raises BoardError if the bootloader does not answer, FlashFailed if the transfer fails;
        after either, and after an interruption, the board accepts another attempt.
        """
        taken = 0
        addressed = False

        def count(done: int) -> None:
            nonlocal taken
            taken = min(done, len(model))
            progress(taken, len(model))

        try:
            self._send_preamble(address)
            addressed = True
            self._transfer(packets_of(model), start_key=self._handshake.go_on, count=count)
            self._restart()
        except (TransferError, BoardError) as error:
            self._abort()
            if isinstance(error, BoardError) and not addressed:
                raise
            raise FlashFailed(str(error), done=taken, total=len(model)) from error
        except BaseException:
            self._abort()
            raise

    def _send_preamble(self, address: int) -> None:
        """Send the preamble until it is acknowledged at once; raises TransferError, BoardError."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self._enter()
                packet = preamble(address)
                self._transfer(packet, start_key=self._handshake.enter, no_retry=True)
                return
            except TransferError:
                self._abort()
                if attempt == _ATTEMPTS:
                    raise

    def _enter(self) -> None:
        """Restart the board into its bootloader's receiver; raises BoardError."""
        # A receiver of a failed attempt would take everything that follows for packets.
        self._xmodem.cancel()
        self._link.reset()
        started = time.monotonic()
        helped = False
        seen = b""
        while self._handshake.menu.encode() not in seen:
            waited = time.monotonic() - started
            if waited > self._timing.enter_s:
                raise BoardError(
                    "the board's bootloader does not answer",
                    hint="run the command again and press the board's reset button while it "
                    "waits; check that PORT= is this board",
                )
            if waited > _HELP_AFTER_S and not helped:
                helped = True
                self._say("the board does not restart by itself: press its reset button now")
            self._link.write(self._handshake.enter.encode())
            seen = self._end_stale_session(seen[-_MENU_BYTES:], self._link.read(_ENTER_EVERY_S))
        self._link.write(self._handshake.enter.encode())

    def _end_stale_session(self, seen: bytes, chunk: bytes) -> bytes:
        """End a session that a failed attempt left open; returns the input that still counts."""
        if self._handshake.question.encode() in seen + chunk:
            self._link.write(self._handshake.reboot.encode())
            return b""
        if chunk and not chunk.strip(_PACKET_REQUESTS):
            self._xmodem.cancel()
        return seen + chunk

    def _transfer(
        self,
        data: bytes,
        *,
        start_key: str,
        no_retry: bool = False,
        count: Callable[[int], None] = lambda _done: None,
    ) -> None:
        """Send whole packets and wait for the question after them.

        Raises TransferError and BoardError.
        """
        self._xmodem.send(
            io.BytesIO(data), len(data), start_key.encode(), no_retry=no_retry, count=count
        )
        if not self._xmodem.wait_for(self._handshake.question.encode(), self._timing.question_s):
            raise TransferError("the board did not confirm that it has written the data")
        if no_retry:
            self._link.write(self._handshake.go_on.encode())

    def _restart(self) -> None:
        """Start the firmware. The model is written, so nothing is raised any more."""
        with contextlib.suppress(BoardError):
            self._link.write(self._handshake.reboot.encode())
            if not self._link.read(self._timing.reply_s):
                self._link.reset()

    def _abort(self) -> None:
        with contextlib.suppress(BoardError):
            self._xmodem.cancel()
            self._link.reset()
