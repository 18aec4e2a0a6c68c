"""Prepare the images that a classifier is calibrated and evaluated with, as the board sees them.

``params``: those of the step `images`. ``in/``: data, and dataset.json of the step `check`.
``out/``: calibration.npy (uint8 [n, S, S, 3], RGB) and evaluation/: images.npy of the same form,
truth.json with their classes, the fields of ``stages.results.images.ClassTruth``.
"""

from __future__ import annotations

from importlib.metadata import version

import numpy as np

from stages.contract import Events, Job, StepFailed, main, read_json, write_json
from stages.results.dataset import Dataset
from stages.results.images import ClassifiedImage, ClassTruth, ImagesResult
from stages.sampling import evenly
from stages.train.dataset.camera import Camera, frame_of, input_of, read_image
from stages.train.dataset.image_files import list_images


def run(job: Job, events: Events) -> ImagesResult:
    """Write calibration.npy and evaluation/, both from val."""
    dataset = read_json(Dataset, job.inputs / "dataset.json")
    folder = job.inputs / "data" / "images" / "val"
    paths = list_images(folder)
    if not paths:
        raise StepFailed("data", "the data set has no images in val to calibrate with")
    # Sorted by class, so that an even choice has every class in its proportion.
    calibration = [paths[number] for number in evenly(len(paths), job.params["calibration"])]
    evaluation = [paths[number] for number in evenly(len(paths), job.params["evaluation"])]
    camera, pixels = Camera.of(job.params), {}
    needed = sorted({*calibration, *evaluation})
    for number, path in enumerate(needed, start=1):
        pixels[path] = input_of(frame_of(read_image(path), camera), camera)
        events.progress(number, len(needed), "images")
    np.save(job.out / "calibration.npy", np.stack([pixels[path] for path in calibration]))
    target = job.out / "evaluation"
    target.mkdir()
    np.save(target / "images.npy", np.stack([pixels[path] for path in evaluation]))
    truth = ClassTruth(
        names=dataset.names,
        images=tuple(
            ClassifiedImage(
                file=path.relative_to(folder).as_posix(),
                number=dataset.names.index(path.relative_to(folder).parts[0]),
            )
            for path in evaluation
        ),
    )
    write_json(target / "truth.json", truth)
    return ImagesResult(
        calibration=len(calibration),
        evaluation=len(evaluation),
        objects=len(evaluation),
        versions={package: version(package) for package in ("ultralytics", "numpy")},
    )


if __name__ == "__main__":
    main(run)
