"""The result of the step `outputs`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputsResult:
    """On how many images the file that goes onto the board was run."""

    images: int
    versions: Mapping[str, str]
