"""The only reader of a board: keeps its state, publishes every event, reconnects when it returns.

A board drops events that are not fetched, so no browser or disk may block the reader: subscribers
take an event without waiting, and changes of settings are stored as requests that the reader's
thread applies between two events; of many moves of a slider only the last is sent. Requests outlive
the connection: a board that comes back is configured as before.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Literal

from kiln.device.at_errors import CommandRefused
from kiln.device.detections import Detections
from kiln.device.labels import Description
from kiln.errors import BoardError
from kiln.monitor.session import DeviceInfo, DeviceSession, Thresholds

#: How soon a request is applied while no events come.
POLL_S = 0.05
#: A board stores its thresholds on flash, which a slider must not wear out.
THRESHOLD_INTERVAL_S = 0.3
#: How often a disconnected board is searched.
RECONNECT_S = 0.5
#: The slowest published inference takes 2.6 s. A board that was reset sends no more events, and is
#: queried after so long.
SILENT_S = 4.0
#: The frame rate is an average over so long.
_RATE_S = 3.0
_RATE_EVENTS = 4

Connection = Literal["live", "paused", "disconnected"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrameEvent:
    """One event of the board, numbered from 1 since the program started, and the model's labels."""

    number: int
    detections: Detections
    labels: Description


@dataclasses.dataclass(frozen=True, kw_only=True)
class State:
    """The state of the board; ``device`` is the last known one while it is disconnected.

    ``paused`` is what the user chose, connected or not. ``thresholds`` are the board's, or
    requested ones that are not applied yet. ``note`` says why it is disconnected, or what it has
    refused; ``lost`` counts events that arrived damaged or were not fetched in time.
    """

    connection: Connection
    device: DeviceInfo
    paused: bool = False
    thresholds: Thresholds = dataclasses.field(default_factory=Thresholds)
    note: str = ""
    events: int = 0
    lost: int = 0
    fps: float = 0.0


class Hub:
    """Reads a board inside a ``with`` block. ``connect`` opens the board."""

    def __init__(self, connect: Callable[[], DeviceSession]) -> None:
        self._connect = connect
        self._paused = False
        self._requested = Thresholds()
        self._camera: int | None = None
        self._subscribers: tuple[Callable[[FrameEvent], None], ...] = ()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._running = False
        #: The board's thresholds when they were last set.
        self._current = Thresholds()
        self._last_event_at = self._set_at = 0.0
        self._arrivals: deque[float] = deque()
        self._lost_before = 0
        self._failure: BaseException | None = None
        self._ended = threading.Event()

    def __enter__(self) -> Hub:
        """Raises BoardError if the board is not there at first; later the hub waits for it."""
        session, device = self._open()
        self.state = State(connection="disconnected", device=device)
        self._thread = threading.Thread(target=self._run, args=(session,), name="board")
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        """Stop the board, if it is there, and disconnect."""
        self._stopping.set()
        self._thread.join()

    def wait(self) -> None:
        """Wait until the block is left; raises what made the reader's thread fail."""
        # A wait without a timeout could not be interrupted by a signal on every system.
        while not self._ended.wait(1.0):
            pass
        if self._failure is not None:
            raise self._failure

    def subscribe(self, take: Callable[[FrameEvent], None]) -> Callable[[], None]:
        """Call ``take`` with every event, in the reader's thread: it must not wait.

        Returns a function that ends it.
        """
        with self._lock:
            self._subscribers = (*self._subscribers, take)

        def unsubscribe() -> None:
            with self._lock:
                self._subscribers = tuple(each for each in self._subscribers if each is not take)

        return unsubscribe

    def pause(self) -> None:
        """Stop the board until ``resume``."""
        self._paused = True

    def resume(self) -> None:
        self._paused = False

    def set_thresholds(self, requested: Thresholds) -> None:
        """Set those that are not None as soon as the board is live."""
        with self._lock:
            self._requested = _merged(self._requested, requested)

    def set_camera(self, mode: int) -> None:
        """Put the camera into one of its modes as soon as the board is connected."""
        self._camera = mode

    def _run(self, first: DeviceSession) -> None:
        try:
            session: DeviceSession | None = first
            while session is not None:
                with contextlib.closing(session):
                    self._read(session)
                session = self._reconnect()
        except BaseException as error:
            self._failure = error
        finally:
            self._ended.set()

    def _read(self, session: DeviceSession) -> None:
        """Read until the board is gone or the hub ends."""
        self._running = False
        self._arrivals.clear()
        try:
            while not self._stopping.is_set():
                self._apply_requests(session)
                for detections in session.poll(POLL_S):
                    self._publish(detections)
                self._check_running(session)
                self._update_connection(session)
        except BoardError as error:
            self._update(connection="disconnected", note=error.message, fps=0.0)
        with contextlib.suppress(BoardError):
            session.stop()
        self._lost_before += session.lost

    def _reconnect(self) -> DeviceSession | None:
        """The board, once it is there again; None if the hub ends before."""
        while not self._stopping.wait(RECONNECT_S):
            self._update_settings()
            try:
                session, device = self._open()
            except BoardError as error:
                self._update(note=error.message)
                continue
            self._update(device=device, note="")
            return session
        return None

    def _open(self) -> tuple[DeviceSession, DeviceInfo]:
        session = self._connect()
        try:
            return session, session.device_info()
        except BaseException:
            session.close()
            raise

    def _apply_requests(self, session: DeviceSession) -> None:
        """Start, stop or configure the board as requested."""
        self._apply_camera(session)
        run = not self._paused
        if run and not self._running:
            self._current = session.start()
            self._last_event_at = time.monotonic()
        elif self._running and not run:
            session.stop()
            self._arrivals.clear()
        self._running = run
        requested = self._requested
        due = time.monotonic() - self._set_at > THRESHOLD_INTERVAL_S
        if run and due and _merged(self._current, requested) != self._current:
            self._set_thresholds(session, requested)

    def _apply_camera(self, session: DeviceSession) -> None:
        """Change the camera's mode if another is requested, which ends any invocation."""
        device, mode = self.state.device, self._camera
        if mode is None or mode == device.camera.current:
            return
        try:
            session.set_camera(mode)
        except CommandRefused as error:
            self._camera = device.camera.current  # a refused request is not repeated
            self._update(note=error.message)
            return
        self._running = False
        camera = dataclasses.replace(device.camera, current=mode)
        self._update(device=dataclasses.replace(device, camera=camera))

    def _set_thresholds(self, session: DeviceSession, requested: Thresholds) -> None:
        self._set_at = time.monotonic()
        try:
            self._current = session.set_thresholds(_changes(requested, self._current))
        except CommandRefused as error:
            self._update(note=error.message)
        with self._lock:
            # A refused request is not repeated.
            if self._requested == requested:
                self._requested = self._current

    def _publish(self, detections: Detections) -> None:
        self._last_event_at = time.monotonic()
        self._arrivals.append(self._last_event_at)
        number = self.state.events + 1
        self._update(events=number)
        labels = self.state.device.labels
        event = FrameEvent(number=number, detections=detections, labels=labels)
        for take in self._subscribers:
            take(event)

    def _check_running(self, session: DeviceSession) -> None:
        if self._running and time.monotonic() - self._last_event_at > SILENT_S:
            session.check_running()
            self._last_event_at = time.monotonic()

    def _update_settings(self) -> None:
        self._update(paused=self._paused, thresholds=_merged(self._current, self._requested))

    def _update_connection(self, session: DeviceSession) -> None:
        self._update_settings()
        self._update(
            connection="live" if self._running else "paused",
            lost=self._lost_before + session.lost,
            fps=self._rate(),
        )

    def _rate(self) -> float:
        """Events a second over the last seconds; for a slow board, over its last few events."""
        arrivals = self._arrivals
        while len(arrivals) > _RATE_EVENTS and arrivals[0] < time.monotonic() - _RATE_S:
            arrivals.popleft()
        if len(arrivals) < 2:
            return 0.0
        return (len(arrivals) - 1) / max(arrivals[-1] - arrivals[0], POLL_S)

    def _update(self, **changes: object) -> None:
        self.state = dataclasses.replace(self.state, **changes)  # type: ignore[arg-type]


def _changes(requested: Thresholds, current: Thresholds) -> Thresholds:
    """The requested values that differ from the current ones."""
    return Thresholds(
        score=None if requested.score == current.score else requested.score,
        iou=None if requested.iou == current.iou else requested.iou,
    )


def _merged(current: Thresholds, requested: Thresholds) -> Thresholds:
    """The requested values, and the current ones if none are requested."""
    return Thresholds(
        score=current.score if requested.score is None else requested.score,
        iou=current.iou if requested.iou is None else requested.iou,
    )
