"""What `kiln monitor` does: shows on a page what a board sees, until Ctrl-C."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import ipaddress
import os
import shlex
import webbrowser
from collections.abc import Callable, Iterator
from pathlib import Path

from kiln.cli.console import Terminal
from kiln.device.discovery import Attached, find_board
from kiln.device.labels import Description, describe, to_info
from kiln.device.link import open_link
from kiln.device.ports import Port
from kiln.device.sscma import Board
from kiln.executors.protocol import Executor, ExecutorName
from kiln.monitor.hub import Hub
from kiln.monitor.recording import Recorder, Recording, default_folder, unused
from kiln.monitor.server import MonitorServer
from kiln.monitor.session import START_S, About, Camera, SscmaCamera
from kiln.paths import Paths
from kiln.plan.request import BuildRequest
from kiln.plan.targets import Target, load_target
from kiln.store.usage import shared_lock

DEMO_TARGET = "grove-v2"


@dataclasses.dataclass(frozen=True, kw_only=True)
class WatchRequest:
    """What is to be watched, and where the page is.

    ``port`` or ``target`` name the board, None takes the only one. ``demo`` takes the emulated
    one with the model of ``build``, None for that of the demo data set, and ``executor`` is where
    its steps run. ``http_port`` 0 is a free one. ``record`` begins a recording there.
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


def monitor_board(request: WatchRequest, paths: Paths) -> None:
    """Serve the page until Ctrl-C; then stop the board and finish the recording."""
    terminal = Terminal()
    recorder = Recorder(_folders(request.record))
    with contextlib.ExitStack() as stack:
        connect = stack.enter_context(_board(request, paths, terminal))
        # Closed in turn: the page, the board, and when nothing more comes the recording.
        stack.callback(recorder.stop)
        hub = stack.enter_context(Hub(connect))
        hub.subscribe(recorder.offer)
        server = stack.enter_context(
            MonitorServer(hub, recorder, address=request.listen, port=request.http_port)
        )
        with contextlib.suppress(KeyboardInterrupt):
            if request.record is not None:
                recorder.start(hub.state.about.labels)
            _say_where(hub.state.about, server.url, terminal)
            _open(request, server.url, terminal)
            hub.wait()
    _say_recorded(recorder.recording, terminal)


def _say_where(about: About, url: str, terminal: Terminal) -> None:
    terminal.say(f"{about.labels.name or 'a model'} on {about.board}, {about.port}")
    terminal.result(url)
    terminal.say("Ctrl-C ends it")


def _folders(first: Path | None) -> Callable[[], Path]:
    """Where recordings go: the first into the folder that was named, further ones beside it."""
    return default_folder if first is None else functools.partial(unused, first)


@contextlib.contextmanager
def _board(
    request: WatchRequest, paths: Paths, terminal: Terminal
) -> Iterator[Callable[[], Camera]]:
    """What opens the board that is meant, as often as it comes back."""
    if request.demo:
        with _emulated_board(request, paths, terminal) as board:
            yield functools.partial(_open_camera, board, "emulated")
    else:
        attached = find_board(paths.root / "targets", port=request.port, target=request.target)
        yield functools.partial(_open_camera, attached, None)


def _open_camera(board: Attached, shown: str | None) -> Camera:
    """Open it wherever it is now; ``shown`` is said instead of that. Raises BoardError."""
    port = board.now().path
    return SscmaCamera(open_link(port, board.target.device.baud), shown or port)


@contextlib.contextmanager
def _emulated_board(request: WatchRequest, paths: Paths, terminal: Terminal) -> Iterator[Attached]:
    """A board that sees the pictures of the demo data set, with the model of a build on it."""
    # A real board needs none of it.
    from kiln.emulator.board import EmulatedBoard
    from kiln.emulator.recorded_model import prepare_eye
    from kiln.pipeline.runner import Runner
    from kiln.report.result import load_build

    target = load_target(paths.root / "targets", request.target or DEMO_TARGET)
    asked = BuildRequest(target=target.name, executor=request.executor or "auto")
    choose = functools.partial(_choose, asked, paths, terminal)
    with shared_lock(paths.home, terminal.say):
        folder = request.build or _demo_build(asked, target, paths, choose, terminal)
        document = load_build(folder)
        runner = Runner(paths, asked.limits, choose)
        eye = prepare_eye(document, folder, target, runner, terminal.progress())
    model = (folder / document["deployed"]).read_bytes()
    address = target.flash.model_address
    with EmulatedBoard(eye) as board:
        board.flash[address : address + len(model)] = model
        board.reset()
        attached = Attached(port=Port(path=board.port), target=target)
        _describe(attached, describe(document))
        yield attached


def _demo_build(
    asked: BuildRequest,
    target: Target,
    paths: Paths,
    choose: Callable[[], Executor],
    terminal: Terminal,
) -> Path:
    """The result folder of the demo data set, made now if it is not there."""
    from kiln.pipeline.build import Build
    from kiln.plan.plan import make_plan

    plan = make_plan(asked, target)
    folder = paths.result_of(target.name, plan.name)
    if not (folder / "build.json").is_file():
        terminal.say("the demo needs a model, which is made first: this takes some minutes")
        Build(plan, paths, choose).run(terminal.progress())
    return folder


def _choose(asked: BuildRequest, paths: Paths, terminal: Terminal) -> Executor:
    from kiln.executors.choose import choose_executor

    return choose_executor(
        asked.executor,
        registry=asked.registry,
        root=paths.root,
        home=paths.home,
        variables=os.environ,
        say=terminal.say,
    )


def _describe(attached: Attached, description: Description) -> None:
    """Leave the model's labels on a board, as `kiln flash` does."""
    link = open_link(attached.port.path, attached.target.device.baud)
    with contextlib.closing(link):
        board = Board(link)
        board.wait(START_S)
        board.set_info(to_info(description))


def _open(request: WatchRequest, url: str, terminal: Terminal) -> None:
    # The token would stand in the list of processes, as the browser's argument.
    if not request.show or not ipaddress.ip_address(request.listen).is_loopback:
        return
    if not webbrowser.open(url):
        terminal.say("no browser was found on this host: open the address yourself")


def _say_recorded(recording: Recording, terminal: Terminal) -> None:
    if recording.note:
        terminal.say(f"the recording ended by itself: {recording.note}")
    if recording.pictures:
        folder = shlex.quote(recording.folder)
        terminal.done(
            f"recorded {recording.pictures} pictures, {recording.objects} objects; "
            f"train with them: kiln build --task {recording.task} --data {folder}"
        )
