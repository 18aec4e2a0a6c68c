"""A built model for the emulated board: its outputs for images of the demo data set, recorded.

They are those of the very file that is flashed (step `outputs`).
"""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from kiln.emulator.classifier import RecordedClassifier, read_recorded_classifier
from kiln.emulator.postprocess import Candidate, RecordedFrame
from kiln.emulator.recorded import Recorded
from kiln.errors import ModelError
from kiln.pipeline.build import hash_file_input
from kiln.pipeline.events import Observer
from kiln.pipeline.runner import Runner
from kiln.plan import steps
from kiln.plan.plan import data_steps
from kiln.plan.request import BuildRequest, Task
from kiln.plan.schema import read_record
from kiln.plan.step import FromHost, Step
from kiln.plan.targets import CameraMode, Target
from kiln.report.result import BuildResult
from kiln.store.tree import File
from stages.results.emulator_frames import Frame, Frames

#: In each mode of the camera: yolov8n takes a third of a second an image.
_IMAGES = 12
_LEAST_SCORE = 0.05
_MOST_CANDIDATES = 200

_MODEL = FromHost(source="model")

AnyModel = TypeVar("AnyModel", "RecordedModel", RecordedClassifier)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordedModel(Recorded[RecordedFrame]):
    """A model that finds poses, or boxes."""

    pose: bool


def record_model(
    build: BuildResult, folder: Path, target: Target, runner: Runner, observer: Observer
) -> RecordedModel | RecordedClassifier:
    """Run the model of a build, which lies in ``folder``, on the demo's images.

    What has been run before comes from the store. Raises KilnError.
    """
    path = (folder / build.deployed).absolute()
    if not path.is_file():
        raise ModelError(
            f"{folder} lacks {build.deployed}, which goes onto the board", hint="build it again"
        )
    brought = {"model": hash_file_input(path, runner)}
    flashed = brought["model"].files[""]
    frames: dict[int, Path] = {}
    for mode in target.camera.modes:
        settings = dataclasses.replace(build.request.camera, mode=mode.name)
        request = BuildRequest(target=target.name, task=build.task, camera=settings)
        data, needed = data_steps(request)
        needed.append(steps.images(request, target, data, build.imgsz))
        needed += recording_steps(build.task, mode)
        made = runner.run(needed, brought, observer)["emulator-frames"]
        frames[mode.option or 0] = made.entry.files["frames.json"].path
    if build.task == "classify":
        return _in_all_modes(read_recorded_classifier, frames, flashed)
    return _in_all_modes(read_recorded_model, frames, flashed)


def _in_all_modes(
    read: Callable[..., AnyModel], frames: Mapping[int, Path], flashed: File
) -> AnyModel:
    modes = {
        option: read(path, sha256=flashed.sha256, size=flashed.size)
        for option, path in frames.items()
    }
    return dataclasses.replace(modes[min(modes)], modes=modes)


def recording_steps(task: Task, mode: CameraMode) -> list[Step]:
    """The steps from images and a model (``model`` of this host) to frames.json."""
    return [
        steps.outputs(_MODEL, images=_IMAGES),
        steps.emulator_frames(task, mode, score=_LEAST_SCORE, candidates=_MOST_CANDIDATES),
    ]


def read_recorded_model(frames: Path, *, sha256: str, size: int) -> RecordedModel:
    """Read frames.json; ``sha256`` and ``size`` are those of the file that is flashed."""
    document = read_record(Frames, json.loads(frames.read_text(encoding="utf-8")), frames.name)
    return RecordedModel(
        sha256=sha256,
        size=size,
        pose=document.pose,
        resolution=(document.width, document.height),
        frames=tuple(map(_frame_of, document.frames)),
    )


def _frame_of(frame: Frame) -> RecordedFrame:
    candidates = tuple(
        Candidate(
            limit=limit,
            box=tuple(box),
            points=tuple(tuple(point) for point in points),
            corners=tuple(corners),
            score=score,
        )
        for limit, box, points, corners, score in frame.candidates
    )
    return RecordedFrame(base64.b64decode(frame.image), candidates)
