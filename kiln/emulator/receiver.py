"""The receiving side of XMODEM with CRC, in packets of 128 bytes, as a state machine.

After Ward Christensen's protocol and Chuck Forsberg's CRC extension (XMODEM/YMODEM Protocol
Reference, 1988). It is robust against noise: EOT and CAN count only when they come twice, and after
a byte that starts no packet it skips until the line is quiet.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable
from typing import Literal

SOH, EOT, ACK, NAK, CAN = b"\x01", b"\x04", b"\x06", b"\x15", b"\x18"
_ASK = b"C"
_PACKET_BYTES = 133
_DATA = slice(3, 131)
_ASK_EVERY_S = 0.25
#: In the middle of a packet, or after noise. The reference has a second, for modems.
_QUIET_S = 0.2
#: What a user's terminal may send between packets, which is no sign of a lost one.
_KEYS = b"1nNyY\r\n"

Outcome = Literal["", "done", "cancelled"]


class Receiver:
    """Receives one transfer.

    ``accept`` is given each packet's data, in order and once; if it returns False the transfer is
    cancelled. ``refuses`` is asked for each intact packet, counted from 1; True answers it by NAK.
    """

    def __init__(
        self,
        send: Callable[[bytes], None],
        accept: Callable[[bytes], bool],
        refuses: Callable[[int], bool],
        now: float,
    ) -> None:
        self._send = send
        self._accept = accept
        self._refuses = refuses
        self._packet = bytearray()
        self._taken = 0
        self._last = b""
        self._skipping = False
        self._due = now
        self.outcome: Outcome = ""

    def receive(self, data: bytes, now: float) -> bytes:
        """Take bytes; returns the keys that belong to no packet."""
        keys = bytearray()
        position = 0
        while position < len(data) and not self.outcome:
            if self._packet:
                rest = _PACKET_BYTES - len(self._packet)
                self._packet += data[position : position + rest]
                position += rest
                if len(self._packet) == _PACKET_BYTES:
                    self._end_packet()
            else:
                byte = data[position : position + 1]
                position += 1
                if byte in _KEYS:
                    keys += byte
                else:
                    self._begin(byte)
        self._due = now + _QUIET_S
        return bytes(keys)

    def due(self) -> float | None:
        """When ``tick`` has something to do."""
        waiting = not self._taken or self._packet or self._skipping
        return self._due if waiting and not self.outcome else None

    def tick(self, now: float) -> None:
        """The line was quiet: ask for the first packet, or again for one that did not arrive."""
        self._send(NAK if self._taken or self._packet else _ASK)
        self._packet.clear()
        self._skipping = False
        self._due = now + _ASK_EVERY_S

    def _begin(self, byte: bytes) -> None:
        """Handle a byte between packets."""
        last, self._last = self._last, byte
        if self._skipping:
            return
        if byte == SOH:
            self._packet += byte
        elif byte == EOT and self._taken:
            self._send(ACK if last == EOT else NAK)
            self.outcome = "done" if last == EOT else ""
        elif byte == CAN:
            self.outcome = "cancelled" if last == CAN else ""
        else:
            self._skipping = True

    def _end_packet(self) -> None:
        number, complement, data = self._packet[1], self._packet[2], bytes(self._packet[_DATA])
        checksum = binascii.crc_hqx(self._packet[_DATA.start :], 0)
        intact = number + complement == 0xFF and checksum == 0
        self._packet.clear()
        self._last = b""
        if not intact:
            self._send(NAK)
        elif self._taken and number == self._taken & 0xFF:
            self._send(ACK)  # sent again because the first ACK was lost
        elif number != (self._taken + 1) & 0xFF:
            self._cancel()
        elif self._refuses(self._taken + 1):
            self._send(NAK)
        elif self._accept(data):
            self._taken += 1
            self._send(ACK)
        else:
            self._cancel()

    def _cancel(self) -> None:
        self._send(CAN * 2)
        self.outcome = "cancelled"
