"""Weights and scales of a convolution, from the bytes that the NPU reads.

Sources: ethos-u-vela 4.5.0, weight_compressor.py (`encode_bias`, `encode_weights`); 3.12.0,
ethosu/mlw_codec/mlw_encode.c (`reorder`), which has the order in which weights are taken.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from stages.vela.npu.errors import NpuError
from stages.vela.npu.operations import BlockOperation
from stages.vela.npu.weight_stream import decode_weights

#: Bytes of bias (40 bits), multiplier (32) and shift (6) of a channel.
SCALE_BYTES = 10
#: Twice what a convolution of the largest networks for such an NPU has, padding included.
_MOST_WEIGHTS = 1 << 23
_MOST_BLOCKS = 1 << 16
_IFM_MICROBLOCK = 8
_SUBKERNEL = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Filter:
    """``matrix``: weights [kernel height * kernel width * input channels, output channels], or for
    depthwise [kernel height * kernel width, channels], as floats of a type in which every sum of
    products with any input is exact. ``most``: no such sum is larger."""

    matrix: NDArray[np.floating]
    most: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChannelScales:
    """Of each output channel, int64 [channels]."""

    bias: NDArray[np.int64]
    multiplier: NDArray[np.int64]
    shift: NDArray[np.int64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Geometry:
    """What decides about the order of weights: `reorder`'s arguments."""

    depthwise: bool
    part_kernel: bool
    ofm_depth: int
    ifm_depth: int
    height: int
    width: int
    dilation_y: int
    dilation_x: int
    block_depth: int
    ofm_microblock: int
    ifm_bits: int

    @property
    def count(self) -> int:
        return self.ofm_depth * self.height * self.width * self.ifm_depth


def geometry_of(operation: BlockOperation, macs: int) -> Geometry:
    """Of an operation with weights; ``macs``: multiply-accumulates a cycle of the NPU."""
    depthwise, kernel = operation.kind == "depthwise", operation.kernel
    assert kernel is not None
    assert operation.weights is not None
    return Geometry(
        depthwise=depthwise,
        part_kernel=operation.weights.part_kernel,
        ofm_depth=operation.ofm.depth,
        ifm_depth=1 if depthwise else operation.ifm.depth,
        height=kernel.height,
        width=kernel.width,
        dilation_y=kernel.dilation_y,
        dilation_x=kernel.dilation_x,
        block_depth=operation.weights.block_depth,
        # architecture_features.py, accelerator_configs: the smallest takes 4 channels at a time.
        ofm_microblock=4 if macs == 32 else 8,
        ifm_bits=operation.ifm.bits,
    )


def read_filter(data: bytes, geometry: Geometry, most_input: int) -> Filter:
    """Decode weights; ``most_input`` is the largest magnitude of an input less its zero point.

    Raises NpuError if they are damaged, or not as many as the operation needs.
    """
    order = weight_order(geometry)
    stream = decode_weights(data, len(order))
    if len(stream) != len(order):
        raise NpuError(f"there are {len(stream)} weights where {len(order)} are needed")
    inside = order >= 0
    weights = np.empty(geometry.count, np.int16)
    weights[order[inside]] = stream[inside]
    matrix = weights.reshape(geometry.ofm_depth, -1).T.astype(np.int64)
    most = int(np.abs(matrix).sum(axis=0).max(initial=0)) * most_input
    exact = np.float32 if most < 1 << 24 else np.float64
    return Filter(matrix=np.ascontiguousarray(matrix, exact), most=most)


def read_scales(data: bytes, channels: int) -> ChannelScales:
    """Take apart ``channels`` records (`encode_bias`)."""
    records = np.frombuffer(data[: channels * SCALE_BYTES], np.uint8).reshape(channels, -1)
    wide = records.astype(np.int64)
    bias = (wide[:, :5] << np.arange(0, 40, 8)).sum(axis=1)
    return ChannelScales(
        bias=(bias ^ (1 << 39)) - (1 << 39),
        multiplier=(wide[:, 5:9] << np.arange(0, 32, 8)).sum(axis=1),
        shift=wide[:, 9] & 0x3F,
    )


def weight_order(geometry: Geometry) -> NDArray[np.int32]:
    """For each weight of a stream its index in [output, height, width, input], -1 for padding.

    Raises NpuError for more weights than an NPU can need.
    """
    return np.concatenate([part.ravel() for part in _blocks(geometry)])


def _blocks(geometry: Geometry) -> Iterator[NDArray[np.int32]]:
    """The order, block after block."""
    depth = 16 if geometry.part_kernel or geometry.ifm_bits == 16 else 32
    inputs = range(0, 1 if geometry.depthwise else geometry.ifm_depth, depth)
    rows = range(0, geometry.height, _SUBKERNEL // geometry.dilation_y)
    columns = range(0, geometry.width, _SUBKERNEL // geometry.dilation_x)
    outputs = range(0, geometry.ofm_depth, geometry.block_depth)
    blocks = math.prod(map(len, (outputs, inputs, rows, columns)))
    total = 0
    for output, first_input, row, column in itertools.product(outputs, inputs, rows, columns):
        axes = _axes(geometry, output, first_input, row, column, depth)
        total += math.prod(map(len, axes))
        if total > _MOST_WEIGHTS or blocks > _MOST_BLOCKS:
            raise NpuError(
                "a convolution has more weights, or smaller blocks, than an NPU can need"
            )
        yield _block(geometry, output, first_input, row, column, axes)


def _axes(
    geometry: Geometry, output: int, first_input: int, row: int, column: int, depth: int
) -> tuple[range, ...]:
    """The axes of a block: microblocks of inputs if the kernel's part comes first; microblocks of
    outputs; elements of the kernel; microblocks of inputs if depth comes first; outputs of a
    microblock; inputs of one."""
    height, width = _subkernel(geometry, row, column)
    outer, elements, inner, lanes = _extents(geometry, first_input, height * width, depth)
    outputs = min(geometry.block_depth, geometry.ofm_depth - output)
    return (
        range(0, outer * _IFM_MICROBLOCK, _IFM_MICROBLOCK),
        range(0, outputs, geometry.ofm_microblock),
        range(elements),
        range(0, inner * _IFM_MICROBLOCK, _IFM_MICROBLOCK),
        range(geometry.ofm_microblock),
        range(lanes),
    )


def _block(
    geometry: Geometry,
    output: int,
    first_input: int,
    row: int,
    column: int,
    axes: tuple[range, ...],
) -> NDArray[np.int32]:
    """The order in a block that begins at an output, an input, a row and a column of the kernel."""
    height, width = _subkernel(geometry, row, column)
    outer_z, microblock, element, inner_z, lane_out, lane_in = np.ix_(
        *(np.array(axis, np.int32) for axis in axes)
    )
    ifm_z = first_input + outer_z + inner_z + lane_in
    ofm_z = output + microblock + lane_out
    y, x = element // width, element % width
    inside = (ifm_z < geometry.ifm_depth) & (ofm_z < geometry.ofm_depth) & (y < height)
    pixel = (row + y) * geometry.width + column + x
    index = (ofm_z * (geometry.height * geometry.width) + pixel) * geometry.ifm_depth + ifm_z
    return np.where(inside, index, np.int32(-1))


def _subkernel(geometry: Geometry, row: int, column: int) -> tuple[int, int]:
    """Height and width of the part of the kernel that is taken at a time."""
    return (
        min(geometry.height - row, _SUBKERNEL // geometry.dilation_y),
        min(geometry.width - column, _SUBKERNEL // geometry.dilation_x),
    )


def _extents(
    geometry: Geometry, first_input: int, elements: int, depth: int
) -> tuple[int, int, int, int]:
    """Outer microblocks of inputs, padded elements of the kernel, inner microblocks, and inputs of
    a microblock."""
    if geometry.depthwise:
        return 1, math.ceil(elements / 4) * 4, 1, 1
    if geometry.part_kernel:
        together = 2 if geometry.ifm_bits == 16 else 4
        inputs = min(depth, geometry.ifm_depth - first_input)
        padded = math.ceil(elements / together) * together
        return math.ceil(inputs / _IFM_MICROBLOCK), padded, 1, _IFM_MICROBLOCK
    return 1, elements, depth // _IFM_MICROBLOCK, _IFM_MICROBLOCK
