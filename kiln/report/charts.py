"""The page's charts: pygal draws them as SVG, the page's style sheet colours them.

pygal adds styles, scripts, a date and links of its own; here they are taken off, so that the same
figures give the same bytes and the page's own style, light or dark, is the only one.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any
from xml.etree.ElementTree import Element, SubElement

import pygal
from markupsafe import Markup
from pygal.style import Style

from kiln.report.page import MODELS, Panel

# pygal leaves a finder behind for plug-ins that nothing here has. It is of a protocol that Python
# has given up, so 3.11 warns of it whenever a module is not found.
sys.meta_path[:] = [each for each in sys.meta_path if not isinstance(each, pygal.PluginImportFixer)]

#: The drawing's own units. A column of the page is about as many pixels wide, on a phone and on a
#: desk, so text stays at about the size of the page's small print.
WIDTH, HEIGHT = 340, 210
FONT = 11
ROW = 24

#: Letters that leave a bar its room: RESIZE_NEAREST_NEIGHBOR and no more.
LABEL = 23
#: Kinds of operators with a bar of their own; the rest take few cycles.
KINDS = 10

_STYLE = Style(label_font_size=FONT, major_label_font_size=FONT, value_font_size=FONT)
#: Capitals are wider than pygal takes letters to be; the style sheet draws them at FONT too.
_CAPITALS = Style(label_font_size=FONT + 2, major_label_font_size=FONT + 2, value_font_size=FONT)
_PLAIN: Mapping[str, Any] = {
    "style": _STYLE,
    "width": WIDTH,
    "height": HEIGHT,
    "margin": 6,
    "spacing": 6,
    "explicit_size": False,
    "show_legend": False,
    "show_dots": False,
    "js": (),
    "css": (),
    "no_prefix": True,
    "disable_xml_declaration": True,
}

Line = Sequence[tuple[float, float | None]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chart:
    """A drawing with its title, what stands for which line, and what is said below it."""

    title: str
    svg: Markup
    keys: Sequence[tuple[str, str]]


def curves(panel: Panel) -> Chart:
    """Lines over the epochs; each one's last value is said with its name."""
    lines = {
        name: list(zip(panel.epochs, values, strict=True)) for name, values in panel.lines.items()
    }
    values = chain(*panel.lines.values())
    ends = {
        name: f"{values[-1]:.3g}" for name, values in panel.lines.items() if values[-1] is not None
    }
    return Chart(
        title=panel.title,
        svg=_lines(panel.title, lines, x=_steps(panel.epochs), y=_ticks(values), x_title="epoch"),
        keys=[(name, ends.get(name, "")) for name in lines],
    )


def precision_recall(curves: Mapping[str, Mapping[str, Sequence[Sequence[float]]]]) -> list[Chart]:
    """Precision over recall, a chart for boxes and one for poses, a line for each model."""
    ticks = [0, 0.25, 0.5, 0.75, 1]
    charts = []
    for kind, title in (("pose", "Poses"), ("box", "Boxes")):
        measured = curves.get(kind, {})
        lines = {name: [(x, y) for x, y in measured[name]] for name in MODELS if name in measured}
        if lines:
            name = f"{title}: precision over recall"
            svg = _lines(name, lines, x=ticks, y=ticks, x_title="recall")
            charts.append(Chart(title=name, svg=svg, keys=[(each, "") for each in lines]))
    return charts


def cycles(operators: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Where the estimated cycles go: by kind of operator, and along the network."""
    known = [each for each in operators if each["cycles"]]
    if not known:
        return []
    return [
        Chart(title="By kind of operator, million cycles", svg=_by_kind(known), keys=[]),
        Chart(title="From input to output, million cycles", svg=_along(known), keys=[]),
    ]


def snr(layers: Sequence[Mapping[str, Any]]) -> Chart | None:
    """How far the int8 model's layers are from the float model's, in order of the network."""
    line: Line = [(number, each["snr_db"]) for number, each in enumerate(layers, 1)]
    if not line:
        return None
    title = "By layer, signal over noise in dB"
    svg = _lines(
        title,
        {"int8": line},
        x=_steps([x for x, _ in line]),
        y=_ticks(y for _, y in line),
        x_title="layer",
    )
    return Chart(title=title, svg=svg, keys=[])


def _lines(
    title: str, lines: Mapping[str, Line], *, x: Sequence[float], y: Sequence[float], x_title: str
) -> Markup:
    chart = pygal.XY(
        **_PLAIN,
        x_labels=x,
        y_labels=y,
        xrange=(x[0], x[-1]),
        range=(y[0], y[-1]),
        x_title=x_title,
        x_value_formatter=_short,
        value_formatter=_short,
        allow_interruptions=True,
    )
    for name, line in lines.items():
        chart.add(name, line)
    return _drawn(chart, title)


def _by_kind(operators: Sequence[Mapping[str, Any]]) -> Markup:
    sums: Counter[tuple[str, str]] = Counter()
    for each in operators:
        sums[each["operator"], each["place"]] += each["cycles"]
    rows = sums.most_common(KINDS)[::-1]
    labels = [
        (kind if len(kind) <= LABEL else f"{kind[: LABEL - 1]}…")
        + (" (CPU)" if place == "cpu" else "")
        for (kind, place), _ in rows
    ]
    chart = pygal.HorizontalBar(
        **{**_PLAIN, "height": ROW * len(rows) + 12, "style": _CAPITALS},
        x_labels=labels,
        show_x_labels=False,
        show_y_guides=False,
        print_values=True,
        print_values_position="top",
        range=(0, 1.2 * rows[-1][1] / 1e6),
        value_formatter=lambda value: f"{value:.1f}",
    )
    chart.add("cycles", [value / 1e6 for _, value in rows])
    return _drawn(chart, "Estimated cycles by kind of operator")


def _along(operators: Sequence[Mapping[str, Any]]) -> Markup:
    ticks = _ticks(each["cycles"] / 1e6 for each in operators)
    names = [f"{each['name'].split(';')[0]}, {each['operator']}" for each in operators]
    chart = pygal.Bar(
        **_PLAIN,
        x_labels=names,
        show_x_labels=False,
        y_labels=ticks,
        range=(0, ticks[-1]),
        value_formatter=lambda value: f"{value:.3g}",
    )
    chart.add("cycles", [each["cycles"] / 1e6 for each in operators])
    return _drawn(chart, "Estimated cycles of each operator, from input to output")


def _drawn(chart: Any, title: str) -> Markup:
    chart.add_xml_filter(_cleaner(title))
    return Markup(chart.render(is_unicode=True))


def _cleaner(title: str) -> Callable[[Element], Element]:
    """A filter that keeps the drawing alone, names it, and makes its values titles to point at."""

    def clean(root: Element) -> Element:
        drawing = root.find("g")
        assert drawing is not None
        for child in list(root):
            if child is not drawing:
                root.remove(child)
        del root.attrib["id"]
        root.attrib.update({"class": "chart", "role": "img", "aria-label": title})
        for parent in list(drawing.iter()):
            notes = {note.get("class", ""): note for note in parent.findall("desc")}
            if not notes:
                continue
            words = [notes[key].text or "" for key in ("x_label", "value") if key in notes]
            for note in notes.values():
                parent.remove(note)
            SubElement(parent, "title").text = ": ".join(words)
        return root

    return clean


def _ticks(values: Iterable[float | None]) -> list[float]:
    """At most seven round numbers, 0 among them, from the least value or below to the greatest."""
    known = [0.0, *(value for value in values if value is not None)]
    low, high = min(known), max(known)
    span = (high - low) or 1.0
    tenth = 10 ** math.floor(math.log10(span))
    step = next(tenth * each for each in (0.2, 0.5, 1, 2, 5) if tenth * each * 5 >= span)
    first, last = math.floor(low / step), max(math.ceil(high / step), 1)
    return [round(step * number, 10) for number in range(first, last + 1)]


def _steps(numbers: Sequence[float]) -> list[float]:
    """At most six whole numbers, evenly from the first of a range, and its last."""
    first, last = numbers[0], numbers[-1]
    step = max(1, math.ceil((last - first) / 5))
    inner = [first + step * each for each in range(int((last - first) // step) + 1)]
    if last - inner[-1] < step / 2 and len(inner) > 1:
        inner.pop()
    return [*inner, last] if inner[-1] != last else inner


def _short(value: float) -> str:
    return f"{value:g}"
