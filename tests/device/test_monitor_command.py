"""`kiln monitor` as a user runs it, with the emulated board at the other end of its port."""

from __future__ import annotations

import contextlib
import http.client
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from kiln.emulator.board import EmulatedBoard
from kiln.emulator.firmware import Camera
from tests.support.checkout import ROOT
from tests.support.emulated_models import MODEL, FixedModel, candidate
from tests.support.scripted_session import jpeg

_PATIENCE_S = 20.0


@pytest.fixture
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatedBoard]:
    """Finds one thing in images that pass for whole JPEGs."""
    thing = candidate((20, 20, 60, 60), score=0.9)
    emulated = EmulatedBoard(
        FixedModel(thing, pose=False, file=MODEL, jpeg=jpeg),
        camera=Camera(fps=50),
        boot_s=0.05,
        link=tmp_path_factory.mktemp("dev") / "ttyACM0",
    )
    emulated.load(MODEL)
    with emulated:
        yield emulated


@contextlib.contextmanager
def _kiln_monitor(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "kiln", "monitor", "--no-open", *arguments]
    with subprocess.Popen(
        command,
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_the_board_and_says_where_the_recording_is(
    board: EmulatedBoard, tmp_path: Path, number: signal.Signals
) -> None:
    with _kiln_monitor(tmp_path, "--port", board.port, "--record", "what it saw") as process:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", _address(process))
        _until(lambda: len(list(tmp_path.glob("what it saw/images/*/*.jpg"))) >= 20)
        assert board.invoking
        process.send_signal(number)
        out, _said = process.communicate(timeout=_PATIENCE_S)
    assert process.returncode == 0
    assert not board.invoking
    found = re.search(r"recorded (\d+) images, (\d+) objects; train with them: (.*)\n", out)
    assert found is not None
    assert found[1] == found[2]
    assert found[3] == "kiln build --task detect --data 'what it saw' --camera 240x240"
    images = list(tmp_path.glob("what it saw/images/*/*.jpg"))
    assert len(images) == int(found[1])


def test_the_page_is_there_at_the_port_that_was_asked_for(
    board: EmulatedBoard, tmp_path: Path
) -> None:
    with _kiln_monitor(tmp_path, "--port", board.port, "--listen", "0.0.0.0") as process:
        address = urlsplit(_address(process))
        assert re.fullmatch(r"token=[\w-]{40,}", address.query)
        assert address.port
        connection = http.client.HTTPConnection("127.0.0.1", address.port, timeout=_PATIENCE_S)
        with contextlib.closing(connection):
            connection.request("GET", "/")
            assert connection.getresponse().status == 403
        with _kiln_monitor(
            tmp_path, "--port", board.port, "--http-port", str(address.port)
        ) as second:
            assert second.wait(_PATIENCE_S) in (2, 17)


def test_without_a_board_it_ends_with_a_sentence(tmp_path: Path) -> None:
    with _kiln_monitor(tmp_path, "--port", str(tmp_path / "ttyACM7")) as process:
        _out, said = process.communicate(timeout=_PATIENCE_S)
    assert process.returncode == 17
    assert "there is no port" in said
    assert list(tmp_path.iterdir()) == []


def test_a_board_that_was_unplugged_is_found_again(board: EmulatedBoard, tmp_path: Path) -> None:
    with _kiln_monitor(tmp_path, "--port", board.port) as process:
        _address(process)
        board.wait_until(lambda each: each.invoking)
        board.unplug()
        board.plug_in()
        board.wait_until(lambda each: each.invoking, timeout_s=_PATIENCE_S)
        process.send_signal(signal.SIGINT)
        assert process.wait(_PATIENCE_S) == 0
