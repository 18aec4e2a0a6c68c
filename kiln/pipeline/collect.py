"""What the steps of a build gave, collected into the records that build.json is made of."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kiln.pipeline.runner import StepOutcome
from kiln.plan.request import BuildRequest, FinetuneSettings
from kiln.plan.schema import read_record
from kiln.plan.steps import COMPILED_PLAIN, PLAIN
from kiln.report.result import (
    Accuracy,
    BuildEvidence,
    Numbers,
    PlainInt8,
    StepResult,
    StepWarning,
    Usage,
)
from stages.results.check import CheckResult
from stages.results.check_firmware import CheckFirmwareResult
from stages.results.compile import CompileResult, Layer
from stages.results.evaluate import METRICS, EvaluateResult, Evidence
from stages.results.layers import Layers
from stages.results.quantize import QuantizeResult
from stages.results.train import TrainResult

#: Points of mAP50-95 by which training and evaluation may differ on the same images: they suppress
#: and rank detections differently.
LARGEST_GAP = 1.0
#: The compiled file may take so many times what was asked for: a fine-tuning can only expect it.
ACCEPTED_EXCESS = 1.005
_COMPARED = ("map50_95", "class/top1")
#: A point of a fine-tuning's curves is a mean over ten of its 600 updates.
MOST_POINTS = 60

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
        traffic=compiled.traffic if compiled else None,
        plain=_plain(outcomes),
    )


def _plain(outcomes: Outcomes) -> PlainInt8 | None:
    """What a fine-tuned file is measured by, in the form that a board would have taken."""
    if "finetune" not in outcomes:
        return None
    compiled: CompileResult | None = _result(outcomes, COMPILED_PLAIN.step)
    file = COMPILED_PLAIN if compiled else PLAIN
    return PlainInt8(
        flash_kib=outcomes[file.step].entry.files[file.path].size / 1024,
        estimated_ms=compiled.inference_ms if compiled else None,
        cycles=compiled.cycles if compiled else None,
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
        equal_to_int8=evaluated.equal_to_int8,
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
        finetuning=_smoothed(_read_curves(files["finetuning"])) if "finetuning" in files else {},
    )


def unlike_training(outcomes: Outcomes) -> list[StepWarning]:
    """A warning if the float network finds more or less of the same images than the trainer's own
    validation did: one of the two does not see what the board sees.

    Figures of other images may differ by chance, so it takes all of val.
    """
    trained: TrainResult | None = _result(outcomes, "train")
    data: CheckResult = outcomes["check"].result
    evaluated: EvaluateResult = outcomes["evaluate"].result
    if trained is None or evaluated.images != data.images["val"]:
        return []
    found = evaluated.artifacts["float32"]
    gaps = {
        name: 100 * (figure - trained.metrics[name])
        for name, figure in found.items()
        if figure is not None and name in trained.metrics and name.endswith(_COMPARED)
    }
    worst = max(gaps, key=lambda name: abs(gaps[name]), default="")
    # A classifier may take two images differently that it is not sure of.
    classifies = worst == "class/top1"
    allowed = max(LARGEST_GAP, 200 / evaluated.images) if classifies else LARGEST_GAP
    if not worst or abs(gaps[worst]) <= allowed + 0.01:
        return []
    crowds = "" if classifies else "; crowds suppress each other more there (IoU 0.45)"
    return [
        StepWarning(
            step="evaluate",
            message=f"on the same images {METRICS[worst]} of the float network is "
            f"{100 * (found[worst] or 0):.1f} as the board sees them, and was "
            f"{100 * trained.metrics[worst]:.1f} in training",
            hint=f"the former is the board's{crowds}",
        )
    ]


def beyond_budget(outcomes: Outcomes, asked: FinetuneSettings) -> list[StepWarning]:
    """A warning for each limit of a fine-tuning that the compiled file does not keep."""
    compiled: CompileResult | None = _result(outcomes, "compile")
    plain: CompileResult | None = _result(outcomes, COMPILED_PLAIN.step)
    if compiled is None or plain is None:
        return []
    part = compiled.cycles / plain.cycles
    limits = (
        ("cycles", asked.cycles, part, f"{part:.3f} of the plain file's cycles"),
        ("flash_kib", asked.flash_kib, compiled.flash_kib, f"{compiled.flash_kib:,.0f} KiB"),
    )
    return [
        StepWarning(
            step="finetune",
            message=f"the file takes {found}, and [finetune] {name} is {limit:g}",
            hint="more updates may come closer: updates in [finetune]",
        )
        for name, limit, figure, found in limits
        if limit is not None and figure > limit * ACCEPTED_EXCESS
    ]


def portable_request(request: BuildRequest) -> BuildRequest:
    """The request without this host's paths: a file is named by its last part."""
    return dataclasses.replace(
        request,
        data=_without_folder(request.data),
        weights=_without_folder(request.weights),
        finetune=dataclasses.replace(
            request.finetune, folder=_without_folder(request.finetune.folder)
        ),
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


def _smoothed(curves: Mapping[str, Sequence[float | None]]) -> dict[str, tuple[float | None, ...]]:
    """Means over equal stretches: each update sees images of its own, so its figures jump."""
    updates = len(curves["update"])
    stretch = math.ceil(updates / MOST_POINTS)
    starts = range(0, updates, stretch)
    smoothed = {
        name: tuple(_mean(values[start : start + stretch]) for start in starts)
        for name, values in curves.items()
    }
    ends = tuple(float(min(start + stretch, updates)) for start in starts)
    return {**smoothed, "update": ends}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 6) if known else None


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None
