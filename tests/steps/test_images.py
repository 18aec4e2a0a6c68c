"""The images for calibration and evaluation, against the firmware's own sampling."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support.fixtures import RunScript, RunStep
from tests.support.shared_results import IMGSZ

PARAMS = {"imgsz": IMGSZ, "calibration": 4, "evaluation": 4, "letterbox": False}

#: Run in the train environment: the same image turned, grey and with alpha.
_IMAGES = """
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


def _gradient(height: int, width: int) -> NDArray[np.uint8]:
    """An image whose every pixel holds its own position."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows, columns, (rows + columns) % 256], -1).astype(np.uint8)


def _own_images(source: Path, target: Path, run_script: RunScript, label: str) -> Path:
    """A copy of a data set whose val is one image in four forms, the first of them labelled."""
    data = Path(shutil.copytree(source / "data", target / "data"))
    np.save(target / "pixels.npy", _gradient(120, 200))
    run_script("train", _IMAGES, data / "images/val", target / "pixels.npy")
    for path in (data / "labels/val").iterdir():
        path.unlink()
    (data / "labels/val/a-upright.txt").write_text(label)
    return data


def test_images_are_sampled_as_the_firmware_samples_frames(
    run_step: RunStep, pose_data: Path, run_script: RunScript, tmp_path: Path
) -> None:
    line = "0 0.5 0.25 0.5 0.5" + " 0.25 0.75 2" * 17 + "\n"
    data = _own_images(pose_data, tmp_path, run_script, line * 2)
    inputs = {"dataset.json": pose_data / "dataset.json", "data": data}
    trial = run_step("images", PARAMS, inputs).expect_success()
    assert (trial.result.evaluation, trial.result.objects) == (4, 1)
    out = trial.out
    resized = np.load(out / "calibration.npy")
    step_y, step_x = (120 << 16) // IMGSZ, (200 << 16) // IMGSZ
    for y in range(0, IMGSZ, 7):
        for x in range(0, IMGSZ, 5):
            row, column = (y * step_y) >> 16, (x * step_x) >> 16
            assert resized[0, y, x].tolist() == [row, column, (row + column) % 256]
    assert np.abs(resized[1].astype(int) - resized[0]).mean() < 4
    assert (resized[2, ..., 0] == resized[2, ..., 1]).all()
    assert (resized[3] == resized[0]).all()
    whole = _truth(out)
    assert (whole["task"], whole["names"], whole["kpt_shape"]) == ("pose", ["person"], [17, 3])
    assert [15, 13] in whole["skeleton"]
    truth = whole["images"]
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


def test_a_letterbox_moves_the_labels_too(
    run_step: RunStep, detect_data: Path, run_script: RunScript, tmp_path: Path
) -> None:
    data = _own_images(detect_data, tmp_path, run_script, "3 0.5 0.25 0.5 0.5\n")
    inputs = {"dataset.json": detect_data / "dataset.json", "data": data}
    out = run_step("images", PARAMS | {"letterbox": True}, inputs).expect_success().out
    resized = np.load(out / "calibration.npy")[0]
    height = round(120 * IMGSZ / 200)
    top = (IMGSZ - height) // 2
    assert (resized[:top] == 114).all()
    assert (resized[top + height :] == 114).all()
    assert resized[top, 0].tolist() == [0, 0, 0]
    truth = _truth(out)["images"]
    box = [IMGSZ / 4, top, IMGSZ * 3 / 4, top + height / 2]
    assert truth[0]["objects"] == [{"class": 3, "box": box, "keypoints": None}]


def _truth(out: Path) -> dict[str, Any]:
    text = (out / "evaluation/truth.json").read_text(encoding="utf-8")
    return json.loads(text)  # type: ignore[no-any-return]


def _boxes(data: Path) -> dict[str, list[list[float]]]:
    """The labelled boxes of val by the image's stem: x, y, width, height as parts."""
    return {
        path.stem: [[float(word) for word in line.split()[1:5]] for line in _lines(path)]
        for path in (data / "data/labels/val").glob("*.txt")
    }


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_truth_is_what_val_is_labelled_with(detect_data: Path, detect_images: Path) -> None:
    boxes = _boxes(detect_data)
    whole = _truth(detect_images)
    assert (len(whole["names"]), whole["kpt_shape"], whole["skeleton"]) == (5, None, [])
    truth = whole["images"]
    assert [each["file"] for each in truth] == sorted(f"{stem}.jpg" for stem in boxes)
    for each in truth:
        found = np.array([one["box"] for one in each["objects"]]) / IMGSZ
        x, y, width, height = np.array(boxes[Path(each["file"]).stem]).T
        corners = np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], -1)
        np.testing.assert_allclose(found, corners.clip(0, 1), atol=1e-3)
        assert all(one["keypoints"] is None for one in each["objects"])
