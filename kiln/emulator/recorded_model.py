"""A built model for the emulated board: its outputs for images of the demo data set, recorded.

A file that was compiled for an NPU runs on the board alone. What is run here is the int8 model that
Vela compiled it from, which computes the same.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from pathlib import Path

from kiln.emulator.classifier import RecordedClassifier, read_recorded_classifier
from kiln.emulator.postprocess import Candidate, RecordedFrame
from kiln.errors import ModelError
from kiln.pipeline.build import hash_file_input
from kiln.pipeline.events import Observer
from kiln.pipeline.runner import Runner
from kiln.plan import steps
from kiln.plan.plan import data_steps
from kiln.plan.request import BuildRequest, Task
from kiln.plan.schema import read_record
from kiln.plan.step import FromHost, Step
from kiln.plan.targets import Target
from kiln.report.result import BuildResult
from stages.results.emulator_frames import Frame, Frames

_INT8_ENDING = "_full_integer_quant.tflite"
#: yolov8n takes half a second an image in the interpreter's plain loops.
_IMAGES = 24
_FRAME = 240
_LEAST_SCORE = 0.05
_MOST_CANDIDATES = 200

_MODEL = FromHost(source="model")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordedModel:
    """Repeats its frames for ever. ``sha256`` and ``size`` are those of the flashed file."""

    sha256: str
    size: int
    pose: bool
    resolution: tuple[int, int]
    frames: tuple[RecordedFrame, ...]

    def matches(self, memory: memoryview) -> bool:
        return hashlib.sha256(memory[: self.size]).hexdigest() == self.sha256

    def infer(self, frame: int) -> RecordedFrame:
        return self.frames[frame % len(self.frames)]


def record_model(
    build: BuildResult, folder: Path, target: Target, runner: Runner, observer: Observer
) -> RecordedModel | RecordedClassifier:
    """Run the model of a build, which lies in ``folder``, on the demo's images.

    What has been run before comes from the store. Raises KilnError.
    """
    request = BuildRequest(target=target.name, task=build.task)
    name = next((name for name in build.files if name.endswith(_INT8_ENDING)), None)
    if name is None:
        raise ModelError(f"{folder} has no int8 model", hint="build it again")
    brought = {"model": hash_file_input((folder / name).absolute(), runner)}
    data, needed = data_steps(request)
    needed += [steps.images(request, target, data, build.imgsz), *recording_steps(build.task)]
    made = runner.run(needed, brought, observer)
    frames = made["emulator-frames"].entry.files["frames.json"].path
    flashed = build.deployed_file
    read = read_recorded_classifier if build.task == "classify" else read_recorded_model
    return read(frames, sha256=flashed.sha256, size=flashed.bytes)


def recording_steps(task: Task) -> list[Step]:
    """The steps from images and a model (``model`` of this host) to frames.json."""
    return [
        steps.tflm_outputs(_MODEL, images=_IMAGES),
        steps.emulator_frames(
            task, _MODEL, frame=_FRAME, score=_LEAST_SCORE, candidates=_MOST_CANDIDATES
        ),
    ]


def read_recorded_model(frames: Path, *, sha256: str, size: int) -> RecordedModel:
    """Read frames.json; ``sha256`` and ``size`` are those of the file that is flashed."""
    document = read_record(Frames, json.loads(frames.read_text(encoding="utf-8")), frames.name)
    return RecordedModel(
        sha256=sha256,
        size=size,
        pose=document.pose,
        resolution=(document.size, document.size),
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
