"""Record the outputs that TensorFlow Lite Micro, the interpreter on the board, gives for evaluation
images.

``params``: images (how many images at most, at even distances). ``in/``: model.tflite, an int8
model before Vela, and evaluation/ with images.npy (uint8 [m,S,S,3] RGB).
``out/outputs.npz``: ``numbers`` [n] of the images; output_0, output_1, ... in the model's order,
int8 [n, *shape of the output].
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tflite_micro.python.tflite_micro import runtime

from stages.contract import Events, Job, StepFailed, main
from stages.results.tflm_outputs import TflmOutputsResult
from stages.sampling import evenly
from stages.vela.tflite.model import read_model
from stages.vela.tflm.runner import ARENA_BYTES

PACKAGES = ("tflite-micro", "numpy")


def run(job: Job, events: Events) -> TflmOutputsResult:
    """Run the model on each image as the firmware does; raises StepFailed if it does not fit."""
    images = np.load(job.inputs / "evaluation" / "images.npy", mmap_mode="r")
    path = job.inputs / "model.tflite"
    interpreter = runtime.Interpreter.from_file(str(path), arena_size=ARENA_BYTES)
    shape = tuple(interpreter.get_input_details(0)["shape"])
    if shape != (1, *images.shape[1:]):
        raise StepFailed(
            "model",
            f"it takes {list(shape)}, and the images are {list(images.shape[1:])}",
            hint="it takes a model that Kiln has built, and images of its size",
        )
    outputs = len(read_model(path.read_bytes()).file.outputs)
    numbers = evenly(len(images), int(job.params["images"]))
    results: list[list[NDArray[np.int8]]] = []
    for number in numbers:
        # As the firmware writes pixels: minus 128.
        image = (images[number].astype(np.int16) - 128).astype(np.int8)
        interpreter.set_input(image[None], 0)
        interpreter.invoke()
        results.append([interpreter.get_output(index).copy() for index in range(outputs)])
        events.progress(len(results), len(numbers), "images")
    arrays: dict[str, Any] = {"numbers": np.array(numbers)}
    for index, output in enumerate(zip(*results, strict=True)):
        arrays[f"output_{index}"] = np.stack(output)
    np.savez(job.out / "outputs.npz", **arrays)
    return TflmOutputsResult(
        images=len(numbers),
        versions={package: version(package) for package in PACKAGES},
    )


if __name__ == "__main__":
    main(run)
