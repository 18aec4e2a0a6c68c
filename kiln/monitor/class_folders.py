"""What a classifier on a board saw as a data set of classes, which `kiln build` takes as it is.

The layout is train/<class>/ and val/<class>/. A frame of which the board reported no class goes to
unsorted/, which nothing reads: it is for the user to sort.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from kiln.device.detections import Detections
from kiln.device.labels import Description
from kiln.monitor.dataset import (
    MAX_CLASSES,
    arrived,
    claim,
    is_complete,
    new_name,
    split_by,
    write_whole,
)
from kiln.plan.request import Task

UNSORTED = "unsorted"
_SPLITS = ("train", "val")


class ClassFolderWriter:
    """Adds images one by one; every file appears complete, so that a crash leaves a usable set.

    For one thread. The folder must be empty or not exist. ``objects`` counts images with a class,
    ``rejected`` damaged ones. Methods raise OSError.
    """

    task: Task = "classify"

    def __init__(self, folder: Path, labels: Description) -> None:
        claim(folder)
        self._folder = folder
        self._labels = labels
        self._kept: set[bytes] = set()
        #: Files by class, those of each split.
        self._files: dict[str, dict[str, list[Path]]] = {}
        self.images = 0
        self.objects = 0
        self.rejected = 0

    def add(self, detections: Detections) -> None:
        """Add an image to the folder of its best class.

        The same image is not added twice, and a damaged one is rejected.
        """
        image, digest = arrived(detections)
        if digest in self._kept:
            return
        best = detections.classes[0].target if detections.classes else None
        if not is_complete(image) or (best is not None and not 0 <= best < MAX_CLASSES):
            self.rejected += 1
            return
        self._kept.add(digest)
        self.images += 1
        name = f"{new_name(self.images)}.jpg"
        if best is None:
            self._write(self._folder / UNSORTED / name, image)
            return
        kind = _folder_name(self._labels.label(best), best)
        split = self._split_of(digest, kind)
        file = self._folder / split / kind / name
        self._write(file, image)
        self._files.setdefault(kind, {each: [] for each in _SPLITS})[split].append(file)
        self.objects += 1

    def finish(self) -> None:
        """Give each class an image in both splits. A folder without any image is removed."""
        if not self.images:
            shutil.rmtree(self._folder)
        for kind, files in self._files.items():
            for split, other in (("val", "train"), ("train", "val")):
                if not files[split]:
                    source = files[other][-1]
                    self._write(self._folder / split / kind / source.name, source.read_bytes())

    def _split_of(self, digest: bytes, kind: str) -> str:
        """By the image's digest, so that the same image is in the same split of every recording.

        But the second image of a class goes to val if that has none yet.
        """
        files = self._files.get(kind)
        if files and files["train"] and not files["val"]:
            return "val"
        return split_by(digest)

    def _write(self, path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._folder, path, content)


def _folder_name(name: str, number: int) -> str:
    """The name of a class as a folder's; a class without a usable name is called by its number."""
    kept = "".join(c for c in name if c.isprintable() and c not in "/\\").strip(" .")
    return kept.encode("utf-8", "ignore").decode()[:100] or f"class {number}"
