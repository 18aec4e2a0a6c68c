"""What the steps of a build gave, collected into the records that build.json is made of."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kiln.pipeline.runner import StepOutcome
from kiln.plan.plan import Plan
from kiln.plan.request import BuildRequest
from kiln.plan.schema import read_record
from kiln.report.result import (
    Accuracy,
    BuildEvidence,
    Numbers,
    StepResult,
    StepWarning,
    Usage,
)
from stages.results.check import CheckResult
from stages.results.check_firmware import CheckFirmwareResult
from stages.results.compile import CompileResult, Layer
from stages.results.evaluate import EvaluateResult, Evidence
from stages.results.import_weights import ImportResult
from stages.results.layers import Layers
from stages.results.quantize import QuantizeResult
from stages.results.train import TrainResult

Outcomes = Mapping[str, StepOutcome]


def step_result(outcome: StepOutcome) -> StepResult:
    """What build.json says of one step."""
    entry = outcome.entry
    return StepResult(
        name=outcome.step.name,
        title=outcome.step.title,
        key=outcome.recipe.key,
        seconds=entry.seconds,
        params=outcome.step.params,
        inputs=outcome.recipe.inputs,
        outputs={name: file.sha256 for name, file in entry.files.items()},
        result=outcome.result,
        warnings=warnings_of(outcome),
        facts=entry.facts,
    )


def warnings_of(outcome: StepOutcome) -> tuple[StepWarning, ...]:
    """What a step warned of."""
    return tuple(StepWarning(**warning) for warning in outcome.entry.warnings)


def collect_numbers(outcomes: Outcomes) -> Numbers:
    """The figures of a build, from what its steps said."""
    checked: CheckFirmwareResult = outcomes["check-firmware"].result
    compiled: CompileResult | None = _result(outcomes, "compile")
    quantized: QuantizeResult = outcomes["quantize"].result
    on_cpu = {"cpu": quantized.operators}
    return Numbers(
        flash=Usage.of_flash(checked.flash),
        sram=Usage.of_arena(checked.arena),
        estimated_ms=compiled.inference_ms if compiled else None,
        cycles=compiled.cycles if compiled else None,
        estimator=compiled.estimator if compiled else None,
        performance_model=compiled.performance_model if compiled else None,
        operators=dataclasses.asdict(compiled.operators) if compiled else on_cpu,
        accuracy=_accuracy(outcomes),
    )


def _accuracy(outcomes: Outcomes) -> Accuracy:
    evaluated: EvaluateResult = outcomes["evaluate"].result
    trained: TrainResult | None = _result(outcomes, "train")
    before = {"trained": trained.metrics} if trained and trained.metrics else {}
    return Accuracy(
        images=evaluated.images,
        artifacts={**before, **evaluated.artifacts},
        drop=evaluated.drop,
        finds_nothing=evaluated.finds_nothing,
    )


def collect_evidence(outcomes: Outcomes, files: Mapping[str, Path]) -> BuildEvidence:
    """What the report shows beyond figures. ``files``: by the names of ``plan.evidence``."""
    evaluated: EvaluateResult = outcomes["evaluate"].result
    evidence = read_record(Evidence, _read_json(files["accuracy"]), "evidence.json")
    operators = _read_json(files["operators"]) if "operators" in files else []
    layers = (
        read_record(Layers, _read_json(files["layers"]), "layers.json").layers
        if "layers" in files
        else ()
    )
    return BuildEvidence(
        **{field.name: getattr(evidence, field.name) for field in dataclasses.fields(evidence)},
        outputs=evaluated.outputs,
        classes=evaluated.classes,
        operators=tuple(read_record(Layer, each, "layers.json") for each in operators),
        layers=layers,
        curves=_read_curves(files["curves"]) if "curves" in files else {},
    )


def mismatched_data(plan: Plan, outcomes: Outcomes) -> list[StepWarning]:
    """A warning if own weights are judged on a data set of other classes or keypoints."""
    weights: ImportResult | None = _result(outcomes, "import")
    if weights is None or plan.request.trains or plan.request.data is None:
        return []
    data: CheckResult = outcomes["check"].result
    compared: list[tuple[str, object, object]] = [("classes", weights.nc, data.nc)]
    # A data set of poses is a good one for detection: its keypoints are left aside.
    if plan.request.task == "pose":
        compared.append(("keypoints", weights.kpt_shape, data.kpt_shape))
    differing = [f"{words} {one} against {two}" for words, one, two in compared if one != two]
    if not differing:
        return []
    return [
        StepWarning(
            step="import",
            message=f"the weights and the data set do not match: {', '.join(differing)}",
            hint="pass the data set that the weights were trained on",
        )
    ]


def portable_request(request: BuildRequest) -> BuildRequest:
    """The request without this host's paths: a file is named by its last part."""
    return dataclasses.replace(
        request, data=_without_folder(request.data), weights=_without_folder(request.weights)
    )


def _without_folder(value: str | None) -> str | None:
    return Path(value).name if value and Path(value).is_absolute() else value


def _result(outcomes: Outcomes, step: str) -> Any:
    return outcomes[step].result if step in outcomes else None


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _read_curves(path: Path) -> dict[str, tuple[float | None, ...]]:
    """Columns of a training's figures, a value an epoch; None for what is no number."""
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    return {name: tuple(_finite(row[name]) for row in rows) for name in (rows[0] if rows else ())}


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None
