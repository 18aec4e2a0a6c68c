"""The exported network against the original, and the pictures that go with it."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.integration.conftest import IMGSZ, ROOT, RunStep

PARAMS = {"imgsz": IMGSZ, "calibration": 4, "evaluation": 4, "letterbox": False, "split_c2f": True}
ROWS = [(IMGSZ // stride) ** 2 for stride in (8, 16, 32)]

#: Run in the train environment: what the original's own head gives for images.npy, and what the
#: export says to weights that hold no numbers.
_ORIGINALS = """
import sys
from pathlib import Path
from stages.contract import StepFailed
from stages.train import checkpoint, onnx
from stages.train.raw_heads import RawHeads
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

#: Run in the train environment: the same picture turned, grey and with alpha.
_PICTURES = """
import sys
from pathlib import Path
import numpy as np
from PIL import Image
folder = Path(sys.argv[1])
for path in folder.iterdir():
    path.unlink()
pixels = np.load(sys.argv[2])
upright = Image.fromarray(pixels)
upright.save(folder / "a-upright.png")
exif = Image.Exif()
exif[0x0112] = 6
upright.rotate(90, expand=True).save(folder / "b-turned.jpg", exif=exif, quality=100, subsampling=0)
upright.convert("L").save(folder / "c-grey.png")
upright.putalpha(7)
upright.save(folder / "d-alpha.png")
"""

Python = Callable[[str], Path]
Arrays = Mapping[str, NDArray[np.float32]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Originals:
    """Images, float32 [n, 3, S, S]; what each task's network makes of them; a failure's kind."""

    images: Path
    heads: Mapping[str, Arrays]
    spoilt: str


@pytest.fixture(scope="module")
def originals(
    env_python: Python,
    pose_weights: Path,
    detect_weights: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Originals:
    folder = tmp_path_factory.mktemp("originals")
    images = np.random.default_rng(0).random((3, 3, IMGSZ, IMGSZ), dtype=np.float32)
    np.save(folder / "images.npy", images)
    weights = [each / "weights.safetensors" for each in (pose_weights, detect_weights)]
    said = _script(env_python("train"), _ORIGINALS, folder, *weights)
    heads = {task: np.load(folder / f"{task}.npz") for task in ("pose", "detect")}
    return Originals(images=folder / "images.npy", heads=heads, spoilt=said.strip())


def _script(python: Path, code: str, *arguments: Path) -> str:
    done = subprocess.run(
        [python, "-c", code, *arguments],
        check=True,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": ""},
    )
    return done.stdout


def _exported(python: Path, model: Path, images: Path, folder: Path) -> Arrays:
    _script(python, _EXPORTED, model, images, folder / "exported.npz")
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
    env_python: Python,
    originals: Originals,
    tmp_path: Path,
    task: str,
) -> None:
    model = request.getfixturevalue(f"{task}_onnx") / "model.onnx"
    found = _exported(env_python("export"), model, originals.images, tmp_path)
    _check_heads(originals.heads[task], found)


def test_weights_that_are_no_numbers_are_not_exported(originals: Originals) -> None:
    assert originals.spoilt == "model"


def test_raw_outputs_decode_to_what_ultralytics_decodes(
    originals: Originals, pose_onnx: Path, env_python: Python, tmp_path: Path
) -> None:
    """As the firmware reads them: distances in cells, keypoints from the cell's corner."""
    expected = originals.heads["pose"]["decoded"][0].T
    model = pose_onnx / "model.onnx"
    found = _exported(env_python("export"), model, originals.images, tmp_path)
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
    run_step: RunStep, pose_data: Path, pose_weights: Path, pose_onnx: Path
) -> None:
    inputs = {
        "weights.safetensors": pose_weights / "weights.safetensors",
        "data": pose_data / "data",
    }
    again = run_step("onnx", PARAMS, inputs).expect_success()
    assert again.result is not None
    heads = [
        {"name": f"{kind}{stride}", "shape": [1, rows, width]}
        for stride, rows in zip((8, 16, 32), ROWS, strict=True)
        for kind, width in (("box", 64), ("score", 1))
    ]
    keypoints = {"name": "keypoints", "shape": [1, sum(ROWS), 51]}
    assert again.result["outputs"] == [*heads, keypoints]
    assert again.result["macs"] > 10_000_000
    for name in ("model.onnx", "calibration.npy", "evaluation/images.npy", "evaluation/truth.json"):
        assert (again.out / name).read_bytes() == (pose_onnx / name).read_bytes(), name
    assert b"/home" not in (pose_onnx / "model.onnx").read_bytes()
    assert str(ROOT).encode() not in (pose_onnx / "model.onnx").read_bytes()


def test_only_single_branches_are_turned(env_python: Python, detect_onnx: Path) -> None:
    """A transpose directly behind a convolution vanishes in NHWC; any other stays on the board."""
    nodes = json.loads(_script(env_python("export"), _NODES, detect_onnx / "model.onnx"))
    makers = {output: kind for kind, _inputs, outputs in nodes for output in outputs}
    turned = [makers[inputs[0]] for kind, inputs, _outputs in nodes if kind == "Transpose"]
    assert turned == ["Conv"] * 6
    kinds = {kind for kind, _inputs, _outputs in nodes}
    assert not kinds & {"Split", "Slice", "StridedSlice", "Softmax"}


def _gradient(height: int, width: int) -> NDArray[np.uint8]:
    """A picture whose every pixel says where it is."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows, columns, (rows + columns) % 256], -1).astype(np.uint8)


def _own_pictures(source: Path, target: Path, python: Path, label: str) -> Path:
    """A copy of a data set whose val is one picture in four forms, the first of them labelled."""
    data = Path(shutil.copytree(source / "data", target / "data"))
    np.save(target / "pixels.npy", _gradient(120, 200))
    _script(python, _PICTURES, data / "images/val", target / "pixels.npy")
    for path in (data / "labels/val").iterdir():
        path.unlink()
    (data / "labels/val/a-upright.txt").write_text(label)
    return data


def test_pictures_are_sampled_as_the_firmware_samples_frames(
    run_step: RunStep, pose_weights: Path, pose_data: Path, env_python: Python, tmp_path: Path
) -> None:
    line = "0 0.5 0.25 0.5 0.5" + " 0.25 0.75 2" * 17 + "\n"
    data = _own_pictures(pose_data, tmp_path, env_python("train"), line * 2)
    inputs = {"weights.safetensors": pose_weights / "weights.safetensors", "data": data}
    out = run_step("onnx", PARAMS, inputs).expect_success().out
    squares = np.load(out / "calibration.npy")
    step_y, step_x = (120 << 16) // IMGSZ, (200 << 16) // IMGSZ
    for y in range(0, IMGSZ, 7):
        for x in range(0, IMGSZ, 5):
            row, column = (y * step_y) >> 16, (x * step_x) >> 16
            assert squares[0, y, x].tolist() == [row, column, (row + column) % 256]
    assert np.abs(squares[1].astype(int) - squares[0]).mean() < 4
    assert (squares[2, ..., 0] == squares[2, ..., 1]).all()
    assert (squares[3] == squares[0]).all()
    truth = json.loads((out / "evaluation/truth.json").read_text(encoding="utf-8"))
    box = [IMGSZ / 4, 0, IMGSZ * 3 / 4, IMGSZ / 2]
    keypoints = [[IMGSZ / 4, IMGSZ * 3 / 4, 2]] * 17
    assert truth[0] == {
        "file": "a-upright.png",
        "width": 200,
        "height": 120,
        "objects": [{"class": 0, "box": box, "keypoints": keypoints}],
    }
    assert (truth[1]["width"], truth[1]["height"]) == (200, 120)
    assert [each["objects"] for each in truth[1:]] == [[], [], []]


def test_a_letterbox_and_an_unsplit_network(
    run_step: RunStep,
    detect_weights: Path,
    detect_data: Path,
    originals: Originals,
    env_python: Python,
    tmp_path: Path,
) -> None:
    data = _own_pictures(detect_data, tmp_path, env_python("train"), "3 0.5 0.25 0.5 0.5\n")
    inputs = {"weights.safetensors": detect_weights / "weights.safetensors", "data": data}
    params = PARAMS | {"letterbox": True, "split_c2f": False}
    out = run_step("onnx", params, inputs).expect_success().out
    square = np.load(out / "calibration.npy")[0]
    height = round(120 * IMGSZ / 200)
    top = (IMGSZ - height) // 2
    assert (square[:top] == 114).all()
    assert (square[top + height :] == 114).all()
    assert square[top, 0].tolist() == [0, 0, 0]
    truth = json.loads((out / "evaluation/truth.json").read_text(encoding="utf-8"))
    box = [IMGSZ / 4, top, IMGSZ * 3 / 4, top + height / 2]
    assert truth[0]["objects"] == [{"class": 3, "box": box, "keypoints": None}]
    model = out / "model.onnx"
    found = _exported(env_python("export"), model, originals.images, tmp_path)
    _check_heads(originals.heads["detect"], found)


def _boxes(data: Path) -> dict[str, list[list[float]]]:
    """The labelled boxes of val by the picture's stem: x, y, width, height as parts."""
    return {
        path.stem: [[float(word) for word in line.split()[1:5]] for line in _lines(path)]
        for path in (data / "data/labels/val").glob("*.txt")
    }


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_truth_is_what_val_is_labelled_with(detect_data: Path, detect_onnx: Path) -> None:
    boxes = _boxes(detect_data)
    truth = json.loads((detect_onnx / "evaluation/truth.json").read_text(encoding="utf-8"))
    assert [each["file"] for each in truth] == sorted(f"{stem}.jpg" for stem in boxes)
    for each in truth:
        found = np.array([one["box"] for one in each["objects"]]) / IMGSZ
        x, y, width, height = np.array(boxes[Path(each["file"]).stem]).T
        corners = np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], -1)
        np.testing.assert_allclose(found, corners.clip(0, 1), atol=1e-3)
        assert all(one["keypoints"] is None for one in each["objects"])
