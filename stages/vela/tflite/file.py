"""Reads a TFLite file: its graphs, Vela's memory plan, and the metadata of its exporter.

Files are untrusted, so everything is read once at the start: a file that is cut short or damaged is
refused here, and no other module has to handle a broken offset.
"""

from __future__ import annotations

import ast
import dataclasses
import io
import json
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from ethosu.vela.tflite.BuiltinOperator import BuiltinOperator
from ethosu.vela.tflite.Model import Model
from ethosu.vela.tflite.Operator import Operator as RawOperator
from ethosu.vela.tflite.OperatorCode import OperatorCode
from ethosu.vela.tflite.SubGraph import SubGraph
from ethosu.vela.tflite.Tensor import Tensor as RawTensor
from ethosu.vela.tflite.TensorType import TensorType

from stages.contract import StepFailed

#: The custom operator that stands for everything that Vela compiled for the NPU.
NPU_OPERATOR = "ethos-u"

#: In Vela's plan, a tensor that the interpreter places itself.
UNPLANNED = -1

_IDENTIFIER = b"TFL3"
_PLAN = b"OfflineMemoryAllocation"
_NOTES = ("metadata.json", "temp_meta.txt")
_NOTES_BYTES = 1 << 20
#: The archive with the notes lies at the end of a file; an index of millions of names would fill
#: the memory.
_ARCHIVE_BYTES = 4 << 20
_NAME_BYTES = 1000

_BUILTIN = {code: name for name, code in vars(BuiltinOperator).items() if name.isupper()}
_TYPES = {code: name.lower() for name, code in vars(TensorType).items() if name.isupper()}
_BYTES = {
    **dict.fromkeys(("int4", "int8", "uint8", "bool"), 1),
    **dict.fromkeys(("int16", "uint16", "float16", "bfloat16"), 2),
    **dict.fromkeys(("int32", "uint32", "float32", "resource"), 4),
    **dict.fromkeys(("int64", "uint64", "float64", "complex64"), 8),
    "complex128": 16,
}
#: What reading a damaged file may raise.
_DAMAGE = (struct.error, LookupError, ValueError, TypeError, AttributeError, OverflowError)
_NO_NOTES = (
    *(zipfile.BadZipFile, zlib.error, EOFError),  # no archive, or an incomplete one
    *(StopIteration, ValueError, SyntaxError, RuntimeError, MemoryError),  # nothing readable in it
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tensor:
    """One tensor. ``scale`` and ``zero_point`` are those of its first channel, None if it has none;
    ``data`` is its content in the file, None if it is computed when the model runs."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None
    zero_point: int | None
    channels: int
    data: bytes | None
    variable: bool

    @property
    def nbytes(self) -> int:
        """Its size in memory; 0 for a type of variable size."""
        return math.prod(self.shape) * _BYTES.get(self.dtype, 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Operator:
    """One operator: its type, a custom one's own name, and the indices of its tensors."""

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Graph:
    """Tensors, operators in the order in which they run, and the indices of inputs and outputs."""

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TFLiteFile:
    """One file. ``graphs[0]`` is the one that is run; its operators call the others.

    ``plan`` is the offset in the arena, in bytes, of each tensor of all graphs in turn, or
    ``UNPLANNED``; None in a file that Vela did not write. ``notes`` are the metadata that
    ultralytics appends to its exports: task, names, kpt_shape and more; {} in others.
    """

    graphs: tuple[Graph, ...]
    plan: tuple[int, ...] | None
    notes: Mapping[str, Any]
    nbytes: int

    @property
    def inputs(self) -> list[Tensor]:
        return [self.graphs[0].tensors[index] for index in self.graphs[0].inputs]

    @property
    def outputs(self) -> list[Tensor]:
        return [self.graphs[0].tensors[index] for index in self.graphs[0].outputs]

    @property
    def tensors(self) -> Iterator[Tensor]:
        return (tensor for graph in self.graphs for tensor in graph.tensors)

    @property
    def operators(self) -> Iterator[Operator]:
        return (operator for graph in self.graphs for operator in graph.operators)

    def command_streams(self) -> list[bytes]:
        """The payload that each NPU operator gives to the NPU's driver."""
        return [
            graph.tensors[operator.inputs[0]].data or b""
            for graph in self.graphs
            for operator in graph.operators
            if operator.name == NPU_OPERATOR
        ]


def open_file(content: bytes) -> TFLiteFile:
    """Read a whole TFLite file; raises StepFailed if it is none, or is cut short or damaged."""
    if content[4:8] != _IDENTIFIER:
        state = "is empty" if not content else "does not have the mark TFL3 of a TFLite file"
        raise StepFailed(
            "model", f"the model {state}", hint="give the .tflite file itself, not an archive of it"
        )
    try:
        return _read(content)
    except _DAMAGE as error:
        raise StepFailed(
            "model",
            f"the model is cut short or damaged: {error}",
            hint="copy or export it again",
        ) from error


class _Budget:
    """How many items a file may still contain. All its vectors lie in it, so together they are no
    longer than the file; otherwise a small file that refers to one vector a million times would
    fill the memory.
    """

    def __init__(self, content: bytes) -> None:
        self._left = len(content)

    def take(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise ValueError("its parts together are larger than it is")
        return count

    def bytes(self, array: Any) -> bytes | None:
        """The content of a flatbuffer's vector of bytes; None if it is missing (flatbuffers gives
        0 then)."""
        if not isinstance(array, np.ndarray):
            return None
        self.take(array.size)
        return array.tobytes()

    def indices(self, array: Any) -> tuple[int, ...]:
        if not isinstance(array, np.ndarray):
            return ()
        self.take(array.size)
        return tuple(array.tolist())


def _read(content: bytes) -> TFLiteFile:
    root = Model.GetRootAs(content)
    budget = _Budget(content)
    buffers = range(budget.take(root.BuffersLength()))
    data = [budget.bytes(root.Buffers(i).DataAsNumpy()) for i in buffers]
    kinds = range(budget.take(root.OperatorCodesLength()))
    codes = [_operator_name(root.OperatorCodes(i)) for i in kinds]
    graphs = tuple(
        _graph(root.Subgraphs(i), codes, data, budget)
        for i in range(budget.take(root.SubgraphsLength()))
    )
    if not graphs:
        raise ValueError("it has no graph")
    plans = [
        data[note.Buffer()]
        for note in (root.Metadata(i) for i in range(budget.take(root.MetadataLength())))
        if note.Name() == _PLAN
    ]
    count = sum(len(graph.tensors) for graph in graphs)
    return TFLiteFile(
        graphs=graphs,
        plan=_plan(plans[0], count) if plans else None,
        notes=_notes(content),
        nbytes=len(content),
    )


def _graph(graph: SubGraph, codes: list[str], data: list[bytes | None], budget: _Budget) -> Graph:
    count = budget.take(graph.TensorsLength())
    tensors = tuple(_tensor(graph.Tensors(i), data, budget) for i in range(count))
    count = budget.take(graph.OperatorsLength())
    operators = tuple(_operator(graph.Operators(i), codes, budget) for i in range(count))
    inputs = budget.indices(graph.InputsAsNumpy())
    outputs = budget.indices(graph.OutputsAsNumpy())
    used = [index for operator in operators for index in (*operator.inputs, *operator.outputs)]
    # An optional input that is missing is -1.
    if any(not -1 <= index < len(tensors) for index in (*used, *inputs, *outputs)):
        raise ValueError("an operator's tensor is not in the file")
    return Graph(tensors=tensors, operators=operators, inputs=inputs, outputs=outputs)


def _tensor(tensor: RawTensor, data: list[bytes | None], budget: _Budget) -> Tensor:
    quantization = tensor.Quantization()
    channels = quantization.ScaleLength() if quantization is not None else 0
    known = channels > 0 and quantization.ZeroPointLength() > 0
    scale = float(quantization.Scale(0)) if known else None
    shape = budget.indices(tensor.ShapeAsNumpy())
    name = tensor.Name() or b""
    budget.take(len(name))
    if min(shape, default=0) < 0 or not math.isfinite(scale or 0):
        raise ValueError("a tensor's size or scale is no number")
    return Tensor(
        name=_printable(name),
        shape=shape,
        dtype=_TYPES[tensor.Type()],
        scale=scale,
        zero_point=int(quantization.ZeroPoint(0)) if known else None,
        channels=channels,
        data=data[tensor.Buffer()] or None,
        variable=bool(tensor.IsVariable()),
    )


def _operator(operator: RawOperator, codes: list[str], budget: _Budget) -> Operator:
    return Operator(
        name=codes[operator.OpcodeIndex()],
        inputs=budget.indices(operator.InputsAsNumpy()),
        outputs=budget.indices(operator.OutputsAsNumpy()),
    )


def _operator_name(code: OperatorCode) -> str:
    """The schema's name of a builtin operator, or a custom operator's own name."""
    if code.CustomCode() is not None:
        return _printable(code.CustomCode())
    # Files for old interpreters have small codes in the first field, newer ones in the second.
    number = max(code.DeprecatedBuiltinCode(), code.BuiltinCode())
    return _BUILTIN.get(number, f"BUILTIN_{number}")


def _plan(data: bytes | None, tensors: int) -> tuple[int, ...]:
    """Vela's plan, int32: version, subgraph, number of tensors, and the offset of each.

    Source: github.com/tensorflow/tflite-micro, docs/offline_memory_plan.md.
    """
    numbers = np.frombuffer(data or b"", "<i4").tolist()
    if len(numbers) != 3 + tensors or numbers[2] != tensors:
        raise ValueError(f"its memory plan is not one of {tensors} tensors")
    return tuple(numbers[3:])


def _notes(content: bytes) -> Mapping[str, Any]:
    """Ultralytics' metadata: an archive with metadata.json, in older versions a Python literal.

    Source: ultralytics/engine/exporter.py. The older ones call it temp_meta.txt, and have it added
    by tflite_support, which appends an archive too; its own metadata buffer does not name the task.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content[-_ARCHIVE_BYTES:])) as archive:
            name = next(each for each in archive.namelist() if each in _NOTES)
            with archive.open(name) as stream:
                text = stream.read(_NOTES_BYTES).decode()
        notes = json.loads(text) if name.endswith(".json") else ast.literal_eval(text)
    except _NO_NOTES:
        return {}
    if not isinstance(notes, dict):
        return {}
    shape = notes.get("kpt_shape") or ()
    whole = isinstance(shape, tuple | list) and all(type(number) is int for number in shape)
    return notes if whole else {**notes, "kpt_shape": None}


def _printable(name: bytes) -> str:
    """A name that can be shown safely: control characters could be commands to a terminal."""
    text = name[:_NAME_BYTES].decode(errors="replace")
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
