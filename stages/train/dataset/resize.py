"""Pictures and their labels as the board will see them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import stages.train.ultralytics_env  # noqa: F401 - before anything of ultralytics

# isort: split
from numpy.typing import NDArray
from ultralytics.utils.patches import imread

from stages.contract import StepFailed

_GREY = 114
_BOX_COLUMNS = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Square:
    """A picture made ready for the network.

    ``pixels``: uint8 [S, S, 3], RGB. The picture, once ``source_width`` x ``source_height``
    pixels, takes ``width`` x ``height`` of it from ``left``, ``top`` on.
    """

    pixels: NDArray[np.uint8]
    source_width: int
    source_height: int
    left: int
    top: int
    width: int
    height: int


def spread(paths: Sequence[Path], count: int) -> list[Path]:
    """At most ``count`` of the paths, evenly over their order."""
    kept = min(count, len(paths))
    return [paths[number * len(paths) // kept] for number in range(kept)]


def read_square(path: Path, size: int, *, letterbox: bool) -> Square:
    """Read a picture as ultralytics does (turned as its EXIF says, no alpha, three channels).

    It is stretched over the whole square, or with ``letterbox`` whole and centred in grey.
    Raises StepFailed("data") if it does not open.
    """
    picture = imread(path)
    if picture is None:
        raise StepFailed("data", f"{path.name} does not open as a picture", hint="replace it")
    source_height, source_width = picture.shape[:2]
    width = height = size
    if letterbox:
        ratio = min(size / source_width, size / source_height)
        width, height = (max(1, round(side * ratio)) for side in (source_width, source_height))
    left, top = (size - width) // 2, (size - height) // 2
    rows, columns = _sampled(source_height, height), _sampled(source_width, width)
    pixels = np.full((size, size, 3), _GREY, np.uint8)
    pixels[top : top + height, left : left + width] = picture[rows[:, None], columns, ::-1]
    return Square(
        pixels=pixels,
        source_width=source_width,
        source_height=source_height,
        left=left,
        top=top,
        width=width,
        height=height,
    )


def objects_of(label: Path, square: Square, *, keypoints: int) -> list[dict[str, Any]]:
    """The labelled objects of a picture, in pixels of the square; [] without a label file.

    ``keypoints`` is the number of x, y, visibility triples after each box, 0 for detect.
    """
    if not label.is_file():
        return []
    lines = label.read_text(encoding="utf-8-sig").splitlines()
    rows = dict.fromkeys(tuple(float(word) for word in line.split()) for line in lines)
    return [_object(row, square, keypoints) for row in rows if row]


def _object(row: tuple[float, ...], square: Square, keypoints: int) -> dict[str, Any]:
    number, x, y, width, height = row[:_BOX_COLUMNS]
    corners = [(x - width / 2, y - height / 2), (x + width / 2, y + height / 2)]
    points: list[list[float]] | None = None
    if keypoints:
        triples = np.array(row[_BOX_COLUMNS:]).reshape(keypoints, 3)
        points = [[*_pixel(px, py, square), int(v)] for px, py, v in triples]
    return {
        "class": int(number),
        "box": [value for corner in corners for value in _pixel(*corner, square)],
        "keypoints": points,
    }


def _pixel(x: float, y: float, square: Square) -> list[float]:
    """A point from parts of the picture (0 to 1) to pixels of the square."""
    return [
        round(square.left + min(max(x, 0.0), 1.0) * square.width, 3),
        round(square.top + min(max(y, 0.0), 1.0) * square.height, 3),
    ]


def _sampled(source: int, target: int) -> NDArray[np.int64]:
    """Which of ``source`` pixels each of ``target`` pixels shows.

    As the firmware does it (SSCMA-Micro, core/utils/el_cv.cpp): the step is cut to 16 binary
    places, the product to whole pixels; nothing is averaged, and no half pixel is added.
    """
    step = (source << 16) // target
    return (np.arange(target, dtype=np.int64) * step) >> 16
