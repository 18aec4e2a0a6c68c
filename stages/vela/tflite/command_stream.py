"""The NPU for which a command stream is compiled.

The driver's payload begins with a mark, followed by actions, one little-endian word each
(github.com/ARM-software, ethos-u-core-driver, src/ethosu_driver.c; Vela's driver_actions.py). The
lowest byte is the kind of the action. One contains the required values of the NPU's registers
CONFIG and ID, and the driver refuses the stream if they differ.
"""

from __future__ import annotations

import itertools
import struct

UNKNOWN = "an unknown NPU"

_MARK = b"COP1"
_OPTIMIZER_CONFIG, _COMMAND_STREAM = 1, 2
_PRODUCTS = {0: "ethos-u55", 1: "ethos-u65", 2: "ethos-u85"}


def accelerator_of(payload: bytes) -> str:
    """Product and multiplications a cycle, as ``ethos-u55-64``, or ``UNKNOWN``.

    Bits 28 to 31 of CONFIG are the product, 0 to 3 the binary logarithm of the multiplications.
    """
    if not payload.startswith(_MARK):
        return UNKNOWN
    words = [word for (word,) in struct.iter_unpack("<I", payload[4 : len(payload) // 4 * 4])]
    for action, config in itertools.pairwise(words):
        if action & 0xFF == _COMMAND_STREAM:
            break
        if action & 0xFF == _OPTIMIZER_CONFIG:
            product = _PRODUCTS.get(config >> 28)
            return f"{product}-{1 << (config & 0xF)}" if product else UNKNOWN
    return UNKNOWN
