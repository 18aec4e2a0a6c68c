"""The step `quantize`, on the exported demo model and on tiny networks."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kiln.executors.protocol import STEP_VARIABLES
from kiln.plan.targets import load_target
from kiln.store.tree import hash_file
from stages.contract import from_json
from stages.results.quantize import QuantizeResult
from tests.support.checkout import ROOT
from tests.support.fixtures import EnvPython, RunScript, RunStep, Trial
from tests.support.shared_results import IMGSZ
from tests.support.tiny import make_tiny

PARAMS = {"granularity": "mixed", "order": None}

CELLS = [(IMGSZ // stride) ** 2 for stride in (8, 16, 32)]

#: Argv: TFLite files. Prints what is in each: dtypes, of each layer's kernel how many scales it
#: has and its largest number, the names of the outputs and the largest value that each can give.
DESCRIBE = """
import json, sys
import numpy as np
import tensorflow as tf

def look(path):
    model = tf.lite.Interpreter(model_path=path)
    model.allocate_tensors()
    tensors = {t["index"]: t for t in model.get_tensor_details()}
    layers = [o for o in model._get_ops_details() if o["op_name"] == "CONV_2D"]
    kernels = {tensors[o["outputs"][0]]["name"]: o["inputs"][1] for o in layers}
    outputs = {t["name"]: t for t in model.get_output_details()}
    return {
        "dtypes": sorted({t["dtype"].__name__ for t in tensors.values()}),
        "scales": {
            name: len(tensors[k]["quantization_parameters"]["scales"])
            for name, k in kernels.items()
        },
        "largest": {
            name: int(np.abs(model.get_tensor(k).astype(int)).max()) for name, k in kernels.items()
        },
        "outputs": list(outputs),
        "ceilings": {
            name: t["quantization"][0] * (127 - t["quantization"][1])
            for name, t in outputs.items()
        },
    }

print(json.dumps([look(path) for path in sys.argv[1:]]))
"""

#: Argv: a float model, calibration images, an int8 model... Prints for each int8 model the mean
#: over its outputs of the signal-to-noise ratio in dB, on those images.
SNR = """
import json, sys
import numpy as np
from stages.export.models.preprocess import as_float, as_int8
from stages.export.models.tflite_interpreter import TFLiteModel

images = np.load(sys.argv[2])

def outputs(path, prepare):
    model = TFLiteModel(open(path, "rb").read(), kernels="delegate")
    for image in images:
        model.run(prepare(image)[None])
        yield [model.values(each.index) for each in model.outputs]

exact = [np.stack(each) for each in zip(*outputs(sys.argv[1], as_float))]

def ratio(path):
    ratios = []
    for signal, quantised in zip(exact, zip(*outputs(path, as_int8))):
        power = np.square(signal - np.stack(quantised)).sum()
        ratios.append(10 * np.log10(np.square(signal).sum() / power))
    return float(np.mean(ratios))

print(json.dumps([ratio(path) for path in sys.argv[3:]]))
"""

#: Argv: an int8 file. Prints how near the values of any LOGISTIC come to the middle between two
#: int8 values; then a scale at which kernels have been seen to differ, and what is taken instead,
#: both with how near they come.
TIES = """
import json, sys
from pathlib import Path
from stages.export.models.tflite_editor import Graph
from stages.export.quantization.logistic_ties import nearest_tie, settle

graph = Graph(Path(sys.argv[1]).read_bytes())
inputs = [each.inputs[0] for each in graph.operators if each.type == "LOGISTIC"]
near = min(nearest_tie(graph.scale(each), graph.zero_point(each)) for each in inputs)
seen = 0.008678767830133438, -7
taken = settle(*seen)
print(json.dumps([near, seen[0], nearest_tie(*seen), taken, nearest_tie(taken, seen[1])]))
"""


@pytest.fixture(scope="module")
def mixed(pose_onnx: Path, pose_images: Path, run_step: RunStep) -> Trial:
    return run_step("quantize", PARAMS, _inputs(pose_onnx, pose_images)).expect_success()


@pytest.mark.slow
@pytest.mark.usefixtures("one_cpu")
def test_same_bytes_offline_in_another_place(
    pose_onnx: Path, pose_images: Path, mixed: Trial, env_python: EnvPython, tmp_path: Path
) -> None:
    job = _job(tmp_path / "elsewhere", _inputs(pose_onnx, pose_images))
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
        assert hash_file(job / "out" / name) == hash_file(mixed.out / name)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    _check_pose_facts(from_json(QuantizeResult, events[-1]["result"]), mixed.out)
    assert {"event": "progress", "done": 4, "total": 4, "unit": "calibration images"} in events


@pytest.mark.slow
def test_granularities(
    pose_onnx: Path,
    pose_images: Path,
    pose_int8: Path,
    mixed: Trial,
    run_step: RunStep,
    run_script: RunScript,
) -> None:
    params = {"granularity": "per-channel", "order": None}
    trial = run_step("quantize", params, _inputs(pose_onnx, pose_images)).expect_success()
    outs = [pose_int8, trial.out, mixed.out]
    described = _describe(run_script, [out / "int8.tflite" for out in outs])
    per_tensor, per_channel, mix = described
    assert all(each["dtypes"] == ["int32", "int8"] for each in described)
    assert set(per_tensor["scales"].values()) == {1}
    single = {name for name, scales in per_channel["scales"].items() if scales == 1}
    assert single == {f"head.cv3.{number}.2" for number in range(3)}, "those of one channel"
    assert set(per_channel["largest"].values()) == {127}
    for result, description in ((trial.result, per_channel), (mixed.result, mix)):
        several = {name for name, scales in description["scales"].items() if scales > 1}
        assert set(result.per_channel_layers) == several
    assert {"layers.0.conv", "layers.4.m.1.cv2.conv", "head.cv4.2.2"} <= set(mix["scales"])
    assert min(mix["largest"].values()) < 64, "coarse where the layer can bear it"
    floats = {hash_file(out / "float32.tflite") for out in outs}
    assert len(floats) == 1, "the float model knows no granularity"


def test_mixed_costs_the_npu_less_than_per_tensor(
    pose_int8: Path,
    pose_images: Path,
    mixed: Trial,
    run_step: RunStep,
    run_script: RunScript,
) -> None:
    vela = load_target(ROOT / "targets", "grove-v2").compilation(IMGSZ)
    files = [out / "int8.tflite" for out in (pose_int8, mixed.out)]
    before, after = (
        run_step("compile", vela, {"int8.tflite": each}).expect_success().result for each in files
    )
    assert after.flash_kib < 0.85 * before.flash_kib
    assert after.cycles < 0.95 * before.cycles
    images = pose_images / "calibration.npy"
    said = run_script("export", SNR, pose_int8 / "float32.tflite", images, *files)
    fine, coarse = json.loads(said)
    assert fine > 25
    assert coarse > fine - 3, "for little more noise"


@pytest.mark.slow
def test_no_value_is_left_to_how_a_kernel_rounds(run_script: RunScript, pose_int8: Path) -> None:
    near, seen, before, taken, after = json.loads(
        run_script("export", TIES, pose_int8 / "int8.tflite")
    )
    assert near >= 5e-4
    assert before < 1e-5
    assert after >= 5e-4
    assert 0 < abs(taken - seen) < 0.01 * seen


def test_outputs_in_the_order_that_a_firmware_wants(
    pose_onnx: Path, pose_images: Path, mixed: Trial, run_step: RunStep, run_script: RunScript
) -> None:
    order = ["box16", "box8", "score32", "keypoints", "score8", "box32", "score16"]
    params = {"granularity": "mixed", "order": order}
    trial = run_step("quantize", params, _inputs(pose_onnx, pose_images)).expect_success()
    usual = {output.name: output for output in mixed.result.outputs}
    assert trial.result.outputs == tuple(usual[name] for name in order)
    files = [trial.out / name for name in ("float32.tflite", "int8.tflite")]
    assert [each["outputs"] for each in _describe(run_script, files)] == [order, order]


def test_an_order_of_other_outputs_is_refused(
    detect_onnx: Path, detect_images: Path, run_step: RunStep
) -> None:
    params = {"granularity": "mixed", "order": ["box8", "keypoints"]}
    trial = run_step("quantize", params, _inputs(detect_onnx, detect_images))
    assert trial.failure is not None
    assert trial.failure["kind"] == "model"
    assert "box8, score8, box16" in trial.failure["message"]
    assert "wanted are box8, keypoints" in trial.failure["message"]


@pytest.mark.slow
def test_scores_can_rise_above_what_narrow_calibration_images_show(
    pose_onnx: Path, pose_images: Path, run_step: RunStep, run_script: RunScript, tmp_path: Path
) -> None:
    images = np.load(pose_images / "calibration.npy")
    np.save(tmp_path / "calibration.npy", np.clip(images, 100, 140))
    inputs = {**_inputs(pose_onnx, pose_images), "calibration.npy": tmp_path / "calibration.npy"}
    trial = run_step("quantize", PARAMS, inputs).expect_success()
    _check_input(trial.result, channels=3)
    (description,) = _describe(run_script, [trial.out / "int8.tflite"])
    highest = {
        name: 1 / (1 + np.exp(-description["ceilings"][name])) for name in description["outputs"]
    }
    assert min(highest[name] for name in ("score8", "score16", "score32")) > 0.94


def test_grey_model_and_dead_output(
    run_step: RunStep, run_script: RunScript, tmp_path: Path
) -> None:
    inputs = make_tiny(run_script, "raw", tmp_path)
    trial = run_step("quantize", PARAMS, inputs).expect_success()
    _check_input(trial.result, channels=1, size=32)
    assert [warning["message"].split()[:2] for warning in trial.warnings] == [["output", "dead"]]


@pytest.mark.parametrize(
    ("kind", "words"),
    [("float", ["stayed float", "SIN"]), ("unknown", ["onnx2tf", "DeformConv"])],
)
def test_layers_that_cannot_be_quantised(
    kind: Any, words: list[str], run_step: RunStep, run_script: RunScript, tmp_path: Path
) -> None:
    inputs = make_tiny(run_script, kind, tmp_path)
    trial = run_step("quantize", PARAMS, inputs)
    assert trial.failure is not None
    assert trial.failure["kind"] == "model"
    assert all(word in trial.failure["message"] for word in words), trial.failure
    assert trial.failure["hint"]


def test_images_of_another_size_are_refused(
    pose_onnx: Path, pose_images: Path, run_step: RunStep, tmp_path: Path
) -> None:
    np.save(tmp_path / "calibration.npy", np.zeros((4, 32, 32, 3), np.uint8))
    inputs = {**_inputs(pose_onnx, pose_images), "calibration.npy": tmp_path / "calibration.npy"}
    trial = run_step("quantize", PARAMS, inputs)
    assert trial.failure is not None
    assert "[4, 32, 32, 3]" in trial.failure["message"]
    assert f"[{IMGSZ}, {IMGSZ}, 3]" in trial.failure["message"]


def _check_pose_facts(result: QuantizeResult, out: Path) -> None:
    _check_input(result, channels=3)
    shapes = [output.shape for output in result.outputs]
    heads = [(1, cells, width) for cells in CELLS for width in (64, 1)]
    assert shapes == [*heads, (1, sum(CELLS), 17 * 3)]
    assert {output.dtype for output in result.outputs} == {"int8"}
    assert "TRANSPOSE" not in result.operators
    assert "STRIDED_SLICE" not in result.operators
    assert result.operators["MAX_POOL_2D"] == 3
    sizes = [(out / f"{kind}.tflite").stat().st_size for kind in ("float32", "int8")]
    assert [result.bytes.float32, result.bytes.int8] == sizes


def _check_input(result: QuantizeResult, *, channels: int, size: int = IMGSZ) -> None:
    """As the firmware writes it: pixel - 128 of a pixel in 0..255."""
    (source,) = result.inputs
    assert source.shape == (1, size, size, channels)
    assert source.dtype == "int8"
    assert source.scale == float(np.float32(1) / np.float32(255))
    assert source.zero_point == -128


def _inputs(exported: Path, images: Path) -> dict[str, Path]:
    return {
        "model.onnx": exported / "model.onnx",
        "calibration.npy": images / "calibration.npy",
    }


def _job(folder: Path, inputs: Mapping[str, Path]) -> Path:
    (folder / "in").mkdir(parents=True)
    for name, path in inputs.items():
        (folder / "in" / name).symlink_to(path)
    document = {"contract": 1, "step": "quantize", "params": PARAMS}
    (folder / "job.json").write_text(json.dumps(document), encoding="utf-8")
    return folder


def _describe(run_script: RunScript, models: list[Path]) -> list[dict[str, Any]]:
    described: list[dict[str, Any]] = json.loads(run_script("export", DESCRIBE, *models))
    return described
