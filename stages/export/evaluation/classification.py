"""Runs the forms of a classifier on the evaluation images, and measures how they are right."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.contract import StepFailed, read_json
from stages.export.evaluation.forms import title
from stages.export.models.model_runners import MOST_WORKERS, Runner, open_runner
from stages.export.models.parallel import on_all_cores, worker_count
from stages.export.models.preprocess import Floats, Pixels, read_images
from stages.results.evaluate import MOST_MISTAKES, ClassMistake, ClassProbability
from stages.results.images import ClassTruth

Integers = NDArray[np.int64]

#: So many of the most probable classes are kept of an image.
SHOWN = 3
_TOP = {"class/top1": 1, "class/top5": 5}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Images, uint8 [m,S,S,3], their files, and the numbers of their classes [m]."""

    images: Pixels
    files: tuple[str, ...]
    truth: Integers
    names: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classified:
    """The probabilities [m, classes] that a model gives, and the seconds that it took."""

    probabilities: Floats
    seconds: float

    @property
    def ranked(self) -> Integers:
        """The classes of every image [m, classes], the most probable first, of equals the last."""
        backwards = np.argsort(-self.probabilities[:, ::-1], axis=1, kind="stable")
        return self.probabilities.shape[1] - 1 - backwards


def read_evaluation(folder: Path) -> Evaluation:
    """Open the folder that the step `images` wrote; raises StepFailed("data") if it is empty."""
    truth = read_json(ClassTruth, folder / "truth.json")
    return Evaluation(
        images=read_images(folder),
        files=tuple(image.file for image in truth.images),
        truth=np.array([image.number for image in truth.images], np.int64),
        names=truth.names,
    )


def run_on_all(path: Path, evaluation: Evaluation, progress: Callable[[int], None]) -> Classified:
    """Run a model on all images, on all cores; raises StepFailed("model") if it cannot be."""
    classes = len(evaluation.names)
    runners = [open_runner(path, evaluation.images) for _ in range(worker_count(MOST_WORKERS))]

    def run(runner: Runner, number: int) -> tuple[Floats, float]:
        started = time.perf_counter()
        outputs = runner.run(number)
        seconds = time.perf_counter() - started
        if len(outputs) != 1 or outputs[0].shape != (1, classes):
            shapes = ", ".join(str(list(output.shape)) for output in outputs)
            raise StepFailed(
                "model",
                f"{title(path)} cannot be evaluated: its outputs are {shapes}, and the data set "
                f"has {classes} classes",
                hint="pass the data set that it was trained on",
            )
        return outputs[0][0], seconds

    rows, total = [], 0.0
    for row, seconds in on_all_cores(runners, run, len(evaluation.images)):
        rows.append(row)
        total += seconds
        progress(len(rows))
    return Classified(probabilities=np.stack(rows), seconds=total)


def accuracy(found: Classified, truth: Integers) -> dict[str, float]:
    """Top-1 and top-5 accuracy, 0 to 1."""
    right = found.ranked == truth[:, None]
    return {name: round(float(right[:, :most].any(1).mean()), 4) for name, most in _TOP.items()}


def right_by_class(found: Classified, evaluation: Evaluation) -> Integers:
    """How many images of each class are told right [classes]."""
    right = found.ranked[:, 0] == evaluation.truth
    return np.bincount(evaluation.truth[right], minlength=len(evaluation.names))


def mistakes(found: Classified, evaluation: Evaluation) -> tuple[ClassMistake, ...]:
    """Which classes are taken for which, the most frequent mistakes first."""
    pairs = np.stack([evaluation.truth, found.ranked[:, 0]], axis=1)
    wrong, counts = np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:MOST_MISTAKES]
    return tuple(
        ClassMistake(truth=int(wrong[n, 0]), taken=int(wrong[n, 1]), count=int(counts[n]))
        for n in order
    )


def change(before: Classified, after: Classified) -> list[float]:
    """How far the probabilities of each image have moved; one more if another class is first."""
    moved = np.abs(before.probabilities - after.probabilities).max(1)
    return (moved + (before.ranked[:, 0] != after.ranked[:, 0])).tolist()


def most_probable(found: Classified, number: int) -> tuple[ClassProbability, ...]:
    """The most probable classes of an image, best first."""
    return tuple(
        ClassProbability(
            number=int(each), probability=round(float(found.probabilities[number, each]), 4)
        )
        for each in found.ranked[number, :SHOWN]
    )
