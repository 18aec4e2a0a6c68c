"""Detections of a board as a YOLO data set, which `kiln build --data FOLDER` takes as it is.

The layout is data.yaml, images/<split>/ and labels/<split>/. A label line is ``class x y width
height``, for poses followed by ``x y visibility`` for each keypoint, all in parts of the image's
size.
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
from stages import yolo

#: One of so many images goes to val.
VAL_SHARE = 10
#: More classes than any data set for boards has; a larger number is damage.
MAX_CLASSES = 2000
#: The name of a file until it is complete, outside the folders that readers look at.
_UNFINISHED = ".unfinished"
_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"


class DataSetWriter:
    """Adds images one by one; every file appears complete, so that a crash leaves a usable set.

    For one thread. The folder must be empty or not exist. ``rejected`` counts damaged images.
    Methods raise OSError.
    """

    def __init__(self, folder: Path, labels: Description) -> None:
        claim(folder)
        self._folder = folder
        self._labels = labels
        self._keypoints = len(labels.keypoints)
        self._classes = max(1, len(labels.classes))
        self._kept: set[bytes] = set()
        self._number = 0
        #: Images by split, and those of them that have objects.
        self._images: dict[str, list[str]] = {split: [] for split in yolo.SPLITS}
        self._labelled: dict[str, list[str]] = {split: [] for split in yolo.SPLITS}
        self.objects = 0
        self.rejected = 0
        for split in yolo.SPLITS:
            image = _image_path(split, "any")
            for path in (image, yolo.label_path(image)):
                (folder / path).parent.mkdir(parents=True)
        self._describe()

    @property
    def images(self) -> int:
        return sum(len(names) for names in self._images.values())

    @property
    def task(self) -> Task:
        """What the labels can train, as far as known."""
        return "pose" if self._keypoints else "detect"

    def add(self, detections: Detections) -> None:
        """Add an image with its objects; one without any is background.

        The same image is not added twice, and a damaged one is rejected.
        """
        image, digest = arrived(detections)
        if digest in self._kept:
            return
        if not is_complete(image) or not _is_plausible(detections) or not self._learn(detections):
            self.rejected += 1
            return
        self._kept.add(digest)
        lines = list(label_lines(detections, self._keypoints))
        self._number += 1
        name = new_name(self._number)
        split = self._split_of(digest, labelled=bool(lines))
        # The label comes first: an image without one would be taken for background.
        path = _image_path(split, name)
        self._write(yolo.label_path(path), "".join(lines).encode())
        self._write(path, image)
        self._images[split].append(name)
        self._labelled[split] += [name] * bool(lines)
        self.objects += len(lines)

    def finish(self) -> None:
        """Give both splits images, and train objects, if there are any at all.

        A short recording may lack either. A folder without any image is removed.
        """
        if not self.images:
            shutil.rmtree(self._folder)
            return
        for split, other in (("val", "train"), ("train", "val")):
            if not self._images[split]:
                self._copy((self._labelled[other] or self._images[other])[-1], other, split)
        if not self._labelled["train"] and self._labelled["val"]:
            self._copy(self._labelled["val"][0], "val", "train")

    def _learn(self, detections: Detections) -> bool:
        """Update numbers of keypoints and classes that the board's description did not give.

        False if the event has another number of keypoints than those before.
        """
        counts = {len(pose.points) for pose in detections.poses}
        keypoints = self._keypoints or max(counts, default=0)
        classes = max([self._classes, *(box.target + 1 for box in _boxes(detections))])
        if counts - {keypoints}:
            return False
        if (keypoints, classes) != (self._keypoints, self._classes):
            self._keypoints, self._classes = keypoints, classes
            self._describe()
        return True

    def _split_of(self, digest: bytes, *, labelled: bool) -> str:
        """By the image's digest, so that the same image is in the same split of every recording.

        But the second image with objects goes to val if none has yet: from then on the data set is
        usable.
        """
        if labelled and self._labelled["train"] and not self._labelled["val"]:
            return "val"
        return split_by(digest)

    def _copy(self, name: str, split: str, to: str) -> None:
        """Copy an image to another split; moving it might leave its own one empty."""
        source, copy = _image_path(split, name), _image_path(to, name)
        for path, new in ((yolo.label_path(source), yolo.label_path(copy)), (source, copy)):
            self._write(new, (self._folder / path).read_bytes())

    def _describe(self) -> None:
        names = [*self._labels.classes]
        names += [f"class {number}" for number in range(len(names), self._classes)]
        keypoints: dict[str, object] = {}
        if self._keypoints:
            keypoints["kpt_shape"] = [self._keypoints, yolo.KEYPOINT_VALUES]
            flipped = flip_index(self._labels.keypoints)
            keypoints |= {"flip_idx": flipped} if flipped else {}
            pairs = [list(pair) for pair in self._labels.skeleton]
            keypoints |= {"skeleton": pairs} if pairs else {}
        table = yolo.data_yaml(dict(enumerate(names)), keypoints)
        text = yaml.safe_dump(table, sort_keys=False, allow_unicode=True)
        self._write("data.yaml", text.encode())

    def _write(self, name: str, content: bytes) -> None:
        write_whole(self._folder, self._folder / name, content)


def claim(folder: Path) -> None:
    """Make the folder of a recording; raises FileExistsError if it holds anything."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty")


def arrived(detections: Detections) -> tuple[bytes, bytes]:
    """The image of an event, without what pads it, and its digest."""
    image = (detections.image or b"").rstrip(b"\0")
    return image, hashlib.sha256(image).digest()


def split_by(digest: bytes) -> str:
    """The split of an image, the same in every recording."""
    return "val" if int.from_bytes(digest, "big") % VAL_SHARE == 0 else "train"


def new_name(number: int) -> str:
    """The name of a recorded image, without its ending."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{number:06}"


def write_whole(folder: Path, path: Path, content: bytes) -> None:
    """Write a file of a data set in ``folder``, which appears complete."""
    unfinished = folder / _UNFINISHED
    unfinished.write_bytes(content)
    unfinished.replace(path)


def _image_path(split: str, name: str) -> str:
    """Where an image lies in the data set; its labels lie where `yolo.label_path` says."""
    return f"images/{split}/{name}.jpg"


def label_lines(detections: Detections, keypoints: int) -> Iterator[str]:
    """A line for each object that is at least partly in the image, with ``keypoints`` each."""
    width, height = detections.resolution
    for pose in detections.poses:
        box = _box_words(pose.box, width, height)
        if box:
            points = [word for point in pose.points for word in _point_words(point, width, height)]
            yield " ".join([*box, *points]) + "\n"
    if keypoints:
        return
    for each in detections.boxes:
        box = _box_words(each, width, height)
        if box:
            yield " ".join(box) + "\n"


def flip_index(keypoints: Sequence[str]) -> list[int]:
    """ultralytics' flip_idx: the keypoint that each becomes in a mirrored image, by left and right.

    [] if the names do not tell.
    """
    mirrored = [_mirrored(name) for name in keypoints]
    if mirrored == [*keypoints] or {*mirrored} != {*keypoints} or len({*mirrored}) < len(mirrored):
        return []
    return [[*keypoints].index(name) for name in mirrored]


def _boxes(detections: Detections) -> list[Box]:
    return [*detections.boxes, *(pose.box for pose in detections.poses)]


def is_complete(image: bytes) -> bool:
    """Whether this has the beginning and the end of a JPEG."""
    return image.startswith(_JPEG_START) and image.endswith(_JPEG_END)


def _is_plausible(detections: Detections) -> bool:
    """Plausible numbers: the line to a board has no checksum, and digits may change."""
    known = all(0 <= box.target < MAX_CLASSES for box in _boxes(detections))
    return known and min(detections.resolution) >= 1


def _mirrored(name: str) -> str:
    for side, other in (("left", "right"), ("right", "left")):
        if side in name:
            return name.replace(side, other)
    return name


def _box_words(box: Box, width: int, height: int) -> list[str]:
    """Class, centre and size of the visible part; [] if there is none."""
    left, right = (_part(box.x + side * box.w / 2, width) for side in (-1, 1))
    top, bottom = (_part(box.y + side * box.h / 2, height) for side in (-1, 1))
    if right <= left or bottom <= top:
        return []
    numbers = ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)
    return [str(box.target), *(f"{number:.6f}" for number in numbers)]


def _point_words(point: Point, width: int, height: int) -> list[str]:
    inside = 0 <= point.x <= width and 0 <= point.y <= height
    if not point.visible or not inside:
        return ["0", "0", "0"]
    return [f"{point.x / width:.6f}", f"{point.y / height:.6f}", "2"]


def _part(pixels: float, size: int) -> float:
    return min(max(pixels / size, 0.0), 1.0)
