"""Quantises one network in every way that `bench_quality` compares; runs in the environment export.

Argv: a folder with model.onnx, pool.npy (uint8 [n,H,W,C]) and evaluation/, and where to write
float32.tflite and NUMBER.tflite for each variant. Prints a JSON list of them in order. Int8 files
that are named besides are measured instead, against the float32.tflite that is there.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from tensorflow.lite.python.optimize.calibrator import Calibrator

from stages.contract import Events
from stages.export.evaluate import Findings, run_and_measure
from stages.export.evaluation import report_images
from stages.export.evaluation.inference import open_artifact, read_evaluation
from stages.export.models.preprocess import Pixels, as_float
from stages.export.models.tflite_interpreter import TFLiteModel
from stages.export.quantization import activation_ranges as ranges
from stages.export.quantization import weight_rounding as rounding
from stages.export.quantization.onnx_to_keras import open_network
from stages.export.quantize import convert, quantize, to_int8
from stages.results.quantize import Granularity
from stages.sampling import evenly
from stages.suppression import IOU

#: As many as the demo's val has.
USUAL = 48
#: The camera's frame, as the boards have it by default.
FRAME = (240, 240)
#: So few images, those of the lowest scores, stand for a set in which something is rare.
RARE = 24

Patches = Mapping[tuple[Any, str], Any]


def nearest(rows: rounding.Matrix, scales: rounding.Matrix, _: rounding.Inputs) -> rounding.Matrix:
    """Every weight rounded by itself."""
    return np.clip(np.round(rows / scales[:, None]), -127, 127)


def plain_inputs(*found: Any) -> rounding.Inputs:
    """Inputs of mean 0, so that no bias is corrected."""
    inputs = _factorise(*found)
    return rounding.Inputs(
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


_factorise = rounding.factorise
NO_RANGES: Patches = {(ranges, "best_range"): least_to_most}
NO_BIAS: Patches = {(rounding, "factorise"): plain_inputs}
NO_FIT: Patches = {(rounding, "fit"): nearest}


class Bench:
    """One network and its pool of images."""

    def __init__(self, folder: Path, out: Path) -> None:
        self._network = open_network(folder / "model.onnx")
        self._pool: Pixels = np.load(folder / "pool.npy", mmap_mode="r")
        self._evaluation = read_evaluation(folder / "evaluation", frame=FRAME, iou=IOU)
        self._events = Events(io.StringIO())
        self._out = out

    @functools.cached_property
    def _float(self) -> bytes:
        return convert(self._network, self._network, self.usual)

    @property
    def usual(self) -> Pixels:
        return self.spread(USUAL)

    def spread(self, count: int) -> Pixels:
        return self._pool[evenly(len(self._pool), count)]

    def random(self, count: int, seed: int) -> Pixels:
        return self._pool[np.random.default_rng(seed).permutation(len(self._pool))[:count]]

    def rare(self) -> Pixels:
        """The images with the lowest scores at the finest stride."""
        position = self._network.output_names.index("score8")
        model = TFLiteModel(self._float, kernels="delegate")
        results = [model.run(as_float(image[None])) for image in self._pool]
        scores = np.array([outputs[position].max() for outputs in results])
        return self._pool[np.sort(np.argsort(scores, kind="stable")[:RARE])]

    def tflite(self, *, per_tensor: bool) -> bytes:
        """TensorFlow's own result: ranges from least to most, every weight rounded by itself."""

        def feed() -> Iterator[list[Any]]:
            for image in self.usual:
                yield [as_float(image[None])]

        calibrated = Calibrator(self._float).calibrate(feed)
        return to_int8(calibrated, per_channel=not per_tensor)

    def kiln(
        self,
        granularity: Granularity,
        images: Pixels | None = None,
        changed: Patches | None = None,
    ) -> bytes:
        """The step's result, with parts of the step replaced."""
        chosen = self.usual if images is None else images
        with contextlib.ExitStack() as stack:
            for (module, name), value in (changed or {}).items():
                stack.enter_context(mock.patch.object(module, name, value))
            return quantize(self._float, self._network, chosen, granularity, self._events)[0]

    def variants(self) -> dict[str, Callable[[], bytes]]:
        """What is compared, by its name in the table."""
        coarse = {(rounding, "NOISE"): 2 * rounding.NOISE}
        fine = {(rounding, "NOISE"): rounding.NOISE / 2}
        capped = {(ranges, "LEAST_SCORE_END"): -np.inf}
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
            "mixed, 10 images": lambda: self.kiln("mixed", self.spread(10)),
            "mixed, 100 images": lambda: self.kiln("mixed", self.spread(100)),
            "mixed, 256 images": lambda: self.kiln("mixed", self.spread(256)),
            "mixed, 48 at random": lambda: self.kiln("mixed", self.random(USUAL, 1)),
            "mixed, rare": lambda: self.kiln("mixed", self.rare()),
            "mixed, rare, scores capped": lambda: self.kiln("mixed", self.rare(), capped),
        }

    def rows(self) -> Iterator[dict[str, Any]]:
        """Make and measure them all."""
        self._out.mkdir()
        (self._out / "float32.tflite").write_bytes(self._float)
        for number, (name, make) in enumerate(self.variants().items()):
            started = time.monotonic()
            model = make()
            seconds = time.monotonic() - started
            path = self._out / f"{number}.tflite"
            path.write_bytes(model)
            yield {"name": name, "seconds": seconds, **self.measured(path)}

    def measured(self, path: Path) -> dict[str, Any]:
        """An int8 file, and how good it is."""
        forms = (("float32", self._out / "float32.tflite"), ("int8", path))
        artifacts = [open_artifact(form, file, self._evaluation) for form, file in forms]
        found = run_and_measure(artifacts, self._evaluation, self._events)
        return {"file": str(path), **measures(found)}


def measures(found: Findings) -> dict[str, Any]:
    """mAP of both forms, mean signal-to-noise ratio of the outputs, and how much what is shown
    differs, for each object that float32 shows, in hundredths."""
    pairs = [(each.detections["float32"], each.detections["int8"]) for each in found.results]
    shown = sum(len(report_images.shown(exact)) for exact, _ in pairs)
    return {
        "float32": found.figures("float32"),
        "int8": found.figures("int8"),
        "snr": float(np.mean([each.snr_db for each in found.outputs()])),
        "differs": 100 * sum(report_images.change(*pair) for pair in pairs) / shown,
    }


def main() -> None:
    folder, out, *files = map(Path, sys.argv[1:])
    bench = Bench(folder, out)
    print("\n" + json.dumps([bench.measured(file) for file in files] or list(bench.rows())))


if __name__ == "__main__":
    main()
