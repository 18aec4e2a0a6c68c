"""Command streams that would take all memory or time there is; in the vela environment.

Argv: the folder with what `write` and `run` wrote. Stdout: for each stream why it was refused, None
if it was not.
"""

from __future__ import annotations

import json
import resource
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from stages.vela.npu.errors import NpuError
from stages.vela.npu.payload import read_payload
from stages.vela.npu.registers import Long, Op, Short
from stages.vela.npu.simulator import Simulator
from stages.vela.npu.stream import decode
from tests.support.operators.compiled import CompiledFile, take_apart

_MEMORY_BYTES = 512 << 20
_OF_MAPS = (
    *(Short.IFM_DEPTH_M1, Short.IFM_WIDTH0_M1, Short.IFM_HEIGHT0_M1, Short.IFM_HEIGHT1_M1),
    *(Short.OFM_DEPTH_M1, Short.OFM_WIDTH_M1, Short.OFM_HEIGHT_M1),
    *(Short.OFM_WIDTH0_M1, Short.OFM_HEIGHT0_M1, Short.OFM_HEIGHT1_M1),
)
_DEPTHS = (Short.IFM_DEPTH_M1, Short.OFM_DEPTH_M1)
_OF_KERNELS = (Short.KERNEL_WIDTH_M1, Short.KERNEL_HEIGHT_M1)
_PADDING = (Short.IFM_PAD_TOP, Short.IFM_PAD_LEFT, Short.IFM_PAD_BOTTOM, Short.IFM_PAD_RIGHT)
_STRIDES = (
    *(Long.IFM_STRIDE_X, Long.IFM_STRIDE_Y, Long.IFM_STRIDE_C),
    *(Long.OFM_STRIDE_X, Long.OFM_STRIDE_Y, Long.OFM_STRIDE_C),
)


def main() -> None:
    used = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
    limit = used * resource.getpagesize() + _MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    folder = Path(sys.argv[1]) / "ethos-u55-64"
    convolution = take_apart((folder / "conv-3x3_vela.tflite").read_bytes())
    function = take_apart((folder / "tanh_vela.tflite").read_bytes())
    json.dump({name: _refusal(each) for name, each in _streams(convolution, function)}, sys.stdout)


def _refusal(payload: bytes) -> str | None:
    memory = np.zeros(1 << 20, np.uint8)
    try:
        Simulator(decode(payload)).run({0: memory.copy(), 1: memory, 2: memory})
    except NpuError as error:
        return str(error)
    return None


def _streams(convolution: CompiledFile, function: CompiledFile) -> Iterator[tuple[str, bytes]]:
    many = 1 << 20
    yield "operations", _repeated(function, Op.ELEMENTWISE, many)
    yield "transfers", _repeated(function, Op.DMA_START, many)
    yield "waiting", _repeated(function, Op.KERNEL_WAIT, 8 * many)
    ends = dict.fromkeys(_STRIDES, 0)
    for file, name in ((convolution, "convolution"), (function, "function")):
        yield f"large maps of a {name}", _changed(file, dict.fromkeys(_OF_MAPS, 0xFFFF), ends)
        yield f"deep maps of a {name}", _changed(file, dict.fromkeys(_DEPTHS, 0xFFFF), ends)
    kernel = dict.fromkeys(_OF_KERNELS, 0xFFFE)
    yield "a large kernel", _changed(convolution, kernel, {})
    padding = dict.fromkeys(_PADDING, 0x7FFF)
    yield "a large kernel on padding", _changed(convolution, kernel | padding, ends)


def _repeated(file: CompiledFile, code: Op, count: int) -> bytes:
    """The payload with a command so many times in a row, at its end."""
    stream = list(read_payload(file.payload).commands)
    return _payload(file, [*stream[:-1], *[int(code)] * count, stream[-1]])


def _changed(file: CompiledFile, shorts: Mapping[Short, int], longs: Mapping[Long, int]) -> bytes:
    """The payload with other values in registers, everywhere."""
    words = file.words
    for command in file.commands():
        if command.long and command.code in longs:
            words[command.at + 1] = longs[Long(command.code)]
        elif not command.long and command.code in shorts:
            words[command.at] = command.code | shorts[Short(command.code)] << 16
    return struct.pack(f"<{len(words)}I", *words)


def _payload(file: CompiledFile, stream: Sequence[int]) -> bytes:
    """The payload with another stream; the word before it has the length, its upper bits below."""
    before = file.words[: next(file.commands()).at]
    length = len(stream)
    before[-1] = (before[-1] & 0xFF) | (length >> 16 & 0xFF) << 8 | (length & 0xFFFF) << 16
    return struct.pack(f"<{len(before) + length}I", *before, *stream)
