"""Images and their labels as the board will see them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

import stages.train.ultralytics_env  # noqa: F401 - before anything of ultralytics

# isort: split
from numpy.typing import NDArray
from ultralytics.utils.patches import imread

from stages.contract import StepFailed
from stages.train.dataset.labels import Form, LabelledObject, objects_in

#: Grey value around a letterboxed image, as in ultralytics.
_PADDING = 114


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResizedImage:
    """An image at the size of the model's input.

    ``pixels``: uint8 [S, S, 3], RGB. The image, once ``source_width`` x ``source_height`` pixels,
    fills ``width`` x ``height`` of them from ``left``, ``top`` on.
    """

    pixels: NDArray[np.uint8]
    source_width: int
    source_height: int
    left: int
    top: int
    width: int
    height: int


def read_resized(path: Path, size: int, *, letterbox: bool) -> ResizedImage:
    """Read an image as ultralytics does (turned as its EXIF says, no alpha, three channels).

    It is stretched over the whole square; with ``letterbox`` it keeps its proportions and is
    centred in grey. Raises StepFailed("data") if it does not open.
    """
    image = imread(path)
    if image is None:
        raise StepFailed("data", f"{path.name} does not open as an image", hint="replace it")
    source_height, source_width = image.shape[:2]
    width = height = size
    if letterbox:
        ratio = min(size / source_width, size / source_height)
        width, height = (max(1, round(side * ratio)) for side in (source_width, source_height))
    left, top = (size - width) // 2, (size - height) // 2
    rows, columns = _sampled(source_height, height), _sampled(source_width, width)
    pixels = np.full((size, size, 3), _PADDING, np.uint8)
    pixels[top : top + height, left : left + width] = image[rows[:, None], columns, ::-1]
    return ResizedImage(
        pixels=pixels,
        source_width=source_width,
        source_height=source_height,
        left=left,
        top=top,
        width=width,
        height=height,
    )


def objects_of(label: Path, image: ResizedImage, form: Form) -> list[dict[str, Any]]:
    """The labelled objects of an image, in pixels of ``image``; [] without a label file."""
    if not label.is_file():
        return []
    return [_object(each, image) for each in objects_in(label, form)]


def _object(labelled: LabelledObject, image: ResizedImage) -> dict[str, Any]:
    x, y, width, height = labelled.box
    corners = [(x - width / 2, y - height / 2), (x + width / 2, y + height / 2)]
    points = [[*_pixel(px, py, image), visibility] for px, py, visibility in labelled.keypoints]
    return {
        "class": labelled.number,
        "box": [value for corner in corners for value in _pixel(*corner, image)],
        "keypoints": points or None,
    }


def _pixel(x: float, y: float, image: ResizedImage) -> list[float]:
    """A point from parts of the source (0 to 1) to pixels of ``image``."""
    return [
        round(image.left + min(max(x, 0.0), 1.0) * image.width, 3),
        round(image.top + min(max(y, 0.0), 1.0) * image.height, 3),
    ]


def _sampled(source: int, target: int) -> NDArray[np.int64]:
    """The number of the source pixel, of ``source``, that each of ``target`` pixels shows.

    As in the firmware (SSCMA-Micro, core/utils/el_cv.cpp): the distance is truncated to 16 binary
    places and the product to whole pixels; nothing is averaged, and no half pixel is added.
    """
    distance = (source << 16) // target
    return (np.arange(target, dtype=np.int64) * distance) >> 16
