"""What a model found, from the events of ``AT+INVOKE``.

The forms are those of SSCMA-Micro, branch 1.0.x, sscma/utility.hpp (``results_2_json_str`` and
``algorithm_results_2_json_str``) and docs/protocol/at-protocol-en_US.md.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

from kiln.report.images import VISIBLE

_BOX_NUMBERS, _POINT_NUMBERS, _CLASS_NUMBERS = 6, 4, 2
#: Keys of an event that are parsed; others are passed on unchanged.
_READ = frozenset({"count", "perf", "boxes", "classes", "keypoints", "resolution", "image"})


@dataclasses.dataclass(frozen=True)
class Box:
    """``x``, ``y`` are the centre, all in pixels of the frame; ``score`` 0 to 100.

    ``target`` is the number of the class.
    """

    x: float
    y: float
    w: float
    h: float
    score: float
    target: int


@dataclasses.dataclass(frozen=True)
class Point:
    """A keypoint in pixels of the frame; ``score`` 0 to 100, ``target`` its number."""

    x: float
    y: float
    score: float
    target: int

    @property
    def visible(self) -> bool:
        """Whether it counts as visible, as in the report."""
        return self.score >= 100 * VISIBLE


@dataclasses.dataclass(frozen=True)
class Pose:
    """The box of an object, and its keypoints in the order of the model."""

    box: Box
    points: tuple[Point, ...]


@dataclasses.dataclass(frozen=True)
class ClassScore:
    """A class of the whole frame: ``score`` 0 to 100, ``target`` the number of the class."""

    score: float
    target: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Detections:
    """One frame: ``count`` numbers the frames of an invocation from 1.

    ``perf_ms`` are the times of preprocessing, inference and postprocessing; ``resolution`` is
    width and height of the frame, (0, 0) if unknown; ``image`` is a JPEG, None if none was
    requested or it arrived damaged; ``raw`` holds the results of other algorithms by key.
    ``classes`` are a classifier's, best first; it finds no boxes.
    """

    count: int
    perf_ms: tuple[float, float, float]
    boxes: tuple[Box, ...]
    poses: tuple[Pose, ...]
    resolution: tuple[int, int]
    image: bytes | None
    raw: Mapping[str, Any]
    classes: tuple[ClassScore, ...] = ()


def read_detections(data: object) -> Detections:
    """Parse the ``data`` of an INVOKE event; malformed parts are left out."""
    table = data if isinstance(data, Mapping) else {}
    count = table.get("count")
    return Detections(
        count=count if type(count) is int else 0,
        perf_ms=_perf(table.get("perf")),
        boxes=tuple(_boxes(table.get("boxes"))),
        poses=tuple(_poses(table.get("keypoints"))),
        resolution=_resolution(table.get("resolution")),
        image=_image(table.get("image")),
        raw={key: value for key, value in table.items() if key not in _READ},
        classes=tuple(_classes(table.get("classes"))),
    )


def _perf(value: object) -> tuple[float, float, float]:
    return (value[0], value[1], value[2]) if _numbers(value, 3) else (0.0, 0.0, 0.0)


def _resolution(value: object) -> tuple[int, int]:
    return (int(value[0]), int(value[1])) if _numbers(value, 2) else (0, 0)


def _boxes(value: object) -> Iterator[Box]:
    for each in value if isinstance(value, list) else ():
        if _numbers(each, _BOX_NUMBERS):
            x, y, w, h, score, target = each[:_BOX_NUMBERS]
            yield Box(x, y, w, h, score, int(target))


def _classes(value: object) -> Iterator[ClassScore]:
    for each in value if isinstance(value, list) else ():
        if _numbers(each, _CLASS_NUMBERS):
            yield ClassScore(each[0], int(each[1]))


def _points(value: object) -> Iterator[Point]:
    for each in value if isinstance(value, list) else ():
        if _numbers(each, _POINT_NUMBERS):
            x, y, score, target = each[:_POINT_NUMBERS]
            yield Point(x, y, score, int(target))


def _poses(value: object) -> Iterator[Pose]:
    for each in value if isinstance(value, list) else ():
        if isinstance(each, list) and len(each) >= 2:
            for box in _boxes(each[:1]):
                yield Pose(box, tuple(_points(each[1])))


def _image(value: object) -> bytes | None:
    """The bytes of a JPEG; None if characters were lost on the line."""
    if not isinstance(value, str) or not value:
        return None
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return None


def _numbers(value: object, least: int) -> TypeGuard[Sequence[float]]:
    return (
        isinstance(value, list)
        and len(value) >= least
        and all(type(each) in (int, float) and math.isfinite(each) for each in value[:least])
    )
