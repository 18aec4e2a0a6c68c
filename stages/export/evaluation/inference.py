"""Runs all forms of a model on all evaluation images."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from stages.contract import StepFailed, read_json
from stages.export.evaluation.coco_map import Objects
from stages.export.evaluation.decode import Detections, Labels, Slot, candidates, decode, find_roles
from stages.export.evaluation.forms import title
from stages.export.evaluation.snr import Powers, powers
from stages.export.models.model_runners import MOST_WORKERS, Runner, open_runner
from stages.export.models.parallel import on_all_cores, worker_count
from stages.export.models.preprocess import Floats, Pixels, read_images
from stages.results.images import GroundTruth, LabelledImage


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Images, uint8 [m,S,S,3], and their labels; ``frame`` is width and height of the camera's
    frames, in pixels, and ``iou`` the firmware's threshold in percent."""

    images: Pixels
    labelled: Sequence[LabelledImage]
    names: tuple[str, ...]
    keypoints: int
    skeleton: tuple[tuple[int, ...], ...]
    frame: tuple[int, int]
    iou: int

    @property
    def labels(self) -> Labels:
        size = self.images.shape[1]
        return Labels(size=size, classes=len(self.names), keypoints=self.keypoints)

    @property
    def truth(self) -> list[Objects]:
        return [image.objects for image in self.labelled]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Artifact:
    """One form of the model, and which of its outputs has each role."""

    name: str
    path: Path
    roles: Mapping[str, Slot]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageResult:
    """One image: detections by artifact, seconds by each that ran here, and by role the powers of
    signal and of int8's error; ``equal``: whether the compiled file gives what int8 gives, None
    without both."""

    detections: Mapping[str, Detections]
    seconds: Mapping[str, float]
    powers: Mapping[str, Powers]
    equal: bool | None


def read_evaluation(folder: Path, *, frame: tuple[int, int], iou: int) -> Evaluation:
    """Open the folder that the step `images` wrote; raises StepFailed("data") if it is empty."""
    truth = read_json(GroundTruth, folder / "truth.json")
    return Evaluation(
        images=read_images(folder),
        labelled=truth.images,
        names=truth.names,
        keypoints=truth.kpt_shape[0] if truth.kpt_shape else 0,
        skeleton=truth.skeleton,
        frame=frame,
        iou=iou,
    )


def open_artifact(name: str, path: Path, evaluation: Evaluation) -> Artifact:
    """Run a file on the first image; raises StepFailed("model") if it cannot be evaluated."""
    labels = evaluation.labels
    try:
        outputs = open_runner(path, evaluation.images).run(0)
        roles = find_roles([output.shape for output in outputs], labels)
        rows = {role: slot.rows(outputs) for role, slot in roles.items()}
        candidates(rows, labels, frame=evaluation.frame)
    except StepFailed as error:
        raise StepFailed(
            error.kind, f"{title(path)} cannot be evaluated: {error.message}", hint=error.hint
        ) from error
    return Artifact(name=name, path=path, roles=roles)


def run_on_all(
    artifacts: Sequence[Artifact],
    evaluation: Evaluation,
    compared: Sequence[str],
) -> Iterator[ImageResult]:
    """A result for each image, in their order, on all cores; results do not depend on timing.

    ``compared``: the two artifacts whose outputs are compared, if there are two.
    """
    workers = [
        [open_runner(artifact.path, evaluation.images) for artifact in artifacts]
        for _ in range(worker_count(MOST_WORKERS))
    ]

    def run(runners: list[Runner], number: int) -> ImageResult:
        return _run(artifacts, runners, number, evaluation, compared)

    return on_all_cores(workers, run, len(evaluation.images))


def _run(
    artifacts: Sequence[Artifact],
    runners: Sequence[Runner],
    number: int,
    evaluation: Evaluation,
    compared: Sequence[str],
) -> ImageResult:
    labels = evaluation.labels
    outputs: dict[str, list[Floats]] = {}
    rows: dict[str, dict[str, Floats]] = {}
    detections: dict[str, Detections] = {}
    seconds: dict[str, float] = {}
    for artifact, runner in zip(artifacts, runners, strict=True):
        name, started = artifact.name, time.perf_counter()
        outputs[name] = runner.run(number)
        if name != "compiled":
            seconds[name] = time.perf_counter() - started
        elif _equal(outputs):
            rows[name], detections[name] = rows["int8"], detections["int8"]
            continue
        rows[name] = {role: slot.rows(outputs[name]) for role, slot in artifact.roles.items()}
        detections[name] = decode(rows[name], labels, frame=evaluation.frame, iou=evaluation.iou)
    compared_powers = {}
    if len(compared) == 2:
        one, other = (rows[name] for name in compared)
        compared_powers = {role: powers(one[role], other[role]) for role in one if role in other}
    return ImageResult(
        detections=detections, seconds=seconds, powers=compared_powers, equal=_equal(outputs)
    )


def _equal(outputs: Mapping[str, Sequence[Floats]]) -> bool | None:
    """Whether the compiled file gives what int8 gives: outputs of one scale are equal if their
    bytes are."""
    if not {"int8", "compiled"} <= outputs.keys():
        return None
    one, other = outputs["int8"], outputs["compiled"]
    return len(one) == len(other) and all(map(np.array_equal, one, other))
