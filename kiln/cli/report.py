"""``kiln report`` and ``kiln compare``."""

from __future__ import annotations

import dataclasses
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.markup import escape
from rich.table import Table

from kiln.cli.build import plan_of
from kiln.cli.options import request_options, requests_of
from kiln.cli.session import Session, shown_path
from kiln.pipeline.build import write_report
from kiln.report.compare import Row
from kiln.report.compare import compare as compare_builds
from kiln.report.result import load_build


@click.command()
@click.argument("build", required=False, type=click.Path(exists=True, path_type=Path))
@request_options
@click.option("--open/--no-open", "show", default=True, help="Open it in a browser.")
def report(build: Path | None, show: bool, config: Path | None, **flags: Any) -> None:
    """Make report.html again from build.json and from what a board measured; open it.

    BUILD is a result folder; without it, that of the build which the settings ask for.
    """
    session = Session.start()
    for request in requests_of(config, flags):
        if build is None:
            plan = plan_of(request, session)
            folder = session.paths.result_of(plan.target.name, plan.name)
        else:
            folder = build
        page = write_report(folder if folder.is_dir() else folder.parent, load_build(folder))
        session.terminal.result(shown_path(page))
        if show and not webbrowser.open(page.absolute().as_uri()):
            session.terminal.say("no browser was found on this host: open the file yourself")


@click.command()
@click.argument("left", type=click.Path(path_type=Path))
@click.argument("right", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print both and their differences as JSON.")
def compare(left: Path, right: Path, as_json: bool) -> None:
    """Put two builds, given by their result folders, side by side."""
    terminal = Session.start().terminal
    found = compare_builds(load_build(left), load_build(right))
    if as_json:
        terminal.json(dataclasses.asdict(found))
        return
    terminal.print(_table("figures", found.left, found.right, found.figures, change=True))
    if found.differences:
        terminal.print(_table("recipes", found.left, found.right, found.differences))
    else:
        terminal.print("the recipes are the same")


def _table(
    title: str, left: str, right: str, rows: Sequence[Row], *, change: bool = False
) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in (title, left, right, *(["change"] if change else [])):
        table.add_column(escape(heading), overflow="fold")
    for row in rows:
        cells = [row.name, row.left, row.right, *([row.change] if change else [])]
        table.add_row(*(escape(cell) for cell in cells))
    return table
