"""What a build gave: the one record that the console, build.json and every page are made from."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kiln.plan import Plan
from kiln.runner import Made
from kiln.targets import Target

FORMAT = 2

#: What is measured, in people's words.
METRICS: Mapping[str, str] = {
    "box/map50": "box mAP50",
    "box/map50_95": "box mAP50-95",
    "pose/map50": "pose mAP50",
    "pose/map50_95": "pose mAP50-95",
}


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
class Verdict:
    """Whether the firmware takes the model; ``forced`` says that the user wants it all the same.

    ``checks`` are those of the step `verify`: name, title, ok, figure, limit, help.
    """

    accepted: bool
    forced: bool
    checks: tuple[Mapping[str, Any], ...]

    @staticmethod
    def of(result: Mapping[str, Any], *, forced: bool) -> Verdict:
        """What the step `verify` found."""
        return Verdict(
            accepted=bool(result["accepted"]),
            forced=forced and not result["accepted"],
            checks=tuple(result["checks"]),
        )

    @property
    def refusals(self) -> list[str]:
        """A line for each check that failed: what, the figure, the limit, and what would help."""
        return [
            f"{check['title']}: {check['figure']}, limit {check['limit']}"
            + (f" ({check['help']})" if check["help"] else "")
            for check in self.checks
            if not check["ok"]
        ]


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
class Accuracy:
    """mAP, 0 to 1, of every form of the network on the same pictures; None if nothing is there.

    ``trained`` is the trainer's own figure, on whole pictures and before raw heads; ``drop`` is
    what quantising cost, in points.
    """

    images: int
    artifacts: Mapping[str, Mapping[str, float | None]]
    drop: Mapping[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Numbers:
    """The figures of a build; None where this target or request has none.

    ``performance_model`` says which estimates of cycles may be compared with each other.
    """

    flash: Usage
    sram: Usage
    estimated_ms: float | None
    cycles: int | None
    estimator: str | None
    performance_model: str | None
    operators: Mapping[str, Mapping[str, int]]
    accuracy: Accuracy


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildResult:
    """A finished build. ``files`` are by name in the result folder, sha256 and bytes."""

    kiln: str
    name: str
    target: str
    board: Mapping[str, Any]
    imgsz: int
    task: str
    request: Mapping[str, Any]
    environments: Mapping[str, Mapping[str, str]]
    steps: tuple[StepResult, ...]
    files: Mapping[str, tuple[str, int]]
    deployed: str
    verdict: Verdict
    numbers: Numbers
    evidence: Mapping[str, Any]
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


def step_result(made: Made) -> StepResult:
    """What build.json says of one step."""
    entry = made.entry
    return StepResult(
        name=made.step.name,
        title=made.step.title,
        key=made.recipe.key,
        reused=made.reused,
        seconds=entry.seconds,
        params=made.step.params,
        inputs=made.recipe.inputs,
        outputs={name: file.sha256 for name, file in entry.files.items()},
        result=entry.result,
        warnings=entry.warnings,
        facts=entry.facts,
    )


def board_of(target: Target) -> dict[str, Any]:
    """What a reader needs to know of the board."""
    return {
        "title": target.title,
        "description": target.description,
        "firmware": target.firmware.name,
        "source": target.firmware.source,
        "npu": target.vela.accelerator if target.vela else None,
    }


def flash_of(verified: Mapping[str, Any]) -> Usage:
    """The file against the room in the flash."""
    return Usage(source="file size", **verified["flash"])


def sram_of(verified: Mapping[str, Any]) -> Usage:
    """The tensor arena, with what the interpreter itself needs."""
    return Usage(**{key: verified["arena"][key] for key in ("used_kib", "limit_kib", "source")})


def numbers_of(steps: Mapping[str, StepResult]) -> Numbers:
    """Collect the figures of a build from what its steps said."""
    compiled = steps["compile"].result if "compile" in steps else {}
    verified = steps["verify"].result
    return Numbers(
        flash=flash_of(verified),
        sram=sram_of(verified),
        estimated_ms=compiled.get("inference_ms"),
        cycles=compiled.get("cycles"),
        estimator=compiled.get("estimator"),
        performance_model=compiled.get("performance_model"),
        operators=compiled.get("operators") or {"cpu": steps["quantize"].result["operators"]},
        accuracy=_accuracy(steps),
    )


def _accuracy(steps: Mapping[str, StepResult]) -> Accuracy:
    judged = steps["evaluate"].result
    trained = steps["train"].result.get("metrics", {}) if "train" in steps else {}
    artifacts = {"trained": trained} if trained else {}
    return Accuracy(
        images=judged["images"],
        artifacts={**artifacts, **judged["artifacts"]},
        drop=judged["drop"],
    )


def evidence_of(steps: Mapping[str, StepResult], files: Mapping[str, Path]) -> dict[str, Any]:
    """What the report shows beyond figures. ``files``: by the names of ``plan.evidence``."""
    return {
        **_read_json(files["accuracy"]),
        "outputs": steps["evaluate"].result["outputs"],
        "classes": steps["evaluate"].result["classes"],
        "operators": _read_json(files["operators"]) if "operators" in files else [],
        "layers": _read_json(files["layers"])["layers"] if "layers" in files else [],
        "curves": _read_curves(files["curves"]) if "curves" in files else {},
    }


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _read_curves(path: Path) -> dict[str, list[float | None]]:
    """Columns of a training's figures, a value an epoch; None for what is no number."""
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    return {name: [_finite(row[name]) for row in rows] for name in (rows[0] if rows else ())}


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


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


def request_document(plan: Plan) -> dict[str, Any]:
    """The request without this host's paths: a file is named by its last part."""
    document = dataclasses.asdict(plan.request)
    for key in ("data", "weights"):
        value = document[key]
        if value and Path(value).is_absolute():
            document[key] = Path(value).name
    return document
