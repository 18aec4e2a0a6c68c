"""The result of the step `import`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from stages.results.networks import Network


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportResult(Network):
    """``model`` is the name of the architecture, such as yolov8n-pose; ``parameters`` a count."""

    model: str
    parameters: int
    versions: Mapping[str, str]
