"""The payload that an NPU operator gives to the driver: the wanted NPU, and the command stream.

Source: ethos-u-vela 4.5.0, driver_actions.py; ethos-u-core-driver, src/ethosu_driver.c.
"""

from __future__ import annotations

import dataclasses
import struct

from stages.vela.npu.errors import NpuError

UNKNOWN = "an unknown NPU"

_MARK = b"COP1"
#: Actions of the driver (DACommands); a config is followed by two words, commands by the stream.
_CONFIG, _COMMANDS, _READ_REGISTERS, _DUMP_SHRAM, _NOP = range(1, 6)
#: A hundred times what yolov8n has.
_MOST_BYTES = 8 << 20
_PRODUCTS = {0: "ethos-u55", 1: "ethos-u65", 2: "ethos-u85"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Payload:
    """``config`` and ``id``: what the registers CONFIG and ID must be, or the driver refuses;
    ``commands``: the words of the command stream."""

    config: int
    id: int
    commands: tuple[int, ...]

    @property
    def product(self) -> str:
        """As ``ethos-u55``; bits 28 to 31 of CONFIG."""
        return _PRODUCTS.get(self.config >> 28, UNKNOWN)

    @property
    def macs_per_cycle(self) -> int:
        """Bits 0 to 3 of CONFIG are its binary logarithm."""
        return 1 << (self.config & 0xF)


def accelerator_of(payload: bytes) -> str:
    """Product and multiply-accumulates a cycle, as ``ethos-u55-64``, or ``UNKNOWN``."""
    try:
        read = read_payload(payload)
    except NpuError:
        return UNKNOWN
    return UNKNOWN if read.product == UNKNOWN else f"{read.product}-{read.macs_per_cycle}"


def read_payload(payload: bytes) -> Payload:
    """Take a payload apart; raises NpuError for one that is damaged."""
    if not payload.startswith(_MARK) or len(payload) % 4:
        raise NpuError("the NPU operator's first input is no payload of the driver's form COP1")
    if len(payload) > _MOST_BYTES:
        raise NpuError(f"a payload of {len(payload)} bytes is more than any network needs")
    words = [word for (word,) in struct.iter_unpack("<I", payload)]
    config: tuple[int, int] | None = None
    commands: tuple[int, ...] = ()
    at = 1
    while at < len(words):
        action, reserved, param = words[at] & 0xFF, words[at] >> 8 & 0xFF, words[at] >> 16
        if action == _CONFIG and at + 2 < len(words):
            config = words[at + 1], words[at + 2]
            at += 3
        elif action == _COMMANDS:
            # The reserved byte has the upper bits of the length (emit_cmd_stream_header).
            length = reserved << 16 | param
            if commands or at + 1 + length > len(words):
                raise NpuError("the payload's command stream is cut short, or there are two")
            commands = tuple(words[at + 1 : at + 1 + length])
            at += 1 + length
        elif action in (_NOP, _DUMP_SHRAM, _READ_REGISTERS):
            at += 1
        else:
            raise NpuError(f"word {at} of the payload is no action of the driver: {words[at]:#x}")
    if config is None or not commands:
        raise NpuError("the payload does not say for which NPU it is, or has no command stream")
    return Payload(config=config[0], id=config[1], commands=commands)
