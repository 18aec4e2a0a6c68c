"""Finds the operator of an int8 file that its compiled form is the first to compute wrongly.

Vela splits, merges and reorders operators, and what lies where in the arena changes all the time.
So what each operation of the NPU has written is looked for among the tensors of the int8 file: in
whole, or as some rows or channels of one. What is found there is right. What is not may be a step
between two tensors; it is right if all that is computed from it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from tflite_micro.python.tflite_micro import runtime

from stages.vela.execution.compiled_model import CompiledModel
from stages.vela.npu.operations import BRICK, BlockOperation, FeatureMap
from stages.vela.tflite.file import Graph, open_file
from stages.vela.tflm.runner import ARENA_BYTES

Values = NDArray[Any]
#: Vela cuts the channels of an operation at multiples of it.
_CUT = 8
_NOBODY = -1


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Step:
    """An operation, and which tensors of the int8 file have what it has written, in whole or in
    part."""

    operation: BlockOperation
    size: int
    tensors: frozenset[int]


def first_difference(
    compiled: CompiledModel, int8: bytes, image: NDArray[np.int8], expected: Sequence[Values]
) -> str:
    """The operator, as the end of a sentence; "" if it cannot be told.

    It can if TensorFlow Lite Micro, of which every tensor is known here, gives the ``expected``
    outputs of the reference kernels.
    """
    graph = open_file(int8).graphs[0]
    known = _run(int8, graph, image)
    if not all(map(np.array_equal, (known[number] for number in graph.outputs), expected)):
        return ""
    steps: list[_Step] = []

    def watch(operation: BlockOperation, values: Values) -> None:
        tensors = frozenset(number for number, each in known.items() if _holds(each, values))
        steps.append(_Step(operation=operation, size=values.size, tensors=tensors))

    compiled.run(image, watch)
    readers = _readers([step.operation for step in steps])
    right = [bool(step.tensors) for step in steps]
    for number in reversed(range(len(steps))):
        taken = [right[reader] for reader in readers[number]]
        right[number] = right[number] or (bool(taken) and all(taken))
    if all(right):
        return ""
    wrong = right.index(False)
    sources = {
        tensor
        for number, read in enumerate(readers[:wrong])
        if wrong in read
        for tensor in steps[number].tensors
    }
    return _named(graph, known, steps, sources or set(graph.inputs), wrong)


def _run(int8: bytes, graph: Graph, image: NDArray[np.int8]) -> dict[int, Values]:
    """What each operator of the int8 file gives, by tensor."""
    interpreter = runtime.Interpreter.from_bytes(
        int8,
        arena_size=ARENA_BYTES,
        intrepreter_config=runtime.InterpreterConfig.kPreserveAllTensors,
    )
    interpreter.set_input(image, 0)
    interpreter.invoke()
    outputs = [number for operator in graph.operators for number in operator.outputs]
    return {number: interpreter.GetTensor(number, 0)["tensor_data"] for number in outputs}


def _holds(tensor: Values, values: Values) -> bool:
    """Whether values [height, width, depth] are a tensor's, or some rows and channels of it."""
    if values.dtype != tensor.dtype:
        return False
    if tensor.size == values.size:
        return np.array_equal(tensor.ravel(), values.ravel())
    if tensor.ndim != 4 or tensor.shape[2] != values.shape[1]:
        return False
    (height, _, depth), whole = values.shape, tensor[0]
    if height > whole.shape[0] or depth > whole.shape[2]:
        return False
    # The first pixel of each row that may be the first one, from each channel that may be.
    pixels = sliding_window_view(whole[: len(whole) - height + 1, 0], depth, axis=1)[:, ::_CUT]
    places = np.argwhere((pixels == values[0, 0]).all(axis=2)) * (1, _CUT)
    return any(
        np.array_equal(whole[row : row + height, :, channel : channel + depth], values)
        for row, channel in places
    )


def _readers(operations: Sequence[BlockOperation]) -> list[list[int]]:
    """For each operation those that read something of what it has written."""
    readers: list[list[int]] = [[] for _ in operations]
    #: By region, the operation that was the last to write a byte.
    owners: dict[int, NDArray[np.int32]] = {}
    for number, operation in enumerate(operations):
        second = operation.operands.ifm2 if operation.operands else None
        sources = [operation.ifm, *([second] if second else [])]
        for writer in {each for source in sources for each in _owners_of(source, owners)}:
            readers[writer].append(number)
        places = _addresses(operation.ofm)
        owner = owners.get(operation.ofm.region, np.empty(0, np.int32))
        more = max(0, int(places.max()) + 1 - len(owner))
        owner = np.pad(owner, (0, more), constant_values=_NOBODY)
        owner[places] = number
        owners[operation.ofm.region] = owner
    return readers


def _owners_of(tensor: FeatureMap, owners: Mapping[int, NDArray[np.int32]]) -> set[int]:
    if tensor.region not in owners:
        return set()
    owner, places = owners[tensor.region], _addresses(tensor)
    return set(np.unique(owner[places[places < len(owner)]]).tolist()) - {_NOBODY}


def _addresses(tensor: FeatureMap) -> NDArray[np.int64]:
    """Where each value [height, width, depth] lies in its region; of its first byte."""
    y, x, channel = np.ogrid[: tensor.height, : tensor.width, : tensor.depth]
    right = x >= tensor.width0
    top = np.where(right, tensor.height1, tensor.height0)
    below = y >= top
    base = np.choose(2 * below + right, tensor.bases)
    size = tensor.bits // 8
    column, inside = tensor.stride_x, channel * size
    if tensor.layout == "nhcwb16":
        column = BRICK * size
        inside = channel // BRICK * tensor.stride_c + channel % BRICK * size
    across = (x - right * tensor.width0) * column
    places: NDArray[np.int64] = base + (y - below * top) * tensor.stride_y + across + inside
    return places


def _named(
    graph: Graph,
    known: Mapping[int, Values],
    steps: Sequence[_Step],
    sources: set[int],
    wrong: int,
) -> str:
    """The operator whose result is missing and that takes what the wrong operation has taken."""
    seen = dict.fromkeys(known, 0)
    for step in steps:
        for tensor in step.tensors:
            seen[tensor] += step.size
    operation = steps[wrong].operation
    place = f"operation {operation.index} of the NPU, a {operation.kind}"
    for operator in graph.operators:
        missing = [each for each in operator.outputs if seen[each] < known[each].size]
        if not missing or not sources & set(operator.inputs):
            continue
        if _has_room(known[missing[0]], operation.ofm):
            name = graph.tensors[missing[0]].name
            return f"the first operator that differs is {operator.name} {name} ({place})"
        # One that the NPU does not do by itself, as padding.
        sources.update(missing)
    return f"the first to differ is {place}"


def _has_room(tensor: Values, ofm: FeatureMap) -> bool:
    """Whether a tensor can be what an operation writes, or have it as a part."""
    if tensor.ndim != 4:
        return tensor.size == ofm.elements
    _, height, width, depth = tensor.shape
    return width == ofm.width and height >= ofm.height and depth >= ofm.depth
