"""Starts processes: the only module that does."""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from kiln.errors import EnvironmentBroken, os_errors
from kiln.system.workers import stop_if_asked, stop_is_urgent

#: How long a process may take between being asked to end and being killed.
GRACE_S = 10.0

_CHUNK_BYTES = 1 << 16
_TICK_S = 0.2
#: How long a process that left the group may hold the pipes open after the command has ended.
_LINGER_S = 1.0
#: A progress bar or a binary may print for ever without a line end.
_MAX_LINE_CHARACTERS = 1 << 14
_LINE_END = re.compile(r"\r\n|\n|\r")

Sink = Callable[[bytes], None]


class TimedOut(Exception):
    """The command ran past its limit and was stopped."""


def run(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    cwd: Path,
    on_stdout: Sink,
    on_stderr: Callable[[str], None],
    timeout_s: float | None = None,
    grace_s: float = GRACE_S,
    inherit: Sequence[int] = (),
) -> int:
    """Run a command to its end and return its exit status, negative for a signal.

    stdout arrives as raw chunks and stderr as lines, in the calling thread. The command leads a
    process group of its own. However this function ends, that group is gone: it is asked to
    end, and killed after ``grace_s``. ``inherit`` names descriptors that the command keeps open.
    Raises TimedOut, EnvironmentBroken and DiskFull; what a callback raises, Stopped and
    KeyboardInterrupt pass through.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    process = _start(argv, env, cwd, inherit)
    pipes = _Pipes(process)
    lines = Lines(on_stderr)
    try:
        while not _has_ended(process):
            if deadline is not None and time.monotonic() > deadline:
                raise TimedOut
            stop_if_asked()
            pipes.pump(on_stdout, lines.feed)
        _signal_group(process, signal.SIGKILL)
        pipes.drain(on_stdout, lines.feed)
        lines.close()
    finally:
        _stop(process, pipes, grace_s)
    return process.returncode


class Lines:
    """Turns bytes into text lines as they come; a carriage return ends a line too."""

    def __init__(self, offer: Callable[[str], None]) -> None:
        self._offer = offer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    def feed(self, chunk: bytes) -> None:
        text = self._rest + self._decoder.decode(chunk)
        # The line feed that belongs to a last carriage return may be in the next chunk.
        held = "\r" if text.endswith("\r") else ""
        *lines, rest = _LINE_END.split(text.removesuffix("\r"))
        self._rest = rest + held
        for line in lines:
            self._offer(line[:_MAX_LINE_CHARACTERS])
        if len(self._rest) > _MAX_LINE_CHARACTERS:
            self.close()

    def close(self) -> None:
        """Offer what came after the last line end."""
        rest, self._rest = self._rest.removesuffix("\r"), ""
        if rest:
            self._offer(rest[:_MAX_LINE_CHARACTERS])


def _start(
    argv: Sequence[str | Path], env: Mapping[str, str], cwd: Path, inherit: Sequence[int]
) -> subprocess.Popen[bytes]:
    with os_errors(f"cannot start {argv[0]}", EnvironmentBroken):
        return subprocess.Popen(
            argv,
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # Out of reach of the terminal's Ctrl-C: the driver decides when it ends.
            start_new_session=True,
            pass_fds=inherit,
            bufsize=0,
        )


class _Pipes:
    """The two output pipes of a process."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self._stdout, self._stderr = process.stdout, process.stderr
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._stdout, selectors.EVENT_READ)
        self._selector.register(self._stderr, selectors.EVENT_READ)

    @property
    def open(self) -> bool:
        return bool(self._selector.get_map())

    def pump(self, stdout: Sink, stderr: Sink) -> None:
        """Hand on what is there, or wait a moment for it."""
        # With both pipes closed the end of the process is due at once.
        for key, _events in self._selector.select(_TICK_S if self.open else _TICK_S / 20):
            chunk = os.read(key.fd, _CHUNK_BYTES)
            if not chunk:
                self._selector.unregister(key.fileobj)
            elif key.fileobj is self._stdout:
                stdout(chunk)
            else:
                stderr(chunk)

    def drain(self, stdout: Sink, stderr: Sink) -> None:
        """Hand on what is left, until the other ends are closed or held open for too long."""
        deadline = time.monotonic() + _LINGER_S
        while self.open and time.monotonic() < deadline:
            self.pump(stdout, stderr)

    def close(self) -> None:
        self._selector.close()
        self._stdout.close()
        self._stderr.close()


def _stop(process: subprocess.Popen[bytes], pipes: _Pipes, grace_s: float) -> None:
    """End the whole group; its output is still read, as a full pipe would keep it from ending."""
    deadline = time.monotonic() + grace_s
    try:
        _signal_group(process, signal.SIGTERM)
        while not (_has_ended(process) or stop_is_urgent()) and time.monotonic() < deadline:
            pipes.pump(_discard, _discard)
    finally:
        _signal_group(process, signal.SIGKILL)
        process.wait()
        pipes.close()


def _discard(_chunk: bytes) -> None:
    pass


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Tell without reaping, so that the group keeps its number until it has been killed."""
    flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, process.pid, flags) is not None


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
