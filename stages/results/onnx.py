"""The result of the step `onnx`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from stages.results.networks import Network


@dataclasses.dataclass(frozen=True, kw_only=True)
class Output:
    """One output of the exported network, such as box8 [1,576,64]."""

    name: str
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnnxResult(Network):
    """The exported network; ``macs`` are the multiply-accumulates of one inference."""

    outputs: tuple[Output, ...]
    opset: int
    macs: int
    versions: Mapping[str, str]
