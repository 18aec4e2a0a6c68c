"""Run the file that goes onto a board on evaluation images, as the board does; keep its outputs.

``params``: images (how many at most, at even distances; null for all). ``in/``: model.tflite,
compiled by Vela or a plain int8 one, and evaluation/ with images.npy (uint8 [m,S,S,3] RGB).
``out/outputs.npz``: ``numbers`` [n] of the images; output_0, output_1, ... in the model's order,
[n, *shape of the output], not dequantised; ``scales`` and ``zero_points``, one for each output (1
and 0 for a float one).

What Vela compiled for the NPU is executed as Vela's encodings define it (``stages.vela.npu``); all
else runs in TensorFlow Lite Micro, the board's own interpreter.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.contract import Events, Job, StepFailed, main
from stages.results.outputs import OutputsResult
from stages.sampling import evenly
from stages.vela.execution.board_models import BoardModel, not_executed, open_model
from stages.vela.execution.parallel import run_on_all_cores
from stages.vela.npu.errors import NpuError
from stages.vela.tflite.file import Tensor

PACKAGES = ("ethos-u-vela", "tflite-micro", "numpy")


def run(job: Job, events: Events) -> OutputsResult:
    """Run the model on each image; raises StepFailed if it cannot be run, or takes others."""
    images = np.load(job.inputs / "evaluation" / "images.npy", mmap_mode="r")
    if not len(images):
        raise StepFailed(
            "data", "there is no image to run the model on", hint="put images into the data's val"
        )
    model = open_model((job.inputs / "model.tflite").read_bytes())
    check_input(model, images.shape[1:])
    numbers = evenly(len(images), job.params["images"] or len(images))
    results: list[list[NDArray[Any]]] = []
    try:
        for outputs in run_on_all_cores(model, images, numbers):
            results.append(outputs)
            events.progress(len(results), len(numbers), "images")
    except NpuError as error:
        raise not_executed(error) from error
    arrays: dict[str, Any] = {"numbers": np.array(numbers), **quantization(model.outputs)}
    for index, output in enumerate(zip(*results, strict=True)):
        arrays[f"output_{index}"] = np.stack(output)
    np.savez(job.out / "outputs.npz", **arrays)
    return OutputsResult(
        images=len(numbers),
        versions={package: version(package) for package in PACKAGES},
    )


def check_input(model: BoardModel, shape: tuple[int, ...]) -> None:
    """Raise StepFailed unless the model takes one int8 image of this shape."""
    taken = [(each.shape, each.dtype) for each in model.inputs]
    if taken != [((1, *shape), "int8")]:
        found = " and ".join(f"{dtype} {list(sides)}" for sides, dtype in taken)
        raise StepFailed(
            "model",
            f"it takes {found}, and the images are int8 {[1, *shape]}",
            hint="it takes a model for a board, with one int8 input, and images of its size",
        )


def quantization(outputs: Sequence[Tensor]) -> dict[str, NDArray[Any]]:
    """The scale and the zero point of each output."""
    scales = [1.0 if each.scale is None else each.scale for each in outputs]
    return {
        "scales": np.array(scales, np.float64),
        "zero_points": np.array([each.zero_point or 0 for each in outputs], np.int64),
    }


if __name__ == "__main__":
    main(run)
