"""Writes networks as TFLite files, with what the reference kernels give; in the export environment.

Argv: a folder, and names of the catalogue. Writes ``<name>.tflite`` and ``<name>.npz``: images, and
output_0, output_1, ... with one row for each image.
"""

from __future__ import annotations

import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.tools import flatbuffer_utils

from tests.support.operators.catalogue import MODELS
from tests.support.operators.model import OperatorModel
from tests.support.operators.net import Call, Net, Value

#: The options of an operator in the schema, unless it takes none.
_OPTIONS = {
    "ABS": "Abs",
    "ADD": "Add",
    "ARG_MAX": "ArgMax",
    "AVERAGE_POOL_2D": "Pool2D",
    "CONCATENATION": "Concatenation",
    "CONV_2D": "Conv2D",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2D",
    "EXP": "Exp",
    "FULLY_CONNECTED": "FullyConnected",
    "HARD_SWISH": "HardSwish",
    "LEAKY_RELU": "LeakyRelu",
    "MAXIMUM": "MaximumMinimum",
    "MAX_POOL_2D": "Pool2D",
    "MEAN": "Reducer",
    "MINIMUM": "MaximumMinimum",
    "MIRROR_PAD": "MirrorPad",
    "MUL": "Mul",
    "PACK": "Pack",
    "PAD": "Pad",
    "QUANTIZE": "Quantize",
    "RESHAPE": "Reshape",
    "RESIZE_BILINEAR": "ResizeBilinear",
    "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighbor",
    "SLICE": "Slice",
    "SOFTMAX": "Softmax",
    "SPLIT": "Split",
    "SPLIT_V": "SplitV",
    "SQUARED_DIFFERENCE": "SquaredDifference",
    "SQUEEZE": "Squeeze",
    "STRIDED_SLICE": "StridedSlice",
    "SUB": "Sub",
    "TRANSPOSE": "Transpose",
    "TRANSPOSE_CONV": "TransposeConv",
    "UNPACK": "Unpack",
}
#: The version of an operator that knows what the networks use of it, if that is not the first.
_VERSIONS = {"TRANSPOSE_CONV": 3}


def main() -> None:
    folder = Path(sys.argv[1])
    for name in sys.argv[2:]:
        model = MODELS[name]
        (folder / f"{name}.tflite").write_bytes(as_bytes(model.net(name)))
        content = as_bytes(model.compiled_net(name))
        try:
            arrays = reference(content, images(name, model))
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"TensorFlow Lite refuses {name}: {error}") from error
        np.savez(folder / f"{name}.npz", **arrays)


def images(name: str, model: OperatorModel) -> NDArray[Any]:
    """Random ones: two over all values, and one whose channels differ in the mean."""
    random = np.random.default_rng(zlib.crc32(f"{name} images".encode()))
    info = np.iinfo(model.dtype)
    made = random.integers(info.min, info.max + 1, (3, *model.shape))
    made[1] = made[1] // 4 + random.integers(info.min, info.max + 1, model.shape[-1])
    return np.clip(made, info.min, info.max).astype(model.dtype)


def reference(content: bytes, batch: NDArray[Any]) -> dict[str, Any]:
    """What the reference kernels give for each image."""
    interpreter = tf.lite.Interpreter(
        model_content=content,
        num_threads=1,
        experimental_op_resolver_type=tf.lite.experimental.OpResolverType.BUILTIN_REF,
    )
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    results = []
    for image in batch:
        interpreter.set_tensor(source, image)
        interpreter.invoke()
        results.append(
            [interpreter.get_tensor(each["index"]) for each in interpreter.get_output_details()]
        )
    rows = zip(*results, strict=True)
    return {
        "images": batch,
        **{f"output_{number}": np.stack(row) for number, row in enumerate(rows)},
    }


def as_bytes(net: Net) -> bytes:
    """The network as a file."""
    made = schema.ModelT()
    made.version = 3
    made.description = "a network of a test"
    made.buffers = [schema.BufferT()]
    names = sorted({call.name for call in net.calls})
    made.operatorCodes = [_code(name) for name in names]
    graph = schema.SubGraphT()
    graph.tensors = [_tensor(value, made.buffers) for value in net.values]
    graph.operators = [_operator(call, names.index(call.name)) for call in net.calls]
    graph.inputs = [0]
    graph.outputs = net.outputs
    made.subgraphs = [graph]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(made))


def _code(name: str) -> schema.OperatorCodeT:
    code = schema.OperatorCodeT()
    code.builtinCode = getattr(schema.BuiltinOperator, name)
    code.deprecatedBuiltinCode = min(code.builtinCode, 127)
    code.version = _VERSIONS.get(name, 1)
    return code


def _tensor(value: Value, buffers: list[schema.BufferT]) -> schema.TensorT:
    tensor = schema.TensorT()
    tensor.name = f"t{value.index}"
    tensor.shape = list(value.shape)
    tensor.type = getattr(schema.TensorType, value.dtype.upper())
    tensor.buffer = 0
    if value.scales:
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale = list(value.scales)
        tensor.quantization.zeroPoint = [value.zero_point] * len(value.scales)
        tensor.quantization.quantizedDimension = value.axis
    if value.data is not None:
        tensor.buffer = len(buffers)
        buffer = schema.BufferT()
        buffer.data = list(value.data.tobytes())
        buffers.append(buffer)
    return tensor


def _operator(call: Call, code: int) -> schema.OperatorT:
    operator = schema.OperatorT()
    operator.opcodeIndex = code
    operator.inputs = list(call.inputs)
    operator.outputs = list(call.outputs)
    if call.name in _OPTIONS:
        kind = f"{_OPTIONS[call.name]}Options"
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
        operator.builtinOptions = getattr(schema, f"{kind}T")()
        for field, value in call.options.items():
            assert hasattr(operator.builtinOptions, field), f"{kind} has no {field}"
            setattr(operator.builtinOptions, field, value)
    return operator
