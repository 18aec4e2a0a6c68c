"""Opens a TFLite file so that it runs as on a board: compiled ones and plain int8 ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tflite_micro.python.tflite_micro import runtime

from stages.contract import StepFailed
from stages.vela.execution.compiled_model import CompiledModel
from stages.vela.npu.errors import NpuError
from stages.vela.tflite.file import Tensor, TFLiteFile
from stages.vela.tflite.model import read_model
from stages.vela.tflm.runner import ARENA_BYTES


class BoardModel(Protocol):
    """An opened model."""

    @property
    def inputs(self) -> Sequence[Tensor]:
        """What it takes."""

    @property
    def outputs(self) -> Sequence[Tensor]:
        """What it gives, in the file's order."""

    def run(self, image: NDArray[np.int8]) -> list[NDArray[Any]]:
        """The outputs, not dequantised, for an image as the model's input."""


class InterpretedModel:
    """A plain file in TensorFlow Lite Micro, the interpreter of the boards without an NPU."""

    def __init__(self, content: bytes, file: TFLiteFile) -> None:
        self.inputs, self.outputs = file.inputs, file.outputs
        self._interpreter = runtime.Interpreter.from_bytes(content, arena_size=ARENA_BYTES)

    def run(self, image: NDArray[np.int8]) -> list[NDArray[Any]]:
        self._interpreter.set_input(image, 0)
        self._interpreter.invoke()
        return [self._interpreter.get_output(index).copy() for index in range(len(self.outputs))]


def open_model(content: bytes) -> BoardModel:
    """Open an untrusted file; raises StepFailed("model") for what cannot be run."""
    model = read_model(content)
    if model.kind != "vela":
        return InterpretedModel(content, model.file)
    try:
        return CompiledModel(content)
    except NpuError as error:
        raise not_executed(error) from error


def not_executed(error: NpuError) -> StepFailed:
    """What is said of a compiled file that cannot be executed."""
    return StepFailed(
        "model",
        f"the compiled file cannot be executed here: {error}",
        hint="copy it again if it may be damaged, or compile it again; Kiln executes what Vela "
        "makes for an Ethos-U55",
    )


def as_input(pixels: NDArray[np.uint8]) -> NDArray[np.int8]:
    """An image [S,S,3] as the firmware writes it into the input [1,S,S,3]: minus 128."""
    return (pixels.astype(np.int16) - 128).astype(np.int8)[None]
