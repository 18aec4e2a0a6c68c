"""A canvas whose pixels are the same on every host.

OpenCV draws shapes in fixed point, at twice the size, and they are averaged in integers. Rotation
uses a table of integers, because the last bit of ``sin`` may differ between hosts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]
Point = tuple[int, int]
#: Points are in units of 1/SCALE pixel of the final image.
SCALE = 2
#: Pixels that belong to no object.
NOBODY = 0
_ONE = 4096
_SINES = [round(_ONE * math.sin(math.radians(degrees))) for degrees in range(360)]
# JPEG, because OpenCV's wheel has its own libjpeg-turbo, whose results are the same with and
# without SIMD; its PNG uses the host's zlib, and each zlib compresses differently.
_JPEG = [int(cv2.IMWRITE_JPEG_QUALITY), 92]


class Canvas:
    """RGB pixels and, for each, the number of the object that is visible there."""

    def __init__(self, width: int, height: int) -> None:
        self.width = width * SCALE
        self.height = height * SCALE
        self.pixels: NDArray[np.uint8] = np.zeros((self.height, self.width, 3), np.uint8)
        self.owner: NDArray[np.uint8] = np.zeros((self.height, self.width), np.uint8)

    def gradient(self, top: Colour, bottom: Colour) -> None:
        """Fill the whole image, from the upper colour to the lower one."""
        steps = np.arange(self.height, dtype=np.int32)[:, None]
        ends = [np.array(colour, np.int32) for colour in (top, bottom)]
        rows = (ends[0] * (self.height - 1 - steps) + ends[1] * steps) // max(1, self.height - 1)
        self.pixels[:] = rows[:, None, :].astype(np.uint8)

    def polygon(self, points: Sequence[Point], colour: Colour, owner: int = NOBODY) -> None:
        outline = np.array(points, np.int32)
        cv2.fillPoly(self.pixels, [outline], colour)
        cv2.fillPoly(self.owner, [outline], owner)

    def disc(self, centre: Point, radius: int, colour: Colour, owner: int = NOBODY) -> None:
        self.oval(centre, (radius, radius), colour, owner)

    def oval(
        self, centre: Point, radii: tuple[int, int], colour: Colour, owner: int = NOBODY
    ) -> None:
        size = (max(1, radii[0]), max(1, radii[1]))
        cv2.ellipse(self.pixels, centre, size, 0, 0, 360, colour, cv2.FILLED)
        cv2.ellipse(self.owner, centre, size, 0, 0, 360, (owner,), cv2.FILLED)

    def limb(
        self, joints: Sequence[Point], width: int, colour: Colour, owner: int = NOBODY
    ) -> None:
        """A thick line with round ends and corners."""
        for start, end in itertools.pairwise(joints):
            cv2.line(self.pixels, start, end, colour, max(1, width))
            cv2.line(self.owner, start, end, (owner,), max(1, width))

    def jpeg(self) -> bytes:
        """The image at its final size."""
        halves = self.pixels.reshape(
            self.height // SCALE, SCALE, self.width // SCALE, SCALE, 3
        ).astype(np.uint16)
        small = ((halves.sum(axis=(1, 3)) + SCALE) // SCALE**2).astype(np.uint8)
        _done, data = cv2.imencode(".jpg", small[:, :, ::-1], _JPEG)
        return bytes(data)


def turn(length: int, degrees: int, stretch: int = 100) -> Point:
    """A vector of a length: 0 degrees points down, 90 to the right; x times ``stretch`` percent."""
    x = length * _SINES[degrees % 360] * stretch // (_ONE * 100)
    return x, length * _SINES[(degrees + 90) % 360] // _ONE


def add(point: Point, vector: Point) -> Point:
    return point[0] + vector[0], point[1] + vector[1]


def extent(mask: NDArray[Any]) -> tuple[int, int, int, int] | None:
    """Left, top, right and bottom (the last two exclusive) of a mask; None if it is empty."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(columns):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
