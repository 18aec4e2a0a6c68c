"""What one browser is sent: the newest state, every event, and pictures as far as it keeps up."""

from __future__ import annotations

import dataclasses
import json
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from kiln.device.detections import Box, Detections
from kiln.monitor.hub import Seen, State
from kiln.monitor.recording import Recording

#: Frames that wait for a slow browser: at 30 a second a third of one.
MAX_WAITING = 10
#: Before the JPEG's bytes: the number of the event that it belongs to, modulo 2^32, big-endian.
_NUMBER = struct.Struct(">I")


class Mailbox:
    """Takes events in one thread and gives them out in another; the oldest go where it is full.

    ``wake`` is called, in the thread that puts, when there is something again.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._lock = threading.Lock()
        self._waiting: deque[Seen] = deque()
        self.skipped = 0

    def put(self, seen: Seen) -> None:
        """Add an event; never waits."""
        with self._lock:
            if len(self._waiting) == MAX_WAITING:
                self._waiting.popleft()
                self.skipped += 1
            self._waiting.append(seen)
        self._wake()

    def take(self) -> Seen | None:
        """The oldest event, if there is one."""
        with self._lock:
            return self._waiting.popleft() if self._waiting else None


def state_message(state: State, recording: Recording, *, skipped: int) -> str:
    """All that the page shows beside the picture; ``skipped`` is this browser's own."""
    return json.dumps(
        {
            "type": "state",
            **dataclasses.asdict(state),
            "fps": round(state.fps, 1),
            "recording": dataclasses.asdict(recording),
            "skipped": skipped,
        }
    )


def event_messages(seen: Seen) -> Iterator[str | bytes]:
    """An event as JSON, then its picture, if it has one, as bytes under the same number."""
    detections = seen.detections
    yield json.dumps(
        {
            "type": "event",
            "number": seen.number,
            "picture": detections.image is not None,
            "resolution": detections.resolution,
            "perf": detections.perf_ms,
            "objects": list(_objects(detections)),
        }
    )
    if detections.image is not None:
        yield _NUMBER.pack(seen.number % (1 << 32)) + detections.image


def _objects(detections: Detections) -> Iterator[Mapping[str, Any]]:
    """Boxes as x and y of the centre, width and height; keypoints as x, y, score in percent."""
    for pose in detections.poses:
        points = [(point.x, point.y, point.score) for point in pose.points]
        yield {**_object(pose.box), "points": points}
    for box in detections.boxes:
        yield {**_object(box), "points": []}


def _object(box: Box) -> Mapping[str, Any]:
    return {"box": (box.x, box.y, box.w, box.h), "score": box.score, "target": box.target}
