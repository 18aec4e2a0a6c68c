"""Flashing the emulated board: byte for byte, or a clear error and a board that can be flashed."""

from __future__ import annotations

import dataclasses
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from kiln.device.link import open_link
from kiln.device.we2 import BootloaderClient
from kiln.device.xmodem_sender import Timing
from kiln.emulator.board import EmulatedBoard
from kiln.emulator.faults import Faults, Noise
from kiln.errors import BoardError, FlashFailed
from kiln.plan.targets import load_target
from tests.support.checkout import ROOT
from tests.support.random_faults import random_faults

TARGET = load_target(ROOT / "targets", "grove-v2")
ADDRESS = TARGET.flash.model_address
#: No user has to find a button, and no flash to be erased.
TIMING = Timing(enter_s=5, start_s=2, question_s=2, reply_s=0.3, silence_s=1.0)
#: They mostly wait for a board to notice that it has lost a byte.
AT_A_TIME = 25


def _model(seed: int, size: int) -> bytes:
    return b"\x1c\0\0\0TFL3" + random.Random(seed).randbytes(size - 8)


def _flash(board: EmulatedBoard, model: bytes, progress: list[int] | None = None) -> None:
    assert TARGET.device.handshake is not None
    seen = [] if progress is None else progress
    link = open_link(board.port, TARGET.device.baud)
    try:
        loader = BootloaderClient(link, TARGET.device.handshake, timing=TIMING)
        loader.write(model, ADDRESS, lambda done, _total: seen.append(done))
    finally:
        link.close()


def _on_flash(board: EmulatedBoard, size: int) -> bytes:
    return bytes(board.flash[ADDRESS : ADDRESS + size])


# More than 256 packets, whose number then starts again, and sizes that leave the last one unfilled.
@pytest.mark.parametrize("size", [8, 127, 128, 129, 4096, 40_001])
def test_a_model_arrives_byte_for_byte_and_the_board_restarts(size: int) -> None:
    model = _model(1, size)
    seen: list[int] = []
    with EmulatedBoard(boot_s=0.1) as board:
        started = board.boot_count
        _flash(board, model, seen)
        assert _on_flash(board, size) == model
        assert seen == sorted(seen)
        assert seen[-1] == size
        board.wait_until(lambda board: board.boot_count > started)
        kinds = [(each.kind, each.address) for each in board.transfers]
        assert kinds == [("preamble", ADDRESS), ("model", ADDRESS)]


def test_nothing_else_of_the_flash_is_touched() -> None:
    model = _model(2, 9000)
    with EmulatedBoard(boot_s=0.1) as board:
        board.flash[:] = b"\x5a" * len(board.flash)
        _flash(board, model)
        sectors = -(-(len(model) + 128) // 4096) * 4096
        assert set(board.flash[:ADDRESS]) == {0x5A}
        assert set(board.flash[ADDRESS + sectors :]) == {0x5A}


def test_a_model_takes_the_place_of_a_larger_one() -> None:
    with EmulatedBoard(boot_s=0.1) as board:
        for seed, size in ((3, 20_000), (4, 5000)):
            _flash(board, _model(seed, size))
            assert _on_flash(board, size) == _model(seed, size)


#: What goes wrong, and the reason that is given.
FAILURES = (
    (Faults(silent_after=1500), "has not answered"),
    (Faults(reboot_after=1500), "the model was not written"),
    (Faults(unplug_after=1500), "gone"),
    (Faults(nak_storm=(3, 99)), "refused the same packet 16 times"),
    (Faults(flash_full=1000), "cancelled the transfer"),
    (Faults(refuse_preamble=True), "cancelled the transfer"),
)


def _fail_and_repeat(faults: Faults, why: str) -> None:
    model = _model(5, 6000)
    with EmulatedBoard(boot_s=0.1, faults=faults) as board:
        with pytest.raises((FlashFailed, BoardError), match=why) as caught:
            _flash(board, model)
        assert caught.value.hint
        _repair(board)
        _flash(board, model)
        assert _on_flash(board, len(model)) == model


def test_a_failure_is_clear_and_the_next_attempt_works() -> None:
    """All at a time, for they mostly wait."""
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        for ended in [pool.submit(_fail_and_repeat, *failure) for failure in FAILURES]:
            ended.result()


def test_a_few_refused_packets_are_sent_again() -> None:
    model = _model(6, 6000)
    with EmulatedBoard(boot_s=0.1, faults=Faults(nak_storm=(7, 15))) as board:
        _flash(board, model)
        assert _on_flash(board, len(model)) == model


def test_an_interrupted_flash_can_be_repeated() -> None:
    model = _model(7, 6000)

    def interrupt(done: int, _total: int) -> None:
        if done > 2000:
            raise KeyboardInterrupt

    with EmulatedBoard(boot_s=0.1) as board:
        assert TARGET.device.handshake is not None
        link = open_link(board.port, TARGET.device.baud)
        with pytest.raises(KeyboardInterrupt):
            BootloaderClient(link, TARGET.device.handshake, timing=TIMING).write(
                model, ADDRESS, interrupt
            )
        link.close()
        _flash(board, model)
        assert _on_flash(board, len(model)) == model


def test_a_board_that_says_nothing_is_given_up_in_seconds() -> None:
    timing = dataclasses.replace(TIMING, enter_s=0.3)
    assert TARGET.device.handshake is not None
    with EmulatedBoard(faults=Faults(silent_after=0), boot_s=0.1) as board:
        board.set_faults(Faults(to_host=Noise(drop=1.0)))
        link = open_link(board.port, TARGET.device.baud)
        loader = BootloaderClient(link, TARGET.device.handshake, timing=timing)
        with pytest.raises(BoardError, match="bootloader does not answer") as caught:
            loader.write(b"", ADDRESS, lambda _done, _total: None)
        link.close()
    assert "reset button" in caught.value.hint


def _repair(board: EmulatedBoard) -> None:
    board.set_faults(Faults())
    if board.mode == "unplugged":
        board.plug_in()


def _flash_with_faults(seed: int) -> str:
    """Flash twice, the second time without faults; what came of the first attempt."""
    model = _model(seed, random.Random(seed).randint(500, 4500))
    outcome = "written"
    with EmulatedBoard(boot_s=0.1, faults=random_faults(seed)) as board:
        try:
            _flash(board, model)
        except (FlashFailed, BoardError) as error:
            outcome = "refused" if error.message and error.hint else f"seed {seed}: {error!r}"
        if outcome == "written" and _on_flash(board, len(model)) != model:
            return f"seed {seed}: success over wrong bytes"
        _repair(board)
        _flash(board, model)
        if _on_flash(board, len(model)) != model:
            return f"seed {seed}: wrong bytes at the second attempt"
    return outcome


@pytest.mark.parametrize("flashes", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_flashes_with_random_faults_end_right_or_in_a_clear_error(flashes: int) -> None:
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        outcomes = list(pool.map(_flash_with_faults, range(flashes)))
    assert {outcome for outcome in outcomes if outcome not in ("written", "refused")} == set()
    # Faults that always or never succeed would test nothing.
    assert flashes // 4 < outcomes.count("written") < flashes
