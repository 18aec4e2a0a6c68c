"""The size of the tensor arena that a model takes on a 32-bit board, computed from its file.

TensorFlow Lite Micro fills one arena from two ends. At the head are the tensors and the kernels'
scratch buffers, placed by its planner; at the tail its own structures. Vela's SRAM figure contains
only the planned tensors. Both ends follow from the file and the interpreter's source
(github.com/tensorflow/tflite-micro, tensorflow/lite/micro; the same in the releases of September
2022 and December 2024 with which the firmware is built):

* ``micro_allocation_info.cc``, ``memory_planner/greedy_memory_planner.cc``: the head.
* ``micro_allocator.cc``, ``micro_interpreter.cc``: what is allocated at the tail, in this order.
* ``micro_allocator.h``, ``core/c/common.h``, ``arena_allocator/``, ``memory_planner/``: the sizes
  of the structures, here with enumerations of four bytes, the largest that a compiler chooses.
* ``kernels/ethos_u/ethosu.cc``: two scratch buffers, 8 bytes and a ``size_t`` for each tensor.

The interpreter, built for a 32-bit machine, takes exactly these sizes for files of Vela 3.9 to 4.5
whose only operators on the CPU are TRANSPOSE and RESHAPE, and up to 100 bytes less with short
enumerations. Other kernels on the CPU keep data whose size differs by kernel; it is estimated by an
allowance.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

from stages.vela.tflite.file import NPU_OPERATOR, UNPLANNED, Graph, Operator, Tensor, TFLiteFile

#: Bytes of a pointer and of a ``size_t`` on the boards.
POINTER = 4

#: Alignment in bytes of tensors, scratch buffers and kernels' own data.
ALIGNMENT = 16

#: Bytes of an operator's parsed options.
_OPTIONS = {NPU_OPERATOR: 0, "TRANSPOSE": 0, "RESHAPE": 36}
#: Bytes that its kernel keeps.
_KEPT = {NPU_OPERATOR: 12, "TRANSPOSE": 0, "RESHAPE": 0}
#: The sum of both for all others: no int8 kernel has more, except for tables of each channel.
_KEPT_AT_MOST = 192
_KEPT_A_CHANNEL = {
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV"), 8),
    "FULLY_CONNECTED": 12,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arena:
    """Bytes of the arena: ``planned`` for tensors, ``interpreter`` for everything else."""

    planned: int
    interpreter: int

    @property
    def used(self) -> int:
        return self.planned + self.interpreter


@dataclasses.dataclass(frozen=True, kw_only=True)
class Span:
    """A buffer to be placed: its size, the first and the last operator that need it, and its offset
    if Vela has planned it."""

    size: int
    first: int
    last: int
    place: int = UNPLANNED

    def lives_with(self, other: Span) -> bool:
        return self.first <= other.last and other.first <= self.last


def estimate(file: TFLiteFile) -> Arena:
    """The arena that the interpreter takes on a board; exact except for the kernels' allowance."""
    planned = head_bytes(file, scratch=False)
    whole = head_bytes(file, scratch=True) + tail_bytes(file)
    return Arena(planned=planned, interpreter=whole - planned)


def is_exact(file: TFLiteFile) -> bool:
    """Whether the estimate contains no allowance."""
    return all(operator.name in _KEPT for operator in file.operators)


def head_bytes(file: TFLiteFile, *, scratch: bool) -> int:
    """Bytes at the head, with or without the kernels' scratch buffers.

    Graphs that operators of the first one call are counted separately, which is an upper bound.
    """
    plan = iter(file.plan or ())
    total = 0
    for graph in file.graphs:
        spans = _tensor_spans(graph, [next(plan, UNPLANNED) for _ in graph.tensors])
        if scratch:
            spans += _scratch_spans(graph)
        places = place(spans)
        total += max((at + span.size for at, span in zip(places, spans, strict=True)), default=0)
    return total


def tail_bytes(file: TFLiteFile, pointer: int = POINTER) -> int:
    """Bytes at the tail, allocated downwards; ``pointer`` is the size of a pointer in bytes."""
    tail = 0
    for size, alignment in _structures(file, pointer):
        if size:
            tail = _up(tail + size, alignment)
    return tail


def place(spans: Sequence[Span]) -> list[int]:
    """The offsets that TensorFlow Lite Micro's greedy planner chooses.

    Buffers that Vela has planned come first; the others, the largest first and of equal ones the
    last first, go into the first gap between those that are needed at the same time.
    """
    places = [span.place for span in spans]
    planned = [index for index, span in enumerate(spans) if span.place != UNPLANNED]
    unplanned = [index for index, span in enumerate(spans) if span.place == UNPLANNED]
    placed = sorted(planned, key=lambda index: places[index])
    for index in sorted(unplanned, key=lambda index: (-spans[index].size, -index)):
        at = 0
        for other in placed:
            if not spans[index].lives_with(spans[other]):
                continue
            if places[other] - at >= spans[index].size:
                break
            at = max(at, places[other] + spans[other].size)
        places[index] = at
        placed = sorted([*placed, index], key=lambda each: places[each])
    return places


def _tensor_spans(graph: Graph, plan: Sequence[int]) -> list[Span]:
    """The tensors that are computed when the model runs; operators count from 1."""
    first = dict.fromkeys(graph.inputs, 0)
    last = dict.fromkeys(graph.inputs, 0)
    for number, operator in enumerate(graph.operators, 1):
        for index in operator.outputs:
            first.setdefault(index, number)
        last.update(dict.fromkeys((*operator.inputs, *operator.outputs), number))
    for index in graph.outputs:
        first.setdefault(index, len(graph.operators))
        last[index] = len(graph.operators)
    return [
        Span(
            size=_up(tensor.nbytes, ALIGNMENT),
            # What is never an output, such as Vela's scratch tensors, exists before all operators.
            first=first.get(index, -1),
            last=last.get(index, -1),
            place=at,
        )
        for index, (tensor, at) in enumerate(zip(graph.tensors, plan, strict=True))
        if tensor.data is None and tensor.nbytes and not _is_kept(tensor, at)
    ]


def _scratch_spans(graph: Graph) -> list[Span]:
    return [
        Span(size=_up(size, ALIGNMENT), first=number, last=number)
        for number, operator in enumerate(graph.operators, 1)
        for size in _scratch(operator, graph)
    ]


def _scratch(operator: Operator, graph: Graph) -> Iterator[int]:
    """Sizes of the scratch buffers that an operator's kernel requests."""
    if operator.name == NPU_OPERATOR:
        tensors = len(operator.inputs) + len(operator.outputs)
        yield tensors * 8
        yield tensors * POINTER
    elif operator.name == "MEAN":  # sums in int32
        yield from (4 * math.prod(graph.tensors[index].shape) for index in operator.outputs)


def _structures(file: TFLiteFile, pointer: int) -> Iterator[tuple[int, int]]:
    """Size and alignment of each allocation at the tail, in order."""
    yield _up(8 * pointer + 4, pointer), pointer  # SingleArenaBufferAllocator
    yield 7 * pointer + 16, pointer  # GreedyMemoryPlanner
    yield 9 * pointer, pointer  # MicroAllocator
    yield 2 * pointer, pointer  # MicroBuiltinDataAllocator
    yield 2 * pointer * len(file.graphs), pointer  # SubgraphAllocations
    for graph in file.graphs:
        yield 3 * pointer * len(graph.tensors), pointer  # TfLiteEvalTensor
    for graph in file.graphs:
        yield 8 * pointer * len(graph.operators), pointer  # NodeAndRegistration
    yield from ((_OPTIONS.get(operator.name, 0), 4) for operator in file.operators)
    for graph in file.graphs:
        yield from ((_kept(operator, graph), ALIGNMENT) for operator in graph.operators)
    requests = sum(len(_scratch_spans(graph)) for graph in file.graphs)
    yield pointer * requests, pointer  # ScratchBufferHandle
    plan = iter(file.plan or ())
    for tensor in file.tensors:
        if _is_kept(tensor, next(plan, UNPLANNED)):
            yield tensor.nbytes, ALIGNMENT
    for ends in (file.inputs, file.outputs):
        yield pointer * len(ends), ALIGNMENT  # pointers to TfLiteTensor
        for tensor in ends:
            yield from _end(tensor, pointer)


def _end(tensor: Tensor, pointer: int) -> Iterator[tuple[int, int]]:
    """The structures of an input or output, besides its content."""
    yield _up(5 * pointer + 20, pointer), pointer  # TfLiteTensor
    if tensor.channels:
        yield _up(2 * pointer + 4, pointer), pointer  # TfLiteAffineQuantization
        yield 4 + 4 * tensor.channels, 4  # its zero points, as TfLiteIntArray


def _kept(operator: Operator, graph: Graph) -> int:
    """Bytes that an operator's kernel keeps: exact if known, else an allowance."""
    if operator.name in _KEPT:
        return _KEPT[operator.name]
    if operator.name == "BATCH_MATMUL":  # keeps transposed copies of its inputs
        inputs = sum(graph.tensors[index].nbytes for index in operator.inputs)
        return 2 * _KEPT_AT_MOST + inputs
    shapes = [graph.tensors[index].shape for index in operator.outputs]
    channels = max((shape[-1] for shape in shapes if shape), default=0)
    return _KEPT_AT_MOST + _KEPT_A_CHANNEL.get(operator.name, 0) * channels


def _is_kept(tensor: Tensor, at: int) -> bool:
    """Whether a tensor keeps its content between runs and is therefore at the tail."""
    return tensor.variable and at == UNPLANNED


def _up(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment
