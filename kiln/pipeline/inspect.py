"""Any TFLite file: what it is, and whether a board would take it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from kiln.errors import ModelError
from kiln.executors.protocol import Executor
from kiln.paths import Paths
from kiln.pipeline.agreement import differences
from kiln.pipeline.build import hash_file_input, hash_inputs
from kiln.pipeline.collect import warnings_of
from kiln.pipeline.events import Observer
from kiln.pipeline.runner import Runner, StepOutcome
from kiln.plan import steps
from kiln.plan.plan import data_steps
from kiln.plan.request import BuildRequest, Task
from kiln.plan.step import FromHost, FromStep, Step
from kiln.plan.targets import Target
from kiln.report.result import StepWarning, Usage, Verdict
from kiln.store.tree import Tree
from stages.results.check_firmware import (
    CheckFirmwareResult,
    InterpreterTrial,
    Kind,
    ModelDescription,
)
from stages.results.dataset import Dataset
from stages.results.evaluate import EvaluateResult

_MODEL = FromHost(source="model")
#: Which input of the step `evaluate` a file of each kind is.
_EVALUATED_AS: Mapping[Kind, str] = {
    "float32": "float32.tflite",
    "mixed": "float32.tflite",
    "int8": "int8.tflite",
    "vela": "outputs.npz",
}
_UNMEASURED = StepWarning(
    step="evaluate",
    message="its accuracy was not measured: no host can run it as a board would",
    hint="the checks that failed say what would help",
)
#: Of float32, yolov8x takes 270 MiB.
_MAX_BYTES = 512 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inspection:
    """What was found. ``task`` is that of the contract; ``model`` and ``interpreter`` are those of
    the step `check-firmware`; ``accuracy`` is the result of `evaluate`, None without a data set.
    """

    file: str
    sha256: str
    target: str
    firmware: str
    task: Task
    verdict: Verdict
    model: ModelDescription
    flash: Usage
    sram: Usage
    interpreter: InterpreterTrial | None
    accuracy: EvaluateResult | None
    warnings: tuple[StepWarning, ...]


class Inspector:
    """Inspects one file for one target. ``choose_executor`` is called if something must run."""

    def __init__(
        self,
        request: BuildRequest,
        target: Target,
        paths: Paths,
        choose_executor: Callable[[], Executor],
    ) -> None:
        self._request = request
        self._target = target
        self._paths = paths
        self._runner = Runner(paths, request.limits, choose_executor)
        self._brought: dict[str, Tree] = {}

    def inspect(self, file: Path, observer: Observer) -> Inspection:
        """Check the file, and with a data set evaluate; raises KilnError."""
        size = _size(file)
        if size is None:
            raise ModelError(f"{file} is not there", hint="pass a .tflite file")
        if size > _MAX_BYTES:
            raise ModelError(
                f"{file} has {size >> 20} MiB: no board has room for it",
                hint="pass the .tflite file of a model for a microcontroller",
            )
        self._brought = {"model": hash_file_input(file.absolute(), self._runner)}
        checked = self._check(observer)
        found: CheckFirmwareResult = checked.result
        wanted = self._request.data is not None
        runs = found.accepted or _can_be_run(found.model)
        evaluated = self._evaluate(found.model, observer) if wanted and runs else None
        done = [checked, *([evaluated] if evaluated else [])]
        return Inspection(
            file=file.name,
            sha256=self._brought["model"].files[""].sha256,
            target=self._target.name,
            firmware=self._target.firmware.name,
            task=checked.step.params["task"],
            verdict=Verdict.of(found, forced=False),
            model=found.model,
            flash=Usage.of_flash(found.flash),
            sram=Usage.of_arena(found.arena),
            interpreter=found.interpreter,
            accuracy=evaluated.result if evaluated else None,
            warnings=(
                *(warning for each in done for warning in warnings_of(each)),
                *([_UNMEASURED] if wanted and not runs else []),
            ),
        )

    def _check(self, observer: Observer) -> StepOutcome:
        """Hold the file against the firmware, for the task and image size that it is made for."""
        described = self._run([steps.describe(_MODEL)], observer)["describe"]
        model: ModelDescription = described.result.model
        tasks = self._target.tasks
        wanted = (model.task, self._request.task, next(iter(tasks)))
        task = next(task for task in wanted if task is not None and task in tasks)
        self._target = self._target.choose(task, self._request.firmware)
        request = dataclasses.replace(self._request, task=task)
        check = functools.partial(steps.check_firmware, request, self._target, model.imgsz, _MODEL)
        looked = self._run([check()], observer)["check-firmware"]
        # Without an NPU the host can compute what the board would, if the board would run it.
        if self._target.vela or model.kind != "int8" or not looked.result.accepted:
            return looked
        noise = FromStep(step="reference", path="reference.npz")
        needed = [steps.reference(_MODEL), check(reference=noise)]
        return self._run(needed, observer)["check-firmware"]

    def _evaluate(self, model: ModelDescription, observer: Observer) -> StepOutcome:
        """Measure on the user's data set; raises ModelError for what is no model of a task."""
        if not model.task or not model.imgsz:
            raise ModelError(
                f"its accuracy cannot be measured: {model.what}", hint="leave --data out"
            )
        request = dataclasses.replace(self._request, task=model.task)
        self._brought |= hash_inputs(request, self._paths, self._runner)
        data, needed = data_steps(request)
        needed.append(steps.images(request, self._target, data, model.imgsz))
        if model.kind == "vela":
            needed.append(steps.outputs(_MODEL))
        evaluated = {_EVALUATED_AS[model.kind]: steps.OUTPUTS if model.kind == "vela" else _MODEL}
        needed.append(steps.evaluate(request, self._target, evaluated))
        check = functools.partial(_check_data, model)
        return self._run(needed, observer, check)["evaluate"]

    def _run(
        self,
        needed: Sequence[Step],
        observer: Observer,
        check: Callable[[StepOutcome], None] = lambda _outcome: None,
    ) -> dict[str, StepOutcome]:
        return self._runner.run(needed, self._brought, observer, check=check)


def _check_data(model: ModelDescription, outcome: StepOutcome) -> None:
    """Raise ModelError as soon as a data set turns out to be one for another model."""
    if not isinstance(outcome.result, Dataset):
        return
    differing = differences(outcome.result, classes=model.classes, keypoints=model.keypoints)
    if differing:
        raise ModelError(
            f"its accuracy cannot be measured on this data set: it has {differing}",
            hint="pass --data with the data set that it was trained on, or leave --data out",
        )


def _can_be_run(model: ModelDescription) -> bool:
    """Whether a refused file may be measured all the same, as a float one is."""
    ends = [tensor for tensor in (model.input, *model.outputs) if tensor is not None]
    known = all(tensor.dtype in ("int8", "float32") for tensor in ends)
    return known and model.task is not None and model.imgsz is not None


def _size(file: Path) -> int | None:
    """Bytes of a file, or None if it is none; raises ModelError for a path that cannot be used."""
    try:
        str(file).encode()
        return file.stat().st_size if file.is_file() else None
    except (OSError, UnicodeEncodeError) as error:
        raise ModelError(
            f"the path {str(file)[:80]!r} cannot be used", hint="rename the file, or move it"
        ) from error
