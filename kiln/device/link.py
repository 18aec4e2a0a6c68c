"""The serial line to a board, as every protocol here uses it."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from kiln.errors import BoardError, BoardGone, PortBusy, PortForbidden, PortMissing

if TYPE_CHECKING:
    from serial import Serial

_CHUNK_BYTES = 1 << 16
#: How long a board, or the driver below it, may take to accept a single byte more.
_WRITE_TIMEOUT_S = 5.0
#: How long the reset line is held; what SenseCraft's page and Himax's own tool do.
_RESET_S = 0.1
#: A pseudo-terminal has no modem lines.
_NO_SUCH_LINE = (errno.ENOTTY, errno.EINVAL)
_IN_USE = (errno.EBUSY, errno.EAGAIN)
_TERMINALS = Path("/sys/class/tty")


class Link(Protocol):
    """A line to a board."""

    def read(self, timeout_s: float) -> bytes:
        """The bytes that have come, at least one; b"" after ``timeout_s``. Raises BoardGone."""

    def write(self, data: bytes) -> None:
        """Send all of it; raises BoardError, and BoardGone if the board vanished."""

    def reset(self) -> None:
        """Restart the board; raises BoardGone."""

    def close(self) -> None:
        """Release the port; raises nothing."""


class SerialLink:
    """A Link over an open pyserial port."""

    def __init__(self, port: str, serial: Serial) -> None:
        self._port = port
        self._serial = serial
        self._handle = serial.fileno()

    def read(self, timeout_s: float) -> bytes:
        # Not by pyserial: it reads a given number of bytes, and configures the port again whenever
        # the timeout changes.
        with self._detecting_disconnect():
            if not select.select([self._handle], [], [], max(0.0, timeout_s))[0]:
                return b""
            data = os.read(self._handle, _CHUNK_BYTES)
        if not data:
            raise BoardGone(self._port)
        return data

    def write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            with self._detecting_disconnect():
                if not select.select([], [self._handle], [], _WRITE_TIMEOUT_S)[1]:
                    raise BoardError(
                        f"the board at {self._port} takes no more data",
                        hint="press its reset button, or unplug it and plug it in again",
                    )
                with contextlib.suppress(BlockingIOError):
                    rest = rest[os.write(self._handle, rest) :]

    def reset(self) -> None:
        with self._detecting_disconnect():
            try:
                self._serial.rts = False
                time.sleep(_RESET_S)
                self._serial.rts = True
            except OSError as error:
                if error.errno not in _NO_SUCH_LINE:
                    raise

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._serial.close()

    @contextlib.contextmanager
    def _detecting_disconnect(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise BoardGone(self._port) from error


def open_link(port: str, baud: int) -> Link:
    """Open a port as 8N1, exclusively.

    Raises PortMissing, PortForbidden, PortBusy (which names the other program), or BoardError.
    """
    import serial

    check_port(port)
    try:
        return SerialLink(port, serial.Serial(port, baud, timeout=0, exclusive=True))
    except (OSError, ValueError) as error:
        # The errno of a SerialException may be found only in its cause.
        number = getattr(error, "errno", None) or getattr(error.__context__, "errno", None)
        raise _refusal(port, number, error) from error


def check_port(port: str) -> None:
    """Raises PortMissing, PortForbidden or PortBusy without opening the port.

    Not every program locks its port, and two that read one line get half of it each.
    """
    path = Path(port)
    if not path.exists():
        raise PortMissing(port)
    if not os.access(path, os.R_OK | os.W_OK):
        raise PortForbidden(port)
    # A pseudo-terminal, which Linux does not list here, is also open at its other end.
    if (_TERMINALS / path.resolve().name).exists() and (holders := holders_of(port)):
        raise PortBusy(port, holders)


def _refusal(port: str, number: int | None, error: Exception) -> BoardError:
    if number in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
        return PortMissing(port)
    if number in (errno.EACCES, errno.EPERM):
        return PortForbidden(port)
    if number in _IN_USE:
        return PortBusy(port, holders_of(port))
    return BoardError(f"{port} cannot be opened: {error}", hint="is it the port of a board?")


def holders_of(port: str) -> list[str]:
    """Other programs that have a device open, as `name (pid n)`, if this user may see them."""
    real = str(Path(port).resolve())
    found = []
    for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
        if int(process.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if any(_leads_to(handle, real) for handle in (process / "fd").iterdir()):
                name = (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
                found.append(f"{name} (pid {process.name})")
    return found


def _leads_to(handle: Path, device: str) -> bool:
    with contextlib.suppress(OSError):
        return str(handle.readlink()) == device
    return False
