"""Images as the firmware writes them into a model's input, and the values of its outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.contract import StepFailed

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

#: Weights of red, green and blue in grey, in thousandths.
_GREY = (299, 587, 114)


def read_images(folder: Path) -> Pixels:
    """The images of evaluation/, uint8 [m,S,S,3]; raises StepFailed("data") if there are none."""
    images: Pixels = np.load(folder / "images.npy", mmap_mode="r")
    if not len(images):
        raise StepFailed(
            "data", "there is no image to evaluate on", hint="put images into the data's val"
        )
    return images


def prepare(image: Pixels, channels: int, dtype: type[np.generic]) -> NDArray[Any]:
    """An image [S,S,3] as [1,S,S,channels], int8 or float32.

    Grey as in the firmware's rgb888_to_gray (SSCMA-Micro 1.0.x, core/utils/el_cv.cpp).
    """
    if channels == 1:
        image = (image.astype(np.int32) @ _GREY // 1000).astype(np.uint8)[..., None]
    return (as_int8(image) if dtype == np.int8 else as_float(image))[None]


def as_int8(pixels: Pixels) -> NDArray[np.int8]:
    """As the firmware writes them: ``pixel - 128``."""
    return (pixels.astype(np.int16) - 128).astype(np.int8)


def as_float(pixels: Pixels) -> Floats:
    """As a float network takes them: 0 to 1."""
    return pixels.astype(np.float32) / np.float32(255)


def dequantised(values: NDArray[Any], scale: float, zero_point: int) -> Floats:
    """The real values of a quantised tensor; those of a float tensor as they are."""
    if np.issubdtype(values.dtype, np.floating):
        return values.astype(np.float32, copy=False)
    return (values.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)
