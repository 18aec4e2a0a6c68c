"""The result of the step `frames`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, kw_only=True)
class FramesResult:
    """Counts by split, train and val, of what the camera sees; ``left_out``: labelled objects
    outside its frame."""

    images: Mapping[str, int]
    objects: Mapping[str, int]
    left_out: int
    versions: Mapping[str, str]
