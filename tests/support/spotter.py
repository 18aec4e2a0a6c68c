"""A hand-made detector that is always right, and images with objects for it to find."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stages.contract import write_json
from stages.results.images import GroundTruth, LabelledImage
from tests.support.fixtures import RunScript

SIZE = 64
#: Its classes: a cell of 8x8 pixels in one colour. There is none of the last class.
NAMES = ["red", "green", "blue ● “spot”", "ghost"]
#: Class, column, row of the objects in each image.
SPOTS = {
    0: [(0, 1, 1), (1, 5, 5)],
    1: [(2, 3, 3)],
    2: [],
    3: [(0, 6, 1), (1, 1, 6), (2, 6, 6)],
    4: [(1, 2, 4), (0, 5, 1)],
}
#: Fainter cells that are no objects; they get lower scores.
DECOYS = {0: [(0, 3, 6)], 2: [(1, 6, 6), (2, 1, 3)]}
_FULL, _FAINT = 255, 150

#: Argv: form, file. A cell's score for a colour is 40 * (how much of the cell has it) - 20.
SCRIPT = """
import sys
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

form, file = sys.argv[1:]
nodes, constants, outputs, scores, boxes = [], {}, [], [], []

def value(name, *shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

def node(operator, sources, target, **attributes):
    nodes.append(helper.make_node(operator, sources, [target], **attributes))
    return target

def constant(name, array):
    constants[name] = np.asarray(array)
    return name

def branch(name, source, cells, kernel, bias):
    weight = constant(f"{name}_w", kernel[:, :, None, None])
    output = node("Conv", [source, weight, constant(f"{name}_b", bias)], f"{name}_c",
                kernel_shape=[1, 1])
    if form == "decoded":
        output = node("Sigmoid", [output], f"{name}_p")
        return node("Reshape", [output, constant(f"{name}_s", [1, len(bias), cells])], name)
    output = node("Transpose", [output], f"{name}_t", perm=[0, 2, 3, 1])
    outputs.append(value(name, 1, cells, len(bias)))
    return node("Reshape", [output, constant(f"{name}_s", [1, cells, len(bias)])], name)

one_cell = np.zeros((4, 16), np.float32)
one_cell[:, 1] = 20
for stride in (8, 16, 32):
    side = 64 // stride
    pooled = node("AveragePool", ["images"], f"pooled{stride}",
                  kernel_shape=[stride] * 2, strides=[stride] * 2)
    seen = np.full((4, 3), 0.01, np.float32)
    seen[:3] = np.eye(3) * (40 if stride == 8 else 0.01)
    if form == "raw":
        kernel = np.full((64, 3), 0.01, np.float32)
        branch(f"box{stride}", pooled, side**2, kernel, one_cell.ravel())
    bias = np.full(4, -20, np.float32)
    scores.append(branch(f"score{stride}", pooled, side**2, seen, bias))
    rows, columns = np.divmod(np.arange(side**2), side)
    sizes = np.full(side**2, 2)
    boxes.append(np.stack([columns + 0.5, rows + 0.5, sizes, sizes]) * stride / 64)
if form == "decoded":
    places = constant("boxes", np.concatenate(boxes, axis=1)[None].astype(np.float32))
    joined = node("Concat", scores, "scores", axis=2)
    node("Concat", [places, joined], "decoded", axis=1)
    outputs = [value("decoded", 1, 8, 84)]
graph = helper.make_graph(
    nodes, "spotter", [value("images", 1, 3, 64, 64)], outputs,
    [numpy_helper.from_array(array, name) for name, array in constants.items()],
)
opset = [helper.make_opsetid("", 13)]
model = helper.make_model(graph, opset_imports=opset, ir_version=8)
onnx.save(onnx.shape_inference.infer_shapes(model), file)
"""


def make_spotter(run_script: RunScript, form: Literal["raw", "decoded"], folder: Path) -> Path:
    """Write model.onnx, calibration.npy and evaluation/; the folder."""
    run_script("export", SCRIPT, form, folder / "model.onnx")
    images = np.stack([_draw(number) for number in SPOTS])
    np.save(folder / "calibration.npy", images)
    write_evaluation(folder / "evaluation", images, [_objects(spots) for spots in SPOTS.values()])
    return folder


def write_evaluation(
    folder: Path, images: NDArray[np.uint8], objects: list[list[dict[str, Any]]]
) -> Path:
    """Write the evaluation folder of the step `images`; the folder."""
    folder.mkdir()
    np.save(folder / "images.npy", images)
    images_of_truth = tuple(
        LabelledImage(file=f"{number}.jpg", width=SIZE, height=SIZE, objects=tuple(each))
        for number, each in enumerate(objects)
    )
    truth = GroundTruth(
        task="detect", names=tuple(NAMES), kpt_shape=None, skeleton=(), images=images_of_truth
    )
    write_json(folder / "truth.json", truth)
    return folder


def _draw(number: int) -> NDArray[np.uint8]:
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    for spots, value in ((SPOTS[number], _FULL), (DECOYS.get(number, []), _FAINT)):
        for colour, column, row in spots:
            image[8 * row : 8 * row + 8, 8 * column : 8 * column + 8, colour] = value
    return image


def _objects(spots: list[tuple[int, int, int]]) -> list[dict[str, Any]]:
    """A spot's box reaches a cell to each side of its centre."""
    return [
        {
            "class": colour,
            "box": [8 * column - 4, 8 * row - 4, 8 * column + 12, 8 * row + 12],
            "keypoints": None,
        }
        for colour, column, row in spots
    ]
