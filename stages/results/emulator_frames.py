"""What the step `emulator_frames` gives, and the frames of frames.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frame:
    """``image``: a JPEG as base64. ``candidates``, best last, each [[left, top, right, bottom],
    score, class, [[x, y, visibility], ...]], in pixels of the frame, scores 0 to 1."""

    image: str
    candidates: tuple[tuple[Any, ...], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frames:
    """frames.json. ``size``: the side of a frame in pixels."""

    pose: bool
    size: int
    frames: tuple[Frame, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmulatorFramesResult:
    """Numbers of frames, and of candidates in all of them."""

    frames: int
    candidates: int
    versions: Mapping[str, str]
