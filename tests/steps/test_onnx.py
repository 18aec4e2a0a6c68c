"""The exported network against the original."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from stages.results.onnx import Output
from tests.support.checkout import ROOT
from tests.support.fixtures import RunScript, RunStep
from tests.support.shared_results import IMGSZ

ROWS = [(IMGSZ // stride) ** 2 for stride in (8, 16, 32)]

#: Run in the train environment: what the original's own head gives for images.npy, and what the
#: export says to weights that are not finite.
_ORIGINALS = """
import sys
from pathlib import Path
from stages.contract import StepFailed
from stages.train import onnx
from stages.train.weights import checkpoint
from stages.train.weights.raw_heads import RawHeads
import numpy as np, torch
folder = Path(sys.argv[1])
images = torch.from_numpy(np.load(folder / "images.npy"))
for weights in sys.argv[2:]:
    model, meta = checkpoint.load(Path(weights))
    with torch.no_grad():
        decoded, heads = model(images)
    names = ["boxes", "scores"] + (["kpts"] if meta.task == "pose" else [])
    np.savez(folder / meta.task, decoded=decoded, **{name: heads[name] for name in names})
model.model[0].conv.weight.data[0] = float("nan")
try:
    onnx.check_same_function(model, RawHeads(model, split_c2f=True).eval(), images.shape[-1])
except StepFailed as error:
    print(error.kind)
"""

#: Run in the export environment: what the exported network gives.
_EXPORTED = """
import sys
import numpy as np, onnx, onnxruntime
onnx.checker.check_model(onnx.load(sys.argv[1]), full_check=True)
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
names = [output.name for output in session.get_outputs()]
runs = [session.run(None, {"images": image[None]}) for image in np.load(sys.argv[2])]
np.savez(sys.argv[3], **{name: np.concatenate(each) for name, each in zip(names, zip(*runs))})
"""

#: Run in the export environment: every operator with what it takes and gives.
_NODES = """
import json, sys
import onnx
model = onnx.load(sys.argv[1])
print(json.dumps([[n.op_type, list(n.input), list(n.output)] for n in model.graph.node]))
"""

Arrays = Mapping[str, NDArray[np.float32]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Originals:
    """Images, float32 [n, 3, S, S]; the outputs of each task's network; a failure's kind."""

    images: Path
    heads: Mapping[str, Arrays]
    spoilt: str


@pytest.fixture(scope="module")
def originals(
    run_script: RunScript,
    pose_weights: Path,
    detect_weights: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Originals:
    folder = tmp_path_factory.mktemp("originals")
    images = np.random.default_rng(0).random((3, 3, IMGSZ, IMGSZ), dtype=np.float32)
    np.save(folder / "images.npy", images)
    weights = [each / "weights.safetensors" for each in (pose_weights, detect_weights)]
    said = run_script("train", _ORIGINALS, folder, *weights)
    heads = {task: np.load(folder / f"{task}.npz") for task in ("pose", "detect")}
    return Originals(images=folder / "images.npy", heads=heads, spoilt=said.strip())


def _exported(run_script: RunScript, model: Path, images: Path, folder: Path) -> Arrays:
    run_script("export", _EXPORTED, model, images, folder / "exported.npz")
    return np.load(folder / "exported.npz")  # type: ignore[no-any-return]


def _check_heads(original: Arrays, found: Arrays) -> None:
    """The exported rows are the original's columns, stride by stride."""
    for kind, name in (("box", "boxes"), ("score", "scores")):
        joined = np.concatenate([found[f"{kind}{stride}"] for stride in (8, 16, 32)], axis=1)
        np.testing.assert_allclose(joined, original[name].transpose(0, 2, 1), atol=2e-4)
        assert original[name].std() > 1e-3
    assert ("keypoints" in found) == ("kpts" in original)
    if "kpts" in original:
        expected = original["kpts"].transpose(0, 2, 1)
        np.testing.assert_allclose(found["keypoints"], expected, atol=2e-4)


@pytest.mark.parametrize("task", ["pose", "detect"])
def test_the_exported_network_is_the_original(
    request: pytest.FixtureRequest,
    run_script: RunScript,
    originals: Originals,
    tmp_path: Path,
    task: str,
) -> None:
    model = request.getfixturevalue(f"{task}_onnx") / "model.onnx"
    found = _exported(run_script, model, originals.images, tmp_path)
    _check_heads(originals.heads[task], found)


def test_weights_that_are_not_finite_are_not_exported(originals: Originals) -> None:
    assert originals.spoilt == "model"


def test_raw_outputs_decode_to_what_ultralytics_decodes(
    originals: Originals, pose_onnx: Path, run_script: RunScript, tmp_path: Path
) -> None:
    """As the firmware reads them: distances in cells, keypoints from the cell's corner."""
    expected = originals.heads["pose"]["decoded"][0].T
    model = pose_onnx / "model.onnx"
    found = _exported(run_script, model, originals.images, tmp_path)
    start = 0
    for stride, rows in zip((8, 16, 32), ROWS, strict=True):
        side = IMGSZ // stride
        cells = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2)
        bins = np.exp(found[f"box{stride}"][0].reshape(-1, 4, 16))
        distances = (bins / bins.sum(-1, keepdims=True)) @ np.arange(16)
        low = (cells + 0.5 - distances[:, :2]) * stride
        high = (cells + 0.5 + distances[:, 2:]) * stride
        mine = expected[start : start + rows]
        np.testing.assert_allclose((low + high) / 2, mine[:, :2], atol=1e-2)
        np.testing.assert_allclose(high - low, mine[:, 2:4], atol=1e-2)
        scores = 1 / (1 + np.exp(-found[f"score{stride}"][0, :, 0]))
        np.testing.assert_allclose(scores, mine[:, 4], atol=1e-4)
        points = found["keypoints"][0, start : start + rows].reshape(-1, 17, 3)
        place = (points[..., :2] * 2 + cells[:, None]) * stride
        np.testing.assert_allclose(place, mine[:, 5:].reshape(-1, 17, 3)[..., :2], atol=1e-2)
        start += rows


def test_outputs_have_the_shapes_that_the_firmware_tells_them_by(
    run_step: RunStep, pose_weights: Path, pose_onnx: Path
) -> None:
    inputs = {"weights.safetensors": pose_weights / "weights.safetensors"}
    again = run_step("onnx", {"imgsz": IMGSZ}, inputs).expect_success()
    heads = [
        Output(name=f"{kind}{stride}", shape=(1, rows, width))
        for stride, rows in zip((8, 16, 32), ROWS, strict=True)
        for kind, width in (("box", 64), ("score", 1))
    ]
    keypoints = Output(name="keypoints", shape=(1, sum(ROWS), 51))
    assert again.result.outputs == (*heads, keypoints)
    assert again.result.macs > 10_000_000
    assert (again.out / "model.onnx").read_bytes() == (pose_onnx / "model.onnx").read_bytes()
    assert b"/home" not in (pose_onnx / "model.onnx").read_bytes()
    assert str(ROOT).encode() not in (pose_onnx / "model.onnx").read_bytes()


def test_only_single_branches_are_turned(run_script: RunScript, detect_onnx: Path) -> None:
    """A transpose directly behind a convolution vanishes in NHWC; any other stays on the board."""
    nodes = json.loads(run_script("export", _NODES, detect_onnx / "model.onnx"))
    makers = {output: kind for kind, _inputs, outputs in nodes for output in outputs}
    turned = [makers[inputs[0]] for kind, inputs, _outputs in nodes if kind == "Transpose"]
    assert turned == ["Conv"] * 6
    kinds = {kind for kind, _inputs, _outputs in nodes}
    assert not kinds & {"Split", "Slice", "StridedSlice", "Softmax"}


def test_an_unsplit_network_is_the_original_too(
    run_step: RunStep,
    detect_weights: Path,
    originals: Originals,
    run_script: RunScript,
    tmp_path: Path,
) -> None:
    inputs = {"weights.safetensors": detect_weights / "weights.safetensors"}
    out = run_step("onnx", {"imgsz": IMGSZ, "split_c2f": False}, inputs).expect_success().out
    found = _exported(run_script, out / "model.onnx", originals.images, tmp_path)
    _check_heads(originals.heads["detect"], found)
