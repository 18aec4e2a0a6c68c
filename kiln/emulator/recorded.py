"""What a model gave for recorded frames, as the emulated board repeats it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any, Generic, Self, TypeVar

FrameT = TypeVar("FrameT")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recorded(Generic[FrameT]):
    """Repeats its frames for ever. ``sha256`` and ``size`` are those of the flashed file;
    ``modes``: the same in other modes of the camera, by option."""

    sha256: str
    size: int
    resolution: tuple[int, int]
    frames: tuple[FrameT, ...]
    modes: Mapping[int, Any] = dataclasses.field(default_factory=dict)  # of its own class

    def at(self, option: int) -> Self:
        """The same with the camera in another mode."""
        found: Self = self.modes.get(option, self)
        return found

    def matches(self, memory: memoryview) -> bool:
        """Whether ``memory``, the flash from a model's address on, begins with this model."""
        return hashlib.sha256(memory[: self.size]).hexdigest() == self.sha256

    def infer(self, frame: int) -> FrameT:
        """The frame of this number, from 0, with what the model finds in it."""
        return self.frames[frame % len(self.frames)]
