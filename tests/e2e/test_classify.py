"""A classifier of a user's own images: built, reported, flashed, watched, inspected."""

from __future__ import annotations

import dataclasses
import json
import signal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser
from websockets.sync.client import connect

from kiln.emulator.board import EmulatedBoard
from kiln.emulator.classifier import ClassifiedFrame, RecordedClassifier
from kiln.store.tree import hash_file
from tests.support.bitmap import write_bmp
from tests.support.emulated_models import GREY_JPEG
from tests.support.user import TINY, User

pytestmark = [pytest.mark.usefixtures("environments"), pytest.mark.slow]

_PATIENCE_S = 60.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Made:
    """Who built it, what was printed of it, and its result folder."""

    user: User
    built: Any
    folder: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Two classes that differ by their brightness, trained for two epochs."""
    import numpy as np

    user = User(tmp_path_factory.mktemp("classify"))
    for split, count in (("train", 8), ("val", 4)):
        for number, name in enumerate(("dark", "light sky")):
            for copy in range(count):
                scene = np.full((48, 80, 3), 200 * number + copy, np.uint8)
                place = user.folder / "sky" / split / name / f"{copy}.bmp"
                place.parent.mkdir(parents=True, exist_ok=True)
                write_bmp(place, scene)
    (user.folder / "kiln.toml").write_text('[train]\noptimizer = "AdamW"\nlr0 = 0.002\n')
    built = user.builds("--task", "classify", "--data", "sky", *TINY, "--epochs", "2")
    return Made(user=user, built=built, folder=user.folder / "build/grove-v2" / built["name"])


def test_the_board_takes_it_and_the_npu_runs_all_of_it(made: Made) -> None:
    assert made.built["name"] == "yolov8n-cls-sky-64"
    assert made.built["verdict"]["accepted"]
    assert made.built["numbers"]["operators"]["cpu"] == {}
    artifacts = made.built["numbers"]["accuracy"]["artifacts"]
    assert artifacts.keys() == {"trained", "onnx", "float32", "int8"}
    assert artifacts["float32"]["class/top1"] == artifacts["trained"]["class/top1"]
    names = [each["name"] for each in made.built["evidence"]["classes"]]
    assert names == ["dark", "light sky"]


def test_its_report_shows_its_images(made: Made, browser: Browser) -> None:
    page = browser.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.goto((made.folder / "report.html").as_uri())
    assert page.locator(".single img").count() == 8
    assert page.get_by_text("Accuracy by class").first.is_visible()
    assert said == []
    page.close()


def test_it_is_flashed_and_the_board_answers_as_a_classifier(made: Made) -> None:
    file = made.folder / made.built["deployed"]
    model = RecordedClassifier(
        sha256=hash_file(file),
        size=file.stat().st_size,
        resolution=(240, 240),
        frames=(ClassifiedFrame(GREY_JPEG, ((80.0, 1),)),),
    )
    with EmulatedBoard(model, boot_s=0.1) as board:
        made.user.types("flash", str(made.folder), "--port", board.port)
        out, _err = made.user.types("device", "invoke", "--times", "2", "--port", board.port)
        assert out.count("light sky 80 %") == 2
        out, _err = made.user.types("device", "set", "--score", "60", "--port", board.port)
        assert out.strip() == "score 60 %"
    record = json.loads((made.folder / "board.json").read_text(encoding="utf-8"))
    assert record["decoder"] == "classifier (4)"
    assert all(check["ok"] for check in record["checks"])


def test_the_demo_shows_its_classes(made: Made) -> None:
    command = ("monitor", "--demo", "--build", str(made.folder), "--executor", "local", "--no-open")
    with made.user.starts(*command) as process:
        try:
            assert process.stdout is not None
            host = urlsplit(process.stdout.readline().strip()).netloc
            origin = {"Origin": f"http://{host}"}
            with connect(f"ws://{host}/live", additional_headers=origin) as live:
                state = json.loads(live.recv(timeout=_PATIENCE_S))
                assert state["device"]["labels"]["classes"] == ["dark", "light sky"]
                assert state["thresholds"]["iou"] is None
            process.send_signal(signal.SIGINT)
            _out, said = process.communicate(timeout=_PATIENCE_S)
        finally:
            process.kill()
    assert process.returncode == 0, said


def test_any_tool_may_ask_what_the_file_is(made: Made) -> None:
    (int8,) = made.folder.glob("*_full_integer_quant.tflite")
    inspected = ("inspect", str(int8), "--target", "xiao-esp32s3", "--data", "sky", "--json")
    found = json.loads(made.user.types(*inspected)[0])
    assert found["verdict"]["accepted"]
    assert found["model"]["what"] == "a classifier, 2 classes, 64x64, int8"
    assert found["accuracy"]["artifacts"]["int8"].keys() == {"class/top1", "class/top5"}
