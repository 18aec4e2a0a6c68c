"""Frames are found in whatever comes from a board, however it is cut, and nothing makes it fail."""

from __future__ import annotations

import base64
import itertools
import json
import random
import time
from collections.abc import Iterable

import pytest

from kiln.device.frames import MAX_LINE_BYTES, Event, Frame, FrameReader, Log, Reply

BOOT = b"\x00\xff\xf0 Himax WE2 boot, build {debug}\r\n[SSCMA] AT server is ready to use :)\n"


def _framed(document: object) -> bytes:
    return b"\r" + json.dumps(document).encode() + b"\n"


def _reply(number: int, **more: object) -> bytes:
    return _framed({"type": 0, "name": f"{number}@ID?", "code": 0, "data": number, **more})


def _event(count: int, image: str = "") -> bytes:
    data = {"count": count, "perf": [8, 36, 1], "boxes": [[87, 83, 77, 65, 70, 0]], "image": image}
    return _framed({"type": 1, "name": "K7@INVOKE", "code": 0, "data": data})


def _read(pieces: Iterable[bytes]) -> tuple[list[Frame], int, int]:
    reader = FrameReader()
    frames = [frame for piece in pieces for frame in reader.feed(piece)]
    return frames, reader.skipped, reader.broken


def _cut(traffic: bytes, rng: random.Random) -> list[bytes]:
    places = sorted(rng.randrange(len(traffic) + 1) for _ in range(rng.randrange(1, 60)))
    ends = [0, *places, len(traffic)]
    return [traffic[a:b] for a, b in itertools.pairwise(ends)]


def _traffic(rng: random.Random) -> bytes:
    """Good frames among everything that a line may carry besides."""
    image = base64.b64encode(rng.randbytes(3000)).decode()
    whole = _event(3, image)
    parts = [
        *(_reply(number) for number in range(4)),
        *(_event(number, image) for number in range(4)),
        BOOT,
        b"\r> \r\n",
        whole[: rng.randrange(2, len(whole) - 2)],  # the rest of it was lost
        whole[: rng.randrange(2, len(whole) - 2)] + b"\n",
        _reply(5)[:-1] + _reply(6),  # glued: one line end is gone
        _reply(7)[:-1] + _reply(8)[1:],  # both are
        b'\r{"type": 0, "name": "\xff\xfe", "code": 0}\n',
        b"\xc3\x28 bytes that are no text " + _reply(9)[1:],
        b'\r{"type": 2, "name": "AT", "code": 5, "data": "Unknown command: AT+X"}\n',
        b'\r{"type": 1, "name": "INVOKE", "code": NaN, "data": {}}\n',
    ]
    rng.shuffle(parts)
    return b"".join(parts)


def test_each_kind_of_frame_has_a_type_of_its_own() -> None:
    frames, skipped, broken = _read(
        [_reply(1), _event(2), b'\r{"type":2,"name":"AT","code":5,"data":"no"}\n']
    )
    assert frames[0] == Reply("ID?", "1", 0, 1)
    assert isinstance(frames[1], Event)
    assert (frames[1].name, frames[1].tag, frames[1].data["count"]) == ("INVOKE", "K7", 2)
    assert frames[2] == Log("no", 5)
    assert (skipped, broken) == (0, 0)


def test_keys_that_nobody_knows_yet_are_no_fault() -> None:
    frames, _, broken = _read(
        [
            _reply(1, colour="red"),
            _framed({"type": 1, "name": "X", "code": 0, "data": {"new": [1]}}),
        ]
    )
    assert frames == [Reply("ID?", "1", 0, 1), Event("X", 0, {"new": [1]})]
    assert broken == 0


@pytest.mark.parametrize("seed", range(20))
def test_the_same_bytes_give_the_same_frames_however_they_are_cut(seed: int) -> None:
    rng = random.Random(seed)
    traffic = _traffic(rng)
    whole = _read([traffic])
    assert len(whole[0]) >= 11
    assert whole[2] >= 3
    assert _read(bytes([byte]) for byte in traffic) == whole
    for _ in range(5):
        assert _read(_cut(traffic, rng)) == whole


def test_a_frame_that_lost_bytes_costs_no_other() -> None:
    whole = _event(1)
    for lost in range(1, len(whole)):
        frames, _, _ = _read([_reply(1), whole[:lost] + whole[lost + 1 :], _reply(2)])
        assert frames[0] == Reply("ID?", "1", 0, 1)
        assert frames[-1] == Reply("ID?", "2", 0, 2)


def test_frames_come_through_though_their_line_ends_are_lost() -> None:
    tags = [
        frame.tag
        for frame in _read([_reply(1)[:-1] + _reply(2)[1:]])[0]
        if isinstance(frame, Reply)
    ]
    assert tags == ["1", "2"]
    frames, skipped, broken = _read([b"[WE2] camera on " + _reply(3)[1:]])
    assert frames == [Reply("ID?", "3", 0, 3)]
    assert (skipped, broken) == (16, 0)


def test_text_is_skipped_and_damage_is_counted() -> None:
    _, skipped, broken = _read([b"hello\nworld\r\n"])
    assert (skipped, broken) == (10, 0)
    _, skipped, broken = _read([b'\r{"type": 0, "name": "ID?"\n'])
    assert (skipped, broken) == (25, 1)
    assert _read([b'\r{"type": 9, "name": "ID?", "code": 0}\n'])[2] == 1


@pytest.mark.parametrize("seed", range(30))
def test_no_bytes_make_it_fail(seed: int) -> None:
    rng = random.Random(seed)
    alphabet = [
        b"\r",
        b"\n",
        b"{",
        b"}",
        b'"',
        b"[",
        b"\\",
        b'{"type"',
        b": 0",
        b", ",
        b"\xff",
        b"\xc3",
        b"9" * 5000,
        b"\\ud800",
    ]
    traffic = b"".join(rng.choice([*alphabet, rng.randbytes(3)]) for _ in range(2000))
    frames, skipped, broken = _read(_cut(traffic, rng))
    assert skipped > 0
    assert broken >= 0
    assert _read([traffic + _reply(1)])[0][-1] == Reply("ID?", "1", 0, 1)
    assert len(frames) < 2000


def test_nesting_without_end_is_a_broken_frame() -> None:
    frames, _, broken = _read([b'\r{"type": ' + b"[" * 500_000 + b"\n", _reply(1)])
    assert frames == [Reply("ID?", "1", 0, 1)]
    assert broken == 1


def test_a_line_without_end_is_given_up_and_not_held() -> None:
    reader = FrameReader()
    for _ in range(5 * MAX_LINE_BYTES // 65536):
        assert reader.feed(b'{"type": 1, "A' + b"A" * 65522) == []
        assert len(reader._line) <= MAX_LINE_BYTES
    assert reader.broken == 1
    assert reader.feed(b"\n" + _reply(1)) == [Reply("ID?", "1", 0, 1)]
    assert reader.skipped == 5 * MAX_LINE_BYTES


def test_time_is_linear_in_the_bytes() -> None:
    """Ten times as many bytes, in pieces of eight, take about ten times as long."""
    image = base64.b64encode(bytes(75_000)).decode()

    def seconds(frame: bytes) -> float:
        reader, started = FrameReader(), time.process_time()
        for start in range(0, len(frame), 8):
            reader.feed(frame[start : start + 8])
        return time.process_time() - started

    small = min(seconds(_event(1, image)) for _ in range(3))
    large = min(seconds(_event(1, image * 10)) for _ in range(3))
    assert large < 40 * small


def test_openings_without_number_take_no_longer_than_as_many_letters() -> None:
    started = time.process_time()
    _read([b"\r" + b'{"type": 0, ' * 100_000 + b"\n"])
    assert time.process_time() - started < 5
