"""What a build gave: the one record that the terminal, build.json and every page are made from."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kiln.errors import RequestError
from kiln.plan.request import BuildRequest, Task
from kiln.plan.schema import read_record
from kiln.plan.step_results import read_result
from kiln.plan.targets import Target
from stages.results.check_firmware import ArenaUsage, Check, CheckFirmwareResult, FlashUsage
from stages.results.compile import Layer, Traffic
from stages.results.evaluate import ClassAccuracy, Evidence, OutputSnr
from stages.results.layers import LayerSnr

FORMAT = 4
BUILD_FILE = "build.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepWarning:
    """What a step, or the driver about a step, warned of, and what to do about it."""

    step: str
    message: str
    hint: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepResult:
    """One step: its key, its inputs and outputs by digest, and what it gave.

    ``result`` is the step's own record of ``stages.results``. ``seconds`` and ``facts`` are of the
    host that ran it; a release leaves them out.
    """

    name: str
    title: str
    key: str
    seconds: float | None
    params: Mapping[str, Any]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    result: Any
    warnings: tuple[StepWarning, ...]
    facts: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether the firmware takes the model; ``forced`` says that the user keeps it anyway."""

    accepted: bool
    forced: bool
    checks: tuple[Check, ...]

    @staticmethod
    def of(result: CheckFirmwareResult, *, forced: bool) -> Verdict:
        """What the step `check-firmware` found."""
        return Verdict(
            accepted=result.accepted, forced=forced and not result.accepted, checks=result.checks
        )

    @property
    def refusals(self) -> list[str]:
        """A line for each check that failed: what, the figure, the limit, and what would help."""
        return [
            f"{check.title}: {check.figure}, limit {check.limit}"
            + (f" ({check.help})" if check.help else "")
            for check in self.checks
            if not check.ok
        ]

    @property
    def notes(self) -> list[str]:
        """A line for each check that was passed with a note."""
        noted = [check for check in self.checks if check.note]
        return [f"{check.title}: {check.figure}: {check.note}" for check in noted]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Usage:
    """A figure against the board's limit, in KiB. ``source`` says who made the figure."""

    used_kib: float
    limit_kib: float
    source: str

    @property
    def fits(self) -> bool:
        return self.used_kib <= self.limit_kib

    @staticmethod
    def of_flash(flash: FlashUsage) -> Usage:
        """The file against the room in the flash."""
        return Usage(used_kib=flash.used_kib, limit_kib=flash.limit_kib, source="file size")

    @staticmethod
    def of_arena(arena: ArenaUsage) -> Usage:
        """The tensor arena, with what the interpreter itself needs."""
        return Usage(used_kib=arena.used_kib, limit_kib=arena.limit_kib, source=arena.source)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accuracy:
    """mAP, 0 to 1, of every form of the network on the same images; None if nothing is there.

    ``trained`` is the trainer's own figure, on whole images and before raw heads; ``drop`` is
    what quantising cost, in points. ``finds_nothing``: a figure is next to zero. ``equal_to_int8``:
    the compiled file gives the bytes of int8 on all images, and so has no figures of its own; None
    if there is none or it was not executed.
    """

    images: int
    artifacts: Mapping[str, Mapping[str, float | None]]
    drop: Mapping[str, float]
    finds_nothing: bool = False
    equal_to_int8: bool | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlainInt8:
    """Plain int8, by which a fine-tuning is measured: size of the file for the board, and Vela's
    estimates, None for a board without an NPU."""

    flash_kib: float
    estimated_ms: float | None
    cycles: int | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Numbers:
    """The figures of a build; None if this target or request has none.

    ``operators`` are counts by processor and type. ``performance_model`` says which estimates of
    cycles may be compared with each other. ``traffic``: what the NPU's commands say that it does.
    ``plain``: what a fine-tuning is measured by, as is the form of that name of ``accuracy``.
    """

    flash: Usage
    sram: Usage
    estimated_ms: float | None
    cycles: int | None
    estimator: str | None
    performance_model: str | None
    operators: Mapping[str, Mapping[str, int]]
    accuracy: Accuracy
    traffic: Traffic | None = None
    plain: PlainInt8 | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildEvidence(Evidence):
    """What the report shows beyond figures.

    ``outputs`` and ``classes`` are those of the step `evaluate`, ``operators`` Vela's list,
    ``layers`` those of the step `layers`; ``curves`` are columns of a training's figures, a value
    an epoch, None for what is no number; ``finetuning`` those of a fine-tuning, each value a mean
    over some updates up to that of the column update. Empty if the step did not run.
    """

    outputs: tuple[OutputSnr, ...]
    classes: tuple[ClassAccuracy, ...]
    operators: tuple[Layer, ...]
    layers: tuple[LayerSnr, ...]
    curves: Mapping[str, tuple[float | None, ...]]
    finetuning: Mapping[str, tuple[float | None, ...]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Board:
    """What a reader needs to know of the board; ``camera`` is the mode that the model is for."""

    title: str
    description: str
    firmware: str
    source: str
    npu: str | None
    camera: str

    @staticmethod
    def of(target: Target, camera: str | None) -> Board:
        """The board of a target, in a mode of its camera or else the default one."""
        return Board(
            title=target.title,
            description=target.description,
            firmware=target.firmware.name,
            source=target.firmware.source,
            npu=target.vela.accelerator if target.vela else None,
            camera=target.camera.mode(camera).name,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnvironmentFacts:
    """What defined a stage environment: sha256 (hex) of all of it and of its lock, base image."""

    digest: str
    base: str
    lock_sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResultFile:
    """A file of the result folder: sha256 (hex) and size in bytes."""

    sha256: str
    bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildResult:
    """A finished build: the content of build.json, which holds nothing else.

    It says what made these files, not who asked for them this time. ``request`` has no paths of
    this host: a file is named by its last part. ``files`` are by name in the result folder.
    """

    kiln: str
    name: str
    target: str
    board: Board
    imgsz: int
    task: Task
    request: BuildRequest
    environments: Mapping[str, EnvironmentFacts]
    steps: tuple[StepResult, ...]
    files: Mapping[str, ResultFile]
    deployed: str
    verdict: Verdict
    numbers: Numbers
    evidence: BuildEvidence
    warnings: tuple[StepWarning, ...]

    @property
    def deployed_file(self) -> ResultFile:
        """The file that goes onto the board."""
        return self.files[self.deployed]

    def step(self, name: str) -> StepResult | None:
        """One step by its name; None if the build had no such step."""
        return next((step for step in self.steps if step.name == name), None)

    def document(self) -> dict[str, Any]:
        """The content of build.json."""
        return {"format": FORMAT, **dataclasses.asdict(self)}

    @staticmethod
    def read(document: Mapping[str, Any], where: str) -> BuildResult:
        """The record that a build.json holds; raises RequestError if it is none."""
        table = {key: value for key, value in document.items() if key != "format"}
        result = read_record(BuildResult, table, where)
        typed = [
            dataclasses.replace(step, result=read_result(step.name, step.result, where))
            for step in result.steps
        ]
        if result.deployed not in result.files:
            raise RequestError(f"{where} names no file that goes onto the board")
        return dataclasses.replace(result, steps=tuple(typed))


def load_build(path: Path) -> BuildResult:
    """Read build.json, or that of a result folder; raises RequestError if it is none."""
    file = path / BUILD_FILE if path.is_dir() else path
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RequestError(
            f"there is no build at {path}", hint="pass a folder of build/, or its build.json"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(
            f"{file} cannot be read: {error}", hint="the same build command writes it again"
        ) from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise RequestError(
            f"{file} was not written by this version of Kiln",
            hint="build it again; what is in the store is not made again",
        )
    try:
        return BuildResult.read(document, BUILD_FILE)
    except (RequestError, RecursionError) as error:
        raise RequestError(
            f"{file} was changed since Kiln wrote it: {error}",
            hint="the same build command writes it again",
        ) from error
