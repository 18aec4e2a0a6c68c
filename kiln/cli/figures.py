"""How the figures of a model read on a terminal, in one line each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.markup import escape

from kiln.cli.console import Terminal
from kiln.report.result import PlainInt8, Usage, Verdict
from stages.results.compile import Counted
from stages.results.evaluate import METRICS


def show_verdict(verdict: Verdict, firmware: str, terminal: Terminal) -> None:
    """Each check that failed in red, or one line in green; then what to know of those passed."""
    if verdict.accepted:
        terminal.mark("✓", f"accepted by {firmware} ({len(verdict.checks)} checks)", out=True)
    else:
        terminal.mark("✕", f"NOT ACCEPTED by {firmware}:", out=True)
    for line in verdict.refusals:
        terminal.print(f"  [red]{escape(line)}[/]")
    for line in verdict.notes:
        terminal.mark("!", line, out=True)


def usage_line(name: str, usage: Usage) -> str:
    """A figure against the board's limit, in colour."""
    share = usage.used_kib / usage.limit_kib
    colour = "green" if usage.fits else "bold red"
    used, limit = shown_kib(usage.used_kib), shown_kib(usage.limit_kib)
    return f"{name:<9} [{colour}]{used}[/] of {limit} ({share:.0%})"


def plain_line(plain: PlainInt8) -> str:
    """What a fine-tuned file is measured by."""
    time = f", {plain.estimated_ms:.1f} ms ({plain.cycles:,} cycles)" if plain.cycles else ""
    return f"          plain int8: {shown_kib(plain.flash_kib)} of flash{time}"


def operators_line(operators: Mapping[str, Any]) -> str:
    """How many operators run on which processor; given as a number or by type."""
    placed = ", ".join(
        f"{count if isinstance(count, int) else sum(count.values())} on the {processor.upper()}"
        for processor, count in operators.items()
        if count is not None
    )
    return f"operators {placed}"


def counted_line(counted: Counted) -> str:
    """What an inference makes the NPU do, whatever time it takes."""
    flash, sram = (shown_kib(size / 1024) for size in (counted.flash_bytes, counted.sram_bytes))
    return (
        f"counted   {counted.macs / 1e6:.1f} M multiply-accumulates, {flash} from the flash, "
        f"{sram} in SRAM; the NPU takes at least {counted.floor_cycles / 1e6:.1f} M cycles"
    )


def accuracy_line(metrics: Mapping[str, float | None]) -> str:
    """All that was measured of one form of the model."""
    known = {title: metrics.get(name) for name, title in METRICS.items()}
    shown = [f"{title} {value:.3f}" for title, value in known.items() if value is not None]
    return ", ".join(shown) or "not measured: nothing is labelled"


def shown_kib(kib: float) -> str:
    """KiB with one digit behind the point."""
    return f"{kib:,.1f} KiB"
