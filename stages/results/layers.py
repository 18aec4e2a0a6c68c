"""The result of the step `layers`, and the layers that layers.json lists."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerSnr:
    """A layer and the signal-to-noise ratio of its output, int8 against float32."""

    name: str
    operator: str
    snr_db: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layers:
    """layers.json: the layers in the order of the network."""

    layers: tuple[LayerSnr, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayersResult:
    """How many layers were compared on how many images; ``worst``: names, lowest ratio first."""

    compared: int
    worst: tuple[str, ...]
    images: int
    versions: Mapping[str, str]
