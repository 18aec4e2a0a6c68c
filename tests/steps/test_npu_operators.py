"""The simulator of the NPU against the reference kernels: networks of one operator and of a few,
compiled for every size of the Ethos-U55."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from kiln.plan.targets import load_target
from tests.support.checkout import ROOT
from tests.support.docs import blocks_of
from tests.support.fixtures import RunScript
from tests.support.operators.catalogue import MODELS

_SLOW = ("ethos-u55-32", "ethos-u55-128", "ethos-u55-256")
_ACCELERATORS = (
    "ethos-u55-64",
    *(pytest.param(each, marks=pytest.mark.slow) for each in _SLOW),
)

#: What is put into which compiled file.
_FAULTS = {
    "conv-3x3": (
        *("weight bits", "bias bits", "scale bits", "shift bits"),
        *("address bits", "swapped regions", "missing operations", "wrong plans"),
    ),
    "depthwise-3x3": ("weight bits", "bias bits", "scale bits", "shift bits"),
    "tanh": ("table bits", "address bits", "swapped regions", "missing operations"),
    "add-two-scales": ("address bits", "swapped regions"),
    "bottleneck": ("overlaps", "missing operations", "swapped regions"),
    "silu": ("address bits", "wrong plans"),
    "hard-swish": ("table bits",),
}
_FUZZED = (
    *("conv-3x3", "depthwise-3x3-odd", "fully-connected", "add-two-scales", "softmax"),
    *("silu", "split-halves", "transposed-between"),
)
_FOR_THE_CPU = ("pooled-twice",)

Verdicts = Callable[[str], Mapping[str, Any]]


def _main(module: str) -> str:
    """The code that runs a module of the networks' package."""
    return f"from tests.support.operators.{module} import main; main()"


@pytest.fixture(scope="module")
def written(run_script: RunScript, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with all networks and what the reference kernels give."""
    folder = tmp_path_factory.mktemp("operators")
    run_script("export", _main("write"), folder, *MODELS)
    return folder


@pytest.fixture(scope="module")
def verdicts(written: Path, run_script: RunScript) -> Verdicts:
    """How all networks did on an accelerator, by name."""
    params = load_target(ROOT / "targets", "grove-v2").compilation(192)

    @functools.cache
    def of(accelerator: str) -> Mapping[str, Any]:
        wanted = {"params": params, "accelerators": [accelerator], "names": list(MODELS)}
        answer = run_script("vela", _main("run"), written, given=json.dumps(wanted))
        return {verdict["name"]: verdict for verdict in json.loads(answer)}

    return of


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("accelerator", _ACCELERATORS)
def test_the_compiled_file_gives_what_the_reference_kernels_give(
    name: str, accelerator: str, verdicts: Verdicts
) -> None:
    verdict = verdicts(accelerator)[name]
    model = MODELS[name]
    assert {"ethos-u", *verdict["operators"]} == {"ethos-u", *model.cpu}
    assert model.refused in verdict["refusal"]
    assert bool(model.refused) == bool(verdict["refusal"])
    differences = [(differing, most) for differing, _values, most in verdict["outputs"]]
    if model.overwritten:
        assert all(differing for differing, _most in differences)
    else:
        assert differences == [(0, 0)] * len(differences)


@pytest.fixture(scope="module")
def compiled(written: Path, run_script: RunScript) -> Path:
    """The folder with files to damage."""
    params = load_target(ROOT / "targets", "grove-v2").compilation(192)
    names = sorted({*_FAULTS, *_FUZZED, *_FOR_THE_CPU})
    wanted = {
        "params": params,
        "accelerators": ["ethos-u55-64", "ethos-u55-256"],
        "names": names,
    }
    run_script("vela", _main("run"), written, given=json.dumps(wanted))
    return written


@pytest.mark.parametrize("name", _FAULTS)
def test_a_fault_in_a_compiled_file_shows(name: str, compiled: Path, run_script: RunScript) -> None:
    given = json.dumps({name: _FAULTS[name]})
    found = json.loads(run_script("vela", _main("faults"), compiled, given=given))[name]
    assert {kind: each["unseen"] for kind, each in found.items() if each["unseen"]} == {}
    assert all(each["faults"] for each in found.values())


@pytest.mark.parametrize(
    ("first", "count"),
    [
        (0, 500),
        *(pytest.param(500 + each, 1900, marks=pytest.mark.slow) for each in range(0, 9500, 1900)),
    ],
)
def test_a_damaged_file_gives_outputs_or_one_sentence(
    first: int, count: int, compiled: Path, run_script: RunScript
) -> None:
    given = json.dumps({"models": _FUZZED, "first": first, "count": count})
    outcomes = json.loads(run_script("vela", _main("fuzz"), compiled, given=given))
    assert set(outcomes) == {"outputs", "refused"}
    assert sum(outcomes.values()) == count


def test_a_stream_without_end_is_refused(compiled: Path, run_script: RunScript) -> None:
    refusals = json.loads(run_script("vela", _main("endless"), compiled))
    assert {name: reason for name, reason in refusals.items() if not reason} == {}


#: Argv: a compiled file, and what the reference kernels give. Stdout: whether the file gives that
#: after each change of its form, or why it is refused.
_FORMS = """
import json, sys
import flatbuffers, numpy as np
from tflite_micro.tensorflow.lite.micro.python import schema_py_generated as schema
from stages.vela.npu.errors import NpuError
from stages.vela.execution.compiled_model import CompiledModel

content, arrays = open(sys.argv[1], "rb").read(), np.load(sys.argv[2])

def judge(change):
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    change(model, model.subgraphs[0])
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    try:
        found = CompiledModel(bytes(builder.Output())).run(arrays["images"][0])
    except NpuError as error:
        return str(error)
    return bool(np.array_equal(found[0], arrays["output_0"][0]))

def empty(model, graph):
    # As old releases of Vela write it.
    model.buffers[0].data = np.zeros(0, np.uint8)

def state(model, graph):
    graph.tensors[graph.operators[0].outputs[0]].isVariable = True

def inputs(model, graph):
    graph.inputs = [*graph.inputs, graph.operators[0].outputs[0]]

print(json.dumps([judge(change) for change in (empty, state, inputs)]))
"""


def test_forms_of_a_file(compiled: Path, run_script: RunScript) -> None:
    file = compiled / "ethos-u55-64" / "transposed-between_vela.tflite"
    reference = compiled / "transposed-between.npz"
    empty, state, inputs = json.loads(run_script("vela", _FORMS, file, reference))
    assert empty is True
    assert "keeps a state" in state
    assert "2 inputs" in inputs


#: Argv: a folder with what the page's example reads but for a board's recording, which differs in
#: one byte from what the simulator gives. Stdout: what the example prints.
_RECORDING = """
import os, sys
import numpy as np
from stages.vela.execution.compiled_model import CompiledModel

os.chdir(sys.argv[1])
simulator = CompiledModel(open("my_model_vela.tflite", "rb").read())
images = np.random.default_rng(0).integers(-128, 128, (2, *simulator.inputs[0].shape[1:]), np.int8)
outputs = [np.stack(each) for each in zip(*(simulator.run(image[None]) for image in images))]
outputs[0].flat[-1] += 1
np.savez("board.npz", images=images, **{f"output_{n}": each for n, each in enumerate(outputs)})
"""


def test_the_example_of_the_docs_runs(
    compiled: Path, run_script: RunScript, tmp_path: Path
) -> None:
    model = compiled / "ethos-u55-64" / "conv-3x3_vela.tflite"
    shutil.copyfile(model, tmp_path / "my_model_vela.tflite")
    example = "\n".join(blocks_of("npu.md", "python"))
    shape, *verdicts = run_script("vela", _RECORDING + example, tmp_path).splitlines()
    assert " int8 (1, " in shape
    assert [line.split(": ")[1].split(" ")[0] for line in verdicts] == ["0", "1"]


#: Argv: a compiled file whose first operator is an average over a window. Stdout: what its run says
#: if the window is as large as the image.
_LONG_OPERATOR = """
import sys
import flatbuffers, numpy as np
from tflite_micro.tensorflow.lite.micro.python import schema_py_generated as schema
from stages.vela.tflite.file import open_file
from stages.vela.tflm.operators import CpuOperators, OperatorFailed

file = schema.ModelT.InitFromPackedBuf(open(sys.argv[1], "rb").read(), 0)
options = file.subgraphs[0].operators[0].builtinOptions
options.filterHeight, options.filterWidth = 600, 600
builder = flatbuffers.Builder(1 << 20)
builder.Finish(file.Pack(builder), b"TFL3")
content = bytes(builder.Output())
image = np.zeros(open_file(content).inputs[0].shape, np.int8)
try:
    CpuOperators(content, most_seconds=1).run(0, [image])
except OperatorFailed as error:
    print(error)
"""


@pytest.mark.slow
def test_an_operator_on_the_cpu_that_takes_too_long(compiled: Path, run_script: RunScript) -> None:
    file = compiled / "ethos-u55-64" / "pooled-twice_vela.tflite"
    assert "takes more than 1 s" in run_script("vela", _LONG_OPERATOR, file)
