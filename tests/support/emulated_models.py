"""A model that always finds the same, for tests that are not about what is found."""

from __future__ import annotations

import base64

from kiln.emulator.postprocess import Candidate, RecordedFrame

#: 240x240 pixels of one grey: after the header, 900 blocks that add nothing to the first.
_HEADER = (
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABsSFBcUERsXFhceHBsgKEIrKCUlKFE6PTBCYFVlZF9VXVtqeJmBanGQ"
    "c1tdhbWGkJ6jq62rZ4C8ybqmx5moq6T/wAALCADwAPABAREA/8QAFQABAQAAAAAAAAAAAAAAAAAAAAP/xAAUEAEA"
    "AAAAAAAAAAAAAAAAAAAA/9oACAEBAAA/AJA="
)
GREY_JPEG = base64.b64decode(_HEADER) + bytes(224) + b"\x0f\xff\xd9"


def person(left: float, top: float, *, score: float) -> Candidate:
    """A candidate of 40x80 pixels with 17 keypoints."""
    points = tuple((left + 2 * number, top + 4 * number, 0.9) for number in range(17))
    return Candidate(corners=(left, top, left + 40, top + 80), score=score, points=points)


class FixedModel:
    """Takes any content of the flash for its own."""

    pose = True
    resolution = (240, 240)

    def __init__(self, *candidates: Candidate) -> None:
        """Without candidates it finds two people, one of them twice, and a third of a low score."""
        self._frame = RecordedFrame(
            GREY_JPEG,
            candidates
            or (
                person(30, 60, score=0.92),
                person(33, 62, score=0.81),
                person(140, 90, score=0.75),
                person(10, 120, score=0.3),
            ),
        )

    def matches(self, memory: memoryview) -> bool:
        del memory
        return True

    def infer(self, frame: int) -> RecordedFrame:
        del frame
        return self._frame
