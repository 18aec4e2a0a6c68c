"""A build while it runs: a moving line for each step."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from kiln.executors import events
from kiln.executors.events import StepEvent
from kiln.pipeline.events import (
    Event,
    Message,
    StepFailed,
    StepFinished,
    StepReused,
    StepSaid,
    StepStarted,
)
from kiln.plan.step import Step
from stages.results.evaluate import METRICS

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

#: Without a terminal, a long step shows that it lives.
SECONDS_A_LINE = 15.0
_SHOWN_METRICS = ("box/map50", "pose/map50")


class BuildProgress:
    """Shows a build live: the observer of a `Runner`.

    On a terminal each step that runs has a bar; elsewhere a line every SECONDS_A_LINE, or at every
    progress if ``verbose``, which shows the steps' logs too. ``mark`` prints a sign and a text,
    ``warn`` a warning and its hint.
    """

    def __init__(
        self,
        console: Console,
        *,
        verbose: bool,
        mark: Callable[[str, str], None],
        warn: Callable[[str, str], None],
    ) -> None:
        self._console = console
        self._verbose = verbose
        self._mark = mark
        self._warn = warn
        self._progress: Progress | None = None
        self._bars: dict[str, TaskID] = {}
        self._started: dict[str, float] = {}
        self._last_line: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        match event:
            case Message():
                self._mark("▸", event.text)
            case StepReused():
                self._mark("=", f"{event.step.title} (already made)")
            case StepStarted():
                self._start(event.step, event.why)
            case StepSaid():
                self._show(event.step, event.event)
            case StepFinished():
                self._stop(event.step)
                self._mark("✓", f"{event.step.title}  {_seconds(event.seconds)}")
            case StepFailed():
                self._stop(event.step)
                taken = time.monotonic() - self._started[event.step.name]
                self._mark("✕", f"{event.step.title}  {_seconds(taken)}")

    def _start(self, step: Step, why: str) -> None:
        self._started[step.name] = self._last_line[step.name] = time.monotonic()
        if not self._console.is_terminal:
            self._mark("▸", f"{step.title}: {why}")
            return
        if self._progress is None:
            self._progress = _progress(self._console)
            self._progress.start()
        self._bars[step.name] = self._progress.add_task(step.title, total=None, count="", note="")

    def _show(self, step: Step, event: StepEvent) -> None:
        match event:
            case events.LogLine() if self._verbose:
                self._console.print(f"[dim]{step.name}:[/] {escape(event.text)}")
            case events.Progress():
                self._advance(step, event)
            case events.Metric() if event.name in _SHOWN_METRICS:
                self._note(step, f"{METRICS[event.name]} {event.value:.3f}")
            case events.Device():
                self._note(step, event.name)
            case events.Warning():
                self._warn(event.message, event.hint)

    def _advance(self, step: Step, event: events.Progress) -> None:
        count = f"{_count(event.done)} of {_count(event.total)} {event.unit}"
        if self._progress is not None:
            bar = self._bars[step.name]
            self._progress.update(bar, completed=event.done, total=event.total, count=count)
            return
        now = time.monotonic()
        if self._verbose or now - self._last_line[step.name] > SECONDS_A_LINE:
            self._last_line[step.name] = now
            self._console.print(f"  {escape(step.title)}: {count}")

    def _note(self, step: Step, text: str) -> None:
        if self._progress is not None:
            self._progress.update(self._bars[step.name], note=text)

    def _stop(self, step: Step) -> None:
        if self._progress is not None:
            self._progress.remove_task(self._bars.pop(step.name))
            if not self._bars:
                self._progress.stop()
                self._progress = None


def _count(value: float) -> str:
    return f"{value:.0f}" if value == int(value) else f"{value:.1f}"


def _seconds(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02}s" if minutes else f"{seconds:.1f}s"


def _progress(console: Console) -> Progress:
    # Takes 0.1 s to import, so only a running step does.
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[count]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
    )
