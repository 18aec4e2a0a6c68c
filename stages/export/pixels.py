"""Pictures as the firmware writes them into a model's input, in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

#: Parts of red, green and blue in a thousand of grey.
_GREY = (299, 587, 114)


def prepare(image: Pixels, channels: int, dtype: type) -> NDArray[Any]:
    """A picture [S,S,3] as [1,S,S,channels] of int8, ``pixel - 128``, or of float32, 0 to 1.

    Grey is what the firmware's rgb888_to_gray makes of a pixel (SSCMA-Micro 1.0.x,
    core/utils/el_cv.cpp).
    """
    if channels == 1:
        image = (image.astype(np.int32) @ _GREY // 1000).astype(np.uint8)[..., None]
    if dtype == np.int8:
        return (image.astype(np.int16) - 128).astype(np.int8)[None]
    return (image.astype(np.float32) / np.float32(255))[None]
