"""Access to the monitor's page, and what a browser is sent, over real sockets."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from kiln.errors import RequestError
from kiln.monitor.access import Access
from kiln.monitor.hub import Hub
from kiln.monitor.recording import Recorder
from kiln.monitor.server import MonitorServer
from kiln.monitor.session import Thresholds
from tests.support.scripted_session import PEOPLE, ScriptedSession, detections, jpeg, person

_PATIENCE_S = 10.0


class Answer(NamedTuple):
    """What came back for a request."""

    status: int
    headers: http.client.HTTPMessage
    text: str


class Monitor:
    """A monitor over a scripted session, and the requests of a test to it."""

    def __init__(self, session: ScriptedSession, recorder: Recorder, server: MonitorServer) -> None:
        self.session = session
        self.recorder = recorder
        self.url = server.url
        address = urlsplit(server.url)
        assert address.hostname
        assert address.port
        self.name, self.port = address.hostname, address.port
        self.host = address.netloc
        self.token = "".join(parse_qs(address.query).get("token", []))

    def get(self, path: str = "/", **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_PATIENCE_S)
        with contextlib.closing(connection):
            connection.request("GET", path, headers={"Host": self.host, **headers})
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read().decode())

    def live(self, *, host: str = "", **headers: str) -> ClientConnection:
        """The WebSocket, opened as a page of that host would, by default the monitor's own."""
        given = {"Origin": f"http://{host or self.host}", **headers}
        raw = socket.create_connection(("127.0.0.1", self.port))
        try:
            return connect(f"ws://{host or self.host}/live", additional_headers=given, sock=raw)
        except BaseException:
            raw.close()
            raise


@contextlib.contextmanager
def _monitor(folder: Path, address: str = "127.0.0.1") -> Iterator[Monitor]:
    session = ScriptedSession()
    recorder = Recorder(lambda: folder / "set")
    with Hub(lambda: session) as hub:
        hub.subscribe(recorder.offer)
        with MonitorServer(hub, recorder, address=address) as server:
            yield Monitor(session, recorder, server)
    recorder.stop()


@pytest.fixture(scope="module")
def monitor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitor]:
    """For tests that change nothing about it."""
    with _monitor(tmp_path_factory.mktemp("monitor")) as started:
        yield started


@pytest.fixture(scope="module")
def open_monitor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitor]:
    """The same on every address of this host."""
    with _monitor(tmp_path_factory.mktemp("monitor"), "0.0.0.0") as started:
        yield started


@pytest.fixture
def own_monitor(tmp_path: Path) -> Iterator[Monitor]:
    """For one test."""
    with _monitor(tmp_path) as started:
        yield started


def _state(live: ClientConnection, wanted: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """The first state that is as wanted; earlier messages are skipped."""
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        message = live.recv(timeout=_PATIENCE_S)
        if isinstance(message, str):
            found: dict[str, Any] = json.loads(message)
            if found["type"] == "state" and wanted(found):
                return found
    pytest.fail("no such state came")


def _event(live: ClientConnection) -> dict[str, Any]:
    while True:
        message = live.recv(timeout=_PATIENCE_S)
        if isinstance(message, str) and json.loads(message)["type"] == "event":
            found: dict[str, Any] = json.loads(message)
            return found


def _read_to_its_end(live: ClientConnection) -> None:
    with contextlib.suppress(ConnectionClosed):
        while live.recv(timeout=_PATIENCE_S):
            pass


def test_the_page_and_its_files_come_with_a_policy_that_lets_nothing_else_in(
    monitor: Monitor,
) -> None:
    page = monitor.get()
    assert page.status == 200
    assert page.headers["Content-Security-Policy"].startswith("default-src 'self';")
    assert "<script>" not in page.text
    assert "style=" not in page.text
    for path in ("/monitor.js", "/live.js", "/scene.js", "/sparkline.js", "/monitor.css"):
        assert monitor.get(path).status == 200
        assert monitor.get(path).headers["X-Content-Type-Options"] == "nosniff"
    assert monitor.get("/../hub.py").status == 404
    assert monitor.get("/hub.py").status == 404


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "localhost.evil.example", ""])
def test_another_name_for_this_host_is_refused(monitor: Monitor, host: str) -> None:
    assert monitor.get(Host=host).status == 421
    with pytest.raises(InvalidStatus, match="403"):
        monitor.live(host=host or "nobody")


def test_this_host_may_be_called_by_its_usual_names(monitor: Monitor) -> None:
    for name in ("127.0.0.1", "localhost", "LOCALHOST"):
        assert monitor.get(Host=f"{name}:{monitor.port}").status == 200


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "",
        "http://127.0.0.1:1",
        "https://127.0.0.1:{port}",
        "http://localhost:{port}",
    ],
)
def test_a_foreign_page_gets_no_connection(monitor: Monitor, origin: str) -> None:
    with pytest.raises(InvalidStatus, match="403"):
        monitor.live(Origin=origin.format(port=monitor.port))


def test_on_another_address_the_token_is_asked_for_once(open_monitor: Monitor) -> None:
    assert len(open_monitor.token) > 40
    assert open_monitor.get().status == 403
    assert open_monitor.get("/?token=wrong").status == 403
    assert open_monitor.get("/monitor.js").status == 403
    welcome = open_monitor.get(f"/?token={open_monitor.token}")
    assert (welcome.status, welcome.headers["Location"]) == (303, "/")
    cookie = welcome.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    pair = cookie.split(";")[0]
    assert open_monitor.get(Cookie=pair).status == 200
    with open_monitor.live(Cookie=pair) as live:
        _state(live, lambda state: state["connection"] == "live")


@pytest.mark.parametrize("cookie", [None, "kiln-monitor-{port}=wrong", "kiln-monitor-{port}="])
def test_without_the_token_there_is_no_connection(
    open_monitor: Monitor, cookie: str | None
) -> None:
    given = {"Cookie": cookie.format(port=open_monitor.port)} if cookie else {}
    with pytest.raises(InvalidStatus, match="403"):
        open_monitor.live(**given)


def test_the_token_is_in_no_log(
    open_monitor: Monitor, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    open_monitor.get(f"/?token={open_monitor.token}")
    open_monitor.get(f"/nothing?token={open_monitor.token}")
    said = caplog.text + "".join(capfd.readouterr())
    assert open_monitor.token not in said


def test_tokens_are_new_each_time_and_loopback_needs_none() -> None:
    assert Access("0.0.0.0", 1).token != Access("0.0.0.0", 1).token
    assert Access("127.0.0.1", 8000).url == "http://127.0.0.1:8000/"
    assert Access("::1", 8000).url == "http://[::1]:8000/"
    assert Access("::1", 8000).knows_host("[::1]:8000")


def test_an_address_or_port_that_cannot_be_had_is_said(monitor: Monitor, tmp_path: Path) -> None:
    for address, port, words in (
        ("nowhere", 0, "not 'nowhere'"),
        ("192.0.2.1", 0, "cannot listen on 192.0.2.1"),
        ("127.0.0.1", monitor.port, "Address already in use"),
    ):
        hub = Hub(ScriptedSession)
        with pytest.raises(RequestError, match=words):
            MonitorServer(hub, Recorder(lambda: tmp_path), address=address, port=port)


def test_an_event_comes_as_json_and_its_image_as_bytes_under_its_number(
    own_monitor: Monitor,
) -> None:
    with own_monitor.live() as live:
        state = _state(live, lambda state: state["connection"] == "live")
        assert state["device"]["labels"]["skeleton"] == [list(pair) for pair in PEOPLE.skeleton]
        own_monitor.session.events.put(
            detections(person(60, 100, score=81, hidden=(1,)), image=jpeg(7))
        )
        event = _event(live)
        assert event["number"] == 1
        assert event["perf"] == [6, 64, 3]
        assert event["skeleton"] == [list(pair) for pair in PEOPLE.skeleton]
        (somebody,) = event["objects"]
        assert somebody["box"] == [60, 100, 20, 40]
        assert (somebody["score"], somebody["target"]) == (81, 0)
        assert somebody["points"][0] == [52, 100]
        assert somebody["points"][1] is None
        assert live.recv(timeout=_PATIENCE_S) == (1).to_bytes(4, "big") + jpeg(7)


def test_requests_reach_the_board_and_every_browser_sees_them(own_monitor: Monitor) -> None:
    with own_monitor.live() as one, own_monitor.live() as other:
        one.send(json.dumps({"action": "score", "value": 70}))
        _state(other, lambda state: state["thresholds"]["score"] == 70)
        one.send(json.dumps({"action": "iou", "value": 20}))
        _state(other, lambda state: state["thresholds"]["iou"] == 20)
        assert own_monitor.session.thresholds == Thresholds(score=70, iou=20)
        one.send(json.dumps({"action": "pause"}))
        _state(other, lambda state: state["connection"] == "paused")
        other.send(json.dumps({"action": "resume"}))
        _state(one, lambda state: state["connection"] == "live")
    with own_monitor.live() as reloaded:
        assert _state(reloaded, lambda _state: True)["thresholds"] == {"score": 70, "iou": 20}


def test_a_recording_goes_on_while_no_browser_looks(own_monitor: Monitor) -> None:
    with own_monitor.live() as live:
        live.send(json.dumps({"action": "record"}))
        _state(live, lambda state: state["recording"]["folder"])
    for number in range(20):
        own_monitor.session.events.put(detections(person(60, 100), image=jpeg(number)))
    with own_monitor.live() as live:
        _state(live, lambda state: state["recording"]["images"] == 20)
        live.send(json.dumps({"action": "stop"}))
        ended = _state(live, lambda state: not state["recording"]["running"])
        assert ended["recording"]["objects"] == 20


@pytest.mark.parametrize(
    "nonsense",
    [
        "x",
        "[]",
        "{}",
        '{"action": "fly"}',
        '{"action": "score"}',
        '{"action": "score", "value": 101}',
        '{"action": "iou", "value": "50"}',
        '{"action": "score", "value": true}',
        b"\0\1",
        "x" * 5000,
    ],
)
def test_a_malformed_request_closes_that_connection_only(
    monitor: Monitor, nonsense: str | bytes
) -> None:
    with monitor.live() as live:
        live.send(nonsense)
        _read_to_its_end(live)
    with monitor.live() as live:
        _state(live, lambda state: state["connection"] == "live")


def test_a_browser_that_does_not_read_skips_frames_and_holds_up_nobody(
    own_monitor: Monitor,
) -> None:
    large = b"\xff\xd8" + bytes(100_000) + b"\xff\xd9"
    events = 200
    raw = socket.create_connection(("127.0.0.1", own_monitor.port))
    # As small as the system lets it be: what is on its way must not hold all of them.
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.sendall(
        b"GET /live HTTP/1.1\r\nHost: %b\r\nOrigin: http://%b\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
        b"Sec-WebSocket-Version: 13\r\n\r\n"
        % (own_monitor.host.encode(), own_monitor.host.encode())
    )
    assert b"101" in raw.recv(64)
    with raw, own_monitor.live() as quick:
        _state(quick, lambda state: state["connection"] == "live")
        for number in range(1, events + 1):
            own_monitor.session.events.put(detections(person(60, 100), image=large))
            assert _event(quick)["number"] == number
        assert _state(quick, lambda state: state["events"] == events)["skipped"] == 0


def test_skipped_frames_are_counted_for_the_slow_one(own_monitor: Monitor) -> None:
    with own_monitor.live() as live:
        _state(live, lambda state: state["connection"] == "live")
        for number in range(400):
            own_monitor.session.events.put(
                detections(image=jpeg(number) + bytes(100_000) + b"\xff\xd9")
            )
        # The line to this test holds some frames, its queue a few more.
        _until(own_monitor.session.events.empty)
        state = _state(live, lambda state: state["events"] == 400 and state["skipped"])
        shown = 400 - state["skipped"]
        assert 0 < shown < 400


def _until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_browsers_are_told_when_it_ends(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        with _monitor(tmp_path) as monitor:
            live = stack.enter_context(monitor.live())
            _state(live, lambda state: state["connection"] == "live")
        _read_to_its_end(live)
