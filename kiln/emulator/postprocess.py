"""Frames of an emulated board, and what the firmware reports of what its model finds.

Candidates come decoded (``stages.export.emulator_frames``); which of them remain is decided by
``stages.suppression``, as it is for the evaluation.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
from typing import Any, Protocol

from stages.suppression import kept_boxes, kept_poses

Corners = tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """What one cell of the model's output gives, before suppression.

    ``limit``: the highest score threshold, in percent, that lets it through. ``box``, as reported:
    centre x and y, width, height in whole pixels of the frame, percent, class; ``points``: x, y,
    percent; empty for a detection model. By ``corners`` (left, top, right, bottom) and ``score`` (0
    to 1), which are not rounded, poses are suppressed.
    """

    limit: int
    box: tuple[int, int, int, int, int, int]
    points: tuple[tuple[int, int, int], ...] = ()
    corners: Corners
    score: float


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


def report(frame: RecordedFrame, *, score: int, iou: int, pose: bool) -> dict[str, Any]:
    """The results of an event, for thresholds in percent: ``boxes`` or ``keypoints``."""
    taken = [each for each in frame.candidates if each.limit >= score]
    if pose:
        scores = [each.score for each in taken]
        kept = kept_poses([each.corners for each in taken], scores, iou=iou)
        # The firmware puts each result in front of those before it.
        found = [taken[number] for number in reversed(kept)]
        return {"keypoints": [[list(each.box), _points(each)] for each in found]}
    boxes = [each.box for each in taken]
    percents, classes = [box[4] for box in boxes], [box[5] for box in boxes]
    kept = kept_boxes([box[:4] for box in boxes], percents, classes, iou=iou)
    return {"boxes": [list(boxes[number]) for number in kept]}


def _points(candidate: Candidate) -> list[list[int]]:
    return [[*point, number] for number, point in enumerate(candidate.points)]
