"""Which of a model's candidates SSCMA's firmware reports: the evaluation's rule, and the emulated
board's.

Source: Seeed-Studio/SSCMA-Micro, branch 1.0.x: anchor_nms and compute_iou of
core/algorithm/el_algorithm_yolo_pose.cpp for poses, core/utils/el_nms.cpp for boxes. Both sort a
list that has the last cell first, so of equal scores the later cell comes first.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence

#: Left, top, right, bottom in pixels of the frame.
Corners = Sequence[float]
#: Centre x and y, width, height in whole pixels of the frame.
Box = Sequence[int]

#: Two detections are one object if they overlap by more percent than this: the firmware's default,
#: in the constructors of its three algorithms (el_algorithm_yolo_pose.h, _yolo_world.h, _yolov8.h).
IOU = 45
#: Boxes whose union is smaller (square pixels) do not overlap to the pose firmware.
_LEAST_AREA = 1e-3
#: Poses of a smaller score are dropped, whatever the threshold is; and boxes of 0 percent.
LEAST_POSE_SCORE = 1e-3
LEAST_BOX_PERCENT = 1


def kept_poses(corners: Sequence[Corners], scores: Sequence[float], *, iou: int) -> list[int]:
    """The numbers of the candidates that remain, best first; ``iou`` in percent, ``scores`` 0 to 1.

    Whatever overlaps a better one by more than ``iou`` is removed.
    """
    most = _float32(iou / 100)

    def overlap(one: int, other: int) -> bool:
        return _pose_overlap(corners[one], corners[other]) > most

    return _kept(_ranked(scores, LEAST_POSE_SCORE), corners, overlap)


def kept_boxes(
    boxes: Sequence[Box], percents: Sequence[int], classes: Sequence[int], *, iou: int
) -> list[int]:
    """The numbers of the candidates that remain, best first; ``iou`` and scores in whole percent.

    What overlaps a better one of its class by more than ``iou`` is removed.
    """

    def overlap(one: int, other: int) -> bool:
        return classes[one] == classes[other] and _box_overlap(boxes[one], boxes[other]) > iou

    # Centres are taken for corners.
    spans = [(x, y, x + width, y + height) for x, y, width, height in boxes]
    return _kept(_ranked(percents, LEAST_BOX_PERCENT), spans, overlap)


def _ranked(scores: Sequence[float], least: float) -> list[int]:
    numbers = [number for number, score in enumerate(scores) if score >= least]
    return sorted(numbers, key=lambda number: (-scores[number], -number))


def _kept(
    ranked: list[int], spans: Sequence[Corners], overlap: Callable[[int, int], bool]
) -> list[int]:
    """Those that no better one removes; ``spans`` tell cheaply which cannot overlap at all."""
    listed = [(number, spans[number]) for number in ranked]
    removed: set[int] = set()
    for position, (best, (left, top, right, bottom)) in enumerate(listed):
        if best in removed:
            continue
        near = [
            other
            for other, (start, upper, end, lower) in listed[position + 1 :]
            if start < right and end > left and upper < bottom and lower > top
        ]
        removed.update(other for other in near if other not in removed and overlap(best, other))
    return [number for number in ranked if number not in removed]


def _pose_overlap(one: Corners, other: Corners) -> float:
    """Intersection over union."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    common = width * height
    areas = [(each[2] - each[0]) * (each[3] - each[1]) for each in (one, other)]
    union = sum(areas) - common
    return _float32(common / union) if union >= _LEAST_AREA else 0.0


def _box_overlap(one: Box, other: Box) -> int:
    """The same in whole percent, of boxes whose centres are taken for their corners, as el_nms
    does."""
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0
    common = width * height
    union = one[2] * one[3] + other[2] * other[3] - common
    # In single precision, which decides about halves.
    return math.floor(_float32(_float32(common / union) * 100) + 0.5)


def _float32(value: float) -> float:
    """The nearest number of single precision, in which the firmware computes."""
    rounded: float = struct.unpack("f", struct.pack("f", value))[0]
    return rounded
