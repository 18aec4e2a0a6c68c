"""Chooses the images that a report shows, and describes what is found in them."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from stages.export.evaluation.decode import Detections
from stages.export.models.preprocess import Floats, Pixels
from stages.sampling import evenly

IMAGES = 12
#: At most so many of them are those in which quantising changed most; the others are typical.
MOST_CHANGED = 6
#: The least score of a detection that is drawn: the firmware's default; AT+TSCORE sets it.
SHOWN_SCORE = 0.5
#: Detections with a lower IoU are different objects.
_SAME_IOU = 0.5
_JPEG_QUALITY = 90
_CHANGED = "largest difference"


def choose(changes: Sequence[float]) -> dict[int, str]:
    """Numbers of the images to show, and a note on each: first those that changed most, the largest
    change first, then others at even distances."""
    order = sorted(range(len(changes)), key=lambda number: -changes[number])
    changed = [number for number in order[:MOST_CHANGED] if changes[number] > 0]
    others = [number for number in range(len(changes)) if number not in changed]
    typical = [others[index] for index in evenly(len(others), IMAGES - len(changed))]
    return dict.fromkeys(changed, _CHANGED) | dict.fromkeys(typical, "")


def change(before: Detections, after: Detections) -> float:
    """How much the shown detections of an image differ: 1 for each without a counterpart; for two
    of the same object the sum of 1 - IoU, the difference of their scores, and the mean distance of
    their keypoints in parts of the root of the box's area."""
    before, after = shown(before), shown(after)
    free = np.ones(len(after), bool)
    total = 0.0
    for number, box in enumerate(before.boxes):
        same = free & (after.classes == before.classes[number])
        overlaps = _iou(box, after.boxes) * same
        best = int(np.argmax(overlaps)) if len(after) else -1
        if best < 0 or overlaps[best] < _SAME_IOU:
            total += 1
            continue
        free[best] = False
        total += 1 - float(overlaps[best])
        total += abs(float(before.scores[number] - after.scores[best]))
        moved = before.keypoints[number, :, :2] - after.keypoints[best, :, :2]
        if moved.size:
            side = float(np.sqrt(np.prod(box[2:] - box[:2])))
            total += float(np.linalg.norm(moved, axis=1).mean()) / side
    return total + int(free.sum())


def shown(found: Detections) -> Detections:
    """The detections that a board would draw."""
    return found[found.scores >= SHOWN_SCORE]


def describe(found: Detections) -> tuple[Mapping[str, Any], ...]:
    """The shown detections of an image in a report's form: pixels, and scores of 0 to 1."""
    kept = shown(found)
    points = np.round(kept.keypoints.astype(float), 2).tolist()
    return tuple(
        {
            "class": int(kept.classes[number]),
            "score": round(float(kept.scores[number]), 4),
            "box": np.round(kept.boxes[number].astype(float), 2).tolist(),
            "keypoints": points[number] or None,
        }
        for number in range(len(kept))
    )


def data_url(image: Pixels) -> str:
    """An image [S,S,3] as a data URL that holds a JPEG."""
    jpeg = tf.io.encode_jpeg(image, quality=_JPEG_QUALITY).numpy()
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")


def _iou(box: Floats, others: Floats) -> Floats:
    """Intersection over union of a box [4] with others [n,4]."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    common = np.prod(np.maximum(sides, 0), axis=1)
    areas = np.prod(others[:, 2:] - others[:, :2], axis=1) + np.prod(box[2:] - box[:2])
    union = areas - common
    overlaps: Floats = np.where(union > 0, common / np.where(union > 0, union, 1), 0)
    return overlaps
