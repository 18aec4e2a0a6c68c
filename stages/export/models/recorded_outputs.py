"""Reads outputs.npz of the step `outputs`: what the file that goes onto a board has given."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from stages.export.models.preprocess import Floats, dequantised


class RecordedOutputs:
    """``numbers`` of the images in the order in which they were run; ``shapes`` and ``scales`` of
    the outputs in the model's order."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as arrays:
            self.numbers: list[int] = arrays["numbers"].tolist()
            self.scales: list[float] = arrays["scales"].tolist()
            self._zero_points: list[int] = arrays["zero_points"].tolist()
            self._outputs = [arrays[f"output_{index}"] for index in range(len(self.scales))]
        self.shapes = [output.shape[1:] for output in self._outputs]
        self._places = {number: place for place, number in enumerate(self.numbers)}

    def values(self, number: int) -> list[Floats]:
        """All outputs, dequantised, for the image of this number."""
        place = self._places[number]
        return [
            dequantised(output[place], scale, zero_point)
            for output, scale, zero_point in zip(
                self._outputs, self.scales, self._zero_points, strict=True
            )
        ]


@functools.lru_cache(maxsize=1)
def read_outputs(path: Path) -> RecordedOutputs:
    """The outputs in a file, which all threads share."""
    return RecordedOutputs(path)
