"""Looks at every tensor of a TFLite model while it runs on pictures."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from numpy.typing import NDArray

from stages.export.evaluation.preprocess import Floats, dequantised

#: Every probe holds the model and all its tensors.
MOST_PROBES = 4

_KERNELS = tf.lite.experimental.OpResolverType


class Probe:
    """A model that keeps what every layer makes; one probe serves one thread at a time.

    ``reference``: with TFLite's reference kernels, which are the boards' to the bit, and slow.
    """

    def __init__(self, model: bytes, *, reference: bool = False) -> None:
        kernels = _KERNELS.BUILTIN_REF if reference else _KERNELS.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        self._interpreter = tf.lite.Interpreter(
            model_content=model,
            num_threads=1,
            experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=kernels,
        )
        self._interpreter.allocate_tensors()
        source = self._interpreter.get_input_details()[0]
        self._source = int(source["index"])
        self.channels = int(source["shape"][-1])
        self._steps: dict[int, tuple[float, int]] = {
            each["index"]: each["quantization"] for each in self._interpreter.get_tensor_details()
        }

    def run(self, image: NDArray[Any]) -> None:
        """Run on a picture [1,H,W,C] of the input's dtype."""
        self._interpreter.set_tensor(self._source, image)
        self._interpreter.invoke()

    def tensor(self, number: int) -> NDArray[Any]:
        """What the last run left in a tensor."""
        return self._interpreter.get_tensor(number)

    def values(self, number: int) -> Floats:
        """The same, dequantised."""
        return dequantised(self.tensor(number), self._steps[number])
