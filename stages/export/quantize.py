"""Quantise the exported network to full int8, in and out.

``params``: granularity (mixed, per-tensor or per-channel: which weights share a step), order (the
outputs by name as the files are to give them, or null: as in the network).
``in/``: model.onnx, calibration.npy (uint8 [n,H,W,C]). ``out/``: float32.tflite and int8.tflite.

The firmware writes ``pixel - 128`` into the model's input, so the input is scale 1/255 and zero
point -128 exactly, or the step fails.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.lite.python.convert import mlir_quantize
from tensorflow.lite.python.convert_phase import ConverterError

from stages.contract import Events, Job, StepFailed, main
from stages.export.evaluation.preprocess import Pixels, as_float, as_int8
from stages.export.quantization.activation_ranges import choose_ranges
from stages.export.quantization.onnx_to_keras import (
    Network,
    check_agreement,
    infer,
    name_tensors,
    open_network,
    rebuild,
)
from stages.export.quantization.weight_rounding import fit_kernels
from stages.results.quantize import FileSizes, Granularity, QuantizeResult
from stages.results.tensors import Tensor

INPUT_SCALE = np.float32(1) / np.float32(255)
INPUT_ZERO_POINT = -128

#: Pixels on which an output must vary at all, or it is called dead.
PROBES = 8

PACKAGES = ("tensorflow-cpu", "onnx2tf", "onnx", "numpy")


def run(job: Job, events: Events) -> QuantizeResult:
    """Convert, quantise, check, and write both models."""
    granularity: Granularity = job.params["granularity"]
    given = open_network(job.inputs / "model.onnx")
    images = read_images(job, given)
    network = given.ordered(job.params["order"] or given.output_names)
    float_model = convert(given, network, images)
    check_agreement(network, float_model, as_float(images[:1]))
    (job.out / "float32.tflite").write_bytes(float_model)
    int8_model, per_channel = quantize(float_model, network, images, granularity, events)
    (job.out / "int8.tflite").write_bytes(int8_model)
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


def convert(given: Network, network: Network, images: Pixels) -> bytes:
    """The float TFLite model, its outputs in the order of ``network``, its layers named."""
    model = rebuild(given, images)
    positions = [given.output_names.index(name) for name in network.output_names]

    def answer(pixels: tf.Tensor) -> list[tf.Tensor]:
        answers = tf.nest.flatten(model(pixels))
        return [answers[position] for position in positions]

    signature = tf.TensorSpec((1, *network.image_shape), tf.float32, name=network.input_name)
    function = tf.function(answer, autograph=False).get_concrete_function(signature)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
    return name_tensors(_in_words("float32", converter.convert), network)


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
    return fit_kernels(
        float_model,
        plain,
        images,
        granularity=granularity,
        progress=lambda done, total: events.progress(done, total, "layers"),
    )


def to_int8(ranged: bytes, *, per_channel: bool) -> bytes:
    """What TensorFlow's own quantiser makes of a float model with a range for each tensor."""
    return _in_words(
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
    """The calibration images, uint8 [n,H,W,C]; raises StepFailed if they are not the model's."""
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
    """Inputs, outputs and operator counts of the int8 model; raises StepFailed if the input is not
    the firmware's."""
    interpreter = tf.lite.Interpreter(model_content=model)
    layers = interpreter._get_ops_details()
    source = _tensor(network.input_name, interpreter.get_input_details()[0])
    if (source.scale, source.zero_point) != (float(INPUT_SCALE), INPUT_ZERO_POINT):
        raise StepFailed(
            "model",
            f"the input came out with scale {source.scale:.9g} and zero point "
            f"{source.zero_point}; the firmware writes scale 1/255 and zero point -128",
            hint="the model must take the pixels as 0..1 and nothing may stand before its input",
        )
    operators = collections.Counter(layer["op_name"] for layer in layers)
    outputs = interpreter.get_output_details()
    results = tuple(_tensor(*pair) for pair in zip(network.output_names, outputs, strict=True))
    return (source,), results, dict(sorted(operators.items()))


def check_full_int8(model: bytes) -> None:
    """Raise StepFailed if a tensor is float: a layer that TensorFlow Lite has no int8 form of."""
    interpreter = tf.lite.Interpreter(model_content=model)
    tensors, layers = interpreter.get_tensor_details(), interpreter._get_ops_details()
    floats = {each["index"] for each in tensors if np.issubdtype(each["dtype"], np.floating)}
    if not floats:
        return
    makers = {layer["op_name"] for layer in layers if floats.intersection(layer["outputs"])}
    raise StepFailed(
        "model",
        f"{len(floats)} tensors stayed float, made by {', '.join(sorted(makers))}",
        hint="TensorFlow Lite has no int8 form of one of these; use another activation or layer",
    )


def dead_outputs(model: bytes, network: Network, images: Pixels) -> list[str]:
    """Names of the outputs that hold one single int8 value over all probe images."""
    answers = infer(model, [as_int8(image)[None] for image in images[:PROBES]])
    return [
        name
        for index, (name, _) in enumerate(network.outputs)
        if np.ptp(np.stack([answer[index] for answer in answers]).astype(np.int16)) == 0
    ]


def _in_words(kind: str, work: Callable[[], Any]) -> bytes:
    """What one of TensorFlow's converters gives; raises StepFailed in its words."""
    try:
        return bytes(work())
    except (ConverterError, RuntimeError, ValueError) as error:
        lines = str(error).strip().splitlines() or ["no reason given"]
        raise StepFailed(
            "model",
            f"TensorFlow cannot convert the network to {kind}: {lines[0]}",
            hint="the log has the whole report",
        ) from error


def _tensor(name: str, details: Mapping[str, Any]) -> Tensor:
    scale, zero_point = details["quantization"]
    return Tensor(
        name=name,
        shape=tuple(details["shape"].tolist()),
        dtype=details["dtype"].__name__,
        scale=float(scale),
        zero_point=int(zero_point),
    )


if __name__ == "__main__":
    main(run)
