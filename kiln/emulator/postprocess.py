"""Frames of an emulated board, and the firmware's postprocessing of what its model finds.

As in SSCMA-Micro 1.0.x: core/algorithm/el_algorithm_yolo_pose.cpp, el_algorithm_yolo_world.cpp and
core/utils/el_nms.cpp. ``stages.export.evaluation.decode.suppress`` is the same suppression in
numpy.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, Protocol

#: Boxes whose union is smaller (square pixels) do not overlap to the pose firmware.
_LEAST_AREA = 1e-3

Corners = tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """What one cell of the model's output gives, before suppression.

    ``corners``: left, top, right, bottom in pixels of the frame. ``score``: 0 to 1. ``target``: the
    class. ``points``: x, y in pixels of the frame, visibility 0 to 1; empty for a detection model.
    """

    corners: Corners
    score: float
    target: int = 0
    points: tuple[tuple[float, float, float], ...] = ()


@dataclasses.dataclass(frozen=True)
class RecordedFrame:
    """One frame: its JPEG, and candidates in the order of the model's cells."""

    jpeg: bytes
    candidates: tuple[Candidate, ...]

    @functools.cached_property
    def image(self) -> str:
        """The JPEG as base64, as it is sent."""
        return base64.b64encode(self.jpeg).decode("ascii")


class EmulatedModel(Protocol):
    """Stands for camera and model: gives frames, and what the model on the flash finds in them."""

    @property
    def pose(self) -> bool:
        """Whether the model finds keypoints."""

    @property
    def resolution(self) -> tuple[int, int]:
        """Width and height of a frame in pixels."""

    def matches(self, memory: memoryview) -> bool:
        """Whether ``memory``, the flash from a model's address on, begins with this model."""

    def infer(self, frame: int) -> RecordedFrame:
        """The frame of this number, from 0, with what the model finds in it."""


def suppress(
    found: Sequence[Candidate], *, score: float, iou: float, pose: bool
) -> list[Candidate]:
    """Candidates of at least ``score``, best first; of equal scores the last cell comes first.

    Pose removes what overlaps a better candidate by more than ``iou``. Detect does so within a
    class, in whole percent, and takes each box's centre for its corner, as el_nms does.
    """
    left = [each for each in found[::-1] if each.score >= score]
    left.sort(key=_descending_score)
    kept: list[Candidate] = []
    while left:
        best = left.pop(0)
        kept.append(best)
        left = [each for each in left if not _overlaps(best, each, iou, pose=pose)]
    return kept


def report(frame: RecordedFrame, *, score: int, iou: int, pose: bool) -> dict[str, Any]:
    """The results of an event, for thresholds in percent: ``boxes`` or ``keypoints``."""
    kept = suppress(frame.candidates, score=score / 100, iou=iou / 100, pose=pose)
    if not pose:
        return {"boxes": [_box(each) for each in kept]}
    # The firmware puts each result in front of those before it.
    return {"keypoints": [[_box(each), _points(each)] for each in reversed(kept)]}


def _descending_score(candidate: Candidate) -> float:
    return -candidate.score


def _overlaps(best: Candidate, other: Candidate, iou: float, *, pose: bool) -> bool:
    if pose:
        return overlap(best.corners, other.corners) > iou
    if best.target != other.target:
        return False
    share = overlap(_centre_as_corner(best.corners), _centre_as_corner(other.corners))
    return math.floor(100 * share + 0.5) > 100 * iou


def overlap(one: Corners, other: Corners) -> float:
    """Intersection over union; 0 if the union is tiny."""
    width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    common = width * height
    union = _area(one) + _area(other) - common
    return common / union if union >= _LEAST_AREA else 0.0


def _area(corners: Corners) -> float:
    return (corners[2] - corners[0]) * (corners[3] - corners[1])


def _centre_as_corner(corners: Corners) -> Corners:
    """A box moved by half its size to the right and down."""
    left, top, right, bottom = corners
    x, y = (right - left) / 2, (bottom - top) / 2
    return left + x, top + y, right + x, bottom + y


def _box(candidate: Candidate) -> list[int]:
    left, top, right, bottom = candidate.corners
    x, y = _rounded((left + right) / 2), _rounded((top + bottom) / 2)
    size = _rounded(right - left), _rounded(bottom - top)
    return [x, y, *size, _rounded(100 * candidate.score), candidate.target]


def _points(candidate: Candidate) -> list[list[int]]:
    return [
        [_rounded(x), _rounded(y), _rounded(100 * seen), number]
        for number, (x, y, seen) in enumerate(candidate.points)
    ]


def _rounded(value: float) -> int:
    """Rounded as in C; the firmware's fields are unsigned, and negative values become 0."""
    return max(0, math.floor(value + 0.5))
