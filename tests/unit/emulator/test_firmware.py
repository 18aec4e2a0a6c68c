"""The emulated firmware takes its frames at the pace of its camera."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kiln.emulator.firmware import (
    FACTORY_2023,
    MAIN_2024,
    RELEASE_1_0,
    Camera,
    Firmware,
    Release,
    Storage,
)
from kiln.emulator.flash import MODELS_ADDRESS, Flash
from tests.support.emulated_models import FixedModel


def _invoking(
    sent: list[bytes],
    *,
    busy: bool = False,
    release: Release = RELEASE_1_0,
    storage: Storage | None = None,
    pose: bool = True,
) -> Firmware:
    flash = Flash()
    flash.memory[MODELS_ADDRESS : MODELS_ADDRESS + 8] = b"\x1c\0\0\0TFL3"
    firmware = Firmware(
        flash,
        storage or Storage(),
        FixedModel(pose=pose),
        Camera(fps=50),
        sent.append,
        lambda: busy,
        restart=lambda: None,
        on_command=lambda _line: None,
        release=release,
    )
    firmware.receive(b"AT+INVOKE=-1,0,1\r", 0.0)
    return firmware


def _counts(sent: list[bytes]) -> list[Any]:
    events = [json.loads(each) for each in sent]
    return [each["data"]["count"] for each in events if each["type"] == 1]


def test_frames_come_at_the_pace_of_the_camera() -> None:
    sent: list[bytes] = []
    firmware = _invoking(sent)
    first = now = firmware.due()
    assert first is not None
    for _ in range(50):
        assert now is not None
        firmware.tick(now)
        now = firmware.due()
    assert now == pytest.approx(first + 1.0)
    assert _counts(sent) == list(range(1, 51))


def test_a_late_frame_delays_the_ones_after_it() -> None:
    firmware = _invoking([])
    due = firmware.due()
    assert due is not None
    firmware.tick(due + 5)
    assert firmware.due() == due + 5


def test_no_frame_is_taken_while_the_line_still_carries_the_last() -> None:
    assert _invoking([], busy=True).due() is None


def _reply(release: Release, command: bytes) -> dict[str, Any]:
    sent: list[bytes] = []
    firmware = _invoking(sent, release=release)
    sent.clear()
    firmware.receive(command, 0.0)
    reply: dict[str, Any] = json.loads(sent[0])
    return reply


def test_a_release_tells_its_version_and_its_algorithms() -> None:
    assert _reply(FACTORY_2023, b"AT+VER?\r")["data"]["software"] == "2023.12.19"
    listed = _reply(FACTORY_2023, b"AT+ALGOS?\r")["data"]
    assert [each["type"] for each in listed] == [1, 2, 3, 4]
    unknown = _reply(MAIN_2024, b"AT+ALGOS?\r")
    assert unknown["type"] == 2
    assert "Unknown command" in unknown["data"]


def test_a_release_without_the_algorithm_does_not_invoke_the_model() -> None:
    assert _reply(FACTORY_2023, b"AT+INVOKE=1,0,1\r")["code"] == 8
    assert _reply(RELEASE_1_0, b"AT+INVOKE=1,0,1\r")["code"] == 0
    assert _reply(MAIN_2024, b"AT+INVOKE=1,0,1\r")["code"] == 0


def test_each_algorithm_keeps_thresholds_of_its_own() -> None:
    storage = Storage()

    def thresholds(*, pose: bool, then: bytes = b"") -> Any:
        sent: list[bytes] = []
        _invoking(sent, storage=storage, pose=pose).receive(then, 0.0)
        return json.loads(sent[0])["data"]["algorithm"]["config"]

    assert thresholds(pose=True, then=b"AT+TSCORE=20\r") == {"tscore": 50, "tiou": 45}
    assert thresholds(pose=False, then=b"AT+TIOU=30\r") == {"tscore": 50, "tiou": 45}
    assert thresholds(pose=True) == {"tscore": 20, "tiou": 45}
    assert thresholds(pose=False) == {"tscore": 50, "tiou": 30}
