"""The demo as a user sees it: built with the real libraries, reported, flashed and watched."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser
from websockets.sync.client import ClientConnection, connect

from kiln.emulator.board import EmulatedBoard
from tests.support.emulated_models import FixedModel
from tests.support.user import TINY, User

pytestmark = pytest.mark.usefixtures("environments")

NAME = "yolov8n-pose-demo-64"
_MODEL_ADDRESS = 0x400000
_PATIENCE_S = 60.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Demo:
    """Who built it, what was printed of it, and its result folder."""

    user: User
    built: Any
    folder: Path


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """The demo for grove-v2, but small, and trained for an epoch; nothing of it was there."""
    user = User(tmp_path_factory.mktemp("demo"))
    # What others have in the host's engine is not these tests' to clean.
    user.variables["DOCKER_HOST"] = "unix:///nowhere"
    built = user.builds(*TINY)
    return Demo(user=user, built=built, folder=user.folder / "build/grove-v2" / NAME)


def test_it_gives_a_model_that_the_board_takes(demo: Demo) -> None:
    sums = (demo.folder / "SHA256SUMS").read_text().splitlines()
    assert len(sums) == len(demo.built["files"]) == 5
    for line in sums:
        digest, name = line.split("  ")
        assert hashlib.sha256((demo.folder / name).read_bytes()).hexdigest() == digest
    numbers = demo.built["numbers"]
    assert numbers["operators"]["cpu"] == {}
    assert numbers["sram"]["used_kib"] < numbers["sram"]["limit_kib"]
    assert demo.built["verdict"]["accepted"]
    artifacts = numbers["accuracy"]["artifacts"]
    assert artifacts.keys() == {"trained", "onnx", "float32", "int8"}
    assert all(0 <= artifact["pose/map50_95"] <= 1 for artifact in artifacts.values())


def test_its_report_opens(demo: Demo, browser: Browser) -> None:
    page = browser.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto((demo.folder / "report.html").as_uri())
    assert NAME in page.title()
    assert page.get_by_text("Accepted by this firmware").first.is_visible()
    assert page.locator("svg.chart").count() > 0
    assert page.get_by_text("Counted in the commands of the compiled file").is_visible()
    assert said == []
    page.close()


def test_a_second_build_has_nothing_to_do(demo: Demo) -> None:
    report = demo.folder / "report.html"
    page = report.read_bytes()
    assert "nothing to do" in demo.user.types("build", *TINY)[1]
    report.unlink()
    out, _err = demo.user.types("report", "--no-open", *TINY)
    assert out.strip() == f"build/grove-v2/{NAME}/report.html"
    assert report.read_bytes() == page


def test_its_file_is_flashed_and_answers(demo: Demo) -> None:
    with EmulatedBoard(FixedModel(), boot_s=0.1) as board:
        demo.user.types("flash", str(demo.folder), "--port", board.port)
        model = (demo.folder / f"{NAME}_full_integer_quant_vela.tflite").read_bytes()
        assert bytes(board.flash[_MODEL_ADDRESS : _MODEL_ADDRESS + len(model)]) == model
    assert json.loads((demo.folder / "board.json").read_text(encoding="utf-8"))


def test_the_demo_shows_it_at_work(demo: Demo) -> None:
    """On the emulated board; a model of one epoch may see nothing."""
    command = ("monitor", "--demo", "--build", str(demo.folder), "--executor", "local", "--no-open")
    with demo.user.starts(*command) as process:
        try:
            assert process.stdout is not None
            host = urlsplit(process.stdout.readline().strip()).netloc
            origin = {"Origin": f"http://{host}"}
            with connect(f"ws://{host}/live", additional_headers=origin) as live:
                messages = _messages(live)
                labels = next(messages)["device"]["labels"]
                assert labels["name"] == NAME
                assert labels["classes"] == ["person"]
                assert len(labels["keypoints"]) == 17
                image = next(each for each in messages if isinstance(each, bytes))
                assert image[4:6] == b"\xff\xd8"
            process.send_signal(signal.SIGINT)
            _out, said = process.communicate(timeout=_PATIENCE_S)
        finally:
            process.kill()
    assert process.returncode == 0, said


def _messages(live: ClientConnection) -> Iterator[Any]:
    """What a browser is told: JSON as it is, images as bytes."""
    while True:
        message = live.recv(timeout=_PATIENCE_S)
        yield message if isinstance(message, bytes) else json.loads(message)


def test_it_can_be_taken_out_of_the_store(demo: Demo) -> None:
    """The last of these tests, for it does so."""
    demo.user.types("clean")
    assert "nothing to do" in demo.user.types("build", *TINY)[1]
    demo.user.types("clean", "--store")
    assert (demo.folder / "build.json").is_file()
    explained = json.loads(demo.user.types("explain", "--json", *TINY)[0])
    assert all(step["runs"] for step in explained["grove-v2"])
