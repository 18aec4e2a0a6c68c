"""Quantise the exported network to full int8, in and out.

``params``: granularity (mixed, per-tensor or per-channel: which weights share a scale), order
(names of the outputs in the order that the files have, or null: that of the network).
``in/``: model.onnx, calibration.npy (uint8 [n,H,W,C]). ``out/``: float32.tflite, int8.tflite, and
reference.npz (``stages.export.models.reference_outputs``), what the int8 file gives for a few
images: what goes onto a board must give the same.

The firmware writes ``pixel - 128`` into the model's input, so the step fails unless the input has
exactly the scale 1/255 and the zero point -128.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.lite.python.convert import mlir_quantize
from tensorflow.lite.python.convert_phase import ConverterError

from stages.contract import Events, Job, StepFailed, main
from stages.export.models.preprocess import Pixels, as_float, as_int8
from stages.export.models.reference_outputs import noise, write_reference
from stages.export.models.tflite_editor import Graph
from stages.export.models.tflite_interpreter import TensorDetails, TFLiteModel
from stages.export.quantization.activation_ranges import choose_ranges
from stages.export.quantization.logistic_ties import avoid_ties
from stages.export.quantization.onnx_to_keras import (
    Network,
    check_agreement,
    name_tensors,
    open_network,
    rebuild,
)
from stages.export.quantization.weight_rounding import round_weights
from stages.results.quantize import FileSizes, Granularity, QuantizeResult
from stages.results.tensors import Tensor

INPUT_SCALE = np.float32(1) / np.float32(255)
INPUT_ZERO_POINT = -128

#: So many calibration images go into reference.npz, and one of noise: calibration images alone need
#: not reach the ends of any range.
REFERENCE_IMAGES = 2

#: An output that is constant over so many images is reported as dead.
DEAD_AFTER_IMAGES = 8

PACKAGES = ("tensorflow-cpu", "onnx2tf", "onnx", "numpy")


def run(job: Job, events: Events) -> QuantizeResult:
    """Convert, quantise, check, and write both models."""
    granularity: Granularity = job.params["granularity"]
    exported = open_network(job.inputs / "model.onnx")
    images = read_images(job, exported)
    network = exported.ordered(job.params["order"] or exported.output_names)
    float_model = convert(exported, network, images)
    check_agreement(network, float_model, as_float(images[:1]))
    (job.out / "float32.tflite").write_bytes(float_model)
    int8_model, per_channel = quantize(float_model, network, images, granularity, events)
    (job.out / "int8.tflite").write_bytes(int8_model)
    reference(int8_model, images, job.out / "reference.npz")
    inputs, outputs, operators = describe(int8_model, network)
    for name in dead_outputs(int8_model, network, images):
        events.warning(
            f"output {name} is the same number everywhere on the calibration images",
            hint="the model has learnt nothing there, or the calibration images show no object",
        )
    return QuantizeResult(
        inputs=inputs,
        outputs=outputs,
        operators=operators,
        bytes=FileSizes(float32=len(float_model), int8=len(int8_model)),
        calibration_images=len(images),
        granularity=granularity,
        per_channel_layers=tuple(per_channel),
        versions={package: version(package) for package in PACKAGES},
    )


def convert(exported: Network, network: Network, images: Pixels) -> bytes:
    """The float TFLite model, its outputs in the order of ``network``, its layers named."""
    model = rebuild(exported, images)
    positions = [exported.output_names.index(name) for name in network.output_names]

    def in_order(pixels: tf.Tensor) -> list[tf.Tensor]:
        outputs = tf.nest.flatten(model(pixels))
        return [outputs[position] for position in positions]

    signature = tf.TensorSpec((1, *network.image_shape), tf.float32, name=network.input_name)
    function = tf.function(in_order, autograph=False).get_concrete_function(signature)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
    return name_tensors(_converted("float32", converter.convert), network)


def quantize(
    float_model: bytes,
    network: Network,
    images: Pixels,
    granularity: Granularity,
    events: Events,
) -> tuple[bytes, list[str]]:
    """The int8 model, and the layers with a scale for each channel."""
    names = network.output_names
    ranged = choose_ranges(
        float_model,
        images,
        scores=[number for number, name in enumerate(names) if name.startswith("score")],
        progress=lambda done: events.progress(done, len(images), "calibration images"),
    )
    plain = to_int8(ranged, per_channel=granularity != "per-tensor")
    check_full_int8(plain)
    rounded, per_channel = round_weights(
        float_model,
        plain,
        images,
        granularity=granularity,
        progress=lambda done, total: events.progress(done, total, "layers"),
    )
    return avoid_ties(rounded), per_channel


def to_int8(ranged: bytes, *, per_channel: bool) -> bytes:
    """A float model with a range for each tensor, quantised by TensorFlow."""
    return _converted(
        "int8",
        lambda: mlir_quantize(
            ranged,
            disable_per_channel=not per_channel,
            fully_quantize=True,
            input_data_type=tf.int8,
            output_data_type=tf.int8,
        ),
    )


def read_images(job: Job, network: Network) -> Pixels:
    """The calibration images, uint8 [n,H,W,C]; raises StepFailed if they do not fit the model."""
    images: Pixels = np.load(job.inputs / "calibration.npy", mmap_mode="r")
    if images.dtype != np.uint8 or images.shape[1:] != network.image_shape or not len(images):
        raise StepFailed(
            "model",
            f"calibration.npy is {images.dtype} {list(images.shape)}, "
            f"the model takes uint8 images of {list(network.image_shape)}",
            hint="model.onnx and calibration.npy must be made for the same image size",
        )
    return images


def describe(
    model: bytes, network: Network
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], dict[str, int]]:
    """Inputs, outputs and operators by type of the int8 model.

    Raises StepFailed unless the input is quantised as the firmware writes it.
    """
    opened = TFLiteModel(model, kernels="builtin")
    source = _tensor(network.input_name, opened.inputs[0])
    if (source.scale, source.zero_point) != (float(INPUT_SCALE), INPUT_ZERO_POINT):
        raise StepFailed(
            "model",
            f"the input came out with scale {source.scale:.9g} and zero point "
            f"{source.zero_point}; the firmware writes scale 1/255 and zero point -128",
            hint="the model must take the pixels as 0..1 and nothing may stand before its input",
        )
    operators = collections.Counter(each.type for each in Graph(model).operators)
    named = zip(network.output_names, opened.outputs, strict=True)
    return (source,), tuple(_tensor(*pair) for pair in named), dict(sorted(operators.items()))


def reference(model: bytes, images: Pixels, path: Path) -> None:
    """Keep what the reference kernels give for calibration images and for noise."""
    shown = np.concatenate([images[:REFERENCE_IMAGES], noise(1, images.shape[1:])])
    write_reference(path, TFLiteModel(model, kernels="reference"), as_int8(shown))


def check_full_int8(model: bytes) -> None:
    """Raise StepFailed if a tensor is float: TensorFlow Lite has no int8 form of some layer."""
    graph = Graph(model)
    floats = graph.float_tensors
    if not floats:
        return
    makers = {each.type for each in graph.operators if floats.intersection(each.outputs)}
    raise StepFailed(
        "model",
        f"{len(floats)} tensors stayed float, made by {', '.join(sorted(makers))}",
        hint="TensorFlow Lite has no int8 form of one of these; use another activation or layer",
    )


def dead_outputs(model: bytes, network: Network, images: Pixels) -> list[str]:
    """Names of the outputs that hold one single int8 value on the first images."""
    opened = TFLiteModel(model, kernels="delegate")
    results = [opened.run(as_int8(image)[None]) for image in images[:DEAD_AFTER_IMAGES]]
    return [
        name
        for index, (name, _) in enumerate(network.outputs)
        if np.ptp(np.stack([outputs[index] for outputs in results]).astype(np.int16)) == 0
    ]


def _converted(kind: str, work: Callable[[], Any]) -> bytes:
    """The result of one of TensorFlow's converters; raises StepFailed with its message."""
    try:
        return bytes(work())
    except (ConverterError, RuntimeError, ValueError) as error:
        lines = str(error).strip().splitlines() or ["no reason given"]
        raise StepFailed(
            "model",
            f"TensorFlow cannot convert the network to {kind}: {lines[0]}",
            hint="the log has the whole report",
        ) from error


def _tensor(name: str, details: TensorDetails) -> Tensor:
    return Tensor(
        name=name,
        shape=details.shape,
        dtype=details.dtype.__name__,
        scale=details.scale,
        zero_point=details.zero_point,
    )


if __name__ == "__main__":
    main(run)
