"""A camera that does as a test tells it, for what is above the protocol."""

from __future__ import annotations

import dataclasses
import queue
from collections.abc import Sequence

from kiln.device.at_errors import CommandRefused
from kiln.device.detections import Box, Detections, Point, Pose
from kiln.device.labels import COCO_KEYPOINTS, COCO_SKELETON, Description
from kiln.errors import BoardGone
from kiln.monitor.session import About, Thresholds

PORT = "/dev/ttyACM0"
PEOPLE = Description(
    name="people", classes=("person",), keypoints=COCO_KEYPOINTS, skeleton=COCO_SKELETON
)
SHAPES = Description(name="shapes", classes=("disc", "square"))


class ScriptedCamera:
    """Gives what is put into ``events``; an exception among them is raised.

    ``told`` is what the monitor asked of it, in order; what is asked next can be awaited.
    """

    def __init__(self, *, labels: Description = PEOPLE, has: Thresholds | None = None) -> None:
        self.events: queue.SimpleQueue[Detections | Exception] = queue.SimpleQueue()
        self.told: queue.SimpleQueue[object] = queue.SimpleQueue()
        self.has = has or Thresholds(score=50, iou=45)
        self.refuses = False
        self.works = True
        self.lost = 0
        self._labels = labels

    def about(self) -> About:
        return About(port=PORT, board="Grove Vision AI V2", firmware="1.0.2", labels=self._labels)

    def begin(self) -> Thresholds:
        self.told.put("begin")
        return self.has

    def poll(self, timeout_s: float) -> Sequence[Detections]:
        try:
            event = self.events.get(timeout=timeout_s)
        except queue.Empty:
            return []
        if isinstance(event, Exception):
            raise event
        return [event]

    def expect_work(self) -> None:
        if not self.works:
            raise BoardGone(PORT)

    def stop(self) -> None:
        self.told.put("stop")

    def set_thresholds(self, wished: Thresholds) -> Thresholds:
        self.told.put(wished)
        if self.refuses:
            raise CommandRefused("TSCORE", 5)
        given = {key: value for key, value in dataclasses.asdict(wished).items() if value}
        self.has = dataclasses.replace(self.has, **given)
        return self.has

    def close(self) -> None:
        self.told.put("close")


def picture(number: int = 0) -> bytes:
    """What a JPEG looks like from outside, a different one for each number."""
    return b"\xff\xd8" + number.to_bytes(4, "big") + b"\xff\xd9"


def person(x: float, y: float, *, score: float = 80, hidden: tuple[int, ...] = ()) -> Pose:
    """Somebody 20 wide and 40 high, whose keypoints lie in a row through the middle."""
    points = tuple(
        Point(x - 8 + number, y, 10 if number in hidden else 90, number)
        for number in range(len(COCO_KEYPOINTS))
    )
    return Pose(Box(x, y, 20, 40, score, 0), points)


def seen(
    *objects: Box | Pose, image: bytes | None = None, size: tuple[int, int] = (240, 240)
) -> Detections:
    """An event of a board."""
    return Detections(
        count=1,
        perf_ms=(6.0, 64.0, 3.0),
        boxes=tuple(each for each in objects if isinstance(each, Box)),
        poses=tuple(each for each in objects if isinstance(each, Pose)),
        resolution=size,
        image=picture() if image is None else image,
        raw={},
    )
