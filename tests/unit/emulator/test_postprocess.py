"""What the emulated board reports is what the firmware would."""

from __future__ import annotations

import numpy as np
import pytest

from kiln.emulator.arguments import crc16_maxim, read_command
from kiln.emulator.postprocess import Candidate, RecordedFrame, report, suppress
from stages.export.evaluation import decode

SIDE = 240.0


def found(seed: int, count: int, *, keypoints: int) -> decode.Detections:
    """Boxes that overlap much, with scores of which several are equal, as in int8."""
    draw = np.random.default_rng(seed)
    corners = draw.uniform(0, SIDE / 2, (count, 2))
    sizes = draw.uniform(20, SIDE / 2, (count, 2))
    return decode.Detections(
        boxes=np.concatenate([corners, corners + sizes], axis=1).astype(np.float32),
        scores=(draw.integers(1, 20, count) / 20).astype(np.float32),
        classes=draw.integers(0, 1 if keypoints else 3, count),
        keypoints=draw.uniform(0, 1, (count, keypoints, 3)).astype(np.float32),
    )


def as_candidates(detections: decode.Detections) -> list[Candidate]:
    return [
        Candidate(
            corners=(box[0], box[1], box[2], box[3]),
            score=score,
            target=target,
            points=tuple((point[0], point[1], point[2]) for point in points),
        )
        for box, score, target, points in zip(
            detections.boxes.tolist(),
            detections.scores.tolist(),
            detections.classes.tolist(),
            detections.keypoints.tolist(),
            strict=True,
        )
    ]


@pytest.mark.parametrize("keypoints", [0, 2])
@pytest.mark.parametrize("iou", [0.1, 0.45, 0.9])
def test_the_board_suppresses_what_the_evaluation_suppresses(keypoints: int, iou: float) -> None:
    for seed in range(20):
        detections = found(seed, 40, keypoints=keypoints)
        chosen = detections[detections.scores >= 0.25]
        expected = as_candidates(decode.suppress(chosen, iou_threshold=iou))
        kept = suppress(as_candidates(detections), score=0.25, iou=iou, pose=keypoints > 0)
        assert kept == expected


def test_results_are_told_in_whole_pixels_and_percent() -> None:
    points = ((10.4, 20.5, 0.904), (-3.0, 250.0, 0.0))
    candidate = Candidate(corners=(-20, 10, 41, 61), score=0.874, target=0, points=points)
    frame = RecordedFrame(b"", (candidate,))
    assert report(frame, score=87, iou=45, pose=True) == {
        "keypoints": [[[11, 36, 61, 51, 87, 0], [[10, 21, 90, 0], [0, 250, 0, 1]]]]
    }
    assert report(frame, score=88, iou=45, pose=True) == {"keypoints": []}
    assert report(frame, score=0, iou=45, pose=False) == {"boxes": [[11, 36, 61, 51, 87, 0]]}


def test_the_best_pose_comes_last_and_the_best_box_first() -> None:
    near = Candidate(corners=(0, 0, 20, 20), score=0.9)
    far = Candidate(corners=(100, 100, 120, 120), score=0.5)
    frame = RecordedFrame(b"", (far, near))
    poses = report(frame, score=10, iou=45, pose=True)["keypoints"]
    assert [box[4] for box, _points in poses] == [50, 90]
    assert [box[4] for box in report(frame, score=10, iou=45, pose=False)["boxes"]] == [90, 50]


@pytest.mark.parametrize(
    ("line", "arguments"),
    [
        ("AT+X=1,-1,0", ["1", "-1", "0"]),
        ('AT+X="a, b",2', ["a, b", "2"]),
        (r'AT+X="a \"b\" \\"', ['a "b" \\']),
        ("AT+X=''", [""]),
        ("AT+X", []),
        ("AT+X=yes", []),
    ],
)
def test_arguments_are_read_as_the_firmware_reads_them(line: str, arguments: list[str]) -> None:
    command = read_command(line)
    assert command is not None
    assert command.take(3) == arguments


def test_the_checksum_of_info_is_the_one_of_the_protocols_own_example() -> None:
    assert crc16_maxim(b"Hello World!") == 43073
