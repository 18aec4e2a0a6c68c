"""Prepare the images that a model is calibrated and evaluated with, as the board will see them.

``params``: imgsz, camera (the fields of ``stages.train.dataset.camera.Camera`` but its size),
calibration and evaluation (how many images at most), perhaps training (the same, of train: for a
fine-tuning), perhaps skeleton (pairs of keypoints that are joined when drawn, instead of the data
set's own).
``in/``: data, and dataset.json of the step `check`; perhaps finetune, images for a fine-tuning in
place of train's.
``out/``: calibration.npy (uint8 [n, S, S, 3], RGB) and evaluation/: images.npy of the same form,
truth.json with their labels, the fields of ``stages.results.images.GroundTruth``. Perhaps
training.npy, of the same form, whose labels are of no use here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
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
from stages.train.dataset.image_files import fault_of_image, list_images
from stages.train.dataset.labels import Form, objects_in
from stages.yolo import label_path


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """An image as the model's input, uint8 [S,S,3], with its labels."""

    pixels: Pixels
    labelled: LabelledImage


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chosen:
    """Images of val, as Seeed's wiki calibrates on it, and the folder that they lie in."""

    folder: Path
    calibration: Sequence[Path]
    evaluation: Sequence[Path]

    @property
    def needed(self) -> list[Path]:
        """All of them, each once, in order."""
        return sorted({*self.calibration, *self.evaluation})


def choose(job: Job) -> Chosen:
    """Choose evenly, by order of their names; raises StepFailed("data") if val is empty."""
    folder = job.inputs / "data" / "images" / "val"
    paths = list_images(folder)
    if not paths:
        raise StepFailed("data", "the data set has no images in val to calibrate with")
    calibration, evaluation = (
        [paths[number] for number in evenly(len(paths), job.params[use])]
        for use in ("calibration", "evaluation")
    )
    return Chosen(folder=folder, calibration=calibration, evaluation=evaluation)


def save(job: Job, chosen: Chosen, pixels: Mapping[Path, Pixels]) -> Path:
    """Write calibration.npy and evaluation/images.npy; returns the folder evaluation/."""
    target = job.out / "evaluation"
    target.mkdir()
    for path, images in (
        (job.out / "calibration.npy", chosen.calibration),
        (target / "images.npy", chosen.evaluation),
    ):
        np.save(path, np.stack([pixels[image] for image in images]), allow_pickle=False)
    return target


def run(job: Job, events: Events) -> ImagesResult:
    """Write calibration.npy and evaluation/."""
    dataset = read_json(Dataset, job.inputs / "dataset.json")
    chosen, camera, form = choose(job), Camera.of(job.params), Form.of(dataset)
    views = {}
    for number, path in enumerate(chosen.needed, start=1):
        views[path] = _view(path, chosen.folder, camera, form)
        events.progress(number, len(chosen.needed), "images")
    if most := job.params.get("training"):
        _save_training(job, camera, most)
    target = save(job, chosen, {path: view.pixels for path, view in views.items()})
    images = tuple(views[path].labelled for path in chosen.evaluation)
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
        calibration=len(chosen.calibration),
        evaluation=len(chosen.evaluation),
        objects=sum(len(image.objects) for image in images),
        versions={package: version(package) for package in ("ultralytics", "numpy")},
    )


def _save_training(job: Job, camera: Camera, most: int) -> None:
    """Write training.npy; raises StepFailed("data") without images, or if one cannot be read."""
    own = job.inputs / "finetune"
    paths = list_images(own if own.is_dir() else job.inputs / "data" / "images" / "train")
    if not paths:
        raise StepFailed("data", "the data set has no images in train to fine-tune with")
    faults = {path: fault_of_image(path) for path in paths} if own.is_dir() else {}
    for path, fault in faults.items():
        if fault is not None:
            raise StepFailed(
                "data", f"{path.relative_to(own)} in [finetune] folder {fault}", hint="take it out"
            )
    chosen = [paths[number] for number in evenly(len(paths), most)]
    shape = (len(chosen), camera.size, camera.size, 3)
    images = np.lib.format.open_memmap(job.out / "training.npy", "w+", np.uint8, shape)
    for number, path in enumerate(chosen):
        images[number] = input_of(frame_of(read_image(path), camera), camera)
    images.flush()


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


if __name__ == "__main__":
    main(run)
