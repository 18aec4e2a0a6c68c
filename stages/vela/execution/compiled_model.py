"""A TFLite file as it is flashed: NPU operators in the simulator, all others in TensorFlow Lite
Micro.

Memory is as on the board: one arena, in which Vela's plan in the file has placed every tensor that
the NPU touches. The driver's base pointers are the operator's inputs after the first: constants,
scratch, fast scratch (tflite-micro, tensorflow/lite/micro/kernels/ethos_u/ethosu.cc).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.contract import StepFailed
from stages.vela.npu.errors import NpuError
from stages.vela.npu.memory import Bytes
from stages.vela.npu.simulator import Simulator, Watch
from stages.vela.npu.stream import decode
from stages.vela.tflite.file import NPU_OPERATOR, UNPLANNED, Graph, Operator, Tensor, open_file
from stages.vela.tflm.operators import CpuOperators, OperatorFailed

#: What lies in the arena before a run; a value that is read before it is written is then wrong.
_FILL = 0xA5
#: The memory of the largest boards with such an NPU is a tenth of it.
_MOST_ARENA = 64 << 20
#: After its command stream: constants, scratch, fast scratch.
_REGIONS = 3


class CompiledModel:
    """A compiled file, ready to run; it serves one thread at a time.

    Raises NpuError for a file that is damaged, or has what is not known here.
    """

    def __init__(self, content: bytes) -> None:
        try:
            file = open_file(content)
        except StepFailed as error:
            raise NpuError(error.message) from error
        if len(file.graphs) != 1 or file.plan is None:
            raise NpuError("the file has no memory plan or several graphs: Vela did not write it")
        if len(file.inputs) != 1:
            raise NpuError(f"the model has {len(file.inputs)} inputs; here it takes one image")
        state = next((tensor.name for tensor in file.tensors if tensor.variable), None)
        if state is not None:
            raise NpuError(
                f"{state} keeps a state from one run to the next, which is not known here"
            )
        self.inputs, self.outputs = file.inputs, file.outputs
        self._tensors = _Tensors(file.graphs[0], file.plan)
        self._operators = file.graphs[0].operators
        self._outputs = file.graphs[0].outputs
        self._input = file.graphs[0].inputs[0]
        numbers = range(len(self._operators))
        on_npu = [number for number in numbers if self._operators[number].name == NPU_OPERATOR]
        self._simulators = {number: self._open(self._operators[number]) for number in on_npu}
        # Only a file with operators for the CPU costs a process.
        self._cpu = CpuOperators(content) if len(on_npu) < len(numbers) else None

    def run(self, image: NDArray[Any], watch: Watch | None = None) -> list[NDArray[Any]]:
        """Run on an image of the input's shape and type; the outputs in the file's order, of their
        shapes and types. ``watch`` is called with each block operation of the NPU and what it has
        written. Raises NpuError."""
        source = self.inputs[0]
        if image.shape != source.shape or image.dtype.name != source.dtype:
            raise NpuError(
                f"the model takes {source.dtype} {list(source.shape)}, not "
                f"{image.dtype.name} {list(image.shape)}"
            )
        self._tensors.clear()
        self._tensors.set(self._input, image)
        for number, operator in enumerate(self._operators):
            if number in self._simulators:
                simulator, regions = self._simulators[number]
                simulator.run(regions, watch)
            else:
                self._run_on_cpu(number, operator)
        return [self._tensors.get(index).copy() for index in self._outputs]

    def _open(self, operator: Operator) -> tuple[Simulator, Mapping[int, Bytes]]:
        """The simulator of an NPU operator, and what lies behind its base pointers."""
        if len(operator.inputs) < 1 + _REGIONS or -1 in operator.inputs:
            raise NpuError("an NPU operator lacks its command stream or its memories")
        stream, *memories = operator.inputs[: 1 + _REGIONS]
        regions = {number: self._tensors.bytes(each) for number, each in enumerate(memories)}
        return Simulator(decode(self._tensors.bytes(stream).tobytes())), regions

    def _run_on_cpu(self, number: int, operator: Operator) -> None:
        assert self._cpu is not None
        # The operator's constants are in the file that the process has.
        inputs = [
            self._tensors.get(index).copy() for index in operator.inputs
            if index >= 0 and not self._tensors.is_constant(index)
        ]  # fmt: skip
        try:
            results = self._cpu.run(number, inputs)
        except OperatorFailed as error:
            raise NpuError(f"operator {number} ({operator.name}) {error}") from error
        for index, result in zip(operator.outputs, results, strict=True):
            self._tensors.set(index, result)


class _Tensors:
    """The tensors of a graph: constants, those at their places in the arena, and those that no NPU
    operator touches, which the interpreter would place."""

    def __init__(self, graph: Graph, plan: tuple[int, ...]) -> None:
        self._tensors = graph.tensors
        self._plan = plan
        places = [
            (place, tensor)
            for place, tensor in zip(plan, graph.tensors, strict=True)
            if place != UNPLANNED and tensor.data is None
        ]
        size = max((place + tensor.nbytes for place, tensor in places), default=0)
        if size > _MOST_ARENA or any(place < 0 for place, _tensor in places):
            raise NpuError(f"the memory plan needs {size} bytes, or has a place that is none")
        self._arena = np.zeros(size, np.uint8)
        self._loose: dict[int, NDArray[Any]] = {}

    def clear(self) -> None:
        self._arena[:] = _FILL
        self._loose.clear()

    def is_constant(self, index: int) -> bool:
        return self._tensors[index].data is not None

    def bytes(self, index: int) -> Bytes:
        """A constant, read-only, or the place in the arena; raises NpuError if it has neither."""
        tensor = self._tensors[index]
        if tensor.data is not None:
            return np.frombuffer(tensor.data, np.uint8)
        if self._plan[index] == UNPLANNED and tensor.nbytes:
            raise NpuError(f"the NPU uses {tensor.name}, which has no place in the arena")
        place = max(0, self._plan[index])
        return self._arena[place : place + tensor.nbytes]

    def get(self, index: int) -> NDArray[Any]:
        """The content of a tensor; perhaps a view. Raises NpuError if it was never written."""
        tensor = self._tensors[index]
        if self._plan[index] == UNPLANNED and tensor.data is None:
            if index not in self._loose:
                raise NpuError(f"{tensor.name} is read before it is written")
            return self._loose[index]
        content = self.bytes(index)
        dtype = _dtype(tensor)
        if content.size != tensor.nbytes:
            raise NpuError(f"{tensor.name} has {content.size} bytes in place of {tensor.nbytes}")
        return content.view(dtype).reshape(tensor.shape)

    def set(self, index: int, values: NDArray[Any]) -> None:
        tensor = self._tensors[index]
        if values.nbytes != tensor.nbytes or tensor.data is not None:
            raise NpuError(f"{tensor.name} cannot take {values.nbytes} bytes")
        if self._plan[index] == UNPLANNED:
            self._loose[index] = values
        else:
            self.bytes(index)[:] = np.ascontiguousarray(values).view(np.uint8).ravel()


def _dtype(tensor: Tensor) -> np.dtype[Any]:
    try:
        return np.dtype(tensor.dtype)
    except TypeError as error:
        raise NpuError(f"{tensor.name} is of type {tensor.dtype}, which is unknown here") from error
