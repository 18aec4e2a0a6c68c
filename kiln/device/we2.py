"""The boot loader of Himax's WiseEye2, which takes a model by XMODEM and writes it to flash.

Source: SenseCraft-Web-Toolkit, src/sscma/grove_ai_we2/deviceHimax.ts, and xmodem/xmodem_send.py
in HimaxWiseEyePlus/Seeed_Grove_Vision_AI_Module_V2. The board is restarted and kept receiving a
byte until it shows its menu; then it takes transfers, and after each asks whether to reboot. The
first one is a single packet that names the flash address: without it, what follows would be taken
for a new firmware.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable

from kiln.device.link import Link
from kiln.device.xmodem_line import PACKET_BYTES, Timing, Trouble, XmodemLine
from kiln.errors import BoardError, FlashFailed
from kiln.plan.targets import Handshake

#: Says that another transfer follows, and where it goes; the offset counts from the address.
_PREAMBLE_HEAD, _PREAMBLE_TAIL = b"\xc0\x5a", b"\x5a\xc0"
_ERASED = b"\xff"
#: Nothing is written before the preamble has been taken, so all up to it may be tried again.
_ATTEMPTS = 3
#: When a user who sees nothing happen is told of the reset button.
_HELP_AFTER_S = 3.0
_ENTER_EVERY_S = 0.01
#: Of what came before, enough to find a line in that comes in pieces.
_MENU_BYTES = 1000
#: What a receiver sends that waits for a packet or could not read one.
_ASKING_FOR_PACKETS = b"C\x15"


def preamble(address: int) -> bytes:
    """The packet that names the flash address of the next transfer."""
    numbers = address.to_bytes(4, "little") + (0).to_bytes(4, "little")
    return (_PREAMBLE_HEAD + numbers + _PREAMBLE_TAIL).ljust(PACKET_BYTES, _ERASED)


def packets_of(model: bytes) -> bytes:
    """What is sent for a model: it, filled up to whole packets, and one empty packet more.

    The receiver takes no packet before it has the one ahead of it. So that the empty one was
    taken proves that the model's last one was, which else a single garbled answer could feign.
    """
    size = -(-len(model) // PACKET_BYTES) * PACKET_BYTES
    return model.ljust(size + PACKET_BYTES, _ERASED)


class BootLoader:
    """One attempt at writing a model. ``say`` is told what the user has to do."""

    def __init__(
        self,
        link: Link,
        handshake: Handshake,
        *,
        say: Callable[[str], object] = lambda _text: None,
        timing: Timing | None = None,
    ) -> None:
        self._link = link
        self._words = handshake
        self._say = say
        self._timing = timing or Timing()
        self._line = XmodemLine(link, self._timing)

    def write(self, model: bytes, address: int, progress: Callable[[int, int], None]) -> None:
        """Write a model to the flash, and restart the board.

        ``progress`` is told the bytes that the board has taken, and how many there are. Returns
        only after the board has acknowledged every packet and the end, and has asked its question.
        Raises BoardError if the boot loader does not answer, and FlashFailed once it has: after
        either, and after an interruption, the board takes another attempt.
        """
        taken = 0
        addressed = False

        def count(done: int) -> None:
            nonlocal taken
            taken = min(done, len(model))
            progress(taken, len(model))

        try:
            self._name_address(address)
            addressed = True
            self._transfer(packets_of(model), nudge=self._words.go_on, count=count)
            self._restart()
        except (Trouble, BoardError) as error:
            self._abandon()
            if isinstance(error, BoardError) and not addressed:
                raise
            raise FlashFailed(str(error), done=taken, total=len(model)) from error
        except BaseException:
            self._abandon()
            raise

    def _name_address(self, address: int) -> None:
        """Have the preamble taken without the least doubt; raises Trouble and BoardError."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self._enter()
                packet = preamble(address)
                self._transfer(packet, nudge=self._words.enter, certain=True)
                return
            except Trouble:
                self._abandon()
                if attempt == _ATTEMPTS:
                    raise

    def _enter(self) -> None:
        """Restart the board into its boot loader's receiver; raises BoardError."""
        # A receiver left over from a broken attempt would take all that follows for packets.
        self._line.cancel()
        self._link.reset()
        started = time.monotonic()
        helped = False
        seen = b""
        while self._words.menu.encode() not in seen:
            waited = time.monotonic() - started
            if waited > self._timing.enter_s:
                raise BoardError(
                    "the board's boot loader does not answer",
                    hint="run the command again and press the board's reset button while it "
                    "waits; check that PORT= is this board",
                )
            if waited > _HELP_AFTER_S and not helped:
                helped = True
                self._say("the board does not restart by itself: press its reset button now")
            self._link.write(self._words.enter.encode())
            seen = self._end_leftovers(seen[-_MENU_BYTES:], self._link.read(_ENTER_EVERY_S))
        self._link.write(self._words.enter.encode())

    def _end_leftovers(self, seen: bytes, chunk: bytes) -> bytes:
        """End a session that a broken attempt has left open; what was seen that is still new."""
        if self._words.question.encode() in seen + chunk:
            self._link.write(self._words.reboot.encode())
            return b""
        if chunk and not chunk.strip(_ASKING_FOR_PACKETS):
            self._line.cancel()
        return seen + chunk

    def _transfer(
        self,
        data: bytes,
        *,
        nudge: str,
        certain: bool = False,
        count: Callable[[int], None] = lambda _done: None,
    ) -> None:
        """Send whole packets and wait for the question after them; raises Trouble, BoardError."""
        self._line.send(io.BytesIO(data), len(data), nudge.encode(), certain=certain, count=count)
        if not self._line.wait_for(self._words.question.encode(), self._timing.question_s):
            raise Trouble("the board did not say that it has written what it was sent")
        if certain:
            self._link.write(self._words.go_on.encode())

    def _restart(self) -> None:
        """Have the board run its firmware. The model is written by now, so this cannot fail."""
        with contextlib.suppress(BoardError):
            self._link.write(self._words.reboot.encode())
            if not self._link.read(self._timing.reply_s):
                self._link.reset()

    def _abandon(self) -> None:
        with contextlib.suppress(BoardError):
            self._line.cancel()
            self._link.reset()
