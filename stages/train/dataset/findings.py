"""Faults of a data set, reported as they are found."""

from __future__ import annotations

from stages.contract import Events, StepFailed

#: Further ones are counted, not reported.
MAX_PROBLEMS = 1000


class Findings:
    """Reports faults as they are found, and counts them."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self.count = 0

    def add(self, path: str, message: str, *, line: int | None = None) -> None:
        self.count += 1
        if self.count <= MAX_PROBLEMS:
            self._events.problem(path, message, line=line)

    def stop_if_any(self) -> None:
        if not self.count:
            return
        faults = "1 fault" if self.count == 1 else f"{self.count} faults"
        raise StepFailed(
            "data", f"the data set has {faults}", hint="correct them and run the same command again"
        )
