"""A recorded classifier for the emulated board, and what the firmware reports of it.

As in SSCMA-Micro 1.0.x: core/algorithm/el_algorithm_imcls.cpp.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import json
from pathlib import Path
from typing import Any

from kiln.plan.schema import read_record
from stages.results.emulator_frames import ClassFrames


@dataclasses.dataclass(frozen=True)
class ClassifiedFrame:
    """One frame: its JPEG, and the classes in it, each with its percentage, in their order."""

    jpeg: bytes
    percents: tuple[tuple[float, int], ...]

    @functools.cached_property
    def image(self) -> str:
        """The JPEG as base64, as it is sent."""
        return base64.b64encode(self.jpeg).decode("ascii")

    def report(self, score: int) -> dict[str, Any]:
        """The results of an event, for a threshold in percent.

        The firmware compares before it truncates to whole percent; equals come last class first.
        """
        found = [
            [int(percent), number] for percent, number in reversed(self.percents) if percent > score
        ]
        return {"classes": sorted(found, key=lambda each: -each[0])}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordedClassifier:
    """Repeats its frames for ever. ``sha256`` and ``size`` are those of the flashed file."""

    sha256: str
    size: int
    resolution: tuple[int, int]
    frames: tuple[ClassifiedFrame, ...]

    def matches(self, memory: memoryview) -> bool:
        """Whether ``memory``, the flash from a model's address on, begins with this model."""
        return hashlib.sha256(memory[: self.size]).hexdigest() == self.sha256

    def infer(self, frame: int) -> ClassifiedFrame:
        """The frame of this number, from 0, with what the model finds in it."""
        return self.frames[frame % len(self.frames)]


def read_recorded_classifier(frames: Path, *, sha256: str, size: int) -> RecordedClassifier:
    """Read frames.json; ``sha256`` and ``size`` are those of the file that is flashed."""
    text = frames.read_text(encoding="utf-8")
    document = read_record(ClassFrames, json.loads(text), frames.name)
    return RecordedClassifier(
        sha256=sha256,
        size=size,
        resolution=(document.size, document.size),
        frames=tuple(
            ClassifiedFrame(
                base64.b64decode(frame.image),
                tuple((float(percent), int(number)) for percent, number in frame.percents),
            )
            for frame in document.frames
        ),
    )
