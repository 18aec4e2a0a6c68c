"""Runs TFLite files in TensorFlow Lite.

Kernels differ in how they round. TensorFlow Lite Micro on a board follows the reference kernels to
the bit. Measured on yolov8n-pose and yolov8n at 192, int8: the builtin ones (26 ms an image) give
30 to 80 % of an output's values as the reference does (83 ms), the delegate XNNPACK (11 ms) 28 to
72 %; the others are up to 9 apart.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from stages.contract import StepFailed
from stages.export.models.preprocess import Floats, dequantised

Kernels = Literal["reference", "builtin", "delegate"]
#: How many models that keep all their tensors are opened at once: memory.
MOST_WITH_ALL_TENSORS = 4

_RESOLVERS = {
    "reference": tf.lite.experimental.OpResolverType.BUILTIN_REF,
    "builtin": tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    "delegate": tf.lite.experimental.OpResolverType.AUTO,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorDetails:
    """A tensor: its number in the graph, and how its values stand for real ones."""

    index: int
    shape: tuple[int, ...]
    dtype: type[np.generic]
    scale: float
    zero_point: int


class TFLiteModel:
    """An opened model that computes on one thread, whose sums come in one order; it serves one
    thread at a time.

    ``keep_all``: all tensors can be read after a run, not only the outputs. Raises
    StepFailed("model") if TensorFlow Lite cannot open it.
    """

    def __init__(self, model: bytes, *, kernels: Kernels, keep_all: bool = False) -> None:
        try:
            self._interpreter = tf.lite.Interpreter(
                model_content=model,
                num_threads=1,
                experimental_preserve_all_tensors=keep_all,
                experimental_op_resolver_type=_RESOLVERS[kernels],
            )
            self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            lines = str(error).strip().splitlines() or ["no reason given"]
            raise StepFailed(
                "model",
                f"TensorFlow Lite cannot run the model: {lines[0]}",
                hint="a file that Vela has compiled runs on its NPU alone; give the one before "
                "Vela. The log has more",
            ) from error
        self.inputs = [_details(each) for each in self._interpreter.get_input_details()]
        self.outputs = [_details(each) for each in self._interpreter.get_output_details()]
        kept = self._interpreter.get_tensor_details() if keep_all else ()
        self._tensors = {each.index: each for each in (*self.outputs, *map(_details, kept))}

    def run(self, image: NDArray[Any]) -> list[NDArray[Any]]:
        """Run on the model's first input; the outputs, not dequantised."""
        self._interpreter.set_tensor(self.inputs[0].index, image)
        self._interpreter.invoke()
        return [self.tensor(each.index) for each in self.outputs]

    def tensor(self, index: int) -> NDArray[Any]:
        """The content of a tensor after the last run."""
        return self._interpreter.get_tensor(index)

    def values(self, index: int) -> Floats:
        """The same, dequantised."""
        details = self._tensors[index]
        return dequantised(self.tensor(index), details.scale, details.zero_point)


def _details(details: Mapping[str, Any]) -> TensorDetails:
    scale, zero_point = details["quantization"]
    return TensorDetails(
        index=int(details["index"]),
        shape=tuple(details["shape"].tolist()),
        dtype=details["dtype"],
        scale=float(scale),
        zero_point=int(zero_point),
    )
