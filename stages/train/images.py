"""Prepare the images that a model is calibrated and evaluated with, as the board will see them.

``params``: imgsz, calibration and evaluation (how many images at most), letterbox (bool).
``in/``: data, and dataset.json of the step `check`.
``out/``: calibration.npy (uint8 [n, S, S, 3], RGB) and evaluation/: images.npy of the same form,
truth.json with their labels, the fields of ``stages.results.images.GroundTruth``.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

from stages import coco
from stages.contract import Events, Job, StepFailed, main, read_json, write_json
from stages.results.dataset import Dataset
from stages.results.images import GroundTruth, ImagesResult, LabelledImage
from stages.sampling import evenly
from stages.train.dataset.image_files import list_images
from stages.train.dataset.labels import Form
from stages.train.dataset.resize import ResizedImage, objects_of, read_resized
from stages.yolo import label_path


def run(job: Job, events: Events) -> ImagesResult:
    """Write calibration.npy and evaluation/, both from val, as Seeed's wiki calibrates on it."""
    dataset = read_json(Dataset, job.inputs / "dataset.json")
    folder = job.inputs / "data" / "images" / "val"
    paths = list_images(folder)
    if not paths:
        raise StepFailed("data", "the data set has no images in val to calibrate with")
    calibration = [paths[number] for number in evenly(len(paths), job.params["calibration"])]
    evaluation = [paths[number] for number in evenly(len(paths), job.params["evaluation"])]
    resized = _read(job, events, sorted({*calibration, *evaluation}))
    _save(job.out / "calibration.npy", [resized[path] for path in calibration])
    target = job.out / "evaluation"
    target.mkdir()
    _save(target / "images.npy", [resized[path] for path in evaluation])
    keypoints = dataset.kpt_shape[0] if dataset.kpt_shape else 0
    form = Form.of(dataset)
    images = tuple(_labelled(path, folder, resized[path], form) for path in evaluation)
    truth = GroundTruth(
        task=dataset.task,
        names=dataset.names,
        kpt_shape=dataset.kpt_shape,
        skeleton=dataset.skeleton or coco.skeleton(keypoints),
        images=images,
    )
    write_json(target / "truth.json", truth)
    return ImagesResult(
        calibration=len(calibration),
        evaluation=len(evaluation),
        objects=sum(len(image.objects) for image in images),
        versions={package: version(package) for package in ("ultralytics", "numpy")},
    )


def _read(job: Job, events: Events, paths: Sequence[Path]) -> dict[Path, ResizedImage]:
    size, letterbox = int(job.params["imgsz"]), bool(job.params["letterbox"])
    resized = {}
    for number, path in enumerate(paths, start=1):
        resized[path] = read_resized(path, size, letterbox=letterbox)
        events.progress(number, len(paths), "images")
    return resized


def _save(path: Path, images: Sequence[ResizedImage]) -> None:
    np.save(path, np.stack([image.pixels for image in images]), allow_pickle=False)


def _labelled(path: Path, folder: Path, image: ResizedImage, form: Form) -> LabelledImage:
    """The labels of an image, in pixels of the model's input."""
    return LabelledImage(
        file=path.relative_to(folder).as_posix(),
        width=image.source_width,
        height=image.source_height,
        objects=tuple(objects_of(Path(label_path(str(path))), image, form)),
    )


if __name__ == "__main__":
    main(run)
