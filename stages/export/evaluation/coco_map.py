"""Mean average precision of boxes and of keypoints, by pycocotools.

As in COCO: IoU or OKS from 0.5 to 0.95 in steps of 0.05, precision at 101 recalls, at most 100
detections a class and image (COCO takes 20 people; a crowd may have more). As in ultralytics: an
object's area, to which OKS is relative, is 0.53 of its box, and keypoints that are not COCO's 17
share one sigma, 1 / their number. Everything is measured in pixels of the model's input. Objects of
all sizes count alike, because on a board all are small.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from stages.coco import SIGMAS
from stages.export.evaluation.decode import Detections
from stages.results.evaluate import Kind

Objects = Sequence[Mapping[str, Any]]

MOST_DETECTIONS = 100
AREA_OF_BOX = 0.53
_ALL_AREAS = (0, 1e10)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Precision:
    """Average precision of one model's detections, 0 to 1; None if there is no object to find.

    ``classes``: mean over the thresholds, by class. ``curve``: [recall, precision] at threshold
    0.5, mean over the classes that have objects.
    """

    map50: float | None
    map50_95: float | None
    classes: tuple[float | None, ...]
    curve: tuple[tuple[float, float], ...]


def measure(
    truth: Sequence[Objects], found: Sequence[Detections], *, classes: int, keypoints: int
) -> dict[Kind, Precision]:
    """Compare detections with the objects of each image; with keypoints for pose too.

    An object without a visible keypoint is ignored for pose: finding it is no error.
    """
    wanted = _coco(classes, [_labelled(objects, keypoints) for objects in truth])
    given = _coco(classes, [_detected(each) for each in found])
    kinds: dict[Kind, Precision] = {"box": _precision(COCOeval(wanted, given, "bbox"))}
    if keypoints:
        evaluation = COCOeval(wanted, given, "keypoints")
        evaluation.params.kpt_oks_sigmas = sigmas(keypoints)
        kinds["pose"] = _precision(evaluation)
    return kinds


def sigmas(keypoints: int) -> NDArray[np.float64]:
    """The standard deviation of each keypoint, to which OKS is relative."""
    if keypoints == len(SIGMAS):
        return np.array(SIGMAS)
    return np.full(keypoints, 1 / keypoints)


def _precision(evaluation: COCOeval) -> Precision:
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [_ALL_AREAS], ["all"]
    evaluation.params.maxDets = [MOST_DETECTIONS]
    evaluation.evaluate()
    evaluation.accumulate()
    precision: NDArray[np.float64] = evaluation.eval["precision"][:, :, :, 0, 0]
    present = precision[:, :, precision[0, 0] >= 0]  # [thresholds, recalls, classes]; -1: absent
    if not present.size:
        return Precision(map50=None, map50_95=None, classes=(None,) * precision.shape[2], curve=())
    curve = zip(evaluation.params.recThrs.tolist(), present[0].mean(axis=1).tolist(), strict=True)
    means = precision.mean(axis=(0, 1)).tolist()
    return Precision(
        map50=float(present[0].mean()),
        map50_95=float(present.mean()),
        classes=tuple(mean if mean >= 0 else None for mean in means),
        curve=tuple((round(recall, 2), round(value, 4)) for recall, value in curve),
    )


def _coco(classes: int, images: Sequence[Sequence[dict[str, Any]]]) -> COCO:
    """The objects of images in pycocotools' form; numbered from 1, as it takes 0 for no object."""
    numbers = itertools.count(1)
    coco = COCO()
    coco.dataset = {
        "images": [{"id": number} for number in range(len(images))],
        "categories": [{"id": number} for number in range(classes)],
        "annotations": [
            {**box, "id": next(numbers), "image_id": number}
            for number, boxes in enumerate(images)
            for box in boxes
        ],
    }
    coco.createIndex()
    return coco


def _labelled(objects: Objects, keypoints: int) -> list[dict[str, Any]]:
    unknown = [[0, 0, 0]] * keypoints
    boxes = []
    for each in objects:
        left, top, right, bottom = each["box"]
        points = each["keypoints"] or unknown
        boxes.append(
            {
                "category_id": each["class"],
                "bbox": [left, top, right - left, bottom - top],
                "area": (right - left) * (bottom - top) * AREA_OF_BOX,
                "keypoints": [value for point in points for value in point],
                "num_keypoints": sum(visibility > 0 for _, _, visibility in points),
                "iscrowd": 0,
            }
        )
    return boxes


def _detected(found: Detections) -> list[dict[str, Any]]:
    places = np.concatenate([found.boxes[:, :2], found.boxes[:, 2:] - found.boxes[:, :2]], axis=1)
    points = found.keypoints.reshape(len(found), 3 * found.keypoints.shape[1])
    columns = (found.classes, found.scores, places, points)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [
        {"category_id": number, "score": score, "bbox": box, "area": 0, "keypoints": values}
        for number, score, box, values in rows
    ]
