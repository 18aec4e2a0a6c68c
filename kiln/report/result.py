"""What a build gave: the one record that the console, build.json and every page are made from."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kiln.errors import RequestError
from kiln.plan.targets import Target

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

    ``checks`` are those of the step `check-firmware`: name, title, ok, figure, limit, help.
    """

    accepted: bool
    forced: bool
    checks: tuple[Mapping[str, Any], ...]

    @staticmethod
    def of(result: Mapping[str, Any], *, forced: bool) -> Verdict:
        """What the step `check-firmware` found."""
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
    verified = steps["check-firmware"].result
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


def load_build(path: Path) -> dict[str, Any]:
    """Read build.json, or that of a result folder; raises RequestError if it is none."""
    file = path / "build.json" if path.is_dir() else path
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RequestError(
            f"there is no build at {path}", hint="pass a folder of build/, or its build.json"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(
            f"{file} cannot be read: {error}", hint="the same build command writes it anew"
        ) from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise RequestError(
            f"{file} was not written by this version of Kiln",
            hint="build it again; what is in the store is not made anew",
        )
    return document


@contextlib.contextmanager
def reading(what: str) -> Iterator[None]:
    """Raise RequestError if ``what``, made of a build.json, fails for what stands in it."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise RequestError(
            f"{what} cannot be made: a build.json was changed since Kiln wrote it "
            f"({type(error).__name__}: {error})",
            hint="the build command writes it anew",
        ) from error
