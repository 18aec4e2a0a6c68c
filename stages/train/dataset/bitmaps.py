"""Writes images as BMP: not compressed, so that its bytes do not depend on a library's version."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np

from stages.contract import FULL_BYTES, StepFailed
from stages.train.dataset.camera import Pixels

_HEADER_BYTES = 54


def check_room(folder: Path, images: int, size: int) -> None:
    """Raise StepFailed("disk") if so many images of ``size`` would not fit: the space that they
    take is known before it is used."""
    needed = images * (3 * size**2 + _HEADER_BYTES)
    free = shutil.disk_usage(folder).free - FULL_BYTES
    if needed > free:
        raise StepFailed(
            "disk",
            f"{images} images of {size}x{size} take {needed >> 20} MiB, and {free >> 20} MiB are "
            "free",
            hint="free some space (`kiln gc`), or take fewer images",
        )


def write_bitmap(path: Path, pixels: Pixels) -> None:
    """Write an image [h,w,3] RGB, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _encoded, bmp = cv2.imencode(".bmp", pixels[..., ::-1])
    path.write_bytes(np.asarray(bmp).tobytes())
