"""A compiled file that computes something else than the int8 file it comes from."""

from __future__ import annotations

import struct

#: The command that limits an output from above (Vela: NPU_SET_ACTIVATION_MAX), with its parameter.
_LIMIT = 0x127
_MOST, _LESS = 127, 100


def limited(model: bytes) -> bytes:
    """The same file, whose values are limited to 100 instead of 127 from one operation on."""
    most, less = (struct.pack("<HH", _LIMIT, value) for value in (_MOST, _LESS))
    start = model.index(b"COP1")
    place = model.rindex(most)
    assert start < place
    assert (place - start) % 4 == 0
    return model[:place] + less + model[place + 4 :]
