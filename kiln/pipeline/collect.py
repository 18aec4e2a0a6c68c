"""What the steps of a build gave, as the records that build.json is made of."""

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
from kiln.report.result import StepResult


def step_result(made: StepOutcome) -> StepResult:
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


def collect_evidence(steps: Mapping[str, StepResult], files: Mapping[str, Path]) -> dict[str, Any]:
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
