"""What a board says of its firmware, and whether that can run a model."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from kiln.device.board_firmware import (
    BoardFirmware,
    ModelNeeds,
    describe_firmware,
    generation_of,
    refusal,
)
from kiln.plan.targets import load_target
from tests.support.checkout import ROOT

GROVE = load_target(ROOT / "targets", "grove-v2")
XIAO = load_target(ROOT / "targets", "xiao-esp32s3")
#: What a build of the branch 1.0.x lists, from the first with YOLO-World on.
ALL = frozenset({1, 3, 4, 5, 6, 7, 8})
POSE = ModelNeeds(task="pose", classes=1, operators=(), arena_kib=300)
DETECT = dataclasses.replace(POSE, task="detect", classes=80)


def _built(software: str, *missing: int) -> BoardFirmware:
    return BoardFirmware(software=software, algorithms=ALL - set(missing))


@pytest.mark.parametrize(
    ("software", "generation"),
    [
        ("2023.12.19", "2023-12"),
        ("2024.03.27", "2023-12"),
        ("2024.08.16", "2024-05"),
        ("2024.12.07", "2024-10"),
        ("2026.01.01", "2025-01"),
    ],
)
def test_a_date_is_the_newest_generation_that_it_can_be(software: str, generation: str) -> None:
    found = generation_of(_built(software), GROVE)
    assert found is not None
    assert found.generation == generation
    assert "or older, built on" in describe_firmware(_built(software), GROVE)


def test_the_main_line_tells_its_version() -> None:
    found = BoardFirmware(software="2024.11.25", algorithms=None)
    generation = generation_of(found, XIAO)
    assert generation is not None
    assert generation.generation == "main-2024-12"
    assert describe_firmware(found, XIAO) == "SSCMA-Micro main (main-2024-12)"
    unknown = BoardFirmware(software="2027.01.01", algorithms=None)
    assert generation_of(unknown, XIAO) is None
    assert refusal(POSE, unknown, XIAO) == "", "nothing is known against it"


def test_a_firmware_without_the_algorithm_cannot_run_it() -> None:
    factory = BoardFirmware(software="2023.12.19", algorithms=frozenset({1, 2, 3, 4}))
    said = refusal(POSE, factory, GROVE)
    assert "it has no YOLOv8 pose" in said
    assert "SSCMA-Micro 1.0.x (2024-03)" in said
    assert "(2023-12) can" not in said


def test_what_the_board_lists_outranks_the_date() -> None:
    assert refusal(POSE, _built("2024.02.01"), GROVE) == ""
    assert "it has no YOLO-World" in refusal(DETECT, _built("2024.12.07", 8), GROVE)


@pytest.mark.parametrize(
    ("changes", "software", "says"),
    [
        ({"task": "detect"}, "2024.08.16", "draws boxes as if"),
        ({"operators": ("MEAN", "TRANSPOSE")}, "2024.08.16", "does not know MEAN"),
        ({"operators": ("BATCH_MATMUL",)}, "2024.12.07", "(2025-01) can"),
        ({"arena_kib": 1080.0}, "2024.04.01", "has 1060 KiB, and the model needs 1080 KiB"),
        ({"operators": ("SIN",)}, "2024.12.07", "no firmware that Kiln knows can"),
    ],
)
def test_what_else_stands_in_the_way(changes: dict[str, Any], software: str, says: str) -> None:
    said = refusal(dataclasses.replace(POSE, **changes), _built(software), GROVE)
    assert says in said


def test_four_classes_on_the_line_that_takes_them_for_another_model() -> None:
    four = dataclasses.replace(DETECT, classes=4)
    said = refusal(four, BoardFirmware(software="2024.11.25", algorithms=None), XIAO)
    assert "look like the boxes of an RTMDet" in said
    assert "SSCMA-Micro main (main-2024-11) can" in said
    assert refusal(DETECT, BoardFirmware(software="2024.11.25", algorithms=None), XIAO) == ""
