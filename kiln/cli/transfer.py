"""How far a transfer to a board is: bytes, rate and time left."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

#: Without a terminal a line is written this often, so that a log stays short.
SECONDS_A_LINE = 15.0


class TransferBar:
    """A bar on a terminal, in a ``with`` block; elsewhere a line every ``seconds_a_line``."""

    def __init__(self, console: Console, seconds_a_line: float = SECONDS_A_LINE) -> None:
        self._console = console
        self._seconds_a_line = seconds_a_line
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._title = ""
        self._began_at = self._line_at = time.monotonic()

    def begin(self, title: str) -> None:
        """A new transfer, named ``title``."""
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
            self._progress = _progress(self._console)
            self._progress.start()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._progress is not None:
            self._progress.stop()


def _progress(console: Console) -> Progress:
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
