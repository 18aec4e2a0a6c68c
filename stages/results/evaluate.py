"""The result of the step `evaluate`, and what a report draws: evidence.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from stages.results.host import OF_HOST

#: Whether an average precision is over boxes or over keypoints.
Kind = Literal["box", "pose"]
#: Figures of accuracy, and what people call them.
METRICS: Mapping[str, str] = {
    "class/top1": "top-1 accuracy",
    "class/top5": "top-5 accuracy",
    "box/map50": "box mAP50",
    "box/map50_95": "box mAP50-95",
    "pose/map50": "pose mAP50",
    "pose/map50_95": "pose mAP50-95",
}
#: Below this mAP50, 0 to 1, a network has learnt next to nothing.
LEAST_MAP50 = 0.01


def least_top1(classes: int) -> float:
    """Below this top-1 accuracy, 0 to 1, a classifier is hardly better than guessing."""
    return min(1.5 / classes, 1 / classes + 0.1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassAccuracy:
    """A class: its labelled objects, and the mAP50-95 (0 to 1) of what the model is for; for
    classify its images, and the share of them that are told right."""

    name: str
    objects: int
    float32: float | None
    int8: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputSnr:
    """Signal-to-noise ratio of an output, float32 against int8; None if either has no power."""

    name: str
    snr_db: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateResult:
    """Accuracy on the evaluation images.

    ``artifacts``: by file (onnx, float32, int8, compiled) every figure of METRICS, 0 to 1, that the
    task has; None if there is no object to find. ``equal_to_int8``: whether the compiled file,
    executed as Vela's encodings define it, gives the bytes of int8 on all images; then it has no
    figures of its own. None without both. ``drop``: points of each that int8 is below float32.
    ``seconds``: what all inferences of a file took. A threshold is None if the task has none.
    ``finds_nothing``: a mAP50 is below `LEAST_MAP50`, or a classifier is no better than guessing.
    """

    images: int
    objects: int
    artifacts: Mapping[str, Mapping[str, float | None]]
    drop: Mapping[str, float]
    classes: tuple[ClassAccuracy, ...]
    outputs: tuple[OutputSnr, ...]
    seconds: Mapping[str, float] | None = dataclasses.field(metadata=OF_HOST)
    score_threshold: float | None
    iou_threshold: float | None
    versions: Mapping[str, str]
    finds_nothing: bool = False
    equal_to_int8: bool | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportImage:
    """An image with what is labelled in it and what each model finds; None without the model.

    ``size``: its side in pixels. ``image``: a JPEG as a data URL. An object is {"class", "score",
    "box", "keypoints"}: class number, 0 to 1 (not in ``truth``), [left, top, right, bottom], and
    [x, y, visibility] for each keypoint or None, in pixels.
    """

    file: str
    size: int
    image: str
    truth: tuple[Mapping[str, Any], ...]
    note: str
    float32: tuple[Mapping[str, Any], ...] | None
    int8: tuple[Mapping[str, Any], ...] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassProbability:
    """A class by its number, and its probability, 0 to 1."""

    number: int
    probability: float


#: All there can be among 14 classes; of a thousand classes a table would be a megabyte.
MOST_MISTAKES = 200


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassMistake:
    """``count`` images of the class ``truth`` were taken for the class ``taken``, by number."""

    truth: int
    taken: int
    count: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifiedReportImage:
    """An image of a class, and the most probable ones to each model, best first; None without the
    model. ``size`` and ``image`` are as in ReportImage."""

    file: str
    size: int
    image: str
    truth: int
    note: str
    float32: tuple[ClassProbability, ...] | None
    int8: tuple[ClassProbability, ...] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evidence:
    """evidence.json.

    ``precision_recall``: by kind and model, points [recall, precision] at an IoU or OKS of 0.5.
    For classify ``images`` and ``precision_recall`` are empty, for all other tasks ``classified``
    and ``mistakes``: by model, the most frequent ones first, at most `MOST_MISTAKES`.
    """

    images: tuple[ReportImage, ...]
    precision_recall: Mapping[Kind, Mapping[str, tuple[tuple[float, ...], ...]]]
    names: tuple[str, ...]
    skeleton: tuple[tuple[int, ...], ...]
    classified: tuple[ClassifiedReportImage, ...] = ()
    mistakes: Mapping[str, tuple[ClassMistake, ...]] = dataclasses.field(default_factory=dict)
