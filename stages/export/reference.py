"""Run a model with TensorFlow Lite's reference kernels: a board's interpreter must agree with them.

``in/``: model.tflite. ``out/reference.npz`` (``stages.export.models.reference_outputs``): what it
gives for two images of noise. A build has one from the step `quantize`; this is for other files.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.contract import Events, Job, StepFailed, main
from stages.export.models.preprocess import Pixels, as_float, as_int8
from stages.export.models.reference_outputs import noise, write_reference
from stages.export.models.tflite_interpreter import TFLiteModel
from stages.results.reference import ReferenceResult

IMAGES = 2


def run(job: Job, _events: Events) -> ReferenceResult:
    """Run the model on noise; keep inputs and outputs."""
    model = TFLiteModel((job.inputs / "model.tflite").read_bytes(), kernels="reference")
    details, *others = model.inputs
    if others or len(details.shape) != 4 or details.shape[0] != 1:
        raise StepFailed(
            "model",
            f"the model takes {1 + len(others)} inputs, the first of shape {list(details.shape)}",
            hint="a model for a camera takes one image [1,H,W,C]",
        )
    images = as_input(noise(IMAGES, details.shape[1:]), details.dtype)
    write_reference(job.out / "reference.npz", model, images)
    return ReferenceResult(
        images=len(images),
        source="noise",
        outputs=len(model.outputs),
        versions={package: version(package) for package in ("tensorflow-cpu", "numpy")},
    )


def as_input(pixels: Pixels, dtype: type[np.generic]) -> NDArray[Any]:
    """Pixels as the firmware writes them into an int8 input, 0 to 1 for a float one."""
    if np.issubdtype(dtype, np.floating):
        return as_float(pixels).astype(dtype)
    return as_int8(pixels) if dtype == np.int8 else pixels.astype(dtype)


if __name__ == "__main__":
    main(run)
