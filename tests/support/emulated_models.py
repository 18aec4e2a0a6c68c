"""A model for the emulated board that always finds the same, and a file that stands for it."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable

from kiln.emulator.postprocess import Candidate, RecordedFrame

#: Looks like a TFLite file to the firmware.
MODEL = b"\x1c\0\0\0TFL3 a model"
#: 240x240 pixels of one grey: after the header, 900 blocks that add nothing to the first.
_HEADER = (
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABsSFBcUERsXFhceHBsgKEIrKCUlKFE6PTBCYFVlZF9VXVtqeJmBanGQ"
    "c1tdhbWGkJ6jq62rZ4C8ybqmx5moq6T/wAALCADwAPABAREA/8QAFQABAQAAAAAAAAAAAAAAAAAAAAP/xAAUEAEA"
    "AAAAAAAAAAAAAAAAAAAA/9oACAEBAAA/AJA="
)
GREY_JPEG = base64.b64decode(_HEADER) + bytes(224) + b"\x0f\xff\xd9"


def candidate(
    corners: tuple[float, float, float, float],
    *,
    score: float,
    target: int = 0,
    points: tuple[tuple[float, float, float], ...] = (),
) -> Candidate:
    """What a cell gives, told in whole pixels and percent."""
    left, top, right, bottom = corners
    numbers = ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top, 100 * score)
    x, y, width, height, percent = map(_rounded, numbers)
    return Candidate(
        limit=math.floor(100 * score + 1e-6),
        box=(x, y, width, height, percent, target),
        points=tuple((_rounded(x), _rounded(y), _rounded(100 * seen)) for x, y, seen in points),
        corners=corners,
        score=score,
    )


def _rounded(value: float) -> int:
    return max(0, math.floor(value + 0.5))


def person(left: float, top: float, *, score: float) -> Candidate:
    """A candidate of 40x80 pixels with 17 keypoints."""
    points = tuple((left + 2 * number, top + 4 * number, 0.9) for number in range(17))
    return candidate((left, top, left + 40, top + 80), score=score, points=points)


#: Two people, one of them found twice, and a third of a low score.
PEOPLE = (
    person(30, 60, score=0.92),
    person(33, 62, score=0.81),
    person(140, 90, score=0.75),
    person(10, 120, score=0.3),
)


class FixedModel:
    """Finds the same candidates in every frame.

    ``file`` is what must be on the flash; None takes any content for the model.
    """

    resolution = (240, 240)

    def __init__(
        self,
        *candidates: Candidate,
        pose: bool = True,
        file: bytes | None = None,
        jpeg: Callable[[int], bytes] = lambda _frame: GREY_JPEG,
    ) -> None:
        self.pose = pose
        self._candidates = candidates or PEOPLE
        self._file = file
        self._jpeg = jpeg

    def matches(self, memory: memoryview) -> bool:
        return self._file is None or bytes(memory[: len(self._file)]) == self._file

    def infer(self, frame: int) -> RecordedFrame:
        return RecordedFrame(self._jpeg(frame), self._candidates)
