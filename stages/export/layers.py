"""Tell where along the network the error of int8 grows.

``params``: none. ``in/``: float32.tflite and int8.tflite of one run of the step `quantize`,
``evaluation/`` (images.npy, uint8 [m,S,S,3] RGB).
``out/layers.json``: {"layers": [{"name", "operator", "snr_db"}]} in the order of the network.

Both models run on the same pictures, the int8 one with the boards' arithmetic, and what each layer
makes is held against what it makes in the other: the signal-to-noise ratio of all that has gone
wrong up to there. A convolution and the SiLU behind it are one layer; operators that only hand on
values are left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from importlib.metadata import version

import numpy as np

from stages.contract import Events, Job, StepFailed, main, write_json
from stages.export.evaluation.parallel import on_all_cores, worker_count
from stages.export.evaluation.preprocess import Pixels, prepare
from stages.export.evaluation.snr import Powers, powers, snr_db
from stages.export.quantization.probe import MOST_PROBES, Probe
from stages.export.quantization.tflite_editor import MOVES, Graph, Operator, activated
from stages.results.layers import Layers, LayerSnr, LayersResult

#: So many pictures hold some million values a layer.
IMAGES = 8
WORST = 5

PACKAGES = ("tensorflow-cpu", "numpy")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer of both models, and the tensors that hold what it makes in each."""

    name: str
    operator: str
    exact: int
    quantised: int


def run(job: Job, events: Events) -> LayersResult:
    """Compare layer by layer, and write them down."""
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
    count = min(IMAGES, len(images))
    seen = []
    chosen = images[np.arange(count) * len(images) // count]
    for each in compare(layers, float_model, int8_model, chosen):
        seen.append(each)
        events.progress(len(seen), count, "pictures")
    ratios = [snr_db(parts) for parts in zip(*seen, strict=True)]
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
        images=count,
        versions={package: version(package) for package in PACKAGES},
    )


def common_layers(exact: Graph, quantised: Graph) -> list[Layer]:
    """The layers of the int8 model whose tensors the float one has too, in its order."""
    known = {exact.name(made): made for each in exact.operators for made in each.outputs}
    operators = quantised.operators
    silu = {result: source for source, result in activated(operators).items()}
    makers = {made: each for each in operators for made in each.outputs}
    inner = {made for source in silu.values() for made in _within(source, operators)}
    layers = []
    for made, operator in makers.items():
        if operator.type in MOVES or made in inner or quantised.name(made) not in known:
            continue
        source = silu.get(made, made)
        kind = makers[source].type if source in makers else operator.type
        layers.append(
            Layer(
                name=quantised.name(source),
                operator=f"{kind} + SiLU" if made in silu else kind,
                exact=known[quantised.name(made)],
                quantised=made,
            )
        )
    return layers


def compare(
    layers: list[Layer], float_model: bytes, int8_model: bytes, images: Pixels
) -> Iterator[list[Powers]]:
    """By picture and layer the powers of signal and noise."""

    def look(pair: tuple[Probe, Probe], number: int) -> list[Powers]:
        exact, quantised = pair
        exact.run(prepare(images[number], exact.channels, np.float32))
        quantised.run(prepare(images[number], quantised.channels, np.int8))
        return [
            powers(exact.values(each.exact), quantised.values(each.quantised)) for each in layers
        ]

    pairs = [
        (Probe(float_model), Probe(int8_model, reference=True))
        for _ in range(worker_count(MOST_PROBES))
    ]
    return on_all_cores(pairs, look, len(images))


def _within(source: int, operators: list[Operator]) -> set[int]:
    """What a SiLU makes on its way: x itself, and its sigmoid."""
    logistic = (each for each in operators if each.type == "LOGISTIC" and source in each.inputs)
    return {source, *(made for each in logistic for made in each.outputs)}


if __name__ == "__main__":
    main(run)
