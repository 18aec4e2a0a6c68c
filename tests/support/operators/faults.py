"""Puts one fault at a time into a compiled file, and looks whether running it shows the fault; in
the vela environment.

Argv: the folder with what `write` and `run` wrote. Stdin: a JSON object {model: kinds of faults}.
Stdout: for each model and kind how many faults there were, how many were refused, and those that
changed nothing.
"""

from __future__ import annotations

import json
import random
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.vela.execution.compiled_model import CompiledModel
from stages.vela.npu.errors import NpuError
from stages.vela.npu.operations import SHRAM, BlockOperation, Dma, Span, Weights
from stages.vela.npu.registers import Long, Op, Short
from stages.vela.npu.stream import decode
from stages.vela.npu.weight_stream import decode_weights
from stages.vela.tflite.file import open_file
from tests.support.operators.compiled import Command, CompiledFile, take_apart

Fault = tuple[str, bytes]

_ACCELERATOR = "ethos-u55-64"
_MOST = 150
_ADDRESSES = (
    *(Long.IFM_BASE0, Long.IFM2_BASE0, Long.OFM_BASE0),
    *(Long.WEIGHT_BASE, Long.SCALE_BASE, Long.DMA0_SRC, Long.DMA0_DST),
)
_REGIONS = (
    *(Short.IFM_REGION, Short.IFM2_REGION, Short.OFM_REGION),
    *(Short.WEIGHT_REGION, Short.SCALE_REGION, Short.DMA0_SRC_REGION, Short.DMA0_DST_REGION),
)
_STARTS = (Op.CONV, Op.DEPTHWISE, Op.POOL, Op.ELEMENTWISE, Op.DMA_START)
#: Bytes of bias, scale and shift of a channel, and their bits (weight_compressor.encode_bias).
_CHANNEL = 10
_SCALE_FROM, _SHIFT_FROM = 40, 72


def main() -> None:
    folder = Path(sys.argv[1])
    found = {
        name: {kind: _examine(folder, name, KINDS[kind]) for kind in kinds}
        for name, kinds in json.load(sys.stdin).items()
    }
    json.dump(found, sys.stdout)


def _examine(
    folder: Path, name: str, faults: Callable[[CompiledFile], Iterator[Fault]]
) -> dict[str, Any]:
    file = take_apart((folder / _ACCELERATOR / f"{name}_vela.tflite").read_bytes())
    arrays = dict(np.load(folder / f"{name}.npz"))
    images = arrays.pop("images")
    wanted = [[arrays[f"output_{each}"][row] for each in range(len(arrays))] for row in range(3)]
    chosen = list(faults(file))
    if len(chosen) > _MOST:
        chosen = random.Random(name).sample(chosen, _MOST)
    answers = [(what, _shows(content, images, wanted)) for what, content in chosen]
    return {
        "faults": len(answers),
        "refused": sum(answer == "refused" for _, answer in answers),
        "unseen": [what for what, answer in answers if answer == "unseen"],
    }


def _shows(content: bytes, images: NDArray[Any], wanted: list[list[NDArray[Any]]]) -> str:
    try:
        model = CompiledModel(content)
        for image, rows in zip(images, wanted, strict=True):
            for got, row in zip(model.run(image), rows, strict=True):
                if not np.array_equal(got, row):
                    return "differs"
    except NpuError:
        return "refused"
    return "unseen"


def weight_bits(file: CompiledFile) -> Iterator[Fault]:
    """Bits of the compressed weights that change a weight or damage the stream: some bits only fill
    up the last bytes of a stream, or are read and not used."""
    for weights in _weights(file):
        span = _loaded_from(file, weights.data)
        data = file.constants[span.address : span.address + span.length]
        for bit in random.Random(span.length).sample(range(8 * span.length), _MOST):
            if _decoded(data) != _decoded(_flipped(data, bit)):
                yield from _bits(file, span.address, range(bit, bit + 1), "weights")


def bias_bits(file: CompiledFile) -> Iterator[Fault]:
    """The bits of biases that are more than a thousandth of an output's unit."""
    yield from _channel_bits(file, range(10, _SCALE_FROM), "bias")


def scale_bits(file: CompiledFile) -> Iterator[Fault]:
    """The upper bits of scales: a unit of the lower ones is too little for these few images."""
    yield from _channel_bits(file, range(_SCALE_FROM + 20, _SHIFT_FROM), "scale")


def shift_bits(file: CompiledFile) -> Iterator[Fault]:
    yield from _channel_bits(file, range(_SHIFT_FROM, _SHIFT_FROM + 6), "shift")


def table_bits(file: CompiledFile) -> Iterator[Fault]:
    """Each bit of the tables; the images contain every value."""
    for operation in decode(file.payload).operations:
        if isinstance(operation, Dma) and operation.destination.region == SHRAM:
            source = operation.source
            yield from _bits(file, source.address, range(source.length * 8), "table")


def address_bits(file: CompiledFile) -> Iterator[Fault]:
    for command in file.commands():
        if command.long and command.code in _ADDRESSES:
            for bit in range(32):
                what = f"bit {bit} of {Long(command.code).name} in word {command.at}"
                yield what, file.with_word(command.at + 1, command.data ^ 1 << bit)


def swapped_regions(file: CompiledFile) -> Iterator[Fault]:
    """All other regions, but for scratch (1) and fast scratch (2): they are one memory here. With
    bit 8 a DMA goes to SHRAM, whatever the region."""
    for command in file.commands():
        if not command.long and command.code in _REGIONS:
            for region in {*range(8), 0x100} - {command.param, *_alike(command.param)}:
                what = f"{Short(command.code).name} {region} in word {command.at}"
                yield what, file.with_word(command.at, command.code | region << 16)


def missing_operations(file: CompiledFile) -> Iterator[Fault]:
    """Each operation in turn is not started, or the stream ends before it."""
    words, commands = file.words, list(file.commands())
    for command in commands:
        if not command.long and command.code in _STARTS:
            what = f"{Op(command.code).name} in word {command.at}"
            yield f"no {what}", file.with_word(command.at, Op.KERNEL_WAIT)
            yield f"the stream stops at {what}", file.with_word(command.at, Op.STOP)
            ends = len(words) - commands[-1].at
            filling = [Op.KERNEL_WAIT] * (len(words) - command.at - ends)
            cut = [*words[: command.at], *filling, *words[len(words) - ends :]]
            yield f"nothing from {what} on", file.with_words(cut)


def overlaps(file: CompiledFile) -> Iterator[Fault]:
    """Each buffer of the arena moves onto the input, as a whole or only its end.

    The input of these models is read by their last operation, so that nothing may lie on it.
    """
    source = _tensor_at(file, 0)
    maps = {}
    for operation in decode(file.payload).operations[:-1]:
        if isinstance(operation, BlockOperation):
            maps[operation.ofm.bases[0]] = operation.ofm.nbytes
        elif operation.destination.region != SHRAM:
            maps[operation.destination.address] = operation.destination.length
    for start, length in sorted(maps.items()):
        if start >= source.address + source.length:
            for target in (source.address, source.address + source.length - 16):
                what = f"the buffer at {start} lies at {target}"
                yield what, _moved(file, Span(region=1, address=start, length=length), target)


def wrong_plans(file: CompiledFile) -> Iterator[Fault]:
    """Vela's plan, by which the interpreter places inputs and outputs, says another place."""
    opened = open_file(file.content)
    assert opened.plan is not None
    plan = list(opened.plan)
    old = struct.pack(f"<{len(plan)}i", *plan)
    assert file.content.count(old) == 1
    for number, place in enumerate(plan):
        if number in (*opened.graphs[0].inputs, *opened.graphs[0].outputs):
            for wrong in (place + 16, place + 1024, -16, 1 << 30):
                changed = struct.pack(f"<{len(plan)}i", *plan[:number], wrong, *plan[number + 1 :])
                yield f"tensor {number} at {wrong}", file.content.replace(old, changed)


KINDS: Mapping[str, Callable[[CompiledFile], Iterator[Fault]]] = {
    "weight bits": weight_bits,
    "bias bits": bias_bits,
    "scale bits": scale_bits,
    "shift bits": shift_bits,
    "table bits": table_bits,
    "address bits": address_bits,
    "swapped regions": swapped_regions,
    "missing operations": missing_operations,
    "overlaps": overlaps,
    "wrong plans": wrong_plans,
}


def _bits(file: CompiledFile, at: int, bits: range, what: str) -> Iterator[Fault]:
    for bit in bits:
        byte = at + bit // 8
        changed = file.constants[byte] ^ 1 << bit % 8
        yield f"bit {bit} of {what} at {at}", file.with_constants(byte, bytes((changed,)))


def _channel_bits(file: CompiledFile, bits: range, what: str) -> Iterator[Fault]:
    """Some bits of each channel's ten bytes."""
    for weights in _weights(file):
        span = _loaded_from(file, weights.scales)
        for at in range(span.address, span.address + span.length - _CHANNEL, _CHANNEL):
            yield from _bits(file, at, bits, what)


def _decoded(data: bytes) -> bytes:
    try:
        return decode_weights(data, len(data) << 8).tobytes()
    except NpuError:
        return b"refused"


def _flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def _weights(file: CompiledFile) -> Iterator[Weights]:
    for operation in decode(file.payload).operations:
        if isinstance(operation, BlockOperation) and operation.weights is not None:
            yield operation.weights


def _loaded_from(file: CompiledFile, span: Span) -> Span:
    """Where in flash the bytes of a span are that a DMA brings to it."""
    if span.region == 0:
        return span
    for each in decode(file.payload).operations:
        if isinstance(each, Dma) and each.destination.region == span.region:
            offset = span.address - each.destination.address
            if 0 <= offset < each.destination.length:
                return Span(region=0, address=each.source.address + offset, length=span.length)
    raise AssertionError(f"nothing is loaded to {span}")


def _moved(file: CompiledFile, span: Span, target: int) -> bytes:
    """The file with all addresses inside a span of the arena moved to another place."""
    words = file.words
    for command in file.commands():
        inside = span.address <= command.data < span.address + span.length
        if command.long and inside and command.code in _ADDRESSES and not _reads_flash(command):
            words[command.at + 1] += target - span.address
    return file.with_words(words)


def _reads_flash(command: Command) -> bool:
    return command.code == Long.DMA0_SRC


def _tensor_at(file: CompiledFile, number: int) -> Span:
    """The place of an input."""
    opened = open_file(file.content)
    assert opened.plan is not None
    index = opened.graphs[0].inputs[number]
    length = opened.graphs[0].tensors[index].nbytes
    return Span(region=1, address=opened.plan[index], length=length)


def _alike(region: int) -> set[int]:
    if region >> 8:
        return {0x100}
    return {1, 2} if region in (1, 2) else set()
