"""Commands end, whatever they and their children do, and their output arrives as it comes."""

from __future__ import annotations

import os
import signal
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from kiln.errors import DiskFull, EnvironmentBroken, os_errors
from kiln.system import process


def _python(code: str, **settings: Any) -> tuple[int, bytes, list[str]]:
    stdout: list[bytes] = []
    lines: list[str] = []
    settings = {"on_stdout": stdout.append, "on_stderr": lines.append, **settings}
    code_of_exit = process.run(
        [sys.executable, "-c", code], env={"PATH": os.defpath}, cwd=Path("/"), **settings
    )
    return code_of_exit, b"".join(stdout), lines


def _is_alive(pid: int) -> bool:
    """Whether a process runs: one that has ended and waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def _wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 5
    while _is_alive(pid):
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.01)


def test_output_is_kept_apart_and_the_exit_status_comes_back() -> None:
    code = "import sys; print('out'); print('one\\ntwo', file=sys.stderr); sys.exit(3)"
    assert _python(code) == (3, b"out\n", ["one", "two"])


def test_death_by_a_signal_is_a_negative_status() -> None:
    assert _python("import os; os.kill(os.getpid(), 9)")[0] == -signal.SIGKILL


def test_output_arrives_while_the_command_runs(tmp_path: Path) -> None:
    go = tmp_path / "go"
    code = (
        "import pathlib, sys, time\n"
        "print('ready', file=sys.stderr, flush=True)\n"
        f"while not pathlib.Path({str(go)!r}).exists(): time.sleep(0.01)\n"
    )
    assert _python(code, on_stderr=lambda _line: go.touch(), timeout_s=20)[0] == 0


def test_what_was_written_just_before_the_end_is_not_lost() -> None:
    code = "import os; os.write(1, b'x' * 60_000); os.write(2, b'last'); os._exit(0)"
    for _ in range(20):
        _code, stdout, lines = _python(code)
        assert (len(stdout), lines) == (60_000, ["last"])


def test_a_hundred_megabytes_of_garbage_do_not_stay_in_memory() -> None:
    code = "import os\nfor _ in range(800): os.write(1, b'\\0' * 125_000)"
    count = 0

    def add(chunk: bytes) -> None:
        nonlocal count
        count += len(chunk)

    tracemalloc.start()
    _python(code, on_stdout=add)
    _current, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 100_000_000
    assert peak < 2 << 20


def test_a_line_without_an_end_is_cut_not_collected() -> None:
    _code, _stdout, lines = _python("import os\nfor _ in range(40): os.write(2, b'x' * 50_000)")
    assert max(map(len, lines)) <= 1 << 14


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ([b"10%\r20%\r", b"\n30%"], ["10%", "20%", "30%"]),
        ([b"a\r", b"\nb\n"], ["a", "b"]),
        ([b"\xc3", b"\xa4\n"], ["ä"]),
        ([b"\xff\xfe\n"], ["\ufffd\ufffd"]),
        ([b"one\n\ntwo"], ["one", "", "two"]),
    ],
)
def test_lines_end_where_a_terminal_would_end_them(
    chunks: list[bytes], expected: list[str]
) -> None:
    heard: list[str] = []
    lines = process.Lines(heard.append)
    for chunk in chunks:
        lines.feed(chunk)
    lines.close()
    assert heard == expected


def test_a_command_past_its_limit_is_stopped() -> None:
    with pytest.raises(process.TimedOut):
        _python("import time; time.sleep(60)", timeout_s=0.2)


def test_a_command_that_ignores_being_asked_is_killed() -> None:
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('deaf', file=sys.stderr, flush=True)\n"
        "time.sleep(60)\n"
    )
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        _python(code, on_stderr=_interrupt, grace_s=0.3)
    assert 0.3 <= time.monotonic() - started < 10


def test_a_command_that_is_asked_to_end_may_finish_what_it_does(tmp_path: Path) -> None:
    # It writes more than a pipe holds, so it ends only if somebody goes on reading.
    code = (
        "import os, pathlib, signal, sys, time\n"
        "def end(*_):\n"
        "    os.write(2, b'x' * 500_000)\n"
        f"    pathlib.Path({str(tmp_path / 'done')!r}).touch()\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "print('ready', file=sys.stderr, flush=True)\n"
        "time.sleep(60)\n"
    )
    with pytest.raises(KeyboardInterrupt):
        _python(code, on_stderr=_interrupt)
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize("ending", ["sys.exit(0)", "time.sleep(60)"])
def test_children_that_hold_the_pipes_do_not_outlive_the_command(ending: str) -> None:
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid, flush=True)\n"
        f"{ending}\n"
    )
    pids: list[int] = []
    started = time.monotonic()
    try:
        _python(code, on_stdout=lambda chunk: pids.append(int(chunk)), timeout_s=2)
    except process.TimedOut:
        assert ending != "sys.exit(0)"
    _wait_until_gone(pids[0])
    assert time.monotonic() - started < 10


def test_a_child_that_left_the_group_does_not_hold_the_driver_up() -> None:
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen(['sleep', '60'], start_new_session=True)\n"
        "print(child.pid, flush=True)\n"
    )
    pids: list[int] = []
    started = time.monotonic()
    _python(code, on_stdout=lambda chunk: pids.append(int(chunk)))
    os.kill(pids[0], signal.SIGKILL)
    assert time.monotonic() - started < 10


def test_what_a_callback_raises_stops_the_command_and_passes_through() -> None:
    pids: list[int] = []

    def refuse(line: str) -> None:
        pids.append(int(line))
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        _python(
            "import os, sys, time; print(os.getpid(), file=sys.stderr, flush=True); time.sleep(60)",
            on_stderr=refuse,
        )
    assert not _is_alive(pids[0])


def test_a_missing_command_is_a_sentence() -> None:
    with pytest.raises(EnvironmentBroken, match="cannot start /nowhere/tool: No such file"):
        process.run(
            ["/nowhere/tool"],
            env={},
            cwd=Path("/"),
            on_stdout=lambda _chunk: None,
            on_stderr=lambda _line: None,
        )


def test_a_full_disk_has_its_own_error() -> None:
    with (
        pytest.raises(DiskFull, match="cannot write: No space left") as caught,
        os_errors("cannot write"),
    ):
        raise OSError(28, "No space left on device", "/some/file")
    assert "KILN_HOME" in caught.value.hint


def _interrupt(_line: str) -> None:
    raise KeyboardInterrupt
