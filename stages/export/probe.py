"""Looks at every tensor of a TFLite model while it runs on pictures."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

#: Every worker holds the model and all its tensors once.
MOST_WORKERS = 4

_KERNELS = tf.lite.experimental.OpResolverType

Worker = TypeVar("Worker")
Seen = TypeVar("Seen")


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

    def values(self, number: int) -> NDArray[np.float32]:
        """The same, dequantised."""
        found = self.tensor(number)
        if np.issubdtype(found.dtype, np.floating):
            return found
        scale, zero_point = self._steps[number]
        return (found.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)


def on_all_cores(
    workers: list[Worker], look: Callable[[Worker, int], Seen], count: int
) -> Iterator[Seen]:
    """``look(worker, number)`` for the numbers 0 to ``count``, in their order, whoever did it."""
    idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def one(number: int) -> Seen:
        worker = idle.get()
        try:
            return look(worker, number)
        finally:
            idle.put(worker)

    with ThreadPoolExecutor(len(workers)) as pool:
        yield from pool.map(one, range(count))


def worker_count() -> int:
    return min(len(os.sched_getaffinity(0)), MOST_WORKERS)
