"""The result of the step `check`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from stages.results.dataset import Dataset


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckResult(Dataset):
    """The data set, as in dataset.json; ``versions`` are those of packages by name."""

    versions: Mapping[str, str]
