"""The result of the step `fetch`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, kw_only=True)
class FetchResult:
    """The file that was downloaded: its address without secrets, its digest (hex) and size."""

    url: str
    sha256: str
    bytes: int
    versions: Mapping[str, str]
