"""The bootloader of the WiseEye2 board: a menu, and files by XMODEM into the flash.

Its texts and its handshake are those that Himax's xmodem_send.py (Seeed_Grove_Vision_AI_Module_V2)
and SenseCraft's deviceHimax.ts wait for. Its source is not public: how it reacts to an address
outside the flash, or to a full flash, is not known; here it cancels.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable
from typing import Literal

from kiln.emulator.faults import FaultInjector
from kiln.emulator.flash import FLASH_BYTES, Flash
from kiln.emulator.receiver import ACK, EOT, Receiver

_BANNER = (
    "\r\nBoot loader Version : 1.4.4\r\nchip version : 0x8535a1\r\ncpu speed : 400000000 hz\r\n"
)
_MENU = f"""
{"-" * 60}
[0] Reboot system
[1] Xmodem download and burn FW image
{"-" * 60}
""".replace("\n", "\r\n")
_READY = "\r\nSend data using the xmodem protocol from your terminal\r\n"
_QUESTION = "\r\nDo you want to end file transmission and reboot system? (y)\r\n"
_CANCELLED = "\r\nxmodem transfer cancelled\r\n"
#: So many keys, which a bootloader that waits for a file would ignore, count as a reset; those that
#: were on their way when the host saw the menu do not.
_RESTART_KEYS = 20
_LATE_KEYS_S = 0.2

_PREAMBLE = struct.Struct("<2sII2s")
_PREAMBLE_BEGIN, _PREAMBLE_END = b"\xc0\x5a", b"\x5a\xc0"


@dataclasses.dataclass
class Transfer:
    """A transfer that was begun. A file that no preamble announced is taken for ``firmware``.

    ``address`` is that of its first byte, ``bytes`` counts what was written, and ``whole`` says
    that its end arrived.
    """

    kind: Literal["preamble", "model", "firmware"]
    address: int
    bytes: int = 0
    whole: bool = False


class Bootloader:
    """Runs from a reset on.

    ``boot`` is called if nobody asks for the menu in time, ``restart`` when the host chooses to
    reboot, or resets the board.
    """

    def __init__(
        self,
        flash: Flash,
        send: Callable[[bytes], None],
        boot: Callable[[], None],
        restart: Callable[[], None],
        injector: Callable[[], FaultInjector],
        transfers: list[Transfer],
    ) -> None:
        self._flash = flash
        self._send = send
        self._boot = boot
        self._restart = restart
        self._injector = injector
        self._transfers = transfers
        self._state: Literal["listening", "menu", "receiving", "asking"] = "listening"
        self._listens_until: float = 0.0
        self._receiver: Receiver | None = None
        self._current: Transfer | None = None
        self._announced: int | None = None
        self._restart_keys = 0
        self._ready_since = 0.0

    def start(self, until: float) -> None:
        """Reset: the key 1 opens the menu if it comes before ``until``."""
        self._listens_until = until
        self._say(_BANNER)

    def receive(self, data: bytes, now: float) -> None:
        """Bytes from the host."""
        if self._state == "listening" and data.strip(b"1"):
            return  # a command for the firmware, which may hold a 1
        while data:
            if self._receiver is not None:
                keys = self._receiver.receive(data, now)
                data = b""
                self._count_restart_keys(keys, now)
                self._end_transfer()
            else:
                key, data = data[:1], data[1:]
                if self._press(key, now):
                    return

    def due(self) -> float | None:
        """When ``tick`` has something to do."""
        if self._state == "listening":
            return self._listens_until
        return self._receiver.due() if self._receiver else None

    def tick(self, now: float) -> None:
        if self._state == "listening":
            self._boot()
        elif self._receiver is not None:
            self._receiver.tick(now)

    def _press(self, key: bytes, now: float) -> bool:
        """Handle a key outside of a transfer; True if it restarts the board."""
        if self._state == "listening" and key == b"1":
            self._state = "menu"
            self._say(_MENU)
        elif self._state == "menu" and key == b"1":
            self._say(_READY)
            self._listen(now)
        elif (self._state == "menu" and key == b"0") or (self._state == "asking" and key in b"yY"):
            self._restart()
            return True
        elif self._state == "asking" and key in b"nN":
            self._listen(now)
        elif self._state == "asking" and key == EOT:
            self._send(ACK)  # the answer to the end of the file was lost
        elif self._state == "asking":
            return self._count_restart_keys(key, now)
        return False

    def _listen(self, now: float) -> None:
        self._state = "receiving"
        self._current = None
        self._restart_keys = 0
        self._ready_since = now
        self._receiver = Receiver(self._send, self._accept, self._refuses, now)

    def _end_transfer(self) -> None:
        """Go on to the question or the menu if the transfer has ended."""
        if self._receiver is None or not self._receiver.outcome:
            return
        done = self._receiver.outcome == "done"
        self._receiver = None
        if self._current is not None and done:
            self._current.whole = True
        is_preamble = self._current is not None and self._current.kind == "preamble"
        if not (is_preamble and done):
            self._announced = None
        self._state = "asking" if done else "menu"
        self._say(_QUESTION if done else _CANCELLED + _MENU)

    def _accept(self, data: bytes) -> bool:
        """Write a packet; False if it cannot be written."""
        first = self._current is None
        if self._current is None:
            self._current = self._begin(data)
            self._transfers.append(self._current)
        current = self._current
        if current.kind == "preamble":
            self._announced = current.address
            refused = self._injector().faults.refuse_preamble
            return first and not refused and current.address < FLASH_BYTES
        address = current.address + current.bytes
        full = self._injector().faults.flash_full
        if full is not None and current.bytes + len(data) > full:
            return False
        if address + len(data) > FLASH_BYTES:
            return False
        self._flash.write(address, data, first=first)
        current.bytes += len(data)
        return True

    def _begin(self, data: bytes) -> Transfer:
        """What a transfer is, by its first packet."""
        begin, address, offset, end = _PREAMBLE.unpack_from(data)
        if (begin, end) == (_PREAMBLE_BEGIN, _PREAMBLE_END):
            return Transfer(kind="preamble", address=address + offset)
        if self._announced is None:
            return Transfer(kind="firmware", address=0)
        return Transfer(kind="model", address=self._announced)

    def _refuses(self, packet: int) -> bool:
        return self._announced is not None and self._injector().refuses(packet)

    def _count_restart_keys(self, keys: bytes, now: float) -> bool:
        """On a pseudo-terminal no reset line reaches the board: see ``kiln.emulator.board``."""
        if now < self._ready_since + _LATE_KEYS_S:
            return False
        self._restart_keys = self._restart_keys + len(keys) if keys.strip(b"1") == b"" else 0
        if self._restart_keys < _RESTART_KEYS:
            return False
        self._restart()
        return True

    def _say(self, text: str) -> None:
        self._send(text.encode("ascii"))
