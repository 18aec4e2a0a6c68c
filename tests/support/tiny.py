"""Networks of one convolution, for what a real one would be too slow or too good to show."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tests.support.fixtures import RunScript

SCRIPT = """
import sys
from pathlib import Path
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

kind, folder = sys.argv[1], Path(sys.argv[2])
random = np.random.default_rng(0)
activation = {"raw": "Relu", "float": "Sin", "unknown": "DeformConv"}[kind]
nodes = [
    helper.make_node("Conv", ["images", "kernel"], ["a"], kernel_shape=[3, 3], pads=[1] * 4),
    helper.make_node(activation, ["a"], ["b"]),
    helper.make_node("Reshape", ["b", "rows"], ["live"]),
    helper.make_node("Mul", ["live", "zero"], ["dead"]),
]
constants = {
    "kernel": random.normal(size=(8, 1, 3, 3)).astype(np.float32),
    "rows": np.array([1, 8, -1]),
    "zero": np.zeros(1, np.float32),
}
def value(name, shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

graph = helper.make_graph(
    nodes,
    "tiny",
    [value("images", [1, 1, 32, 32])],
    [value("live", [1, 8, 1024]), value("dead", [1, 8, 1024])],
    [numpy_helper.from_array(array, name) for name, array in constants.items()],
)
opset = [helper.make_opsetid("", 13)]
onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), folder / "model.onnx")
np.save(folder / "calibration.npy", random.integers(1, 255, (4, 32, 32, 1), dtype=np.uint8))
"""


def make_tiny(
    run_script: RunScript, kind: Literal["raw", "float", "unknown"], folder: Path
) -> dict[str, Path]:
    """Inputs for `quantize`: a network that takes grey images and gives [1,8,1024] twice.

    ``raw`` reshapes without turning the channels to the end first, which costs a transpose;
    ``float`` has a layer without an int8 form, ``unknown`` one that onnx2tf does not know. The
    second output is all zeros. The images never reach 0 or 255.
    """
    run_script("export", SCRIPT, kind, folder)
    return {name: folder / name for name in ("model.onnx", "calibration.npy")}
