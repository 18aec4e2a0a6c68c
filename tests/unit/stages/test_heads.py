"""The roles of a model's outputs, by their shapes and by what its exporter noted."""

from __future__ import annotations

from typing import Any

import pytest

from stages.vela.tflite.heads import Shape, read_heads

RAW: list[Shape] = [(1, cells, width) for cells in (64, 16, 4) for width in (64, 1)]


def test_keypoints_of_no_width_are_none() -> None:
    heads = read_heads(64, [*RAW, (1, 84, 0)], {})
    assert (heads.task, heads.roles[-1]) == ("detect", None)
    assert read_heads(64, [(1, 84, 0), *RAW], {}).form == "unknown"


def test_what_comes_behind_the_heads_has_no_role() -> None:
    heads = read_heads(64, [*RAW, (1, 84, 51), (1, 3)], {})
    assert (heads.form, heads.task, heads.keypoints) == ("raw-heads", "pose", 17)
    assert heads.roles[6:] == ("keypoints", None)


@pytest.mark.parametrize("notes", [{"task": 5}, {"task": "obb\n"}, {"kpt_shape": [6, 2]}, {}])
def test_notes_that_say_nothing_change_nothing(notes: dict[str, Any]) -> None:
    assert read_heads(64, [*RAW, (1, 84, 12)], notes).keypoints == 4
