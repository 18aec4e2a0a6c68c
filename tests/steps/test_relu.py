"""Networks whose activation is ReLU, from the training to what the boards would run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from kiln.plan.request import Task
from kiln.plan.targets import load_target
from stages.results.check_firmware import CheckFirmwareResult
from stages.results.compile import CompileResult, Execution
from stages.results.quantize import QuantizeResult
from stages.results.requantize import RequantizeResult
from tests.support import fixtures
from tests.support.checkout import ROOT
from tests.support.fixtures import RunScript, RunStep
from tests.support.shared_results import IMGSZ, SharedResults

MODEL = "yolov8n-relu"
#: Run in the train environment: of each weights file the network's name and the activations in it.
_ACTIVATIONS = """
import json, sys
from pathlib import Path
from stages.train.weights import checkpoint
from ultralytics.nn.modules import Conv

said = []
for path in sys.argv[1:]:
    network, meta = checkpoint.load(Path(path))
    found = {type(each.act).__name__ for each in network.modules() if isinstance(each, Conv)}
    said.append([meta.model_name, sorted(found)])
print(json.dumps(said))
"""


@pytest.fixture(scope="session")
def pose_relu(shared: SharedResults) -> Path:
    """What the step `quantize` gives for the pose demo."""
    return shared.out("pose", "quantize", model=MODEL)


def test_all_activations_are_relu_and_those_of_other_networks_are_not(
    shared: SharedResults, pose_weights: Path, run_script: RunScript
) -> None:
    """Ultralytics names a network's activation where all networks of a process see it."""
    relu = shared.out("pose", "train", model=MODEL) / "weights.safetensors"
    usual = pose_weights / "weights.safetensors"
    said = json.loads(run_script("train", _ACTIVATIONS, relu, usual, relu))
    of_relu = ["yolov8n-relu-pose", ["ReLU"]]
    assert said == [of_relu, ["yolov8n-pose", ["SiLU"]], of_relu]


@pytest.mark.slow
def test_start_weights_with_silu_are_taken_over(
    run_step: RunStep, run_script: RunScript, pose_frames: Path, pose_weights: Path
) -> None:
    inputs = {
        "data": pose_frames / "data",
        "dataset.json": pose_frames / "dataset.json",
        "weights.safetensors": pose_weights / "weights.safetensors",
    }
    params = {"task": "pose", **fixtures.TINY, "activation": "relu"}
    trial = run_step("train", params, inputs).expect_success()
    taken, of = trial.result.tensors_taken_over
    assert taken == of > 300
    trained = trial.out / "weights.safetensors"
    said = json.loads(run_script("train", _ACTIVATIONS, trained))
    assert said == [["yolov8n-relu-pose", ["ReLU"]]]


@pytest.mark.parametrize("task", ["pose", "detect", "classify"])
def test_no_operator_is_left_of_an_activation(task: Task, shared: SharedResults) -> None:
    usual: QuantizeResult = shared.result(task, "quantize")
    relu: QuantizeResult = shared.result(task, "quantize", model=MODEL)
    assert relu.operators["CONV_2D"] == usual.operators["CONV_2D"]
    assert usual.operators["LOGISTIC"] == usual.operators["MUL"] > 20
    assert usual.operators.keys() - relu.operators.keys() == {"LOGISTIC", "MUL"}
    assert relu.operators.keys() <= usual.operators.keys()
    assert "RELU" not in relu.operators


@pytest.mark.parametrize("task", ["pose", "detect", "classify"])
def test_every_board_takes_it(task: Task, shared: SharedResults, run_step: RunStep) -> None:
    folder = shared.out(task, "quantize", model=MODEL)
    files = {name: folder / name for name in ("int8.tflite", "reference.npz")}
    grove = load_target(ROOT / "targets", "grove-v2").choose(task, None)
    compiled = run_step("compile", grove.compilation(IMGSZ), files).expect_success()
    result: CompileResult = compiled.result
    assert result.execution == Execution(images=3, equal=True)
    assert result.operators.cpu == {}
    vela = {"model.tflite": compiled.out / "vela.tflite"}
    on_grove = run_step("check-firmware", grove.contract(task, IMGSZ, None), vela)
    xiao = load_target(ROOT / "targets", "xiao-esp32s3").choose(task, None)
    int8 = {"model.tflite": files["int8.tflite"], "reference.npz": files["reference.npz"]}
    on_xiao = run_step("check-firmware", xiao.contract(task, IMGSZ, None), int8)
    for trial in (on_grove, on_xiao):
        verdict: CheckFirmwareResult = trial.expect_success().result
        assert verdict.accepted, [each for each in verdict.checks if not each.ok]


def test_it_is_finetuned_to_the_last_bit(
    pose_relu: Path, shared: SharedResults, run_step: RunStep
) -> None:
    files = {name: pose_relu / name for name in ("float32.tflite", "int8.tflite")}
    graph = run_step("graph", {}, files).expect_success().out
    inputs = {name: graph / name for name in ("network.json", "network.npz")}
    inputs["training.npy"] = shared.out("pose", "images") / "calibration.npy"
    params: Mapping[str, Any] = {
        **{"updates": 4, "batch": 4, "seed": 0, "gpu": "none", "reproducible": True},
        **{"overrides": {}, "cycles": None, "flash_kib": None},
    }
    tuned = run_step("finetune", params, inputs).expect_success().out / "learned.npz"
    files = {"int8.tflite": pose_relu / "int8.tflite", "learned.npz": tuned}
    written: RequantizeResult = run_step("requantize", {}, files).expect_success().result
    assert written.different == 0
