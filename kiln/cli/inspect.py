"""``kiln inspect``."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import click
from rich.markup import escape
from rich.table import Table

from kiln.cli.console import Terminal
from kiln.cli.figures import accuracy_line, counted_line, operators_line, show_verdict, usage_line
from kiln.cli.options import common_options, requests_of
from kiln.cli.session import Session
from kiln.errors import ModelError
from kiln.pipeline.inspect import Inspection, Inspector
from kiln.plan.request import BuildRequest
from kiln.plan.targets import load_target
from stages.results.tensors import Tensor


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@common_options
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def inspect(file: Path, as_json: bool, config: Path | None, **flags: Any) -> None:
    """Say what any TFLite FILE is, and whether the board would take it.

    With --data its accuracy is measured too. Ends with 13 if the firmware would refuse it.
    """
    session = Session.start()
    accepted = True
    for request in requests_of(config, flags):
        found = inspect_file(file, request, session)
        accepted = accepted and found.verdict.accepted
        if as_json:
            session.terminal.json(dataclasses.asdict(found))
        else:
            _show(found, session.terminal)
    if not accepted:
        sys.exit(ModelError.exit_code)


def inspect_file(file: Path, request: BuildRequest, session: Session) -> Inspection:
    """What a file is, held against the firmware of the request's target; raises KilnError."""
    target = load_target(session.paths.root / "targets", request.target)
    inspector = Inspector(request, target, session.paths, session.executor(request))
    with session.working():
        return inspector.inspect(file, session.terminal.progress())


def _show(found: Inspection, terminal: Terminal) -> None:
    """What a file is, whether the board would take it, and how accurate it is."""
    terminal.print(f"[bold]{escape(found.file)}[/] is {escape(found.model.what)}")
    table = Table(box=None, pad_edge=False)
    for title in ("", "tensor", "shape", "type", "scale", "zero point", "read as"):
        table.add_column(title, overflow="fold")
    if found.model.input is not None:
        table.add_row("in", *_tensor(found.model.input, ""))
    for tensor in found.model.outputs:
        table.add_row("out", *_tensor(tensor, tensor.role or ""))
    terminal.print(table)
    show_verdict(found.verdict, found.firmware, terminal)
    terminal.print(usage_line("flash", found.flash))
    terminal.print(usage_line("SRAM", found.sram))
    terminal.print(operators_line(dataclasses.asdict(found.model.operators)))
    if found.model.counted is not None:
        terminal.print(counted_line(found.model.counted))
    if found.accuracy is not None:
        (metrics,) = found.accuracy.artifacts.values()
        how = ", executed as Vela's encodings define it" if found.model.kind == "vela" else ""
        images = found.accuracy.images
        terminal.print(f"accuracy  {accuracy_line(metrics)} on {images} images{how}")
    for warning in found.warnings:
        terminal.warn(warning.message, warning.hint)


def _tensor(tensor: Tensor, role: str) -> list[str]:
    scale = "" if tensor.scale is None else f"{tensor.scale:.6g}"
    point = "" if tensor.zero_point is None else str(tensor.zero_point)
    shape = "x".join(str(side) for side in tensor.shape)
    return [escape(cell) for cell in (tensor.name, shape, tensor.dtype, scale, point, role)]
