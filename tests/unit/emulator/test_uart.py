"""A line keeps the pace of its baud rate, by a clock that the test holds."""

from __future__ import annotations

import pytest

from kiln.emulator.uart import Uart

#: A thousandth of a second for each byte.
BAUD = 10_000


def test_a_byte_arrives_when_its_ten_bits_have_passed() -> None:
    line = Uart(BAUD)
    line.put(b"abc", 5.0)
    assert line.take(5.0009) == b""
    assert line.take(5.0021) == b"ab"
    assert line.take(5.003) == b"c"
    assert line.due() is None


def test_what_is_sent_later_follows_what_is_on_its_way() -> None:
    line = Uart(BAUD)
    line.put(b"ab", 5.0)
    line.put(b"c", 5.001)
    assert line.take(5.0029) == b"ab"
    assert line.take(5.003) == b"c"
    line.put(b"d", 6.0)
    assert line.take(6.0009) == b""


def test_a_long_run_takes_its_time_however_often_it_is_looked_at() -> None:
    line = Uart(921_600)
    line.put(bytes(92_160), 0.0)
    now = arrived = 0.0
    while (due := line.due()) is not None:
        assert due >= now
        now = due
        arrived += len(line.take(now))
    assert arrived == 92_160
    assert now == pytest.approx(1.0, rel=1e-6)


def test_no_time_is_gained_while_the_other_end_takes_nothing() -> None:
    line = Uart(BAUD)
    line.put(b"ab", 5.0)
    line.stall(7.0)
    assert line.take(7.0005) == b""
    assert line.take(7.002) == b"ab"


def test_without_a_rate_nothing_takes_time() -> None:
    line = Uart(None)
    line.put(b"abc", 5.0)
    assert line.due() == 5.0
    assert line.take(5.0) == b"abc"
