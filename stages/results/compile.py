"""The result of the step `compile`, and the operators that layers.json lists."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

Place = Literal["npu", "cpu"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """One operator: its type, the name of its output, and where it runs; layers.json is a list.

    ``cycles`` of the NPU and ``sram_kib`` in use while it runs are Vela's estimates; None on the
    CPU, for which Vela gives none.
    """

    operator: str
    name: str
    place: Place
    cycles: int | None
    sram_kib: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Operators:
    """Numbers of operators by type, and by where they run."""

    npu: Mapping[str, int]
    cpu: Mapping[str, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """Vela's estimate of one inference: memory in KiB, NPU cycles and milliseconds."""

    sram_kib: float
    flash_kib: float
    cycles: int
    inference_ms: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Execution:
    """On how many images the compiled file was executed, as Vela's encodings define it, and whether
    it gave the bytes of TensorFlow Lite's reference kernels on all of them."""

    images: int
    equal: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompileResult(Estimate):
    """The compiled model; ``cpu_operators`` names what Vela left to the CPU.

    Only estimates of the same ``performance_model`` may be compared. ``execution`` is None for an
    accelerator whose files Kiln cannot execute.
    """

    operators: Operators
    cpu_operators: tuple[str, ...]
    estimator: str
    performance_model: str
    accelerator: str
    versions: Mapping[str, str]
    execution: Execution | None = None
