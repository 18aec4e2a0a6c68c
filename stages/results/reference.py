"""The result of the step `reference`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

#: Where the images come from: random numbers; in documents of older builds the evaluation set.
Origin = Literal["evaluation", "noise"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReferenceResult:
    """Numbers of images and of the model's outputs in reference.npz; ``source``: of the images."""

    images: int
    source: Origin
    outputs: int
    versions: Mapping[str, str]
