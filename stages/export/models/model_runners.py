"""Runs a model file on images as a board gives them to it, with dequantised outputs.

An int8 model runs with TensorFlow Lite's reference kernels, as on a board. A float32 model has no
such reference and runs on XNNPACK. A compiled file has run already, in the step `outputs`.
Everything computes on one thread a runner, so figures do not
depend on the number of cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime
from tensorflow.lite.python import schema_py_generated as schema

from stages.contract import StepFailed
from stages.export.models.preprocess import Floats, Pixels, prepare
from stages.export.models.recorded_outputs import read_outputs
from stages.export.models.tflite_editor import read_flatbuffer
from stages.export.models.tflite_interpreter import Kernels, TFLiteModel

#: Every worker of an evaluation holds each form of the model once.
MOST_WORKERS = 8
NPU_OPERATOR = b"ethos-u"
_QUANTISED = {schema.TensorType.INT8, schema.TensorType.UINT8, schema.TensorType.INT16}


class Runner(Protocol):
    """An opened model; one runner serves one thread at a time."""

    def run(self, number: int) -> list[Floats]:
        """The outputs, dequantised, for the image of this number."""


def open_runner(path: Path, images: Pixels) -> Runner:
    """Open a file to run on images, uint8 [m,S,S,3]: .onnx, .tflite, or an .npz with what the step
    `outputs` has recorded of these images; raises StepFailed("model")."""
    if path.suffix == ".npz":
        return RecordedRunner(path, images)
    return OnnxRunner(path, images) if path.suffix == ".onnx" else TFLiteRunner(path, images)


class RecordedRunner:
    """What was recorded of a file that runs in another environment."""

    def __init__(self, path: Path, images: Pixels) -> None:
        self._recorded = read_outputs(path)
        if self._recorded.numbers != list(range(len(images))):
            raise StepFailed(
                "model",
                f"it has outputs for {len(self._recorded.numbers)} of {len(images)} images",
                hint="record the outputs for all evaluation images",
            )

    def run(self, number: int) -> list[Floats]:
        return self._recorded.values(number)


class TFLiteRunner:
    """A TFLite file of any form that TensorFlow Lite can run."""

    def __init__(self, path: Path, images: Pixels) -> None:
        content, size = path.read_bytes(), images.shape[1]
        self._images = images
        self._model = TFLiteModel(content, kernels=_kernels(content))
        inputs = self._model.inputs
        self._channels = _channels([each.shape for each in inputs], [1, size, size, -1])
        self._dtype = inputs[0].dtype
        if self._dtype not in (np.int8, np.float32):
            raise StepFailed(
                "model",
                f"it takes {self._dtype.__name__}; the firmware writes int8",
                hint="convert it with int8 input and output, or with float32",
            )

    def run(self, number: int) -> list[Floats]:
        self._model.run(prepare(self._images[number], self._channels, self._dtype))
        return [self._model.values(each.index) for each in self._model.outputs]


class OnnxRunner:
    """An ONNX file that takes float32 [1,C,S,S]."""

    def __init__(self, path: Path, images: Pixels) -> None:
        self._session, size = open_session(path), images.shape[1]
        self._images = images
        inputs = self._session.get_inputs()
        self._channels = _channels([each.shape for each in inputs], [1, -1, size, size])
        self._input: str = inputs[0].name

    def run(self, number: int) -> list[Floats]:
        values = prepare(self._images[number], self._channels, np.float32).transpose(0, 3, 1, 2)
        outputs: list[Floats] = self._session.run(None, {self._input: values})
        return outputs


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """Open an ONNX file to run on one thread; raises StepFailed("model")."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except (OSError, MemoryError):
        raise
    except Exception as error:  # its errors have no base class of their own
        lines = str(error).strip().splitlines() or ["no reason given"]
        raise StepFailed(
            "model", f"ONNX Runtime cannot run it: {lines[0]}", hint="the log has more"
        ) from error


def is_per_channel(path: Path) -> bool:
    """Whether any weights in a TFLite file have a scale for each channel."""
    tensors = read_flatbuffer(path.read_bytes()).subgraphs[0].tensors
    scales = [each.quantization.scale for each in tensors if each.quantization is not None]
    return any(scale is not None and len(scale) > 1 for scale in scales)


def _kernels(content: bytes) -> Kernels:
    """Which kernels a TFLite file runs with; raises StepFailed if it is compiled for an NPU.

    The whole structure is read first, because the interpreter crashes on a damaged file.
    """
    model = read_flatbuffer(content)
    if any(code.customCode == NPU_OPERATOR for code in model.operatorCodes):
        raise StepFailed(
            "model",
            "it is compiled for an Ethos-U NPU, which TensorFlow Lite cannot run",
            hint="pass its outputs.npz of the step `outputs`, or the int8 file that Vela compiled",
        )
    types = {tensor.type for graph in model.subgraphs for tensor in graph.tensors}
    return "reference" if types & _QUANTISED else "delegate"


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
        f"it takes {found}, and the images are {pattern}",
        hint="make the images at the model's own size (IMGSZ), and export it with a batch of one",
    )
