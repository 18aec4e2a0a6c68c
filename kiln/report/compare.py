"""Two builds side by side: figures, and what differs in how they were made. Pure."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterator
from typing import Any

from kiln.report.result import Accuracy, BuildResult
from stages.results.evaluate import METRICS

#: Their inputs are the user's own data set and weights, or what was drawn or fetched instead.
_TAKES_WHAT_WAS_BROUGHT = ("check", "import")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One figure of both builds, as shown, and their difference or why there is none."""

    name: str
    left: str
    right: str
    change: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """``figures`` of both, and the lines of their recipes that ``differ``."""

    left: str
    right: str
    figures: tuple[Row, ...]
    differences: tuple[Row, ...]


def compare(left: BuildResult, right: BuildResult) -> Comparison:
    """Put two builds side by side."""
    return Comparison(
        left=f"{left.target}/{left.name}",
        right=f"{right.target}/{right.name}",
        figures=tuple(_figures(left, right)),
        differences=tuple(_differences(left, right)),
    )


def _figures(left: BuildResult, right: BuildResult) -> Iterator[Row]:
    verdicts = [_verdict(build) for build in (left, right)]
    yield Row(name="firmware", left=verdicts[0], right=verdicts[1])
    a, b = left.numbers, right.numbers
    yield _number("flash", a.flash.used_kib, b.flash.used_kib, ",.1f", " KiB")
    yield _number("SRAM", a.sram.used_kib, b.sram.used_kib, ",.1f", " KiB")
    models = [numbers.performance_model for numbers in (a, b)]
    alike = models[0] == models[1]
    why = "" if alike or None in models else f"not comparable: {models[0]} against {models[1]}"
    yield _number("estimated", a.estimated_ms, b.estimated_ms, ".1f", " ms", why)
    yield _number("cycles", a.cycles, b.cycles, ",d", "", why)
    for processor in ("npu", "cpu"):
        one, two = (sum(each.operators.get(processor, {}).values()) for each in (a, b))
        yield _number(f"operators on the {processor.upper()}", one, two, "d", "")
    same = _data_digest(left) == _data_digest(right)
    why = "" if same else "not comparable: measured on another data set"
    yield from _accuracy(a.accuracy, b.accuracy, why)


def _verdict(build: BuildResult) -> str:
    return f"{'' if build.verdict.accepted else 'NOT '}accepted by {build.board.firmware}"


def _data_digest(build: BuildResult) -> str | None:
    """The digest of the data set that a build was trained and judged with."""
    check = build.step("check")
    return check.inputs.get("data") if check else None


def _accuracy(left: Accuracy, right: Accuracy, why: str) -> Iterator[Row]:
    """mAP in points of a hundred; of the form that is deployed, and what quantising cost it."""
    for key, title in METRICS.items():
        pair = [each.artifacts.get("int8", {}).get(key) for each in (left, right)]
        if pair != [None, None]:
            one, two = (None if value is None else 100 * value for value in pair)
            yield _number(f"{title}, int8", one, two, ".1f", "", why)
    for key, title in METRICS.items():
        one, two = (each.drop.get(key) for each in (left, right))
        if (one, two) != (None, None):
            yield _number(f"{title}, lost to int8", one, two, ".1f", "", why)
    yield Row(
        name="compiled file, executed",
        left=_against_int8(left.equal_to_int8),
        right=_against_int8(right.equal_to_int8),
    )
    yield _number("images evaluated", left.images, right.images, "d", "")


def _against_int8(equal: bool | None) -> str:
    if equal is None:
        return "none"
    return "the bytes of int8" if equal else "other bytes than int8"


def _number(
    name: str, left: float | None, right: float | None, form: str, unit: str, why: str = ""
) -> Row:
    """``why`` says that the two may not be subtracted."""
    shown = ["none" if value is None else f"{value:{form}}{unit}" for value in (left, right)]
    change = why if None not in (left, right) else ""
    if left is not None and right is not None and not why:
        share = f" ({(right - left) / left:+.1%})" if left and unit == " KiB" else ""
        change = "" if shown[0] == shown[1] else f"{right - left:+{form}}{unit}{share}"
    return Row(name=name, left=shown[0], right=shown[1], change=change)


def _differences(left: BuildResult, right: BuildResult) -> Iterator[Row]:
    """Settings, packages and brought inputs that are not the same, by the step they belong to."""
    one, two = ([step.name for step in each.steps] for each in (left, right))
    shared = set(one) & set(two)
    a, b = _recipe(left, shared), _recipe(right, shared)
    for name in dict.fromkeys([*a, *b]):
        if a.get(name) != b.get(name):
            yield Row(name=name, left=_shown(a.get(name)), right=_shown(b.get(name)))
    for name in dict.fromkeys([*one, *two]):
        if name not in shared:
            words = ["run" if name in each else "absent" for each in (one, two)]
            yield Row(name=f"step {name}", left=words[0], right=words[1])


def _recipe(build: BuildResult, steps: Collection[str]) -> dict[str, Any]:
    """What was decided for some of the steps. What `check-firmware` asks for is the target's."""
    recipe: dict[str, Any] = {"kiln": build.kiln, "target": build.target}
    for step in build.steps:
        name = step.name
        if name not in steps or name == "check-firmware":
            continue
        versions = step.result.versions
        recipe |= {f"{name}: {key}": value for key, value in step.params.items()}
        if name == "quantize" and build.request.finetunes:
            # The step makes what the fine-tuning starts from; the build gives another thing.
            recipe[f"{name}: granularity"] = build.request.quantize.granularity
        recipe |= {f"{name}: version of {key}": value for key, value in versions.items()}
        if name in _TAKES_WHAT_WAS_BROUGHT:
            recipe |= {f"{name}: {key}": digest[:12] for key, digest in step.inputs.items()}
    for environment, facts in build.environments.items():
        recipe[f"{environment} environment"] = facts.digest[:12]
    return recipe


def _shown(value: object) -> str:
    if value is None:
        return "absent"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
