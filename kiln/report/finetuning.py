"""What the page shows of a fine-tuning: where it came from, its way, and what other ways give."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from kiln.report import words
from kiln.report.beside import Way
from kiln.report.page import METRIC_TITLES, Panel, form_titles
from kiln.report.result import BuildResult, Numbers
from stages.results.finetune import FinetuneResult

#: Forms that are held against each other, as ``Accuracy.artifacts`` has them.
_FORMS = ("float32", "plain", "int8")
_KINDS: Mapping[str, str] = {"score": "scores", "box": "boxes", "keypoints": "keypoints"}
_WHOLE = "/map50_95"
_NONE = "\N{EN DASH}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A figure of each form, and what the fine-tuning changed of the plain int8 file's."""

    title: str
    cells: Sequence[str]
    change: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distance:
    """How far what the int8 network finds is from the float network's, an image, in nats."""

    title: str
    before: float
    after: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """A way to int8 in a chart; ``kind`` is own, tuned or other."""

    number: int
    name: str
    kind: str
    cycles: int
    accuracy: float

    @property
    def tuned(self) -> bool:
        return self.kind != "other"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trade:
    """Accuracy against cycles: a measure, the float network's, and a point for each way."""

    title: str
    float32: float
    points: Sequence[Point]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finetuning:
    """All that the section shows. A point of ``panels`` is a mean over ``stretch`` updates;
    ``ways`` are empty if no other build is there to compare."""

    result: FinetuneResult
    asked: str
    columns: Sequence[str]
    rows: Sequence[Row]
    distances: Sequence[Distance]
    panels: Sequence[Panel]
    stretch: int
    measures: Sequence[tuple[str, str]]
    ways: Sequence[Way]
    trades: Sequence[Trade]


def finetuning(build: BuildResult, others: Sequence[Way]) -> Finetuning | None:
    """What is shown of a build's fine-tuning, beside other builds; None if it had none."""
    step = next((each for each in build.steps if isinstance(each.result, FinetuneResult)), None)
    if step is None or build.numbers.plain is None:
        return None
    titles = form_titles(build.numbers.accuracy)
    ways = [Way.plain(build), *sorted((Way.of(build, own=True), *others), key=_by_cycles)]
    shown = ways if others else []
    measures = [
        (key, title)
        for key, title in METRIC_TITLES.items()
        if key.endswith(_WHOLE) and build.numbers.accuracy.artifacts["plain"].get(key) is not None
    ]
    result: FinetuneResult = step.result
    return Finetuning(
        result=result,
        asked=_asked(step.params),
        columns=[titles[form] for form in _FORMS],
        rows=[*_accuracy_rows(build.numbers, measures), *_cost_rows(build.numbers)],
        distances=[
            Distance(title=_KINDS.get(kind, kind), before=before, after=result.after[kind])
            for kind, before in result.before.items()
        ],
        panels=_panels(build.evidence.finetuning),
        stretch=int(build.evidence.finetuning["update"][0] or 0),
        measures=measures,
        ways=shown,
        trades=_trades(build.numbers, measures, shown),
    )


def _by_cycles(way: Way) -> tuple[int, str]:
    return -(way.cycles or 0), way.name


def _asked(params: Mapping[str, float | None]) -> str:
    """What was to be come to, in words; "" if accuracy alone."""
    cycles, flash = params["cycles"], params["flash_kib"]
    wanted = [] if cycles is None else [f"{100 * cycles:g} % of the cycles of plain int8"]
    wanted += [] if flash is None else [f"{words.kib(flash)} KiB of flash"]
    return " and ".join(wanted)


def _accuracy_rows(numbers: Numbers, measures: Sequence[tuple[str, str]]) -> list[Row]:
    measured = numbers.accuracy.artifacts
    rows = []
    for key, title in measures:
        figures = [measured.get(form, {}).get(key) for form in _FORMS]
        lost = 100 * ((figures[1] or 0) - (figures[2] or 0))
        cells = [words.percent(figure) for figure in figures]
        rows.append(Row(title=title, cells=cells, change=words.points(lost)))
    return rows


def _cost_rows(numbers: Numbers) -> list[Row]:
    """Cycles and time if there is an estimate, and the file's size."""
    plain = numbers.plain
    assert plain is not None
    rows = []
    if plain.cycles and numbers.cycles:
        cells = [_NONE, words.millions(plain.cycles), words.millions(numbers.cycles)]
        change = words.change(plain.cycles, numbers.cycles)
        rows.append(Row(title="Cycles, M", cells=cells, change=change))
    if plain.estimated_ms and numbers.estimated_ms:
        times = (plain.estimated_ms, numbers.estimated_ms)
        cells = [_NONE, *map(words.milliseconds, times)]
        rows.append(Row(title="Time, ms", cells=cells, change=words.change(*times)))
    sizes = (plain.flash_kib, numbers.flash.used_kib)
    cells = [_NONE, *map(words.kib, sizes)]
    return [*rows, Row(title="Flash, KiB", cells=cells, change=words.change(*sizes))]


def _panels(curves: Mapping[str, Sequence[float | None]]) -> list[Panel]:
    """How far the network was from the float network, and how coarse its weights were."""
    updates = [update for update in curves.get("update", []) if update is not None]
    if len(updates) < 2:
        return []
    titles = {"bits": "Entropy of a weight, bits"} | {
        kind: f"Distance of {title}, nats an image" for kind, title in _KINDS.items()
    }
    return [
        Panel(title=title, x=updates, x_title="update", first=0, lines={"int8": curves[name]})
        for name, title in reversed(titles.items())
        if name in curves
    ]


def _trades(
    numbers: Numbers, measures: Sequence[tuple[str, str]], ways: Sequence[Way]
) -> list[Trade]:
    """A chart for each measure, of the ways with an estimate of cycles."""
    measured = numbers.accuracy.artifacts
    trades = [
        Trade(
            title=title,
            float32=measured["float32"][key] or 0,
            points=[
                Point(number=number, name=way.name, kind=way.kind, cycles=way.cycles, accuracy=each)
                for number, way in enumerate(ways, 1)
                if way.cycles is not None and (each := way.accuracy.get(key)) is not None
            ],
        )
        for key, title in measures
    ]
    return [trade for trade in trades if trade.points]
