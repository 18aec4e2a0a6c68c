"""The sending side of XMODEM, by the byte: which replies count, and what is no success."""

from __future__ import annotations

import binascii
from collections import deque
from collections.abc import Callable

import pytest

from kiln.device.we2 import BootloaderClient, packets_of, preamble
from kiln.device.xmodem_sender import Timing
from kiln.errors import BoardError, BoardGone, FlashFailed
from kiln.plan.targets import load_target
from tests.support.checkout import ROOT

ADDRESS = 0x400000
ACK, NAK, CAN, EOT = b"\x06", b"\x15", b"\x18", b"\x04"
QUESTION = b"\r\nDo you want to end file transmission and reboot system? (y)\r\n"
MENU = b"\r\n[1] Xmodem download and burn FW image\r\n"
#: Whatever a scripted board says, it has said already; and time passes only while it is waited for,
#: however busy the machine is.
TIMING = Timing(
    enter_s=0.05, start_s=0.2, question_s=0.02, reply_s=0.02, silence_s=0.2, quiet_s=1e-3
)
MODEL = b"\x1c\0\0\0TFL3" + bytes(range(200))

Answer = Callable[[int, bytes], bytes | None]


class Clock:
    """Stands for the module `time` of what waits for a board."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


CLOCK = Clock()
#: So long takes a byte at 921600 baud: what comes without end must not stop the clock.
A_BYTE_S = 1e-5


@pytest.fixture(autouse=True)
def _time_of_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kiln.device.xmodem_sender.time", CLOCK)
    monkeypatch.setattr("kiln.device.we2.time", CLOCK)


class Board:
    """A bootloader that keeps whole packets in order. ``answer`` may say something else than it
    would to the n-th packet or EOT of the model (from 0), or None to leave it as it is.
    """

    def __init__(self, answer: Answer = lambda _number, _data: None) -> None:
        self.answer = answer
        self.files: list[list[bytes]] = []
        self.said: deque[bytes] = deque()
        #: On their way still: they arrive only for who waits.
        self.late: deque[bytes] = deque()
        self.rebooted = False
        self.resets = 0
        self._receiving = False
        self._asked = 0

    def read(self, timeout_s: float) -> bytes:
        CLOCK.now += A_BYTE_S
        if self.said:
            return self.said.popleft()
        if self.late and timeout_s > 0:
            return self.late.popleft()
        if self._receiving and not self.files[-1] and timeout_s > 0:
            return b"C"
        CLOCK.now += timeout_s
        return b""

    def write(self, data: bytes) -> None:
        if self._receiving and (data[:1] == b"\x01" or data == EOT):
            self._receive(data)
        elif data.startswith(CAN):
            self._receiving = False
        elif data == b"1" and not self._receiving:
            self._begin(MENU + b"C")
        elif data == b"n" and not self._receiving:
            self._begin(b"C")
        elif data == b"y":
            self.rebooted = True
            self.said.append(b"boot")

    def reset(self) -> None:
        self.resets += 1

    def close(self) -> None:
        pass

    def _begin(self, greeting: bytes) -> None:
        self._receiving = True
        self.files.append([])
        self.said.append(greeting)

    def _receive(self, data: bytes) -> None:
        packets = self.files[-1]
        said = None
        if len(self.files) > 1:
            said = self.answer(self._asked, data)
            self._asked += 1
        if said is None:
            said = ACK
            if data == EOT:
                self._receiving = False
                said += QUESTION
            elif data[1] == (len(packets) + 1) & 0xFF:
                packets.append(data)
            elif data[1] != len(packets) & 0xFF:
                said = CAN * 2
        if said:
            self.said.append(said)


def _flash(board: Board, model: bytes = MODEL) -> list[int]:
    handshake = load_target(ROOT / "targets", "grove-v2").device.handshake
    assert handshake is not None
    seen: list[int] = []
    loader = BootloaderClient(board, handshake, timing=TIMING)
    loader.write(model, ADDRESS, lambda done, _total: seen.append(done))
    return seen


def test_a_model_goes_out_as_numbered_packets_with_crc_after_its_preamble() -> None:
    board = Board()
    seen = _flash(board)
    named, sent = board.files
    (packet,) = named
    assert packet[3:15] == bytes.fromhex("c05a 00004000 00000000 5ac0")
    assert packet[15:131] == b"\xff" * 116
    assert b"".join(each[3:131] for each in sent) == MODEL.ljust(384, b"\xff")
    for number, each in enumerate(sent, 1):
        assert each[:3] == bytes((1, number, 255 - number))
        assert each[131:] == binascii.crc_hqx(each[3:131], 0).to_bytes(2, "big")
    assert board.rebooted
    assert seen[-1] == len(MODEL)


def test_a_preamble_names_the_address() -> None:
    assert preamble(0x3BB000)[2:6] == b"\x00\xb0\x3b\x00"
    assert len(preamble(0)) == 128


@pytest.mark.parametrize("size", [1, 127, 128, 129, 5000])
def test_a_packet_follows_the_last_of_the_model(size: int) -> None:
    packets = packets_of(b"m" * size)
    assert len(packets) % 128 == 0
    assert 128 <= len(packets) - size < 256


def test_packet_numbers_start_again_after_255() -> None:
    board = Board()
    model = MODEL.ljust(300 * 128, b"\xa5")
    _flash(board, model)
    assert b"".join(each[3:131] for each in board.files[1])[: len(model)] == model


@pytest.mark.parametrize(
    "answer",
    [NAK, b"", b"\x7f", b"log line\r\n", NAK * 3],
    ids=["refused", "lost", "garbled", "text", "refused loudly"],
)
def test_a_packet_without_an_acknowledgement_is_sent_again(answer: bytes) -> None:
    board = Board(lambda number, _data: answer if number == 1 else None)
    _flash(board)
    assert b"".join(each[3:131] for each in board.files[1]).startswith(MODEL)


def _refuse_from(first: int, *says: bytes) -> Answer:
    """Take nothing from a packet on, and say so, or say something else."""
    left = deque(says)
    return lambda number, _data: (left.popleft() if left else NAK) if number >= first else None


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        # The packet was refused, but noise made an ACK of that: the next one is out of order.
        (lambda number, _data: ACK if number == 0 else None, "cancelled the transfer"),
        # The last packet was refused, and the ACK of the one before arrived twice.
        (_refuse_from(2, ACK, NAK), "refused the same packet"),
        (_refuse_from(1, ACK + NAK), "refused the same packet"),
        (lambda number, _data: CAN * 2 if number == 1 else None, "cancelled the transfer"),
        (_refuse_from(1), "refused the same packet 16 times"),
        (lambda number, _data: b"" if number >= 1 else None, "has not answered"),
        # The end is acknowledged, and nothing is said after it.
        (lambda _number, data: ACK if data == EOT else None, "did not confirm that it has written"),
        # The question comes, and the end was never acknowledged.
        (lambda _number, data: QUESTION if data == EOT else None, "has not answered"),
    ],
)
def test_nothing_else_than_every_acknowledgement_and_the_question_is_success(
    answer: Answer, why: str
) -> None:
    board = Board(answer)
    with pytest.raises(FlashFailed, match=why) as caught:
        _flash(board)
    assert "another attempt" in caught.value.hint
    assert not board.rebooted
    board.answer = lambda _number, _data: None
    board.files.clear()
    _flash(board)
    assert b"".join(each[3:131] for each in board.files[1]).startswith(MODEL)


def test_answers_that_are_late_do_not_stand_for_the_last_packets() -> None:
    def lag(number: int, data: bytes) -> bytes | None:
        if number == 0:
            board.late.extend((ACK, ACK))
        elif data != EOT:
            board.late.append(NAK)
            return b""
        return None

    board = Board(lag)
    with pytest.raises(FlashFailed, match="both accepted and refused a packet"):
        _flash(board)
    assert not board.rebooted


def test_a_duplicated_reply_costs_no_later_packet_its_second_attempt() -> None:
    refused = iter((NAK,))
    board = Board(lambda number, _data: next(refused, None) if number == 1 else None)
    receive = board._receive

    def double(data: bytes) -> None:
        receive(data)
        if board.said[-1] == ACK and len(board.files) > 1:
            board.said[-1] = ACK * 2

    board._receive = double  # type: ignore[method-assign]
    _flash(board)
    assert b"".join(each[3:131] for each in board.files[1]) == packets_of(MODEL)


def test_late_answers_to_one_packet_are_not_taken_for_those_to_the_next() -> None:
    def twice(_number: int, data: bytes) -> bytes | None:
        if data == EOT:
            return None
        board.files[-1].append(data)
        return ACK * 2

    board = Board(twice)
    _flash(board)
    assert b"".join(each[3:131] for each in board.files[1]) == packets_of(MODEL)


def test_no_model_is_sent_after_a_preamble_that_may_not_have_arrived() -> None:
    board = Board()
    receive = board._receive
    garbled: set[int] = set()

    def garble(data: bytes) -> None:
        receive(data)
        attempt = len(board.files)
        if attempt < 3 and attempt not in garbled:
            garbled.add(attempt)
            board.said[-1] = b"\x16"

    board._receive = garble  # type: ignore[method-assign]
    _flash(board)
    assert [len(file) for file in board.files] == [1, 1, 1, 3]
    assert board.files[2][0][3:5] == b"\xc0\x5a"


def test_a_board_that_does_not_answer_is_not_written_to() -> None:
    class Deaf(Board):
        def write(self, data: bytes) -> None:
            assert data in (b"1", CAN * 8)

    with pytest.raises(BoardError, match="bootloader does not answer") as caught:
        _flash(Deaf())
    assert caught.value.exit_code == 17
    assert "reset button" in caught.value.hint


def test_a_session_that_was_left_open_is_ended() -> None:
    board = Board()
    board.said.extend((QUESTION[:20], QUESTION[20:], b"C", b"C"))
    _flash(board)
    assert b"".join(each[3:131] for each in board.files[-1]).startswith(MODEL)


def test_a_board_that_is_unplugged_in_the_middle_is_a_clear_failure() -> None:
    def vanish(_number: int, _data: bytes) -> bytes | None:
        raise BoardGone("/dev/ttyACM0")

    with pytest.raises(FlashFailed, match="/dev/ttyACM0 is gone") as caught:
        _flash(Board(vanish))
    assert caught.value.exit_code == 18


def test_ctrl_c_leaves_the_receiver_cancelled() -> None:
    def interrupt(_number: int, _data: bytes) -> bytes | None:
        raise KeyboardInterrupt

    board = Board(interrupt)
    resets = board.resets
    with pytest.raises(KeyboardInterrupt):
        _flash(board)
    assert not board._receiving
    assert board.resets > resets
