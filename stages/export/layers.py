"""Measure the error of int8 at each layer of the network.

``params``: none. ``in/``: float32.tflite and int8.tflite of one run of the step `quantize`,
``evaluation/`` (images.npy, uint8 [m,S,S,3] RGB).
``out/layers.json``: the fields of ``stages.results.layers.Layers``, in the order of the network.

Both models run on the same images, the int8 one with the boards' arithmetic, and the output of each
layer is compared: the signal-to-noise ratio of all error up to there. A convolution and the SiLU
after it are one layer; operators that only pass values on are left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from importlib.metadata import version

import numpy as np

from stages.contract import Events, Job, StepFailed, main, write_json
from stages.export.evaluation.snr import Powers, powers, snr_db
from stages.export.models.parallel import on_all_cores, worker_count
from stages.export.models.preprocess import Pixels, prepare
from stages.export.models.tflite_editor import PASS_THROUGH, Graph, Operator, silu_outputs
from stages.export.models.tflite_interpreter import MOST_WITH_ALL_TENSORS, TFLiteModel
from stages.results.layers import Layers, LayerSnr, LayersResult
from stages.sampling import evenly

#: So many images hold some million values a layer.
IMAGES = 8
WORST = 5

PACKAGES = ("tensorflow-cpu", "numpy")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer of both models, and the tensor that holds its output in each."""

    name: str
    operator: str
    exact: int
    quantised: int


def run(job: Job, events: Events) -> LayersResult:
    """Compare layer by layer, and write the ratios."""
    float_model = (job.inputs / "float32.tflite").read_bytes()
    int8_model = (job.inputs / "int8.tflite").read_bytes()
    images: Pixels = np.load(job.inputs / "evaluation" / "images.npy", mmap_mode="r")
    layers = common_layers(Graph(float_model), Graph(int8_model))
    if not layers:
        raise StepFailed(
            "model",
            "float32.tflite and int8.tflite have no layer in common, by their tensors' names",
            hint="both must come from one run of the step `quantize`",
        )
    chosen = images[evenly(len(images), IMAGES)]
    measured = []
    for each in compare(layers, float_model, int8_model, chosen):
        measured.append(each)
        events.progress(len(measured), len(chosen), "images")
    ratios = [snr_db(parts) for parts in zip(*measured, strict=True)]
    known = tuple(
        LayerSnr(name=layer.name, operator=layer.operator, snr_db=ratio)
        for layer, ratio in zip(layers, ratios, strict=True)
        if ratio is not None
    )
    write_json(job.out / "layers.json", Layers(layers=known))
    worst = sorted(known, key=lambda layer: layer.snr_db)[:WORST]
    return LayersResult(
        compared=len(known),
        worst=tuple(layer.name for layer in worst),
        images=len(chosen),
        versions={package: version(package) for package in PACKAGES},
    )


def common_layers(exact: Graph, quantised: Graph) -> list[Layer]:
    """The layers of the int8 model whose output tensors the float one has too, in its order."""
    known = {exact.name(output): output for each in exact.operators for output in each.outputs}
    operators = quantised.operators
    silu_inputs = {output: tensor for tensor, output in silu_outputs(operators).items()}
    makers = {output: each for each in operators for output in each.outputs}
    inner = {tensor for each in silu_inputs.values() for tensor in _within(each, operators)}
    layers = []
    for output, operator in makers.items():
        if operator.type in PASS_THROUGH or output in inner or quantised.name(output) not in known:
            continue
        tensor = silu_inputs.get(output, output)
        kind = makers[tensor].type if tensor in makers else operator.type
        layers.append(
            Layer(
                name=quantised.name(tensor),
                operator=f"{kind} + SiLU" if output in silu_inputs else kind,
                exact=known[quantised.name(output)],
                quantised=output,
            )
        )
    return layers


def compare(
    layers: list[Layer], float_model: bytes, int8_model: bytes, images: Pixels
) -> Iterator[list[Powers]]:
    """By image and layer the powers of signal and noise."""

    def measure(pair: tuple[TFLiteModel, TFLiteModel], number: int) -> list[Powers]:
        for model in pair:
            details = model.inputs[0]
            model.run(prepare(images[number], details.shape[-1], details.dtype))
        exact, quantised = pair
        return [
            powers(exact.values(each.exact), quantised.values(each.quantised)) for each in layers
        ]

    pairs = [
        (
            TFLiteModel(float_model, kernels="builtin", keep_all=True),
            TFLiteModel(int8_model, kernels="reference", keep_all=True),
        )
        for _ in range(worker_count(MOST_WITH_ALL_TENSORS))
    ]
    return on_all_cores(pairs, measure, len(images))


def _within(tensor: int, operators: list[Operator]) -> set[int]:
    """The tensors inside a SiLU of x: x itself, and its sigmoid."""
    logistic = (each for each in operators if each.type == "LOGISTIC" and tensor in each.inputs)
    return {tensor, *(output for each in logistic for output in each.outputs)}


if __name__ == "__main__":
    main(run)
