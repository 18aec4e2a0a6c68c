"""How far a transfer is, on a terminal and in a log."""

from __future__ import annotations

import io

from rich.console import Console

from kiln.cli.transfer import TransferBar

_MB = 1_000_000


def _shown(*, terminal: bool, seconds_a_line: float) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=100, legacy_windows=False)
    with TransferBar(console, seconds_a_line) as bar:
        bar.begin("writing the model")
        bar.advance(1 * _MB, 3 * _MB)
        bar.advance(3 * _MB, 3 * _MB)
    return stream.getvalue()


def test_a_log_has_lines_with_rate_and_time_left() -> None:
    first, last = _shown(terminal=False, seconds_a_line=0).splitlines()
    assert first.startswith("  writing the model: 1000 of 3000 kB, ")
    assert "kB/s" in first
    assert first.endswith("s left")
    assert "3000 of 3000 kB" in last


def test_a_log_has_no_line_for_what_is_done_soon() -> None:
    assert _shown(terminal=False, seconds_a_line=15) == ""


def test_a_terminal_has_a_bar() -> None:
    shown = _shown(terminal=True, seconds_a_line=15)
    assert "writing the model" in shown
    assert "3.0/3.0 MB" in shown
