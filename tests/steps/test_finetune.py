"""The steps `graph`, `finetune` and `requantize`, on the quantised demo models."""

from __future__ import annotations

import csv
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kiln.plan.targets import load_target
from stages.results.finetune import FinetuneResult
from stages.results.int8_network import GraphResult
from stages.results.requantize import RequantizeResult
from tests.support.bitmap import write_bmp
from tests.support.checkout import ROOT
from tests.support.fixtures import EnvPython, RunStep, tree
from tests.support.resumable_job import ResumableJob
from tests.support.shared_results import IMGSZ

CAMERA = {"width": 240, "height": 240, "framing": "fit"}
PARAMS: Mapping[str, Any] = {
    "updates": 4,
    "batch": 4,
    "seed": 0,
    "gpu": "none",
    "reproducible": True,
    "overrides": {},
    "cycles": None,
    "flash_kib": None,
}


@pytest.fixture(scope="session")
def inputs(pose_int8: Path, pose_images: Path, run_step: RunStep) -> Mapping[str, Path]:
    """What a fine-tuning of the pose demo takes; it shows the calibration images."""
    files = {name: pose_int8 / name for name in ("float32.tflite", "int8.tflite")}
    graph = run_step("graph", {}, files).expect_success()
    result: GraphResult = graph.result
    assert result.convolutions > 60
    assert result.weights > 1_000_000
    return {
        "network.json": graph.out / "network.json",
        "network.npz": graph.out / "network.npz",
        "training.npy": pose_images / "calibration.npy",
    }


@pytest.fixture(scope="session")
def plain(pose_int8: Path, run_step: RunStep) -> Mapping[str, Path]:
    """What Vela says of the int8 file before a fine-tuning."""
    files = {name: pose_int8 / name for name in ("int8.tflite", "reference.npz")}
    out = run_step("compile", _compilation(), files).expect_success().out
    summary = out / "summary.csv"
    return {"layers.json": out / "layers.json", "start.csv": summary, "plain.csv": summary}


def test_what_was_learned_is_what_is_written(
    inputs: Mapping[str, Path], pose_int8: Path, run_step: RunStep
) -> None:
    tuned = run_step("finetune", PARAMS, inputs).expect_success()
    result: FinetuneResult = tuned.result
    assert (result.updates, result.reproducible, result.resumed_from) == (4, True, None)
    assert set(result.before) == {"score", "box", "keypoints"}
    written = run_step(
        "requantize",
        {},
        {"int8.tflite": pose_int8 / "int8.tflite", "learned.npz": tuned.out / "learned.npz"},
    ).expect_success()
    found: RequantizeResult = written.result
    assert found.different == 0
    assert tree(written.out / "int8.tflite").digest != tree(pose_int8 / "int8.tflite").digest


@pytest.mark.slow
def test_an_interrupted_finetuning_ends_in_the_same_bytes(
    inputs: Mapping[str, Path],
    plain: Mapping[str, Path],
    env_python: EnvPython,
    tmp_path: Path,
) -> None:
    params = {**PARAMS, "updates": 110, "batch": 2, "flash_kib": 0.95 * _kib(plain)}
    python, given = env_python("train"), {**inputs, **plain}
    undisturbed = ResumableJob(python, tmp_path / "undisturbed", "finetune", params, given)
    ended = undisturbed.run()
    assert ended.result.resumed_from is None
    told = {(each["name"], each["at"]) for each in ended.events if each["event"] == "metric"}
    assert {("distance/keypoints", 0), ("distance/score", 100), ("bits", 110)} <= told

    job = ResumableJob(python, tmp_path / "disturbed", "finetune", params, given)
    assert job.run(end_with=signal.SIGKILL, after=52).code == -signal.SIGKILL
    assert job.run(end_with=signal.SIGKILL, after=103).code == -signal.SIGKILL
    result: FinetuneResult = job.run().result
    assert result.resumed_from == 100
    assert result.before == ended.result.before
    assert tree(job.folder / "out").digest == tree(undisturbed.folder / "out").digest


def test_a_damaged_checkpoint_costs_a_warning(
    inputs: Mapping[str, Path], env_python: EnvPython, tmp_path: Path
) -> None:
    job = ResumableJob(env_python("train"), tmp_path / "job", "finetune", PARAMS, inputs)
    (job.folder / "state").mkdir()
    (job.folder / "state" / "last.pt").write_bytes(b"half a")
    ended = job.run()
    warnings = [each["message"] for each in ended.events if each["event"] == "warning"]
    assert warnings == ["the last checkpoint cannot be read: fine-tuning starts again"]
    assert ended.result.resumed_from is None


@pytest.mark.slow
def test_another_seed_gives_other_weights(inputs: Mapping[str, Path], run_step: RunStep) -> None:
    first, second = (
        run_step("finetune", {**PARAMS, "seed": seed}, inputs).expect_success() for seed in (0, 1)
    )
    assert tree(first.out).digest != tree(second.out).digest


@pytest.mark.slow
def test_the_file_becomes_as_small_as_was_asked(
    inputs: Mapping[str, Path], plain: Mapping[str, Path], pose_int8: Path, run_step: RunStep
) -> None:
    wanted = 0.8 * _kib(plain)
    params = {**PARAMS, "updates": 120, "batch": 1, "flash_kib": wanted}
    tuned = run_step("finetune", params, {**inputs, **plain}).expect_success()
    learned = {
        "int8.tflite": pose_int8 / "int8.tflite",
        "learned.npz": tuned.out / "learned.npz",
    }
    written = run_step("requantize", {}, learned).expect_success()
    assert written.result.different == 0
    files = {name: written.out / name for name in ("int8.tflite", "reference.npz")}
    compiled = run_step("compile", _compilation(), files).expect_success()
    result: FinetuneResult = tuned.result
    assert result.bits_after < result.bits_before - 1
    found = _row(compiled.out / "summary.csv")
    # Weights that have hardly been trained are spread evenly, which Vela codes a little worse.
    assert float(found["off_chip_flash_memory_used"]) < 1.08 * wanted
    assert result.expected_flash_kib == pytest.approx(wanted, rel=0.02)
    assert result.expected_cycles == pytest.approx(float(found["cycles_total"]), rel=0.08)


def test_what_no_weights_can_give_is_refused(
    inputs: Mapping[str, Path], plain: Mapping[str, Path], run_step: RunStep
) -> None:
    failure = run_step("finetune", {**PARAMS, "flash_kib": 10.0}, {**inputs, **plain}).failure
    assert failure is not None
    assert failure["kind"] == "request"
    assert "no weights would come down to" in failure["message"]


def test_another_network_is_refused(
    inputs: Mapping[str, Path], detect_int8: Path, run_step: RunStep
) -> None:
    tuned = run_step("finetune", {**PARAMS, "updates": 1}, inputs).expect_success()
    with np.load(tuned.out / "learned.npz") as arrays:
        assert any(name.startswith("weights_") for name in arrays)
    files = {
        "int8.tflite": detect_int8 / "int8.tflite",
        "learned.npz": tuned.out / "learned.npz",
    }
    failure = run_step("requantize", {}, files).failure
    assert failure is not None
    assert "learned.npz is of another network" in failure["message"]


def test_images_of_a_folder_of_ones_own(pose_data: Path, run_step: RunStep, tmp_path: Path) -> None:
    """They need neither labels nor the names of a data set."""
    own = tmp_path / "own"
    (own / "deeper").mkdir(parents=True)
    scene = np.full((60, 80, 3), 200, np.uint8)
    write_bmp(own / "a.bmp", scene)
    write_bmp(own / "deeper" / "b.bmp", scene)
    params: dict[str, Any] = {"imgsz": IMGSZ, "camera": CAMERA, "calibration": 1, "evaluation": 1}
    data = {"data": pose_data / "data", "dataset.json": pose_data / "dataset.json"}
    found = run_step("images", {**params, "training": 9}, {**data, "finetune": own})
    images = np.load(found.expect_success().out / "training.npy")
    assert images.shape == (2, IMGSZ, IMGSZ, 3)
    assert images.max() == 200
    of_train = run_step("images", {**params, "training": 5}, data).expect_success()
    assert len(np.load(of_train.out / "training.npy")) == 5

    (own / "c.jpg").write_bytes(b"no image")
    failure = run_step("images", {**params, "training": 9}, {**data, "finetune": own}).failure
    assert failure is not None
    assert failure["kind"] == "data"
    assert failure["message"] == "c.jpg in [finetune] folder does not open as an image"


def _compilation() -> Mapping[str, Any]:
    return load_target(ROOT / "targets", "grove-v2").compilation(IMGSZ)


def _kib(plain: Mapping[str, Path]) -> float:
    return float(_row(plain["plain.csv"])["off_chip_flash_memory_used"])


def _row(summary: Path) -> Mapping[str, str]:
    with summary.open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    return row
