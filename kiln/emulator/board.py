"""A WiseEye2 board with SSCMA firmware on a pseudo-terminal: for tests, and to see the monitor by.

A real board is restarted by its reset line, which a pseudo-terminal does not have. So whoever sends
``1`` again and again, as one does to enter the boot loader, restarts the emulated board first;
the real firmware ignores these keys.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import shutil
import tempfile
import threading
import time
import tty
from collections.abc import Callable, Collection
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol

from kiln.emulator.bootloader import Loader, Transfer
from kiln.emulator.faults import Faults, Mishap, Troublemaker
from kiln.emulator.firmware import Camera, Firmware, Storage
from kiln.emulator.flash import Flash
from kiln.emulator.postprocess import Eye
from kiln.emulator.uart import Lane

#: What a host's driver takes of a program before it makes it wait.
_HOST_BUFFER_BYTES = 4096
_READ_BYTES = 1 << 16
#: The board's thread answers at once, unless it has died.
_ANSWER_S = 30.0
#: What a pseudo-terminal takes to hand over what was written, measured: a real line has carried it
#: meanwhile. What arrives is looked at ahead of its time, so that the answer is ready at its own,
#: and the kernel wakes a thread so late that it rather looks again and again before it is due.
_HANDOVER_S = 40e-6
_AHEAD_S = 200e-6
_WAKE_S = 40e-6

_RESTART_KEY, _RESTART_KEYS = ord("1"), 5

Mode = Literal["boot loader", "firmware", "silent", "unplugged"]


class _Face(Protocol):
    """One of the two programs that can run on the board, or neither."""

    def receive(self, data: bytes, now: float) -> None: ...

    def due(self) -> float | None: ...

    def tick(self, now: float) -> None: ...


class _Silence:
    """A board that hangs, or has no power: only a reset helps."""

    def __init__(self, restart: Callable[[], None]) -> None:
        self._restart = restart
        self._keys = 0

    def receive(self, data: bytes, now: float) -> None:
        del now
        for byte in data:
            self._keys = self._keys + 1 if byte == _RESTART_KEY else 0
            if self._keys == _RESTART_KEYS:
                self._restart()
                return

    def due(self) -> float | None:
        return None

    def tick(self, now: float) -> None:
        del now


class EmulatedBoard:
    """A board that is plugged in as long as the block lasts; its firmware runs already.

    ``port`` is a path that stays the same over unplugging and plugging in. ``baud`` None is as fast
    as it goes; a rate is kept to in both directions. ``boot_s`` is how long the boot loader
    listens after a reset. Methods may be called from any thread.
    """

    def __init__(
        self,
        eye: Eye | None = None,
        *,
        baud: int | None = None,
        faults: Faults | None = None,
        camera: Camera | None = None,
        boot_s: float = 0.3,
    ) -> None:
        self._eye = eye
        self._baud = baud
        self._camera = camera or Camera()
        self._boot_s = boot_s
        self._trouble = Troublemaker(faults or Faults())
        self._flash = Flash()
        self._storage = Storage()
        self._changed = threading.Condition()
        self._asked: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="emulated board", daemon=True)
        self._running = True
        self._handles: tuple[int, int] | None = None
        self._to_board, self._to_host = Lane(baud), Lane(baud)
        self._handover_s = _HANDOVER_S if baud else 0.0
        self._ahead_s = _AHEAD_S if baud else 0.0
        self._outbox = b""
        self._now = 0.0
        self._face: _Face = _Silence(self._restart)
        self.port = ""
        self.mode: Mode = "unplugged"
        self.transfers: list[Transfer] = []
        self.commands: list[str] = []

    @property
    def flash(self) -> bytearray:
        """All 16 MB, live."""
        return self._flash.memory

    @property
    def boot_count(self) -> int:
        """How often the firmware has started."""
        return self._storage.boot_count

    @property
    def invoking(self) -> bool:
        face = self._face
        return isinstance(face, Firmware) and face.invoking

    def set_faults(self, faults: Faults) -> None:
        """From now on."""

        def change() -> None:
            self._trouble = Troublemaker(faults)

        self._ask(change)

    def unplug(self) -> None:
        """The host loses the port."""
        self._ask(self._unplug)

    def plug_in(self) -> None:
        """The board starts anew, with what is in its flash."""
        self._ask(self._plug_in)

    def reset(self) -> None:
        """Press the reset button."""
        self._ask(self._restart)

    def wait_until(
        self, holds: Callable[[EmulatedBoard], bool], *, timeout_s: float = 10.0
    ) -> None:
        """Wait for something to be true of this board; raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: holds(self), timeout_s):
                raise TimeoutError(f"not so after {timeout_s:g} s; the board is in: {self.mode}")

    def __enter__(self) -> EmulatedBoard:
        self._wake_out, self._wake_in = os.pipe()
        self._folder = Path(tempfile.mkdtemp(prefix="kiln-board-"))
        self.port = str(self._folder / "ttyACM0")
        self._open_port()
        self._start_firmware()
        self._to_host.clear()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._thread.is_alive():
            self._ask(self._stop)
        self._thread.join()
        os.close(self._wake_in)
        os.close(self._wake_out)
        shutil.rmtree(self._folder)

    def _ask(self, call: Callable[[], None]) -> None:
        """Have the board's thread do something, and wait until it is done."""
        done: Future[None] = Future()

        def work() -> None:
            call()
            done.set_result(None)

        self._asked.put(work)
        os.write(self._wake_in, b"\0")
        done.result(_ANSWER_S)

    def _run(self) -> None:
        _sleep_exactly()
        try:
            while self._running:
                ready = self._wait()
                # Who waits for the board to change sees it between two steps, never within one.
                with self._changed:
                    self._step(ready)
                    self._changed.notify_all()
        finally:
            self._unplug()  # also if it ends by an error: no host shall wait for it

    def _wait(self) -> Collection[int]:
        """Wait until there is something to do; the handles that can be read."""
        reading = [self._wake_out]
        writing: list[int] = []
        if self._handles is not None:
            if len(self._to_board) < _HOST_BUFFER_BYTES:
                reading.append(self._handles[0])
            if self._outbox:
                writing.append(self._handles[0])
        readable, _, _ = select.select(reading, writing, [], self._timeout())
        return readable

    def _step(self, readable: Collection[int]) -> None:
        """Do what was asked for, take what has come, and do what is due."""
        if self._wake_out in readable:
            os.read(self._wake_out, _READ_BYTES)
            while not self._asked.empty():
                self._now = time.monotonic()
                self._asked.get()()
        if self._handles is not None and self._handles[0] in readable:
            self._read()
        self._work()

    def _timeout(self) -> float | None:
        """How long there is nothing to do."""
        to_host = None if self._outbox else _earlier(self._to_host.due(), self._handover_s)
        dues = [_earlier(self._to_board.due(), self._ahead_s), to_host, self._face.due()]
        known = [due for due in dues if due is not None]
        return max(0.0, min(known) - _WAKE_S - time.monotonic()) if known else None

    def _read(self) -> None:
        assert self._handles is not None
        try:
            data = os.read(self._handles[0], _READ_BYTES)
        except BlockingIOError:
            return
        written = time.monotonic() - self._handover_s
        self._to_board.put(self._trouble.to_board(data), written)

    def _work(self) -> None:
        """Hand over what has arrived, and do what is due.

        What is answered to a byte starts when that byte had arrived, not when this thread woke.
        """
        arrived = self._to_board.take(time.monotonic() + self._ahead_s)
        if arrived:
            self._now = self._to_board.clock if self._baud else time.monotonic()
            self._take(arrived)
        due = self._face.due()
        if due is not None and due <= time.monotonic():
            self._now = time.monotonic()
            self._face.tick(self._now)
        self._write()

    def _take(self, data: bytes) -> None:
        for part, mishap in self._trouble.parts(data):
            self._face.receive(part, self._now)
            if mishap is not None:
                self._suffer(mishap)
            if self._handles is None:
                return

    def _suffer(self, mishap: Mishap) -> None:
        if mishap == "silence":
            self._to_host.clear()
            self._face, self.mode = _Silence(self._restart), "silent"
        elif mishap == "unplug":
            self._unplug()
        else:
            self._restart()

    def _write(self) -> None:
        if self._handles is None:
            return
        now = time.monotonic()
        if not self._outbox:
            self._outbox = self._trouble.to_host(self._to_host.take(now + self._handover_s))
        if self._outbox:
            with contextlib.suppress(BlockingIOError):
                self._outbox = self._outbox[os.write(self._handles[0], self._outbox) :]
            if self._outbox:
                self._to_host.stall(now)

    def _send(self, data: bytes) -> None:
        self._to_host.put(data, self._now)

    def _send_frame(self, data: bytes) -> None:
        self._send(self._trouble.frame(data))

    def _is_busy(self) -> bool:
        return bool(self._outbox) or len(self._to_host) > 0

    def _restart(self) -> None:
        """A reset: the boot loader runs, and the firmware after it."""
        if self._handles is None:
            return
        self._to_host.clear()
        loader = Loader(
            self._flash,
            self._send,
            boot=self._start_firmware,
            restart=self._restart,
            trouble=lambda: self._trouble,
            transfers=self.transfers,
        )
        self._face, self.mode = loader, "boot loader"
        self._send(self._trouble.boot_noise())
        loader.start(time.monotonic() + self._boot_s)

    def _start_firmware(self) -> None:
        firmware = Firmware(
            self._flash,
            self._storage,
            self._eye,
            self._camera,
            self._send_frame,
            self._is_busy,
            restart=self._restart,
            heard=self.commands.append,
        )
        self._face, self.mode = firmware, "firmware"
        firmware.start()

    def _plug_in(self) -> None:
        if self._handles is None:
            self._open_port()
            self._restart()

    def _open_port(self) -> None:
        # The board holds its own end of the host's side, for a master without one cannot be read.
        master, slave = os.openpty()
        tty.setraw(slave)
        os.set_blocking(master, False)
        Path(self.port).symlink_to(os.ttyname(slave))
        self._handles = master, slave

    def _unplug(self) -> None:
        if self._handles is None:
            return
        Path(self.port).unlink()
        for handle in self._handles:
            os.close(handle)
        self._handles = None
        self._outbox = b""
        self._to_board.clear()
        self._to_host.clear()
        self._face, self.mode = _Silence(self._restart), "unplugged"

    def _stop(self) -> None:
        self._running = False


def _earlier(due: float | None, by_s: float) -> float | None:
    return None if due is None else due - by_s


def _sleep_exactly() -> None:
    """Have the kernel wake this thread at its time, not up to 50 microseconds later.

    See timer_slack in prctl(2) and /proc/pid/timerslack_ns in proc(5); where the kernel does not
    offer it, the board is a few percent slower.
    """
    with contextlib.suppress(OSError):
        Path(f"/proc/{threading.get_native_id()}/timerslack_ns").write_text("1", encoding="ascii")
