"""``kiln build`` and ``kiln explain``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from rich.markup import escape
from rich.table import Table

from kiln.cli.console import Terminal
from kiln.cli.figures import (
    accuracy_line,
    operators_line,
    plain_line,
    show_verdict,
    shown_kib,
    usage_line,
)
from kiln.cli.options import request_options, requests_of
from kiln.cli.session import Session, shown_path
from kiln.pipeline.build import Build
from kiln.pipeline.runner import StepForecast
from kiln.plan.plan import Plan, make_plan
from kiln.plan.request import BuildRequest
from kiln.plan.targets import load_target
from kiln.report.result import BuildResult
from kiln.report.words import EXECUTED
from stages.results.evaluate import METRICS


@click.command()
@request_options
@click.option("--json", "as_json", is_flag=True, help="Print build.json to stdout.")
def build(as_json: bool, config: Path | None, **flags: Any) -> None:
    """Make the model for a target, running only what is not made yet."""
    session = Session.start()
    results: list[BuildResult] = []
    for each in planned_builds(requests_of(config, flags), session):
        result = each.run(session.terminal.progress())
        results.append(result)
        if not as_json:
            _show_result(result, shown_path(each.folder), session.terminal)
    if as_json:
        documents = [result.document() for result in results]
        session.terminal.json(documents[0] if len(documents) == 1 else documents)


@click.command()
@request_options
@click.option("--json", "as_json", is_flag=True, help="Print a list of steps as JSON.")
def explain(as_json: bool, config: Path | None, **flags: Any) -> None:
    """Say for each step whether it would run, and why. Runs nothing."""
    session = Session.start()
    found: dict[str, list[StepForecast]] = {}
    for request in requests_of(config, flags):
        plan = plan_of(request, session)
        found[plan.target.name] = Build(plan, session.paths, session.executor(request)).explain()
    if as_json:
        session.terminal.json(
            {name: [dataclasses.asdict(step) for step in steps] for name, steps in found.items()}
        )
        return
    for name, steps in found.items():
        if len(found) > 1:
            session.terminal.say(f"target {name}")
        session.terminal.print(_forecast_table(steps))


def planned_builds(requests: Sequence[BuildRequest], session: Session) -> Iterator[Build]:
    """Every request as a build, all planned before the first is run, which share an executor."""
    plans = [plan_of(request, session) for request in requests]
    executor = session.executor(requests[0])
    for note in dict.fromkeys(note for plan in plans for note in plan.notes):
        session.terminal.say(note)
    with session.working():
        for plan in plans:
            if len(plans) > 1:
                session.terminal.say(f"target {plan.target.name}")
            yield Build(plan, session.paths, executor)


def plan_of(request: BuildRequest, session: Session) -> Plan:
    """The steps that a request asks for; raises RequestError."""
    return make_plan(request, load_target(session.paths.root / "targets", request.target))


def _show_result(result: BuildResult, folder: str, terminal: Terminal) -> None:
    """The end of a build: files, memory against the board, speed and accuracy."""
    terminal.print(f"[bold]{escape(folder)}/[/]")
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(overflow="fold")
    table.add_column(justify="right", no_wrap=True)
    for name, file in result.files.items():
        table.add_row(escape(f"  {name}"), shown_kib(file.bytes / 1024))
    terminal.print(table)
    show_verdict(result.verdict, result.board.firmware, terminal)
    for line in _figures(result):
        terminal.print(line)
    terminal.print(f"[dim]report    {escape(folder)}/report.html[/]")
    for warning in result.warnings:
        terminal.warn(warning.message, warning.hint)


def _figures(result: BuildResult) -> Iterator[str]:
    numbers = result.numbers
    yield usage_line("flash", numbers.flash)
    yield usage_line("SRAM", numbers.sram)
    if numbers.estimated_ms is not None:
        yield (
            f"speed     {numbers.estimated_ms:.1f} ms estimated by {numbers.estimator} "
            f"({numbers.cycles:,} cycles)"
        )
    if numbers.plain:
        yield plain_line(numbers.plain)
    yield operators_line(numbers.operators)
    accuracy = numbers.accuracy
    form = "fine-tuned" if numbers.plain else "int8"
    line = f"{accuracy_line(accuracy.artifacts['int8'])} ({form}, {accuracy.images} images)"
    yield (
        f"accuracy  [bold red]{line}: next to nothing[/]"
        if accuracy.finds_nothing
        else (f"accuracy  {line}")
    )
    if accuracy.equal_to_int8:
        yield f"          {EXECUTED}"
    elif compiled := accuracy.artifacts.get("compiled"):
        yield f"          {accuracy_line(compiled)} (compiled)"
    if accuracy.drop:
        lost = ", ".join(
            f"{METRICS[name]} {0 - points:+.1f}" for name, points in accuracy.drop.items()
        )
        yield f"          against fp32: {lost} points"
    if numbers.plain:
        yield f"          {accuracy_line(accuracy.artifacts['plain'])} (plain int8)"


def _forecast_table(steps: Sequence[StepForecast]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("step", "would run", "why"):
        table.add_column(title, overflow="fold")
    for step in steps:
        table.add_row(step.step, "yes" if step.runs else "no", escape(step.why or "made"))
    return table
