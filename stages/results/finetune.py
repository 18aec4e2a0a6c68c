"""The result of the step `finetune`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from stages.results.host import OF_HOST
from stages.results.train import Device


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneResult:
    """A fine-tuning.

    ``before`` and ``after``: by kind (score, box, keypoints) the distance from the float network's
    detections, in nats, the mean of images that the fine-tuning did not learn from.
    ``bits_before`` and ``bits_after``: mean entropy of a weight. ``expected_…``: what the compiled
    file should take, None for a board without an NPU. ``why_not``: what the weights
    depend on besides the job, None if ``reproducible``. ``resumed_from``: updates that an
    interrupted attempt had done.
    """

    updates: int
    images: int
    before: Mapping[str, float]
    after: Mapping[str, float]
    bits_before: float
    bits_after: float
    expected_cycles: int | None
    expected_flash_kib: float | None
    device: Device | None = dataclasses.field(metadata=OF_HOST)
    reproducible: bool
    why_not: str | None
    resumed_from: int | None = dataclasses.field(metadata=OF_HOST)
    versions: Mapping[str, str]
