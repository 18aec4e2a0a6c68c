"""The monitor in a real browser, with the emulated board at the other end of a real line."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from kiln.device.detections import Box, ClassScore
from kiln.device.labels import Description
from kiln.device.link import open_link
from kiln.emulator.board import EmulatedBoard
from kiln.emulator.faults import Faults
from kiln.emulator.firmware import Camera
from kiln.monitor.hub import Hub
from kiln.monitor.recording import Recorder, unused
from kiln.monitor.server import MonitorServer
from kiln.monitor.session import SscmaSession, Thresholds
from tests.support.emulated_models import GREY_JPEG, MODEL
from tests.support.fixtures import RunStep
from tests.support.scripted_session import FRUIT, ScriptedSession, detections
from tests.support.two_people import DOUBTFUL, HIDDEN, SIZE, SURE, TwoPeople, joints

YELLOW = (255, 210, 31)

#: Pixels of the drawn canvas at points of the frame.
PIXEL = """([x, y]) => {
  const canvas = document.getElementById('frame')
  const scale = canvas.width / 240
  const pixel = canvas.getContext('2d').getImageData(x * scale, y * scale, 1, 1)
  return [...pixel.data].slice(0, 3)
}"""


@pytest.fixture(scope="module")
def model(browser: Browser) -> TwoPeople:
    return TwoPeople(browser)


@pytest.fixture
def board(model: TwoPeople) -> Iterator[EmulatedBoard]:
    emulated = EmulatedBoard(model, camera=Camera(fps=20), boot_s=0.05)
    emulated.load(MODEL)
    with emulated:
        yield emulated


class Opened:
    """The page in a window, its requests and its console messages."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.page: Page = context.new_page()
        self.requests: list[str] = []
        self.messages: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.goto(url)

    def wait_for_a_frame(self) -> None:
        self.page.wait_for_selector("body[data-drawn]")

    def says(self, name: str, text: str | re.Pattern[str]) -> None:
        expect(self.page.locator(f"#{name}")).to_have_text(text, timeout=15_000)

    def pixel(self, x: float, y: float) -> tuple[int, ...]:
        return tuple(self.page.evaluate(PIXEL, [x, y]))

    def is_drawn(self, x: float, y: float) -> bool:
        return all(
            abs(value - wanted) < 40 for value, wanted in zip(self.pixel(x, y), YELLOW, strict=True)
        )


@dataclasses.dataclass
class Monitor:
    """What `kiln monitor` runs, and windows on it."""

    browser: Browser
    board: EmulatedBoard
    recorder: Recorder
    url: str

    @contextlib.contextmanager
    def window(
        self, width: int = 1280, height: int = 860, *, dark: bool = False
    ) -> Iterator[Opened]:
        context = self.browser.new_context(
            viewport={"width": width, "height": height},
            device_scale_factor=1,
            color_scheme="dark" if dark else "light",
        )
        opened = Opened(context, self.url)
        yield opened
        context.close()

    def received(self, command: str) -> Callable[[EmulatedBoard], bool]:
        """Whether the board was sent a command, whatever its tag."""
        return lambda board: any(each.endswith(f"@{command}") for each in board.commands)


@pytest.fixture
def monitor(browser: Browser, board: EmulatedBoard, tmp_path: Path) -> Iterator[Monitor]:
    recorder = Recorder(lambda: unused(tmp_path / "recorded"))
    with Hub(lambda: SscmaSession(open_link(board.port, 921_600), board.port)) as hub:
        hub.subscribe(recorder.offer)
        with MonitorServer(hub, recorder) as server:
            yield Monitor(browser, board, recorder, server.url)
    recorder.stop()


@pytest.fixture
def opened(monitor: Monitor) -> Iterator[Opened]:
    with monitor.window() as window:
        window.wait_for_a_frame()
        yield window


def test_skeletons_are_drawn_where_the_people_are(monitor: Monitor, opened: Opened) -> None:
    """Joints, limbs and box in yellow, and the wall beside them as the camera saw it."""
    assert monitor.board.invoking
    points = joints(SURE)
    for number, (x, y) in enumerate(points):
        assert opened.is_drawn(x, y) == (number != HIDDEN), f"keypoint {number}"
    knee, hip = points[14], points[12]
    assert opened.is_drawn((knee[0] + hip[0]) / 2, (knee[1] + hip[1]) / 2)
    assert opened.is_drawn(SURE[0] - 36, SURE[1])
    red, green, blue = opened.pixel(SURE[0], SURE[1] + 50)
    assert abs(red - 60) < 20
    assert 30 < green < 170
    assert abs(blue - 120) < 20
    # Less sure than the board's threshold.
    assert not any(opened.is_drawn(x, y) for x, y in joints(DOUBTFUL))


def test_readings_are_those_of_the_board(opened: Opened) -> None:
    opened.says("connection", "Live")
    for name, text in (("pre", "7"), ("inference", "38"), ("post", "4")):
        opened.says(name, text)
    opened.says("fps", re.compile(r"^[1-9]\d*\.\d$"))
    opened.says("found", "class 090 %")
    opened.says("lost", "0")


def test_sliders_reach_the_board(monitor: Monitor, opened: Opened) -> None:
    score = opened.page.get_by_label("Score")
    opened.says("score-value", "50 %")
    score.focus()
    for _ in range(15):
        opened.page.keyboard.press("ArrowLeft")
    monitor.board.wait_until(monitor.received("TSCORE=35"))
    opened.says("found-count", "2 objects")
    opened.says("score-value", "35 %")
    assert all(opened.is_drawn(x, y) for x, y in joints(DOUBTFUL)[:5])
    opened.page.get_by_label("Overlap (IoU)").fill("20")
    monitor.board.wait_until(monitor.received("TIOU=20"))
    opened.says("iou-value", "20 %")


def test_space_pauses_and_resumes_the_board(monitor: Monitor, opened: Opened) -> None:
    opened.page.keyboard.press(" ")
    monitor.board.wait_until(lambda board: not board.invoking)
    opened.says("connection", "Paused")
    opened.says("pause", "Resume")
    opened.page.keyboard.press(" ")
    monitor.board.wait_until(lambda board: board.invoking)
    opened.says("connection", "Live")


def test_space_on_a_button_presses_that_button_alone(monitor: Monitor, opened: Opened) -> None:
    opened.page.locator("#pause").focus()
    opened.page.keyboard.press(" ")
    opened.says("connection", "Paused")
    opened.page.locator("#keys").focus()
    opened.page.keyboard.press(" ")
    expect(opened.page.get_by_role("dialog")).to_be_visible()
    assert not monitor.board.invoking


def test_the_camera_s_mode_is_chosen_and_kept(monitor: Monitor, opened: Opened) -> None:
    camera = opened.page.get_by_role("combobox", name="Camera")
    expect(camera).to_have_value("0")
    camera.select_option("640x480 Auto")
    monitor.board.wait_until(monitor.received("SENSOR=1,1,2"))
    monitor.board.wait_until(lambda board: board.invoking)
    opened.says("connection", "Live")
    opened.page.reload()
    expect(camera).to_have_value("2")


def test_a_reload_keeps_everything(monitor: Monitor, opened: Opened) -> None:
    opened.page.get_by_label("Score").fill("40")
    monitor.board.wait_until(monitor.received("TSCORE=40"))
    opened.page.keyboard.press("r")
    opened.says("record-label", re.compile(r"Stop recording \(\d+\)"))
    before = monitor.recorder.recording.images
    opened.page.reload()
    opened.wait_for_a_frame()
    opened.says("score-value", "40 %")
    opened.says("record-label", re.compile(r"Stop recording \(\d+\)"))
    opened.page.keyboard.press(" ")
    opened.says("connection", "Paused")
    opened.page.reload()
    opened.says("connection", "Paused")
    assert monitor.recorder.recording.images > before


def test_unplugged_and_back_it_goes_on_as_before(monitor: Monitor, opened: Opened) -> None:
    opened.page.get_by_label("Score").fill("40")
    monitor.board.wait_until(monitor.received("TSCORE=40"))
    monitor.board.unplug()
    opened.says("connection", "Board disconnected, reconnecting")
    opened.says("note", re.compile("is gone|there is no port"))
    monitor.board.commands.clear()
    monitor.board.plug_in()
    opened.says("connection", "Live")
    assert monitor.board.invoking
    opened.says("score-value", "40 %")
    opened.says("found-count", "2 objects")


def test_frames_that_come_damaged_are_counted(monitor: Monitor, opened: Opened) -> None:
    monitor.board.set_faults(Faults(seed=1, truncate_json=0.2))
    opened.says("lost", re.compile(r"^[1-9]\d*$"))
    opened.says("connection", "Live")


def test_a_recording_is_a_data_set_that_kiln_takes(
    monitor: Monitor, opened: Opened, run_step: RunStep
) -> None:
    opened.page.keyboard.press("r")
    opened.page.wait_for_function(
        "() => parseInt(document.getElementById('record-label').textContent.match(/\\d+/)) >= 12"
    )
    opened.page.keyboard.press("r")
    opened.says(
        "recording", re.compile("^Recorded .*Train with it: kiln build --task pose --data ")
    )
    recording = monitor.recorder.recording
    checked = run_step("check", {"task": "pose"}, {"data": Path(recording.folder)})
    result = checked.expect_success().result
    assert result.kpt_shape == (17, 3)
    assert sum(result.images.values()) == recording.images
    assert min(result.images.values()) >= 1
    assert sum(result.objects.values()) == recording.objects == recording.images


def test_a_snapshot_is_an_image_with_what_is_drawn(opened: Opened, tmp_path: Path) -> None:
    with opened.page.expect_download() as download:
        opened.page.keyboard.press("s")
    assert download.value.suggested_filename.endswith(".png")
    download.value.save_as(tmp_path / "shot.png")
    content = (tmp_path / "shot.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert int.from_bytes(content[16:20], "big") == 4 * SIZE
    opened.says("message", re.compile(r"^Saved .*\.png$"))


def test_every_control_can_be_named_reached_and_seen(opened: Opened) -> None:
    for role, name in (
        ("button", "Pause"),
        ("button", "Snapshot"),
        ("button", "Record"),
        ("button", "Keys"),
        ("slider", "Score"),
        ("slider", "Overlap (IoU)"),
        ("img", "The camera's frame with what the model finds in it"),
    ):
        expect(opened.page.get_by_role(role, name=name, exact=True)).to_be_visible()  # type: ignore[arg-type]
    reached = []
    for _ in range(6):
        opened.page.keyboard.press("Tab")
        reached.append(opened.page.evaluate("document.activeElement.id"))
        outline = opened.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"
    assert reached == ["pause", "snapshot", "record", "keys", "score", "iou"]


def test_a_question_mark_shows_the_keys(opened: Opened) -> None:
    opened.page.keyboard.press("?")
    expect(opened.page.get_by_role("dialog", name="Keys")).to_be_visible()
    opened.page.keyboard.press("?")
    expect(opened.page.get_by_role("dialog")).to_be_hidden()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_and_asks_for_nothing_from_elsewhere(
    monitor: Monitor, width: int, dark: bool
) -> None:
    with monitor.window(width, 740, dark=dark) as window:
        window.wait_for_a_frame()
        assert window.page.evaluate("document.documentElement.scrollWidth") == width
        shape = window.page.locator("#frame").bounding_box()
        assert shape is not None
        assert abs(shape["width"] - shape["height"]) < 1
        colour = window.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (max(int(part) for part in re.findall(r"\d+", colour)) < 60) == dark
        assert [url for url in window.requests if not url.startswith(monitor.url)] == []
        assert window.messages == []


def test_text_of_a_board_is_shown_and_never_run(browser: Browser, tmp_path: Path) -> None:
    hostile = "<img src=x onerror=alert(1)>" * 8
    session = ScriptedSession(labels=Description(name=hostile, classes=(hostile,)))
    context = browser.new_context(viewport={"width": 360, "height": 740})
    with (
        Hub(lambda: session) as hub,
        MonitorServer(hub, Recorder(lambda: tmp_path / "recorded")) as server,
    ):
        window = Opened(context, server.url)
        window.says("model", hostile)
        session.events.put(detections(Box(60, 60, 40, 40, 80, 0), image=b"not a JPEG"))
        window.wait_for_a_frame()
        window.says("found", f"{hostile}80 %")
        assert window.page.evaluate("document.documentElement.scrollWidth") == 360
        assert window.page.locator("img:not([role])").count() == 0
        assert window.messages == []
    context.close()


def test_the_end_of_kiln_is_said(browser: Browser, board: EmulatedBoard, tmp_path: Path) -> None:
    context = browser.new_context()
    with Hub(lambda: SscmaSession(open_link(board.port, 921_600), board.port)) as hub:
        server = MonitorServer(hub, Recorder(lambda: tmp_path / "recorded"))
        window = Opened(context, server.url)
        window.says("connection", "Live")
        server.close()
        window.says("connection", "Kiln has ended, or cannot be reached")
    assert not board.invoking
    context.close()


def test_a_classifiers_classes_are_on_the_frame_and_in_the_list(browser: Browser) -> None:
    session = ScriptedSession(labels=FRUIT, thresholds=Thresholds(score=50))
    with (
        Hub(lambda: session) as hub,
        MonitorServer(hub, Recorder(lambda: Path("unused"))) as server,
    ):
        context = browser.new_context()
        window = Opened(context, server.url)
        seen = detections(ClassScore(80, 0), ClassScore(15, 1), image=GREY_JPEG)
        window.says("connection", "Live")
        session.events.put(seen)
        window.wait_for_a_frame()
        window.says("found-count", "2 classes")
        expect(window.page.locator("#found li")).to_have_text(["ripe80 %", "un/ripe15 %"])
        expect(window.page.get_by_label("Overlap (IoU)")).to_be_disabled()
        assert window.messages == []
        # The plate in the frame's corner, and the grey of the frame away from it.
        assert max(window.pixel(2, 2)) < 80
        assert min(window.pixel(200, 200)) > 80
        context.close()
