"""The result of the step `emulator-frames`, and the frames of frames.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frame:
    """``image``: a JPEG as base64. ``candidates``, in the order of the model's cells, each [limit,
    box, points, corners, score]: the highest score threshold in percent that lets it through; as
    reported, [x, y, width, height, percent, class] and [[x, y, percent], ...]; and of a pose, which
    is suppressed before rounding, [left, top, right, bottom] in pixels of the frame and 0 to 1."""

    image: str
    candidates: tuple[tuple[Any, ...], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frames:
    """frames.json. ``size``: the side of a frame in pixels."""

    pose: bool
    size: int
    frames: tuple[Frame, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassFrame:
    """``image``: a JPEG as base64. ``percents``, each [percent, class], in the order of classes."""

    image: str
    percents: tuple[tuple[Any, ...], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassFrames:
    """frames.json for classify. ``size``: the side of a frame in pixels."""

    size: int
    frames: tuple[ClassFrame, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmulatorFramesResult:
    """Numbers of frames, and of candidates, or for classify of classes, in all of them."""

    frames: int
    candidates: int
    versions: Mapping[str, str]
