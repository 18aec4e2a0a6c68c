"""The boot loader of the emulated board, byte by byte: what flashes it must meet a real one's."""

from __future__ import annotations

from typing import Any

import pytest

from kiln.emulator.board import EmulatedBoard
from kiln.emulator.faults import Faults, Noise
from kiln.emulator.flash import MODELS_ADDRESS
from tests.device.conftest import MakeBoard, OpenLine
from tests.device.host import ACK, CAN, EOT, MENU, NAK, Host, packet, preamble

MODEL = b"\x1c\0\0\0TFL3" + bytes(range(250)) * 20


def receiving(make: MakeBoard, open_line: OpenLine, **settings: Any) -> tuple[EmulatedBoard, Host]:
    """A board that waits for the first packet of a model, and its host."""
    board = make(**settings)
    host = open_line(board)
    host.enter_bootloader()
    host.announce(MODELS_ADDRESS)
    return board, host


def on_flash(board: EmulatedBoard, size: int) -> bytes:
    return bytes(board.flash[MODELS_ADDRESS : MODELS_ADDRESS + size])


def test_a_file_goes_through_the_boot_loader_into_the_flash(
    emulated_board: MakeBoard, line: OpenLine
) -> None:
    board, host = receiving(emulated_board, line)
    assert host.send(MODEL) == ACK
    host.end()
    assert on_flash(board, len(MODEL)) == MODEL
    host.write(b"y")
    assert host.frame()["name"] == "INIT@STAT?"
    assert board.boot_count == 2
    assert host.ask("AT+MODEL?")["data"]["address"] == MODELS_ADDRESS
    kinds = [(transfer.kind, transfer.address, transfer.whole) for transfer in board.transfers]
    assert kinds == [("preamble", MODELS_ADDRESS, True), ("model", MODELS_ADDRESS, True)]


def test_a_packet_with_a_wrong_checksum_is_not_taken(
    emulated_board: MakeBoard, line: OpenLine
) -> None:
    board, host = receiving(emulated_board, line)
    spoilt = bytearray(packet(1, MODEL[:128]))
    spoilt[60] ^= 1
    host.write(bytes(spoilt))
    assert host.byte() == NAK
    assert on_flash(board, 128) == b"\xff" * 128
    assert host.send(MODEL[:128]) == ACK
    assert on_flash(board, 128) == MODEL[:128]


def test_a_packet_that_comes_again_is_acknowledged_and_not_written_again(
    emulated_board: MakeBoard, line: OpenLine
) -> None:
    board, host = receiving(emulated_board, line)
    assert host.send(MODEL[:256]) == ACK
    assert host.send(MODEL[128:256], first=2) == ACK
    assert host.send(MODEL[256:384], first=3) == ACK
    assert on_flash(board, 384) == MODEL[:384]


def test_a_packet_out_of_order_ends_the_transfer(emulated_board: MakeBoard, line: OpenLine) -> None:
    _board, host = receiving(emulated_board, line)
    assert host.send(MODEL[:128]) == ACK
    assert host.send(MODEL[256:384], first=3) == CAN
    host.until(MENU)


def test_half_a_packet_is_asked_for_again(emulated_board: MakeBoard, line: OpenLine) -> None:
    board, host = receiving(emulated_board, line)
    host.write(packet(1, MODEL[:128])[:70])
    assert host.byte() == NAK
    # Without its first byte the rest of a packet is noise, even where it looks like an end.
    host.write(packet(1, EOT * 128)[3:])
    assert host.byte() in (NAK, b"C")
    assert host.send(MODEL[:128]) == ACK
    assert on_flash(board, 128) == MODEL[:128]


def test_a_transfer_that_is_given_up_leaves_half_a_model_and_the_menu(
    emulated_board: MakeBoard, line: OpenLine
) -> None:
    board, host = receiving(emulated_board, line)
    assert host.send(MODEL[:256]) == ACK
    host.write(CAN * 2)
    host.until(MENU)
    assert on_flash(board, 384) == MODEL[:256] + b"\xff" * 128
    host.write(b"1")
    host.until(b"C")


def test_a_file_without_a_preamble_is_taken_for_firmware(
    emulated_board: MakeBoard, line: OpenLine
) -> None:
    board = emulated_board()
    host = line(board)
    host.enter_bootloader()
    assert host.send(MODEL[:128]) == ACK
    host.end()
    assert [transfer.kind for transfer in board.transfers] == ["firmware"]
    assert on_flash(board, 128) == b"\xff" * 128


def test_a_board_that_waits_for_a_file_can_be_reset(
    emulated_board: MakeBoard, line: OpenLine
) -> None:
    board, host = receiving(emulated_board, line)
    assert host.send(MODEL[:128]) == ACK
    host.enter_bootloader()
    host.announce(MODELS_ADDRESS)
    assert host.send(MODEL) == ACK
    assert on_flash(board, len(MODEL)) == MODEL


def test_noise_to_the_board_is_seen_by_its_checksum(
    emulated_board: MakeBoard, line: OpenLine
) -> None:
    board, host = receiving(emulated_board, line)
    board.set_faults(Faults(seed=3, to_board=Noise(corrupt=0.002)))
    answers = []
    for number, offset in enumerate(range(0, len(MODEL), 128), start=1):
        while (answer := host.send(MODEL[offset : offset + 128], first=number)) != ACK:
            answers.append(answer)
    assert set(answers) == {NAK}
    assert on_flash(board, len(MODEL)) == MODEL


def test_a_nak_storm_is_over_some_time(emulated_board: MakeBoard, line: OpenLine) -> None:
    _board, host = receiving(emulated_board, line, faults=Faults(nak_storm=(2, 3)))
    assert host.send(MODEL[:128]) == ACK
    answers = [host.send(MODEL[128:256], first=2) for _ in range(4)]
    assert answers == [NAK, NAK, NAK, ACK]


@pytest.mark.parametrize(
    ("faults", "refused"),
    [(Faults(refuse_preamble=True), 0), (Faults(flash_full=256), 2)],
    ids=["preamble", "full"],
)
def test_a_refusal_cancels(
    emulated_board: MakeBoard, line: OpenLine, faults: Faults, refused: int
) -> None:
    board = emulated_board(faults=faults)
    host = line(board)
    host.enter_bootloader()
    if refused:
        host.announce(MODELS_ADDRESS)
        assert host.send(MODEL[: 128 * refused]) == ACK
        assert host.send(MODEL[:128], first=refused + 1) == CAN
    else:
        assert host.send(preamble(MODELS_ADDRESS)) == CAN
    host.until(MENU)
