"""The result of the step `check-firmware`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

from stages.results.compile import Counted
from stages.results.dataset import Task
from stages.results.host import OF_HOST
from stages.results.tensors import Tensor

Kind = Literal["vela", "int8", "float32", "mixed"]
Form = Literal["raw-heads", "decoded", "classifier", "unknown"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """One check: a stable ``name``, what was found, what is allowed, what would help if it is not
    ``ok``, and what to know although it is."""

    name: str
    title: str
    figure: str
    limit: str
    help: str
    ok: bool
    note: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Output(Tensor):
    """An output and its role, such as box8; None if it has none."""

    role: str | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Operators:
    """How many operators run on the NPU (None in a file that is not compiled for one), and how
    many of each type on the CPU."""

    npu: int | None
    cpu: Mapping[str, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """A TFLite file. ``what`` describes it in a sentence; ``imgsz`` is the side of the square image
    that it takes; None stands for what the file does not determine. ``counted``: what its commands
    say that the NPU does, once all of them are run."""

    kind: Kind
    what: str
    task: Task | None
    form: Form
    imgsz: int | None
    classes: int | None
    keypoints: int | None
    input: Tensor | None
    outputs: tuple[Output, ...]
    operators: Operators
    accelerator: str | None
    bytes: int
    counted: Counted | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArenaUsage:
    """The tensor arena: ``planned`` for tensors, ``interpreter`` for everything else."""

    used_kib: float
    planned_kib: float
    interpreter_kib: float
    limit_kib: float
    source: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlashUsage:
    """The file and the room for it."""

    used_kib: float
    limit_kib: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class InterpreterTrial:
    """The model in TensorFlow Lite Micro on this host.

    ``ran`` is False if it was refused; ``equal`` if all outputs had exactly the bytes of the
    reference kernels, None without images to run.
    """

    ran: bool
    images: int
    equal: bool | None
    arena_bytes: int
    seconds: float | None = dataclasses.field(metadata=OF_HOST)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckFirmwareResult:
    """``accepted`` if all checks are; ``interpreter`` is None if the model was not tried."""

    accepted: bool
    checks: tuple[Check, ...]
    model: ModelDescription
    arena: ArenaUsage
    flash: FlashUsage
    interpreter: InterpreterTrial | None
    versions: Mapping[str, str]
