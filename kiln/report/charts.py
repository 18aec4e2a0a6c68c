"""The page's charts, laid out as lines, bars and labels; a template draws them as SVG.

The page's style sheet colours them, light or dark. Coordinates are the drawing's own units; a
column of the page is about as many pixels wide, on a phone and on a desk, so text stays at about
the size of the page's small print.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain

from kiln.report.finetuning import Trade
from kiln.report.page import MODELS, Panel
from kiln.report.traffic import FlashUse
from stages.results.compile import Layer
from stages.results.evaluate import Kind
from stages.results.layers import LayerSnr

WIDTH, HEIGHT = 340, 210
FONT = 11
ROW = 24
#: Width of a letter or digit, and of a capital, in parts of the font's size.
_LETTER, _CAPITAL = 0.56, 0.72
_MARGIN = 6
#: The lowest line of a chart of lines; below it are the labels of its ticks and its title.
_BOTTOM = HEIGHT - 3 * FONT - _MARGIN

#: Letters that leave a bar its room: RESIZE_NEAREST_NEIGHBOR and no more.
LABEL = 23
#: Kinds of operators with a bar of their own; the rest take few cycles.
KINDS = 10

Line = Sequence[tuple[float, float | None]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Label:
    """Text at a point; ``kind`` is x, y, title or value, by which it is aligned and coloured."""

    kind: str
    x: float
    y: float
    text: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bar:
    """A rectangle; ``title`` is said when one points at it. ``second``: of the second colour."""

    x: float
    y: float
    width: float
    height: float
    title: str
    second: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mark:
    """A point of its own; ``title`` is said when one points at it. ``kind``: own, tuned or other,
    by which it is coloured."""

    x: float
    y: float
    title: str
    kind: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chart:
    """A drawing: paths of its lines and of the guides behind them, bars, marks, labels.

    ``keys`` are the names of the lines in their order, each with its last value or ""; or those of
    the two colours of bars.
    """

    title: str
    description: str
    height: float
    width: float = WIDTH
    keys: Sequence[tuple[str, str]] = ()
    guides: Sequence[str] = ()
    lines: Sequence[str] = ()
    bars: Sequence[Bar] = ()
    marks: Sequence[Mark] = ()
    labels: Sequence[Label] = ()


def curves(panel: Panel) -> Chart:
    """Lines over epochs or updates; each one's last value is said with its name."""
    lines = {name: list(zip(panel.x, values, strict=True)) for name, values in panel.lines.items()}
    ends = {
        name: f"{values[-1]:.3g}" for name, values in panel.lines.items() if values[-1] is not None
    }
    chart = _line_chart(
        panel.title,
        lines,
        x=_steps([panel.first, *panel.x]),
        y=_ticks(chain(*panel.lines.values())),
        x_title=panel.x_title,
    )
    return dataclasses.replace(chart, keys=[(name, ends.get(name, "")) for name in lines])


def precision_recall(
    curves: Mapping[Kind, Mapping[str, Sequence[Sequence[float]]]],
) -> list[Chart]:
    """Precision over recall, a chart for boxes and one for poses, a line for each model."""
    ticks = [0, 0.25, 0.5, 0.75, 1]
    charts = []
    kinds: tuple[tuple[Kind, str], ...] = (("pose", "Poses"), ("box", "Boxes"))
    for kind, title in kinds:
        measured = curves.get(kind, {})
        lines = {name: [(x, y) for x, y in measured[name]] for name in MODELS if name in measured}
        if lines:
            name = f"{title}: precision over recall"
            chart = _line_chart(name, lines, x=ticks, y=ticks, x_title="recall")
            charts.append(dataclasses.replace(chart, keys=[(each, "") for each in lines]))
    return charts


def cycles(operators: Sequence[Layer]) -> list[Chart]:
    """Where the estimated cycles go: by kind of operator, and along the network."""
    known = [(each, each.cycles) for each in operators if each.cycles]
    return [_by_kind(known), _along(known)] if known else []


def flash_use(use: FlashUse) -> list[Chart]:
    """What bounds an inference, and where along the network the flash takes longer than the NPU."""
    total = use.total
    bounds = [
        ("Vela's estimate", use.cycles / 1e6),
        ("flash alone", total.flash_cycles(total) / 1e6),
        ("NPU at its full rate", total.floor_cycles / 1e6),
    ]
    title = "An inference, million cycles"
    return [
        _rows(title, "Cycles of an inference: estimate, flash alone, NPU alone", bounds),
        _waiting(use),
    ]


def accuracy_over_cycles(trade: Trade) -> Chart:
    """A numbered mark for each way to int8, a line through the fine-tuned ones, and one at the
    float network's accuracy."""
    points = [(each.cycles / 1e6, 100 * each.accuracy) for each in trade.points]
    x = _ticks_around([cycles for cycles, _ in points])
    level = 100 * trade.float32
    tuned = [point for point, each in zip(points, trade.points, strict=True) if each.tuned]
    lines: dict[str, Line] = {
        "float32": [(x[0], level), (x[-1], level)],
        "fine-tuned": sorted(tuned),
    }
    y = _ticks_around([level, *(accuracy for _, accuracy in points)])
    chart = _line_chart(trade.title, lines, x=x, y=y, x_title="million cycles")
    across, up = _frame(x, y)
    marks = [
        Mark(x=across(cycles), y=up(accuracy), title=each.name, kind=each.kind)
        for (cycles, accuracy), each in zip(points, trade.points, strict=True)
    ]
    numbers: dict[tuple[float, float], list[str]] = {}
    for mark, each in zip(marks, trade.points, strict=True):
        numbers.setdefault((mark.x, mark.y), []).append(str(each.number))
    names = [
        Label(kind="value", x=_r(x + _MARGIN), y=max(_r(y - _MARGIN), FONT), text=", ".join(texts))
        for (x, y), texts in numbers.items()
    ]
    keys = [("float32", f"{level:.1f}"), ("fine-tuned", "")]
    return dataclasses.replace(
        chart,
        description=f"{trade.title} over estimated cycles",
        keys=keys,
        marks=marks,
        labels=[*chart.labels, *names],
    )


def snr(layers: Sequence[LayerSnr]) -> Chart | None:
    """How far the int8 model's layers are from the float model's, in order of the network."""
    line: Line = [(number, each.snr_db) for number, each in enumerate(layers, 1)]
    if not line:
        return None
    return _line_chart(
        "By layer, signal over noise in dB",
        {"int8": line},
        x=_steps([x for x, _ in line]),
        y=_ticks(y for _, y in line),
        x_title="layer",
    )


def _line_chart(
    title: str, lines: Mapping[str, Line], *, x: Sequence[float], y: Sequence[float], x_title: str
) -> Chart:
    left = _left_of(y)
    across, up = _frame(x, y)
    return Chart(
        title=title,
        description=title,
        height=HEIGHT,
        guides=_guides(y, up, left),
        lines=[_path(line, across, up) for line in lines.values()],
        labels=[
            *_y_labels(y, up, left),
            *(
                Label(kind="x", x=across(tick), y=_r(_BOTTOM + 1.5 * FONT), text=f"{tick:g}")
                for tick in x
            ),
            Label(kind="title", x=_r((left + WIDTH) / 2), y=HEIGHT - _MARGIN / 2, text=x_title),
        ],
    )


def _frame(
    x: Sequence[float], y: Sequence[float]
) -> tuple[Callable[[float], float], Callable[[float], float]]:
    """Where a value lies across and up, in a chart of lines with these ticks."""
    return (
        _scale((x[0], x[-1]), (_left_of(y), WIDTH - 2 * _MARGIN)),
        _scale((y[0], y[-1]), (_BOTTOM, _MARGIN + FONT / 2)),
    )


def _left_of(y: Sequence[float]) -> float:
    """Where a chart begins, right of the labels of its ticks."""
    return _MARGIN + max(_width(f"{tick:g}") for tick in y) + _MARGIN


def _by_kind(known: Sequence[tuple[Layer, int]]) -> Chart:
    sums: Counter[tuple[str, str]] = Counter()
    for each, count in known:
        sums[each.operator, each.place] += count
    rows = [
        (f"{_shortened(kind)}{' (CPU)' if place == 'cpu' else ''}", count / 1e6)
        for (kind, place), count in sums.most_common(KINDS)
    ]
    return _rows(
        "By kind of operator, million cycles", "Estimated cycles by kind of operator", rows
    )


def _rows(title: str, description: str, rows: Sequence[tuple[str, float]]) -> Chart:
    """A bar from left to right for each name, with its value at the end."""
    left = max(_width(name, _CAPITAL) for name, _ in rows) + 2 * _MARGIN
    longest = max(value for _, value in rows)
    room = _width(f"{longest:.1f}") + 2 * _MARGIN
    along = _scale((0, longest), (0, WIDTH - left - room))
    bars, labels = [], []
    for number, (name, value) in enumerate(rows):
        top, base = ROW * number + _MARGIN, _r(ROW * (number + 0.5) + _MARGIN + FONT / 3)
        bars.append(Bar(x=_r(left), y=top + 3, width=along(value), height=ROW - 6, title=name))
        labels.append(Label(kind="y", x=_r(left - _MARGIN), y=base, text=name))
        end = left + along(value) + _MARGIN
        labels.append(Label(kind="value", x=_r(end), y=base, text=f"{value:.1f}"))
    return Chart(
        title=title,
        description=description,
        height=ROW * len(rows) + 2 * _MARGIN,
        bars=bars,
        labels=labels,
    )


def _waiting(use: FlashUse) -> Chart:
    """A bar for each operator: the NPU at its full rate, and above it what the flash takes more."""
    ends = [max(each.floor_cycles, each.flash_cycles) / 1e6 for each in use.operators]
    ticks = _ticks(ends)
    left = _MARGIN + max(_width(f"{tick:g}") for tick in ticks) + _MARGIN
    up = _scale((0, ticks[-1]), (HEIGHT - 2 * _MARGIN, _MARGIN + FONT / 2))
    each_width = (WIDTH - _MARGIN - left) / len(use.operators)
    bars = []
    for number, (each, end) in enumerate(zip(use.operators, ends, strict=True)):
        floor = each.floor_cycles / 1e6
        for bottom, top, second in ((0.0, floor, False), (floor, end, True)):
            if up(bottom) > up(top):
                bars.append(
                    Bar(
                        x=_r(left + number * each_width),
                        y=up(top),
                        width=_r(0.8 * each_width),
                        height=_r(up(bottom) - up(top)),
                        title=f"{each.name}: NPU {floor:.3g}, flash {each.flash_cycles / 1e6:.3g}",
                        second=second,
                    )
                )
    return Chart(
        title="From input to output, million cycles",
        description="Cycles of each operator, from input to output: of the NPU, and of the flash",
        height=HEIGHT,
        keys=[("NPU at its full rate", ""), ("what the flash takes longer", "")],
        guides=_guides(ticks, up, left),
        bars=bars,
        labels=_y_labels(ticks, up, left),
    )


def _along(known: Sequence[tuple[Layer, int]]) -> Chart:
    ticks = _ticks(count / 1e6 for _, count in known)
    left = _MARGIN + max(_width(f"{tick:g}") for tick in ticks) + _MARGIN
    up = _scale((0, ticks[-1]), (HEIGHT - 2 * _MARGIN, _MARGIN + FONT / 2))
    each_width = (WIDTH - _MARGIN - left) / len(known)
    return Chart(
        title="From input to output, million cycles",
        description="Estimated cycles of each operator, from input to output",
        height=HEIGHT,
        guides=_guides(ticks, up, left),
        bars=[
            Bar(
                x=_r(left + number * each_width),
                y=up(count / 1e6),
                width=_r(0.8 * each_width),
                height=_r(up(0) - up(count / 1e6)),
                title=f"{each.name.split(';')[0]}, {each.operator}: {count / 1e6:.3g}",
            )
            for number, (each, count) in enumerate(known)
        ],
        labels=_y_labels(ticks, up, left),
    )


def _guides(ticks: Sequence[float], up: Callable[[float], float], left: float) -> list[str]:
    return [f"M{_r(left)} {up(tick)}H{WIDTH - _MARGIN}" for tick in ticks]


def _y_labels(ticks: Sequence[float], up: Callable[[float], float], left: float) -> list[Label]:
    return [
        Label(kind="y", x=_r(left - _MARGIN), y=_r(up(tick) + FONT / 3), text=f"{tick:g}")
        for tick in ticks
    ]


def _path(line: Line, across: Callable[[float], float], up: Callable[[float], float]) -> str:
    """A path's ``d``, interrupted where there is no value."""
    parts, pen = [], "M"
    for x, y in line:
        if y is None:
            pen = "M"
        else:
            parts.append(f"{pen}{across(x)} {up(y)}")
            pen = "L"
    return "".join(parts)


def _scale(values: tuple[float, float], places: tuple[float, float]) -> Callable[[float], float]:
    """The linear map that takes the ends of ``values`` to those of ``places``."""
    span = (values[1] - values[0]) or 1.0

    def place(value: float) -> float:
        return _r(places[0] + (value - values[0]) / span * (places[1] - places[0]))

    return place


def _ticks(values: Iterable[float | None]) -> list[float]:
    """At most seven round numbers, 0 among them, from the least value or below to the greatest."""
    return _ticks_around([0.0, *(value for value in values if value is not None)])


def _ticks_around(values: Sequence[float]) -> list[float]:
    """The same without 0, for values that differ by little."""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    tenth = 10 ** math.floor(math.log10(span))
    step = next(tenth * each for each in (0.2, 0.5, 1, 2, 5) if tenth * each * 5 >= span)
    first = math.floor(low / step)
    last = max(math.ceil(high / step), first + 1)
    return [round(step * number, 10) for number in range(first, last + 1)]


def _steps(numbers: Sequence[float]) -> list[float]:
    """At most six whole numbers, evenly from the first of a range, and its last."""
    first, last = numbers[0], numbers[-1]
    step = max(1, math.ceil((last - first) / 5))
    inner = [first + step * each for each in range(int((last - first) // step) + 1)]
    if last - inner[-1] < step / 2 and len(inner) > 1:
        inner.pop()
    return [*inner, last] if inner[-1] != last else inner


def _shortened(kind: str) -> str:
    return kind if len(kind) <= LABEL else f"{kind[: LABEL - 1]}…"


def _width(text: str, letter: float = _LETTER) -> float:
    return FONT * letter * len(text)


def _r(value: float) -> float:
    """A tenth of a unit is less than anyone sees."""
    return round(value, 1)
