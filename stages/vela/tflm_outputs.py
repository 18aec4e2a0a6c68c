"""What TensorFlow Lite Micro, the interpreter on the board, gives for evaluation pictures.

``params``: pictures (how many at most, spread over all). ``in/``: model.tflite, an int8 model
before Vela, and evaluation/ with images.npy (uint8 [m,S,S,3] RGB).
``out/answers.npz``: ``numbers`` [n], which pictures; output_0, output_1, ... in the model's order,
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
from stages.vela.tflite.model import read_model
from stages.vela.tflm.runner import ARENA_BYTES

PACKAGES = ("tflite-micro", "numpy")


def run(job: Job, events: Events) -> TflmOutputsResult:
    """Show each picture to the model as the firmware does; raises StepFailed if it cannot be."""
    pictures = np.load(job.inputs / "evaluation" / "images.npy", mmap_mode="r")
    path = job.inputs / "model.tflite"
    interpreter = runtime.Interpreter.from_file(str(path), arena_size=ARENA_BYTES)
    shape = tuple(interpreter.get_input_details(0)["shape"])
    if shape != (1, *pictures.shape[1:]):
        raise StepFailed(
            "model",
            f"it takes {list(shape)}, and the pictures are {list(pictures.shape[1:])}",
            hint="it takes a model that Kiln has built, and pictures of its size",
        )
    outputs = len(read_model(path.read_bytes()).file.outputs)
    numbers = spread(len(pictures), int(job.params["pictures"]))
    answers: list[list[NDArray[np.int8]]] = []
    for number in numbers:
        # As the firmware writes a pixel: less 128.
        image = (pictures[number].astype(np.int16) - 128).astype(np.int8)
        interpreter.set_input(image[None], 0)
        interpreter.invoke()
        answers.append([interpreter.get_output(index).copy() for index in range(outputs)])
        events.progress(len(answers), len(numbers), "pictures")
    arrays: dict[str, Any] = {"numbers": np.array(numbers)}
    for index, output in enumerate(zip(*answers, strict=True)):
        arrays[f"output_{index}"] = np.stack(output)
    np.savez(job.out / "answers.npz", **arrays)
    return TflmOutputsResult(
        pictures=len(numbers),
        versions={package: version(package) for package in PACKAGES},
    )


def spread(count: int, most: int) -> list[int]:
    """At most so many of the first ``count`` numbers, evenly."""
    kept = min(count, most)
    return [number * count // kept for number in range(kept)]


if __name__ == "__main__":
    main(run)
