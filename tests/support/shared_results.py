"""Small data sets and models that many tests take, made once and kept in a store of Kiln's own."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kiln.executors.environments import EnvironmentName
from kiln.executors.protocol import Executor
from kiln.paths import Paths
from kiln.pipeline.runner import Runner
from kiln.plan import steps
from kiln.plan.request import (
    BuildRequest,
    CalibrationSettings,
    EvaluationSettings,
    LimitSettings,
    QuantizeSettings,
    Task,
    TrainSettings,
)
from kiln.plan.step import FromStep, Step
from kiln.plan.step_results import read_result
from kiln.plan.targets import load_target
from kiln.store.store import Entry
from kiln.store.usage import Ledger
from tests.support.checkout import HOME, ROOT

IMGSZ = 64
#: Eight images to train with and four to evaluate with.
_DEMO = {"train": 8, "val": 4, "seed": 0}
_KEPT_S = 14 * 24 * 3600


class SharedResults:
    """Runs the steps of a tiny build whose results are not in the store ``.kiln/tests/store``.

    They are keyed like those of any build: a step runs again if its code, its environment or
    what it takes has changed. Tests only read them.
    """

    def __init__(self, executor: Executor, prepare: Callable[[EnvironmentName], object]) -> None:
        paths = Paths(root=ROOT, home=HOME / "tests", results=HOME / "tests" / "build")
        self._prepare = prepare
        self._runner = Runner(paths, LimitSettings(steps=1), lambda: executor)
        _remove_unused(paths)

    def out(self, task: Task, step: str, *, model: str | None = None) -> Path:
        """The folder with what a step of the task's build gives, of another MODEL if asked."""
        return _folder(self._entry(task, step, model))

    def result(self, task: Task, step: str, *, model: str | None = None) -> Any:
        """What the step says of it."""
        return read_result(step, self._entry(task, step, model).result, f"the step {step}")

    def _entry(self, task: Task, step: str, model: str | None) -> Entry:
        chain = _chain(task, model)
        needed = _needed(chain, step)
        for each in needed:
            self._prepare(each.environment)
        return self._runner.run(needed, {}, lambda _event: None)[step].entry


def _chain(task: Task, model: str | None) -> list[Step]:
    """From the demo data set to the int8 model; in the order in which steps can run."""
    request = BuildRequest(
        task=task,
        model=model,
        train=TrainSettings(epochs=1, batch=4, gpu="none", reproducible=True),
        calibration=CalibrationSettings(images=4),
        evaluation=EvaluationSettings(images=4),
        quantize=QuantizeSettings(granularity="per-tensor"),
    )
    target = load_target(ROOT / "targets", "grove-v2")
    data = FromStep(step="demo", path="data")
    weights = FromStep(step="train", path="weights.safetensors")
    train = steps.train(request, None, IMGSZ)
    return [
        dataclasses.replace(steps.demo(task), params={"task": task, **_DEMO}),
        steps.check(task, data),
        steps.frames(request, target, data, IMGSZ),
        dataclasses.replace(train, params={**train.params, "overrides": {}}),
        steps.images(request, target, data, IMGSZ),
        steps.onnx(weights, IMGSZ),
        steps.quantize(request, target),
    ]


def _needed(chain: Sequence[Step], last: str) -> list[Step]:
    """The step of this name and all that it takes from, in order."""
    by_name = {step.name: step for step in chain}
    wanted = [last]
    for name in wanted:
        sources = by_name[name].inputs.values()
        wanted += [source.step for source in sources if isinstance(source, FromStep)]
    return [step for step in chain if step.name in wanted]


def _folder(entry: Entry) -> Path:
    """Where an entry's files lie."""
    name, file = next(iter(entry.files.items()))
    return file.path.parents[len(Path(name).parts) - 1]


def _remove_unused(paths: Paths) -> None:
    """Remove what no run of the tests has taken for two weeks."""
    entries = paths.store / "entries"
    for entry in entries.iterdir() if entries.exists() else ():
        if time.time() - Ledger(paths.store).used_at(entry.name) > _KEPT_S:
            shutil.rmtree(entry)
