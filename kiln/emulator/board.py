"""A WiseEye2 board with SSCMA firmware on a pseudo-terminal, for tests and the monitor's demo.

A real board is restarted by its reset line, which a pseudo-terminal does not have. So the key ``1``
sent again and again, as a host does to enter the bootloader, restarts the emulated board first; the
real firmware ignores it.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import threading
import time
import tty
from collections.abc import Callable, Collection
from concurrent.futures import Future
from pathlib import Path
from typing import Literal, Protocol

from kiln.emulator.bootloader import Bootloader, Transfer
from kiln.emulator.classifier import RecordedClassifier
from kiln.emulator.faults import Fault, FaultInjector, Faults
from kiln.emulator.firmware import RELEASE_1_0, Camera, Firmware, Release, Storage
from kiln.emulator.flash import MODELS_ADDRESS, Flash
from kiln.emulator.postprocess import EmulatedModel
from kiln.emulator.uart import Uart

#: What a host's driver takes of a program before it makes it wait.
_HOST_BUFFER_BYTES = 4096
_READ_BYTES = 1 << 16
#: The board's thread answers at once, unless it has died.
_CALL_TIMEOUT_S = 30.0
#: How long a pseudo-terminal takes to pass on what was written, measured; a real line carries bytes
#: in that time.
_HANDOVER_S = 40e-6
#: Arriving bytes are taken early, so that the reply is ready in time.
_AHEAD_S = 200e-6
#: How late the kernel wakes a thread; for the rest of the time the thread polls.
_WAKE_S = 40e-6

_RESTART_KEY, _RESTART_KEYS = ord("1"), 5

Mode = Literal["bootloader", "firmware", "silent", "unplugged"]


class Program(Protocol):
    """What runs on the board: bootloader, firmware, or nothing.

    ``due`` is the time of ``time.monotonic`` at which ``tick`` has something to do.
    """

    def receive(self, data: bytes, now: float) -> None: ...

    def due(self) -> float | None: ...

    def tick(self, now: float) -> None: ...


class _Unresponsive:
    """A board that hangs or has no power: only a reset helps."""

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
    """A board that is plugged in inside a ``with`` block, with its firmware running.

    ``port`` is the path of the host's side. It changes when the board is plugged in again, unless
    ``link`` is a path for a symbolic link to it. ``release`` is that of its firmware. ``baud`` None
    sends without delay; a rate applies in both directions. ``boot_s`` is how long the bootloader
    listens after a reset. Methods may be called from any thread.
    """

    def __init__(
        self,
        model: EmulatedModel | RecordedClassifier | None = None,
        *,
        baud: int | None = None,
        faults: Faults | None = None,
        camera: Camera | None = None,
        release: Release = RELEASE_1_0,
        boot_s: float = 0.3,
        link: Path | None = None,
    ) -> None:
        self._model = model
        self._baud = baud
        self._camera = camera or Camera()
        self._release = release
        self._boot_s = boot_s
        self._link = link
        self._injector = FaultInjector(faults or Faults())
        self._flash = Flash()
        self._storage = Storage()
        self._changed = threading.Condition()
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="emulated board", daemon=True)
        self._running = True
        self._handles: tuple[int, int] | None = None
        self._to_board, self._to_host = Uart(baud), Uart(baud)
        self._handover_s = _HANDOVER_S if baud else 0.0
        self._ahead_s = _AHEAD_S if baud else 0.0
        self._outbox = b""
        self._now = 0.0
        self._program: Program = _Unresponsive(self._restart)
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
        program = self._program
        return isinstance(program, Firmware) and program.invoking

    def load(self, file: bytes, address: int = MODELS_ADDRESS) -> None:
        """Put a model on the flash; the firmware finds it when it starts."""
        self._flash.memory[address : address + len(file)] = file

    def set_faults(self, faults: Faults) -> None:
        """Inject these faults from now on."""

        def change() -> None:
            self._injector = FaultInjector(faults)

        self._call(change)

    def unplug(self) -> None:
        """Take the port away from the host."""
        self._call(self._unplug)

    def plug_in(self) -> None:
        """Connect and start the board, with what is in its flash."""
        self._call(self._plug_in)

    def reset(self) -> None:
        """Press the reset button."""
        self._call(self._restart)

    def wait_until(
        self, holds: Callable[[EmulatedBoard], bool], *, timeout_s: float = 10.0
    ) -> None:
        """Wait until ``holds`` is true of this board; raises TimeoutError.

        It is called while the board's thread stands between two steps, and must not call methods.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: holds(self), timeout_s):
                raise TimeoutError(f"still waiting after {timeout_s:g} s; mode: {self.mode}")

    def __enter__(self) -> EmulatedBoard:
        self._wake_out, self._wake_in = os.pipe()
        self._open_port()
        self._start_firmware()
        self._to_host.clear()
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._thread.is_alive():
            self._call(self._stop)
        self._thread.join()
        os.close(self._wake_in)
        os.close(self._wake_out)

    def _call(self, call: Callable[[], None]) -> None:
        """Run ``call`` in the board's thread, and wait until it is done."""
        done: Future[None] = Future()

        def work() -> None:
            call()
            done.set_result(None)

        self._calls.put(work)
        os.write(self._wake_in, b"\0")
        done.result(_CALL_TIMEOUT_S)

    def _run(self) -> None:
        _sleep_exactly()
        try:
            while self._running:
                ready = self._wait()
                # `wait_until` sees the board between two steps, never within one.
                with self._changed:
                    self._step(ready)
                    self._changed.notify_all()
        finally:
            self._unplug()  # after an error too: no host may wait for this board

    def _wait(self) -> Collection[int]:
        """Wait until there is something to do; returns the handles that can be read."""
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
        """Run calls of other threads, read, and do what is due."""
        if self._wake_out in readable:
            os.read(self._wake_out, _READ_BYTES)
            while not self._calls.empty():
                self._now = time.monotonic()
                self._calls.get()()
        if self._handles is not None and self._handles[0] in readable:
            self._read()
        self._work()

    def _timeout(self) -> float | None:
        """Seconds until something is due, None if nothing is."""
        to_host = None if self._outbox else _earlier(self._to_host.due(), self._handover_s)
        dues = [_earlier(self._to_board.due(), self._ahead_s), to_host, self._program.due()]
        known = [due for due in dues if due is not None]
        return max(0.0, min(known) - _WAKE_S - time.monotonic()) if known else None

    def _read(self) -> None:
        assert self._handles is not None
        try:
            data = os.read(self._handles[0], _READ_BYTES)
        except BlockingIOError:
            return
        written = time.monotonic() - self._handover_s
        self._to_board.put(self._injector.to_board(data), written)

    def _work(self) -> None:
        """Pass on what has arrived, and do what is due.

        A reply starts when the byte that it answers arrived, not when this thread woke.
        """
        arrived = self._to_board.take(time.monotonic() + self._ahead_s)
        if arrived:
            self._now = self._to_board.clock if self._baud else time.monotonic()
            self._take(arrived)
        due = self._program.due()
        if due is not None and due <= time.monotonic():
            self._now = time.monotonic()
            self._program.tick(self._now)
        self._write()

    def _take(self, data: bytes) -> None:
        for part, fault in self._injector.parts(data):
            self._program.receive(part, self._now)
            if fault is not None:
                self._inject(fault)
            if self._handles is None:
                return

    def _inject(self, fault: Fault) -> None:
        if fault == "silence":
            self._to_host.clear()
            self._program, self.mode = _Unresponsive(self._restart), "silent"
        elif fault == "unplug":
            self._unplug()
        else:
            self._restart()

    def _write(self) -> None:
        if self._handles is None:
            return
        now = time.monotonic()
        if not self._outbox:
            self._outbox = self._injector.to_host(self._to_host.take(now + self._handover_s))
        if self._outbox:
            with contextlib.suppress(BlockingIOError):
                self._outbox = self._outbox[os.write(self._handles[0], self._outbox) :]
            if self._outbox:
                self._to_host.stall(now)

    def _send(self, data: bytes) -> None:
        self._to_host.put(data, self._now)

    def _send_frame(self, data: bytes) -> None:
        self._send(self._injector.frame(data))

    def _is_busy(self) -> bool:
        return bool(self._outbox) or len(self._to_host) > 0

    def _restart(self) -> None:
        """Reset: the bootloader runs, then the firmware."""
        if self._handles is None:
            return
        self._to_host.clear()
        bootloader = Bootloader(
            self._flash,
            self._send,
            boot=self._start_firmware,
            restart=self._restart,
            injector=lambda: self._injector,
            transfers=self.transfers,
        )
        self._program, self.mode = bootloader, "bootloader"
        self._send(self._injector.boot_noise())
        bootloader.start(time.monotonic() + self._boot_s)

    def _start_firmware(self) -> None:
        firmware = Firmware(
            self._flash,
            self._storage,
            self._model,
            self._camera,
            self._send_frame,
            self._is_busy,
            restart=self._restart,
            on_command=self.commands.append,
            release=self._release,
        )
        self._program, self.mode = firmware, "firmware"
        firmware.start()

    def _plug_in(self) -> None:
        if self._handles is None:
            self._open_port()
            self._restart()

    def _open_port(self) -> None:
        # The board keeps the host's side open too: a master whose slave is closed cannot be read.
        master, slave = os.openpty()
        tty.setraw(slave)
        os.set_blocking(master, False)
        self.port = os.ttyname(slave)
        if self._link is not None:
            self._link.symlink_to(self.port)
            self.port = str(self._link)
        self._handles = master, slave

    def _unplug(self) -> None:
        if self._handles is None:
            return
        if self._link is not None:
            self._link.unlink()
        for handle in self._handles:
            os.close(handle)
        self._handles = None
        self._outbox = b""
        self._to_board.clear()
        self._to_host.clear()
        self._program, self.mode = _Unresponsive(self._restart), "unplugged"

    def _stop(self) -> None:
        self._running = False


def _earlier(due: float | None, by_s: float) -> float | None:
    return None if due is None else due - by_s


def _sleep_exactly() -> None:
    """Have the kernel wake this thread on time, not up to 50 microseconds later.

    See timer_slack in prctl(2) and /proc/pid/timerslack_ns in proc(5); where the kernel does not
    offer it, the board is a few percent slower.
    """
    with contextlib.suppress(OSError):
        Path(f"/proc/{threading.get_native_id()}/timerslack_ns").write_text("1", encoding="ascii")
