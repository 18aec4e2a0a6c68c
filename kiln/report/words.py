"""How figures are written on the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

#: What an execution of the compiled file has shown. It is none on the board's own NPU.
EXECUTED = (
    "the compiled file, executed as Vela's encodings define it, gives the same bytes as the "
    "reference kernels"
)
#: Digits of a digest that are shown; build.json has all.
SHORT_DIGEST = 12


def percent(share: float | None) -> str:
    """0.9513 as 95.1; a dash for a figure that there is not."""
    return "\N{EN DASH}" if share is None else f"{100 * share:.1f}"


def points(drop: float) -> str:
    """A loss of 0.94 points as minus 0.9, a gain as +0.9."""
    text = f"{abs(drop):.1f}"
    if text == "0.0":
        return "\N{PLUS-MINUS SIGN}0.0"
    return f"\N{MINUS SIGN}{text}" if drop > 0 else f"+{text}"


def change(before: float, after: float) -> str:
    """By how much the one is more or less than the other: minus 12.0 %."""
    text = f"{abs(after / before - 1):.1%}".replace("%", " %")
    sign = "\N{PLUS-MINUS SIGN}" if text == "0.0 %" else "+" if after > before else "\N{MINUS SIGN}"
    return f"{sign}{text}"


def kib(size: float) -> str:
    """KiB with one decimal below a thousand: 296.0, 3,064."""
    return f"{size:,.1f}" if size < 1000 else f"{size:,.0f}"


def milliseconds(time_ms: float) -> str:
    """Two or three digits, which is more than an estimate is good for."""
    return f"{time_ms:,.0f}" if time_ms >= 10 else f"{time_ms:.1f}"


def frames(time_ms: float) -> str:
    """Frames a second at this many milliseconds each."""
    rate = 1000 / time_ms
    return f"{rate:.0f}" if rate >= 10 else f"{rate:.1f}"


def whole(number: float) -> str:
    return f"{number:,.0f}"


def millions(number: float) -> str:
    return f"{number / 1e6:.1f}"


def duration(seconds: float) -> str:
    """0.4 s, 16.0 s, 3 min 27 s, 1 h 5 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def count(number: int, noun: str) -> str:
    """1 warning, 2 warnings, no warnings."""
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"


def short(digest: str) -> str:
    return digest[:SHORT_DIGEST]


def first_name(tensor: str) -> str:
    """A fused layer is named for all that went into it; its first name tells it apart."""
    return tensor.split(";", maxsplit=1)[0]


def capital(sentence: str) -> str:
    """A sentence with its first letter large; the rest as it is, for it may hold names."""
    return sentence[:1].upper() + sentence[1:]


def settings(values: Mapping[str, Any], group: str = "") -> list[tuple[str, dict[str, str]]]:
    """The settings that are set, those of each nested table under its dotted name, after ``""``."""
    own = {key: _value(value) for key, value in values.items() if not isinstance(value, Mapping)}
    found = [(group, {key: text for key, text in own.items() if text})]
    for key, value in values.items():
        if isinstance(value, Mapping):
            found += settings(value, f"{group}.{key}" if group else key)
    return [(name, pairs) for name, pairs in found if pairs]


def _value(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value)


FILTERS: Mapping[str, Callable[..., Any]] = {
    each.__name__: each
    for each in (
        *(percent, points, kib, milliseconds, frames, whole, millions, duration, count),
        *(short, first_name, capital, settings),
    )
}
