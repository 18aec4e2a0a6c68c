"""What an emulated board sees with a file on its flash, by the steps that execute that file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kiln.emulator.recorded_model import RecordedModel, read_recorded_model
from kiln.plan.targets import load_target
from tests.support.checkout import ROOT
from tests.support.fixtures import RunStep
from tests.support.shared_results import IMGSZ

IMAGES = 3
_SEEN: Mapping[str, Any] = {"frame": [240, 240], "score": 0.0, "candidates": 50}


def compiled_file(run_step: RunStep, int8: Path) -> Path:
    """The int8.tflite in a folder, compiled for grove-v2."""
    params = load_target(ROOT / "targets", "grove-v2").compilation(IMGSZ)
    made = run_step("compile", params, {"int8.tflite": int8 / "int8.tflite"})
    return made.expect_success().out / "vela.tflite"


def outputs_of(run_step: RunStep, file: Path, evaluation: Path, images: int | None = None) -> Path:
    """outputs.npz of a file."""
    inputs = {"model.tflite": file, "evaluation": evaluation}
    return run_step("outputs", {"images": images}, inputs).expect_success().out / "outputs.npz"


def recorded_model(run_step: RunStep, file: Path, images: Path, **params: Any) -> RecordedModel:
    """The file's model, with what it finds in the first images."""
    outputs = outputs_of(run_step, file, images / "evaluation", IMAGES)
    inputs = {"outputs.npz": outputs, "evaluation": images / "evaluation"}
    out = run_step("emulator-frames", {**_SEEN, **params}, inputs).expect_success().out
    content = file.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    return read_recorded_model(out / "frames.json", sha256=sha256, size=len(content))
