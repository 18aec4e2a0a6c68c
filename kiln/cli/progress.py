"""Moving lines: a bar for each step, and one for what is on its way to a board."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class StepBars:
    """A bar for each step that runs, by its name."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self.live = console.is_terminal

    def start(self, name: str, title: str) -> None:
        if not self.live:
            return
        if self._progress is None:
            self._progress = _progress(self._console)
            self._progress.start()
        self._tasks[name] = self._progress.add_task(title, total=None, count="", note="")

    def advance(self, name: str, done: float, total: float, count: str) -> None:
        if self._progress is not None and name in self._tasks:
            self._progress.update(self._tasks[name], completed=done, total=total, count=count)

    def note(self, name: str, text: str) -> None:
        if self._progress is not None and name in self._tasks:
            self._progress.update(self._tasks[name], note=text)

    def stop(self, name: str) -> None:
        if self._progress is not None and name in self._tasks:
            self._progress.remove_task(self._tasks.pop(name))
            if not self._tasks:
                self.stop_all()

    def stop_all(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
            self._tasks.clear()


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


class TransferBar:
    """Bytes on their way to a board, in a ``with`` block: how many, how fast, and how long yet.

    A bar on a terminal; elsewhere a line every ``seconds_a_line``, so that a log stays short.
    """

    def __init__(self, console: Console, seconds_a_line: float) -> None:
        self._console = console
        self._seconds_a_line = seconds_a_line
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._title = ""
        self._began_at = self._line_at = time.monotonic()

    def begin(self, title: str) -> None:
        """What is under way from now on."""
        self._title = title
        self._began_at = self._line_at = time.monotonic()
        if self._progress is not None:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._task = self._progress.add_task(title, total=None)

    def advance(self, done: int, total: int) -> None:
        """``done`` of ``total`` bytes have arrived."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, total=total)
            return
        now = time.monotonic()
        if self._progress is None and now - self._line_at >= self._seconds_a_line:
            self._line_at = now
            rate = done / (now - self._began_at)
            left = f", {(total - done) / rate:.0f} s left" if rate else ""
            self._console.print(
                f"  {self._title}: {done // 1000} of {total // 1000} kB, "
                f"{rate / 1000:.0f} kB/s{left}"
            )

    def __enter__(self) -> TransferBar:
        if self._console.is_terminal:
            self._progress = _transfer_progress(self._console)
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()


def _transfer_progress(console: Console) -> Progress:
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
