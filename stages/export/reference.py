"""Run a model with TensorFlow Lite's reference kernels: a board's interpreter must agree with them.

``in/``: model.tflite, and perhaps the folder evaluation with images.npy (uint8 [n,H,W,C]).
``out/reference.npz``: images, two as the model takes them, and output_0, output_1, ... in the
model's order, each [2, *shape of the output].

TensorFlow Lite Micro's kernels are the same plain loops as the reference kernels; the kernels that
TensorFlow Lite uses by default round differently here and there.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.contract import Events, Job, StepFailed, main
from stages.export.models.preprocess import Pixels, as_float, as_int8
from stages.export.models.tflite_interpreter import TFLiteModel
from stages.results.reference import Origin, ReferenceResult

#: Random images exercise every kernel over all values; evaluation images give realistic ones.
IMAGES = 2


def run(job: Job, events: Events) -> ReferenceResult:
    """Run the model on two images; keep inputs and outputs."""
    model = TFLiteModel((job.inputs / "model.tflite").read_bytes(), kernels="reference")
    details, *others = model.inputs
    if others or len(details.shape) != 4 or details.shape[0] != 1:
        raise StepFailed(
            "model",
            f"the model takes {1 + len(others)} inputs, the first of shape {list(details.shape)}",
            hint="a model for a camera takes one image [1,H,W,C]",
        )
    pixels, origin = choose_images(job.inputs / "evaluation" / "images.npy", details.shape[1:])
    images = as_input(pixels, details.dtype)
    results = []
    for number, image in enumerate(images, 1):
        results.append(model.run(image[None]))
        events.progress(number, len(images), "images")
    arrays: dict[str, Any] = {"images": images}
    for number, output in enumerate(zip(*results, strict=True)):
        arrays[f"output_{number}"] = np.stack(output)
    np.savez(job.out / "reference.npz", **arrays)
    return ReferenceResult(
        images=len(images),
        source=origin,
        outputs=len(model.outputs),
        versions={package: version(package) for package in ("tensorflow-cpu", "numpy")},
    )


def choose_images(path: Path, shape: tuple[int, ...]) -> tuple[Pixels, Origin]:
    """The first evaluation images, or random ones if there are none of this shape; and which."""
    if path.exists():
        images: Pixels = np.load(path, mmap_mode="r")[:IMAGES]
        if len(images) and images.shape[1:] == shape:
            return images, "evaluation"
    noise = np.random.default_rng(0).integers(0, 256, (IMAGES, *shape), dtype=np.uint8)
    return noise, "noise"


def as_input(pixels: Pixels, dtype: type[np.generic]) -> NDArray[Any]:
    """Pixels as the firmware writes them into an int8 input, 0 to 1 for a float one."""
    if np.issubdtype(dtype, np.floating):
        return as_float(pixels).astype(dtype)
    return as_int8(pixels) if dtype == np.int8 else pixels.astype(dtype)


if __name__ == "__main__":
    main(run)
