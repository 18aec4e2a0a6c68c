"""Shows all evaluation pictures to all forms of a model."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stages.contract import StepFailed, read_json
from stages.export.evaluation.decode import Detections, Labels, Slot, decode, find_roles
from stages.export.evaluation.model_runners import Runner, open_runner
from stages.export.evaluation.parallel import on_all_cores, worker_count
from stages.export.evaluation.preprocess import Floats, Pixels
from stages.export.evaluation.snr import Powers, powers
from stages.results.images import GroundTruth, LabelledImage

#: Every worker holds each form of the model once.
MOST_WORKERS = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Pictures, uint8 [m,S,S,3], and what truth.json says of them."""

    images: Pixels
    pictures: Sequence[LabelledImage]
    names: tuple[str, ...]
    keypoints: int
    skeleton: tuple[tuple[int, ...], ...]

    @property
    def labels(self) -> Labels:
        size = self.images.shape[1]
        return Labels(size=size, classes=len(self.names), keypoints=self.keypoints)

    @property
    def truth(self) -> list[tuple[Mapping[str, Any], ...]]:
        return [picture.objects for picture in self.pictures]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Artifact:
    """One form of the model, and where in its outputs each role is."""

    name: str
    path: Path
    roles: Mapping[str, Slot]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Thresholds:
    score: float
    iou: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Look:
    """What one picture gave: detections and seconds by artifact; by role what noise int8 adds."""

    found: Mapping[str, Detections]
    seconds: Mapping[str, float]
    noise: Mapping[str, Powers]


def read_evaluation(folder: Path) -> Evaluation:
    """Open the folder that the step `pictures` wrote; raises StepFailed("data") if it is empty."""
    images: Pixels = np.load(folder / "images.npy", mmap_mode="r")
    truth = read_json(GroundTruth, folder / "truth.json")
    if not len(images):
        raise StepFailed(
            "data", "there is no picture to evaluate on", hint="put pictures into the data's val"
        )
    return Evaluation(
        images=images,
        pictures=truth.images,
        names=truth.names,
        keypoints=truth.kpt_shape[0] if truth.kpt_shape else 0,
        skeleton=truth.skeleton,
    )


def open_artifact(name: str, path: Path, evaluation: Evaluation) -> Artifact:
    """Try a file on the first picture; raises StepFailed("model") if it cannot be judged."""
    labels = evaluation.labels
    try:
        outputs = open_runner(path, labels.size).run(evaluation.images[0])
        roles = find_roles([output.shape for output in outputs], labels)
        rows = {role: slot.rows(outputs) for role, slot in roles.items()}
        decode(rows, labels, score_threshold=1, iou_threshold=1)
    except StepFailed as error:
        raise StepFailed(
            error.kind, f"{path.name} cannot be evaluated: {error.message}", hint=error.hint
        ) from error
    return Artifact(name=name, path=path, roles=roles)


def look_at_all(
    artifacts: Sequence[Artifact],
    evaluation: Evaluation,
    thresholds: Thresholds,
    compared: Sequence[str],
) -> Iterator[Look]:
    """One look a picture, in their order, made on all cores; no timing changes what is seen.

    ``compared``: the two artifacts whose outputs are held against each other, if there are two.
    """
    size = evaluation.labels.size
    workers = [
        [open_runner(artifact.path, size) for artifact in artifacts]
        for _ in range(worker_count(MOST_WORKERS))
    ]

    def look(runners: list[Runner], number: int) -> Look:
        image = evaluation.images[number]
        return _look(artifacts, runners, image, evaluation.labels, thresholds, compared)

    return on_all_cores(workers, look, len(evaluation.images))


def _look(
    artifacts: Sequence[Artifact],
    runners: Sequence[Runner],
    image: Pixels,
    labels: Labels,
    thresholds: Thresholds,
    compared: Sequence[str],
) -> Look:
    rows: dict[str, dict[str, Floats]] = {}
    found, seconds = {}, {}
    for artifact, runner in zip(artifacts, runners, strict=True):
        started = time.perf_counter()
        outputs = runner.run(image)
        seconds[artifact.name] = time.perf_counter() - started
        rows[artifact.name] = {role: slot.rows(outputs) for role, slot in artifact.roles.items()}
        found[artifact.name] = decode(
            rows[artifact.name],
            labels,
            score_threshold=thresholds.score,
            iou_threshold=thresholds.iou,
        )
    noise = {}
    if len(compared) == 2:
        one, other = (rows[name] for name in compared)
        noise = {role: powers(one[role], other[role]) for role in one if role in other}
    return Look(found=found, seconds=seconds, noise=noise)
