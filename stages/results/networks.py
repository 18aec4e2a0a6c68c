"""A network with its weights, as steps describe it."""

from __future__ import annotations

import dataclasses

from stages.results.dataset import Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """``nc``: number of classes; ``kpt_shape``: (keypoints, values each), None without any."""

    task: Task
    nc: int
    names: tuple[str, ...]
    kpt_shape: tuple[int, ...] | None
