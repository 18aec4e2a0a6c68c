"""The eye of a built model: its own answers to the pictures of the demo data set.

Of a board with an NPU the file that was flashed runs nowhere else; what is run is the int8 model
that Vela compiled it from, whose function is the same.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kiln.emulator.postprocess import Candidate, Sight
from kiln.errors import ModelError
from kiln.pipeline.build import hash_file_input
from kiln.pipeline.events import Observer
from kiln.pipeline.runner import Runner
from kiln.plan import steps
from kiln.plan.plan import data_steps
from kiln.plan.request import BuildRequest
from kiln.plan.step import FromHost, Step
from kiln.plan.targets import Target
from kiln.report.result import BuildResult

_INT8_ENDING = "_full_integer_quant.tflite"
#: yolov8n takes half a second a picture in the interpreter's plain loops.
_PICTURES = 24
_FRAME = 240
_LEAST_SCORE = 0.05
_MOST_CANDIDATES = 200

_MODEL = FromHost(source="model")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuiltEye:
    """Goes round the pictures for ever. ``sha256`` and ``size`` are those of the flashed file."""

    sha256: str
    size: int
    pose: bool
    resolution: tuple[int, int]
    sights: tuple[Sight, ...]

    def recognises(self, memory: memoryview) -> bool:
        return hashlib.sha256(memory[: self.size]).hexdigest() == self.sha256

    def look(self, frame: int) -> Sight:
        return self.sights[frame % len(self.sights)]


def prepare_eye(
    build: BuildResult, folder: Path, target: Target, runner: Runner, observer: Observer
) -> BuiltEye:
    """Run the model of a build, which lies in ``folder``, on the demo images.

    What has been run before is found in the store. Raises KilnError.
    """
    request = BuildRequest(target=target.name, task=build.task)
    name = next((name for name in build.files if name.endswith(_INT8_ENDING)), None)
    if name is None:
        raise ModelError(f"{folder} has no int8 model", hint="build it again")
    brought = {"model": hash_file_input((folder / name).absolute(), runner)}
    data, needed = data_steps(request)
    needed += [steps.images(request, target, data, build.imgsz), *eye_steps()]
    made = runner.run(needed, brought, observer)
    sights = made["emulator-frames"].entry.files["sights.json"].path
    flashed = build.deployed_file
    return read_eye(sights, sha256=flashed.sha256, size=flashed.bytes)


def eye_steps() -> list[Step]:
    """The steps from images and a model (``model`` of this host) to sights.json."""
    return [
        steps.tflm_outputs(_MODEL, images=_PICTURES),
        steps.emulator_frames(
            _MODEL, frame=_FRAME, score=_LEAST_SCORE, candidates=_MOST_CANDIDATES
        ),
    ]


def read_eye(sights: Path, *, sha256: str, size: int) -> BuiltEye:
    """Read sights.json; ``sha256`` and ``size`` are those of the file that is flashed."""
    document = json.loads(sights.read_text(encoding="utf-8"))
    side = document["size"]
    return BuiltEye(
        sha256=sha256,
        size=size,
        pose=document["pose"],
        resolution=(side, side),
        sights=tuple(map(_sight, document["frames"])),
    )


def _sight(frame: Mapping[str, Any]) -> Sight:
    candidates = tuple(
        Candidate(
            corners=tuple(corners),
            score=score,
            target=target,
            points=tuple(tuple(point) for point in points),
        )
        for corners, score, target, points in frame["candidates"]
    )
    return Sight(base64.b64decode(frame["image"]), candidates)
