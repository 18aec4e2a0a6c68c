"""Prepare the images that a model is calibrated and evaluated with, as the board will see them.

``params``: imgsz, camera (the fields of ``stages.train.dataset.camera.Camera`` but its size),
calibration and evaluation (how many images at most), perhaps skeleton (pairs of keypoints that are
joined when drawn, instead of the data set's own).
``in/``: data, and dataset.json of the step `check`.
``out/``: calibration.npy (uint8 [n, S, S, 3], RGB) and evaluation/: images.npy of the same form,
truth.json with their labels, the fields of ``stages.results.images.GroundTruth``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

from stages import coco
from stages.contract import Events, Job, StepFailed, main, read_json, write_json
from stages.results.dataset import Dataset
from stages.results.images import GroundTruth, ImagesResult, LabelledImage
from stages.sampling import evenly
from stages.train.dataset.camera import (
    Camera,
    Pixels,
    frame_of,
    input_of,
    place,
    read_image,
    seen,
)
from stages.train.dataset.image_files import list_images
from stages.train.dataset.labels import Form, objects_in
from stages.yolo import label_path


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """An image as the model's input, uint8 [S,S,3], with its labels."""

    pixels: Pixels
    labelled: LabelledImage


def run(job: Job, events: Events) -> ImagesResult:
    """Write calibration.npy and evaluation/, both from val, as Seeed's wiki calibrates on it."""
    dataset = read_json(Dataset, job.inputs / "dataset.json")
    folder = job.inputs / "data" / "images" / "val"
    paths = list_images(folder)
    if not paths:
        raise StepFailed("data", "the data set has no images in val to calibrate with")
    calibration = [paths[number] for number in evenly(len(paths), job.params["calibration"])]
    evaluation = [paths[number] for number in evenly(len(paths), job.params["evaluation"])]
    views = {}
    needed = sorted({*calibration, *evaluation})
    for number, path in enumerate(needed, start=1):
        views[path] = _view(path, folder, Camera.of(job.params), Form.of(dataset))
        events.progress(number, len(needed), "images")
    _save(job.out / "calibration.npy", [views[path] for path in calibration])
    target = job.out / "evaluation"
    target.mkdir()
    _save(target / "images.npy", [views[path] for path in evaluation])
    images = tuple(views[path].labelled for path in evaluation)
    keypoints = dataset.kpt_shape[0] if dataset.kpt_shape else 0
    truth = GroundTruth(
        task=dataset.task,
        names=dataset.names,
        kpt_shape=dataset.kpt_shape,
        skeleton=job.params.get("skeleton") or dataset.skeleton or coco.skeleton(keypoints),
        images=images,
    )
    write_json(target / "truth.json", truth)
    return ImagesResult(
        calibration=len(calibration),
        evaluation=len(evaluation),
        objects=sum(len(image.objects) for image in images),
        versions={package: version(package) for package in ("ultralytics", "numpy")},
    )


def _view(path: Path, folder: Path, camera: Camera, form: Form) -> View:
    image = read_image(path)
    height, width = image.shape[:2]
    spot = place(width, height, camera)
    objects = (seen(each, spot, camera) for each in objects_in(Path(label_path(str(path))), form))
    labelled = LabelledImage(
        file=path.relative_to(folder).as_posix(),
        width=width,
        height=height,
        objects=tuple(each for each in objects if each is not None),
    )
    return View(pixels=input_of(frame_of(image, camera), camera), labelled=labelled)


def _save(path: Path, views: Sequence[View]) -> None:
    np.save(path, np.stack([view.pixels for view in views]), allow_pickle=False)


if __name__ == "__main__":
    main(run)
