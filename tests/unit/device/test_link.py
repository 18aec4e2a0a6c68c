"""The line to a board, on a pseudo-terminal: what goes over it, and why it cannot be opened."""

from __future__ import annotations

import os
import subprocess
import sys
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

from kiln.device import link as link_module
from kiln.device.link import holders_of, open_link
from kiln.errors import BoardError, BoardGone, PortBusy, PortForbidden, PortMissing

BAUD = 921_600
_HOLD = "import sys; stream = open(sys.argv[1]); print('held', flush=True); sys.stdin.read()"


@pytest.fixture
def ends() -> Iterator[tuple[int, str]]:
    """The board's end of a line, and the path of the host's."""
    master, slave = os.openpty()
    tty.setraw(slave)
    yield master, os.ttyname(slave)
    os.close(slave)
    os.close(master)


def test_bytes_pass_as_they_are(ends: tuple[int, str]) -> None:
    board, port = ends
    link = open_link(port, BAUD)
    everything = bytes(range(256))
    link.write(everything)
    assert os.read(board, 1000) == everything
    os.write(board, everything)
    assert link.read(1) == everything
    assert link.read(0) == b""
    link.reset()
    link.close()


def test_a_line_has_one_user(ends: tuple[int, str]) -> None:
    link = open_link(ends[1], BAUD)
    with pytest.raises(PortBusy, match="is in use by"):
        open_link(ends[1], BAUD)
    link.close()
    open_link(ends[1], BAUD).close()


def test_a_board_that_vanishes_is_noticed() -> None:
    board, slave = os.openpty()
    link = open_link(os.ttyname(slave), BAUD)
    os.close(slave)
    os.close(board)
    with pytest.raises(BoardGone, match="is gone"):
        link.read(1)
    with pytest.raises(BoardGone):
        link.write(b"1")
    link.close()


def test_who_holds_a_device_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "_TERMINALS", tmp_path)
    device = tmp_path / "device"
    device.touch()
    (tmp_path / "link").symlink_to(device)
    holder = [sys.executable, "-c", _HOLD, str(device)]
    with subprocess.Popen(holder, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        for path in (device, tmp_path / "link"):
            (found,) = holders_of(str(path))
            assert f"(pid {process.pid})" in found
        with pytest.raises(PortBusy, match=f"pid {process.pid}"):
            open_link(str(device), BAUD)
        process.communicate()
    assert holders_of(str(device)) == []


def test_why_a_port_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PortMissing, match="there is no port"):
        open_link(str(tmp_path / "nothing"), BAUD)
    plain = tmp_path / "plain"
    plain.touch()
    with pytest.raises(BoardError, match="cannot be opened"):
        open_link(str(plain), BAUD)
    # The tests may run as root, who may use every port.
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)
    with pytest.raises(PortForbidden) as caught:
        open_link(str(plain), BAUD)
    assert "dialout" in caught.value.hint
