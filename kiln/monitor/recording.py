"""Records events as a data set, in a thread of its own, without leaving out any image."""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

from kiln.device.labels import Description
from kiln.errors import KilnError
from kiln.monitor.class_folders import ClassFolderWriter
from kiln.monitor.dataset import DataSetWriter
from kiln.monitor.hub import FrameEvent

#: Images that wait for a slow disk. More than that ends the recording with a note: a data set with
#: unnoticed gaps would be worse.
MAX_WAITING_BYTES = 64 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recording:
    """The running recording, or the last one.

    ``task`` is what it can train, ``camera`` the mode of the camera that gave the last image and
    for which a network is to be trained. ``objects``: for classify the images with a class.
    ``rejected`` counts images that arrived damaged; ``note`` says why it ended by itself.
    """

    running: bool = False
    folder: str = ""
    task: str = ""
    camera: str = ""
    images: int = 0
    objects: int = 0
    rejected: int = 0
    note: str = ""


class Recorder:
    """Starts and stops recordings, one at a time; ``next_folder`` gives the folder of each."""

    def __init__(self, next_folder: Callable[[], Path]) -> None:
        self._next_folder = next_folder
        self._lock = threading.Lock()
        self._writer: _Writer | None = None

    @property
    def recording(self) -> Recording:
        writer = self._writer
        return writer.recording if writer else Recording()

    def start(self, labels: Description) -> None:
        """Start a recording if none runs; its note says if the folder cannot be made."""
        with self._lock:
            if not self.recording.running:
                self._writer = _Writer(self._next_folder, labels)

    def stop(self) -> None:
        """End the recording; returns when everything that was offered is on disk."""
        with self._lock:
            if self._writer is not None:
                self._writer.close()

    def offer(self, event: FrameEvent) -> None:
        """Hand an event to the recording, if one runs; never waits."""
        writer = self._writer
        if writer is not None:
            writer.offer(event)


class _Writer:
    """One recording and its thread."""

    def __init__(self, next_folder: Callable[[], Path], labels: Description) -> None:
        self.recording = Recording(running=True)
        self._labels = labels
        self._waiting: queue.SimpleQueue[FrameEvent | None] = queue.SimpleQueue()
        self._waiting_bytes = 0
        self._counting = threading.Lock()
        self._thread = threading.Thread(target=self._write, args=(next_folder,), name="recording")
        self._thread.start()

    def offer(self, event: FrameEvent) -> None:
        if not self.recording.running:
            return
        with self._counting:
            self._waiting_bytes += _size(event)
        self._waiting.put(event)

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
        kind = ClassFolderWriter if self._labels.task == "classify" else DataSetWriter
        writer = kind(folder, self._labels)
        self._note(folder=str(folder))
        try:
            self._take_all(writer)
        finally:
            writer.finish()

    def _note(self, **changes: bool | int | str) -> None:
        self.recording = dataclasses.replace(self.recording, **changes)  # type: ignore[arg-type]

    def _take_all(self, writer: DataSetWriter | ClassFolderWriter) -> None:
        while (event := self._waiting.get()) is not None:
            if event.labels != self._labels:
                raise KilnError("the board now runs another model")
            if self._waiting_bytes > MAX_WAITING_BYTES:
                raise KilnError("the disk is slower than the board")
            writer.add(event.detections)
            with self._counting:
                self._waiting_bytes -= _size(event)
            width, height = event.detections.resolution
            self._note(
                task=writer.task,
                camera=f"{width}x{height}",
                images=writer.images,
                objects=writer.objects,
                rejected=writer.rejected,
            )


def default_folder() -> Path:
    """./recordings/<date-time>, which does not exist yet."""
    return unused(Path("recordings", time.strftime("%Y%m%d-%H%M%S")))


def unused(folder: Path) -> Path:
    """The folder itself if it does not exist or is empty; else the first free one with a number."""
    number, tried = 1, folder
    while tried.exists() and not (tried.is_dir() and not any(tried.iterdir())):
        number += 1
        tried = folder.with_name(f"{folder.name}-{number}")
    return tried


def _size(event: FrameEvent) -> int:
    return len(event.detections.image or b"")
