"""A TFLite file that Kiln need not have made: what it is, and whether a board would take it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kiln.errors import ModelError
from kiln.executors.protocol import Executor
from kiln.paths import Paths
from kiln.pipeline.build import hash_file_input, hash_inputs
from kiln.pipeline.runner import Observer, Runner, StepOutcome
from kiln.plan import steps
from kiln.plan.plan import data_steps
from kiln.plan.request import BuildRequest
from kiln.plan.step import FromHost, Step
from kiln.plan.targets import Target
from kiln.report.result import Usage, Verdict, flash_of, sram_of
from kiln.store.tree import Tree

_MODEL = FromHost(source="model")
#: Of float32, yolov8x takes 270 MiB.
_MAX_BYTES = 512 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inspection:
    """What was found. ``model`` and ``interpreter`` are those of the step `check-firmware`;
    ``accuracy`` is the result of `evaluate`, or None without a data set.
    """

    file: str
    sha256: str
    target: str
    firmware: str
    verdict: Verdict
    model: Mapping[str, Any]
    flash: Usage
    sram: Usage
    interpreter: Mapping[str, Any] | None
    accuracy: Mapping[str, Any] | None
    warnings: tuple[Mapping[str, str], ...]


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
        found = checked.entry.result
        evaluated = self._evaluate(found["model"], observer) if self._request.data else None
        done = [checked, *([evaluated] if evaluated else [])]
        return Inspection(
            file=file.name,
            sha256=self._brought["model"].files[""].sha256,
            target=self._target.name,
            firmware=self._target.firmware.name,
            verdict=Verdict.of(found, forced=False),
            model=found["model"],
            flash=flash_of(found),
            sram=sram_of(found),
            interpreter=found["interpreter"],
            accuracy=evaluated.entry.result if evaluated else None,
            warnings=tuple(warning for made in done for warning in made.entry.warnings),
        )

    def _check(self, observer: Observer) -> StepOutcome:
        """Look at the file first: it says itself what task and image size it is for."""
        tasks = self._target.tasks
        task = self._request.task if self._request.task in tasks else next(iter(tasks))
        check = steps.check_firmware(self._target, task, None, _MODEL, reference=False)
        first = dataclasses.replace(check, title="read the file")
        looked = self._run([first], observer)["check-firmware"]
        model = looked.entry.result["model"]
        if model["task"] in tasks:
            task = model["task"]
        on_host = self._target.vela is None and model["kind"] == "int8"
        final = [
            *([steps.reference(_MODEL, evaluation=False)] if on_host else []),
            steps.check_firmware(self._target, task, model["imgsz"], _MODEL, reference=on_host),
        ]
        if final == [check]:
            return looked
        return self._run(final, observer)["check-firmware"]

    def _evaluate(self, model: Mapping[str, Any], observer: Observer) -> StepOutcome:
        """Measure on the user's data set; raises ModelError for what no host can run."""
        if model["kind"] == "vela":
            raise ModelError(
                "a file that Vela has compiled runs on the NPU alone: its accuracy cannot be "
                "measured here",
                hint="leave --data out, or pass the int8 file that it was compiled from",
            )
        if not model["task"] or not model["imgsz"]:
            raise ModelError(
                f"its accuracy cannot be measured: {model['what']}", hint="leave --data out"
            )
        request = dataclasses.replace(self._request, task=model["task"])
        self._brought |= hash_inputs(request, self._paths, self._runner)
        data, needed = data_steps(request)
        name = "int8.tflite" if model["kind"] == "int8" else "float32.tflite"
        needed += [
            steps.images(request, self._target, data, model["imgsz"]),
            steps.evaluate({name: _MODEL}),
        ]
        return self._run(needed, observer)["evaluate"]

    def _run(self, needed: Sequence[Step], observer: Observer) -> dict[str, StepOutcome]:
        return self._runner.run(needed, self._brought, observer, lambda _made: None)


def _size(file: Path) -> int | None:
    """Bytes of a file, or None if it is none; raises ModelError for a name nobody can write."""
    try:
        str(file).encode()
        return file.stat().st_size if file.is_file() else None
    except (OSError, UnicodeEncodeError) as error:
        raise ModelError(
            f"the path {str(file)[:80]!r} cannot be used", hint="rename the file, or move it"
        ) from error
