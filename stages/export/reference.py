"""Run TensorFlow Lite's reference kernels, to which a board's interpreter is held.

``in/``: model.tflite, and perhaps the folder evaluation with images.npy (uint8 [n,H,W,C]).
``out/reference.npz``: images, two as the model takes them, and output_0, output_1, ... in the
model's order, each [2, *shape of the output].

The reference kernels are the plain loops that TensorFlow Lite Micro's own are made of; those that
TensorFlow Lite takes by default round differently here and there.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from stages.contract import Events, Job, StepFailed, main
from stages.export.evaluation.preprocess import Pixels, as_float, as_int8
from stages.results.reference import Origin, ReferenceResult

#: Of noise every kernel sees all values; of pictures, those that matter.
IMAGES = 2


def run(job: Job, events: Events) -> ReferenceResult:
    """Run the model on two images and keep what went in and what came out."""
    interpreter = open_model(job.inputs / "model.tflite")
    source, *others = interpreter.get_input_details()
    shape = tuple(source["shape"].tolist())
    if others or len(shape) != 4 or shape[0] != 1:
        raise StepFailed(
            "model",
            f"the model takes {1 + len(others)} inputs, the first of shape {list(shape)}",
            hint="a model for a camera takes one picture [1,H,W,C]",
        )
    pictures, origin = choose_pictures(job.inputs / "evaluation" / "images.npy", shape[1:])
    images = as_input(pictures, source["dtype"])
    results = [output["index"] for output in interpreter.get_output_details()]
    answers = []
    for number, image in enumerate(images, 1):
        interpreter.set_tensor(source["index"], image[None])
        interpreter.invoke()
        answers.append([interpreter.get_tensor(index) for index in results])
        events.progress(number, len(images), "images")
    arrays: dict[str, Any] = {"images": images}
    for number, output in enumerate(zip(*answers, strict=True)):
        arrays[f"output_{number}"] = np.stack(output)
    np.savez(job.out / "reference.npz", **arrays)
    return ReferenceResult(
        images=len(images),
        pictures=origin,
        outputs=len(results),
        versions={package: version(package) for package in ("tensorflow-cpu", "numpy")},
    )


def open_model(path: Path) -> tf.lite.Interpreter:
    """The model in TFLite with its reference kernels, ready; raises StepFailed."""
    try:
        interpreter = tf.lite.Interpreter(
            model_path=str(path),
            experimental_op_resolver_type=tf.lite.experimental.OpResolverType.BUILTIN_REF,
        )
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise StepFailed(
            "model",
            f"TensorFlow Lite cannot open the model: {str(error).splitlines()[0]}",
            hint="a file that Vela has compiled runs on its NPU alone; give the one before Vela",
        ) from error
    return interpreter


def choose_pictures(path: Path, shape: tuple[int, ...]) -> tuple[Pixels, Origin]:
    """The first evaluation images, or noise if there are none of this shape; and which."""
    if path.exists():
        images: Pixels = np.load(path, mmap_mode="r")[:IMAGES]
        if len(images) and images.shape[1:] == shape:
            return images, "evaluation"
    noise = np.random.default_rng(0).integers(0, 256, (IMAGES, *shape), dtype=np.uint8)
    return noise, "noise"


def as_input(pictures: Pixels, dtype: Any) -> NDArray[Any]:
    """Pixels as the firmware writes them into an int8 input, as 0..1 into a float one."""
    if np.issubdtype(dtype, np.floating):
        return as_float(pictures).astype(dtype)
    return as_int8(pictures) if dtype == np.int8 else pictures.astype(dtype)


if __name__ == "__main__":
    main(run)
