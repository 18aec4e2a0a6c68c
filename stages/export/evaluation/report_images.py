"""Chooses the pictures that a report shows, and makes them ready for it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from stages.export.evaluation.decode import Detections, iou
from stages.export.evaluation.preprocess import Pixels

PICTURES = 12
#: At most so many of them for what quantising changed; the others show what is usual.
MOST_CHANGED = 6
#: The least score of what is drawn; AT+TSCORE sets it on a board.
SHOWN_SCORE = 0.25
#: Detections that overlap less are not the same.
_SAME = 0.5
_JPEG_QUALITY = 90
_CHANGED = "largest difference"


def choose(changes: Sequence[float]) -> dict[int, str]:
    """Numbers of the pictures to show, and a note on each: those that changed most, largest
    change first, then others evenly over their order."""
    order = sorted(range(len(changes)), key=lambda number: -changes[number])
    changed = [number for number in order[:MOST_CHANGED] if changes[number] > 0]
    others = [number for number in range(len(changes)) if number not in changed]
    kept = min(PICTURES - len(changed), len(others))
    even = [others[number * len(others) // kept] for number in range(kept)]
    return dict.fromkeys(changed, _CHANGED) | dict.fromkeys(even, "")


def change(before: Detections, after: Detections) -> float:
    """How much what is shown of a picture differs: 1 for each object without a counterpart, and
    for two that are the same what they lack of an IoU of 1, what their scores differ by, and how
    far their keypoints moved on average, in parts of the root of the box's area."""
    before, after = shown(before), shown(after)
    free = np.ones(len(after), bool)
    total = 0.0
    for number, box in enumerate(before.boxes):
        same = free & (after.classes == before.classes[number])
        overlaps = iou(box, after.boxes) * same
        best = int(np.argmax(overlaps)) if len(after) else -1
        if best < 0 or overlaps[best] < _SAME:
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
    """Those that a board would draw."""
    return found[found.scores >= SHOWN_SCORE]


def describe(found: Detections) -> tuple[Mapping[str, Any], ...]:
    """What is shown of a picture, as a report draws it: pixels, and scores of 0 to 1."""
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
    """A picture [S,S,3] as the address of its own JPEG."""
    jpeg = tf.io.encode_jpeg(image, quality=_JPEG_QUALITY).numpy()
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")
