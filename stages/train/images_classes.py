"""Prepare the images that a classifier is calibrated and evaluated with, as the board sees them.

``params``: those of the step `images`. ``in/``: data, and dataset.json of the step `check`.
``out/``: calibration.npy (uint8 [n, S, S, 3], RGB) and evaluation/: images.npy of the same form,
truth.json with their classes, the fields of ``stages.results.images.ClassTruth``.
"""

from __future__ import annotations

from importlib.metadata import version

from stages.contract import Events, Job, main, read_json, write_json
from stages.results.dataset import Dataset
from stages.results.images import ClassifiedImage, ClassTruth, ImagesResult
from stages.train.dataset.camera import Camera, frame_of, input_of, read_image
from stages.train.images import choose, save


def run(job: Job, events: Events) -> ImagesResult:
    """Write calibration.npy and evaluation/, both from val."""
    dataset = read_json(Dataset, job.inputs / "dataset.json")
    # Names begin with the class, so that an even choice has every class in its proportion.
    chosen, camera, pixels = choose(job), Camera.of(job.params), {}
    for number, path in enumerate(chosen.needed, start=1):
        pixels[path] = input_of(frame_of(read_image(path), camera), camera)
        events.progress(number, len(chosen.needed), "images")
    target = save(job, chosen, pixels)
    truth = ClassTruth(
        names=dataset.names,
        images=tuple(
            ClassifiedImage(
                file=path.relative_to(chosen.folder).as_posix(),
                number=dataset.names.index(path.relative_to(chosen.folder).parts[0]),
            )
            for path in chosen.evaluation
        ),
    )
    write_json(target / "truth.json", truth)
    return ImagesResult(
        calibration=len(chosen.calibration),
        evaluation=len(chosen.evaluation),
        objects=len(chosen.evaluation),
        versions={package: version(package) for package in ("ultralytics", "numpy")},
    )


if __name__ == "__main__":
    main(run)
