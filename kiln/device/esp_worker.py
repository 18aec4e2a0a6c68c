"""Writes a model to the flash of an ESP32 by esptool, and reads it back.

Run by ``kiln.device.esp`` in esptool's own environment, so it imports nothing of Kiln. Prints one
JSON event a line: ``phase`` (title), ``progress`` (done and total of what esptool sends, which may
be compressed), ``done``, or ``failed`` (why). esptool's own output goes to stderr.

    python -P esp_worker.py --port /dev/ttyACM0 --chip ESP32-S3 --address 0x400000 MODEL
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any, TextIO

import esptool
from esptool.logger import TemplateLogger, log


class NotWritten(Exception):
    """The flash was not written, or does not hold what was written; the text says why."""


class Events(TemplateLogger):  # type: ignore[misc]
    """Turns esptool's progress into events on ``stream``; its text goes to stderr."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def emit(self, event: str, **facts: object) -> None:
        self._stream.write(json.dumps({"event": event, **facts}) + "\n")
        self._stream.flush()

    def print(self, *words: object, **_settings: object) -> None:
        sys.stderr.write(" ".join(str(word) for word in words) + "\n")

    def note(self, message: str) -> None:
        self.print(message)

    def warning(self, message: str) -> None:
        self.print(message)

    def error(self, message: str) -> None:
        self.print(message)

    def stage(self, finish: bool = False) -> None:
        """Nothing: this folds lines of a terminal."""

    def progress_bar(
        self,
        cur_iter: int,
        total_iters: int,
        prefix: str = "",
        suffix: str = "",
        bar_length: int = 30,
    ) -> None:
        del prefix, suffix, bar_length
        self.emit("progress", done=cur_iter, total=total_iters)

    def set_verbosity(self, verbosity: str) -> None:
        """Nothing: there is one verbosity."""


def write(events: Events, port: str, chip: str, address: int, model: bytes) -> None:
    """Write ``model`` to ``address``, read it back and restart the chip.

    Raises NotWritten, and whatever esptool and pyserial raise.
    """
    with esptool.detect_chip(port) as found:
        name = found.CHIP_NAME
        if name != chip:
            raise NotWritten(f"at {port} there is an {name}, and the board has an {chip}")
        loader = esptool.run_stub(found)
        esptool.attach_flash(loader)
        esptool.flash_id(loader)
        events.emit("phase", title="writing the model")
        esptool.write_flash(loader, [(address, model)])
        events.emit("phase", title="reading it back")
        _compare(esptool.read_flash(loader, address, len(model)), model)
        esptool.reset_chip(loader, "hard-reset")


def _compare(read: Any, model: bytes) -> None:
    if hashlib.sha256(read).digest() == hashlib.sha256(model).digest():
        return
    differing = sum(a != b for a, b in zip(read, model, strict=False))
    raise NotWritten(
        f"the flash does not hold what was written: {differing} of {len(model)} bytes differ, "
        f"{len(read)} were read"
    )


def main() -> int:
    """Write the model that the arguments name; returns the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", required=True)
    parser.add_argument("--chip", required=True)
    parser.add_argument("--address", required=True, type=lambda text: int(text, 0))
    parser.add_argument("model", type=Path)
    asked = parser.parse_args()
    events = Events(sys.stdout)
    sys.stdout = sys.stderr
    log.set_logger(events)
    try:
        write(events, asked.port, asked.chip, asked.address, asked.model.read_bytes())
    # esptool's FatalError, pyserial's errors, and unforeseen replies of a chip.
    except Exception as error:
        events.emit("failed", why=str(error).strip() or type(error).__name__)
        return 1
    events.emit("done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
