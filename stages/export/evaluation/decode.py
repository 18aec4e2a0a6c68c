"""Decodes a model's outputs to detections as the firmware does, in numpy.

Source: SSCMA-Micro 1.0.x, core/algorithm/el_algorithm_yolo_pose.cpp, el_algorithm_yolo_world.cpp
(raw heads) and el_algorithm_yolov8.cpp (decoded in the graph). The emulated board gets its
candidates from here, and both ask ``stages.suppression`` which of them remain.

The firmware reports whole pixels of the camera's frame and whole percents. It rounds those of poses
at the end, and those of boxes before suppression, where they decide what remains; so they do here.
What remains is then measured as it was before rounding, with its place and score in full: equal
percents have no order among images, so a mean average precision of them would be partly chance, and
whole pixels are a property of the frame, not of the network.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.contract import StepFailed
from stages.export.evaluation.fast_math import fast_sigmoid
from stages.export.models.preprocess import Floats
from stages.suppression import kept_boxes, kept_poses
from stages.yolo import BOX_CHANNELS, BOX_SIDES, KEYPOINT_VALUES, REG_MAX, STRIDES

Integers = NDArray[np.int64]
Shape = tuple[int, ...]

#: A larger exponential is infinite in single precision.
_LARGEST_LOGIT = np.float32(80)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labels:
    """What images are labelled with: side of the square in pixels, classes, keypoints (or 0)."""

    size: int
    classes: int
    keypoints: int

    def cells(self, stride: int) -> int:
        return (self.size // stride) ** 2

    @property
    def all_cells(self) -> int:
        return sum(self.cells(stride) for stride in STRIDES)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slot:
    """The output that has a role, and whether its channels come before its cells."""

    output: int
    channels_first: bool

    def rows(self, outputs: Sequence[Floats]) -> Floats:
        """Its values as [cells, channels]."""
        values = outputs[self.output][0]
        if self.channels_first:
            return values.reshape(len(values), -1).T
        return values.reshape(-1, values.shape[-1])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Detections:
    """Objects of one image; those that `decode` finds, best first.

    ``boxes``: float32 [n,4], left, top, right, bottom in pixels. ``scores``: [n], 0 to 1.
    ``classes``: [n]. ``keypoints``: float32 [n,K,3], x and y in pixels, visibility 0 to 1.
    """

    boxes: Floats
    scores: Floats
    classes: Integers
    keypoints: Floats

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, chosen: NDArray[np.int64] | NDArray[np.bool_]) -> Detections:
        return Detections(
            boxes=self.boxes[chosen],
            scores=self.scores[chosen],
            classes=self.classes[chosen],
            keypoints=self.keypoints[chosen],
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidates:
    """What each cell of a model's output gives, before suppression and in the order of cells.

    ``found``: in full, in pixels of the model's input. ``corners``: float32 [n,4], left, top,
    right, bottom in pixels of the camera's frame. ``boxes``: [n,4], centre x and y, width, height
    in whole pixels of the frame, ``percents`` [n], and ``points`` [n,K,3], x and y in whole pixels
    and visibility in percent: as the firmware reports them.
    """

    found: Detections
    corners: Floats
    boxes: Integers
    percents: Integers
    points: Integers

    def kept(self, iou: int) -> list[int]:
        """The numbers of those that the firmware reports at its lowest score threshold, best first;
        ``iou``: its other threshold, in percent."""
        found = self.found
        if found.keypoints.shape[1]:
            return kept_poses(self.corners.tolist(), found.scores.tolist(), iou=iou)
        whole = self.boxes.tolist(), self.percents.tolist()
        return kept_boxes(*whole, found.classes.tolist(), iou=iou)


def find_roles(shapes: Sequence[Shape], labels: Labels) -> dict[str, Slot]:
    """Tell the roles of a model's outputs, in any order, by their shapes.

    Raw heads are box8, score8 … score32 and, for pose, keypoints (or keypoints8 … keypoints32), as
    [1,N,C], [1,h,w,C], [1,C,N] or [1,C,h,w]; or there is one output, decoded, of [1,C,N] or
    [1,N,C]. Raises StepFailed("model") for anything else.
    """
    for channels_first in (False, True):
        for form in _raw_forms(labels):  # what comes behind its heads is not read
            if roles := _matched(form, shapes[: len(form)], channels_first=channels_first):
                return roles
    for channels_first in (True, False):  # the firmware's own order first: S = 64 has both
        if roles := _matched(_decoded_form(labels), shapes, channels_first=channels_first):
            return roles
    raise StepFailed(
        "model",
        f"its outputs {_listed(shapes)} are no form that Kiln can decode for images of "
        f"{labels.size}x{labels.size} with {_counted(labels)}",
        hint="it takes YOLOv8's raw heads, or ultralytics' one output decoded in the graph, with "
        "the classes and keypoints that the data set has",
    )


def decode(
    rows: Mapping[str, Floats], labels: Labels, *, frame: tuple[int, int], iou: int
) -> Detections:
    """All that the firmware reports of outputs [cells, channels], by their roles, at its lowest
    score threshold; ``frame`` is the camera's, in pixels, and ``iou`` its threshold in percent.

    Raises StepFailed("model") if a decoded output holds neither pixels nor parts of the image.
    """
    each = candidates(rows, labels, frame=frame)
    found = each.found[np.array(each.kept(iou), np.int64)]
    # Boxes come in the order of their percents.
    return found[np.argsort(-found.scores, kind="stable")]


def candidates(rows: Mapping[str, Floats], labels: Labels, *, frame: tuple[int, int]) -> Candidates:
    """What every cell gives; raises StepFailed("model") as `decode` does."""
    scale = np.array(frame, np.float32) / np.float32(labels.size)
    if "decoded" in rows:
        return _from_table(rows["decoded"], labels, scale)
    return _from_heads(rows, labels, scale)


def _raw_forms(labels: Labels) -> list[dict[str, tuple[int, int]]]:
    """The sets of outputs that raw heads may have: role to (cells, channels)."""
    heads = {f"box{stride}": (labels.cells(stride), BOX_CHANNELS) for stride in STRIDES}
    heads |= {f"score{stride}": (labels.cells(stride), labels.classes) for stride in STRIDES}
    if not labels.keypoints:
        return [heads]
    width = KEYPOINT_VALUES * labels.keypoints
    apart = {f"keypoints{stride}": (labels.cells(stride), width) for stride in STRIDES}
    return [heads | {"keypoints": (labels.all_cells, width)}, heads | apart]


def _decoded_form(labels: Labels) -> dict[str, tuple[int, int]]:
    channels = BOX_SIDES + labels.classes + KEYPOINT_VALUES * labels.keypoints
    return {"decoded": (labels.all_cells, channels)}


def _matched(
    form: Mapping[str, tuple[int, int]], shapes: Sequence[Shape], *, channels_first: bool
) -> dict[str, Slot]:
    """The outputs by role if their shapes are those of the form, else {}."""
    readings = [_reading(shape, channels_first=channels_first) for shape in shapes]
    if sorted(readings) != sorted(form.values()):
        return {}
    if len(set(readings)) < len(readings):
        raise StepFailed(
            "model",
            f"two of its outputs {_listed(shapes)} have one shape, so nothing tells them apart",
            hint=f"train for another number of classes: a box has {BOX_CHANNELS} channels too",
        )
    return {
        role: Slot(output=readings.index(reading), channels_first=channels_first)
        for role, reading in form.items()
    }


def _reading(shape: Shape, *, channels_first: bool) -> tuple[int, int]:
    """(cells, channels) of an output that has a batch of one."""
    if len(shape) < 3 or shape[0] != 1:
        return 0, 0
    channels = shape[1] if channels_first else shape[-1]
    return math.prod(shape) // max(channels, 1), channels


def _from_heads(rows: Mapping[str, Floats], labels: Labels, scale: Floats) -> Candidates:
    """The best class of every cell, from logits; one row a cell.

    The distance of a box's side from the cell's centre is the expectation of its bins' softmax, and
    a keypoint is at 2v from the cell's corner; both in cells, so times the stride.
    """
    corners, strides = _grid(labels)
    logits = _joined(rows, "score")
    # Of equal scores, which int8 often has, the firmware's loop keeps the last.
    classes = logits.shape[1] - 1 - np.argmax(logits[:, ::-1], axis=1)
    best = logits.max(axis=1)
    sides = _expected(_joined(rows, "box").reshape(-1, BOX_SIDES, REG_MAX))
    start, end = sides[:, :2], sides[:, 2:]
    centres = corners + np.float32(0.5)
    cells = np.concatenate([centres - start, centres + end], axis=1)
    points = np.zeros((len(cells), 0, KEYPOINT_VALUES), np.float32)
    if labels.keypoints:
        values = _joined(rows, "keypoints").reshape(-1, labels.keypoints, KEYPOINT_VALUES)
        places = (2 * values[..., :2] + corners[:, None]) * strides[:, None]
        points = np.concatenate([places, _sigmoid(values[..., 2:])], axis=2)
    scores = _sigmoid(best) if labels.keypoints else fast_sigmoid(best)
    found = Detections(boxes=cells * strides, scores=scores, classes=classes, keypoints=points)
    steps = strides * scale
    if labels.keypoints:
        return _rounded(found, cells * np.tile(steps, 2), scale)
    middles, sizes = centres + (end - start) * np.float32(0.5), start + end
    boxes = np.concatenate([middles * steps, sizes * steps], axis=1)
    return _truncated(found, boxes, truncated(scores * np.float32(100)))


def _rounded(found: Detections, corners: Floats, scale: Floats) -> Candidates:
    """As poses are reported; ``corners`` in pixels of the frame, ``scale``: those in one of the
    input's."""
    start, end = corners[:, :2], corners[:, 2:]
    boxes = np.concatenate([(start + end) * np.float32(0.5), end - start], axis=1)
    return Candidates(
        found=found,
        corners=corners,
        boxes=rounded(boxes),
        percents=rounded(found.scores * np.float32(100)),
        points=rounded(found.keypoints * np.array([*scale, 100], np.float32)),
    )


def _truncated(found: Detections, boxes: Floats, percents: Integers) -> Candidates:
    """As boxes are reported; ``boxes``: centre and size in pixels of the frame."""
    middles, halves = boxes[:, :2], boxes[:, 2:] / 2
    corners = np.concatenate([middles - halves, middles + halves], axis=1)
    return Candidates(
        found=found,
        corners=corners,
        boxes=truncated(boxes),
        percents=percents,
        points=rounded(found.keypoints),  # none
    )


def truncated(values: NDArray[np.floating[Any]]) -> Integers:
    """As C makes unsigned numbers; the boards' processors make 0 of a negative one."""
    return np.maximum(values, 0).astype(np.int64)


def rounded(values: Floats) -> Integers:
    """The same after C's round()."""
    return truncated(values.astype(np.float64) + 0.5)


def _from_table(table: Floats, labels: Labels, scale: Floats) -> Candidates:
    """The same from an output decoded in the graph: centre, size, scores, keypoints by cell.

    Boxes and keypoints are in pixels or in parts of the square, independently: exporters differ.
    """
    _, scores, values = np.split(table, [BOX_SIDES, BOX_SIDES + labels.classes], axis=1)
    if not (scores.min() > -0.5 and scores.max() <= 2):  # with a large int8 scale, 1 may become 2
        raise StepFailed(
            "model",
            f"its decoded scores reach from {scores.min():.3g} to {scores.max():.3g}, not 0 to 1",
            hint="export it with ultralytics' own sigmoid, or with raw heads",
        )
    places = table[:, :BOX_SIDES] * _unit(table[:, :2], labels.size)
    centres, sizes = np.split(places, 2, axis=1)
    boxes = np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1)
    points = values.reshape(len(table), labels.keypoints, KEYPOINT_VALUES)
    if labels.keypoints:
        spots = points[..., :2] * _unit(points[..., :2], labels.size)
        points = np.concatenate([spots, points[..., 2:]], axis=2)
    found = Detections(
        boxes=boxes,
        scores=scores.max(axis=1),
        classes=np.argmax(scores, axis=1),
        keypoints=points,
    )
    if labels.keypoints:
        return _rounded(found, boxes * np.tile(scale, 2), scale)
    inside = np.clip(places, 0, np.float32(labels.size))
    percents = rounded(found.scores * np.float32(100))
    return _truncated(found, inside * np.tile(scale, 2), percents)


def _unit(places: Floats, size: int) -> np.float32:
    """Pixels in one unit of the places of all cells, which are spread over the whole image."""
    middle = float(np.median(np.abs(places)))
    if middle <= 1:
        return np.float32(size)
    if middle >= size / 8:
        return np.float32(1)
    raise StepFailed(
        "model",
        f"its decoded places are about {middle:.3g} in the middle, which is neither pixels of "
        f"{size} nor parts of the image",
        hint="export it with raw heads, or with ultralytics' own decoding",
    )


@functools.lru_cache(maxsize=1)
def _grid(labels: Labels) -> tuple[Floats, Floats]:
    """Column and row [cells,2] of every cell, and its stride [cells,1], in the outputs' order."""
    places, strides = [], []
    for stride in STRIDES:
        side = labels.size // stride
        rows, columns = np.divmod(np.arange(side * side), side)
        places.append(np.stack([columns, rows], axis=1).astype(np.float32))
        strides.append(np.full((side * side, 1), stride, np.float32))
    return np.concatenate(places), np.concatenate(strides)


def _joined(rows: Mapping[str, Floats], kind: str) -> Floats:
    """One kind of output over the cells of all strides."""
    if kind in rows:
        return rows[kind]
    return np.concatenate([rows[f"{kind}{stride}"] for stride in STRIDES])


def _expected(logits: Floats) -> Floats:
    """[n,4,bins] to [n,4]: the expectation of the bin's number under a softmax.

    Summed bin by bin and without a shift, as the firmware does: a pixel may be cut off by the last
    digit.
    """
    largest = logits.max(axis=2, keepdims=True)
    weights = np.exp(logits - np.where(largest > _LARGEST_LOGIT, largest, np.float32(0)))
    total, expected = np.zeros_like(weights[..., 0]), np.zeros_like(weights[..., 0])
    for number in range(REG_MAX):
        total += weights[..., number]
    for number in range(REG_MAX):
        expected += weights[..., number] / total * np.float32(number)
    return expected


def _sigmoid(logits: Floats) -> Floats:
    with np.errstate(over="ignore"):  # exp() of a large number is infinite, its inverse 0
        return np.float32(1) / (np.float32(1) + np.exp(-logits))


def _listed(shapes: Sequence[Shape]) -> str:
    return ", ".join("[" + ",".join(map(str, shape)) + "]" for shape in shapes)


def _counted(labels: Labels) -> str:
    classes = "1 class" if labels.classes == 1 else f"{labels.classes} classes"
    return f"{classes} and {labels.keypoints} keypoints" if labels.keypoints else classes
