"""The step `emulator-frames`: what a board with a built model would see."""

from __future__ import annotations

from pathlib import Path

import pytest

from kiln.emulator.flash import MODELS_ADDRESS, Flash
from kiln.emulator.postprocess import report
from tests.support.compiled import limited
from tests.support.fixtures import RunStep
from tests.support.flashed import IMAGES, compiled_file, recorded_model

KEYPOINTS = 17


@pytest.fixture(scope="module")
def pose_flashed(run_step: RunStep, pose_int8: Path) -> Path:
    """The pose model for grove-v2, as it goes onto the board."""
    return compiled_file(run_step, pose_int8)


def test_a_pose_model_sees_people_with_all_their_keypoints(
    run_step: RunStep, pose_flashed: Path, pose_images: Path
) -> None:
    recorded = recorded_model(run_step, pose_flashed, pose_images)
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


def test_of_a_compiled_file_its_own_bytes_are_seen(
    run_step: RunStep, pose_flashed: Path, pose_int8: Path, pose_images: Path, tmp_path: Path
) -> None:
    flashed = recorded_model(run_step, pose_flashed, pose_images)
    assert flashed.frames == recorded_model(run_step, pose_int8 / "int8.tflite", pose_images).frames
    changed = tmp_path / "changed.tflite"
    changed.write_bytes(limited(pose_flashed.read_bytes()))
    assert flashed.frames != recorded_model(run_step, changed, pose_images).frames


def test_a_detection_model_sees_boxes_of_its_classes(
    run_step: RunStep, detect_int8: Path, detect_images: Path
) -> None:
    recorded = recorded_model(run_step, detect_int8 / "int8.tflite", detect_images)
    assert not recorded.pose
    assert {each.points for frame in recorded.frames for each in frame.candidates} == {()}
    boxes = report(recorded.infer(0), score=0, iou=100, pose=False)["boxes"]
    assert {box[5] for box in boxes} <= set(range(5))


def test_the_least_score_is_kept_to(
    run_step: RunStep, pose_flashed: Path, pose_images: Path
) -> None:
    recorded = recorded_model(run_step, pose_flashed, pose_images, score=0.999)
    assert [frame.candidates for frame in recorded.frames] == [()] * IMAGES


def test_a_recorded_model_matches_its_own_file_and_no_other(
    run_step: RunStep, pose_flashed: Path, pose_images: Path
) -> None:
    recorded = recorded_model(run_step, pose_flashed, pose_images)
    model = pose_flashed.read_bytes()
    flash = Flash()
    flash.memory[MODELS_ADDRESS : MODELS_ADDRESS + len(model)] = model
    memory = memoryview(flash.memory)[MODELS_ADDRESS:]
    assert recorded.matches(memory)
    memory[1000] ^= 1
    assert not recorded.matches(memory)
