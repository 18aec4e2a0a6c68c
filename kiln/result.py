"""What a build gave: the one record that the console, build.json and every page are made from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kiln.plan import Plan
from kiln.tree import File

FORMAT = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepResult:
    """One step: its key, its inputs and outputs by digest, and what it said."""

    name: str
    title: str
    key: str
    reused: bool
    seconds: float
    params: Mapping[str, Any]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    result: Mapping[str, Any]
    warnings: tuple[Mapping[str, str], ...]
    facts: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Usage:
    """A figure against the board's limit, in KiB. ``source`` says who made the figure."""

    used_kib: float
    limit_kib: float
    source: str

    @property
    def fits(self) -> bool:
        return self.used_kib <= self.limit_kib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Numbers:
    """The figures of a build; None where this target or request has none."""

    flash: Usage
    sram: Usage | None
    estimated_ms: float | None
    cycles: int | None
    estimator: str | None
    operators: Mapping[str, Mapping[str, int]]
    accuracy: Mapping[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildResult:
    """A finished build. ``files`` are by name in the result folder, sha256 and bytes."""

    kiln: str
    name: str
    target: str
    imgsz: int
    request: Mapping[str, Any]
    environments: Mapping[str, Mapping[str, str]]
    steps: tuple[StepResult, ...]
    files: Mapping[str, tuple[str, int]]
    numbers: Numbers
    warnings: tuple[Mapping[str, str], ...]

    @property
    def did_nothing(self) -> bool:
        return all(step.reused for step in self.steps)

    def document(self) -> dict[str, Any]:
        """The content of build.json: what made these files, not who asked for them this time."""
        document = {"format": FORMAT, **dataclasses.asdict(self)}
        for step in document["steps"]:
            del step["reused"]
        return document


def numbers_of(plan: Plan, steps: Mapping[str, StepResult], files: Mapping[str, File]) -> Numbers:
    """Collect the figures of a build from what its steps said."""
    compiled = steps["compile"].result if "compile" in steps else {}
    quantized = steps["quantize"].result
    trained = steps["train"].result if "train" in steps else {}
    deployed = files[deployed_file(plan)]
    sram = None
    if compiled:
        sram = Usage(
            used_kib=compiled["sram_kib"],
            limit_kib=plan.target.firmware.arena_kib,
            source=compiled["estimator"],
        )
    return Numbers(
        flash=Usage(
            used_kib=deployed.size / 1024,
            limit_kib=plan.target.flash.model_bytes / 1024,
            source="file size",
        ),
        sram=sram,
        estimated_ms=compiled.get("inference_ms"),
        cycles=compiled.get("cycles"),
        estimator=compiled.get("estimator"),
        operators=compiled.get("operators") or {"cpu": quantized["operators"]},
        accuracy=trained.get("metrics", {}),
    )


def unknown_operators(plan: Plan, numbers: Numbers) -> list[dict[str, str]]:
    """A warning for each operator outside the NPU that the firmware has not registered."""
    firmware = plan.target.firmware
    return [
        {
            "step": plan.steps[-1].name,
            "message": f"{firmware.name} does not know {name}: the board will not load this model",
            "hint": f"it knows {', '.join(firmware.operators)}",
        }
        for name in numbers.operators.get("cpu", {})
        if name not in firmware.operators
    ]


def mismatched_data(plan: Plan, steps: Mapping[str, StepResult]) -> list[dict[str, str]]:
    """A warning if own weights are judged on a data set that speaks of other things."""
    if "import" not in steps or plan.request.trains or plan.request.data is None:
        return []
    weights, data = steps["import"].result, steps["check"].result
    # A data set of poses is a good one for detection: its keypoints are left aside.
    keys = {"nc": "classes"} | ({"kpt_shape": "keypoints"} if plan.request.task == "pose" else {})
    differing = [
        f"{words} {weights.get(key)} against {data.get(key)}"
        for key, words in keys.items()
        if weights.get(key) != data.get(key)
    ]
    if not differing:
        return []
    return [
        {
            "step": "import",
            "message": f"the weights and the data set do not match: {', '.join(differing)}",
            "hint": "pass the data set that the weights were trained on",
        }
    ]


def deployed_file(plan: Plan) -> str:
    """The name of the file that goes onto the board: the last one that the plan gives."""
    return list(plan.files)[-1]


def sums_text(files: Mapping[str, tuple[str, int]]) -> str:
    """SHA256SUMS in the form that ``sha256sum -c`` reads."""
    return "".join(f"{sha256}  {name}\n" for name, (sha256, _size) in sorted(files.items()))


def request_document(plan: Plan) -> dict[str, Any]:
    """The request without this host's paths: a file is named by its last part."""
    document = dataclasses.asdict(plan.request)
    for key in ("data", "weights"):
        value = document[key]
        if value and Path(value).is_absolute():
            document[key] = Path(value).name
    return document
