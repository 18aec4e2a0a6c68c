"""The result of the step `compile`, and the operators that layers.json lists."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

Place = Literal["npu", "cpu"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counted:
    """What the NPU's commands say that it does: counted, not timed.

    ``floor_cycles``: what multiply-accumulates and results take at the NPU's full rate, with all
    bytes there. ``flash_bytes`` are read; ``sram_bytes`` are read or written.
    """

    macs: int
    floor_cycles: int
    blocks: int
    flash_bytes: int
    sram_bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Traffic(Counted):
    """All that an inference makes the NPU do; the full rate of the NPU; clock and speed of the
    flash as Vela assumes them."""

    macs_per_cycle: int
    results_per_cycle: int
    clock_hz: float
    flash_bytes_per_cycle: float

    def flash_cycles(self, counted: Counted) -> float:
        """How long the flash takes to give these bytes."""
        return counted.flash_bytes / self.flash_bytes_per_cycle


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """One operator: its type, the name of its output, and where it runs; layers.json is a list.

    ``cycles`` of the NPU and ``sram_kib`` in use while it runs are Vela's estimates; None on the
    CPU, for which Vela gives none. ``counted`` is None there, too, and if it could not be told.
    """

    operator: str
    name: str
    place: Place
    cycles: int | None
    sram_kib: float | None
    counted: Counted | None = None


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
    accelerator whose files Kiln cannot execute, ``traffic`` if the commands could not be read.
    """

    operators: Operators
    cpu_operators: tuple[str, ...]
    estimator: str
    performance_model: str
    accelerator: str
    versions: Mapping[str, str]
    traffic: Traffic | None = None
    execution: Execution | None = None
