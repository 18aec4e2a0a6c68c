"""What TensorFlow Lite's reference kernels give for a few images: the file reference.npz.

``images``, [n, *shape of the input] as the model takes them, and output_0, output_1, ... in the
model's order, each [n, *shape of the output].

TensorFlow Lite Micro's kernels are the same plain loops as the reference kernels, and a compiled
file must give the same bytes; the kernels that TensorFlow Lite uses by default round differently
here and there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.export.models.preprocess import Pixels
from stages.export.models.tflite_interpreter import TFLiteModel


def noise(count: int, shape: tuple[int, ...]) -> Pixels:
    """Random images, always the same: they exercise every kernel over all values."""
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)


def write_reference(path: Path, model: TFLiteModel, images: NDArray[Any]) -> None:
    """Run a model, opened with the reference kernels, on images; keep inputs and outputs."""
    results = [model.run(image[None]) for image in images]
    arrays: dict[str, Any] = {"images": images}
    for number, output in enumerate(zip(*results, strict=True)):
        arrays[f"output_{number}"] = np.stack(output)
    np.savez(path, **arrays)
