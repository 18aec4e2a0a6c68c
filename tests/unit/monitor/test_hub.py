"""The only reader of a board: publishes every event, and keeps requests over reconnections."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kiln.errors import BoardError, BoardGone, PortMissing
from kiln.monitor import hub as hub_module
from kiln.monitor.hub import FrameEvent, Hub
from kiln.monitor.session import Thresholds
from tests.support.scripted_session import PEOPLE, PORT, SHAPES, ScriptedSession, detections

_PATIENCE_S = 10.0


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "RECONNECT_S", 0.01)
    monkeypatch.setattr(hub_module, "POLL_S", 0.01)
    monkeypatch.setattr(hub_module, "THRESHOLD_INTERVAL_S", 0.0)


class Port:
    """Where a test plugs boards in and out."""

    def __init__(self) -> None:
        self.session: ScriptedSession | None = ScriptedSession()

    def connect(self) -> ScriptedSession:
        if self.session is None:
            raise PortMissing(PORT)
        return self.session

    def unplug(self) -> None:
        assert self.session is not None
        gone, self.session = self.session, None
        gone.events.put(BoardGone(PORT))


@pytest.fixture
def port() -> Port:
    return Port()


@pytest.fixture
def hub(port: Port) -> Iterator[Hub]:
    with Hub(port.connect) as entered:
        yield entered


def _until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.005)


def _call(session: ScriptedSession) -> object:
    return session.calls.get(timeout=_PATIENCE_S)


def test_every_subscriber_gets_every_event_in_order(hub: Hub, port: Port) -> None:
    assert port.session is not None
    got: list[list[FrameEvent]] = [[], []]
    for each in got:
        hub.subscribe(each.append)
    for _ in range(100):
        port.session.events.put(detections())
    _until(lambda: len(got[1]) == 100)
    assert [each.number for each in got[0]] == list(range(1, 101))
    assert got[0] == got[1]
    assert got[0][0].labels == PEOPLE
    _until(lambda: hub.state.events == 100 and hub.state.connection == "live")


def test_a_former_subscriber_gets_nothing(hub: Hub, port: Port) -> None:
    assert port.session is not None
    left: list[FrameEvent] = []
    stayed: queue.SimpleQueue[FrameEvent] = queue.SimpleQueue()
    hub.subscribe(left.append)()
    hub.subscribe(stayed.put)
    port.session.events.put(detections())
    stayed.get(timeout=_PATIENCE_S)
    assert left == []


def test_thresholds_reach_the_board_and_only_those_that_changed(hub: Hub, port: Port) -> None:
    assert port.session is not None
    assert _call(port.session) == "start"
    hub.set_thresholds(Thresholds(score=70))
    assert _call(port.session) == Thresholds(score=70)
    hub.set_thresholds(Thresholds(iou=30))
    assert _call(port.session) == Thresholds(iou=30)
    _until(lambda: hub.state.thresholds == Thresholds(score=70, iou=30))


def test_what_the_board_refuses_is_asked_once_and_its_own_value_shown(hub: Hub, port: Port) -> None:
    assert port.session is not None
    port.session.refuses = True
    assert _call(port.session) == "start"
    hub.set_thresholds(Thresholds(score=70))
    assert _call(port.session) == Thresholds(score=70)
    _until(lambda: "refused AT+TSCORE" in hub.state.note)
    _until(lambda: hub.state.thresholds == Thresholds(score=50, iou=45))
    with pytest.raises(queue.Empty):
        port.session.calls.get(timeout=0.1)


def test_pause_stops_the_board_and_requests_wait_until_it_resumes(hub: Hub, port: Port) -> None:
    assert port.session is not None
    assert _call(port.session) == "start"
    hub.pause()
    assert _call(port.session) == "stop"
    _until(lambda: hub.state.connection == "paused")
    hub.set_thresholds(Thresholds(score=20))
    _until(lambda: hub.state.thresholds.score == 20)
    hub.resume()
    assert _call(port.session) == "start"
    assert _call(port.session) == Thresholds(score=20)


def test_a_board_that_comes_back_is_set_up_as_before(hub: Hub, port: Port) -> None:
    first = port.session
    assert first is not None
    assert _call(first) == "start"
    hub.set_thresholds(Thresholds(score=70))
    assert _call(first) == Thresholds(score=70)
    first.lost = 3
    port.unplug()
    _until(lambda: hub.state.connection == "disconnected" and "there is no port" in hub.state.note)
    assert hub.state.device.labels == PEOPLE
    back = ScriptedSession(labels=SHAPES)
    back.lost = 1
    port.session = back
    assert _call(back) == "start"
    assert _call(back) == Thresholds(score=70)
    _until(lambda: hub.state.connection == "live")
    assert hub.state.device.labels == SHAPES
    assert (hub.state.lost, hub.state.note) == (4, "")
    got: queue.SimpleQueue[FrameEvent] = queue.SimpleQueue()
    hub.subscribe(got.put)
    back.events.put(detections())
    assert got.get(timeout=_PATIENCE_S).labels == SHAPES


def test_a_board_that_was_paused_comes_back_paused(hub: Hub, port: Port) -> None:
    port.unplug()
    _until(lambda: hub.state.connection == "disconnected")
    hub.pause()
    _until(lambda: hub.state.paused)
    port.session = back = ScriptedSession()
    _until(lambda: hub.state.connection == "paused")
    assert back.calls.empty()


def test_a_board_that_was_reset_is_queried_and_started_again(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "SILENT_S", 0.05)
    first = port.session
    assert first is not None
    with Hub(port.connect):
        assert _call(first) == "start"
        first.running = False
        port.session = back = ScriptedSession()
        assert _call(back) == "start"


def test_a_slow_board_that_still_works_is_left_alone(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "SILENT_S", 0.02)
    assert port.session is not None
    with Hub(port.connect) as hub:
        assert _call(port.session) == "start"
        with pytest.raises(queue.Empty):
            port.session.calls.get(timeout=0.2)
        assert hub.state.connection == "live"


def test_the_rate_is_that_of_the_last_events(port: Port) -> None:
    hub = Hub(port.connect)
    now = time.monotonic()
    hub._arrivals.extend([now - 9, now - 8, *(now - 1 + number / 20 for number in range(20))])
    assert hub._rate() == pytest.approx(20)


def test_a_slow_board_has_the_rate_of_its_last_few_events(port: Port) -> None:
    hub = Hub(port.connect)
    hub._arrivals.extend(time.monotonic() - age for age in (8, 6, 4))
    assert hub._rate() == pytest.approx(0.5)


def test_a_paused_board_has_no_rate(hub: Hub, port: Port) -> None:
    assert port.session is not None
    for _ in range(3):
        port.session.events.put(detections())
    _until(lambda: hub.state.events == 3)
    hub.pause()
    _until(lambda: hub.state.connection == "paused" and hub.state.fps == 0)


def test_the_camera_s_mode_is_set_and_frames_come_again(port: Port) -> None:
    assert port.session is not None
    with Hub(port.connect) as hub:
        assert _call(port.session) == "start"
        hub.set_camera(2)
        assert [_call(port.session), _call(port.session)] == [("camera", 2), "start"]
        _until(lambda: hub.state.device.camera.current == 2)


def test_a_mode_that_the_board_refuses_is_said_once(port: Port) -> None:
    assert port.session is not None
    port.session.refuses = True
    with Hub(port.connect) as hub:
        assert _call(port.session) == "start"
        hub.set_camera(2)
        assert _call(port.session) == ("camera", 2)
        _until(lambda: "SENSOR" in hub.state.note)
        port.session.events.put(detections())
        _until(lambda: hub.state.events == 1)
    assert [_call(port.session), _call(port.session)] == ["stop", "close"]
    assert hub.state.device.camera.current == 0


def test_leaving_stops_the_board_and_gives_the_port_back(port: Port) -> None:
    assert port.session is not None
    with Hub(port.connect):
        assert _call(port.session) == "start"
    assert [_call(port.session), _call(port.session)] == ["stop", "close"]


def test_without_a_board_it_does_not_start(port: Port) -> None:
    port.session = None
    with pytest.raises(BoardError, match="there is no port"):
        Hub(port.connect).__enter__()


def test_an_unforeseen_error_ends_the_wait(port: Port) -> None:
    assert port.session is not None
    with Hub(port.connect) as hub:
        port.session.events.put(ZeroDivisionError("oops"))
        with pytest.raises(ZeroDivisionError):
            hub.wait()
