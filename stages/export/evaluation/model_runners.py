"""Runs a model file on pictures as the board shows them to it, and hands out what it gives.

Kernels. An int8 model runs with TensorFlow Lite's reference kernels, which TensorFlow Lite Micro
on a board follows to the bit. Its faster kernels round otherwise: measured on yolov8n-pose and
yolov8n at 192, the optimised ones (26 ms a picture) give 30 to 80 % of an output's values as the
reference does (83 ms), XNNPACK (11 ms) 28 to 72 %, the rest up to 9 steps away. A float32 model
has no such truth and runs on XNNPACK. Every runner computes on one thread, whose sums come in one
order, so figures do not depend on the number of cores.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime
import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.tools import flatbuffer_utils

from stages.contract import StepFailed
from stages.export.evaluation.preprocess import Floats, Pixels, dequantised, prepare

NPU_OPERATOR = b"ethos-u"
_IDENTIFIER = slice(4, 8)
_QUANTISED = {schema.TensorType.INT8, schema.TensorType.UINT8, schema.TensorType.INT16}
_KERNELS = tf.lite.experimental.OpResolverType


class Runner(Protocol):
    """An opened model; one runner serves one thread at a time."""

    def run(self, image: Pixels) -> list[Floats]:
        """The outputs, dequantised, for a picture [S,S,3]."""


def open_runner(path: Path, size: int) -> Runner:
    """Open an .onnx or .tflite file that takes pictures of ``size``; raises StepFailed("model")."""
    return OnnxRunner(path, size) if path.suffix == ".onnx" else TFLiteRunner(path, size)


class TFLiteRunner:
    """A TFLite file of any form that a host can run."""

    def __init__(self, path: Path, size: int) -> None:
        quantised = _is_quantised(_read(path))
        kernels = _KERNELS.BUILTIN_REF if quantised else _KERNELS.AUTO
        try:
            self._interpreter = tf.lite.Interpreter(
                model_path=str(path), num_threads=1, experimental_op_resolver_type=kernels
            )
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise _unrunnable("TensorFlow Lite", error) from error
        inputs = self._interpreter.get_input_details()
        shapes = [each["shape"].tolist() for each in inputs]
        self._channels = _channels(shapes, [1, size, size, -1])
        self._source: dict[str, Any] = inputs[0]
        if self._source["dtype"] not in (np.int8, np.float32):
            raise StepFailed(
                "model",
                f"it takes {self._source['dtype'].__name__}; the firmware writes int8",
                hint="convert it with int8 input and output, or with float32",
            )

    def run(self, image: Pixels) -> list[Floats]:
        values = prepare(image, self._channels, self._source["dtype"])
        self._interpreter.set_tensor(self._source["index"], values)
        self._interpreter.invoke()
        return [
            dequantised(self._interpreter.get_tensor(each["index"]), each["quantization"])
            for each in self._interpreter.get_output_details()
        ]


class OnnxRunner:
    """An ONNX file that takes float32 [1,C,S,S]."""

    def __init__(self, path: Path, size: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except (OSError, MemoryError):
            raise
        except Exception as error:  # its errors have no base class of their own
            raise _unrunnable("ONNX Runtime", error) from error
        inputs = self._session.get_inputs()
        self._channels = _channels([each.shape for each in inputs], [1, -1, size, size])
        self._source: str = inputs[0].name

    def run(self, image: Pixels) -> list[Floats]:
        values = prepare(image, self._channels, np.float32).transpose(0, 3, 1, 2)
        outputs: list[Floats] = self._session.run(None, {self._source: values})
        return outputs


def is_per_channel(path: Path) -> bool:
    """Whether a TFLite file has a scale of their own for each of a kernel's channels."""
    tensors = _read(path).subgraphs[0].tensors
    scales = [each.quantization.scale for each in tensors if each.quantization is not None]
    return any(scale is not None and len(scale) > 1 for scale in scales)


def _read(path: Path) -> schema.ModelT:
    """The file's whole structure, for the interpreter dies without a word of a damaged one."""
    content = path.read_bytes()
    if content[_IDENTIFIER] != b"TFL3":
        raise StepFailed("model", "it is no TFLite file", hint="pass a .tflite file")
    try:
        model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    except (struct.error, ValueError, TypeError, IndexError) as error:
        raise StepFailed(
            "model", f"it is damaged: {error}", hint="copy or make it anew; a part is missing"
        ) from error
    if any(code.customCode == NPU_OPERATOR for code in model.operatorCodes):
        raise StepFailed(
            "model",
            "it is compiled for an Ethos-U NPU, which no host has",
            hint="pass the int8 file that Vela compiled: *_full_integer_quant.tflite",
        )
    return model


def _is_quantised(model: schema.ModelT) -> bool:
    return any(tensor.type in _QUANTISED for graph in model.subgraphs for tensor in graph.tensors)


def _channels(shapes: Sequence[Sequence[Any]], wanted: Sequence[int]) -> int:
    """The channels (1 or 3) of the one input; raises StepFailed unless it has the wanted shape,
    whose -1 stands for them."""
    axis = list(wanted).index(-1)
    for channels in (1, 3):
        expected = [*wanted[:axis], channels, *wanted[axis + 1 :]]
        if [list(shape) for shape in shapes] == [expected]:
            return channels
    found = " and ".join(str(list(shape)) for shape in shapes)
    pattern = str([*wanted[:axis], "1 or 3", *wanted[axis + 1 :]]).replace("'", "")
    raise StepFailed(
        "model",
        f"it takes {found}, and the pictures are {pattern}",
        hint="make the pictures at the model's own size (IMGSZ), and export it with a batch of one",
    )


def _unrunnable(what: str, error: Exception) -> StepFailed:
    lines = str(error).strip().splitlines() or ["no reason given"]
    return StepFailed("model", f"{what} cannot run it: {lines[0]}", hint="the log has more")
