"""Which board is meant, and where it is after it was unplugged."""

from __future__ import annotations

from pathlib import Path

import pytest

from kiln.device import discovery
from kiln.device.discovery import AttachedBoard, find_board
from kiln.device.ports import Port
from kiln.errors import BoardError, RequestError
from kiln.plan.targets import load_target

TARGETS = Path(__file__).resolve().parents[3] / "targets"
GROVE = Port(path="/dev/ttyACM0", usb="1a86:55d3", serial_number="A1")
XIAO = Port(path="/dev/ttyACM1", usb="303a:1001", serial_number="B2")


def _plug(monkeypatch: pytest.MonkeyPatch, *ports: Port) -> None:
    monkeypatch.setattr(discovery, "attached_ports", lambda: list(ports))


def _grove(port: Port = GROVE) -> AttachedBoard:
    return AttachedBoard(port=port, target=load_target(TARGETS, "grove-v2"))


def test_the_only_board_needs_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    _plug(monkeypatch, Port(path="/dev/ttyS0"), XIAO)
    found = find_board(TARGETS, port=None, target=None)
    assert (found.port, found.target.name) == (XIAO, "xiao-esp32s3")


def test_of_two_boards_one_must_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    _plug(monkeypatch, GROVE, XIAO)
    with pytest.raises(BoardError, match="several boards are attached"):
        find_board(TARGETS, port=None, target=None)
    assert find_board(TARGETS, port=None, target="grove-v2").port == GROVE
    assert find_board(TARGETS, port=XIAO.path, target=None).port == XIAO


def test_one_port_that_several_boards_may_have_needs_no_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shared = Port(path="/dev/ttyACM0", usb="1a86:55d2")
    _plug(monkeypatch, shared)
    assert find_board(TARGETS, port=None, target=None).port == shared
    assert find_board(TARGETS, port=None, target="sensecap-watcher").port == shared


def test_what_is_not_there_or_does_not_talk_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    _plug(monkeypatch)
    with pytest.raises(BoardError, match="none of these is attached"):
        find_board(TARGETS, port=None, target=None)
    with pytest.raises(BoardError, match="no Grove Vision AI V2 is attached"):
        find_board(TARGETS, port=None, target="grove-v2")
    with pytest.raises(RequestError, match="does not speak the AT protocol"):
        find_board(TARGETS, port=None, target="grove-v2-himax")


def test_a_board_is_found_by_its_serial_number_at_another_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moved = Port(path="/dev/ttyACM4", usb=GROVE.usb, serial_number="A1")
    _plug(monkeypatch, XIAO, moved)
    assert _grove().current_port() == moved


def test_without_a_serial_number_it_is_awaited_where_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nameless = Port(path="/dev/ttyACM0", usb=GROVE.usb)
    _plug(monkeypatch, Port(path="/dev/ttyACM3", usb=GROVE.usb), XIAO)
    assert _grove(nameless).current_port() == nameless
    _plug(monkeypatch)
    assert _grove().current_port() == GROVE
