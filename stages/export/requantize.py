"""Write what a fine-tuning has learned into the int8 model.

``params``: none. ``in/``: int8.tflite of the step `quantize`; learned.npz of the step `finetune`.
``out/``: int8.tflite, and reference.npz (``stages.export.models.reference_outputs``).

The step fails unless TensorFlow Lite's reference kernels give the outputs that the fine-tuning
came to, but for a few values that differ by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.contract import Events, Job, StepFailed, main
from stages.export.models.preprocess import as_int8
from stages.export.models.reference_outputs import noise, write_reference
from stages.export.models.tflite_editor import Graph
from stages.export.models.tflite_interpreter import TFLiteModel
from stages.results.requantize import RequantizeResult

PACKAGES = ("tensorflow-cpu", "numpy")
#: A GPU may add in another order than exactly; a part of the values may then differ by one.
MOST_DIFFERENT = 0.01


def run(job: Job, _events: Events) -> RequantizeResult:
    """Write the model, and hold it against what was learned."""
    with np.load(job.inputs / "learned.npz") as arrays:
        learned = dict(arrays)
    graph = Graph((job.inputs / "int8.tflite").read_bytes())
    layers = write_learned(graph, learned)
    content = graph.to_bytes()
    model = TFLiteModel(content, kernels="reference")
    different = compare(model, learned)
    (job.out / "int8.tflite").write_bytes(content)
    images = learned["images"]
    shown = np.concatenate([images, noise(1, images.shape[1:])])
    write_reference(job.out / "reference.npz", model, as_int8(shown))
    return RequantizeResult(
        layers=layers,
        bytes=len(content),
        different=different,
        versions={package: version(package) for package in PACKAGES},
    )


def write_learned(graph: Graph, learned: Mapping[str, NDArray[Any]]) -> int:
    """Replace the weights and biases of the convolutions; how many there are."""
    numbers = [int(name.removeprefix("weights_")) for name in learned if name.startswith("weights")]
    for number in numbers:
        operator = graph.operators[number]
        weights, scales = learned[f"weights_{number}"], learned[f"scales_{number}"]
        if operator.type != "CONV_2D" or weights.shape != graph.shape(operator.inputs[1]):
            raise StepFailed(
                "model",
                f"learned.npz is of another network: operator {number} is {operator.type}",
                hint="int8.tflite and learned.npz must come from one build",
            )
        bias_scales = (scales.astype(np.float64) * graph.scale(operator.inputs[0])).astype("f4")
        graph.set_constant(number, 1, weights, scales)
        graph.set_constant(number, 2, learned[f"bias_{number}"], bias_scales)
    return len(numbers)


def compare(model: TFLiteModel, learned: Mapping[str, NDArray[Any]]) -> float:
    """The share of the outputs' values that differ; raises StepFailed if they are more, or differ
    by more, than rounding can explain."""
    results = [model.run(image[None]) for image in as_int8(learned["images"])]
    errors = np.concatenate(
        [
            np.abs(np.concatenate(output).astype(int) - learned[f"output_{number}"]).ravel()
            for number, output in enumerate(zip(*results, strict=True))
        ]
    )
    share = float(np.count_nonzero(errors) / errors.size)
    if share > MOST_DIFFERENT:
        raise StepFailed(
            "model",
            f"the int8 file does not compute what was learned: {share:.1%} of its outputs' values "
            f"differ, by {errors.max()} at most",
            hint="please report it with the build's files; QUANT=mixed does without a fine-tuning",
        )
    return share


if __name__ == "__main__":
    main(run)
