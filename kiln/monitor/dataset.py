"""What a board saw as a data set in YOLO's form, which `kiln build --data FOLDER` takes as it is.

The form is that of docs/data.md: data.yaml, images/<split>/ and labels/<split>/, in
each label line ``class x y width height`` and for poses ``x y visibility`` for each keypoint, all
in parts of the picture's size.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from kiln.device.detections import Box, Detections, Point
from kiln.device.labels import Description
from kiln.plan.request import Task

#: A keypoint that the model itself holds for hidden, in percent; the report draws by the same.
VISIBLE_PERCENT = 50
#: One picture of so many is kept to judge with.
VAL_SHARE = 10
#: More than any data set of pictures for boards names.
MAX_CLASSES = 2000
#: A file under this name is not finished; it lies where no reader of data sets looks.
_UNFINISHED = ".unfinished"
_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"


class DataSetWriter:
    """Adds pictures one by one; every file appears whole, so that a crash leaves a usable set.

    Use it from one thread. The folder is made here and must not exist, or be empty: names of
    files are numbered, so nothing is ever written over. Methods raise OSError.
    """

    def __init__(self, folder: Path, labels: Description) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise FileExistsError(f"{folder} is not empty")
        self._folder = folder
        self._labels = labels
        self._keypoints = len(labels.keypoints)
        self._classes = max(1, len(labels.classes))
        self._kept: set[bytes] = set()
        self._number = 0
        #: Pictures by split, and those of them in which something is labelled.
        self._pictures: dict[str, list[str]] = {"train": [], "val": []}
        self._labelled: dict[str, list[str]] = {"train": [], "val": []}
        self.objects = 0
        self.left_out = 0
        for split in self._pictures:
            (folder / "images" / split).mkdir(parents=True)
            (folder / "labels" / split).mkdir(parents=True)
        self._describe()

    @property
    def pictures(self) -> int:
        return sum(len(names) for names in self._pictures.values())

    @property
    def task(self) -> Task:
        """What the labels can train, as far as is known by now."""
        return "pose" if self._keypoints else "detect"

    def add(self, seen: Detections) -> None:
        """Keep a picture with what was found in it; one without anything is background.

        The same picture is not kept twice; one that did not arrive as it was sent is left out, and
        counted in ``left_out``.
        """
        picture = (seen.image or b"").rstrip(b"\0")
        digest = hashlib.sha256(picture).digest()
        if digest in self._kept:
            return
        if not _is_whole(picture) or not _is_sound(seen) or not self._learn(seen):
            self.left_out += 1
            return
        self._kept.add(digest)
        lines = list(label_lines(seen, self._keypoints))
        self._number += 1
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{self._number:06}"
        split = self._split_of(digest, labelled=bool(lines))
        # The label comes first: a picture without one would be taken for background.
        self._write(Path("labels", split, f"{name}.txt"), "".join(lines).encode())
        self._write(Path("images", split, f"{name}.jpg"), picture)
        self._pictures[split].append(name)
        self._labelled[split] += [name] * bool(lines)
        self.objects += len(lines)

    def finish(self) -> None:
        """Leave both splits with pictures and train with objects, as far as there are any.

        A short recording, or one whose few people fell to val, lacks one or the other. A folder
        without any picture is removed.
        """
        if not self.pictures:
            shutil.rmtree(self._folder)
            return
        for split, other in (("val", "train"), ("train", "val")):
            if not self._pictures[split]:
                self._copy((self._labelled[other] or self._pictures[other])[-1], other, split)
        if not self._labelled["train"] and self._labelled["val"]:
            self._copy(self._labelled["val"][0], "val", "train")

    def _learn(self, seen: Detections) -> bool:
        """What the board's description did not say: how many keypoints, how many classes.

        False if the event has another number of keypoints than those before.
        """
        found = {len(pose.points) for pose in seen.poses}
        keypoints = self._keypoints or max(found, default=0)
        classes = max([self._classes, *(box.target + 1 for box in _boxes(seen))])
        if found - {keypoints}:
            return False
        if (keypoints, classes) != (self._keypoints, self._classes):
            self._keypoints, self._classes = keypoints, classes
            self._describe()
        return True

    def _split_of(self, digest: bytes, *, labelled: bool) -> str:
        """By the picture's bytes, so that the same picture is in the same split of every set.

        The second labelled one goes to val if there is none yet: from then on a set can be used,
        and a short one be judged by.
        """
        if labelled and self._labelled["train"] and not self._labelled["val"]:
            return "val"
        return "val" if int.from_bytes(digest, "big") % VAL_SHARE == 0 else "train"

    def _copy(self, name: str, split: str, to: str) -> None:
        """Copied, not moved: one picture may be all that a split has."""
        for kind, suffix in (("labels", "txt"), ("images", "jpg")):
            content = (self._folder / kind / split / f"{name}.{suffix}").read_bytes()
            self._write(Path(kind, to, f"{name}.{suffix}"), content)

    def _describe(self) -> None:
        names = [*self._labels.classes]
        names += [f"class {number}" for number in range(len(names), self._classes)]
        table: dict[str, object] = {
            "path": ".",
            "train": "images/train",
            "val": "images/val",
            "names": dict(enumerate(names)),
        }
        if self._keypoints:
            table["kpt_shape"] = [self._keypoints, 3]
            flipped = flip_index(self._labels.keypoints)
            table |= {"flip_idx": flipped} if flipped else {}
        text = yaml.safe_dump(table, sort_keys=False, allow_unicode=True)
        self._write(Path("data.yaml"), text.encode())

    def _write(self, name: Path, content: bytes) -> None:
        unfinished = self._folder / _UNFINISHED
        unfinished.write_bytes(content)
        unfinished.replace(self._folder / name)


def label_lines(seen: Detections, keypoints: int) -> Iterator[str]:
    """A line for each object that is at least partly in the picture, ``keypoints`` to each."""
    width, height = seen.resolution
    for pose in seen.poses:
        box = _box_words(pose.box, width, height)
        if box:
            points = [word for point in pose.points for word in _point_words(point, width, height)]
            yield " ".join([*box, *points]) + "\n"
    if keypoints:
        return
    for each in seen.boxes:
        box = _box_words(each, width, height)
        if box:
            yield " ".join(box) + "\n"


def flip_index(keypoints: Sequence[str]) -> list[int]:
    """For each keypoint the one that it becomes in a mirror: left and right change places.

    [] if the names do not tell.
    """
    mirrored = [_mirrored(name) for name in keypoints]
    if mirrored == [*keypoints] or {*mirrored} != {*keypoints} or len({*mirrored}) < len(mirrored):
        return []
    return [[*keypoints].index(name) for name in mirrored]


def _boxes(seen: Detections) -> list[Box]:
    return [*seen.boxes, *(pose.box for pose in seen.poses)]


def _is_whole(picture: bytes) -> bool:
    return picture.startswith(_JPEG_START) and picture.endswith(_JPEG_END)


def _is_sound(seen: Detections) -> bool:
    """The line to a board has no checksum: a digit may arrive as another one."""
    known = all(0 <= box.target < MAX_CLASSES for box in _boxes(seen))
    return known and min(seen.resolution) >= 1


def _mirrored(name: str) -> str:
    for side, other in (("left", "right"), ("right", "left")):
        if side in name:
            return name.replace(side, other)
    return name


def _box_words(box: Box, width: int, height: int) -> list[str]:
    """Class, centre and size of the part that is in the picture; [] if none is."""
    left, right = (_part(box.x + side * box.w / 2, width) for side in (-1, 1))
    top, bottom = (_part(box.y + side * box.h / 2, height) for side in (-1, 1))
    if right <= left or bottom <= top:
        return []
    numbers = ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)
    return [str(box.target), *(f"{number:.6f}" for number in numbers)]


def _point_words(point: Point, width: int, height: int) -> list[str]:
    inside = 0 <= point.x <= width and 0 <= point.y <= height
    if point.score < VISIBLE_PERCENT or not inside:
        return ["0", "0", "0"]
    return [f"{point.x / width:.6f}", f"{point.y / height:.6f}", "2"]


def _part(pixels: float, size: int) -> float:
    return min(max(pixels / size, 0.0), 1.0)
