"""The images for calibration and evaluation, against the firmware's own sampling."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kiln.plan import steps
from kiln.plan.request import BuildRequest, CameraSettings
from kiln.plan.step import FromHost
from kiln.plan.targets import load_target
from stages import coco
from tests.support.bitmap import write_bmp
from tests.support.checkout import ROOT
from tests.support.fixtures import RunScript, RunStep
from tests.support.shared_results import IMGSZ

GREY = 114

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


def _params(
    target: str = "grove-v2", mode: str | None = None, imgsz: int = IMGSZ, **settings: Any
) -> Mapping[str, Any]:
    """The step's parameters as a build for the board has them."""
    request = BuildRequest(camera=CameraSettings(mode=mode, **settings))
    board = load_target(ROOT / "targets", target)
    params = steps.images(request, board, FromHost(source="data"), imgsz).params
    return {**params, "calibration": 20, "evaluation": 20}


def _empty(source: Path, target: Path) -> Path:
    """A copy of a data set without the images and labels of val."""
    data = Path(shutil.copytree(source / "data", target / "data"))
    for kind in ("images", "labels"):
        for path in (data / kind / "val").iterdir():
            path.unlink()
    return data


def _gradient(height: int, width: int) -> NDArray[np.uint8]:
    """An image whose every pixel holds its own position, coarsely in red and green."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows % 256, columns % 256, rows // 256 * 16 + columns // 256], -1).astype(
        np.uint8
    )


def _float32(number: int, source: int, target: int) -> int:
    """``int tmp = number * beta`` with ``float beta = (float)source / (float)target``."""
    return int(np.float32(number) * (np.float32(source) / np.float32(target)))


def _fixed16(number: int, source: int, target: int) -> int:
    """``(number * beta) >> 16`` with ``beta = (source << 16) / target``."""
    return (number * ((source << 16) // target)) >> 16


def _corners(number: int, source: int, target: int) -> int:
    return number * (source - 1) // (target - 1)


def _rgb565(pixel: NDArray[np.uint8]) -> list[int]:
    """Through the firmware's tables, of which some entries stand here."""
    five = {0: 0x00, 1: 0x08, 3: 0x19, 7: 0x3A, 15: 0x7B, 16: 0x84, 28: 0xE6, 31: 0xFF}
    six = {0: 0x00, 5: 0x14, 11: 0x2D, 21: 0x55, 22: 0x59, 42: 0xAA, 43: 0xAE, 63: 0xFF}
    red, green, blue = (int(value) for value in pixel)
    return [
        five.get(red >> 3, round((red >> 3) * 255 / 31)),
        six.get(green >> 2, round((green >> 2) * 255 / 63)),
        five.get(blue >> 3, round((blue >> 3) * 255 / 31)),
    ]


@pytest.mark.parametrize(
    ("target", "mode", "pick"),
    [
        ("grove-v2", "240x240", _float32),
        ("grove-v2", "480x480", _float32),
        ("grove-v2", "640x480", _float32),
        ("xiao-esp32s3", "240x240", _fixed16),
        ("grove-v2-himax", "640x480", _corners),
    ],
)
@pytest.mark.parametrize("imgsz", [192, 224])
def test_a_frame_is_sampled_as_its_firmware_samples_it(
    run_step: RunStep,
    detect_data: Path,
    tmp_path: Path,
    target: str,
    mode: str,
    pick: Callable[[int, int, int], int],
    imgsz: int,
) -> None:
    width, height = (int(side) for side in mode.split("x"))
    data = _empty(detect_data, tmp_path)
    frame = _gradient(height, width)
    write_bmp(data / "images/val/frame.bmp", frame)
    inputs = {"dataset.json": detect_data / "dataset.json", "data": data}
    out = run_step("images", _params(target, mode, imgsz), inputs).expect_success().out
    rows = [pick(number, height, imgsz) for number in range(imgsz)]
    columns = [pick(number, width, imgsz) for number in range(imgsz)]
    wanted = frame[np.array(rows)[:, None], np.array(columns)]
    if target == "xiao-esp32s3":
        wanted = np.array([[_rgb565(pixel) for pixel in row] for row in wanted], np.uint8)
    (found,) = np.load(out / "calibration.npy")
    assert (found == wanted).all()


def test_images_are_read_as_the_trainer_reads_them(
    run_step: RunStep, pose_data: Path, run_script: RunScript, tmp_path: Path
) -> None:
    data = _empty(pose_data, tmp_path)
    np.save(tmp_path / "pixels.npy", _gradient(120, 200))
    run_script("train", _IMAGES, data / "images/val", tmp_path / "pixels.npy")
    line = "0 0.5 0.25 0.5 0.5" + " 0.25 0.75 2" * 17 + "\n"
    (data / "labels/val/a-upright.txt").write_text(line * 2)
    inputs = {"dataset.json": pose_data / "dataset.json", "data": data}
    trial = run_step("images", _params(), inputs).expect_success()
    assert (trial.result.evaluation, trial.result.objects) == (4, 1)
    upright, turned, grey, alpha = np.load(trial.out / "calibration.npy")
    assert np.abs(turned.astype(int) - upright).mean() < 4
    assert (grey[..., 0] == grey[..., 1]).all()
    assert (alpha == upright).all()
    top = IMGSZ * (240 - 144) // 2 // 240  # 200x120 becomes 240x144 in the middle of 240x240
    assert (upright[: top - 1] == GREY).all()
    assert (upright[top + 1] != GREY).any()
    assert (upright[::-1][: top - 1] == GREY).all()
    whole = _truth(trial.out)
    assert (whole["task"], whole["names"], whole["kpt_shape"]) == ("pose", ["person"], [17, 3])
    assert [15, 13] in whole["skeleton"]
    truth = whole["images"]
    height = IMGSZ * 144 / 240
    box = [IMGSZ / 4, (IMGSZ - height) / 2, IMGSZ * 3 / 4, IMGSZ / 2]
    keypoints = [[IMGSZ / 4, (IMGSZ + height / 2) / 2, 2]] * 17
    assert truth[0]["file"] == "a-upright.png"
    assert (truth[0]["width"], truth[0]["height"]) == (200, 120)
    (found,) = truth[0]["objects"]
    assert found["class"] == 0
    assert found["box"] == pytest.approx(box, abs=0.01)
    np.testing.assert_allclose(found["keypoints"], keypoints, atol=0.01)
    assert (truth[1]["width"], truth[1]["height"]) == (200, 120)
    assert [each["objects"] for each in truth[1:]] == [[], [], []]


def test_a_skeleton_is_the_request_s_else_the_data_set_s_else_coco_s(
    run_step: RunStep, pose_data: Path, tmp_path: Path
) -> None:
    described = json.loads((pose_data / "dataset.json").read_text("utf-8"))
    own = tmp_path / "dataset.json"
    own.write_text(json.dumps({**described, "skeleton": [[0, 1]]}), encoding="utf-8")
    found = []
    for dataset, more in (
        (own, {"skeleton": [[2, 3]]}),
        (own, {}),
        (pose_data / "dataset.json", {}),
    ):
        inputs = {"dataset.json": dataset, "data": pose_data / "data"}
        out = run_step("images", {**_params(), **more}, inputs).expect_success().out
        found.append(_truth(out)["skeleton"])
    assert found == [[[2, 3]], [[0, 1]], [list(pair) for pair in coco.SKELETON]]


def test_a_reduced_image_is_averaged_over_areas(
    run_step: RunStep, detect_data: Path, tmp_path: Path
) -> None:
    """Lines a pixel wide in a large image become grey, as optics show them, and do not alias."""
    data = _empty(detect_data, tmp_path)
    lines = np.zeros((960, 960, 3), np.uint8)
    lines[:, ::2] = 255
    write_bmp(data / "images/val/lines.bmp", lines)
    inputs = {"dataset.json": detect_data / "dataset.json", "data": data}
    out = run_step("images", _params(), inputs).expect_success().out
    assert set(np.load(out / "calibration.npy").ravel().tolist()) == {128}


def _truth(out: Path) -> dict[str, Any]:
    text = (out / "evaluation/truth.json").read_text(encoding="utf-8")
    return json.loads(text)  # type: ignore[no-any-return]
