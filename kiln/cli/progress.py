"""Moving lines: a bar for each step."""

from __future__ import annotations

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
