"""What a board makes of a scene: the frame that its camera gives, and the model's input.

An image of a data set stands for the scene. It becomes a frame with its own proportions, averaged
over areas as optics and sensor do; the firmware then picks single pixels of the frame. All
arithmetic is in whole numbers, so that every processor gives the same bytes.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

import stages.train.ultralytics_env  # noqa: F401 - before anything of ultralytics

# isort: split
from numpy.typing import NDArray
from ultralytics.utils.patches import imread

from stages.contract import StepFailed
from stages.train.dataset.image_files import LEAST_SIDE
from stages.train.dataset.labels import LabelledObject

Pixels = NDArray[np.uint8]
Integers = NDArray[np.int64]
Sampling = Literal["exact", "float32", "fixed16", "aligned-corners"]

#: Grey value around an image that does not fill the frame, as in ultralytics' letterbox.
PADDING = 114
#: Of an object that the frame cuts, at least this part of its box must be left; ultralytics'
#: `box_candidates` (data/augment.py) demands as much of boxes that an augmentation cuts.
_LEAST_LEFT = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Camera:
    """A frame of ``width`` x ``height`` pixels, and the square input of ``size`` made of it.

    ``framing``: an image ``fit``s the frame whole, between grey bars, or ``fill``s it and is cut.
    ``sampling``: the rule by which the input's pixels are picked, see `picked`.
    ``pixels``: what a frame holds, RGB of eight bits each or of 5, 6 and 5.
    """

    size: int
    width: int
    height: int
    framing: Literal["fit", "fill"]
    sampling: Sampling = "exact"
    pixels: Literal["rgb888", "rgb565"] = "rgb888"

    @staticmethod
    def of(params: Mapping[str, Any]) -> Camera:
        """The camera in a step's parameters: ``imgsz`` and the fields of ``camera``."""
        return Camera(size=int(params["imgsz"]), **params["camera"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placement:
    """Where an image lies in the frame, in the frame's pixels; it may reach beyond it."""

    left: int
    top: int
    width: int
    height: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Window:
    """The part of the input, in its pixels, that shows an image and no bars."""

    left: int
    top: int
    right: int
    bottom: int


def read_image(path: Path) -> Pixels:
    """Read an image as ultralytics does (turned as its EXIF says, no alpha), uint8 [h,w,3] RGB.

    Raises StepFailed("data") if it does not open.
    """
    image = imread(path)
    if image is None:
        raise StepFailed("data", f"{path.name} does not open as an image", hint="replace it")
    return np.ascontiguousarray(image[..., ::-1])


def place(width: int, height: int, camera: Camera) -> Placement:
    """Scale an image so that it fits or fills the frame, and put it into the middle."""
    wider = width * camera.height > camera.width * height
    if wider == (camera.framing == "fit"):
        scaled = camera.width, max(1, _rounded(height * camera.width, width))
    else:
        scaled = max(1, _rounded(width * camera.height, height)), camera.height
    return Placement(
        left=(camera.width - scaled[0]) // 2,
        top=(camera.height - scaled[1]) // 2,
        width=scaled[0],
        height=scaled[1],
    )


def frame_of(image: Pixels, camera: Camera) -> Pixels:
    """The frame, uint8 [height,width,3], in which the camera gives an image [h,w,3]."""
    spot = place(image.shape[1], image.shape[0], camera)
    scaled = averaged(image, spot.width, spot.height)
    frame = np.full((camera.height, camera.width, 3), PADDING, np.uint8)
    rows, from_rows = _overlap(spot.top, spot.height, camera.height)
    columns, from_columns = _overlap(spot.left, spot.width, camera.width)
    frame[rows, columns] = scaled[from_rows, from_columns]
    return frame


def input_of(frame: Pixels, camera: Camera) -> Pixels:
    """The model's input, uint8 [size,size,3], as the firmware makes it of a frame."""
    rows = picked(camera.height, camera.size, camera.sampling)
    columns = picked(camera.width, camera.size, camera.sampling)
    sampled: Pixels = frame[rows[:, None], columns]
    return as_rgb565(sampled) if camera.pixels == "rgb565" else sampled


def window(width: int, height: int, camera: Camera) -> Window:
    """The part of the input that shows an image of a size."""
    spot = place(width, height, camera)
    rows = picked(camera.height, camera.size, camera.sampling)
    columns = picked(camera.width, camera.size, camera.sampling)
    top, bottom = np.searchsorted(rows, (spot.top, spot.top + spot.height)).tolist()
    left, right = np.searchsorted(columns, (spot.left, spot.left + spot.width)).tolist()
    left, right = _at_least(left, right, camera.size)
    top, bottom = _at_least(top, bottom, camera.size)
    return Window(left=left, top=top, right=right, bottom=bottom)


def averaged(image: Pixels, width: int, height: int) -> Pixels:
    """An image at another size; each pixel is the mean over the area that it covers, to the nearest
    whole number."""
    return _averaged_rows(_averaged_rows(image, height).swapaxes(0, 1), width).swapaxes(0, 1)


def picked(source: int, target: int, sampling: Sampling) -> Integers:
    """The number of the frame's row or column, of ``source``, for each of the input's ``target``.

    No rule averages, and none adds half a pixel. ``float32``: as SSCMA-Micro 1.0.x reads a YUV
    frame (core/utils/el_cv.cpp, yuv422p_to_rgb), a product in single precision. ``fixed16``: as it
    reads an RGB565 frame (rgb565_to_rgb888), the distance truncated to 16 binary places.
    ``aligned-corners``: as Himax's firmware (cvapp_yolov8_pose.cpp), first and last meet.
    ``exact``: what the first two approach.
    """
    return _RULES[sampling](np.arange(target, dtype=np.int64), source, target)


def as_rgb565(pixels: Pixels) -> Pixels:
    """What is left of RGB after 5, 6 and 5 bits, spread over eight again (SSCMA-Micro 1.0.x,
    core/utils/el_cv.cpp, RGB565_TO_RGB888_LOOKUP_TABLE_5 and _6)."""
    most = np.array([31, 63, 31])
    kept = pixels >> np.array([3, 2, 3])
    spread: Pixels = ((kept * 510 + most) // (2 * most)).astype(np.uint8)
    return spread


def seen(labelled: LabelledObject, spot: Placement, camera: Camera) -> dict[str, Any] | None:
    """An object of truth.json, in pixels of the input, cut as the frame cuts it; None if too little
    of it is left."""
    x, y, width, height = labelled.box
    corners = [_pixel(x + side * width / 2, y + side * height / 2, spot) for side in (-1, 1)]
    (left, top), (right, bottom) = ([*_inside(*corner, camera)] for corner in corners)
    whole = (corners[1][0] - corners[0][0]) * (corners[1][1] - corners[0][1])
    if (right - left) * (bottom - top) < _LEAST_LEFT * whole:
        return None
    points = [_seen_point(point, spot, camera) for point in labelled.keypoints]
    return {
        "class": labelled.number,
        "box": [*_scaled(left, top, camera), *_scaled(right, bottom, camera)],
        "keypoints": points or None,
    }


def _seen_point(
    point: tuple[float, float, int], spot: Placement, camera: Camera
) -> list[float | int]:
    """A keypoint in pixels of the input; without visibility if it is outside the frame."""
    x, y = _pixel(point[0], point[1], spot)
    if (x, y) != _inside(x, y, camera):
        return [0.0, 0.0, 0]
    return [*_scaled(x, y, camera), point[2]]


def _inside(x: float, y: float, camera: Camera) -> tuple[float, float]:
    return min(max(x, 0.0), camera.width), min(max(y, 0.0), camera.height)


def _pixel(x: float, y: float, spot: Placement) -> tuple[float, float]:
    """A point from parts of the image (0 to 1; labels may reach a little beyond) to the frame."""
    return (
        spot.left + min(max(x, 0.0), 1.0) * spot.width,
        spot.top + min(max(y, 0.0), 1.0) * spot.height,
    )


def _scaled(x: float, y: float, camera: Camera) -> list[float]:
    """A point from the frame to the input, in which a pixel stands for a part of the frame."""
    return [round(x * camera.size / camera.width, 3), round(y * camera.size / camera.height, 3)]


def _at_least(first: int, last: int, most: int) -> tuple[int, int]:
    """A range of `LEAST_SIDE` and more, with bars if the image is narrower."""
    first = min(first, max(0, first - (LEAST_SIDE - (last - first)) // 2), most - LEAST_SIDE)
    return first, max(last, first + LEAST_SIDE)


def _overlap(start: int, length: int, frame: int) -> tuple[slice, slice]:
    """The part of a frame's side that an image covers, and the part of the image that is there."""
    first, last = max(start, 0), min(start + length, frame)
    return slice(first, last), slice(first - start, last - start)


def _averaged_rows(image: Pixels, count: int) -> Pixels:
    """The image [h,w,3] with ``count`` rows.

    Row i covers [i * h, (i + 1) * h) in parts of ``count``, of which a source row is ``count``
    long: whole rows, less a part of the first, and a part of the one after the last. Sums of 32
    bits may run below zero on the way, and come out right.
    """
    rows = len(image)
    flat = np.ascontiguousarray(image).reshape(rows, -1)
    mean = np.empty((count, flat.shape[1]), np.uint8)
    bounds = [divmod(number * rows, count) for number in range(count + 1)]
    for number, ((first, less), (last, more)) in enumerate(itertools.pairwise(bounds)):
        total = flat[first:last].sum(axis=0, dtype=np.uint32) * np.uint32(count)
        total -= flat[first] * np.uint32(less)
        if more:
            total += flat[last] * np.uint32(more)
        mean[number] = (2 * total + rows) // (2 * rows)
    return mean.reshape(count, *image.shape[1:])


def _rounded(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)


def _float32(numbers: Integers, source: int, target: int) -> Integers:
    beta = np.float32(source) / np.float32(target)
    return (numbers.astype(np.float32) * beta).astype(np.int64)


_RULES: Mapping[Sampling, Callable[[Integers, int, int], Integers]] = {
    "exact": lambda numbers, source, target: numbers * source // target,
    "float32": _float32,
    "fixed16": lambda numbers, source, target: (numbers * ((source << 16) // target)) >> 16,
    "aligned-corners": lambda numbers, source, target: numbers * (source - 1) // (target - 1),
}
