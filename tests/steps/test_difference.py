"""The step `difference`: where two files of a model differ."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from stages.results.difference import DifferenceResult
from tests.support.fixtures import RunScript, RunStep

#: Argv: a folder. Writes two files that differ in one value of one tensor, and one without it.
WEIGHTS = """
import sys
from pathlib import Path
import numpy as np
from safetensors.numpy import save_file

folder = Path(sys.argv[1])
tensors = {"a": np.zeros((2, 3), np.float32), "b": np.arange(6, dtype=np.float32).reshape(2, 3)}
save_file(tensors, folder / "left.safetensors", metadata={"kiln": "{}"})
tensors["b"] = tensors["b"] + np.float32([[0, 0, 0], [0, 0, 1]])
save_file(tensors, folder / "right.safetensors", metadata={"kiln": "{}"})
del tensors["b"]
save_file(tensors, folder / "less.safetensors", metadata={"kiln": "{}"})
"""


def _compare(run_step: RunStep, left: Path, right: Path) -> DifferenceResult:
    suffix = left.suffix.removeprefix(".")
    inputs = {f"left.{suffix}": left, f"right.{suffix}": right}
    trial = run_step("difference", {"suffix": suffix}, inputs).expect_success()
    result: DifferenceResult = trial.result
    return result


def test_weights(run_step: RunStep, run_script: RunScript, tmp_path: Path) -> None:
    run_script("export", WEIGHTS, tmp_path)
    left, right, less = (tmp_path / f"{name}.safetensors" for name in ("left", "right", "less"))
    found = _compare(run_step, left, right)
    assert found.where == "b[1, 2] is 5.0, and 6.0 (1 of 6 values differ)"
    assert (found.differing, found.tensors) == (1, 3)
    assert found.sizes == (left.stat().st_size, right.stat().st_size)
    assert left.read_bytes()[: found.offset] == right.read_bytes()[: found.offset]
    assert _compare(run_step, left, less).where == "b is only in the first"


def test_models(run_step: RunStep, pose_int8: Path, detect_int8: Path, tmp_path: Path) -> None:
    found = _compare(run_step, pose_int8 / "int8.tflite", detect_int8 / "int8.tflite")
    assert 0 < found.differing < found.tensors
    shutil.copyfile(pose_int8 / "int8.tflite", tmp_path / "same.tflite")
    same = _compare(run_step, pose_int8 / "int8.tflite", tmp_path / "same.tflite")
    assert (same.where, same.differing, same.offset) == (None, 0, same.sizes[0])


def test_files_without_tensors(run_step: RunStep, tmp_path: Path) -> None:
    for name, text in (("left.csv", "epoch\n1\n"), ("right.csv", "epoch\n2\n")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    found = _compare(run_step, tmp_path / "left.csv", tmp_path / "right.csv")
    assert found == DifferenceResult(offset=6, sizes=(8, 8))
    np.save(tmp_path / "left.npy", np.zeros(3, np.uint8))
    np.save(tmp_path / "right.npy", np.ones(3, np.uint8))
    assert _compare(run_step, tmp_path / "left.npy", tmp_path / "right.npy").tensors == 2
