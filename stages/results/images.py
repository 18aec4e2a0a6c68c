"""The result of the step `images`, and the labels of the evaluation images: truth.json.

For classify these are the fields of ClassTruth, else those of GroundTruth.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from stages.results.dataset import Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelledImage:
    """An evaluation image: name and size of its file, and the labelled objects.

    An object is {"class", "box", "keypoints"}: class number, [left, top, right, bottom], and for
    each keypoint [x, y, visibility of 0 to 2] or None for detect, in pixels of the model's input.
    """

    file: str
    width: int
    height: int
    objects: tuple[Mapping[str, Any], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroundTruth:
    """truth.json. ``skeleton``: pairs of keypoints that are joined when drawn; () if unknown."""

    task: Task
    names: tuple[str, ...]
    kpt_shape: tuple[int, ...] | None
    skeleton: tuple[tuple[int, ...], ...]
    images: tuple[LabelledImage, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifiedImage:
    """An evaluation image for classify: name of its file, and number of its class."""

    file: str
    number: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassTruth:
    """truth.json for classify."""

    names: tuple[str, ...]
    images: tuple[ClassifiedImage, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImagesResult:
    """Numbers of calibration images, evaluation images, and labelled objects in the latter; for
    classify each image is an object."""

    calibration: int
    evaluation: int
    objects: int
    versions: Mapping[str, str]
