"""The commands `kiln device …`: argv and make variables to what they ask of a board."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

_PERCENT = click.IntRange(0, 100)


def _attached_options(command: Command) -> Command:
    """Which of the boards at this computer is meant."""
    for option in (
        click.option("--target", metavar="NAME", envvar="KILN_TARGET", help="Which kind of board."),
        click.option("--port", metavar="PATH", envvar="KILN_PORT", help="Where it is attached."),
    ):
        command = option(command)
    return command


@click.group()
def device() -> None:
    """Talk to a board that runs SSCMA firmware."""


@device.command()
@_attached_options
@click.option("--json", "as_json", is_flag=True, help="Print what the board says as JSON.")
@click.pass_obj
def info(shared: dict[str, Any], /, as_json: bool, **where: str | None) -> None:
    """Say which board and firmware it is, and what model, labels and thresholds it has."""
    from kiln.talking import Where, show_board

    show_board(Where(**where), shared["place"], as_json=as_json)


@device.command()
@_attached_options
@click.option("--times", type=click.IntRange(min=1), help="How many frames; left out, for ever.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each frame.")
@click.pass_obj
def invoke(
    shared: dict[str, Any], /, times: int | None, as_json: bool, **where: str | None
) -> None:
    """Print what the board sees, a line for each frame. Ctrl-C stops the board."""
    from kiln.talking import Where, watch_board

    watch_board(Where(**where), shared["place"], times=times, as_json=as_json)


@device.command("set")
@_attached_options
@click.option("--score", type=_PERCENT, help="The least score that is reported, in percent.")
@click.option("--iou", type=_PERCENT, help="How far two boxes may overlap, in percent.")
@click.pass_obj
def set_limits(
    shared: dict[str, Any], /, score: int | None, iou: int | None, **where: str | None
) -> None:
    """Set the thresholds, which the board keeps."""
    from kiln.talking import Where, set_thresholds

    set_thresholds(Where(**where), shared["place"], score=score, iou=iou)
