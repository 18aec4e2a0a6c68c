"""Everything that Kiln prints: results on stdout, the rest on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console, RenderableType
from rich.markup import escape

from kiln.cli.progress import StepBars
from kiln.errors import KilnError, RequestError
from kiln.plan.step import Step
from kiln.report.result import METRICS
from kiln.store.store import Entry

_STYLES: Mapping[str, str] = {"✓": "green", "✕": "red", "=": "dim", "!": "yellow", "▸": "bold"}

#: Without a terminal, a long step shows that it lives.
_SECONDS_A_LINE = 15.0


class Terminal:
    """The one place that writes to the terminal; also the observer of a build."""

    def __init__(self, *, verbose: bool = False) -> None:
        self._verbose = verbose
        # A pipe has no width: lines stay whole for whoever reads them.
        self._out = Console(highlight=False, width=None if sys.stdout.isatty() else 240)
        self._err = Console(
            stderr=True, highlight=False, width=None if sys.stderr.isatty() else 1000
        )
        self._bars = StepBars(self._err)
        self._started: dict[str, float] = {}
        self._last_line: dict[str, float] = {}
        self._warned: set[str] = set()

    @property
    def progress_console(self) -> Console:
        """Where a command draws how far it is."""
        return self._err

    # Results

    def json(self, value: object) -> None:
        sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def line(self, value: object) -> None:
        """One of many, as JSON on a line of its own, at once."""
        sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
        sys.stdout.flush()

    def result(self, text: str) -> None:
        """A line of text, as it is."""
        self._out.print(escape(_plain(text)))

    def print(self, shown: RenderableType) -> None:
        """Markup or a table; what comes from a user in it must be escaped."""
        self._out.print(shown)

    def ask_secret(self, what: str) -> str:
        """A passphrase from the terminal, never shown; raises RequestError without one."""
        if not sys.stdin.isatty():
            raise RequestError(
                f"the {what} is needed, and there is no terminal to ask on",
                hint="use a key without a passphrase here",
            )
        return self._err.input(f"{what}: ", password=True)

    # Errors

    def error(self, error: KilnError) -> None:
        self._bars.stop_all()
        self.mark("✕", error.message)
        if error.hint:
            self._err.print(f"  {escape(error.hint)}")
        if error.log is not None:
            self._err.print(f"  log: {escape(str(error.log))}")

    # A build, live

    def say(self, message: str, /) -> None:
        self.mark("▸", message)

    def done(self, message: str) -> None:
        """What was asked for is done."""
        self.mark("✓", message, out=True)

    def step_reused(self, step: Step) -> None:
        self.mark("=", f"{step.title} (already made)")

    def step_started(self, step: Step, why: str) -> None:
        self._started[step.name] = self._last_line[step.name] = time.monotonic()
        self._bars.start(step.name, step.title)
        if not self._bars.live:
            self.mark("▸", f"{step.title}: {why}")

    def step_event(self, step: Step, event: Mapping[str, Any]) -> None:
        match event["event"]:
            case "progress":
                done, total = float(event["done"]), float(event["total"])
                self._progress(step, done, total, str(event["unit"]))
            case "metric" if event["name"] in ("box/map50", "pose/map50"):
                self._bars.note(step.name, f"{METRICS[event['name']]} {event['value']:.3f}")
            case "device":
                self._bars.note(step.name, str(event["name"]))
            case "warning":
                self.warn(event["message"], event.get("hint", ""))

    def step_log(self, step: Step, line: str) -> None:
        if self._verbose:
            self._err.print(f"[dim]{step.name}:[/] {escape(line)}")

    def step_finished(self, step: Step, entry: Entry) -> None:
        self._bars.stop(step.name)
        self.mark("✓", f"{step.title}  {_seconds(entry.seconds)}")

    def step_failed(self, step: Step) -> None:
        self._bars.stop(step.name)
        self.mark("✕", f"{step.title}  {_seconds(time.monotonic() - self._started[step.name])}")

    def _progress(self, step: Step, done: float, total: float, unit: str) -> None:
        """A bar on a terminal; elsewhere a line now and then, or each one with -v."""
        count = f"{_count(done)} of {_count(total)} {unit}"
        self._bars.advance(step.name, done, total, count)
        now = time.monotonic()
        late = now - self._last_line[step.name] > _SECONDS_A_LINE
        if not self._bars.live and (self._verbose or late):
            self._last_line[step.name] = now
            self._err.print(f"  {escape(step.title)}: {count}")

    def warn(self, message: str, hint: str = "") -> None:
        """Once each, though a step says it live and the result repeats it."""
        if message not in self._warned:
            self._warned.add(message)
            self.mark("!", message + (f" ({hint})" if hint else ""))

    def mark(self, sign: str, message: str, *, out: bool = False) -> None:
        console = self._out if out else self._err
        console.print(f"[{_STYLES[sign]}]{sign}[/] {escape(_plain(message))}")


def _plain(text: str) -> str:
    """Names come from data sets and files: what would steer the terminal is shown as a code."""
    return "".join(
        each if each.isprintable() or each == "\n" else each.encode("unicode_escape").decode()
        for each in text
    )


def _count(value: float) -> str:
    return f"{value:.0f}" if value == int(value) else f"{value:.1f}"


def _seconds(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02}s" if minutes else f"{seconds:.1f}s"
