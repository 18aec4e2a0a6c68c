"""The step `compile`, on the quantised demo models and on models that Vela does not like."""

from __future__ import annotations

import configparser
import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kiln.plan.targets import load_target
from kiln.store.tree import hash_file
from stages.results.compile import CompileResult, Execution
from tests.support.checkout import ROOT
from tests.support.fixtures import RunScript, RunStep
from tests.support.shared_results import IMGSZ
from tests.support.tiny import make_tiny


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
