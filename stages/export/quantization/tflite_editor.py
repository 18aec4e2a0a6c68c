"""A TFLite file whose ranges, constants and names can be changed."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.tools import flatbuffer_utils

Range = tuple[float, float]

#: Operators that hand on values as they are; the first input holds them.
MOVES = frozenset(
    {"PAD", "RESHAPE", "MAX_POOL_2D", "RESIZE_NEAREST_NEIGHBOR", "TRANSPOSE", "STRIDED_SLICE"}
)

_OPERATORS = {code: name for name, code in vars(schema.BuiltinOperator).items() if name.isupper()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Operator:
    """One operator: its type, the tensors that it takes and makes, and its own settings."""

    type: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Any


class Graph:
    """The one graph of a TFLite file; tensors are known by their numbers in it."""

    def __init__(self, content: bytes) -> None:
        self._model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
        self._graph = self._model.subgraphs[0]

    def to_bytes(self) -> bytes:
        return bytes(flatbuffer_utils.convert_object_to_bytearray(self._model))

    @property
    def operators(self) -> list[Operator]:
        """In the order in which they run."""
        return [
            Operator(
                type=self._type_of(each.opcodeIndex),
                inputs=tuple(map(int, each.inputs)),
                outputs=tuple(map(int, each.outputs)),
                options=each.builtinOptions,
            )
            for each in self._graph.operators
        ]

    @property
    def inputs(self) -> list[int]:
        return list(map(int, self._graph.inputs))

    @property
    def outputs(self) -> list[int]:
        return list(map(int, self._graph.outputs))

    def name(self, tensor: int) -> str:
        return str(self._tensor(tensor).name.decode())

    def rename(self, tensor: int, name: str) -> None:
        self._tensor(tensor).name = name.encode()

    def shape(self, tensor: int) -> tuple[int, ...]:
        return tuple(map(int, self._tensor(tensor).shape))

    def constant(self, tensor: int, dtype: type) -> NDArray[Any]:
        """The values of a constant."""
        data = self._model.buffers[self._tensor(tensor).buffer].data
        return np.frombuffer(bytes(data), dtype).reshape(self.shape(tensor))

    def scale(self, tensor: int) -> float:
        """The step of a tensor that has one."""
        return float(self._tensor(tensor).quantization.scale[0])

    def zero_point(self, tensor: int) -> int:
        return int(self._tensor(tensor).quantization.zeroPoint[0])

    def set_range(self, tensor: int, limits: Range) -> None:
        """Say between which values a float tensor is to be quantised."""
        quantization = schema.QuantizationParametersT()
        quantization.min, quantization.max = (np.array([each], np.float32) for each in limits)
        self._tensor(tensor).quantization = quantization

    def set_constant(
        self, operator: int, position: int, values: NDArray[Any], scales: NDArray[np.float32]
    ) -> None:
        """Give one operator other values for a constant input, one scale or one a channel.

        Constants of equal bytes may share a tensor or a buffer, so what others use is left alone.
        """
        inputs = self._graph.operators[operator].inputs
        tensor = copy.copy(self._tensor(int(inputs[position])))
        if self._uses(int(inputs[position])) > 1:
            self._graph.tensors.append(tensor)
            inputs[position] = len(self._graph.tensors) - 1
        else:
            self._graph.tensors[int(inputs[position])] = tensor
        if sum(each.buffer == tensor.buffer for each in self._graph.tensors) > 1:
            self._model.buffers.append(schema.BufferT())
            tensor.buffer = len(self._model.buffers) - 1
        self._model.buffers[tensor.buffer].data = np.frombuffer(values.tobytes(), np.uint8)
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale = scales
        tensor.quantization.zeroPoint = np.zeros(len(scales), np.int64)

    def _uses(self, tensor: int) -> int:
        return sum(list(each.inputs).count(tensor) for each in self._graph.operators)

    def _tensor(self, number: int) -> Any:
        return self._graph.tensors[number]

    def _type_of(self, number: int) -> str:
        code = self._model.operatorCodes[number]
        return _OPERATORS[max(code.builtinCode, code.deprecatedBuiltinCode)]


def activated(operators: Iterable[Operator]) -> dict[int, int]:
    """Tensors x that serve x * sigmoid(x) alone, SiLU; by each the tensor that holds the result."""
    users: dict[int, list[Operator]] = {}
    for operator in operators:
        for tensor in operator.inputs:
            users.setdefault(tensor, []).append(operator)
    found = {}
    for tensor, takers in users.items():
        if sorted(each.type for each in takers) != ["LOGISTIC", "MUL"]:
            continue
        logistic, product = sorted(takers, key=lambda each: each.type)
        if set(product.inputs) == {tensor, logistic.outputs[0]}:
            found[tensor] = product.outputs[0]
    return found
