"""Counts what the operations of a command stream cost: multiply-accumulates, blocks, bytes moved.

Counted, not timed. Kinds of operations and bytes of DMAs are what the stream says. It does not say
how often the blocks of an operation read the same bytes again; that is Vela's rule
(ethos-u-vela 4.5.0, npu_performance.py, measure_element_access):

- every block reads its window of the input, all channels of it for convolutions and sums over
  channels, and those of the block else; channels in whole bricks;
- every block reads the weights of its channels again, since the NPU keeps none: once for each
  block in the plane of the output. Biases and scales are read once;
- an elementwise operation reads an operand for each result, a single value once.

What Vela rounds up to its blocks in SHRAM, or reads twice for kernels larger than 8x8, is not
counted. Nor are the commands themselves, which the NPU reads too.
"""

from __future__ import annotations

import dataclasses
from math import ceil

from stages.vela.npu.operations import (
    BRICK,
    SHRAM,
    BlockOperation,
    Dma,
    FeatureMap,
    Span,
    Stream,
)
from stages.vela.npu.stream import TABLE_BYTES, table_address

#: The region of constants: weights, biases, scales, tables (high_level_command_to_npu_op.py,
#: get_region). Which memory it is, the memory mode says (const_mem_area); on all boards the flash.
FLASH = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """What an operation costs. ``serves``: the index of the block operation that it is done for,
    which is its own for a block operation; None for a DMA that no operation reads from.

    ``floor_cycles``: no operation takes less, however fast the memories are. ``flash_bytes`` are
    read from region 0, ``sram_bytes`` read from and written to all others but SHRAM.
    """

    serves: int | None
    macs: int
    blocks: int
    floor_cycles: int
    flash_bytes: int
    sram_bytes: int


def count(stream: Stream) -> tuple[Cost, ...]:
    """The cost of each operation of a stream, in its order."""
    users = _users(stream)
    return tuple(
        _dma(each, users.get(each.index))
        if isinstance(each, Dma)
        else _block_operation(each, stream.macs_per_cycle)
        for each in stream.operations
    )


def results_per_cycle(macs_per_cycle: int) -> int:
    """What the output stage passes at most (architecture_features.py, accelerator_configs: it has
    ``elem_units`` for 32 times as many ``macs``)."""
    return macs_per_cycle // 32


def _users(stream: Stream) -> dict[int, int]:
    """For each DMA the next operation that reads what it wrote, told by the address."""
    written: dict[tuple[int, int], int] = {}
    users: dict[int, int] = {}
    for each in stream.operations:
        if isinstance(each, Dma):
            written[each.destination.region, each.destination.address] = each.index
            continue
        for place in _reads_from(each, stream.macs_per_cycle):
            if place in written:
                users[written.pop(place)] = each.index
    return users


def _reads_from(operation: BlockOperation, macs_per_cycle: int) -> list[tuple[int, int]]:
    """Regions and addresses at which its inputs begin; Vela copies biases, scales and weights of
    some channels in one piece, which begins with the biases."""
    spans: list[Span | FeatureMap] = [operation.ifm]
    if operation.weights is not None:
        spans += [operation.weights.scales, operation.weights.data]
    if operation.operands is not None and operation.operands.ifm2 is not None:
        spans.append(operation.operands.ifm2)
    places = [
        (each.region, each.bases[0] if isinstance(each, FeatureMap) else each.address)
        for each in spans
    ]
    if (table := operation.output.table) is not None:
        places.append((SHRAM, table_address(macs_per_cycle) + table * TABLE_BYTES))
    return places


def _dma(dma: Dma, user: int | None) -> Cost:
    places = [(dma.source.region, dma.source.length), (dma.destination.region, dma.source.length)]
    flash, sram = _by_memory(places)
    return Cost(serves=user, macs=0, blocks=0, floor_cycles=0, flash_bytes=flash, sram_bytes=sram)


def _block_operation(operation: BlockOperation, macs_per_cycle: int) -> Cost:
    flash, sram = _by_memory(
        [*_inputs(operation), *_weights(operation), (operation.ofm.region, _stored(operation.ofm))]
    )
    rows, columns, channels = _blocks(operation)
    return Cost(
        serves=operation.index,
        macs=operation.macs,
        blocks=rows * columns * channels,
        floor_cycles=_floor_cycles(operation, macs_per_cycle),
        flash_bytes=flash,
        sram_bytes=sram,
    )


def _floor_cycles(operation: BlockOperation, macs_per_cycle: int) -> int:
    """The longer of the array's work and the output stage's, each at its full rate.

    Only convolutions over many channels come near. In npu_performance.py (_estimate_conv_cycles) a
    kernel over single channels keeps an eighth of the array busy, and most results take the output
    stage two to six times as long (_generate_output_perf_tables): estimates, and not counted here.
    """
    return max(
        ceil(operation.macs / macs_per_cycle),
        ceil(operation.ofm.elements / results_per_cycle(macs_per_cycle)),
    )


def _by_memory(moved: list[tuple[int, int]]) -> tuple[int, int]:
    """Bytes of regions, as those of the flash and those of the SRAM."""
    flash = sum(length for region, length in moved if region == FLASH)
    return flash, sum(length for region, length in moved if region not in (FLASH, SHRAM))


def _blocks(operation: BlockOperation) -> tuple[int, int, int]:
    """Numbers of blocks over height, width and depth of the output."""
    height, width, depth = operation.block
    ofm = operation.ofm
    return -(-ofm.height // height), -(-ofm.width // width), -(-ofm.depth // depth)


def _weights(operation: BlockOperation) -> list[tuple[int, int]]:
    if (weights := operation.weights) is None:
        return []
    rows, columns, _ = _blocks(operation)
    return [
        (weights.data.region, weights.data.length * rows * columns),
        (weights.scales.region, weights.scales.length),
    ]


def _inputs(operation: BlockOperation) -> list[tuple[int, int]]:
    """Bytes of feature maps that its blocks read, by region."""
    ifm, ofm, kernel = operation.ifm, operation.ofm, operation.kernel
    if kernel is None:
        ifm2 = operation.operands.ifm2 if operation.operands is not None else None
        operands = [ifm] if ifm2 is None else [ifm, ifm2]
        return [
            (each.region, _stored(each if each.elements == 1 else _like(each, ofm)))
            for each in operands
        ]
    times = 1 if operation.upscale == "none" else 2
    rows = _windows(
        ofm.height, operation.block[0], kernel.stride_y,
        (kernel.height - 1) * kernel.dilation_y + 1, kernel.top, ifm.height * times,
    )  # fmt: skip
    columns = _windows(
        ofm.width, operation.block[1], kernel.stride_x,
        (kernel.width - 1) * kernel.dilation_x + 1, kernel.left, ifm.width * times,
    )  # fmt: skip
    again = _blocks(operation)[2] if operation.kind in ("conv", "reduce_sum") else 1
    read = dataclasses.replace(ifm, height=-(-rows // times), width=-(-columns // times))
    return [(ifm.region, _stored(read) * again)]


def _windows(size: int, block: int, stride: int, extent: int, before: int, there: int) -> int:
    """Rows (or columns) of an input of ``there`` that all blocks of an output of ``size`` read.

    A block of n reads (n - 1) * stride + extent, less what of that is padding: ``before`` of the
    first block, and what is left beyond the last.
    """
    blocks = -(-size // block)
    step = block * stride
    beyond = extent - before - there
    padding = _falling(before, step, blocks) + max(0, (size - 1) * stride + beyond)
    padding += _falling(step * (blocks - 1) - stride + beyond, step, blocks - 1)
    return max(0, (size - blocks) * stride + blocks * extent - padding)


def _falling(first: int, step: int, most: int) -> int:
    """The sum of first, first - step, … over at most ``most`` numbers that are above 0."""
    terms = max(0, min(most, -(-first // step)))
    return terms * first - step * terms * (terms - 1) // 2


def _like(operand: FeatureMap, ofm: FeatureMap) -> FeatureMap:
    return dataclasses.replace(operand, height=ofm.height, width=ofm.width, depth=ofm.depth)


def _stored(feature_map: FeatureMap) -> int:
    """Its bytes, channels in whole bricks if it is stored so."""
    brick = BRICK if feature_map.layout == "nhcwb16" else 1
    depth = -(-feature_map.depth // brick) * brick
    return feature_map.height * feature_map.width * depth * feature_map.bits // 8
