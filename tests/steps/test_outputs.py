"""The step `outputs`: what the file that goes onto a board gives, compiled or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kiln.store.tree import hash_file
from tests.support.fixtures import RunScript, RunStep, Trial
from tests.support.flashed import compiled_file
from tests.support.shared_results import IMGSZ, SharedResults

ALL = {"images": None}


@pytest.fixture(scope="module")
def compiled(run_step: RunStep, pose_int8: Path) -> Path:
    """The pose model for grove-v2."""
    return compiled_file(run_step, pose_int8)


def _runs(run_step: RunStep, model: Path, evaluation: Path, **params: Any) -> Trial:
    inputs = {"model.tflite": model, "evaluation": evaluation}
    return run_step("outputs", {**ALL, **params}, inputs)


def _expected(int8: Path, folder: Path) -> tuple[Path, list[Any]]:
    """The images of the reference as those of an evaluation, and its outputs."""
    with np.load(int8 / "reference.npz") as arrays:
        np.save(folder / "images.npy", (arrays["images"].astype(np.int16) + 128).astype(np.uint8))
        return folder, [arrays[f"output_{index}"] for index in range(len(arrays.files) - 1)]


@pytest.mark.parametrize("task", ["pose", "detect", "classify"])
@pytest.mark.parametrize("form", ["int8", "compiled"])
def test_it_gives_the_bytes_of_the_reference_kernels(
    task: Any, form: str, run_step: RunStep, shared: SharedResults, tmp_path: Path
) -> None:
    int8 = shared.out(task, "quantize")
    model = int8 / "int8.tflite" if form == "int8" else compiled_file(run_step, int8)
    evaluation, expected = _expected(int8, tmp_path)
    trial = _runs(run_step, model, evaluation).expect_success()
    assert trial.result.images == 3
    with np.load(trial.out / "outputs.npz") as arrays:
        assert arrays["numbers"].tolist() == [0, 1, 2]
        for index, wanted in enumerate(expected):
            given = arrays[f"output_{index}"]
            assert given.dtype == np.int8
            assert np.array_equal(given, wanted), index


def test_a_reader_can_dequantise_without_the_model(
    run_step: RunStep, shared: SharedResults, compiled: Path, pose_images: Path
) -> None:
    trial = _runs(run_step, compiled, pose_images / "evaluation", images=2).expect_success()
    with np.load(trial.out / "outputs.npz") as arrays:
        assert arrays["numbers"].tolist() == [0, 2], "at even distances of four"
        scales, zero_points = arrays["scales"].tolist(), arrays["zero_points"].tolist()
    outputs = shared.result("pose", "quantize").outputs
    assert [each.scale for each in outputs] == scales
    assert [each.zero_point for each in outputs] == zero_points
    steps = [each for each in trial.events if each["event"] == "progress"]
    assert [(each["done"], each["total"]) for each in steps] == [(1, 2), (2, 2)]


def test_the_same_bytes_on_any_number_of_cores(
    run_step: RunStep, compiled: Path, pose_images: Path, request: pytest.FixtureRequest
) -> None:
    evaluation = pose_images / "evaluation"
    usual = _runs(run_step, compiled, evaluation).expect_success()
    request.getfixturevalue("one_cpu")
    alone = _runs(run_step, compiled, evaluation).expect_success()
    assert hash_file(usual.out / "outputs.npz") == hash_file(alone.out / "outputs.npz")


def test_what_cannot_be_run_is_said_in_a_sentence(
    run_step: RunStep, compiled: Path, pose_images: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "images.npy", np.zeros((2, 32, 32, 3), np.uint8))
    failure = _runs(run_step, compiled, tmp_path).failure
    assert failure is not None
    assert (failure["kind"], "int8 [1, 32, 32, 3]" in failure["message"]) == ("model", True)
    content = bytearray(compiled.read_bytes())
    stream = content.index(b"COP1")
    content[stream + 64 : stream + 96] = bytes(32)
    damaged = tmp_path / "damaged.tflite"
    damaged.write_bytes(content)
    failure = _runs(run_step, damaged, pose_images / "evaluation").failure
    assert failure is not None
    assert failure["kind"] == "model"
    assert failure["message"].startswith("the compiled file cannot be executed here: ")
    assert failure["hint"]
    np.save(tmp_path / "images.npy", np.zeros((0, IMGSZ, IMGSZ, 3), np.uint8))
    failure = _runs(run_step, compiled, tmp_path).failure
    assert failure is not None
    assert failure["kind"] == "data"


#: Prints what is said if the process that runs a model is gone.
CRASH = """
import os, signal
import numpy as np
from stages.contract import StepFailed
from stages.vela.execution.parallel import run_on_all_cores

class Model:
    inputs = outputs = ()
    def run(self, image):
        os.kill(os.getpid(), signal.SIGKILL)

os.sched_getaffinity = lambda _process: {0, 1}
try:
    list(run_on_all_cores(Model(), np.zeros((4, 2, 2, 3), np.uint8), range(4)))
except StepFailed as error:
    print(error.message)
"""


def test_a_file_that_ends_the_process_fails_the_step(run_script: RunScript) -> None:
    assert run_script("vela", CRASH).strip() == "the process that ran it ended without a result"
