"""The on-device check: what a board answers reaches board.json, the report and the terminal."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from kiln.cli.console import Terminal
from kiln.cli.flash import show_record
from kiln.device import on_device_check
from kiln.device.at_errors import CommandRefused, NoReply
from kiln.device.labels import Description, to_info
from kiln.device.on_device_check import FRAMES, check_on_device
from kiln.device.sscma import AtClient
from kiln.pipeline.build import write_report
from kiln.plan.targets import CameraMode
from kiln.report.board_record import (
    FILE,
    BoardRecord,
    read_board_record,
    write_board_record,
)
from kiln.report.render import render
from tests.support import build_documents
from tests.support.scripted_link import Answer, ScriptedLink, frame

BUILD = build_documents.built(build_documents.pose())
SHA = "b" * 64
MODEL = Description(name="model", sha256=SHA, size=3137360, task="pose", classes=("person",))
ADDRESS = 0x400000


MODES = {"0": "240x240 Auto", "2": "640x480 Auto"}
SQUARE = CameraMode(name="240x240", width=240, height=240, option=0)


class FakeBoard(ScriptedLink):
    """A board with a model, on which a test changes one thing."""

    def __init__(self, *, decoder: int = 5, slot: dict[str, int] | None = None) -> None:
        self.info = ""
        self.frames = FRAMES
        self.camera = {"id": 1, "type": 1, "state": 1, "opt_id": 0, "opts": MODES}
        where = {"id": 1, "type": 0, "address": ADDRESS, "size": 0} | (slot or {})
        super().__init__(
            ID_Q=7,
            NAME_Q="Grove Vision AI V2",
            VER_Q={"software": "2024.8.16", "hardware": "1"},
            MODEL_Q=where,
            MODELS_Q=[where],
            SENSORS_Q=lambda _tag, _arguments: [self.camera],
            SENSOR=self._choose,
            INVOKE=self._invoke,
            INVOKE_Q=0,
            BREAK=1,
            INFO=self._keep,
            INFO_Q=lambda _tag, _arguments: {"crc16_maxim": 1, "info": self.info},
        )
        self.set_up = {"algorithm": {"type": decoder, "config": {}}}

    def _choose(self, tag: str, arguments: str) -> Answer:
        _sensor, _enabled, option = arguments.split(",")
        if option not in MODES:
            return frame(0, f"{tag}@SENSOR", {}, code=5)
        self.camera["opt_id"] = int(option)
        return {}

    def _keep(self, _tag: str, text: str) -> Answer:
        self.info = text.strip('"')
        return {"crc16_maxim": 1}

    def _invoke(self, tag: str, _arguments: str) -> bytes:
        box = [1, 2, 3, 4, 90, 0]
        events = [
            {"count": n, "perf": [8, 30 + n, 2], "keypoints": [[box, []]] * (n % 3)}
            for n in range(1, self.frames + 1)
        ]
        return frame(0, f"{tag}@INVOKE", self.set_up) + b"".join(
            frame(1, f"{tag}@INVOKE", event) for event in events
        )


def _check(
    link: ScriptedLink, model: Description = MODEL, camera: CameraMode = SQUARE
) -> BoardRecord:
    return check_on_device(
        AtClient(link, timeout_s=0.02), model, address=ADDRESS, camera=camera, estimated_ms=83.8
    )


@pytest.mark.parametrize(("option", "ok"), [(2, True), (7, False)])
def test_the_camera_is_put_into_the_mode_that_the_model_was_made_for(
    option: int, *, ok: bool
) -> None:
    link = FakeBoard()
    found = _check(link, camera=CameraMode(name="640x480", width=640, height=480, option=option))
    (check,) = (each for each in found.checks if each.title == "camera")
    assert (check.ok, check.expected) == (ok, "640x480")
    assert check.figure == ("640x480 Auto" if ok else "240x240 Auto")
    assert ("SENSOR", f"1,1,{option}") in link.requests
    assert "SENSOR" not in [name for name, _ in _requests_of_a_square_model()]


def _requests_of_a_square_model() -> list[tuple[str, str]]:
    link = FakeBoard()
    _check(link)
    return link.requests


def test_a_board_that_runs_the_model_passes_every_check() -> None:
    link = FakeBoard()
    found = _check(link)
    assert found.ok
    assert found.failures == []
    assert (found.preprocess_ms, found.inference_ms, found.postprocess_ms) == (8, 35.5, 2)
    assert (found.frames, found.most_objects, found.estimated_ms) == (FRAMES, 2, 83.8)
    assert (found.board_id, found.firmware, found.sha256) == ("7", "2024.8.16", SHA)
    assert found.decoder == "YOLOv8 pose (5)"
    assert link.info == to_info(MODEL)
    asked = [command for command, _ in link.requests]
    assert asked[asked.index("INVOKE") + 1] == "BREAK"


@pytest.mark.parametrize(
    ("slot", "words"),
    [
        ({"address": 0x500000}, "model that the board uses: at 0x500000, expected at 0x400000"),
        ({"size": 3137359}, "its size: 3137359 bytes, expected 3137360 bytes"),
        ({"size": 3137360 + 256}, "its size"),
    ],
)
def test_another_model_is_told_by_its_place_and_size(slot: dict[str, int], words: str) -> None:
    (failure,) = _check(FakeBoard(slot=slot)).failures
    assert words in failure


def test_a_size_filled_up_to_whole_packets_is_the_models_own() -> None:
    found = _check(FakeBoard(slot={"size": 3137360 + 255}))
    assert found.ok
    assert "its size" in [check.title for check in found.checks]


@pytest.mark.parametrize(
    ("task", "decoder", "fits"), [("pose", 8, False), ("detect", 8, True), ("detect", 6, True)]
)
def test_the_decoder_must_fit_the_task(task: str, decoder: int, fits: bool) -> None:
    found = _check(FakeBoard(decoder=decoder), dataclasses.replace(MODEL, task=task))
    assert found.ok is fits


def test_labels_that_the_board_does_not_keep_are_told() -> None:
    link = FakeBoard()
    link.answers["INFO"] = {"crc16_maxim": 1}
    (failure,) = _check(link).failures
    assert failure.startswith("labels on the board: none")
    link.info = to_info(dataclasses.replace(MODEL, sha256="0" * 64))
    (failure,) = _check(link).failures
    assert "of the model 000000000000, expected of the model bbbbbbbbbbbb" in failure


def test_labels_that_are_too_long_are_a_warning_and_the_rest_is_checked() -> None:
    link = FakeBoard(decoder=8)
    model = dataclasses.replace(MODEL, task="detect", classes=("x" * 40,) * 80)
    found = _check(link, model)
    assert found.ok
    assert "80 classes are too long" in found.warnings[0]
    assert "INFO" not in [command for command, _ in link.requests]


def test_frames_that_do_not_arrive_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kiln.device.sscma._QUIET_S", 0.01)
    link = FakeBoard()
    link.frames = 3
    (failure,) = _check(link).failures
    assert "frames that arrived: 3 of 10" in failure
    link.frames = 9
    assert _check(link).ok


def test_a_board_that_never_starts_or_will_not_invoke_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(on_device_check, "START_S", 0.02)
    with pytest.raises(NoReply):
        _check(ScriptedLink())
    link = FakeBoard()
    link.answers["INVOKE"] = lambda tag, _: frame(0, f"{tag}@INVOKE", {}, code=5)
    with pytest.raises(CommandRefused, match="there is no model that it can run"):
        _check(link)


def test_it_is_kept_beside_the_build_and_read_back(tmp_path: Path) -> None:
    found = _check(FakeBoard())
    assert write_board_record(tmp_path, found) == tmp_path / "board.json"
    assert read_board_record(tmp_path, BUILD.deployed_file.sha256) == found
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_a_record_without_an_estimate_is_read_back_too(tmp_path: Path) -> None:
    """No tool estimates the time of a board without an NPU."""
    found = dataclasses.replace(_check(FakeBoard()), estimated_ms=None)
    write_board_record(tmp_path, found)
    assert read_board_record(tmp_path, BUILD.deployed_file.sha256) == found
    assert "measured on board" in write_report(tmp_path, BUILD).read_text(encoding="utf-8")


def test_of_another_model_or_damaged_it_is_none(tmp_path: Path) -> None:
    assert read_board_record(tmp_path, BUILD.deployed_file.sha256) is None
    other = dataclasses.replace(_check(FakeBoard()), sha256="0" * 64)
    write_board_record(tmp_path, other)
    assert read_board_record(tmp_path, BUILD.deployed_file.sha256) is None
    for text in ("", "[]", "{}", json.dumps({**dataclasses.asdict(other), "frames": "ten"})):
        (tmp_path / FILE).write_text(text, encoding="utf-8")
        assert read_board_record(tmp_path, BUILD.deployed_file.sha256) is None


def test_the_report_says_it_beside_the_estimate_and_without_it_is_what_it_was(
    tmp_path: Path,
) -> None:
    plain = render(BUILD)
    assert write_report(tmp_path, BUILD).read_text(encoding="utf-8") == plain
    assert "measured on board" not in plain
    write_board_record(tmp_path, _check(FakeBoard()))
    page = write_report(tmp_path, BUILD).read_text(encoding="utf-8")
    assert "<b>36</b> <i>ms</i> <em>measured on board</em>" in page
    assert "Grove Vision AI V2 7 with firmware 2024.8.16" in page
    assert "Not as it should be" not in page
    assert page.count("<em>") == plain.count("<em>") + 1


def test_the_report_says_what_is_not_as_it_should_be_and_lets_no_board_write_html(
    tmp_path: Path,
) -> None:
    link = FakeBoard(slot={"address": 0x500000})
    link.answers["NAME?"] = "<script>alert(1)</script>"
    write_board_record(tmp_path, _check(link))
    page = write_report(tmp_path, BUILD).read_text(encoding="utf-8")
    assert "Not as it should be: model that the board uses: at 0x500000" in page
    assert "<script>" not in page


def test_the_terminal_says_it_too(capsys: Any) -> None:
    show_record(_check(FakeBoard(slot={"address": 0x500000})), Terminal())
    out = capsys.readouterr().out
    assert "✕ model that the board uses: at 0x500000, expected at 0x400000" in out
    assert "✓ decoder that the board chose: YOLOv8 pose (5)" in out
    assert "35.5 ms measured on board, 83.8 estimated" in out
