"""A board session that a test scripts, for what is above the protocol."""

from __future__ import annotations

import dataclasses
import queue
from collections.abc import Sequence

from kiln.device.at_errors import CommandRefused
from kiln.device.detections import Box, ClassScore, Detections, Point, Pose
from kiln.device.labels import Description
from kiln.errors import BoardGone
from kiln.monitor.session import CameraModes, DeviceInfo, Thresholds
from stages import coco

PORT = "/dev/ttyACM0"
PEOPLE = Description(
    name="people", classes=("person",), keypoints=coco.KEYPOINTS, skeleton=coco.SKELETON
)
SHAPES = Description(name="shapes", classes=("disc", "square"))
FRUIT = Description(name="fruit", task="classify", classes=("ripe", "un/ripe", ""))


MODES = {0: "240x240 Auto", 2: "640x480 Auto"}


class ScriptedSession:
    """Gives what is put into ``events``; an exception among them is raised.

    ``calls`` are the monitor's calls, in order.
    """

    def __init__(
        self, *, labels: Description = PEOPLE, thresholds: Thresholds | None = None
    ) -> None:
        self.events: queue.SimpleQueue[Detections | Exception] = queue.SimpleQueue()
        self.calls: queue.SimpleQueue[object] = queue.SimpleQueue()
        self.thresholds = thresholds or Thresholds(score=50, iou=45)
        self.refuses = False
        self.running = True
        self.lost = 0
        self._labels = labels
        self._mode = 0

    def device_info(self) -> DeviceInfo:
        return DeviceInfo(
            port=PORT,
            board="Grove Vision AI V2",
            firmware="1.0.2",
            labels=self._labels,
            camera=CameraModes(current=self._mode, modes=MODES),
        )

    def start(self) -> Thresholds:
        self.calls.put("start")
        return self.thresholds

    def poll(self, timeout_s: float) -> Sequence[Detections]:
        try:
            event = self.events.get(timeout=timeout_s)
        except queue.Empty:
            return []
        if isinstance(event, Exception):
            raise event
        return [event]

    def check_running(self) -> None:
        if not self.running:
            raise BoardGone(PORT)

    def stop(self) -> None:
        self.calls.put("stop")

    def set_thresholds(self, requested: Thresholds) -> Thresholds:
        self.calls.put(requested)
        if self.refuses:
            raise CommandRefused("TSCORE", 5)
        given = {key: value for key, value in dataclasses.asdict(requested).items() if value}
        self.thresholds = dataclasses.replace(self.thresholds, **given)
        return self.thresholds

    def set_camera(self, mode: int) -> None:
        self.calls.put(("camera", mode))
        if self.refuses:
            raise CommandRefused("SENSOR", 5)
        self._mode = mode

    def close(self) -> None:
        self.calls.put("close")


def jpeg(number: int = 0) -> bytes:
    """Bytes with the markers of a JPEG, different ones for each number."""
    return b"\xff\xd8" + number.to_bytes(4, "big") + b"\xff\xd9"


def person(x: float, y: float, *, score: float = 80, hidden: tuple[int, ...] = ()) -> Pose:
    """A person 20 wide and 40 high, whose keypoints lie in a row through the middle."""
    points = tuple(
        Point(x - 8 + number, y, 10 if number in hidden else 90, number)
        for number in range(len(coco.KEYPOINTS))
    )
    return Pose(Box(x, y, 20, 40, score, 0), points)


def detections(
    *objects: Box | Pose | ClassScore,
    image: bytes | None = None,
    size: tuple[int, int] = (240, 240),
) -> Detections:
    """An event of a board."""
    return Detections(
        count=1,
        perf_ms=(6.0, 64.0, 3.0),
        boxes=tuple(each for each in objects if isinstance(each, Box)),
        poses=tuple(each for each in objects if isinstance(each, Pose)),
        resolution=size,
        image=jpeg() if image is None else image,
        raw={},
        classes=tuple(each for each in objects if isinstance(each, ClassScore)),
    )
