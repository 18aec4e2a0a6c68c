"""The steps `tflm-outputs` and `emulator-frames`: what a board with a built model would see."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from kiln.emulator.flash import MODELS_ADDRESS, Flash
from kiln.emulator.postprocess import report
from kiln.emulator.recorded_model import RecordedModel, read_recorded_model
from tests.support.fixtures import RunStep

PARAMS = {"frame": 240, "score": 0.0, "candidates": 50}
IMAGES = 3
KEYPOINTS = 17


def _recorded(
    run_step: RunStep, int8: Path, images: Path, **params: Any
) -> tuple[RecordedModel, Path]:
    """A recorded model, and the outputs that it is made of."""
    inputs = {"model.tflite": int8 / "int8.tflite", "evaluation": images / "evaluation"}
    answers = run_step("tflm-outputs", {"images": IMAGES}, inputs).expect_success().out
    inputs["outputs.npz"] = answers / "outputs.npz"
    out = run_step("emulator-frames", {**PARAMS, **params}, inputs).expect_success().out
    model = inputs["model.tflite"].read_bytes()
    sha256 = hashlib.sha256(model).hexdigest()
    recorded = read_recorded_model(out / "frames.json", sha256=sha256, size=len(model))
    return recorded, inputs["outputs.npz"]


def test_a_pose_model_sees_people_with_all_their_keypoints(
    run_step: RunStep, pose_int8: Path, pose_images: Path
) -> None:
    recorded, answers = _recorded(run_step, pose_int8, pose_images)
    assert recorded.pose
    assert recorded.resolution == (240, 240)
    assert len(recorded.frames) == IMAGES
    assert recorded.infer(IMAGES) is recorded.infer(0)
    for frame in recorded.frames:
        assert frame.jpeg.startswith(b"\xff\xd8")
        assert len(frame.candidates) == 50
        assert {len(each.points) for each in frame.candidates} == {KEYPOINTS}
        for each in frame.candidates:
            assert each.box[4] == round(100 * each.score)
            assert each.limit <= 100 * each.score < each.limit + 1
    with np.load(answers) as arrays:
        assert list(arrays["numbers"]) == [0, 1, 2]
        assert {arrays[name].dtype.name for name in arrays.files if name != "numbers"} == {"int8"}


def test_what_is_seen_is_what_tensorflows_reference_kernels_see(
    run_step: RunStep, pose_int8: Path, pose_images: Path
) -> None:
    _recorded_model, answers = _recorded(run_step, pose_int8, pose_images)
    model, evaluation = pose_int8 / "int8.tflite", pose_images / "evaluation"
    inputs = {"model.tflite": model, "evaluation": evaluation}
    reference = run_step("reference", {}, inputs).expect_success().out / "reference.npz"
    with np.load(reference) as expected, np.load(answers) as given:
        for name in expected.files:
            if name != "images":
                steps = np.abs(expected[name].astype(int) - given[name][:2].astype(int))
                assert steps.max() <= 1
                assert np.count_nonzero(steps) <= 0.01 * steps.size


def test_a_detection_model_sees_boxes_of_its_classes(
    run_step: RunStep, detect_int8: Path, detect_images: Path
) -> None:
    recorded, _answers = _recorded(run_step, detect_int8, detect_images)
    assert not recorded.pose
    assert {each.points for frame in recorded.frames for each in frame.candidates} == {()}
    boxes = report(recorded.infer(0), score=0, iou=100, pose=False)["boxes"]
    assert {box[5] for box in boxes} <= set(range(5))


def test_the_least_score_is_kept_to(run_step: RunStep, pose_int8: Path, pose_images: Path) -> None:
    recorded, _answers = _recorded(run_step, pose_int8, pose_images, score=0.999)
    assert [frame.candidates for frame in recorded.frames] == [()] * IMAGES


def test_a_recorded_model_matches_its_own_file_and_no_other(
    run_step: RunStep, pose_int8: Path, pose_images: Path
) -> None:
    recorded, _answers = _recorded(run_step, pose_int8, pose_images)
    model = (pose_int8 / "int8.tflite").read_bytes()
    flash = Flash()
    flash.memory[MODELS_ADDRESS : MODELS_ADDRESS + len(model)] = model
    memory = memoryview(flash.memory)[MODELS_ADDRESS:]
    assert recorded.matches(memory)
    memory[1000] ^= 1
    assert not recorded.matches(memory)


def test_images_of_another_size_are_refused(
    run_step: RunStep, pose_int8: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "images.npy", np.zeros((2, 32, 32, 3), np.uint8))
    inputs = {"model.tflite": pose_int8 / "int8.tflite", "evaluation": tmp_path}
    failure = run_step("tflm-outputs", {"images": IMAGES}, inputs).failure
    assert failure is not None
    assert failure["kind"] == "model"
    assert "[32, 32, 3]" in failure["message"]
