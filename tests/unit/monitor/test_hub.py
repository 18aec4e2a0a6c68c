"""The one reader of a board: hands on every event, and never forgets what was wished for."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kiln.errors import BoardError, BoardGone, PortMissing
from kiln.monitor import hub as hub_module
from kiln.monitor.hub import Hub, Seen
from kiln.monitor.session import Thresholds
from tests.support.cameras import PEOPLE, PORT, SHAPES, ScriptedCamera, seen

_PATIENCE_S = 10.0


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "RETRY_S", 0.01)
    monkeypatch.setattr(hub_module, "TICK_S", 0.01)
    monkeypatch.setattr(hub_module, "REST_S", 0.0)


class Port:
    """Where a test plugs cameras in and out."""

    def __init__(self) -> None:
        self.camera: ScriptedCamera | None = ScriptedCamera()

    def connect(self) -> ScriptedCamera:
        if self.camera is None:
            raise PortMissing(PORT)
        return self.camera

    def unplug(self) -> None:
        assert self.camera is not None
        gone, self.camera = self.camera, None
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


def _told(camera: ScriptedCamera) -> object:
    return camera.told.get(timeout=_PATIENCE_S)


def test_every_subscriber_gets_every_event_in_order(hub: Hub, port: Port) -> None:
    assert port.camera is not None
    got: list[list[Seen]] = [[], []]
    for each in got:
        hub.subscribe(each.append)
    for _ in range(100):
        port.camera.events.put(seen())
    _until(lambda: len(got[1]) == 100)
    assert [each.number for each in got[0]] == list(range(1, 101))
    assert got[0] == got[1]
    assert got[0][0].labels == PEOPLE
    _until(lambda: hub.state.events == 100 and hub.state.connection == "watching")


def test_who_has_left_gets_nothing(hub: Hub, port: Port) -> None:
    assert port.camera is not None
    left: list[Seen] = []
    stayed: queue.SimpleQueue[Seen] = queue.SimpleQueue()
    hub.subscribe(left.append)()
    hub.subscribe(stayed.put)
    port.camera.events.put(seen())
    stayed.get(timeout=_PATIENCE_S)
    assert left == []


def test_thresholds_reach_the_board_and_only_those_that_changed(hub: Hub, port: Port) -> None:
    assert port.camera is not None
    assert _told(port.camera) == "begin"
    hub.set_thresholds(Thresholds(score=70))
    assert _told(port.camera) == Thresholds(score=70)
    hub.set_thresholds(Thresholds(iou=30))
    assert _told(port.camera) == Thresholds(iou=30)
    _until(lambda: hub.state.thresholds == Thresholds(score=70, iou=30))


def test_what_the_board_refuses_is_asked_once_and_its_own_value_shown(hub: Hub, port: Port) -> None:
    assert port.camera is not None
    port.camera.refuses = True
    assert _told(port.camera) == "begin"
    hub.set_thresholds(Thresholds(score=70))
    assert _told(port.camera) == Thresholds(score=70)
    _until(lambda: "refused AT+TSCORE" in hub.state.note)
    _until(lambda: hub.state.thresholds == Thresholds(score=50, iou=45))
    with pytest.raises(queue.Empty):
        port.camera.told.get(timeout=0.1)


def test_pause_stops_the_board_and_wishes_wait_until_it_goes_on(hub: Hub, port: Port) -> None:
    assert port.camera is not None
    assert _told(port.camera) == "begin"
    hub.pause()
    assert _told(port.camera) == "stop"
    _until(lambda: hub.state.connection == "paused")
    hub.set_thresholds(Thresholds(score=20))
    _until(lambda: hub.state.thresholds.score == 20)
    hub.resume()
    assert _told(port.camera) == "begin"
    assert _told(port.camera) == Thresholds(score=20)


def test_a_board_that_comes_back_is_set_up_as_before(hub: Hub, port: Port) -> None:
    first = port.camera
    assert first is not None
    assert _told(first) == "begin"
    hub.set_thresholds(Thresholds(score=70))
    assert _told(first) == Thresholds(score=70)
    first.lost = 3
    port.unplug()
    _until(lambda: hub.state.connection == "away" and "there is no port" in hub.state.note)
    assert hub.state.about.labels == PEOPLE
    back = ScriptedCamera(labels=SHAPES)
    back.lost = 1
    port.camera = back
    assert _told(back) == "begin"
    assert _told(back) == Thresholds(score=70)
    _until(lambda: hub.state.connection == "watching")
    assert hub.state.about.labels == SHAPES
    assert (hub.state.lost, hub.state.returns, hub.state.note) == (4, 1, "")
    got: queue.SimpleQueue[Seen] = queue.SimpleQueue()
    hub.subscribe(got.put)
    back.events.put(seen())
    assert got.get(timeout=_PATIENCE_S).labels == SHAPES


def test_a_board_that_was_paused_comes_back_paused(hub: Hub, port: Port) -> None:
    port.unplug()
    _until(lambda: hub.state.connection == "away")
    hub.pause()
    _until(lambda: hub.state.paused)
    port.camera = back = ScriptedCamera()
    _until(lambda: hub.state.connection == "paused")
    assert back.told.empty()


def test_a_board_that_was_reset_is_asked_and_begun_again(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "SILENT_S", 0.05)
    first = port.camera
    assert first is not None
    with Hub(port.connect):
        assert _told(first) == "begin"
        first.works = False
        port.camera = back = ScriptedCamera()
        assert _told(back) == "begin"


def test_a_slow_board_that_still_works_is_let_be(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "SILENT_S", 0.02)
    assert port.camera is not None
    with Hub(port.connect) as hub:
        assert _told(port.camera) == "begin"
        with pytest.raises(queue.Empty):
            port.camera.told.get(timeout=0.2)
        assert hub.state.connection == "watching"


def test_the_rate_is_that_of_the_last_events(hub: Hub, port: Port) -> None:
    assert port.camera is not None
    for _ in range(20):
        port.camera.events.put(seen())
        time.sleep(0.02)
    _until(lambda: hub.state.events == 20)
    assert 10 < hub.state.fps < 60
    hub.pause()
    _until(lambda: hub.state.connection == "paused")
    assert hub.state.fps == 0


def test_leaving_stops_the_board_and_gives_the_port_back(port: Port) -> None:
    assert port.camera is not None
    with Hub(port.connect):
        assert _told(port.camera) == "begin"
    assert [_told(port.camera), _told(port.camera)] == ["stop", "close"]


def test_without_a_board_it_does_not_begin(port: Port) -> None:
    port.camera = None
    with pytest.raises(BoardError, match="there is no port"):
        Hub(port.connect).__enter__()


def test_what_nobody_foresaw_ends_the_wait(port: Port) -> None:
    assert port.camera is not None
    with Hub(port.connect) as hub:
        port.camera.events.put(ZeroDivisionError("oops"))
        with pytest.raises(ZeroDivisionError):
            hub.wait()
