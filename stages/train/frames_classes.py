"""Make the data set that a classifier is trained on: every image as the board will see it.

``params``: imgsz, camera (width, height, framing). ``in/``: data, and dataset.json of the step
`check`. ``out/data/images/<split>/<class>/<name>.bmp``, each the whole square input.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

from stages.contract import Events, Job, main, read_json
from stages.results.dataset import Dataset
from stages.results.frames import FramesResult
from stages.train.dataset.bitmaps import check_room, write_bitmap
from stages.train.dataset.camera import Camera, frame_of, input_of, read_image
from stages.train.dataset.image_files import list_images
from stages.yolo import SPLITS

_PROGRESS_EVERY = 50


def run(job: Job, events: Events) -> FramesResult:
    """Write both splits; raises StepFailed("disk") if they would not fit."""
    dataset = read_json(Dataset, job.inputs / "dataset.json")
    camera = Camera.of(job.params)
    source, target = job.inputs / "data" / "images", job.out / "data" / "images"
    images = list_images(source)
    check_room(job.out, len(images), camera.size)

    def write(path: Path) -> None:
        # The whole name, as a.jpg and a.png may lie side by side.
        place = target / path.relative_to(source).with_name(f"{path.name}.bmp")
        write_bitmap(place, input_of(frame_of(read_image(path), camera), camera))

    with ThreadPoolExecutor() as pool:  # decoders release the GIL
        for number, _done in enumerate(pool.map(write, images), start=1):
            if number % _PROGRESS_EVERY == 0 or number == len(images):
                events.progress(number, len(images), "images")
    counts = {split: dataset.images[split] for split in SPLITS}
    return FramesResult(
        images=counts,
        objects=counts,
        left_out=0,
        versions={name: version(name) for name in ("opencv-python-headless", "numpy")},
    )


if __name__ == "__main__":
    main(run)
