"""The description of a data set: dataset.json, which the step `check` writes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

Task = Literal["pose", "detect", "classify"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """A data set without faults.

    ``nc`` is the number of classes, ``names`` their names by number; ``kpt_shape`` is (keypoints,
    numbers each) and ``flip_idx`` the keypoint that each becomes in a mirrored image, both None
    for other tasks than pose. ``label_kpt_shape``: the same as kpt_shape, but as the lines of the
    labels have it, also for detect: without visibility it has two numbers each. ``skeleton``: pairs
    of keypoints that data.yaml joins. ``images`` and ``objects`` are counts by split, train and
    val; for classify an image counts as one object.
    """

    task: Task
    nc: int
    names: tuple[str, ...]
    kpt_shape: tuple[int, ...] | None
    flip_idx: tuple[int, ...] | None
    images: Mapping[str, int]
    objects: Mapping[str, int]
    label_kpt_shape: tuple[int, ...] | None = None
    skeleton: tuple[tuple[int, ...], ...] = ()
