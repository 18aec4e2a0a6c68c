"""The emulated board with a classifier, as SSCMA-Micro's el_algorithm_imcls.cpp has it."""

from __future__ import annotations

import json
from typing import Any

from kiln.emulator.classifier import ClassifiedFrame, RecordedClassifier
from kiln.emulator.firmware import FACTORY_2023, RELEASE_1_0, Camera, Firmware, Release, Storage
from kiln.emulator.flash import MODELS_ADDRESS, Flash

FRAME = ClassifiedFrame(b"\xff\xd8\xff\xd9", ((50.0, 0), (50.39, 1), (12.5, 2), (50.78, 3)))


def _asked(*lines: str, frames: int = 0, release: Release = RELEASE_1_0) -> list[Any]:
    """What the firmware answers, and then reports of so many frames."""
    flash, sent = Flash(), list[bytes]()
    flash.memory[MODELS_ADDRESS : MODELS_ADDRESS + 8] = b"\x1c\0\0\0TFL3"
    model = RecordedClassifier(
        sha256="e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        size=0,
        resolution=(240, 240),
        frames=(FRAME,),
    )
    firmware = Firmware(
        flash,
        Storage(),
        model,
        Camera(fps=1000),
        sent.append,
        lambda: False,
        restart=lambda: None,
        on_command=lambda _line: None,
        release=release,
    )
    for line in lines:
        firmware.receive(f"{line}\r".encode(), 0.0)
    for _ in range(frames):
        due = firmware.due()
        assert due is not None
        firmware.tick(due)
    return [json.loads(each) for each in sent]


def test_only_more_than_the_threshold_counts_and_equals_come_last_class_first() -> None:
    # 50.39 and 50.78 are both 50 once they are truncated, which is after the comparison.
    assert FRAME.report(50) == {"classes": [[50, 3], [50, 1]]}
    assert FRAME.report(12) == {"classes": [[50, 3], [50, 1], [50, 0], [12, 2]]}
    assert FRAME.report(60) == {"classes": []}


def test_the_board_says_that_it_runs_a_classifier_without_an_iou_threshold() -> None:
    (reply,) = _asked("AT+INVOKE=1,0,1")
    assert reply["code"] == 0
    algorithm = {"type": 4, "categroy": 3, "input_from": 1, "config": {"tscore": 50}}
    assert reply["data"]["algorithm"] == algorithm


def test_the_factory_image_of_2023_runs_a_classifier() -> None:
    (reply,) = _asked("AT+INVOKE=1,0,1", release=FACTORY_2023)
    assert reply["code"] == 0
    assert reply["data"]["algorithm"]["type"] == 4


def test_a_frame_is_reported_by_its_classes() -> None:
    event = _asked("AT+INVOKE=1,0,0", frames=1)[-1]["data"]
    assert event["classes"] == [[50, 3], [50, 1]]
    assert event["resolution"] == [240, 240]
    assert event["image"] == FRAME.image
    assert "boxes" not in event


def test_its_score_threshold_can_be_set_and_its_iou_threshold_is_unknown() -> None:
    _invoked, score, iou, event = _asked("AT+INVOKE=-1,0,1", "AT+TSCORE=10", "AT+TIOU?", frames=1)
    assert score["data"] == 10
    assert "Unknown command" in iou["data"]
    assert [number for _score, number in event["data"]["classes"]] == [3, 1, 0, 2]
