"""Make the data set that a network is trained on: every image as the board will see it.

``params``: imgsz, camera (width, height, framing). ``in/``: data, and dataset.json of the step
`check`. ``out/data/``: images/<split>/<name>.bmp and labels/<split>/<name>.txt.

An image keeps what the camera makes of its proportions, without the bars that make it square, and
its longer side is the input's: the trainer scales nothing, and decodes in every epoch what is
small.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stages.contract import Events, Job, main, read_json
from stages.results.dataset import Dataset
from stages.results.frames import FramesResult
from stages.train.dataset.bitmaps import check_room, write_bitmap
from stages.train.dataset.camera import (
    Camera,
    Pixels,
    Window,
    frame_of,
    input_of,
    place,
    read_image,
    seen,
    window,
)
from stages.train.dataset.image_files import list_images
from stages.train.dataset.labels import Form, LabelledObject, objects_in
from stages.yolo import SPLITS, label_path

_PROGRESS_EVERY = 50


def run(job: Job, events: Events) -> FramesResult:
    """Write both splits; raises StepFailed("disk") if they would not fit."""
    dataset = read_json(Dataset, job.inputs / "dataset.json")
    camera, form = Camera.of(job.params), Form.of(dataset)
    source, target = job.inputs / "data", job.out / "data"
    listed = {split: list_images(source / "images" / split) for split in SPLITS}
    check_room(job.out, sum(map(len, listed.values())), camera.size)
    objects: dict[str, int] = {}
    left_out = 0
    for split, images in listed.items():
        folders = source / "images" / split, target / "images" / split
        seen_objects = _write_split(images, *folders, camera, form, events)
        objects[split] = sum(kept for kept, _all in seen_objects)
        left_out += sum(every - kept for kept, every in seen_objects)
    if left_out:
        events.warning(
            f"{left_out} of {left_out + sum(objects.values())} labelled objects lie outside the "
            "camera's frame, and are not trained on",
            hint="FRAMING=fit keeps every image whole",
        )
    return FramesResult(
        images={split: len(images) for split, images in listed.items()},
        objects=objects,
        left_out=left_out,
        versions={name: version(name) for name in ("opencv-python-headless", "numpy")},
    )


def _write_split(
    images: Sequence[Path],
    source: Path,
    target: Path,
    camera: Camera,
    form: Form,
    events: Events,
) -> list[tuple[int, int]]:
    """Write the images of a split and their labels; for each how many objects it keeps of all."""

    def write(path: Path) -> tuple[int, int]:
        # The whole name, as a.jpg and a.png may lie side by side.
        image = target / path.relative_to(source).with_name(f"{path.name}.bmp")
        labels = objects_in(Path(label_path(path.as_posix())), form)
        return _write(read_image(path), labels, image, camera)

    counts = []
    with ThreadPoolExecutor() as pool:  # decoders release the GIL
        for number, count in enumerate(pool.map(write, images), start=1):
            counts.append(count)
            if number % _PROGRESS_EVERY == 0 or number == len(images):
                events.progress(number, len(images), f"{source.name} images")
    return counts


def _write(
    pixels: Pixels, labels: Sequence[LabelledObject], target: Path, camera: Camera
) -> tuple[int, int]:
    height, width = pixels.shape[:2]
    spot, shown = place(width, height, camera), window(width, height, camera)
    content = input_of(frame_of(pixels, camera), camera)
    content = content[shown.top : shown.bottom, shown.left : shown.right]
    kept = [each for each in (seen(label, spot, camera) for label in labels) if each]
    label = Path(label_path(target.as_posix()))
    write_bitmap(target, content)
    label.parent.mkdir(parents=True, exist_ok=True)
    label.write_text("".join(_lines(kept, shown)), encoding="utf-8")
    return len(kept), len(labels)


def _lines(objects: Iterable[Mapping[str, Any]], shown: Window) -> Iterable[str]:
    """Label lines: ``class x y width height``, and ``x y visibility`` of each keypoint."""
    for each in objects:
        first_x, first_y, last_x, last_y = each["box"]
        left, top = _part(first_x, first_y, shown)
        right, bottom = _part(last_x, last_y, shown)
        numbers = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
        for x, y, visibility in each["keypoints"] or ():
            numbers += [*(_part(x, y, shown) if visibility else (0, 0)), visibility]
        yield " ".join([str(each["class"]), *(f"{number:.6g}" for number in numbers)]) + "\n"


def _part(x: float, y: float, shown: Window) -> tuple[float, float]:
    """A point from pixels of the input to parts of what is written."""
    across, down = shown.right - shown.left, shown.bottom - shown.top
    return min(max((x - shown.left) / across, 0.0), 1.0), min(max((y - shown.top) / down, 0.0), 1.0)


if __name__ == "__main__":
    main(run)
