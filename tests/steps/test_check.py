"""The check step on data sets that are broken in every way that people break them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from stages.contract import from_json
from stages.results.dataset import Dataset
from tests.support.fixtures import RunStep, Trial

POSE_LINE = "0 0.5 0.5 0.4 0.6" + " 0.5 0.5 2" * 17


@pytest.fixture
def data(tmp_path: Path, pose_data: Path) -> Path:
    """A sound pose data set that a test may break."""
    return _copy(pose_data, tmp_path)


@pytest.fixture
def boxes(tmp_path: Path, detect_data: Path) -> Path:
    """A sound data set for detection that a test may break."""
    return _copy(detect_data, tmp_path)


def _copy(source: Path, target: Path) -> Path:
    shutil.copytree(source / "data", target / "data")
    return target / "data"


def _describe(data: Path, **changes: object) -> None:
    path = data / "data.yaml"
    table = yaml.safe_load(path.read_text(encoding="utf-8")) | changes
    kept = {key: value for key, value in table.items() if value is not None}
    path.write_text(yaml.safe_dump(kept), encoding="utf-8")


def _labels(data: Path, split: str = "train") -> list[Path]:
    return sorted((data / "labels" / split).glob("*.txt"))


def _images(data: Path, split: str = "train") -> list[Path]:
    return sorted((data / "images" / split).iterdir())


def _check(run_step: RunStep, data: Path, task: str = "pose") -> Trial:
    return run_step("check", {"task": task}, {"data": data})


def _faults(trial: Trial) -> Mapping[tuple[str, int | None], str]:
    assert trial.code != 0
    assert trial.failure is not None
    assert trial.failure["kind"] == "data"
    return {(each["path"], each["line"]): each["message"] for each in trial.problems}


def test_a_sound_data_set_is_summed_up(run_step: RunStep, data: Path) -> None:
    trial = _check(run_step, data).expect_success()
    summary = json.loads((trial.out / "dataset.json").read_text(encoding="utf-8"))
    labels = [len(path.read_text().splitlines()) for path in _labels(data)]
    assert summary["task"] == "pose"
    assert summary["names"] == ["person"]
    assert summary["kpt_shape"] == [17, 3]
    assert len(summary["flip_idx"]) == 17
    assert summary["images"] == {"train": 8, "val": 4}
    assert summary["objects"]["train"] == sum(labels)
    dataset = from_json(Dataset, summary)
    assert dataset == Dataset(
        **{each.name: getattr(trial.result, each.name) for each in dataclasses.fields(Dataset)}
    )


def test_boxes_of_a_pose_data_set_can_be_detected(run_step: RunStep, data: Path) -> None:
    trial = _check(run_step, data, "detect").expect_success()
    assert trial.result.kpt_shape is None


def test_every_faulty_line_is_named(run_step: RunStep, data: Path) -> None:
    faulty = {
        "0 0.5 0.5 0.4": "4 numbers; kpt_shape [17, 3] needs 5 + 17 x 3 = 56",
        "0 0.5 0.5 0.4 0.6": "a box without keypoints",
        "0 0.5 0.5 0.4 0.6" + " 0.5 0.5 2" * 12: "41 numbers: 12 keypoints",
        "0 0.5 0.5 0.4 0.6" + " 0.5 0.5" * 17: "keypoints without visibility",
        POSE_LINE.replace("0.4", "nan"): "holds nan or inf",
        POSE_LINE.replace("0.6", "half"): "'half' is not a number",
        POSE_LINE.replace("0 ", "1 ", 1): "class 1, but data.yaml names class 0 only",
        POSE_LINE.replace("0 0.5", "0 150", 1): "x 150 is not between 0 and 1",
        POSE_LINE.replace("0.4", "0"): "the box has no width",
        POSE_LINE.removesuffix("0.5 0.5 2") + "0.5 -0.5 2": "keypoint 16: y -0.5",
        POSE_LINE.removesuffix("2") + "3": "keypoint 16: visibility 3 is none of 0, 1 and 2",
    }
    label = _labels(data)[0]
    label.write_text("\n".join([POSE_LINE, "", *faulty]), encoding="utf-8")
    trial = _check(run_step, data)
    found = _faults(trial)
    name = label.relative_to(data).as_posix()
    for number, message in enumerate(faulty.values(), start=3):
        assert message in found[name, number]
    assert len(found) == len(faulty)
    assert trial.failure is not None
    assert trial.failure["message"] == f"the data set has {len(found)} faults"


def test_images_that_do_not_open_are_named(run_step: RunStep, data: Path) -> None:
    cut, empty, text, missing = _images(data)[:4]
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 2 // 3])
    empty.write_bytes(b"")
    text.write_text("no image")
    missing_label = data / "labels/train" / f"{missing.stem}.txt"
    missing_label.unlink()  # an image without objects, which is no fault
    (data / "labels/train/orphan.txt").write_text(POSE_LINE)
    found = _faults(trial := _check(run_step, data))
    assert "truncated" in found[cut.relative_to(data).as_posix(), None]
    assert found[empty.relative_to(data).as_posix(), None] == "is empty"
    assert found[text.relative_to(data).as_posix(), None] == "does not open as an image"
    assert len(found) == 3
    assert any("labels/train/orphan.txt" in each["message"] for each in trial.warnings)


def test_images_without_labels_and_repeated_lines_are_no_faults(
    run_step: RunStep, data: Path
) -> None:
    first, second = _labels(data)[:2]
    first.write_text(f"{POSE_LINE}\n{POSE_LINE}\n")
    second.write_text("")
    trial = _check(run_step, data).expect_success()
    assert any("a line twice" in each["message"] for each in trial.warnings)


def test_a_data_set_without_labels_is_refused(run_step: RunStep, data: Path) -> None:
    shutil.rmtree(data / "labels")
    assert "no image has a labelled object" in _faults(_check(run_step, data))["labels/train", None]


def test_a_split_without_images_is_refused(run_step: RunStep, data: Path) -> None:
    shutil.rmtree(data / "images/val")
    assert _faults(_check(run_step, data))["images/val", None] == "holds no images"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kpt_shape": None}, "has no kpt_shape"),
        ({"kpt_shape": [17, 4]}, "neither [keypoints, 3], for x, y and visibility, nor"),
        ({"kpt_shape": "17x3"}, "neither [keypoints, 3]"),
        ({"flip_idx": [0, 1, 2]}, "each number from 0 to 16 once"),
        ({"skeleton": [[16, 17]]}, "joins keypoint 17, and there are keypoints 0 to 16"),
        ({"skeleton": [[0, 1], [1, 2, 3]]}, "holds [1, 2, 3], which is no pair of keypoints"),
        ({"skeleton": [[0, True]]}, "holds [0, True], which is no pair"),
        ({"skeleton": "0-1"}, "'0-1', not a list of pairs"),
        ({"skeleton": [[0, 1] for _ in range(1001)]}, "has 1001 pairs, and at most 1000 are drawn"),
    ],
)
def test_a_wrong_description_of_poses_is_refused(
    run_step: RunStep, data: Path, changes: dict[str, object], message: str
) -> None:
    _describe(data, **changes)
    assert message in _faults(_check(run_step, data))["data.yaml", None]


def test_keypoints_without_visibility_are_taken(run_step: RunStep, data: Path) -> None:
    _describe(data, kpt_shape=[2, 2], flip_idx=[1, 0], skeleton=[[0, 1]])
    for label in [*_labels(data), *_labels(data, "val")]:
        label.write_text("0 0.5 0.5 0.4 0.6 0.5 0.5 0 0\n")
    found = _check(run_step, data).expect_success().result
    assert (found.kpt_shape, found.label_kpt_shape) == ((2, 3), (2, 2))
    assert (found.flip_idx, found.skeleton) == ((1, 0), ((0, 1),))


def test_outlines_are_taken_as_boxes_and_said(run_step: RunStep, boxes: Path) -> None:
    label = _labels(boxes)[0]
    label.write_text("0 0.1 0.1 0.9 0.1 0.9 0.9 0.1 0.9\n0 0.5 0.5 0.2 0.2\n")
    trial = _check(run_step, boxes, "detect").expect_success()
    name = label.relative_to(boxes).as_posix()
    (said,) = [each["message"] for each in trial.warnings if "outlines" in each["message"]]
    assert said == f"1 label file with outlines; the box around each is used: {name}"


def test_a_faulty_outline_is_named(run_step: RunStep, boxes: Path) -> None:
    label = _labels(boxes)[0]
    label.write_text("7 0.1 0.1 0.9 0.1 0.9 0.9 0.1 0.9\n0 0.1 0.1 0.9 0.1 0.9 9\n")
    found = _faults(_check(run_step, boxes, "detect"))
    name = label.relative_to(boxes).as_posix()
    assert "class 7, but data.yaml names classes 0 to 4" in found[name, 1]
    assert "point 2 of the outline: y 9 is not between 0 and 1" in found[name, 2]
    assert len(found) == 2


def test_faults_are_counted_beyond_those_that_are_sent(run_step: RunStep, boxes: Path) -> None:
    _labels(boxes)[0].write_text("9 0.5 0.5 0.2 0.2\n" * 1500)
    trial = _check(run_step, boxes, "detect")
    assert len(trial.problems) == 1000
    assert trial.failure is not None
    assert "1500 faults" in trial.failure["message"]
