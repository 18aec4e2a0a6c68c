"""A build that runs, on a terminal and in a log."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from kiln.cli import progress
from kiln.cli.progress import BuildProgress
from kiln.executors.events import LogLine, Metric, Progress, StepEvent, Warning
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


def _step(name: str, title: str) -> Step:
    module = f"stages.train.{name}"
    return Step(name=name, title=title, environment="train", module=module, params={}, inputs={})


TRAIN, DEMO = _step("train", "train"), _step("demo", "draw the demo data set")


def _said(*events: StepEvent) -> list[Event]:
    return [StepSaid(step=TRAIN, event=event) for event in events]


BUILD: list[Event] = [
    Message(text="executor: local"),
    StepReused(step=DEMO),
    StepStarted(step=TRAIN, why="it has not run before"),
    *_said(LogLine(text="a [library's] chatter"), Progress(done=0.5, total=40, unit="epochs")),
    *_said(Metric(name="box/map50", value=0.25, at=1), Warning(message="dark images", hint="")),
    StepFinished(step=TRAIN, seconds=61.4),
]


def _shown(events: list[Event], *, verbose: bool = False, terminal: bool = False) -> str:
    """What is printed, all of it in its order; without colours."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, no_color=True, width=100)
    show = BuildProgress(
        console,
        verbose=verbose,
        mark=lambda sign, text: console.print(sign, text, highlight=False),
        warn=lambda message, hint: console.print("!", message, hint, highlight=False),
    )
    for event in events:
        show(event)
    return stream.getvalue()


def test_a_log_has_a_line_for_each_thing_that_happens() -> None:
    assert _shown(BUILD).splitlines() == [
        "▸ executor: local",
        "= draw the demo data set (already made)",
        "▸ train: it has not run before",
        "! dark images ",
        "✓ train  1m01s",
    ]


def test_verbose_shows_the_steps_logs_and_all_of_their_progress() -> None:
    lines = _shown(BUILD, verbose=True).splitlines()
    assert lines[3:5] == ["train: a [library's] chatter", "  train: 0.5 of 40 epochs"]


def test_a_long_step_shows_that_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS_A_LINE", 0)
    assert "  train: 0.5 of 40 epochs" in _shown(BUILD).splitlines()


def test_a_step_that_fails_says_so() -> None:
    assert _shown([*BUILD[:4], StepFailed(step=TRAIN)]).splitlines()[-1] == "✕ train  0.0s"


def test_a_terminal_has_a_bar_for_each_step_while_it_runs() -> None:
    shown = _shown(BUILD, terminal=True)
    assert "it has not run before" not in shown
    assert "✓ train  1m01s" in shown
