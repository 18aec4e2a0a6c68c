"""Convolutions and pooling: sums over a window of the input.

The meaning of the registers is in register_command_stream_generator.py of ethos-u-vela 4.5.0
(generate_kernel, generate_padding, generate_ofm_scaling_for_pooling).
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from stages.vela.npu.arithmetic import MOST_PRODUCT, Integers, rescale
from stages.vela.npu.errors import NpuError
from stages.vela.npu.memory import MOST_ELEMENTS
from stages.vela.npu.operations import BlockOperation, Kernel, Output, Scale
from stages.vela.npu.weights import ChannelScales, Filter

#: Windows are unrolled for so many values at a time: memory.
_UNROLLED = 1 << 21
_UNIT = Scale(multiplier=1, shift=0)


def upscaled(values: NDArray[Any], operation: BlockOperation) -> NDArray[Any]:
    """The input [height, width, depth] less its zero point, twice as large if it is upscaled:
    each value four times, or zeros between values."""
    if operation.upscale == "none":
        return values
    if operation.upscale == "nearest":
        return values.repeat(2, axis=0).repeat(2, axis=1)
    height, width, depth = values.shape
    wide = np.zeros((2 * height, 2 * width, depth), values.dtype)
    wide[::2, ::2] = values
    return wide


def convolve(values: NDArray[Any], kernel: Kernel, weights: Filter) -> NDArray[Any]:
    """Sums of products for each place of the window, [rows, columns, output channels]."""
    windows = _windows(_padded(values, kernel, 0), kernel)
    rows, columns = windows.shape[:2]
    if kernel.elements == 1:
        flat = np.ascontiguousarray(windows[..., 0, 0]).reshape(rows * columns, -1)
        return (flat @ weights.matrix).reshape(rows, columns, -1)
    # [rows, columns, depth, height, width] to the order of the weights.
    ordered = windows.transpose(0, 1, 3, 4, 2)
    length = math.prod(ordered.shape[2:])
    sums = np.empty((rows, columns, weights.matrix.shape[1]), weights.matrix.dtype)
    tall = max(1, _UNROLLED // (columns * length))
    wide = max(1, min(columns, _UNROLLED // length))
    for row, column in itertools.product(range(0, rows, tall), range(0, columns, wide)):
        place = (slice(row, row + tall), slice(column, column + wide))
        part = ordered[place]
        products = part.reshape(-1, length) @ weights.matrix
        sums[place] = products.reshape(*part.shape[:2], -1)
    return sums


def convolve_depthwise(values: NDArray[Any], kernel: Kernel, weights: Filter) -> NDArray[Any]:
    """Sums of products for each place of the window and channel, [rows, columns, channels]."""
    windows = _windows(_padded(values, kernel, 0), kernel)
    filters = weights.matrix.reshape(kernel.height, kernel.width, -1)
    sums = np.zeros(windows.shape[:3], weights.matrix.dtype)
    for y in range(kernel.height):
        for x in range(kernel.width):
            sums += windows[..., y, x] * filters[y, x]
    return sums


def scale_channels(
    sums: NDArray[Any], most: int, scales: ChannelScales, operation: BlockOperation
) -> Integers:
    """Sums with bias, scaled channel by channel; raises NpuError if one might overflow."""
    bias = scales.bias
    largest = most + int(np.abs(bias).max(initial=0))
    if largest >= 1 << (operation.accumulator_bits - 1):
        raise NpuError(
            f"sums up to {largest} do not fit the {operation.accumulator_bits} bits of their "
            "accumulator"
        )
    if largest * int(scales.multiplier.max(initial=0)) > MOST_PRODUCT:
        raise NpuError(f"sums up to {largest} times their scale are unknown beyond 63 bits")
    total = sums.astype(np.int64)
    total += bias
    return rescale(total, scales.multiplier, scales.shift, operation.output.rounding)


def pool_largest(values: NDArray[Any], kernel: Kernel) -> Integers:
    """The largest value of each window; padding does not count."""
    padded = _padded(values, kernel, np.iinfo(np.int32).min)
    rows = sliding_window_view(padded, kernel.height, axis=0)[:: kernel.stride_y].max(axis=-1)
    return sliding_window_view(rows, kernel.width, axis=1)[:, :: kernel.stride_x].max(axis=-1)


def pool_average(values: NDArray[Any], kernel: Kernel, output: Output) -> Integers:
    """The sum of each window, scaled by the operation's scale; or without one, or with padding, by
    that of the number of values in it (scaling.py, quantise_pooling_scale). With padding Vela 5
    gives a scale of one (ethos_u55_register_cs_generator.cpp, GenerateOFMScalingForPooling)."""
    sums = _windows(_padded(values.astype(np.int64), kernel, 0), kernel).sum(axis=(-2, -1))
    padded = any((kernel.top, kernel.left, kernel.bottom, kernel.right))
    if output.scale is not None and not padded:
        return scale_sums(sums, output)
    if output.scale not in (None, _UNIT):
        raise NpuError("an average with padding and a scale of its own is unknown")
    ones = np.ones((*values.shape[:2], 1), np.int64)
    counts = _windows(_padded(ones, kernel, 0), kernel).sum(axis=(-2, -1))
    if counts.min(initial=1) < 1:
        raise NpuError("a window of an average has no value but padding")
    exponents = np.frexp(counts - 1)[1].astype(np.int64)
    multipliers = ((np.int64(1) << (31 + exponents)) + (np.int64(1) << exponents)) // counts
    return rescale(sums, multipliers, 31 + exponents, output.rounding)


def scale_sums(sums: Integers, output: Output) -> Integers:
    """Sums times the operation's one scale."""
    if output.scale is None:
        return sums
    if int(np.abs(sums).max(initial=0)) * output.scale.multiplier > MOST_PRODUCT:
        raise NpuError("sums times their scale are unknown beyond 63 bits")
    return rescale(sums, output.scale.multiplier, output.scale.shift, output.rounding)


def _padded(values: NDArray[Any], kernel: Kernel, fill: int) -> NDArray[Any]:
    sides = ((kernel.top, kernel.bottom), (kernel.left, kernel.right), (0, 0))
    if not any(map(any, sides)):
        return values
    size = math.prod(length + sum(side) for length, side in zip(values.shape, sides, strict=True))
    if size > MOST_ELEMENTS:
        raise NpuError(f"the input has {size} values with its padding, more than an NPU can need")
    return np.pad(values, sides, constant_values=fill)


def _windows(values: NDArray[Any], kernel: Kernel) -> NDArray[Any]:
    """Views [rows, columns, depth, kernel height, kernel width]."""
    extent_y = (kernel.height - 1) * kernel.dilation_y + 1
    extent_x = (kernel.width - 1) * kernel.dilation_x + 1
    views = sliding_window_view(values, (extent_y, extent_x), axis=(0, 1))
    views = views[:: kernel.stride_y, :: kernel.stride_x]
    return views[..., :: kernel.dilation_y, :: kernel.dilation_x]
