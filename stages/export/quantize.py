"""Quantise the exported network to full int8, in and out.

``params``: per_channel (bool). ``in/``: model.onnx, calibration.npy (uint8 [n,H,W,C]).
``out/``: float32.tflite and int8.tflite.

The firmware writes ``pixel - 128`` into the model's input, so the input is scale 1/255 and zero
point -128 exactly, or the step fails.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.lite.python.convert_phase import ConverterError

from stages.contract import Events, Job, StepFailed, main
from stages.export.network import (
    Floats,
    Images,
    Network,
    as_float,
    check_agreement,
    infer,
    open_network,
    rebuild,
)

INPUT_SCALE = np.float32(1) / np.float32(255)
INPUT_ZERO_POINT = -128

#: Images on which an output must vary at all, or it is called dead.
PROBES = 8

PACKAGES = ("tensorflow-cpu", "onnx2tf", "onnx", "numpy")


def run(job: Job, events: Events) -> Mapping[str, Any]:
    """Convert, quantise, check, and write both models."""
    per_channel = bool(job.params["per_channel"])
    network = open_network(job.inputs / "model.onnx")
    images = cover_range(read_images(job, network))
    model = rebuild(network, images)
    events.progress(1, 3, "conversions")
    converter = _converter(network, model)
    float_model = _convert(converter, "float32")
    check_agreement(network, float_model, as_float(images[:1]))
    events.progress(2, 3, "conversions")
    _ask_for_int8(converter, images, events, per_channel=per_channel)
    int8_model = _convert(converter, "int8")
    events.progress(3, 3, "conversions")
    facts = describe(int8_model, network)
    for name in dead_outputs(int8_model, network, images):
        events.warning(
            f"output {name} is the same number everywhere on the calibration images",
            hint="the model has learnt nothing there, or the calibration images show no object",
        )
    (job.out / "float32.tflite").write_bytes(float_model)
    (job.out / "int8.tflite").write_bytes(int8_model)
    return {
        **facts,
        "bytes": {"float32": len(float_model), "int8": len(int8_model)},
        "calibration_images": len(images),
        "per_channel": per_channel,
        "versions": {package: version(package) for package in PACKAGES},
    }


def read_images(job: Job, network: Network) -> Images:
    """The calibration images, uint8 [n,H,W,C]; raises StepFailed if they are not the model's."""
    images: Images = np.load(job.inputs / "calibration.npy", mmap_mode="r")
    if images.dtype != np.uint8 or images.shape[1:] != network.image_shape or not len(images):
        raise StepFailed(
            "model",
            f"calibration.npy is {images.dtype} {list(images.shape)}, "
            f"the model takes uint8 images of {list(network.image_shape)}",
            hint="model.onnx and calibration.npy must come from the same run of the step `onnx`",
        )
    return images


def cover_range(images: Images) -> Images:
    """The same images, with one byte of the first set to 0 and one to 255 where the set has none.

    The converter takes the input's scale from the lowest and highest pixel it is shown; the
    firmware's scale stands for 0..255 whatever the images hold. Two bytes of a corner pixel fix
    the scale and leave the ranges of the layers behind it alone.
    """
    low, high = int(images.min()), int(images.max())
    if (low, high) == (0, 255):
        return images
    covered = np.array(images)
    if low != 0:
        covered[0, 0, 0, 0] = 0
    if high != 255:
        covered[0, -1, -1, -1] = 255
    return covered


def describe(model: bytes, network: Network) -> dict[str, Any]:
    """Inputs, outputs and operator counts of the int8 model; raises StepFailed if it is not full
    int8 with the firmware's input."""
    interpreter = tf.lite.Interpreter(model_content=model)
    layers = interpreter._get_ops_details()
    _check_full_int8(interpreter.get_tensor_details(), layers)
    source = _tensor(network.input_name, interpreter.get_input_details()[0])
    if (source["scale"], source["zero_point"]) != (float(INPUT_SCALE), INPUT_ZERO_POINT):
        raise StepFailed(
            "model",
            f"the input came out with scale {source['scale']:.9g} and zero point "
            f"{source['zero_point']}; the firmware writes scale 1/255 and zero point -128",
            hint="the model must take the pixels as 0..1 and nothing may stand before its input",
        )
    operators = collections.Counter(layer["op_name"] for layer in layers)
    names = [name for name, _ in network.outputs]
    outputs = interpreter.get_output_details()
    return {
        "inputs": [source],
        "outputs": [_tensor(*pair) for pair in zip(names, outputs, strict=True)],
        "operators": dict(sorted(operators.items())),
    }


def dead_outputs(model: bytes, network: Network, images: Images) -> list[str]:
    """Names of the outputs that hold one single int8 value over all probe images."""
    probes = [(image.astype(np.int16) - 128).astype(np.int8)[None] for image in images[:PROBES]]
    answers = infer(model, probes)
    return [
        name
        for index, (name, _) in enumerate(network.outputs)
        if np.ptp(np.stack([answer[index] for answer in answers]).astype(np.int16)) == 0
    ]


def _converter(network: Network, model: tf.keras.Model) -> tf.lite.TFLiteConverter:
    """A converter of the float network whose input keeps its ONNX name."""
    shape = (1, *network.image_shape)
    signature = tf.TensorSpec(shape, tf.float32, name=network.input_name)
    function = tf.function(model).get_concrete_function(signature)
    return tf.lite.TFLiteConverter.from_concrete_functions([function])


def _ask_for_int8(
    converter: tf.lite.TFLiteConverter, images: Images, events: Events, *, per_channel: bool
) -> None:
    """Set a converter to full int8, calibrated on these images."""

    def representative() -> Iterator[list[Floats]]:
        for index in range(len(images)):
            yield [as_float(images[index : index + 1])]
            events.progress(index + 1, len(images), "calibration images")

    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.representative_dataset = representative
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8
    # The only switch for per-tensor weights; onnx2tf and ultralytics set the same one.
    converter._experimental_disable_per_channel = not per_channel


def _convert(converter: tf.lite.TFLiteConverter, kind: str) -> bytes:
    try:
        return bytes(converter.convert())
    except (ConverterError, RuntimeError, ValueError) as error:
        lines = str(error).strip().splitlines() or ["no reason given"]
        raise StepFailed(
            "model",
            f"TensorFlow cannot convert the network to {kind}: {lines[0]}",
            hint="the log has the whole report",
        ) from error


def _check_full_int8(
    tensors: Sequence[Mapping[str, Any]], layers: Sequence[Mapping[str, Any]]
) -> None:
    floats = {each["index"] for each in tensors if np.issubdtype(each["dtype"], np.floating)}
    if not floats:
        return
    makers = {layer["op_name"] for layer in layers if floats.intersection(layer["outputs"])}
    raise StepFailed(
        "model",
        f"{len(floats)} tensors stayed float, made by {', '.join(sorted(makers))}",
        hint="TensorFlow Lite has no int8 form of one of these; use another activation or layer",
    )


def _tensor(name: str, details: Mapping[str, Any]) -> dict[str, Any]:
    scale, zero_point = details["quantization"]
    return {
        "name": name,
        "shape": details["shape"].tolist(),
        "dtype": details["dtype"].__name__,
        "scale": float(scale),
        "zero_point": int(zero_point),
    }


if __name__ == "__main__":
    main(run)
