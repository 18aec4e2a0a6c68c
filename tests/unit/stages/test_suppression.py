"""Which candidates the firmware's suppression leaves."""

from __future__ import annotations

import pytest

from stages.suppression import kept_boxes, kept_poses


def test_pose_keeps_one_of_what_overlaps() -> None:
    boxes = [[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 4], [50, 0, 60, 10]]  # 0.9, 0.44, 0
    assert kept_poses(boxes, [0.5, 0.9, 0.3, 0.2], iou=45) == [1, 2, 3]


def test_poses_of_no_score_and_boxes_of_no_percent_are_dropped() -> None:
    assert kept_poses([[0, 0, 10, 10], [50, 0, 60, 10]], [0.0009, 0.002], iou=45) == [1]
    assert kept_boxes([[0, 0, 10, 10], [50, 0, 10, 10]], [0, 1], [0, 0], iou=45) == [1]


@pytest.mark.parametrize(("width", "kept"), [(454, 2), (456, 1)])
def test_detect_compares_in_whole_percent(width: int, kept: int) -> None:
    """45.4 % and 45.6 % against 45 %."""
    boxes = [[100, 100, 1000, 10], [100, 100, width, 10]]
    assert len(kept_boxes(boxes, [90, 80], [0, 0], iou=45)) == kept


def test_detect_takes_the_centre_for_the_corner() -> None:
    """The lower box has half of the upper's area, in it; el_nms sees an IoU of 100 / 500."""
    assert kept_boxes([[10, 10, 20, 20], [10, 5, 20, 10]], [90, 80], [0, 0], iou=45) == [0, 1]
    assert kept_poses([[0, 0, 20, 20], [0, 0, 20, 10]], [0.9, 0.8], iou=45) == [0]


def test_detect_keeps_other_classes() -> None:
    boxes = [[10, 10, 20, 20]] * 3
    assert kept_boxes(boxes, [90, 80, 70], [0, 1, 0], iou=45) == [0, 1]


def test_of_equals_the_later_is_kept() -> None:
    assert kept_boxes([[10, 10, 20, 20]] * 2, [80, 80], [0, 0], iou=45) == [1]
    assert kept_poses([[0, 0, 20, 20]] * 2, [0.8, 0.8], iou=45) == [1]


def test_nothing_found() -> None:
    assert kept_boxes([], [], [], iou=45) == kept_poses([], [], iou=45) == []
