"""Records what a board sees beside everything else: no picture is left out, and nothing waits."""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

from kiln.device.labels import Description
from kiln.errors import KilnError
from kiln.monitor.dataset import DataSetWriter
from kiln.monitor.hub import Seen

#: Pictures that wait for a slow disk. One that stays slower than the board ends the recording,
#: which says so: a set with gaps that nobody knows of would be worse.
MAX_WAITING_BYTES = 64 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recording:
    """The recording that runs, or the last one.

    ``task`` is what it can train, pose or detect. ``left_out`` counts pictures that came
    damaged; ``note`` says why it ended by itself.
    """

    running: bool = False
    folder: str = ""
    task: str = ""
    pictures: int = 0
    objects: int = 0
    left_out: int = 0
    note: str = ""


class Recorder:
    """Starts and stops recordings, one at a time; ``next_folder`` says where the next one goes."""

    def __init__(self, next_folder: Callable[[], Path]) -> None:
        self._next_folder = next_folder
        self._lock = threading.Lock()
        self._session: _Session | None = None

    @property
    def recording(self) -> Recording:
        session = self._session
        return session.recording if session else Recording()

    def start(self, labels: Description) -> None:
        """Begin a new set, unless one is being recorded; a folder that cannot be made is noted."""
        with self._lock:
            if not self.recording.running:
                self._session = _Session(self._next_folder, labels)

    def stop(self) -> None:
        """End the set; returns when all that was offered is on disk."""
        with self._lock:
            if self._session is not None:
                self._session.close()

    def offer(self, seen: Seen) -> None:
        """Hand an event to the recording, if one runs; never waits."""
        session = self._session
        if session is not None:
            session.offer(seen)


class _Session:
    """One recording, written by a thread of its own."""

    def __init__(self, next_folder: Callable[[], Path], labels: Description) -> None:
        self.recording = Recording(running=True)
        self._labels = labels
        self._waiting: queue.SimpleQueue[Seen | None] = queue.SimpleQueue()
        self._waiting_bytes = 0
        self._counting = threading.Lock()
        self._thread = threading.Thread(target=self._write, args=(next_folder,), name="recording")
        self._thread.start()

    def offer(self, seen: Seen) -> None:
        if not self.recording.running:
            return
        with self._counting:
            self._waiting_bytes += _size(seen)
        self._waiting.put(seen)

    def close(self) -> None:
        self._waiting.put(None)
        self._thread.join()

    def _write(self, next_folder: Callable[[], Path]) -> None:
        note = "it failed"
        try:
            self._fill(next_folder())
            note = ""
        except OSError as error:
            note = f"{error.strerror or error}" + (f" ({error.filename})" if error.filename else "")
        except KilnError as error:
            note = error.message
        finally:
            self._note(running=False, note=note)

    def _fill(self, folder: Path) -> None:
        writer = DataSetWriter(folder, self._labels)
        self._note(folder=str(folder))
        try:
            self._take_all(writer)
        finally:
            writer.finish()

    def _note(self, **changes: bool | int | str) -> None:
        self.recording = dataclasses.replace(self.recording, **changes)  # type: ignore[arg-type]

    def _take_all(self, writer: DataSetWriter) -> None:
        while (seen := self._waiting.get()) is not None:
            if seen.labels != self._labels:
                raise KilnError("the board now runs another model")
            if self._waiting_bytes > MAX_WAITING_BYTES:
                raise KilnError("the disk is slower than the board")
            writer.add(seen.detections)
            with self._counting:
                self._waiting_bytes -= _size(seen)
            self._note(
                task=writer.task,
                pictures=writer.pictures,
                objects=writer.objects,
                left_out=writer.left_out,
            )


def default_folder() -> Path:
    """./recordings/<date-time>, which is not there yet."""
    return unused(Path("recordings", time.strftime("%Y%m%d-%H%M%S")))


def unused(folder: Path) -> Path:
    """The folder itself if there is none, or an empty one; else the first free one numbered on."""
    number, tried = 1, folder
    while tried.exists() and not (tried.is_dir() and not any(tried.iterdir())):
        number += 1
        tried = folder.with_name(f"{folder.name}-{number}")
    return tried


def _size(seen: Seen) -> int:
    return len(seen.detections.image or b"")
