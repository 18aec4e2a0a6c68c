"""The result of the step `quantize`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

from stages.results.tensors import Tensor

Granularity = Literal["per-tensor", "per-channel", "mixed"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileSizes:
    """Sizes of the two model files in bytes."""

    float32: int
    int8: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizeResult:
    """The int8 model: its ends, its operators by type, and the layers with a scale a channel."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    operators: Mapping[str, int]
    bytes: FileSizes
    calibration_images: int
    granularity: Granularity
    per_channel_layers: tuple[str, ...]
    versions: Mapping[str, str]
