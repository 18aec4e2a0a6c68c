"""What `kiln flash` does: writes a model to a board, and has the board prove it."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kiln.cli.console import Terminal
from kiln.cli.progress import TransferBar
from kiln.device.discovery import Attached
from kiln.device.flash import (
    FlashPlan,
    burn,
    check_verdict,
    plan_file,
    plan_flash,
    record_flash,
)
from kiln.device.labels import Description, describe
from kiln.device.link import Link, open_link
from kiln.device.on_device_check import prove
from kiln.device.ports import Port, attached_ports, find_port
from kiln.device.sscma import Board
from kiln.errors import BoardError, BoardGone, Interrupted, PortMissing, RequestError
from kiln.paths import Paths
from kiln.pipeline.build import write_report
from kiln.plan.plan import make_plan
from kiln.plan.request import BuildRequest
from kiln.plan.targets import Target, load_target
from kiln.report.board_record import write_proof
from kiln.report.result import load_build, reading
from kiln.store.usage import shared_lock

#: A board with a USB port of its own vanishes from the bus while it restarts.
_RETURN_S = 10.0
_LOOK_EVERY_S = 0.2


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlashRequest:
    """What is to go where. ``source`` is a result folder, its build.json, or a TFLite file; None
    stands for the result of ``build``. ``target_given`` says that the user named the target.
    """

    build: BuildRequest
    source: Path | None
    target_given: bool
    port: str | None
    address: int | None
    prove: bool


def flash_board(request: FlashRequest, paths: Paths) -> None:
    """Write a model to a board; every refusal comes before its port is opened."""
    terminal = Terminal()
    plan, document = _plan(request, paths, terminal)
    proves = request.prove and plan.target.device.protocol == "sscma"
    labels = describe(document) if proves and document is not None else None
    port = find_port(plan.target, request.port, attached_ports())
    started = time.monotonic()
    terminal.say(f"{plan.file} to {plan.target.title} at {port}")
    _write(plan, port, paths, terminal)
    record_flash(paths.home, plan, port.path, port.serial_number)
    terminal.done(
        f"wrote {len(plan.model) / 1024:,.1f} KiB (sha256 {plan.sha256[:12]}) to "
        f"{plan.address:#x} of {plan.target.title} at {port.path} "
        f"in {time.monotonic() - started:.1f} s"
    )
    if labels is not None and document is not None:
        _prove(plan, labels, document, port, terminal)
    elif proves:
        terminal.say("a bare file tells no labels, nor what to expect of it: it is not proved")


def _plan(
    request: FlashRequest, paths: Paths, terminal: Terminal
) -> tuple[FlashPlan, Mapping[str, Any] | None]:
    """What is written where, and the build.json that it stands in, if it does."""
    source = request.source
    targets = paths.root / "targets"
    if source is not None and source.is_file() and source.name != "build.json":
        target = load_target(targets, request.build.target)
        plan = plan_file(source, target, request.address)
        if not request.build.force:
            _inspect(source, request.build, target, paths, terminal)
        return plan, None
    if source is None:
        target = load_target(targets, request.build.target)
        source = paths.result_of(target.name, make_plan(request.build, target).name)
        if not (source / "build.json").is_file():
            raise RequestError(
                f"there is no model for {target.name} yet: {source} is not there",
                hint=f"make it first, with the same settings: make model TARGET={target.name}",
            )
    document = load_build(source)
    folder = source if source.is_dir() else source.parent
    with reading("the flash"):
        named = request.source is None or request.target_given
        target = load_target(targets, request.build.target if named else document["target"])
        force = request.build.force
        return plan_flash(document, folder, target, request.address, force=force), document


def _inspect(
    file: Path, request: BuildRequest, target: Target, paths: Paths, terminal: Terminal
) -> None:
    """A file has no verdict yet: raises NotAccepted if the firmware would not take it."""
    from kiln.executors.choose import choose_executor
    from kiln.pipeline.inspect import Inspector

    def choose() -> Any:
        return choose_executor(
            request.executor,
            registry=request.registry,
            root=paths.root,
            home=paths.home,
            variables=os.environ,
            say=terminal.say,
        )

    with shared_lock(paths.home, terminal.say):
        asked = dataclasses.replace(request, data=None)
        found = Inspector(asked, target, paths, choose).inspect(file, terminal.progress())
    check_verdict(found.verdict, target)


def _write(plan: FlashPlan, port: Port, paths: Paths, terminal: Terminal) -> None:
    """Raises Interrupted if the user breaks it off; the board is left ready for another try."""
    with terminal.transfer() as bar:
        try:
            if plan.target.device.loader == "esp":
                _write_esp(plan, port, paths, bar, terminal)
            else:
                _write_we2(plan, port, bar, terminal)
        except KeyboardInterrupt:
            raise Interrupted(
                "interrupted: the board's model area may hold half a model",
                hint="the board takes another attempt: run the same command again",
            ) from None


def _write_we2(plan: FlashPlan, port: Port, bar: TransferBar, terminal: Terminal) -> None:
    link = open_link(port.path, plan.target.device.baud)
    try:
        bar.begin("writing the model")
        burn(link, plan, bar.advance, terminal.say)
    finally:
        link.close()


def _write_esp(
    plan: FlashPlan, port: Port, paths: Paths, bar: TransferBar, terminal: Terminal
) -> None:
    from kiln.device.esp import Esptool

    tool = Esptool.made(paths, terminal.say)
    tool.write(plan, port.path, bar.begin, bar.advance)


def _prove(
    plan: FlashPlan,
    labels: Description,
    document: Mapping[str, Any],
    port: Port,
    terminal: Terminal,
) -> None:
    """Have the board say what it runs, and leave that beside the build; raises BoardError."""
    terminal.say("waiting for the board to start, to ask what it runs")
    link = _reopen(Attached(port=port, target=plan.target))
    try:
        proof = prove(
            Board(link),
            labels,
            address=plan.address,
            estimated_ms=document["numbers"]["estimated_ms"],
        )
    finally:
        link.close()
    terminal.proved(proof)
    if plan.build is not None:
        write_proof(plan.build, proof)
        write_report(plan.build, document)
    if not proof.ok:
        raise BoardError(
            "the board does not do with this model what it should: " + "; ".join(proof.failures),
            hint="press its reset button and run the same command again; if that changes nothing, "
            f"its firmware may not be {plan.target.firmware.name}",
        )


def _reopen(board: Attached) -> Link:
    """The line to a board that restarts; raises BoardError if it does not come back."""
    deadline = time.monotonic() + _RETURN_S
    while True:
        try:
            return open_link(board.now().path, board.target.device.baud)
        except (PortMissing, BoardGone):
            if time.monotonic() > deadline:
                raise
            time.sleep(_LOOK_EVERY_S)
