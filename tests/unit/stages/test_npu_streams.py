"""Command streams made by hand: what Vela 4 and Vela 5 say in different words, and 32 bits."""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from stages.vela.npu.errors import NpuError
from stages.vela.npu.registers import Long, Op, Short
from stages.vela.npu.simulator import Simulator
from stages.vela.npu.stream import decode

U55_64 = 0x1006
VELA_4, VELA_5 = 0x10060000, 0x10066001
ARENA = 1
INT8, INT32 = 0x0001, 0x0005
#: Of the output's precision: one scale for all channels, and not TFLite's rounding.
GLOBAL, NATURAL = 1 << 8, 2 << 14

Registers = Mapping[Short | Long, int]


def payload(registers: Registers, operation: Op, mode: int, ident: int) -> bytes:
    """What an operator gives to the driver: registers, one operation, and the end."""
    words = []
    for register, value in registers.items():
        if isinstance(register, Long):
            words += [(value >> 32 & 0xFFFF) << 16 | 0x4000 | register, value & 0xFFFFFFFF]
        else:
            words.append((value & 0xFFFF) << 16 | register)
    words += [mode << 16 | operation, 0xFFFF << 16 | Op.STOP]
    driver = [0x00100001, U55_64, ident, len(words) << 16 | 2]
    return b"COP1" + struct.pack(f"<{4 + len(words)}I", *driver, *words)


def tensor(
    prefix: str, address: int, height: int, width: int, size: int, precision: int
) -> Registers:
    """The registers of a feature map of one channel whose values have ``size`` bytes."""
    names: dict[str, int] = {
        "BASE0": address, "BASE1": 0, "BASE2": 0, "BASE3": 0,
        "STRIDE_Y": width * size, "STRIDE_X": size, "STRIDE_C": size,
        "HEIGHT0_M1": height - 1, "HEIGHT1_M1": height - 1, "WIDTH0_M1": width - 1,
        "REGION": ARENA, "ZERO_POINT": 0, "PRECISION": precision, "DEPTH_M1": 0,
        "HEIGHT_M1": height - 1, "WIDTH_M1": width - 1,
    }  # fmt: skip
    kinds: list[type[Short] | type[Long]] = [Short, Long]
    return {
        kind[f"{prefix}_{name}"]: value
        for name, value in names.items()
        for kind in kinds
        if f"{prefix}_{name}" in kind.__members__
    }


COMMON: Registers = {
    Short.IFM_UPSCALE: 0,
    Short.ACTIVATION: 0,
    Short.ACTIVATION_MIN: -128,
    Short.ACTIVATION_MAX: 127,
    Short.OFM_BLK_HEIGHT_M1: 7,
    Short.OFM_BLK_WIDTH_M1: 7,
    Short.OFM_BLK_DEPTH_M1: 7,
    Short.ACC_FORMAT: 0,
}


def pool(size: int, pad: int) -> Registers:
    """A pooling of 6 rows and 5 columns at 0 into 64, with windows of ``size``."""
    return {
        **COMMON,
        **tensor("IFM", 0, 6, 5, 1, INT8),
        **tensor("OFM", 64, 6, 5, 1, INT8),
        Short.IFM_PAD_TOP: pad,
        Short.IFM_PAD_LEFT: pad,
        Short.IFM_PAD_BOTTOM: pad,
        Short.IFM_PAD_RIGHT: pad,
        Short.KERNEL_HEIGHT_M1: size - 1,
        Short.KERNEL_WIDTH_M1: size - 1,
        Short.KERNEL_STRIDE: 0,
    }


def run(stream: bytes, values: NDArray[np.integer]) -> NDArray[np.uint8]:
    """The arena after it, with values at its start."""
    arena = np.zeros(256, np.uint8)
    arena[: values.nbytes] = np.frombuffer(values.tobytes(), np.uint8)
    Simulator(decode(stream)).run({ARENA: arena})
    return arena


IMAGE = np.random.default_rng(0).integers(-128, 128, (6, 5)).astype(np.int8)


def average(registers: Registers, ident: int) -> NDArray[np.int8]:
    arena = run(payload(registers, Op.POOL, 1, ident), IMAGE)
    return arena[64:94].view(np.int8).reshape(6, 5)


def test_a_padded_average_is_of_the_values_in_its_window() -> None:
    vela_4 = average(pool(3, 1), VELA_4)
    scaled = {**pool(3, 1), Short.OFM_PRECISION: INT8 | GLOBAL | NATURAL, Long.OFM_SCALE: 1}
    assert np.array_equal(average(scaled, VELA_5), vela_4)
    windows = [[IMAGE[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2] for x in range(5)]
               for y in range(6)]  # fmt: skip
    means = np.array([[window.mean() for window in row] for row in windows])
    assert np.abs(vela_4 - means).max() <= 0.5


def test_a_padded_average_with_a_scale_of_its_own_is_unknown() -> None:
    scaled = {**pool(3, 1), Short.OFM_PRECISION: INT8 | GLOBAL, Long.OFM_SCALE: 5 << 32 | 7}
    with pytest.raises(NpuError, match="an average with padding and a scale of its own"):
        average(scaled, VELA_5)


@pytest.mark.parametrize("bits", [40, 48])
def test_a_negative_stride_mirrors(bits: int) -> None:
    mirrored = {
        **pool(1, 0),
        Short.OFM_PRECISION: INT8 | GLOBAL,
        Long.OFM_SCALE: 1,
        Long.OFM_BASE0: 64 + 5 * 5,
        Long.OFM_STRIDE_Y: -5 & (1 << bits) - 1,
    }
    assert np.array_equal(average(mirrored, VELA_5), IMAGE[::-1])


def test_a_product_of_32_bits_saturates() -> None:
    values = np.array([1 << 30, -(1 << 30) - 1, 5], np.int32)
    registers = {
        **COMMON,
        **tensor("IFM", 0, 1, 3, 4, 0x0009),
        **tensor("OFM", 64, 1, 3, 4, INT32 | GLOBAL),
        Long.OFM_SCALE: 1,
        Short.IFM2_BROADCAST: 1 << 7,
        Short.IFM2_SCALAR: 2,
        Short.IFM2_ZERO_POINT: 0,
        Short.IFM2_PRECISION: 0x0009,
    }
    arena = run(payload(registers, Op.ELEMENTWISE, 0, VELA_4), values)
    found = arena[64:76].view(np.int32).tolist()
    assert found == [(1 << 31) - 1, -(1 << 31), 10]
