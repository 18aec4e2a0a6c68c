"""The emulated board's firmware and its line: what other tests take for a board must be one."""

from __future__ import annotations

import binascii
import os
import threading
import time
from typing import Any

import pytest

from kiln.emulator.board import EmulatedBoard
from kiln.emulator.faults import Faults, Noise
from kiln.emulator.firmware import Camera, Firmware
from kiln.emulator.flash import MODELS_ADDRESS
from tests.device.conftest import MakeBoard, OpenLine
from tests.device.host import packet, preamble
from tests.support.emulated_models import GREY_JPEG, MODEL, FixedModel
from tests.support.random_faults import random_faults


def flashed_board(make: MakeBoard, **settings: Any) -> EmulatedBoard:
    """A board with a model that it can run."""
    return make(FixedModel(), file=MODEL, **settings)


def test_the_firmware_answers(emulated_board: MakeBoard, line: OpenLine) -> None:
    host = line(flashed_board(emulated_board))
    assert host.ask("AT+NAME?")["data"] == "Grove Vision AI V2"
    assert host.ask("at+t1@id?")["name"] == "T1@ID?"
    assert host.ask("AT+VER?")["data"].keys() == {"at_api", "software", "hardware"}
    assert host.ask("AT+STAT?")["data"] == {"boot_count": 1, "is_ready": 1}
    assert [model["id"] for model in host.ask("AT+MODELS?")["data"]] == [1]
    assert 5 in [algorithm["type"] for algorithm in host.ask("AT+ALGOS?")["data"]]
    assert host.ask("AT+SENSOR=1,1,0")["data"]["sensor"] == host.ask("AT+SENSORS?")["data"][0]
    assert host.ask("AT+SENSOR=1,1,2")["code"] == 5
    assert host.ask("AT+MODEL=7")["code"] == 5
    unknown = host.ask("AT+COFFEE")
    assert (unknown["type"], unknown["code"]) == (2, 5)
    assert host.ask("AT+INVOKE=1")["type"] == 2


def test_what_the_firmware_says_when_it_starts_answers_no_command(
    emulated_board: MakeBoard, line: OpenLine
) -> None:
    """A host that took any reply for the next one would be told that INVOKE succeeded."""
    board = flashed_board(emulated_board)
    host = line(board)
    started = board.boot_count
    board.reset()
    board.wait_until(lambda board: board.boot_count > started)
    assert host.ask("AT+INVOKE=1,0,1")["data"]["algorithm"]["type"] == 5


def test_a_board_is_never_seen_in_the_middle_of_a_step(
    emulated_board: MakeBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    starting = threading.Event()
    start = Firmware.start

    def slowly(self: Firmware) -> None:
        starting.set()
        time.sleep(0.1)
        start(self)

    board = emulated_board()
    monkeypatch.setattr(Firmware, "start", slowly)
    board.reset()
    assert starting.wait(5)
    board.wait_until(lambda board: board.mode == "firmware")
    assert board.boot_count == 2


def test_info_outlives_a_reset_and_a_new_model(emulated_board: MakeBoard, line: OpenLine) -> None:
    board = flashed_board(emulated_board)
    host = line(board)
    # The checksum that the protocol's own document gives for this text.
    assert host.ask('AT+INFO="Hello World!"')["data"] == {"crc16_maxim": 43073}
    host.ask(r'AT+INFO="a \"quoted\" word"')
    board.load(bytes(8))
    host.write(b"AT+RST\r")
    assert host.frame()["name"] == "INIT@STAT?"
    assert host.ask("AT+INFO?")["data"]["info"] == 'a "quoted" word'
    assert host.ask("AT+MODEL?")["code"] == 5
    assert host.ask("AT+INVOKE=1,0,1")["code"] == 5


def test_a_model_that_cannot_be_run_is_not_invoked(
    emulated_board: MakeBoard, line: OpenLine
) -> None:
    assert line(emulated_board(file=MODEL)).ask("AT+INVOKE=1,0,1")["code"] == 9


def test_an_invocation_counts_its_events_and_ends(
    emulated_board: MakeBoard, line: OpenLine
) -> None:
    board = flashed_board(emulated_board, camera=Camera(fps=100, perf_ms=(1, 2, 3)))
    host = line(board)
    reply = host.ask("AT+me@INVOKE=3,0,1")
    assert reply["data"]["algorithm"] == {
        **{"type": 5, "categroy": 2, "input_from": 1},
        "config": {"tscore": 50, "tiou": 45},
    }
    events = [host.frame() for _ in range(3)]
    assert [event["data"]["count"] for event in events] == [1, 2, 3]
    assert {event["name"] for event in events} == {"ME@INVOKE"}
    assert events[0]["data"]["perf"] == [1, 2, 3]
    assert events[0]["data"]["resolution"] == [240, 240]
    assert "image" not in events[0]["data"]
    assert host.is_quiet(0.1)
    assert not board.invoking
    assert host.ask("AT+TSCORE?")["type"] == 2


def test_thresholds_change_what_is_reported(emulated_board: MakeBoard, line: OpenLine) -> None:
    board = flashed_board(emulated_board, camera=Camera(fps=100))
    host = line(board)

    def scores() -> list[int]:
        """Of the first event after all that was asked before."""
        host.ask("AT+STAT?")
        return [box[4] for box, _points in host.frame()["data"]["keypoints"]]

    host.ask("AT+INVOKE=-1,0,0")
    assert scores() == [75, 92]
    assert host.ask("AT+TSCORE=20")["data"] == 20
    assert scores() == [30, 75, 92]
    host.ask("AT+TIOU=95")
    assert scores() == [30, 75, 81, 92]
    refused = host.ask("AT+TSCORE=101")
    assert (refused["code"], refused["data"]) == (5, 20)
    image = host.frame()["data"]["image"]
    assert binascii.a2b_base64(image) == GREY_JPEG
    host.ask("AT+BREAK")
    assert host.is_quiet(0.1)
    host.write(b"AT+RST\r")
    host.frame()
    assert host.ask("AT+INVOKE=1,0,1")["data"]["algorithm"]["config"]["tscore"] == 20


def test_only_what_differs_is_reported_if_so_asked(
    emulated_board: MakeBoard, line: OpenLine
) -> None:
    board = flashed_board(emulated_board, camera=Camera(fps=100))
    host = line(board)
    host.ask("AT+INVOKE=-1,1,1")
    assert host.frame()["data"]["count"] == 1
    assert host.is_quiet(0.1)
    host.ask("AT+TSCORE=20")
    assert host.frame()["data"]["count"] > 1


def test_a_host_that_does_not_read_holds_up_the_camera_and_loses_nothing(
    emulated_board: MakeBoard, line: OpenLine
) -> None:
    board = flashed_board(emulated_board, camera=Camera(fps=1000))
    host = line(board)
    host.ask("AT+INVOKE=200,0,0")
    with pytest.raises(TimeoutError):
        board.wait_until(lambda board: not board.invoking, timeout_s=0.5)
    assert [host.frame()["data"]["count"] for _ in range(200)] == list(range(1, 201))


def test_nothing_arrives_before_the_wire_can_have_carried_it(
    emulated_board: MakeBoard, line: OpenLine
) -> None:
    """How close it comes to that time, scripts/bench_flash.py measures."""
    board = emulated_board(baud=19_200)
    host = line(board)
    question = "AT+" + "X" * 300 + "\r"
    started = time.monotonic()
    host.write(question.encode("ascii"))
    host.until(b"Unknown")
    wire = 10 * (len(question) + len('\r{"type": 2, "name": "AT", "code": 5, "data": "Unknown'))
    assert time.monotonic() - started >= 0.99 * wire / 19_200


@pytest.mark.parametrize("kind", ["drop", "duplicate", "corrupt"])
def test_noise_on_the_line_spoils_some_frames(
    emulated_board: MakeBoard, line: OpenLine, kind: str
) -> None:
    def received(faults: Faults) -> bytes:
        """What a host gets of an invocation, which a pseudo-terminal can hold until it reads."""
        board = flashed_board(emulated_board, camera=Camera(fps=1000))
        host = line(board)
        host.ask("AT+ID?")
        board.set_faults(faults)
        host.write(b"AT+INVOKE=6,0,1\r")
        board.wait_until(lambda board: len(board.commands) == 2 and not board.invoking)
        board.set_faults(Faults())
        host.write(b"AT+NAME?\r")
        return host.until(b'"Grove Vision AI V2"')

    spoilt = received(Faults(seed=1, to_host=Noise(**{kind: 0.01})))
    intact = received(Faults())
    assert spoilt != intact
    longer = {"drop": -1, "duplicate": 1, "corrupt": 0}[kind]
    assert (len(spoilt) > len(intact)) - (len(spoilt) < len(intact)) == longer


def test_a_board_that_hangs_says_nothing_until_it_is_reset(
    emulated_board: MakeBoard, line: OpenLine
) -> None:
    board = emulated_board(faults=Faults(silent_after=500))
    host = line(board)
    for _ in range(60):
        host.write(b"AT+ID?\r" * 2)
    board.wait_until(lambda board: board.mode == "silent")
    assert len(board.commands) == 71
    host.enter_bootloader()


def test_an_unplugged_board_loses_its_port_and_gets_it_back(
    emulated_board: MakeBoard, line: OpenLine
) -> None:
    board = emulated_board(faults=Faults(unplug_after=300))
    host = line(board)
    host.enter_bootloader()
    host.write(packet(1, preamble(MODELS_ADDRESS)) * 3)
    board.wait_until(lambda board: board.mode == "unplugged")
    assert not os.path.lexists(board.port)
    with pytest.raises(BrokenPipeError):
        host.until(b"never")
    board.plug_in()
    board.wait_until(lambda board: board.mode == "firmware")
    assert line(board).ask("AT+STAT?")["data"]["boot_count"] == 2


def test_a_board_may_restart_by_itself(emulated_board: MakeBoard, line: OpenLine) -> None:
    board = emulated_board(faults=Faults(reboot_after=400, boot_noise=50))
    host = line(board)
    host.enter_bootloader()
    host.announce(MODELS_ADDRESS)
    host.write(b"".join(packet(number, MODEL) for number in (1, 2, 3)))
    assert host.frame()["name"] == "INIT@STAT?"


def test_frames_may_lose_their_end(emulated_board: MakeBoard, line: OpenLine) -> None:
    board = emulated_board(faults=Faults(truncate_json=1.0))
    host = line(board)
    host.write(b"AT+ID?\r")
    board.wait_until(lambda board: board.commands == ["AT+ID?"])
    board.set_faults(Faults())
    host.write(b"AT+NAME?\r")
    received = host.until(b'"Grove Vision AI V2"}\n')
    assert b"7e2d02cf" + b'"}\n' not in received


def test_drawn_faults_are_the_same_again_and_of_every_kind() -> None:
    drawn = [random_faults(seed) for seed in range(300)]
    assert drawn == [random_faults(seed) for seed in range(300)]
    clean = Faults()
    for name in vars(clean):
        assert any(getattr(faults, name) != getattr(clean, name) for faults in drawn) or (
            name == "truncate_json"  # nothing that is flashed is told in JSON
        )
