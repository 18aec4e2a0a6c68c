"""``kiln targets``."""

from __future__ import annotations

import dataclasses

import click
from rich.table import Table

from kiln.cli.session import Session
from kiln.plan.targets import load_target, target_names


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the whole records as JSON.")
def targets(as_json: bool) -> None:
    """List the boards."""
    session = Session.start()
    folder = session.paths.root / "targets"
    found = [load_target(folder, name) for name in target_names(folder)]
    if as_json:
        session.terminal.json([dataclasses.asdict(target) for target in found])
        return
    table = Table(box=None, pad_edge=False)
    for title in (
        *("target", "board", "tasks", "camera", "NPU", "arena KiB", "model room KiB", "FIRMWARE"),
    ):
        table.add_column(title, overflow="fold")
    for target in found:
        table.add_row(
            target.name,
            target.title,
            ", ".join(target.tasks),
            ", ".join(mode.name for mode in target.camera.modes),
            target.vela.accelerator if target.vela else "none",
            str(target.firmware.arena_kib),
            str(target.flash.model_bytes // 1024),
            ", ".join(each.generation for each in target.generations) or target.firmware.name,
        )
    session.terminal.print(table)
