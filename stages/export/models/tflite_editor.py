"""A TFLite file whose ranges, constants and names can be changed."""

from __future__ import annotations

import copy
import dataclasses
import struct
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.tools import flatbuffer_utils

from stages.contract import StepFailed

Range = tuple[float, float]

#: Operators whose output holds only values of their first input, so that both have one range.
PASS_THROUGH = frozenset(
    {"PAD", "RESHAPE", "MAX_POOL_2D", "RESIZE_NEAREST_NEIGHBOR", "TRANSPOSE", "STRIDED_SLICE"}
)

_IDENTIFIER = b"TFL3"
_OPERATORS = {code: name for name, code in vars(schema.BuiltinOperator).items() if name.isupper()}
_FLOATS = {schema.TensorType.FLOAT16, schema.TensorType.FLOAT32, schema.TensorType.FLOAT64}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Operator:
    """One operator: its type, the numbers of its inputs and outputs, and its options."""

    type: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Any


class Graph:
    """The first graph of a TFLite file, which all of ours have alone; tensors have their numbers
    in it. Raises StepFailed("model") if the file cannot be read."""

    def __init__(self, content: bytes) -> None:
        self._model = read_flatbuffer(content)
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

    @property
    def float_tensors(self) -> set[int]:
        """The tensors that hold floating-point numbers."""
        return {number for number, each in enumerate(self._graph.tensors) if each.type in _FLOATS}

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
        """The scale of a quantised tensor, or of its first channel."""
        return float(self._tensor(tensor).quantization.scale[0])

    def scales(self, tensor: int) -> NDArray[np.float32]:
        """The scales of a quantised tensor, one or one for each channel."""
        return np.array(self._tensor(tensor).quantization.scale, np.float32)

    def zero_point(self, tensor: int) -> int:
        return int(self._tensor(tensor).quantization.zeroPoint[0])

    def set_scale(self, tensor: int, scale: float) -> None:
        """Set the one scale of a quantised tensor."""
        self._tensor(tensor).quantization.scale = np.array([scale], np.float32)

    def set_range(self, tensor: int, limits: Range) -> None:
        """Set the least and the largest value that quantising a float tensor has to represent."""
        quantization = schema.QuantizationParametersT()
        quantization.min, quantization.max = (np.array([each], np.float32) for each in limits)
        self._tensor(tensor).quantization = quantization

    def set_constant(
        self, operator: int, position: int, values: NDArray[Any], scales: NDArray[np.float32]
    ) -> None:
        """Replace a constant input of one operator; ``scales`` has one value, or one a channel.

        Constants of equal bytes may share a tensor or a buffer; other operators keep theirs.
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


def read_flatbuffer(content: bytes) -> schema.ModelT:
    """A TFLite file as TensorFlow's own objects; raises StepFailed("model") if it is none or is
    damaged."""
    if content[4:8] != _IDENTIFIER:
        raise StepFailed("model", "it is no TFLite file", hint="pass a .tflite file")
    try:
        return flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    except (struct.error, ValueError, TypeError, IndexError) as error:
        raise StepFailed(
            "model", f"it is damaged: {error}", hint="copy or make it again; a part is missing"
        ) from error


def silu_outputs(operators: Iterable[Operator]) -> dict[int, int]:
    """The SiLUs of a graph, x * sigmoid(x): by a tensor x that nothing else uses, the output."""
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
