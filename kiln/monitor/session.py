"""A connected board as the monitor uses it, independent of its protocol."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

from kiln.device.at_errors import CommandRefused, InvocationEnded
from kiln.device.detections import Detections, read_detections
from kiln.device.labels import Description, from_info
from kiln.device.link import Link
from kiln.device.sscma import FOREVER, AtClient

#: From being plugged in to its first answer a board takes two or three seconds.
START_S = 5.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class CameraModes:
    """The modes of a board's camera by number, in words, and the one it is in; {} and None if the
    board does not tell."""

    current: int | None = None
    modes: Mapping[int, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceInfo:
    """The identity of a board; ``labels`` are empty if it stores no description of its model."""

    port: str
    board: str
    firmware: str
    labels: Description
    camera: CameraModes = CameraModes()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Score and IoU thresholds in percent; None if the board's algorithm has none."""

    score: int | None = None
    iou: int | None = None


class DeviceSession(Protocol):
    """A connected board that takes frames and reports what is in them; methods raise BoardError."""

    @property
    def lost(self) -> int:
        """Frames that arrived damaged, or were not fetched in time, since it was opened."""

    def device_info(self) -> DeviceInfo: ...

    def start(self) -> Thresholds:
        """Take frame after frame until ``stop``."""

    def poll(self, timeout_s: float) -> Sequence[Detections]:
        """The detections that have come; waits at most ``timeout_s`` for the first."""

    def check_running(self) -> None:
        """Query a silent board; raises BoardError if it no longer takes frames."""

    def stop(self) -> None: ...

    def set_thresholds(self, requested: Thresholds) -> Thresholds:
        """Set those that are not None, and read them back; only between ``start`` and ``stop``."""

    def set_camera(self, mode: int) -> None:
        """Put the camera into a mode; frames come again after ``start``."""

    def close(self) -> None: ...


class SscmaSession:
    """A board with SSCMA firmware."""

    def __init__(self, link: Link, port: str) -> None:
        self._link = link
        self._port = port
        self._client = AtClient(link)
        self._sensor = 0

    @property
    def lost(self) -> int:
        return self._client.broken + self._client.dropped

    def device_info(self) -> DeviceInfo:
        self._client.wait_until_ready(START_S)
        # It may still be invoking for a program that was killed.
        self._client.stop()
        identity = self._client.identity()
        return DeviceInfo(
            port=self._port,
            board=identity.name,
            firmware=identity.software,
            labels=from_info(self._client.info()) or Description(name=""),
            camera=self._camera(),
        )

    def _camera(self) -> CameraModes:
        """The first camera's; the firmware has one."""
        for sensor in self._client.sensors():
            self._sensor = sensor.id
            return CameraModes(current=sensor.option, modes=sensor.options)
        return CameraModes()

    def start(self) -> Thresholds:
        setup = self._client.start(FOREVER, with_images=True)
        return Thresholds(score=setup.score, iou=setup.iou)

    def poll(self, timeout_s: float) -> Sequence[Detections]:
        events = self._client.poll(timeout_s)
        for event in events:
            if event.code:
                raise CommandRefused("INVOKE", event.code)
        return [read_detections(event.data) for event in events]

    def check_running(self) -> None:
        if not self._client.is_invoking():
            raise InvocationEnded

    def stop(self) -> None:
        self._client.stop()

    def set_thresholds(self, requested: Thresholds) -> Thresholds:
        if requested.score is not None:
            self._client.set_score(requested.score)
        if requested.iou is not None and self._client.invocation.iou is not None:
            self._client.set_iou(requested.iou)
        has_iou = self._client.invocation.iou is not None  # a classifier has none
        iou = self._client.iou() if has_iou else None
        return Thresholds(score=self._client.score(), iou=iou)

    def set_camera(self, mode: int) -> None:
        self._client.set_sensor(self._sensor, mode)

    def close(self) -> None:
        self._link.close()
