"""The result of the step `demo`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from stages.results.dataset import Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoResult:
    """The data set that was drawn: names of its classes, and counts by split, train and val."""

    task: Task
    names: tuple[str, ...]
    images: Mapping[str, int]
    objects: Mapping[str, int]
    versions: Mapping[str, str]
