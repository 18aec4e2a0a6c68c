"""What the step `tflm_outputs` gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, kw_only=True)
class TflmOutputsResult:
    """How many images the model ran on."""

    images: int
    versions: Mapping[str, str]
