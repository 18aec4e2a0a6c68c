"""The step `layers`, on the quantised demo model and on one with a layer spoilt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.fixtures import RunScript, RunStep
from tests.support.tiny import make_tiny

SPOILT = "layers.8.cv2.conv"

#: Argv: an int8 model, a copy to write, a layer. Changes every weight of the layer by up to 8.
SPOIL = """
import sys
from pathlib import Path
import numpy as np
from stages.export.models.tflite_editor import Graph

source, target, layer = sys.argv[1:]
graph = Graph(Path(source).read_bytes())
for number, operator in enumerate(graph.operators):
    if graph.name(operator.outputs[0]) == layer:
        weights = graph.constant(operator.inputs[1], np.int8).astype(int)
        change = np.random.default_rng(0).integers(-8, 9, weights.shape)
        spoilt = np.clip(weights + change, -127, 127).astype(np.int8)
        scale = np.array([graph.scale(operator.inputs[1])], np.float32)
        graph.set_constant(number, 1, spoilt, scale)
Path(target).write_bytes(graph.to_bytes())
"""


@pytest.fixture
def inputs(pose_int8: Path, pose_images: Path) -> dict[str, Path]:
    models = {name: pose_int8 / name for name in ("float32.tflite", "int8.tflite")}
    return {**models, "evaluation": pose_images / "evaluation"}


def test_every_layer_in_the_order_of_the_network(
    inputs: dict[str, Path], run_step: RunStep
) -> None:
    trial = run_step("layers", {}, inputs).expect_success()
    layers = _layers(trial.out)
    assert trial.result.compared == len(layers)
    names = [layer["name"] for layer in layers]
    order = ["layers.0.conv", "layers.1.conv", "layers.4.cv2.conv", SPOILT, "layers.21.cv2.conv"]
    assert [name for name in names if name in order] == order
    assert names[0] == order[0]
    assert {"head.cv2.0.2", "head.cv3.0.2", "head.cv4.0.2", "keypoints"} <= set(names)
    assert len(set(names)) == len(names)
    kinds = {layer["name"]: layer["operator"] for layer in layers}
    assert (kinds[SPOILT], kinds["head.cv2.0.2"]) == ("CONV_2D + SiLU", "CONV_2D")
    assert not {"PAD", "RESHAPE", "LOGISTIC", "QUANTIZE"} & set(kinds.values())
    assert all(10 < layer["snr_db"] < 70 for layer in layers)
    ratios = {layer["name"]: layer["snr_db"] for layer in layers}
    assert list(trial.result.worst) == sorted(ratios, key=lambda name: ratios[name])[:5]


def test_a_spoilt_layer_is_found(
    inputs: dict[str, Path],
    run_step: RunStep,
    run_script: RunScript,
    tmp_path: Path,
) -> None:
    spoilt = tmp_path / "int8.tflite"
    run_script("export", SPOIL, inputs["int8.tflite"], spoilt, SPOILT)
    sound = _layers(run_step("layers", {}, inputs).expect_success().out)
    found = _layers(run_step("layers", {}, {**inputs, "int8.tflite": spoilt}).expect_success().out)
    at = [layer["name"] for layer in sound].index(SPOILT)
    assert found[:at] == sound[:at], "what lies before is as it was"
    assert found[at]["snr_db"] < sound[at]["snr_db"] - 5


def test_models_of_different_networks_are_refused(
    inputs: dict[str, Path],
    run_step: RunStep,
    run_script: RunScript,
    tmp_path: Path,
) -> None:
    tiny = make_tiny(run_script, "raw", tmp_path)
    params = {"granularity": "mixed", "order": None}
    other = run_step("quantize", params, tiny).expect_success().out
    trial = run_step("layers", {}, {**inputs, "int8.tflite": other / "int8.tflite"})
    assert trial.failure is not None
    assert trial.failure["kind"] == "model"
    assert "no layer in common" in trial.failure["message"]
    assert "one run of the step `quantize`" in trial.failure["hint"]


def _layers(out: Path) -> list[dict[str, Any]]:
    layers: list[dict[str, Any]] = json.loads((out / "layers.json").read_text())["layers"]
    return layers
