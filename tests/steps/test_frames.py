"""What a network is trained on, and that labels lie where pixels lie."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.bitmap import read_bmp, write_bmp
from tests.support.fixtures import RunStep

#: Labels are written before anything is scaled: pixels may lie this far from them, in the input.
NEAR = 1.6
WHITE = 255
Box = tuple[float, float, float, float]


def _data_set(source: Path, folder: Path, scenes: Sequence[tuple[int, int, Box]]) -> Path:
    """A copy of a data set with one white rectangle on black an image, its label around it."""
    data = Path(shutil.copytree(source / "data", folder / "data"))
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            shutil.rmtree(data / kind / split)
            (data / kind / split).mkdir()
        for number, (width, height, (left, top, right, bottom)) in enumerate(scenes):
            image = np.zeros((height, width, 3), np.uint8)
            image[int(top) : int(bottom), int(left) : int(right)] = WHITE
            write_bmp(data / f"images/{split}/{number:03}.bmp", image)
            box = [(left + right) / 2 / width, (top + bottom) / 2 / height]
            box += [(right - left) / width, (bottom - top) / height]
            text = " ".join(["0", *(f"{value:.8f}" for value in box)])
            (data / f"labels/{split}/{number:03}.txt").write_text(text + "\n")
    return data


def _random_scenes(seed: int, count: int) -> list[tuple[int, int, Box]]:
    rng = random.Random(seed)
    scenes: list[tuple[int, int, Box]] = []
    for _ in range(count):
        width, height = rng.randrange(120, 900), rng.randrange(120, 900)
        left, top = rng.randrange(width // 2), rng.randrange(height // 2)
        right = left + rng.randrange(width // 4, width // 2)
        bottom = top + rng.randrange(height // 4, height // 2)
        scenes.append((width, height, (left, top, right, bottom)))
    return scenes


def _white_box(image: NDArray[np.uint8]) -> Box | None:
    rows, columns = np.nonzero(image[..., 0] > WHITE // 2)
    if not len(rows):
        return None
    return (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def _camera(width: int, height: int, framing: str, imgsz: int = 192) -> dict[str, Any]:
    return {"imgsz": imgsz, "camera": {"width": width, "height": height, "framing": framing}}


@pytest.mark.parametrize("framing", ["fit", "fill"])
@pytest.mark.parametrize(("width", "height", "imgsz"), [(240, 240, 192), (640, 480, 256)])
def test_labels_lie_where_pixels_lie(
    run_step: RunStep,
    detect_data: Path,
    tmp_path: Path,
    width: int,
    height: int,
    imgsz: int,
    framing: str,
) -> None:
    data = _data_set(detect_data, tmp_path, _random_scenes(width, 30))
    inputs = {"dataset.json": detect_data / "dataset.json", "data": data}
    params = _camera(width, height, framing, imgsz)
    out = run_step("frames", params, inputs).expect_success().out / "data"
    both = params | {"calibration": 1, "evaluation": 30}
    evaluated = run_step("images", both, inputs).expect_success().out / "evaluation"
    truth = json.loads((evaluated / "truth.json").read_text())["images"]
    for number, square in enumerate(np.load(evaluated / "images.npy")):
        content = read_bmp(out / f"images/val/{number:03}.bmp.bmp")
        label = (out / f"labels/val/{number:03}.bmp.txt").read_text().split()
        drawn = _white_box(content)
        assert (drawn is None) == (not label) or framing == "fill"
        if not label:
            assert truth[number]["objects"] == []
            continue
        assert drawn is not None
        x, y, w, h = (float(word) for word in label[1:])
        sides = np.array([content.shape[1], content.shape[0]] * 2)
        found = np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2]) * sides
        np.testing.assert_allclose(found, drawn, atol=NEAR)
        seen = _white_box(square)
        assert seen is not None
        np.testing.assert_allclose(truth[number]["objects"][0]["box"], seen, atol=NEAR)


def test_a_training_sees_what_is_evaluated_without_its_bars(
    run_step: RunStep, detect_data: Path, tmp_path: Path
) -> None:
    """A wide image for two frames: undistorted for the square one, narrower for 640x480."""
    data = _data_set(detect_data, tmp_path, [(1280, 720, (100, 100, 500, 500))])
    inputs = {"dataset.json": detect_data / "dataset.json", "data": data}
    shapes = {}
    for width, height in ((240, 240), (640, 480)):
        params = _camera(width, height, "fit")
        out = run_step("frames", params, inputs).expect_success().out
        content = read_bmp(out / "data/images/train/000.bmp.bmp")
        shapes[width] = content.shape[:2]
        both = params | {"calibration": 1, "evaluation": 1}
        square = np.load(run_step("images", both, inputs).expect_success().out / "calibration.npy")
        rows = np.nonzero((square[0] != 114).any(axis=(1, 2)))[0]
        assert (square[0][rows[0] : rows[-1] + 1] == content).all()
    assert shapes == {240: (108, 192), 640: (144, 192)}


def test_an_object_outside_the_frame_is_left_out_and_counted(
    run_step: RunStep, detect_data: Path, tmp_path: Path
) -> None:
    wide, middle = (800, 200, (0, 50, 90, 150)), (800, 200, (350, 50, 450, 150))
    data = _data_set(detect_data, tmp_path, [wide, middle])
    inputs = {"dataset.json": detect_data / "dataset.json", "data": data}
    trial = run_step("frames", _camera(240, 240, "fill"), inputs).expect_success()
    assert (trial.result.objects, trial.result.left_out) == ({"train": 1, "val": 1}, 2)
    (warning,) = trial.warnings
    assert warning["message"].startswith("2 of 4 labelled objects lie outside the camera's frame")
    fit = run_step("frames", _camera(240, 240, "fit"), inputs).expect_success()
    assert (fit.result.left_out, fit.warnings) == (0, [])


def test_keypoints_outside_the_frame_are_not_visible(
    run_step: RunStep, pose_data: Path, tmp_path: Path
) -> None:
    data = _data_set(pose_data, tmp_path, [(800, 200, (300, 50, 500, 150))])
    points = " 0.01 0.5 2" + " 0.5 0.5 1" * 16
    for split in ("train", "val"):
        label = data / f"labels/{split}/000.txt"
        label.write_text(label.read_text().strip() + points + "\n")
    inputs = {"dataset.json": pose_data / "dataset.json", "data": data}
    out = run_step("frames", _camera(240, 240, "fill"), inputs).expect_success().out
    words = (out / "data/labels/train/000.bmp.txt").read_text().split()
    assert words[5:8] == ["0", "0", "0"]
    assert [float(word) for word in words[8:11]] == pytest.approx([0.5, 0.5, 1], abs=0.01)


def test_images_of_one_stem_stay_apart(
    run_step: RunStep, detect_data: Path, tmp_path: Path
) -> None:
    data = _data_set(detect_data, tmp_path, [(100, 100, (10, 10, 50, 50))])
    for split in ("train", "val"):
        folder = data / "images" / split
        write_bmp(folder / "deep/000.bmp", np.full((100, 50, 3), 9, np.uint8))
    inputs = {"dataset.json": detect_data / "dataset.json", "data": data}
    trial = run_step("frames", _camera(240, 240, "fit"), inputs).expect_success()
    assert trial.result.images == {"train": 2, "val": 2}
    assert read_bmp(trial.out / "data/images/val/deep/000.bmp.bmp").shape == (192, 96, 3)
    assert (trial.out / "data/labels/val/deep/000.bmp.txt").read_text() == ""
