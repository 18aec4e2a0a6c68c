"""The one reader of a board: keeps its state, hands on every event, and waits for it if it leaves.

Nothing that a browser or a disk does may hold up the line, for a board drops what is not fetched.
So whoever listens takes an event without waiting, and what is asked of the board is noted as a
wish, which the reader's thread fulfils between two events; of a hundred moves of a slider only
the last counts. Wishes outlive the connection: a board that comes back is set up as before.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Literal

from kiln.device.at_errors import CommandRefused
from kiln.device.detections import Detections
from kiln.device.labels import Description
from kiln.errors import BoardError
from kiln.monitor.session import About, Camera, Thresholds

#: How soon a wish is seen while no events come.
TICK_S = 0.05
#: A board keeps its thresholds on flash, which a slider must not wear out.
REST_S = 0.3
#: How often a board that is away is looked for.
RETRY_S = 0.5
#: The slowest model in the field takes 2.6 s a picture; a board that was reset says nothing more,
#: and is asked after so long.
SILENT_S = 4.0
#: Frames a second are counted over so long.
_RATE_S = 3.0
_RATE_EVENTS = 4

Connection = Literal["watching", "paused", "away"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seen:
    """One event: its number since the program began, from 1, and what its numbers mean."""

    number: int
    detections: Detections
    labels: Description


@dataclasses.dataclass(frozen=True, kw_only=True)
class State:
    """What is known of the board now; ``about`` is the last known while it is away.

    ``paused`` is whether it is to pause, be it there or not. ``thresholds`` are the board's own,
    and what is wished for where it could not be told yet. ``note`` says why it is away, or what
    it has refused; ``lost`` counts events that came damaged or that nobody fetched in time;
    ``returns`` how often it came back.
    """

    connection: Connection
    about: About
    paused: bool = False
    thresholds: Thresholds = dataclasses.field(default_factory=Thresholds)
    note: str = ""
    events: int = 0
    lost: int = 0
    fps: float = 0.0
    returns: int = 0


class Hub:
    """Reads a board from when it is entered until it is left. ``connect`` opens the board."""

    def __init__(self, connect: Callable[[], Camera]) -> None:
        self._connect = connect
        self._paused = False
        self._wished = Thresholds()
        self._subscribers: tuple[Callable[[Seen], None], ...] = ()
        self._lock = threading.Lock()
        self._leaving = threading.Event()
        self._running = False
        #: What the board had when it was last told something.
        self._has = Thresholds()
        self._last_sign = self._told_at = 0.0
        self._arrivals: deque[float] = deque()
        self._lost_before = 0
        self._failure: BaseException | None = None
        self._ended = threading.Event()

    def __enter__(self) -> Hub:
        """Raises BoardError if the board is not there: later it is waited for."""
        camera, about = self._meet()
        self.state = State(connection="away", about=about)
        self._thread = threading.Thread(target=self._run, args=(camera,), name="board")
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Stop the board, if it is there, and let go of it."""
        self._leaving.set()
        self._thread.join()

    def wait(self) -> None:
        """Until it is left, or its thread failed in a way that nothing foresaw: raises that."""
        # An untimed wait could not be interrupted by a signal on every system.
        while not self._ended.wait(1.0):
            pass
        if self._failure is not None:
            raise self._failure

    def subscribe(self, take: Callable[[Seen], None]) -> Callable[[], None]:
        """Have ``take`` called with every event, in the reader's thread: it must not wait.

        Returns what ends it.
        """
        with self._lock:
            self._subscribers = (*self._subscribers, take)

        def leave() -> None:
            with self._lock:
                self._subscribers = tuple(each for each in self._subscribers if each is not take)

        return leave

    def pause(self) -> None:
        """Have the board stop until ``resume``."""
        self._paused = True

    def resume(self) -> None:
        self._paused = False

    def set_thresholds(self, wished: Thresholds) -> None:
        """Have the board take those that are not None, once it can."""
        with self._lock:
            self._wished = _over(self._wished, wished)

    def _run(self, first: Camera) -> None:
        try:
            camera: Camera | None = first
            while camera is not None:
                with contextlib.closing(camera):
                    self._watch(camera)
                camera = self._await_return()
        except BaseException as error:
            self._failure = error
        finally:
            self._ended.set()

    def _watch(self, camera: Camera) -> None:
        """Until the board is gone or the program ends."""
        self._running = False
        self._arrivals.clear()
        try:
            while not self._leaving.is_set():
                self._fulfil(camera)
                for detections in camera.poll(TICK_S):
                    self._hand_on(detections)
                self._expect_signs(camera)
                self._note_state(camera)
        except BoardError as error:
            self._update(connection="away", note=error.message, fps=0.0)
        with contextlib.suppress(BoardError):
            camera.stop()
        self._lost_before += camera.lost

    def _await_return(self) -> Camera | None:
        """The board, once it is there again; None if the program ends before."""
        while not self._leaving.wait(RETRY_S):
            self._note_wishes()
            try:
                camera, about = self._meet()
            except BoardError as error:
                self._update(note=error.message)
                continue
            self._update(about=about, note="", returns=self.state.returns + 1)
            return camera
        return None

    def _meet(self) -> tuple[Camera, About]:
        camera = self._connect()
        try:
            return camera, camera.about()
        except BaseException:
            camera.close()
            raise

    def _fulfil(self, camera: Camera) -> None:
        """Tell the board what it has not been told yet."""
        wanted = not self._paused
        if wanted and not self._running:
            self._has = camera.begin()
            self._last_sign = time.monotonic()
        elif self._running and not wanted:
            camera.stop()
            self._arrivals.clear()
        self._running = wanted
        wished = self._wished
        rested = time.monotonic() - self._told_at > REST_S
        if self._running and rested and _over(self._has, wished) != self._has:
            self._set_thresholds(camera, wished)

    def _set_thresholds(self, camera: Camera, wished: Thresholds) -> None:
        self._told_at = time.monotonic()
        try:
            self._has = camera.set_thresholds(_less(wished, self._has))
        except CommandRefused as error:
            self._update(note=error.message)
        with self._lock:
            # What it has instead is wished for, lest it be asked again and again.
            if self._wished == wished:
                self._wished = self._has

    def _hand_on(self, detections: Detections) -> None:
        self._last_sign = time.monotonic()
        self._arrivals.append(self._last_sign)
        number = self.state.events + 1
        self._update(events=number)
        seen = Seen(number=number, detections=detections, labels=self.state.about.labels)
        for take in self._subscribers:
            take(seen)

    def _expect_signs(self, camera: Camera) -> None:
        if self._running and time.monotonic() - self._last_sign > SILENT_S:
            camera.expect_work()
            self._last_sign = time.monotonic()

    def _note_wishes(self) -> None:
        self._update(paused=self._paused, thresholds=_over(self._has, self._wished))

    def _note_state(self, camera: Camera) -> None:
        self._note_wishes()
        self._update(
            connection="watching" if self._running else "paused",
            lost=self._lost_before + camera.lost,
            fps=self._rate(),
        )

    def _rate(self) -> float:
        """Events a second, between the first and the last of those that came lately.

        Of a slow board that are its last few, however long ago.
        """
        arrivals = self._arrivals
        while len(arrivals) > _RATE_EVENTS and arrivals[0] < time.monotonic() - _RATE_S:
            arrivals.popleft()
        if len(arrivals) < 2:
            return 0.0
        return (len(arrivals) - 1) / max(arrivals[-1] - arrivals[0], TICK_S)

    def _update(self, **changes: object) -> None:
        self.state = dataclasses.replace(self.state, **changes)  # type: ignore[arg-type]


def _less(wished: Thresholds, has: Thresholds) -> Thresholds:
    """What is wished for and not there."""
    return Thresholds(
        score=None if wished.score == has.score else wished.score,
        iou=None if wished.iou == has.iou else wished.iou,
    )


def _over(has: Thresholds, wished: Thresholds) -> Thresholds:
    """What is wished for, and what is there where nothing is."""
    return Thresholds(
        score=has.score if wished.score is None else wished.score,
        iou=has.iou if wished.iou is None else wished.iou,
    )
