"""``kiln flash``: writes a model to a board, and checks there that the board runs it."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import click

from kiln.cli.console import Terminal
from kiln.cli.options import option, port_option, request_options, requests_of
from kiln.cli.session import Session
from kiln.cli.transfer import TransferBar
from kiln.device.board_firmware import ModelNeeds, ask_firmware, describe_firmware, refusal
from kiln.device.discovery import AttachedBoard
from kiln.device.flash import (
    FlashPlan,
    check_verdict,
    plan_file,
    plan_flash,
    record_flash,
    write_we2,
)
from kiln.device.labels import Description, describe
from kiln.device.link import Link, open_link
from kiln.device.on_device_check import check_on_device
from kiln.device.ports import Port, attached_ports, find_port
from kiln.device.sscma import AtClient
from kiln.errors import BoardError, BoardGone, Interrupted, PortMissing, RequestError
from kiln.pipeline.build import write_report
from kiln.plan.plan import make_plan
from kiln.plan.request import BuildRequest
from kiln.plan.targets import load_target
from kiln.report.board_record import BoardRecord, write_board_record
from kiln.report.result import BUILD_FILE, BuildResult, load_build

#: A board with a USB port of its own vanishes from the bus while it restarts.
_RETURN_S = 10.0
_LOOK_EVERY_S = 0.2
#: How long a board may take to say which firmware it has; asked twice.
_ANSWER_S = 1.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlashRequest:
    """What goes where. ``source`` is a result folder, its build.json, or a TFLite file; None
    stands for the result of ``build``. ``target_given`` says that the user named the target.
    """

    build: BuildRequest
    source: Path | None
    target_given: bool
    port: str | None
    address: int | None
    check: bool


@click.command()
@click.argument("build", required=False, type=click.Path(exists=True, path_type=Path))
@request_options
@port_option
@option("--address", metavar="ADDRESS", help="Where in the flash, as 0x400000; the target's.")
@click.option(
    "--check/--no-check", default=True, help="Then check on the board that it runs the model."
)
def flash(
    build: Path | None,
    port: str | None,
    address: str | None,
    check: bool,
    config: Path | None,
    **flags: Any,
) -> None:
    """Write a model to the flash of an attached board, and check that the board runs it.

    BUILD is a result folder or a .tflite file; without it, the result of the build which the
    settings ask for. Ends with 17 if the board cannot be reached or fails the check, with 18 if
    writing failed.
    """
    requests = requests_of(config, flags)
    if len(requests) != 1:
        raise RequestError("one board is flashed at a time", hint="name it: TARGET=grove-v2")
    request = FlashRequest(
        build=requests[0],
        source=build,
        target_given=flags["target"] is not None,
        port=port,
        address=_number(address),
        check=check,
    )
    flash_board(request, Session.start())


def flash_board(request: FlashRequest, session: Session) -> None:
    """Write a model to a board; every refusal comes before its port is opened."""
    terminal = session.terminal
    plan, build = _plan(request, session)
    if plan.target.device.loader == "copy":
        _say_where_to_copy(plan, request, terminal)
        return
    checks = request.check and plan.target.device.protocol == "sscma"
    labels = describe(build) if checks and build is not None else None
    port = find_port(plan.target, request.port, attached_ports())
    terminal.say(f"{plan.file} to {plan.target.title} at {port}")
    _ask_board(plan, port, force=request.build.force, terminal=terminal)
    if plan.target.device.before:
        terminal.say(" ".join(plan.target.device.before.split()))
    started = time.monotonic()
    _write(plan, port, session)
    record_flash(session.paths.home, plan, port.path, port.serial_number)
    terminal.done(
        f"wrote {len(plan.model) / 1024:,.1f} KiB (sha256 {plan.sha256[:12]}) to "
        f"{plan.address:#x} of {plan.target.title} at {port.path} "
        f"in {time.monotonic() - started:.1f} s"
    )
    if labels is not None and build is not None:
        _check(plan, labels, build, port, terminal)
    elif checks:
        terminal.say("not checked on the board: a bare file has no labels and no estimate")


def show_record(record: BoardRecord, terminal: Terminal) -> None:
    """What a board does with a model: every check, and the time beside the estimate."""
    for check in record.checks:
        expected = "" if check.ok else f", expected {check.expected}"
        sign = "✓" if check.ok else "✕"
        terminal.mark(sign, f"{check.title}: {check.figure}{expected}", out=True)
    estimate = "" if record.estimated_ms is None else f", {record.estimated_ms:.1f} estimated"
    terminal.result(
        f"speed     {record.inference_ms:g} ms measured on board{estimate}; "
        f"{record.preprocess_ms:g} ms before it and {record.postprocess_ms:g} ms after it"
    )
    for warning in record.warnings:
        terminal.warn(warning)


def _plan(request: FlashRequest, session: Session) -> tuple[FlashPlan, BuildResult | None]:
    """What is written where, and the build that it is from, if it is from one."""
    source = request.source
    targets = session.paths.root / "targets"
    if source is not None and source.is_file() and source.name != BUILD_FILE:
        plan = plan_file(source, load_target(targets, request.build.target), request.address)
        if not request.build.force:
            plan = dataclasses.replace(plan, needs=_inspect(source, request.build, session))
        return plan, None
    if source is None:
        target = load_target(targets, request.build.target)
        source = session.paths.result_of(target.name, make_plan(request.build, target).name)
        if not (source / BUILD_FILE).is_file():
            raise RequestError(
                f"there is no model for {target.name} yet: {source} is not there",
                hint=f"make it first, with the same settings: make model TARGET={target.name}",
            )
    build = load_build(source)
    folder = source if source.is_dir() else source.parent
    named = request.source is None or request.target_given
    target = load_target(targets, request.build.target if named else build.target)
    plan = plan_flash(build, folder, target, request.address, force=request.build.force)
    return dataclasses.replace(plan, needs=_needs(build, describe(build))), build


def _inspect(file: Path, request: BuildRequest, session: Session) -> ModelNeeds:
    """A file has no verdict yet: raises NotAccepted if the firmware would not take it."""
    # A build's own file needs none of it.
    from kiln.cli.inspect import inspect_file

    found = inspect_file(file, dataclasses.replace(request, data=None), session)
    check_verdict(found.verdict, found.firmware)
    return ModelNeeds(
        task=found.task,
        classes=found.model.classes,
        operators=tuple(found.model.operators.cpu),
        arena_kib=found.sram.used_kib,
    )


def _needs(build: BuildResult, labels: Description) -> ModelNeeds:
    return ModelNeeds(
        task=build.task,
        classes=len(labels.classes),
        operators=tuple(build.numbers.operators.get("cpu", {})),
        arena_kib=build.numbers.sram.used_kib,
    )


def _ask_board(plan: FlashPlan, port: Port, *, force: bool, terminal: Terminal) -> None:
    """Ask the board's firmware whether it knows this model, before anything is written.

    A board that does not answer may have no firmware yet. Raises BoardError, unless ``force``, if
    the firmware cannot run the model.
    """
    if plan.needs is None or plan.target.device.protocol is None:
        return
    link = open_link(port.path, plan.target.device.baud)
    try:
        found = ask_firmware(AtClient(link, timeout_s=_ANSWER_S))
    finally:
        link.close()
    if found is None:
        terminal.say(
            "the board does not answer AT commands, so its firmware cannot be asked whether it "
            "knows this model: writing all the same"
        )
        return
    problem = refusal(plan.needs, found, plan.target)
    if problem and not force:
        raise BoardError(
            problem,
            hint="update the board's firmware, or write the model all the same with FORCE=1",
        )
    if problem:
        terminal.warn(problem)
    else:
        terminal.say(f"its firmware is {describe_firmware(found, plan.target)}")


def _say_where_to_copy(plan: FlashPlan, request: FlashRequest, terminal: Terminal) -> None:
    """For a board whose file is copied by hand; raises RequestError for what has no meaning."""
    copy = plan.target.device.copy
    if copy is None:
        raise RequestError(f"targets/{plan.target.name}.toml lacks the table [device.copy]")
    if request.address is not None or request.port is not None:
        raise RequestError(
            f"the file for {plan.target.title} is copied by hand",
            hint="leave PORT and ADDRESS out",
        )
    terminal.result(f"copy {plan.path} to {copy.place} as {copy.name}; then {copy.then}")


def _write(plan: FlashPlan, port: Port, session: Session) -> None:
    """Raises Interrupted if the user breaks it off; the board is left ready for another try."""
    with TransferBar(session.terminal.progress_console) as bar:
        try:
            if plan.target.device.loader == "esp":
                _write_esp(plan, port, bar, session)
            else:
                _write_we2(plan, port, bar, session.terminal)
        except KeyboardInterrupt:
            raise Interrupted(
                "interrupted: the board's model area may hold half a model",
                hint="the board takes another attempt: run the same command again",
            ) from None


def _write_we2(plan: FlashPlan, port: Port, bar: TransferBar, terminal: Terminal) -> None:
    link = open_link(port.path, plan.target.device.baud)
    try:
        bar.begin("writing the model")
        write_we2(link, plan, bar.advance, terminal.say)
    finally:
        link.close()


def _write_esp(plan: FlashPlan, port: Port, bar: TransferBar, session: Session) -> None:
    from kiln.device.esp import Esptool

    tool = Esptool.prepare(session.paths, session.terminal.say)
    tool.write(plan, port.path, bar.begin, bar.advance)


def _check(
    plan: FlashPlan,
    labels: Description,
    build: BuildResult,
    port: Port,
    terminal: Terminal,
) -> None:
    """Check on the board what it runs, and leave the record beside the build.

    Raises BoardError if the board cannot be asked, or if a check fails.
    """
    terminal.say("waiting for the board to start, to check what it runs")
    link = _reopen(AttachedBoard(port=port, target=plan.target))
    try:
        record = check_on_device(
            AtClient(link),
            labels,
            address=plan.address,
            camera=plan.target.camera.mode(build.request.camera.mode),
            estimated_ms=build.numbers.estimated_ms,
        )
    finally:
        link.close()
    show_record(record, terminal)
    if plan.build is not None:
        write_board_record(plan.build, record)
        write_report(plan.build, build)
    if not record.ok:
        raise BoardError(
            "the board does not run this model as expected: " + "; ".join(record.failures),
            hint="press its reset button and run the same command again; if that changes nothing, "
            f"its firmware may not be {build.board.firmware}",
        )


def _reopen(board: AttachedBoard) -> Link:
    """The line to a board that restarts; raises BoardError if it does not come back."""
    deadline = time.monotonic() + _RETURN_S
    while True:
        try:
            return open_link(board.current_port().path, board.target.device.baud)
        except (PortMissing, BoardGone):
            if time.monotonic() > deadline:
                raise
            time.sleep(_LOOK_EVERY_S)


def _number(text: str | None) -> int | None:
    """An address as a user writes it: decimal, or hexadecimal with 0x; raises RequestError."""
    try:
        return None if text is None else int(text, 0)
    except ValueError:
        raise RequestError(f"ADDRESS={text} is no number", hint="write it as 0x400000") from None
