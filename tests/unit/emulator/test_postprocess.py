"""What the emulated board reports of candidates is what the firmware would."""

from __future__ import annotations

import pytest

from kiln.emulator.arguments import crc16_maxim, read_command
from kiln.emulator.postprocess import Candidate, RecordedFrame, report
from tests.support.emulated_models import candidate


def test_a_candidate_is_let_through_up_to_its_limit() -> None:
    frame = RecordedFrame(b"", (candidate((0, 0, 20, 20), score=0.874),))
    for pose, key in ((True, "keypoints"), (False, "boxes")):
        assert len(report(frame, score=87, iou=45, pose=pose)[key]) == 1
        assert report(frame, score=88, iou=45, pose=pose) == {key: []}


def test_a_box_below_the_threshold_is_reported_if_the_firmware_lets_it_through() -> None:
    """By up to a quantum of the score's scale: see highest_thresholds."""
    box = Candidate(limit=50, box=(9, 9, 8, 8, 46, 0), corners=(5, 5, 13, 13), score=0.467)
    frame = RecordedFrame(b"", (box,))
    assert report(frame, score=50, iou=45, pose=False) == {"boxes": [[9, 9, 8, 8, 46, 0]]}


def test_poses_are_told_with_their_points() -> None:
    points = ((10.4, 20.5, 0.904), (-3.0, 250.0, 0.0))
    frame = RecordedFrame(b"", (candidate((-20, 10, 41, 61), score=0.874, points=points),))
    assert report(frame, score=50, iou=45, pose=True) == {
        "keypoints": [[[11, 36, 61, 51, 87, 0], [[10, 21, 90, 0], [0, 250, 0, 1]]]]
    }


def test_the_best_pose_comes_last_and_the_best_box_first() -> None:
    near, far = (
        candidate((place, place, place + 20, place + 20), score=score)
        for place, score in ((0, 0.9), (100, 0.5))
    )
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
