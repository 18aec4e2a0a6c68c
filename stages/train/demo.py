"""Draw the demo data set: the same bytes on every host.

``params``: task, train and val (numbers of images), seed. ``out/data/`` is a data set in YOLO's
layout: people with COCO's 17 keypoints, or shapes of five classes; for classify one road sign an
image, in images/<split>/<class>/.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

from stages.coco import FLIP_INDEX, KEYPOINTS
from stages.contract import Events, Job, main
from stages.results.demo import DemoResult
from stages.train.demo_data.canvas import Canvas, Point, extent
from stages.train.demo_data.demo_figures import Person
from stages.train.demo_data.scenery import SIZES, draw_backdrop, draw_obstacle
from stages.train.demo_data.shapes import SHAPES, draw_shape
from stages.train.demo_data.signs import SIGNS, draw_sign
from stages.yolo import KEYPOINT_VALUES, SPLITS

#: An object is labelled if at least this much of it is visible, in percent of its pixels.
_VISIBLE_PERCENT = 30
_PLACES_TRIED = 30
#: A JPEG and its label lines.
LabelledJpeg = tuple[bytes, list[str]]
Box = tuple[int, int, int, int]


def run(job: Job, events: Events) -> DemoResult:
    """Draw both splits."""
    task, seed = job.params["task"], job.params["seed"]
    if task == "classify":
        return _draw_classes(job, events)
    draw: Callable[[random.Random], LabelledJpeg] = draw_people if task == "pose" else draw_shapes
    counts = {split: int(job.params[split]) for split in SPLITS}
    data, total = job.out / "data", sum(counts.values())
    objects, done = dict.fromkeys(counts, 0), 0
    for split, count in counts.items():
        folders = [data / kind / split for kind in ("images", "labels")]
        for folder in folders:
            folder.mkdir(parents=True)
        for number in range(count):
            rng = random.Random(f"{seed}/{task}/{split}/{number}")
            image, labels = draw(rng)
            while not labels:  # the only object may be hidden by something
                image, labels = draw(rng)
            (folders[0] / f"{number:05d}.jpg").write_bytes(image)
            (folders[1] / f"{number:05d}.txt").write_text("".join(f"{line}\n" for line in labels))
            objects[split] += len(labels)
            done += 1
            if done % 16 == 0 or done == total:
                events.progress(done, total, "images")
    names = ("person",) if task == "pose" else SHAPES
    (data / "data.yaml").write_text(_description(task, names))
    return DemoResult(
        task=task,
        names=names,
        images=counts,
        objects=objects,
        versions={name: version(name) for name in ("opencv-python-headless", "numpy")},
    )


def draw_people(rng: random.Random) -> LabelledJpeg:
    """A JPEG with one to four people, and its labels: class, box, 17 keypoints each."""
    canvas = Canvas(*rng.choice(SIZES))
    draw_backdrop(canvas, rng, blocks=True)
    people = []
    taken: list[Box] = []
    for _ in range(rng.choice((1, 1, 2, 2, 3, 4))):
        height = canvas.height * rng.randrange(38, 96) // 100
        box = _place(canvas, rng, (height * 45 // 100, height), taken)
        if box is not None:
            taken.append(box)
            hips = ((box[0] + box[2]) // 2, box[1] + height * 50 // 100)
            people.append(Person(rng, hips=hips, height=height))
    masks = []
    for owner, person in enumerate(people, start=1):
        person.draw(canvas, owner)
        masks.append(canvas.owner == owner)
    if rng.randrange(3) == 0:
        draw_obstacle(canvas, rng)
    labels = []
    for owner, (person, mask) in enumerate(zip(people, masks, strict=True), start=1):
        box_label = _box_label(canvas, 0, mask, owner)
        if box_label is not None:
            points = (_keypoint(canvas, point, owner) for point in person.keypoints())
            labels.append(" ".join((box_label, *points)))
    return canvas.jpeg(), labels


def draw_shapes(rng: random.Random) -> LabelledJpeg:
    """A JPEG with one to six shapes, and its labels: class and box each."""
    canvas = Canvas(*rng.choice(SIZES))
    draw_backdrop(canvas, rng, blocks=False)
    kinds, masks = [], []
    taken: list[Box] = []
    for _ in range(rng.randrange(1, 7)):
        size = min(canvas.width, canvas.height) * rng.randrange(14, 50) // 100
        box = _place(canvas, rng, (size, size), taken)
        if box is None:
            continue
        taken.append(box)
        kinds.append(rng.randrange(len(SHAPES)))
        centre = ((box[0] + box[2]) // 2, (box[1] + box[3]) // 2)
        draw_shape(canvas, rng, kind=kinds[-1], centre=centre, radius=size // 2, owner=len(kinds))
        masks.append(canvas.owner == len(kinds))
    labels = [
        _box_label(canvas, kind, mask, owner)
        for owner, (kind, mask) in enumerate(zip(kinds, masks, strict=True), start=1)
    ]
    return canvas.jpeg(), [label for label in labels if label is not None]


def _draw_classes(job: Job, events: Events) -> DemoResult:
    """Draw both splits for classify, as many images of each class as of the others."""
    counts = {split: int(job.params[split]) for split in SPLITS}
    data, total, done = job.out / "data", sum(counts.values()), 0
    for split, count in counts.items():
        for number in range(count):
            kind = number % len(SIGNS)
            rng = random.Random(f"{job.params['seed']}/classify/{split}/{number}")
            file = data / "images" / split / SIGNS[kind] / f"{number:05d}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(draw_scene_with_sign(rng, kind))
            done += 1
            if done % 16 == 0 or done == total:
                events.progress(done, total, "images")
    (data / "data.yaml").write_text(_description("classify", SIGNS))
    return DemoResult(
        task="classify",
        names=SIGNS,
        images=counts,
        objects=counts,
        versions={name: version(name) for name in ("opencv-python-headless", "numpy")},
    )


def draw_scene_with_sign(rng: random.Random, kind: int) -> bytes:
    """A JPEG with one sign in its middle part, which a frame of any proportions shows."""
    canvas = Canvas(*rng.choice(SIZES))
    draw_backdrop(canvas, rng, blocks=True)
    side = min(canvas.width, canvas.height)
    radius = side * rng.randrange(16, 38) // 100
    spread = max(1, side // 2 - radius)
    x, y = (
        length // 2 + rng.randrange(-spread, spread + 1) for length in (canvas.width, canvas.height)
    )
    draw_sign(canvas, rng, kind=kind, centre=(x, y), radius=radius)
    if rng.randrange(4) == 0:
        draw_obstacle(canvas, rng)
    return canvas.jpeg()


def _place(
    canvas: Canvas, rng: random.Random, size: tuple[int, int], taken: Sequence[Box]
) -> Box | None:
    """A random place for an object, mostly inside the image and mostly beside the others."""
    width, height = size
    edge = width // 6
    for _ in range(_PLACES_TRIED):
        left = rng.randrange(-edge, max(1 - edge, canvas.width - width + edge))
        top = rng.randrange(-edge, max(1 - edge, canvas.height - height + edge))
        box = (left, top, left + width, top + height)
        if all(_overlap_percent(box, other) < 20 for other in taken):
            return box
    return None


def _overlap_percent(one: Box, other: Box) -> int:
    """The part of the smaller box that lies in the larger one."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return 100 * max(0, width) * max(0, height) // min(areas)


def _box_label(canvas: Canvas, number: int, drawn: NDArray[np.bool_], owner: int) -> str | None:
    """Class and box around everything drawn of an object; None if others hide too much of it."""
    visible = int(np.count_nonzero(canvas.owner == owner))
    box = extent(drawn)
    if box is None or 100 * visible < _VISIBLE_PERCENT * int(np.count_nonzero(drawn)):
        return None
    left, top, right, bottom = box
    parts = (
        (left + right) / 2 / canvas.width,
        (top + bottom) / 2 / canvas.height,
        (right - left) / canvas.width,
        (bottom - top) / canvas.height,
    )
    return " ".join((str(number), *(f"{part:.6f}" for part in parts)))


def _keypoint(canvas: Canvas, point: Point, owner: int) -> str:
    """x, y and COCO's visibility: 2 visible, 1 hidden by something, 0 outside the image."""
    x, y = point
    if not (0 <= x < canvas.width and 0 <= y < canvas.height):
        return "0 0 0"
    visible = canvas.owner[y, x] == owner
    return f"{x / canvas.width:.6f} {y / canvas.height:.6f} {2 if visible else 1}"


def _description(task: str, names: Sequence[str]) -> str:
    """The text of data.yaml."""
    lines = ["path: .", "train: images/train", "val: images/val", "names:"]
    lines += [f"  {number}: {name}" for number, name in enumerate(names)]
    if task == "pose":
        lines += [
            f"kpt_shape: [{len(KEYPOINTS)}, {KEYPOINT_VALUES}]",
            f"flip_idx: {list(FLIP_INDEX)}",
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(run)
