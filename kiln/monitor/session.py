"""A board as the monitor uses it, whatever wire and protocol are below."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

from kiln.device.at_errors import CommandRefused, InvocationEnded
from kiln.device.detections import Detections, read_detections
from kiln.device.labels import Description, from_info
from kiln.device.link import Link
from kiln.device.sscma import FOREVER, AtClient

#: From being plugged in to its first answer a board takes two or three seconds.
START_S = 5.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class About:
    """Who the board says that it is; ``port`` is where it was found.

    ``labels`` are empty if it keeps no description of its model.
    """

    port: str
    board: str
    firmware: str
    labels: Description


@dataclasses.dataclass(frozen=True, kw_only=True)
class Thresholds:
    """In percent: the least score that is reported, and the overlap (IoU) from which on two boxes
    are one object; None where the board's algorithm has none.
    """

    score: int | None = None
    iou: int | None = None


class Camera(Protocol):
    """A board that takes pictures and says what is in them. Methods raise BoardError."""

    @property
    def lost(self) -> int:
        """Frames that came damaged, or that nobody fetched in time, since it was opened."""

    def about(self) -> About: ...

    def begin(self) -> Thresholds:
        """Look at picture after picture until it is told to stop."""

    def poll(self, timeout_s: float) -> Sequence[Detections]:
        """What has come meanwhile; waits for the first one, but no longer than ``timeout_s``."""

    def expect_work(self) -> None:
        """Ask a board that is silent; raises BoardError if it does not look any more."""

    def stop(self) -> None: ...

    def set_thresholds(self, wished: Thresholds) -> Thresholds:
        """Set those that are not None, and read them back; only between ``begin`` and ``stop``."""

    def close(self) -> None: ...


class SscmaCamera:
    """A board with SSCMA firmware."""

    def __init__(self, link: Link, port: str) -> None:
        self._link = link
        self._port = port
        self._board = AtClient(link)

    @property
    def lost(self) -> int:
        return self._board.broken + self._board.dropped

    def about(self) -> About:
        self._board.wait_until_ready(START_S)
        # It may be looking still, for a program that was killed.
        self._board.stop()
        identity = self._board.identity()
        return About(
            port=self._port,
            board=identity.name,
            firmware=identity.software,
            labels=from_info(self._board.info()) or Description(name=""),
        )

    def begin(self) -> Thresholds:
        setup = self._board.start(FOREVER, with_images=True)
        return Thresholds(score=setup.score, iou=setup.iou)

    def poll(self, timeout_s: float) -> Sequence[Detections]:
        events = self._board.poll(timeout_s)
        for event in events:
            if event.code:
                raise CommandRefused("INVOKE", event.code)
        return [read_detections(event.data) for event in events]

    def expect_work(self) -> None:
        if not self._board.is_invoking():
            raise InvocationEnded

    def stop(self) -> None:
        self._board.stop()

    def set_thresholds(self, wished: Thresholds) -> Thresholds:
        if wished.score is not None:
            self._board.set_score(wished.score)
        if wished.iou is not None:
            self._board.set_iou(wished.iou)
        return Thresholds(score=self._board.score(), iou=self._board.iou())

    def close(self) -> None:
        self._link.close()
