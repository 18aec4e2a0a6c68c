"""The step `compile`, on the quantised demo models and on models that Vela does not like."""

from __future__ import annotations

import configparser
import csv
import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kiln.plan.schema import read_record
from kiln.plan.targets import load_target
from kiln.store.tree import hash_file
from stages.results.compile import CompileResult, Counted, Execution, Layer
from tests.support.checkout import ROOT
from tests.support.fixtures import RunScript, RunStep
from tests.support.shared_results import IMGSZ
from tests.support.tiny import make_tiny

#: By hand from the network itself: multiply-accumulates of each convolution, by the name of its
#: output, and the channels of all.
_CONVOLUTIONS = """
import json, math, sys
from pathlib import Path
from stages.vela.tflite.file import open_file

graph = open_file(Path(sys.argv[1]).read_bytes()).graphs[0]
tensors = [
    (graph.tensors[each.outputs[0]], graph.tensors[each.inputs[1]].shape)
    for each in graph.operators if each.name == "CONV_2D"
]
macs = {out.name: math.prod(out.shape) * math.prod(weights[1:]) for out, weights in tensors}
print(json.dumps([macs, sum(weights[0] for _, weights in tensors)]))
"""
#: The totals that `kiln inspect` has, from the file alone.
_DESCRIBED = """
import dataclasses, json, sys
from pathlib import Path
from stages.vela.tflite.model import describe, read_model

described = describe(read_model(Path(sys.argv[1]).read_bytes()))
print(json.dumps(dataclasses.asdict(described.counted)))
"""
#: What Vela makes of a model with these arguments alone.
_VELA = """
import sys
from ethosu.vela import vela
vela.main(sys.argv[1:])
"""


@pytest.fixture
def params() -> dict[str, Any]:
    """What grove-v2 asks of Vela."""
    return load_target(ROOT / "targets", "grove-v2").compilation(IMGSZ)


@pytest.mark.parametrize("task", ["pose", "detect"])
def test_the_whole_network_runs_on_the_npu(
    task: str, request: pytest.FixtureRequest, run_step: RunStep, params: dict[str, Any]
) -> None:
    int8: Path = request.getfixturevalue(f"{task}_int8")
    inputs = {name: int8 / name for name in ("int8.tflite", "reference.npz")}
    trial = run_step("compile", params, inputs).expect_success()
    result: CompileResult = trial.result
    assert result.execution == Execution(images=3, equal=True)
    assert (trial.warnings, result.operators.cpu, result.cpu_operators) == ([], {}, ())
    assert result.operators.npu["MAX_POOL_2D"] == 3
    assert result.operators.npu["CONV_2D"] > 60
    assert result.estimator == f"Vela {result.versions['ethos-u-vela']}"
    with (trial.out / "summary.csv").open(newline="") as stream:
        (summary,) = csv.DictReader(stream)
    assert result.sram_kib == float(summary["sram_memory_used"])
    assert result.flash_kib == float(summary["off_chip_flash_memory_used"])
    assert result.inference_ms == pytest.approx(result.cycles / 400e6 * 1000)
    assert 0 < result.sram_kib < 100
    assert (trial.out / "vela.tflite").read_bytes()[4:8] == b"TFL3"
    assert result.performance_model == "Vela 3-4"
    layers = json.loads((trial.out / "layers.json").read_text())
    assert Counter(layer["operator"] for layer in layers) == result.operators.npu
    assert {layer["place"] for layer in layers} == {"npu"}
    assert sum(layer["cycles"] for layer in layers) == result.cycles
    assert 0.9 < max(layer["sram_kib"] for layer in layers) / result.sram_kib <= 1


@pytest.mark.parametrize(
    ("task", "target"), [("pose", "grove-v2"), ("detect", "grove-v2"), ("pose", "nuvoton-m55m1")]
)
def test_what_the_layers_cost_is_what_the_network_has(
    task: str, target: str, request: pytest.FixtureRequest, run_step: RunStep, run_script: RunScript
) -> None:
    model: Path = request.getfixturevalue(f"{task}_int8") / "int8.tflite"
    params = load_target(ROOT / "targets", target).compilation(IMGSZ)
    trial = run_step("compile", params, {"int8.tflite": model}).expect_success()
    result: CompileResult = trial.result
    traffic = result.traffic
    assert traffic is not None
    assert traffic.macs_per_cycle == int(params["accelerator"].rpartition("-")[2])
    layers = [
        read_record(Layer, each, "layers.json")
        for each in json.loads((trial.out / "layers.json").read_text())
    ]
    counted = [each.counted for each in layers if each.counted is not None]
    assert len(counted) == len(layers)
    for field in dataclasses.fields(Counted):
        assert sum(getattr(each, field.name) for each in counted) == getattr(traffic, field.name)

    told = json.loads(run_script("vela", _DESCRIBED, trial.out / "vela.tflite"))
    assert dataclasses.asdict(traffic).items() >= told.items()

    macs, channels = json.loads(run_script("vela", _CONVOLUTIONS, model))
    convolutions = {each.name: each.counted for each in layers if each.operator == "CONV_2D"}
    assert {name: each and each.macs for name, each in convolutions.items()} == macs
    (summary,) = csv.DictReader((trial.out / "summary.csv").read_text().splitlines())
    assert traffic.macs == int(summary["nn_macs"])
    assert traffic.flash_bytes == float(summary["off_chip_flash_total_bytes"])
    # Weights, 10 bytes for each channel, a table for each LOGISTIC; each piece in whole 16 bytes.
    tables = 256 * result.operators.npu["LOGISTIC"]
    stored = int(summary["total_npu_encoded_weights"]) + 10 * channels + tables
    assert stored <= traffic.flash_bytes < stored + 16 * channels / 8

    assert traffic.clock_hz == pytest.approx(result.cycles / result.inference_ms * 1000)
    clock_scale = params["ini"][f"System_Config.{params['system_config']}"]
    expected = 8 * float(clock_scale["OffChipFlash_clock_scale"])
    assert traffic.flash_bytes_per_cycle == pytest.approx(expected)
    for each in layers:
        assert each.counted is not None
        assert each.cycles is not None
        assert each.counted.floor_cycles <= each.cycles, each.name


def test_commands_that_kiln_cannot_read_are_not_counted(
    pose_int8: Path, run_step: RunStep, params: dict[str, Any]
) -> None:
    inputs = {"int8.tflite": pose_int8 / "int8.tflite"}
    other = {**params, "accelerator": "ethos-u65-256"}
    trial = run_step("compile", other, inputs).expect_success()
    (warning,) = trial.warnings
    assert "cannot be counted: the command stream is for ethos-u65-256" in warning["message"]
    assert warning["hint"]
    assert trial.result.traffic is None
    layers = json.loads((trial.out / "layers.json").read_text())
    assert {each["counted"] for each in layers} == {None}
    assert sum(each["cycles"] for each in layers) == trial.result.cycles


def test_that_layers_are_told_apart_changes_no_byte_of_the_file(
    pose_int8: Path,
    run_step: RunStep,
    run_script: RunScript,
    params: dict[str, Any],
    tmp_path: Path,
) -> None:
    model = pose_int8 / "int8.tflite"
    out = run_step("compile", params, {"int8.tflite": model}).expect_success().out
    settings = [
        f"--accelerator-config={params['accelerator']}",
        f"--config={out / 'vela.ini'}",
        f"--system-config={params['system_config']}",
        f"--memory-mode={params['memory_mode']}",
        f"--optimise={params['optimise']}",
        f"--arena-cache-size={params['arena_kib'] * 1024}",
    ]
    run_script("vela", _VELA, str(model), *settings, f"--output-dir={tmp_path}")
    assert hash_file(tmp_path / "int8_vela.tflite") == hash_file(out / "vela.tflite")


def test_weights_that_stay_in_the_flash_are_read_again_for_each_block(
    pose_int8: Path, run_step: RunStep, params: dict[str, Any]
) -> None:
    """In a small arena some weights get no buffer in SRAM. Vela's own count has them, too, but
    takes all layers' weights for equally compressed."""
    inputs = {"int8.tflite": pose_int8 / "int8.tflite"}
    roomy, tight = (
        run_step("compile", {**params, "arena_kib": kib}, inputs).expect_success()
        for kib in (1108, 16)
    )
    (summary,) = csv.DictReader((tight.out / "summary.csv").read_text().splitlines())
    flash_bytes = tight.result.traffic.flash_bytes
    assert flash_bytes == pytest.approx(float(summary["off_chip_flash_total_bytes"]), rel=0.03)
    assert flash_bytes > 1.1 * roomy.result.traffic.flash_bytes


def test_a_file_that_computes_something_else_is_not_made(
    pose_int8: Path, run_step: RunStep, params: dict[str, Any], tmp_path: Path
) -> None:
    with np.load(pose_int8 / "reference.npz") as arrays:
        given = dict(arrays)
    given["output_3"][1, 0, 5, 0] ^= 1
    np.savez(tmp_path / "reference.npz", **given)
    inputs = {
        "int8.tflite": pose_int8 / "int8.tflite",
        "reference.npz": tmp_path / "reference.npz",
    }
    failure = run_step("compile", params, inputs).failure
    assert failure is not None
    assert failure["kind"] == "model"
    assert "does not compute what the int8 file computes: on image 1" in failure["message"]
    assert "values of output 3 (" in failure["message"]
    assert "by 1 at most" in failure["message"]
    assert failure["hint"]


def test_same_bytes_whatever_the_order_of_the_settings(
    pose_int8: Path, run_step: RunStep, params: dict[str, Any]
) -> None:
    turned = {name: dict(reversed(keys.items())) for name, keys in reversed(params["ini"].items())}
    inputs = {"int8.tflite": pose_int8 / "int8.tflite"}
    first, second = (
        run_step("compile", {**params, "ini": ini}, inputs).expect_success().out
        for ini in (params["ini"], turned)
    )
    for name in ("vela.tflite", "vela.ini", "summary.csv", "layers.json"):
        assert hash_file(first / name) == hash_file(second / name), name
    told = configparser.ConfigParser()
    told.optionxform = str  # type: ignore[assignment,method-assign]
    told.read(first / "vela.ini")
    assert {name: dict(told[name]) for name in told.sections()} == params["ini"]


def test_a_layer_on_the_cpu_is_named(
    run_step: RunStep,
    run_script: RunScript,
    params: dict[str, Any],
    tmp_path: Path,
) -> None:
    inputs = make_tiny(run_script, "raw", tmp_path)
    made = run_step(
        "quantize", {"granularity": "per-tensor", "order": None}, inputs
    ).expect_success()
    given = {name: made.out / name for name in ("int8.tflite", "reference.npz")}
    trial = run_step("compile", params, given).expect_success()
    assert trial.result.execution == Execution(images=3, equal=True)
    assert trial.result.operators.cpu == {"TRANSPOSE": 1}
    assert trial.result.operators.npu == {"CONV_2D": 1, "MUL": 1, "RESHAPE": 1}
    (layer,) = trial.result.cpu_operators
    (warning,) = trial.warnings
    assert layer.startswith("TRANSPOSE ")
    assert layer in warning["message"]
    assert "permutation is: [0 3 1 2]" in warning["hint"]
    layers = json.loads((trial.out / "layers.json").read_text())
    places = [(each["operator"], each["place"], each["cycles"] is None) for each in layers]
    uncounted = [each["operator"] for each in layers if each["counted"] is None]
    assert uncounted == ["TRANSPOSE"]
    assert places == [
        ("CONV_2D", "npu", False),
        ("TRANSPOSE", "cpu", True),
        ("RESHAPE", "npu", False),
        ("MUL", "npu", False),
    ]

    unquantised = {"int8.tflite": made.out / "float32.tflite"}
    refused = run_step("compile", params, unquantised).failure
    assert refused is not None
    assert refused["kind"] == "model"
    assert "the NPU can run no layer of it" in refused["message"]
    assert "quantization parameters" in refused["message"]


def test_vela_plans_with_what_the_firmware_has(
    pose_int8: Path, run_step: RunStep, params: dict[str, Any]
) -> None:
    """Weights get buffers in SRAM only where there is room for them."""
    inputs = {"int8.tflite": pose_int8 / "int8.tflite"}
    roomy, tight = (
        run_step("compile", {**params, "arena_kib": kib}, inputs).expect_success().result
        for kib in (1108, 16)
    )
    assert tight.sram_kib < roomy.sram_kib


def test_what_vela_refuses(
    pose_int8: Path, run_step: RunStep, params: dict[str, Any], tmp_path: Path
) -> None:
    whole = pose_int8 / "int8.tflite"
    cut = tmp_path / "int8.tflite"
    cut.write_bytes(whole.read_bytes()[:50_000])
    cases: list[tuple[Path, dict[str, Any], str, str]] = [
        (cut, {}, "model", "Invalid TFLite file"),
        (whole, {"memory_mode": "Nowhere"}, "request", "Memory_Mode.Nowhere not found"),
        (whole, {"arguments": ["--fast"]}, "request", "unrecognized arguments: --fast"),
    ]
    for model, changes, kind, words in cases:
        failure = run_step("compile", {**params, **changes}, {"int8.tflite": model}).failure
        assert failure is not None
        assert (failure["kind"], words in failure["message"]) == (kind, True), failure
        assert failure["hint"]


#: Argv: a compiled file, the int8 file, its reference. A bias of some convolutions is changed, one
#: at a time. Prints for each its number among the NPU's operations, its kind, and what is said.
CHANGE_A_BIAS = """
import json, sys
from pathlib import Path
from stages.vela.execution.proof import prove
from stages.vela.npu.operations import BlockOperation
from stages.vela.npu.stream import decode
from stages.vela.tflite.file import open_file

content, int8 = (Path(name).read_bytes() for name in sys.argv[1:3])
graph, said = open_file(content).graphs[0], []
stream, constants = (graph.tensors[number].data for number in graph.operators[0].inputs[:2])
start = content.index(constants)
operations = decode(stream).operations
copies = [each for each in operations if not isinstance(each, BlockOperation)]
convolutions = [each for each in operations if isinstance(each, BlockOperation) and each.weights]
for each in convolutions[::40]:
    span = each.weights.scales
    for copy in copies:
        target = copy.destination
        inside = 0 <= span.address - target.address < target.length
        if span.region and copy.index < each.index and target.region == span.region and inside:
            address = copy.source.address + span.address - target.address
    changed = bytearray(content)
    changed[start + (address if span.region else span.address) + 2] ^= 1
    proof = prove(bytes(changed), int8, Path(sys.argv[3]))
    said.append([each.index, each.kind, proof.difference])
print(json.dumps(said))
"""


def test_the_operator_at_fault_is_named(
    pose_int8: Path, run_step: RunStep, run_script: RunScript, params: dict[str, Any]
) -> None:
    inputs = {"int8.tflite": pose_int8 / "int8.tflite"}
    compiled = run_step("compile", params, inputs).expect_success().out / "vela.tflite"
    files = (compiled, pose_int8 / "int8.tflite", pose_int8 / "reference.npz")
    said = json.loads(run_script("vela", CHANGE_A_BIAS, *files))
    found = [each for each in said if each[2]]
    assert found, "what a saturated value hides is no difference"
    for index, kind, words in found:
        assert "the first operator that differs is CONV_2D " in words, words
        assert words.endswith(f"(operation {index} of the NPU, a {kind})")
