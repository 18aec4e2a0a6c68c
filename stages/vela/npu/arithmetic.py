"""How the NPU scales and rounds its sums, limits them, and looks them up in a table.

The sources are Vela's generators, which turn TFLite's arithmetic into registers: scaling.py and
register_command_stream_generator.py of ethos-u-vela 4.5.0; and TFLite's own, to which the results
are equal: SaturatingRoundingDoublingHighMul and RoundingDivideByPOT of gemmlowp's fixedpoint.h.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.vela.npu.errors import NpuError
from stages.vela.npu.memory import Memory, dtype_of
from stages.vela.npu.operations import SHRAM, FeatureMap, Output, Rounding, Span
from stages.vela.npu.stream import TABLE_BYTES

Integers = NDArray[np.int64]

#: Of a multiplier with TFLite's rounding, which rounds twice: so many bits are shifted out first.
_FIRST_SHIFT = 31
#: A larger product could not be rounded in 64 bits.
MOST_PRODUCT = (1 << 63) - (1 << 48)


def rescale(
    values: Integers, multiplier: int | Integers, shift: int | Integers, rounding: Rounding
) -> Integers:
    """``values * multiplier / 2**shift``, rounded; multipliers and shifts may be one a channel.

    ``tfl`` rounds half up after 31 bits and then half away from zero, as TFLite does; ``natural``
    rounds half up once; ``truncate`` rounds to zero.
    """
    product = values * multiplier
    if rounding == "truncate":
        toward = np.where(product < 0, np.left_shift(np.int64(1), shift) - 1, 0)
        return (product + toward) >> shift
    first = shift if rounding == "natural" else np.minimum(shift, _FIRST_SHIFT)
    rest = shift - first
    product += _half(first)
    product >>= first
    if not np.any(rest):
        return product
    away = np.where(np.asarray(rest) > 0, product >> 63, 0)
    return (product + _half(rest) + away) >> rest


def _half(shift: int | Integers) -> Any:
    return np.left_shift(np.int64(1), shift) >> 1


def check_range(values: Integers, bits: int, what: str) -> Integers:
    """Raise NpuError if a value does not fit: what the NPU does then is not published."""
    least, most = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    if values.size and (values.min() < least or values.max() > most):
        raise NpuError(f"{what} has a value that does not fit {bits} bits")
    return values


def limit(values: Integers, ofm: FeatureMap, output: Output, what: str) -> NDArray[Any]:
    """Add the zero point, and limit; the integers are those of the output, or before a table its
    index less the type's least value.

    Into int32 neither zero point nor limits apply, unless a table of int32 follows (softmax.py).
    """
    if ofm.bits == 32 and not output.force_int8:
        return check_range(values, 32, what).astype(dtype_of(ofm))
    dtype = np.dtype(np.int8) if output.force_int8 else dtype_of(ofm)
    info = np.iinfo(dtype)
    least, most = max(output.least, info.min), min(output.most, info.max)
    values = values + ofm.zero_point
    return np.clip(values, least, most, out=values).astype(dtype)


def look_up(
    values: NDArray[Any], ofm: FeatureMap, output: Output, memory: Memory, base: int, what: str
) -> NDArray[Any]:
    """Replace limited values by the table's entries, if there is one.

    A table of 8 bits has an entry for each value from the least on; one of 32 bits, too; one for 16
    bits has 512 pairs of a start and a slope (lut.py).
    """
    if output.table is None:
        return values
    entries = 512 if values.dtype.itemsize == 2 else 256
    dtype = dtype_of(ofm) if entries == 256 else np.dtype("<u4")
    span = Span(
        region=SHRAM,
        address=base + output.table * TABLE_BYTES,
        length=entries * dtype.itemsize,
    )
    table = memory.bytes(span, f"the table of {what}").view(dtype)
    if entries == 256:
        index = values.view(np.uint8)
        return np.roll(table, 128)[index] if values.dtype == np.int8 else table[index]
    wide = values.astype(np.int64)
    pair = table[(wide >> 7) + 256].astype(np.uint32)
    start = (pair & 0xFFFF).astype(np.uint16).view(np.int16).astype(np.int64)
    slope = (pair >> 16).astype(np.uint16).view(np.int16).astype(np.int64)
    result = start + ((slope * (wide & 0x7F) + 64) >> 7)
    return np.clip(result, -32768, 32767).astype(np.int16)
