"""Images as uncompressed BMP files, which tests write and read without an image library."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_HEADER = struct.Struct("<2sIHHIIiiHHIIiiII")
_BITS = 24


def write_bmp(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write uint8 [h,w,3], RGB."""
    height, width = pixels.shape[:2]
    rows = np.pad(pixels[::-1, :, ::-1].reshape(height, -1), ((0, 0), (0, -3 * width % 4)))
    header = (b"BM", _HEADER.size + rows.size, 0, 0, _HEADER.size, 40, width, height, 1, _BITS)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_HEADER.pack(*header, 0, rows.size, 0, 0, 0, 0) + rows.tobytes())


def read_bmp(path: Path) -> NDArray[np.uint8]:
    """Read uint8 [h,w,3], RGB, of a file with 24 bits a pixel from the bottom up."""
    content = path.read_bytes()
    fields = _HEADER.unpack_from(content)
    start, width, height = fields[4], fields[6], fields[7]
    assert (fields[0], fields[9], fields[10]) == (b"BM", _BITS, 0)
    rows = np.frombuffer(content, np.uint8, offset=start).reshape(height, -1)
    return rows[::-1, : 3 * width].reshape(height, width, 3)[..., ::-1].copy()
