"""The lines of a label file: ``class x y width height``, for pose then ``x y visibility`` or
``x y`` each; or a class and the points of an outline."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

from stages.results.dataset import Dataset, Task
from stages.yolo import KEYPOINT_VALUES

BOX_NUMBERS = 5
#: The trainer accepts this much beyond 0 and 1, because tools that convert labels round.
TOLERANCE = 0.01
_VISIBILITIES = (0.0, 1.0, 2.0)
_LABELLED = 2
#: A class and three points.
_LEAST_OUTLINE = 7
#: Enough for thousands of people with their keypoints.
_MAX_BYTES = 2 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Form:
    """The form of a label line; ``kpt_shape`` is (keypoints, numbers each), as data.yaml has it."""

    task: Task
    names: tuple[str, ...]
    kpt_shape: tuple[int, int] | None

    @classmethod
    def of(cls, dataset: Dataset) -> Form:
        """The form of a checked data set's own labels."""
        points, each = dataset.label_kpt_shape or (0, 0)
        return cls(
            task=dataset.task, names=dataset.names, kpt_shape=(points, each) if points else None
        )

    @property
    def nc(self) -> int:
        return len(self.names)

    @property
    def keypoint_numbers(self) -> int:
        return self.kpt_shape[0] * self.kpt_shape[1] if self.kpt_shape else 0

    def is_outline(self, count: int) -> bool:
        """True if a line of so many numbers is a class and the outline of a segmentation.

        With a kpt_shape a long line holds keypoints, or too few of them.
        """
        boxes_alone = self.task == "detect" and self.kpt_shape is None
        return boxes_alone and count >= _LEAST_OUTLINE and count % 2 == 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelledObject:
    """An object in parts of its image's width and height.

    ``box``: x and y of its centre, width, height. ``keypoints``: x, y and visibility (0: not
    labelled, 1: hidden, 2: seen) each; () for detect.
    """

    number: int
    box: tuple[float, float, float, float]
    keypoints: tuple[tuple[float, float, int], ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelFile:
    """A label file: numbers of lines, of repeated objects and of outlines, and faults with their
    lines."""

    objects: int = 0
    repeated: int = 0
    outlines: int = 0
    faults: tuple[tuple[int | None, str], ...] = ()


def objects_in(path: Path, form: Form) -> tuple[LabelledObject, ...]:
    """The objects of a label file without faults, in one form, whatever form its lines have; () if
    there is no such file.

    An outline becomes the box around it, a keypoint without visibility is labelled unless it is
    0 0, and an object that is there twice is given once.
    """
    if not path.is_file():
        return ()
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    rows = (tuple(float(word) for word in line.split()) for line in lines)
    return tuple(dict.fromkeys(_object(row, form) for row in rows if row))


def read_labels(path: Path, form: Form) -> LabelFile:
    """Read and check one label file; an empty one means that the image has no object."""
    if path.stat().st_size > _MAX_BYTES:
        return LabelFile(faults=((None, f"has more than {_MAX_BYTES >> 20} MiB"),))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        return LabelFile(faults=((None, "is not a text file"),))
    found: list[LabelledObject] = []
    faults: list[tuple[int | None, str]] = []
    objects = outlines = 0
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        objects += 1
        try:
            values = tuple(float(word) for word in words)
        except ValueError:
            wrong = next(word for word in words if not _is_number(word))
            faults.append((number, f"{wrong[:40]!r} is not a number"))
            continue
        wrong_here = list(_faults(values, form))
        faults += [(number, fault) for fault in wrong_here]
        if not wrong_here:
            outlines += form.is_outline(len(values))
            found.append(_object(values, form))
    return LabelFile(
        objects=objects,
        repeated=len(found) - len(set(found)),
        outlines=outlines,
        faults=tuple(faults),
    )


def _object(values: tuple[float, ...], form: Form) -> LabelledObject:
    """The object of a line without faults."""
    number = int(values[0])
    if form.is_outline(len(values)):
        return LabelledObject(number=number, box=_around(values[1:]))
    x, y, width, height = values[1:BOX_NUMBERS]
    keypoints: tuple[tuple[float, float, int], ...] = ()
    if form.task == "pose" and form.kpt_shape:
        each = form.kpt_shape[1]
        starts = range(BOX_NUMBERS, len(values), each)
        keypoints = tuple(_keypoint(values[start : start + each]) for start in starts)
    return LabelledObject(number=number, box=(x, y, width, height), keypoints=keypoints)


def _around(outline: tuple[float, ...]) -> tuple[float, float, float, float]:
    """The box around the points x y x y …"""
    (left, right), (top, bottom) = (
        (min(axis), max(axis)) for axis in (outline[::2], outline[1::2])
    )
    return (left + right) / 2, (top + bottom) / 2, right - left, bottom - top


def _keypoint(values: tuple[float, ...]) -> tuple[float, float, int]:
    if len(values) == KEYPOINT_VALUES:
        x, y, visibility = values
        return x, y, int(visibility)
    x, y = values
    return x, y, _LABELLED if (x, y) != (0.0, 0.0) else 0


def _faults(values: tuple[float, ...], form: Form) -> Iterator[str]:
    """Everything that is wrong with one line."""
    if not all(math.isfinite(value) for value in values):
        yield "holds nan or inf"
        return
    wrong_count = _wrong_count(len(values), form)
    if wrong_count:
        yield wrong_count
        return
    number = values[0]
    if number != int(number) or not 0 <= number < form.nc:
        yield f"class {number:g}, but data.yaml names {_classes(form.nc)}"
    if form.is_outline(len(values)):
        yield from _faults_of_outline(values[1:])
        return
    yield from _faults_of_box(values[1:BOX_NUMBERS])
    if form.kpt_shape and len(values) > BOX_NUMBERS:
        yield from _faults_of_keypoints(values[BOX_NUMBERS:], form.kpt_shape[1])


def _wrong_count(count: int, form: Form) -> str | None:
    """What a line of so many numbers probably is instead of what it should be; None if it fits."""
    keypoints = form.keypoint_numbers
    if form.task == "detect":
        if count in (BOX_NUMBERS, BOX_NUMBERS + keypoints) or form.is_outline(count):
            return None
        if keypoints:
            return _wrong_keypoints(count, form)
        return (
            f"{count} numbers; a line has {BOX_NUMBERS}, class x y width height, or a class and "
            "the x y of three points or more"
        )
    if count == BOX_NUMBERS + keypoints:
        return None
    if count == BOX_NUMBERS:
        return f"a box without keypoints; {_needed(form)} numbers"
    return _wrong_keypoints(count, form)


def _wrong_keypoints(count: int, form: Form) -> str:
    points, each = form.kpt_shape or (0, 0)
    left = count - BOX_NUMBERS
    if each == KEYPOINT_VALUES and left == 2 * points:
        return (
            f"{count} numbers: keypoints without visibility; {_needed(form)}; "
            f"kpt_shape: [{points}, 2] takes them as they are"
        )
    if each == 2 and left == KEYPOINT_VALUES * points:
        return f"{count} numbers: keypoints with visibility; write kpt_shape: [{points}, 3]"
    if left > 0 and left % each == 0:
        return f"{count} numbers: {left // each} keypoints; {_needed(form)}"
    return f"{count} numbers; {_needed(form)}"


def _needed(form: Form) -> str:
    points, each = form.kpt_shape or (0, 0)
    total = BOX_NUMBERS + form.keypoint_numbers
    return f"kpt_shape [{points}, {each}] needs {BOX_NUMBERS} + {points} x {each} = {total}"


def _faults_of_outline(values: tuple[float, ...]) -> Iterator[str]:
    for number, value in enumerate(values):
        if not _is_part(value):
            yield (
                f"point {number // 2} of the outline: {'xy'[number % 2]} {value:g} is not between "
                "0 and 1; if these are keypoints, data.yaml lacks their kpt_shape"
            )
            return
    yield from _faults_of_box(_around(values))


def _faults_of_box(box: tuple[float, ...]) -> Iterator[str]:
    for name, value in zip(("x", "y", "width", "height"), box, strict=True):
        if not _is_part(value):
            yield f"{name} {value:g} is not between 0 and 1: labels are parts of the image's size"
    for name, value in zip(("width", "height"), box[2:], strict=True):
        if value <= 0:
            yield f"the box has no {name} ({value:g})"


def _faults_of_keypoints(values: tuple[float, ...], each: int) -> Iterator[str]:
    for start in range(0, len(values), each):
        name = f"keypoint {start // each}"
        for axis, value in zip("xy", values[start : start + 2], strict=True):
            if not _is_part(value):
                yield f"{name}: {axis} {value:g} is not between 0 and 1"
        for value in values[start + 2 : start + each]:
            if value not in _VISIBILITIES:
                yield f"{name}: visibility {value:g} is none of 0, 1 and 2"


def _is_part(value: float) -> bool:
    return -TOLERANCE <= value <= 1 + TOLERANCE


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _classes(nc: int) -> str:
    return "class 0 only" if nc == 1 else f"classes 0 to {nc - 1}"
