"""A recorded classifier for the emulated board, and what the firmware reports of it.

As in SSCMA-Micro 1.0.x: core/algorithm/el_algorithm_imcls.cpp.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

from kiln.emulator.recorded import Recorded
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


class RecordedClassifier(Recorded[ClassifiedFrame]):
    """A model that tells the classes of whole frames."""


def read_recorded_classifier(frames: Path, *, sha256: str, size: int) -> RecordedClassifier:
    """Read frames.json; ``sha256`` and ``size`` are those of the file that is flashed."""
    text = frames.read_text(encoding="utf-8")
    document = read_record(ClassFrames, json.loads(text), frames.name)
    return RecordedClassifier(
        sha256=sha256,
        size=size,
        resolution=(document.width, document.height),
        frames=tuple(
            ClassifiedFrame(
                base64.b64decode(frame.image),
                tuple((float(percent), int(number)) for percent, number in frame.percents),
            )
            for frame in document.frames
        ),
    )
