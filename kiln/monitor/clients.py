"""What a browser is sent: the latest state, and events with images as fast as it takes them."""

from __future__ import annotations

import dataclasses
import json
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from kiln.device.detections import Box, Detections
from kiln.monitor.hub import FrameEvent, State
from kiln.monitor.recording import Recording
from stages import coco

#: Events that wait for a slow browser; a third of a second at 30 a second.
MAX_WAITING = 10
#: Before the JPEG's bytes: the number of the event that it belongs to, modulo 2^32, big-endian.
_NUMBER = struct.Struct(">I")


class ClientQueue:
    """Passes events from one thread to another; drops the oldest if it is full.

    ``wake`` is called in the thread that puts, after each event. ``skipped`` counts dropped ones.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._lock = threading.Lock()
        self._waiting: deque[FrameEvent] = deque()
        self.skipped = 0

    def put(self, event: FrameEvent) -> None:
        """Add an event; never waits."""
        with self._lock:
            if len(self._waiting) == MAX_WAITING:
                self._waiting.popleft()
                self.skipped += 1
            self._waiting.append(event)
        self._wake()

    def take(self) -> FrameEvent | None:
        """The oldest event, if there is one."""
        with self._lock:
            return self._waiting.popleft() if self._waiting else None


def state_message(state: State, recording: Recording, *, skipped: int) -> str:
    """All that the page shows beside the frame; ``skipped`` is that of this browser."""
    return json.dumps(
        {
            "type": "state",
            **dataclasses.asdict(state),
            "fps": round(state.fps, 1),
            "recording": dataclasses.asdict(recording),
            "skipped": skipped,
        }
    )


def event_messages(event: FrameEvent) -> Iterator[str | bytes]:
    """An event as JSON, then its image, if it has one, as bytes under the same number."""
    detections = event.detections
    yield json.dumps(
        {
            "type": "event",
            "number": event.number,
            "image": detections.image is not None,
            "resolution": detections.resolution,
            "perf": detections.perf_ms,
            "objects": list(_objects(detections)),
            "classes": [dataclasses.asdict(each) for each in detections.classes],
            "skeleton": _skeleton(event),
        }
    )
    if detections.image is not None:
        yield _NUMBER.pack(event.number % (1 << 32)) + detections.image


def _skeleton(event: FrameEvent) -> Sequence[tuple[int, int]]:
    """Joined pairs of keypoints, of COCO if the board stores no names and has as many."""
    poses = event.detections.poses
    if event.labels.keypoints or not poses:
        return event.labels.skeleton
    return coco.skeleton(len(poses[0].points))


def _objects(detections: Detections) -> Iterator[Mapping[str, Any]]:
    """Boxes as x and y of the centre, width and height; keypoints as x and y, null if hidden."""
    for pose in detections.poses:
        points = [(point.x, point.y) if point.visible else None for point in pose.points]
        yield {**_object(pose.box), "points": points}
    for box in detections.boxes:
        yield {**_object(box), "points": []}


def _object(box: Box) -> Mapping[str, Any]:
    return {"box": (box.x, box.y, box.w, box.h), "score": box.score, "target": box.target}
