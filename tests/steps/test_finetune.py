"""The steps `graph`, `finetune` and `requantize`, on the quantised demo models."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kiln.plan.targets import load_target
from stages.results.finetune import FinetuneResult
from stages.results.int8_network import GraphResult
from stages.results.requantize import RequantizeResult
from tests.support.checkout import ROOT
from tests.support.fixtures import RunStep, tree
from tests.support.shared_results import IMGSZ

PARAMS: Mapping[str, Any] = {
    "updates": 4,
    "batch": 4,
    "seed": 0,
    "gpu": "none",
    "reproducible": True,
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
    params = load_target(ROOT / "targets", "grove-v2").compilation(IMGSZ)
    files = {name: pose_int8 / name for name in ("int8.tflite", "reference.npz")}
    out = run_step("compile", params, files).expect_success().out
    return {name: out / name for name in ("layers.json", "summary.csv")}


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


def test_equal_finetunings_give_equal_bytes(inputs: Mapping[str, Path], run_step: RunStep) -> None:
    first, second = (run_step("finetune", PARAMS, inputs).expect_success() for _ in range(2))
    assert tree(first.out).digest == tree(second.out).digest
    other = run_step("finetune", {**PARAMS, "seed": 1}, inputs).expect_success()
    assert tree(first.out).digest != tree(other.out).digest


def test_weights_become_as_coarse_as_was_asked(
    inputs: Mapping[str, Path], plain: Mapping[str, Path], run_step: RunStep
) -> None:
    with plain["summary.csv"].open(newline="") as stream:
        (summary,) = csv.DictReader(stream)
    wanted = 0.9 * float(summary["off_chip_flash_memory_used"])
    params = {**PARAMS, "updates": 60, "flash_kib": wanted}
    tuned = run_step("finetune", params, {**inputs, **plain}).expect_success()
    result: FinetuneResult = tuned.result
    assert result.bits_after < result.bits_before - 0.3


def test_what_no_weights_can_give_is_refused(
    inputs: Mapping[str, Path], plain: Mapping[str, Path], run_step: RunStep
) -> None:
    failure = run_step("finetune", {**PARAMS, "flash_kib": 10.0}, {**inputs, **plain}).failure
    assert failure is not None
    assert failure["kind"] == "request"
    assert "bits would be needed" in failure["message"]


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
