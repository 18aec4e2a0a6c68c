"""Decoding of a network's outputs, and the conversion of images to its input."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from stages.contract import StepFailed
from stages.export.evaluation.decode import (
    Labels,
    Shape,
    candidates,
    decode,
    find_roles,
)
from stages.export.evaluation.fast_math import fast_sigmoid, highest_thresholds
from stages.export.models.preprocess import Floats, prepare
from stages.yolo import REG_MAX, STRIDES

POSE = Labels(size=96, classes=1, keypoints=2)
DETECT = Labels(size=96, classes=3, keypoints=0)
CELLS = {8: 144, 16: 36, 32: 9}
#: A logit that stands for nothing.
OFF = -20.0


def test_pose_of_one_cell() -> None:
    """Column 4, row 2 of stride 16: the cell's corner is at (64, 32), its centre at (72, 40)."""
    rows = _nothing(POSE)
    cell = 2 * 6 + 4
    rows["score16"][cell] = math.log(3)
    bins = rows["box16"].reshape(-1, 4, REG_MAX)[cell]
    bins[0, 1] = bins[1, 2] = bins[3, 15] = 60
    bins[2, 0] = bins[2, 1] = 60  # half a cell
    rows["keypoints"][CELLS[8] + cell] = [0.5, -1, OFF, 0.25, 0.25, math.log(3)]

    found = decode(rows, POSE, frame=(96, 96), iou=45)

    assert found.scores == pytest.approx([0.75])
    assert found.classes.tolist() == [0]
    assert found.boxes[0] == pytest.approx([72 - 16, 40 - 32, 72 + 8, 40 + 240])
    assert found.keypoints[0].ravel() == pytest.approx([80, 0, 0, 72, 40, 0.75], abs=1e-4)


def test_of_equal_scores_the_last_class_and_the_last_cell_win() -> None:
    rows = _nothing(DETECT)
    rows["score32"][[3, 4]] = [1, 2, 2]
    rows["box32"].reshape(-1, 4, REG_MAX)[3:5, :, 15] = 60  # both cover the whole image
    found = decode(rows, DETECT, frame=(96, 96), iou=45)
    assert found.classes.tolist() == [2]
    assert found.boxes[0] == pytest.approx([48 - 480, 48 - 480, 48 + 480, 48 + 480])


def test_only_boxes_of_a_percent_and_more() -> None:
    rows = _nothing(DETECT)
    rows["score8"][0, 0], rows["score8"][143, 1] = math.log(0.0095 / 0.9905), math.log(0.011 / 0.99)
    found = decode(rows, DETECT, frame=(96, 96), iou=45)
    assert found.classes.tolist() == [1]


def test_boxes_are_cut_off_to_whole_pixels_of_the_frame_and_poses_rounded() -> None:
    """Stride 32, column 1, row 1: its centre is at (48, 48) of 96, 80 of a frame that is 160 wide
    and 40 of one that is 80 high."""
    for labels, box in ((DETECT, [76, 40, 46, 26]), (POSE, [77, 40, 47, 27])):
        rows = _nothing(labels)
        rows["score32"][4] = 1  # 73.1 %, by the fast sigmoid 72.5
        bins = rows["box32"].reshape(-1, 4, REG_MAX)[4]
        bins[:, :2] = 60  # half a cell
        bins[2, 1] = 59.5  # and a little less to the right
        found = candidates(rows, labels, frame=(160, 80))
        assert found.boxes[-5].tolist() == box
        assert found.percents[-5] == (72 if labels is DETECT else 73)


def test_of_equal_percents_the_later_cell_wins_although_its_score_is_lower() -> None:
    rows = _nothing(DETECT)
    rows["score32"][3, 0], rows["score32"][4, 0] = math.log(0.808 / 0.192), math.log(0.801 / 0.199)
    rows["box32"].reshape(-1, 4, REG_MAX)[3:5, :, 15] = 60  # both cover the whole image
    found = decode(rows, DETECT, frame=(96, 96), iou=45)
    assert found.boxes[0] == pytest.approx([48 - 480, 48 - 480, 48 + 480, 48 + 480])
    assert len(found) == 1


def test_the_fast_sigmoid_errs_as_the_firmware_does() -> None:
    logits = np.linspace(-20, 20, 4001, dtype=np.float32)
    exact = 1 / (1 + np.exp(-logits.astype(float)))
    wrong = np.abs(fast_sigmoid(logits) - exact)
    assert 0.0070 < wrong.max() < 0.0077
    assert (np.diff(fast_sigmoid(logits)) >= 0).all()


def test_a_threshold_lets_through_what_is_up_to_a_quantum_below() -> None:
    quantum = 0.16
    logits = np.array([-2 * quantum, -quantum, 0, quantum], np.float32)
    # One quantum below 0 is a score of 46 %.
    assert highest_thresholds(logits, quantum).tolist() == [45, 50, 53, 57]
    assert highest_thresholds(np.array([-50.0, 100.0], np.float32), quantum).tolist() == [0, 100]


@pytest.mark.parametrize("labels", [POSE, DETECT])
@pytest.mark.parametrize("layout", ["rows", "maps", "channels first", "maps, channels first"])
def test_raw_heads_in_any_order_and_layout(labels: Labels, layout: str) -> None:
    random = np.random.default_rng(0)
    rows = {role: random.normal(size=row.shape) for role, row in _nothing(labels).items()}
    apart = "maps" in layout and labels.keypoints > 0  # cells of all strides make no map
    if apart:
        parts = np.split(rows.pop("keypoints"), np.cumsum([CELLS[8], CELLS[16]]))
        rows |= {f"keypoints{stride}": part for stride, part in zip(STRIDES, parts, strict=True)}
    given = {role: _laid_out(row.astype(np.float32), layout) for role, row in rows.items()}
    for order in itertools.islice(itertools.permutations(given), 0, 2000, 199):
        outputs = [given[role] for role in order]
        slots = find_roles([output.shape for output in outputs], labels)
        assert slots.keys() == rows.keys()
        for role, slot in slots.items():
            assert slot.rows(outputs) == pytest.approx(rows[role].astype(np.float32)), role


@pytest.mark.parametrize("unit", [1.0, 96.0])
@pytest.mark.parametrize("channels_first", [True, False])
def test_decoded_in_the_graph(unit: float, channels_first: bool) -> None:
    table = np.zeros((sum(CELLS.values()), 4 + 1 + 6), np.float32)
    table[:, :2] = np.random.default_rng(0).uniform(0, unit, (len(table), 2))
    table[:, 5:] = unit / 2
    table[7] = [unit / 2, unit / 4, unit / 3, unit / 6, 0.8, *(0, unit, 0.1), *(unit, 0, 0.9)]
    output = table.T[None] if channels_first else table[None]
    slots = find_roles([output.shape], POSE)
    rows = {role: slot.rows([output]) for role, slot in slots.items()}
    found = decode(rows, POSE, frame=(96, 96), iou=45)
    assert found.scores == pytest.approx([0.8])
    assert found.boxes[0] == pytest.approx([32, 16, 64, 32], rel=1e-5)
    assert found.keypoints[0].ravel() == pytest.approx([0, 96, 0.1, 96, 0, 0.9])


def test_the_first_of_classes_decoded_in_the_graph_with_equal_scores() -> None:
    table = np.full((sum(CELLS.values()), 4 + 3), 0.5, np.float32)
    table[:, 4:] = [0, 0.5, 0.5]
    found = decode({"decoded": table}, DETECT, frame=(96, 96), iou=45)
    assert found.classes.tolist() == [1]
    assert found.boxes[0] == pytest.approx([24, 24, 72, 72])


@pytest.mark.parametrize(
    ("places", "scores", "words"),
    [(48, (-7.0, 3.0), "scores reach from -7 to 3"), (4, (0, 1), "neither pixels of 96 nor parts")],
)
def test_decoded_outputs_of_unknown_meaning(
    places: float, scores: tuple[float, float], words: str
) -> None:
    table = np.full((sum(CELLS.values()), 4 + 3), places, np.float32)
    table[:, 4:], table[0, 4] = scores
    with pytest.raises(StepFailed, match=words):
        decode({"decoded": table}, DETECT, frame=(96, 96), iou=45)


@pytest.mark.parametrize(
    ("shapes", "labels", "words"),
    [
        (
            [(1, 144, 64), (1, 144, 2)],
            DETECT,
            r"\[1,144,64\], \[1,144,2\] are no form .* 3 classes",
        ),
        ([(1, 7, 189)], POSE, r"\[1,7,189\] are no form .* 1 class and 2 keypoints"),
        ([(1, 300, 6)], DETECT, "are no form"),
        ([(2, 7, 189)], DETECT, "are no form"),
        ([()], DETECT, "are no form"),
        (
            [(1, CELLS[stride], 64) for stride in STRIDES for _ in range(2)],
            Labels(size=96, classes=64, keypoints=0),
            "nothing tells them apart",
        ),
    ],
)
def test_outputs_that_cannot_be_decoded(shapes: list[Shape], labels: Labels, words: str) -> None:
    with pytest.raises(StepFailed, match=words) as failure:
        find_roles(shapes, labels)
    assert failure.value.kind == "model"
    assert failure.value.hint


def test_pixels_as_the_board_writes_them() -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    image[0, 0] = [255, 0, 128]
    assert prepare(image, 3, np.int8)[0, 0, 0].tolist() == [127, -128, 0]
    assert prepare(image, 3, np.float32)[0, 0, 0] == pytest.approx([1, 0, 128 / 255])
    grey = prepare(image, 1, np.int8)
    assert grey.shape == (1, 32, 32, 1)
    assert grey.dtype == np.int8
    assert grey[0, 0, 0] == (255 * 299 + 128 * 114) // 1000 - 128


def _nothing(labels: Labels) -> dict[str, Floats]:
    """Raw heads in which no cell holds an object."""
    rows = {f"box{stride}": np.zeros((CELLS[stride], 64), np.float32) for stride in STRIDES}
    for stride in STRIDES:
        rows[f"score{stride}"] = np.full((CELLS[stride], labels.classes), OFF, np.float32)
    if labels.keypoints:
        width = 3 * labels.keypoints
        rows["keypoints"] = np.zeros((sum(CELLS.values()), width), np.float32)
    return rows


def _laid_out(rows: Floats, layout: str) -> Floats:
    """[cells, channels] as an output of a model."""
    side = math.isqrt(len(rows))
    output = rows.reshape(1, side, side, -1) if "maps" in layout else rows[None]
    return np.moveaxis(output, -1, 1) if "channels first" in layout else output
