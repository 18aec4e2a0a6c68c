"""The lines of a label file: ``class x y width height``, for pose then ``x y visibility`` each."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

from stages.results.dataset import Dataset, Task

BOX_NUMBERS = 5
#: The trainer accepts this much beyond 0 and 1, because tools that convert labels round.
TOLERANCE = 0.01
_VISIBILITIES = (0.0, 1.0, 2.0)
_LEAST_OUTLINE = 7
#: Enough for thousands of people with their keypoints.
_MAX_BYTES = 2 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Form:
    """The form of a label line; ``kpt_shape`` is (keypoints, numbers each)."""

    task: Task
    names: tuple[str, ...]
    kpt_shape: tuple[int, int] | None

    @staticmethod
    def of(dataset: Dataset) -> Form:
        """The form of the labels of a data set without faults."""
        pair = (dataset.kpt_shape[0], dataset.kpt_shape[1]) if dataset.kpt_shape else None
        return Form(task=dataset.task, names=dataset.names, kpt_shape=pair)

    @property
    def nc(self) -> int:
        return len(self.names)

    @property
    def keypoint_numbers(self) -> int:
        return self.kpt_shape[0] * self.kpt_shape[1] if self.kpt_shape else 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelFile:
    """A label file: numbers of lines and of repeated lines, and faults with their lines."""

    objects: int = 0
    repeated: int = 0
    faults: tuple[tuple[int | None, str], ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelledObject:
    """A labelled object, in parts of the image: class number; x and y of its centre, width and
    height; x, y and visibility (0 to 2) of each keypoint, () for detect."""

    number: int
    box: tuple[float, float, float, float]
    keypoints: tuple[tuple[float, float, int], ...]


def objects_in(path: Path, form: Form) -> tuple[LabelledObject, ...]:
    """The objects of a label file without faults; () if there is none."""
    if not path.is_file():
        return ()
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    rows = dict.fromkeys(tuple(float(word) for word in line.split()) for line in lines)
    return tuple(_object(row, form) for row in rows if row)


def _object(row: tuple[float, ...], form: Form) -> LabelledObject:
    number, x, y, width, height = row[:BOX_NUMBERS]
    values = row[BOX_NUMBERS:] if form.task == "pose" else ()
    triples = zip(values[::3], values[1::3], values[2::3], strict=True)
    return LabelledObject(
        number=int(number),
        box=(x, y, width, height),
        keypoints=tuple((px, py, int(v)) for px, py, v in triples),
    )


def read_labels(path: Path, form: Form) -> LabelFile:
    """Read and check one label file; an empty one means that the image has no object."""
    if path.stat().st_size > _MAX_BYTES:
        return LabelFile(faults=((None, f"has more than {_MAX_BYTES >> 20} MiB"),))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        return LabelFile(faults=((None, "is not a text file"),))
    seen: set[tuple[float, ...]] = set()
    faults: list[tuple[int | None, str]] = []
    objects = repeated = 0
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
        faults += [(number, fault) for fault in _faults(values, form)]
        repeated += values in seen
        seen.add(values)
    return LabelFile(objects=objects, repeated=repeated, faults=tuple(faults))


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
    yield from _faults_of_box(values[1:BOX_NUMBERS])
    if form.kpt_shape and len(values) > BOX_NUMBERS:
        yield from _faults_of_keypoints(values[BOX_NUMBERS:], form.kpt_shape[1])


def _wrong_count(count: int, form: Form) -> str | None:
    """What a line of so many numbers probably is instead of what it should be; None if it fits."""
    keypoints = form.keypoint_numbers
    if form.task == "detect":
        if count in (BOX_NUMBERS, BOX_NUMBERS + keypoints):
            return None
        if count >= _LEAST_OUTLINE and count % 2:
            return (
                f"{count} numbers: this looks like the outline of a segmentation; TASK=detect "
                "needs a box, 'class x y width height'"
            )
        return f"{count} numbers; a line has {BOX_NUMBERS}: class x y width height"
    if count == BOX_NUMBERS + keypoints:
        return None
    points, each = form.kpt_shape or (0, 0)
    needed = f"kpt_shape [{points}, {each}] needs {BOX_NUMBERS} + {points} x {each} = "
    needed += str(BOX_NUMBERS + keypoints)
    if count == BOX_NUMBERS:
        return f"a box without keypoints; {needed} numbers"
    if count == BOX_NUMBERS + 2 * points:
        return f"{count} numbers: keypoints without visibility; {needed}"
    if count > BOX_NUMBERS and (count - BOX_NUMBERS) % each == 0:
        return f"{count} numbers: {(count - BOX_NUMBERS) // each} keypoints; {needed}"
    return f"{count} numbers; {needed}"


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
