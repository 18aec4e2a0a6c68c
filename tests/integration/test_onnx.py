"""The exported network against the original, and the pictures that go with it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.integration.conftest import IMGSZ, ROOT, RunStep

PARAMS = {"imgsz": IMGSZ, "calibration": 4, "evaluation": 4, "letterbox": False, "split_c2f": True}
ROWS = [(IMGSZ // stride) ** 2 for stride in (8, 16, 32)]

#: Run in the train environment: what the original's own head gives for images.npy.
_ORIGINAL = """
import sys
from pathlib import Path
from stages.train import checkpoint
import numpy as np, torch
model, meta = checkpoint.load(Path(sys.argv[1]))
images = torch.from_numpy(np.load(sys.argv[2]))
with torch.no_grad():
    decoded, heads = model(images)
names = ["boxes", "scores"] + (["kpts"] if meta.task == "pose" else [])
np.savez(sys.argv[3], decoded=decoded, **{name: heads[name] for name in names})
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


def _script(python: Path, code: str, *arguments: Path) -> str:
    done = subprocess.run(
        [python, "-c", code, *arguments],
        check=True,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": ""},
        cwd=arguments[-1].parent,
    )
    return done.stdout


def _boxes(data: Path) -> dict[str, list[list[float]]]:
    """The labelled boxes of val by the picture's stem: x, y, width, height as parts."""
    return {
        path.stem: [[float(word) for word in line.split()[1:5]] for line in path.open()]
        for path in (data / "data/labels/val").glob("*.txt")
    }


@pytest.mark.parametrize(
    ("task", "split"), [("pose", True), ("pose", False), ("detect", True), ("detect", False)]
)
def test_the_exported_network_is_the_original(
    request: pytest.FixtureRequest,
    run_step: RunStep,
    env_python: Python,
    tmp_path: Path,
    task: str,
    split: bool,
) -> None:
    weights = request.getfixturevalue(f"{task}_weights") / "weights.safetensors"
    exported = request.getfixturevalue(f"{task}_onnx")
    if not split:
        data = request.getfixturevalue(f"{task}_data") / "data"
        inputs = {"weights.safetensors": weights, "data": data}
        exported = run_step("onnx", PARAMS | {"split_c2f": False}, inputs).expect_success().out
    images = np.random.default_rng(0).random((4, 3, IMGSZ, IMGSZ), dtype=np.float32)
    np.save(tmp_path / "images.npy", images)
    for name, code, model in (
        ("train", _ORIGINAL, weights),
        ("export", _EXPORTED, exported / "model.onnx"),
    ):
        _script(env_python(name), code, model, tmp_path / "images.npy", tmp_path / f"{name}.npz")
    original, found = np.load(tmp_path / "train.npz"), np.load(tmp_path / "export.npz")
    for kind, name in (("box", "boxes"), ("score", "scores")):
        joined = np.concatenate([found[f"{kind}{stride}"] for stride in (8, 16, 32)], axis=1)
        np.testing.assert_allclose(joined, original[name].transpose(0, 2, 1), atol=2e-4)
        assert original[name].std() > 1e-3
    if task == "pose":
        np.testing.assert_allclose(
            found["keypoints"], original["kpts"].transpose(0, 2, 1), atol=2e-4
        )


def test_raw_outputs_decode_to_what_ultralytics_decodes(
    pose_weights: Path, pose_onnx: Path, env_python: Python, tmp_path: Path
) -> None:
    """As the firmware reads them: distances in cells, keypoints from the cell's corner."""
    images = np.random.default_rng(1).random((1, 3, IMGSZ, IMGSZ), dtype=np.float32)
    np.save(tmp_path / "images.npy", images)
    weights, model = pose_weights / "weights.safetensors", pose_onnx / "model.onnx"
    _script(env_python("train"), _ORIGINAL, weights, tmp_path / "images.npy", tmp_path / "a.npz")
    _script(env_python("export"), _EXPORTED, model, tmp_path / "images.npy", tmp_path / "b.npz")
    expected, found = np.load(tmp_path / "a.npz")["decoded"][0].T, np.load(tmp_path / "b.npz")
    start = 0
    for stride in (8, 16, 32):
        side = IMGSZ // stride
        cells = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2)
        bins = np.exp(found[f"box{stride}"][0].reshape(-1, 4, 16))
        distances = (bins / bins.sum(-1, keepdims=True)) @ np.arange(16)
        low = (cells + 0.5 - distances[:, :2]) * stride
        high = (cells + 0.5 + distances[:, 2:]) * stride
        mine = expected[start : start + side * side]
        np.testing.assert_allclose((low + high) / 2, mine[:, :2], atol=1e-2)
        np.testing.assert_allclose(high - low, mine[:, 2:4], atol=1e-2)
        scores = 1 / (1 + np.exp(-found[f"score{stride}"][0, :, 0]))
        np.testing.assert_allclose(scores, mine[:, 4], atol=1e-4)
        points = found["keypoints"][0, start : start + side * side].reshape(-1, 17, 3)
        place = (points[..., :2] * 2 + cells[:, None]) * stride
        np.testing.assert_allclose(place, mine[:, 5:].reshape(-1, 17, 3)[..., :2], atol=1e-2)
        start += side * side


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


def _export_pictures(
    run_step: RunStep, weights: Path, data: Path, python: Path, **params: bool
) -> tuple[NDArray[np.uint8], list[dict[str, object]]]:
    np.save(data / "pixels.npy", _gradient(120, 200))
    _script(python, _PICTURES, data / "images/val", data / "pixels.npy")
    shutil.rmtree(data / "labels/val")
    (data / "labels/val").mkdir()
    label = "0 0.5 0.25 0.5 0.5" + " 0.25 0.75 2" * 17 + "\n"
    (data / "labels/val/a-upright.txt").write_text(label * 2)
    inputs = {"weights.safetensors": weights / "weights.safetensors", "data": data}
    out = run_step("onnx", PARAMS | params, inputs).expect_success().out
    truth = json.loads((out / "evaluation/truth.json").read_text(encoding="utf-8"))
    return np.load(out / "calibration.npy"), truth


def test_pictures_are_sampled_as_the_firmware_samples_frames(
    run_step: RunStep, pose_weights: Path, pose_data: Path, env_python: Python, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(pose_data / "data", tmp_path / "data"))
    squares, truth = _export_pictures(run_step, pose_weights, data, env_python("train"))
    step_y, step_x = (120 << 16) // IMGSZ, (200 << 16) // IMGSZ
    for y in range(0, IMGSZ, 7):
        for x in range(0, IMGSZ, 5):
            row, column = (y * step_y) >> 16, (x * step_x) >> 16
            assert squares[0, y, x].tolist() == [row, column, (row + column) % 256]
    turned, grey, alpha = squares[1].astype(int), squares[2], squares[3]
    assert np.abs(turned - squares[0]).mean() < 4
    assert (grey[..., 0] == grey[..., 1]).all()
    assert (alpha == squares[0]).all()
    upright = truth[0]
    assert (upright["file"], upright["width"], upright["height"]) == ("a-upright.png", 200, 120)
    assert [each["file"] for each in truth if each["objects"]] == ["a-upright.png"]
    objects = upright["objects"]
    assert isinstance(objects, list)
    assert len(objects) == 1
    assert objects[0]["class"] == 0
    assert objects[0]["box"] == [IMGSZ / 4, 0, IMGSZ * 3 / 4, IMGSZ / 2]
    assert objects[0]["keypoints"] == [[IMGSZ / 4, IMGSZ * 3 / 4, 2]] * 17


def test_a_letterbox_keeps_the_proportions(
    run_step: RunStep, pose_weights: Path, pose_data: Path, env_python: Python, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(pose_data / "data", tmp_path / "data"))
    python = env_python("train")
    squares, truth = _export_pictures(run_step, pose_weights, data, python, letterbox=True)
    height = round(120 * IMGSZ / 200)
    top = (IMGSZ - height) // 2
    assert (squares[0, :top] == 114).all()
    assert (squares[0, top + height :] == 114).all()
    assert squares[0, top, 0].tolist() == [0, 0, 0]
    objects = truth[0]["objects"]
    assert isinstance(objects, list)
    assert objects[0]["box"] == [IMGSZ / 4, top, IMGSZ * 3 / 4, top + height / 2]
    assert objects[0]["keypoints"][0] == [IMGSZ / 4, top + height * 3 / 4, 2]


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


def test_weights_that_are_no_numbers_are_not_exported(
    run_step: RunStep, pose_data: Path, pose_weights: Path, env_python: Python, tmp_path: Path
) -> None:
    code = """
import sys
from pathlib import Path
from stages.train import checkpoint
model, _meta = checkpoint.load(Path(sys.argv[1]))
model.model[0].conv.weight.data[0] = float("nan")
checkpoint.save(Path(sys.argv[2]), model)
"""
    spoilt = tmp_path / "weights.safetensors"
    _script(env_python("train"), code, pose_weights / "weights.safetensors", spoilt)
    inputs = {"weights.safetensors": spoilt, "data": pose_data / "data"}
    trial = run_step("onnx", PARAMS, inputs)
    assert trial.failure is not None
    assert trial.failure["kind"] == "model"
