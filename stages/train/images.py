"""The pictures that a model is calibrated and judged with, as the board will see them.

``params``: imgsz, calibration and evaluation (how many pictures at most), letterbox (bool).
``in/``: data, and dataset.json of the step `check`.
``out/``: calibration.npy (uint8 [n, S, S, 3], RGB) and evaluation/: images.npy of the same form,
truth.json with what is to be seen in each of them, in pixels of the square.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

from stages.contract import Events, Job, StepFailed, main, read_json, write_json
from stages.results.dataset import Dataset
from stages.results.images import GroundTruth, ImagesResult, LabelledImage
from stages.train.dataset.image_files import list_images
from stages.train.dataset.resize import Square, objects_of, read_square, spread

#: Which of COCO's 17 keypoints are joined: limbs, trunk, face.
_COCO_SKELETON = (
    *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12)),
    *((5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10)),
    *((1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
)
_COCO_KEYPOINTS = 17


def run(job: Job, events: Events) -> ImagesResult:
    """Write calibration.npy and evaluation/; both are taken from val, as the wiki calibrates."""
    dataset = read_json(Dataset, job.inputs / "dataset.json")
    folder = job.inputs / "data" / "images" / "val"
    paths = list_images(folder)
    if not paths:
        raise StepFailed("data", "the data set has no pictures in val to calibrate with")
    calibration = spread(paths, job.params["calibration"])
    judged = spread(paths, job.params["evaluation"])
    squares = _read(job, events, sorted({*calibration, *judged}))
    _save(job.out / "calibration.npy", [squares[path] for path in calibration])
    evaluation = job.out / "evaluation"
    evaluation.mkdir()
    _save(evaluation / "images.npy", [squares[path] for path in judged])
    keypoints = dataset.kpt_shape[0] if dataset.kpt_shape else 0
    images = tuple(_truth(path, folder, squares[path], keypoints) for path in judged)
    truth = GroundTruth(
        task=dataset.task,
        names=dataset.names,
        kpt_shape=dataset.kpt_shape,
        skeleton=_COCO_SKELETON if keypoints == _COCO_KEYPOINTS else (),
        images=images,
    )
    write_json(evaluation / "truth.json", truth)
    return ImagesResult(
        calibration=len(calibration),
        evaluation=len(judged),
        objects=sum(len(image.objects) for image in images),
        versions={package: version(package) for package in ("ultralytics", "numpy")},
    )


def _read(job: Job, events: Events, paths: Sequence[Path]) -> dict[Path, Square]:
    size, letterbox = int(job.params["imgsz"]), bool(job.params["letterbox"])
    squares = {}
    for number, path in enumerate(paths, start=1):
        squares[path] = read_square(path, size, letterbox=letterbox)
        events.progress(number, len(paths), "pictures")
    return squares


def _save(path: Path, squares: Sequence[Square]) -> None:
    np.save(path, np.stack([square.pixels for square in squares]), allow_pickle=False)


def _truth(path: Path, folder: Path, square: Square, keypoints: int) -> LabelledImage:
    """What is to be seen in a picture, in pixels of the square."""
    name = path.relative_to(folder)
    label = folder.parents[1] / "labels" / "val" / name.with_suffix(".txt")
    return LabelledImage(
        file=name.as_posix(),
        width=square.source_width,
        height=square.source_height,
        objects=tuple(objects_of(label, square, keypoints=keypoints)),
    )


if __name__ == "__main__":
    main(run)
