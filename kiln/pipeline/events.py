"""What a build tells while it runs, as small records for one observer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from kiln.executors.events import StepEvent
from kiln.plan.step import Step


@dataclasses.dataclass(frozen=True, kw_only=True)
class Message:
    """A line on what is done now."""

    text: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepReused:
    """The store has what the step gives."""

    step: Step


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepStarted:
    """The step runs; ``why`` it must."""

    step: Step
    why: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepSaid:
    """An event of a step that runs, or a line of its log."""

    step: Step
    event: StepEvent


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepFinished:
    """What the step gave is in the store."""

    step: Step
    seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepFailed:
    """The step failed, or was stopped: another one failed, or the user pressed Ctrl-C."""

    step: Step


Event = Message | StepReused | StepStarted | StepSaid | StepFinished | StepFailed
#: Steps may run at the same time; their events come one after the other, from any thread.
Observer = Callable[[Event], None]
