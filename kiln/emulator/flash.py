"""The flash of the WiseEye2 board, as its bootloader writes it and its firmware reads it."""

from __future__ import annotations

import dataclasses

FLASH_BYTES = 16 << 20
_SECTOR_BYTES = 4096
_ERASED = b"\xff"
#: Where the firmware looks for models (SSCMA-Micro 1.0.x, core/data/el_data_models.cpp and the
#: WE2 port's partition), how often, and for what.
MODELS_ADDRESS = 0x400000
_MODELS_BYTES = 0xA00000
_MODELS_STEP = 1024
_IDENTIFIER = b"TFL3"
_IDENTIFIER_OFFSET = 4
#: The firmware numbers models from 1 with the bits of a 32-bit mask.
_MOST_MODELS = 31


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slot:
    """A model that the firmware found: its number and address."""

    id: int
    address: int


class Flash:
    """16 MB, erased by sectors and written by packets."""

    def __init__(self) -> None:
        self.memory = bytearray(_ERASED * FLASH_BYTES)

    def write(self, address: int, data: bytes, *, first: bool) -> None:
        """Write one packet, erasing each sector that it enters.

        ``first`` begins a transfer: its sector is erased even if the address lies within it.
        """
        end = address + len(data)
        begin = address - address % _SECTOR_BYTES
        if not first and begin != address:
            begin += _SECTOR_BYTES
        for sector in range(begin, end, _SECTOR_BYTES):
            self.memory[sector : sector + _SECTOR_BYTES] = _ERASED * _SECTOR_BYTES
        self.memory[address:end] = data

    def models(self) -> list[Slot]:
        """The models that the firmware finds, by address."""
        end = MODELS_ADDRESS + _MODELS_BYTES
        found: list[Slot] = []
        for address in range(MODELS_ADDRESS, end, _MODELS_STEP):
            at = address + _IDENTIFIER_OFFSET
            if self.memory[at : at + len(_IDENTIFIER)] == _IDENTIFIER:
                found.append(Slot(id=len(found) + 1, address=address))
        return found[:_MOST_MODELS]
