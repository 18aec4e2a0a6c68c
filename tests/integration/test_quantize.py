"""The step `quantize`, on the exported demo model and on tiny networks."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kiln.environments import EnvironmentName
from kiln.executors import STEP_VARIABLES
from kiln.tree import hash_file
from tests.integration.conftest import IMGSZ, ROOT, RunStep
from tests.integration.tiny import make_tiny

EnvPython = Callable[[EnvironmentName], Path]

CELLS = [(IMGSZ // stride) ** 2 for stride in (8, 16, 32)]

#: Argv: TFLite files. Prints for each the dtypes of its tensors and how many scales kernels have.
LOOK = """
import json, sys
import tensorflow as tf

def look(path):
    tensors = tf.lite.Interpreter(model_path=path).get_tensor_details()
    scales = [len(t["quantization_parameters"]["scales"]) for t in tensors if len(t["shape"]) == 4]
    return {"dtypes": sorted({t["dtype"].__name__ for t in tensors}), "scales": max(scales)}

print(json.dumps([look(path) for path in sys.argv[1:]]))
"""


@pytest.fixture
def one_cpu() -> Iterator[None]:
    """What runs in the test may use a single processor."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    yield
    os.sched_setaffinity(0, allowed)


@pytest.mark.usefixtures("one_cpu")
def test_same_bytes_offline_in_another_place(
    pose_onnx: Path, pose_int8: Path, env_python: EnvPython, tmp_path: Path
) -> None:
    job = _job(tmp_path / "elsewhere", pose_onnx)
    nowhere = "http://127.0.0.1:9"
    variables = {
        **STEP_VARIABLES,
        "PYTHONPATH": str(ROOT),
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "TZ": "Asia/Tokyo",
        "HTTP_PROXY": nowhere,
        "HTTPS_PROXY": nowhere,
    }
    done = subprocess.run(
        [env_python("export"), "-m", "stages.export.quantize", job],
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for name in ("float32.tflite", "int8.tflite"):
        assert hash_file(job / "out" / name) == hash_file(pose_int8 / name)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    _check_pose_facts(events[-1]["result"], pose_int8)
    assert {"event": "progress", "done": 4, "total": 4, "unit": "calibration images"} in events


def test_per_channel_and_a_narrow_calibration(
    pose_onnx: Path, pose_int8: Path, run_step: RunStep, env_python: EnvPython, tmp_path: Path
) -> None:
    images = np.load(pose_onnx / "calibration.npy")
    np.save(tmp_path / "calibration.npy", np.clip(images, 20, 200))
    inputs = {
        "model.onnx": pose_onnx / "model.onnx",
        "calibration.npy": tmp_path / "calibration.npy",
    }
    trial = run_step("quantize", {"per_channel": True}, inputs).expect_success()
    assert trial.result is not None
    _check_input(trial.result, channels=3)
    files = [
        pose_int8 / "int8.tflite",
        trial.out / "int8.tflite",
        pose_int8 / "float32.tflite",
        trial.out / "float32.tflite",
    ]
    per_tensor, per_channel, float32, _ = _look(env_python("export"), files)
    assert (per_tensor["scales"], per_channel["scales"] > 1) == (1, True)
    assert per_tensor["dtypes"] == per_channel["dtypes"] == ["int32", "int8"]
    assert "float32" in float32["dtypes"]
    assert hash_file(files[2]) == hash_file(files[3]), "the float model knows no calibration"


def test_grey_model_and_dead_output(
    run_step: RunStep, env_python: EnvPython, tmp_path: Path
) -> None:
    inputs = make_tiny(env_python("export"), "raw", tmp_path)
    trial = run_step("quantize", {"per_channel": False}, inputs).expect_success()
    assert trial.result is not None
    _check_input(trial.result, channels=1, size=32)
    assert [warning["message"].split()[:2] for warning in trial.warnings] == [["output", "dead"]]


@pytest.mark.parametrize(
    ("kind", "words"),
    [("float", ["stayed float", "SIN"]), ("unknown", ["onnx2tf", "DeformConv"])],
)
def test_layers_that_cannot_be_quantised(
    kind: Any, words: list[str], run_step: RunStep, env_python: EnvPython, tmp_path: Path
) -> None:
    inputs = make_tiny(env_python("export"), kind, tmp_path)
    trial = run_step("quantize", {"per_channel": False}, inputs)
    assert trial.failure is not None
    assert trial.failure["kind"] == "model"
    assert all(word in trial.failure["message"] for word in words), trial.failure
    assert trial.failure["hint"]


def test_images_of_another_size_are_refused(
    pose_onnx: Path, run_step: RunStep, tmp_path: Path
) -> None:
    np.save(tmp_path / "calibration.npy", np.zeros((4, 32, 32, 3), np.uint8))
    inputs = {
        "model.onnx": pose_onnx / "model.onnx",
        "calibration.npy": tmp_path / "calibration.npy",
    }
    trial = run_step("quantize", {"per_channel": False}, inputs)
    assert trial.failure is not None
    assert "[4, 32, 32, 3]" in trial.failure["message"]
    assert f"[{IMGSZ}, {IMGSZ}, 3]" in trial.failure["message"]


def _check_pose_facts(result: dict[str, Any], out: Path) -> None:
    _check_input(result, channels=3)
    shapes = [output["shape"] for output in result["outputs"]]
    heads = [[1, cells, width] for cells in CELLS for width in (64, 1)]
    assert shapes == [*heads, [1, sum(CELLS), 17 * 3]]
    assert {output["dtype"] for output in result["outputs"]} == {"int8"}
    assert "TRANSPOSE" not in result["operators"]
    assert "STRIDED_SLICE" not in result["operators"]
    assert result["operators"]["MAX_POOL_2D"] == 3
    assert result["bytes"] == {
        kind: (out / f"{kind}.tflite").stat().st_size for kind in ("float32", "int8")
    }


def _check_input(result: dict[str, Any], *, channels: int, size: int = IMGSZ) -> None:
    """Exactly what the firmware writes: pixel - 128 of a pixel in 0..255."""
    (source,) = result["inputs"]
    assert source["shape"] == [1, size, size, channels]
    assert source["dtype"] == "int8"
    assert source["scale"] == float(np.float32(1) / np.float32(255))
    assert source["zero_point"] == -128


def _job(folder: Path, exported: Path) -> Path:
    (folder / "in").mkdir(parents=True)
    for name in ("model.onnx", "calibration.npy"):
        (folder / "in" / name).symlink_to(exported / name)
    document = {"contract": 1, "step": "quantize", "params": {"per_channel": False}}
    (folder / "job.json").write_text(json.dumps(document), encoding="utf-8")
    return folder


def _look(python: Path, models: list[Path]) -> list[dict[str, Any]]:
    done = subprocess.run(
        [python, "-c", LOOK, *models], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    seen: list[dict[str, Any]] = json.loads(done.stdout)
    return seen
