"""Executes a decoded command stream on memories.

Operations run one after another, each as a whole: what a later one overwrites too early, or an
address that is wrong, gives wrong numbers here as on the chip. Not modelled: the order of blocks in
an operation, DMA and kernels at the same time, what lies where in SHRAM but for tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.vela.npu.arithmetic import Integers, limit, look_up
from stages.vela.npu.convolution import (
    convolve,
    convolve_depthwise,
    pool_average,
    pool_largest,
    scale_channels,
    scale_sums,
    upscaled,
)
from stages.vela.npu.elementwise import compute_binary, compute_unary
from stages.vela.npu.errors import NpuError
from stages.vela.npu.memory import Bytes, Memory, dtype_of
from stages.vela.npu.operations import SHRAM, BlockOperation, Dma, Operation, Stream
from stages.vela.npu.stream import shram_kib, table_address
from stages.vela.npu.weights import (
    SCALE_BYTES,
    Filter,
    Geometry,
    geometry_of,
    read_filter,
    read_scales,
)

#: In one run, by `_work`: some ten seconds here, and a hundred times what yolov8n asks for.
_MOST_WORK = 1 << 37
#: Values of decoded weights, and tables of results, that are kept from run to run.
_MOST_KEPT_WEIGHTS = 1 << 25
_MOST_KEPT_TABLES = 1 << 10
#: Below so many values a table of all 65,536 pairs of operands does not pay.
_TABLE_PAYS = 1 << 13

Watch = Callable[[BlockOperation, NDArray[Any]], None]


class Simulator:
    """An NPU with one command stream. It keeps what it decoded of weights and worked out of
    elementwise operations, so later runs are faster; it serves one thread at a time.

    Raises NpuError for a stream of more work than any network for such an NPU.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._tables = table_address(stream.macs_per_cycle)
        self._shram = np.zeros(shram_kib(stream.macs_per_cycle) << 10, np.uint8)
        self._filters: dict[tuple[bytes, Geometry, int], Filter] = {}
        self._results: dict[int, NDArray[Any]] = {}
        self._kept_weights = 0
        macs = stream.macs_per_cycle
        if sum(_work(each, macs) for each in stream.operations) > _MOST_WORK:
            raise NpuError("the command stream asks for more work than any network for such an NPU")

    def run(self, regions: Mapping[int, Bytes], watch: Watch | None = None) -> None:
        """Execute the stream; ``regions`` are the memories behind the driver's base pointers, which
        it changes; ``watch`` is called with each block operation and what it has written. Raises
        NpuError."""
        self._shram[:] = 0
        memory = Memory(regions={**regions, SHRAM: self._shram})
        for operation in self._stream.operations:
            try:
                self._execute(operation, memory)
                if watch is not None and isinstance(operation, BlockOperation):
                    watch(operation, memory.read(operation.ofm, "the output").copy())
            except NpuError as error:
                raise NpuError(
                    f"operation {operation.index} ({_name(operation)}): {error}"
                ) from error

    def _execute(self, operation: Operation, memory: Memory) -> None:
        if isinstance(operation, Dma):
            memory.copy(operation.source, operation.destination, "the DMA")
            return
        ofm, output = operation.ofm, operation.output
        limited = self._compute(operation, memory)
        if limited.shape != (ofm.height, ofm.width, ofm.depth):
            raise NpuError(f"it gives {limited.shape} where {ofm.height, ofm.width, ofm.depth} fit")
        result = look_up(limited, ofm, output, memory, self._tables, "it")
        memory.write(ofm, result.astype(dtype_of(ofm), copy=False), "the output")

    def _compute(self, operation: BlockOperation, memory: Memory) -> NDArray[Any]:
        """The output before a table is applied."""
        values = memory.read(operation.ifm, "the input")
        if operation.kernel is None:
            return self._elementwise(operation, values, memory)
        if _is_copy(operation):
            table = self._result(operation, lambda: _over_codes(operation, values.dtype))
            grown = upscaled(table[values.view(np.uint8)], operation)
            return grown[: operation.ofm.height, : operation.ofm.width]
        sums = self._windowed(operation, values, memory)
        return limit(sums, operation.ofm, operation.output, "the output")

    def _windowed(
        self, operation: BlockOperation, values: NDArray[Any], memory: Memory
    ) -> Integers:
        ofm, kernel = operation.ofm, operation.kernel
        assert kernel is not None
        if operation.kind in ("conv", "depthwise"):
            result = self._convolution(operation, values, memory)
        else:
            wide = upscaled(values.astype(np.int64) - operation.ifm.zero_point, operation)
            if operation.kind == "max_pool":
                result = pool_largest(wide, kernel)
            elif operation.kind == "average_pool":
                result = pool_average(wide, kernel, operation.output)
            else:
                result = scale_sums(wide.sum(axis=2, keepdims=True), operation.output)
        return result[: ofm.height, : ofm.width]

    def _convolution(
        self, operation: BlockOperation, values: NDArray[Any], memory: Memory
    ) -> Integers:
        weights, kernel = operation.weights, operation.kernel
        assert weights is not None
        assert kernel is not None
        channels = operation.ofm.depth
        needed = SCALE_BYTES * channels
        if weights.scales.length < needed:
            raise NpuError(f"scales of {weights.scales.length} bytes where {needed} are needed")
        geometry = geometry_of(operation, self._stream.macs_per_cycle)
        data = memory.bytes(weights.data, "the weights").tobytes()
        zero = operation.ifm.zero_point
        filters = self._filter(data, geometry, _largest(values.dtype, zero))
        scales = read_scales(memory.bytes(weights.scales, "the scales").tobytes(), channels)
        inputs = upscaled(values.astype(filters.matrix.dtype) - zero, operation)
        run = convolve_depthwise if operation.kind == "depthwise" else convolve
        sums = run(inputs, kernel, filters)
        return scale_channels(sums, filters.most, scales, operation)

    def _filter(self, data: bytes, geometry: Geometry, most_input: int) -> Filter:
        key = (data, geometry, most_input)
        kept = self._filters.get(key)
        if kept is not None:
            return kept
        found = read_filter(data, geometry, most_input)
        if self._kept_weights + geometry.count <= _MOST_KEPT_WEIGHTS:
            self._kept_weights += geometry.count
            self._filters[key] = found
        return found

    def _elementwise(
        self, operation: BlockOperation, values: NDArray[Any], memory: Memory
    ) -> NDArray[Any]:
        operands = operation.operands
        if operands is None:
            return _result_of(operation, values, None)
        if operands.ifm2 is None:
            scalar = np.array(operands.scalar)
            if values.dtype.itemsize > 1:
                return _result_of(operation, values, scalar)
            table = self._result(
                operation, lambda: _result_of(operation, _codes(values.dtype), scalar)
            )
            return table[values.view(np.uint8)]
        other = memory.read(operands.ifm2, "the second input")
        narrow = values.dtype.itemsize == other.dtype.itemsize == 1
        if not narrow or operation.ofm.bits == 32 or values.size < _TABLE_PAYS:
            return _result_of(operation, values, other)
        table = self._result(operation, lambda: _over_pairs(operation, values.dtype, other.dtype))
        pairs = values.view(np.uint8).astype(np.uint16) << 8 | other.view(np.uint8)
        return table[pairs]

    def _result(
        self, operation: BlockOperation, compute: Callable[[], NDArray[Any]]
    ) -> NDArray[Any]:
        """Results for all values that an operand can have, worked out once."""
        kept = self._results.get(operation.index)
        if kept is not None:
            return kept
        found = compute()
        if len(self._results) < _MOST_KEPT_TABLES:
            self._results[operation.index] = found
        return found


def _work(operation: Operation, macs: int) -> int:
    """About what an operation costs here, in multiply-accumulates: 2 GHz of them, against values
    that are scaled one by one, weights that are decoded, and the time to begin. ``macs``: of the
    NPU, a cycle."""
    if isinstance(operation, Dma):
        return (1 << 18) + operation.source.length
    values = operation.ifm.elements + operation.ofm.elements
    weights = 0 if operation.weights is None else geometry_of(operation, macs).count
    return (1 << 18) + operation.macs + (values << 8) + (weights << 10)


def _is_copy(operation: BlockOperation) -> bool:
    """Whether it treats each value of 8 bits by itself: copies, concatenations, quantisation."""
    kernel = operation.kernel
    if operation.kind != "average_pool" or kernel is None or operation.ifm.bits != 8:
        return False
    window = (kernel.elements, kernel.stride_y, kernel.stride_x)
    padding = (kernel.top, kernel.left, kernel.bottom, kernel.right)
    return window == (1, 1, 1) and not any(padding) and operation.upscale != "transpose"


def _codes(dtype: np.dtype[Any]) -> NDArray[Any]:
    """All values of 8 bits, in the order of their bytes."""
    return np.arange(256, dtype=np.uint8).view(dtype)


def _over_codes(operation: BlockOperation, dtype: np.dtype[Any]) -> NDArray[Any]:
    """What a pooling of single values gives for each."""
    assert operation.kernel is not None
    values = _codes(dtype).astype(np.int64)[None, :, None] - operation.ifm.zero_point
    sums = pool_average(values, operation.kernel, operation.output)
    return limit(sums, operation.ofm, operation.output, "the output").ravel()


def _over_pairs(
    operation: BlockOperation, dtype: np.dtype[Any], other: np.dtype[Any]
) -> NDArray[Any]:
    """What an elementwise operation gives for each pair, the first operand's bits on top."""
    return _result_of(operation, _codes(dtype)[:, None], _codes(other)[None, :]).ravel()


def _result_of(
    operation: BlockOperation, values: NDArray[Any], other: NDArray[Any] | None
) -> NDArray[Any]:
    """An elementwise operation on stored values, limited."""
    first = values.astype(np.int64) - operation.ifm.zero_point
    if other is None:
        result = compute_unary(operation, first)
    else:
        assert operation.operands is not None
        second = other.astype(np.int64) - operation.operands.zero_point
        result = compute_binary(operation, first, second)
    return limit(result, operation.ofm, operation.output, "the output")


def _largest(dtype: np.dtype[Any], zero: int) -> int:
    """The largest magnitude of a stored value less the zero point."""
    info = np.iinfo(dtype)
    return max(abs(int(info.min) - zero), abs(int(info.max) - zero))


def _name(operation: Operation) -> str:
    return "DMA" if isinstance(operation, Dma) else operation.kind
