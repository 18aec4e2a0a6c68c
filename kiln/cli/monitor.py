"""``kiln monitor``: shows on a page what a board sees, until Ctrl-C."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import ipaddress
import shlex
import webbrowser
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from kiln.cli.console import Terminal
from kiln.cli.options import board_options, option
from kiln.cli.session import Session
from kiln.device.discovery import AttachedBoard, find_board
from kiln.device.labels import Description, describe, to_info
from kiln.device.link import open_link
from kiln.device.ports import Port
from kiln.device.sscma import AtClient
from kiln.errors import RequestError
from kiln.executors.protocol import ExecutorName
from kiln.monitor.hub import Hub
from kiln.monitor.recording import Recorder, Recording, default_folder, unused
from kiln.monitor.server import MonitorServer
from kiln.monitor.session import START_S, DeviceInfo, DeviceSession, SscmaSession
from kiln.plan.request import BuildRequest
from kiln.plan.targets import CameraMode, Target, load_target

DEMO_TARGET = "grove-v2"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MonitorRequest:
    """Which board to show, and where the page is.

    ``port`` or ``target`` name the board, None takes the only one. ``demo`` takes the emulated
    one with the model of ``build``, None for that of the demo data set, and ``executor`` is where
    its steps run. ``http_port`` 0 is a free one. ``record`` starts a recording there.
    """

    port: str | None
    target: str | None
    demo: bool
    executor: ExecutorName | None
    build: Path | None
    listen: str
    http_port: int
    record: Path | None
    show: bool


@click.command()
@board_options
@click.option("--demo", is_flag=True, help="Show an emulated board with the demo's images.")
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

    The page is for this host alone; with --listen, for everybody who has the address that is
    printed.
    """
    monitor_board(MonitorRequest(**settings), Session.start())


def monitor_board(request: MonitorRequest, session: Session) -> None:
    """Serve the page until Ctrl-C; then stop the board and finish the recording."""
    recorder = Recorder(_folders(request.record))
    with contextlib.ExitStack() as stack:
        connect = stack.enter_context(_board(request, session))
        # Closed in this order: the page, the board, then the recording.
        stack.callback(recorder.stop)
        hub = stack.enter_context(Hub(connect))
        hub.subscribe(recorder.offer)
        server = stack.enter_context(
            MonitorServer(hub, recorder, address=request.listen, port=request.http_port)
        )
        with contextlib.suppress(KeyboardInterrupt):
            if request.record is not None:
                recorder.start(hub.state.device.labels)
            _show_address(hub.state.device, server.url, session.terminal)
            _open(request, server.url, session.terminal)
            hub.wait()
    _show_recording(recorder.recording, session.terminal)


def _show_address(info: DeviceInfo, url: str, terminal: Terminal) -> None:
    terminal.say(f"{info.labels.name or 'a model'} on {info.board}, {info.port}")
    terminal.result(url)
    terminal.say("Ctrl-C ends it")


def _folders(first: Path | None) -> Callable[[], Path]:
    """Where recordings go: the first into the folder that was named, further ones beside it."""
    return default_folder if first is None else functools.partial(unused, first)


@contextlib.contextmanager
def _board(request: MonitorRequest, session: Session) -> Iterator[Callable[[], DeviceSession]]:
    """A function that opens the board, each time that it comes back."""
    if request.demo:
        with _emulated_board(request, session) as board:
            yield functools.partial(_open_session, board, "emulated")
    else:
        targets = session.paths.root / "targets"
        attached = find_board(targets, port=request.port, target=request.target)
        yield functools.partial(_open_session, attached, None)


def _open_session(board: AttachedBoard, shown: str | None) -> DeviceSession:
    """Open a board at its current port; ``shown`` is displayed instead. Raises BoardError."""
    port = board.current_port().path
    return SscmaSession(open_link(port, board.target.device.baud), shown or port)


@contextlib.contextmanager
def _emulated_board(request: MonitorRequest, session: Session) -> Iterator[AttachedBoard]:
    """A board that sees the images of the demo data set, with the model of a build on it."""
    # A real board needs none of it.
    from kiln.emulator.board import EmulatedBoard
    from kiln.emulator.recorded_model import record_model
    from kiln.pipeline.runner import Runner
    from kiln.report.result import load_build

    target = load_target(session.paths.root / "targets", request.target or DEMO_TARGET)
    if target.device.protocol is None:
        raise RequestError(
            f"the firmware of {target.name} does not speak the AT protocol: it is not emulated",
            hint=f"show the demo of another board: TARGET={DEMO_TARGET}",
        )
    build = BuildRequest(target=target.name, executor=request.executor or "auto")
    with session.working():
        folder = request.build or _demo_build(build, target, session)
        built = load_build(folder)
        runner = Runner(session.paths, build.limits, session.executor(build))
        recorded = record_model(built, folder, target, runner, session.terminal.progress())
    file = (folder / built.deployed).read_bytes()
    board = EmulatedBoard(recorded)
    board.load(file, target.flash.model_address)
    with board:
        attached = AttachedBoard(port=Port(path=board.port), target=target)
        _write_labels(attached, describe(built), target.camera.mode(built.request.camera.mode))
        yield attached


def _demo_build(request: BuildRequest, target: Target, session: Session) -> Path:
    """The result folder of the demo data set, made now if it is not there."""
    from kiln.pipeline.build import Build
    from kiln.plan.plan import make_plan

    plan = make_plan(request, target)
    folder = session.paths.result_of(target.name, plan.name)
    if not (folder / "build.json").is_file():
        session.terminal.say("the demo needs a model, which is made first: this takes some minutes")
        Build(plan, session.paths, session.executor(request)).run(session.terminal.progress())
    return folder


def _write_labels(attached: AttachedBoard, description: Description, mode: CameraMode) -> None:
    """Leave the model's labels on a board and its camera in a mode, as `kiln flash` does."""
    link = open_link(attached.port.path, attached.target.device.baud)
    with contextlib.closing(link):
        board = AtClient(link)
        board.wait_until_ready(START_S)
        board.set_info(to_info(description))
        for sensor in board.sensors():
            board.set_sensor(sensor.id, mode.option or 0)


def _open(request: MonitorRequest, url: str, terminal: Terminal) -> None:
    # The token would stand in the list of processes, as the browser's argument.
    if not request.show or not ipaddress.ip_address(request.listen).is_loopback:
        return
    if not webbrowser.open(url):
        terminal.say("no browser was found on this host: open the address yourself")


def _show_recording(recording: Recording, terminal: Terminal) -> None:
    if recording.note:
        terminal.say(f"the recording ended by itself: {recording.note}")
    if recording.images:
        folder = shlex.quote(recording.folder)
        terminal.done(
            f"recorded {recording.images} images, {recording.objects} objects; "
            f"train with them: kiln build --task {recording.task} --data {folder} "
            f"--camera {recording.camera}"
        )
