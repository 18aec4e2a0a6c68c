"""The result of the step `describe`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from stages.results.check_firmware import ModelDescription


@dataclasses.dataclass(frozen=True, kw_only=True)
class DescribeResult:
    """What a TFLite file is."""

    model: ModelDescription
    versions: Mapping[str, str]
