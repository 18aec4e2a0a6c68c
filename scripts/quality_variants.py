"""Quantises one network in every way that `bench_quality` compares; runs in the environment export.

Argv: a folder with model.onnx and pool.npy (uint8 [n,H,W,C]), and where to write NAME/int8.tflite
for each name that stdout lists, with NAME/float32.tflite beside it.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import tensorflow as tf
from tensorflow.lite.python.convert import mlir_quantize
from tensorflow.lite.python.optimize.calibrator import Calibrator

from stages.contract import Events
from stages.export import kernels, ranges
from stages.export.network import Images, as_float, infer, open_network
from stages.export.quantize import convert, quantize

#: As many as the demo's val has.
USUAL = 48
#: So few pictures, of the least scores, stand for a set in which something is rare.
RARE = 24

Patches = Mapping[tuple[Any, str], Any]


def nearest(rows: kernels.Matrix, scales: kernels.Matrix, _: kernels.Inputs) -> kernels.Matrix:
    """Every weight rounded by itself."""
    return np.clip(np.round(rows / scales[:, None]), -127, 127)


def plain_inputs(*found: Any) -> kernels.Inputs:
    """Inputs of mean 0, so that no bias is corrected."""
    inputs = _factorise(*found)
    return kernels.Inputs(
        mean=np.zeros_like(inputs.mean),
        order=inputs.order,
        upper=inputs.upper,
        diagonal=inputs.diagonal,
    )


def least_to_most(counts: ranges.Counts, _: Any) -> tuple[float, float]:
    """The range from the least to the largest value."""
    patterns = np.flatnonzero(counts).astype(np.uint16)
    values = patterns.view(np.float16).astype(float)
    return min(0.0, values.min()), max(float(values.max()), 1e-6)


_factorise = kernels.factorise
NO_RANGES: Patches = {(ranges, "best_range"): least_to_most}
NO_BIAS: Patches = {(kernels, "factorise"): plain_inputs}
NO_FIT: Patches = {(kernels, "fit"): nearest}


class Bench:
    """One network and its pool of pictures."""

    def __init__(self, folder: Path, out: Path) -> None:
        self._network = open_network(folder / "model.onnx")
        self._pool: Images = np.load(folder / "pool.npy", mmap_mode="r")
        self._out = out
        self._float = convert(self._network, self._network, self.usual)

    @property
    def usual(self) -> Images:
        return self._pool[:USUAL]

    def spread(self, count: int) -> Images:
        return self._pool[np.arange(count) * len(self._pool) // count]

    def random(self, count: int, seed: int) -> Images:
        return self._pool[np.random.default_rng(seed).permutation(len(self._pool))[:count]]

    def rare(self) -> Images:
        """The pictures in which the network sees least at the finest stride."""
        position = self._network.output_names.index("score8")
        answers = infer(self._float, [as_float(image[None]) for image in self._pool])
        scores = np.array([answer[position].max() for answer in answers])
        return self._pool[np.sort(np.argsort(scores, kind="stable")[:RARE])]

    def tflite(self, *, per_tensor: bool) -> bytes:
        """What TensorFlow makes of it alone: ranges from least to most, every weight rounded."""

        def feed() -> Iterator[list[Any]]:
            for image in self.usual:
                yield [as_float(image[None])]

        calibrated = Calibrator(self._float).calibrate(feed)
        return bytes(
            mlir_quantize(
                calibrated,
                disable_per_channel=per_tensor,
                fully_quantize=True,
                input_data_type=tf.int8,
                output_data_type=tf.int8,
            )
        )

    def kiln(
        self,
        granularity: kernels.Granularity,
        images: Images | None = None,
        changed: Patches | None = None,
    ) -> bytes:
        """What the step makes of it, with parts of it exchanged."""
        chosen = self.usual if images is None else images
        with contextlib.ExitStack() as stack, Path("/dev/null").open("w") as nowhere:
            for (module, name), value in (changed or {}).items():
                stack.enter_context(mock.patch.object(module, name, value))
            events = Events(nowhere)
            return quantize(self._float, self._network, chosen, granularity, events)[0]

    def variants(self) -> dict[str, Callable[[], bytes]]:
        """What is compared, by the words that the table has for it."""
        coarse = {(kernels, "NOISE"): 2 * kernels.NOISE}
        fine = {(kernels, "NOISE"): kernels.NOISE / 2}
        capped = {(ranges, "SURE"): -np.inf}
        ranged = {**NO_FIT, **NO_BIAS}
        return {
            "TFLite alone, per-tensor": lambda: self.tflite(per_tensor=True),
            "TFLite alone, per-channel": lambda: self.tflite(per_tensor=False),
            "per-tensor, ranges only": lambda: self.kiln("per-tensor", changed=ranged),
            "per-tensor, ranges and biases": lambda: self.kiln("per-tensor", changed=NO_FIT),
            "per-tensor": lambda: self.kiln("per-tensor"),
            "per-channel": lambda: self.kiln("per-channel"),
            "mixed": lambda: self.kiln("mixed"),
            "mixed, ranges from least to most": lambda: self.kiln("mixed", changed=NO_RANGES),
            "mixed, each weight by itself": lambda: self.kiln("mixed", changed=NO_FIT),
            "mixed, half the noise": lambda: self.kiln("mixed", changed=fine),
            "mixed, twice the noise": lambda: self.kiln("mixed", changed=coarse),
            "mixed, 10 pictures": lambda: self.kiln("mixed", self.spread(10)),
            "mixed, 100 pictures": lambda: self.kiln("mixed", self.spread(100)),
            "mixed, 256 pictures": lambda: self.kiln("mixed", self.spread(256)),
            "mixed, 48 at random": lambda: self.kiln("mixed", self.random(USUAL, 1)),
            "mixed, rare": lambda: self.kiln("mixed", self.rare()),
            "mixed, rare, scores capped": lambda: self.kiln("mixed", self.rare(), capped),
        }

    def write(self) -> dict[str, float]:
        """Make them all; gives for each the seconds that it took."""
        seconds = {}
        for name, make in self.variants().items():
            started = time.monotonic()
            model = make()
            seconds[name] = round(time.monotonic() - started, 1)
            folder = self._out / name
            folder.mkdir(parents=True)
            (folder / "int8.tflite").write_bytes(model)
            (folder / "float32.tflite").write_bytes(self._float)
        return seconds


def main() -> None:
    folder, out = map(Path, sys.argv[1:])
    print("\n" + json.dumps(Bench(folder, out).write()))


if __name__ == "__main__":
    main()
