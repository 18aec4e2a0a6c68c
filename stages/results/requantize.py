"""The result of the step `requantize`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, kw_only=True)
class RequantizeResult:
    """``layers``: convolutions whose weights were learned. ``bytes``: of the int8 file.
    ``different``: the share of the outputs' values, 0 to 1, that are not what the fine-tuning came
    to."""

    layers: int
    bytes: int
    different: float
    versions: Mapping[str, str]
