"""The exported network: the ends of its ONNX file, and the same network in TensorFlow."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx2tf
import tensorflow as tf
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from stages.contract import EXIT_TERMINATED, StepFailed
from stages.export.models.model_runners import open_session
from stages.export.models.preprocess import Floats, Pixels, as_float
from stages.export.models.tflite_editor import Graph
from stages.export.models.tflite_interpreter import TFLiteModel

#: onnx2tf compares layer by layer on this file; it downloads it unless the working folder has it.
SAMPLE_FILE = "calibration_image_sample_data_20x128x128x3_float32.npy"
SAMPLE_COUNT, SAMPLE_SIZE = 20, 128

#: Largest accepted difference between outputs of ONNX and TensorFlow, in parts of their range.
TOLERANCE = 1e-3

#: A convolution's weights in ONNX: output channels, input channels, height and width.
WEIGHT_AXES = 4

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """Names and shapes of the input [1,C,H,W] and the outputs of an ONNX file, in order."""

    path: Path
    input_name: str
    input_shape: Shape
    outputs: tuple[tuple[str, Shape], ...]

    @property
    def image_shape(self) -> Shape:
        """(H, W, C) of the one image that the network takes."""
        _, channels, height, width = self.input_shape
        return height, width, channels

    @property
    def output_names(self) -> list[str]:
        return [name for name, _ in self.outputs]

    def ordered(self, names: Sequence[str]) -> Network:
        """The same with its outputs in the order of these names; raises StepFailed("model")."""
        shapes = dict(self.outputs)
        if sorted(names) != sorted(shapes):
            raise StepFailed(
                "model",
                f"the network gives {', '.join(shapes)}; wanted are {', '.join(names)}",
                hint="a firmware that reads outputs by position takes exactly these",
            )
        return dataclasses.replace(self, outputs=tuple((name, shapes[name]) for name in names))


def open_network(path: Path) -> Network:
    """Read inputs and outputs of an ONNX file; raises StepFailed unless it takes one image."""
    try:
        graph = onnx.load(str(path)).graph
    except (DecodeError, OSError) as error:
        raise StepFailed("model", f"{path.name} cannot be read as ONNX: {error}") from error
    inputs = [(value.name, _shape_of(value)) for value in graph.input]
    outputs = tuple((value.name, _shape_of(value)) for value in graph.output)
    if len(inputs) != 1 or len(inputs[0][1]) != 4 or any(0 in shape for _, shape in outputs):
        raise StepFailed(
            "model",
            f"{path.name} must have one input of shape [1,C,H,W] and outputs of fixed shape",
            hint="export it with the step `onnx`",
        )
    return Network(path=path, input_name=inputs[0][0], input_shape=inputs[0][1], outputs=outputs)


def rebuild(network: Network, images: Pixels) -> tf.keras.Model:
    """Build the network as a Keras model that takes float32 [1,H,W,C]; raises StepFailed.

    onnx2tf rewrites its input file and leaves others beside it, so it is given a copy.
    """
    output = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        shutil.copyfile(network.path, "model.onnx")
        np.save(SAMPLE_FILE, sample_images(images))
        try:
            with contextlib.redirect_stdout(output), _ending_at_once():
                return onnx2tf.convert(
                    input_onnx_file_path="model.onnx",
                    disable_model_save=True,
                    not_use_onnxsim=True,
                    non_verbose=True,
                )
        except SystemExit as error:
            raise StepFailed(
                "model",
                f"onnx2tf cannot convert the network: {_reason(output.getvalue())}",
                hint="the log has its whole report; a plain yolov8 architecture converts",
            ) from error
        finally:
            sys.stderr.write(output.getvalue())


def check_agreement(network: Network, float_model: bytes, image: Floats) -> None:
    """Compare the float TFLite model with the ONNX file on one image [1,H,W,C].

    Raises StepFailed("model") if their outputs differ.
    """
    session = open_session(network.path)
    expected = session.run(network.output_names, {network.input_name: image.transpose(0, 3, 1, 2)})
    found = TFLiteModel(float_model, kernels="delegate").run(image)
    for (name, shape), want, have in zip(network.outputs, expected, found, strict=True):
        if have.shape != shape:
            raise StepFailed(
                "model", f"output {name} has the shape {have.shape} in TensorFlow, not {shape}"
            )
        difference = float(np.abs(want - have).max())
        if difference > TOLERANCE * max(1.0, float(np.ptp(want))):
            raise StepFailed(
                "model",
                f"output {name} differs by {difference:.3g} between ONNX and TensorFlow",
                hint="onnx2tf has converted a layer wrongly; report the model's architecture",
            )


def name_tensors(float_model: bytes, network: Network) -> bytes:
    """Give the outputs their names in the ONNX file, which the conversion loses, and the output of
    each convolution the name of its layer there, such as ``layers.0.conv``.

    Layers are recognised by their weights, which are the same in both; of layers with equal
    weights only the first is named.
    """
    names: dict[bytes, str] = {}
    for each in onnx.load(str(network.path)).graph.initializer:
        if len(each.dims) == WEIGHT_AXES:
            weights = numpy_helper.to_array(each).transpose(0, 2, 3, 1)
            names.setdefault(weights.tobytes(), each.name.removesuffix(".weight"))
    graph = Graph(float_model)
    for operator in graph.operators:
        if operator.type == "CONV_2D":
            content = graph.constant(operator.inputs[1], np.float32).tobytes()
            name = names.pop(content, graph.name(operator.outputs[0]))
            graph.rename(operator.outputs[0], name)
    for tensor, name in zip(graph.outputs, network.output_names, strict=True):
        graph.rename(tensor, name)
    return graph.to_bytes()


def sample_images(images: Pixels) -> Floats:
    """The calibration images as float32 [20,128,128,3], 0 to 1, resized to the nearest pixel."""
    count, height, width, _ = images.shape
    rows = np.arange(SAMPLE_SIZE) * height // SAMPLE_SIZE
    columns = np.arange(SAMPLE_SIZE) * width // SAMPLE_SIZE
    chosen = images[np.arange(SAMPLE_COUNT) % count][:, rows][:, :, columns]
    colours = np.broadcast_to(chosen, (*chosen.shape[:3], 3))
    return as_float(colours)


@contextlib.contextmanager
def _ending_at_once() -> Iterator[None]:
    """Let SIGTERM end the process at once.

    onnx2tf has bare ``except:`` clauses, which would swallow the contract's exception.
    """
    usual = signal.signal(signal.SIGTERM, lambda *_: os._exit(EXIT_TERMINATED))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, usual)


def _shape_of(value: onnx.ValueInfoProto) -> Shape:
    """The shape of an ONNX input or output; 0 for a size that is not fixed."""
    return tuple(size.dim_value for size in value.type.tensor_type.shape.dim)


def _reason(output: str) -> str:
    """The exception in onnx2tf's error report, and the layer in which it arose."""
    plain = re.sub(r"\x1b\[\d+m", "", output)
    layer = re.search(r"^ERROR: onnx_op_name: (.+)$", plain, re.MULTILINE)
    raised = re.findall(
        r"^(?:ERROR: (?!The trace)|\w+(?:Error|Exception): ).+$", plain, re.MULTILINE
    )
    cause = raised[0].removeprefix("ERROR: ") if raised else "it gave no reason; see the log"
    return f"{cause} (at {layer[1]})" if layer else cause
