"""What Kiln uses of esptool 5, over a file that stands for a chip's flash.

FAKE_FLASH names the file, FAKE_CHIP the chip that is found, and FAKE_FAULT what goes wrong.
Signatures are those of esptool's own functions; only what Kiln passes is understood.
"""

from __future__ import annotations

import os
from pathlib import Path

from esptool.logger import log

_PIECE_BYTES = 1024


class FatalError(RuntimeError):
    """What esptool raises."""


class Chip:
    def __init__(self, port: str) -> None:
        self.port = port
        self.CHIP_NAME = os.environ.get("FAKE_CHIP", "ESP32-S3")
        self.stub = self.attached = False

    def __enter__(self) -> Chip:
        return self

    def __exit__(self, *_error: object) -> None:
        log.print("port closed")


def detect_chip(port: str) -> Chip:
    if os.environ.get("FAKE_FAULT") == "silent":
        raise FatalError("Failed to connect to ESP32-S3: No serial data received.")
    log.print("Detecting chip type...", end="")
    return Chip(port)


def run_stub(esp: Chip) -> Chip:
    esp.stub = True
    return esp


def attach_flash(esp: Chip) -> None:
    esp.attached = True


def flash_id(esp: Chip) -> None:
    assert esp.attached
    log.print("Detected flash size: 8MB")


def write_flash(esp: Chip, addr_data: list[tuple[int, bytes]]) -> None:
    assert esp.stub
    assert esp.attached
    flash = bytearray(_flash().read_bytes())
    for address, data in addr_data:
        for done in range(0, len(data), _PIECE_BYTES):
            if os.environ.get("FAKE_FAULT") == "fatal" and done >= len(data) // 2:
                raise FatalError("Serial data stream stopped: Possible serial noise or corruption.")
            flash[address + done : address + done + _PIECE_BYTES] = data[done : done + _PIECE_BYTES]
            log.progress_bar(min(done + _PIECE_BYTES, len(data)), len(data))
        if os.environ.get("FAKE_FAULT") == "flip":
            flash[address + len(data) // 2] ^= 1
    _flash().write_bytes(flash)


def read_flash(esp: Chip, address: int, size: int) -> bytes:
    assert esp.stub
    log.progress_bar(size, size)
    return _flash().read_bytes()[address : address + size]


def reset_chip(esp: Chip, reset_mode: str) -> None:
    assert esp.stub
    assert reset_mode == "hard-reset"
    log.print("Hard resetting via RTS pin...")


def _flash() -> Path:
    return Path(os.environ["FAKE_FLASH"])
