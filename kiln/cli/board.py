"""The commands for a board that is attached: flash, device, monitor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kiln.cli.options import (
    Command,
    default_paths,
    option,
    port_option,
    request_options,
    requests_of,
)
from kiln.errors import RequestError

_PERCENT = click.IntRange(0, 100)


def _attached(command: Command) -> Command:
    """Which of the boards at this computer is meant."""
    return port_option(option("--target", metavar="NAME", help="Which kind of board.")(command))


@click.group()
def device() -> None:
    """Talk to a board that runs SSCMA firmware."""


@device.command()
@_attached
@click.option("--json", "as_json", is_flag=True, help="Print what the board says as JSON.")
def info(as_json: bool, **where: str | None) -> None:
    """Say which board and firmware it is, and what model, labels and thresholds it has."""
    from kiln.cli.device import Where, show_board

    show_board(Where(**where), default_paths(), as_json=as_json)


@device.command()
@_attached
@click.option("--times", type=click.IntRange(min=1), help="How many frames; left out, for ever.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each frame.")
def invoke(times: int | None, as_json: bool, **where: str | None) -> None:
    """Print what the board sees, a line for each frame. Ctrl-C stops the board."""
    from kiln.cli.device import Where, watch_board

    watch_board(Where(**where), default_paths(), times=times, as_json=as_json)


@device.command("set")
@_attached
@click.option("--score", type=_PERCENT, help="The least score that is reported, in percent.")
@click.option("--iou", type=_PERCENT, help="How far two boxes may overlap, in percent.")
def set_limits(score: int | None, iou: int | None, **where: str | None) -> None:
    """Set the thresholds, which the board keeps."""
    from kiln.cli.device import Where, set_thresholds

    set_thresholds(Where(**where), default_paths(), score=score, iou=iou)


@click.command()
@click.argument("build", required=False, type=click.Path(exists=True, path_type=Path))
@request_options
@port_option
@option("--address", metavar="ADDRESS", help="Where in the flash, as 0x400000; the target's.")
@click.option("--prove/--no-prove", default=True, help="Then have the board show that it runs it.")
def flash(
    build: Path | None,
    port: str | None,
    address: str | None,
    prove: bool,
    config: Path | None,
    **flags: Any,
) -> None:
    """Write a model to the flash of an attached board, and have the board prove it.

    BUILD is a result folder or a .tflite file; without it, the result of the build which the
    settings ask for. Ends with 17 if the board cannot be reached, with 18 if writing failed.
    """
    from kiln.cli.flash import FlashRequest, flash_board

    requests = requests_of(config, flags)
    if len(requests) != 1:
        raise RequestError("one board is flashed at a time", hint="name it: TARGET=grove-v2")
    flash_board(
        FlashRequest(
            build=requests[0],
            source=build,
            target_given=flags["target"] is not None,
            port=port,
            address=_number(address),
            prove=prove,
        ),
        default_paths(),
    )


@click.command()
@port_option
@option("--target", metavar="NAME", help="Which kind of board.")
@click.option("--demo", is_flag=True, help="Show an emulated board, which looks at demo pictures.")
@click.option(
    "--build",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The result folder whose model the emulated board runs; that of the demo.",
)
@option(
    "--executor",
    type=click.Choice(["auto", "docker", "local"]),
    help="Where the demo's steps run.",
)
@click.option("--listen", metavar="ADDRESS", default="127.0.0.1", help="Let others see the page.")
@click.option("--http-port", type=click.IntRange(0, 65535), default=0, help="A free one if 0.")
@click.option(
    "--record", type=click.Path(path_type=Path), help="Record into this folder from the start on."
)
@click.option("--open/--no-open", "show", default=True, help="Open the page in a browser.")
def monitor(**settings: Any) -> None:
    """Show on a page what a board sees, and record it as training data. Ctrl-C ends it.

    The page is for this host alone; with --listen, for whoever has the address that is printed.
    """
    from kiln.cli.monitor import WatchRequest, monitor_board

    monitor_board(WatchRequest(**settings), default_paths())


def _number(text: str | None) -> int | None:
    """A number as one writes an address: decimal, or hexadecimal with 0x."""
    try:
        return None if text is None else int(text, 0)
    except ValueError:
        raise RequestError(f"ADDRESS={text} is no number", hint="write it as 0x400000") from None
