"""The result of the step `train`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

from stages.results.host import OF_HOST


@dataclasses.dataclass(frozen=True, kw_only=True)
class Device:
    """What the training ran on."""

    name: str
    kind: Literal["cpu", "cuda"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainResult:
    """A training.

    ``metrics``: those of the best epoch, 0 to 1, such as box/map50. ``best_epoch`` counts from 1.
    ``why_not``: what the weights depend on besides the job, None if ``reproducible``.
    ``resumed_from``: epochs that an interrupted attempt had done. ``tensors_taken_over``: how many
    of how many tensors came from the start weights, None without such.
    """

    metrics: Mapping[str, float]
    epochs_run: int
    best_epoch: int
    device: Device | None = dataclasses.field(metadata=OF_HOST)
    reproducible: bool
    why_not: str | None
    resumed_from: int | None = dataclasses.field(metadata=OF_HOST)
    tensors_taken_over: tuple[int, ...] | None
    versions: Mapping[str, str]
